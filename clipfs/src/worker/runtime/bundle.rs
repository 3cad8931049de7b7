//! The bundle: `config.json` for the OCI runtime, from the image's config, the request and the machine's options.
//!
//! Defaults are containerd's (its `oci` package): capabilities, mounts, masked and read-only paths, devices, namespaces.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
    Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

use super::cgroup::{Cgroups, Controller};
use super::image;
use super::job::Job;
use super::user::User;
use super::{RuntimeError, seccomp};

/// Version of the specification that the documents follow.
const SPEC: &str = "1.0.2";

/// Length of a scheduling period in microseconds (the kernel's own).
const PERIOD: u64 = 100_000;
/// The kernel takes no shorter quota, in microseconds.
const MIN_QUOTA: i64 = 1000;
/// Shares of one processor, and fewest shares of a group.
const SHARES: i64 = 1024;
const MIN_SHARES: u64 = 2;
/// Most processes and threads of a container.
const MAX_PIDS: i64 = 32_768;
/// Open files: programs that use `select` break above the soft limit; others raise it up to the hard one (systemd's defaults).
const NOFILE: (u64, u64) = (1024, 524_288);
/// The kernel's limit for host names.
const MAX_HOSTNAME: usize = 64;

/// As containerd's `defaultUnixCaps`.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Destination, type, source, options.
const MOUNTS: [(&str, &str, &str, &str); 7] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
];

/// Files of the machine that a container on the machine's network needs.
const NETWORK_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Character devices that may be used: null, zero, full, random, urandom, tty, console, ptmx, and pseudo terminals.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Everything that a bundle is made from.
pub(super) struct Parts<'a> {
    pub(super) job: &'a Job,
    pub(super) process: &'a image::Process,
    pub(super) user: &'a User,
    pub(super) cgroups: &'a Cgroups,
    /// Whether it gets the machine's network.
    pub(super) host_network: bool,
}

impl Parts<'_> {
    /// The document.
    pub(super) fn spec(&self) -> Result<Spec, RuntimeError> {
        let resources = self.resources()?;
        let hostname = hostname(&self.job.request.hostname, &self.job.key)?;
        // What the builders refuse is what we forgot: a bug.
        self.build(hostname, resources)
            .map_err(|e| RuntimeError::Start { key: self.job.key.clone(), reason: e.to_string() })
    }

    fn build(&self, hostname: String, resources: LinuxResources) -> Result<Spec, OciSpecError> {
        let root = RootBuilder::default().path("rootfs").readonly(false).build()?;
        SpecBuilder::default()
            .version(SPEC)
            .root(root)
            .hostname(hostname)
            .process(self.process()?)
            .mounts(self.mounts()?)
            .linux(self.linux(resources)?)
            .build()
    }

    fn process(&self) -> Result<Process, OciSpecError> {
        let mut env = self.process.env.clone();
        if !env.iter().any(|variable| image::name(variable) == Some("HOME")) {
            env.push(format!("HOME={}", self.user.home));
        }
        let user = UserBuilder::default()
            .uid(self.user.uid)
            .gid(self.user.gid)
            .additional_gids(self.user.groups.clone())
            .build()?;
        let (soft, hard) = open_files();
        let files =
            PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(soft).hard(hard).build()?;
        ProcessBuilder::default()
            .terminal(false)
            .user(user)
            .args(self.process.args.clone())
            .env(env)
            .cwd(&self.process.cwd)
            .capabilities(capabilities()?)
            .rlimits(vec![files])
            .no_new_privileges(true)
            .build()
    }

    fn mounts(&self) -> Result<Vec<Mount>, OciSpecError> {
        let mut mounts = MOUNTS
            .iter()
            .map(|(at, kind, source, options)| mount(at, kind, Path::new(source), options))
            .collect::<Result<Vec<_>, _>>()?;
        if self.host_network {
            for file in NETWORK_FILES {
                // It may be a link into a directory that the container has not.
                if let Ok(source) = std::fs::canonicalize(file) {
                    mounts.push(mount(file, "bind", &source, "bind,ro,nosuid,nodev,noexec")?);
                }
            }
        }
        Ok(mounts)
    }

    fn linux(&self, resources: LinuxResources) -> Result<Linux, OciSpecError> {
        let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        LinuxBuilder::default()
            .namespaces(self.namespaces()?)
            .resources(resources)
            .cgroups_path(self.cgroups.path(&self.job.key))
            .masked_paths(paths(&MASKED))
            .readonly_paths(paths(&READ_ONLY))
            .seccomp(seccomp::profile()?)
            .build()
    }

    fn namespaces(&self) -> Result<Vec<LinuxNamespace>, OciSpecError> {
        let mut kinds = vec![
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Uts,
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Cgroup,
        ];
        if !self.host_network {
            kinds.push(LinuxNamespaceType::Network);
        }
        kinds.into_iter().map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect()
    }

    fn resources(&self) -> Result<LinuxResources, RuntimeError> {
        let request = &self.job.request;
        let bug = |e: OciSpecError| RuntimeError::Start { key: self.job.key.clone(), reason: e.to_string() };
        let mut resources = LinuxResourcesBuilder::default().devices(devices().map_err(bug)?);
        if let Some((quota, shares)) = cpu(request.cpu)? {
            self.need(Controller::Cpu, "the processors", "cpu")?;
            let cpu = LinuxCpuBuilder::default().quota(quota).period(PERIOD).shares(shares).build();
            resources = resources.cpu(cpu.map_err(bug)?);
        }
        if let Some(bytes) = memory(request.memory)? {
            self.need(Controller::Memory, "the memory", "memory")?;
            let memory = LinuxMemoryBuilder::default().limit(bytes).swap(bytes).build();
            resources = resources.memory(memory.map_err(bug)?);
        }
        if self.cgroups.has(Controller::Pids) {
            let pids = LinuxPidsBuilder::default().limit(MAX_PIDS).build();
            resources = resources.pids(pids.map_err(bug)?);
        }
        resources.build().map_err(bug)
    }

    /// A limit that was asked for is held, or nothing is started.
    fn need(
        &self,
        controller: Controller,
        what: &'static str,
        name: &'static str,
    ) -> Result<(), RuntimeError> {
        if self.cgroups.has(controller) {
            return Ok(());
        }
        Err(RuntimeError::NoController { what, controller: name })
    }
}

