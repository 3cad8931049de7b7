//! Records as messages.

use api::v1;

use crate::model::{
    Container, ContainerState, Image, ImageCredentialSource, Secret, StartCost, Time, Token, TokenKind,
    Worker, Workspace,
};

/// Microseconds of a second.
const MICROS: i64 = 1_000_000;

/// A time.
#[must_use]
pub fn time(time: Time) -> prost_types::Timestamp {
    // Below 10^9 and not negative: it fits.
    let nanos = i32::try_from(time.0.rem_euclid(MICROS) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: time.0.div_euclid(MICROS), nanos }
}

/// A workspace.
#[must_use]
pub fn workspace(workspace: Workspace) -> v1::Workspace {
    v1::Workspace {
        workspace_id: workspace.workspace_id.to_string(),
        name: workspace.name,
        create_time: Some(time(workspace.create_time)),
    }
}

/// A kind of token.
#[must_use]
pub const fn token_kind(kind: TokenKind) -> v1::TokenKind {
    match kind {
        TokenKind::Workspace => v1::TokenKind::Workspace,
        TokenKind::Worker => v1::TokenKind::Worker,
        TokenKind::Admin => v1::TokenKind::Admin,
    }
}

/// A token's description.
#[must_use]
pub fn token(token: Token) -> v1::Token {
    v1::Token {
        token_id: token.token_id.to_string(),
        kind: token_kind(token.kind).into(),
        workspace_id: token.workspace_id.map(|id| id.to_string()).unwrap_or_default(),
        node: token.node.unwrap_or_default(),
        create_time: Some(time(token.create_time)),
        expire_time: token.expire_time.map(time),
    }
}

/// A worker.
#[must_use]
pub fn worker(worker: Worker) -> v1::Worker {
    let count = |number: i64| u32::try_from(number).unwrap_or(0);
    v1::Worker {
        worker_id: worker.worker_id.to_string(),
        node: worker.node,
        live: worker.live,
        free_cpu: worker.free.cpu,
        free_memory: worker.free.memory,
        gpu: worker.total.gpu,
        free_gpu_count: count(worker.free.gpu_count),
        pool_selector: worker.pool_selector,
        containers: u32::try_from(worker.containers).unwrap_or(u32::MAX),
        version: worker.version,
        heartbeat_time: Some(time(worker.heartbeat_time)),
        total_cpu: worker.total.cpu,
        total_memory: worker.total.memory,
        total_gpu_count: count(worker.total.gpu_count),
        draining: worker.draining,
    }
}

/// A secret's description.
#[must_use]
pub fn secret(secret: Secret) -> v1::Secret {
    v1::Secret {
        secret_id: secret.secret_id.to_string(),
        name: secret.name,
        registry: secret.registry,
        version: secret.version,
        create_time: Some(time(secret.create_time)),
        update_time: Some(time(secret.update_time)),
    }
}

/// An image.
#[must_use]
pub fn image(image: Image) -> v1::Image {
    let (name, id, named) = match image.credentials {
        ImageCredentialSource::Anonymous => Default::default(),
        ImageCredentialSource::Secret { name, id } => (name, id.to_string(), Vec::new()),
        ImageCredentialSource::Named(names) => (String::new(), String::new(), names),
    };
    v1::Image {
        image_id: image.image_id.to_string(),
        workspace_id: image.workspace_id.to_string(),
        base_image: image.base_image,
        digest: image.digest,
        platform: image.platform,
        credential_secret_name: name,
        credential_secret_id: id,
        credential_secrets: named,
        image_bytes: image.image_bytes,
        index_bytes: image.index_bytes,
        files: image.files,
        create_time: Some(time(image.create_time)),
        update_time: Some(time(image.update_time)),
        index_digest: image.index_digest,
    }
}

/// A container's state.
#[must_use]
pub const fn state(state: ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Queued => v1::ContainerState::Queued,
        ContainerState::Scheduled => v1::ContainerState::Scheduled,
        ContainerState::Mounting => v1::ContainerState::Mounting,
        ContainerState::Running => v1::ContainerState::Running,
        ContainerState::Exited => v1::ContainerState::Exited,
        ContainerState::Failed => v1::ContainerState::Failed,
    }
}

/// What a start has cost.
#[must_use]
pub const fn cost(cost: StartCost) -> v1::StartCost {
    v1::StartCost {
        mount_micros: cost.mount_micros,
        start_micros: cost.start_micros,
        fetched_bytes: cost.fetched_bytes,
        image_bytes: cost.image_bytes,
    }
}

/// A container.
#[must_use]
pub fn container(container: Container) -> v1::Container {
    v1::Container {
        container_id: container.container_id.to_string(),
        workspace_id: container.workspace_id.to_string(),
        image_id: container.image_id.to_string(),
        state: state(container.state).into(),
        exit_code: container.exit_code,
        reason: container.reason,
        attempt: container.attempt,
        worker_id: container.worker_id.map(|id| id.to_string()).unwrap_or_default(),
        create_time: Some(time(container.create_time)),
        start_time: container.start_time.map(time),
        end_time: container.end_time.map(time),
        reason_code: container.reason_code,
        waiting: container.waiting,
        cost: container.cost.map(cost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970() {
        for (micros, seconds, nanos) in [(0, 0, 0), (1_500_000, 1, 500_000_000), (-1, -1, 999_999_000)] {
            assert_eq!(time(Time(micros)), prost_types::Timestamp { seconds, nanos });
        }
    }
}
