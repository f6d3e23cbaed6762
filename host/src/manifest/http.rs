//! The hosts that a handler may call over HTTP: which names, which addresses, which ports.
//!
//! Everything here is a function of what was granted and what is asked for;
//! whoever calls asks twice, for the name and then for the address it really dials.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use url::Host;

use super::public::is_public;

/// The longest name that there is.
const NAME_MAX: usize = 253;

/// The one name that stands for the machine itself.
const LOCALHOST: &str = "localhost";

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In plain sight.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    /// The port that is meant where none is named.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host in the one spelling that it has here: names in lower case, international ones in
/// their ASCII form, without a final dot; addresses as numbers, whatever way they were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HttpHost {
    /// A name that has to be looked up.
    Name(String),
    /// An address. An IPv4 address that was written as one of IPv6 is the former.
    Address(IpAddr),
}

impl HttpHost {
    /// Reads a host as the URL standard (<https://url.spec.whatwg.org/#host-parsing>) does, by
    /// which `127.1`, `0x7f.1` and `2130706433` are addresses; one of IPv6 stands in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let address = |address: IpAddr| Self::Address(address.to_canonical());
        match Host::parse(text).ok()? {
            Host::Ipv4(found) => Some(address(found.into())),
            Host::Ipv6(found) => Some(address(found.into())),
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                let whole =
                    name.len() <= NAME_MAX && name.split('.').all(|label| !label.is_empty());
                whole.then(|| Self::Name(name.to_owned()))
            }
        }
    }
}

impl fmt::Display for HttpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// What may be called; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpGrants(Vec<HttpGrant>);

impl HttpGrants {
    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether requests to this host and port may be made at all.
    pub fn allows(&self, host: &HttpHost, port: u16, scheme: Scheme) -> bool {
        self.0.iter().any(|grant| {
            grant.scheme.is_none_or(|only| only == scheme)
                && grant.port.unwrap_or(scheme.port()) == port
                && grant.to.covers(host)
        })
    }

    /// Whether this address may be dialled for a host that is allowed.
    ///
    /// Public ones may. Others only where they are granted as addresses themselves, so that a name
    /// which somebody else controls leads nobody into a private network. `localhost` is the machine itself.
    pub fn allows_address(&self, host: &HttpHost, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        let local = *host == HttpHost::Name(LOCALHOST.to_owned()) && address.is_loopback();
        let named = HttpHost::Address(address);
        local
            || is_public(address)
            || self
                .0
                .iter()
                .any(|grant| grant.port.is_none_or(|only| only == port) && grant.to.covers(&named))
    }
}

impl FromIterator<HttpGrant> for HttpGrants {
    fn from_iter<I: IntoIterator<Item = HttpGrant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

/// One entry of `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    scheme: Option<Scheme>,
    to: To,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    /// This host.
    Host(HttpHost),
    /// Every name that ends in a dot and this one.
    Below(String),
    /// Every address of a network.
    Network(IpNet),
}

impl To {
    fn covers(&self, host: &HttpHost) -> bool {
        match (self, host) {
            (Self::Host(only), host) => only == host,
            (Self::Below(parent), HttpHost::Name(name)) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Network(network), HttpHost::Address(address)) => network.contains(address),
            (Self::Below(_), HttpHost::Address(_)) | (Self::Network(_), HttpHost::Name(_)) => false,
        }
    }
}

impl HttpGrant {
    /// Reads an entry: a host, `*.` and a name, or a network, with a port or without.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in a sentence that does not repeat it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = scheme(text)?;
        if rest.contains('@') {
            return Err("a login cannot be granted; remove what comes before the host");
        }
        if rest.contains('/') {
            return network(scheme, rest);
        }
        let (host, port) = split(rest)?;
        let to = match host.strip_prefix("*.") {
            Some(parent) => To::Below(name(parent)?),
            None => To::Host(known(host)?),
        };
        Ok(Self { scheme, to, port })
    }
}

fn scheme(text: &str) -> Result<(Option<Scheme>, &str), &'static str> {
    match text.split_once("://") {
        None => Ok((None, text)),
        Some(("http", rest)) => Ok((Some(Scheme::Http), rest)),
        Some(("https", rest)) => Ok((Some(Scheme::Https), rest)),
        Some(_) => Err("only `https://` and `http://` can be called, or leave it out for both"),
    }
}

/// `10.0.0.0/8`, `10.0.0.0/8:8080`, `fd00::/8` or `[fd00::/8]:8080`.
fn network(scheme: Option<Scheme>, text: &str) -> Result<HttpGrant, &'static str> {
    const PATH: &str = "a path cannot be granted; remove what comes after the host";
    const NETWORK: &str = "expected a network such as \"10.0.0.0/8\" or \"[fd00::/8]:8080\"";
    let (inside, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, "")) => (inside, None),
        Some((inside, after)) => (inside, Some(after.strip_prefix(':').ok_or(NETWORK)?)),
        None => {
            let bits_at = text.find('/').unwrap_or_default();
            match text[bits_at..].find(':') {
                Some(colon) => (&text[..bits_at + colon], Some(&text[bits_at + colon + 1..])),
                None => (text, None),
            }
        }
    };
    let address = inside.split('/').next().unwrap_or_default();
    if scheme.is_some() || address.parse::<IpAddr>().is_err() {
        return Err(PATH);
    }
    let network: IpNet = inside.parse().map_err(|_| NETWORK)?;
    if network.trunc() != network {
        return Err("the address has bits that the network does not fix; write its first address");
    }
    Ok(HttpGrant { scheme, to: To::Network(network), port: port.map(number).transpose()? })
}

/// A host and its port.
fn split(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let end = match text.rfind(']') {
        Some(bracket) => bracket + 1,
        None if text.matches(':').count() > 1 => {
            return Err("an address of IPv6 stands in brackets, as in \"[::1]:8080\"");
        }
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, after) = text.split_at(end);
    match after.strip_prefix(':') {
        Some(port) => Ok((host, Some(number(port)?))),
        None if after.is_empty() => Ok((host, None)),
        None => Err(HOST),
    }
}

const HOST: &str = "expected a host such as \"api.example.com\" or \"api.example.com:8443\"";

fn number(port: &str) -> Result<u16, &'static str> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or("expected a port from 1 to 65535 after the host")
}

fn known(host: &str) -> Result<HttpHost, &'static str> {
    if host == "*" {
        return Err(
            "not every host can be granted; name them, or all below one as \"*.example.com\"",
        );
    }
    if host.contains('*') {
        return Err("a `*` stands only for names below a host, as in \"*.example.com\"");
    }
    HttpHost::parse(host).ok_or(HOST)
}

fn name(parent: &str) -> Result<String, &'static str> {
    match known(parent)? {
        HttpHost::Name(name) => Ok(name),
        HttpHost::Address(_) => Err("there are no names below an address; remove the `*.`"),
    }
}

#[cfg(test)]
mod tests;
