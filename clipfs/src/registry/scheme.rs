//! How a registry wants credentials: which of its challenges can be met, and which scopes it may ask us to ask for.

use reqwest::Url;

use super::RegistryError;
use super::challenge::Challenge;
use super::guard::Guard;
use super::safe_url::authority;
use super::token::TokenSource;
use crate::credentials::Credential;

/// Scopes other than our own that are asked for at a registry's word. Whatever has the form of the token spec
/// (`type:name:actions`: other repositories, `registry:catalog:*`, `repository(plugin):…`) would give a token wider than what
/// is read here, to a registry that chose how wide: none of that. GitLab, GHCR, Quay, Harbor and the clouds' private
/// registries want nothing but the repository. What is left are words that only one vendor's token endpoint understands:
///
/// - `aws`: the constant in every challenge of ECR Public.
const FOREIGN_SCOPES: [&str; 1] = ["aws"];

/// A kind of authentication.
#[derive(Debug, Clone)]
pub(super) enum Scheme {
    Basic,
    Bearer(TokenSource),
}

impl Scheme {
    /// Whether a credential can be presented in this way at all.
    const fn takes(&self, credential: &Credential) -> bool {
        match self {
            Self::Basic => matches!(credential, Credential::Basic { .. } | Credential::Bearer(_)),
            Self::Bearer(_) => true,
        }
    }
}

/// The first that takes the credential; the first of all where none does.
pub(super) fn pick<'a>(schemes: &'a [Scheme], credential: &Credential) -> Option<&'a Scheme> {
    schemes.iter().find(|scheme| scheme.takes(credential)).or(schemes.first())
}

/// The challenges of `base` that can be met, in their order. `scope` is what we need.
///
/// # Errors
/// A realm where nothing may be sent, and no challenge before it that can be met.
pub(super) fn understand(
    challenges: &[Challenge],
    base: &Url,
    guard: &Guard,
    scope: &str,
) -> Result<Vec<Scheme>, RegistryError> {
    let mut schemes = Vec::new();
    for challenge in challenges {
        match challenge.scheme.as_str() {
            "basic" => schemes.push(Scheme::Basic),
            "bearer" => {
                let Some(realm) = challenge.param("realm") else { continue };
                match token_source(realm, challenge, base, guard, scope) {
                    Ok(source) => schemes.push(Scheme::Bearer(source)),
                    Err(error) if schemes.is_empty() => return Err(error),
                    // There is a better one before it.
                    Err(_) => {}
                }
            }
            _ => {}
        }
    }
    Ok(schemes)
}

fn token_source(
    realm: &str,
    challenge: &Challenge,
    base: &Url,
    guard: &Guard,
    scope: &str,
) -> Result<TokenSource, RegistryError> {
    let refuse = |reason: String| RegistryError::Protocol { host: authority(base), reason };
    let mut realm =
        Url::parse(realm).map_err(|_| refuse("the realm of its challenge is not a URL".into()))?;
    realm.set_fragment(None);
    guard.check(base, &realm).map_err(|why| refuse(format!("the realm of its challenge: {why}")))?;
    let theirs: Vec<_> = challenge.param("scope").unwrap_or("").split_ascii_whitespace().collect();
    let foreign = FOREIGN_SCOPES.into_iter().filter(|foreign| theirs.contains(foreign));
    let scopes = std::iter::once(scope).chain(foreign).map(str::to_owned).collect();
    Ok(TokenSource { realm, service: challenge.param("service").map(str::to_owned), scopes })
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

    use super::super::challenge;
    use super::*;

    #[test]
    fn only_known_foreign_scopes() {
        let base = Url::parse("https://r.example/v2/").unwrap();
        let own = "repository:team/app:pull";
        for (said, want) in [
            ("", vec![own]),
            ("repository:team/app:pull", vec![own]),
            ("repository:team/app:pull,push", vec![own]),
            ("repository:other/secret:pull", vec![own]),
            ("repository(plugin):team/app:pull", vec![own]),
            ("registry:catalog:*", vec![own]),
            ("repository:*:*", vec![own]),
            ("*", vec![own]),
            ("aws", vec![own, "aws"]),
            ("registry:catalog:* aws aws admin", vec![own, "aws"]),
            ("AWS", vec![own]),
        ] {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer realm=\"https://auth.example/token\",scope=\"{said}\"");
            headers.insert(WWW_AUTHENTICATE, value.parse().unwrap());
            let guard = Guard::new(&base, Vec::new());
            let found = understand(&challenge::parse(&headers), &base, &guard, own).unwrap();
            let [Scheme::Bearer(source)] = &found[..] else { panic!("{found:?}") };
            assert_eq!(source.scopes, want, "{said}");
        }
    }
}
