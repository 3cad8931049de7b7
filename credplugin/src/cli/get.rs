//! `get`: one document in, one out.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use credplugin::protocol::{self, Document, clipfs};
use credplugin::{Answer, Ask, Code, ContainerRequest, Endpoints, Error, parse_registry};

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

fn run(target: &Target, wanted: Wanted, deadline: Instant) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
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
                let request = match asked.container_request.take() {
                    // No request has no credentials: anonymous, as it says.
                    None => ContainerRequest::default(),
                    Some(bytes) => ContainerRequest::parse(&bytes)?,
                };
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
        let registry = if named.is_empty() { parse_registry(&image)? } else { protocol::registry_of_host(&named)? };
        let endpoints = match asked.endpoints {
            Some(endpoints) => endpoints,
            None => settings::endpoints(target.config.as_deref())?,
        };
        let ask = Ask { image, registry, scope: asked.scope };
        Ok(Self { request, ask, endpoints })
    }

    /// The answer, before the deadline.
    pub(super) fn answer(&self, deadline: Instant) -> Result<Answer, Error> {
        names_its_registry(&self.request, &self.ask.image)?;
        // One thread: there is one question. It starts in microseconds; connections are made only if there is an exchange.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new(Code::Internal, format!("no runtime: {error}")))?;
        let answer = runtime.block_on(async {
            let answer = credplugin::answer(&self.request, &self.ask, &self.endpoints);
            tokio::time::timeout_at(deadline.into(), answer).await
        });
        answer.map_err(|_| Error::new(Code::Unavailable, "the token endpoint did not answer in time"))?
    }
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
    if !image.is_empty() || own_registry(request)?.is_some() {
        return Ok(());
    }
    match credplugin::parse_credentials(secrecy::ExposeSecret::expose_secret(&request.image_credentials))? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            Code::NotFound,
            "image_credentials do not say which registry they are for, and no image is known: \
             name the registry in them, or the image with --image or CLIPFS_IMAGE",
        )),
    }
}

/// The registry that the request's credentials name.
pub(super) fn own_registry(request: &ContainerRequest) -> Result<Option<String>, Error> {
    let text = secrecy::ExposeSecret::expose_secret(&request.image_credentials);
    Ok(credplugin::parse_credentials(text)?.and_then(|credentials| credentials.registry))
}
