//! As a credential provider of the kubelet, which asks by image and cannot hand over a request: that is in a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use credplugin::protocol::clipfs;
use credplugin::protocol::kubelet::{CacheKey, Request, write_response};
use credplugin::{Ask, Code, ContainerRequest, Error, parse_credentials, parse_registry};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::get::Question;
use super::{Target, input, settings};

/// Names the file with the ContainerRequest, for callers whose protocol has no place for one.
const REQUEST_FILE: &str = "CLIPFS_REQUEST_FILE";
/// Names the image of that request.
const IMAGE: &str = "CLIPFS_IMAGE";

/// A request from a file, and its image if that is known.
pub(super) struct Filed {
    pub(super) request: ContainerRequest,
    pub(super) image: String,
}

impl Filed {
    /// What the environment names.
    pub(super) fn open() -> Result<Self, Error> {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let path = variable(REQUEST_FILE).map(PathBuf::from).ok_or_else(|| {
            Error::new(Code::Usage, format!("{REQUEST_FILE} names no file with a ContainerRequest"))
        })?;
        let request = ContainerRequest::parse(&read(&path)?)?;
        let image = match variable(IMAGE) {
            None => String::new(),
            Some(image) => image
                .into_string()
                .map_err(|_| Error::new(Code::Usage, format!("{IMAGE} is no image reference")))?,
        };
        Ok(Self { request, image })
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    input::file(path, clipfs::MAX_REQUEST)
}

/// The document that answers the kubelet.
pub(super) fn answer(
    asked: &Request,
    target: &Target,
    deadline: Instant,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    if target.image.is_some() || target.registry.is_some() {
        return Err(Error::new(Code::Usage, "the kubelet says which image it is: no --image, no --registry"));
    }
    let Filed { request, image } = Filed::open()?;
    let registry = parse_registry(&asked.image)?;
    // Credentials that do not name their registry are given for the request's image only, whatever else the kubelet pulls.
    let named = parse_credentials(request.image_credentials.expose_secret())?
        .is_some_and(|credentials| credentials.registry.is_some());
    let key = if named { CacheKey::Registry } else { CacheKey::Image };
    let endpoints = settings::endpoints(target.config.as_deref())?;
    let question = Question { request, ask: Ask { image, registry, scope: String::new() }, endpoints };
    write_response(&question.answer(deadline)?, key)
}
