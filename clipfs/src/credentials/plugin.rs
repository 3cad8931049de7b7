//! Plugins of the protocol `clipfs`: they are given the request, and what they answer is not simply believed.
//!
//! The question goes in on standard input, to `PLUGIN get` with an empty environment. What comes back is used only if it is a whole
//! document, ends in the way that the document says (0 after an answer, another code after a refusal), is for the registry
//! that was asked for, and has not expired. A plugin cannot turn a request's credentials into anonymous access. Nothing of what it
//! printed is told to anybody but the message of a well-formed refusal, and that only without the request's secrets
//! (`scrub`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use credplugin::protocol::clipfs::{self, MAX_REPLY, Reply, ReplyError};
use credplugin::{
    Code, ContainerRequest, CredentialType, Endpoints, Scheme, parse_credentials, parse_credentials_at,
};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::exec::{self, Places, Ran, Run};
use super::provider::{Answer, AnswerFuture};
use super::request::{self, RequestFile};
use super::scrub::Scrubber;
use super::{CredentialError, CredentialProvider, CredentialRequest, answered};

/// A plugin's time for everything, token endpoints included.
const LIMIT: Duration = Duration::from_secs(60);

/// A plugin that is given the request.
#[derive(Debug)]
pub struct ClipfsPlugin {
    program: PathBuf,
    request: Option<Arc<RequestFile>>,
    endpoints: Endpoints,
    limit: Duration,
    places: Places,
}

impl ClipfsPlugin {
    /// Checks that there is something to run.
    ///
    /// # Errors
    /// [`CredentialError::Configuration`].
    pub fn open(
        path: &Path,
        request: Option<RequestFile>,
        endpoints: Endpoints,
    ) -> Result<Self, CredentialError> {
        let program = exec::find_program(path)?;
        Ok(Self {
            program,
            request: request.map(Arc::new),
            endpoints,
            limit: LIMIT,
            places: Places::of_this_process(),
        })
    }

    async fn ask(&self, asked: &CredentialRequest) -> Result<Answer, CredentialError> {
        let began = Instant::now();
        // It may have gone since it was opened: then the reason is told better than by a failed start.
        exec::look_for(self.program.clone()).await?;
        let read = match &self.request {
            Some(request) => Some(super::in_process::read(request).await?),
            None => None,
        };
        let (bytes, request) = read.map(|read| (read.bytes, read.request)).unzip();
        let question = self.question(asked, bytes)?;
        let run = Run {
            places: &self.places,
            program: &self.program,
            args: &["get"],
            env: &[],
            input: &question,
            limit: self.limit,
            max_output: MAX_REPLY,
        };
        let ran = exec::run(run).await?;
        // Its words stay here; how long it took and how it ended may be known.
        tracing::debug!(
            plugin = %self.program.display(),
            registry = %asked.registry,
            status = %ran.status,
            elapsed_ms = began.elapsed().as_millis(),
            "asked a credential plugin"
        );
        Reading { program: &self.program, asked, request: request.as_ref() }.read(&ran, SystemTime::now())
    }

    fn question(
        &self,
        asked: &CredentialRequest,
        container_request: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
        let question = clipfs::CredentialRequest {
            image: asked.image.clone(),
            registry: asked.registry.clone(),
            scope: asked.scope.clone(),
            endpoints: Some(self.endpoints.clone()),
            container_request,
        };
        // Nothing but the request is of a size to speak of.
        question.write().map_err(|error| match &self.request {
            Some(request) => request.malformed(&format!("too long for a plugin: {}", error.message)),
            None => CredentialError::Malformed(error.message),
        })
    }
}

impl CredentialProvider for ClipfsPlugin {
    fn credential<'a>(&'a self, request: &'a CredentialRequest) -> AnswerFuture<'a> {
        Box::pin(self.ask(request))
    }

    fn version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.request.as_ref().map(|request| request.version()).hash(&mut hasher);
        request::version_of(&self.program).hash(&mut hasher);
        hasher.finish()
    }

    /// Nothing is kept here.
    fn refused(&self, _request: &CredentialRequest) {}
}

/// What it takes to judge a reply.
struct Reading<'a> {
    program: &'a Path,
    asked: &'a CredentialRequest,
    request: Option<&'a ContainerRequest>,
}

