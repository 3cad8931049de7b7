//! What the tests share: the binary, mounts that go away again, servers on loopback, trees that can be compared.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixtures::image::Image;

/// A directory of its own for one test: cache, run directory, mountpoint; everything is unmounted and removed at the end.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
    mounted: usize,
    /// Files that may hold planted secrets: requests, and the credentials of others' tools.
    secret_files: Vec<PathBuf>,
    /// The group that `clipfs` runs as, if not the tests' own.
    group: Option<u32>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests mount file systems: run them as root");
        assert!(Path::new("/dev/fuse").exists(), "end-to-end tests need /dev/fuse");
        let dir = tempfile::Builder::new().prefix("clipfs-test-").tempdir().unwrap();
        fs::write(
            dir.path().join("config.toml"),
            format!("log_file = {:?}\n", dir.path().join("mounts.log")),
        )
        .unwrap();
        Self { dir, mounts: Vec::new(), mounted: 0, secret_files: Vec::new(), group: None }
    }

    /// Everything runs as this group from now on.
    pub(crate) fn set_group(&mut self, group: u32) {
        self.group = Some(group);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// `clipfs` with this sandbox's directories.
    pub(crate) fn clipfs<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipfs"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CLIPFS_CACHE_DIR", self.cache())
            .env("CLIPFS_RUN_DIR", self.path("run"))
            .env("CLIPFS_CONFIG", self.path("config.toml"))
            .env("CLIPFS_LOG_LEVEL", "trace")
            .env("CLIPFS_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .args(args);
        if let Some(group) = self.group {
            command.gid(group);
        }
        command
    }

    pub(crate) fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Output {
        self.take_log(self.clipfs(args).output().unwrap())
    }

    /// Everything is logged, for the sweep: what is for people is left in the output, log lines go to a file.
    pub(crate) fn take_log(&self, mut output: Output) -> Output {
        assert_no_secrets(&output);
        let is_log = |line: &&[u8]| line.starts_with(b"{\"timestamp\":");
        let (log, text): (Vec<&[u8]>, Vec<&[u8]>) =
            output.stderr.split_inclusive(|byte| *byte == b'\n').partition(is_log);
        let mut file = fs::File::options().create(true).append(true).open(self.path("cli.log")).unwrap();
        file.write_all(&log.concat()).unwrap();
        output.stderr = text.concat();
        output
    }

    /// Writes a file that may hold planted secrets, as whoever renews a request does: readable by root alone, and put into place
    /// by one rename.
    pub(crate) fn write_secret(&mut self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new).unwrap();
        file.write_all(content.as_ref()).unwrap();
        fs::rename(&new, &path).unwrap();
        self.may_hold_secrets(&path);
        path
    }

    /// Leaves a file or directory out of the sweep.
    pub(crate) fn may_hold_secrets(&mut self, path: &Path) {
        self.secret_files.push(path.to_owned());
    }

    /// Looks for planted secrets in the environment and arguments of everything that runs for this sandbox, and in all its files:
    /// logs, run directory, cache.
    pub(crate) fn sweep(&self) {
        let ours: Vec<u32> = processes().filter(|pid| self.is_ours(*pid)).collect();
        let sweep = fixtures::secret::sweep_pids(&ours);
        assert!(sweep.findings.is_empty(), "{:?}", sweep.findings);
        fixtures::secret::sweep_dir(self.dir.path(), &self.secret_files).assert_clean();
    }

    fn is_ours(&self, pid: u32) -> bool {
        let shows = |name: &str| {
            let shown = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let dir = self.dir.path().as_os_str().as_bytes();
            shown.windows(dir.len()).any(|part| part == dir)
        };
        shows("environ") || shows("cmdline")
    }

    /// Runs and expects success; standard output.
    pub(crate) fn ok<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Vec<u8> {
        let output = self.run(args);
        assert!(output.status.success(), "{}", describe(&output));
        output.stdout
    }

    pub(crate) fn json<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> serde_json::Value {
        serde_json::from_slice(&self.ok(args)).unwrap()
    }

    /// Mounts an image and returns the mountpoint.
    pub(crate) fn mount(&mut self, image: &str, extra: &[&str]) -> PathBuf {
        self.mounted += 1;
        let mountpoint = self.path(&format!("mnt{}", self.mounted));
        fs::create_dir(&mountpoint).unwrap();
        let mut args: Vec<OsString> = vec!["mount".into(), image.into(), mountpoint.clone().into()];
        args.extend(extra.iter().map(OsString::from));
        self.ok(args);
        self.mounts.push(mountpoint.clone());
        mountpoint
    }

    /// Unmounts at the end what a test has mounted otherwise.
    pub(crate) fn adopt(&mut self, mountpoint: &Path) {
        self.mounts.push(mountpoint.to_owned());
    }

    pub(crate) fn umount(&mut self, mountpoint: &Path) {
        self.ok([OsStr::new("umount"), mountpoint.as_os_str()]);
        self.mounts.retain(|m| m != mountpoint);
        assert!(!is_mounted(mountpoint));
    }

    pub(crate) fn status(&self, mountpoint: &Path) -> serde_json::Value {
        self.json([OsStr::new("status"), OsStr::new("--json"), mountpoint.as_os_str()])
    }

    /// Drops the kernel's caches, so that the next reads reach the daemon.
    pub(crate) fn drop_caches() {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.sweep();
        }
        for mountpoint in std::mem::take(&mut self.mounts) {
            let output = self.run([OsStr::new("umount"), mountpoint.as_os_str()]);
            if !output.status.success() {
                let _ = nix::mount::umount2(&mountpoint, nix::mount::MntFlags::MNT_DETACH);
                if !std::thread::panicking() {
                    panic!("{}", describe(&output));
                }
            }
        }
        if !std::thread::panicking() {
            self.sweep();
            // Of all registries of all tests: which one it was, the host tells.
            let misplaced = fixtures::registry::misplaced();
            assert!(misplaced.is_empty(), "{misplaced:#?}");
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// Nothing that a program prints holds a planted secret.
pub(crate) fn assert_no_secrets(output: &Output) {
    for (name, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
        if let Some(how) = fixtures::secret::find(text) {
            panic!("a planted secret on {name}: {how}");
        }
    }
}

pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|m| Path::new(m) == path))
}

