//! What the tests share: an image with a static busybox, directories that go away again, jobs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clipfs::worker::runtime::{
    ContainerRequestView, End, Job, JobState, LogStream, Piece, Program, Runtime, RuntimeError,
    RuntimeOptions,
};
use fixtures::image::ImageBuilder;
use fixtures::layer::{Compress, Entry};
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
/// Waits end after this long: something hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Directories, an image, a runtime; everything is removed at the end, and it is looked whether all of it went.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) options: RuntimeOptions,
    image: String,
    index: PathBuf,
    digest: String,
    used: AtomicU32,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(json!({}), Vec::new())
    }

    /// An image with these settings and more entries.
    pub(crate) fn with(settings: Value, more: Vec<Entry>) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests run containers: run them as root");
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let busybox = fs::read(BUSYBOX)
            .unwrap_or_else(|e| panic!("{BUSYBOX}: {e}: `make deps` installs it (busybox-static)"));
        for program in ["crun", "runc"] {
            let found = Command::new(program).arg("--version").output();
            assert!(found.is_ok_and(|o| o.status.success()), "no {program}: `make deps` installs it");
        }
        let dir = tempfile::Builder::new().prefix("clipfs-runtime-").tempdir().unwrap();
        let mut entries = vec![
            Entry::dir("bin").mode(0o755),
            Entry::file("bin/busybox", busybox).mode(0o755),
            Entry::dir("etc").mode(0o755),
            Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
            Entry::file("etc/group", "root:x:0:\napp:x:1001:\nvideo:x:44:app\n"),
            Entry::file("etc/lower", "from the image\n"),
        ];
        for applet in [
            "sh", "cat", "echo", "env", "id", "ls", "pwd", "hostname", "sleep", "true", "false", "kill",
            "mount", "head", "tail", "dd", "seq", "grep", "wc", "mkdir", "ps", "sort", "mknod", "unshare",
            "touch", "tr",
        ] {
            entries.push(Entry::symlink(format!("bin/{applet}"), "busybox"));
        }
        entries.extend(more);
        let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
        let image = ImageBuilder::new()
            .platform(platform)
            .settings(settings)
            .layer(entries, Compress::Gzip { level: 1 })
            .build();
        let layout = dir.path().join("layout");
        image.write_layout(&layout).unwrap();
        let reference = format!("oci:{}", layout.display());
        let index = dir.path().join("image.clip");
        let output = Command::new(env!("CARGO_BIN_EXE_clipfs"))
            .arg("index")
            .arg("--cache-dir")
            .arg(dir.path().join("cache"))
            .args([reference.as_ref(), "-o".as_ref(), index.as_os_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut options =
            RuntimeOptions::new(dir.path().join("state"), dir.path().join("run"), dir.path().join("cache"));
        options.clipfs = env!("CARGO_BIN_EXE_clipfs").into();
        let digest = image.manifest_digest.clone();
        Self { dir, options, image: reference, index, digest, used: AtomicU32::new(0) }
    }

    pub(crate) async fn runtime(&self) -> Runtime {
        Runtime::open(self.options.clone()).await.unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A job of the one workspace, with its request written.
    pub(crate) fn job(&self, request: ContainerRequestView) -> Job {
        let n = self.used.fetch_add(1, Ordering::Relaxed);
        let key = format!("{}-{n}", std::process::id());
        let job = Job {
            dir: self.path("state/tasks").join(&key),
            run_dir: self.path("run").join(&key),
            key,
            image: self.image.clone(),
            index: self.index.clone(),
            request,
            workspace_id: "w".into(),
            digest: self.digest.clone(),
        };
        fs::create_dir_all(&job.run_dir).unwrap();
        fs::write(job.request_file(), r#"{"image_credentials":""}"#).unwrap();
        job
    }

    /// A job that runs a script.
    pub(crate) fn script(&self, script: &str) -> Job {
        self.job(script_request(script))
    }

    /// Mounts, starts, waits; leaves it to be cleaned.
    pub(crate) async fn finish(&self, runtime: &Runtime, job: &Job) -> Ran {
        runtime.mount(job).await.unwrap();
        runtime.start(job).await.unwrap();
        let end = within(runtime.wait(job)).await.unwrap();
        Ran { end, output: output(runtime, job).await }
    }

    /// Runs a script to its end and cleans up.
    pub(crate) async fn run(&self, request: ContainerRequestView) -> Ran {
        let runtime = self.runtime().await;
        let job = self.job(request);
        let ran = self.finish(&runtime, &job).await;
        runtime.clean(&job).await.unwrap();
        ran
    }

    /// Looks whether anything is left of anything.
    pub(crate) async fn assert_nothing_left(&self) {
        let runtime = self.runtime().await;
        runtime.reap(&[]).await.unwrap();
        self.assert_clean();
    }

    pub(crate) fn assert_clean(&self) {
        let dir = self.dir.path().canonicalize().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = dir.to_str().unwrap();
        assert!(!mounts.contains(here), "mounts are left:\n{mounts}");
        for pid in processes() {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&cmdline).contains(here), "process {pid} is left");
        }
        let files: Vec<_> = ["state/tasks", "run"]
            .iter()
            .filter_map(|name| fs::read_dir(dir.join(name)).ok())
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(files, Vec::<String>::new(), "files are left");
        for name in [".mounts", ".oci"] {
            let left: Vec<_> = fs::read_dir(dir.join("run").join(name)).into_iter().flatten().collect();
            assert!(left.is_empty(), "{name}: {left:?}");
        }
        assert_eq!(cgroups(&format!("{}-", std::process::id()), &self.group()), Vec::<PathBuf>::new());
    }

    /// The name of this runtime's control group.
    pub(crate) fn group(&self) -> String {
        let dir = self.path("run");
        let dir = dir.canonicalize().unwrap_or(dir);
        let hash = blake3::hash(dir.as_os_str().as_encoded_bytes());
        format!("clipfs-{}", hex::encode(&hash.as_bytes()[..4]))
    }

    pub(crate) fn cgroup_file(&self, job: &Job, names: &[&str]) -> String {
        let group = format!("{}/{}", self.group(), job.key);
        let tried: Vec<PathBuf> = names
            .iter()
            .map(|name| {
                let (controller, file) = name.split_once('/').unwrap_or(("", name));
                Path::new("/sys/fs/cgroup").join(controller).join(&group).join(file)
            })
            .collect();
        tried
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_else(|| panic!("none of {tried:?}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A test that has failed leaves nothing either.
        let options = self.options.clone();
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Runtime::open(options).await?.reap(&[]).await })
        });
        let result: Result<(), RuntimeError> = done.join().unwrap();
        if !std::thread::panicking() {
            result.unwrap();
            self.assert_clean();
        }
    }
}

