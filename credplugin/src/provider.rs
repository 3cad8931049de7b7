//! From credentials to an answer.

use crate::{Answer, Ask, Code, ContainerRequest, Endpoints, Error};

/// Answers with what the registry accepts, exchanging cloud credentials for tokens where needed.
///
/// # Errors
/// See [`Code`]. Never anonymous access instead of credentials that cannot be used. Cancel safe.
pub async fn answer(request: &ContainerRequest, ask: &Ask, endpoints: &Endpoints) -> Result<Answer, Error> {
    let _ = (request, ask, endpoints);
    Err(Error::new(Code::Internal, "answer"))
}
