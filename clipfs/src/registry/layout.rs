//! `oci:DIR[:ref]`: an OCI image layout on disk.

use std::io::Read as _;
use std::path::Path;

use super::RegistryError;
use super::local::{Blobs, Local, open_file, select};
use crate::oci::manifest::MAX_MANIFEST;

/// Largest `oci-layout` file.
const MAX_MARKER: u64 = 64 << 10;

/// Opens a layout and finds the image in its index.
pub(super) fn open(dir: &Path, name: Option<&str>, what: String) -> Result<Local, RegistryError> {
    if !dir.is_dir() {
        return Err(RegistryError::NotFound(dir.display().to_string()));
    }
    check_marker(&read(&dir.join("oci-layout"), MAX_MARKER)?, &what)?;
    let index = read(&dir.join("index.json"), MAX_MANIFEST)?;
    let entries = select(&index, name, &what)?;
    Ok(Local {
        name: what,
        entries,
        blobs: Blobs::Directory(dir.join("blobs/sha256")),
        counters: std::sync::Arc::default(),
    })
}

/// Checks the `oci-layout` file.
pub(super) fn check_marker(marker: &[u8], what: &str) -> Result<(), RegistryError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    match serde_json::from_slice::<Marker>(marker) {
        Ok(marker) if marker.image_layout_version.starts_with("1.") => Ok(()),
        _ => Err(RegistryError::NotAnImage {
            what: what.into(),
            reason: "its oci-layout file is not one of version 1".into(),
        }),
    }
}

fn read(path: &Path, cap: u64) -> Result<Vec<u8>, RegistryError> {
    let what = || path.display().to_string();
    let (file, length) = open_file(path)?;
    if length > cap {
        return Err(RegistryError::NotAnImage {
            what: what(),
            reason: format!("it is larger than {cap} bytes"),
        });
    }
    let mut bytes = Vec::new();
    file.take(cap).read_to_end(&mut bytes).map_err(|source| RegistryError::Io { what: what(), source })?;
    Ok(bytes)
}
