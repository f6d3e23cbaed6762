//! Settling: what the stream should remember is written in batches, and again until it is.
//!
//! Each settlement is one step in Redis: outputs with their acknowledgement, a
//! dead letter with its own, a failure with its wait. A script checks that the
//! entry is still pending and still ours, so that sending it twice does it once.
//! What is counted once it is written is the ledger's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::call::{Call, Cost, Item, Kind, Progress};
use super::capability::Ability;
use super::connect::Backoff;
use super::durability::{Durable, Witness};
use super::ledger::{Ledger, WAITING_BYTES, Written, bytes};
use super::post::Post;
use super::reign::Reign;
use super::trouble::Trouble;
use crate::health::{Part, Symptom};
use crate::manifest::Digest;
use crate::message::Delivery;
use crate::outcome::{Draw, Outcome, Reason, Settlement};

/// Settlements sent to Redis together at most.
pub(super) const BATCH: usize = 1000;

/// Settlements that wait for a flush at most; handlers wait beyond it.
pub(super) const QUEUE: usize = 4096;

/// A message whose dead letter is refused waits at least this long, whatever its backoff.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// Settlements that wait in memory for a permission to write to some other stream, at most …
const FORBIDDEN: usize = 1024;

/// … and their bytes. Others wait in Redis, and are handled again then.
const FORBIDDEN_BYTES: usize = WAITING_BYTES as usize / 4;

/// How long these wait.
const FORBIDDEN_WAIT: Duration = Duration::from_secs(30);

/// Where deliveries are settled; clones share one queue.
#[derive(Clone)]
pub struct Settler {
    queue: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    /// How many settlements Redis refuses for now.
    behind: watch::Receiver<usize>,
}

impl Settler {
    /// One whose deliveries go to whoever empties this queue, and gives the room back.
    pub(super) fn to(queue: mpsc::Sender<Item>, room: Arc<Semaphore>) -> Self {
        let (_, behind) = watch::channel(0);
        Self { queue, room, behind }
    }

    /// Waits until Redis refuses fewer settlements than this, for whatever passes by itself.
    pub async fn is_behind_by_less_than(&self, most: usize) {
        // Without anyone who settles there is nothing to wait for.
        let _ = self.behind.clone().wait_for(|behind| *behind < most).await;
    }

    /// Takes over the duty to settle a delivery that no plugin saw.
    ///
    /// Waits while too many others wait to be written, or too many bytes. Should the
    /// host end first, the entry stays pending and is delivered again.
    pub async fn settle(&self, delivery: Delivery, settlement: Settlement) {
        self.hand_in(item(delivery, settlement)).await;
    }

    /// As [`Self::settle`], for a delivery that the plugin with this digest has handled.
    pub async fn settle_run(&self, delivery: Delivery, settlement: Settlement, plugin: Digest) {
        let mut item = item(delivery, settlement);
        // A copy: threads that share a count of who has it would wait for each other at every message.
        item.plugin = Some(plugin);
        self.hand_in(item).await;
    }

    async fn hand_in(&self, mut item: Item) {
        // One that is larger than all the room there is has it to itself.
        item.bytes = item.bytes.min(WAITING_BYTES);
        // Room and queue close only with the host.
        let Ok(room) = self.room.acquire_many(item.bytes).await else { return };
        let Ok(place) = self.queue.reserve().await else { return };
        // The ledger gives it back.
        room.forget();
        place.send(item);
    }

    /// As [`Self::settle`], but leaves the entry pending where that would have to wait.
    pub(super) fn settle_at_once(&self, delivery: Delivery, settlement: Settlement) {
        let mut item = item(delivery, settlement);
        item.bytes = item.bytes.min(WAITING_BYTES);
        let Ok(room) = self.room.try_acquire_many(item.bytes) else { return };
        let Ok(place) = self.queue.try_reserve() else { return };
        room.forget();
        place.send(item);
    }
}

/// Writes the settlements of one handler.
struct Clerk {
    post: Arc<Post>,
    ledger: Ledger,
    durable: Option<Durable>,
    forbidden: Forbidden,
    behind: watch::Sender<usize>,
    /// Whether a person was told that settlements have to wait: once for each time that they do.
    complained: bool,
    settling: Symptom,
}