/// Quota in each period, and shares; `None` = no limit.
fn cpu(millicores: i64) -> Result<Option<(i64, u64)>, RuntimeError> {
    if millicores == 0 {
        return Ok(None);
    }
    let refuse = || request("cpu", format!("{millicores} is no number of millicores"));
    let period = i64::try_from(PERIOD).map_err(|_| refuse())?;
    let quota = millicores.checked_mul(period / 1000).filter(|quota| *quota > 0).ok_or_else(refuse)?;
    let shares = millicores.checked_mul(SHARES).ok_or_else(refuse)? / 1000;
    let shares = u64::try_from(shares).map_err(|_| refuse())?;
    Ok(Some((quota.max(MIN_QUOTA), shares.max(MIN_SHARES))))
}

/// Bytes; `None` = no limit.
fn memory(mebibytes: i64) -> Result<Option<i64>, RuntimeError> {
    if mebibytes == 0 {
        return Ok(None);
    }
    let bytes = mebibytes.checked_mul(1 << 20).filter(|bytes| *bytes > 0);
    let refuse = || request("memory", format!("{mebibytes} is no number of MiB"));
    bytes.ok_or_else(refuse).map(Some)
}

/// Soft and hard limit: no machine lets everybody raise its own.
fn open_files() -> (u64, u64) {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(NOFILE.0, |(_, hard)| hard.min(NOFILE.1));
    (NOFILE.0.min(hard), hard)
}

fn request(field: &'static str, reason: String) -> RuntimeError {
    RuntimeError::Request { field, reason }
}

fn hostname(asked: &str, key: &str) -> Result<String, RuntimeError> {
    if asked.is_empty() {
        return Ok(key.chars().take(MAX_HOSTNAME).collect());
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if asked.len() <= MAX_HOSTNAME && asked.bytes().all(allowed) {
        return Ok(asked.to_owned());
    }
    Err(request(
        "hostname",
        format!("{asked:?} is not one: letters, digits, - and . are, up to {MAX_HOSTNAME}"),
    ))
}

fn capabilities() -> Result<LinuxCapabilities, OciSpecError> {
    // None are inheritable or ambient: programs of other users than root begin without any.
    LinuxCapabilitiesBuilder::default()
        .bounding(CAPABILITIES)
        .effective(CAPABILITIES)
        .permitted(CAPABILITIES)
        .inheritable([])
        .ambient([])
        .build()
}

fn mount(at: &str, kind: &str, source: &Path, options: &str) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    MountBuilder::default().destination(PathBuf::from(at)).typ(kind).source(source).options(options).build()
}

/// Nothing may be used but [`DEVICES`]; device files may be made.
fn devices() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let rule = |allow: bool, kind: LinuxDeviceType, access: &str| {
        LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access)
    };
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?,
        rule(true, LinuxDeviceType::C, "m").build()?,
        rule(true, LinuxDeviceType::B, "m").build()?,
    ];
    for (major, minor) in DEVICES {
        let device = rule(true, LinuxDeviceType::C, "rwm").major(major);
        rules.push(match minor {
            Some(minor) => device.minor(minor).build()?,
            None => device.build()?,
        });
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_translated_and_nonsense_is_refused() {
        assert_eq!(cpu(0).unwrap(), None);
        assert_eq!(cpu(1500).unwrap(), Some((150_000, 1536)));
        assert_eq!(cpu(1).unwrap(), Some((MIN_QUOTA, MIN_SHARES)));
        assert_eq!(memory(0).unwrap(), None);
        assert_eq!(memory(64).unwrap(), Some(64 << 20));
        for wrong in [-1, i64::MIN, i64::MAX] {
            assert_eq!(cpu(wrong).unwrap_err().code(), 3, "{wrong}");
            assert_eq!(memory(wrong).unwrap_err().code(), 3, "{wrong}");
        }
    }

    #[test]
    fn host_names_are_names() {
        assert_eq!(hostname("", "17").unwrap(), "17");
        assert_eq!(hostname("web-1.local", "17").unwrap(), "web-1.local");
        for wrong in ["a b", "ü", "a/b", &"x".repeat(65)] {
            assert_eq!(hostname(wrong, "17").unwrap_err().code(), 3, "{wrong}");
        }
    }

    #[test]
    fn devices_begin_with_none() {
        let rules = serde_json::to_value(devices().unwrap()).unwrap();
        assert_eq!(rules[0], serde_json::json!({ "allow": false, "access": "rwm" }));
        assert!(rules.as_array().unwrap().iter().all(|rule| rule["type"] != "b" || rule["access"] == "m"));
    }
}
