//! Opening connections: address, TLS, credentials, socket options, name, and how long to wait between tries.
//!
//! Who reigns, and for how long, is `reign`'s; what the sentinels say of it, `sentinel`'s.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::BrokerError;
use super::reign::{Reign, Role, Server, Throne, Wire};
use super::sentinel::{Named, Sentinels};
use crate::manifest::{self, Address, Node, RedisSettings, Secret, Tls};

/// How long a server may take to accept a connection and greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long of silence the kernel probes a peer, so that a half-open connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Sent data that stays unacknowledged for this long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the sentinels are asked whether the primary is still the same, as a server that stands
/// still does not say that it is replaced.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Opens connections to one Redis.
pub(super) struct Connector {
    route: Route,
    throne: Throne,
    name: String,
    shown: String,
}

/// How to find the server.
enum Route {
    /// It is always here.
    Fixed(Client),
    /// The sentinels know; the key opens the servers that they name.
    Asked(Sentinels, Key),
}

/// What opens a server, wherever it is.
struct Key {
    login: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
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
        let login = login(settings.username.as_deref(), settings.password.as_ref());
        let key = Key::new(login.set_db(settings.db), settings.tls.as_ref())?;
        let route = match &settings.address {
            Address::Unix(path) => key.client(ConnectionAddr::Unix(path.clone())).map(Route::Fixed),
            Address::Tcp { host, port } => key.client(key.tcp(host, *port)).map(Route::Fixed),
            Address::Sentinel(asked) => Ok(Route::Asked(sentinels(asked)?, key)),
        };
        Ok(Self {
            route: route.map_err(BrokerError::Settings)?,
            throne: Throne::default(),
            name: client_name(name),
            shown: settings.to_string(),
        })
    }

    /// The address, without its secrets.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects to the server that is to be worked with at this moment.
    ///
    /// # Errors
    ///
    /// When it cannot be found or reached, or is a replica where the sentinels call it the primary.
    pub(super) async fn open(&self, replies: Replies) -> Result<Wire, RedisError> {
        let (client, place) = self.find().await?;
        let patience = match replies {
            Replies::Within(limit) => Some(limit),
            Replies::Whenever => None,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(patience);
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| silent())??;
        let server = self.greet(&mut connection, place).await?;
        Ok(Wire::new(connection, self.throne.seat(server)))
    }

    /// A connection that only listens to channels, and the reign in which it does.
    pub(super) async fn listen(&self) -> Result<(PubSub, Arc<Reign>), RedisError> {
        // One that listens cannot be asked what it is connected to.
        let sure = self.open(Replies::Within(CONNECT_TIMEOUT)).await?;
        let (client, place) = self.find().await?;
        if place != sure.reign().place() {
            return Err(unfit(&place, "took over at this moment"));
        }
        let opening = client.get_async_pubsub();
        let listening = timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| silent())??;
        Ok((listening, sure.reign().clone()))
    }

    /// Ends the reign of a server once the sentinels name another; returns at once where none are asked.
    pub(super) async fn watch(&self) {
        let Route::Asked(sentinels, _) = &self.route else { return };
        let mut beat = interval(WATCH_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            // Without a majority there is no failover, and whoever says so may be behind.
            if let Ok(Named::ByMost(primary)) = sentinels.primary().await {
                self.throne.claim(&primary.to_string());
            }
        }
    }

    async fn find(&self) -> RedisResult<(Client, String)> {
        match &self.route {
            Route::Fixed(client) => Ok((client.clone(), self.shown.clone())),
            Route::Asked(sentinels, key) => {
                let (Named::ByMost(primary) | Named::BySome(primary)) = sentinels.primary().await?;
                let client = key.client(key.tcp(&primary.host, primary.port))?;
                Ok((client, primary.to_string()))
            }
        }
    }

    /// Says who we are, and learns who answers.
    async fn greet(
        &self,
        connection: &mut MultiplexedConnection,
        place: String,
    ) -> RedisResult<Server> {
        let mut asking = redis::pipe();
        asking.cmd("CLIENT").arg("SETNAME").arg(&self.name);
        asking.cmd("INFO").arg("server").cmd("INFO").arg("replication").ignore_errors();
        let asked = timeout(CONNECT_TIMEOUT, asking.query_async(connection));
        let answers: Vec<RedisResult<Value>> = asked.await.map_err(|_| silent())??;
        let mut told = String::new();
        for answer in answers {
            match answer {
                Ok(Value::BulkString(text)) => told.push_str(&String::from_utf8_lossy(&text)),
                Ok(_) => {}
                // A name is a courtesy, and what a user without permission to ask cannot know is
                // found out otherwise.
                Err(error) if error.code() == Some("NOPERM") => {}
                Err(error) => return Err(error),
            }
        }
        let server = Server::new(place, &told);
        match (&self.route, server.role) {
            (Route::Asked(..), Role::Replica) => Err(unfit(&server.place, "is a replica")),
            (Route::Asked(..), Role::Untold) => {
                Err(unfit(&server.place, "does not say whether it is one; grant this user `+info`"))
            }
            (Route::Asked(..), Role::Primary) | (Route::Fixed(_), _) => Ok(server),
        }
    }
}

/// The error of a server that the sentinels call the primary.
fn unfit(place: &str, why: &str) -> RedisError {
    let told = format!("{place}, which the sentinels name as the primary, {why}");
    std::io::Error::new(std::io::ErrorKind::NotConnected, told).into()
}

pub(super) fn silent() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer").into()
}

impl Key {
    fn new(login: RedisConnectionInfo, tls: Option<&Tls>) -> Result<Self, BrokerError> {
        Ok(Self { login, tls: tls.map(certificates).transpose()? })
    }

    fn tcp(&self, host: &str, port: u16) -> ConnectionAddr {
        let host = host.to_owned();
        match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        }
    }

    fn client(&self, address: ConnectionAddr) -> RedisResult<Client> {
        let info = address
            .into_connection_info()?
            .set_redis_settings(self.login.clone())
            .set_tcp_settings(socket_options());
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        }
    }
}

fn sentinels(asked: &manifest::Sentinels) -> Result<Sentinels, BrokerError> {
    let login = login(asked.username.as_deref(), asked.password.as_ref());
    let key = Key::new(login, asked.tls.as_ref())?;
    let client = |node: &Node| Ok((node.clone(), key.client(key.tcp(&node.host, node.port))?));
    let clients: RedisResult<Vec<_>> = asked.nodes.iter().map(client).collect();
    Ok(Sentinels::new(&asked.master, clients.map_err(BrokerError::Settings)?))
}

fn login(username: Option<&str>, password: Option<&Secret>) -> RedisConnectionInfo {
    let mut login =
        RedisConnectionInfo::default().set_lib_name("tidegate", env!("CARGO_PKG_VERSION"));
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
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
