//! Holds the module table of the design: who may use whom, and which libraries.
//!
//! Reads the sources. Comments, strings and tests do not count: a test may reach anywhere, and prose links upwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fixtures::sources::{self, Source, names_after, uses};

/// Module, its level, and the modules that it may use. A module uses only what stands below it; the order within level 0
/// is `index ▸ image ▸ decode ▸ oci ▸ num`.
const MODULES: [(&str, u8, &[&str]); 17] = [
    (
        "cli",
        5,
        &[
            "worker",
            "mount",
            "build",
            "config",
            "exit",
            "fuse",
            "vfs",
            "read",
            "store",
            "registry",
            "credentials",
            "index",
            "image",
            "decode",
            "oci",
            "num",
        ],
    ),
    (
        "worker",
        4,
        &[
            "mount",
            "config",
            "exit",
            "read",
            "store",
            "registry",
            "credentials",
            "index",
            "image",
            "decode",
            "oci",
            "num",
        ],
    ),
    (
        "mount",
        4,
        &[
            "exit",
            "fuse",
            "vfs",
            "read",
            "store",
            "registry",
            "credentials",
            "index",
            "image",
            "decode",
            "oci",
            "num",
        ],
    ),
    ("build", 4, &["registry", "credentials", "index", "image", "decode", "oci", "num"]),
    ("config", 4, &["credentials", "decode", "oci", "num"]),
    ("fuse", 3, &["vfs", "read", "store", "index", "image", "decode", "oci", "num"]),
    ("exit", 3, &["vfs", "read", "store", "registry", "credentials", "index", "decode"]),
    ("vfs", 2, &["index", "image", "decode", "oci", "num"]),
    ("read", 2, &["store", "registry", "index", "image", "decode", "oci", "num"]),
    ("store", 1, &["decode", "oci", "num"]),
    ("registry", 1, &["credentials", "oci", "num"]),
    ("credentials", 1, &["oci", "num"]),
    ("index", 0, &["image", "decode", "oci", "num"]),
    ("image", 0, &["decode", "oci", "num"]),
    ("decode", 0, &["oci", "num"]),
    ("oci", 0, &["num"]),
    ("num", 0, &[]),
];

/// Modules of one level of which one uses the other by design: a registry asks for credentials, a worker mounts, and hands its
/// settings on to its mounts.
const SAME_LEVEL: [(&str, &str); 3] =
    [("registry", "credentials"), ("worker", "mount"), ("worker", "config")];

/// Libraries that only some modules may know, and why.
const LIBRARIES: [(&str, &[&str], &str); 16] = [
    (
        "credplugin",
        &["credentials", "cli", "config", "mount", "worker"],
        "who may pull from where is asked through `credentials`; settings carry its endpoints",
    ),
    ("api", &["worker"], "the control plane is the worker's business"),
    ("tonic", &["worker"], "the control plane is the worker's business"),
    ("tokio_stream", &["worker"], "streams of messages are the control plane's"),
    ("reqwest", &["registry"], "the one door to the network"),
    ("hyper", &["mount"], "serves metrics; who asks for something asks through `registry`"),
    ("hyper_util", &["mount"], "serves metrics; who asks for something asks through `registry`"),
    ("fuser", &["fuse", "mount"], "the file system is `vfs`; `fuse` adapts it and `mount` opens the session"),
    ("clap", &["cli"], "arguments are the command line's"),
    ("indicatif", &["cli"], "terminals are the command line's"),
    ("tracing_subscriber", &["cli", "mount"], "only processes decide where log lines go"),
    ("memmap2", &["index"], "the index is the one mapped file"),
    ("zstd", &["decode"], "compression is decoding's"),
    ("libz_rs_sys", &["decode"], "compression is decoding's"),
    (
        "tokio",
        &["cli", "worker", "mount", "build", "fuse", "read", "registry", "credentials"],
        "what is pure or synchronous stays so",
    ),
    (
        "nix",
        &["cli", "worker", "mount", "fuse", "store", "credentials"],
        "system calls belong where there are files and processes",
    ),
];

/// Modules without I/O, clocks, threads and environment.
const PURE: [&str; 6] = ["index", "image", "decode", "oci", "num", "vfs"];

/// What they may not use.
const IMPURE: [&str; 7] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Exceptions: file, what it may use after all, and why.
const EXCEPTIONS: [(&str, &str, &str); 7] = [
    ("index/map.rs", "std::fs", "maps the index file"),
    ("index/writer.rs", "std::fs", "writes the index file, and copies windows from one"),
    ("index/layer.rs", "std::fs", "a layer's windows are a file: they do not fit in memory"),
    ("index/validate.rs", "std::thread", "checksums a large index on all cores"),
    ("oci/reference.rs", "std::net", "address syntax, not sockets"),
    ("oci/platform.rs", "std::env", "`consts::ARCH`: the machine this was built for"),
    ("index/reader.rs", "std::fs", "opens the index file"),
];

fn all() -> Vec<Source> {
    sources::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let table: BTreeMap<_, _> = MODULES.iter().map(|(name, level, uses)| (*name, (*level, *uses))).collect();
    for (name, level, uses) in MODULES {
        for used in uses {
            let (below, _) = table[used];
            let ordered = level == 0 && !table[used].1.contains(&name);
            let stated = below < level || (below == level && (ordered || SAME_LEVEL.contains(&(name, used))));
            assert!(stated, "the table itself lets {name} use {used}, which is not below it");
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
            if !modules.contains(&source.module.as_str()) && uses(&source.code, library) {
                wrong.push(format!("{} uses {library}: {reason}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in all().iter().filter(|source| PURE.contains(&source.module.as_str())) {
        for what in IMPURE {
            let (parent, last) = what.rsplit_once("::").expect("a path");
            if !names_after(&source.code, &format!("{parent}::")).contains(last) {
                continue;
            }
            match EXCEPTIONS.iter().find(|(path, allowed, _)| *path == source.path && *allowed == what) {
                Some(exception) => drop(used.insert(exception)),
                None => wrong.push(format!("{} uses {what}", source.path)),
            }
        }
    }
    assert!(wrong.is_empty(), "pure modules that are not:\n{}", wrong.join("\n"));
    let stale: Vec<_> = EXCEPTIONS.iter().filter(|exception| !used.contains(exception)).collect();
    assert!(stale.is_empty(), "exceptions that nothing needs: {stale:?}");
}
