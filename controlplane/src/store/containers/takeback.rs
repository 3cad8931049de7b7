//! Dispatches that are taken back: their worker was lost, or does not have them.

use std::time::Duration;

use super::row::Row;
use crate::model::{Container, ContainerState};
use crate::store::queue::MAX_DELAY;
use crate::store::sql::Tx;
use crate::store::{Result, Topic, events, outbox};

/// gRPC's code of what somebody stopped.
pub(crate) const CANCELLED: i32 = 1;
/// gRPC's code of what was lost too often.
const UNAVAILABLE: i32 = 14;

/// How long a container waits after its first loss; twice as long after each further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The wait after a loss of the dispatch with this number: what a broken container does to a worker, it does to few an hour.
fn delay(attempt: u32) -> Duration {
    let doubled = attempt.saturating_sub(1).min(16);
    FIRST_DELAY.saturating_mul(1 << doubled).min(MAX_DELAY)
}

/// Takes containers back whose rows this transaction holds and whose reservations are given back: to the queue after a wait, or to an
/// end if somebody asked for one, or if they were dispatched often enough. `why` says what happened, as the start of a sentence.
pub(crate) async fn take_back(tx: &mut Tx, rows: &[Row], max_attempts: u32, why: &str) -> Result<()> {
    let (mut again, mut ended) = (Vec::new(), Vec::new());
    for row in rows {
        outbox::drop_of(tx, &row.lease()).await?;
        let mut container = row.container.clone();
        container.worker_id = None;
        if container.stop_asked {
            end(&mut container, tx, CANCELLED, format!("stopped; {why}"));
            ended.push(container);
        } else if container.attempt >= max_attempts {
            let reason = format!("{why}; that was attempt {} of {max_attempts}", container.attempt);
            end(&mut container, tx, UNAVAILABLE, reason);
            ended.push(container);
        } else {
            container.state = ContainerState::Queued;
            container.start_time = None;
            container.cost = None;
            let wait = delay(container.attempt);
            container.waiting = format!(
                "{why}; attempt {} of {max_attempts} after {} s",
                container.attempt + 1,
                wait.as_secs()
            );
            again.push((container, wait));
        }
    }
    for (container, wait) in &again {
        requeue(tx, container, *wait).await?;
    }
    for container in &ended {
        write_end(tx, container).await?;
    }
    if !again.is_empty() {
        tx.announce(Topic::Queue);
    }
    let all: Vec<&Container> = again.iter().map(|(container, _)| container).chain(&ended).collect();
    events::record(tx, &all).await
}

/// Puts a container back into the queue, without a worker.
pub(crate) async fn requeue(tx: &mut Tx, container: &Container, wait: Duration) -> Result<()> {
    sqlx::query(
        "UPDATE container SET state = 'queued', worker_id = NULL, parked = 0, start_time = NULL, cost = '',
         queue_time = $3, waiting = $4, attempt = $5 WHERE workspace_id = $1 AND container_id = $2",
    )
    .bind(container.workspace_id.as_str())
    .bind(container.container_id.as_str())
    .bind(tx.now.after(wait.min(MAX_DELAY)).0)
    .bind(container.waiting.as_str())
    .bind(i64::from(container.attempt))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Makes a container one that has failed.
pub(crate) fn end(container: &mut Container, tx: &Tx, code: i32, reason: String) {
    container.state = ContainerState::Failed;
    container.waiting = String::new();
    container.reason_code = code;
    container.reason = reason;
    container.end_time = Some(tx.now);
}

/// Writes down an end.
pub(crate) async fn write_end(tx: &mut Tx, container: &Container) -> Result<()> {
    let sql = "UPDATE container SET state = $3, waiting = '', parked = 0, exit_code = $4, reason = $5, reason_code = $6, \
         start_time = $7, end_time = $8, cost = $9, worker_id = $10, stop_asked = $11 \
         WHERE workspace_id = $1 AND container_id = $2";
    sqlx::query(sql)
        .bind(container.workspace_id.as_str())
        .bind(container.container_id.as_str())
        .bind(container.state.as_str())
        .bind(i64::from(container.exit_code))
        .bind(container.reason.as_str())
        .bind(i64::from(container.reason_code))
        .bind(container.start_time.map(|time| time.0))
        .bind(container.end_time.map(|time| time.0))
        .bind(super::row::cost_text(container.cost.as_ref())?)
        .bind(container.worker_id.as_ref().map(crate::model::WorkerId::as_str))
        .bind(i64::from(container.stop_asked))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let waits: Vec<u64> = [0, 1, 2, 3, 7, 8, u32::MAX].map(|attempt| delay(attempt).as_secs()).to_vec();
        assert_eq!(waits, [1, 1, 2, 4, 60, 60, 60]);
    }
}
