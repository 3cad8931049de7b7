//! Holds the module table of `lib.rs`: who may use whom, and which libraries.
//!
//! Reads the sources. Comments, strings and tests do not count: a test may reach anywhere, and prose links upwards.

use std::collections::BTreeMap;
use std::path::Path;

use fixtures::sources::{self, Source, uses};

/// Module, its level, and what it may use of the others.
const MODULES: [(&str, u8, &[&str]); 9] = [
    ("cli", 6, &["server", "service", "scheduler", "imaging", "credentials", "vault", "store", "model"]),
    ("server", 5, &["service", "scheduler", "imaging", "credentials", "vault", "store", "model"]),
    ("service", 4, &["scheduler", "imaging", "credentials", "vault", "store", "model"]),
    ("scheduler", 3, &["store", "model"]),
    ("imaging", 3, &["credentials", "vault", "store", "model"]),
    ("credentials", 2, &["vault", "store", "model"]),
    ("vault", 1, &["store", "model"]),
    ("store", 1, &["model"]),
    ("model", 0, &[]),
];

/// Modules of one level of which one uses the other by design: the vault keeps its keys in the store.
const SAME_LEVEL: [(&str, &str); 1] = [("vault", "store")];

/// Libraries that only some modules may know, and why.
const LIBRARIES: [(&str, &[&str], &str); 10] = [
    ("api", &["cli", "server", "service"], "messages end where the services begin"),
    ("tonic", &["cli", "server", "service"], "the core knows nothing of gRPC"),
    ("tower", &["server"], "layers belong to the server"),
    ("hyper", &["server"], "bodies and metrics"),
    ("clap", &["cli"], "arguments are the command line's"),
    ("indicatif", &["cli"], "terminals are the command line's"),
    ("toml", &["cli"], "settings are the command line's"),
    ("tracing_subscriber", &["cli"], "only processes decide where log lines go"),
    ("sqlx", &["store"], "nobody else speaks SQL"),
    ("chacha20poly1305", &["vault"], "nobody else encrypts"),
];

/// Exceptions: file, library, and why.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("vault/memory.rs", "sqlx", "tests only: a store in memory that fails as a database does")];

fn all() -> Vec<Source> {
    sources::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let table: BTreeMap<_, _> = MODULES.iter().map(|(name, level, uses)| (*name, (*level, *uses))).collect();
    for (name, level, uses) in MODULES {
        for used in uses {
            let below = table[used].0 < level || SAME_LEVEL.contains(&(name, used));
            assert!(below, "the table itself lets {name} use {used}, which is not below it");
        }
    }
    let mut wrong = Vec::new();
    for source in all() {
        let Some((_, allowed)) = table.get(source.module.as_str()) else {
            wrong.push(format!("{}: module {} is not in the table", source.path, source.module));
            continue;
        };
        for name in source.from_root() {
            let known = table.contains_key(name.as_str());
            if known && name != source.module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} uses {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that the table does not have:\n{}", wrong.join("\n"));
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in all() {
        for (library, modules, reason) in LIBRARIES {
            let excepted = EXCEPTIONS.iter().any(|(path, of, _)| *path == source.path && *of == library);
            if !modules.contains(&source.module.as_str()) && uses(&source.code, library) && !excepted {
                wrong.push(format!("{} uses {library}: {reason}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn time_comes_from_the_clock() {
    let named: Vec<_> = all()
        .into_iter()
        .filter(|source| source.path != "model/clock.rs" && source.code.contains("SystemTime::now"))
        .map(|source| source.path)
        .collect();
    assert!(named.is_empty(), "these ask the system what time it is: {named:?}");
}
