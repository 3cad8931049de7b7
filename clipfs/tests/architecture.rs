//! Holds the module table of the design: who may use whom, and which libraries.
//!
//! Reads the sources. Comments, strings and tests do not count: a test may reach anywhere, and prose links upwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, its level, and the modules that it may use. A module uses only what stands below it; the order within level 0
/// is `index ▸ image ▸ decode ▸ oci ▸ num`.
const MODULES: [(&str, u8, &[&str]); 16] = [
    (
        "cli",
        5,
        &[
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

/// Modules of one level of which one uses the other by design: a registry asks for
/// credentials.
const SAME_LEVEL: [(&str, &str); 1] = [("registry", "credentials")];

/// Libraries that only some modules may know, and why.
const LIBRARIES: [(&str, &[&str], &str); 13] = [
    (
        "credplugin",
        &["credentials", "cli", "config", "mount"],
        "who may pull from where is asked through `credentials`; settings carry its endpoints",
    ),
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
        &["cli", "mount", "build", "fuse", "read", "registry", "credentials"],
        "what is pure or synchronous stays so",
    ),
    (
        "nix",
        &["cli", "mount", "fuse", "store", "credentials"],
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

/// Every source file below `dir`, relative to it.
fn sources(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir.join(below)).expect("the sources are there") {
        let path = below.join(entry.expect("readable").file_name());
        if dir.join(&path).is_dir() {
            sources(dir, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Source text without comments, strings and character literals (each becomes blanks).
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before])) {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = rest.find('"').map_or(rest.len(), |quote| quote + 1);
            rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len())
        } else if rest.starts_with('"') {
            escaped(rest, '"')
        } else if rest.starts_with('\'') && is_char_literal(rest) {
            escaped(rest, '\'')
        } else {
            0
        };
        if skip > 0 {
            code.push(' ');
            at += skip;
        } else {
            let c = rest.chars().next().expect("not at the end");
            code.push(c);
            at += c.len_utf8();
        }
    }
    code
}

/// The number of hashes of a raw string that starts here.
fn raw_string(rest: &str, before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.bytes().take_while(|b| *b == b'#').count();
    body[hashes..].starts_with('"').then_some(hashes)
}

/// Not a lifetime: closed after one character, or an escape.
fn is_char_literal(rest: &str) -> bool {
    rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'')
}

/// Length of a literal from its opening to its closing quote.
fn escaped(rest: &str, quote: char) -> usize {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return at + 1;
        }
    }
    rest.len()
}

/// Without items under `#[cfg(test)]`: up to their closing brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let mut depth = 0_u32;
        let end = item.char_indices().find_map(|(at, c)| match c {
            '{' => {
                depth += 1;
                None
            }
            '}' if depth == 1 => Some(at + 1),
            '}' => {
                depth = depth.saturating_sub(1);
                None
            }
            ';' if depth == 0 => Some(at + 1),
            _ => None,
        });
        rest = &item[end.unwrap_or(item.len())..];
    }
    kept + rest
}

/// Identifiers that follow `prefix` as the next path component, groups in braces included.
fn after(code: &str, prefix: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| is_word(c) || c == ':') {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        match rest.strip_prefix('{') {
            None => found.extend(Some(word(rest))),
            Some(group) => {
                let mut depth = 1_u32;
                let mut expected = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => expected = true,
                        c if expected && is_word(c) => {
                            found.insert(word(&group[at..]));
                            expected = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

/// A file of the crate: path, module, depth in the module tree, code.
struct Source {
    path: String,
    module: String,
    code: String,
    depth: usize,
}

fn all() -> Vec<Source> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&dir, Path::new(""), &mut paths);
    paths.sort();
    let is_test =
        |path: &Path| path.iter().any(|part| part == "tests" || part == "tests.rs" || part == "proptests.rs");
    paths
        .iter()
        .filter(|path| !is_test(path))
        .map(|path| {
            let module = path.iter().next().expect("not empty").to_string_lossy();
            Source {
                module: module.trim_end_matches(".rs").to_owned(),
                code: without_tests(&code_of(&fs::read_to_string(dir.join(path)).expect("utf-8"))),
                depth: path.iter().count(),
                path: path.to_string_lossy().into_owned(),
            }
        })
        .filter(|source| source.module != "lib" && source.module != "main")
        .collect()
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
        let mut used = after(&source.code, "crate::");
        // As many `super`s as the file is deep lead to the crate's root.
        used.extend(after(&source.code, &"super::".repeat(source.depth)));
        for name in used {
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

/// Whether a path of `code` starts with `library`.
fn uses(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.';
        !code[..at].ends_with(inside) && code[at + library.len()..].starts_with("::")
    })
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in all().iter().filter(|source| PURE.contains(&source.module.as_str())) {
        for what in IMPURE {
            let (parent, last) = what.rsplit_once("::").expect("a path");
            if !after(&source.code, &format!("{parent}::")).contains(last) {
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

#[test]
fn the_reader_of_sources_is_not_fooled() {
    let text = r####"
        // crate::comment
        /* crate::block */
        let s = "crate::string \" still";
        let r = r#"crate::raw " still"#;
        let c = '"'; let d = '\''; fn f<'a>() {}
        use crate::{one, two::{three, four}, five};
        let x = crate::six::seven();
        #[cfg(test)]
        mod tests { use crate::eight; mod deeper { } }
        #[cfg(test)]
        mod more;
        $crate::nine!(); my_crate::ten();
    "####;
    let code = without_tests(&code_of(text));
    let found = after(&code, "crate::");
    assert_eq!(found, ["five", "nine", "one", "six", "two"].map(str::to_owned).into());
    assert!(uses("use tokio::sync;", "tokio") && uses("x: tokio::sync::X", "tokio"));
    assert!(!uses("use my_tokio::x; crate::tokio::y", "tokio"));
}
