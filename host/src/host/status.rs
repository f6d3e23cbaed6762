//! How handlers stand, as far as Redis can tell: what `tidegate status` shows and the admin server answers.
//!
//! What Redis cannot tell is absent, never 0. How it looks is for others.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::broker::{Broker, BrokerError, GroupStatus, HostStatus, Paused};
use crate::manifest::{Handler, Supply};

/// How every handler of a manifest stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Where, without secrets.
    pub redis: String,
    /// Each of them; one for each shard of an ordered stream.
    pub handlers: Vec<HandlerStatus>,
}

/// A handler; without figures while its group does not exist, or where a channel has none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HandlerStatus {
    /// Its name.
    pub handler: String,
    /// How messages come to it.
    pub delivery: Delivery,
    /// The stream it reads.
    pub stream: Option<String>,
    /// Which of the streams that its stream is made of this is.
    pub shard: Option<u32>,
    /// The host that owns the stream, of a handler that keeps order.
    pub owner: Option<String>,
    /// The group it reads as.
    pub group: Option<String>,
    /// The channel it listens to.
    pub channel: Option<String>,
    /// Connections of any kind on the channel; Redis does not tell it of a pattern.
    pub subscribers: Option<u64>,
    /// Whether the group is there.
    pub group_exists: bool,
    /// Why there are no figures, where a key is of another type than it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Whether nobody reads for it, as somebody said so.
    pub paused: bool,
    /// Who paused it, while it is paused.
    pub pause: Option<Paused>,
    /// Entries on the stream.
    pub length: Option<u64>,
    /// Entries that the group has not read.
    pub unread: Option<u64>,
    /// How long the oldest of these has been there.
    pub oldest_unread_ms: Option<u64>,
    /// Entries read and not settled, those that wait for a retry included.
    pub pending: Option<u64>,
    /// Entries that wait for another attempt.
    pub retries_waiting: Option<u64>,
    /// When the first of them is due.
    pub next_retry_ms: Option<u64>,
    /// Entries that run apart from all others, or have, since a host died with them in flight.
    pub suspected: Option<u64>,
    /// Entries that are to appear on the stream later.
    pub delayed: Option<u64>,
    /// Where messages go that are given up.
    pub dead_letter: Option<String>,
    /// Letters on the dead-letter stream, which handlers may share.
    pub dead: Option<u64>,
    /// Hosts that show themselves.
    pub hosts_alive: Option<usize>,
    /// Messages handled a second by all hosts alive; absent without one, and for a shard, as
    /// hosts count what they handle of all of them.
    pub rate: Option<f64>,
    /// The digests of the plugins at work; several while hosts differ.
    pub plugins: BTreeSet<String>,
    /// The consumers of the group, and the hosts that stand by.
    pub hosts: Vec<HostStatus>,
}

/// How messages come to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Each to one of the hosts.
    Group,
    /// Every host has a group of its own; figures are sums over them.
    Broadcast,
    /// Published, and kept nowhere.
    Channel,
}

impl Status {
    /// How these handlers stand.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or refuses it.
    pub async fn read(broker: &Broker, handlers: &[Handler]) -> Result<Self, BrokerError> {
        let mut read = Vec::with_capacity(handlers.len());
        for handler in handlers {
            read.extend(HandlerStatus::read(broker, handler).await?);
        }
        Ok(Self { redis: broker.address().to_owned(), handlers: read })
    }
}

impl HandlerStatus {
    /// How a handler stands on each of its streams.
    ///
    /// # Errors
    ///
    /// As [`Status::read`].
    pub async fn read(broker: &Broker, handler: &Handler) -> Result<Vec<Self>, BrokerError> {
        let pause = broker.paused(handler).await?;
        let subscribers = match handler.supply {
            Supply::Channel => broker.subscribers(&handler.stream).await?,
            Supply::Group | Supply::Broadcast => None,
        };
        let mut read = Vec::new();
        for one in handler.on_each_stream() {
            let (group, trouble) = match broker.inspect(&one).await {
                Err(error) if error.is_of_one_key() => (None, Some(error.to_string())),
                inspected => (inspected?, None),
            };
            let status = Self::new(&one, group, pause.clone());
            read.push(Self { subscribers, trouble, ..status });
        }
        Ok(read)
    }

    /// What there is to say of a handler whose group stands like this.
    pub fn new(handler: &Handler, group: Option<GroupStatus>, pause: Option<Paused>) -> Self {
        let group = group.as_ref();
        let hosts = group.map_or(Vec::new(), |group| group.hosts.clone());
        let signs = || hosts.iter().filter_map(|host| host.sign.as_ref());
        let alive = signs().count();
        let delivery = match handler.supply {
            Supply::Group => Delivery::Group,
            Supply::Broadcast => Delivery::Broadcast,
            Supply::Channel => Delivery::Channel,
        };
        let of_stream = |name: &str| (delivery != Delivery::Channel).then(|| name.to_owned());
        let of_channel = |name: &str| (delivery == Delivery::Channel).then(|| name.to_owned());
        Self {
            handler: handler.name.to_string(),
            delivery,
            stream: of_stream(&handler.stream),
            shard: handler.shard.as_ref().map(|shard| shard.index),
            owner: group.and_then(|group| group.owner.clone()),
            group: of_stream(&handler.group),
            channel: of_channel(&handler.stream),
            subscribers: None,
            group_exists: group.is_some(),
            trouble: None,
            paused: pause.is_some(),
            pause,
            length: group.map(|group| group.length),
            unread: group.and_then(|group| group.lag),
            oldest_unread_ms: group.and_then(|group| group.oldest_unread),
            pending: group.map(|group| group.pending),
            retries_waiting: group.map(|group| group.retries_waiting),
            next_retry_ms: group.and_then(|group| group.next_retry),
            suspected: group.map(|group| group.suspected),
            delayed: group.map(|group| group.delayed),
            dead_letter: of_stream(&handler.dead_letter),
            dead: group.map(|group| group.dead),
            hosts_alive: group.map(|_| alive),
            rate: (alive > 0 && handler.shard.is_none())
                .then(|| signs().map(|sign| sign.rate).sum()),
            plugins: signs().map(|sign| sign.plugin.clone()).collect(),
            hosts,
        }
    }
}
