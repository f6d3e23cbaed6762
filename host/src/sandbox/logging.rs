//! `wasi:logging`: what a guest logs is said by its voice, as what it prints is.

use wasmtime::component::Linker;
use wasmtime::{Result, StoreContextMut};

use super::guest::Guest;
use super::offer::Offer;

use self::wit::wasi::logging::logging::Level;

mod wit {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({ path: "../wit", world: "wasi:logging/imports" });
}

/// Guests import it with the version of its draft, or with none.
pub(super) const OFFERS: &[Offer] = &[
    Offer {
        interface: "wasi:logging/logging",
        version: "0.1.0-draft",
        grant: None,
        add: |linker| add(linker, "wasi:logging/logging@0.1.0-draft"),
    },
    Offer {
        interface: "wasi:logging/logging",
        version: "",
        grant: None,
        add: |linker| add(linker, "wasi:logging/logging"),
    },
];

/// By hand, as what is generated knows of one name only.
fn add(linker: &mut Linker<Guest>, name: &str) -> Result<()> {
    let log = |guest: StoreContextMut<'_, Guest>,
               (level, context, text): (Level, String, String)| {
        guest.data().voice.log(importance(level), &context, &text);
        Ok(())
    };
    linker.instance(name)?.func_wrap("log", log)
}

/// The host's log knows nothing beyond an error.
fn importance(level: Level) -> tracing::Level {
    match level {
        Level::Trace => tracing::Level::TRACE,
        Level::Debug => tracing::Level::DEBUG,
        Level::Info => tracing::Level::INFO,
        Level::Warn => tracing::Level::WARN,
        Level::Error | Level::Critical => tracing::Level::ERROR,
    }
}