/// Waits until something holds; fails loudly otherwise.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program that must be there and must succeed.
pub(crate) fn tool<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}: `make deps` installs it"));
    assert!(output.status.success(), "{program}: {}", describe(&output));
    output.stdout
}

/// Debian's `docker-registry` on a free port of 127.0.0.1.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl DockerRegistry {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// One that lets a single user in. The password goes through standard input: everybody sees arguments.
    pub(crate) fn start_private(dir: &Path, user: &str, password: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let mut htpasswd = Command::new("htpasswd")
            .args(["-inB", "-C", "4", user])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("htpasswd: `make deps` installs it");
        htpasswd.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        let output = htpasswd.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", describe(&output));
        fs::write(dir.join("htpasswd"), output.stdout).unwrap();
        let path = dir.join("htpasswd");
        Self::start_with(dir, &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display()))
    }

    fn start_with(dir: &Path, auth: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.join("config.yml");
        let storage = dir.join("storage");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n{auth}",
                storage.display()
            ),
        )
        .unwrap();
        // What is served is logged on standard error.
        let log = dir.join("log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("docker-registry: `make deps` installs it");
        let registry = Self { child, address, log };
        wait_until("docker-registry to listen", || std::net::TcpStream::connect(&registry.address).is_ok());
        registry
    }

    /// Body bytes that the registry says it sent for GETs of blobs.
    pub(crate) fn blob_bytes(&self) -> u64 {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|entry| {
                entry["http.request.method"] == "GET"
                    && entry["http.request.uri"].as_str().is_some_and(|uri| uri.contains("/blobs/"))
            })
            .filter_map(|entry| entry["http.response.written"].as_u64())
            .sum()
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Writes an image as an OCI layout; `oci:DIR`.
pub(crate) fn layout(image: &Image, dir: &Path) -> String {
    image.write_layout(dir).unwrap();
    format!("oci:{}", dir.display())
}

/// Everything that can be seen of a file from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, i64),
    pub(crate) nlink: u64,
    pub(crate) rdev: u64,
    pub(crate) target: Option<OsString>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// BLAKE3 of a file's bytes, read in one go.
    pub(crate) content: Option<[u8; 32]>,
    /// First name of the hard-link group.
    pub(crate) same_as: Option<PathBuf>,
}

