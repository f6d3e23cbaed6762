//! Everything that speaks Redis.
//!
//! A [`Broker`] is one Redis; [`Broker::subscribe`] puts a handler on its stream
//! and gives the two ends of it: a [`Feed`] to read deliveries from and a
//! [`Settler`] to settle them with. What is decided about a message is not
//! decided here. See redis.io's command reference for what each command does.

mod broadcast;
mod call;
mod capability;
mod channel;
mod claim;
mod config;
mod connect;
mod dead;
mod delay;
mod durability;
mod feed;
mod inspect;
mod janitor;
mod keys;
mod keyvalue;
mod lanes;
mod lease;
mod ledger;
mod letter;
mod link;
#[cfg(any(test, fuzzing))]
mod odd;
mod ordered;
mod orphans;
mod pause;
mod pending;
mod portion;
mod post;
mod presence;
mod private;
mod process;
mod promote;
mod publish;
mod quarantine;
mod rate;
mod refused;
mod reign;
mod repeats;
mod replay;
mod reply;
mod rest;
mod retries;
mod returns;
mod scripts;
mod sentinel;
mod serving;
mod settle;
mod sharding;
mod shards;
mod share;
mod source;
mod subscription;
mod suspects;
mod tenure;
mod trouble;
mod valve;
mod wake;
mod ward;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::RedisError;
use tokio::sync::Semaphore;

pub use call::ENTRY_FIELDS_MAX;
pub use channel::Listening;
pub use config::ConfigHash;
pub use dead::{DeadLetter, DeadLetters, Note, Redriven};
pub use delay::DELAY_MAX;
pub use durability::CannotWait;
pub use feed::Feed;
pub use inspect::{GroupStatus, HostStatus};
pub use keyvalue::{Keyspace, StoreRefusal};
#[cfg(any(test, fuzzing))]
pub use odd::read_any;
pub use pause::{Change, Paused};
pub use pending::{Holder, PendingEntries, PendingEntry};
pub use presence::Sign;
pub use private::PrivateServer;
pub use publish::Appended;
pub use refused::RolledBack;
pub use replay::{Act, Replay, Replayed};
pub use reply::UnexpectedReply;
pub use retries::{Retries, Steered, Waiting};
pub use serving::{Served, Serving};
pub use settle::Settler;
pub use shards::{Owned, Shards};
pub use source::Source;
pub use subscription::{Closing, Subscription};
pub use tenure::Tenure;
pub use valve::{Hold, Valve};

use crate::manifest::RedisSettings;
use crate::shutdown::Stop;
use connect::Connector;
use delay::Delays;
use link::{Keeper, Link};
use trouble::Trouble;

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
    /// The sentinels do not know the name that they are asked for.
    #[error("the sentinels that [redis] names know no such master")]
    UnknownMaster(#[source] RedisError),
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
    /// A stream is made of another number of streams than somebody thinks, or by another field.
    #[error("{0}")]
    Shards(String),
    /// A private server was asked for and could not be started.
    #[error("{0}")]
    Private(String),
    /// A stop was requested before a connection or a handler was ready.
    #[error("stopped while waiting for Redis")]
    Stopped,
}

impl BrokerError {
    /// Whether a key is not of the type that it should be: a trouble of one handler, not of all.
    pub fn is_of_one_key(&self) -> bool {
        let Self::Command { source, .. } = self else { return false };
        matches!(Trouble::of(source), Trouble::WrongType | Trouble::OddKey)
    }
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

    /// Whether it is connected, as far as the last request told.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// The name wanted for this host.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, purpose: String, source: RedisError) -> BrokerError {
        if Trouble::of(&source).is_refusal() {
            BrokerError::Refused { address: self.address().to_owned(), source }
        } else {
            BrokerError::Command { purpose, source }
        }
    }
}
