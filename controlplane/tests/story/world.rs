//! A small cluster on this machine: Debian's registry with a password, the control plane, workers. Everything is a process of its own,
//! and ends with the test.

use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixtures::docker_registry::{Access, DockerRegistry, write_auth_file};
use fixtures::image::{Image, ImageBuilder};
use fixtures::layer::{Compress, Entry};
use fixtures::postgres::{Durability, Postgres};
use fixtures::secret::secret;
use serde_json::Value;

/// Longest wait for something that takes a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The registry's only user.
pub(crate) const USER: &str = "owner";

/// Which database the control plane has.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite,
    Postgres(Box<Postgres>),
}

#[derive(Debug)]
pub(crate) struct World {
    /// First, so that they end before what they use.
    workers: Vec<Worker>,
    servers: Vec<Server>,
    pub(crate) database: Database,
    url: String,
    pub(crate) registry: DockerRegistry,
    pub(crate) dir: tempfile::TempDir,
}

/// A replica of the control plane.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    name: String,
}

/// Ends a process and everything that it has in its group.
fn kill9(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn clipfs() -> PathBuf {
    sibling("clipfs")
}

fn sibling(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_controlplane")).with_file_name(name);
    assert!(
        path.is_file(),
        "there is no {}: `cargo build -p {name}` builds it for this test",
        path.display()
    );
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A root file system with nothing but busybox.
pub(crate) fn busybox() -> Image {
    let program = std::fs::read("/bin/busybox").expect("/bin/busybox: `make deps` installs busybox-static");
    let mut entries = vec![
        Entry::dir("bin/"),
        Entry::file("bin/busybox", program).mode(0o755),
        Entry::dir("etc/"),
        Entry::file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"),
        Entry::file("etc/group", "root:x:0:\napp:x:1000:\n"),
        Entry::dir("tmp/").mode(0o1777),
    ];
    for applet in
        ["sh", "echo", "cat", "sleep", "id", "env", "true", "false", "ls", "sha256sum", "test", "kill"]
    {
        entries.push(Entry::symlink(format!("bin/{applet}"), "busybox"));
    }
    let later = [
        Entry::dir("data/"),
        Entry::file("data/big", fixtures::content::Content::bytes(7, 24 << 20)),
        Entry::file("data/other", fixtures::content::Content::bytes(8, 24 << 20)),
    ];
    ImageBuilder::new()
        .layer(entries, Compress::Gzip { level: 6 })
        .layer(later, Compress::Gzip { level: 1 })
        .settings(serde_json::json!({
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/sh", "-c", "echo hello from the image"], "WorkingDir": "/tmp",
        }))
        .build()
}

impl World {
    /// A registry that holds [`busybox`] as `team/app:1`, and a control plane that has just started.
    pub(crate) fn sqlite() -> Self {
        Self::new(Database::Sqlite, 1)
    }

    /// The same with PostgreSQL and several replicas.
    pub(crate) fn postgres(replicas: usize) -> Self {
        Self::new(Database::Postgres(Box::new(Postgres::start(Durability::Process))), replicas)
    }

    fn new(database: Database, replicas: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("story.").tempdir_in("/var/tmp").unwrap();
        let access = Access::Htpasswd { user: USER, password: &secret("registry 1") };
        let registry = DockerRegistry::start(&dir.path().join("registry"), access);
        let url = match &database {
            Database::Sqlite => format!("sqlite://{}/data/control.db", dir.path().display()),
            Database::Postgres(server) => server.database(),
        };
        let mut world = Self { workers: Vec::new(), servers: Vec::new(), database, url, registry, dir };
        world.push("team/app:1", &busybox());
        for _ in 0..replicas {
            world.start_server();
        }
        world
    }

    /// Another password at the registry.
    pub(crate) fn rotate_registry(&self, password: &str) {
        self.registry.set_password(USER, password);
    }

    pub(crate) fn push(&self, name: &str, image: &Image) {
        let layout = tempfile::tempdir_in(self.dir.path()).unwrap();
        image.write_layout_as(layout.path(), "x").unwrap();
        let auth = self.dir.path().join("skopeo.json");
        write_auth_file(&auth, self.registry.address(), USER, &secret("registry 1"));
        let mut command = Command::new("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--authfile"])
            .arg(&auth);
        command.arg(format!("oci:{}:x", layout.path().display()));
        command.arg(format!("docker://{}/{name}", self.registry.address()));
        succeeded(&mut command);
        std::fs::remove_file(auth).unwrap();
    }

    /// `team/app:1`.
    pub(crate) fn image(&self) -> String {
        format!("{}/team/app:1", self.registry.address())
    }

    /// The database's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn log(&self, name: &str) -> File {
        let path = self.dir.path().join("logs").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::options().create(true).append(true).open(path).unwrap()
    }

    /// Starts a replica and waits until it answers.
    pub(crate) fn start_server(&mut self) -> usize {
        let port = free_port();
        self.servers.push(Server { child: self.serve(port), port });
        self.servers.len() - 1
    }

    fn serve(&self, port: u16) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_controlplane"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["serve", "--database", &self.url, "--lease", "3s", "--log-level", "debug"]);
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        let log = self.log("server.log");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = end_with_us(&mut command).spawn().unwrap();
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the control plane ended: {status}\n{}", self.logged("server.log"));
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the control plane does not listen:\n{}",
                self.logged("server.log")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    /// kill -9, and a new process on the same port.
    pub(crate) fn restart_server(&mut self, n: usize) {
        kill9(&mut self.servers[n].child);
        let port = self.servers[n].port;
        self.servers[n].child = self.serve(port);
    }

    pub(crate) fn server_pids(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.child.id()).collect()
    }

    /// What a process has logged.
    pub(crate) fn logged(&self, name: &str) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.dir.path().join("logs").join(name)) {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    /// An operator's command, with the database.
    pub(crate) fn operator(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_controlplane"));
        command.env_clear().args(args).args(["--database", &self.url]);
        String::from_utf8(succeeded(&mut command).stdout).unwrap()
    }

    /// A workspace with a token; gives the token's file.
    pub(crate) fn workspace(&self, name: &str) -> PathBuf {
        self.operator(&["workspace", "create", name]);
        let file = self.dir.path().join(format!("{name}.token"));
        self.operator(&["token", "create", "--workspace", name, "--out", file.to_str().unwrap()]);
        file
    }

    pub(crate) fn address(&self, server: usize) -> String {
        format!("127.0.0.1:{}", self.servers[server].port)
    }

    /// A client's command, not yet run.
    pub(crate) fn client(&self, token: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_controlplane"));
        command.env_clear().env("CLIPFS_SERVER", format!("http://{}", self.address(0)));
        command.env("CLIPFS_TOKEN_FILE", token).args(args).stdin(Stdio::null());
        command
    }

    /// A client's command that succeeds; its JSON.
    pub(crate) fn json(&self, token: &Path, args: &[&str]) -> Value {
        let output = succeeded(self.client(token, args).arg("--json"));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Makes `team/app:1` an image of the workspace, with this password.
    pub(crate) fn create_image(&self, token: &Path, id: &str, password: &str) -> Output {
        let mut command = self.client(token, &["image", "create", &self.image(), "--id", id]);
        command.args(["--creds-env", "USERNAME,PASSWORD"]).env("USERNAME", USER).env("PASSWORD", password);
        command.output().unwrap()
    }

    /// Starts a worker.
    pub(crate) fn start_worker(&mut self, name: &str) -> usize {
        let token = self.dir.path().join(format!("{name}.token"));
        if !token.exists() {
            self.operator(&["token", "create", "--worker", "--node", name, "--out", token.to_str().unwrap()]);
        }
        let child = self.work(name);
        self.workers.push(Worker { child, name: name.to_owned() });
        self.workers.len() - 1
    }

    fn work(&self, name: &str) -> Child {
        let mut command = Command::new(clipfs());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("CLIPFS_RUN_DIR", self.dir.path().join(name).join("mounts"));
        command.args([
            "worker",
            "--node",
            name,
            "--cpu",
            "8000m",
            "--memory",
            "8GiB",
            "--log-level",
            "debug",
        ]);
        command.arg("--control-plane").arg(format!("http://{}", self.address(0)));
        command.arg("--token-file").arg(self.dir.path().join(format!("{name}.token")));
        command.arg("--state-dir").arg(self.dir.path().join(name).join("state"));
        command.arg("--run-dir").arg(self.run_dir(name));
        command.arg("--cache-dir").arg(self.dir.path().join(name).join("cache"));
        command.arg("--credential-plugin").arg(sibling("credplugin"));
        let log = self.log(&format!("{name}.log"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        end_with_us(&mut command).spawn().unwrap()
    }

    /// On tmpfs: it holds credentials.
    pub(crate) fn run_dir(&self, worker: &str) -> PathBuf {
        let ours = self.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        Path::new("/dev/shm").join(format!("clipfs-{ours}")).join(worker)
    }

    /// kill -9 of the worker alone.
    pub(crate) fn kill_worker(&mut self, n: usize) {
        kill9(&mut self.workers[n].child);
    }

    /// kill -9, and a new process.
    pub(crate) fn restart_worker(&mut self, n: usize) {
        self.kill_worker(n);
        self.workers[n].child = self.work(&self.workers[n].name);
    }

    /// Stops its process, or lets it go on.
    pub(crate) fn freeze_worker(&self, n: usize, frozen: bool) {
        use nix::sys::signal::{Signal, kill};
        let pid = nix::unistd::Pid::from_raw(self.workers[n].child.id().cast_signed());
        kill(pid, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).unwrap();
    }

    pub(crate) fn worker_pid(&self, n: usize) -> u32 {
        self.workers[n].child.id()
    }

    /// Runs to the end; exit code and output.
    pub(crate) fn run(&self, token: &Path, args: &[&str]) -> Output {
        let mut all = vec!["run"];
        all.extend(args);
        self.client(token, &all).output().unwrap()
    }

    /// Mounts, processes and directories of ours that are still there.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let ours = self.dir.path().display().to_string();
        let runs = Path::new("/dev/shm")
            .join(format!("clipfs-{}", self.dir.path().file_name().unwrap().to_str().unwrap()));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = |text: &str| text.contains(&ours) || text.contains(runs.to_str().unwrap());
        mounts.lines().filter(|line| ours(line)).map(|line| format!("mount: {line}")).collect()
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "for whoever reads why a test has failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["server.log".to_owned()]
                .into_iter()
                .chain(self.workers.iter().map(|w| format!("{}.log", w.name)))
            {
                let text = self.logged(&name);
                let tail: Vec<&str> = text.lines().rev().take(60).collect();
                eprintln!("--- {name}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        for worker in &mut self.workers {
            kill9(&mut worker.child);
        }
        for server in &mut self.servers {
            kill9(&mut server.child);
        }
        // What containers have left.
        let ours = self.dir.path().display().to_string();
        let runs = format!("/dev/shm/clipfs-{}", self.dir.path().file_name().unwrap().to_str().unwrap());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            if pid != std::process::id().cast_signed() && (line.contains(&ours) || line.contains(&runs)) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        for _ in 0..3 {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            for line in mounts.lines().rev().filter(|line| line.contains(&ours) || line.contains(&runs)) {
                if let Some(point) = line.split(' ').nth(1) {
                    let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
                }
            }
        }
        let _ = std::fs::remove_dir_all(runs);
    }
}

/// Whatever becomes of the test, the process ends with it.
fn end_with_us(command: &mut Command) -> &mut Command {
    #[expect(unsafe_code, reason = "the kernel tells the child of our death; only before exec")]
    // SAFETY: prctl is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?))
    }
}

pub(crate) fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let name = Path::new(command.get_program()).file_name().unwrap().to_owned();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name:?} {:?}: {}\n{text}",
        command.get_args().collect::<Vec<_>>(),
        output.status
    );
    output
}

/// Waits until something is true.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
