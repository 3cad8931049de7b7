//! The fields of one JSON object. Errors name the key, never the value.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{Code, Error};

/// An object of a foreign document.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a document that has to be one object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Error::new(Code::BadRequest, "the document is no object")),
            Err(error) => Err(Error::new(
                Code::BadRequest,
                format!("the document is no JSON at line {} column {}", error.line(), error.column()),
            )),
        }
    }

    /// A text; `None` = absent, null or empty.
    pub(crate) fn string(&self, key: &str) -> Result<Option<String>, Error> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::bad_request(key, "not a string")),
        }
    }

    /// A number of milliseconds; `None` = absent or null.
    pub(crate) fn millis(&self, key: &str) -> Result<Option<Duration>, Error> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let millis = value.as_u64().ok_or_else(|| Error::bad_request(key, "not a whole number"))?;
                Ok(Some(Duration::from_millis(millis)))
            }
        }
    }

    /// Refuses another version.
    pub(crate) fn version(&self, version: &str) -> Result<(), Error> {
        match self.string("apiVersion")? {
            Some(found) if found == version => Ok(()),
            _ => Err(Error::bad_request("apiVersion", &format!("not {version}"))),
        }
    }
}
