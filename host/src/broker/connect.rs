//! Opening connections: address, TLS, credentials, socket options, name, and how long to wait between tries.

use std::fs;
use std::path::Path;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates,
};

use super::BrokerError;
use crate::manifest::{Address, RedisSettings, Tls};

/// How long a server may take to accept a connection and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long of silence the kernel probes a peer, so that a half-open connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Sent data that stays unacknowledged for this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens connections to one Redis.
pub(super) struct Connector {
    client: Client,
    name: String,
    shown: String,
}

/// How long a connection waits for a reply.
#[derive(Debug, Clone, Copy)]
pub(super) enum Replies {
    /// At most this long.
    Within(Duration),
    /// For as long as the command blocks; the caller keeps watch.
    Whenever,
}

impl Connector {
    /// A connector whose connections bear `name` in `CLIENT LIST`.
    pub(super) fn new(settings: &RedisSettings, name: &str) -> Result<Self, BrokerError> {
        let info = address(settings)
            .into_connection_info()
            .map_err(BrokerError::Settings)?
            .set_redis_settings(login(settings))
            .set_tcp_settings(socket_options());
        let client = match &settings.tls {
            Some(tls) => Client::build_with_tls(info, certificates(tls)?),
            None => Client::open(info),
        }
        .map_err(BrokerError::Settings)?;
        Ok(Self { client, name: client_name(name), shown: settings.to_string() })
    }

    /// The address, without its secrets.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) async fn open(&self, replies: Replies) -> Result<MultiplexedConnection, RedisError> {
        let patience = match replies {
            Replies::Within(limit) => Some(limit),
            Replies::Whenever => None,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(patience);
        let opening = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection =
            tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| silent())??;
        let mut naming = redis::cmd("CLIENT");
        naming.arg("SETNAME").arg(&self.name);
        let named = tokio::time::timeout(CONNECT_TIMEOUT, naming.exec_async(&mut connection)).await;
        match named.map_err(|_| silent())? {
            // A name is a courtesy: a user without permission to give one works all the same.
            Err(error) if error.code() == Some("NOPERM") => Ok(connection),
            Err(error) => Err(error),
            Ok(()) => Ok(connection),
        }
    }

    /// A connection that only listens to channels.
    pub(super) async fn listen(&self) -> Result<PubSub, RedisError> {
        let opening = self.client.get_async_pubsub();
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| silent())?
    }
}

pub(super) fn silent() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer").into()
}

fn address(settings: &RedisSettings) -> ConnectionAddr {
    match (&settings.address, &settings.tls) {
        (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
        (Address::Tcp { host, port }, None) => ConnectionAddr::Tcp(host.clone(), *port),
        (Address::Tcp { host, port }, Some(_)) => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
    }
}

fn login(settings: &RedisSettings) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_db(settings.db)
        .set_lib_name("tidegate", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose());
    }
    login
}

fn socket_options() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let options = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let options = options.set_user_timeout(USER_TIMEOUT);
    options
}

fn certificates(tls: &Tls) -> Result<TlsCertificates, BrokerError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| BrokerError::Certificate { path: path.into(), source })
    };
    let client_tls = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
        }
        _ => None,
    };
    let root_cert = tls.ca.as_deref().map(read).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}

/// `CLIENT SETNAME` takes no spaces or control characters.
fn client_name(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' });
    format!("tidegate:{}", plain.collect::<String>())
}

/// Waits that double from a tenth of a second to five, each drawn from the upper half of its range.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// How long to wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures += 1;
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Whether this is the first failure after a success: the one worth a line in the log.
    pub(super) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_capped() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_fresh());
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(waits[0] >= Backoff::FIRST / 2 && waits[0] <= Backoff::FIRST);
        assert!(waits.iter().all(|wait| *wait <= Backoff::LONGEST));
        assert!(waits[11] >= Backoff::LONGEST / 2);
    }

    #[test]
    fn a_client_name_has_no_spaces() {
        assert_eq!(client_name("my host\n"), "tidegate:my-host-");
    }
}