/// What waits for a permission, apart from the others, which it does not hold up.
#[derive(Default)]
struct Forbidden {
    items: Vec<Item>,
    /// The streams that a person was told of.
    told: BTreeSet<String>,
    symptom: Option<Symptom>,
}

/// The settling side of a handler: the queue's entrance, and the task that empties it.
///
/// The task ends when every [`Settler`] is gone and everything is written, and
/// witnessed where somebody has to.
pub(super) fn open(
    post: Arc<Post>,
    witness: Option<Witness>,
) -> (Settler, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let ledger = Ledger::new(post.clone());
    let (telling, behind) = watch::channel(0);
    let settler = Settler { queue: sender, room: ledger.room.clone(), behind };
    let (durable, witnessing) = match witness {
        Some(witness) => {
            let (durable, work) = witness.open(ledger.clone());
            (Some(durable), Some(work))
        }
        None => (None, None),
    };
    let forbidden = Forbidden::default();
    let settling = post.figures.health.part(Part::Duty);
    let clerk =
        Clerk { post, ledger, durable, forbidden, behind: telling, complained: false, settling };
    let work = async move {
        let witnessing = async {
            if let Some(work) = witnessing {
                work.await;
            }
        };
        tokio::join!(clerk.work(receiver), witnessing);
    };
    (settler, work)
}

impl Clerk {
    async fn work(mut self, mut queue: mpsc::Receiver<Item>) {
        let mut fresh = Vec::with_capacity(BATCH);
        let mut stuck = Vec::new();
        let (mut backoff, mut patience) = (Backoff::default(), Backoff::default());
        let (mut again_at, mut ask_at) = (Instant::now(), Instant::now());
        let mut open = true;
        while open || !stuck.is_empty() {
            tokio::select! {
                count = queue.recv_many(&mut fresh, BATCH), if open && stuck.len() < QUEUE => {
                    open = count > 0;
                    stuck.extend(self.flush(std::mem::take(&mut fresh)).await);
                }
                () = tokio::time::sleep_until(again_at), if !stuck.is_empty() => {
                    stuck = self.flush(stuck).await;
                    again_at = Instant::now() + backoff.next();
                }
                () = tokio::time::sleep_until(ask_at), if !self.forbidden.items.is_empty() => {
                    let waiting = std::mem::take(&mut self.forbidden.items);
                    stuck.extend(self.flush(waiting).await);
                    ask_at = Instant::now() + patience.next();
                }
            }
            // One that is refused by itself, such as a letter, says nothing about the others.
            let behind = stuck.iter().filter(|item| item.progress == Progress::Due).count();
            self.behind.send_if_modified(|told| std::mem::replace(told, behind) != behind);
            if self.forbidden.items.is_empty() && !self.forbidden.told.is_empty() {
                let streams = std::mem::take(&mut self.forbidden.told);
                self.forbidden.symptom = None;
                tracing::info!(handler = %self.post.handler.name, ?streams, "writing to these again");
                patience.reset();
            }
            if stuck.is_empty() {
                if std::mem::take(&mut self.complained) {
                    self.settling.is_well();
                    tracing::info!(handler = %self.post.handler.name, "settling again");
                }
                backoff.reset();
                again_at = Instant::now();
            }
        }
        // What still waits for a permission stays pending, for the next host.
        self.ledger.forsake(self.forbidden.items);
    }

    /// Sends settlements together and gives back those that must be sent again.
    ///
    /// What is refused in company is sent once more, apart, to find whose fault it is.
    async fn flush(&mut self, items: Vec<Item>) -> Vec<Item> {
        let mut again = Vec::new();
        let mut calls = self.post.calls(items);
        while !calls.is_empty() {
            let replies = self.send(&calls).await;
            let mut apart = Vec::new();
            for (call, reply) in calls.into_iter().zip(replies) {
                match reply {
                    Ok(reply) => again.extend(self.conclude(call, reply).await),
                    Err(error) => self.sort(call, &error, &mut again, &mut apart),
                }
            }
            calls = apart;
        }
        again.extend(self.overflow());
        again
    }

