//! Compiles the `.proto` files, without `protoc`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use prost::Message as _;

/// Messages that hold a secret's value: their `Debug` is in `src/redacted.rs`, and shows none.
const SECRET: [&str; 9] = [
    "ContainerRequest",
    "CreateImageRequest",
    "CreateSecretRequest",
    "UpdateSecretRequest",
    "CreateTokenResponse",
    "RunContainerRequest",
    "Dispatch",
    "CredentialUpdate",
    "FetchCredentialsResponse",
];

fn main() -> anyhow::Result<()> {
    let dir = Path::new("proto");
    let files = ["admin", "container", "container_request", "image", "secret", "worker"];
    let files = files.map(|name| dir.join("clipfs/v1").join(name).with_extension("proto"));
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(&files, [dir]).context("the .proto files do not compile")?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    // For reflection.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let secret = SECRET.map(|name| format!("clipfs.v1.{name}"));
    tonic_prost_build::configure()
        .skip_debug(secret)
        // In the order of its keys: a retry has the bytes, and so the hash, of the first try.
        .btree_map(".clipfs.v1.CreateImageRequest.base_image_creds")
        .compile_fds(descriptors)?;
    Ok(())
}
