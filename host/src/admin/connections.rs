//! Connections to the admin server, and their bounds: no client can take up more than its share.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::pages::Pages;
use crate::shutdown::Stop;

/// Connections at a time. One more takes the place of the oldest: those that do nothing keep nobody out.
const CONNECTIONS: usize = 64;

/// A request and its answer take this long at most; each connection has one.
const EXCHANGE: Duration = Duration::from_secs(10);

/// The head of a request comes within this time.
const HEAD: Duration = Duration::from_secs(5);

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// How long to wait where the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Answers whoever connects, until the end.
pub(super) async fn accept(listener: TcpListener, pages: Pages, end: Stop) {
    let pages = Arc::new(pages);
    let mut exchanges = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => break,
            Some(_) = exchanges.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    by_age.retain(|exchange| !exchange.is_finished());
                    while by_age.len() >= CONNECTIONS {
                        by_age.pop_front().inspect(AbortHandle::abort);
                    }
                    by_age.push_back(exchanges.spawn(exchange(stream, pages.clone())));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection to the admin server");
                    sleep(NO_ROOM).await;
                }
            }
        }
    }
    exchanges.shutdown().await;
}

async fn exchange(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    let mut protocol = http1::Builder::new();
    protocol.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEAD);
    let exchanging =
        protocol.max_buf_size(HEAD_BYTES).serve_connection(TokioIo::new(stream), service);
    match timeout(EXCHANGE, exchanging).await {
        Ok(Ok(())) => {}
        // A client that breaks off or says what is no HTTP is no trouble of the host's.
        Ok(Err(error)) => tracing::debug!(%error, "a request to the admin server came to nothing"),
        Err(_) => tracing::debug!("a client of the admin server was too slow"),
    }
}
