//! Docker's credential helpers, called as Docker calls them: `HELPER get`, the server on standard input, the answer on standard
//! output.
//!
//! Errors come on standard output too, with exit code 1. Three sentences are known word for word; all others are foreign content
//! that may hold anything, and are not repeated. Keeps nothing: a helper is asked at every ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exec::{self, Places, Ran, Run};
use super::json::{self, Fault};
use super::provider::{Answer, AnswerFuture};
use super::server::{Server, docker_server, fold};
use super::{CredentialError, CredentialProvider, CredentialRequest, value};

/// How long a helper may take: as long as the kubelet gives its plugins.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest answer.
const MAX_OUTPUT: usize = 64 << 10;

/// What the names of helpers start with.
pub(super) const PREFIX: &str = "docker-credential-";

/// The user name that says that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// What helpers say if they have nothing for a server (docker-credential-helpers, `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// What they say if they were told no server.
const NO_SERVER: &str = "no credentials server URL";
/// What they say if an entry has no user name.
const NO_USERNAME: &str = "no credentials username";

/// One helper.
#[derive(Debug)]
pub struct DockerHelper {
    program: PathBuf,
    env: Vec<String>,
    places: Places,
}

impl DockerHelper {
    /// Checks that there is something to run. `env`: names of variables that it gets besides PATH and HOME.
    ///
    /// A bare name is looked for in PATH: `docker-credential-NAME`, then `NAME`. In this order, because helpers are often named
    /// after the program that they adapt (`pass`), and that one is no helper.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`]: no such file, not executable.
    pub fn open(path: &Path, env: &[String]) -> Result<Self, CredentialError> {
        let name = path.to_str().filter(|name| !name.contains('/') && !name.starts_with(PREFIX));
        let prefixed = name.and_then(|name| exec::find_program(Path::new(&format!("{PREFIX}{name}"))).ok());
        let program = prefixed.map_or_else(|| exec::find_program(path), Ok)?;
        Ok(Self::at(program, env))
    }

    /// A helper that has been found.
    pub(super) fn at(program: PathBuf, env: &[String]) -> Self {
        Self { program, env: env.to_vec(), places: Places::of_this_process() }
    }

    /// Asks for a server by the given name.
    pub(super) async fn get(&self, registry: &str, server: &str) -> Result<Answer, CredentialError> {
        let env = exec::environment(&self.env);
        let ran = exec::run(Run {
            places: &self.places,
            program: &self.program,
            args: &["get"],
            env: &env,
            input: server.as_bytes(),
            limit: LIMIT,
            max_output: MAX_OUTPUT,
        })
        .await?;
        self.read(&ran, registry)
    }

    fn read(&self, ran: &Ran, registry: &str) -> Result<Answer, CredentialError> {
        let source = format!("docker credential helper {}", self.program.display());
        ran.check_end(&self.program)?;
        match ran.status.code() {
            Some(0) => parse_answer(&ran.output, &source, registry),
            code => Err(refusal(&ran.output, code, &source, registry)),
        }
    }
}

impl CredentialProvider for DockerHelper {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(async move {
            let registry = fold(&request.registry);
            self.get(&registry, docker_server(&registry)).await
        })
    }

    /// Nothing is kept here: a helper is run each time.
    fn refused(&self, _request: &CredentialRequest) {}
}

/// What a helper means that ended with an error.
fn refusal(output: &[u8], code: Option<i32>, source: &str, registry: &str) -> CredentialError {
    let not_found = |reason: &str| CredentialError::NotFound {
        registry: registry.to_owned(),
        reason: format!("{source} {reason}"),
    };
    // The helper library trims and compares in the same way.
    match output.trim_ascii() {
        said if said == NOT_FOUND.as_bytes() => not_found("has none: log in there, or name another source"),
        said if said == NO_USERNAME.as_bytes() => not_found("has an entry without a user name: log in again"),
        said if said == NO_SERVER.as_bytes() => {
            CredentialError::Broken(format!("{source} did not read which server it was asked for"))
        }
        _ => CredentialError::Broken(format!(
            "{source} ended with exit code {}; run it by hand to see what it says",
            code.map_or_else(|| "unknown".to_owned(), |code| code.to_string())
        )),
    }
}

/// `{"ServerURL", "Username", "Secret"}`; in any case and with further members, as Docker's decoder has it.
fn parse_answer(output: &[u8], source: &str, registry: &str) -> Result<Answer, CredentialError> {
    let broken = |fault: Fault| CredentialError::Broken(format!("{source} answered nonsense: {fault}"));
    let document = json::parse(output, MAX_OUTPUT).map_err(broken)?;
    let members = json::members(&document, "").map_err(broken)?;
    let text = |name: &str| {
        let mut found = members.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = found.next().map_or(Ok(""), |(_, value)| json::text(value, name))?;
        match found.next() {
            None => Ok(value),
            Some(_) => Err(Fault::new(name, "it stands there twice")),
        }
    };
    let server = text("ServerURL").map_err(broken)?;
    let username = text("Username").map_err(broken)?;
    let secret = text("Secret").map_err(broken)?;
    if !server.is_empty() && Server::parse(server).registry != registry {
        return Err(CredentialError::Refused(format!(
            "{source} answered for another registry than {registry}"
        )));
    }
    let missing = |what: &str| CredentialError::NotFound {
        registry: registry.to_owned(),
        reason: format!("{source} has an entry without a {what}: log in again"),
    };
    if secret.is_empty() {
        return Err(missing("secret"));
    }
    let credential = match username {
        "" => return Err(missing("user name")),
        TOKEN_USER => value::refresh_token(secret),
        _ => value::basic(username, secret),
    }
    .map_err(|unfit| unfit.stored(source))?;
    Ok(Answer { credential, valid_for: None })
}

#[cfg(test)]
mod tests;