impl Reading<'_> {
    fn read(&self, ran: &Ran, now: SystemTime) -> Result<Answer, CredentialError> {
        ran.check_end(self.program)?;
        let ended_well = ran.status.success();
        match clipfs::parse_answer_at(&ran.output, now) {
            Ok(Reply::Answer(_)) | Err(ReplyError::Expired { .. }) if !ended_well => {
                Err(self.broken(&format!("answered, and ended with {}", end(ran.status))))
            }
            Ok(Reply::Error(_)) if ended_well => Err(self.broken("refused, and ended with exit code 0")),
            Ok(Reply::Answer(answer)) => {
                if matches!(answer.scheme, Scheme::None) {
                    self.check_anonymous()?;
                }
                answered::accept(&self.asked.registry, answer).map_err(|error| self.told_by(error))
            }
            Ok(Reply::Error(error)) => {
                let message = format!("{}: {}", self.program.display(), self.scrubbed(&error.message));
                Err(answered::failure(error.code, &self.asked.registry, message, error.retry_after))
            }
            Err(ReplyError::Expired { .. }) => Err(self.told_by(answered::expired(&self.asked.registry))),
            Err(ReplyError::Malformed(_)) if !ended_well => Err(self.failed(ran.status)),
            Err(ReplyError::Malformed(_)) if ran.output.trim_ascii().is_empty() => {
                Err(self.broken("printed nothing"))
            }
            // The reason may repeat a key of what was printed.
            Err(ReplyError::Malformed(_)) => Err(self.broken("printed no document of the protocol clipfs")),
        }
    }

    /// No document, so the exit code says what happened (sysexits.h).
    fn failed(&self, status: ExitStatus) -> CredentialError {
        let said = |what: &str| format!("{} ended with {}: {what}", self.program.display(), end(status));
        let known = [
            (Code::Usage, "it was called wrongly, or speaks another protocol"),
            (Code::BadRequest, "it does not accept the request"),
            (Code::NotFound, "it has no credentials for this registry"),
            (Code::Unavailable, "an endpoint that it needs is unavailable"),
            (Code::Internal, "it failed"),
            (Code::TryLater, "it asks to try later"),
            (Code::Denied, "the credentials were denied"),
        ];
        match known.iter().find(|(code, _)| Some(i32::from(code.exit_code())) == status.code()) {
            Some((code, what)) => answered::failure(*code, &self.asked.registry, said(what), None),
            None => {
                self.broken(&format!("ended with {} and no document of the protocol clipfs", end(status)))
            }
        }
    }

    /// A plugin must not turn credentials into anonymous access: only a request without any has none.
    fn check_anonymous(&self) -> Result<(), CredentialError> {
        let Some(request) = self.request else { return Ok(()) };
        let malformed = |error: credplugin::Error| CredentialError::Malformed(error.message);
        let refused = |which: &str| {
            let program = self.program.display();
            CredentialError::Refused(format!(
                "{program} answered no credentials, but the request has {which}"
            ))
        };
        let image = parse_credentials(request.image_credentials.expose_secret()).map_err(malformed)?;
        if let Some(image) = image {
            let named_none = matches!(image.kind, None | Some(CredentialType::Public));
            return if named_none && image.credentials.is_empty() {
                Ok(())
            } else {
                Err(refused("image_credentials"))
            };
        }
        let build = request.build_registry_credentials.expose_secret();
        let build = parse_credentials_at("build_registry_credentials", build).map_err(malformed)?;
        let ours = build
            .and_then(|build| build.registry)
            .is_some_and(|registry| answered::is_same_registry(&registry, &self.asked.registry))
            // A mirror gets none, also where it is named.
            && credplugin::parse_registry(&self.asked.image)
                .is_ok_and(|registry| answered::is_same_registry(&registry, &self.asked.registry));
        if ours { Err(refused("build_registry_credentials for this registry")) } else { Ok(()) }
    }

    /// Without anything that the plugin was given.
    fn scrubbed(&self, message: &str) -> String {
        let scrubber = match self.request {
            Some(request) => Scrubber::of_request(&request.to_json(), &self.asked.registry),
            None => Scrubber::default(),
        };
        scrubber.line(message)
    }

    fn broken(&self, what: &str) -> CredentialError {
        CredentialError::Broken(format!("{} {what}", self.program.display()))
    }

    /// Names the plugin in an error about its answer.
    fn told_by(&self, error: CredentialError) -> CredentialError {
        let named = |reason: String| format!("{}: {reason}", self.program.display());
        match error {
            CredentialError::Refused(reason) => CredentialError::Refused(named(reason)),
            CredentialError::Broken(reason) => CredentialError::Broken(named(reason)),
            other => other,
        }
    }
}

fn end(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

#[cfg(test)]
mod tests;
