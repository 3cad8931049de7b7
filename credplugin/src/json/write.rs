//! [`Value`]s to text, without spaces.

use std::fmt::{self, Write};

use zeroize::Zeroizing;

use super::{Kind, Value};

/// Collects what `write` writes, in one allocation: it runs twice, the first time to count. A buffer that grows would leave copies of
/// secrets in freed memory.
pub(crate) fn to_string(write: impl Fn(&mut dyn Write) -> fmt::Result) -> Zeroizing<String> {
    let mut count = Count(0);
    let mut text = Zeroizing::new(String::new());
    // Neither sink fails.
    if write(&mut count).is_ok() {
        text.reserve_exact(count.0);
        let _ = write(&mut *text);
    }
    text
}

struct Count(usize);

impl Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// A value, in the order of its sorted keys.
pub(crate) fn write_value(out: &mut dyn Write, value: &Value) -> fmt::Result {
    match value.kind() {
        Kind::Null => out.write_str("null"),
        Kind::Bool(value) => out.write_str(if *value { "true" } else { "false" }),
        Kind::Number(text) => out.write_str(text),
        Kind::String(text) => write_string(out, text),
        Kind::Array(items) => {
            out.write_char('[')?;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.write_char(',')?;
                }
                write_value(out, item)?;
            }
            out.write_char(']')
        }
        Kind::Object(members) => {
            out.write_char('{')?;
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.write_char(',')?;
                }
                write_string(out, key)?;
                out.write_char(':')?;
                write_value(out, value)?;
            }
            out.write_char('}')
        }
    }
}

/// A string in quotation marks: only what must be escaped is.
pub(crate) fn write_string(out: &mut dyn Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut written = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_str(&text[written..index])?;
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            // As short as they can have been: what is written is never longer than what was read.
            0x08 => out.write_str("\\b")?,
            0x0c => out.write_str("\\f")?,
            _ => write!(out, "\\u{byte:04x}")?,
        }
        written = index + 1;
    }
    out.write_str(&text[written..])?;
    out.write_char('"')
}
