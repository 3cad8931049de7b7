//! Credentials that end, change and come back while an image is mounted.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fixtures::content::Content;
use fixtures::images;
use fixtures::layer::Compress;
use fixtures::registry::{Auth, Bearer, Kind, Registry, RegistryConfig, Shaping};
use fixtures::secret::secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::hygiene::{GROUP, only_holds_what_it_needs};
use crate::requests::{USER, credplugin, request, script};
use crate::support::{Sandbox, describe, is_mounted, wait_until};

const MIB: u64 = 1 << 20;

/// A registry with tokens from another address and one big file that does not compress.
fn registry(password: &str, lifetime: Duration, size: u64) -> Registry {
    let mut bearer = Bearer::new(USER, password);
    bearer.endpoint = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)));
    bearer.lifetime = lifetime;
    let registry =
        Registry::start(RegistryConfig { auth: Auth::Bearer(bearer), ..RegistryConfig::default() });
    registry.push(&images::one_big_file(size, Compress::Gzip { level: 1 }), "team/big", "1");
    registry
}

/// Reads a piece of the big file and checks it.
fn read_piece(file: &fs::File, offset: u64, len: usize) -> std::io::Result<()> {
    let (mut found, mut expected) = (vec![0; len], vec![0; len]);
    file.read_exact_at(&mut found, offset)?;
    Content::new(images::BIG_SEED).read_at(offset, &mut expected);
    assert!(found == expected, "wrong bytes at {offset}");
    Ok(())
}

