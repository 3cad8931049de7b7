//! The gRPC interface of the control plane: messages, clients and servers, generated from `proto/clipfs/v1/*.proto`.
//!
//! A leaf: used by `controlplane`, which serves it, and by `clipfs worker`, which calls it. Other languages use the `.proto` files.

mod redacted;
pub mod request;

/// Version 1.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto files hold the documentation"
)]
pub mod v1 {
    tonic::include_proto!("clipfs.v1");

    /// The compiled `.proto` files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
