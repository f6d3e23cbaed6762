//! The rules of `redis.sentinel`.

use super::check::given;
use super::check_redis::{Encryption, encryption, password};
use super::raw::RawSentinel;
use super::reader::Reader;
use super::redis::{Node, SENTINEL_PORT, Secret, Sentinels};
use super::redis_url::host_name;
use super::section::{Entry, Section};

const MASTER: &str = "what the sentinels call the primary, such as \"mymaster\"";

const NODES: &str = "an array of addresses such as [\"10.0.0.5:26379\", \"10.0.0.6:26379\"]";

/// Who to ask, encrypted as `usual` unless the table says otherwise.
pub(super) fn sentinels(
    entry: &Entry<'_>,
    usual: Option<Encryption>,
    reader: &mut Reader<'_>,
) -> Option<Sentinels> {
    let Some(table) = Section::of(entry) else {
        let what = "a table such as { master = \"mymaster\", nodes = [\"10.0.0.5:26379\"] }";
        reader.expected(entry, what);
        return None;
    };
    let raw = RawSentinel::read(table, reader);
    let master = raw.master.as_ref().map(|entry| master(entry, reader));
    if master.is_none() {
        reader.missing(&raw.place, "master", MASTER);
    }
    let nodes = raw.nodes.as_ref().map(|entry| nodes(entry, reader));
    if nodes.is_none() {
        reader.missing(&raw.place, "nodes", NODES);
    }
    let username = given(&raw.username, None, |entry| reader.text(entry, "a user").map(Some));
    let password: Option<Option<Secret>> =
        given(&raw.password, None, |entry| password(entry, reader).map(Some));
    let password_given = raw.password.is_some() || raw.place.misspelt.contains(&"password");
    if let Some(lonely) = raw.username.as_ref().filter(|_| !password_given) {
        reader.refuse(lonely, "a user needs a `password` too");
    }
    let tls = given(&raw.tls, usual, |entry| encryption(entry, reader).map(Some));
    let tls = match tls? {
        Some(Encryption::On(tls)) => Some(tls),
        Some(Encryption::Off) | None => None,
    };
    Some(Sentinels {
        master: master??,
        nodes: nodes??,
        username: username?,
        password: password?,
        tls,
    })
}

/// Sentinel itself takes letters, digits and `.-_`.
fn master(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(entry, MASTER)?;
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if !fits {
        reader.expected(entry, MASTER);
    }
    fits.then_some(name)
}

fn nodes(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Vec<Node>> {
    const EACH: &str = "an address such as \"10.0.0.5:26379\"";
    let texts = reader.texts(entry, NODES, EACH)?;
    if texts.is_empty() {
        reader.refuse(entry, "expected at least one sentinel, found none");
        return None;
    }
    let mut nodes: Vec<Node> = Vec::with_capacity(texts.len());
    let mut whole = true;
    for (item, text) in texts {
        match node(&text) {
            Some(node) if nodes.contains(&node) => {
                reader.refuse(&item, "this sentinel is named twice; each has one voice");
                whole = false;
            }
            Some(node) => nodes.push(node),
            None => {
                reader.expected(&item, EACH);
                whole = false;
            }
        }
    }
    whole.then_some(nodes)
}

fn node(text: &str) -> Option<Node> {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) | None => (text, SENTINEL_PORT),
    };
    Some(Node { host: host_name(host)?, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_its_port_and_need_not_be_a_name() {
        for (text, shown) in [
            ("a", "a:26379"),
            ("a:1", "a:1"),
            ("10.0.0.5:26380", "10.0.0.5:26380"),
            ("[::1]:26380", "[::1]:26380"),
            ("[::1]", "[::1]:26379"),
            ("::1", "[::1]:26379"),
        ] {
            assert_eq!(node(text).map(|node| node.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in [":1", "a:0", "a:66666", "a:b", "redis://a:1", "u:p@a:1", "a b", "[::1"] {
            assert_eq!(node(text), None, "{text}");
        }
    }
}
