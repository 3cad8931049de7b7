//! A user name and a password, as the registry knows them.

use crate::kind::USER_KEYS;
use crate::{CredentialMap, Error, Scheme};

use super::{Target, token, user_and_password};

/// The first pair that is there.
pub(super) fn scheme(target: &Target<'_>, credentials: &CredentialMap) -> Result<Scheme, Error> {
    for (user, password) in USER_KEYS {
        if let Some((name, secret)) = credentials.get_pair(user, password)? {
            return user_and_password((user, name), (password, secret));
        }
    }
    // A vendor's pair, such as DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD, also where its owner calls it basic.
    if token::any(credentials) {
        return token::scheme(target, credentials);
    }
    let (user, password) = USER_KEYS[USER_KEYS.len() - 1];
    credentials.require(user)?;
    credentials.require(password)?;
    Err(Error::bad_request("credentials", "no user name and password"))
}
