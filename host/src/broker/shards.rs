//! Owning a share of an ordered stream: which shards are this host's, from when, and until when.
//!
//! The hosts of a handler show themselves as members of a sorted set, and each works out
//! from it what is whose (`share`). A shard is taken by a lease, and given up when it is
//! someone else's turn, after what is in hand is finished. What is done with a shard for
//! as long as it is owned is the caller's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisResult, Value};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Connector;
use super::delay::Delays;
use super::durability::Witness;
use super::janitor::Janitor;
use super::keys::Keys;
use super::lanes::Lanes;
use super::link::Link;
use super::ordered::{Former, Ordered, Ownership};
use super::post::Post;
use super::presence::{Name, Presence, Teller};
use super::scripts::Lua;
use super::serving::Serving;
use super::settle;
use super::share::owners;
use super::source::Source;
use super::tenure::{Applicant, LASTS, PATIENCE, Tenure, apply, bear, release};
use super::trouble::Trouble;
use super::valve::Valve;
use super::wake::Wake;
use super::ward::Ward;
use super::{Broker, BrokerError, Closing, Subscription, lease, reply};
use crate::figures::Figures;
use crate::health::Symptom;
use crate::manifest::Handler;
use crate::shutdown::Stop;

/// How often leases are renewed, and is looked for who else is alive, at least.
const BEAT: Duration = Duration::from_secs(1);

/// How soon it is looked again at most, whatever is about to end.
const SOONEST: Duration = Duration::from_millis(20);

/// A host that does not show itself for this long counts as dead: as long as its leases last.
const LIFETIME: Duration = LASTS;

/// Whether this host goes on, or only finishes what it has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Staying,
    Leaving,
}

/// A stream that is this host's for a while.
pub struct Owned {
    /// The handler on that stream.
    pub handler: Handler,
    /// Its two ends.
    pub subscription: Subscription,
    /// When to stop reading, and give the stream up once everything is settled.
    pub stop: Stop,
}

/// The shards of a handler's ordered stream, as far as they are this host's.
pub struct Shards {
    link: Link,
    connector: Arc<Connector>,
    serving: Serving,
    figures: Arc<Figures>,
    delays: Arc<Delays>,
    stop: Stop,
    presence: Arc<Presence>,
    /// The name that this host is a member by; no other live host has it.
    name: String,
    /// The keys of the stream as the manifest names it: where the members are.
    keys: Keys,
    shards: Vec<Shard>,
    ward: Arc<Ward>,
    /// Those that this process has owned before.
    known: HashSet<usize>,
    owned: HashMap<usize, Share>,
    /// Who was alive when this was last looked for.
    members: Vec<String>,
    /// Whether each should be this host's.
    due: Vec<bool>,
    /// When to look again: on the next beat, or as soon as another host's lease ends, or its time to show itself.
    next: Instant,
    /// Messages seen on the stream itself, where it is made of shards and nobody reads it.
    astray: i64,
    /// Whether a person was told that leases cannot be renewed: once for each time.
    complained: bool,
    membership: Symptom,
}

/// One of the streams.
struct Shard {
    handler: Handler,
    keys: Keys,
}

/// One that is owned.
struct Share {
    tenure: Arc<Tenure>,
    stop: Stop,
    task: Id,
}

impl Broker {
    /// Makes this host a member of those that share a handler's ordered stream, creating what is missing.
    ///
    /// # Errors
    ///
    /// As [`Broker::subscribe`], and when the stream is made of another number of shards.
    pub async fn share(
        &self,
        handler: &Handler,
        serving: Serving,
        figures: Arc<Figures>,
        stop: Stop,
    ) -> Result<Shards, BrokerError> {
        self.wait_out(&stop, async || self.agree(handler).await).await?;
        let place = format!("put handler `{}` on stream `{}`", handler.name, handler.stream);
        let keys = Keys::of(handler);
        let claiming = async || {
            let sign = Teller { serving: serving.clone(), figures: figures.clone() };
            let name = (handler.group.clone(), &*self.name);
            Presence::claim(self.link.clone(), &keys, name, sign).await
        };
        let presence = self.patiently(&place, &stop, claiming).await?;
        let on_each = handler.on_each_stream().into_iter();
        let shards = on_each.map(|handler| Shard { keys: Keys::of(&handler), handler }).collect();
        let shards = Shards {
            link: self.link.clone(),
            connector: self.connector.clone(),
            serving,
            membership: figures.health.subscription(),
            figures,
            stop,
            name: presence.name().now().to_string(),
            presence: Arc::new(presence),
            delays: self.delays.clone(),
            keys,
            shards,
            ward: Arc::new(Ward::new(self.cell.clone(), handler.timeout)),
            known: HashSet::new(),
            owned: HashMap::new(),
            members: Vec::new(),
            due: Vec::new(),
            next: Instant::now(),
            astray: 0,
            complained: false,
        };
        for shard in &shards.shards {
            let post = Arc::new(shards.post(shard, "", Arc::default()));
            let unfit = |source| BrokerError::Durability { handler: handler.name.clone(), source };
            Witness::called_for(&post, &self.connector).await.map_err(unfit)?;
            let creating = async || post.create_group(handler.start).await;
            self.patiently(&place, &shards.stop, creating).await?;
        }
        Ok(shards)
    }
}

