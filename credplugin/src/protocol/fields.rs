//! The fields of one JSON object. Errors name the key, never the value.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{Code, Endpoints, Error};

/// An object of a foreign document.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a document that has to be one object.
    pub(crate) fn parse(bytes: &[u8], limit: usize) -> Result<Self, Error> {
        if bytes.len() > limit {
            return Err(Error::new(Code::BadRequest, format!("the document is larger than {limit} bytes")));
        }
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

    /// An object, as its JSON text; `None` = absent or null.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value @ Value::Object(_)) => {
                let text = serde_json::to_vec(value).map_err(|_| Error::bad_request(key, "not an object"))?;
                Ok(Some(Zeroizing::new(text)))
            }
            Some(_) => Err(Error::bad_request(key, "not an object")),
        }
    }

    /// Token endpoints; `None` = absent or null.
    pub(crate) fn endpoints(&self, key: &str) -> Result<Option<Endpoints>, Error> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Endpoints::deserialize(value)
                .map(Some)
                .map_err(|_| Error::bad_request(key, "not an object of ecr, ecr_public, gcp, azure, acr")),
        }
    }

    /// Whether there is such a field at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Refuses another version.
    pub(crate) fn version(&self, version: &str) -> Result<(), Error> {
        match self.string("apiVersion")? {
            Some(found) if found == version => Ok(()),
            _ => Err(Error::bad_request("apiVersion", &format!("not {version}"))),
        }
    }
}
