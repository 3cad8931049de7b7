//! Vendors' tokens: each is the password of a user name, which some vendors fix and some ignore.

use secrecy::SecretString;

use crate::host::{Vendor, vendor};
use crate::registry::is_loopback;
use crate::{Code, CredentialMap, Error, Scheme};

use super::{Target, user_and_password};

/// A vendor's keys.
struct Keys {
    vendor: Vendor,
    /// Its hosts, for messages.
    hosts: &'static str,
    /// Key of the user name; `None` = it is always [`Keys::any`].
    user: Option<&'static str>,
    /// Keys of the token, the one that wins first.
    tokens: &'static [&'static str],
    /// The user name where none is given; `None` = there must be one.
    any: Option<&'static str>,
    /// What an operator may not know.
    hint: &'static str,
}

/// Sources: the vendors' pages on `docker login`.
///
/// GitHub looks at the token only. GitLab's deploy tokens and Quay's robots are the passwords of *their* names, which cannot be guessed
/// from the token; both vendors have a name for tokens of OAuth2 applications.
const VENDORS: [Keys; 5] = [
    Keys {
        vendor: Vendor::Ngc,
        hosts: "nvcr.io",
        user: None,
        tokens: &["NGC_API_KEY"],
        any: Some("$oauthtoken"),
        hint: "",
    },
    Keys {
        vendor: Vendor::GitHub,
        hosts: "ghcr.io",
        user: Some("GITHUB_USERNAME"),
        tokens: &["GITHUB_TOKEN"],
        any: Some("x-access-token"),
        hint: "",
    },
    Keys {
        vendor: Vendor::GitLab,
        hosts: "registry.gitlab.com",
        user: Some("GITLAB_USERNAME"),
        tokens: &["GITLAB_TOKEN"],
        any: None,
        hint: " (the user name of an OAuth2 token is oauth2)",
    },
    Keys {
        vendor: Vendor::Quay,
        hosts: "quay.io",
        user: Some("QUAY_USERNAME"),
        tokens: &["QUAY_TOKEN"],
        any: None,
        hint: " (the user name of an OAuth2 token is $oauthtoken)",
    },
    Keys {
        vendor: Vendor::DockerHub,
        hosts: "docker.io",
        user: Some("DOCKERHUB_USERNAME"),
        tokens: &["DOCKERHUB_TOKEN", "DOCKERHUB_PASSWORD"],
        any: None,
        hint: "",
    },
];

impl Keys {
    fn token<'a>(&self, credentials: &'a CredentialMap) -> Option<(&'static str, &'a SecretString)> {
        self.tokens.iter().find_map(|key| Some((*key, credentials.get(key)?)))
    }

    fn is_there(&self, credentials: &CredentialMap) -> bool {
        let user = self.user.and_then(|key| credentials.get(key));
        user.is_some() || self.token(credentials).is_some()
    }

    fn scheme(&self, credentials: &CredentialMap) -> Result<Scheme, Error> {
        let user = self.user.and_then(|key| Some((key, credentials.get(key)?)));
        let half = |user: &str, token: &str| {
            let hint = self.hint;
            let message = format!("both {user} and {token} must be provided together{hint}");
            Error::new(Code::BadRequest, message)
        };
        match (user, self.token(credentials), self.any) {
            (Some(user), Some(token), _) => user_and_password(user, token),
            (None, Some(token), Some(any)) => user_and_password(("user name", &any.into()), token),
            (None, Some((token, _)), None) => Err(half(self.user.unwrap_or_default(), token)),
            (Some((user, _)), None, _) => Err(half(user, self.tokens[0])),
            (None, None, _) => {
                Err(Error::new(Code::BadRequest, format!("{} not found or empty", self.tokens[0])))
            }
        }
    }
}

/// Whether there is any key of a vendor.
pub(super) fn any(credentials: &CredentialMap) -> bool {
    VENDORS.iter().any(|keys| keys.is_there(credentials))
}

/// The user name and password for this registry.
pub(super) fn scheme(target: &Target<'_>, credentials: &CredentialMap) -> Result<Scheme, Error> {
    let owner = vendor(target.registry);
    let own = VENDORS.iter().find(|keys| Some(&keys.vendor) == owner.as_ref());
    let mut there = VENDORS.iter().filter(|keys| keys.is_there(credentials));
    let (first, more) = (there.next(), there.next().is_some());
    match (own, first) {
        (Some(own), _) if own.is_there(credentials) || first.is_none() => own.scheme(credentials),
        (_, None) => {
            let keys = VENDORS.map(|keys| keys.tokens[0]).join(", ");
            Err(Error::new(Code::BadRequest, format!("none of {keys} found, or all empty")))
        }
        // On this machine, or where the credentials name this registry, it is one that the vendor does not run.
        (None, Some(keys)) if owner.is_none() && (target.named || is_loopback(target.registry)) => {
            if more {
                let reason = format!("tokens of several vendors; keep the one for {}", target.registry);
                return Err(Error::bad_request("credentials", &reason));
            }
            keys.scheme(credentials)
        }
        (_, Some(keys)) => {
            let key = keys.token(credentials).map(|(key, _)| key).or(keys.user).unwrap_or_default();
            Err(target.not_for(&format!("{key} is for {}", keys.hosts)))
        }
    }
}
