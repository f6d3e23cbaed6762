//! What went wrong with a request, in the words that `wasi:http` has for it.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use tokio_rustls::rustls;
use wasmtime_wasi_http::Error;

/// Why there is no connection.
pub(super) fn unconnected(error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        ErrorKind::TimedOut => Error::ConnectionTimeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::DestinationUnavailable,
    }
}

/// Why a connection is not trusted.
pub(super) fn insecure(error: &io::Error) -> Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: None }
        }
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

/// Why there is no response, or no more of it.
pub(super) fn broken(error: &hyper::Error) -> Error {
    if let Some(Error::HttpRequestBodySize(bytes)) =
        error.source().and_then(|source| source.downcast_ref())
    {
        return Error::HttpRequestBodySize(*bytes);
    }
    if error.is_parse_too_large() {
        return Error::HttpResponseHeaderSectionSize(None);
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let cut = io.is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof);
    if cut || error.is_incomplete_message() {
        return Error::HttpResponseIncomplete;
    }
    if io.is_some() || error.is_canceled() || error.is_closed() {
        return Error::ConnectionTerminated;
    }
    Error::HttpProtocolError
}
