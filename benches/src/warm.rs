//! Reading what the store has, against the local file system.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use fixtures::images;
use fixtures::layer::Compress;

use crate::report::{Row, median};
use crate::sandbox::{Sandbox, read_whole, run};

/// Warm reads by passthrough, and the first read through the daemon of what the store has.
///
/// # Errors
/// A tool fails.
pub fn measure(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let bytes = if sandbox.quick { 256 << 20 } else { 768 << 20 };
    let layout = sandbox.path("warm-layout");
    images::one_big_file(bytes, Compress::Gzip { level: 4 }).write_layout(&layout)?;
    let image = format!("oci:{}", layout.display());
    let local = sandbox.path("local-copy");
    {
        let (mounted, _) = sandbox.mount("cache", &image, &[])?;
        fs::copy(mounted.at.join("big"), &local)?;
    }
    let mut rows = Vec::new();
    {
        let (mounted, _) = sandbox.mount("cache", &image, &[])?;
        let big = mounted.at.join("big");
        read_whole(&big)?;
        read_whole(&local)?;
        for (what, mode, unit) in
            [("sequential 128 KiB", Mode::Sequential, "GB/s"), ("random 4 KiB x 2", Mode::Random, "kIOPS")]
        {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..sandbox.runs {
                ours.push(fio(&big, mode)?);
                theirs.push(fio(&local, mode)?);
            }
            let (ours, theirs) = (median(ours), median(theirs));
            rows.push(Row {
                what: format!("warm read, passthrough, {what}"),
                ours,
                unit,
                peer: Some((theirs, "local file system")),
                goal: ">= 0.95 x",
                reached: ours >= 0.95 * theirs,
            });
        }
    }
    let mut rates = Vec::new();
    for _ in 0..sandbox.runs {
        let (mounted, _) = sandbox.mount("cache", &image, &["--passthrough", "off"])?;
        let big = mounted.at.join("big");
        // The first open verifies the object; that is a figure of its own.
        drop(fs::File::open(&big)?);
        let (len, time) = read_whole(&big)?;
        rates.push(len / time.as_secs_f64() / 1e9);
    }
    let rate = median(rates);
    rows.push(Row {
        what: "first read through the daemon, object in the store, no passthrough".into(),
        ours: rate,
        unit: "GB/s",
        peer: None,
        goal: ">= 2 GB/s",
        reached: rate >= 2.0,
    });
    Ok(rows)
}

#[derive(Clone, Copy)]
enum Mode {
    Sequential,
    Random,
}

/// GB/s or thousands of operations a second, by fio.
fn fio(path: &Path, mode: Mode) -> Result<f64> {
    let options: &[&str] = match mode {
        Mode::Sequential => &["--rw=read", "--bs=128k", "--numjobs=1"],
        Mode::Random => &["--rw=randread", "--bs=4k", "--numjobs=2"],
    };
    let out = run(Command::new("fio")
        .args([
            "--name=read",
            "--readonly",
            "--invalidate=0",
            "--ioengine=psync",
            "--time_based",
            "--runtime=2",
        ])
        .args(["--group_reporting", "--output-format=json", "--filename"])
        .arg(path)
        .args(options))?;
    let report: serde_json::Value = serde_json::from_slice(&out)?;
    let read = &report["jobs"][0]["read"];
    Ok(match mode {
        Mode::Sequential => read["bw_bytes"].as_f64().context("fio: bw_bytes")? / 1e9,
        Mode::Random => read["iops"].as_f64().context("fio: iops")? / 1e3,
    })
}
