//! TLS to an etcd: whom to trust, who we are, and what the failures mean.

use super::endpoint::Endpoint;
use crate::base::arbiter::{ArbiterError, ArbiterErrorKind};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, RootCertStore};

/// Certificates in files, which are read anew for each connection: a renewed certificate needs no restart.
#[derive(Clone, Debug)]
pub struct TlsSpec {
    /// PEM with the authorities that sign the servers' certificates. Those of the system are not trusted.
    pub ca: PathBuf,
    /// Our certificate with its chain, and its key, both PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Makes a TLS connection of a TCP connection.
pub async fn wrap(
    endpoint: &Endpoint,
    spec: Option<&TlsSpec>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ArbiterError> {
    let wrong = |detail: String| ArbiterError::new(ArbiterErrorKind::Certificate, format!("{endpoint}: {detail}"));
    let spec = spec.ok_or_else(|| wrong("https needs `ca`, the file of the authority to trust".into()))?;
    let config = load(spec).map_err(wrong)?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| wrong(format!("no certificate can be for the name {:?}", endpoint.host)))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|failed| {
        error(endpoint, &failed).unwrap_or_else(|| {
            let hint = if failed.kind() == io::ErrorKind::UnexpectedEof { "; is TLS on there?" } else { "" };
            let detail = format!("{endpoint}: the TLS handshake broke: {failed}{hint}");
            ArbiterError::new(ArbiterErrorKind::Unreachable, detail)
        })
    })
}

/// Reads the certificates. The error is a sentence.
pub fn load(spec: &TlsSpec) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&spec.ca)? {
        roots.add(certificate).map_err(|error| format!("{} holds no usable authority: {error}", spec.ca.display()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be used: {error}"))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &spec.identity else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, "private key", &error))?;
    config.with_client_auth_cert(chain, private).map_err(|error| {
        format!("the key {} does not go with the certificate {}: {error}", key.display(), certificate.display())
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| unreadable(path, "certificate", &error);
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(found) }
}

fn unreadable(path: &Path, what: &str, error: &rustls::pki_types::pem::Error) -> String {
    format!("the {what} {} can't be read: {error}", path.display())
}

/// What an error says if TLS is at its bottom.
pub fn error(endpoint: &Endpoint, error: &(dyn Error + 'static)) -> Option<ArbiterError> {
    let (kind, detail) = match find(error)? {
        rustls::Error::InvalidCertificate(reason) => {
            (ArbiterErrorKind::Certificate, format!("the server's certificate is not accepted: {reason}"))
        }
        rustls::Error::AlertReceived(alert) if is_about_us(*alert) => {
            (ArbiterErrorKind::Certificate, format!("the server does not accept our certificate ({alert:?})"))
        }
        other => (ArbiterErrorKind::Protocol, format!("TLS can't be agreed on: {other}; is TLS on there?")),
    };
    Some(ArbiterError::new(kind, format!("{endpoint}: {detail}")))
}

fn is_about_us(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::CertificateRequired,
        Alert::UnknownCA,
        Alert::AccessDenied,
        Alert::NoCertificate,
    ]
    .contains(&alert)
}

/// The TLS error that another wraps. An `io::Error` does not count what it wraps as its source.
fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
    if let Some(inner) = inner {
        return find(inner);
    }
    error.source().and_then(find)
}
