//! Scripts as plugins: what they get, how they fail, and that nothing of them is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::super::hardening::tests::alone;
use super::*;

/// Long enough for a loaded machine: only what is to hang waits for its limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes an executable file.
pub(in crate::credentials) fn program(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Writes a shell script.
pub(in crate::credentials) fn script(dir: &Path, body: &str) -> PathBuf {
    let name = format!("plugin-{}", fastrand::u64(..));
    program(dir, &name, &format!("#!/bin/sh\n{body}\n"))
}

/// Whether a process runs: gone and zombie are no.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until it is so: what kills and reaps does so after the caller has its answer.
pub(in crate::credentials) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn until_reaped(pid: &str) {
    let path = format!("/proc/{pid}");
    until("the plugin is reaped", || !Path::new(&path).exists()).await;
}

pub(in crate::credentials) fn limits<'a>(places: &'a Places, program: &'a Path, input: &'a [u8]) -> Run<'a> {
    Run { places, program, args: &["get"], env: &[], input, limit: PATIENCE, max_output: 64 << 10 }
}

async fn output_of(body: &str) -> String {
    let dir = TempDir::new().unwrap();
    let program = script(dir.path(), body);
    let ran = run(limits(&Places::default(), &program, b"")).await.unwrap();
    assert!(ran.status.success(), "{body}: {ran:?}");
    String::from_utf8(ran.output.to_vec()).unwrap()
}

#[tokio::test]
async fn a_plugin_gets_what_is_given_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let program = script(dir.path(), "/usr/bin/env; pwd; echo \"$@\"; /bin/cat");
    let env = [("LISTED".into(), "a b".into())];
    let ran =
        run(Run { env: &env, args: &["get", "it"], ..limits(&Places::default(), &program, b"in\0put") })
            .await
            .unwrap();
    let text = String::from_utf8(ran.output.to_vec()).unwrap();
    let mut lines: BTreeSet<_> = text.lines().collect();
    // The shell's own.
    for own in ["PWD=/", "_=/usr/bin/env", "OLDPWD="] {
        lines.remove(own);
    }
    lines.retain(|line| !line.starts_with("SHLVL="));
    assert_eq!(lines, ["LISTED=a b", "/", "get it", "in\0put"].into());
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let dir = TempDir::new().unwrap();
    let given = inheritable();
    // What this process has open while a plugin runs: files, memory files, pipes, a socket, an event loop.
    let _file = fs::File::create(dir.path().join("open")).unwrap();
    let _memory =
        nix::sys::memfd::memfd_create("pl4nted-memory", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _fuse = fs::File::open("/dev/fuse");
    let listing = output_of("exec ls -l /proc/self/fd").await;
    let open: Vec<_> = listing.lines().filter_map(|line| line.split_once(" -> ")).collect();
    let targets: BTreeMap<_, _> = open
        .iter()
        .map(|(left, target)| (left.rsplit_once(' ').unwrap().1.parse::<i32>().unwrap(), *target))
        .collect();
    assert!(targets[&0].starts_with("pipe:") && targets[&1].starts_with("pipe:"), "{listing}");
    assert_eq!(targets[&2], "/dev/null");
    for (descriptor, target) in targets.range(3..) {
        // The listing's own look at the directory, and what whoever started the tests has given to all.
        let own = target.starts_with("/proc/") && target.ends_with("/fd");
        assert!(own || given.contains(descriptor), "{descriptor} -> {target}\n{listing}");
    }
}

