//! Blobs in files: a layout's or an archive's.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::RegistryError;
use super::stats::Counters;
use crate::num::to_usize;
use crate::oci::manifest::{Document, ListEntry};
use crate::oci::{Descriptor, Digest, ImageSpec};

/// Bytes per read of a stream.
const READ: u64 = 1 << 20;

/// A layout or archive, opened.
#[derive(Debug)]
pub(super) struct Local {
    /// For messages.
    pub(super) name: String,
    /// The images that the user may mean.
    pub(super) entries: Vec<ListEntry>,
    pub(super) blobs: Blobs,
    pub(super) counters: Arc<Counters>,
}

/// Where the blobs lie.
#[derive(Debug)]
pub(super) enum Blobs {
    /// `<dir>/<hex>`.
    Directory(PathBuf),
    /// Parts of one file, and documents made up on opening.
    Archive {
        /// The archive.
        file: Arc<File>,
        /// Offset and length by digest.
        extents: HashMap<Digest, (u64, u64)>,
        /// Documents that stand in no file.
        documents: HashMap<Digest, Bytes>,
    },
}

impl Local {
    /// Opens any spec that is not a registry's.
    pub(super) async fn open(spec: &ImageSpec) -> Result<Self, RegistryError> {
        let spec = spec.clone();
        blocking(move || match &spec {
            ImageSpec::OciLayout { dir, name } => super::layout::open(dir, name.as_deref(), spec.to_string()),
            ImageSpec::OciArchive { file, name } => {
                super::archive::open_oci(file, name.as_deref(), spec.to_string())
            }
            ImageSpec::DockerArchive { file, name } => {
                super::docker_archive::open(file, name.as_deref(), spec.to_string())
            }
            ImageSpec::Registry(_) => Err(RegistryError::NotFound(spec.to_string())),
        })
        .await
    }

    /// A whole small blob, checked.
    pub(super) async fn document(&self, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
        let bytes = match &self.blobs {
            Blobs::Archive { documents, .. } if documents.contains_key(&descriptor.digest) => {
                documents[&descriptor.digest].clone()
            }
            _ => self.blob(descriptor, 0..descriptor.size).await?.read_all().await?,
        };
        if Digest::of(&bytes) == descriptor.digest {
            return Ok(bytes);
        }
        Err(RegistryError::Mismatch { what: format!("{} in {}", descriptor.digest, self.name) })
    }

    /// A range of a blob.
    pub(super) async fn blob(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<FileStream, RegistryError> {
        let what = format!("blob {} in {}", descriptor.digest, self.name);
        let (file, offset, length) = match &self.blobs {
            Blobs::Archive { file, extents, .. } => {
                let (offset, length) =
                    *extents.get(&descriptor.digest).ok_or_else(|| RegistryError::NotFound(what.clone()))?;
                (Arc::clone(file), offset, length)
            }
            Blobs::Directory(dir) => {
                let path = dir.join(descriptor.digest.hex());
                let (file, length) = blocking(move || open_file(&path)).await?;
                (Arc::new(file), 0, length)
            }
        };
        if length != descriptor.size || range.end > length || range.start > range.end {
            return Err(RegistryError::Mismatch { what });
        }
        Ok(FileStream {
            file,
            position: offset + range.start,
            end: offset + range.end,
            what,
            counters: Arc::clone(&self.counters),
        })
    }
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(RegistryError::Io { what: "a file".into(), source: std::io::Error::other(e.to_string()) })
    })
}

/// Opens a regular file and tells its length; a missing one is `NotFound`.
pub(super) fn open_file(path: &Path) -> Result<(File, u64), RegistryError> {
    let what = path.display().to_string();
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            RegistryError::NotFound(what.clone())
        }
        _ => RegistryError::Io { what: what.clone(), source },
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(RegistryError::NotAnImage {
            what: what.clone(),
            reason: "it is not a regular file".into(),
        });
    }
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    Ok((file, length))
}

/// The entries meant by `name`: those called so, or the only image there is.
pub(super) fn select(index: &[u8], name: Option<&str>, what: &str) -> Result<Vec<ListEntry>, RegistryError> {
    let not_an_image = |reason: String| RegistryError::NotAnImage { what: what.into(), reason };
    let entries = match Document::parse(index, None) {
        Ok(Document::List(entries)) => entries,
        Ok(Document::Image(_)) => return Err(not_an_image("its index.json is not an image index".into())),
        Err(e) => return Err(not_an_image(e.0)),
    };
    let mut names: Vec<_> = entries.iter().filter_map(|e| e.ref_name.clone()).collect();
    names.sort();
    names.dedup();
    names.truncate(20);
    let has = if names.is_empty() { "no names".to_owned() } else { names.join(", ") };
    if let Some(name) = name {
        let found: Vec<_> = entries.into_iter().filter(|e| e.ref_name.as_deref() == Some(name)).collect();
        return if found.is_empty() {
            Err(RegistryError::NotFound(format!("{what} (it has {has})")))
        } else {
            Ok(found)
        };
    }
    // Several without a name are one image for several platforms.
    let one_image =
        entries.len() == 1 || entries.iter().all(|e| e.ref_name.is_none() && e.platform.is_some());
    match (entries.is_empty(), one_image) {
        (true, _) => Err(not_an_image("it holds no image".into())),
        (false, true) => Ok(entries),
        (false, false) => Err(not_an_image(format!("it holds several images, name one of: {has}"))),
    }
}

/// A range of a file.
#[derive(Debug)]
pub(super) struct FileStream {
    file: Arc<File>,
    position: u64,
    end: u64,
    what: String,
    counters: Arc<Counters>,
}

impl FileStream {
    pub(super) fn remaining(&self) -> u64 {
        self.end - self.position
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let length = self.remaining().min(READ);
        if length == 0 {
            return Ok(None);
        }
        let (file, position, what) = (Arc::clone(&self.file), self.position, self.what.clone());
        let chunk = blocking(move || {
            let mut chunk = vec![0; to_usize(length)];
            file.read_exact_at(&mut chunk, position).map_err(|source| RegistryError::Io { what, source })?;
            Ok(Bytes::from(chunk))
        })
        .await?;
        self.position += length;
        self.counters.blob_bytes.fetch_add(length, Relaxed);
        Ok(Some(chunk))
    }

    async fn read_all(mut self) -> Result<Bytes, RegistryError> {
        let mut all = bytes::BytesMut::new();
        while let Some(chunk) = self.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}
