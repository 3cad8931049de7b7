//! How a field of each type is read, written and shown.

use std::fmt::{self, Write};

use secrecy::{ExposeSecret, SecretString};

use super::{Object, Timestamp};
use crate::Error;
use crate::json::{self, Kind, Path, Value};

/// A type of fields. Its zero (its `Default`, if it has one) is what an absent field has.
pub(super) trait Field: Sized {
    /// Reads what is not `null`.
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error>;

    /// Whether it is left out when written.
    fn is_zero(&self) -> bool;

    /// Writes it as JSON.
    fn write(&self, out: &mut dyn Write) -> fmt::Result;

    /// Shows it without secrets.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Shows a field to the builders of `Debug`.
pub(super) struct Shown<'a, T>(pub(super) &'a T);

impl<T: Field> fmt::Debug for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

/// A struct of fields, each named as in JSON, with `unknown` for all others.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// Fields that are not known here, by name.
            pub unknown: BTreeMap<String, Value>,
        }

        impl Field for $name {
            fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
                let mut record = Self::default();
                for (key, value) in value.into_object(path)? {
                    match key.as_str() {
                        $(key if key == field::name(stringify!($field)) => {
                            if !value.is_null() {
                                record.$field = Field::read(value, &path.key(key))?;
                            }
                        })*
                        key => drop(record.unknown.insert(key.to_owned(), value)),
                    }
                }
                Ok(record)
            }

            fn is_zero(&self) -> bool {
                $(self.$field.is_zero() &&)* self.unknown.is_empty()
            }

            fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
                let mut members = field::Writer::new(out)?;
                $(if !self.$field.is_zero() {
                    self.$field.write(members.key(field::name(stringify!($field)))?)?;
                })*
                for (key, value) in &self.unknown {
                    json::write_value(members.key(key)?, value)?;
                }
                members.end()
            }

            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut shown = f.debug_struct(stringify!($name));
                $(if !self.$field.is_zero() {
                    shown.field(field::name(stringify!($field)), &field::Shown(&self.$field));
                })*
                let unknown: Vec<_> = self.unknown.keys().collect();
                if !unknown.is_empty() {
                    shown.field("unknown", &unknown);
                }
                shown.finish()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.show(f)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                $(field::equal(&self.$field, &other.$field) &&)* self.unknown == other.unknown
            }
        }
    };
}
pub(super) use record;

/// A field's name without the mark of a raw identifier.
pub(super) fn name(identifier: &'static str) -> &'static str {
    identifier.strip_prefix("r#").unwrap_or(identifier)
}

/// Whether two fields are written alike: secrets have no equality of their own.
pub(super) fn equal<T: Field>(a: &T, b: &T) -> bool {
    json::to_string(|out| a.write(out)) == json::to_string(|out| b.write(out))
}

/// Writes the members of an object.
pub(super) struct Writer<'a> {
    out: &'a mut dyn Write,
    first: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Result<Self, fmt::Error> {
        out.write_char('{')?;
        Ok(Self { out, first: true })
    }

    /// Where the value of this key goes.
    pub(super) fn key(&mut self, key: &str) -> Result<&mut dyn Write, fmt::Error> {
        if !std::mem::take(&mut self.first) {
            self.out.write_char(',')?;
        }
        json::write_string(self.out, key)?;
        self.out.write_char(':')?;
        Ok(self.out)
    }

    pub(super) fn end(self) -> fmt::Result {
        self.out.write_char('}')
    }
}

impl Field for String {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        value.as_str(path).map(str::to_owned)
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        json::write_string(out, self)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Field for SecretString {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        value.as_str(path).map(SecretString::from)
    }

    fn is_zero(&self) -> bool {
        self.expose_secret().is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        json::write_string(out, self.expose_secret())
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Field for bool {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        value.as_bool(path)
    }

    fn is_zero(&self) -> bool {
        !self
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{self}")
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

macro_rules! integer {
    ($type:ty, $expected:literal) => {
        impl Field for $type {
            fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
                value.as_integer(path, $expected)
            }

            fn is_zero(&self) -> bool {
                *self == 0
            }

            fn write(&self, out: &mut dyn Write) -> fmt::Result {
                write!(out, "{self}")
            }

            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}
integer!(i64, "an integer of 64 bits");
integer!(u32, "an integer of 32 bits from 0");

impl Field for f64 {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        value.as_f64(path)
    }

    /// JSON has no words for what is not finite: it is left out too.
    fn is_zero(&self) -> bool {
        *self == 0.0 || !self.is_finite()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{self:?}")
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Field for Timestamp {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        Self::at(path, value.as_str(path)?)
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        json::write_string(out, &self.0)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        let items = value.into_array(path)?;
        items.into_iter().enumerate().map(|(index, item)| T::read(item, &path.index(index))).collect()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_char('[')?;
        for (index, item) in self.iter().enumerate() {
            if index > 0 {
                out.write_char(',')?;
            }
            item.write(out)?;
        }
        out.write_char(']')
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Shown)).finish()
    }
}

/// What may be missing: only that is left out, not the type's zero.
impl<T: Field> Field for Option<T> {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        T::read(value, path).map(Some)
    }

    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        match self {
            Some(value) => value.write(out),
            None => out.write_str("null"),
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(value) => value.show(f),
            None => f.write_str("none"),
        }
    }
}

impl Field for Object {
    fn read(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        match value.kind() {
            Kind::Object(_) => Ok(Self(value)),
            _ => Err(value.mismatch(path, "an object")),
        }
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        json::write_value(out, &self.0)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Field for Value {
    fn read(value: Value, _: &Path<'_>) -> Result<Self, Error> {
        Ok(value)
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        json::write_value(out, self)
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
