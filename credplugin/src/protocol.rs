//! Documents in and out: pure, from bytes to words and back. Who reads and writes them stands in the program (`credplugin`) and,
//! on the other side of the pipe, in `clipfs`.
//!
//! - [`clipfs`]: the protocol of this project, both directions;
//! - [`docker`]: the answers of a Docker credential helper;
//! - [`kubelet`]: the kubelet's credential provider API.

pub mod clipfs;
pub mod docker;
pub mod kubelet;

mod fields;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::{Code, Error, parse_registry};
use fields::Fields;

/// What came on standard input.
#[derive(Debug, Clone)]
pub enum Document {
    /// A question in the protocol `clipfs`.
    Credential(clipfs::CredentialRequest),
    /// A question of the kubelet.
    Kubelet(kubelet::Request),
    /// No question, but a ContainerRequest itself: its fields are not looked at here.
    Container,
}

/// Tells documents apart by `kind`. A ContainerRequest has neither `kind` nor `apiVersion`.
///
/// # Errors
/// [`Code::BadRequest`]: not one JSON object, another kind or version, a field of a wrong type.
pub fn recognise(bytes: &[u8]) -> Result<Document, Error> {
    let fields = Fields::parse_envelope(bytes, clipfs::MAX_REQUEST)?;
    if !fields.has("kind") && !fields.has("apiVersion") {
        return Ok(Document::Container);
    }
    match fields.string("kind")? {
        Some(clipfs::REQUEST_KIND) => clipfs::CredentialRequest::of(&fields).map(Document::Credential),
        Some(kubelet::REQUEST_KIND) => kubelet::Request::of(&fields).map(Document::Kubelet),
        _ => Err(Error::bad_request(
            "kind",
            &format!("neither {} nor {}", clipfs::REQUEST_KIND, kubelet::REQUEST_KIND),
        )),
    }
}

/// The registry of a bare host. Unlike in an image reference, a name without a dot or a port is none, rather than a name on Docker Hub.
///
/// # Errors
/// [`Code::BadRequest`]: no registry has such a name.
pub fn registry_of_host(host: &str) -> Result<String, Error> {
    let is_host = host.contains(['.', ':']) || host.eq_ignore_ascii_case("localhost");
    if !is_host || host.contains(['/', '@']) {
        // Not repeated: it may be a URL with a password in it.
        let reason = "no registry host: expected a name with a dot or a port, without a user name and a path";
        return Err(Error::new(Code::BadRequest, reason));
    }
    parse_registry(&format!("{host}/image"))
}

/// Writes a document that holds secrets, in a buffer that is wiped.
fn write_json(document: &impl Serialize, limit: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    // All the room at once: a vector that grows leaves copies of what it held.
    let mut out = Zeroizing::new(vec![0; limit]);
    let mut rest: &mut [u8] = &mut out;
    serde_json::to_writer(&mut rest, document)
        .map_err(|_| Error::new(Code::Internal, format!("the answer is larger than {limit} bytes")))?;
    let written = limit - rest.len();
    out.truncate(written);
    Ok(out)
}
