//! What Redis can tell of a handler: its group, its hosts, what waits and what is dead.

use std::time::Duration;

use redis::{RedisResult, Value};
use serde::Serialize;

use super::channel::is_pattern;
use super::keys::{Keys, WAITING, delayed};
use super::presence::{Sign, sign};
use super::reply::{self, Row, number, server_millis};
use super::trouble::Trouble;
use super::{Broker, BrokerError};
use crate::manifest::{Handler, Supply};

/// A group of a stream, as it stands. What the server cannot tell is absent.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupStatus {
    /// Entries on the stream.
    pub length: u64,
    /// Entries not yet read by the group, as `XINFO GROUPS` counts them since 7.0. A server
    /// that does not, or lost count over deleted entries, only leaves to see when there are none.
    pub lag: Option<u64>,
    /// How long the oldest entry not yet read has been on the stream.
    #[serde(rename = "oldest-unread-ms")]
    pub oldest_unread: Option<u64>,
    /// Entries read and not yet settled, those that wait for a retry included.
    pub pending: u64,
    /// Entries that wait for another attempt.
    pub retries_waiting: u64,
    /// Entries that are to appear on the stream later.
    pub delayed: u64,
    /// In how many milliseconds the first of these is due.
    #[serde(rename = "next-retry-ms")]
    pub next_retry: Option<u64>,
    /// Entries that run apart from all others, or have, since a host died with them in flight.
    pub suspected: u64,
    /// Dead letters of the handler's dead-letter stream.
    pub dead: u64,
    /// The host that owns the stream, where order is kept and one does.
    pub owner: Option<String>,
    /// The consumers of the group.
    pub hosts: Vec<HostStatus>,
}

/// A consumer of a group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Entries that it holds.
    pub pending: u64,
    /// Milliseconds since it last asked for entries, as the server counts them.
    #[serde(rename = "idle-ms")]
    pub idle: Option<u64>,
    /// What it tells of itself, while it lives.
    pub sign: Option<Sign>,
}

impl Broker {
    /// How a handler stands; `None` while its group does not exist. Where every host has a group
    /// of its own, what is unread, pending and waiting is the sum over them.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or the key is not a stream.
    pub async fn inspect(&self, handler: &Handler) -> Result<Option<GroupStatus>, BrokerError> {
        match handler.supply {
            Supply::Group => self.inspect_group(handler, &Keys::of(handler)).await,
            Supply::Broadcast => self.inspect_broadcast(handler).await,
            Supply::Channel => Ok(None),
        }
    }

    pub(super) async fn inspect_group(
        &self,
        handler: &Handler,
        keys: &Keys,
    ) -> Result<Option<GroupStatus>, BrokerError> {
        let stream = &*handler.stream;
        let failed = |source| self.failed(format!("inspect stream `{stream}`"), source);
        let Some(row) = self.group(stream, &handler.group).await? else { return Ok(None) };
        // The hosts that share an ordered stream show themselves under its own name.
        let mut shown = keys.clone();
        let mut hosts = self.consumers(stream, &handler.group).await?;
        if handler.order.is_some() {
            shown = Keys::new(handler.named_stream(), &handler.group);
            hosts = self.sharers(&shown, hosts).await?;
        } else if handler.supply == Supply::Group {
            self.add_idlers(keys, &mut hosts).await?;
        }

        let mut asking = redis::pipe();
        asking.cmd("TIME").cmd("XLEN").arg(stream).cmd("ZCARD").arg(&keys.waiting);
        asking.cmd("ZRANGE").arg(&keys.waiting).arg(0).arg(0).arg("WITHSCORES");
        asking.cmd("ZCARD").arg(delayed(stream)).cmd("XLEN").arg(&*handler.dead_letter);
        let after = format!("({}", row.text("last-delivered-id").unwrap_or_default());
        asking.cmd("XRANGE").arg(stream).arg(after).arg("+").arg("COUNT").arg(1);
        asking.cmd("GET").arg(&keys.lease).cmd("HKEYS").arg(&keys.deaths);
        for host in &hosts {
            asking.cmd("GET").arg(shown.live(&host.name));
        }
        let answers = self.link.pipeline(asking.ignore_errors()).await.map_err(failed)?;
        let answers: Vec<Value> =
            answers.into_iter().collect::<RedisResult<_>>().map_err(failed)?;
        let mut answers = answers.into_iter();
        let mut answer = || answers.next().unwrap_or_default();

        let now = server_millis(answer())?;
        let mut status = GroupStatus {
            length: count(&answer()),
            pending: row.number("pending").unwrap_or(0).max(0) as u64,
            retries_waiting: count(&answer()),
            next_retry: reply::fields("ZRANGE", answer())?
                .first()
                .map(|first| number(&first.value).saturating_sub(now)),
            delayed: count(&answer()),
            dead: count(&answer()),
            ..GroupStatus::default()
        };
        let unread = reply::entries("XRANGE", answer())?;
        let counted = row.number("lag").map(|lag| lag.max(0) as u64);
        status.lag = counted.or_else(|| unread.is_empty().then_some(0));
        status.oldest_unread = unread.first().map(|entry| now.saturating_sub(entry.id.millis));
        status.owner = reply::text("GET", answer()).ok().map(|tenure| bearer(&tenure).to_owned());
        status.suspected = reply::array("HKEYS", answer())?.len() as u64;
        // One that was never read as is known only for as long as it lives.
        let hosts = hosts.into_iter().map(|host| HostStatus { sign: sign(&answer()), ..host });
        status.hosts = hosts.filter(|host| host.idle.is_some() || host.sign.is_some()).collect();
        Ok(Some(status))
    }

