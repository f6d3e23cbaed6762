//! Putting a handler on its stream: a name, a group, and someone to every job that there is.

use std::sync::Arc;

use redis::RedisResult;
use tokio::task::{JoinHandle, JoinSet};

use super::broadcast::{self, Member};
use super::connect::Backoff;
use super::durability::Witness;
use super::feed::{Feed, State};
use super::janitor::Janitor;
use super::keys::Keys;
use super::post::Post;
use super::presence::{self, Presence};
use super::quarantine::Quarantine;
use super::rate::Meter;
use super::returns::Returns;
use super::serving::Serving;
use super::settle::{self, Settler};
use super::source::Source;
use super::tenure::Tenure;
use super::trouble::Trouble;
use super::valve::Valve;
use super::wake::Wake;
use super::{Broker, BrokerError, lease};
use crate::figures::Figures;
use crate::manifest::{Handler, Supply};
use crate::shutdown::Stop;

/// A handler put on its stream.
pub struct Subscription {
    /// Where its deliveries come from.
    pub source: Source,
    /// Where they are settled.
    pub settler: Settler,
    /// What lets the feed read.
    pub valve: Arc<Valve>,
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
    /// The sign of life; a channel has none.
    presence: Option<Arc<Presence>>,
}

impl Closing {
    pub(super) fn new(
        writing: JoinHandle<()>,
        chores: JoinSet<()>,
        presence: Option<Arc<Presence>>,
    ) -> Self {
        Self { writing, chores, presence }
    }

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
    /// Puts a handler on its stream, creating stream and group where they are missing, or on its channel.
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
        serving: Serving,
        figures: Arc<Figures>,
        stop: Stop,
    ) -> Result<Subscription, BrokerError> {
        if handler.supply == Supply::Channel {
            return Ok(self.listen(handler, figures, stop).await);
        }
        let place = format!("put handler `{}` on stream `{}`", handler.name, handler.stream);
        let keys = Keys::of(handler);
        let link = self.link.clone();
        let claiming = async || {
            let sign = presence::Teller { serving: serving.clone(), figures: figures.clone() };
            let name = (handler.group.clone(), &*self.name);
            Presence::claim(link.clone(), &keys, name, sign).await
        };
        let mut presence = self.patiently(&place, &stop, claiming).await?;
        let mut chores = JoinSet::new();
        let (handler, keys) = match handler.supply {
            Supply::Group | Supply::Channel => (handler.clone(), keys),
            Supply::Broadcast => {
                let host = presence.name().now();
                let member = Member::new(link.clone(), handler, keys.clone(), &host);
                self.patiently(&place, &stop, async || member.show().await).await?;
                chores.spawn(member.keep_showing());
                let handler = broadcast::on_host(handler, &host);
                let keys = keys.of_host(&handler.group);
                presence.reads_as(&handler.group, &keys);
                (handler, keys)
            }
        };
        let post = Post {
            link,
            handler,
            consumer: presence.name(),
            keys,
            serving,
            held: Arc::default(),
            wake: Wake::default(),
            valve: Arc::new(Valve::of(&figures.health)),
            figures,
            delays: self.delays.clone(),
            lanes: None,
        };
        let post = Arc::new(post);
        let unfit = |source| BrokerError::Durability { handler: post.handler.name.clone(), source };
        let witness = Witness::called_for(&post, &self.connector).await.map_err(unfit)?;
        let opening = async || {
            post.create_group(post.handler.start).await?;
            post.look_whether_paused().await
        };
        self.patiently(&place, &stop, opening).await?;
        Ok(self.staff(post, (presence, witness), chores, stop))
    }

    /// Puts someone to every job that a handler's stream needs.
    fn staff(
        &self,
        post: Arc<Post>,
        (presence, witness): (Presence, Option<Witness>),
        mut chores: JoinSet<()>,
        stop: Stop,
    ) -> Subscription {
        let (settler, writing) = settle::open(post.clone(), witness);
        let presence = Arc::new(presence);
        chores.spawn(presence.clone().show());
        chores.spawn(post.clone().watch_for_pauses());
        chores.spawn(lease::keep(post.clone()));
        chores.spawn(Janitor::new(post.clone()).work());
        let (consumer, valve) = (post.consumer.now().to_string(), post.valve.clone());
        let (mine, cell) = ((post.clone(), presence.clone()), self.cell.clone());
        let quarantine = |claims| Quarantine::new(mine.0, mine.1, claims, cell);
        let returns = Returns::new(post.clone(), presence.clone(), settler.clone(), quarantine);
        let writing = tokio::spawn(writing);
        let closing = Closing { writing, chores, presence: Some(presence.clone()) };
        let connector = self.connector.clone();
        let meter = Meter::of(&post, &stop);
        let state = State::default();
        let subscription = post.figures.health.subscription();
        let feed = Feed { post, connector, presence, returns, meter, subscription, stop, state };
        let source = Source::Shared(Box::new(feed));
        Subscription { source, settler, valve, consumer, closing, tenure: None }
    }

    /// Tries again for as long as what is in the way may pass, hearing a stop meanwhile.
    ///
    /// # Errors
    ///
    /// What the attempt says that does not pass, or [`BrokerError::Stopped`].
    pub async fn wait_out<T>(
        &self,
        stop: &Stop,
        attempt: impl AsyncFn() -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let mut backoff = Backoff::default();
        loop {
            let tried = tokio::select! {
                tried = attempt() => tried,
                () = stop.cancelled() => return Err(BrokerError::Stopped),
            };
            let (purpose, error) = match tried {
                Err(BrokerError::Command { purpose, source }) if Trouble::of(&source).passes() => {
                    (purpose, source)
                }
                done => return done,
            };
            if backoff.is_fresh() {
                tracing::warn!(%error, "cannot {purpose}; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = stop.cancelled() => return Err(BrokerError::Stopped),
            }
        }
    }

    /// As [`Self::wait_out`], for requests that have one purpose.
    pub(super) async fn patiently<T>(
        &self,
        purpose: &str,
        stop: &Stop,
        attempt: impl AsyncFn() -> RedisResult<T>,
    ) -> Result<T, BrokerError> {
        let failed = |source| self.failed(purpose.to_owned(), source);
        self.wait_out(stop, async || attempt().await.map_err(failed)).await
    }
}
