//! A handler on a channel: what is published reaches it at most once, and nothing of it is kept in Redis.
//!
//! One task listens, on a connection of its own; between it and the handler is a mailbox with a
//! bound. What the handler's outcomes come to is `outbox`'s.

mod mailbox;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisError, RedisResult};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::{Backoff, Connector, silent};
use super::reign::Reign;
use super::trouble::Trouble;
use super::{Broker, Closing, Source, Subscription};
use crate::figures::{Figures, add, read};
use crate::health::Symptom;
use crate::manifest::Handler;
use crate::message::{Attempt, Delivery, Held, Message};
use crate::shutdown::Stop;
use mailbox::Mailbox;
use outbox::Outbox;

/// How often a connection on which nothing comes is asked whether it still is one.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How long a server may take to answer on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The reading side of a handler on a channel.
pub struct Listening {
    mailbox: Arc<Mailbox>,
    held: Arc<Held>,
    figures: Arc<Figures>,
    handler: Arc<str>,
    stop: Stop,
}

impl Listening {
    /// The next deliveries, at most `slots`; none once a stop is requested.
    pub(super) async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        let messages = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Vec::new(),
            messages = self.mailbox.take(slots) => messages,
        };
        let attempt = Attempt::FIRST;
        let deliver = |message: Message| {
            let receipt = self.held.issue(message.id, attempt);
            Delivery { message, attempt, receipt }
        };
        messages.into_iter().map(deliver).collect()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let left = self.mailbox.len();
        if left > 0 {
            add(&self.figures.dropped, left);
            tracing::warn!(handler = %self.handler, count = left,
                "messages of a channel were not handled before the stop, and are gone");
        }
    }
}

impl Broker {
    /// Puts a handler on its channel, or on the channels of its pattern.
    ///
    /// Waits for the first try to subscribe, but not until it succeeds.
    pub(super) async fn listen(
        &self,
        handler: &Handler,
        figures: Arc<Figures>,
        stop: Stop,
    ) -> Subscription {
        let held = Arc::<Held>::default();
        let mailbox = Arc::new(Mailbox::new(handler.name.clone(), figures.clone()));
        let listener = Listener {
            connector: self.connector.clone(),
            handler: handler.name.clone(),
            channel: handler.stream.clone(),
            mailbox: mailbox.clone(),
            figures: figures.clone(),
            subscription: figures.health.subscription(),
            backoff: Backoff::default(),
        };
        let heard = listener.subscribe().await;
        let mut chores = JoinSet::new();
        let until = stop.clone();
        chores.spawn(async move { listener.listen(heard, &until).await });
        let (link, delays) = (self.link.clone(), self.delays.clone());
        let outbox = Outbox::new(handler.name.clone(), link, delays, held.clone(), figures.clone());
        let (settler, writing) = outbox::open(outbox);
        let handler = handler.name.clone();
        Subscription {
            source: Source::Channel(Listening { mailbox, held, figures, handler, stop }),
            settler,
            valve: Arc::default(),
            consumer: self.name.clone(),
            closing: Closing::new(tokio::spawn(writing), chores, None),
            tenure: None,
        }
    }
}

/// What is heard, the way to ask for it, and the reign of the server that says it.
type Connection = (PubSubSink, PubSubStream, Arc<Reign>);

/// Stays subscribed, and puts what comes into the mailbox.
struct Listener {
    connector: Arc<Connector>,
    handler: Arc<str>,
    /// A channel, or a pattern of channels.
    channel: Arc<str>,
    mailbox: Arc<Mailbox>,
    figures: Arc<Figures>,
    subscription: Symptom,
    backoff: Backoff,
}

impl Listener {
    async fn listen(mut self, first: RedisResult<Connection>, stop: &Stop) {
        let mut subscribed = first;
        loop {
            let error = match subscribed {
                Ok(connection) => {
                    tracing::info!(handler = %self.handler, channel = %self.channel, "subscribed");
                    self.backoff.reset();
                    self.subscription.is_well();
                    tokio::select! {
                        error = self.hear(connection) => error,
                        () = stop.cancelled() => return,
                    }
                }
                Err(error) => error,
            };
            let wait = self.cope(&error);
            subscribed = tokio::select! {
                subscribed = async { tokio::time::sleep(wait).await; self.subscribe().await } => subscribed,
                () = stop.cancelled() => return,
            };
        }
    }

    async fn subscribe(&self) -> RedisResult<Connection> {
        let (listening, reign) = self.connector.listen().await?;
        let (mut sink, stream) = listening.split();
        let subscribing = async {
            if is_pattern(&self.channel) {
                sink.psubscribe(&*self.channel).await
            } else {
                sink.subscribe(&*self.channel).await
            }
        };
        timeout(PATIENCE, subscribing).await.map_err(|_| silent())??;
        Ok((sink, stream, reign))
    }

    /// Takes in what is published until the connection ends; gives why it did.
    async fn hear(&self, (sink, mut stream, reign): Connection) -> RedisError {
        let hearing = async {
            // The mailbox never makes this wait: what the crate has read does not pile up there.
            while let Some(message) = stream.next().await {
                self.put(&message);
            }
        };
        let error = tokio::select! {
            () = hearing => std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
            error = watch(sink) => error,
            // A replica says the same only for as long as it hears of it.
            () = reign.over() => std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
        };
        add(&self.figures.reconnects, 1);
        error
    }

    fn put(&self, message: &Msg) {
        let channel = message.get_channel::<Vec<u8>>().unwrap_or_default();
        let payload = message.get_payload_bytes().to_vec();
        self.mailbox.put(&String::from_utf8_lossy(&channel), payload);
    }

    /// Says once what is wrong, and how long to wait.
    fn cope(&mut self, error: &RedisError) -> Duration {
        let (handler, channel) = (&self.handler, &self.channel);
        self.figures.trouble(Trouble::of(error).as_str());
        self.subscription.ails(format_args!("not subscribed to `{channel}`: {error}"));
        if self.backoff.is_fresh() {
            if Trouble::of(error).is_refusal() {
                tracing::error!(%handler, %channel, %error,
                    "this user may not subscribe; grant it the channel, or the same pattern, as in `ACL SETUSER name &news.*`; trying again");
            } else {
                tracing::warn!(%handler, %channel, %error, "not subscribed; trying again");
            }
        }
        self.backoff.next()
    }
}

/// Whether names of channels are meant rather than one channel, as `PSUBSCRIBE` reads them.
pub(super) fn is_pattern(channel: &str) -> bool {
    channel.contains(['*', '?', '['])
}

/// Ends when the connection no longer answers: a channel on which nothing comes looks the same
/// as one that is cut off.
async fn watch(mut sink: PubSubSink) -> RedisError {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let asked = timeout(PATIENCE, sink.ping::<redis::Value>()).await;
        if let Err(error) = asked.unwrap_or_else(|_| Err(silent())) {
            return error;
        }
    }
}

/// Says at the end what became of a channel's messages, as nothing in Redis tells.
fn sum_up(handler: &str, figures: &Figures) {
    let [handled, failed, dropped] =
        [&figures.handled, &figures.failed, &figures.dropped].map(read);
    tracing::info!(handler, handled, failed, dropped, "no longer listening");
}
