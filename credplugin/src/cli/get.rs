//! `get`: one document in, one out.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use credplugin::protocol::{self, Document, clipfs};
use credplugin::provider::check_as;
use credplugin::{
    Answer, Ask, Code, ContainerRequest, CredentialType, Endpoints, Error, ImageCredentials,
    parse_credentials, parse_registry,
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

    /// The answer, before the deadline.
    pub(super) fn answer(&self, deadline: Instant) -> Result<Answer, Error> {
        names_its_registry(&self.request, &self.ask.image)?;
        // One thread: there is one question. It starts in microseconds; connections are made only if there is an exchange.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Error::new(Code::Internal, format!("no runtime: {error}")))?;
        let answer = runtime.block_on(async {
            let answer = credplugin::answer(&self.request, &self.ask, &self.endpoints);
            tokio::time::timeout_at(deadline.into(), answer).await
        });
        answer.map_err(|_| Error::new(Code::Unavailable, "the token endpoint did not answer in time"))?
    }
}

/// Whether credentials of this type are exchanged for a token over the network.
pub(super) const fn needs_exchange(kind: CredentialType) -> bool {
    matches!(kind, CredentialType::Aws | CredentialType::Gcp | CredentialType::Azure)
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
