//! `docker-archive:FILE[:ref]`: what `docker save` writes, old and new. An OCI-style manifest is made up for it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::RegistryError;
use super::archive::Archive;
use super::local::{Blobs, Local};
use crate::num::{to_u64, to_usize};
use crate::oci::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, ListEntry, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST,
};
use crate::oci::{Descriptor, Digest, ImageConfig, Reference};

/// Bytes hashed at a time.
const READ: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Opens the archive and makes up the manifest of the image in it.
pub(super) fn open(path: &Path, name: Option<&str>, what: String) -> Result<Local, RegistryError> {
    let archive = Archive::open(path)?;
    let manifest = archive.document("manifest.json", MAX_MANIFEST).map_err(|e| match e {
        RegistryError::NotFound(_) => archive.not_an_image("the archive has no manifest.json"),
        other => other,
    })?;
    let items: Vec<Item> = serde_json::from_slice(&manifest)
        .map_err(|_| archive.not_an_image("the archive's manifest.json is malformed"))?;
    let item = choose(&archive, items, name, &what)?;

    let config = archive.document(&item.config, MAX_CONFIG)?;
    let config_digest = Digest::of(&config);
    let stem = item.config.rsplit('/').next().unwrap_or("").trim_end_matches(".json");
    if format!("sha256:{stem}").parse().is_ok_and(|named: Digest| named != config_digest) {
        return Err(RegistryError::Mismatch { what: format!("{} in {what}", item.config) });
    }
    let parsed = ImageConfig::parse(&config).map_err(|e| archive.not_an_image(&e.0))?;
    let layers = item.layers.unwrap_or_default();
    if layers.len() != parsed.diff_ids.len() || layers.len() > MAX_LAYERS {
        return Err(archive.not_an_image(&format!(
            "its manifest.json has {} layers, its config {}",
            layers.len(),
            parsed.diff_ids.len()
        )));
    }

    let mut extents = HashMap::from([(config_digest, archive.find(&item.config)?)]);
    let mut descriptors = Vec::new();
    let mut hashed: HashMap<(u64, u64), Digest> = HashMap::new();
    for (path, diff_id) in layers.iter().zip(&parsed.diff_ids) {
        let (offset, length) = archive.find(path)?;
        let suffix = compression(&archive, offset, length)?;
        let digest = match (suffix, hashed.get(&(offset, length))) {
            // A plain layer is its own diff_id. That is a claim, checked when the layer is indexed.
            ("", _) => *diff_id,
            (_, Some(known)) => *known,
            _ => hash(&archive, offset, length)?,
        };
        hashed.insert((offset, length), digest);
        extents.insert(digest, (offset, length));
        descriptors.push(describe(&format!("{DOCKER_LAYER}{suffix}"), &digest, length));
    }
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": describe(DOCKER_CONFIG, &config_digest, to_u64(config.len())),
        "layers": descriptors,
    });
    let document = Bytes::from(document.to_string());
    let digest = Digest::of(&document);
    let descriptor = Descriptor { media_type: DOCKER_MANIFEST.into(), digest, size: to_u64(document.len()) };
    Ok(Local {
        counters: Arc::default(),
        name: what,
        entries: vec![ListEntry { descriptor, platform: None, ref_name: None }],
        blobs: Blobs::Archive {
            file: Arc::clone(&archive.file),
            extents,
            documents: HashMap::from([(digest, document)]),
        },
    })
}

/// The image called `name`, names compared as Docker normalises them; or the only one.
fn choose(
    archive: &Archive,
    items: Vec<Item>,
    name: Option<&str>,
    what: &str,
) -> Result<Item, RegistryError> {
    let tags: Vec<_> =
        items.iter().flat_map(|item| item.repo_tags.iter().flatten().take(20)).take(20).cloned().collect();
    let several = items.len() > 1;
    let Some(name) = name else {
        return match items.into_iter().next() {
            Some(item) if !several => Ok(item),
            Some(_) => {
                Err(archive
                    .not_an_image(&format!("it holds several images, name one of: {}", tags.join(", "))))
            }
            None => Err(archive.not_an_image("it holds no image")),
        };
    };
    let wanted = Reference::parse(name)?;
    let is_wanted = |tag: &String| Reference::parse(tag).is_ok_and(|tag| tag == wanted);
    items
        .into_iter()
        .find(|item| item.repo_tags.iter().flatten().any(is_wanted))
        .ok_or_else(|| RegistryError::NotFound(format!("{what} (it has {})", tags.join(", "))))
}

fn describe(media_type: &str, digest: &Digest, size: u64) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "size": size, "digest": digest })
}

/// Suffix of the layer's media type.
fn compression(archive: &Archive, offset: u64, length: u64) -> Result<&'static str, RegistryError> {
    let mut magic = [0; 4];
    if length >= 4 {
        archive.read_at(&mut magic, offset)?;
    }
    Ok(match magic {
        [0x1f, 0x8b, ..] => ".gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => ".zstd",
        _ => "",
    })
}

fn hash(archive: &Archive, offset: u64, length: u64) -> Result<Digest, RegistryError> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; to_usize(length.min(READ))];
    let mut done = 0;
    while done < length {
        let part = &mut buffer[..to_usize((length - done).min(READ))];
        archive.read_at(part, offset + done)?;
        sum.update(&*part);
        done += to_u64(part.len());
    }
    Ok(Digest::from_bytes(sum.finalize().into()))
}
