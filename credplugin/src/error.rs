//! Why there is no credential.

use std::time::Duration;

/// What kind of failure: the `code` of an Error document, and the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The program was called wrongly.
    Usage,
    /// The request is malformed, or its credentials are (half a pair, control characters).
    BadRequest,
    /// The request's credentials are not for this registry.
    NotFound,
    /// A token endpoint cannot be reached.
    Unavailable,
    /// A bug.
    Internal,
    /// A token endpoint asks to wait.
    TryLater,
    /// A token endpoint refuses the credentials.
    Denied,
}

impl Code {
    /// The word in an Error document.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::TryLater => "try_later",
            Self::Denied => "denied",
        }
    }

    /// The code of a word; `None` = a word of another version.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [
            Self::Usage,
            Self::BadRequest,
            Self::NotFound,
            Self::Unavailable,
            Self::Internal,
            Self::TryLater,
            Self::Denied,
        ]
        .into_iter()
        .find(|code| code.word() == word)
    }

    /// The exit code (sysexits.h).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::BadRequest => 65,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::TryLater => 75,
            Self::Denied => 77,
        }
    }
}

/// A failure: one sentence that says what to mend, and never a value of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// The sentence.
    pub message: String,
    /// How long to wait before asking again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error without a time to wait.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// [`Code::BadRequest`] at a path of the request.
    pub fn bad_request(path: &str, reason: &str) -> Self {
        Self::new(Code::BadRequest, format!("{path}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_words_and_exit_codes() {
        for (word, exit) in [
            ("usage", 64),
            ("bad_request", 65),
            ("not_found", 66),
            ("unavailable", 69),
            ("internal", 70),
            ("try_later", 75),
            ("denied", 77),
        ] {
            let code = Code::of_word(word).expect(word);
            assert_eq!((code.word(), code.exit_code()), (word, exit));
        }
        assert_eq!(Code::of_word("Denied"), None);
        assert_eq!(
            Error::bad_request("env[3]", "expected a string").to_string(),
            "env[3]: expected a string"
        );
    }
}
