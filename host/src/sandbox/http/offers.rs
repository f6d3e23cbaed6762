//! `wasi:http` for guests to import: 0.2, and 0.3 where instances take concurrent calls.
//!
//! All of it is there for handlers with a grant alone.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::io::error::Error as IoError;
use wasmtime_wasi_http::p2::bindings::http as p2;
use wasmtime_wasi_http::p2::bindings::http::types::{
    ErrorCode, HostOutgoingRequest, Method, OutgoingRequest,
};
use wasmtime_wasi_http::p3::bindings::http as p3;
use wasmtime_wasi_http::{Error, WasiHttp, WasiHttpView};

use super::super::guest::Guest;
use super::super::offer::{Add, Grant, Offer};

/// Bytes of the name of a method that HTTP itself does not define.
const METHOD_MAX: usize = 64;

/// What a guest may import to call out.
pub(in super::super) const OFFERS: &[Offer] = &[
    granted("wasi:http/types", "0.2.", types),
    granted("wasi:http/outgoing-handler", "0.2.", |linker| {
        p2::outgoing_handler::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
    granted("wasi:http/types", "0.3.", |linker| {
        p3::types::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
    granted("wasi:http/client", "0.3.", |linker| {
        p3::client::add_to_linker::<Guest, WasiHttp>(linker, Guest::http)
    }),
];

const fn granted(interface: &'static str, version: &'static str, add: Add) -> Offer {
    Offer { interface, version, grant: Some(Grant::Http), add }
}

fn types(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let options = p2::types::LinkOptions::default();
    p2::types::add_to_linker::<Guest, WasiHttp>(linker, &options, Guest::http)?;
    // The library's own knows no error of a body: it looks for another type than those have.
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap("http-error-code", error_code)?;
    types.func_wrap("[method]outgoing-request.set-method", set_method)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The library keeps a method of any length, in each of as many requests as a guest may hold.
fn set_method(
    mut store: StoreContextMut<'_, Guest>,
    (request, method): (Resource<OutgoingRequest>, Method),
) -> wasmtime::Result<(Result<(), ()>,)> {
    if matches!(&method, Method::Other(name) if name.len() > METHOD_MAX) {
        return Ok((Err(()),));
    }
    let mut view = store.data_mut().http();
    HostOutgoingRequest::set_method(&mut view, request, method).map(|set| (set,))
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
