//! Ranges of a blob: what is asked, and whether the answer is what was asked.

use std::ops::Range;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};

/// Most bytes that are read and thrown away when a server ignores ranges.
pub(super) const MAX_SKIP: u64 = 64 << 20;

/// What a good answer's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Bytes before the first wanted one.
    pub(super) skip: u64,
    /// The server ignored the range.
    pub(super) ignores_ranges: bool,
}

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The range begins too far in for a server without ranges.
    TooFar,
    /// The blob has another length than its descriptor says.
    WrongLength,
    /// The headers contradict the request.
    Contradiction(String),
}

/// Value of the `Range` header; `None` when the whole blob is wanted.
pub(super) fn header(range: &Range<u64>, size: u64) -> Option<String> {
    (*range != (0..size)).then(|| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
}

/// Checks a 200 or 206 to a request for `range` of a blob of `size` bytes.
pub(super) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    range: &Range<u64>,
    size: u64,
) -> Result<Accepted, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Refused::Contradiction(
            "the blob has a Content-Encoding, which was not asked for".into(),
        ));
    }
    let asked_range = header(range, size).is_some();
    let length: Option<u64> = text(CONTENT_LENGTH).and_then(|value| value.parse().ok());
    match status {
        StatusCode::PARTIAL_CONTENT if asked_range => {
            let Some(value) = text(CONTENT_RANGE) else {
                return Err(Refused::Contradiction("a partial answer without Content-Range".into()));
            };
            let (start, end, total) = parse_content_range(value)
                .ok_or_else(|| Refused::Contradiction("a malformed Content-Range".into()))?;
            if total.is_some_and(|total| total != size) {
                return Err(Refused::WrongLength);
            }
            if (start, end) != (range.start, range.end) || length.is_some_and(|n| n != end - start) {
                return Err(Refused::Contradiction(format!(
                    "asked for bytes {}-{}, got {start}-{end}",
                    range.start, range.end
                )));
            }
            Ok(Accepted { skip: 0, ignores_ranges: false })
        }
        StatusCode::PARTIAL_CONTENT => {
            Err(Refused::Contradiction("a partial answer to a request for all".into()))
        }
        _ => {
            if length.is_some_and(|length| length != size) {
                return Err(Refused::WrongLength);
            }
            if asked_range && range.start > MAX_SKIP {
                return Err(Refused::TooFar);
            }
            Ok(Accepted { skip: range.start, ignores_ranges: asked_range })
        }
    }
}

/// `bytes 0-99/1000` as start, end (exclusive) and total (`None` for `*`).
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let number = |s: &str| if s.bytes().all(|b| b.is_ascii_digit()) { s.parse::<u64>().ok() } else { None };
    let (unit, rest) = value.trim().split_once(' ')?;
    let (span, total) = rest.trim_start().split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let sane = unit.eq_ignore_ascii_case("bytes") && first <= last && total.is_none_or(|total| last < total);
    if sane { Some((first, last.checked_add(1)?, total)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        status: u16,
        headers: &[(&str, &str)],
        range: Range<u64>,
        size: u64,
    ) -> Result<Accepted, Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                reqwest::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        check(StatusCode::from_u16(status).unwrap(), &map, &range, size)
    }

    #[test]
    fn asks() {
        assert_eq!(header(&(0..10), 10), None);
        assert_eq!(header(&(0..9), 10).as_deref(), Some("bytes=0-8"));
        assert_eq!(header(&(9..10), 10).as_deref(), Some("bytes=9-9"));
    }

    #[test]
    fn partial_answers() {
        let ok = Ok(Accepted { skip: 0, ignores_ranges: false });
        let with = |value: &str| answer(206, &[("content-range", value)], 10..20, 100);
        for good in ["bytes 10-19/100", "BYTES 10-19/100", "bytes 10-19/*", " bytes  10-19/100 "] {
            assert_eq!(with(good), ok, "{good}");
        }
        assert_eq!(with("bytes 10-19/101"), Err(Refused::WrongLength));
        for bad in [
            "",
            "bytes",
            "bytes 10-19",
            "bytes 11-20/100",
            "bytes 10-18/100",
            "bytes 10-20/100",
            "bytes 0-9/100",
            "bytes 19-10/100",
            "bytes 10-19/15",
            "items 10-19/100",
            "bytes */100",
            "bytes 10-/100",
            "bytes +10-19/100",
            "bytes 10-18446744073709551615/*",
            "bytes 10-99999999999999999999/100",
            "bytes -10-19/100",
        ] {
            assert!(matches!(with(bad), Err(Refused::Contradiction(_))), "{bad}: {:?}", with(bad));
        }
        assert!(answer(206, &[], 10..20, 100).is_err());
        assert!(
            answer(206, &[("content-range", "bytes 0-99/100")], 0..100, 100).is_err(),
            "nothing partial was asked"
        );
        let encoded = [("content-range", "bytes 10-19/100"), ("content-encoding", "gzip")];
        assert!(answer(206, &encoded, 10..20, 100).is_err());
        let short = [("content-range", "bytes 10-19/100"), ("content-length", "9")];
        assert!(answer(206, &short, 10..20, 100).is_err());
    }

    #[test]
    fn whole_answers() {
        assert_eq!(answer(200, &[], 0..100, 100), Ok(Accepted { skip: 0, ignores_ranges: false }));
        assert_eq!(
            answer(200, &[("content-length", "100")], 0..100, 100),
            Ok(Accepted { skip: 0, ignores_ranges: false })
        );
        assert_eq!(answer(200, &[], 10..20, 100), Ok(Accepted { skip: 10, ignores_ranges: true }));
        assert_eq!(answer(200, &[("content-length", "99")], 10..20, 100), Err(Refused::WrongLength));
        assert_eq!(answer(200, &[], MAX_SKIP + 1..MAX_SKIP + 2, u64::MAX), Err(Refused::TooFar));
        assert!(answer(200, &[("content-encoding", "gzip")], 0..100, 100).is_err());
        assert!(answer(200, &[("content-encoding", "identity")], 0..100, 100).is_ok());
    }
}
