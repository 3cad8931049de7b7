//! From foreign strings to a [`Credential`]: what may become part of a header, and what may not.
//!
//! Values are kept exactly, spaces and all; only what would change the header that they are put into is refused.

use super::{Credential, CredentialError};

/// HTTP Basic. `source` says where it is from, for the message.
///
/// # Errors
/// [`CredentialError::Malformed`]: CR, LF or NUL, a colon in the user name.
pub(super) fn basic(source: &str, username: &str, password: &str) -> Result<Credential, CredentialError> {
    check(source, "user name", username)?;
    check(source, "password", password)?;
    if username.contains(':') {
        return Err(CredentialError::Malformed(format!(
            "{source}: the user name has a colon, which HTTP Basic cannot carry: use another user"
        )));
    }
    Ok(Credential::Basic { username: username.to_owned(), password: password.into() })
}

/// A refresh token for the OAuth2 token endpoint.
///
/// # Errors
/// As [`basic`].
pub(super) fn refresh_token(source: &str, token: &str) -> Result<Credential, CredentialError> {
    check(source, "token", token)?;
    Ok(Credential::RefreshToken(token.into()))
}

/// A registry token.
///
/// # Errors
/// As [`basic`].
pub(super) fn bearer(source: &str, token: &str) -> Result<Credential, CredentialError> {
    check(source, "token", token)?;
    Ok(Credential::Bearer(token.into()))
}

fn check(source: &str, what: &str, value: &str) -> Result<(), CredentialError> {
    if value.contains(['\r', '\n', '\0']) {
        return Err(CredentialError::Malformed(format!(
            "{source}: the {what} has a line break or a NUL: store it again without"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_a_header_is_refused() {
        for bad in ["pl4nted-a\r", "pl4nted-a\nb", "\0pl4nted-"] {
            for result in
                [basic("s", bad, "p"), basic("s", "u", bad), refresh_token("s", bad), bearer("s", bad)]
            {
                let error = result.expect_err(bad);
                assert!(
                    matches!(&error, CredentialError::Malformed(why) if why.starts_with("s: ")),
                    "{error}"
                );
                assert!(!error.to_string().contains("pl4nted-"), "{error}");
            }
        }
        let error = basic("s", "pl4nted-:u", "p").expect_err("a colon");
        assert!(!error.to_string().contains("pl4nted-"), "{error}");
        assert!(basic("s", " u ü\t", " p:ß\u{2028}\u{1b} ").is_ok());
    }
}
