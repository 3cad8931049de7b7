//! Archives of images: a tar's members are found once, then read in place. Also `oci-archive:FILE[:ref]`.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use tar::{EntryType, Header};

use super::RegistryError;
use super::layout::check_marker;
use super::local::{Blobs, Local, open_file, select};
use crate::num::{to_u64, to_usize};
use crate::oci::Digest;
use crate::oci::manifest::MAX_MANIFEST;

/// Most members of an archive: an image has some three per layer.
const MAX_MEMBERS: usize = 100_000;
/// Longest extended header; paths in image archives have 100 bytes.
const MAX_EXTENDED: u64 = 64 << 10;
/// Links followed to a layer.
const MAX_LINKS: usize = 8;
const BLOCK: u64 = 512;

/// A member that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

/// An archive and where its members lie.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) file: Arc<File>,
    members: HashMap<String, Member>,
    what: String,
}

impl Archive {
    /// Finds all members by reading headers only.
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let (file, length) = open_file(path)?;
        let mut archive =
            Self { file: Arc::new(file), members: HashMap::new(), what: path.display().to_string() };
        let mut magic = [0; 6];
        if length >= 6 {
            archive.read_at(&mut magic, 0)?;
        }
        let compression = match magic {
            [0x1f, 0x8b, ..] => Some("gzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
            [b'B', b'Z', b'h', ..] => Some("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
            _ => None,
        };
        if let Some(compression) = compression {
            return Err(archive.not_an_image(&format!(
                "the archive is compressed with {compression}: decompress it first"
            )));
        }
        archive.scan(length)?;
        Ok(archive)
    }

    fn scan(&mut self, length: u64) -> Result<(), RegistryError> {
        let mut position = 0;
        let mut extended = Extended::default();
        while position + BLOCK <= length {
            let mut block = [0; 512];
            self.read_at(&mut block, position)?;
            if block.iter().all(|b| *b == 0) {
                break;
            }
            let header = Header::from_byte_slice(&block);
            let size = self.header_size(header, &block, extended.size)?;
            let (start, padded) = (position + BLOCK, size.checked_next_multiple_of(BLOCK));
            let end = padded.and_then(|padded| start.checked_add(padded));
            let Some(end) = end.filter(|_| start.checked_add(size).is_some_and(|end| end <= length)) else {
                return Err(self.not_an_image("the archive is cut off"));
            };
            match header.entry_type() {
                kind @ (EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) => {
                    if size > MAX_EXTENDED {
                        return Err(self.not_an_image("the archive has an oversized header"));
                    }
                    let data = self.read(start, size)?;
                    extended.learn(kind, &data).map_err(|why| self.not_an_image(why))?;
                }
                EntryType::XGlobalHeader => {}
                kind => {
                    let this = std::mem::take(&mut extended);
                    let path = this.path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = this.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                    self.add(kind, &path, link.as_deref(), start, size)?;
                }
            }
            position = end;
        }
        Ok(())
    }

    fn header_size(
        &self,
        header: &Header,
        block: &[u8; 512],
        extended: Option<u64>,
    ) -> Result<u64, RegistryError> {
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        match (header.cksum(), header.entry_size()) {
            (Ok(stored), Ok(size)) if stored == sum => {
                let is_data = !matches!(
                    header.entry_type(),
                    EntryType::XHeader
                        | EntryType::GNULongName
                        | EntryType::GNULongLink
                        | EntryType::XGlobalHeader
                );
                Ok(extended.filter(|_| is_data).unwrap_or(size))
            }
            _ => Err(self.not_an_image("it is not a tar archive")),
        }
    }

    fn add(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: Option<&[u8]>,
        offset: u64,
        length: u64,
    ) -> Result<(), RegistryError> {
        // Names that are not UTF-8, and those that leave the archive, are nobody's layers.
        let Some(path) = std::str::from_utf8(path).ok().and_then(|path| normalise("", path)) else {
            return Ok(());
        };
        let directory = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let link = link.and_then(|link| std::str::from_utf8(link).ok());
        let member = match kind {
            EntryType::Regular | EntryType::Continuous => Member::File { offset, length },
            EntryType::Symlink => match link.and_then(|link| normalise(directory, link)) {
                Some(target) => Member::Link(target),
                None => return Ok(()),
            },
            EntryType::Link => match link.and_then(|link| normalise("", link)) {
                Some(target) => Member::Link(target),
                None => return Ok(()),
            },
            EntryType::GNUSparse => return Err(self.not_an_image("the archive has sparse members")),
            _ => return Ok(()),
        };
        if self.members.len() >= MAX_MEMBERS {
            return Err(self.not_an_image("the archive has too many members"));
        }
        self.members.insert(path, member);
        Ok(())
    }

    /// Offset and length of a member, links followed.
    pub(super) fn find(&self, path: &str) -> Result<(u64, u64), RegistryError> {
        let missing = || RegistryError::NotFound(format!("{path} in {}", self.what));
        let mut at = normalise("", path).ok_or_else(missing)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&at) {
                Some(Member::File { offset, length }) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => at.clone_from(target),
                None => return Err(missing()),
            }
        }
        Err(missing())
    }

    /// A small member.
    pub(super) fn document(&self, path: &str, cap: u64) -> Result<Vec<u8>, RegistryError> {
        let (offset, length) = self.find(path)?;
        if length > cap {
            return Err(self.not_an_image(&format!("{path} is larger than {cap} bytes")));
        }
        self.read(offset, length)
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = vec![0; to_usize(length)];
        self.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Fills `buffer` from the archive.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), RegistryError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| RegistryError::Io { what: self.what.clone(), source })
    }

    pub(super) fn not_an_image(&self, reason: &str) -> RegistryError {
        RegistryError::NotAnImage { what: self.what.clone(), reason: reason.into() }
    }

    /// All members of `blobs/sha256/`.
    fn blobs(&self) -> HashMap<Digest, (u64, u64)> {
        let digest =
            |path: &str| format!("sha256:{}", path.strip_prefix("blobs/sha256/")?).parse::<Digest>().ok();
        self.members.keys().filter_map(|path| Some((digest(path)?, self.find(path).ok()?))).collect()
    }
}

