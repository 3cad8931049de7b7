//! The ContainerRequest of the scheduler.
//!
//! Names, types and units are those of beta9 (`beam-cloud/beta9`, `pkg/types/scheduler.go`, `worker.go`, `backend.go`), which marshals
//! Go structs: a nil slice or pointer is `null`, and `null` means absent for every field. So here: a field that is absent, `null`, or its
//! type's zero is the same, and is left out of [`ContainerRequest::to_json`]; only where Go has a pointer, here is an `Option`.
//! Wrong types are refused with their path. Unknown fields, also of the objects inside, are kept and written again.
//!
//! One table (`record!`) says what there is; reading, writing and `Debug` follow from it.

mod field;

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::Error;
use crate::json::{self, Path, Value};
use field::{Field, record};

/// Largest ContainerRequest.
pub const MAX_REQUEST: usize = json::MAX_DOCUMENT;

record! {
    /// A request to run a container. All fields of the contract; unknown ones are kept.
    ///
    /// `Debug` shows neither what is a [`SecretString`] nor what is kept as raw JSON.
    ContainerRequest {
        /// `container_id`: identity of the container.
        container_id: String,
        /// `entry_point`: the command and its arguments.
        entry_point: Vec<String>,
        /// `env`: `NAME=value` each; any may be a secret.
        env: Vec<SecretString>,
        /// `cpu`: in thousandths of a core.
        cpu: i64,
        /// `memory`: in MiB.
        memory: i64,
        /// `gpu`: the type of GPU that was given.
        gpu: String,
        /// `gpu_request`: the types that were asked for.
        gpu_request: Vec<String>,
        /// `gpu_count`: how many of them.
        gpu_count: u32,
        /// `image_id`: identity of the image in the control plane.
        image_id: String,
        /// `stub_id`: identity of the stub.
        stub_id: String,
        /// `workspace_id`: identity of the workspace.
        workspace_id: String,
        /// `workspace`: who runs it.
        workspace: Workspace,
        /// `stub`: what is run.
        stub: Stub,
        /// `timestamp`: when it was made.
        timestamp: Timestamp,
        /// `mounts`: what is mounted into the container.
        mounts: Vec<Mount>,
        /// `retry_count`: how often it was tried before.
        retry_count: i64,
        /// `pool_selector`: the pool of workers that may run it.
        pool_selector: String,
        /// `preemptable`: whether it may be stopped for another.
        preemptable: bool,
        /// `checkpoint_enabled`: whether checkpoints are made.
        checkpoint_enabled: bool,
        /// `build_options`: what an image is built from, if that is what is run.
        build_options: BuildOptions,
        /// `ports`: those that are exposed.
        ports: Vec<u32>,
        /// `cost_per_ms`: price of a millisecond.
        cost_per_ms: f64,
        /// `app_id`: identity of the app.
        app_id: String,
        /// `checkpoint`: an object; the checkpoint that it is restored from.
        checkpoint: Option<Object>,
        /// `config_path`: where its runtime configuration is.
        config_path: String,
        /// `image_credentials`: credentials for the image: see [`crate::parse_credentials`]. Empty = anonymous.
        image_credentials: SecretString,
        /// `build_registry_credentials`: credentials for the registry of image builds, in the same forms.
        build_registry_credentials: SecretString,
        /// `block_network`: whether it has no network.
        block_network: bool,
        /// `allow_list`: addresses that it may reach nevertheless, in CIDR form.
        allow_list: Vec<String>,
        /// `docker_enabled`: whether it runs containers itself.
        docker_enabled: bool,
        /// `runtime_secret_names`: secrets that are put into its environment when it starts.
        runtime_secret_names: Vec<String>,
        /// `runtime_token_required`: whether it gets a token for the control plane.
        runtime_token_required: bool,
        /// `allow_marketplace`: whether machines of the marketplace may run it.
        allow_marketplace: bool,
        /// `machine_id`: the machine that must run it.
        machine_id: String,
        /// `checkpoint_trigger`: when a checkpoint is made, as the control plane says it: any JSON, kept.
        checkpoint_trigger: Option<Value>,
        /// `task_id`: identity of the task.
        task_id: String,
        /// `hostname`: the name of its machine as it sees it.
        hostname: String,
        /// `provisioning_attempts`: how often a machine was sought for it.
        provisioning_attempts: i64,
    }
}

