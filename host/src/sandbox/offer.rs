//! Everything that a guest may import, and which grant it takes.
//!
//! An interface is linked only into plugins that import it.

use wasmtime::component::Linker;

use super::door::{interface, version};
use super::guest::Guest;
use super::{config, http, keyvalue, logging, wasi, wasi3};

/// How an interface is put into a linker.
pub(super) type Add = fn(&mut Linker<Guest>) -> wasmtime::Result<()>;

/// An interface that a guest may import.
pub(super) struct Offer {
    /// Its name without a version, as `wasi:io/poll`.
    pub(super) interface: &'static str,
    /// How the versions begin that are offered, up to a `.` such as `0.2.`; or the one that is:
    /// drafts share no types with what comes after them. Empty for an import without a version.
    pub(super) version: &'static str,
    /// What a handler must be granted for it; none for what every handler has.
    pub(super) grant: Option<Grant>,
    /// Puts it into a linker.
    pub(super) add: Add,
}

impl Offer {
    fn fits(&self, version: &str) -> bool {
        if self.version.ends_with('.') {
            version.starts_with(self.version)
        } else {
            version == self.version
        }
    }
}

/// A key of `[handler.NAME]` that lets a plugin import something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `keyvalue`.
    KeyValue,
    /// `config`.
    Config,
    /// `http`.
    Http,
}

impl Grant {
    /// A line of a manifest that gives it.
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::KeyValue => "keyvalue = \"charge:\"",
            Self::Config => "config = \"app_config\"",
            Self::Http => "http = [\"api.example.com\"]",
        }
    }
}

/// Every file that offers something.
const ALL: &[&[Offer]] =
    &[wasi::OFFERS, wasi3::OFFERS, keyvalue::OFFERS, config::OFFERS, logging::OFFERS, http::OFFERS];

/// The offer that an import asks for, by its full name.
pub(super) fn of(import: &str) -> Option<&'static Offer> {
    let (interface, version) = (interface(import), version(import).unwrap_or_default());
    let fits = |offer: &&Offer| offer.interface == interface && offer.fits(version);
    ALL.iter().copied().flatten().find(fits)
}

/// Whether an interface is offered in any version.
pub(super) fn is_known(interface: &str) -> bool {
    ALL.iter().copied().flatten().any(|offer| offer.interface == interface)
}
