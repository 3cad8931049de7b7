//! What was read from an image's place: over the wire, or from its file.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Pairs of host and code that are told apart. A registry redirects to a handful of hosts; one that makes them up for every
/// blob must not cost memory.
const MAX_PAIRS: usize = 256;

/// The host of what comes after [`MAX_PAIRS`].
const OTHER_HOSTS: &str = "other";

/// Counters of one [`super::ImageSource`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryStats {
    /// Bytes of blobs received (compressed bytes), failed attempts included.
    pub blob_bytes: u64,
    /// HTTP requests sent, retries and redirects included.
    pub requests: u64,
    /// Requests to token endpoints.
    pub token_requests: u64,
}

/// How often a host has answered with a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerCount {
    /// Host, with its port unless that is the scheme's own.
    pub host: String,
    /// HTTP status; `None` = no answer: no connection, broken TLS, silence.
    pub code: Option<u16>,
    /// Requests.
    pub count: u64,
}

/// The counters while they count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) blob_bytes: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) token_requests: AtomicU64,
    answers: Mutex<BTreeMap<(String, Option<u16>), u64>>,
}

impl Counters {
    pub(super) fn snapshot(&self) -> RegistryStats {
        RegistryStats {
            blob_bytes: self.blob_bytes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            token_requests: self.token_requests.load(Relaxed),
        }
    }

    /// Counts the end of a request. One whose caller has stopped waiting is not counted.
    pub(super) fn answered(&self, host: &str, code: Option<u16>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = (host.to_owned(), code);
        if answers.len() >= MAX_PAIRS && !answers.contains_key(&pair) {
            OTHER_HOSTS.clone_into(&mut pair.0);
        }
        *answers.entry(pair).or_default() += 1;
    }

    pub(super) fn answers(&self) -> Vec<AnswerCount> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .iter()
            .map(|((host, code), count)| AnswerCount { host: host.clone(), code: *code, count: *count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_host_and_code_within_bounds() {
        let counters = Counters::default();
        counters.answered("a", Some(200));
        counters.answered("a", Some(200));
        counters.answered("a", None);
        let of = |host: &str, code| AnswerCount { host: host.into(), code, count: 2 };
        assert_eq!(counters.answers()[1], of("a", Some(200)));
        for n in 0..2 * MAX_PAIRS {
            counters.answered(&format!("made-up-{n}"), Some(206));
        }
        let answers = counters.answers();
        assert!(answers.len() <= MAX_PAIRS + 1, "{}", answers.len());
        assert_eq!(answers.iter().map(|a| a.count).sum::<u64>(), 3 + 2 * 256);
        counters.answered("a", Some(200));
        assert!(counters.answers().contains(&AnswerCount { count: 3, ..of("a", Some(200)) }));
    }
}
