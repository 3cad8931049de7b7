//! What the program takes in, and how much memory that costs.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::run::{MARK, Ran, basic, get, program, run, spawn, wrapped};

const IMAGE: [&str; 2] = ["--image", "r.example.com/app"];
/// The peak of a program that keeps to its cap: the document, its tree, the program itself. It is 8 MiB for a small request.
const MAX_PEAK_KIB: u64 = 48 << 10;

/// Address space for all of it: code, libraries, stack, heap.
const MAX_SPACE_KIB: u64 = 96 << 10;

/// The peak of a process that has ended but is not yet waited for is gone; so it is sampled while it lives.
fn peak_kib(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Feeds chunks until they end or the program has enough. Gives how many bytes it took and the largest peak seen.
fn feed(chunks: impl Iterator<Item = Vec<u8>>) -> (Ran, u64, u64) {
    let mut child = spawn(program().arg("get").args(IMAGE));
    let mut stdin = child.stdin.take().unwrap();
    let (mut taken, mut peak) = (0, 0);
    for chunk in chunks {
        if stdin.write_all(&chunk).is_err() {
            break;
        }
        taken += u64::try_from(chunk.len()).unwrap();
        peak = peak.max(peak_kib(&child).unwrap_or(0));
    }
    drop(stdin);
    (child.wait_with_output().unwrap().into(), taken, peak)
}

#[test]
fn stops_at_the_cap() {
    let start = || std::iter::once(br#"{"container_id":"pl4nted-"#.to_vec());
    let hundred_mib = start().chain(std::iter::repeat_n(vec![b'x'; 64 << 10], 1600));
    let endless = start().chain(std::iter::repeat(vec![b'x'; 64 << 10]));
    for (name, (ran, taken, peak)) in [("100 MiB", feed(hundred_mib)), ("endless", feed(endless))] {
        assert_eq!(
            (ran.code, ran.tells_nothing().document()["code"].clone()),
            (65, json!("bad_request")),
            "{name}"
        );
        assert!(ran.stderr.contains("larger than 1048576 bytes"), "{ran:?}");
        // The cap, and what fits into the pipe.
        assert!(taken <= (1 << 20) + (256 << 10), "{name}: {taken}");
        assert!(peak > 0 && peak < MAX_PEAK_KIB, "{name}: {peak} KiB");
    }
}

/// The document has a cap, not the request in it: a bare request may be as large as the document.
#[test]
fn up_to_the_cap_and_not_a_byte_more() {
    const CAP: usize = 1 << 20;
    let request = basic("r.example.com", "p");
    let question = json!({
        "apiVersion": "clipfs.dev/v1", "kind": "CredentialRequest", "image": IMAGE[1],
        "registry": "r.example.com", "endpoints": {},
    });
    let question = question.to_string().replacen('{', &format!("{{\"containerRequest\":{request},"), 1);
    // One that must not take more room when it is written again.
    for filler in ["x", "\\b", "\\u0000", "é"] {
        for (kind, document, args) in [("request", &request, &IMAGE[..]), ("question", &question, &[])] {
            let filled = |size: usize| {
                let room = size - document.len() - r#""of_later":"","#.len();
                let (count, rest) = (room / filler.len(), room % filler.len());
                let field = format!(r#""of_later":"{}{}","#, filler.repeat(count), "x".repeat(rest));
                document.replacen("\"container_id\"", &format!("{field}\"container_id\""), 1)
            };
            assert_eq!((filled(CAP).len(), filled(CAP + 1).len()), (CAP, CAP + 1));
            let ran = get(args, filled(CAP));
            assert_eq!(ran.code, 0, "{kind} of {filler}: {ran:?}");
            let ran = get(args, filled(CAP + 1));
            assert_eq!(ran.code, 65, "{kind} of {filler}");
            assert!(ran.stderr.contains("larger than 1048576 bytes"), "{ran:?}");
        }
    }
}

/// Runs it with that much address space: whoever wants more is refused by the kernel and aborts. Exact, where sampling is not.
fn code_within(kib: u64, input: &[u8]) -> Option<i32> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    std::fs::write(&file, input).unwrap();
    Command::new("sh")
        .args([
            "-c",
            r#"ulimit -v "$0" && exec "$@""#,
            &kib.to_string(),
            env!("CARGO_BIN_EXE_credplugin"),
            "get",
        ])
        .args(IMAGE)
        .stdin(std::fs::File::open(&file).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .code()
}

#[test]
fn bombs_stay_small() {
    let mib = 1 << 20;
    let fill = |head: &str, item: &str, tail: &str| {
        let count = (mib - head.len() - tail.len()) / item.len();
        format!("{head}{}{tail}", item.repeat(count))
    };
    let table = [
        ("depth", "[".repeat(100_000)),
        ("objects", fill("", r#"{"a":"#, "")),
        ("array of nothing", fill("[0", ",0", "]")),
        ("array of arrays", fill("{\"env\":[[]", ",[]", "]}")),
        (
            "members",
            format!("{{{}}}", (0..90_000).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",")),
        ),
        ("escapes", fill("{\"image_credentials\":\"", "\\u0041", "\"}")),
        ("inner depth", json!({"image_credentials": "[".repeat(100_000)}).to_string()),
        ("inner array", json!({"image_credentials": format!("[{}0]", "0,".repeat(500_000))}).to_string()),
        ("spaces", fill("", " ", "")),
    ];
    // The bound bounds: with less, the program does not even start.
    assert_ne!(code_within(4 << 10, basic("r.example.com", "p").as_bytes()), Some(0));
    for (name, input) in table {
        assert_eq!(code_within(MAX_SPACE_KIB, input.as_bytes()), Some(65), "{name}");
    }
}

#[test]
fn documents_that_are_refused_whole() {
    let good = basic("r.example.com", "pl4nted-p");
    let table = [
        ("duplicate", good.replacen('{', r#"{"image_credentials":"","#, 1), "image_credentials"),
        (
            "nested duplicate",
            good.replacen('{', r#"{"stub":{"name":"pl4nted-1","name":"pl4nted-2"},"#, 1),
            "stub.name",
        ),
        ("byte-order mark", format!("\u{feff}{good}"), "byte-order mark"),
        ("trailing", format!("{good} pl4nted-trailing"), "follows"),
        ("two documents", format!("{good}{good}"), "follows"),
        ("cut off", good[..good.len() - 1].to_owned(), "ends"),
        ("nothing", String::new(), "empty"),
        ("no object", "[1]".into(), "object"),
        ("a string", "\"pl4nted-text\"".into(), "object"),
        ("wrong type", good.replace(r#""c1""#, r#"{"pl4nted-key":1}"#), "container_id"),
        ("wrong number", good.replace("100", r#""pl4nted-number""#), "cpu"),
        ("wrong item", good.replacen('{', r#"{"env":["a",["pl4nted-env"]],"#, 1), "env[1]"),
    ];
    for (name, input, part) in table {
        let ran = get(&IMAGE, input);
        assert_eq!(ran.tells_nothing().code, 65, "{name}: {ran:?}");
        let message = ran.document()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{name}: {message}");
    }
    for bytes in [&b"\xff\xfe{\0}\0"[..], b"{\"container_id\":\"\xff\"}", b"\0"] {
        assert_eq!(get(&IMAGE, bytes).code, 65);
    }
    // Unknown fields are none of its business.
    assert_eq!(get(&IMAGE, good.replacen('{', r#"{"of_later":{"a":[null]},"#, 1)).code, 0);
}

#[test]
fn nothing_secret_in_arguments_and_environment() {
    let mut child = program()
        .arg("get")
        .args(IMAGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = basic("r.example.com", "pl4nted-p");
    // All but the end: it waits, with the secret in its memory.
    let (most, rest) = input.as_bytes().split_at(input.len() - 1);
    stdin.write_all(most).unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    let deadline = Instant::now() + Duration::from_secs(20);
    // Soft and hard limit, when it has come so far. Not zero, which does not count where cores are piped to a program.
    loop {
        let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        if core.split_whitespace().skip(4).take(2).eq(["1", "1"]) {
            break;
        }
        assert!(Instant::now() < deadline, "core dumps are on: {core}");
        std::thread::sleep(Duration::from_millis(5));
    }
    for file in ["environ", "cmdline", "comm", "status"] {
        let text = String::from_utf8_lossy(&std::fs::read(proc.join(file)).unwrap()).into_owned();
        assert!(!text.contains(MARK), "{file}: {text}");
    }
    let threads = std::fs::read_dir(proc.join("task")).unwrap().count();
    assert_eq!(threads, 1);
    stdin.write_all(rest).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("pl4nted-p"));
}

/// The kernel gives the files of a process that is not dumpable to root: then other processes of its user neither trace it nor read its
/// memory or environment.
#[test]
fn its_memory_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("credplugin");
    std::fs::copy(env!("CARGO_BIN_EXE_credplugin"), &copy).unwrap();
    let mut command = Command::new(&copy);
    command
        .env_clear()
        .arg("get")
        .args(IMAGE)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let mut child = command.spawn().unwrap();
    let environ = format!("/proc/{}/environ", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    // It is one of the first things that it does, but not before it runs.
    while std::fs::metadata(&environ).unwrap().uid() != 0 {
        assert!(Instant::now() < deadline, "{environ} is not root's");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(65));
}

/// A program that may leave cores of any size, in this directory where `core_pattern` is relative.
fn unlimited(program: &str, dir: &std::path::Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -c unlimited 2>/dev/null; exec "$@""#, "sh", program]);
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(dir);
    command
}

/// Crashes it: with SIGABRT, since Rust's own handler takes the first SIGSEGV for a stack overflow and returns. Whether the kernel made a core of it (wherever it may have gone), and what is in the directory now.
fn crash(mut child: Child, dir: &std::path::Path) -> (bool, usize) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(6), "{status}");
    (status.core_dumped(), std::fs::read_dir(dir).unwrap().count())
}

#[test]
fn a_crash_leaves_no_core() {
    let dir = tempfile::tempdir().unwrap();
    let spawn = || {
        let mut command = unlimited(env!("CARGO_BIN_EXE_credplugin"), dir.path());
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    // With most of a request in its memory, waiting for the rest.
    let mut waits = spawn();
    let request = basic("r.example.com", "pl4nted-p");
    waits.stdin.as_mut().unwrap().write_all(&request.as_bytes()[..request.len() - 1]).unwrap();
    let limits = format!("/proc/{}/limits", waits.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    let hardened = || {
        let limits = std::fs::read_to_string(&limits).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        core.split_whitespace().nth(4) == Some("1")
    };
    while !hardened() {
        assert!(Instant::now() < deadline, "core dumps are on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(crash(waits, dir.path()), (false, 0));

    // With all of it, waiting for an endpoint that says nothing.
    let endpoint = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = json!({
        "AWS_ACCESS_KEY_ID": "pl4nted-id", "AWS_SECRET_ACCESS_KEY": "pl4nted-key", "AWS_REGION": "eu-west-1",
    });
    let registry = "127.0.0.1:5000";
    let question = json!({
        "apiVersion": "clipfs.dev/v1", "kind": "CredentialRequest",
        "image": format!("{registry}/app"), "registry": registry,
        "endpoints": {"ecr": format!("http://{}", endpoint.local_addr().unwrap())},
        "containerRequest": {"image_credentials": wrapped(registry, "aws", keys).to_string()},
    });
    let mut asks = spawn();
    asks.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let _connection = endpoint.accept().unwrap();
    assert_eq!(crash(asks, dir.path()), (false, 0));

    // That it would be seen: a program that does nothing against it. Where a pattern leads elsewhere, nobody may be there to take it.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let may = run(unlimited("sh", dir.path()).args(["-c", "ulimit -H -c"]), "").stdout;
    if may.trim() == "unlimited" && !pattern.trim().is_empty() && !pattern.contains(['/', '|', '@']) {
        let control = unlimited("sleep", dir.path()).arg("1000").spawn().unwrap();
        // Not the shell before it has raised the limit.
        let name = format!("/proc/{}/comm", control.id());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
            assert!(Instant::now() < deadline, "sleep does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(crash(control, dir.path()), (true, 1));
    }
}
