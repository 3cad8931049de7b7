//! Sizes and durations as people write them: `20GiB`, `30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A size in bytes: a number with an optional unit. `KiB`, `MiB`, `GiB`, `TiB` (also `K`, `M`, `G`, `T`) count in
/// 1024, `KB`, `MB`, `GB`, `TB` in 1000; case does not matter; `1.5GiB` is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A duration: a number with a unit, `ms`, `s`, `m` or `h`; without a unit it is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Why a size or duration was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidUnit {
    text: String,
    wanted: &'static str,
}

/// Splits `1.5GiB` into thousandths (1500) and unit. Fractions beyond thousandths are refused.
fn thousandths(text: &str) -> Option<(u128, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 3 || number.ends_with('.') {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = format!("{fraction:0<3}").parse().ok()?;
    Some((whole * 1000 + fraction, unit.trim()))
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit {
            text: text.chars().take(40).collect(),
            wanted: "a size: write bytes or a unit, as in 20GiB",
        };
        let (number, unit) = thousandths(text).ok_or_else(refuse)?;
        let factor: u128 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(refuse()),
        };
        if factor == 1 && number % 1000 != 0 {
            return Err(refuse());
        }
        u64::try_from(number * factor / 1000).map(Self).map_err(|_| refuse())
    }
}

impl FromStr for Span {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit {
            text: text.chars().take(40).collect(),
            wanted: "a duration: write seconds or a unit, as in 30s, 500ms, 5m",
        };
        let (number, unit) = thousandths(text).ok_or_else(refuse)?;
        // `number` counts thousandths: of a second these are milliseconds.
        let factor: u128 = match unit {
            "ms" if number % 1000 == 0 => return millis(number / 1000).ok_or_else(refuse),
            "" | "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return Err(refuse()),
        };
        millis(number * factor).ok_or_else(refuse)
    }
}

/// Durations over ten years are typing errors, and would overflow clocks.
fn millis(n: u128) -> Option<Span> {
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3600 * 1000;
    let n = u64::try_from(n).ok().filter(|n| *n <= TEN_YEARS)?;
    Some(Span(Duration::from_millis(n)))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

/// Accepts a number as well as a string: `cache_size = 1000000` is a size too.
macro_rules! deserialize_from_text {
    ($name:ident, $expecting:literal) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<$name, E> {
                        n.to_string().parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<$name, E> {
                        n.to_string().parse().map_err(E::custom)
                    }
                }
                d.deserialize_any(Visitor)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

deserialize_from_text!(ByteSize, "a size such as \"20GiB\"");
deserialize_from_text!(Span, "a duration such as \"30s\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("20GiB", 20 << 30),
            ("20 gib", 20 << 30),
            ("256M", 256 << 20),
            ("1.5KiB", 1536),
            ("2MB", 2_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in
            ["", "GiB", "-1", "1.5", "1.", "1.2345GiB", "1 XiB", "16777216TiB", "99999999999999999999999"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("30", 30_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "0.5ms", "999999999999h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_parses(n in proptest::num::u64::ANY, millis in 0_u64..10_000_000) {
            proptest::prop_assert_eq!(ByteSize(n).to_string().parse(), Ok(ByteSize(n)));
            let span = Span(Duration::from_millis(millis));
            proptest::prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
