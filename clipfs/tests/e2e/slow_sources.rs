//! Sources of credentials that are slow, hang, keep what they said, or have their request in memory: what is mounted then, and
//! what goes on.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fixtures::images;
use fixtures::layer::Compress;
use fixtures::registry::{Auth, Bearer, Registry, RegistryConfig};
use fixtures::secret::secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::requests::{USER, credplugin, request, script};
use crate::support::{Sandbox, describe, is_mounted, wait_until};

const MIB: u64 = 1 << 20;

/// A registry with one big file behind tokens.
fn registry(password: &str) -> Registry {
    let bearer = Bearer::new(USER, password);
    let registry =
        Registry::start(RegistryConfig { auth: Auth::Bearer(bearer), ..RegistryConfig::default() });
    registry.push(&images::one_big_file(64 * MIB, Compress::Gzip { level: 1 }), "team/big", "1");
    registry
}

fn read_at(mountpoint: &Path, offset: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    fs::File::open(mountpoint.join("big"))?.read_exact_at(&mut [0; 4096], offset)
}

/// Nothing of a mount is cached: every read asks the registry.
const SMALL: [&str; 4] = ["--memory", "1MiB", "--cache-size", "1MiB"];

#[test]
fn a_plugin_that_hangs_mounts_nothing() {
    let mut sandbox = Sandbox::new();
    // One that would let everybody in.
    let registry = Registry::plain();
    let tagged = registry.push(&images::small(), "team/app", "1");
    let inspected = sandbox.json(["inspect", "--json", &tagged]);
    let pinned = registry.reference("team/app", inspected["digest"].as_str().unwrap());
    let index = sandbox.path("app.clip").display().to_string();
    sandbox.ok(["index", &tagged, "-o", &index]);
    sandbox.ok(["ls", &pinned]);
    let file = sandbox.write_secret("r.json", request(&registry.addr().to_string(), &secret("hangs")));
    let hangs = script(&sandbox, "hangs", "exec sleep 1000");
    // The command line is answered, the server is not.
    let once = sandbox.path("once");
    let real = credplugin().display();
    let second = format!("[ -e {0} ] && exec sleep 1000\n: >{0}\nexec {real} \"$@\"", once.display());
    let second = script(&sandbox, "second", &second);
    let mountpoint = sandbox.path("unverified");
    fs::create_dir(&mountpoint).unwrap();
    for plugin in [&hangs, &second] {
        // An index at hand, by name or in the cache: a registry that is away would not be missed.
        for (image, named) in [(&tagged, &["--index", &index][..]), (&pinned, &[])] {
            let _ = fs::remove_file(&once);
            let args = ["mount", image, mountpoint.to_str().unwrap(), "--mount-timeout", "1s", "--request"];
            let with = [file.to_str().unwrap(), "--credential-plugin", plugin.to_str().unwrap()];
            let output = sandbox.run([&args[..], &with, named].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(69), "{}", describe(&output));
            assert!(said.contains("the credential plugin did not answer within 1 s"), "{said}");
            assert!(!is_mounted(&mountpoint));
        }
    }
}

#[test]
fn a_slow_plugin_is_waited_for_and_the_state_recovers() {
    let mut sandbox = Sandbox::new();
    let password = secret("slow");
    let registry = registry(&password);
    let file = sandbox.write_secret("r.json", request(&registry.addr().to_string(), &password));
    let runs = sandbox.path("runs");
    // Longer than anybody waits for the state.
    let slow = format!("echo run >>{}\nsleep 4\nexec {} \"$@\"", runs.display(), credplugin().display());
    let plugin = script(&sandbox, "plugin", &slow);
    let with = ["--request", file.to_str().unwrap(), "--credential-plugin", plugin.to_str().unwrap()];
    let mountpoint = sandbox.mount(
        &registry.reference("team/big", "1"),
        &[&with[..], &SMALL, &["--read-timeout", "2s"]].concat(),
    );
    assert_eq!(sandbox.status(&mountpoint)["state"], "ok");

    // No token is good any more, and there is no plugin for a while.
    script(&sandbox, "plugin", "exit 69");
    registry.revoke_all();
    registry.set_password(USER, &secret("slow, rotated"));
    assert!(read_at(&mountpoint, 40 * MIB).is_err());
    wait_until("the trouble to be seen", || sandbox.status(&mountpoint)["state"] != "ok");
    sandbox.write_secret("r.json", request(&registry.addr().to_string(), &secret("slow, rotated")));
    fs::remove_file(&runs).unwrap();
    script(&sandbox, "plugin", &slow);
    // Nobody reads: it is the mount itself that asks.
    wait_until("recovery", || sandbox.status(&mountpoint)["state"] == "ok");
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 1, "no second one while one runs");
    read_at(&mountpoint, 50 * MIB).unwrap();
}