/// Walks a tree without following links or crossing mounts; names relative to the root.
pub(crate) fn walk(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut groups = BTreeMap::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(name) = queue.pop() {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            queue.extend(entries.map(|entry| name.join(entry.unwrap().file_name())));
        }
        if !meta.is_dir() && meta.nlink() > 1 {
            let first: &mut PathBuf = groups.entry(meta.ino()).or_insert_with(|| name.clone());
            if name < *first {
                *first = name.clone();
            }
        }
        seen.insert(
            name.clone(),
            (
                meta.ino(),
                Seen {
                    mode: meta.mode(),
                    uid: meta.uid(),
                    gid: meta.gid(),
                    // A directory's size is the file system's own business.
                    size: if meta.is_dir() { 0 } else { meta.size() },
                    mtime: (meta.mtime(), meta.mtime_nsec()),
                    // Some file systems count no subdirectories.
                    nlink: if meta.is_dir() { 0 } else { meta.nlink() },
                    rdev: meta.rdev(),
                    target: meta.is_symlink().then(|| fs::read_link(&path).unwrap().into_os_string()),
                    xattrs: xattrs(&path),
                    content: meta.is_file().then(|| digest(&path)),
                    same_as: None,
                },
            ),
        );
    }
    seen.into_iter()
        .map(|(name, (ino, mut file))| {
            file.same_as = groups.get(&ino).filter(|_| file.nlink > 1).cloned();
            (name, file)
        })
        .collect()
}

/// Fails with the differences between two trees.
pub(crate) fn assert_same_trees(ours: &BTreeMap<PathBuf, Seen>, theirs: &BTreeMap<PathBuf, Seen>) {
    let mut differences = Vec::new();
    for name in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (ours.get(name), theirs.get(name));
        if a != b {
            differences.push(format!("{}\n  ours:   {a:?}\n  theirs: {b:?}", name.display()));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} differ:\n{}",
        differences.len(),
        theirs.len(),
        differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
}

fn digest(path: &Path) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if n == 0 {
            return *hasher.finalize().as_bytes();
        }
        hasher.update(&buffer[..n]);
    }
}

/// Extended attributes, sorted; of the link itself.
pub(crate) fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = |into: &mut [u8]| lxattr(path, None, into);
    let len = list(&mut []).unwrap_or(0);
    let mut names = vec![0; len];
    let len = list(&mut names).unwrap_or(0);
    let mut found: Vec<_> = names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty() && *name != b"user.clipfs.image")
        .map(|name| {
            let len = lxattr(path, Some(name), &mut []).unwrap();
            let mut value = vec![0; len];
            lxattr(path, Some(name), &mut value).unwrap();
            (name.to_vec(), value)
        })
        .collect();
    found.sort();
    found
}

#[expect(unsafe_code, reason = "neither std nor nix wraps lgetxattr")]
fn lxattr(path: &Path, name: Option<&[u8]>, into: &mut [u8]) -> std::io::Result<usize> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let name = name.map(std::ffi::CString::new).transpose()?;
    // SAFETY: both strings end in NUL and outlive the call; `into` is writable for its length.
    let n = unsafe {
        match &name {
            Some(name) => libc::lgetxattr(path.as_ptr(), name.as_ptr(), into.as_mut_ptr().cast(), into.len()),
            None => libc::llistxattr(path.as_ptr(), into.as_mut_ptr().cast(), into.len()),
        }
    };
    usize::try_from(n).map_err(|_| std::io::Error::last_os_error())
}

/// Reads every file of a tree at random offsets, in random order, and compares with the same ranges elsewhere.
pub(crate) fn assert_same_random_reads(ours: &Path, theirs: &Path, files: &[PathBuf], seed: u64) {
    let mut rng = fixtures::rng::SplitMix64::new(seed);
    let mut order: Vec<&PathBuf> = files.iter().collect();
    for n in (1..order.len()).rev() {
        order.swap(n, usize::try_from(rng.below(n as u64 + 1)).unwrap());
    }
    for name in order {
        let (a, b) = (fs::File::open(ours.join(name)).unwrap(), fs::File::open(theirs.join(name)).unwrap());
        let size = b.metadata().unwrap().len();
        for _ in 0..3 {
            let offset = rng.below(size + 1);
            let len = usize::try_from(rng.below(64 << 10) + 1).unwrap();
            let (mut x, mut y) = (vec![0; len], vec![0; len]);
            let n = a.read_at(&mut x, offset).unwrap_or_else(|e| panic!("{}: {e}", name.display()));
            let m = b.read_at(&mut y, offset).unwrap();
            // Both may be short at the end of the file only.
            assert_eq!(n, m, "{} at {offset}", name.display());
            assert!(x[..n] == y[..m], "{} differs at {offset}", name.display());
        }
    }
}

/// Regular files of a walked tree.
pub(crate) fn regular_files(tree: &BTreeMap<PathBuf, Seen>) -> Vec<PathBuf> {
    tree.iter().filter(|(_, seen)| seen.content.is_some()).map(|(name, _)| name.clone()).collect()
}
