//! Messages for people and programs.

use api::v1;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time, in UTC; empty: none.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> String {
    let read = |time: &prost_types::Timestamp| {
        let at = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
        at.replace_nanosecond(u32::try_from(time.nanos).ok()?).ok()?.format(&Rfc3339).ok()
    };
    time.and_then(read).unwrap_or_default()
}

fn optional(time: Option<&prost_types::Timestamp>) -> Value {
    time.map_or(Value::Null, |at| self::time(Some(at)).into())
}

/// A word of an enumeration, in lower case.
fn word(name: &str) -> String {
    name.to_lowercase()
}

pub(super) fn workspace(w: &v1::Workspace) -> Value {
    json!({ "workspace_id": w.workspace_id, "name": w.name, "create_time": optional(w.create_time.as_ref()) })
}

pub(super) fn token(t: &v1::Token) -> Value {
    json!({
        "token_id": t.token_id, "kind": word(t.kind().as_str_name()), "workspace_id": t.workspace_id, "node": t.node,
        "create_time": optional(t.create_time.as_ref()), "expire_time": optional(t.expire_time.as_ref()),
    })
}

pub(super) fn token_row(t: &v1::Token) -> Vec<String> {
    vec![
        t.token_id.clone(),
        word(t.kind().as_str_name()),
        t.workspace_id.clone(),
        t.node.clone(),
        time(t.create_time.as_ref()),
        time(t.expire_time.as_ref()),
    ]
}

pub(super) fn secret(s: &v1::Secret) -> Value {
    json!({
        "secret_id": s.secret_id, "name": s.name, "registry": s.registry, "version": s.version,
        "create_time": optional(s.create_time.as_ref()), "update_time": optional(s.update_time.as_ref()),
    })
}

pub(super) fn image(i: &v1::Image) -> Value {
    json!({
        "image_id": i.image_id, "workspace_id": i.workspace_id, "base_image": i.base_image, "digest": i.digest,
        "platform": i.platform, "credential_secret_name": i.credential_secret_name,
        "credential_secret_id": i.credential_secret_id, "credential_secrets": i.credential_secrets,
        "image_bytes": i.image_bytes, "index_bytes": i.index_bytes, "files": i.files, "index_digest": i.index_digest,
        "create_time": optional(i.create_time.as_ref()), "update_time": optional(i.update_time.as_ref()),
    })
}

/// A state, in lower case.
pub(super) fn state(c: &v1::Container) -> String {
    word(c.state().as_str_name())
}

pub(super) fn container(c: &v1::Container) -> Value {
    let cost = c.cost.as_ref().map(|cost| {
        json!({
            "mount_micros": cost.mount_micros, "start_micros": cost.start_micros,
            "fetched_bytes": cost.fetched_bytes, "image_bytes": cost.image_bytes,
        })
    });
    json!({
        "container_id": c.container_id, "workspace_id": c.workspace_id, "image_id": c.image_id, "state": state(c),
        "exit_code": c.exit_code, "reason": c.reason, "reason_code": c.reason_code, "attempt": c.attempt,
        "worker_id": c.worker_id, "waiting": c.waiting, "cost": cost,
        "create_time": optional(c.create_time.as_ref()), "start_time": optional(c.start_time.as_ref()),
        "end_time": optional(c.end_time.as_ref()),
    })
}

/// What there is to say of a container's state.
pub(super) fn detail(c: &v1::Container) -> String {
    match c.state() {
        v1::ContainerState::Exited => format!("exit code {}", c.exit_code),
        v1::ContainerState::Failed => c.reason.clone(),
        v1::ContainerState::Queued => c.waiting.clone(),
        _ => String::new(),
    }
}

pub(super) fn worker(w: &v1::Worker) -> Value {
    json!({
        "worker_id": w.worker_id, "node": w.node, "live": w.live, "draining": w.draining,
        "pool_selector": w.pool_selector, "gpu": w.gpu, "version": w.version, "containers": w.containers,
        "free_cpu": w.free_cpu, "total_cpu": w.total_cpu, "free_memory": w.free_memory, "total_memory": w.total_memory,
        "free_gpu_count": w.free_gpu_count, "total_gpu_count": w.total_gpu_count,
        "heartbeat_time": optional(w.heartbeat_time.as_ref()),
    })
}