    /// The answers to calls, all of one server, and in which reign they were given.
    async fn send(&self, calls: &[Call]) -> Vec<RedisResult<(Value, Arc<Reign>)>> {
        let line = match self.post.link.line().await {
            Ok(line) => line,
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let delays = calls.iter().flat_map(Call::delays);
        let announced = self.post.delays.announce(&line, delays).await;
        let may_go = |call: &Call| announced.is_ok() || call.delays().next().is_none();
        let mut pipeline = Pipeline::with_capacity(calls.len());
        pipeline.ignore_errors();
        for command in calls.iter().filter(|call| may_go(call)).flat_map(|call| &call.commands) {
            pipeline.add_command(command.clone());
        }
        let mut replies = match line.pipeline(&pipeline).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut answer = |call: &Call| match &announced {
            Err(error) if !may_go(call) => Err(error.clone()),
            Ok(()) | Err(_) => call.answer(replies.by_ref().take(call.commands.len()).collect()),
        };
        calls.iter().map(|call| Ok((answer(call)?, line.reign().clone()))).collect()
    }

    /// What a refused call means for the settlements it carried.
    fn sort(
        &mut self,
        call: Call,
        error: &RedisError,
        again: &mut Vec<Item>,
        apart: &mut Vec<Call>,
    ) {
        let trouble = Trouble::of(error);
        let Call { kind, items, .. } = call;
        self.post.figures.trouble(trouble.as_str());
        if trouble.passes() || kind.is_of_own_keys(trouble) {
            self.complain(error, items.len());
            again.extend(items);
        } else if trouble == Trouble::GroupGone {
            // The reader creates the group again; from its start the entries come once more.
            self.ledger.supersede(items);
        } else if kind == Kind::Deleted
            && matches!(trouble, Trouble::Incapable | Trouble::Forbidden)
        {
            // A failover may have landed on a server that does not know it.
            self.post.link.abilities().lose(Ability::AckDelete);
            apart.extend(self.post.calls(items));
        } else if trouble == Trouble::Forbidden {
            self.part(items, error, again, apart);
        } else if items.len() > 1 {
            apart.extend(items.into_iter().flat_map(|item| self.post.calls(vec![item])));
        } else {
            again.extend(
                items.into_iter().filter_map(|item| self.refused(item, &error.to_string())),
            );
        }
    }

    fn complain(&mut self, error: &RedisError, waiting: usize) {
        self.settling.ails(format_args!("cannot settle: {error}"));
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(handler = %self.post.handler.name, %error, waiting,
                "cannot settle for now; trying again");
        }
    }

    /// Sets those apart that write to different streams, as only one of these may be forbidden.
    /// Those that are among their like wait for the permission.
    fn part(
        &mut self,
        items: Vec<Item>,
        error: &RedisError,
        again: &mut Vec<Item>,
        apart: &mut Vec<Call>,
    ) {
        let mut parts: Vec<(Vec<String>, Vec<Item>)> = Vec::new();
        for item in items {
            let targets: Vec<String> =
                item.targets(&self.post).into_iter().map(str::to_owned).collect();
            match parts.iter_mut().find(|(others, _)| *others == targets) {
                Some((_, alike)) => alike.push(item),
                None => parts.push((targets, vec![item])),
            }
        }
        if let [(targets, alike)] = &mut parts[..] {
            let alike = std::mem::take(alike);
            if targets.is_empty() {
                // Not even its own stream may be written to: nothing can be settled.
                self.complain(error, alike.len());
                again.extend(alike);
            } else {
                self.withhold(targets, alike, error);
            }
        } else {
            apart.extend(parts.into_iter().flat_map(|(_, alike)| self.post.calls(alike)));
        }
    }

    /// Has settlements wait for a permission, and says so once for each stream.
    fn withhold(&mut self, targets: &[String], items: Vec<Item>, error: &RedisError) {
        if targets.iter().any(|target| !self.forbidden.told.contains(target)) {
            tracing::error!(handler = %self.post.handler.name, streams = ?targets, %error,
                "Redis does not let this user write there; what does waits until it may");
            self.forbidden.told.extend(targets.iter().cloned());
            let symptom = self.post.figures.health.part(Part::Duty);
            symptom.ails(format_args!("may not write to {:?}: {error}", self.forbidden.told));
            self.forbidden.symptom = Some(symptom);
        }
        self.forbidden.items.extend(items);
    }

