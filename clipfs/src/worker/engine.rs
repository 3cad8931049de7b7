//! What the agent needs of a [`Runtime`]: so that tests can run containers that are none.

use std::time::Duration;

use secrecy::SecretString;

use super::runtime::{End, Job, JobState, LogStream, Mounted, Runtime, RuntimeError, Started};

/// A piece of output: which stream, where it stands, its bytes.
pub(super) type Piece = (LogStream, u64, Vec<u8>);

/// Runs containers. See [`Runtime`], whose methods these are.
pub trait Engine: Send + Sync + 'static {
    /// See [`Runtime::mount`].
    fn mount(&self, job: &Job) -> impl Future<Output = Result<Mounted, RuntimeError>> + Send;
    /// See [`Runtime::start`].
    fn start(&self, job: &Job) -> impl Future<Output = Result<Started, RuntimeError>> + Send;
    /// See [`Runtime::wait`]. Cancel safe.
    fn wait(&self, job: &Job) -> impl Future<Output = Result<End, RuntimeError>> + Send;
    /// See [`Runtime::stop`].
    fn stop(&self, job: &Job, grace: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// See [`Runtime::refresh`].
    fn refresh(
        &self,
        job: &Job,
        image_credentials: &SecretString,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// See [`Runtime::state`].
    fn state(&self, job: &Job) -> impl Future<Output = Result<JobState, RuntimeError>> + Send;
    /// See [`Runtime::fetched_bytes`].
    fn fetched_bytes(&self, job: &Job) -> impl Future<Output = Result<u64, RuntimeError>> + Send;
    /// See [`Runtime::read_output`].
    fn read_output(
        &self,
        job: &Job,
        from: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Piece>, RuntimeError>> + Send;
    /// See [`Runtime::clean`].
    fn clean(&self, job: &Job) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// See [`Runtime::reap`].
    fn reap(&self, known: &[Job]) -> impl Future<Output = Result<(), RuntimeError>> + Send;
}

impl Engine for Runtime {
    async fn mount(&self, job: &Job) -> Result<Mounted, RuntimeError> {
        Self::mount(self, job).await
    }

    async fn start(&self, job: &Job) -> Result<Started, RuntimeError> {
        Self::start(self, job).await
    }

    async fn wait(&self, job: &Job) -> Result<End, RuntimeError> {
        Self::wait(self, job).await
    }

    async fn stop(&self, job: &Job, grace: Duration) -> Result<(), RuntimeError> {
        Self::stop(self, job, grace).await
    }

    async fn refresh(&self, job: &Job, image_credentials: &SecretString) -> Result<(), RuntimeError> {
        Self::refresh(self, job, image_credentials).await
    }

    async fn state(&self, job: &Job) -> Result<JobState, RuntimeError> {
        Self::state(self, job).await
    }

    async fn read_output(&self, job: &Job, from: u64, limit: usize) -> Result<Vec<Piece>, RuntimeError> {
        Self::read_output(self, job, from, limit).await
    }

    async fn fetched_bytes(&self, job: &Job) -> Result<u64, RuntimeError> {
        Self::fetched_bytes(self, job).await
    }

    async fn clean(&self, job: &Job) -> Result<(), RuntimeError> {
        Self::clean(self, job).await
    }

    async fn reap(&self, known: &[Job]) -> Result<(), RuntimeError> {
        Self::reap(self, known).await
    }
}
