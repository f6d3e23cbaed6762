//! Which Redis to use, and how to speak of it without its password.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::redis_url::{LONELY_USER, RedisUrl};

/// The port of a Redis that names none.
pub(super) const DEFAULT_PORT: u16 = 6379;

/// The port of a Sentinel that names none.
pub(super) const SENTINEL_PORT: u16 = 26379;

/// A server, a database on it, and the right to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where it listens.
    pub address: Address,
    /// The number of the database.
    pub db: i64,
    /// The user; never without a password.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// How to encrypt; `None` for not at all.
    pub tls: Option<Tls>,
}

/// Where a Redis listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or address, without brackets, and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// Wherever the sentinels say.
    Sentinel(Sentinels),
}

/// Who to ask which server is the primary, and the right to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// What they call the primary.
    pub master: String,
    /// Where they listen; at least one.
    pub nodes: Vec<Node>,
    /// Their user; never without a password.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Secret>,
    /// How to encrypt on the way to them; `None` for not at all.
    pub tls: Option<Tls>,
}

/// A host name or address, without brackets, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{host}{close}:{port}")
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(Node::to_string).collect();
        write!(f, "master `{}` of the sentinels at {}", self.master, nodes.join(", "))
    }
}

/// TLS, and with which PEM files; the public authorities and no client certificate by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the server's certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate; never without `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

/// A text that no log, report or debug print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl RedisSettings {
    /// Reads a URL as `[redis] url` and `--redis` take it.
    ///
    /// # Errors
    ///
    /// With a lower-case sentence that says what would be right; it holds nothing of the
    /// URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, String> {
        let url = RedisUrl::parse(url)?;
        if url.username.is_some() && url.password.is_none() {
            return Err(LONELY_USER.to_owned());
        }
        Ok(Self {
            address: url.address,
            db: url.db.unwrap_or(0),
            username: url.username,
            password: url.password,
            tls: url.tls,
        })
    }
}

impl fmt::Display for RedisSettings {
    /// A URL whose password is `***`, or whom the sentinels are asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.username.as_deref().unwrap_or_default();
        let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
        match (&self.address, &self.password) {
            (Address::Unix(path), None) => write!(f, "unix://{}", path.display())?,
            (Address::Unix(path), Some(password)) => {
                write!(f, "unix://{}?db={}&user={user}&pass={password}", path.display(), self.db)?;
                return Ok(());
            }
            (Address::Tcp { host, port }, password) => {
                let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
                write!(f, "{scheme}://")?;
                if let Some(password) = password {
                    write!(f, "{user}:{password}@")?;
                }
                let node = Node { host: host.clone(), port: *port };
                return write!(f, "{node}/{}", self.db);
            }
            (Address::Sentinel(sentinels), _) => return write!(f, "{sentinels}"),
        }
        if self.db == 0 { Ok(()) } else { write!(f, "?db={}", self.db) }
    }
}
