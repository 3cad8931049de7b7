//! Who is calling: from the bearer token to a [`Caller`].

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use tonic::Status;

use crate::service::caller::{Caller, Pepper, token_hash, unknown};
use crate::store::Tokens;

/// Services that need no token: whether the server lives, and (where it is switched on) what it speaks.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// Whether a method needs no token.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.iter().any(|open| path.starts_with(open))
}

/// The bearer of a request's token.
///
/// # Errors
/// UNAUTHENTICATED, always with the same text; what [`crate::service::status`] makes of a database that does not answer.
pub(super) async fn authenticate(
    tokens: &(impl Tokens + ?Sized),
    headers: &HeaderMap,
) -> Result<Caller, Status> {
    let token = bearer(headers).ok_or_else(unknown)?;
    let hash = token_hash(token).ok_or_else(unknown)?;
    let found = tokens.token_by_hash(&hash).await?.ok_or_else(unknown)?;
    Ok(Caller {
        token_id: found.token_id,
        kind: found.kind,
        workspace: found.workspace_id,
        node: found.node,
        pepper: Pepper::of(token),
    })
}

/// What is kept of a request's token, if it has one.
pub(super) fn hash(headers: &HeaderMap) -> Option<[u8; 32]> {
    token_hash(bearer(headers)?)
}

/// The one bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn one_bearer_token() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer cfs_a_x"]).as_deref(), Some("cfs_a_x"));
        assert_eq!(of(&["bearer  cfs_a_x"]).as_deref(), Some("cfs_a_x"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["Basic cfs_a_x"]), None);
        assert_eq!(of(&["cfs_a_x"]), None);
        assert_eq!(of(&["Bearer a", "Bearer b"]), None, "which one is meant?");
    }

    #[test]
    fn only_health_and_reflection_are_open() {
        assert!(is_open("/grpc.health.v1.Health/Check"));
        assert!(is_open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
        assert!(!is_open("/clipfs.v1.AdminService/ListTokens"));
        assert!(!is_open("/grpc.health.v1.Healthy/Check"));
    }
}
