//! Directories, processes and clocks of a benchmark run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Where a run keeps its inputs and caches, and which binary it measures.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    clipfs: PathBuf,
    /// Repetitions of each measurement.
    pub runs: usize,
    /// Smaller inputs.
    pub quick: bool,
}

impl Sandbox {
    /// A fresh directory under `parent` (an ext4 or xfs: the local file system is a peer).
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(parent: &Path, clipfs: PathBuf, runs: usize, quick: bool) -> Result<Self> {
        fs::create_dir_all(parent)?;
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?;
        Ok(Self { dir, clipfs, runs, quick })
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `clipfs` with a cache of that name.
    #[must_use]
    pub fn clipfs(&self, cache: &str) -> Command {
        let mut command = Command::new(&self.clipfs);
        command
            .env("CLIPFS_CACHE_DIR", self.path(cache))
            .env("CLIPFS_RUN_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Mounts and measures how long it takes until the mount serves.
    ///
    /// # Errors
    /// The mount fails.
    pub fn mount(&self, cache: &str, image: &str, extra: &[&str]) -> Result<(Mounted<'_>, Duration)> {
        let at = self.path("mnt");
        fs::create_dir_all(&at)?;
        let mut command = self.clipfs(cache);
        command.arg("mount").arg(image).arg(&at).args(extra);
        let start = Instant::now();
        run(&mut command)?;
        Ok((Mounted { sandbox: self, at }, start.elapsed()))
    }
}

/// A mount that goes away.
#[derive(Debug)]
pub struct Mounted<'a> {
    sandbox: &'a Sandbox,
    /// The mountpoint.
    pub at: PathBuf,
}

impl Mounted<'_> {
    /// Resident memory of the server and of the keeper, in MB.
    ///
    /// # Errors
    /// The status cannot be had.
    pub fn rss(&self) -> Result<(f64, f64)> {
        let out = run(self
            .sandbox
            .clipfs("cache")
            .args([OsStr::new("status"), OsStr::new("--json")])
            .arg(&self.at))?;
        let status: serde_json::Value = serde_json::from_slice(&out)?;
        let of = |name: &str| -> Result<f64> {
            memory(status[name].as_u64().context("no pid in status")?, "VmRSS").context("process is gone")
        };
        Ok((of("server_pid")?, of("keeper_pid")?))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = run(self.sandbox.clipfs("cache").arg("umount").arg(&self.at));
    }
}

/// Runs to the end; standard output.
///
/// # Errors
/// It cannot be started or fails.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Runs to the end; how long it took, and its peak memory in MB (polled: short peaks at the very end may be missed).
///
/// # Errors
/// It cannot be started or fails.
pub fn run_measured(command: &mut Command) -> Result<(Duration, f64)> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak = 0.0;
    let status = loop {
        if let Some(mb) = memory(child.id().into(), "VmHWM") {
            peak = mb;
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    ensure!(status.success(), "{command:?}: {status}");
    Ok((start.elapsed(), peak))
}

fn memory(pid: u64, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Drops the kernel's page, dentry and inode caches.
///
/// # Errors
/// Not root.
pub fn drop_caches() -> Result<()> {
    run(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches needs root")
}

/// Reads a file to its end in 1 MiB reads; its length and how long it took.
///
/// # Errors
/// Reading fails.
pub fn read_whole(path: &Path) -> Result<(f64, Duration)> {
    use std::io::Read as _;
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut len, start) = (0.0, Instant::now());
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((len, start.elapsed())),
            #[expect(clippy::cast_precision_loss, reason = "a read is at most 1 MiB")]
            n => len += n as f64,
        }
    }
}