fn cgroups(prefix: &str, group: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let trees = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).chain([top.to_owned()]);
    trees
        .filter_map(|tree| fs::read_dir(tree.join(group)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect()
}

pub(crate) fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// How a container ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) output: Vec<Piece>,
}

impl Ran {
    pub(crate) fn text(&self, wanted: LogStream) -> String {
        let bytes: Vec<u8> = self
            .output
            .iter()
            .filter(|(stream, _, _)| *stream == wanted)
            .flat_map(|(_, _, data)| data.clone())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        self.text(LogStream::Stdout)
    }

    /// Lines `name=value`.
    pub(crate) fn values(&self) -> BTreeMap<String, String> {
        let text = self.stdout();
        text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.end, End { exit_code: 0, reason: None, code: 0 }, "{}", self.text(LogStream::Stderr));
        self
    }
}

pub(crate) fn script_request(script: &str) -> ContainerRequestView {
    ContainerRequestView {
        entry_point: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ContainerRequestView::default()
    }
}

/// Everything that a container has written.
pub(crate) async fn output(runtime: &Runtime, job: &Job) -> Vec<Piece> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let pieces = runtime.read_output(job, from, 100_000).await.unwrap();
        let Some((_, offset, data)) = pieces.last() else { return all };
        from = offset + u64::try_from(data.len()).unwrap();
        all.extend(pieces);
    }
}

/// Waits until a container has written a word.
pub(crate) async fn until_says(runtime: &Runtime, job: &Job, word: &str) {
    let since = Instant::now();
    loop {
        let ran =
            Ran { end: End { exit_code: 0, reason: None, code: 0 }, output: output(runtime, job).await };
        if ran.stdout().contains(word) {
            return;
        }
        assert!(since.elapsed() < LIMIT, "it never said {word:?}: {ran:?}, {:?}", runtime.state(job).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it ends in time")
}

pub(crate) fn is_running(state: &JobState) -> bool {
    matches!(state, JobState::Running)
}

pub(crate) fn with_program(bench: &mut Bench, program: Program) {
    bench.options.program = program;
}
