//! As `docker-credential-clipfs`. What goes wrong is told on standard output, since that is where clients look, with exit code 1.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use credplugin::protocol::docker::{
    MAX_SERVER, NO_SERVER, NOT_FOUND, registry_of_server, write_credential, write_list,
};
use credplugin::{Ask, Code, CredentialType, Error, Scheme, parse_credentials, parse_registry};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::get::Question;
use super::kubelet::Filed;
use super::{DOCKER_NAME, EX_IOERR, input, output, settings};

pub(super) fn main(args: &[OsString], deadline: Instant) -> ExitCode {
    let (bytes, code) = match run(args, deadline) {
        Ok(bytes) => (bytes, ExitCode::SUCCESS),
        Err(error) => {
            // One exact sentence, by which clients know that there are none.
            let text = if error.code == Code::NotFound { NOT_FOUND } else { &error.message };
            if text != error.message {
                output::complain(&format!("{DOCKER_NAME}: {error}"));
            }
            (Zeroizing::new(output::printable(text).into_bytes()), ExitCode::FAILURE)
        }
    };
    let mut line = Zeroizing::new(Vec::with_capacity(bytes.len() + 1));
    line.extend_from_slice(&bytes);
    line.push(b'\n');
    match output::write(&line) {
        Ok(()) => code,
        Err(_) => EX_IOERR.into(),
    }
}

fn run(args: &[OsString], deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    let usage = || {
        Error::new(
            Code::Usage,
            format!("usage: {DOCKER_NAME} get|list|version (store and erase are refused)"),
        )
    };
    let [word] = args else { return Err(usage()) };
    match word.to_str() {
        Some("get") => get(deadline),
        Some("list") => list(deadline),
        Some("store" | "erase") => Err(Error::new(
            Code::Usage,
            "this helper stores nothing: credentials are those of the ContainerRequest in CLIPFS_REQUEST_FILE",
        )),
        Some("version" | "--version") => {
            Ok(Zeroizing::new(format!("{DOCKER_NAME} (clipfs) v{}", env!("CARGO_PKG_VERSION")).into_bytes()))
        }
        _ => Err(usage()),
    }
}

fn get(deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = input::stdin(MAX_SERVER, deadline)?;
    let server = std::str::from_utf8(&bytes)
        .map_err(|_| Error::new(Code::BadRequest, "the server is not UTF-8"))?
        .trim();
    if server.is_empty() {
        return Err(Error::new(Code::Usage, NO_SERVER));
    }
    let registry = registry_of_server(server)?;
    let Filed { request, image } = Filed::open()?;
    let ask = Ask { image, registry, scope: String::new() };
    let question = Question { request, ask, endpoints: settings::endpoints(None)? };
    write_credential(server, &question.answer(deadline)?)
}

/// The one registry that the request has credentials for. No token endpoint is asked for the sake of a list.
fn list(deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Filed { request, image } = Filed::open()?;
    let mut users = BTreeMap::new();
    if let Some(credentials) = parse_credentials(request.image_credentials.expose_secret())? {
        let registry = match &credentials.registry {
            Some(registry) => registry.clone(),
            None if image.is_empty() => return write_list(&users),
            None => parse_registry(&image)?,
        };
        let ask = Ask { image, registry: registry.clone(), scope: String::new() };
        let question = Question { request, ask, endpoints: settings::endpoints(None)? };
        let user = match question.kind()? {
            CredentialType::Aws => Some("AWS".into()),
            CredentialType::Gcp => Some("oauth2accesstoken".into()),
            CredentialType::Azure => Some("00000000-0000-0000-0000-000000000000".into()),
            _ => match question.answer(deadline)?.scheme {
                Scheme::Basic { username, .. } => Some(username),
                _ => None,
            },
        };
        if let Some(user) = user {
            users.insert(registry, user);
        }
    }
    write_list(&users)
}
