//! The rules of `[redis]`.

use super::check::given;
use super::check_sentinel::sentinels;
use super::raw::{RawRedis, RawTls};
use super::reader::Reader;
use super::redis::{Address, DEFAULT_PORT, RedisSettings, Secret, Tls};
use super::redis_url::{DB_MAX, LONELY_USER, RedisUrl, host_name};
use super::section::{Entry, Section};

/// What `tls` says.
#[derive(Clone)]
pub(super) enum Encryption {
    Off,
    On(Tls),
}

pub(super) fn redis(raw: &RawRedis<'_>, reader: &mut Reader<'_>) -> Option<RedisSettings> {
    reader.unavailable(raw.cluster.as_ref());
    let tls = given(&raw.tls, None, |entry| encryption(entry, reader).map(Some));
    let address = match &raw.sentinel {
        Some(entry) => {
            named_by_sentinels(raw, reader);
            let usual = tls.clone().flatten();
            sentinels(entry, usual, reader).map(|asked| bare(Address::Sentinel(asked)))
        }
        None => address(raw, reader),
    };
    let db =
        given(&raw.db, None, |entry| reader.whole(entry, 0..=DB_MAX).map(|db| Some(i64::from(db))));
    let username = given(&raw.username, None, |entry| reader.text(entry, "a user").map(Some));
    let password = given(&raw.password, None, |entry| password(entry, reader).map(Some));
    let address = address?;
    said_twice(raw, &address, reader);
    lonely_user(raw, &address, reader);
    let tls = tls_with(&address, raw, tls?, reader);
    Some(RedisSettings {
        db: address.db.or(db?).unwrap_or(0),
        username: address.username.or(username?),
        password: address.password.or(password?),
        address: address.address,
        tls,
    })
}

/// The address by `url` or by `host` and `port`; both are read, so that both are checked.
fn address(raw: &RawRedis<'_>, reader: &mut Reader<'_>) -> Option<RedisUrl> {
    let url = raw.url.as_ref().map(|entry| url(entry, reader));
    let host = raw.host.as_ref().map(|entry| host(entry, reader));
    let port = given(&raw.port, DEFAULT_PORT, |entry| port(entry, reader));
    if raw.url.is_some() {
        for entry in [&raw.host, &raw.port].into_iter().flatten() {
            said_by_url(entry, reader);
        }
        return url?;
    }
    let Some(host) = host else {
        if !["host", "sentinel"].iter().any(|key| raw.place.misspelt.contains(key)) {
            let what = "one such as \"redis://127.0.0.1:6379/0\", or `host` or `sentinel` instead";
            reader.missing(&raw.place, "url", what);
        }
        return None;
    };
    Some(bare(Address::Tcp { host: host?, port: port? }))
}

/// An address that says nothing else.
fn bare(address: Address) -> RedisUrl {
    RedisUrl { address, db: None, username: None, password: None, tls: None }
}

/// Refuses what names a server beside sentinels, who do.
fn named_by_sentinels(raw: &RawRedis<'_>, reader: &mut Reader<'_>) {
    for entry in [&raw.url, &raw.host, &raw.port].into_iter().flatten() {
        const WHY: &str = "the sentinels say which server it is; remove this, or `sentinel`";
        reader.problem(entry.key_at, &entry.path, WHY);
    }
}

fn url(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<RedisUrl> {
    let text = reader.text(entry, "a URL such as \"redis://127.0.0.1:6379/0\"")?;
    RedisUrl::parse(&text).map_err(|remedy| reader.refuse(entry, remedy)).ok()
}

fn host(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<String> {
    const WHAT: &str = "a host name or address such as \"127.0.0.1\"";
    let text = reader.text(entry, WHAT)?;
    let host = host_name(&text);
    if host.is_none() {
        reader.expected(entry, WHAT);
    }
    host
}

fn port(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<u16> {
    reader.whole(entry, 1..=u32::from(u16::MAX))?.try_into().ok()
}

pub(super) fn password(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Secret> {
    reader.text(entry, "a password such as \"${env:REDIS_PASSWORD}\"").map(Secret::new)
}

pub(super) fn encryption(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Encryption> {
    if let Some(on) = entry.value.as_bool() {
        return Some(if on { Encryption::On(Tls::default()) } else { Encryption::Off });
    }
    let Some(table) = Section::of(entry) else {
        reader.expected(entry, "true, or a table such as { ca = \"ca.pem\" }");
        return None;
    };
    let raw = RawTls::read(table, reader);
    let mut file = |entry| given(entry, None, |entry| reader.path(entry, "a PEM file").map(Some));
    let (ca, cert, key) = (file(&raw.ca), file(&raw.cert), file(&raw.key));
    match (&raw.cert, &raw.key) {
        (Some(alone), None) => reader.refuse(alone, "a client certificate needs its `key` too"),
        (None, Some(alone)) => reader.refuse(alone, "a private key needs its `cert` too"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    Some(Encryption::On(Tls { ca: ca?, cert: cert?, key: key? }))
}

/// Reports what is typed beside a URL that says it already.
fn said_twice(raw: &RawRedis<'_>, url: &RedisUrl, reader: &mut Reader<'_>) {
    let keys = [
        (&raw.db, url.db.is_some()),
        (&raw.username, url.username.is_some()),
        (&raw.password, url.password.is_some()),
    ];
    for (entry, in_url) in keys {
        if let Some(entry) = entry.as_ref().filter(|_| in_url) {
            said_by_url(entry, reader);
        }
    }
}

fn said_by_url(entry: &Entry<'_>, reader: &mut Reader<'_>) {
    reader.problem(entry.key_at, &entry.path, "`url` says this already; remove one of the two");
}

/// Redis knows no user without a password: the name alone would be ignored.
fn lonely_user(raw: &RawRedis<'_>, url: &RedisUrl, reader: &mut Reader<'_>) {
    let password = url.password.is_some() || raw.password.is_some();
    if password || raw.place.misspelt.contains(&"password") {
        return;
    }
    match (&raw.username, &raw.url) {
        (Some(entry), _) => reader.refuse(entry, "a user needs a `password` too"),
        (None, Some(entry)) if url.username.is_some() => reader.refuse(entry, LONELY_USER),
        (None, Some(_) | None) => {}
    }
}

/// The encryption that `url` and `tls` ask for together, where they can agree.
fn tls_with(
    url: &RedisUrl,
    raw: &RawRedis<'_>,
    typed: Option<Encryption>,
    reader: &mut Reader<'_>,
) -> Option<Tls> {
    let (Some(entry), Some(typed)) = (&raw.tls, typed) else {
        return url.tls.clone();
    };
    match (typed, &url.tls, &url.address) {
        (Encryption::Off, Some(_), _) => {
            reader.refuse(entry, "`url` asks for TLS; remove this, or type the url as redis://…");
            None
        }
        (Encryption::On(_), _, Address::Unix(_)) => {
            reader.refuse(entry, "a Unix socket has no TLS; remove this");
            None
        }
        (Encryption::On(tls), _, Address::Tcp { .. } | Address::Sentinel(_)) => Some(tls),
        (Encryption::Off, None, _) => None,
    }
}
