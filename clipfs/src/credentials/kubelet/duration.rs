//! Durations as Go writes them: `1h30m`, `1.5s`, `0`.

use std::time::Duration;

/// Units in nanoseconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses what Go's `time.ParseDuration` accepts. Negative ones are zero; too long ones the longest. `None` = no duration.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        if !number.bytes().any(|b| b.is_ascii_digit()) {
            return None;
        }
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanoseconds += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    if negative {
        return Some(Duration::ZERO);
    }
    Some(Duration::try_from_secs_f64(nanoseconds / 1e9).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_has_them() {
        let ms = Duration::from_millis;
        let table = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("-0s", Some(0)),
            ("+5s", Some(5_000)),
            ("1m0s", Some(60_000)),
            ("12h0m0s", Some(43_200_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("1.s", Some(1_000)),
            ("300ms", Some(300)),
            ("1000\u{b5}s", Some(1)),
            ("1000\u{3bc}s", Some(1)),
            ("-5s", Some(0)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1 s", None),
            ("1s ", None),
            ("1S", None),
            ("1e3s", None),
            ("infs", None),
            ("NaNs", None),
            ("PT1H", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected.map(ms), "{text:?}");
        }
        assert_eq!(parse(&format!("{}h", "9".repeat(400))), Some(Duration::MAX));
    }
}
