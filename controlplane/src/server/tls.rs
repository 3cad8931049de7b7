//! Certificates.

use std::path::Path;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use zeroize::Zeroizing;

use super::{ServerError, TlsFiles};

/// Reads the files.
pub(super) fn config(files: &TlsFiles) -> Result<ServerTlsConfig, ServerError> {
    let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
    let config = ServerTlsConfig::new().identity(Identity::from_pem(certificate.as_slice(), key.as_slice()));
    Ok(match &files.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(read(path)?.as_slice())),
        None => config,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ServerError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(source) => Err(ServerError::File { path: path.to_owned(), source }),
    }
}
