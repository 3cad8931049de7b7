//! The fields of one JSON object, for documents whose unknown fields are passed over. Errors name the key, never the value.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::json::{self, Kind, Path, Value};
use crate::{Endpoints, Error};

/// An object of a foreign document. `null` is as good as absent.
pub(crate) struct Fields(Value);

impl Fields {
    /// Parses a document that has to be one object.
    pub(crate) fn parse(bytes: &[u8], limit: usize) -> Result<Self, Error> {
        Self::of(json::parse(bytes, limit, "document")?)
    }

    /// [`Fields::parse`] where a field may be a whole document.
    pub(crate) fn parse_envelope(bytes: &[u8], limit: usize) -> Result<Self, Error> {
        Self::of(json::parse_envelope(bytes, limit, "document")?)
    }

    fn of(value: Value) -> Result<Self, Error> {
        match value.kind() {
            Kind::Object(_) => Ok(Self(value)),
            _ => Err(value.mismatch(&Path::root("document"), "an object")),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether there is such a field.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A text; `None` = absent or empty.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str(&Path::root("").key(key))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// A number of milliseconds.
    pub(crate) fn millis(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let millis = value.as_integer(&Path::root("").key(key), "a whole number of milliseconds")?;
        Ok(Some(Duration::from_millis(millis)))
    }

    /// An object, as JSON text again.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if !matches!(value.kind(), Kind::Object(_)) {
            return Err(value.mismatch(&Path::root("").key(key), "an object"));
        }
        let mut text = json::to_string(|out| json::write_value(out, value));
        Ok(Some(Zeroizing::new(std::mem::take(&mut *text).into_bytes())))
    }

    /// Token endpoints; an unknown one is an error, since nobody would ask it.
    pub(crate) fn endpoints(&self, key: &str) -> Result<Option<Endpoints>, Error> {
        let Some(text) = self.object(key)? else { return Ok(None) };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|_| Error::bad_request(key, "expected URLs by name: ecr, ecr_public, gcp, azure or acr"))
    }

    /// Refuses another version.
    pub(crate) fn version(&self, version: &str) -> Result<(), Error> {
        match self.string("apiVersion")? {
            Some(found) if found == version => Ok(()),
            _ => Err(Error::bad_request("apiVersion", &format!("expected {version}"))),
        }
    }
}
