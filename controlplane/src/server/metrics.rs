//! Metrics in Prometheus' text format. `docs/METRICS.md` says what each means; names are a contract.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tonic::Code;

use crate::scheduler::Counters;
use crate::service::status::code_name;

pub(super) mod http;

/// Calls that have ended, by `method` and `code`.
const RPCS: &str = "controlplane_rpcs_total";
/// Time from a call's arrival to its end, by `method`.
const RPC_SECONDS: &str = "controlplane_rpc_seconds";
/// Calls under way.
const RPCS_NOW: &str = "controlplane_rpcs_in_flight";
/// Whether the database answers.
const DATABASE: &str = "controlplane_database_up";
/// Containers in the queue, by `state`.
const QUEUE: &str = "controlplane_queue_length";
/// Workers that are believed to live.
const WORKERS: &str = "controlplane_live_workers";
/// Messages to workers that are not acknowledged.
const OUTBOX: &str = "controlplane_outbox_length";
/// Containers that this replica has placed.
const DECISIONS: &str = "controlplane_decisions_total";

/// Containers put aside by it.
const PARKED: &str = "controlplane_parked_total";
/// Workers that it has declared lost.
const LOST: &str = "controlplane_lost_workers_total";
/// Containers that it has taken back from them.
const TAKEN_BACK: &str = "controlplane_taken_back_total";
/// Failures of the database that it has met.
const FAILURES: &str = "controlplane_scheduler_failures_total";

/// Upper bounds of latency, in microseconds; the last bucket has none.
const BOUNDS: [u64; 10] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, 60_000_000];

/// Methods that do not exist, together: their names are the caller's.
const OTHER: &str = "other";

/// What the database says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    /// Ready and parked.
    pub(super) queue: (u64, u64),
    pub(super) live_workers: u64,
    pub(super) outbox: u64,
}

/// Calls of one method.
#[derive(Debug, Default, Clone)]
struct Calls {
    by_code: BTreeMap<&'static str, u64>,
    latency: [u64; BOUNDS.len() + 1],
    micros: u64,
}

/// Counts.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Paths of all methods: labels are bounded.
    known: BTreeSet<String>,
    calls: Mutex<BTreeMap<String, Calls>>,
    in_flight: AtomicU64,
    scheduler: Arc<Counters>,
}

impl Metrics {
    /// The scheduler counts for itself.
    pub(super) fn new(scheduler: Arc<Counters>) -> Self {
        Self { known: methods(), calls: Mutex::default(), in_flight: AtomicU64::new(0), scheduler }
    }

    /// A call has come.
    pub(super) fn started(self: &Arc<Self>, path: &str) -> Started {
        let method = self.known.get(path).map_or(OTHER, |path| path.trim_start_matches('/')).to_owned();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Started { metrics: Arc::clone(self), method, since: Instant::now(), over: false }
    }

    fn ended(&self, method: &str, code: Code, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.entry(method.to_owned()).or_default();
        *calls.by_code.entry(code_name(code)).or_default() += 1;
        calls.latency[BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len())] += 1;
        calls.micros = calls.micros.saturating_add(micros);
    }

    /// The document. `None`: the database does not answer.
    pub(super) fn render(&self, gauges: Option<Gauges>) -> String {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut page = Page(String::with_capacity(4 << 10));
        page.family(RPCS, "counter", "Calls that have ended.");
        for (method, calls) in &calls {
            for (code, count) in &calls.by_code {
                page.sample(RPCS, "", &[("method", method), ("code", code)], count);
            }
        }
        page.family(RPC_SECONDS, "histogram", "Time from a call's arrival to its end.");
        for (method, calls) in &calls {
            page.histogram(method, calls);
        }
        page.single(RPCS_NOW, "gauge", "Calls under way.", self.in_flight.load(Ordering::Relaxed));
        let scheduler = &self.scheduler;
        page.single(DECISIONS, "counter", "Containers that this replica has placed.", scheduler.decisions());
        page.single(
            PARKED,
            "counter",
            "Containers that were put aside: they fit nowhere.",
            scheduler.parked(),
        );
        page.single(LOST, "counter", "Workers that were declared lost.", scheduler.lost_workers());
        page.single(
            TAKEN_BACK,
            "counter",
            "Containers taken back from lost workers.",
            scheduler.taken_back(),
        );
        page.single(
            FAILURES,
            "counter",
            "Times that the database failed the scheduler.",
            scheduler.failures(),
        );
        page.single(DATABASE, "gauge", "Whether the database answers.", u64::from(gauges.is_some()));
        if let Some(gauges) = gauges {
            page.family(QUEUE, "gauge", "Containers in the queue.");
            page.sample(QUEUE, "", &[("state", "ready")], gauges.queue.0);
            page.sample(QUEUE, "", &[("state", "parked")], gauges.queue.1);
            page.single(WORKERS, "gauge", "Workers that are believed to live.", gauges.live_workers);
            page.single(OUTBOX, "gauge", "Messages to workers that are not acknowledged.", gauges.outbox);
        }
        page.0
    }
}

