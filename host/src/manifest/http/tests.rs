//! What grants of hosts allow, and what they do not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn grants(texts: &[&str]) -> HttpGrants {
    texts.iter().map(|text| HttpGrant::parse(text).unwrap()).collect()
}

fn host(text: &str) -> HttpHost {
    HttpHost::parse(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether a URL's host and port may be called.
fn calls(grants: &HttpGrants, url: &str) -> bool {
    let url = url::Url::parse(url).unwrap();
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    grants.allows(&host(url.host_str().unwrap()), url.port_or_known_default().unwrap(), scheme)
}

#[test]
fn a_host_without_a_port_is_granted_on_the_usual_ports() {
    let granted = grants(&["api.example.com"]);
    for url in ["https://api.example.com/", "http://api.example.com/"] {
        assert!(calls(&granted, url), "{url}");
    }
    for url in [
        "https://api.example.com:8443/",
        "http://api.example.com:443/",
        "https://api.example.com:80/",
        "https://example.com/",
        "https://v1.api.example.com/",
        "https://api.example.com.evil.test/",
        "https://evilapi.example.com/",
    ] {
        assert!(!calls(&granted, url), "{url}");
    }
}

#[test]
fn a_port_and_a_scheme_are_the_only_ones() {
    let granted = grants(&["api.example.com:8443", "https://tls.example.com"]);
    assert!(calls(&granted, "https://api.example.com:8443/"));
    assert!(calls(&granted, "http://api.example.com:8443/"));
    assert!(!calls(&granted, "https://api.example.com/"));
    assert!(calls(&granted, "https://tls.example.com/"));
    assert!(!calls(&granted, "http://tls.example.com/"));
    assert!(!calls(&granted, "http://tls.example.com:443/"));
}

#[test]
fn a_star_stands_for_names_below_and_not_for_the_name_itself() {
    let granted = grants(&["*.example.com"]);
    assert!(calls(&granted, "https://a.example.com/"));
    assert!(calls(&granted, "https://a.b.example.com/"));
    for url in ["https://example.com/", "https://badexample.com/", "https://example.com.a.test/"] {
        assert!(!calls(&granted, url), "{url}");
    }
}

#[test]
fn every_spelling_of_a_host_is_the_same_host() {
    let loopback = HttpHost::Address(Ipv4Addr::LOCALHOST.into());
    for text in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "%31%32%37.1",
    ] {
        assert_eq!(host(text), loopback, "{text}");
    }
    for text in ["API.Example.COM", "api.example.com.", "\u{ff41}pi.example.com"] {
        assert_eq!(host(text), host("api.example.com"), "{text}");
    }
    assert_eq!(host("b\u{fc}cher.example"), host("xn--bcher-kva.example"));
    for text in
        ["", ".", "a..b", ".a", "a b", "a/b", "u@h", "[::1", "1.2.3.4.5", "[fe80::1%25eth0]"]
    {
        assert_eq!(HttpHost::parse(text), None, "{text}");
    }
    assert_eq!(HttpHost::parse(&"a.".repeat(127)), Some(host(&"a.".repeat(127))));
    assert_eq!(HttpHost::parse(&"a.".repeat(128)), None);
}

#[test]
fn a_name_leads_into_a_private_network_only_where_that_is_granted() {
    let name = host("db.example.com");
    let granted = grants(&["db.example.com"]);
    assert!(granted.allows_address(&name, address("93.184.215.14"), 443));
    for own in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:10.1.2.3"] {
        assert!(!granted.allows_address(&name, address(own), 443), "{own}");
    }
    let granted = grants(&["db.example.com:5000", "10.0.0.0/8", "[fd00::/8]:443", "192.168.0.9"]);
    for own in ["10.1.2.3", "::ffff:10.1.2.3", "192.168.0.9"] {
        assert!(granted.allows_address(&name, address(own), 5000), "{own}");
    }
    assert!(!granted.allows_address(&name, address("fd00::1"), 5000), "of another port");
    assert!(!granted.allows_address(&name, address("192.168.0.8"), 5000));
}

#[test]
fn an_address_is_called_only_where_it_or_its_network_is_granted() {
    let granted = grants(&["127.0.0.1:8080", "[::1]:8080", "10.0.0.0/8", "172.16.0.0/12:9000"]);
    for url in [
        "http://127.0.0.1:8080/",
        "http://127.1:8080/",
        "http://[::1]:8080/",
        "http://10.1.2.3/",
        "https://10.1.2.3/",
        "http://172.20.0.1:9000/",
        "http://[::ffff:10.1.2.3]/",
    ] {
        assert!(calls(&granted, url), "{url}");
    }
    for url in [
        "http://127.0.0.1/",
        "http://127.0.0.2:8080/",
        "http://10.1.2.3:8080/",
        "http://172.20.0.1/",
        "http://11.0.0.1/",
        "http://8.8.8.8/",
        "http://localhost:8080/",
    ] {
        assert!(!calls(&granted, url), "{url}");
    }
}

#[test]
fn localhost_is_the_machine_itself_and_nothing_else() {
    let granted = grants(&["localhost:3000"]);
    let local = host("LOCALHOST");
    assert!(granted.allows(&local, 3000, Scheme::Http));
    for own in ["127.0.0.1", "127.0.0.53", "::1"] {
        assert!(granted.allows_address(&local, address(own), 3000), "{own}");
    }
    assert!(!granted.allows_address(&local, address("10.0.0.1"), 3000));
    let other = grants(&["localhost.example.com", "localhost"]);
    assert!(!other.allows_address(&host("localhost.example.com"), address("127.0.0.1"), 80));
}

#[test]
fn nothing_is_granted_by_default() {
    assert!(HttpGrants::default().is_empty());
    assert!(!calls(&HttpGrants::default(), "https://example.com/"));
}

proptest! {
    #[test]
    fn no_text_upsets_the_parsers(text in "\\PC{0,40}") {
        let _ = HttpGrant::parse(&text);
        if let Some(host) = HttpHost::parse(&text) {
            prop_assert_eq!(HttpHost::parse(&host.to_string()), Some(host), "one spelling");
        }
    }

    #[test]
    fn without_a_grant_of_addresses_only_public_ones_are_dialled(bits: u128, small: u32) {
        let granted = grants(&["*.example.com", "example.com"]);
        let name = host("a.example.com");
        for address in [IpAddr::from(Ipv6Addr::from(bits)), Ipv4Addr::from(small).into()] {
            let dialled = granted.allows_address(&name, address, 443);
            prop_assert_eq!(dialled, is_public(address));
            let mapped = match address {
                IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
                IpAddr::V6(_) => continue,
            };
            prop_assert_eq!(granted.allows_address(&name, mapped, 443), dialled);
        }
    }
}
