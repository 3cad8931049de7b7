//! Who may pull from where: turns a ContainerRequest into the credential that one registry accepts.
//!
//! A library, used in the process of `clipfs` and of the control plane; and a program (`credplugin`) that speaks the protocol
//! `clipfs`, Docker's credential helper protocol and the kubelet's. It reads what it is given: never the process environment, never a
//! file of the node, never a cloud's metadata service. Fail closed: what cannot be used is an error, never anonymous access.
//!
//! Top to bottom; a module uses what stands below it:
//!
//! | module | does |
//! |---|---|
//! | [`protocol`] | documents in and out: `clipfs`, Docker, kubelet |
//! | [`provider`] | from parsed credentials to an [`Answer`]: AWS, Google, Azure, tokens, Basic |
//! | [`http`] | the one door to the network: the clouds' token endpoints |
//! | [`endpoints`] | where these are, and what the operator says instead |
//! | [`request`] | the ContainerRequest |
//! | [`image_credentials`] | its `image_credentials` in all forms |
//! | [`kind`], [`host`], [`registry`] | types, hosts matched whole, names |
//! | [`mod@answer`], [`error`], [`json`] | words for all |

pub mod answer;
pub mod endpoints;
pub mod error;
pub mod host;
pub mod http;
pub mod image_credentials;
pub mod json;
pub mod kind;
pub mod protocol;
pub mod provider;
pub mod registry;
pub mod request;

pub use answer::{Answer, Ask, Scheme};
pub use endpoints::Endpoints;
pub use error::{Code, Error};
pub use image_credentials::{
    CredentialMap, ImageCredentials, credentials_from, marshal_credentials, parse_credentials,
};
pub use kind::{CredentialType, detect_type};
pub use provider::{answer, check, check_as};
pub use registry::{is_loopback, normalize_registry, parse_registry, secret_name};
pub use request::ContainerRequest;
