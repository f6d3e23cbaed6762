//! Asking an admin server, as a container's health check does.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::manifest::{AdminAddress, HttpHost};

/// An answer has no more bytes than this.
const BODY_BYTES: usize = 1 << 20;

/// What a server said.
#[derive(Debug)]
pub struct Answer {
    /// Whether it said yes.
    pub is_good: bool,
    /// In how many words.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody is there.
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    /// What came is no answer.
    #[error("what answers there is no admin server")]
    Http(#[from] hyper::Error),
    /// What came has no end.
    #[error("the answer is too long, or breaks off")]
    Body,
    /// Nothing came.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Late(Duration),
}

/// Asks the admin server of a host on this machine for a path.
///
/// # Errors
///
/// When it does not answer in time.
pub async fn ask(
    address: &AdminAddress,
    path: &str,
    patience: Duration,
) -> Result<Answer, ProbeError> {
    let address = address.from_here();
    let answer = timeout(patience, exchange(&address, path)).await;
    answer.unwrap_or(Err(ProbeError::Late(patience)))
}

async fn exchange(address: &AdminAddress, path: &str) -> Result<Answer, ProbeError> {
    let stream = match &address.host {
        HttpHost::Address(ip) => TcpStream::connect((*ip, address.port)).await?,
        HttpHost::Name(name) => TcpStream::connect((name.as_str(), address.port)).await?,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.expect("a path of ours and a checked address make a request");
    let asking = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| ProbeError::Body)?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { is_good: head.status == StatusCode::OK, body })
    };
    tokio::pin!(asking, connection);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        ended = &mut connection => {
            // The answer came whole before the connection ended, or will not come.
            ended?;
            asking.await
        }
    }
}
