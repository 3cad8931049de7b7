//! Documents in and out: pure, from bytes to words and back. Who reads and writes them stands in the program (`credplugin`) and,
//! on the other side of the pipe, in `clipfs`.
//!
//! - [`clipfs`]: the protocol of this project, both directions;
//! - [`docker`]: the answers of a Docker credential helper;
//! - [`kubelet`]: the kubelet's credential provider API.

pub mod clipfs;

mod fields;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::{Code, Error};

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
