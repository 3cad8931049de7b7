//! What a request to run must be: what this control plane cannot do is refused, not ignored.

use api::v1;
use tonic::Status;

use super::validate;
use crate::model::Demand;

/// Most millicores of a container: 1024 cores.
const MAX_CPU: i64 = 1_024_000;
/// Most MiB of a container: 64 TiB.
const MAX_MEMORY: i64 = 64 << 20;
/// Most GPUs of a container.
const MAX_GPUS: u32 = 64;

/// Checks a request. Messages name the field, and never repeat a value.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn check(request: &v1::ContainerRequest) -> Result<(), Status> {
    let refuse = |text: String| Err(Status::invalid_argument(text));
    validate::name("request.image_id", &request.image_id)?;
    for (field, set) in [
        ("mounts", !request.mounts.is_empty()),
        ("checkpoint_enabled", request.checkpoint_enabled),
        ("checkpoint", request.checkpoint.is_some()),
        ("checkpoint_trigger", !request.checkpoint_trigger.is_empty()),
        ("docker_enabled", request.docker_enabled),
        ("build_options", request.build_options.is_some()),
        ("config_path", !request.config_path.is_empty()),
        ("machine_id", !request.machine_id.is_empty()),
        ("allow_list", !request.allow_list.is_empty()),
        ("runtime_secret_names", !request.runtime_secret_names.is_empty()),
        ("runtime_token_required", request.runtime_token_required),
    ] {
        if set {
            return refuse(format!("request.{field} is not supported: leave it empty"));
        }
    }
    for (field, set) in [
        ("image_credentials", !request.image_credentials.is_empty()),
        ("build_registry_credentials", !request.build_registry_credentials.is_empty()),
    ] {
        if set {
            return refuse(format!(
                "request.{field} must be empty: the control plane takes an image's credentials from its secret, see ImageService.CreateImage"
            ));
        }
    }
    if request.entry_point.first().is_some_and(String::is_empty) {
        return refuse("request.entry_point[0] must not be empty".to_owned());
    }
    for (n, part) in request.entry_point.iter().enumerate() {
        if part.contains('\0') {
            return refuse(format!("request.entry_point[{n}] must not hold NUL"));
        }
    }
    for (n, variable) in request.env.iter().enumerate() {
        if variable.contains('\0') || variable.find('=').is_none_or(|at| at == 0) {
            return refuse(format!("request.env[{n}] must be NAME=value without NUL"));
        }
    }
    if !request.hostname.is_empty() {
        validate::name("request.hostname", &request.hostname)?;
    }
    Ok(())
}

/// What the container needs of a worker.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn demand(request: &v1::ContainerRequest) -> Result<Demand, Status> {
    for (field, number, most) in [("cpu", request.cpu, MAX_CPU), ("memory", request.memory, MAX_MEMORY)] {
        validate::not_negative(&format!("request.{field}"), number)?;
        if number > most {
            return Err(Status::invalid_argument(format!("request.{field} must be at most {most}")));
        }
    }
    if request.gpu_count > MAX_GPUS {
        return Err(Status::invalid_argument(format!("request.gpu_count must be at most {MAX_GPUS}")));
    }
    validate::optional_name("request.pool_selector", &request.pool_selector)?;
    let gpu = match (request.gpu.as_str(), request.gpu_request.as_slice()) {
        (gpu, []) => gpu,
        ("", [gpu]) => gpu,
        (gpu, [same]) if gpu == same => gpu,
        _ => return Err(Status::invalid_argument("request.gpu_request: one kind of GPU is supported")),
    };
    validate::optional_name("request.gpu", gpu)?;
    // A kind without a number is one of it; `any` is any.
    let gpu_count = if gpu.is_empty() { request.gpu_count } else { request.gpu_count.max(1) };
    Ok(Demand {
        cpu: request.cpu,
        memory: request.memory,
        gpu: if gpu == "any" { String::new() } else { gpu.to_owned() },
        gpu_count: gpu_count.into(),
        pool_selector: request.pool_selector.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> v1::ContainerRequest {
        v1::ContainerRequest {
            image_id: "i".to_owned(),
            entry_point: vec!["/bin/echo".to_owned(), String::new()],
            env: vec!["A=".to_owned(), "B=c=d".to_owned()],
            cpu: 500,
            memory: 64,
            ..Default::default()
        }
    }

    #[test]
    fn a_fine_request() {
        assert!(check(&fine()).is_ok());
        let demand = demand(&fine()).expect("fine");
        assert_eq!((demand.cpu, demand.memory, demand.gpu_count), (500, 64, 0));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        type Spoil = fn(&mut v1::ContainerRequest);
        let spoils: [(&str, Spoil); 15] = [
            ("image_id", |r| r.image_id.clear()),
            ("mounts", |r| r.mounts.push(Default::default())),
            ("checkpoint_enabled", |r| r.checkpoint_enabled = true),
            ("docker_enabled", |r| r.docker_enabled = true),
            ("image_credentials", |r| r.image_credentials = "pl4nted-u:p".to_owned()),
            ("build_registry_credentials", |r| r.build_registry_credentials = "pl4nted-u:p".to_owned()),
            ("entry_point[0]", |r| r.entry_point[0].clear()),
            ("entry_point[1]", |r| r.entry_point[1] = "a\0".to_owned()),
            ("env[0]", |r| r.env[0] = "pl4nted-novalue".to_owned()),
            ("env[1]", |r| r.env[1] = "=pl4nted".to_owned()),
            ("cpu", |r| r.cpu = -1),
            ("memory", |r| r.memory = i64::MAX),
            ("gpu_count", |r| r.gpu_count = u32::MAX),
            ("gpu_request", |r| r.gpu_request = vec!["A".to_owned(), "B".to_owned()]),
            ("runtime_secret_names", |r| r.runtime_secret_names.push("S".to_owned())),
        ];
        for (field, spoil) in spoils {
            let mut request = fine();
            spoil(&mut request);
            let status = check(&request).and_then(|()| demand(&request).map(drop)).expect_err(field);
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(field), "{status:?}");
            assert!(!status.message().contains("pl4nted"), "{status:?}");
        }
    }

    #[test]
    fn kinds_of_gpus() {
        let of = |gpu: &str, kinds: &[&str], count| {
            let gpu_request = kinds.iter().map(ToString::to_string).collect();
            let request =
                v1::ContainerRequest { gpu: gpu.to_owned(), gpu_request, gpu_count: count, ..fine() };
            demand(&request).map(|demand| (demand.gpu, demand.gpu_count)).ok()
        };
        assert_eq!(of("", &[], 2), Some((String::new(), 2)));
        assert_eq!(of("A10", &[], 0), Some(("A10".to_owned(), 1)));
        assert_eq!(of("", &["A10"], 2), Some(("A10".to_owned(), 2)));
        assert_eq!(of("any", &["any"], 1), Some((String::new(), 1)));
    }
}
