//! Places containers on workers, finds workers that are lost, and tidies up.
//!
//! Every replica runs one; they share the work through the database and need not know of each other. It keeps nothing that must survive: what
//! it decides is committed whole, and what it has not decided the next one decides.
//!
//! [`Scheduler::run`] is called by the server. Telling workers is not its business: that is in the outbox, and who holds a worker's
//! stream hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, MissedTickBehavior};

use crate::store::{SharedStore, StoreError, Topic};

mod calm;
mod watch;

use calm::Calm;
use watch::Watch;

/// How it goes about it.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// A worker that is not heard for so long is lost.
    pub lease: Duration,
    /// Dispatches of one container before its loss is its end.
    pub max_attempts: u32,
    /// Containers that are placed in one transaction.
    pub batch: u32,
    /// The queue is looked at so often even if nobody says anything: word may be lost.
    pub look: Duration,
    /// So often it is looked for parked containers that would fit.
    pub unpark: Duration,
    /// So often what is old is deleted.
    pub tidy: Duration,
    /// What has ended is kept for so long.
    pub keep: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            max_attempts: 3,
            batch: 256,
            look: Duration::from_secs(1),
            unpark: Duration::from_secs(5),
            tidy: Duration::from_secs(60),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What it has done since it started. Plain numbers, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    decisions: AtomicU64,
    parked: AtomicU64,
    woken: AtomicU64,
    lost_workers: AtomicU64,
    taken_back: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    /// Containers placed.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.decisions.load(Ordering::Relaxed)
    }

    /// Containers put aside because they fit nowhere; one that is put aside twice counts twice.
    #[must_use]
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Parked containers that were found to fit after all.
    #[must_use]
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Workers declared lost.
    #[must_use]
    pub fn lost_workers(&self) -> u64 {
        self.lost_workers.load(Ordering::Relaxed)
    }

    /// Containers taken back from lost workers.
    #[must_use]
    pub fn taken_back(&self) -> u64 {
        self.taken_back.load(Ordering::Relaxed)
    }

    /// Times that the database did not do what it was asked.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// First pause when another replica holds all that would fit; the longest is [`LONGEST_YIELD`].
const FIRST_YIELD: Duration = Duration::from_millis(2);
/// Its transaction is over by then.
const LONGEST_YIELD: Duration = Duration::from_millis(50);
/// Rounds of tidying at once: the rest has time.
const TIDY_ROUNDS: u32 = 20;
/// Parked containers that are woken at once.
const WAKE: u32 = 1024;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    store: SharedStore,
    options: SchedulerOptions,
    counters: Arc<Counters>,
    calm: Calm,
}

impl Scheduler {
    /// One that does nothing until it runs.
    #[must_use]
    pub fn new(store: SharedStore, options: SchedulerOptions) -> Self {
        Self { store, options, counters: Arc::default(), calm: Calm::default() }
    }

    /// What it counts. Where the queue stands [`crate::store::Queue::queue_length`] tells.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Works until `shutdown` is done, whatever becomes of the database meanwhile. A transaction under way then is taken back, and
    /// the next scheduler does it anew.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let work = async { tokio::join!(self.place(), self.watch(), self.unpark(), self.tidy()) };
        tokio::select! {
            _ = work => {}
            () = shutdown => {}
        }
    }

    /// Places whatever can be, whenever there may be something.
    async fn place(&self) {
        let mut topics = self.store.topics();
        loop {
            let until = self.place_all().await;
            let sleep = tokio::time::sleep_until(until);
            tokio::pin!(sleep);
            loop {
                tokio::select! {
                    () = &mut sleep => break,
                    topic = topics.next() => if matches!(topic, Topic::Queue | Topic::Everything) { break },
                }
            }
            // Word that came while nobody looked is one reason to look, not many.
            while topics.next().now_or_never().is_some() {}
        }
    }

    /// Empties the queue of what can be placed, and tells when to look again.
    async fn place_all(&self) -> Instant {
        let mut pause = FIRST_YIELD;
        loop {
            match self.calm.heard(self.store.place(self.options.batch).await) {
                Ok(placed) => {
                    add(&self.counters.decisions, placed.placed);
                    add(&self.counters.parked, placed.parked);
                    if !placed.more {
                        break;
                    }
                    if placed.placed + placed.parked > 0 {
                        pause = FIRST_YIELD;
                    } else {
                        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                        pause = (pause * 2).min(LONGEST_YIELD);
                    }
                }
                Err(wait) => return self.failed(wait),
            }
        }
        let look = Instant::now() + self.options.look;
        match self.calm.heard(self.store.next_ready().await) {
            Ok(Some(wait)) => look.min(Instant::now() + wait.max(FIRST_YIELD)),
            Ok(None) => look,
            Err(wait) => self.failed(wait),
        }
    }

    fn failed(&self, wait: Duration) -> Instant {
        add(&self.counters.failures, 1);
        Instant::now() + wait
    }

    /// Watches the workers' beats.
    async fn watch(&self) {
        let mut watch = Watch::new(self.options.lease);
        let mut tick = ticks(watch.interval());
        loop {
            tick.tick().await;
            let live = match self.calm.heard(self.store.live_workers().await) {
                Ok(live) => live,
                Err(wait) => {
                    // Nobody could beat meanwhile.
                    watch.forget();
                    add(&self.counters.failures, 1);
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            for (worker, beat) in watch.lost(live, Instant::now()) {
                match self.calm.heard(self.store.lose_worker(&worker, beat, self.options.max_attempts).await)
                {
                    Ok(Some(containers)) => {
                        tracing::warn!(%worker, containers, "worker lost: not heard for the length of its lease");
                        add(&self.counters.lost_workers, 1);
                        add(&self.counters.taken_back, containers);
                    }
                    Ok(None) => {}
                    Err(wait) => {
                        watch.forget();
                        add(&self.counters.failures, 1);
                        tokio::time::sleep(wait).await;
                        break;
                    }
                }
            }
        }
    }

    /// Finds parked containers that would fit.
    async fn unpark(&self) {
        let mut tick = ticks(self.options.unpark);
        loop {
            tick.tick().await;
            match self.calm.heard(self.store.unpark(WAKE).await) {
                Ok(woken) => {
                    add(&self.counters.woken, woken);
                    if woken >= u64::from(WAKE) {
                        // The placing is given its turn before there are more.
                        tick.reset_after(Duration::from_millis(500).min(self.options.unpark));
                    }
                }
                Err(wait) => {
                    add(&self.counters.failures, 1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Deletes what is old.
    async fn tidy(&self) {
        let mut tick = ticks(self.options.tidy);
        loop {
            tick.tick().await;
            for _ in 0..TIDY_ROUNDS {
                match self.calm.heard(self.store.tidy(self.options.keep).await) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(wait) => {
                        add(&self.counters.failures, 1);
                        tokio::time::sleep(wait).await;
                        break;
                    }
                }
            }
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Whether another try may help by itself.
const fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy(_) | StoreError::Unavailable(_))
}
