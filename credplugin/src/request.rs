//! The ContainerRequest of the scheduler.

use secrecy::SecretString;

use crate::{Code, Error};

/// Largest ContainerRequest.
pub const MAX_REQUEST: usize = 1 << 20;

/// A request to run a container. All fields of the contract; unknown ones are kept.
#[derive(Debug, Clone, Default)]
pub struct ContainerRequest {
    /// Identity of the container.
    pub container_id: String,
    /// Credentials for the image: see [`crate::parse_credentials`]. Empty = anonymous.
    pub image_credentials: SecretString,
    /// Credentials for the registry of image builds.
    pub build_registry_credentials: SecretString,
}

impl ContainerRequest {
    /// Parses and checks a request.
    ///
    /// # Errors
    /// [`Code::BadRequest`] with the path of what is wrong, never its value.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let _ = json;
        Err(Error::new(Code::Internal, "ContainerRequest::parse"))
    }
}
