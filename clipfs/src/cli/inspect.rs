//! `clipfs inspect`: an image and its index.

use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::args::InspectArgs;
use super::context::Context;
use super::failure::Failure;
use super::output::{Output, percent, size};
use crate::decode::Compression;
use crate::index::ClipIndex;
use crate::oci::{Digest, ImageConfig};

#[derive(Debug, Serialize)]
struct Report {
    image: String,
    digest: Digest,
    platform: Option<String>,
    layers: Vec<LayerReport>,
    files: u64,
    contents: u32,
    content_bytes: u64,
    image_bytes: u64,
    plain_bytes: u64,
    chunk_size: u32,
    chunks: u64,
    index: PathBuf,
    index_bytes: u64,
    window_bytes: u64,
    /// The image config as it is.
    config: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    digest: Digest,
    diff_id: Digest,
    compression: &'static str,
    size: u64,
    plain_size: u64,
    chunks: u32,
}

fn layers(index: &ClipIndex) -> Vec<LayerReport> {
    let layer = |n| {
        let info = index.layer(n)?;
        let compression = match info.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let (digest, diff_id) = (info.digest, info.diff_id);
        let (size, plain_size) = (info.size, info.plain_size);
        Some(LayerReport { digest, diff_id, compression, size, plain_size, chunks: index.chunk_count(n) })
    };
    (0..index.layer_count()).filter_map(layer).collect()
}

impl Report {
    fn new(name: String, path: PathBuf, index: &ClipIndex) -> Self {
        let layers = layers(index);
        let (index_bytes, window_bytes) = index.byte_sizes();
        Self {
            image: name,
            digest: index.manifest_digest(),
            platform: ImageConfig::parse(index.config()).ok().map(|config| config.platform.to_string()),
            files: index.inode_count(),
            contents: index.content_count(),
            content_bytes: index.content_bytes(),
            image_bytes: layers.iter().map(|layer| layer.size).sum(),
            plain_bytes: layers.iter().map(|layer| layer.plain_size).sum(),
            chunk_size: index.chunk_size(),
            chunks: layers.iter().map(|layer| u64::from(layer.chunks)).sum(),
            layers,
            index: path,
            index_bytes,
            window_bytes,
            config: serde_json::from_slice(index.config()).unwrap_or_default(),
        }
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let command = |key: &str| {
            let words = self.config.get("config")?.get(key)?.as_array()?;
            let words: Vec<_> = words.iter().filter_map(serde_json::Value::as_str).collect();
            Some(super::output::printable(words.join(" ").as_bytes()))
        };
        let mut rows = vec![
            ("image", self.image.clone()),
            ("digest", self.digest.to_string()),
            ("platform", self.platform.clone().unwrap_or_else(|| "unknown".to_owned())),
            ("size", format!("{} compressed, {} plain", size(self.image_bytes), size(self.plain_bytes))),
            (
                "files",
                format!(
                    "{}, {} distinct contents of {}",
                    self.files,
                    self.contents,
                    size(self.content_bytes)
                ),
            ),
            ("chunks", format!("{} of about {}", self.chunks, size(self.chunk_size.into()))),
            ("index", self.index.display().to_string()),
            (
                "index size",
                format!(
                    "{} ({} of the image), {} of it windows",
                    size(self.index_bytes),
                    percent(self.index_bytes, self.image_bytes),
                    size(self.window_bytes)
                ),
            ),
        ];
        rows.extend(command("Entrypoint").map(|words| ("entrypoint", words)));
        rows.extend(command("Cmd").map(|words| ("command", words)));
        for layer in &self.layers {
            let sizes =
                format!("{}, {} plain, {} chunks", size(layer.size), size(layer.plain_size), layer.chunks);
            rows.push(("layer", format!("{}  {:4}  {sizes}", layer.digest, layer.compression)));
        }
        rows
    }
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: &InspectArgs) -> Result<(), Failure> {
    let opened = context.open(&args.target.target, None).await?;
    let report = Report::new(opened.name, opened.path, &opened.index);
    let mut out = Output::new();
    if args.json {
        out.json(&report)?
    } else {
        out.fields(&report.rows())?
    }
    Ok(out.flush()?)
}
