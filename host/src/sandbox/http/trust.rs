//! Whom a guest's requests trust: the public authorities, and those that the host's environment adds.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::SandboxError;

/// The variable that names a file of further authorities in PEM, as for most programs that speak TLS.
const FILE: &str = "SSL_CERT_FILE";

/// What makes connections secure. It remembers sessions, so that the next one to a host is cheaper.
pub(super) fn connector() -> Result<TlsConnector, SandboxError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = env::var_os(FILE).filter(|path| !path.is_empty()) {
        add(&mut roots, path.into())?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("this provider has the ciphers of every version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A bundle may hold certificates that nothing can be checked by; it only must not hold nothing else.
fn add(roots: &mut RootCertStore, path: PathBuf) -> Result<(), SandboxError> {
    let certificates = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string());
    let (added, _) = match certificates {
        Ok(certificates) => roots.add_parsable_certificates(certificates),
        Err(why) => return Err(SandboxError::Authorities { variable: FILE, path, why }),
    };
    if added == 0 {
        let why = "it holds no certificate of an authority".to_owned();
        return Err(SandboxError::Authorities { variable: FILE, path, why });
    }
    Ok(())
}
