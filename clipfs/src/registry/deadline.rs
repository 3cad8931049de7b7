//! How long a whole operation may take, known to every request in it: a wait that cannot end in time is not begun, so
//! that the answer is the registry's own ("slow down") and not "it took too long".

use std::future::Future;
use std::time::{Duration, Instant};

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Runs an operation that its caller will end after `limit`. It does not end the operation itself.
pub async fn within<T>(limit: Duration, operation: impl Future<Output = T>) -> T {
    match Instant::now().checked_add(limit) {
        Some(deadline) => DEADLINE.scope(deadline, operation).await,
        None => operation.await,
    }
}

/// What is left of the operation that runs; `None` = as long as it takes.
pub(super) fn left() -> Option<Duration> {
    DEADLINE.try_with(|deadline| deadline.saturating_duration_since(Instant::now())).ok()
}
