//! Numbers as tar writes them: octal or base-256 in header fields, decimal in extended headers.
//!
//! `None` always means: no number that Go's reader would take.

/// A numeric header field: two's complement in base-256 if the first bit is set (GNU, star), octal otherwise.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

/// Octal digits between any number of blanks and NULs; an empty field is 0.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !is_filler(byte)) else { return Some(0) };
    let mut value = 0_i64;
    for (at, &digit) in field.iter().enumerate().skip(start) {
        match digit {
            b'0'..=b'7' => value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?,
            // What stands behind a NUL is not part of the number.
            0 => break,
            b' ' if field.get(at..)?.iter().all(is_filler) => break,
            _ => return None,
        }
    }
    Some(value)
}

/// The bits behind the marker bit are a big-endian number in two's complement, of which the field's second
/// bit is the sign.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // Negative numbers are read inverted: -a - 1 == !a.
    let invert = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut value = i64::from((first ^ invert) & 0x7f);
    for byte in rest {
        value = value.checked_mul(256)?.checked_add(i64::from(byte ^ invert))?;
    }
    Some(if invert == 0 { value } else { !value })
}

/// A decimal number with optional sign and nothing around it.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0 7 \0 ", Some(7)),
            (b"        ", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"12\x003garb", Some(0o12)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"+000644\0", None),
            (b"12 3\0\0\0\0", None),
            (b"12 \x003", None),
            (b"0x10", None),
            (b"7777777777777777777777", None),
        ] {
            assert_eq!(octal(field), value, "{:?}", String::from_utf8_lossy(field));
        }
    }

    #[test]
    fn base_256_fields() {
        for (field, value) in [
            (&b"\x80\0\0\0\0\0\0\x01"[..], Some(1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xbf\xff", Some(0x3fff)),
            (b"\xc0\0", Some(-0x4000)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x80", Some(0)),
        ] {
            assert_eq!(numeric(field), value, "{field:x?}");
        }
    }

    #[test]
    fn decimals() {
        for (text, value) in [
            (&b"0"[..], Some(0)),
            (b"+12", Some(12)),
            (b"-12", Some(-12)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b" 1", None),
            (b"1_0", None),
            (b"\xff", None),
        ] {
            assert_eq!(decimal(text), value, "{:?}", String::from_utf8_lossy(text));
        }
    }
}
