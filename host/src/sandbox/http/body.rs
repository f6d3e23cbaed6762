//! Bodies with bounds: how much of one there may be, and how long the next piece may take.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep_until};
use wasmtime_wasi_http::{Error, WasiBody};

use super::patience::Patience;
use super::trouble;

type Piece = Poll<Option<Result<Frame<Bytes>, Error>>>;

/// What is left of the bytes of a body.
struct Allowance {
    whole: u64,
    left: u64,
}

impl Allowance {
    fn new(whole: u64) -> Self {
        Self { whole, left: whole }
    }

    /// Whether a frame fits in.
    fn takes(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or_default();
        left.is_some()
    }
}

/// What a guest sends.
pub(super) struct Outgoing {
    body: WasiBody,
    allowance: Allowance,
}

impl Outgoing {
    pub(super) fn new(body: WasiBody, bytes: u64) -> Self {
        Self { body, allowance: Allowance::new(bytes) }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Piece {
        let piece = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &piece
            && !self.allowance.takes(frame)
        {
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.allowance.whole)))));
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a guest is sent.
pub(super) struct Response {
    body: Incoming,
    allowance: Allowance,
    patience: Patience,
    /// When the next piece must be there.
    alarm: Pin<Box<Sleep>>,
}

impl Response {
    /// # Errors
    ///
    /// When it says itself that it is larger than it may be.
    pub(super) fn new(body: Incoming, bytes: u64, patience: Patience) -> Result<Self, Error> {
        let announced = body.size_hint().lower();
        if announced > bytes {
            return Err(Error::HttpResponseBodySize(Some(announced)));
        }
        let alarm = Box::pin(sleep_until(patience.heard()));
        Ok(Self { body, allowance: Allowance::new(bytes), patience, alarm })
    }

    fn piece(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Error> {
        if self.patience.is_over() {
            return Err(self.patience.exhausted());
        }
        if !self.allowance.takes(&frame) {
            return Err(Error::HttpResponseBodySize(Some(self.allowance.whole)));
        }
        let next = self.patience.heard();
        self.alarm.as_mut().reset(next);
        Ok(frame)
    }

    /// A connection that is cut at the end of the request's time has not broken.
    fn broken(&self, error: &hyper::Error) -> Error {
        if self.patience.is_over() { self.patience.exhausted() } else { trouble::broken(error) }
    }
}

impl Body for Response {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Piece {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(self.piece(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.broken(&error)))),
            Poll::Pending => {
                ready!(self.alarm.as_mut().poll(cx));
                Poll::Ready(Some(Err(self.patience.exhausted())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
