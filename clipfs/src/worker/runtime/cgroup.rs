//! Control groups: what this machine has of them, what they counted, and their end. The OCI runtime makes them.
//!
//! Version 2 is one tree under `/sys/fs/cgroup`; version 1 has one for each controller, in directories of that name. Machines that
//! have both (version 2 under `unified`) are used as version 1.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::RuntimeError;

const ROOT: &str = "/sys/fs/cgroup";

/// Version 2 beside version 1, on machines that have both.
pub(super) const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Controllers that limits and devices need.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "devices"];

/// How long killed processes may take to leave their group.
const EMPTYING: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);

/// Processor, memory and number of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// The groups of one worker: `/<name>/<key>` for each job.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    name: String,
    version: Version,
}

#[derive(Debug, Clone)]
enum Version {
    /// Controllers of the one tree.
    Two(Vec<String>),
    /// The tree of each controller.
    One(Vec<(String, PathBuf)>),
}

impl Cgroups {
    /// Looks at the machine, and tries whether groups can be made.
    pub(super) fn open(name: String) -> Result<Self, RuntimeError> {
        let root = Path::new(ROOT);
        let refuse = |path: &Path| {
            let path = path.to_owned();
            move |source| RuntimeError::Cgroups { path, source }
        };
        let version = if is_version_two(root) {
            let file = root.join("cgroup.controllers");
            let list = fs::read_to_string(&file).map_err(refuse(&file))?;
            Version::Two(list.split_whitespace().map(str::to_owned).collect())
        } else {
            let table = fs::read_dir(root).map_err(refuse(root))?;
            let mut trees = Vec::new();
            for entry in table.filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Only what is a tree has this file; `cpu` may be a link to `cpu,cpuacct`.
                if name != "unified" && entry.path().join("cgroup.procs").exists() {
                    trees.push((name, entry.path()));
                }
            }
            trees.sort();
            if trees.is_empty() {
                let source = io::Error::new(io::ErrorKind::NotFound, "nothing is mounted there");
                return Err(refuse(root)(source));
            }
            Version::One(trees)
        };
        let cgroups = Self { name, version };
        for dir in cgroups.probed() {
            fs::create_dir_all(&dir).map_err(refuse(&dir))?;
        }
        Ok(cgroups)
    }

    /// Where it is tried whether groups can be made.
    fn probed(&self) -> Vec<PathBuf> {
        match &self.version {
            Version::Two(_) => vec![Path::new(ROOT).join(&self.name)],
            Version::One(trees) => trees
                .iter()
                .filter(|(controller, _)| CONTROLLERS.contains(&controller.as_str()))
                .map(|(_, tree)| tree.join(&self.name))
                .collect(),
        }
    }

    /// A job's group as `config.json` names it.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        Path::new("/").join(&self.name).join(key)
    }

    /// Whether there is one.
    pub(super) fn has(&self, controller: Controller) -> bool {
        match &self.version {
            Version::Two(list) => list.iter().any(|name| name == controller.name()),
            Version::One(trees) => trees.iter().any(|(name, _)| name == controller.name()),
        }
    }

    /// A job's directories.
    fn dirs(&self, key: &str) -> Vec<PathBuf> {
        self.tops().into_iter().map(|top| top.join(key)).collect()
    }

    fn tops(&self) -> Vec<PathBuf> {
        match &self.version {
            Version::Two(_) => vec![Path::new(ROOT).join(&self.name)],
            Version::One(trees) => {
                // A runtime that is shown version 2 as well puts processes there too.
                let unified = Path::new(UNIFIED).to_owned();
                trees
                    .iter()
                    .map(|(_, tree)| tree)
                    .chain([&unified])
                    .map(|tree| tree.join(&self.name))
                    .collect()
            }
        }
    }

    /// Keys of all jobs that have a group.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .tops()
            .into_iter()
            .filter_map(|top| fs::read_dir(top).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| super::job::is_key(name))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Kills what runs in a job's groups and removes them.
    pub(super) fn remove(&self, key: &str) -> Result<(), RuntimeError> {
        for dir in self.dirs(key) {
            remove(&dir).map_err(RuntimeError::io("remove cgroup", &dir))?;
        }
        Ok(())
    }

    /// Removes the worker's own groups if no job has one: called when there is nothing left.
    pub(super) fn remove_empty(&self) {
        for top in self.tops() {
            // In use, or never made.
            let _ = fs::remove_dir(top);
        }
    }
}

fn is_version_two(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Whether the machine has both versions.
pub(super) fn is_hybrid() -> bool {
    !is_version_two(Path::new(ROOT)) && is_version_two(Path::new(UNIFIED))
}

/// How many processes of a group were killed because its memory was used up; `None` = nobody counts.
pub(super) fn oom_kills(group: &Path) -> Option<u64> {
    let relative = group.strip_prefix("/").unwrap_or(group);
    let root = Path::new(ROOT);
    let counted = [
        root.join(relative).join("memory.events"),
        root.join("memory").join(relative).join("memory.oom_control"),
    ];
    let text = counted.iter().find_map(|file| fs::read_to_string(file).ok())?;
    count_of(&text, "oom_kill")
}

/// The number in a file of lines `name number`.
fn count_of(text: &str, wanted: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == wanted).then(|| number.trim().parse().ok()).flatten()
    })
}

fn remove(dir: &Path) -> io::Result<()> {
    let since = Instant::now();
    loop {
        let Some(error) = remove_once(dir).err() else { return Ok(()) };
        if since.elapsed() > EMPTYING {
            return Err(error);
        }
        std::thread::sleep(RETRY);
    }
}

fn remove_once(dir: &Path) -> io::Result<()> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    // All at once, where the kernel can: programs that fork faster than they are killed do not get away. Not so in version 1.
    if let Ok(mut file) = fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill")) {
        let _ = file.write_all(b"1");
    }
    for entry in list.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_once(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        // Number 0 stands for processes that this namespace does not see.
        if let Ok(pid) = pid.parse::<i32>().map(Pid::from_raw)
            && pid.as_raw() > 0
        {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_both_versions_are_read() {
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let two = "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(count_of(one, "oom_kill"), Some(3));
        assert_eq!(count_of(two, "oom_kill"), Some(2));
        assert_eq!(count_of("nothing\n", "oom_kill"), None);
    }
}
