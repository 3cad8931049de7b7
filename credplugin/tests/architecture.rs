//! Holds the module table of the library: a module uses what stands below it, and only the program touches the machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fixtures::sources::{self, names_after, uses};

/// The modules, top to bottom; the table in `lib.rs` says what they do. `cli` is the program.
const ORDER: [&str; 15] = [
    "cli",
    "protocol",
    "provider",
    "http",
    "endpoints",
    "request",
    "image_credentials",
    "kind",
    "credential_map",
    "keys",
    "host",
    "registry",
    "json",
    "answer",
    "error",
];

/// What only some modules may know, and why.
const ONLY: [(&str, &[&str], &str); 9] = [
    ("std::env", &["cli"], "a library that reads the environment finds the node's credentials"),
    ("std::fs", &["cli"], "a library that reads files finds the node's credentials"),
    ("std::process", &["cli"], "only the program runs and ends"),
    (
        "std::io",
        &["cli", "http"],
        "only the program reads and writes; `http` looks at the errors of connections",
    ),
    ("clap", &["cli"], "arguments are the command line's"),
    ("nix", &["cli"], "system calls are the program's"),
    ("toml", &["cli"], "settings are the program's"),
    ("tokio", &["cli", "provider", "http"], "what asks nobody needs no runtime"),
    ("reqwest", &["provider", "http"], "the one door to the network, and the headers that go through it"),
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The module of each name that `lib.rs` has at its root.
fn homes(lib: &str) -> BTreeMap<String, &'static str> {
    let mut homes = BTreeMap::new();
    for module in ORDER {
        let exported = names_after(lib, &format!("use {module}::"));
        homes.extend(exported.into_iter().map(|name| (name, module)));
    }
    // A module counts before what is exported under the same name.
    homes.extend(ORDER.map(|module| (module.to_owned(), module)));
    homes
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let homes = homes(&sources::read(&src().join("lib.rs")));
    assert_eq!(homes.get("CredentialMap"), Some(&"credential_map"), "exports are not found");
    let place = |module: &str| ORDER.iter().position(|known| *known == module);
    let mut wrong = Vec::new();
    for source in sources::all(&src()) {
        let Some(own) = place(&source.module) else {
            wrong.push(format!("{}: module {} is not in the table", source.path, source.module));
            continue;
        };
        // In the program, the root is not the library's.
        for name in source.from_root().iter().filter(|_| source.module != "cli") {
            match homes.get(name) {
                None => wrong.push(format!("{} uses {name}, which no module exports", source.path)),
                Some(home) if place(home) < Some(own) => {
                    wrong.push(format!("{} uses {name} of {home}, which stands above it", source.path));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documented_table_is_this_one() {
    let lib = std::fs::read_to_string(src().join("lib.rs")).expect("lib.rs");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | ")?.split('|').next());
    let words: Vec<_> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert_eq!(words, ORDER[1..]);
}

#[test]
fn only_the_program_touches_the_machine() {
    let mut wrong = Vec::new();
    for source in sources::all(&src()) {
        for (what, modules, reason) in ONLY {
            let found = match what.rsplit_once("::") {
                Some((parent, last)) => names_after(&source.code, &format!("{parent}::")).contains(last),
                None => uses(&source.code, what),
            };
            if found && !modules.contains(&source.module.as_str()) {
                wrong.push(format!("{} uses {what}: {reason}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
