//! The way to the server: TLS, token, tries.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use api::v1::admin_service_client::AdminServiceClient;
use api::v1::container_service_client::ContainerServiceClient;
use api::v1::image_service_client::ImageServiceClient;
use api::v1::secret_service_client::SecretServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::args::ClientArgs;
use super::failure::Failure;
use super::settings::{self, Settings};

/// The server of this machine.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";
/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for a call that answers once.
const CALL: Duration = Duration::from_secs(60);
/// Longest token file.
const MAX_TOKEN_FILE: u64 = 4096;
/// Longest PEM file.
const MAX_PEM: u64 = 1 << 20;
/// Pauses before a call is made again: the server is being replaced, or the database is busy.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Adds the token to each call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

type Way = InterceptedService<Channel, Bearer>;

/// The server, as a client sees it.
#[derive(Clone)]
pub(super) struct Client(Way);

impl Client {
    /// Reads token and certificates; connects with the first call.
    pub(super) fn new(args: &ClientArgs, settings: &Settings) -> Result<Self, Failure> {
        let server = args.server.as_ref().or(settings.server.as_ref());
        let server = server.map_or(DEFAULT_SERVER, String::as_str);
        let unfit = |_| Failure::Usage("--server must be a URL like https://host:port".to_owned());
        let mut endpoint = Endpoint::from_shared(server.to_owned())
            .map_err(unfit)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let uri = endpoint.uri();
        let host = uri.host().unwrap_or_default();
        let loopback = credplugin::is_loopback(host);
        match uri.scheme_str() {
            Some("https") => {
                let tls = tls(args, settings)?;
                endpoint = endpoint
                    .tls_config(tls)
                    .map_err(|source| Failure::Connect { server: server.to_owned(), source })?;
            }
            Some("http") if loopback || args.insecure_plaintext => {}
            Some("http") => {
                return Err(Failure::Usage(format!(
                    "{host} is not this machine: the token would travel in the clear; use https, or --insecure-plaintext"
                )));
            }
            _ => return Err(Failure::Usage("--server must be a URL like https://host:port".to_owned())),
        }
        let token = match args.token_file.as_ref().or(settings.token_file.as_ref()) {
            Some(path) => Some(token(path)?),
            None => None,
        };
        Ok(Self(InterceptedService::new(endpoint.connect_lazy(), Bearer(token))))
    }

    pub(super) fn admin(&self) -> AdminServiceClient<Way> {
        AdminServiceClient::new(self.0.clone())
    }

    pub(super) fn images(&self) -> ImageServiceClient<Way> {
        ImageServiceClient::new(self.0.clone())
    }

    pub(super) fn secrets(&self) -> SecretServiceClient<Way> {
        SecretServiceClient::new(self.0.clone())
    }

    pub(super) fn containers(&self) -> ContainerServiceClient<Way> {
        ContainerServiceClient::new(self.0.clone())
    }
}

/// A call that answers once, with a deadline.
pub(super) fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

/// A new idempotency key: with it a call may be made again.
pub(super) fn key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Makes a call that may be made again, until it is answered.
pub(super) async fn again<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut pauses = PAUSES.iter();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => match (status.code(), pauses.next()) {
                (Code::Unavailable | Code::Aborted, Some(pause)) => tokio::time::sleep(*pause).await,
                _ => return Err(status),
            },
        }
    }
}

/// Items of all pages of a list. `page` answers a page of a token, and the next page's token.
pub(super) async fn pages<T, F>(mut page: impl FnMut(String) -> F) -> Result<Vec<T>, Status>
where
    F: Future<Output = Result<(Vec<T>, String), Status>>,
{
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

fn tls(args: &ClientArgs, settings: &Settings) -> Result<ClientTlsConfig, Failure> {
    let pem = |path: &Path| settings::file(path, MAX_PEM);
    let Some(ca) = args.ca.as_ref().or(settings.ca.as_ref()) else {
        return Err(Failure::Usage(
            "https needs --ca FILE: the roots of the server's certificate".to_owned(),
        ));
    };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(ca)?.as_slice()));
    match (args.cert.as_ref().or(settings.cert.as_ref()), args.key.as_ref().or(settings.key.as_ref())) {
        (None, None) => Ok(config),
        (Some(cert), Some(key)) => {
            Ok(config.identity(Identity::from_pem(pem(cert)?.as_slice(), pem(key)?.as_slice())))
        }
        _ => Err(Failure::Usage("--cert and --key belong together".to_owned())),
    }
}

fn token(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    let bytes = settings::file(path, MAX_TOKEN_FILE)?;
    let text = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|text| !text.is_empty());
    let header = text.map(|text| zeroize::Zeroizing::new(format!("Bearer {text}")));
    let value = header.and_then(|header| MetadataValue::try_from(header.as_str()).ok());
    let mut value = value.ok_or_else(|| Failure::Data(format!("{} holds no token", path.display())))?;
    value.set_sensitive(true);
    Ok(value)
}
