//! The clouds on loopback, and asking for credentials.

use std::net::Ipv4Addr;
use std::time::Duration;

use credplugin::{Answer, Ask, Code, ContainerRequest, Endpoints, Error, Scheme};
use fixtures::cloud::{Acr, Ecr, Entra, Google, Server};
use fixtures::secret::{self, Traces};
use secrecy::ExposeSecret as _;
use serde_json::json;

/// A registry of each cloud.
pub(crate) const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
pub(crate) const ECR_PUBLIC: &str = "public.ecr.aws";
pub(crate) const GAR: &str = "europe-docker.pkg.dev";
pub(crate) const ACR: &str = "myteam.azurecr.io";

/// All clouds, each at its own address.
pub(crate) struct Clouds {
    pub(crate) ecr: Ecr,
    pub(crate) google: Google,
    pub(crate) entra: Entra,
    pub(crate) acr: Acr,
    /// At the end of the test, nothing secret was logged by anybody.
    _traces: Traces,
}

impl Clouds {
    pub(crate) fn start() -> Self {
        let ip = |last| Ipv4Addr::new(127, 0, 0, last);
        let entra = Entra::start(ip(14));
        let acr = Acr::start(ip(15), &entra);
        acr.call_it(ACR);
        Self {
            ecr: Ecr::start(ip(12)),
            google: Google::start(ip(13)),
            entra,
            acr,
            _traces: Traces::install(),
        }
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        Endpoints {
            ecr: Some(self.ecr.server().url()),
            ecr_public: Some(self.ecr.server().url()),
            gcp: Some(self.google.url()),
            azure: Some(self.entra.server().url()),
            acr: Some(self.acr.server().url()),
        }
    }

    /// Asserts that endpoints other than these got no request at all.
    #[track_caller]
    pub(crate) fn assert_only(&self, asked: &[&Server]) {
        let all = [self.ecr.server(), self.google.server(), self.entra.server(), self.acr.server()];
        for server in all.into_iter().filter(|server| !asked.iter().any(|s| s.addr() == server.addr())) {
            assert_eq!(server.log().len(), 0, "requests to {}", server.url());
        }
        assert!(self.acr.registry().log().is_empty(), "requests to a registry");
    }
}

/// A request with credentials that name their registry.
pub(crate) fn request(registry: &str, kind: &str, credentials: &[(&str, &str)]) -> ContainerRequest {
    let credentials: serde_json::Map<_, _> =
        credentials.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let inner = json!({ "registry": registry, "type": kind, "credentials": credentials });
    let request = json!({ "container_id": "c-1", "image_credentials": inner.to_string() });
    ContainerRequest::parse(request.to_string().as_bytes()).expect("a good request")
}

/// What clipfs would ask for an image of this registry.
pub(crate) fn question(registry: &str) -> Ask {
    Ask {
        image: format!("{registry}/team/app:1"),
        registry: registry.into(),
        scope: "repository:team/app:pull".into(),
    }
}

/// Asks, and looks whether the answer is for this registry, and whether an error or a Debug text tells a secret.
pub(crate) async fn ask(
    registry: &str,
    request: &ContainerRequest,
    endpoints: &Endpoints,
) -> Result<Answer, Error> {
    let answer = credplugin::answer(request, &question(registry), endpoints).await;
    match &answer {
        Ok(answer) => assert_eq!(answer.registry, registry),
        Err(error) => assert!(!error.message.is_empty()),
    }
    assert_eq!(secret::find(format!("{answer:?} {request:?}").as_bytes()), None);
    answer
}

/// User and password of an answer.
#[track_caller]
pub(crate) fn basic(answer: &Answer) -> (&str, &str) {
    match &answer.scheme {
        Scheme::Basic { username, password } => (username, password.expose_secret()),
        other => panic!("not Basic: {other:?}"),
    }
}

/// The error of an ask that must fail with this code.
#[track_caller]
pub(crate) fn fails(answer: Result<Answer, Error>, code: Code) -> Error {
    match answer {
        Ok(answer) => panic!("an answer instead of {code:?}: {answer:?}"),
        Err(error) => {
            assert_eq!(error.code, code, "{}", error.message);
            error
        }
    }
}

/// Asserts that an answer lives for this long, give or take what a slow machine takes.
#[track_caller]
pub(crate) fn assert_lives(answer: &Answer, seconds: u64) {
    let life = answer.valid_for.expect("a limited life");
    let (least, most) = (Duration::from_secs(seconds.saturating_sub(30)), Duration::from_secs(seconds + 1));
    assert!(least <= life && life <= most, "{life:?} instead of {seconds} s");
}
