//! How long each part of a request may take: as the guest asks for, and the whole no longer than its handler allows.

use std::time::Duration;

use tokio::time::Instant;
use wasmtime_wasi_http::{Error, RequestOptions};

/// The end of a request, and the guest's own shorter waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    end: Instant,
    options: RequestOptions,
}

impl Patience {
    /// Begins now.
    pub(super) fn new(whole: Duration, options: RequestOptions) -> Self {
        Self { end: Instant::now() + whole, options }
    }

    /// When all of it must be over.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// When there must be a connection, if it is begun now.
    pub(super) fn connected(&self) -> Instant {
        self.within(self.options.connect_timeout)
    }

    /// When the head of the response must be there, if the request is sent now.
    pub(super) fn answered(&self) -> Instant {
        self.within(self.options.first_byte_timeout)
    }

    /// When something more of the body must be there, if some has come now.
    pub(super) fn heard(&self) -> Instant {
        self.within(self.options.between_bytes_timeout)
    }

    /// What to say of a wait that has run out.
    pub(super) fn exhausted(&self) -> Error {
        if self.is_over() { Error::HttpResponseTimeout } else { Error::ConnectionReadTimeout }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn within(&self, own: Option<Duration>) -> Instant {
        let own = own.and_then(|own| Instant::now().checked_add(own));
        own.map_or(self.end, |own| own.min(self.end))
    }
}
