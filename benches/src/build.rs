//! Index building against decompressing alone with the same library.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::report::{Row, median};
use crate::sandbox::{Sandbox, run, run_measured};

/// Rates, memory and size of index building for a gzip image in an OCI layout, and for its tar in one big layer.
///
/// # Errors
/// A tool fails.
pub fn measure(sandbox: &Sandbox, debian_tar: &Path) -> Result<Vec<Row>> {
    let layer = sandbox.path("debian.tar.gz");
    run(Command::new("sh").arg("-ec").arg(format!(
        "gzip -6 -c {} > {}",
        debian_tar.display(),
        layer.display()
    )))?;
    let layout = sandbox.path("debian-layout");
    run(Command::new("umoci").arg("init").arg("--layout").arg(&layout))?;
    let image = format!("{}:debian", layout.display());
    run(Command::new("umoci").args(["new", "--image", &image]))?;
    run(Command::new("umoci").args(["raw", "add-layer", "--image", &image]).arg(debian_tar))?;
    let plain = mb(std::fs::metadata(debian_tar)?.len());
    let blob = biggest(&layout.join("blobs/sha256"))?;

    let (mut alone, mut ours, mut peak) = (Vec::new(), Vec::new(), Vec::new());
    let index = sandbox.path("debian.clip");
    for _ in 0..sandbox.runs {
        alone.push(plain / inflate_alone(&blob)?);
        let mut command = sandbox.clipfs("cache");
        command.args(["index", &format!("oci:{image}"), "--force", "-o"]).arg(&index);
        let (time, rss) = run_measured(&mut command)?;
        ours.push(plain / time.as_secs_f64());
        peak.push(rss);
    }
    let report: serde_json::Value = serde_json::from_slice(&run(sandbox
        .clipfs("cache")
        .args(["index", &format!("oci:{image}"), "--json", "--force", "-o"])
        .arg(&index))?)?;
    let share = report["index_bytes"].as_f64().context("index_bytes")?
        / report["image_bytes"].as_f64().context("image_bytes")?
        * 100.0;
    let (ours, alone, peak) = (median(ours), median(alone), median(peak));
    Ok(vec![
        Row {
            what: "index build, one gzip layer, plain bytes".into(),
            ours,
            unit: "MB/s",
            peer: Some((alone, "inflate alone")),
            goal: ">= 0.9 x",
            reached: ours >= 0.9 * alone,
        },
        Row {
            what: "index build, peak memory".into(),
            ours: peak,
            unit: "MB",
            peer: None,
            goal: "<= 256 MiB",
            reached: peak <= 268.0,
        },
        Row {
            what: "index size, 2 MiB chunks, of the compressed image".into(),
            ours: share,
            unit: "%",
            peer: None,
            goal: "<= 0.5 %",
            reached: share <= 0.5,
        },
    ])
}

/// Seconds to inflate a gzip file with zlib-rs (through flate2), CRC included, nothing else done with the bytes.
///
/// # Errors
/// Reading fails.
pub fn inflate_alone(gz: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut reader =
        flate2::bufread::MultiGzDecoder::new(std::io::BufReader::with_capacity(1 << 20, File::open(gz)?));
    let mut buffer = vec![0; 256 << 10];
    while reader.read(&mut buffer)? > 0 {}
    Ok(start.elapsed().as_secs_f64())
}

/// The largest file of a directory.
///
/// # Errors
/// The directory cannot be read or is empty.
pub fn biggest(dir: &Path) -> Result<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    Ok(files.into_iter().max().context("no files")?.1)
}

/// Bytes as MB.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
