//! Metrics in Prometheus' text format, version 0.0.4. `docs/METRICS.md` says what each means.
//!
//! Names carry their unit. They are a contract: dashboards are made of them.

use std::fmt::{Display, Write as _};

use crate::fuse::stats::BUCKETS;
use crate::read::ReadStats;
use crate::registry::stats::AnswerCount;

pub(super) mod http;

/// Compressed bytes asked of registries, by `reason`.
const FETCHED_BYTES: &str = "clipfs_fetched_bytes_total";
/// Bytes given to readers by the server, by where they came `from`.
const SERVED_BYTES: &str = "clipfs_served_bytes_total";
/// Time from a read request to its answer.
const READ_SECONDS: &str = "clipfs_read_seconds";
/// Chunks that were not what the index says.
const VERIFY_FAILURES: &str = "clipfs_chunk_verify_failures_total";
/// Requests to registries, by `host` and `code`.
const REGISTRY_REQUESTS: &str = "clipfs_registry_requests_total";
/// Requests to token endpoints.
const TOKEN_REQUESTS: &str = "clipfs_token_requests_total";
/// Questions for credentials, by `result`.
const CREDENTIAL_REQUESTS: &str = "clipfs_credential_requests_total";
/// Bytes of the cache directory.
const CACHE_BYTES: &str = "clipfs_cache_bytes";
/// Objects evicted.
const CACHE_EVICTIONS: &str = "clipfs_cache_evictions_total";
/// Mounts behind the endpoint.
const MOUNTS: &str = "clipfs_mounts";
/// Times the keeper has started the server again.
const SERVER_RESTARTS: &str = "clipfs_server_restarts_total";

/// The `code` of a request without an answer.
const NO_ANSWER: &str = "none";

/// Microseconds of a second.
const MICROS: u64 = 1_000_000;

/// What is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    pub(super) read: ReadStats,
    pub(super) latency: [u64; BUCKETS],
    pub(super) latency_sum_micros: u64,
    pub(super) answers: Vec<AnswerCount>,
    pub(super) token_requests: u64,
    pub(super) credential_requests: Vec<(&'static str, u64)>,
    pub(super) cache_bytes: u64,
    pub(super) evictions: u64,
    pub(super) server_restarts: u64,
}

/// The document.
pub(super) fn render(numbers: &Numbers) -> String {
    let mut page = Page(String::with_capacity(4 << 10));
    let read = &numbers.read;
    page.family(FETCHED_BYTES, "counter", "Compressed bytes asked of registries.");
    for (reason, bytes) in [
        ("demand", read.fetched_demand),
        ("readahead", read.fetched_ahead),
        ("prefetch", read.fetched_prefetch),
        // `clipfs pull` is a process of its own: a mount never pulls, but sums over reasons have all of them.
        ("pull", 0),
    ] {
        page.sample(FETCHED_BYTES, "", &[("reason", reason)], bytes);
    }
    page.family(SERVED_BYTES, "counter", "Bytes given to readers by the server.");
    for (from, bytes) in
        [("memory", read.served_memory), ("disk", read.served_disk), ("registry", read.served_registry)]
    {
        page.sample(SERVED_BYTES, "", &[("from", from)], bytes);
    }
    page.histogram(numbers);
    page.single(
        VERIFY_FAILURES,
        "counter",
        "Chunks that were not what the index says.",
        read.verify_failures,
    );
    page.family(REGISTRY_REQUESTS, "counter", "Requests to registries and to where they lead.");
    for answer in &numbers.answers {
        let code = answer.code.map_or_else(|| NO_ANSWER.to_owned(), |code| code.to_string());
        page.sample(REGISTRY_REQUESTS, "", &[("host", &answer.host), ("code", &code)], answer.count);
    }
    page.single(TOKEN_REQUESTS, "counter", "Requests to token endpoints.", numbers.token_requests);
    page.family(CREDENTIAL_REQUESTS, "counter", "Questions for credentials: of a plugin, or of the request.");
    for (result, count) in &numbers.credential_requests {
        page.sample(CREDENTIAL_REQUESTS, "", &[("result", result)], count);
    }
    page.single(
        CACHE_BYTES,
        "gauge",
        "Bytes of the cache directory, whoever wrote them.",
        numbers.cache_bytes,
    );
    page.single(CACHE_EVICTIONS, "counter", "Objects evicted by this mount.", numbers.evictions);
    page.single(MOUNTS, "gauge", "Mounts behind this endpoint.", 1);
    page.single(
        SERVER_RESTARTS,
        "counter",
        "Times the keeper has started the server again.",
        numbers.server_restarts,
    );
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, "", &[], value);
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name}{suffix} {value}"));
        } else {
            self.line(format_args!("{name}{suffix}{{{}}} {value}", labels.join(",")));
        }
    }

    /// Buckets are cumulative; the last one of ours has no upper bound.
    fn histogram(&mut self, numbers: &Numbers) {
        self.family(READ_SECONDS, "histogram", "Time from a read request to its answer.");
        let mut seen = 0;
        for (n, count) in numbers.latency.iter().enumerate() {
            seen += count;
            let bound = if n + 1 < BUCKETS { seconds(2 << n) } else { "+Inf".to_owned() };
            self.sample(READ_SECONDS, "_bucket", &[("le", &bound)], seen);
        }
        self.sample(READ_SECONDS, "_sum", &[], seconds(numbers.latency_sum_micros));
        self.sample(READ_SECONDS, "_count", &[], seen);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{text}");
    }
}

