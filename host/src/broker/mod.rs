//! Everything that speaks Redis.
//!
//! A [`Broker`] is one Redis; [`Broker::subscribe`] puts a handler on its stream
//! and gives the two ends of it: a [`Feed`] to read deliveries from and a
//! [`Settler`] to settle them with. What is decided about a message is not
//! decided here. See redis.io's command reference for what each command does.

mod call;
mod claim;
mod connect;
mod dead;
mod delay;
mod capability;
mod durability;
mod feed;
mod inspect;
mod janitor;
mod keys;
mod lease;
mod ledger;
mod letter;
mod link;
mod pause;
mod pending;
mod post;
mod presence;
mod private;
mod promote;
mod orphans;
mod portion;
mod process;
mod publish;
mod quarantine;
mod replay;
mod rate;
mod repeats;
mod reply;
mod retries;
mod returns;
mod scripts;
mod settle;
mod trouble;
mod valve;
mod wake;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{RedisError, RedisResult};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

pub use call::ENTRY_FIELDS_MAX;
pub use dead::{DeadLetter, DeadLetters, Note, Redriven};
pub use delay::DELAY_MAX;
pub use durability::CannotWait;
pub use feed::Feed;
pub use inspect::{GroupStatus, HostStatus};
pub use pause::{Change, Paused};
pub use pending::{Holder, PendingEntries, PendingEntry};
pub use presence::Sign;
pub use private::PrivateServer;
pub use publish::Appended;
pub use replay::{Act, Replay, Replayed};
pub use reply::UnexpectedReply;
pub use retries::{Retries, Steered, Waiting};
pub use settle::Settler;
pub use valve::{Hold, Valve};

use crate::figures::Figures;
use crate::manifest::{Handler, RedisSettings};
use crate::shutdown::Stop;
use connect::{Backoff, Connector};
use delay::Delays;
use durability::Witness;
use feed::State;
use janitor::Janitor;
use keys::Keys;
use link::{Keeper, Link};
use post::Post;
use presence::Presence;
use quarantine::Quarantine;
use rate::Meter;
use returns::Returns;
use trouble::Trouble;
use wake::Wake;

