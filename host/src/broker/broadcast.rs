//! Streams of which every host sees every message: a group for each host, and an end for those whose hosts are gone.
//!
//! Under its own group a host reads as any other; only who has which group is kept here.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};

use super::keys::Keys;
use super::link::Link;
use super::reply::{self, UnexpectedReply, number, server_millis};
use super::scripts::Lua;
use super::{Broker, BrokerError, GroupStatus};
use crate::manifest::Handler;

/// The group of a host that has shown no life for this long is removed: a machine that
/// is repaired within it goes on where it stopped.
const GONE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a host shows that its group is in use.
const EVERY: Duration = Duration::from_secs(60);

/// One host among those that each see every message of a stream.
pub(super) struct Member {
    link: Link,
    handler: Arc<str>,
    /// The group that the manifest names; each host's group has its name after it.
    base: Arc<str>,
    keys: Keys,
    host: String,
}

impl Member {
    /// The host that reads for a handler, whose name among the live ones it has.
    pub(super) fn new(link: Link, handler: &Handler, keys: Keys, host: &str) -> Self {
        let (base, handler) = (handler.group.clone(), handler.name.clone());
        Self { link, handler, base, keys, host: host.to_owned() }
    }

    /// Shows that this host's group is in use, then removes those whose hosts are gone.
    ///
    /// Comes before the group is created, so that there is none that nobody knows of.
    pub(super) async fn show(&self) -> RedisResult<()> {
        let mut asking = redis::pipe();
        asking.cmd("TIME").cmd("HGETALL").arg(&self.keys.broadcast);
        let answers = self.link.pipeline(asking.ignore_errors()).await?;
        let mut answers = answers.into_iter().collect::<RedisResult<Vec<Value>>>()?.into_iter();
        let now = server_millis(answers.next().unwrap_or_default()).map_err(odd)?;
        let members = seen(answers.next().unwrap_or_default()).map_err(odd)?;
        let mut showing = redis::cmd("HSET");
        self.link.query(showing.arg(&self.keys.broadcast).arg(&self.host).arg(now)).await?;
        let is_gone = |seen: u64| now.saturating_sub(seen) >= GONE_AFTER.as_millis() as u64;
        for (host, _) in members.iter().filter(|(host, at)| *host != self.host && is_gone(*at)) {
            self.disband(host).await?;
        }
        Ok(())
    }

    /// Shows it for as long as the task lives.
    pub(super) async fn keep_showing(self) {
        let mut every = tokio::time::interval(EVERY);
        every.tick().await;
        loop {
            every.tick().await;
            if let Err(error) = self.show().await {
                tracing::debug!(handler = %self.handler, %error, "cannot show that this host's group is in use");
            }
        }
    }

    async fn disband(&self, host: &str) -> RedisResult<()> {
        let group = group(&self.base, host);
        let keys = self.keys.of_host(&group);
        let mut disbanding = Lua::Disband.call(&[
            &keys.stream,
            &keys.broadcast,
            &keys.waiting,
            &keys.failures,
            &keys.live(host),
            &keys.deaths,
        ]);
        disbanding.arg(&group).arg(host).arg(GONE_AFTER.as_millis() as u64);
        let answer = self.link.query(&disbanding).await?;
        let pending = reply::integer("disband.lua", &answer).map_err(odd)?;
        if pending >= 0 {
            tracing::warn!(handler = %self.handler, stream = self.keys.stream, group, pending,
                "removed the group of a host that showed no life for a week");
        }
        Ok(())
    }
}

/// The group that a host reads as.
pub(super) fn group(base: &str, host: &str) -> String {
    format!("{base}:{host}")
}

/// The handler as one host has it.
pub(super) fn on_host(handler: &Handler, host: &str) -> Handler {
    Handler { group: group(&handler.group, host).into(), ..handler.clone() }
}

/// Hosts and when each was last seen, by the server's clock.
pub(super) fn seen(members: Value) -> Result<Vec<(String, u64)>, UnexpectedReply> {
    let rows = reply::pairs("HGETALL", members)?;
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    Ok(rows.iter().map(|row| (text(&row.name), number(&row.value))).collect())
}

fn odd(error: UnexpectedReply) -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "an odd reply", error.to_string()).into()
}

impl Broker {
    /// How a handler stands on all hosts together; none while no host has a group.
    pub(super) async fn inspect_broadcast(
        &self,
        handler: &Handler,
    ) -> Result<Option<GroupStatus>, BrokerError> {
        let keys = Keys::of(handler);
        let answer = self.link.query(redis::cmd("HGETALL").arg(&keys.broadcast)).await;
        let failed = |source| self.failed(format!("inspect stream `{}`", handler.stream), source);
        let mut members = seen(answer.map_err(failed)?)?;
        members.sort();
        let mut all: Option<GroupStatus> = None;
        for (host, _) in members {
            let one = on_host(handler, &host);
            let found = self.inspect_group(&one, &keys.of_host(&one.group)).await?;
            all = match (all, found) {
                (Some(all), Some(found)) => Some(all.and(found)),
                (all, found) => all.or(found),
            };
        }
        Ok(all)
    }
}

impl GroupStatus {
    /// Two groups of one stream taken together.
    fn and(mut self, other: Self) -> Self {
        self.lag = self.lag.zip(other.lag).map(|(one, other)| one + other);
        self.oldest_unread = self.oldest_unread.max(other.oldest_unread);
        self.pending += other.pending;
        self.retries_waiting += other.retries_waiting;
        self.suspected += other.suspected;
        self.next_retry = self.next_retry.into_iter().chain(other.next_retry).min();
        self.hosts.extend(other.hosts);
        self
    }
}