/// Microseconds as a decimal number of seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / MICROS, micros % MICROS);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_contract_with_type_help_and_value() {
        let mut latency = [0; BUCKETS];
        (latency[0], latency[10], latency[BUCKETS - 1]) = (3, 2, 1);
        let numbers = Numbers {
            read: ReadStats {
                fetched_demand: 1,
                fetched_ahead: 2,
                fetched_prefetch: 3,
                ..ReadStats::default()
            },
            latency,
            latency_sum_micros: 9_000_500,
            answers: vec![
                AnswerCount { host: "r.example:5000".into(), code: Some(206), count: 7 },
                AnswerCount { host: "a\"b\\c".into(), code: None, count: 8 },
            ],
            token_requests: 4,
            credential_requests: vec![("ok", 3), ("denied", 1)],
            cache_bytes: 5,
            evictions: 6,
            server_restarts: 2,
        };
        let page = render(&numbers);
        for line in [
            "clipfs_fetched_bytes_total{reason=\"demand\"} 1",
            "clipfs_fetched_bytes_total{reason=\"readahead\"} 2",
            "clipfs_fetched_bytes_total{reason=\"prefetch\"} 3",
            "clipfs_fetched_bytes_total{reason=\"pull\"} 0",
            "clipfs_served_bytes_total{from=\"memory\"} 0",
            "clipfs_read_seconds_bucket{le=\"0.000002\"} 3",
            "clipfs_read_seconds_bucket{le=\"0.001024\"} 3",
            "clipfs_read_seconds_bucket{le=\"0.002048\"} 5",
            "clipfs_read_seconds_bucket{le=\"8.388608\"} 5",
            "clipfs_read_seconds_bucket{le=\"+Inf\"} 6",
            "clipfs_read_seconds_sum 9.0005",
            "clipfs_read_seconds_count 6",
            "clipfs_chunk_verify_failures_total 0",
            "clipfs_registry_requests_total{host=\"r.example:5000\",code=\"206\"} 7",
            "clipfs_registry_requests_total{host=\"a\\\"b\\\\c\",code=\"none\"} 8",
            "clipfs_token_requests_total 4",
            "clipfs_credential_requests_total{result=\"ok\"} 3",
            "clipfs_credential_requests_total{result=\"denied\"} 1",
            "clipfs_cache_bytes 5",
            "clipfs_cache_evictions_total 6",
            "clipfs_mounts 1",
            "clipfs_server_restarts_total 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        let names: Vec<_> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        assert_eq!(names.len(), 11, "{names:?}");
        assert!(page.ends_with('\n'), "a last line without its end is malformed");
    }

    #[test]
    fn seconds_are_exact() {
        for (micros, text) in [(0, "0"), (1, "0.000001"), (500_000, "0.5"), (10_000_000, "10")] {
            assert_eq!(seconds(micros), text);
        }
    }
}
