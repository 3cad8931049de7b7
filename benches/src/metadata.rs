//! Mounting, and walking the tree, against the local file system.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::report::{Row, median};
use crate::sandbox::{Sandbox, drop_caches, run};

/// Mount time, memory and `find -ls` for an image of `files` files; the peer is the same tree on the local file system.
///
/// # Errors
/// A tool fails.
pub fn measure(sandbox: &Sandbox, files: usize) -> Result<Vec<Row>> {
    let layout = sandbox.path(&format!("files-{files}"));
    fixtures::images::many_files(files).write_layout(&layout)?;
    let image = format!("oci:{}", layout.display());
    run(sandbox.clipfs("cache").args(["index", &image]))?;

    let (mut mount, mut server, mut keeper) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..sandbox.runs {
        let (mounted, time) = sandbox.mount("cache", &image, &[])?;
        mount.push(time.as_secs_f64() * 1e3);
        let (a, b) = mounted.rss()?;
        server.push(a);
        keeper.push(b);
    }
    let (mount, rss) = (median(mount), median(server) + median(keeper));
    let small = files <= 50_000;
    let mut rows = vec![
        Row {
            what: format!("mount of an indexed image, {files} files"),
            ours: mount,
            unit: "ms",
            peer: None,
            goal: if small { "<= 50 ms" } else { "hardly more than at 50 k" },
            reached: mount <= if small { 50.0 } else { 100.0 },
        },
        Row {
            what: format!("memory of the mount (server + keeper), {files} files"),
            ours: rss,
            unit: "MB",
            peer: None,
            goal: "<= 30 MB",
            reached: rss <= 30.0,
        },
    ];
    if !small {
        return Ok(rows);
    }

    let unpacked = sandbox.path("unpacked");
    run(Command::new("umoci")
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:latest", layout.display()))
        .arg(&unpacked))?;
    let local = unpacked.join("rootfs");
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..sandbox.runs {
        drop_caches()?;
        let (mounted, _) = sandbox.mount("cache", &image, &[])?;
        ours.0.push(find(&mounted.at)?);
        ours.1.push(find(&mounted.at)?);
        drop(mounted);
        drop_caches()?;
        theirs.0.push(find(&local)?);
        theirs.1.push(find(&local)?);
    }
    for (what, goal, limit, ours, theirs) in [
        ("find -ls, first", "<= 1.2 x", 1.2, ours.0, theirs.0),
        ("find -ls, second", "<= 1.1 x", 1.1, ours.1, theirs.1),
    ] {
        let (ours, theirs) = (median(ours), median(theirs));
        rows.push(Row {
            what: format!("{what}, {files} files"),
            ours,
            unit: "s",
            peer: Some((theirs, "local file system")),
            goal,
            reached: ours <= limit * theirs,
        });
    }
    fs::remove_dir_all(unpacked)?;
    Ok(rows)
}

fn find(dir: &Path) -> Result<f64> {
    let start = Instant::now();
    run(Command::new("find").arg(dir).arg("-ls"))?;
    Ok(start.elapsed().as_secs_f64())
}
