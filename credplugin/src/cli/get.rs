//! `get`: one document in, one out.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use credplugin::protocol::{self, Document, clipfs};
use credplugin::{
    Answer, Ask, Code, ContainerRequest, CredentialType, Endpoints, Error, ImageCredentials, Prepared,
    check_as, parse_credentials, parse_registry,
};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{Target, failed, input, kubelet, output, settings, written};

/// Which documents are welcome.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All.
    Any,
    /// The kubelet's, which come without a word on the command line.
    KubeletOnly,
}

pub(super) fn main(target: &Target, wanted: Wanted, deadline: Instant) -> ExitCode {
    match run(target, wanted, deadline) {
        Ok(document) => written(output::write(&document)),
        Err(error) => failed(&error),
    }
}

fn run(target: &Target, wanted: Wanted, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, Error> {
    if wanted == Wanted::KubeletOnly && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Error::new(Code::Usage, "a command is needed: get or check"));
    }
    let bytes = input::stdin(clipfs::MAX_REQUEST, deadline)?;
    match protocol::recognise(&bytes)? {
        Document::Kubelet(request) => kubelet::answer(&request, target, deadline),
        _ if wanted == Wanted::KubeletOnly => {
            Err(Error::new(Code::Usage, "a command is needed for what is on standard input: get or check"))
        }
        document => {
            let question = Question::of(document, &bytes, target)?;
            let answer = question.answer(deadline)?;
            clipfs::write_answer(&answer, SystemTime::now())
        }
    }
}

/// All that an answer needs.
pub(super) struct Question {
    pub(super) request: ContainerRequest,
    pub(super) ask: Ask,
    pub(super) endpoints: Endpoints,
}

impl Question {
    /// From a document of our own protocol or a bare ContainerRequest, and the command line.
    pub(super) fn of(document: Document, bytes: &[u8], target: &Target) -> Result<Self, Error> {
        let (asked, request) = match document {
            Document::Credential(mut asked) => {
                // Nothing to answer from is not the same as a request without credentials.
                let request = asked
                    .container_request
                    .take()
                    .ok_or_else(|| Error::bad_request("containerRequest", "not found"))?;
                let request = ContainerRequest::parse(&request)?;
                (asked, request)
            }
            Document::Container => (clipfs::CredentialRequest::default(), ContainerRequest::parse(bytes)?),
            Document::Kubelet(_) => {
                return Err(Error::new(Code::Usage, "a request of the kubelet is for get"));
            }
        };
        let image = one("image", "--image", &asked.image, target.image.as_deref())?;
        let named = one("registry", "--registry", &asked.registry, target.registry.as_deref())?;
        if image.is_empty() && named.is_empty() {
            return Err(Error::new(Code::Usage, "which image is it? use --image"));
        }
        let registry =
            if named.is_empty() { parse_registry(&image)? } else { protocol::registry_of_host(&named)? };
        let endpoints = match asked.endpoints {
            Some(endpoints) => endpoints,
            None => settings::endpoints(target.config.as_deref())?,
        };
        let ask = Ask { image, registry, scope: asked.scope };
        Ok(Self { request, ask, endpoints })
    }

    /// The type of the request's credentials, once it is sure that they are for this registry.
    ///
    /// # Errors
    /// [`Code::NotFound`]: they are for another one, or can never be of use to it. [`Code::BadRequest`]: they are none.
    pub(super) fn kind(&self, credentials: &ImageCredentials) -> Result<CredentialType, Error> {
        let registry = &self.ask.registry;
        match &credentials.registry {
            Some(named) if named != registry => Err(Error::new(
                Code::NotFound,
                format!("image_credentials are for {named}, not for {registry}"),
            )),
            _ => check_as(registry, credentials.kind, &credentials.credentials, &self.endpoints),
        }
    }

    /// What there is without the network.
    pub(super) fn prepare(&self) -> Result<Prepared, Error> {
        names_its_registry(&self.request, &self.ask.image)?;
        credplugin::prepare(&self.request, &self.ask, &self.endpoints)
    }

    /// The answer, before the deadline.
    pub(super) fn answer(&self, deadline: Instant) -> Result<Answer, Error> {
        finish(self.prepare()?, deadline)
    }
}

/// The answer, for which a cloud may have to be asked. Only then is there a runtime.
pub(super) fn finish(prepared: Prepared, deadline: Instant) -> Result<Answer, Error> {
    match prepared {
        Prepared::Answer(answer) => Ok(answer),
        Prepared::Exchange(exchange) => before(deadline, exchange.run())?,
    }
}

/// Runs to the end or the deadline, and leaves behind what does not end: the system's resolver cannot be interrupted.
fn before<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Error> {
    // One thread: there is one question.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::new(Code::Internal, format!("no runtime: {error}")))?;
    let done = runtime.block_on(async { tokio::time::timeout_at(deadline.into(), work).await });
    runtime.shutdown_background();
    done.map_err(|_| Error::new(Code::Unavailable, "the token endpoint did not answer in time"))
}

/// What the document or the command line says; both only if they agree.
fn one(key: &str, flag: &str, said: &str, flagged: Option<&str>) -> Result<String, Error> {
    match flagged {
        Some(flagged) if said.is_empty() || said == flagged => Ok(flagged.to_owned()),
        Some(_) => Err(Error::new(Code::Usage, format!("{flag} contradicts {key} on standard input"))),
        None => Ok(said.to_owned()),
    }
}

/// Credentials that do not say which registry they are for are for the image's. Without an image nobody knows, and the registry that
/// asks is not to be believed.
pub(super) fn names_its_registry(request: &ContainerRequest, image: &str) -> Result<(), Error> {
    match parse_credentials(request.image_credentials.expose_secret())? {
        Some(credentials) if credentials.registry.is_none() && image.is_empty() => Err(Error::new(
            Code::NotFound,
            "image_credentials do not say which registry they are for, and no image is known: \
             name the registry in them, or the image with --image or CLIPFS_IMAGE",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_hangs_is_left_behind() {
        let (release, held) = mpsc::channel::<()>();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let hanging = async move {
            tokio::task::spawn_blocking(move || {
                // Ends by itself, so that a failure is a failure and not a test that hangs.
                let _ = held.recv_timeout(Duration::from_secs(10));
                seen.store(true, Ordering::SeqCst);
            })
            .await
        };
        let done = before(Instant::now() + Duration::from_millis(50), hanging);
        assert_eq!(done.err().map(|error| error.code), Some(Code::Unavailable));
        assert!(!over.load(Ordering::SeqCst), "it was waited for");
        drop(release);
    }
}
