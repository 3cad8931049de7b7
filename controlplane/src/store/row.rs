//! Reading rows: what is not as it must be is [`StoreError::Corrupt`], with the column's name.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Result, StoreError};
use crate::model::Time;

/// Columns by name, in the types of the model.
pub(super) trait Columns {
    /// TEXT.
    fn text(&self, column: &'static str) -> Result<String>;
    /// TEXT that may be NULL.
    fn maybe_text(&self, column: &'static str) -> Result<Option<String>>;
    /// BIGINT.
    fn int(&self, column: &'static str) -> Result<i64>;
    /// BIGINT that may be NULL.
    fn maybe_int(&self, column: &'static str) -> Result<Option<i64>>;
    /// BLOB or BYTEA.
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>>;

    /// BIGINT that is not negative.
    fn count(&self, column: &'static str) -> Result<u64> {
        u64::try_from(self.int(column)?).map_err(|error| corrupt(column, error))
    }

    /// BIGINT of 32 bits that is not negative.
    fn small(&self, column: &'static str) -> Result<u32> {
        u32::try_from(self.int(column)?).map_err(|error| corrupt(column, error))
    }

    /// BIGINT of 32 bits.
    fn small_int(&self, column: &'static str) -> Result<i32> {
        i32::try_from(self.int(column)?).map_err(|error| corrupt(column, error))
    }

    /// BIGINT: 0 or not.
    fn flag(&self, column: &'static str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    /// BIGINT: a time.
    fn time(&self, column: &'static str) -> Result<Time> {
        self.int(column).map(Time)
    }

    /// BIGINT that may be NULL: a time.
    fn maybe_time(&self, column: &'static str) -> Result<Option<Time>> {
        Ok(self.maybe_int(column)?.map(Time))
    }

    /// TEXT: one of an enum's words, or any JSON.
    fn json<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(column, error))
    }

    /// TEXT: the name of a unit variant.
    fn word<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        let word = self.text(column)?;
        serde_json::from_value(serde_json::Value::String(word)).map_err(|error| corrupt(column, error))
    }
}

impl Columns for AnyRow {
    fn text(&self, column: &'static str) -> Result<String> {
        self.try_get(column).map_err(|error| corrupt(column, error))
    }

    fn maybe_text(&self, column: &'static str) -> Result<Option<String>> {
        self.try_get(column).map_err(|error| corrupt(column, error))
    }

    fn int(&self, column: &'static str) -> Result<i64> {
        self.try_get(column).map_err(|error| corrupt(column, error))
    }

    fn maybe_int(&self, column: &'static str) -> Result<Option<i64>> {
        self.try_get(column).map_err(|error| corrupt(column, error))
    }

    fn bytes(&self, column: &'static str) -> Result<Vec<u8>> {
        self.try_get(column).map_err(|error| corrupt(column, error))
    }
}

/// A column that does not hold what it must.
pub(super) fn corrupt(what: &'static str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { what, why: why.to_string() }
}

/// A number as it is bound to a parameter. What is more than a column can hold is the most that it can: no count is ever
/// so high, and a token or position that somebody makes up so finds nothing.
pub(super) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
