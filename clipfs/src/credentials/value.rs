//! From foreign strings to a [`Credential`]: what may become part of a header, and what may not.
//!
//! Values are kept exactly, spaces and all; only what would change the header that they are put into is refused.

use secrecy::{ExposeSecret, SecretString};

use super::{Credential, CredentialError};

/// Why a value is none. Never holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// It would end the header that it is put into.
    #[error("the {0} has a line break or a NUL")]
    Line(&'static str),
    /// It would end the user name.
    #[error("the user name has a colon, which HTTP Basic cannot carry")]
    Colon,
    /// There is none.
    #[error("the {0} is empty")]
    Empty(&'static str),
}

impl Unfit {
    /// The error of something that is stored: `source` says where.
    pub(super) fn stored(self, source: &str) -> CredentialError {
        CredentialError::Malformed(format!("{source}: {self}: store another one"))
    }
}

/// HTTP Basic.
///
/// # Errors
/// An empty value; CR, LF or NUL; a colon in the user name.
pub(super) fn basic(username: &str, password: impl Into<SecretString>) -> Result<Credential, Unfit> {
    check("user name", username)?;
    if username.contains(':') {
        return Err(Unfit::Colon);
    }
    let password = secret("password", password)?;
    Ok(Credential::Basic { username: username.to_owned(), password })
}

/// A refresh token for the OAuth2 token endpoint.
///
/// # Errors
/// As [`basic`].
pub(super) fn refresh_token(token: impl Into<SecretString>) -> Result<Credential, Unfit> {
    secret("token", token).map(Credential::RefreshToken)
}

/// A registry token.
///
/// # Errors
/// As [`basic`].
pub(super) fn bearer(token: impl Into<SecretString>) -> Result<Credential, Unfit> {
    secret("token", token).map(Credential::Bearer)
}

fn secret(what: &'static str, value: impl Into<SecretString>) -> Result<SecretString, Unfit> {
    let value = value.into();
    check(what, value.expose_secret())?;
    Ok(value)
}

fn check(what: &'static str, value: &str) -> Result<(), Unfit> {
    if value.is_empty() {
        Err(Unfit::Empty(what))
    } else if value.contains(['\r', '\n', '\0']) {
        Err(Unfit::Line(what))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_a_header_is_refused() {
        for bad in ["pl4nted-a\r", "pl4nted-a\nb", "\0pl4nted-"] {
            let table = [
                (basic(bad, "p"), "user name"),
                (basic("u", bad), "password"),
                (refresh_token(bad), "token"),
                (bearer(bad), "token"),
            ];
            for (result, what) in table {
                assert_eq!(result.expect_err(bad), Unfit::Line(what));
            }
        }
        assert_eq!(basic("pl4nted-:u", "p").expect_err("a colon"), Unfit::Colon);
        assert_eq!(basic("", "p").expect_err("nobody"), Unfit::Empty("user name"));
        assert_eq!(basic("u", "").expect_err("nothing"), Unfit::Empty("password"));
        assert!(basic(" u ü\t", " p:ß\u{2028}\u{1b} ").is_ok());
        let error = Unfit::Colon.stored("s");
        assert!(
            matches!(&error, CredentialError::Malformed(why) if why.starts_with("s: the user name")),
            "{error}"
        );
    }
}
