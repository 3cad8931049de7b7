//! A user name and a password, as the registry knows them.

use crate::keys::USERS;
use crate::{CredentialMap, Error, Scheme};

use super::{Target, json_key, token, user_and_password};

/// The first pair that is there.
pub(super) fn scheme(target: &Target<'_>, credentials: &CredentialMap) -> Result<Scheme, Error> {
    for (user, password) in USERS {
        if let Some((name, secret)) = credentials.get_pair((user, password))? {
            let one_line = json_key::one_line(target, name, password, secret)?;
            return user_and_password((user, name), (password, one_line.as_ref().unwrap_or(secret)));
        }
    }
    // A vendor's pair, such as DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD, also where its owner calls it basic.
    if token::any(credentials) {
        return token::scheme(target, credentials);
    }
    let (user, password) = USERS[USERS.len() - 1];
    credentials.require(user)?;
    credentials.require(password)?;
    Err(Error::bad_request("credentials", "no user name and password"))
}
