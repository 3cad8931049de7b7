//! Writes down what a pass has decided.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;

use super::fleet::Slot;
use super::place::Choice;
use crate::model::{Container, ContainerState, Lease, WorkerId};
use crate::store::containers::row::Row;
use crate::store::row::bound;
use crate::store::sql::Tx;
use crate::store::{DeliveryKind, Result, bulk, events, outbox};

/// What is free of workers whose rows this transaction holds.
pub(super) async fn free(tx: &mut Tx, slots: &[Slot]) -> Result<()> {
    for piece in bulk::pieces(slots) {
        let sql = format!(
            "UPDATE worker SET free_cpu = v.column2, free_memory = v.column3, free_gpu = v.column4, containers = v.column5 \
             FROM (VALUES {}) AS v WHERE worker.worker_id = v.column1",
            bulk::rows(piece.len(), 5, 1)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for slot in piece {
            query = query
                .bind(slot.worker.as_str())
                .bind(slot.free_cpu)
                .bind(slot.free_memory)
                .bind(slot.free_gpu)
                .bind(slot.containers);
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Sends containers to their workers: a new attempt with a new fencing token each. Answers the workers, each once.
pub(super) async fn schedule(tx: &mut Tx, choices: Vec<Choice>) -> Result<Vec<WorkerId>> {
    if choices.is_empty() {
        return Ok(Vec::new());
    }
    let number = u32::try_from(choices.len()).unwrap_or(u32::MAX);
    let tokens = tx.fencing_tokens(number).await?;
    let scheduled: Vec<(WorkerId, Row)> = choices
        .into_iter()
        .zip(tokens)
        .map(|(Choice { mut row, worker }, token)| {
            row.container.state = ContainerState::Scheduled;
            row.container.attempt = row.container.attempt.saturating_add(1);
            row.container.fencing_token = token;
            row.container.worker_id = Some(worker.clone());
            row.container.waiting = String::new();
            (worker, row)
        })
        .collect();
    for piece in bulk::pieces(&scheduled) {
        let sql = format!(
            "UPDATE container SET state = 'scheduled', waiting = '', attempt = v.column3, fencing_token = v.column4, \
             worker_id = v.column5 FROM (VALUES {}) AS v \
             WHERE container.workspace_id = v.column1 AND container.container_id = v.column2",
            bulk::rows(piece.len(), 5, 1)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (worker, Row { container, .. }) in piece {
            query = query
                .bind(container.workspace_id.as_str())
                .bind(container.container_id.as_str())
                .bind(i64::from(container.attempt))
                .bind(bound(container.fencing_token))
                .bind(worker.as_str());
        }
        query.execute(&mut **tx).await?;
    }
    let messages: Vec<(WorkerId, Lease)> =
        scheduled.iter().map(|(worker, row)| (worker.clone(), row.lease())).collect();
    outbox::put(tx, DeliveryKind::Dispatch, &messages).await?;
    let containers: Vec<&Container> = scheduled.iter().map(|(_, row)| &row.container).collect();
    events::record(tx, &containers).await?;
    let mut workers: Vec<WorkerId> = scheduled.into_iter().map(|(worker, _)| worker).collect();
    workers.sort_unstable();
    workers.dedup();
    Ok(workers)
}

/// Puts containers aside that fit nowhere, and says why. Who waits for the same reason as before is no news.
pub(super) async fn park(tx: &mut Tx, parked: Vec<(Row, String)>) -> Result<()> {
    let mut by_reason: HashMap<String, Vec<Row>> = HashMap::new();
    for (row, reason) in parked {
        by_reason.entry(reason).or_default().push(row);
    }
    for (reason, mut rows) in by_reason {
        for piece in bulk::pieces(&rows) {
            let sql = format!(
                "UPDATE container SET parked = 1, waiting = $1 FROM (VALUES {}) AS v \
                 WHERE container.workspace_id = v.column1 AND container.container_id = v.column2",
                bulk::rows(piece.len(), 2, 2)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).bind(reason.as_str());
            for Row { container, .. } in piece {
                query = query.bind(container.workspace_id.as_str()).bind(container.container_id.as_str());
            }
            query.execute(&mut **tx).await?;
        }
        rows.retain(|row| row.container.waiting != reason);
        for row in &mut rows {
            row.container.waiting.clone_from(&reason);
        }
        let news: Vec<&Container> = rows.iter().map(|row| &row.container).collect();
        events::record(tx, &news).await?;
    }
    Ok(())
}

/// Wakes containers whose rows this transaction holds.
pub(crate) async fn wake(tx: &mut Tx, rows: &[Row]) -> Result<()> {
    for piece in bulk::pieces(rows) {
        let sql = format!(
            "UPDATE container SET parked = 0 FROM (VALUES {}) AS v \
             WHERE container.workspace_id = v.column1 AND container.container_id = v.column2",
            bulk::rows(piece.len(), 2, 1)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for Row { container, .. } in piece {
            query = query.bind(container.workspace_id.as_str()).bind(container.container_id.as_str());
        }
        query.execute(&mut **tx).await?;
    }
    Ok(())
}
