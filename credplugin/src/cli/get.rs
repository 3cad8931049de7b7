//! `get`: one document in, one out.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use credplugin::protocol::{self, Document, clipfs};
use credplugin::{
    Answer, Ask, Code, ContainerRequest, CredentialType, Endpoints, Error, Prepared, check_request,
    parse_registry,
};
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
        let bare = target.image.is_some() || target.registry.is_some();
        let (asked, request) = match document {
            // A document that calls itself a question chooses endpoints. Who says on the command line what is asked for hands over a
            // ContainerRequest, which a tenant may have written.
            Document::Credential(_) if bare => {
                let reason =
                    "with --image or --registry, standard input is a ContainerRequest, which has no kind";
                return Err(Error::bad_request("kind", reason));
            }
            Document::Credential(mut asked) => {
                // Nothing to answer from is not the same as a request without credentials.
                let request = asked.container_request.take().ok_or_else(|| {
                    let reason =
                        "there is no ContainerRequest to answer from: give clipfs one with --request";
                    Error::new(Code::NotFound, reason)
                })?;
                let request = ContainerRequest::parse(&request)?;
                (asked, request)
            }
            Document::Container => (clipfs::CredentialRequest::default(), ContainerRequest::parse(bytes)?),
            Document::Kubelet(_) => {
                return Err(Error::new(Code::Usage, "a request of the kubelet is for get"));
            }
        };
        // One of both is empty.
        let image = target.image.clone().unwrap_or(asked.image);
        let named = target.registry.clone().unwrap_or(asked.registry);
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
    pub(super) fn kind(&self) -> Result<CredentialType, Error> {
        check_request(&self.request, &self.ask, &self.endpoints)
    }

    /// What there is without the network.
    pub(super) fn prepare(&self) -> Result<Prepared, Error> {
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
