//! Durability: a settlement counts as written when a replica, or the server's disk, has it.
//!
//! The settlements themselves travel on the shared connection. The wait for them has a
//! connection of its own, as it blocks whatever comes behind it. There a mark is written
//! first: who waits for the mark waits for everything that was written before it,
//! whichever connection carried it, as long as both lead to the same server.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::connect::{Backoff, Connector, Replies};
use super::ledger::{Ledger, Written};
use super::post::Post;
use super::reign::Wire;
use super::trouble::Trouble;
use crate::manifest::Durability;

/// How long the server is asked to wait in one go.
const WAIT: Duration = Duration::from_secs(1);

/// The reply may take this long before the connection counts as dead.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches that wait for their witness, beside the ones it looks at; settling waits beyond it.
const QUEUE: usize = 16;

/// How long the mark stays.
const MARK_LIFETIME: Duration = Duration::from_secs(60);

/// Why a handler cannot have the durability that its manifest asks for.
#[derive(Debug, thiserror::Error)]
pub enum CannotWait {
    /// The server is too old.
    #[error(
        "\"aof\" needs a server that can wait for its disk (WAITAOF: Redis 7.2, Valkey), and this one cannot; use \"replica\" or \"none\""
    )]
    NoCommand,
    /// It could, and has nothing to wait for.
    #[error(
        "\"aof\" waits for the server's append-only file, and it keeps none; set `appendonly yes` on the server, or use \"replica\" or \"none\""
    )]
    NoFile,
    /// The server does not answer as it should.
    #[error("cannot find out whether the server can wait")]
    Unknown(#[source] RedisError),
}

/// Waits until what was settled is where the manifest wants it.
pub(super) struct Witness {
    connector: Arc<Connector>,
    connection: Option<Wire>,
    post: Arc<Post>,
}

/// Where written settlements are handed in.
pub(super) struct Durable(mpsc::Sender<Written>);

impl Durable {
    pub(super) async fn witness(&self, written: Written) {
        // It closes only with the host.
        let _ = self.0.send(written).await;
    }
}

impl Witness {
    /// Somebody to wait, where the handler asks for it.
    ///
    /// # Errors
    ///
    /// When the server cannot wait for what the handler asks.
    pub(super) async fn called_for(
        post: &Arc<Post>,
        connector: &Arc<Connector>,
    ) -> Result<Option<Self>, CannotWait> {
        let durability = post.handler.durability;
        if durability == Durability::None {
            return Ok(None);
        }
        if durability == Durability::Aof {
            let mut asking = redis::cmd("WAITAOF");
            match post.link.query(asking.arg(1).arg(0).arg(1)).await {
                Ok(_) => {}
                Err(error) if Trouble::of(&error) == Trouble::Incapable => {
                    return Err(CannotWait::NoCommand);
                }
                Err(error) if error.to_string().contains("appendonly") => {
                    return Err(CannotWait::NoFile);
                }
                Err(error) => return Err(CannotWait::Unknown(error)),
            }
        }
        Ok(Self::of(post, connector))
    }

    /// Somebody to wait, where the handler asks for it and the server is known to be able to.
    pub(super) fn of(post: &Arc<Post>, connector: &Arc<Connector>) -> Option<Self> {
        let (connector, post) = (connector.clone(), post.clone());
        (post.handler.durability != Durability::None).then_some(Self {
            connector,
            connection: None,
            post,
        })
    }

    /// Where to hand in, and the task that waits; it ends when nobody hands in any more.
    pub(super) fn open(self, ledger: Ledger) -> (Durable, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Durable(sender), self.work(receiver, ledger))
    }

    async fn work(mut self, mut queue: mpsc::Receiver<Written>, ledger: Ledger) {
        let mut batches = Vec::with_capacity(QUEUE);
        while queue.recv_many(&mut batches, QUEUE).await > 0 {
            self.wait(&mut batches, &ledger).await;
            for written in batches.drain(..) {
                ledger.close(written).await;
            }
        }
    }

    /// Returns when all of these are where they should be; says once that they are not yet.
    async fn wait(&mut self, batches: &mut Vec<Written>, ledger: &Ledger) {
        let mut backoff = Backoff::default();
        loop {
            let confirmed = self.ask().await;
            self.give_up(batches, ledger);
            if batches.is_empty() {
                return;
            }
            let handler = &self.post.handler.name;
            let first = backoff.is_fresh();
            match confirmed {
                Ok(true) => {
                    if !first {
                        tracing::info!(%handler, "what is settled is confirmed again");
                    }
                    return;
                }
                Ok(false) if first => {
                    tracing::warn!(%handler, durability = self.wanted(),
                        "what is settled is not confirmed; it counts as settled only once it is");
                }
                Err(error) if first => {
                    tracing::warn!(%handler, durability = self.wanted(), %error,
                        "cannot wait for what is settled to be confirmed; trying again");
                }
                Ok(false) | Err(_) => {}
            }
            sleep(backoff.next()).await;
        }
    }

    /// Lets go of what was written to a server that is not worked with any more: the one that was asked
    /// need not have it. What it does not have is pending there, and is handled again.
    fn give_up(&self, batches: &mut Vec<Written>, ledger: &Ledger) {
        for written in batches.extract_if(.., |written| written.reign.is_over()) {
            tracing::warn!(handler = %self.post.handler.name, durability = self.wanted(),
                count = written.items.len(), server = written.reign.place(),
                "settled just before this server was replaced, and not confirmed; what was lost of it is handled again");
            ledger.forsake(written.items);
        }
    }

    fn wanted(&self) -> &'static str {
        match self.post.handler.durability {
            Durability::None => "none",
            Durability::Replica => "replica",
            Durability::Aof => "aof",
        }
    }

    /// Whether all that was written before is where it should be (`WAIT`, `WAITAOF`).
    async fn ask(&mut self) -> RedisResult<bool> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connector.open(Replies::Within(REPLY_TIMEOUT)).await?,
        };
        let mut asking = redis::pipe();
        asking.cmd("SET").arg(&self.post.keys.mark).arg(&self.post.consumer);
        asking.arg("PX").arg(MARK_LIFETIME.as_millis() as u64);
        asking.add_command(self.waiting());
        let answers: Vec<Value> = asking.query_async(&mut connection).await?;
        // One that failed is not used again: what it still waits for is nobody's.
        self.connection = Some(connection);
        Ok(match answers.last() {
            Some(Value::Int(replicas)) => *replicas > 0,
            Some(Value::Array(counts)) => matches!(counts.first(), Some(Value::Int(1..))),
            _ => false,
        })
    }

    fn waiting(&self) -> Cmd {
        let mut waiting = match self.post.handler.durability {
            Durability::None | Durability::Replica => redis::cmd("WAIT"),
            Durability::Aof => redis::cmd("WAITAOF"),
        };
        waiting.arg(1);
        if self.post.handler.durability == Durability::Aof {
            waiting.arg(0);
        }
        waiting.arg(WAIT.as_millis() as u64);
        waiting
    }
}
