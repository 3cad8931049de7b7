//! Who may pull from where: turns a ContainerRequest into the credential that one registry accepts.
//!
//! A library, used in the process of `clipfs` and of the control plane; and a program (`credplugin`) that speaks the protocol
//! `clipfs`, Docker's credential helper protocol and the kubelet's. It reads what it is given: never the process environment, never a
//! file of the node, never a cloud's metadata service. Fail closed: what cannot be used is an error, never anonymous access.
//!
//! Top to bottom; a module uses what stands below it (`tests/architecture.rs`):
//!
//! | module | does |
//! |---|---|
//! | [`protocol`] | documents in and out: `clipfs`, Docker, kubelet |
//! | `provider` | [`answer()`], from parsed credentials: AWS, Google, Azure, tokens, Basic |
//! | `http` | the one door to the network: the clouds' token endpoints |
//! | `endpoints` | where these are, and what the operator says instead |
//! | [`request`] | the ContainerRequest |
//! | `image_credentials` | its `image_credentials` in all forms |
//! | `kind` | types of credentials, by their keys and by the host |
//! | `credential_map` | credentials by key |
//! | `keys` | the names of the keys |
//! | `host` | whose host a registry is, matched whole |
//! | `registry` | names of registries |
//! | [`json`] | the strict parser |
//! | `answer`, `error` | words for all |

mod answer;
mod credential_map;
mod endpoints;
mod error;
mod host;
mod http;
mod image_credentials;
pub mod json;
mod keys;
mod kind;
pub mod protocol;
mod provider;
mod registry;
pub mod request;

pub use answer::{Answer, Ask, Scheme};
pub use credential_map::CredentialMap;
pub use endpoints::Endpoints;
pub use error::{Code, Error};
pub use image_credentials::{
    ImageCredentials, credentials_from, marshal_credentials, parse_credentials, parse_credentials_at,
};
pub use kind::{CredentialType, detect_type, key_names};
pub use provider::{Exchange, Prepared, answer, check, check_as, check_request, prepare};
pub use registry::{is_loopback, normalize_registry, parse_registry, secret_name};
pub use request::ContainerRequest;
