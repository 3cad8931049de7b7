//! Progress on standard error: a bar per layer on a terminal, a line now and then elsewhere.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::{percent, size};
use crate::build::Progress;
use crate::oci::Digest;

/// Time between lines where there is no terminal: logs of a CI stay short, and nobody thinks that it hangs.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Hex digits by which people tell layers apart.
const SHORT: usize = 12;

/// The progress display that fits standard error.
pub(super) fn for_stderr(what: &'static str) -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Arc::new(Bars { all: MultiProgress::new(), bars: Mutex::default() })
    } else {
        Arc::new(Lines { what, state: Mutex::new(LineState::new(Instant::now())) })
    }
}

/// Bars with bytes, rate and time left.
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<usize, ProgressBar>>,
}

impl Bars {
    fn with(&self, position: usize, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).get(&position) {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn layer(&self, position: usize, digest: &Digest, size: u64) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(position).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(size));
            let template =
                "{prefix}  {bar:30}  {bytes:>10} / {total_bytes:<10}  {bytes_per_sec:>12}  {eta:>4}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(digest.hex().chars().take(SHORT).collect::<String>());
            bar
        });
        bar.reset();
        bar.set_length(size);
    }

    fn advanced(&self, position: usize, bytes: u64) {
        self.with(position, |bar| bar.inc(bytes));
    }

    fn done(&self, position: usize) {
        self.with(position, ProgressBar::finish_and_clear);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // An error's sentence must not stand between half bars. A terminal that is gone cannot be cleared.
        let _ = self.all.clear();
    }
}

/// Lines now and then.
struct Lines {
    what: &'static str,
    state: Mutex<LineState>,
}

struct LineState {
    /// Bytes that have come and bytes in all, by layer.
    layers: HashMap<usize, (u64, u64)>,
    last: Instant,
}

impl LineState {
    fn new(now: Instant) -> Self {
        Self { layers: HashMap::new(), last: now }
    }

    /// The text of a line, if it is time for one.
    fn line(&mut self, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.last) < LINE_EVERY {
            return None;
        }
        self.last = now;
        let (done, all) =
            self.layers.values().fold((0_u64, 0_u64), |(done, all), (d, a)| (done + d, all + a));
        Some(format!("{} of {} ({})", size(done), size(all), percent(done, all)))
    }
}

impl Progress for Lines {
    fn layer(&self, position: usize, _digest: &Digest, size: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.layers.insert(position, (0, size));
    }

    fn advanced(&self, position: usize, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((done, _)) = state.layers.get_mut(&position) {
            *done += bytes;
        }
        if let Some(line) = state.line(Instant::now()) {
            // Progress that nobody can read is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{}: {line}", self.what);
        }
    }

    fn done(&self, _position: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_now_and_then() {
        let start = Instant::now();
        let mut state = LineState::new(start);
        state.layers.insert(0, (1 << 20, 4 << 20));
        state.layers.insert(1, (1 << 20, 1 << 20));
        assert_eq!(state.line(start + LINE_EVERY / 2), None);
        assert_eq!(state.line(start + LINE_EVERY).as_deref(), Some("2.0 MiB of 5.0 MiB (40.00 %)"));
        assert_eq!(state.line(start + LINE_EVERY), None);
    }
}