/// Descriptors of this process that any child inherits.
fn inheritable() -> BTreeSet<i32> {
    let close_on_exec = nix::fcntl::OFlag::O_CLOEXEC.bits();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let path = entry.unwrap().path();
        // Other tests close theirs.
        let Ok(info) = fs::read_to_string(&path) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        if i32::from_str_radix(flags, 8).unwrap() & close_on_exec == 0 {
            found.insert(path.file_name().unwrap().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

#[tokio::test]
async fn signals_and_group_are_those_of_a_fresh_process() {
    let status = output_of("cat /proc/self/status").await;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap();
    // Without 32 and 33, which are the C library's own.
    assert_eq!((set("SigBlk:"), set("SigIgn:") & 0x7fff_ffff), (0, 0), "{status}");
    let stat = output_of("cat /proc/$$/stat").await;
    let (pid, _) = stat.split_once(' ').unwrap();
    let group = stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap();
    assert_eq!(pid, group);
}

#[tokio::test]
async fn input_and_output_flow_at_the_same_time() {
    let dir = TempDir::new().unwrap();
    let input = vec![b'x'; 1 << 20];
    let cat = script(dir.path(), "exec cat");
    let ran = run(Run { max_output: input.len(), ..limits(&Places::default(), &cat, &input) }).await.unwrap();
    assert_eq!(*ran.output, input, "exactly the cap is allowed");
    let deaf = script(dir.path(), "exec <&-; echo deaf");
    let ran = run(limits(&Places::default(), &deaf, &input)).await.unwrap();
    assert_eq!(*ran.output, b"deaf\n");
    let deaf_to_the_end = script(dir.path(), "sleep 1000 >/dev/null & echo $!");
    let ran = run(limits(&Places::default(), &deaf_to_the_end, &input)).await.unwrap();
    let child = String::from_utf8(ran.output.to_vec()).unwrap();
    until("the child that held the input is gone", || !runs(child.trim())).await;
}

/// In a process of its own, whose peak is its alone.
#[tokio::test]
async fn a_gibibyte_is_not_collected() {
    if !alone(concat!(module_path!(), "::a_gibibyte_is_not_collected")) {
        return;
    }
    const MAX_GROWTH_KIB: u64 = 4 << 10;
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let dir = TempDir::new().unwrap();
    let places = Places::default();
    // What the first run of any plugin takes, and that the measure measures: a larger cap takes more.
    let quiet = script(dir.path(), "exit 0");
    run(limits(&places, &quiet, b"")).await.unwrap();
    let program = script(dir.path(), "echo $$ > \"$0.pid\"; exec head -c 1073741824 /dev/zero");
    let before = peak();
    let error = run(limits(&places, &program, b"")).await.unwrap_err();
    let grown = peak() - before;
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB more at the peak");
    let reason = format!("{} printed more than 64 KiB and was killed", program.display());
    assert_eq!(error, CredentialError::Broken(reason));
    until_reaped(fs::read_to_string(program.with_extension("pid")).unwrap().trim()).await;
    let large = Run { max_output: 16 << 20, ..limits(&places, &program, b"") };
    run(large).await.unwrap_err();
    assert!(peak() - before > MAX_GROWTH_KIB, "the measure sees what is collected");
}

#[tokio::test]
async fn the_limit_ends_the_whole_group() {
    let dir = TempDir::new().unwrap();
    let program = script(
        dir.path(),
        "sleep 1000 & echo $! > \"$0.child.new\"; mv \"$0.child.new\" \"$0.child\"\necho $$ > \"$0.pid\"; wait",
    );
    // Longer limits until it has come so far: no assertion on the machine's speed.
    let mut limit = Duration::from_millis(200);
    loop {
        let error = run(Run { limit, ..limits(&Places::default(), &program, b"") }).await.unwrap_err();
        assert!(matches!(&error, CredentialError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("did not end within"), "{error}");
        if program.with_extension("pid").exists() {
            break;
        }
        limit *= 2;
    }
    until_reaped(fs::read_to_string(program.with_extension("pid")).unwrap().trim()).await;
    let child = fs::read_to_string(program.with_extension("child")).unwrap();
    until("the child is gone", || !runs(child.trim())).await;
}

#[tokio::test]
async fn a_child_that_holds_the_output_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let program = script(dir.path(), "sleep 1000 & echo $!");
    let ran = run(limits(&Places::default(), &program, b"")).await.unwrap();
    assert!(ran.status.success());
    let child = String::from_utf8(ran.output.to_vec()).unwrap();
    assert!(child.trim().parse::<u32>().is_ok(), "{child:?}");
    until("the child is gone", || !runs(child.trim())).await;
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let program =
        script(dir.path(), "echo $$ > \"$0.new\"; mv \"$0.new\" \"$0.pid\"; trap '' TERM; sleep 1000");
    let file = program.with_extension("pid");
    let task = tokio::spawn(async move { run(limits(&Places::default(), &program, b"")).await });
    until("it runs", || file.exists()).await;
    let pid = fs::read_to_string(&file).unwrap();
    assert!(runs(pid.trim()));
    task.abort();
    let _ = task.await;
    until_reaped(pid.trim()).await;
}

#[tokio::test]
async fn a_future_dropped_while_starting_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let program = script(dir.path(), "echo $$ >> \"$0.pids\"; exec sleep 1000");
    let places = Places::default();
    for polls in 0..20 {
        let task = tokio::spawn({
            let (places, program) = (places.clone(), program.clone());
            async move { run(limits(&places, &program, b"")).await }
        });
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
    }
    // All places are free again only when all are reaped.
    let all = u32::try_from(MAX_RUNNING).unwrap();
    let free = tokio::time::timeout(PATIENCE, places.0.acquire_many(all)).await.expect("all end");
    drop(free);
    for pid in fs::read_to_string(program.with_extension("pids")).unwrap_or_default().lines() {
        assert!(!runs(pid), "{pid}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_run_at_a_time() {
    let dir = TempDir::new().unwrap();
    let body = "mkdir \"$(dirname $0)/run.$$\"; ls -d \"$(dirname $0)\"/run.* | wc -l; sleep 0.1; rmdir \"$(dirname $0)/run.$$\"";
    let program = script(dir.path(), body);
    let places = Places::default();
    let runs = (0..3 * MAX_RUNNING).map(|_| {
        let (places, program) = (places.clone(), program.clone());
        tokio::spawn(async move { run(limits(&places, &program, b"")).await.unwrap() })
    });
    for ran in futures_util::future::join_all(runs).await {
        let seen = String::from_utf8(ran.unwrap().output.to_vec()).unwrap();
        assert!(seen.trim().parse::<usize>().unwrap() <= MAX_RUNNING, "{seen}");
    }
}

#[tokio::test]
async fn who_waits_for_a_place_waits_for_its_own_places_only() {
    let dir = TempDir::new().unwrap();
    let program = script(dir.path(), "echo ran");
    let (full, free) = (Places::default(), Places::default());
    let _all = full.0.acquire_many(u32::try_from(MAX_RUNNING).unwrap()).await.unwrap();
    let limit = Duration::from_millis(10);
    let error = run(Run { limit, ..limits(&full, &program, b"") }).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("8 plugins are running"), "{error}");
    assert_eq!(*run(limits(&free, &program, b"")).await.unwrap().output, b"ran\n");
    let (a, b) = (Places::of_this_process(), Places::of_this_process());
    assert!(Arc::ptr_eq(&a.0, &b.0), "of all providers");
}

#[tokio::test]
async fn ends_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let table = [
        ("exit 0", ""),
        ("exit 1", ""),
        (
            "exit 126",
            "credential source: {} ended with exit code 126: something that it runs is not executable",
        ),
        ("exit 127", "credential source: {} ended with exit code 127: something that it runs was not found"),
        (
            "kill -KILL $$",
            "credential source unavailable: {} was killed (SIGKILL): the system may be short of memory",
        ),
        ("kill -SEGV $$", "credential source is broken: {} crashed (SIGSEGV)"),
        ("kill -ABRT $$", "credential source is broken: {} crashed (SIGABRT)"),
    ];
    for (body, expected) in table {
        let program = script(dir.path(), body);
        let ran = run(limits(&Places::default(), &program, b"")).await.unwrap();
        let told = ran.check_end(&program).map_or_else(|e| e.to_string(), |()| String::new());
        assert_eq!(told, expected.replace("{}", &program.display().to_string()), "{body}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = TempDir::new().unwrap();
    let table = [
        ("no-interpreter", "#!/there/is/no/such/shell\n", "its interpreter"),
        ("text", "echo hello\n", "needs a #! line"),
    ];
    for (name, text, expected) in table {
        let path = program(dir.path(), name, text);
        let error = run(limits(&Places::default(), &path, b"")).await.unwrap_err();
        assert!(matches!(&error, CredentialError::Configuration(why) if why.contains(expected)), "{error}");
    }
    let path = program(dir.path(), "written", "#!/bin/sh\n");
    let open = fs::File::options().write(true).open(&path).unwrap();
    let error = run(limits(&Places::default(), &path, b"")).await.unwrap_err();
    assert!(matches!(&error, CredentialError::Unavailable(why) if why.contains("being written")), "{error}");
    drop(open);
    run(limits(&Places::default(), &path, b"")).await.unwrap();
}

#[test]
fn programs_are_found_or_it_is_said_why_not() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let good = program(dir.path(), "good", "");
    let plain = at("plain");
    fs::write(&plain, "").unwrap();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink("good", at("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("broken")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o777)).unwrap();
    assert_eq!(find_program(&good), Ok(good.clone()));
    assert_eq!(find_program(&at("link")), Ok(at("link")));
    let table = [
        ("missing", "there is no"),
        ("plain", "is not executable: chmod +x"),
        ("folder", "is a directory"),
        ("broken", "a link that leads nowhere"),
        ("fifo", "not a regular file"),
    ];
    for (name, expected) in table {
        let error = find_program(&at(name)).unwrap_err();
        let CredentialError::Configuration(why) = error else { panic!("{error:?}") };
        assert!(why.contains(expected) && why.contains(name), "{why}");
    }
    let dirs = || [PathBuf::from("relative"), at("folder"), dir.path().to_owned()].into_iter();
    assert_eq!(find_in(Path::new("good"), dirs()), Ok(good));
    let error = find_in(Path::new("plain"), dirs()).unwrap_err().to_string();
    assert!(error.contains("is not executable"), "{error}");
    let error = find_in(Path::new("missing"), dirs()).unwrap_err().to_string();
    assert!(error.contains("no program missing in PATH"), "{error}");
    assert!(find_program(Path::new("sh")).unwrap().is_absolute());
    let error = find_program(Path::new("")).unwrap_err().to_string();
    assert!(error.contains("the plugin's name is empty"), "{error}");
    let here = find_program(Path::new("./good")).unwrap_err().to_string();
    assert!(here.contains("there is no /"), "{here}");
}

#[test]
fn the_environment_is_what_was_listed() {
    // Whatever this process has besides PATH and HOME, if anything.
    let other =
        std::env::vars().map(|(name, _)| name).find(|name| !["PATH", "HOME"].contains(&name.as_str()));
    let listed: Vec<_> = ["HOME", "NO_SUCH_VARIABLE", "", "A=B", "N\0L"]
        .into_iter()
        .chain(other.as_deref())
        .map(str::to_owned)
        .collect();
    let env = environment(&listed);
    let got: BTreeSet<_> = env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(got.len(), env.len(), "once each");
    let expected: BTreeSet<_> = ["PATH", "HOME"]
        .into_iter()
        .chain(other.as_deref())
        .filter(|name| std::env::var_os(name).is_some())
        .collect();
    assert_eq!(got, expected);
    assert!(env.iter().all(|(name, value)| std::env::var_os(name).as_ref() == Some(value)));
}

#[test]
fn debug_has_no_output() {
    let ran = Ran { status: ExitStatus::from_raw(0), output: Zeroizing::new(b"pl4nted-debug".to_vec()) };
    let text = format!("{ran:?}");
    assert!(!text.contains("pl4nted") && !text.contains("112, 108"), "{text}");
}
