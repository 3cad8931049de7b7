//! Paths of values in a document, for errors.

use std::fmt;

use crate::Error;

/// Longest key that is named in an error.
const MAX_KEY: usize = 64;

/// Where a value stands: `image_credentials`, `workspace.name`, `env[3]`. Lives on the stack of whoever walks the document.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The document itself. With an empty name its members stand at the start of their paths.
    #[must_use]
    pub const fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Root(name) }
    }

    /// A member of the object at this path.
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    /// An item of the array at this path.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    /// [`crate::Code::BadRequest`] at this path.
    #[must_use]
    pub fn error(&self, reason: &str) -> Error {
        Error::bad_request(&self.to_string(), reason)
    }

    /// What it is a part of; `None` = the document.
    pub(super) const fn parent(&self) -> Option<&'a Path<'a>> {
        self.parent
    }

    /// Whether nothing of it is printed.
    fn is_silent(&self) -> bool {
        matches!(self.step, Step::Root(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As deep as the document, which is at most `MAX_DEPTH`.
        let dot = match self.parent {
            Some(parent) if !parent.is_silent() => {
                parent.fmt(f)?;
                "."
            }
            _ => "",
        };
        match self.step {
            Step::Root("") => f.write_str("document"),
            Step::Root(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            // A key is foreign text: one that could forge a line of a log, or that may be a secret in the wrong place, is not repeated.
            Step::Key(key) if is_plain(key) => write!(f, "{dot}{key}"),
            Step::Key(_) => write!(f, "{dot}(unprintable key)"),
        }
    }
}

/// Whether a key looks like the name of a field.
fn is_plain(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/'))
}
