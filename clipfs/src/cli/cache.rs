//! `clipfs cache`: the store, looked after.

use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::args::CacheCommand;
use super::context::Context;
use super::failure::Failure;
use super::output::{Output, percent, printable, size};
use crate::store::{Store, StoreError, StoreOptions, StoreStats, VerifyReport};

#[derive(Debug, Serialize)]
struct StatReport {
    cache_dir: std::path::PathBuf,
    quota_bytes: u64,
    /// Clip indexes beside the store; they do not count against the quota.
    indexes: u64,
    index_bytes: u64,
    #[serde(flatten)]
    store: StoreStats,
}

#[derive(Debug, Serialize)]
struct FreedReport {
    freed_bytes: u64,
    disk_bytes: u64,
}

/// Runs the command. Blocking: called without a runtime.
pub(super) fn run(context: &Context, command: &CacheCommand) -> Result<(), Failure> {
    let settings = &context.settings;
    // Who only asks must not make a cache.
    if let CacheCommand::Stat(args) = command
        && !has_store(&settings.cache_dir)
            .map_err(|source| StoreError::Open { dir: settings.cache_dir.clone(), source })?
    {
        return stat(context, StoreStats::default(), args.json);
    }
    let store = Store::open(StoreOptions {
        dir: settings.cache_dir.clone(),
        quota: settings.cache_size.0,
        memory: settings.memory.0,
    })?;
    match command {
        CacheCommand::Stat(args) => {
            store.recount()?;
            stat(context, store.stats(), args.json)
        }
        CacheCommand::Gc(args) => freed(&store, store.gc(args.target.map(|target| target.0))?, args.json),
        CacheCommand::Clear(args) => freed(&store, store.clear()?, args.json),
        CacheCommand::Verify(args) => verify(&store, args.json),
    }
}

/// Whether a directory holds a store: opening one makes `objects` in it.
fn has_store(cache_dir: &Path) -> io::Result<bool> {
    cache_dir.join("objects").try_exists()
}

fn stat(context: &Context, store: StoreStats, json: bool) -> Result<(), Failure> {
    let (mut indexes, mut index_bytes) = (0, 0);
    for entry in std::fs::read_dir(context.settings.cache_dir.join("index")).into_iter().flatten().flatten() {
        if let Ok(meta) = entry.metadata()
            && meta.is_file()
        {
            indexes += 1;
            index_bytes += meta.len();
        }
    }
    let report = StatReport {
        cache_dir: context.settings.cache_dir.clone(),
        quota_bytes: context.settings.cache_size.0,
        indexes,
        index_bytes,
        store,
    };
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        let of_quota = percent(report.store.disk_bytes, report.quota_bytes);
        out.fields(&[
            ("cache", report.cache_dir.display().to_string()),
            (
                "used",
                format!("{} of {} ({of_quota})", size(report.store.disk_bytes), size(report.quota_bytes)),
            ),
            ("objects", format!("{}, and {} partial", report.store.objects, report.store.partials)),
            ("indexes", format!("{indexes}, {}", size(index_bytes))),
        ])?;
    }
    Ok(out.flush()?)
}

fn freed(store: &Store, freed_bytes: u64, json: bool) -> Result<(), Failure> {
    let report = FreedReport { freed_bytes, disk_bytes: store.stats().disk_bytes };
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        out.fields(&[("freed", size(report.freed_bytes)), ("left", size(report.disk_bytes))])?;
    }
    Ok(out.flush()?)
}

fn verify(store: &Store, json: bool) -> Result<(), Failure> {
    let bar = indicatif::ProgressBar::new(0);
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{bar:30}  {bytes} / {total_bytes}  {bytes_per_sec}  {eta}")
    {
        bar.set_style(style);
    }
    let report: VerifyReport = store.verify(&mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let mut out = Output::new();
    if json {
        out.json(&report)?;
    } else {
        let mut rows = vec![
            ("checked", format!("{} objects, {}", report.checked, size(report.bytes))),
            ("corrupt", report.corrupt.len().to_string()),
        ];
        rows.extend(report.corrupt.iter().map(|name| ("removed", printable(name.as_bytes()))));
        out.fields(&rows)?;
    }
    Ok(out.flush()?)
}
