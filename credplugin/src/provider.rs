//! From credentials to an answer.
//!
//! First a plan, without any network: whose credentials they are, of which type, whether they may go to this registry, whether they are
//! whole. Then, for clouds only, the exchange. What cannot be planned is an error: never a part of the credentials, never none.
//!
//! **Who gets what.** Credentials in the wrapped form are for the registry it names. Those of a flat map are for the image's registry;
//! a vendor's key in it only for that vendor's hosts, or for a registry on this machine. A cloud's keys are exchanged at that cloud, for
//! registries of that cloud; where the operator has put an emulator in its place, also for registries on this machine.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::http::Http;
use crate::image_credentials::parse_credentials_at;
use crate::kind::check_halves;
use crate::registry::normalize_registry;
use crate::{
    Answer, Ask, Code, ContainerRequest, CredentialMap, CredentialType, Endpoints, Error, ImageCredentials,
    Scheme, detect_type, parse_registry,
};

mod aws;
mod azure;
mod basic;
mod expiry;
mod gcp;
mod token;

/// Longest time for all exchanges of one answer. A caller kills the program after 60 s, and should hear the reason before.
const DEADLINE: Duration = Duration::from_secs(50);

/// Longest value that goes into a header or a signature, in bytes. Servers take 8 to 64 KiB of headers; the longest tokens that are
/// used as passwords (of users in many groups) have some KiB.
const MAX_LINE: usize = 16 << 10;

/// How far a cloud's clock must be from ours before a refusal is taken for one of the wrong time. Amazon allows 5 minutes, Google less.
const SKEW: Duration = Duration::from_secs(60);

/// Answers with what the registry accepts, exchanging cloud credentials for tokens where needed.
///
/// # Errors
/// See [`Code`]. Never anonymous access instead of credentials that cannot be used. Cancel safe.
pub async fn answer(request: &ContainerRequest, ask: &Ask, endpoints: &Endpoints) -> Result<Answer, Error> {
    let (registry, (_, plan)) = planned(request, ask, endpoints)?;
    let run = tokio::time::timeout(DEADLINE, plan.run(Http::default()));
    let (scheme, valid_for) = run.await.map_err(|_| {
        let message = format!("no token for {registry} within {} s", DEADLINE.as_secs());
        Error::new(Code::Unavailable, message)
    })??;
    Ok(Answer { registry, scheme, valid_for })
}

/// The type of the credentials that [`answer`] would use; public where it would use none. Asks nobody.
///
/// # Errors
/// Those that [`answer`] would give before its first exchange.
pub fn check_request(
    request: &ContainerRequest,
    ask: &Ask,
    endpoints: &Endpoints,
) -> Result<CredentialType, Error> {
    planned(request, ask, endpoints).map(|(_, (kind, _))| kind)
}

/// Whether credentials that are stored for a registry can be used for it, and their type. Asks nobody: they may still be refused.
///
/// # Errors
/// Those that [`answer`] would give before its first exchange.
pub fn check(registry: &str, credentials: &CredentialMap) -> Result<CredentialType, Error> {
    check_as(registry, None, credentials, &Endpoints::default())
}

/// [`check`] for credentials that say their type, where the operator has endpoints of its own.
///
/// # Errors
/// See there.
pub fn check_as(
    registry: &str,
    kind: Option<CredentialType>,
    credentials: &CredentialMap,
    endpoints: &Endpoints,
) -> Result<CredentialType, Error> {
    endpoints.validate()?;
    let registry = normalize_registry(registry)?;
    let target = Target { registry: &registry, named: true, endpoints };
    plan(&target, kind, credentials).map(|(kind, _)| kind)
}

/// Where credentials are to go.
struct Target<'a> {
    /// The registry, normalised.
    registry: &'a str,
    /// Whether the credentials name it.
    named: bool,
    endpoints: &'a Endpoints,
}

impl Target<'_> {
    /// The error of keys that are not for this registry.
    fn not_for(&self, whose: &str) -> Error {
        Error::new(Code::NotFound, format!("{whose}, not for {}", self.registry))
    }
}

/// What is left to do.
enum Plan {
    Ready(Scheme),
    Aws(aws::Plan),
    Gcp(gcp::Plan),
    Azure(azure::Plan),
}

impl Plan {
    /// Does it. The life is that of the credential, if it has an end that is known.
    async fn run(self, http: Http) -> Result<(Scheme, Option<Duration>), Error> {
        match self {
            Self::Ready(scheme) => Ok((scheme, None)),
            Self::Aws(plan) => plan.run(&http).await,
            Self::Gcp(plan) => plan.run(&http).await,
            Self::Azure(plan) => plan.run(&http).await,
        }
    }
}