/// A call under way. Dropped before its end: the caller went away, CANCELLED.
#[derive(Debug)]
pub(super) struct Started {
    metrics: Arc<Metrics>,
    method: String,
    since: Instant,
    over: bool,
}

impl Started {
    /// It has ended. Only the first time counts.
    pub(super) fn ended(&mut self, code: Code) {
        if !std::mem::replace(&mut self.over, true) {
            self.metrics.ended(&self.method, code, self.since.elapsed());
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// Paths of all methods that the interface has, and of the health service.
fn methods() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(api::v1::DESCRIPTORS).unwrap_or_default();
    let mut found =
        BTreeSet::from(["Check", "Watch", "List"].map(|name| format!("/grpc.health.v1.Health/{name}")));
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                found.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    found
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

    /// Labels are names of ours: nothing in them needs an escape.
    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(label, text)| format!("{label}=\"{text}\"")).collect();
        if labels.is_empty() {
            self.line(format_args!("{name}{suffix} {value}"));
        } else {
            self.line(format_args!("{name}{suffix}{{{}}} {value}", labels.join(",")));
        }
    }

    fn histogram(&mut self, method: &str, calls: &Calls) {
        let mut seen = 0;
        for (n, count) in calls.latency.iter().enumerate() {
            seen += count;
            let bound = BOUNDS.get(n).map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            self.sample(RPC_SECONDS, "_bucket", &[("method", method), ("le", &bound)], seen);
        }
        self.sample(RPC_SECONDS, "_sum", &[("method", method)], seconds(calls.micros));
        self.sample(RPC_SECONDS, "_count", &[("method", method)], seen);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{text}");
    }
}

/// Microseconds as a decimal number of seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_contract() {
        let metrics = Arc::new(Metrics::new(Arc::default()));
        metrics.started("/clipfs.v1.AdminService/ListTokens").ended(Code::Ok);
        metrics.started("/made/up\"\n").ended(Code::Unimplemented);
        drop(metrics.started("/clipfs.v1.ContainerService/WatchContainer"));
        let page = metrics.render(Some(Gauges { queue: (1, 2), live_workers: 3, outbox: 4 }));
        for line in [
            "controlplane_rpcs_total{method=\"clipfs.v1.AdminService/ListTokens\",code=\"OK\"} 1",
            "controlplane_rpcs_total{method=\"other\",code=\"UNIMPLEMENTED\"} 1",
            "controlplane_rpcs_total{method=\"clipfs.v1.ContainerService/WatchContainer\",code=\"CANCELLED\"} 1",
            "controlplane_rpc_seconds_bucket{method=\"other\",le=\"+Inf\"} 1",
            "controlplane_rpc_seconds_count{method=\"other\"} 1",
            "controlplane_rpcs_in_flight 0",
            "controlplane_decisions_total 0",
            "controlplane_database_up 1",
            "controlplane_queue_length{state=\"ready\"} 1",
            "controlplane_queue_length{state=\"parked\"} 2",
            "controlplane_live_workers 3",
            "controlplane_outbox_length 4",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        let page = metrics.render(None);
        assert!(page.contains("controlplane_database_up 0") && !page.contains("outbox"), "{page}");
    }
}
