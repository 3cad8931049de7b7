//! Tests that change their process have one of their own.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use nix::sys::prctl::get_dumpable;
use nix::sys::resource::RLIM_INFINITY;

use super::*;
use crate::credentials::exec::tests::{limits, script};
use crate::credentials::exec::{Places, run};

/// Whose test it is, in a process that was started by [`alone`].
const ALONE: &str = "CLIPFS_TEST_ALONE";

/// `true` in a process that runs this test and nothing else. Elsewhere it starts that process, checks that it ran the test and
/// that it passed, and is `false`. `test` = `module_path!()`, `::` and the name.
pub(in crate::credentials) fn alone(test: &str) -> bool {
    if std::env::var(ALONE).is_ok_and(|alone| alone == test) {
        return true;
    }
    let (_, name) = test.split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(ALONE, test)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{}\n{said}", output.status);
    false
}

/// The limits of whoever started the tests are not to be what is seen.
fn unlimit() {
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)
        .or_else(|_| {
            let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
            setrlimit(Resource::RLIMIT_CORE, hard, hard)
        })
        .unwrap();
}

#[test]
fn a_hardened_process_has_no_cores_and_hides_its_memory() {
    if !alone(concat!(module_path!(), "::a_hardened_process_has_no_cores_and_hides_its_memory")) {
        return;
    }
    unlimit();
    assert_eq!(get_dumpable(), Ok(true), "as after every execve");
    harden();
    assert_eq!(get_dumpable(), Ok(false));
    assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((CORE_LIMIT, CORE_LIMIT)));
    harden();
    assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((CORE_LIMIT, CORE_LIMIT)), "twice is as good as once");
}

#[test]
fn zero_stays_where_it_cannot_be_raised() {
    if !alone(concat!(module_path!(), "::zero_stays_where_it_cannot_be_raised")) {
        return;
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setresuid(65_534.into(), 65_534.into(), 65_534.into()).unwrap();
    }
    assert!(setrlimit(Resource::RLIMIT_CORE, 1, 1).is_err(), "an ordinary user");
    limit_cores().unwrap();
    assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
}

/// Kernel fact: only with a limit of one byte is a core piped to nobody. Which limits a plugin has, whoever runs it.
#[tokio::test]
async fn plugins_have_the_limit_of_one_byte() {
    if !alone(concat!(module_path!(), "::plugins_have_the_limit_of_one_byte")) {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let shows = script(dir.path(), "exec grep 'Max core' /proc/self/limits");
    let crashes = script(dir.path(), "kill -SEGV $$");
    let places = Places::default();
    for hardened in [false, true] {
        unlimit();
        if hardened {
            harden();
        }
        let ran = run(limits(&places, &shows, b"")).await.unwrap();
        let shown = String::from_utf8(ran.output.to_vec()).unwrap();
        let found: Vec<_> = shown.split_whitespace().skip(4).take(2).collect();
        assert_eq!(found, ["1", "1"], "hardened before: {hardened}");
        let ran = run(limits(&places, &crashes, b"")).await.unwrap();
        assert!(ran.status.signal().is_some() && !ran.status.core_dumped(), "{ran:?}");
    }
}
