//! Docker's credential helper protocol, the helper's side: one word in argv, a server on standard input, JSON or one exact sentence
//! on standard **output**.
//!
//! Clients compare the sentences as they are (docker-credential-helpers, `credentials/error.go`), so they are not ours to improve.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{registry_of_host, write_json};
use crate::{Answer, Code, Error, Scheme};

/// Longest server that is read from standard input.
pub const MAX_SERVER: usize = 4 << 10;
/// Largest document out.
pub const MAX_REPLY: usize = 64 << 10;
/// What a client takes for "there are none", and goes on without.
pub const NOT_FOUND: &str = "credentials not found in native keychain";
/// No server was given.
pub const NO_SERVER: &str = "no credentials server URL";
/// The user name that says that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// The registry of a server as clients write it: a host with or without a port, a scheme, a path.
///
/// # Errors
/// [`Code::BadRequest`]: no registry has such a name.
pub fn registry_of_server(server: &str) -> Result<String, Error> {
    let rest = ["https://", "http://"].into_iter().find_map(|scheme| {
        let head = server.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &server[scheme.len()..])
    });
    let rest = rest.unwrap_or(server);
    let host = rest.split('/').next().unwrap_or_default();
    registry_of_host(host)
}

/// Writes the answer to `get` for the server as it was asked.
///
/// # Errors
/// [`Code::NotFound`]: anonymous, which this protocol calls [`NOT_FOUND`]. [`Code::BadRequest`]: a registry token, which it cannot tell.
pub fn write_credential(server: &str, answer: &Answer) -> Result<Zeroizing<Vec<u8>>, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Credential<'a> {
        #[serde(rename = "ServerURL")]
        server_url: &'a str,
        username: &'a str,
        secret: &'a str,
    }
    let (username, secret) = match &answer.scheme {
        Scheme::Basic { username, password } => (username.as_str(), password),
        Scheme::RefreshToken { token } => (TOKEN_USER, token),
        Scheme::None => return Err(Error::new(Code::NotFound, NOT_FOUND)),
        Scheme::Bearer { .. } => {
            return Err(Error::new(
                Code::BadRequest,
                "the credential is a registry token, which Docker's protocol cannot tell",
            ));
        }
    };
    write_json(&Credential { server_url: server, username, secret: secret.expose_secret() }, MAX_REPLY)
}

/// Writes the answer to `list`: user names by registry, no secrets.
///
/// # Errors
/// [`Code::Internal`]: larger than [`MAX_REPLY`].
pub fn write_list(users: &BTreeMap<String, String>) -> Result<Zeroizing<Vec<u8>>, Error> {
    write_json(users, MAX_REPLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_clients_write_them() {
        let table = [
            ("r.example.com", Some("r.example.com")),
            ("https://R.example.com", Some("r.example.com")),
            ("HTTP://r.example.com:5000/v2/", Some("r.example.com:5000")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("127.0.0.1:5000", Some("127.0.0.1:5000")),
            ("localhost", Some("localhost")),
            // Not Docker Hub, though an image of that name would be there.
            ("registry", None),
            ("team/app", None),
            ("", None),
            ("https://", None),
            ("ftp://r.example.com", None),
            ("user@r.example.com", None),
            ("https://user:pl4nted-server@r.example.com", None),
            ("user:pl4nted-server@r.example.com/v2/", None),
            ("docker://user:pl4nted-server@r.example.com", None),
            ("pl4nted-server", None),
        ];
        for (server, expected) in table {
            let found = registry_of_server(server);
            assert!(!format!("{found:?}").contains("pl4nted"), "{found:?}");
            assert_eq!(found.ok().as_deref(), expected, "{server:?}");
        }
    }

    #[test]
    fn what_this_protocol_can_tell() {
        let answer = |scheme| Answer { registry: "r.example.com".into(), scheme, valid_for: None };
        let text = |scheme| {
            let written = write_credential("https://r.example.com", &answer(scheme));
            written.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|e| e.code)
        };
        let basic = Scheme::Basic { username: "u".into(), password: "p \"ä".into() };
        let server = r#""ServerURL":"https://r.example.com""#;
        assert_eq!(text(basic), Ok(format!(r#"{{{server},"Username":"u","Secret":"p \"ä"}}"#)));
        let refresh = Scheme::RefreshToken { token: "t".into() };
        assert_eq!(text(refresh), Ok(format!(r#"{{{server},"Username":"<token>","Secret":"t"}}"#)));
        assert_eq!(text(Scheme::None), Err(Code::NotFound));
        assert_eq!(text(Scheme::Bearer { token: "t".into() }), Err(Code::BadRequest));
        let large = Scheme::Basic { username: "u".into(), password: "p".repeat(MAX_REPLY).into() };
        assert_eq!(text(large), Err(Code::Internal));
    }
}
