//! Points in time as text: UTC, RFC 3339.

use crate::decode::tar::Timestamp;

const DAY: i64 = 24 * 3600;

/// Days since 1970-01-01 as (year, month, day), in the proleptic Gregorian calendar: Howard Hinnant's algorithm, which counts
/// years from March so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// `2026-11-24T07:06:11Z`, with nanoseconds if there are any.
pub(super) fn rfc3339(time: Timestamp) -> String {
    let (year, month, day) = civil(time.secs.div_euclid(DAY));
    let second = time.secs.rem_euclid(DAY);
    let fraction = if time.nanos == 0 { String::new() } else { format!(".{:09}", time.nanos) };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// `2026-11-24 07:06`, for listings.
pub(super) fn minutes(time: Timestamp) -> String {
    let (year, month, day) = civil(time.secs.div_euclid(DAY));
    let second = time.secs.rem_euclid(DAY);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_date_u_prints_them() {
        // Each checked with `date -u -d @SECS +%FT%TZ`.
        let table = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.500000000Z"),
            (951_782_399, 0, "2000-02-28T23:59:59Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (1_795_503_971, 0, "2026-11-24T07:06:11Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
        ];
        for (secs, nanos, text) in table {
            assert_eq!(rfc3339(Timestamp { secs, nanos }), text, "{secs}");
        }
        assert_eq!(minutes(Timestamp { secs: 951_782_399, nanos: 0 }), "2000-02-28 23:59");
    }

    #[test]
    fn no_timestamp_of_an_archive_overflows() {
        for secs in [i64::MIN, i64::MIN + 1, i64::MAX] {
            assert!(rfc3339(Timestamp { secs, nanos: 0 }).ends_with('Z'));
        }
    }
}
