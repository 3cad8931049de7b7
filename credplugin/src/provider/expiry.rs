//! Lives of tokens: what an endpoint says of them, made safe to rely on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::json::{Path, Value};

/// Life of a token whose endpoint says nothing that makes sense.
const ODD: Duration = Duration::from_secs(60);

/// Longest life that is believed; Amazon's tokens have it.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// The life that is left of a token which ends at a time in seconds since 1970, where `now` is the time of who said so: its `Date`, so
/// that a wrong clock of this machine does not matter.
pub(super) fn until(end: Option<&Value>, now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    bounded(end.and_then(number).map(|end| end - now))
}

/// The life of a token, in seconds.
pub(super) fn lasting(seconds: Option<&Value>) -> Duration {
    bounded(seconds.and_then(number))
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64(&Path::root("")).ok()
}

fn bounded(seconds: Option<f64>) -> Duration {
    match seconds {
        // Past when it was issued: nonsense, and no reason to throw the token away.
        Some(seconds) if seconds > 0.0 => {
            Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).clamp(Duration::from_secs(1), LONGEST)
        }
        _ => ODD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        crate::json::parse(text.as_bytes(), 100, "").unwrap()
    }

    #[test]
    fn lives() {
        let hour = 3600;
        let table = [
            ("3599", 3599),
            ("3599.5", 3599),
            ("2", 2),
            ("0.25", 1),
            ("0", 60),
            ("-1", 60),
            ("1000000000000000000", 12 * hour),
            ("1e300", 12 * hour),
            ("1e400", 60),
            ("\"3600\"", 60),
            ("null", 60),
            ("[1]", 60),
        ];
        for (text, want) in table {
            assert_eq!(lasting(Some(&value(text))).as_secs(), want, "{text}");
        }
        assert_eq!(lasting(None), ODD);
    }

    #[test]
    fn ends() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let table = [
            ("1800000090", 90),
            ("1800000090.25", 90),
            ("1.80000009E9", 90),
            ("1800043200", 12 * 3600),
            ("1900000000", 12 * 3600),
            // Past, and milliseconds.
            ("1799999999", 60),
            ("0", 60),
            ("1800000090000", 12 * 3600),
            ("\"2027-01-15T08:00:00Z\"", 60),
        ];
        for (text, want) in table {
            assert_eq!(until(Some(&value(text)), now).as_secs(), want, "{text}");
        }
        assert_eq!(until(None, now), ODD);
    }
}
