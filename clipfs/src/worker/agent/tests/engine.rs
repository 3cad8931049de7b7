//! An engine whose containers are none: they do what the test says, and outlive their worker as real ones do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::worker::engine::{Engine, Piece};
use crate::worker::runtime::{End, Job, JobState, LogStream, Mounted, RuntimeError, Started};

/// What is there, and what was done.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) jobs: BTreeMap<String, Container>,
    /// `mount 7`, `start 7`, …
    pub(super) done: Vec<String>,
    /// Mounts wait.
    pub(super) slow: bool,
    /// So many attempts will fail.
    pub(super) refresh_failures: u32,
    pub(super) clean_failures: u32,
}

#[derive(Debug, Default)]
pub(super) struct Container {
    pub(super) mounted: bool,
    pub(super) runs: bool,
    pub(super) end: Option<End>,
    pub(super) credentials: String,
    pub(super) output: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn end(&self, key: &str, exit_code: i32) {
        self.world().jobs.get_mut(key).unwrap().end = Some(End { exit_code, reason: None, code: 0 });
    }

    pub(super) fn count(&self, what: &str) -> usize {
        self.world().done.iter().filter(|done| *done == what).count()
    }

    pub(super) fn place(&self, what: &str) -> Option<usize> {
        self.world().done.iter().position(|done| done == what)
    }

    /// Waits until something is so.
    pub(super) async fn until(&self, what: &str, so: impl Fn(&World) -> bool) {
        for _ in 0..2000 {
            if so(&self.world()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}: {:?}", self.world());
    }

    fn note(&self, what: &str, job: &Job) -> MutexGuard<'_, World> {
        let mut world = self.world();
        world.done.push(format!("{what} {}", job.key));
        world
    }
}

fn failed() -> RuntimeError {
    RuntimeError::Lost("a failure of the test's".to_owned())
}

impl Engine for Fake {
    async fn mount(&self, job: &Job) -> Result<Mounted, RuntimeError> {
        self.note("mount", job).jobs.entry(job.key.clone()).or_default();
        self.until("a mount", |world| !world.slow).await;
        self.world().jobs.get_mut(&job.key).unwrap().mounted = true;
        Ok(Mounted { mountpoint: job.dir.clone(), micros: 1, fetched_bytes: 1 })
    }

    async fn start(&self, job: &Job) -> Result<Started, RuntimeError> {
        self.note("start", job).jobs.get_mut(&job.key).unwrap().runs = true;
        Ok(Started { pid: 0 })
    }

    async fn wait(&self, job: &Job) -> Result<End, RuntimeError> {
        loop {
            if let Some(end) = self.world().jobs.get(&job.key).and_then(|job| job.end.clone()) {
                return Ok(end);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn fetched_bytes(&self, _: &Job) -> Result<u64, RuntimeError> {
        Ok(4096)
    }

    async fn stop(&self, job: &Job, _: Duration) -> Result<(), RuntimeError> {
        drop(self.note("stop", job));
        self.end(&job.key, 137);
        Ok(())
    }

    async fn refresh(&self, job: &Job, credentials: &SecretString) -> Result<(), RuntimeError> {
        let mut world = self.note("refresh", job);
        if world.refresh_failures > 0 {
            world.refresh_failures -= 1;
            return Err(failed());
        }
        world.jobs.entry(job.key.clone()).or_default().credentials = credentials.expose_secret().to_owned();
        Ok(())
    }

    async fn state(&self, job: &Job) -> Result<JobState, RuntimeError> {
        Ok(match self.world().jobs.get(&job.key) {
            Some(Container { end: Some(end), .. }) => JobState::Ended(end.clone()),
            Some(Container { runs: true, .. }) => JobState::Running,
            Some(Container { mounted: true, .. }) => JobState::Mounted,
            _ => JobState::NotStarted,
        })
    }

    async fn read_output(&self, job: &Job, from: u64, _: usize) -> Result<Vec<Piece>, RuntimeError> {
        let world = self.world();
        let output = world.jobs.get(&job.key).map_or(&[][..], |job| &job.output);
        let rest = output.get(crate::num::to_usize(from)..).unwrap_or_default();
        let piece = (LogStream::Stdout, from, rest.to_vec());
        Ok(if rest.is_empty() { Vec::new() } else { vec![piece] })
    }

    async fn clean(&self, job: &Job) -> Result<(), RuntimeError> {
        let mut world = self.note("clean", job);
        if world.clean_failures > 0 {
            world.clean_failures -= 1;
            return Err(failed());
        }
        world.jobs.remove(&job.key);
        Ok(())
    }

    async fn reap(&self, _: &[Job]) -> Result<(), RuntimeError> {
        Ok(())
    }
}
