//! What is told while an image is made.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clipfs::build::Progress;
use clipfs::oci::Digest;
use tokio::sync::mpsc;

/// Pause between two words of one layer: faster than people read, slower than bytes come.
const PACE: Duration = Duration::from_millis(250);

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A line for people.
    Message(String),
    /// How much of a layer has been read, in compressed bytes.
    Layer {
        /// Digest of the blob.
        digest: String,
        /// So far.
        read: u64,
        /// In all.
        total: u64,
    },
}

/// Says a line. That nobody listens is no reason to fail: who goes away drops the work.
pub(super) async fn say(events: &mpsc::Sender<Event>, line: String) {
    let _ = events.send(Event::Message(line)).await;
}

/// Tells of layers, rarely, and not at all while the listener is behind.
#[derive(Debug)]
pub(super) struct Layers {
    events: mpsc::Sender<Event>,
    layers: Mutex<BTreeMap<usize, Layer>>,
}

#[derive(Debug)]
struct Layer {
    digest: String,
    read: u64,
    total: u64,
    told: Instant,
}

impl Layers {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, layers: Mutex::default() }
    }

    fn update(&self, position: usize, change: impl FnOnce(&mut Layer) -> bool) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(layer) = layers.get_mut(&position) else { return };
        if change(layer) || layer.told.elapsed() >= PACE {
            layer.told = Instant::now();
            let (digest, read, total) = (layer.digest.clone(), layer.read, layer.total);
            let _ = self.events.try_send(Event::Layer { digest, read, total });
        }
    }
}

impl Progress for Layers {
    fn layer(&self, position: usize, digest: &Digest, size: u64) {
        let layer = Layer { digest: digest.to_string(), read: 0, total: size, told: Instant::now() };
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(position, layer);
        self.update(position, |_| true);
    }

    fn advanced(&self, position: usize, bytes: u64) {
        self.update(position, |layer| {
            layer.read = layer.read.saturating_add(bytes).min(layer.total);
            false
        });
    }

    fn done(&self, position: usize) {
        self.update(position, |layer| {
            layer.read = layer.total;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_word_and_few_between() {
        let (sender, mut events) = mpsc::channel(100);
        let layers = Layers::new(sender);
        layers.advanced(7, 1);
        layers.layer(0, &Digest::of(b"a"), 1000);
        for _ in 0..999 {
            layers.advanced(0, 1);
        }
        layers.done(0);
        let mut reads = Vec::new();
        while let Ok(Event::Layer { read, total, .. }) = events.try_recv() {
            assert_eq!(total, 1000);
            reads.push(read);
        }
        assert_eq!((reads.first(), reads.last()), (Some(&0), Some(&1000)));
        assert!(reads.len() < 100, "{}", reads.len());
    }

    #[test]
    fn a_listener_that_is_behind_holds_up_nobody() {
        let (sender, _events) = mpsc::channel(1);
        let layers = Layers::new(sender);
        layers.layer(0, &Digest::of(b"a"), 10);
        layers.layer(1, &Digest::of(b"b"), 10);
        layers.done(1);
    }
}