/// A kubelet plugin whose answer may be kept for half a day.
fn kubelet(sandbox: &mut Sandbox, registry: &str, password: &str) -> PathBuf {
    let answer = json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "cacheDuration": "12h",
        "auth": {registry: {"username": USER, "password": password}},
    });
    let answer = sandbox.write_secret("answer.json", answer.to_string());
    script(sandbox, "kubelet", &format!("cat >/dev/null\ncat {}", answer.display()))
}

#[test]
fn a_kept_answer_that_is_refused_is_forgotten() {
    let mut sandbox = Sandbox::new();
    let (old, new) = (secret("kept old"), secret("kept new"));
    let registry = registry(&old);
    let host = registry.addr().to_string();
    let plugin = kubelet(&mut sandbox, &host, &old);
    let with = ["--credential-plugin", &format!("kubelet:{}", plugin.display())];
    let mountpoint = sandbox.mount(&registry.reference("team/big", "1"), &[&with[..], &SMALL].concat());
    read_at(&mountpoint, 20 * MIB).unwrap();
    kubelet(&mut sandbox, &host, &new);
    registry.set_password(USER, &new);
    registry.revoke_all();
    for offset in [40, 50, 60] {
        read_at(&mountpoint, offset * MIB).unwrap();
    }
    let status = sandbox.status(&mountpoint);
    assert_eq!((&status["state"], &status["read_errors"]), (&"ok".into(), &0.into()));
}

/// A mount in the foreground. Killed when dropped: then the kernel's side is unmounted by the sandbox.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(15) && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_request_in_memory_needs_no_right_to_look_into_processes() {
    let sandbox = Sandbox::new();
    let password = secret("foreground");
    let registry = registry(&password);
    let image = registry.reference("team/big", "1");
    let mountpoint = sandbox.path("foreground");
    fs::create_dir(&mountpoint).unwrap();
    let args = ["mount", &image, mountpoint.to_str().unwrap(), "--foreground", "--request", "-"];
    let clipfs = sandbox.clipfs([&args[..], &SMALL].concat());
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]);
    command.arg(clipfs.get_program()).args(clipfs.get_args()).env_clear();
    command.envs(clipfs.get_envs().filter_map(|(name, value)| Some((name, value?)))).process_group(0);
    let log = fs::File::create(sandbox.path("foreground.log")).unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    let mut mount = Foreground(command.spawn().expect("setpriv of util-linux"));
    let text = request(&registry.addr().to_string(), &password);
    mount.0.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    wait_until("the mount", || {
        let ended = mount.0.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(sandbox.path("foreground.log")).unwrap());
        is_mounted(&mountpoint) && mountpoint.join("big").exists()
    });
    read_at(&mountpoint, 10 * MIB).unwrap();
    let caps = fs::read_to_string(format!("/proc/{}/status", mount.0.id())).unwrap();
    let held = caps.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let held = u64::from_str_radix(held.trim(), 16).unwrap();
    assert_eq!(held & (1 << 19), 0, "the test itself: no CAP_SYS_PTRACE");

    let server = sandbox.status(&mountpoint)["server_pid"].as_u64().unwrap();
    let issued = registry.tokens_issued();
    kill(Pid::from_raw(i32::try_from(server).unwrap()), Signal::SIGKILL).unwrap();
    read_at(&mountpoint, 50 * MIB).unwrap();
    assert!(registry.tokens_issued() > issued, "the next server has the request, too");
    drop(mount);
    assert!(!is_mounted(&mountpoint));
}

#[test]
fn credentials_in_a_reference_are_refused_and_not_repeated() {
    let sandbox = Sandbox::new();
    let password = secret("in a reference");
    for image in [format!("https://user:{password}@127.0.0.1/a"), format!("user:{password}@127.0.0.1/a:1")] {
        // What is printed is searched for planted secrets.
        let output = sandbox.run(["ls", image.as_str()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(
            said.contains("credentials do not belong into a reference") && said.contains("@127.0.0.1/a"),
            "{said}"
        );
    }
}

#[test]
fn a_request_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut sandbox = Sandbox::new();
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let file = sandbox.write_secret("r.json", request(&registry.addr().to_string(), &secret("writable")));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let output =
        sandbox.run(["ls", &registry.reference("team/app", "1"), "--request", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", describe(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("anyone may replace the credentials"));
}