    /// The handler on each of its streams, as each of its groups: of a broadcast every host has
    /// one. A channel has none.
    ///
    /// # Errors
    ///
    /// As [`Self::inspect`].
    pub async fn on_each_group(&self, handler: &Handler) -> Result<Vec<Handler>, BrokerError> {
        match handler.supply {
            Supply::Channel => Ok(Vec::new()),
            Supply::Group => Ok(handler.on_each_stream()),
            Supply::Broadcast => {
                let rows = self.groups(&handler.stream).await?;
                let start = format!("{}:", handler.group);
                let names = rows.iter().filter_map(|row| row.text("name"));
                let own = names.filter(|name| name.starts_with(&start));
                let of_host = |group: String| Handler { group: group.into(), ..handler.clone() };
                Ok(own.map(of_host).collect())
            }
        }
    }

    /// The server's time, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn now(&self) -> Result<u64, BrokerError> {
        let answer = self.link.query(&redis::cmd("TIME")).await;
        let failed = |source| self.failed("read the server's clock".to_owned(), source);
        Ok(server_millis(answer.map_err(failed)?)?)
    }

    /// How many connections of any kind are subscribed to a channel; Redis does not tell it of a pattern.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn subscribers(&self, channel: &str) -> Result<Option<u64>, BrokerError> {
        if is_pattern(channel) {
            return Ok(None);
        }
        let mut asking = redis::cmd("PUBSUB");
        let answer = self.link.query(asking.arg("NUMSUB").arg(channel)).await;
        match answer {
            Ok(answer) => {
                let counts = reply::pairs("PUBSUB NUMSUB", answer)?;
                Ok(counts.first().map(|row| number(&row.value)))
            }
            // Who may only listen may not ask who else does.
            Err(error) if Trouble::of(&error).is_refusal() => Ok(None),
            Err(source) => Err(self.failed(format!("inspect channel `{channel}`"), source)),
        }
    }

    /// Adds the hosts that have not read anything yet.
    async fn add_idlers(
        &self,
        keys: &Keys,
        hosts: &mut Vec<HostStatus>,
    ) -> Result<(), BrokerError> {
        let answer = self.link.query(redis::cmd("SMEMBERS").arg(&keys.hosts)).await;
        let failed = |source| self.failed("list the hosts of a group".to_owned(), source);
        for name in reply::array("SMEMBERS", answer.map_err(failed)?)? {
            let name = reply::text("SMEMBERS", name)?;
            if hosts.iter().all(|host| host.name != name) {
                hosts.push(HostStatus { name, pending: 0, idle: None, sign: None });
            }
        }
        Ok(())
    }

    /// The hosts that share an ordered stream: those that hold entries of it, and those that stand by.
    async fn sharers(
        &self,
        keys: &Keys,
        consumers: Vec<HostStatus>,
    ) -> Result<Vec<HostStatus>, BrokerError> {
        let failed = |source| self.failed("list the hosts of an ordered stream".into(), source);
        let mut asking = redis::pipe();
        asking.cmd("TIME");
        asking.cmd("ZRANGE").arg(&keys.members).arg(0).arg(-1).arg("WITHSCORES");
        let answers = self.link.pipeline(asking.ignore_errors()).await.map_err(failed)?;
        let mut answers = answers.into_iter();
        let mut answer = || answers.next().unwrap_or(Ok(Value::Nil)).map_err(failed);
        let now = server_millis(answer()?)?;
        let members = reply::fields("ZRANGE", answer()?)?;
        let mut hosts: Vec<HostStatus> = Vec::new();
        for host in consumers {
            let name = bearer(&host.name).to_owned();
            // A host may have had the stream before, and left entries from then.
            match hosts.iter_mut().find(|known| known.name == name) {
                Some(known) => {
                    known.pending += host.pending;
                    known.idle = known.idle.min(host.idle);
                }
                None => hosts.push(HostStatus { name, ..host }),
            }
        }
        for member in members {
            let name = String::from_utf8_lossy(&member.name).into_owned();
            if hosts.iter().all(|host| host.name != name) {
                let idle = Some(now.saturating_sub(number(&member.value)));
                hosts.push(HostStatus { name, pending: 0, idle, sign: None });
            }
        }
        Ok(hosts)
    }

    /// How many entries a stream has (`XLEN`); none when it does not exist.
    ///
    /// # Errors
    ///
    /// As [`Self::inspect`].
    pub async fn length(&self, stream: &str) -> Result<u64, BrokerError> {
        let answer = self.link.query(redis::cmd("XLEN").arg(stream)).await;
        let failed = |source| self.failed(format!("inspect stream `{stream}`"), source);
        Ok(count(&answer.map_err(failed)?))
    }

    /// The group's row of `XINFO GROUPS`; none while the stream or the group is missing.
    async fn group(&self, stream: &str, group: &str) -> Result<Option<Row>, BrokerError> {
        let rows = self.groups(stream).await?;
        Ok(rows.into_iter().find(|row| row.text("name").as_deref() == Some(group)))
    }

    async fn groups(&self, stream: &str) -> Result<Vec<Row>, BrokerError> {
        let mut asking = redis::cmd("XINFO");
        let answer = match self.link.query(asking.arg("GROUPS").arg(stream)).await {
            Err(error) if error.to_string().contains("no such key") => return Ok(Vec::new()),
            answer => answer
                .map_err(|source| self.failed(format!("inspect stream `{stream}`"), source))?,
        };
        Ok(reply::rows("XINFO GROUPS", answer)?)
    }

    async fn consumers(&self, stream: &str, group: &str) -> Result<Vec<HostStatus>, BrokerError> {
        let mut asking = redis::cmd("XINFO");
        asking.arg("CONSUMERS").arg(stream).arg(group);
        let answer = self.link.query(&asking).await;
        let answer =
            answer.map_err(|source| self.failed(format!("inspect group `{group}`"), source))?;
        let rows = reply::rows("XINFO CONSUMERS", answer)?;
        let hosts = rows.iter().filter_map(host).filter(|host| host.name != WAITING);
        Ok(hosts.collect())
    }
}

/// The host behind the name of a tenure.
pub(super) fn bearer(tenure: &str) -> &str {
    tenure.rsplit_once('#').map_or(tenure, |(host, _)| host)
}

fn host(row: &Row) -> Option<HostStatus> {
    Some(HostStatus {
        name: row.text("name")?,
        pending: row.number("pending")?.max(0) as u64,
        idle: Some(row.number("idle")?.max(0) as u64),
        sign: None,
    })
}

fn count(answer: &Value) -> u64 {
    match answer {
        Value::Int(count) => (*count).max(0) as u64,
        _ => 0,
    }
}

impl GroupStatus {
    /// How long the oldest unread entry has waited.
    pub fn oldest_unread(&self) -> Option<Duration> {
        self.oldest_unread.map(Duration::from_millis)
    }
}
