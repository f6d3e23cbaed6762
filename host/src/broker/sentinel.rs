//! Asking the sentinels which server is the primary. All are asked at once, and what most of them say counts.
//!
//! See "Guidelines for Redis clients with support for Sentinel" on redis.io. What they say may
//! be a moment old: whoever connects asks the server itself too, which is `connect`'s.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::trouble::Trouble;
use crate::manifest::Node;

/// How long a sentinel may take, to connect and to answer: the others are asked at the same time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Once most agree, how long the others have to tell of a later failover.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Who to ask.
pub(super) struct Sentinels {
    master: String,
    each: Vec<Sentinel>,
}

/// One of them, and the connection on which it was asked last.
struct Sentinel {
    shown: String,
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// What a sentinel says of who is the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vote {
    primary: Node,
    /// It grows with each failover; 0 where the sentinel may not tell.
    epoch: u64,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// Most of the sentinels say so.
    ByMost(Node),
    /// Some do, and most do not answer or say something else.
    BySome(Node),
}

impl Sentinels {
    pub(super) fn new(master: &str, clients: impl IntoIterator<Item = (Node, Client)>) -> Self {
        let one = |(node, client): (Node, Client)| Sentinel {
            shown: node.to_string(),
            client,
            connection: Mutex::default(),
        };
        Self { master: master.to_owned(), each: clients.into_iter().map(one).collect() }
    }

    /// Which server is the primary, by what the sentinels say within a second or so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MasterNameNotFoundBySentinel`] when most of them know no such name; else what
    /// was in the way of each. Only one of them need answer.
    pub(super) async fn primary(&self) -> RedisResult<Named> {
        let mut asking: FuturesUnordered<_> =
            self.each.iter().map(async |one| (one, one.ask(&self.master).await)).collect();
        let (mut votes, mut strangers, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        // Each gives up by itself.
        let mut until = Instant::now() + 3 * PATIENCE;
        while let Ok(Some((one, answer))) = timeout_at(until, asking.next()).await {
            match answer {
                Ok(Some(vote)) => votes.push(vote),
                Ok(None) => strangers.push(one),
                Err(error) => failures.push((one, error)),
            }
            if let Some(Named::ByMost(_)) = elect(&votes, self.each.len()) {
                until = until.min(Instant::now() + LAST_WORDS);
            }
        }
        elect(&votes, self.each.len()).ok_or_else(|| self.nobody(&strangers, failures))
    }

    /// Why there is no answer.
    fn nobody(
        &self,
        strangers: &[&Sentinel],
        failures: Vec<(&Sentinel, RedisError)>,
    ) -> RedisError {
        let names: Vec<_> = strangers.iter().map(|one| &*one.shown).collect();
        let unknown = format!(
            "no master named `{}` is known to the sentinels at {}; see `sentinel monitor` in their \
             configuration",
            self.master,
            names.join(", ")
        );
        if strangers.len() * 2 > self.each.len() {
            let what = "check `redis.sentinel.master`";
            return (ErrorKind::MasterNameNotFoundBySentinel, what, unknown).into();
        }
        if let Some((one, error)) = failures.iter().find(|(_, e)| Trouble::of(e).is_refusal()) {
            let code = error.code().unwrap_or("NOAUTH").to_owned();
            let told = format!(
                "the sentinel at {} refuses `redis.sentinel.username` and `.password`: {error}",
                one.shown
            );
            return redis::make_extension_error(code, Some(told));
        }
        let mut reasons: Vec<_> =
            failures.iter().map(|(one, error)| format!("{}: {error}", one.shown)).collect();
        reasons.extend((!strangers.is_empty()).then_some(unknown));
        let told = format!("no sentinel says which server is the primary: {}", reasons.join("; "));
        std::io::Error::new(std::io::ErrorKind::NotConnected, told).into()
    }
}

/// What the votes of so many sentinels come to. Where they differ, the latest failover decides.
fn elect(votes: &[Vote], sentinels: usize) -> Option<Named> {
    let alike = |vote: &Vote| votes.iter().filter(|other| other.primary == vote.primary).count();
    let best = votes.iter().max_by_key(|vote| (vote.epoch, alike(vote)))?;
    let primary = best.primary.clone();
    Some(if alike(best) * 2 > sentinels { Named::ByMost(primary) } else { Named::BySome(primary) })
}

impl Sentinel {
    /// Whom it names, if it knows the name.
    async fn ask(&self, master: &str) -> RedisResult<Option<Vote>> {
        let kept = self.kept().clone();
        if let Some(connection) = kept {
            match self.ask_on(connection, master).await {
                Ok(vote) => return Ok(vote),
                Err(_) => *self.kept() = None,
            }
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let opening = self.client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(PATIENCE, opening).await.map_err(|_| silent())??;
        let vote = self.ask_on(connection.clone(), master).await?;
        *self.kept() = Some(connection);
        Ok(vote)
    }

    fn kept(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_on(
        &self,
        mut connection: MultiplexedConnection,
        master: &str,
    ) -> RedisResult<Option<Vote>> {
        let mut asking = redis::pipe();
        asking.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        asking.cmd("SENTINEL").arg("MASTER").arg(master).ignore_errors();
        let asked = timeout(PATIENCE, asking.query_async(&mut connection));
        let answers: Vec<RedisResult<Value>> = asked.await.map_err(|_| silent())??;
        let mut answers = answers.into_iter();
        match answers.next().unwrap_or(Ok(Value::Nil))? {
            Value::Nil => Ok(None),
            told => {
                let (host, port): (String, u16) = redis::from_redis_value(told)?;
                let epoch = answers.next().and_then(Result::ok).and_then(epoch).unwrap_or_default();
                Ok(Some(Vote { primary: Node { host, port }, epoch }))
            }
        }
    }
}

fn silent() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the sentinel does not answer").into()
}

/// How often the sentinel has seen a failover, in its answer to `SENTINEL MASTER`.
fn epoch(told: Value) -> Option<u64> {
    let told: HashMap<String, String> = redis::from_redis_value(told).ok()?;
    told.get("config-epoch")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str) -> Node {
        Node { host: host.into(), port: 1 }
    }

    fn votes(told: &[(&str, u64)]) -> Vec<Vote> {
        told.iter().map(|(host, epoch)| Vote { primary: node(host), epoch: *epoch }).collect()
    }

    #[test]
    fn what_most_sentinels_say_counts_and_where_they_differ_the_latest_failover() {
        let most = |host| Some(Named::ByMost(node(host)));
        let some = |host| Some(Named::BySome(node(host)));
        assert_eq!(elect(&[], 3), None);
        assert_eq!(elect(&votes(&[("a", 0)]), 1), most("a"));
        assert_eq!(elect(&votes(&[("a", 4)]), 3), some("a"));
        assert_eq!(elect(&votes(&[("a", 4), ("a", 4)]), 3), most("a"));
        assert_eq!(elect(&votes(&[("a", 4), ("b", 5)]), 3), some("b"));
        assert_eq!(elect(&votes(&[("a", 4), ("b", 5), ("b", 5)]), 3), most("b"));
        // As a failover begins, one knows of it before the others.
        assert_eq!(elect(&votes(&[("b", 5), ("a", 4), ("a", 4)]), 3), some("b"));
        // Where they may not tell when, their number counts.
        assert_eq!(elect(&votes(&[("b", 0), ("a", 0), ("a", 0)]), 3), most("a"));
    }
}