    /// What there is no room for among the forbidden: it waits in Redis, at no cost of an attempt.
    fn overflow(&mut self) -> Vec<Item> {
        let mut over = Vec::new();
        let items = &mut self.forbidden.items;
        let mut size = bytes(items);
        while items.len() > FORBIDDEN || size > FORBIDDEN_BYTES {
            let Some(item) = items.pop() else { break };
            size -= item.bytes as usize;
            let error = "what it writes to is forbidden to this host".to_owned();
            let settlement = Settlement::Later { delay: FORBIDDEN_WAIT, error };
            over.push(Item { settlement, cost: Cost::Nothing, ..item });
        }
        over
    }

    /// The next best settlement for one that Redis refuses for good; the message is not lost over it.
    fn refused(&self, item: Item, error: &str) -> Option<Item> {
        let id = item.receipt.id();
        if item.progress != Progress::Refused {
            tracing::error!(handler = %self.post.handler.name, stream = %self.post.keys.stream, message_id = %id,
                error, "Redis refuses the settlement");
        }
        let attempt = item.attempt();
        let settlement = match item.settlement {
            Settlement::Acknowledge(_) => {
                let reason = format!("outputs refused: {error}");
                self.post.handler.retry.settle(
                    Outcome::Retry { reason, delay: None },
                    attempt,
                    Draw(fastrand::f64()),
                )
            }
            // Without a body it cannot wait among the retries: it waits here.
            Settlement::Bury { reason: Reason::Trimmed, .. } => {
                return Some(Item { progress: Progress::Refused, ..item });
            }
            Settlement::Bury { .. } => {
                let error = format!("dead letter refused: {error}");
                Settlement::Later { delay: self.post.handler.retry.max.max(REFUSED_WAIT), error }
            }
            Settlement::Later { .. } | Settlement::Skip => {
                self.ledger.forsake(vec![item]);
                return None;
            }
        };
        Some(Item { settlement, ..item })
    }

    /// Takes in the answer to a call; gives back what is to be settled otherwise.
    async fn conclude(&mut self, call: Call, (reply, reign): (Value, Arc<Reign>)) -> Vec<Item> {
        let Call { kind, items, .. } = call;
        let statuses = match (kind, reply) {
            (Kind::Counted, Value::Int(count)) => {
                let late = items.len().saturating_sub(count.max(0) as usize);
                self.written(Written { items, late, reign }).await;
                return Vec::new();
            }
            (Kind::Each | Kind::Deleted, Value::Array(statuses)) => statuses,
            (_, status) => vec![status],
        };
        let mut written = Vec::with_capacity(items.len());
        let (mut repeats, mut void) = (Vec::new(), Vec::new());
        let mut again = Vec::new();
        for (item, status) in items.into_iter().zip(statuses) {
            match status {
                Value::Int(1) => written.push(item),
                // Of XACKDEL: others have not acknowledged it yet, so it stays on the stream.
                Value::Int(2) if kind == Kind::Deleted => written.push(item),
                Value::Int(2) => {
                    self.post.link.abilities().lose(Ability::AckDelete);
                    written.push(item);
                }
                Value::Int(3) => repeats.push(item),
                Value::Int(-2) => again.push(trimmed(item)),
                Value::BulkString(stream) => {
                    let stream = String::from_utf8_lossy(&stream);
                    let error = format!("output stream `{stream}` is a key of another type");
                    again.extend(self.refused(item, &error));
                }
                _ => void.push(item),
            }
        }
        self.ledger.repeated(repeats);
        self.ledger.supersede(void);
        self.written(Written { items: written, late: 0, reign }).await;
        again
    }

    /// Closes the account of what is written, at once or when it is witnessed.
    async fn written(&self, written: Written) {
        match &self.durable {
            Some(durable) => durable.witness(written).await,
            None => self.ledger.close(written).await,
        }
    }
}

fn item(delivery: Delivery, settlement: Settlement) -> Item {
    let Delivery { message, mut receipt, .. } = delivery;
    receipt.decided();
    Item::new(message, receipt, settlement)
}

fn trimmed(item: Item) -> Item {
    let error = "trimmed from the stream while it waited for another attempt".to_owned();
    Item { settlement: Settlement::Bury { reason: Reason::Trimmed, error }, ..item }
}
