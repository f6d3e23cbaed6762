//! `wasi:http` for guests to import: 0.2, and 0.3 where instances take concurrent calls.
//!
//! Its types reach nothing, so every guest may import them. What sends a request is only there for
//! handlers with a grant.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::io::error::Error as IoError;
use wasmtime_wasi_http::p2::bindings::http as p2;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::bindings::http as p3;
use wasmtime_wasi_http::{Error, WasiHttp, WasiHttpView};

use super::super::guest::Guest;
use super::super::offer::{Add, Grant, Offer};

/// What a guest may import to call out.
pub(in super::super) const OFFERS: &[Offer] = &[
    always("wasi:http/types", "0.2.", types),
    granted("wasi:http/outgoing-handler", "0.2.", |linker| {
        p2::outgoing_handler::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
    always("wasi:http/types", "0.3.", |linker| {
        p3::types::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
    granted("wasi:http/client", "0.3.", |linker| {
        p3::client::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
];

const fn always(interface: &'static str, version: &'static str, add: Add) -> Offer {
    Offer { interface, version, grant: None, add }
}

const fn granted(interface: &'static str, version: &'static str, add: Add) -> Offer {
    Offer { interface, version, grant: Some(Grant::Http), add }
}

fn types(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let options = p2::types::LinkOptions::default();
    p2::types::add_to_linker::<Guest, WasiHttp>(linker, &options, Guest::http)?;
    // The library's own knows no error of a body: it looks for another type than those have.
    linker.allow_shadowing(true);
    linker.instance("wasi:http/types@0.2.12")?.func_wrap("http-error-code", error_code)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What an error of a body's stream means, if it is one of ours.
fn error_code(
    mut store: StoreContextMut<'_, Guest>,
    (error,): (Resource<IoError>,),
) -> wasmtime::Result<(Option<ErrorCode>,)> {
    let error = store.data_mut().resources().get(&error)?;
    let of_body = error.downcast_ref::<Error>().map(|error| match error {
        Error::HttpResponseBodySize(bytes) => ErrorCode::HttpResponseBodySize(*bytes),
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        _ => ErrorCode::HttpProtocolError,
    });
    Ok((of_body.or_else(|| error.downcast_ref::<ErrorCode>().cloned()),))
}
