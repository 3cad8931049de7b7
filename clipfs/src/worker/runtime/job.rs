//! What is to be run, and where its files are. Paths and names only: nothing here touches a disk.

use std::path::{Path, PathBuf};

use super::RuntimeError;

/// Longest key: with what is put before it, it is the name of a container, a cgroup and a directory.
const MAX_KEY: usize = 100;

/// One attempt to run one container on this machine.
#[derive(Debug, Clone)]
pub struct Job {
    /// The fencing token: no other job has it, before or after.
    pub key: String,
    /// Its state, which survives a reboot: `<state-dir>/tasks/<key>`.
    pub dir: PathBuf,
    /// What does not: `<run-dir>/<key>`, on a tmpfs. All of it goes with [`super::Runtime::clean`], whoever has made it.
    pub run_dir: PathBuf,
    /// Reference with digest.
    pub image: String,
    /// The file of the image's clip index.
    pub index: PathBuf,
    /// What is run.
    pub request: ContainerRequestView,
    /// Whose it is: mounts are shared within a workspace, and never beyond.
    pub workspace_id: String,
    /// Digest of the image's manifest.
    pub digest: String,
}

/// What a runtime needs to know of a ContainerRequest. No credentials.
#[derive(Clone, Default)]
pub struct ContainerRequestView {
    /// Program and arguments; empty = the image's.
    pub entry_point: Vec<String>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// Thousandths of a processor; 0 = no limit.
    pub cpu: i64,
    /// MiB; 0 = no limit.
    pub memory: i64,
    /// Empty = the job's key.
    pub hostname: String,
    /// Only the loopback interface, whatever the machine's options say.
    pub block_network: bool,
}

impl std::fmt::Debug for ContainerRequestView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and values of variables may be secret.
        f.debug_struct("ContainerRequestView")
            .field("arguments", &self.entry_point.len())
            .field("env", &self.env.len())
            .field("cpu", &self.cpu)
            .field("memory", &self.memory)
            .field("hostname", &self.hostname)
            .field("block_network", &self.block_network)
            .finish()
    }
}

impl Job {
    /// The request with the image's credentials, 0600: what the mount's credential plugin reads. Written by
    /// [`super::Runtime::refresh`], or by the caller before the first mount.
    #[must_use]
    pub fn request_file(&self) -> PathBuf {
        self.run_dir.join("request.json")
    }

    pub(super) fn check_key(&self) -> Result<(), RuntimeError> {
        if is_key(&self.key) {
            Ok(())
        } else {
            Err(RuntimeError::Key(self.key.chars().take(MAX_KEY).collect()))
        }
    }

    /// A job of which nothing but the key is known: enough to clean up after it.
    pub(super) fn remains(key: &str, state_dir: &Path, run_dir: &Path) -> Self {
        Self {
            key: key.to_owned(),
            dir: tasks(state_dir).join(key),
            run_dir: run_dir.join(key),
            image: String::new(),
            index: PathBuf::new(),
            request: ContainerRequestView::default(),
            workspace_id: String::new(),
            digest: String::new(),
        }
    }

    /// Name for the OCI runtime.
    pub(super) fn container(&self) -> String {
        container(&self.key)
    }

    pub(super) fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    pub(super) fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    pub(super) fn started(&self) -> PathBuf {
        self.dir.join("started.json")
    }

    /// Upper and work directory, on the disk.
    pub(super) fn disk_scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// A tmpfs of its own, for the same.
    pub(super) fn memory_scratch(&self) -> PathBuf {
        self.run_dir.join("scratch")
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.run_dir.join("bundle")
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// Held open for writing by the monitor as long as it lives.
    pub(super) fn alive(&self) -> PathBuf {
        self.run_dir.join("alive")
    }

    pub(super) fn plan(&self) -> PathBuf {
        self.run_dir.join("plan.json")
    }

    pub(super) fn monitor_log(&self) -> PathBuf {
        self.run_dir.join("monitor.log")
    }
}

/// Where jobs' states are.
pub(super) fn tasks(state_dir: &Path) -> PathBuf {
    state_dir.join("tasks")
}

/// Whether a name can be a key: in particular none of a hidden file, which are ours.
pub(super) fn is_key(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= MAX_KEY && !name.starts_with('-') && name.bytes().all(allowed)
}

/// What stands before the key in a container's name.
const PREFIX: &str = "clipfs-";

fn container(key: &str) -> String {
    format!("{PREFIX}{key}")
}

/// The key in a container's name.
pub(super) fn key_of(container: &str) -> Option<&str> {
    container.strip_prefix(PREFIX).filter(|key| is_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_that_lead_nowhere_else() {
        for good in ["1", "42", "a-b_C"] {
            assert!(is_key(good), "{good}");
            assert_eq!(key_of(&container(good)), Some(good));
        }
        for bad in ["", ".", "..", ".mounts", "a/b", "-x", "ü", "a b", &"x".repeat(MAX_KEY + 1)] {
            assert!(!is_key(bad), "{bad}");
        }
        assert_eq!(key_of("other"), None);
    }

    #[test]
    fn arguments_and_variables_are_not_shown() {
        let request = ContainerRequestView {
            entry_point: vec!["pl4nted-argument".into()],
            env: vec!["TOKEN=pl4nted-variable".into()],
            ..ContainerRequestView::default()
        };
        assert!(!format!("{request:?}").contains("pl4nted"));
    }
}
