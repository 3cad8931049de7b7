//! `clipfs index`: builds the clip index of an image.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::args::IndexArgs;
use super::context::Context;
use super::failure::Failure;
use super::output::{Output, percent, size};
use super::progress;
use crate::build;
use crate::index::{ClipIndex, IndexError};
use crate::oci::{Digest, ImageSpec};

/// What is told about an index.
#[derive(Debug, Serialize)]
struct Report {
    index: PathBuf,
    digest: Digest,
    files: u64,
    layers: Vec<LayerReport>,
    index_bytes: u64,
    image_bytes: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    digest: Digest,
    size: u64,
    chunks: u32,
}

impl Report {
    fn new(path: PathBuf, index: &ClipIndex, seconds: f64) -> Self {
        let layers: Vec<LayerReport> = (0..index.layer_count())
            .filter_map(|n| {
                let info = index.layer(n)?;
                Some(LayerReport { digest: info.digest, size: info.size, chunks: index.chunk_count(n) })
            })
            .collect();
        Self {
            index: path,
            digest: index.manifest_digest(),
            files: index.inode_count(),
            index_bytes: index.byte_sizes().0,
            image_bytes: layers.iter().map(|layer| layer.size).sum(),
            layers,
            seconds,
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let chunks: u64 = self.layers.iter().map(|layer| u64::from(layer.chunks)).sum();
        let share = percent(self.index_bytes, self.image_bytes);
        vec![
            ("index", self.index.display().to_string()),
            ("digest", self.digest.to_string()),
            ("files", self.files.to_string()),
            ("layers", self.layers.len().to_string()),
            ("chunks", chunks.to_string()),
            ("image", size(self.image_bytes)),
            ("index size", format!("{} ({share} of the image)", size(self.index_bytes))),
            ("time", format!("{:.2} s", self.seconds)),
        ]
    }
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: &IndexArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let options = context.build_options()?;
    let spec = ImageSpec::parse(&args.image)?;
    let source = context.source(&spec).await?;
    let image = context.resolve(&source).await?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => {
            context.create_index_dir()?;
            context.cached_index(&image.manifest_digest)
        }
    };
    let kept = if args.force {
        None
    } else {
        keep(&path, &image.manifest_digest, options.chunk, args.output.is_some())?
    };
    let index = match kept {
        Some(index) => {
            let note = "keeping the index that is there; --force builds it again";
            // Standard error that cannot be written to is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{note}");
            index
        }
        None => {
            build::index_image(&source, &image, &path, options, progress::for_stderr("indexing")).await?;
            Context::open_index(&path)?
        }
    };
    let report = Report::new(path, &index, started.elapsed().as_secs_f64());
    let mut out = Output::new();
    if args.json {
        out.json(&report)?
    } else {
        out.fields(&report.rows())?
    }
    Ok(out.flush()?)
}

/// The index at `path`, if it is the one that would be built. In the cache anything else is replaced; a file that the
/// user has named may be dear to him.
fn keep(path: &Path, manifest: &Digest, chunk: u32, named: bool) -> Result<Option<ClipIndex>, Failure> {
    match ClipIndex::open(path) {
        Ok(index) if index.manifest_digest() == *manifest && index.chunk_size() == chunk => Ok(Some(index)),
        Ok(index) if index.manifest_digest() == *manifest => Ok(None),
        Err(IndexError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // The file may be empty because `mktemp` made it.
        _ if !named || std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0) => Ok(None),
        _ => Err(Failure::Occupied(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_has_named_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, digest) = (dir.path().join("notes.txt"), Digest::of(b"manifest"));
        assert!(matches!(keep(&path, &digest, 1, true), Ok(None)), "nothing there");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(keep(&path, &digest, 1, true), Ok(None)), "empty");
        std::fs::write(&path, "my notes").unwrap();
        assert!(matches!(keep(&path, &digest, 1, true), Err(Failure::Occupied(_))));
        assert!(matches!(keep(&path, &digest, 1, false), Ok(None)), "in the cache");
    }
}