/// The registry that is asked for, and what is to be done for it.
fn planned(
    request: &ContainerRequest,
    ask: &Ask,
    endpoints: &Endpoints,
) -> Result<(String, (CredentialType, Plan)), Error> {
    endpoints.validate()?;
    let registry = asked(ask)?;
    let plan = match choose(request, ask, &registry)? {
        None => (CredentialType::Public, Plan::Ready(Scheme::None)),
        Some(found) => {
            let target = Target { registry: &registry, named: found.registry.is_some(), endpoints };
            plan(&target, found.kind, &found.credentials)?
        }
    };
    Ok((registry, plan))
}

fn plan(
    target: &Target<'_>,
    kind: Option<CredentialType>,
    credentials: &CredentialMap,
) -> Result<(CredentialType, Plan), Error> {
    check_halves(credentials)?;
    let kind = match kind {
        Some(CredentialType::Public) if !credentials.is_empty() => {
            let reason = "it is public, but there are credentials; remove one of both";
            return Err(Error::bad_request("type", reason));
        }
        Some(kind) => kind,
        None => detect_type(target.registry, credentials)?,
    };
    let plan = match kind {
        CredentialType::Public => Plan::Ready(Scheme::None),
        CredentialType::Basic => Plan::Ready(basic::scheme(target, credentials)?),
        CredentialType::Token => Plan::Ready(token::scheme(target, credentials)?),
        CredentialType::Aws => Plan::Aws(aws::Plan::new(target, credentials)?),
        CredentialType::Gcp => Plan::Gcp(gcp::Plan::new(target, credentials)?),
        CredentialType::Azure => Plan::Azure(azure::Plan::new(target, credentials)?),
    };
    Ok((kind, plan))
}

/// The registry that is asked for, normalised.
fn asked(ask: &Ask) -> Result<String, Error> {
    if ask.registry.is_empty() { parse_registry(&ask.image) } else { normalize_registry(&ask.registry) }
}

/// The credentials of a request that are for a registry; `None` = it carries none for it: anonymous.
fn choose(request: &ContainerRequest, ask: &Ask, registry: &str) -> Result<Option<ImageCredentials>, Error> {
    let field = |name, value: &SecretString| parse_credentials_at(name, value.expose_secret());
    if let Some(found) = field("image_credentials", &request.image_credentials)? {
        let theirs = match &found.registry {
            Some(named) => named.clone(),
            // Without an image nobody knows whose they are, and the registry that asks is not to be believed.
            None if ask.image.is_empty() => {
                return Err(Error::new(
                    Code::NotFound,
                    "image_credentials do not say which registry they are for, and no image is known: \
                     name the registry in them, or the image with --image or CLIPFS_IMAGE",
                ));
            }
            None => parse_registry(&ask.image)?,
        };
        return if theirs == registry {
            Ok(Some(found))
        } else {
            let message = format!("image_credentials are for {theirs}, not for {registry}");
            Err(Error::new(Code::NotFound, message))
        };
    }
    let build = field("build_registry_credentials", &request.build_registry_credentials)?;
    match build {
        // A mirror of the image's registry is another registry, also where they name it.
        Some(found) if found.registry.as_deref() == Some(registry) && !ask.image.is_empty() => {
            Ok((parse_registry(&ask.image)? == registry).then_some(found))
        }
        _ => Ok(None),
    }
}

/// A value as it goes into a header or a signature.
///
/// # Errors
/// [`Code::BadRequest`]: a line break, which ends a header, a NUL, or more than [`MAX_LINE`] bytes. Everything else is kept as it is,
/// spaces too.
fn line<'a>(key: &str, value: &'a SecretString) -> Result<&'a str, Error> {
    let value = value.expose_secret();
    if value.len() > MAX_LINE {
        return Err(Error::bad_request(key, &format!("is longer than {MAX_LINE} bytes")));
    }
    if value.contains(['\r', '\n', '\0']) {
        let hint =
            if value.trim_start().starts_with('{') { "; write the JSON in one line" } else { "; remove it" };
        return Err(Error::bad_request(key, &format!("has a line break or a NUL in it{hint}")));
    }
    Ok(value)
}

/// A user name and a password.
fn user_and_password(user: (&str, &SecretString), password: (&str, &SecretString)) -> Result<Scheme, Error> {
    let (user_key, user) = user;
    let name = line(user_key, user)?;
    if name.contains(':') {
        return Err(Error::bad_request(user_key, "has a colon in it, which no user name may have"));
    }
    line(password.0, password.1)?;
    Ok(Scheme::Basic { username: name.to_owned(), password: password.1.clone() })
}

#[cfg(test)]
mod tests;
