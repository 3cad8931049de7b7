//! A row of `container`.

use sqlx::any::AnyRow;

use crate::model::{Container, Demand, Lease, StartCost};
use crate::store::Result;
use crate::store::row::{Columns as _, corrupt};

/// What [`Row::read`] needs, qualified so that it can be joined.
pub(crate) const COLUMNS: &str = "container.workspace_id, container.container_id, container.image_id, container.state, \
     container.attempt, container.fencing_token, container.worker_id, container.waiting, container.stop_asked, \
     container.exit_code, container.reason, container.reason_code, container.cost, container.create_time, \
     container.start_time, container.end_time, container.digest, container.cpu, container.memory, container.gpu, \
     container.gpu_count, container.pool_selector";

/// A container with what only the queue needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) container: Container,
    pub(crate) demand: Demand,
    pub(crate) digest: String,
}

impl Row {
    /// Reads what [`COLUMNS`] selects.
    pub(crate) fn read(row: &AnyRow) -> Result<Self> {
        let cost = if row.text("cost")?.is_empty() { None } else { Some(row.json("cost")?) };
        Ok(Self {
            container: Container {
                container_id: row.text("container_id")?.into(),
                workspace_id: row.text("workspace_id")?.into(),
                image_id: row.text("image_id")?.into(),
                state: row.word("state")?,
                attempt: row.small("attempt")?,
                fencing_token: row.count("fencing_token")?,
                worker_id: row.maybe_text("worker_id")?.map(Into::into),
                waiting: row.text("waiting")?,
                stop_asked: row.flag("stop_asked")?,
                exit_code: row.small_int("exit_code")?,
                reason: row.text("reason")?,
                reason_code: row.small_int("reason_code")?,
                cost,
                create_time: row.time("create_time")?,
                start_time: row.maybe_time("start_time")?,
                end_time: row.maybe_time("end_time")?,
            },
            demand: Demand {
                cpu: row.int("cpu")?,
                memory: row.int("memory")?,
                gpu: row.text("gpu")?,
                gpu_count: row.int("gpu_count")?,
                pool_selector: row.text("pool_selector")?,
            },
            digest: row.text("digest")?,
        })
    }

    /// The dispatch that stands, if one does.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            workspace_id: self.container.workspace_id.clone(),
            container_id: self.container.container_id.clone(),
            attempt: self.container.attempt,
            fencing_token: self.container.fencing_token,
        }
    }
}

/// A cost as the database keeps it.
pub(crate) fn cost_text(cost: Option<&StartCost>) -> Result<String> {
    let Some(cost) = cost else { return Ok(String::new()) };
    serde_json::to_string(cost).map_err(|error| corrupt("cost", error))
}