record! {
    /// The workspace of a request, as far as it is understood here.
    Workspace {
        /// `external_id`: identity.
        external_id: String,
        /// `name`: for people.
        name: String,
        /// `signing_key`: with which its callbacks are signed.
        signing_key: Option<SecretString>,
        /// `volume_cache_enabled`.
        volume_cache_enabled: bool,
        /// `multi_gpu_enabled`.
        multi_gpu_enabled: bool,
        /// `storage`: an object with the keys of its bucket.
        storage: Option<Object>,
    }
}

record! {
    /// The stub of a request, as far as it is understood here.
    Stub {
        /// `external_id`: identity.
        external_id: String,
        /// `name`: for people.
        name: String,
        /// `type`: e.g. `endpoint/deployment`.
        r#type: String,
        /// `config`: JSON in a string.
        config: SecretString,
    }
}

record! {
    /// A mount into the container.
    Mount {
        /// `local_path`: on the node.
        local_path: String,
        /// `mount_path`: in the container.
        mount_path: String,
        /// `link_path`: a link to it.
        link_path: String,
        /// `read_only`.
        read_only: bool,
        /// `mount_type`: what is mounted.
        mount_type: String,
        /// `mountpoint_config`: an object with the keys of a bucket.
        mountpoint_config: Option<Object>,
    }
}

record! {
    /// What an image is built from.
    BuildOptions {
        /// `source_image`: reference of the base image; `None` = no build from an image.
        source_image: Option<String>,
        /// `dockerfile`: its text; `None` = no build from one.
        dockerfile: Option<String>,
        /// `build_context`: identity of the object with the files.
        build_context: Option<String>,
        /// `source_image_creds`: credentials of the base image. Not used to mount the result.
        source_image_creds: SecretString,
        /// `build_secrets`: `NAME=value` each.
        build_secrets: Vec<SecretString>,
    }
}

/// A time, kept as it was written; empty = absent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Timestamp(String);

impl Timestamp {
    /// A time in the form of RFC 3339.
    ///
    /// # Errors
    /// [`crate::Code::BadRequest`]: it is none.
    pub fn new(text: &str) -> Result<Self, Error> {
        Self::at(&Path::root("timestamp"), text)
    }

    /// The text; empty = absent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn at(path: &Path<'_>, text: &str) -> Result<Self, Error> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(path.error("expected a time like 2026-11-24T10:00:00Z")),
        }
    }
}

/// An object that is kept as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Object(Value);

impl Object {
    /// The value, which is an object.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl ContainerRequest {
    /// Parses and checks a request.
    ///
    /// # Errors
    /// [`crate::Code::BadRequest`] with the path of what is wrong, never its value.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        Self::from_value(json::parse(json, MAX_REQUEST, "")?, &Path::root(""))
    }

    /// Checks a request that is part of a document.
    ///
    /// # Errors
    /// As [`ContainerRequest::parse`], with paths below `path`.
    pub fn from_value(value: Value, path: &Path<'_>) -> Result<Self, Error> {
        Field::read(value, path)
    }

    /// The whole request as JSON: all fields that are not zero, **secrets included**, then the unknown ones.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        json::to_string(|out| self.write(out))
    }

    /// The request with other credentials, e.g. newer ones.
    #[must_use]
    pub fn with_image_credentials(mut self, credentials: SecretString) -> Self {
        self.image_credentials = credentials;
        self
    }
}

#[cfg(test)]
mod tests;