impl Shards {
    /// The name that this host is known by among those that share the stream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Owns this host's share until a stop is requested, and everything that was owned is given up.
    ///
    /// `carry` is what is done with each stream while it is owned. It is dropped when
    /// this host cannot be sure any more that it owns the stream.
    pub async fn hold<C>(mut self, carry: impl Fn(Owned) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        let mut chores = JoinSet::new();
        chores.spawn(self.presence.clone().show_among_owners());
        let mut carried = JoinSet::new();
        let mut course = Course::Staying;
        while course == Course::Staying || !carried.is_empty() {
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if course == Course::Staying => {
                    course = Course::Leaving;
                    self.leave().await;
                }
                Some(ended) = carried.join_next_with_id() => self.put_down(ended),
                () = sleep_until(self.next) => {
                    for (index, name, asked) in self.beat(course).await {
                        let tenure = Arc::new(Tenure::new(name, asked));
                        let owned = self.open(index, &tenure);
                        let stop = owned.stop.clone();
                        let Shard { handler, keys } = &self.shards[index];
                        let shard = (handler.clone(), keys.clone());
                        let release = release(self.link.clone(), shard, tenure.clone());
                        let task = carried.spawn(bear(carry(owned), tenure.clone(), release)).id();
                        self.known.insert(index);
                        self.owned.insert(index, Share { tenure, stop, task });
                    }
                }
            }
        }
        chores.shutdown().await;
        let _ = timeout(PATIENCE, self.presence.leave()).await;
    }

    /// Renews what is owned, has what should be others' given up, and takes what should be
    /// this host's: for each that it got, the name and the time of its tenure.
    async fn beat(&mut self, course: Course) -> Vec<(usize, String, Instant)> {
        self.next = Instant::now() + BEAT;
        self.move_out().await;
        let taken = match self.renew(course).await {
            Ok(()) if course == Course::Staying => self.take().await,
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match taken {
            Ok(taken) => {
                self.complained = false;
                self.membership.is_well();
                taken
            }
            Err(error) => {
                self.figures.trouble(Trouble::of(&error).as_str());
                self.membership.ails(format_args!("cannot share the stream: {error}"));
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(handler = %self.handler(), %error,
                        "cannot keep up which host owns what of the stream; trying again");
                }
                Vec::new()
            }
        }
    }

    /// Leaves a name that another host has as well; what is owned is owned under the tenure's own.
    async fn move_out(&mut self) {
        if self.presence.is_contested()
            && let Ok(Ok(old)) = timeout(PATIENCE, self.presence.rename()).await
        {
            self.name = self.presence.name().now().to_string();
            tracing::warn!(handler = %self.handler(), from = %old, consumer = self.name,
                "sharing the stream under another name from now on");
        }
    }

    async fn renew(&mut self, course: Course) -> RedisResult<()> {
        let asked = Instant::now();
        let mut asking = Pipeline::new();
        let mut showing = Lua::Members.call(&[&self.keys.members]);
        showing.arg(&self.name).arg(LIFETIME.as_millis() as u64);
        if course == Course::Staying {
            asking.add_command(showing).cmd("XLEN").arg(&self.keys.stream);
        }
        let owned: Vec<_> =
            self.owned.iter().map(|(index, share)| (*index, &share.tenure)).collect();
        for (index, tenure) in &owned {
            asking.add_command(self.lease(*index, &tenure.name));
        }
        if asking.is_empty() {
            return Ok(());
        }
        let mut answers = self.ask(asking.ignore_errors()).await?.into_iter();
        let (members, length) = match course {
            Course::Staying => (answers.next(), answers.next()),
            Course::Leaving => (None, None),
        };
        let mut refused = None;
        for ((_, tenure), answer) in owned.into_iter().zip(answers) {
            match answer {
                Ok(Value::Int(0)) => tenure.end(),
                Ok(_) => tenure.confirm(asked),
                Err(error) => refused = Some(error),
            }
        }
        if let Some(members) = members {
            self.survey(members?);
        }
        if let Some(Ok(Value::Int(length))) = length {
            self.look_for_strays(length);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Has it be looked again when something of another host is about to end, if that is before the next beat.
    fn look_after(&mut self, left: i64) {
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
        if left < BEAT {
            self.next = self.next.min(Instant::now() + left.max(SOONEST));
        }
    }

    /// Takes in who is alive: what should be another's is given up.
    fn survey(&mut self, members: Value) {
        let mut listed = reply::array("members.lua", members).unwrap_or_default().into_iter();
        if let Some(Value::Int(left)) = listed.next() {
            self.look_after(left);
        }
        let mut members: Vec<_> =
            listed.filter_map(|name| reply::text("members.lua", name).ok()).collect();
        members.sort();
        if members != self.members && !members.is_empty() {
            let owners = owners(&self.keys.stream, self.shards.len(), &members);
            let me = members.iter().position(|member| *member == self.name);
            self.due = owners.into_iter().map(|owner| Some(owner) == me).collect();
            self.members = members;
        }
        for (index, share) in &self.owned {
            if !self.is_due(*index) {
                share.stop.cancel();
            }
        }
    }

    /// Tells of messages on a stream that is made of shards and of which nobody reads the name itself.
    fn look_for_strays(&mut self, length: i64) {
        let sharded = self.shards.iter().any(|shard| shard.handler.shard.is_some());
        if sharded && length > self.astray {
            tracing::warn!(handler = %self.handler(), stream = self.keys.stream, messages = length,
                "messages are on the stream itself, which nobody reads as it is made of shards; \
                 add them again with `tidegate publish`, which picks the shard");
        }
        self.astray = length;
    }

    /// Whether a shard should be this host's.
    fn is_due(&self, index: usize) -> bool {
        self.due.get(index) == Some(&true)
    }

    async fn take(&mut self) -> RedisResult<Vec<(usize, String, Instant)>> {
        let missing = |index: &usize| self.is_due(*index) && !self.owned.contains_key(index);
        let missing: Vec<usize> = (0..self.shards.len()).filter(missing).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let asked = Instant::now();
        let mut asking = Pipeline::new();
        for index in &missing {
            asking.add_command(self.lease(*index, ""));
        }
        let answers = self.ask(asking.ignore_errors()).await?;
        let (mut taken, mut refused) = (Vec::new(), None);
        for (index, answer) in missing.into_iter().zip(answers) {
            match answer {
                Ok(Value::BulkString(name)) => {
                    taken.push((index, String::from_utf8_lossy(&name).into_owned(), asked));
                }
                Ok(Value::Int(left)) => self.look_after(left),
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if taken.is_empty() => Err(error),
            Some(_) | None => Ok(taken),
        }
    }

    fn lease(&self, index: usize, kept: &str) -> redis::Cmd {
        // One who has had the lease and lost it is no heir of its own.
        let predecessor = if self.known.contains(&index) { "" } else { &self.name };
        let token = self.presence.token();
        apply(&self.shards[index].keys, &Applicant { name: &self.name, token, kept, predecessor })
    }

    /// Puts someone to every job that an owned stream needs.
    fn open(&self, index: usize, tenure: &Arc<Tenure>) -> Owned {
        let shard = &self.shards[index];
        let lanes = Arc::new(Lanes::default());
        let post = Arc::new(self.post(shard, &tenure.name, lanes.clone()));
        let stop = self.stop.child_token();
        let witness = Witness::of(&post, &self.connector);
        let (settler, writing) = settle::open(post.clone(), witness);
        let mut chores = JoinSet::new();
        chores.spawn(post.clone().watch_for_pauses());
        chores.spawn(lease::keep(post.clone()));
        chores.spawn(Janitor::new(post.clone()).work());
        let closing = Closing::new(tokio::spawn(writing), chores, None);
        let (connector, valve) = (self.connector.clone(), post.valve.clone());
        let ends = (settler.clone(), stop.clone());
        self.ward.mind(&post.held);
        let former = Former::new(post.clone(), self.keys.clone(), self.presence.token());
        let ward = self.ward.clone();
        let ownership = Ownership { tenure: tenure.clone(), former, ward, lanes };
        let ordered = Ordered::new(post, connector, ownership, ends);
        tracing::info!(handler = %shard.handler.name, stream = %shard.handler.stream, tenure = tenure.name,
            "owns the stream");
        let subscription = Subscription {
            source: Source::Owned(Box::new(ordered)),
            settler,
            valve,
            consumer: tenure.name.clone(),
            closing,
            tenure: Some(tenure.clone()),
        };
        Owned { handler: shard.handler.clone(), subscription, stop }
    }

    fn post(&self, shard: &Shard, consumer: &str, lanes: Arc<Lanes>) -> Post {
        Post {
            link: self.link.clone(),
            handler: shard.handler.clone(),
            keys: shard.keys.clone(),
            consumer: Name::fixed(consumer),
            serving: self.serving.clone(),
            held: Arc::default(),
            figures: self.figures.clone(),
            wake: Wake::default(),
            valve: Arc::new(Valve::of(&self.figures.health)),
            delays: self.delays.clone(),
            lanes: Some(lanes),
        }
    }

    /// Takes in that a shard is owned no more.
    fn put_down(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(handler = %self.handler(), %error, "a shard's task ended by itself");
                error.id()
            }
        };
        self.owned.retain(|_, share| share.task != task);
    }

    /// Leaves the members, so that others take over at once what this host gives up.
    async fn leave(&self) {
        let mut leaving = redis::cmd("ZREM");
        leaving.arg(&self.keys.members).arg(&self.name);
        let _ = timeout(PATIENCE, self.link.query(&leaving)).await;
    }

    async fn ask(&self, asking: &Pipeline) -> RedisResult<Vec<RedisResult<Value>>> {
        let answers = timeout(PATIENCE, self.link.pipeline(asking)).await;
        answers.unwrap_or_else(|late| Err(std::io::Error::from(late).into()))
    }

    fn handler(&self) -> &str {
        &self.shards[0].handler.name
    }
}
