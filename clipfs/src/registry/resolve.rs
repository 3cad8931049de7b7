//! From a name to one platform's image: walks manifest lists, checks every digest.

use std::collections::HashSet;

use bytes::Bytes;

use super::local::Local;
use super::remote::Remote;
use super::stream::{BlobStream, HttpStream};
use super::{Inner, RegistryError, ResolvedImage};
use crate::num::to_u64;
use crate::oci::manifest::{Document, ListEntry, MAX_MANIFEST, MAX_NESTING, candidates};
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, Platform};

/// Most manifests fetched for one image: candidates that turn out to be something else are passed over.
const MAX_FETCHES: usize = 16;

/// The document that the user's name stands for.
struct Root {
    name: String,
    bytes: Bytes,
    document: Document,
}

/// Finds the image for `platform`.
pub(super) async fn resolve(inner: &Inner, platform: &Platform) -> Result<ResolvedImage, RegistryError> {
    let root = match inner {
        Inner::Remote(remote) => remote_root(remote).await?,
        Inner::Local(local) => local_root(local).await?,
    };
    let what = root.name.clone();
    let not_an_image = |reason: String| RegistryError::NotAnImage { what: what.clone(), reason };
    let entries = match root.document {
        // What is not a list is what the user asked for, whatever its platform.
        Document::Image(manifest) => return finish(inner, root.name, root.bytes, manifest).await,
        Document::List(entries) => entries,
    };
    let has = platforms(&entries);
    let mut seen = HashSet::from([Digest::of(&root.bytes)]);
    let mut stack: Vec<(ListEntry, usize)> = Vec::new();
    let push = |stack: &mut Vec<_>, entries: &[ListEntry], depth| {
        stack.extend(candidates(entries, platform).into_iter().rev().map(|entry| (entry.clone(), depth)));
    };
    push(&mut stack, &entries, 1);
    let mut passed_over = None;
    while let Some((entry, depth)) = stack.pop() {
        if !seen.insert(entry.descriptor.digest) {
            return Err(not_an_image("its manifest list refers to the same manifest twice".into()));
        }
        if seen.len() > MAX_FETCHES {
            let detail = format!("none among the first {MAX_FETCHES}");
            return Err(RegistryError::NoPlatform { what, platform: platform.to_string(), detail });
        }
        let bytes = document(inner, &entry.descriptor, MAX_MANIFEST).await?;
        match Document::parse(&bytes, Some(&entry.descriptor.media_type)) {
            Ok(Document::List(_)) if depth >= MAX_NESTING => {
                return Err(not_an_image(format!(
                    "its manifest lists are nested more than {MAX_NESTING} deep"
                )));
            }
            Ok(Document::List(entries)) => push(&mut stack, &entries, depth + 1),
            Ok(Document::Image(manifest)) => {
                let image = finish(inner, root.name.clone(), bytes, manifest).await?;
                if entry.platform.is_some() || platform.rank(&image.config.platform).is_some() {
                    return Ok(image);
                }
                passed_over = Some(format!("it is for {}", image.config.platform));
            }
            // An entry without a platform may be anything.
            Err(e) if entry.platform.is_none() => passed_over = Some(e.0),
            Err(e) => return Err(not_an_image(e.0)),
        }
    }
    let detail =
        passed_over.map_or_else(|| format!("it has {has}"), |reason| format!("it has {has}; {reason}"));
    Err(RegistryError::NoPlatform { what, platform: platform.to_string(), detail })
}

async fn remote_root(remote: &Remote) -> Result<Root, RegistryError> {
    let reference = &remote.reference;
    let selector = reference.manifest_selector();
    let (bytes, media_type) = remote.manifest(&selector, reference.digest.as_ref(), None).await?;
    let pinned = crate::oci::Reference { digest: Some(Digest::of(&bytes)), ..reference.clone() };
    let document = parse(&reference.to_string(), &bytes, media_type.as_deref())?;
    Ok(Root { name: pinned.to_string(), bytes, document })
}

async fn local_root(local: &Local) -> Result<Root, RegistryError> {
    if let [only] = &local.entries[..] {
        let bytes = document_of(local, &only.descriptor).await?;
        let document = parse(&local.name, &bytes, Some(&only.descriptor.media_type))?;
        return Ok(Root { name: local.name.clone(), bytes, document });
    }
    Ok(Root {
        name: local.name.clone(),
        bytes: Bytes::new(),
        document: Document::List(local.entries.clone()),
    })
}

async fn document_of(local: &Local, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
    check_size(&local.name, descriptor, MAX_MANIFEST)?;
    local.document(descriptor).await
}

fn parse(what: &str, bytes: &[u8], media_type: Option<&str>) -> Result<Document, RegistryError> {
    Document::parse(bytes, media_type)
        .map_err(|e| RegistryError::NotAnImage { what: what.into(), reason: e.0 })
}

fn check_size(what: &str, descriptor: &Descriptor, cap: u64) -> Result<(), RegistryError> {
    if descriptor.size <= cap {
        return Ok(());
    }
    let reason = format!("{} of {} bytes is larger than {cap}", descriptor.digest, descriptor.size);
    Err(RegistryError::NotAnImage { what: what.into(), reason })
}

/// A manifest by its descriptor.
async fn document(inner: &Inner, descriptor: &Descriptor, cap: u64) -> Result<Bytes, RegistryError> {
    match inner {
        Inner::Remote(remote) => {
            check_size(&remote.reference.to_string(), descriptor, cap)?;
            let selector = descriptor.digest.to_string();
            Ok(remote.manifest(&selector, Some(&descriptor.digest), Some(descriptor.size)).await?.0)
        }
        Inner::Local(local) => document_of(local, descriptor).await,
    }
}

/// Fetches the config of a manifest and checks that both belong together.
async fn finish(
    inner: &Inner,
    name: String,
    bytes: Bytes,
    manifest: Manifest,
) -> Result<ResolvedImage, RegistryError> {
    let config_bytes = config(inner, &manifest.config).await?;
    let not_an_image =
        |e: crate::oci::manifest::NotAnImage| RegistryError::NotAnImage { what: name.clone(), reason: e.0 };
    let config = ImageConfig::parse(&config_bytes).map_err(not_an_image)?;
    manifest.check_config(&config).map_err(not_an_image)?;
    Ok(ResolvedImage {
        manifest_digest: Digest::of(&bytes),
        manifest_bytes: bytes,
        manifest,
        config_bytes,
        config,
        name,
    })
}

async fn config(inner: &Inner, descriptor: &Descriptor) -> Result<Bytes, RegistryError> {
    let remote = match inner {
        Inner::Local(local) => return local.document(descriptor).await,
        Inner::Remote(remote) => remote,
    };
    for attempt in 0..2 {
        let stream = HttpStream::open(remote.clone(), descriptor, 0..descriptor.size).await?;
        let bytes = BlobStream::http(stream).collect().await?;
        if to_u64(bytes.len()) == descriptor.size && Digest::of(&bytes) == descriptor.digest {
            return Ok(bytes);
        }
        if attempt == 0 {
            remote.distrust(descriptor);
        }
    }
    Err(RegistryError::Mismatch { what: remote.blob_name(descriptor) })
}

/// The platforms of a list, for people.
fn platforms(entries: &[ListEntry]) -> String {
    let mut names: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(ToString::to_string)
        .take(50)
        .collect();
    names.dedup();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
