//! Messages of workers as records, and records as messages. What does not make sense is INVALID_ARGUMENT.

use api::v1;
use tonic::Status;

use super::super::validate;
use crate::model::{
    Capacity, ContainerState, Lease, LogLine, LogPosition, LogStream, Report, StartCost, Time,
};

/// Largest capacity that is believed, of each kind: what is added to it stays far below the end of the numbers.
const MAX_AMOUNT: i64 = 1 << 40;

/// Longest reason that is kept.
const MAX_REASON: usize = 4096;

/// Longest piece of output.
const MAX_PIECE: usize = 64 << 10;

pub(super) fn capacity(capacity: &v1::Capacity) -> Result<Capacity, Status> {
    for (field, amount) in [("capacity.cpu", capacity.cpu), ("capacity.memory", capacity.memory)] {
        if !(0..=MAX_AMOUNT).contains(&amount) {
            return Err(Status::invalid_argument(format!("{field} must be between 0 and {MAX_AMOUNT}")));
        }
    }
    validate::optional_name("capacity.gpu", &capacity.gpu)?;
    Ok(Capacity {
        cpu: capacity.cpu,
        memory: capacity.memory,
        gpu: capacity.gpu.clone(),
        gpu_count: i64::from(capacity.gpu_count),
    })
}

pub(super) fn lease(lease: Option<v1::Lease>) -> Result<Lease, Status> {
    let lease = lease.ok_or_else(|| Status::invalid_argument("lease is missing"))?;
    validate::name("lease.workspace_id", &lease.workspace_id)?;
    validate::name("lease.container_id", &lease.container_id)?;
    Ok(Lease {
        workspace_id: lease.workspace_id.into(),
        container_id: lease.container_id.into(),
        attempt: lease.attempt,
        fencing_token: lease.fencing_token,
    })
}

pub(super) fn lease_message(lease: &Lease) -> v1::Lease {
    v1::Lease {
        workspace_id: lease.workspace_id.to_string(),
        container_id: lease.container_id.to_string(),
        attempt: lease.attempt,
        fencing_token: lease.fencing_token,
    }
}

pub(super) fn report(report: v1::ContainerReport) -> Result<Report, Status> {
    let state = match report.state() {
        v1::ContainerState::Mounting => ContainerState::Mounting,
        v1::ContainerState::Running => ContainerState::Running,
        v1::ContainerState::Exited => ContainerState::Exited,
        v1::ContainerState::Failed => ContainerState::Failed,
        v1::ContainerState::Unspecified | v1::ContainerState::Queued | v1::ContainerState::Scheduled => {
            return Err(Status::invalid_argument("report.state is none that a worker can report"));
        }
    };
    let cost = report.cost.map(|cost| StartCost {
        mount_micros: cost.mount_micros,
        start_micros: cost.start_micros,
        fetched_bytes: cost.fetched_bytes,
        image_bytes: cost.image_bytes,
    });
    let mut reason = report.reason;
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or_default();
        reason.truncate(end);
    }
    // 1 to 16 are gRPC's codes.
    let reason_code = if (0..=16).contains(&report.reason_code) { report.reason_code } else { 2 };
    Ok(Report { lease: lease(report.lease)?, state, exit_code: report.exit_code, reason, reason_code, cost })
}

pub(super) fn log(log: v1::ContainerLog, time: Time) -> Result<(Lease, LogLine), Status> {
    let lease = lease(log.lease)?;
    let chunk = log.log.ok_or_else(|| Status::invalid_argument("log is missing"))?;
    let stream = match chunk.stream() {
        v1::log_chunk::Stream::Stdout => LogStream::Stdout,
        v1::log_chunk::Stream::Stderr => LogStream::Stderr,
        v1::log_chunk::Stream::Unspecified => {
            return Err(Status::invalid_argument("log.stream is neither output"));
        }
    };
    if chunk.data.len() > MAX_PIECE {
        return Err(Status::invalid_argument("log.data is longer than 64 KiB"));
    }
    let position = LogPosition { attempt: lease.attempt, offset: chunk.offset };
    Ok((lease, LogLine { position, stream, time, data: chunk.data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_lease() -> Option<v1::Lease> {
        Some(v1::Lease { container_id: "c".into(), attempt: 2, fencing_token: 7, workspace_id: "w".into() })
    }

    #[test]
    fn reports_are_bounded() {
        let long = v1::ContainerReport {
            lease: a_lease(),
            state: v1::ContainerState::Failed.into(),
            reason: "\u{e4}".repeat(MAX_REASON),
            reason_code: 99,
            ..Default::default()
        };
        let kept = report(long.clone()).expect("fine");
        assert_eq!((kept.reason.len(), kept.reason_code), (MAX_REASON, 2));
        for state in
            [v1::ContainerState::Queued, v1::ContainerState::Scheduled, v1::ContainerState::Unspecified]
        {
            let refused = report(v1::ContainerReport { state: state.into(), ..long.clone() });
            assert_eq!(refused.expect_err("not a worker's").code(), tonic::Code::InvalidArgument);
        }
        assert!(report(v1::ContainerReport { lease: None, ..long }).is_err());
    }

    #[test]
    fn amounts_are_bounded() {
        let of = |cpu, memory| capacity(&v1::Capacity { cpu, memory, ..Default::default() });
        assert!(of(0, MAX_AMOUNT).is_ok());
        assert!(of(-1, 0).is_err() && of(0, i64::MAX).is_err());
        assert!(capacity(&v1::Capacity { gpu: "a b".into(), ..Default::default() }).is_err());
    }

    #[test]
    fn pieces_of_output_are_bounded() {
        let chunk = |len| v1::LogChunk { stream: 1, data: vec![0; len], offset: 5 };
        let of = |log| super::log(v1::ContainerLog { lease: a_lease(), log }, Time(3));
        let (_, line) = of(Some(chunk(MAX_PIECE))).expect("fine");
        assert_eq!(line.position, LogPosition { attempt: 2, offset: 5 });
        assert!(of(Some(chunk(MAX_PIECE + 1))).is_err() && of(None).is_err());
        assert!(of(Some(v1::LogChunk { stream: 0, ..chunk(1) })).is_err());
    }
}