/// Tokens issued, calls of the token endpoint, and tokens that were presented after their end; when all three stand still: read-ahead goes
/// on for a moment when the readers have gone.
fn count(registry: &Registry) -> [u64; 3] {
    let now = || {
        let log = registry.log();
        let calls = log.iter().filter(|r| r.kind == Kind::Token).count();
        let refused = log.iter().filter(|r| r.kind != Kind::Token && r.status == 401);
        let ended: HashSet<_> = refused.filter_map(|r| r.authorization()).collect();
        ([registry.tokens_issued(), calls as u64, ended.len() as u64], log.len())
    };
    let (mut last, mut since) = (now(), Instant::now());
    wait_until("the registry to be left alone", || {
        let current = now();
        if current != last {
            (last, since) = (current, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    });
    last.0
}

#[test]
fn tokens_that_live_two_seconds_are_renewed_once_each() {
    const SIZE: u64 = 64 * MIB;
    const READERS: u64 = 50;
    const TIME: Duration = Duration::from_secs(10);
    let life = Duration::from_secs(2);
    let mut sandbox = Sandbox::new();
    let password = secret("short tokens");
    let registry = registry(&password, life, SIZE);
    let image = registry.reference("team/big", "1");
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    let index = sandbox.path("big.clip").display().to_string();
    let with = ["--request", file.to_str().unwrap()];
    sandbox.ok([&["index", &image, "-o", &index], &with[..]].concat());
    // Nothing stays in the cache: every read asks the registry.
    let small = ["--index", &index, "--memory", "1MiB", "--cache-size", "1MiB"];
    let mountpoint = sandbox.mount(&image, &[&with[..], &small].concat());
    registry.shape(Shaping {
        rtt: Duration::from_millis(20),
        bandwidth: Some(24 * MIB),
        ..Shaping::default()
    });
    // The server has a token of its own, and nobody else asks for any, when the count begins.
    read_piece(&fs::File::open(mountpoint.join("big")).unwrap(), 0, 4096).unwrap();
    let (before, start) = (count(&registry), Instant::now());
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (mountpoint, failed) = (&mountpoint, &failed);
            scope.spawn(move || {
                let file = fs::File::open(mountpoint.join("big")).unwrap();
                let mut rng = fixtures::rng::SplitMix64::new(reader);
                while start.elapsed() < TIME {
                    let offset = rng.below(SIZE - 4096);
                    if read_piece(&file, offset, 4096).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let (took, after) = (start.elapsed(), count(&registry));
    let [issued, calls, ended] = [0, 1, 2].map(|n| after[n] - before[n]);
    assert_eq!((issued, calls), (ended, ended), "one for each token that ended under a reader");
    let lives = u64::try_from(took.as_millis() / life.as_millis()).unwrap() + 1;
    assert!((3..=lives).contains(&ended), "{ended} tokens of 2 s ended within {took:?}");
    assert_eq!(sandbox.status(&mountpoint)["read_errors"], 0);
}

/// Reads one piece after another until told to stop; errors are counted.
fn keep_reading(path: &Path, size: u64, stop: &AtomicBool, errors: &AtomicU64) -> u64 {
    let file = fs::File::open(path).unwrap();
    let (mut n, mut good) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        match read_piece(&file, n % (size / MIB) * MIB, 4096) {
            Ok(()) => good += 1,
            Err(_) => drop(errors.fetch_add(1, Ordering::Relaxed)),
        }
        n += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    good
}

#[test]
fn a_rotated_secret_never_ends_a_reader() {
    const SIZE: u64 = 96 * MIB;
    for plugin in [false, true] {
        let mut sandbox = Sandbox::new();
        let (old, new) = (secret("rotation old"), secret("rotation new"));
        let registry = registry(&old, Duration::from_secs(60), SIZE);
        let host = registry.addr().to_string();
        let file = sandbox.write_secret("request.json", request(&host, &old)).display().to_string();
        let mut args = vec!["--request", &file, "--memory", "1MiB", "--cache-size", "1MiB"];
        if plugin {
            args.extend(["--credential-plugin", credplugin().to_str().unwrap()]);
        }
        let mountpoint = sandbox.mount(&registry.reference("team/big", "1"), &args);
        let (stop, errors) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| keep_reading(&mountpoint.join("big"), SIZE, &stop, &errors));
            std::thread::sleep(Duration::from_millis(500));
            sandbox.write_secret("request.json", request(&host, &new));
            registry.set_password(USER, &new);
            registry.revoke_all();
            std::thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 5);
        });
        assert_eq!(errors.load(Ordering::Relaxed), 0, "plugin: {plugin}");
        assert_eq!(sandbox.status(&mountpoint)["state"], "ok");
    }
}

#[test]
fn a_secret_revoked_before_it_is_replaced_is_an_error_until_then() {
    const SIZE: u64 = 96 * MIB;
    let mut sandbox = Sandbox::new();
    let (old, new) = (secret("revoked old"), secret("revoked new"));
    let registry = registry(&old, Duration::from_secs(60), SIZE);
    let host = registry.addr().to_string();
    let file = sandbox.write_secret("request.json", request(&host, &old)).display().to_string();
    let args = ["--request", &file, "--memory", "1MiB", "--cache-size", "1MiB"];
    let mountpoint = sandbox.mount(&registry.reference("team/big", "1"), &args);
    let (stop, errors) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| keep_reading(&mountpoint.join("big"), SIZE, &stop, &errors));
        registry.set_password(USER, &new);
        registry.revoke_all();
        wait_until("the refusal to be seen", || sandbox.status(&mountpoint)["state"] == "auth_denied");
        assert!(errors.load(Ordering::Relaxed) > 0, "readers are told, not held up");
        let said = sandbox.status(&mountpoint)["last_error"].as_str().unwrap().to_owned();
        assert!(said.contains("denied"), "{said}");
        let asked = registry.log().len();
        sandbox.write_secret("request.json", request(&host, &new));
        wait_until("recovery", || sandbox.status(&mountpoint)["state"] == "ok");
        let before = errors.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(errors.load(Ordering::Relaxed), before, "all is well again");
        assert!(registry.log().len() > asked);
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

pub(crate) fn kill_server(sandbox: &Sandbox, mountpoint: &Path, signal: Signal) {
    let pid = sandbox.status(mountpoint)["server_pid"].as_u64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    wait_until("the next server", || {
        sandbox.status(mountpoint)["server_pid"].as_u64().is_some_and(|next| next != pid)
    });
}

/// Mounts the big image with `--request -`.
fn mount_by_input(sandbox: &mut Sandbox, image: &str, text: &str, extra: &[&str]) -> PathBuf {
    let mountpoint = sandbox.path("by-input");
    fs::create_dir(&mountpoint).unwrap();
    let args = [&["mount", image, mountpoint.to_str().unwrap(), "--request", "-"], extra].concat();
    let mut child = sandbox.clipfs(args);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = sandbox.take_log(child.wait_with_output().unwrap());
    assert!(output.status.success(), "{}", describe(&output));
    sandbox.adopt(&mountpoint);
    mountpoint
}

#[test]
fn a_restarted_server_has_its_request_again() {
    const SIZE: u64 = 64 * MIB;
    let mut sandbox = Sandbox::new();
    sandbox.set_group(GROUP);
    let password = secret("restart");
    let registry = registry(&password, Duration::from_secs(300), SIZE);
    let image = registry.reference("team/big", "1");
    let text = request(&registry.addr().to_string(), &password);
    let file = sandbox.write_secret("request.json", &text).display().to_string();
    let plugin = credplugin().to_str().unwrap();
    let small = ["--memory", "1MiB", "--cache-size", "1MiB"];
    let by_file = sandbox.mount(&image, &[&["--request", &file], &small[..]].concat());
    let by_input =
        mount_by_input(&mut sandbox, &image, &text, &[&small[..], &["--credential-plugin", plugin]].concat());
    for mountpoint in [&by_file, &by_input] {
        let big = fs::File::open(mountpoint.join("big")).unwrap();
        for n in 0..3 {
            kill_server(&sandbox, mountpoint, Signal::SIGKILL);
            let issued = registry.tokens_issued();
            read_piece(&big, (10 + 10 * n) * MIB, 4096).unwrap();
            assert!(registry.tokens_issued() > issued, "the new server asks for itself");
        }
        let status = sandbox.status(mountpoint);
        assert_eq!((&status["state"], &status["read_errors"]), (&"ok".into(), &0.into()));
        only_holds_what_it_needs(&status);
        kill_server(&sandbox, mountpoint, Signal::SIGABRT);
        read_piece(&big, 50 * MIB, 4096).unwrap();
        only_holds_what_it_needs(&sandbox.status(mountpoint));
    }
}

#[test]
fn a_mount_outlives_its_request_and_its_plugin() {
    const SIZE: u64 = 64 * MIB;
    let mut sandbox = Sandbox::new();
    let password = secret("outlives");
    let registry = registry(&password, Duration::from_secs(300), SIZE);
    let text = request(&registry.addr().to_string(), &password);
    let file = sandbox.write_secret("request.json", &text);
    let real = format!("exec {} \"$@\"", credplugin().display());
    let plugin = script(&sandbox, "plugin", &real);
    let args = ["--request", file.to_str().unwrap(), "--credential-plugin", plugin.to_str().unwrap()];
    let mountpoint = sandbox.mount(&registry.reference("team/big", "1"), &args);
    assert_eq!(fs::read(mountpoint.join("before")).unwrap(), b"before\n");
    let big = fs::File::open(mountpoint.join("big")).unwrap();

    fs::remove_file(&file).unwrap();
    kill_server(&sandbox, &mountpoint, Signal::SIGKILL);
    wait_until("the state", || sandbox.status(&mountpoint)["state"] == "auth_denied");
    assert!(is_mounted(&mountpoint));
    assert_eq!(fs::read(mountpoint.join("before")).unwrap(), b"before\n", "what is cached is served");
    assert!(read_piece(&big, 40 * MIB, 4096).is_err());
    let said = sandbox.status(&mountpoint)["last_error"].to_string();
    assert!(said.contains("request.json"), "{said}");
    sandbox.write_secret("request.json", &text);
    wait_until("recovery", || sandbox.status(&mountpoint)["state"] == "ok");
    read_piece(&big, 40 * MIB, 4096).unwrap();

    script(&sandbox, "plugin", "exit 70");
    kill_server(&sandbox, &mountpoint, Signal::SIGKILL);
    assert!(read_piece(&big, 50 * MIB, 4096).is_err());
    assert_eq!(fs::read(mountpoint.join("before")).unwrap(), b"before\n");
    script(&sandbox, "plugin", &real);
    wait_until("the plugin to be asked again", || read_piece(&big, 50 * MIB, 4096).is_ok());
    wait_until("recovery", || sandbox.status(&mountpoint)["state"] == "ok");
}
