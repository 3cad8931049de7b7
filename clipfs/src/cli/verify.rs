//! `clipfs verify`: an index by itself, or against its image.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::args::VerifyArgs;
use super::context::Context;
use super::failure::Failure;
use super::output::{Output, size};
use super::progress;
use crate::build::verify::{Verified, VerifyError, verify_file, verify_image};
use crate::oci::{Digest, ImageSpec};

#[derive(Debug, Serialize)]
struct Report {
    index: PathBuf,
    digest: Digest,
    /// Whether the index was compared with its image.
    compared: bool,
    #[serde(flatten)]
    verified: Verified,
}

/// Runs the command.
pub(super) async fn run(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    let path = args.file.clone();
    let opened = tokio::task::spawn_blocking(move || verify_file(&path));
    let index = opened
        .await
        .map_err(|_| Failure::Panicked)?
        .map_err(|source| Failure::Index { path: args.file.clone(), source })?;
    let (digest, index) = (index.manifest_digest(), Arc::new(index));
    let verified = match &args.image {
        None => None,
        Some(image) => {
            let spec = ImageSpec::parse(image)?;
            let source = context.source(&spec).await?;
            let image = context.resolve(&source).await?;
            let progress = progress::for_stderr("verifying");
            let refuse = |source| match source {
                VerifyError::OtherImage { index, image } => {
                    Failure::OtherImage { path: args.file.clone(), index, image }
                }
                source => Failure::Verify { path: args.file.clone(), source: Box::new(source) },
            };
            Some(verify_image(&index, &source, &image, progress).await.map_err(refuse)?)
        }
    };
    let report = Report {
        index: args.file.clone(),
        digest,
        compared: verified.is_some(),
        verified: verified.unwrap_or_default(),
    };
    let mut out = Output::new();
    if args.json {
        out.json(&report)?;
    } else {
        let Verified { layers, chunks, compressed_bytes, plain_bytes } = report.verified;
        let mut rows = vec![("index", report.index.display().to_string()), ("digest", digest.to_string())];
        if report.compared {
            let sizes = format!("{} compressed, {} plain", size(compressed_bytes), size(plain_bytes));
            rows.push(("compared", format!("{layers} layers, {chunks} chunks, {sizes}")));
        }
        rows.push(("result", "good".to_owned()));
        out.fields(&rows)?;
    }
    Ok(out.flush()?)
}
