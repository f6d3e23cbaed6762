//! Where the admin server listens: `host.admin`.

use std::fmt;
use std::net::IpAddr;

use super::http::HttpHost;

/// A host and a port to listen on, and where the manifest says so.
#[derive(Debug, Clone)]
pub struct AdminAddress {
    /// A name that is looked up, or an address of this machine.
    pub host: HttpHost,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// The line of the manifest, from 1.
    pub line: usize,
}

/// That a manifest says the same on another line is no change.
impl PartialEq for AdminAddress {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }
}

impl Eq for AdminAddress {}

impl AdminAddress {
    /// Reads `host:port`; an address of IPv6 stands in brackets.
    pub(super) fn parse(text: &str, line: usize) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        // A sign before it would be read as well.
        let plain = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| plain)?;
        Some(Self { host: HttpHost::parse(host)?, port, line })
    }

    /// The same as one who asks from this machine reaches it: every address of it includes its loopback.
    pub fn from_here(&self) -> Self {
        let loopback = |address: IpAddr| match address {
            IpAddr::V4(all) if all.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(all) if all.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        let host = match &self.host {
            HttpHost::Address(address) => HttpHost::Address(loopback(*address)),
            HttpHost::Name(name) => HttpHost::Name(name.clone()),
        };
        Self { host, ..self.clone() }
    }
}

/// As in a URL.
impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let read = |text| AdminAddress::parse(text, 1).map(|address| address.to_string());
        for good in ["127.0.0.1:9464", "[::1]:0", "localhost:80", "0.0.0.0:65535"] {
            assert_eq!(read(good).as_deref(), Some(good));
        }
        for bad in ["", ":9464", "9464", "127.0.0.1", "127.0.0.1:", "h:65536", "h:+1", "::1:80"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read("http://h:80"), None);
        assert_eq!(read("u@h:80"), None);
    }

    #[test]
    fn every_address_of_a_machine_is_asked_at_its_loopback() {
        let asked = |text| AdminAddress::parse(text, 1).unwrap().from_here().to_string();
        assert_eq!(asked("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(asked("[::]:9464"), "[::1]:9464");
        assert_eq!(asked("10.0.0.5:9464"), "10.0.0.5:9464");
    }

    #[test]
    fn another_line_is_no_other_address() {
        let at = |line| AdminAddress::parse("localhost:1", line);
        assert_eq!(at(1), at(2));
        assert_ne!(at(1), AdminAddress::parse("localhost:2", 1));
    }
}
