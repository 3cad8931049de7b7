//! How much memory the tree of the worst documents takes: the bound that `credplugin::json` states.
//!
//! Each document is parsed in a process of its own, so that nothing else allocates meanwhile and nothing freed is used again. Measured by the
//! kernel (`VmHWM` of `/proc/self/status`, reset by `/proc/self/clear_refs`), which also sees what an allocator wastes.

use std::fs;
use std::process::Command;

use credplugin::{ContainerRequest, json};

/// Size of the documents: the cap of a request.
const DOCUMENT: usize = 1 << 20;

/// What a tree may take, in KiB.
const BOUND: u64 = 16 << 10;

/// Tells a child which document is its.
const CASE: &str = "JSON_MEMORY_CASE";

/// Documents by name: the first that come near to the cap, then the largest that are let through.
fn document(case: usize) -> Option<(&'static str, String)> {
    let within = |item: &str, count: usize| format!("[{}0]", item.repeat(count));
    Some(match case {
        0 => ("empty arrays", fill("[", "[],", "[]]")),
        1 => ("numbers", fill("[", "0,", "0]")),
        2 => ("empty strings", fill("[", "\"\",", "\"\"]")),
        3 => ("escapes", fill("\"", "\\u0000", "\"")),
        4 => ("objects of one member", fill("[", "{\"a\":0},", "{}]")),
        5 => ("members", members(90_000)),
        6 => ("equal keys", fill("{", "\"a\":0,", "\"a\":0}")),
        7 => ("brackets in brackets", fill("[", "[[[[]]]],", "[]]")),
        8 => ("nested arrays", "[".repeat(DOCUMENT)),
        9 => ("nested objects", fill("", "{\"a\":", "")),
        10 => ("one string", fill("\"", "x", "\"")),
        11 => ("arrays within the limit", within("[],", json::MAX_VALUES - 2)),
        12 => ("objects within the limit", within("{\"a\":0},", json::MAX_VALUES / 2 - 2)),
        13 => ("members within the limit", members(json::MAX_VALUES - 2)),
        14 => (
            "variables within the limit",
            format!("{{\"env\":[{}\"\"]}}", "\"A=123456\",".repeat(json::MAX_VALUES - 4)),
        ),
        _ => return None,
    })
}

#[test]
fn the_worst_documents_stay_below_the_bound() {
    if let Some(case) = std::env::var(CASE).ok().and_then(|case| case.parse().ok()) {
        return child(case);
    }
    for case in 0.. {
        let Some((name, text)) = document(case) else { break };
        assert!(text.len() <= DOCUMENT, "{name}: {}", text.len());
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let output = command.arg("--nocapture").env(CASE, case.to_string()).output().expect("a child");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        let said = String::from_utf8(output.stdout).expect("text");
        println!("{name}: {}", said.lines().find(|line| line.contains("KiB")).expect("a measurement"));
    }
}

#[expect(clippy::print_stdout, reason = "the parent reads the measurement there")]
fn child(case: usize) {
    let (_, text) = document(case).expect("a document");
    let before = reset();
    let parsed = json::parse(text.as_bytes(), DOCUMENT, "");
    let tree = status("VmHWM:").saturating_sub(before);
    let end = if parsed.is_ok() { "read" } else { "refused" };
    drop(parsed);
    // What the tree had is used again: the peak of both is that of the request.
    let request = ContainerRequest::parse(text.as_bytes());
    let both = status("VmHWM:").saturating_sub(before);
    println!("{tree} KiB as a tree, {end}; {both} KiB as a request, {}", request.is_ok());
    assert!(tree < BOUND && both < 2 * BOUND, "{tree} and {both} KiB");
}

/// As many middles as fit.
fn fill(start: &str, middle: &str, end: &str) -> String {
    let count = (DOCUMENT - start.len() - end.len()) / middle.len();
    format!("{start}{}{end}", middle.repeat(count))
}

/// An object of different keys.
fn members(count: usize) -> String {
    let members: Vec<_> = (0..count).map(|key| format!("\"{key:x}\":0")).collect();
    format!("{{{}}}", members.join(","))
}

/// Forgets the peak; answers what is resident now.
fn reset() -> u64 {
    fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    status("VmRSS:")
}

/// A line of the status, in KiB.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("a status");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
