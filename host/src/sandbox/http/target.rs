//! Where a request goes, in the one spelling in which it is checked, dialled and named.

use std::fmt;

use http::Uri;
use wasmtime_wasi_http::Error;

use crate::manifest::{HttpHost, Scheme};

/// The host, the port and the way of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) host: HttpHost,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Result<Self, Error> {
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return Err(Error::HttpProtocolError),
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?.as_str();
        // Servers read a login before the host in different ways.
        if authority.contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let (host, port) = split(authority).ok_or(Error::HttpRequestUriInvalid)?;
        let host = HttpHost::parse(host).ok_or(Error::HttpRequestUriInvalid)?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.port()) })
    }
}

fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = authority.rfind(']').map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
    let (host, after) = authority.split_at(end.unwrap_or(authority.len()));
    match after.strip_prefix(':') {
        None => after.is_empty().then_some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = port.parse().ok().filter(|port| *port != 0)?;
            Some((host, Some(port)))
        }
        Some(_) => None,
    }
}

/// As it stands in a `host` header and in a grant.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        if self.port == self.scheme.port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Option<String> {
        Target::of(&uri.parse().ok()?).ok().map(|target| target.to_string())
    }

    #[test]
    fn a_target_is_named_in_one_way_however_it_is_written() {
        for (uri, named) in [
            ("https://API.example.com./x", "api.example.com"),
            ("https://api.example.com:443/", "api.example.com"),
            ("http://api.example.com:443/", "api.example.com:443"),
            ("http://127.1:8080/", "127.0.0.1:8080"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://[::ffff:7f00:1]:81/", "127.0.0.1:81"),
            ("http://[0:0::1]/", "[::1]"),
        ] {
            assert_eq!(target(uri).as_deref(), Some(named), "{uri}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_goes_nowhere() {
        for uri in [
            "http://user@127.0.0.1/",
            "http://api.example.com:80@127.0.0.1/",
            "http://api.example.com:99999/",
            "http://api.example.com:0/",
            "http://api.example.com:/",
            "http://api.example.com:+80/",
            "ftp://api.example.com/",
            "/x",
            "http://a..b/",
            "http://[::1/",
        ] {
            assert_eq!(target(uri), None, "{uri}");
        }
    }
}
