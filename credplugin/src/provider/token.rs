//! Vendors' tokens: each is the password of a user name, which some vendors fix and some ignore.

use secrecy::SecretString;

use crate::host::vendor;
use crate::keys::{VENDORS, VendorKeys};
use crate::registry::is_loopback;
use crate::{Code, CredentialMap, Error, Scheme};

use super::{Target, user_and_password};

impl VendorKeys {
    /// Token or password, and its key.
    fn secret<'a>(&self, credentials: &'a CredentialMap) -> Option<(&'static str, &'a SecretString)> {
        [Some(self.token), self.password]
            .into_iter()
            .flatten()
            .find_map(|key| Some((key, credentials.get(key)?)))
    }

    fn is_there(&self, credentials: &CredentialMap) -> bool {
        let user = self.user.and_then(|key| credentials.get(key));
        user.is_some() || self.secret(credentials).is_some()
    }

    fn scheme(&self, credentials: &CredentialMap) -> Result<Scheme, Error> {
        let user = self.user.and_then(|key| Some((key, credentials.get(key)?)));
        let half = |user: &str, token: &str| {
            let hint = self.hint;
            let message = format!("both {user} and {token} must be provided together{hint}");
            Error::new(Code::BadRequest, message)
        };
        match (user, self.secret(credentials), self.any) {
            (Some(user), Some(token), _) => user_and_password(user, token),
            (None, Some(token), Some(any)) => user_and_password(("user name", &any.into()), token),
            (None, Some((token, _)), None) => Err(half(self.user.unwrap_or_default(), token)),
            (Some((user, _)), None, _) => Err(half(user, self.token)),
            (None, None, _) => {
                Err(Error::new(Code::BadRequest, format!("{} not found or empty", self.token)))
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
            let keys = VENDORS.map(|keys| keys.token).join(", ");
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
            let key = keys.secret(credentials).map(|(key, _)| key).or(keys.user).unwrap_or_default();
            Err(target.not_for(&format!("{key} is for {}", keys.hosts)))
        }
    }
}
