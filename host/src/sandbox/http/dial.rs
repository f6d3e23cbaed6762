//! From a target to a connection: looked up once, filtered, and an address that is left is dialled itself.
//!
//! So what was checked is what is connected to, whatever the name stands for a moment later.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::ServerName;
use wasmtime_wasi_http::Error;

use super::target::Target;
use super::{Client, Place, trouble};
use crate::manifest::{HttpHost, Scheme};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A connection to a server.
pub(super) type Stream = Box<dyn Duplex>;

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects to a target that is granted. The place goes with the connection.
pub(super) async fn dial(
    client: &Client,
    target: &Target,
    place: Place,
    until: Instant,
) -> Result<(Stream, Place), Error> {
    let (addresses, place) = match &target.host {
        HttpHost::Address(address) => (vec![*address], place),
        HttpHost::Name(name) => look_up(name.clone(), place).await?,
    };
    let stream = connect(&allowed(client, target, &addresses)?, until).await?;
    let stream: Stream = match target.scheme {
        Scheme::Http => Box::new(stream),
        Scheme::Https => Box::new(secure(client, target, stream).await?),
    };
    Ok((stream, place))
}

/// The addresses of a name. Looking up blocks, and cannot be called off: it keeps its place for as
/// long as it takes, so that there are never more of them than places.
async fn look_up(name: String, place: Place) -> Result<(Vec<IpAddr>, Place), Error> {
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        (found.map(|found| found.map(|found| found.ip().to_canonical()).collect()), place)
    });
    match looked_up.await {
        Ok((Ok(addresses), place)) => Ok((addresses, place)),
        Ok((Err(_), _)) => Err(unknown("the name cannot be resolved")),
        Err(_) => Err(unknown("the resolver ended")),
    }
}

fn unknown(why: &str) -> Error {
    Error::DnsError { rcode: Some(why.to_owned()), info_code: None }
}

fn allowed(
    client: &Client,
    target: &Target,
    addresses: &[IpAddr],
) -> Result<Vec<SocketAddr>, Error> {
    let may =
        |address: &&IpAddr| client.grants.allows_address(&target.host, **address, target.port);
    let allowed: Vec<SocketAddr> = addresses
        .iter()
        .filter(may)
        .take(ADDRESSES_MAX)
        .map(|address| SocketAddr::new(*address, target.port))
        .collect();
    match addresses.first() {
        None => Err(unknown("the name has no address")),
        Some(first) if allowed.is_empty() => {
            client.denials.prohibited(target, *first);
            Err(Error::DestinationIpProhibited)
        }
        Some(_) => Ok(allowed),
    }
}

/// Tries the addresses in turn. None takes more than its share of the time, so that one that does
/// not answer leaves some to the next.
async fn connect(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, Error> {
    let mut failure = Error::ConnectionTimeout;
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(now) / left;
        failure = match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is written whole; waiting for more of it gains nothing.
                stream.set_nodelay(true).map_err(|error| trouble::unconnected(&error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => trouble::unconnected(&error),
            Err(_) => Error::ConnectionTimeout,
        };
    }
    Err(failure)
}

async fn secure(
    client: &Client,
    target: &Target,
    stream: TcpStream,
) -> Result<impl Duplex + use<>, Error> {
    let name = match &target.host {
        HttpHost::Address(address) => ServerName::from(*address),
        HttpHost::Name(name) => {
            ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?
        }
    };
    let tls = client.tls.as_ref().ok_or(Error::ConfigurationError)?;
    tls.connect(name, stream).await.map_err(|error: io::Error| trouble::insecure(&error))
}
