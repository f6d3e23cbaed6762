//! From a core module to a component.
//!
//! C, Zig and TinyGo make core modules. Where wit-bindgen had a hand in it, one says in a section of its own
//! which component it is to be; what is missing is the wrapping, and for those with a C library the
//! adapter from WASI's first preview.

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

use super::door::{self, Form, Refusal};

/// The component that a file is, or that is made of it.
pub(super) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    match door::check_header(bytes)? {
        Form::Component => Ok(Cow::Borrowed(bytes)),
        Form::Module => wrapped(bytes).map(Cow::Owned),
    }
}

fn wrapped(module: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (described, _) = wit_component::metadata::decode(module).map_err(|error| {
        let error = format!("{error:#}");
        if door::ends_early(&error) { Refusal::CutShort } else { Refusal::Wrapping(error) }
    })?;
    if described.is_none() {
        return Err(Refusal::CoreModule);
    }
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| {
            encoder.adapter(
                WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Refusal::Wrapping(format!("{error:#}")))
}