/// What can go wrong with Redis before messages flow, or in a command of an operator.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The settings make no client, such as a certificate that is no PEM.
    #[error("the settings in [redis] make no connection: {0}")]
    Settings(#[source] RedisError),
    /// A certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The credentials are wrong, or the user may not do what is needed.
    #[error("redis at {address} refuses this user; check `username`, `password` and its ACL")]
    Refused {
        /// Where, without secrets.
        address: String,
        /// The server's words.
        source: RedisError,
    },
    /// A command failed.
    #[error("cannot {purpose}")]
    Command {
        /// What it was for.
        purpose: String,
        /// The server's words.
        source: RedisError,
    },
    /// The server cannot give the durability that a handler asks for.
    #[error("handler.{handler}.durability")]
    Durability {
        /// The handler.
        handler: Arc<str>,
        /// What it lacks, and what to do.
        source: CannotWait,
    },
    /// The server answered what its documentation does not say.
    #[error(transparent)]
    Reply(#[from] UnexpectedReply),
    /// A private server was asked for and could not be started.
    #[error("{0}")]
    Private(String),
    /// A stop was requested before a connection or a handler was ready.
    #[error("stopped while waiting for Redis")]
    Stopped,
}

/// One Redis, and this host's name in it.
pub struct Broker {
    connector: Arc<Connector>,
    link: Link,
    name: String,
    delays: Arc<Delays>,
    /// Lets one handler at a time run a message alone that may have killed a host.
    cell: Arc<Semaphore>,
    _keeper: Keeper,
}

/// A handler put on its stream.
pub struct Subscription {
    /// Where its deliveries come from.
    pub feed: Feed,
    /// Where they are settled.
    pub settler: Settler,
    /// What lets the feed read.
    pub valve: Arc<Valve>,
    /// The name it reads under.
    pub consumer: String,
    /// What must be waited for once the settler is let go.
    pub closing: Closing,
}

/// The end of a subscription: what is still to be written, and the sign of life.
#[must_use = "settlements are written by the task in here"]
pub struct Closing {
    writing: JoinHandle<()>,
    /// What is done beside reading and settling for as long as the handler is at work.
    chores: JoinSet<()>,
    presence: Arc<Presence>,
}

impl Closing {
    /// Waits until every settlement is written, then takes the sign of life down.
    ///
    /// Ends only after each [`Settler`] is dropped; unwritten settlements are
    /// lost with this future, their entries are not.
    pub async fn finished(mut self) {
        let _ = (&mut self.writing).await;
        self.chores.shutdown().await;
        self.presence.leave().await;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

impl Broker {
    /// Connects, waiting for a server that is not there yet.
    ///
    /// `name` is the consumer name wanted in every group and the client name in `CLIENT LIST`.
    ///
    /// # Errors
    ///
    /// When the settings or the credentials are wrong, or `stop` is requested first.
    pub async fn connect(
        settings: &RedisSettings,
        name: &str,
        stop: &Stop,
    ) -> Result<Self, BrokerError> {
        let connector = Arc::new(Connector::new(settings, name)?);
        let (link, keeper) = Link::open(connector.clone(), stop).await?;
        let (delays, cell) = (Arc::new(Delays::new(link.clone())), Arc::new(Semaphore::new(1)));
        Ok(Self { connector, link, name: name.to_owned(), delays, cell, _keeper: keeper })
    }

    /// Where it is, without secrets.
    pub fn address(&self) -> &str {
        self.connector.shown()
    }

    /// Puts a handler on its stream, creating stream and group where they are missing.
    ///
    /// Trouble that passes, such as a connection that breaks meanwhile, is waited out.
    ///
    /// # Errors
    ///
    /// When Redis refuses the group or the sign of life, such as for a key of another type, or
    /// `stop` is requested first.
    pub async fn subscribe(
        &self,
        handler: &Handler,
        plugin: Arc<str>,
        figures: Arc<Figures>,
        stop: Stop,
    ) -> Result<Subscription, BrokerError> {
        let place = format!("put handler `{}` on stream `{}`", handler.name, handler.stream);
        let keys = Keys::new(&handler.stream, &handler.group);
        let link = self.link.clone();
        let claiming = async || {
            let sign = presence::Teller { plugin: plugin.clone(), figures: figures.clone() };
            let name = (handler.group.clone(), &*self.name);
            Presence::claim(link.clone(), &keys, name, sign).await
        };
        let presence = self.patiently(&place, &stop, claiming).await?;
        let post = Post {
            link,
            handler: handler.clone(),
            consumer: presence.name(),
            keys,
            plugin,
            held: Arc::default(),
            figures,
            wake: Wake::default(),
            valve: Arc::default(),
            delays: self.delays.clone(),
        };
        let post = Arc::new(post);
        let unfit = |source| BrokerError::Durability { handler: post.handler.name.clone(), source };
        let witness = Witness::called_for(&post, &self.connector).await.map_err(unfit)?;
        let opening = async || {
            post.create_group(post.handler.start).await?;
            post.look_whether_paused().await
        };
        self.patiently(&place, &stop, opening).await?;
        Ok(self.staff(post, presence, witness, stop))
    }

    /// Puts someone to every job that a handler's stream needs.
    fn staff(
        &self,
        post: Arc<Post>,
        presence: Presence,
        witness: Option<Witness>,
        stop: Stop,
    ) -> Subscription {
        let (settler, writing) = settle::open(post.clone(), witness);
        let presence = Arc::new(presence);
        let mut chores = JoinSet::new();
        chores.spawn(presence.clone().show());
        chores.spawn(post.clone().watch_for_pauses());
        chores.spawn(lease::keep(post.clone()));
        chores.spawn(Janitor::new(post.clone()).work());
        let (consumer, valve) = (post.consumer.now().to_string(), post.valve.clone());
        let (mine, cell) = ((post.clone(), presence.clone()), self.cell.clone());
        let quarantine = |claims| Quarantine::new(mine.0, mine.1, claims, cell);
        let returns = Returns::new(post.clone(), presence.clone(), settler.clone(), quarantine);
        let writing = tokio::spawn(writing);
        let closing = Closing { writing, chores, presence: presence.clone() };
        let connector = self.connector.clone();
        let meter = Meter::of(&post, &stop);
        let state = State::default();
        let feed = Feed { post, connector, presence, returns, meter, stop, state };
        Subscription { feed, settler, valve, consumer, closing }
    }

    /// Tries again for as long as what is in the way may pass, hearing a stop meanwhile.
    async fn patiently<T>(
        &self,
        purpose: &str,
        stop: &Stop,
        attempt: impl AsyncFn() -> RedisResult<T>,
    ) -> Result<T, BrokerError> {
        let mut backoff = Backoff::default();
        loop {
            let tried = tokio::select! {
                tried = attempt() => tried,
                () = stop.cancelled() => return Err(BrokerError::Stopped),
            };
            let error = match tried {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            let trouble = Trouble::of(&error);
            if !trouble.passes() || trouble == Trouble::Refused {
                return Err(self.failed(purpose.to_owned(), error));
            }
            if backoff.is_fresh() {
                tracing::warn!(%error, "cannot {purpose}; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = stop.cancelled() => return Err(BrokerError::Stopped),
            }
        }
    }

    fn failed(&self, purpose: String, source: RedisError) -> BrokerError {
        if Trouble::of(&source).is_refusal() {
            BrokerError::Refused { address: self.address().to_owned(), source }
        } else {
            BrokerError::Command { purpose, source }
        }
    }
}
