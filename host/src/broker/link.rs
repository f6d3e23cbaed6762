//! The shared connection: settlements, scripts and questions travel on it, never a blocking read.
//!
//! One task owns it. When it breaks, the task opens another, teaches it the
//! scripts, and publishes it; whoever needs it waits for that, with a bound.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::BrokerError;
use super::capability::{Abilities, Survey};
use super::connect::{Backoff, Connector, Replies};
use super::reign::{Reign, Wire};
use super::scripts::Lua;
use super::trouble::Trouble;
use crate::shutdown::Stop;

/// How long a reply may take before the connection counts as dead.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a connection before it fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// While Redis stays away, a line in the log this often.
const REMIND: Duration = Duration::from_secs(30);

/// A handle on the shared connection; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    current: watch::Receiver<Option<Numbered>>,
    broken: Arc<Broken>,
    abilities: Arc<Abilities>,
}

/// A connection and which one it is, so that an old failure does not end a new connection.
#[derive(Clone)]
struct Numbered {
    number: u64,
    connection: Wire,
}

/// One connection, held on to: what is asked on it is told to one server, or fails.
///
/// For requests of which the later are only right where the earlier were heard.
pub(super) struct Line<'a> {
    link: &'a Link,
    now: Numbered,
}

#[derive(Default)]
struct Broken {
    number: std::sync::atomic::AtomicU64,
    told: Notify,
}

