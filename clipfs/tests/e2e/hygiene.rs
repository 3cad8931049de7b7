//! What processes with secrets show to others, and what they leave behind when they crash.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::images;
use fixtures::registry::{Auth, Registry, RegistryConfig};
use fixtures::secret::secret;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::requests::{USER, credplugin, request, script};
use crate::rotation::kill_server;
use crate::support::Sandbox;

/// A group that the tests do not run as. The kernel gives a process' files in `/proc` to its own user and group, but to root's if it is
/// not dumpable: what another process of its user may look into shows in the group, to root too.
pub(crate) const GROUP: u32 = 12_345;

fn group_of(pid: u64) -> u32 {
    fs::metadata(format!("/proc/{pid}/environ")).unwrap().gid()
}

/// The request in memory is held by keeper and server; no core can be written of the server, and none of its user's other
/// processes may look into it. The sandbox runs as [`GROUP`].
pub(crate) fn only_holds_what_it_needs(status: &serde_json::Value) {
    let pid = |name: &str| status[name].as_u64().unwrap();
    let (keeper, server) = (pid("keeper_pid"), pid("server_pid"));
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // Soft and hard. Zero would not do where cores are piped to a program.
    assert!(core.split_whitespace().skip(4).take(2).eq(["1", "1"]), "{core}");
    assert_eq!(group_of(server), 0, "the server is dumpable");
    // The keeper never reads the request, and the server reads what it holds: it shows that this can be seen.
    assert_eq!(group_of(keeper), GROUP, "the keeper is dumpable");
}

/// Names below a directory that a core file may have.
fn cores(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.file_name().unwrap().to_string_lossy().starts_with("core"))
        .collect();
    found.sort();
    found
}

/// Where cores go on this machine.
fn core_pattern() -> String {
    fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().trim().to_owned()
}

#[test]
fn a_server_that_crashes_leaves_no_core() {
    let mut sandbox = Sandbox::new();
    sandbox.set_group(GROUP);
    let password = secret("crash");
    let registry =
        Registry::start(RegistryConfig { auth: Auth::basic(USER, &password), ..RegistryConfig::default() });
    registry.push(&images::small(), "team/app", "1");
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    // Nothing but what `clipfs` does itself is to stop a core.
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).unwrap();
    let image = registry.reference("team/app", "1");
    let plugin = credplugin().to_str().unwrap();
    let mountpoint =
        sandbox.mount(&image, &["--request", file.to_str().unwrap(), "--credential-plugin", plugin]);
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
    let status = sandbox.status(&mountpoint);
    only_holds_what_it_needs(&status);

    // Where a core of the server would be: in its working directory, or where the pattern says.
    let pattern = core_pattern();
    let named = Path::new(&pattern).parent().filter(|dir| dir.is_absolute() && dir.is_dir());
    let own = fs::read_link(format!("/proc/{}/cwd", status["server_pid"])).unwrap();
    let sandboxed = sandbox.path("");
    let places: Vec<&Path> = [own.as_path(), &sandboxed].into_iter().chain(named).collect();
    let before: Vec<_> = places.iter().map(|dir| cores(dir)).collect();
    // Not SIGSEGV: Rust's own handler takes the first one for a stack overflow and returns.
    kill_server(&sandbox, &mountpoint, Signal::SIGABRT);
    let after: Vec<_> = places.iter().map(|dir| cores(dir)).collect();
    assert_eq!(after, before, "a core in one of {places:?}");
    // The kernel tells the parent whether there was a core, wherever the pattern leads.
    let log = fs::read_to_string(sandbox.path("mounts.log")).unwrap();
    let told = log.lines().find(|line| line.contains("the server died") && line.contains("SIGABRT"));
    let told = told.unwrap_or_else(|| panic!("the keeper tells no crash: {log}"));
    assert!(!told.contains("core dumped"), "{told}");

    // That it would have been seen: a process without secrets that crashes in the same way.
    let dir = sandbox.path("control");
    fs::create_dir(&dir).unwrap();
    let mut control = Command::new("sleep").arg("1000").current_dir(&dir).gid(GROUP).spawn().unwrap();
    assert_eq!(group_of(control.id().into()), GROUP);
    kill(Pid::from_raw(control.id().try_into().unwrap()), Signal::SIGABRT).unwrap();
    let ended = control.wait().unwrap();
    assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32));
    // Where a pattern leads elsewhere, nobody may be there to take it.
    if !pattern.is_empty() && !pattern.contains(['/', '|', '@']) {
        assert!(ended.core_dumped() && ended.to_string().contains("core dumped"), "{ended}");
        assert_eq!(cores(&dir).len(), 1);
    }
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
}

/// What a plugin of the protocol `clipfs` shows while it runs, and who runs it: into a file that the sweep looks through.
#[test]
fn a_plugin_shows_nothing_while_it_runs() {
    let mut sandbox = Sandbox::new();
    let password = secret("while it runs");
    let registry =
        Registry::start(RegistryConfig { auth: Auth::basic(USER, &password), ..RegistryConfig::default() });
    registry.push(&images::small(), "team/app", "1");
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    let seen = sandbox.path("seen");
    fs::create_dir(&seen).unwrap();
    let look = format!(
        "for what in environ cmdline; do\n\
         cat /proc/$$/$what >{0}/$$.plugin.$what && cat /proc/$PPID/$what >{0}/$$.parent.$what || exit 70\n\
         done\nexec {1} \"$@\"",
        seen.display(),
        credplugin().display()
    );
    let plugin = script(&sandbox, "looking", &look);
    let plugin = plugin.to_str().unwrap();
    let image = registry.reference("team/app", "1");
    let mountpoint =
        sandbox.mount(&image, &["--request", file.to_str().unwrap(), "--credential-plugin", plugin]);
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");

    let mut parents = Vec::new();
    for entry in fs::read_dir(&seen).unwrap() {
        let path = entry.unwrap().path();
        let shown = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        let words: Vec<&str> = shown.split_terminator('\0').collect();
        match path.file_name().unwrap().to_str().unwrap().split_once('.').unwrap().1 {
            "plugin.environ" => assert!(shown.is_empty(), "the environment of a plugin is empty: {shown:?}"),
            "plugin.cmdline" => assert_eq!(words, ["/bin/sh", plugin, "get"]),
            "parent.cmdline" => parents.push(words[1].to_owned()),
            "parent.environ" => {
                assert!(words.iter().any(|word| word.starts_with("CLIPFS_CACHE_DIR=")), "{words:?}")
            }
            other => panic!("{other}"),
        }
    }
    for parent in ["mount", "server"] {
        assert!(parents.iter().any(|word| word == parent), "asked by {parents:?}");
    }
    sandbox.sweep();
    // The sweep does look there.
    fs::write(seen.join("leak"), &password).unwrap();
    let swept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sandbox.sweep()));
    assert!(swept.is_err(), "a leak was passed over");
    fs::remove_file(seen.join("leak")).unwrap();
}
