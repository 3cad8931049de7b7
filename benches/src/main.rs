//! `make bench`: measures clipfs beside its peers and prints the table that `benches/README.md` keeps.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use benches::report::{json, table};
use benches::sandbox::Sandbox;
use benches::{build, cold, metadata, warm};
use clap::Parser;

/// Measures clipfs beside its peers. Needs root; sends traffic to loopback only.
#[derive(Debug, Parser)]
struct Args {
    /// The binary to measure.
    #[arg(long)]
    clipfs: PathBuf,
    /// A tar of a Debian root (fixtures/scripts/debian-root.sh makes it).
    #[arg(long)]
    debian: PathBuf,
    /// Where inputs and caches go: on the local file system that serves as a peer.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Repetitions of each measurement; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Smaller inputs, about two minutes.
    #[arg(long)]
    quick: bool,
    /// Only groups whose name is given: build, metadata, warm, cold.
    #[arg(long)]
    only: Vec<String>,
    /// Also write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    use std::io::Write as _;
    let args = Args::parse();
    let runs = if args.quick { args.runs.min(3) } else { args.runs };
    let clipfs = args.clipfs.canonicalize().context("the clipfs binary")?;
    let sandbox = Sandbox::new(&args.dir, clipfs, runs, args.quick)?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut rows = Vec::new();
    let mut out = std::io::stdout();
    let mut add = |group: Vec<benches::report::Row>| -> Result<()> {
        out.write_all(table(&group).as_bytes())?;
        out.flush()?;
        rows.extend(group);
        Ok(())
    };
    if wanted("build") {
        add(build::measure(&sandbox, &args.debian)?)?;
    }
    if wanted("metadata") {
        add(metadata::measure(&sandbox, 50_000)?)?;
        if !args.quick {
            add(metadata::measure(&sandbox, 500_000)?)?;
        }
    }
    if wanted("warm") {
        add(warm::measure(&sandbox)?)?;
    }
    if wanted("cold") {
        add(cold::measure(&sandbox)?)?;
    }
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&json(&rows))?)?;
    }
    Ok(())
}
