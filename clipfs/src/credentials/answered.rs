//! From the words of `credplugin` to ours, and what of them is believed: the same for its library and for plugins.

use std::time::Duration;

use credplugin::{Code, Scheme, normalize_registry};

use super::provider::Answer;
use super::{Credential, CredentialError, MAX_LIFE, value};

/// Checks an answer against what was asked, and caps its life at [`MAX_LIFE`].
///
/// # Errors
/// [`CredentialError::Refused`]: for another registry, ended already. [`CredentialError::Broken`]: it cannot go into a header, or is
/// empty. Neither repeats what was answered.
pub(super) fn accept(asked: &str, answer: credplugin::Answer) -> Result<Answer, CredentialError> {
    if !is_same_registry(asked, &answer.registry) {
        return Err(CredentialError::Refused(format!("it answered for another registry than {asked}")));
    }
    let valid_for = match answer.valid_for {
        Some(Duration::ZERO) => return Err(expired(asked)),
        life => life.map(|life| life.min(MAX_LIFE)),
    };
    let credential = match answer.scheme {
        Scheme::None => Ok(Credential::Anonymous),
        Scheme::Basic { username, password } => value::basic(&username, password),
        Scheme::Bearer { token } => value::bearer(token),
        Scheme::RefreshToken { token } => value::refresh_token(token),
    }
    .map_err(|unfit| {
        CredentialError::Broken(format!("what it answered for {asked} is of no use: {unfit}"))
    })?;
    Ok(Answer { credential, valid_for })
}

/// An answer that had ended before it came.
pub(super) fn expired(asked: &str) -> CredentialError {
    CredentialError::Refused(format!("its answer for {asked} has expired already"))
}

/// Whether two names are the same registry.
pub(crate) fn is_same_registry(one: &str, other: &str) -> bool {
    match (normalize_registry(one), normalize_registry(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// The error of a code. The message is shown: it must be free of secrets.
pub(super) fn failure(
    code: Code,
    registry: &str,
    message: String,
    retry_after: Option<Duration>,
) -> CredentialError {
    match code {
        Code::BadRequest => CredentialError::Malformed(message),
        Code::NotFound => CredentialError::NotFound { registry: registry.to_owned(), reason: message },
        Code::Denied => CredentialError::Denied { registry: registry.to_owned(), reason: message },
        Code::Unavailable => CredentialError::Unavailable(message),
        Code::TryLater => CredentialError::TryLater { reason: message, after: retry_after },
        Code::Usage | Code::Internal => CredentialError::Broken(message),
    }
}
