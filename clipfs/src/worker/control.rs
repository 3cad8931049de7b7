//! The control plane's address, and who we are to it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::v1::image_service_client::ImageServiceClient;
use api::v1::worker_service_client::WorkerServiceClient;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use super::{Options, WorkerError};

/// Time to a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a silent connection is tried, and how long until it is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Largest message: a request of 1 MiB, and what is around it.
const MAX_MESSAGE: usize = 2 << 20;

/// Longest token file.
const MAX_TOKEN: usize = 4096;

/// The way to the control plane. Connects when it is used, and again.
#[derive(Debug)]
pub struct Control {
    channel: Channel,
    token_file: PathBuf,
    /// Marked as sensitive: `Debug` does not show it.
    token: Mutex<MetadataValue<Ascii>>,
}

impl Control {
    /// Reads token and certificates.
    pub(super) fn new(options: &Options) -> Result<Self, WorkerError> {
        let url = options.url()?;
        let wrong = |e: tonic::transport::Error| WorkerError::Options(format!("--control-plane: {e}"));
        let mut endpoint = Endpoint::from_shared(url.to_string())
            .map_err(wrong)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if url.scheme() == "https" {
            endpoint = endpoint.tls_config(tls(options)?).map_err(wrong)?;
        }
        let token = Mutex::new(read_token(&options.token_file)?);
        Ok(Self { channel: endpoint.connect_lazy(), token_file: options.token_file.clone(), token })
    }

    /// Reads the token again: it may have been replaced.
    pub(super) fn renew_token(&self) {
        match read_token(&self.token_file) {
            Ok(token) => *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token,
            Err(error) => tracing::warn!("{error}, using the token that was there before"),
        }
    }

    /// A request with our token.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        request.metadata_mut().insert("authorization", token);
        request
    }

    pub(super) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

fn tls(options: &Options) -> Result<ClientTlsConfig, WorkerError> {
    let read = |path: &Path| std::fs::read(path).map_err(WorkerError::io("read", path));
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&options.ca_file())?));
    if let Some((chain, key)) = &options.identity {
        tls = tls.identity(Identity::from_pem(read(chain)?, Zeroizing::new(read(key)?).as_slice()));
    }
    Ok(tls)
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, WorkerError> {
    let text = Zeroizing::new(std::fs::read(path).map_err(WorkerError::io("read the token in", path))?);
    let refuse = || WorkerError::Options(format!("{} does not hold a token", path.display()));
    let token = std::str::from_utf8(&text).map_err(|_| refuse())?.trim();
    // What may stand in a header: other bytes would pass there, and be refused as if the token were a wrong one.
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse());
    }
    let bearer = Zeroizing::new(format!("Bearer {token}"));
    let mut value = MetadataValue::try_from(bearer.as_str()).map_err(|_| refuse())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "pl4nted-token-1\n").unwrap();
        let token = read_token(&path).unwrap();
        assert_eq!(token.to_str().unwrap(), "Bearer pl4nted-token-1");
        assert!(!format!("{token:?}").contains("pl4nted"));
        for bad in ["", "\n", "a\u{0}b-pl4nted", "\u{e4}"] {
            std::fs::write(&path, bad).unwrap();
            let refused = read_token(&path).map(drop).unwrap_err().to_string();
            assert!(!refused.contains("pl4nted"), "{refused}");
        }
    }
}
