//! One request over one connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse, FusedFuture};
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use tokio::time::timeout_at;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, WasiBody};

use super::Place;
use super::body::{Outgoing, Response};
use super::dial::Stream;
use super::patience::Patience;
use super::target::Target;
use super::trouble;

/// Bytes that a connection may have read and nobody taken: also the bound of a response's head.
const BUFFER_MAX: usize = 64 << 10;

/// What keeps a connection going. It is over with the response, or with the request's time; the place
/// is given back with it.
type Connection = Fuse<BoxFuture<'static, ()>>;

/// A response, and what has to be kept going for the rest of its body.
pub(super) type Sent = (http::Response<WasiBody>, BoxFuture<'static, ()>);

/// Writes the target as it was checked, and not as the guest spelt it.
pub(super) fn address(request: &mut Request<WasiBody>, target: &Target) -> Result<(), Error> {
    let host = HeaderValue::try_from(target.to_string());
    let host = host.map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(HOST, host);
    // Only proxies are told more than the path.
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// Sends a request and waits for the head of its response.
pub(super) async fn over(
    stream: Stream,
    place: Place,
    request: Request<WasiBody>,
    patience: Patience,
    bytes: u64,
) -> Result<Sent, Error> {
    let mut protocol = http1::Builder::new();
    let handshake = protocol.max_buf_size(BUFFER_MAX).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| trouble::broken(&error))?;
    let mut connection: Connection = async move {
        // What goes wrong is told to whoever waits for the response, or for its body.
        let _ = timeout_at(patience.end(), connection).await;
        drop(place);
    }
    .boxed()
    .fuse();
    let request = request.map(|body| Outgoing::new(body, bytes));
    let answer = timeout_at(patience.answered(), sender.send_request(request));
    let response = match beside(&mut connection, answer).await {
        Ok(answered) => answered.map_err(|error| trouble::broken(&error))?,
        Err(_) => return Err(patience.exhausted()),
    };
    let (head, body) = response.into_parts();
    let body = Response::new(body, bytes, patience)?.boxed_unsync();
    let rest = async move {
        if !connection.is_terminated() {
            connection.await;
        }
    };
    Ok((http::Response::from_parts(head, body), rest.boxed()))
}

/// Does something that needs the connection to go on meanwhile.
async fn beside<T>(connection: &mut Connection, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        match connection.poll_unpin(cx) {
            // Whatever ended it has been told to the work.
            Poll::Ready(()) => work.as_mut().poll(cx),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
