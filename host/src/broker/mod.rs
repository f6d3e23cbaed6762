//! Everything that speaks Redis.
//!
//! A [`Broker`] is one Redis; [`Broker::subscribe`] puts a handler on its stream
//! and gives the two ends of it: a [`Feed`] to read deliveries from and a
//! [`Settler`] to settle them with. What is decided about a message is not
//! decided here. See redis.io's command reference for what each command does.

mod call;
mod connect;
mod dead;
mod feed;
mod inspect;
mod keys;
mod lanes;
mod letter;
mod link;
mod ordered;
mod post;
mod presence;
mod private;
mod publish;
mod reply;
mod returns;
mod scripts;
mod settle;
mod shards;
mod share;
mod sharding;
mod source;
mod tenure;
mod trouble;
mod wake;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::RedisError;
use tokio::task::{JoinHandle, JoinSet};

pub use call::ENTRY_FIELDS_MAX;
pub use dead::{DeadLetter, DeadLetters, Note, Redriven};
pub use feed::Feed;
pub use inspect::{GroupStatus, HostStatus};
pub use presence::Sign;
pub use private::PrivateServer;
pub use publish::Appended;
pub use reply::UnexpectedReply;
pub use settle::Settler;
pub use shards::{Owned, Shards};
pub use source::Source;
pub use tenure::Tenure;

use crate::figures::Figures;
use crate::manifest::{Handler, RedisSettings};
use crate::shutdown::Stop;
use connect::Connector;
use feed::State;
use keys::Keys;
use link::{Keeper, Link};
use post::Post;
use presence::Presence;
use returns::{Returns, Search};
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
    /// The server answered what its documentation does not say.
    #[error(transparent)]
    Reply(#[from] UnexpectedReply),
    /// A stream is made of another number of streams than somebody thinks, or by another field.
    #[error("{0}")]
    Shards(String),
    /// A private server was asked for and could not be started.
    #[error("{0}")]
    Private(String),
    /// A stop was requested before there was a connection.
    #[error("stopped while waiting for Redis")]
    Stopped,
}

/// One Redis, and this host's name in it.
pub struct Broker {
    connector: Arc<Connector>,
    link: Link,
    name: String,
    _keeper: Keeper,
}

/// A handler put on its stream.
pub struct Subscription {
    /// Where its deliveries come from.
    pub feed: Source,
    /// Where they are settled.
    pub settler: Settler,
    /// The name it reads under.
    pub consumer: String,
    /// What must be waited for once the settler is let go.
    pub closing: Closing,
    /// For how long this host can be sure that the stream is its own; none where it is shared.
    pub tenure: Option<Arc<Tenure>>,
}

/// The end of a subscription: what is still to be written, and the sign of life.
#[must_use = "settlements are written by the task in here"]
pub struct Closing {
    writing: JoinHandle<()>,
    /// What is done beside reading and settling for as long as the handler is at work.
    chores: JoinSet<()>,
    /// None where the sign of life is not this subscription's own.
    presence: Option<Arc<Presence>>,
}

impl Closing {
    /// Waits until every settlement is written, then takes the sign of life down.
    ///
    /// Ends only after each [`Settler`] is dropped; unwritten settlements are
    /// lost with this future, their entries are not.
    pub async fn finished(mut self) {
        let _ = (&mut self.writing).await;
        self.chores.shutdown().await;
        if let Some(presence) = &self.presence {
            presence.leave().await;
        }
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
        Ok(Self { connector, link, name: name.to_owned(), _keeper: keeper })
    }

    /// Where it is, without secrets.
    pub fn address(&self) -> &str {
        self.connector.shown()
    }

    /// Puts a handler on its stream, creating stream and group where they are missing.
    ///
    /// # Errors
    ///
    /// When Redis refuses the group or the sign of life, such as for a key of another type.
    pub async fn subscribe(
        &self,
        handler: &Handler,
        plugin: Arc<str>,
        figures: Arc<Figures>,
        stop: Stop,
    ) -> Result<Subscription, BrokerError> {
        let place = format!("put handler `{}` on stream `{}`", handler.name, handler.stream);
        let failed = |source| self.failed(place.clone(), source);
        let keys = Keys::new(&handler.stream, &handler.group);
        let link = self.link.clone();
        let sign = presence::Teller { plugin: plugin.clone(), figures: figures.clone() };
        let claimed = Presence::claim(link.clone(), &keys, &self.name, sign).await;
        let (consumer, presence) = claimed.map_err(failed)?;
        let (held, wake) = (Arc::default(), Wake::default());
        let handler = handler.clone();
        let post = Arc::new(Post {
            link,
            handler,
            keys,
            consumer,
            plugin,
            held,
            figures,
            wake,
            lanes: None,
        });
        post.create_group(post.handler.start).await.map_err(failed)?;
        Ok(self.staff(post, presence, stop))
    }

    /// Puts someone to every job that a handler's stream needs.
    fn staff(&self, post: Arc<Post>, presence: Presence, stop: Stop) -> Subscription {
        let (settler, writing) = settle::open(post.clone());
        let presence = Arc::new(presence);
        let mut chores = JoinSet::new();
        chores.spawn(presence.clone().show());
        let closing = Closing { writing: tokio::spawn(writing), chores, presence: Some(presence) };
        let consumer = post.consumer.clone();
        let returns = Returns { post: post.clone(), search: Search::default() };
        let connector = self.connector.clone();
        let feed = Feed { post, connector, returns, stop, state: State::default() };
        Subscription { feed: Source::Shared(feed), settler, consumer, closing, tenure: None }
    }

    fn failed(&self, purpose: String, source: RedisError) -> BrokerError {
        if Trouble::of(&source) == Trouble::Refused {
            BrokerError::Refused { address: self.address().to_owned(), source }
        } else {
            BrokerError::Command { purpose, source }
        }
    }
}