/// Ends the task that owns the connection when the last holder is gone.
pub(super) struct Keeper(AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Opens the connection, waiting for a server that is not there yet.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Refused`] when the credentials are wrong or may not do what is needed,
    /// [`BrokerError::Stopped`] when a stop was requested while waiting.
    pub(super) async fn open(
        connector: Arc<Connector>,
        stop: &Stop,
    ) -> Result<(Self, Keeper), BrokerError> {
        let abilities = Arc::new(Abilities::default());
        let first = tokio::select! {
            opened = patiently(&connector, &abilities, Refusal::Final) => opened?,
            () = stop.cancelled() => return Err(BrokerError::Stopped),
        };
        let (publish, current) = watch::channel(Some(Numbered { number: 1, connection: first }));
        let broken = Arc::new(Broken::default());
        let keeping = keep(connector.clone(), abilities.clone(), publish, broken.clone());
        let keeping = tokio::spawn(async move { tokio::join!(keeping, connector.watch()) });
        Ok((Self { current, broken, abilities }, Keeper(keeping.abort_handle())))
    }

    /// Whether there is a connection of which nothing bad is known.
    pub(super) fn is_connected(&self) -> bool {
        let broken = self.broken.number.load(std::sync::atomic::Ordering::Relaxed);
        self.current.borrow().as_ref().is_some_and(|now| now.number > broken)
    }

    /// What the server can do.
    pub(super) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// The connection there is now, or soon.
    pub(super) async fn line(&self) -> RedisResult<Line<'_>> {
        Ok(Line { link: self, now: self.connection().await? })
    }

    /// Sends one command.
    pub(super) async fn query(&self, command: &Cmd) -> RedisResult<Value> {
        self.line().await?.query(command).await
    }

    /// Sends commands together; each has its own answer, whatever became of the others.
    pub(super) async fn pipeline(
        &self,
        commands: &Pipeline,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        if commands.is_empty() {
            // The crate takes it for a mistake of the caller's.
            return Ok(Vec::new());
        }
        self.line().await?.pipeline(commands).await
    }

    async fn connection(&self) -> RedisResult<Numbered> {
        let mut current = self.current.clone();
        let broken = || self.broken.number.load(std::sync::atomic::Ordering::Relaxed);
        let usable = |now: &Option<Numbered>| now.as_ref().is_some_and(|c| c.number > broken());
        let waiting = tokio::time::timeout(PATIENCE, current.wait_for(usable)).await;
        match waiting {
            Ok(Ok(now)) => now.clone().ok_or_else(away),
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }
}

impl Line<'_> {
    /// In which reign it was opened.
    pub(super) fn reign(&self) -> &Arc<Reign> {
        self.now.connection.reign()
    }

    /// As [`Link::query`].
    pub(super) async fn query(&self, command: &Cmd) -> RedisResult<Value> {
        let reply = command.query_async(&mut self.now.connection.clone()).await;
        self.judge(reply).await
    }

    /// As [`Link::pipeline`].
    pub(super) async fn pipeline(
        &self,
        commands: &Pipeline,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let replies: RedisResult<Vec<RedisResult<Value>>> =
            commands.query_async(&mut self.now.connection.clone()).await;
        let replies = self.judge(replies).await?;
        let mut reacted = Vec::new();
        for trouble in replies.iter().filter_map(|reply| reply.as_ref().err().map(Trouble::of)) {
            if !reacted.contains(&trouble) {
                self.react(trouble).await;
                reacted.push(trouble);
            }
        }
        Ok(replies)
    }

    async fn judge<T>(&self, reply: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &reply {
            self.react(Trouble::of(error)).await;
        }
        reply
    }

    /// Mends what a failed request shows to be broken, for whoever asks next.
    async fn react(&self, trouble: Trouble) {
        let Self { link, now } = self;
        if trouble.ends_connection() {
            link.broken.number.fetch_max(now.number, std::sync::atomic::Ordering::Relaxed);
            link.broken.told.notify_one();
        } else if trouble == Trouble::ScriptsGone {
            // A failure shows again at the next request.
            let _ = Lua::teach(&mut now.connection.clone()).await;
        }
    }
}

fn away() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "not connected to Redis").into()
}

/// Replaces the connection for as long as the process lives.
async fn keep(
    connector: Arc<Connector>,
    abilities: Arc<Abilities>,
    publish: watch::Sender<Option<Numbered>>,
    broken: Arc<Broken>,
) {
    let mut number = 1;
    loop {
        let reign = publish.borrow().as_ref().map(|now| now.connection.reign().clone());
        if let Some(reign) = reign {
            tokio::select! {
                () = broken.told.notified() => {}
                () = reign.over() => {}
            }
            let is_broken = broken.number.load(std::sync::atomic::Ordering::Relaxed) >= number;
            if !is_broken && !reign.is_over() {
                continue;
            }
        }
        publish.send_replace(None);
        let Ok(connection) = patiently(&connector, &abilities, Refusal::Passing).await else {
            continue;
        };
        number += 1;
        publish.send_replace(Some(Numbered { number, connection }));
    }
}

/// Whether refused credentials end the wait: at the start a person is watching,
/// later they may be rotated under a host that runs.
#[derive(Clone, Copy)]
enum Refusal {
    Final,
    Passing,
}

async fn patiently(
    connector: &Connector,
    abilities: &Abilities,
    refusal: Refusal,
) -> Result<Wire, BrokerError> {
    let mut backoff = Backoff::default();
    let mut reminded = tokio::time::Instant::now();
    loop {
        let error = match open_and_teach(connector, abilities).await {
            Ok(connection) => {
                if !backoff.is_fresh() {
                    tracing::info!(redis = connector.shown(), "connected");
                }
                return Ok(connection);
            }
            Err(error) => error,
        };
        if matches!(refusal, Refusal::Final)
            && error.kind() == ErrorKind::MasterNameNotFoundBySentinel
        {
            return Err(BrokerError::UnknownMaster(error));
        }
        if matches!(refusal, Refusal::Final) && Trouble::of(&error).is_refusal() {
            return Err(BrokerError::Refused {
                address: connector.shown().to_owned(),
                source: error,
            });
        }
        if backoff.is_fresh() || reminded.elapsed() >= REMIND {
            reminded = tokio::time::Instant::now();
            tracing::warn!(redis = connector.shown(), %error, "cannot reach Redis; trying again");
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn open_and_teach(connector: &Connector, abilities: &Abilities) -> RedisResult<Wire> {
    let mut connection = connector.open(Replies::Within(REPLY_TIMEOUT)).await?;
    Lua::teach(&mut connection).await?;
    let answers: Vec<RedisResult<Value>> = Survey::questions().query_async(&mut connection).await?;
    abilities.learn(Survey::read(&answers));
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use redis::aio::MultiplexedConnection;
    use redis::{AsyncConnectionConfig, RedisConnectionInfo};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, duplex};
    use tokio::sync::mpsc;

    use super::super::delay::{Delays, keeping};
    use super::super::reign::{Server, Throne};
    use super::*;
    use crate::message::Field;

    /// A connection to a server that answers everything with 1 and tells what it was asked, line by line.
    async fn server(
        number: u64,
        throne: &Throne,
    ) -> (Option<Numbered>, mpsc::UnboundedReceiver<String>) {
        let (near, far) = duplex(1 << 16);
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(far);
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with('*') {
                    write.write_all(b":1\r\n").await.unwrap();
                }
                let _ = tell.send(line);
            }
        });
        let login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&login, near, AsyncConnectionConfig::new())
                .await
                .unwrap();
        tokio::spawn(driver);
        let reign = throne.seat(Server::new(format!("{number}"), "role:master\r\n"));
        (Some(Numbered { number, connection: Wire::new(connection, reign) }), told)
    }

    fn all(told: &mut mpsc::UnboundedReceiver<String>) -> String {
        std::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn an_entry_is_delayed_where_its_stream_was_announced_or_not_at_all() {
        let (before, after) = (Throne::default(), Throne::default());
        let (first, mut told_first) = server(1, &before).await;
        let (second, mut told_second) = server(2, &after).await;
        let (publish, current) = watch::channel(first);
        let link = Link { current, broken: Arc::default(), abilities: Arc::default() };
        let delays = Delays::new(link.clone());
        let line = link.line().await.unwrap();
        let wait = Duration::from_secs(60);
        delays.announce(&line, [("out", wait)].into_iter()).await.unwrap();
        publish.send_replace(second);
        let fields = [Field::new("a", "1")];
        let (writing, _) = keeping("out", wait, [&fields[..]]).remove(0);
        line.query(&writing).await.unwrap();
        let told = all(&mut told_first);
        assert!(told.contains("tidegate:{delayed}:streams") && told.contains(":delayed:out"));
        // Once another server takes over, nothing more is told to the one before.
        drop(before.seat(Server::new("3".into(), "role:master\r\n")));
        assert!(line.query(&writing).await.is_err());
        assert_eq!((all(&mut told_first), all(&mut told_second)), Default::default());
        link.query(&writing).await.unwrap();
        assert!(all(&mut told_second).contains(":delayed:out"), "all else goes to the next");
    }
}
