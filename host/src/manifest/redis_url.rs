//! Redis URLs, apart from whatever else a manifest says of the same Redis.
//!
//! No sentence in here repeats any part of a URL: a mistyped one may show its
//! password where another part is expected.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::Url;

use super::redis::{Address, DEFAULT_PORT, Secret, Tls};

/// The largest database number that Redis' own configuration can name.
pub(super) const DB_MAX: u32 = i32::MAX as u32;

/// Why a URL with a user and no password is refused.
pub(super) const LONELY_USER: &str = "a user needs a password too, as in \
    redis://user:password@host; a password alone is typed as redis://:password@host";

/// What a URL says of a Redis; what it does not say is `None`.
#[derive(Debug)]
pub(super) struct RedisUrl {
    pub(super) address: Address,
    pub(super) db: Option<i64>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) tls: Option<Tls>,
}

impl RedisUrl {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| NOT_A_URL)?;
        if url.fragment().is_some() {
            return Err("expected nothing after a `#`; a `#` in a password is typed as %23".into());
        }
        match url.scheme() {
            "redis" | "valkey" => tcp(&url, None),
            "rediss" | "valkeys" => tcp(&url, Some(Tls::default())),
            "unix" | "redis+unix" => unix(&url),
            _ => Err(NOT_A_URL.into()),
        }
    }
}

const NOT_A_URL: &str = "expected a URL such as \"redis://127.0.0.1:6379/0\", \
    \"rediss://user:password@host:6379\" or \"unix:///run/redis.sock\"; special characters in \
    user and password are percent-encoded, as %40 for @";

fn tcp(url: &Url, tls: Option<Tls>) -> Result<RedisUrl, String> {
    if url.query().is_some() {
        return Err("expected nothing after a `?`; a `?` in a password is typed as %3F".into());
    }
    let host = decoded(url.host_str().unwrap_or_default())?;
    let host = host_name(&host).ok_or(NO_HOST)?;
    let port = url.port().unwrap_or(DEFAULT_PORT);
    if port == 0 {
        return Err("expected a port from 1 to 65535".into());
    }
    let db = match url.path().trim_start_matches('/') {
        "" => None,
        db => Some(database(db)?),
    };
    Ok(RedisUrl {
        address: Address::Tcp { host, port },
        db,
        username: filled(decoded(url.username())?),
        password: filled(decoded(url.password().unwrap_or_default())?).map(Secret::new),
        tls,
    })
}

const NO_HOST: &str = "expected a host, as in \"redis://127.0.0.1:6379/0\"";

fn unix(url: &Url) -> Result<RedisUrl, String> {
    let path = decoded(url.path())?;
    let mut unix = RedisUrl {
        address: Address::Unix(PathBuf::from(&path)),
        db: None,
        username: None,
        password: None,
        tls: None,
    };
    if url.host().is_some() || !path.starts_with('/') || path.ends_with('/') {
        return Err(
            "expected the absolute path of a socket, as in \"unix:///run/redis.sock\"".into()
        );
    }
    for (key, value) in url.query_pairs() {
        match &*key {
            "db" => unix.db = Some(database(&value)?),
            "user" => unix.username = filled(value.into_owned()),
            "pass" => unix.password = filled(value.into_owned()).map(Secret::new),
            _ => return Err("expected only `db`, `user` and `pass` after the `?`".into()),
        }
    }
    Ok(unix)
}

fn database(text: &str) -> Result<i64, String> {
    text.parse::<u32>().ok().filter(|db| *db <= DB_MAX).map(i64::from).ok_or_else(|| {
        "expected the number of a database last, as in \"redis://host:6379/0\"".into()
    })
}

fn decoded(part: &str) -> Result<String, String> {
    let text = percent_decode_str(part).decode_utf8();
    text.map(Into::into).map_err(|_| "expected UTF-8 behind the percent-encoding".into())
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A host name or address without brackets, if the text can be one.
pub(super) fn host_name(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_name = |c: char| !c.is_whitespace() && !c.is_control() && !"/:@?#[]".contains(c);
    let fits = bare.parse::<Ipv6Addr>().is_ok() || (!bare.is_empty() && bare.chars().all(is_name));
    fits.then(|| bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::redis::RedisSettings;
    use super::*;
    use proptest::prelude::*;

    fn shown(url: &str) -> String {
        RedisSettings::from_url(url).unwrap().to_string()
    }

    #[test]
    fn a_url_prints_as_it_was_meant_without_its_password() {
        let cases = [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache/", "redis://cache:6379/0"),
            ("redis://my_redis:7000/3", "redis://my_redis:7000/3"),
            ("valkey://h/2", "redis://h:6379/2"),
            ("rediss://ann:pw@h", "rediss://ann:***@h:6379/0"),
            ("valkeys://:pw@h", "rediss://:***@h:6379/0"),
            ("redis://[::1]:6380", "redis://[::1]:6380/0"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+unix:///run/my%20redis.sock?db=2", "unix:///run/my redis.sock?db=2"),
            ("unix:///r.sock?db=1&user=ann&pass=pw", "unix:///r.sock?db=1&user=ann&pass=***"),
        ];
        for (url, expected) in cases {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn a_password_arrives_decoded() {
        let redis = RedisSettings::from_url("redis://ann%2Fx:p%40s%23s%3A@h").unwrap();
        assert_eq!(redis.username.as_deref(), Some("ann/x"));
        assert_eq!(redis.password.as_ref().map(Secret::expose), Some("p@s#s:"));
        assert!(!format!("{redis} {redis:?}").contains("p@s"));
    }

    #[test]
    fn a_url_that_cannot_be_meant_is_refused_without_repeating_it() {
        let cases = [
            "hunter2",
            "http://hunter2@h",
            "hunter2://h",
            "redis:hunter2",
            "redis:///0",
            "redis://:hunter2@",
            "redis://:hunt#er2@h",
            "redis://:hunt/hunter2@h",
            "redis://h:0",
            "redis://h:hunter2",
            "redis://h:66666",
            "redis://h/hunter2",
            "redis://h/-1",
            "redis://h/0/1",
            "redis://h/0?password=hunter2",
            "redis://hunter2@h",
            "redis://:%ff@h",
            "unix://hunter2/redis.sock",
            "unix:hunter2",
            "unix:///",
            "unix:///r.sock?hunter2=1",
            "unix:///r.sock?db=hunter2",
        ];
        for url in cases {
            let remedy = RedisSettings::from_url(url).expect_err(url);
            assert!(!remedy.is_empty() && !remedy.contains("hunter2"), "{url}: {remedy}");
        }
    }

    proptest! {
        #[test]
        fn no_url_panics(url in "(redis|rediss|unix)?(://?/?)?[ -~é]{0,40}") {
            if let Ok(redis) = RedisSettings::from_url(&url) {
                let _ = (redis.to_string(), format!("{redis:?}"));
            }
        }
    }
}
