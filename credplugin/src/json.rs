//! Strict JSON for foreign input: size, depth, duplicate keys, trailing data, byte-order marks; errors name paths, never values.
//!
//! An own small tree instead of a library's, because of four promises together: a key that stands twice is refused at any depth; every
//! error names a path (`workspace.name`, `env[3]`) and a position; nothing of a value is in an error or in `Debug`; and the strings are
//! wiped when the tree is dropped. Numbers are kept as they were written, so that what is not understood here goes on unchanged.
//!
//! **Memory.** A value takes [`size_of::<Value>()`] (40 bytes on 64-bit), a member of an object 24 more; there are at most
//! [`MAX_VALUES`] of them, and vectors grow by doubling: whatever a document of 1 MiB says, its tree stays below 16 MiB.
//! `tests/json_memory.rs` measures it (glibc: at most 9 MiB, and 14 MiB while a request is made of it).

mod parser;
mod path;
mod write;

use std::fmt;

use zeroize::Zeroizing;

use crate::Error;

pub use parser::parse;
pub(crate) use parser::parse_envelope;
pub use path::Path;
pub(crate) use write::{to_string, write_string, write_value};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 128;

/// Most values in a document: each counts, whatever it is. Real requests have some hundreds.
pub const MAX_VALUES: usize = 1 << 16;

/// The members of an object, sorted by key, each key once.
pub type Members = Vec<(Zeroizing<String>, Value)>;

/// A value and where it stood. Equality is that of the values.
#[derive(Clone)]
pub struct Value {
    at: u32,
    kind: Kind,
}

/// What a value is.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it was written.
    Number(Zeroizing<String>),
    /// A string, its escapes resolved.
    String(Zeroizing<String>),
    /// An array.
    Array(Vec<Value>),
    /// An object.
    Object(Members),
}

impl Value {
    /// The value.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether it is `null`, which means the same as no value in every document of ours.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// A member of an object; `None` = none of that name, or no object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Kind::Object(members) = &self.kind else { return None };
        let index = members.binary_search_by(|(known, _)| known.as_str().cmp(key)).ok()?;
        Some(&members[index].1)
    }

    /// The string.
    ///
    /// # Errors
    /// [`crate::Code::BadRequest`] at this path, if it is something else; so for all that follow.
    pub fn as_str(&self, path: &Path<'_>) -> Result<&str, Error> {
        match &self.kind {
            Kind::String(text) => Ok(text),
            _ => Err(self.mismatch(path, "a string")),
        }
    }

    /// The string, taken out of the tree.
    ///
    /// # Errors
    /// As [`Value::as_str`].
    pub fn into_string(self, path: &Path<'_>) -> Result<Zeroizing<String>, Error> {
        match self.kind {
            Kind::String(text) => Ok(text),
            _ => Err(self.mismatch(path, "a string")),
        }
    }

    /// The members of the object.
    ///
    /// # Errors
    /// As [`Value::as_str`].
    pub fn into_object(self, path: &Path<'_>) -> Result<Members, Error> {
        match self.kind {
            Kind::Object(members) => Ok(members),
            _ => Err(self.mismatch(path, "an object")),
        }
    }

    /// The items of the array.
    ///
    /// # Errors
    /// As [`Value::as_str`].
    pub fn into_array(self, path: &Path<'_>) -> Result<Vec<Value>, Error> {
        match self.kind {
            Kind::Array(items) => Ok(items),
            _ => Err(self.mismatch(path, "an array")),
        }
    }

    /// The truth value.
    ///
    /// # Errors
    /// As [`Value::as_str`].
    pub fn as_bool(&self, path: &Path<'_>) -> Result<bool, Error> {
        match self.kind {
            Kind::Bool(value) => Ok(value),
            _ => Err(self.mismatch(path, "true or false")),
        }
    }

    /// The integer: written without fraction and exponent, as Go reads them.
    ///
    /// # Errors
    /// As [`Value::as_str`]; also for integers that do not fit.
    pub fn as_integer<T: std::str::FromStr>(&self, path: &Path<'_>, expected: &str) -> Result<T, Error> {
        match &self.kind {
            // `-0` is no number of a `u32` to Rust, nor to Go.
            Kind::Number(text) => text.parse().map_err(|_| self.mismatch(path, expected)),
            _ => Err(self.mismatch(path, expected)),
        }
    }

    /// The number.
    ///
    /// # Errors
    /// As [`Value::as_str`]; also for numbers beyond the range of a double.
    pub fn as_f64(&self, path: &Path<'_>) -> Result<f64, Error> {
        let number = match &self.kind {
            Kind::Number(text) => text.parse::<f64>().ok().filter(|number| number.is_finite()),
            _ => None,
        };
        number.ok_or_else(|| self.mismatch(path, "a number of 64 bits"))
    }

    /// [`crate::Code::BadRequest`]: something else was expected at this path.
    #[must_use]
    pub fn mismatch(&self, path: &Path<'_>, expected: &str) -> Error {
        let found = match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a truth value",
            Kind::Number(_) => "a number",
            Kind::String(_) => "a string",
            Kind::Array(_) => "an array",
            Kind::Object(_) => "an object",
        };
        path.error(&format!("expected {expected}, found {found} (at byte {})", self.at))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Value {}

/// Kinds and counts only: what a request holds may be secret anywhere.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Null => f.write_str("null"),
            Kind::Bool(_) => f.write_str("bool"),
            Kind::Number(_) => f.write_str("number"),
            Kind::String(_) => f.write_str("string"),
            Kind::Array(items) => write!(f, "array of {}", items.len()),
            Kind::Object(members) => write!(f, "object of {}", members.len()),
        }
    }
}

#[cfg(test)]
mod tests;