/// What extended headers say about the member that follows.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    fn learn(&mut self, kind: EntryType, data: &[u8]) -> Result<(), &'static str> {
        let text = || data.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(text()),
            EntryType::GNULongLink => self.link = Some(text()),
            _ => {
                for record in tar::PaxExtensions::new(data) {
                    let record = record.map_err(|_| "the archive has a malformed extended header")?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                        b"size" => {
                            let size = record.value().ok().and_then(|value| value.parse().ok());
                            self.size = Some(size.ok_or("the archive has a malformed size")?);
                        }
                        key if key.starts_with(b"GNU.sparse.") => {
                            return Err("the archive has sparse members");
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// `path` relative to `base`, without `.`, `..` and doubled slashes; `None` if it leaves the archive or is nothing.
fn normalise(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> =
        if path.starts_with('/') { Vec::new() } else { base.split('/').filter(|p| !p.is_empty()).collect() };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

/// Opens `oci-archive:FILE[:ref]`.
pub(super) fn open_oci(path: &Path, name: Option<&str>, what: String) -> Result<Local, RegistryError> {
    let archive = Archive::open(path)?;
    let no_layout = |e: RegistryError| match e {
        RegistryError::NotFound(_) => archive.not_an_image("the archive holds no OCI layout"),
        other => other,
    };
    check_marker(&archive.document("oci-layout", to_u64(64 << 10)).map_err(no_layout)?, &what)?;
    let entries = select(&archive.document("index.json", MAX_MANIFEST)?, name, &what)?;
    let extents = archive.blobs();
    Ok(Local {
        counters: Arc::default(),
        name: what,
        entries,
        blobs: Blobs::Archive { file: Arc::clone(&archive.file), extents, documents: HashMap::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for (base, path, want) in [
            ("", "a/b", Some("a/b")),
            ("", "./a//b/.", Some("a/b")),
            ("", "/a", Some("a")),
            ("x", "../y/layer.tar", Some("y/layer.tar")),
            ("x", "../../etc", None),
            ("", "..", None),
            ("", ".", None),
        ] {
            assert_eq!(normalise(base, path).as_deref(), want, "{base} {path}");
        }
    }
}
