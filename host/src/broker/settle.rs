//! Settling: what the stream should remember is written in batches, and again until it is.
//!
//! Each settlement is one step in Redis: outputs with their acknowledgement, a
//! dead letter with its own, a failure with its wait. A script checks that the
//! entry is still pending and still ours, so that sending it twice does it once.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connect::Backoff;
use super::keys::WAITING;
use super::letter::{Death, cut};
use super::post::Post;
use super::scripts::Lua;
use super::trouble::Trouble;
use crate::figures::add;
use crate::message::{Attempt, Delivery, Field, Message, Receipt};
use crate::outcome::{Draw, Entry, Notice, Outcome, Output, Reason, Settlement};

/// Settlements sent to Redis together at most.
const BATCH: usize = 1000;

/// Settlements that wait for a flush at most; handlers wait beyond it.
const QUEUE: usize = 4096;

/// One call of a script carries this many values at most: Lua's `unpack` and the
/// server's patience end somewhere above.
const SCRIPT_VALUES: usize = 4000;

/// One call of a script carries this many bytes at most, unless one entry has more.
const SCRIPT_BYTES: usize = 1 << 20;

/// A waiting entry remembers this much of its last error.
const ERROR_BYTES: usize = 500;

/// Where deliveries are settled; clones share one queue.
#[derive(Clone)]
pub struct Settler(mpsc::Sender<Item>);

impl Settler {
    /// Takes over the duty to settle a delivery.
    ///
    /// Waits while too many others wait to be written. Should the host end
    /// first, the entry stays pending and is delivered again.
    pub async fn settle(&self, delivery: Delivery, settlement: Settlement) {
        let Delivery { message, receipt, .. } = delivery;
        // The queue closes only with the host.
        let _ = self.0.send(Item { message, receipt, settlement }).await;
    }
}

struct Item {
    message: Message,
    receipt: Receipt,
    settlement: Settlement,
}

impl Item {
    fn attempt(&self) -> Attempt {
        self.receipt.attempt()
    }

    fn outputs(&self) -> &[Output] {
        match &self.settlement {
            Settlement::Acknowledge(outputs) => outputs,
            Settlement::Skip | Settlement::Later { .. } | Settlement::Bury { .. } => &[],
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.outputs().iter().filter_map(|output| match output {
            Output::Append(entry) => Some(entry),
            Output::Publish(_) => None,
        })
    }

    fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.outputs().iter().filter_map(|output| match output {
            Output::Append(_) => None,
            Output::Publish(notice) => Some(notice),
        })
    }

    /// How many values and bytes its outputs add to a call of a script.
    fn weight(&self) -> (usize, usize) {
        let fields = || self.entries().flat_map(|entry| &entry.fields);
        let bytes = fields().map(|field| field.name.len() + field.value.len()).sum();
        (2 + 2 * self.entries().count() + 2 * fields().count(), bytes)
    }
}

/// Writes the settlements of one handler.
struct Clerk(Arc<Post>);

/// A request to Redis and the settlements it carries.
struct Call {
    command: Cmd,
    kind: Kind,
    items: Vec<Item>,
}

/// How the answer to a call reads.
#[derive(Clone, Copy)]
enum Kind {
    /// One number for all: how many were pending.
    Plain,
    /// A list, one status for each.
    Each,
    /// One status.
    One,
}

/// The settling side of a handler: the queue's entrance, and the task that empties it.
///
/// The task ends when every [`Settler`] is gone and everything is written.
pub(super) fn open(post: Arc<Post>) -> (Settler, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Settler(sender), Clerk(post).work(receiver))
}

impl Clerk {
    async fn work(self, mut queue: mpsc::Receiver<Item>) {
        let mut fresh = Vec::with_capacity(BATCH);
        let mut stuck = Vec::new();
        let mut backoff = Backoff::default();
        let mut again_at = Instant::now();
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
            }
            if stuck.is_empty() {
                backoff.reset();
                again_at = Instant::now();
            }
        }
    }

    /// Sends settlements together and gives back those that must be sent again.
    async fn flush(&self, items: Vec<Item>) -> Vec<Item> {
        let mut calls = self.calls(items);
        if calls.is_empty() {
            return Vec::new();
        }
        let replies = self.send(&calls).await;
        let mut again = Vec::new();
        let mut split = Vec::new();
        for (call, reply) in calls.drain(..).zip(replies) {
            match reply {
                Ok(reply) => again.extend(self.conclude(call.kind, call.items, reply).await),
                Err(error) => self.sort(call.items, &error, &mut again, &mut split),
            }
        }
        // What was refused in company is sent again one by one, to find whose fault it is.
        for item in split {
            again.extend(Box::pin(self.flush(vec![item])).await);
        }
        again
    }

    async fn send(&self, calls: &[Call]) -> Vec<RedisResult<Value>> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        pipeline.ignore_errors();
        for call in calls {
            pipeline.add_command(call.command.clone());
        }
        match self.0.link.pipeline(&pipeline).await {
            Ok(replies) => replies,
            Err(error) => calls.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// What a refused call means for the settlements it carried.
    fn sort(
        &self,
        items: Vec<Item>,
        error: &RedisError,
        again: &mut Vec<Item>,
        split: &mut Vec<Item>,
    ) {
        let trouble = Trouble::of(error);
        if trouble.passes() {
            tracing::warn!(handler = %self.0.handler.name, %error, waiting = items.len(),
                "cannot settle for now; trying again");
            again.extend(items);
        } else if trouble == Trouble::GroupGone {
            // The reader creates the group again; from its start the entries come once more.
            self.supersede(items);
        } else if items.len() > 1 {
            split.extend(items);
        } else {
            again.extend(
                items.into_iter().filter_map(|item| self.refused(item, &error.to_string())),
            );
        }
    }

    /// The next best settlement for one that Redis refuses for good; the message is not lost over it.
    fn refused(&self, item: Item, error: &str) -> Option<Item> {
        let id = item.receipt.id();
        tracing::error!(handler = %self.0.handler.name, stream = %self.0.keys.stream, message_id = %id,
            error, "Redis refuses the settlement");
        let attempt = item.attempt();
        let settlement = match item.settlement {
            Settlement::Acknowledge(_) => {
                let reason = format!("outputs refused: {error}");
                self.0.handler.retry.settle(
                    Outcome::Retry { reason, delay: None },
                    attempt,
                    Draw(fastrand::f64()),
                )
            }
            Settlement::Bury { .. } => {
                let error = format!("dead letter refused: {error}");
                Settlement::Later { delay: self.0.handler.retry.max, error }
            }
            // Its receipt is dropped: it stays pending and is delivered again.
            Settlement::Later { .. } | Settlement::Skip => return None,
        };
        Some(Item { settlement, ..item })
    }

    /// Takes in the answer to a call; gives back what is to be settled otherwise.
    async fn conclude(&self, kind: Kind, items: Vec<Item>, reply: Value) -> Vec<Item> {
        let statuses = match (kind, reply) {
            (Kind::Plain, Value::Int(count)) => {
                let missing = items.len().saturating_sub(count.max(0) as usize);
                add(&self.0.figures.superseded, missing);
                vec![Value::Int(1); items.len()]
            }
            (Kind::Each, Value::Array(statuses)) => statuses,
            (Kind::One, status) => vec![status],
            (_, other) => vec![other],
        };
        let mut written = Vec::with_capacity(items.len());
        let mut void = Vec::new();
        let mut again = Vec::new();
        for (item, status) in items.into_iter().zip(statuses) {
            match status {
                Value::Int(1) => written.push(item),
                Value::Int(-2) => again.push(trimmed(item)),
                Value::BulkString(stream) => {
                    let stream = String::from_utf8_lossy(&stream);
                    let error = format!("output stream `{stream}` is a key of another type");
                    again.extend(self.refused(item, &error));
                }
                _ => void.push(item),
            }
        }
        self.supersede(void);
        self.publish(&written).await;
        self.record(written);
        again
    }

    /// Counts what was settled, and lets go of it.
    fn record(&self, items: Vec<Item>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let handled = items.iter().filter(|i| matches!(i.settlement, Settlement::Acknowledge(_)));
        let waits =
            handled.map(|i| now.saturating_sub(Duration::from_millis(i.receipt.id().millis)));
        self.0.figures.acknowledged(waits);
        for item in &items {
            match &item.settlement {
                Settlement::Acknowledge(_) => add(&self.0.figures.handled, 1),
                Settlement::Skip => add(&self.0.figures.skipped, 1),
                Settlement::Later { delay, .. } => {
                    add(&self.0.figures.retried, 1);
                    self.0.wake.after(*delay);
                }
                Settlement::Bury { reason, .. } => self.0.figures.bury(*reason),
            }
        }
        self.0.held.discharge(items.into_iter().map(|item| item.receipt));
    }

    /// Lets go of what is no longer this host's to settle.
    fn supersede(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        add(&self.0.figures.superseded, items.len());
        tracing::debug!(handler = %self.0.handler.name, count = items.len(),
            "settled elsewhere; nothing was written");
        self.0.held.discharge(items.into_iter().map(|item| item.receipt));
    }

    /// Sends the notices of acknowledged messages, at most once.
    async fn publish(&self, items: &[Item]) {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for notice in items.iter().flat_map(Item::notices) {
            pipeline.cmd("PUBLISH").arg(&notice.channel).arg(&notice.payload);
        }
        if pipeline.is_empty() {
            return;
        }
        let failed = match self.0.link.pipeline(&pipeline).await {
            Ok(replies) => replies.into_iter().find_map(Result::err),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::warn!(handler = %self.0.handler.name, %error, "a notice was not published");
        }
    }

    /// The requests that settle these items, each as full as it may be.
    fn calls(&self, items: Vec<Item>) -> Vec<Call> {
        let mut plain = Vec::with_capacity(items.len());
        let (mut scripted, mut waits, mut burials) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match &item.settlement {
                Settlement::Acknowledge(_) | Settlement::Skip if is_plain(&item) => {
                    plain.push(item)
                }
                Settlement::Acknowledge(_) | Settlement::Skip => scripted.push(item),
                Settlement::Later { .. } => waits.push(item),
                Settlement::Bury { .. } => burials.push(item),
            }
        }
        let mut calls = Vec::new();
        calls.extend((!plain.is_empty()).then(|| self.acknowledge(plain)));
        calls.extend(chunks(scripted).map(|items| self.write(items)));
        calls.extend(chunks(waits).map(|items| self.park(items)));
        calls.extend(burials.into_iter().map(|item| self.bury(item)));
        calls
    }

    fn acknowledge(&self, items: Vec<Item>) -> Call {
        let mut command = redis::cmd("XACK");
        command.arg(&self.0.keys.stream).arg(&*self.0.handler.group);
        for item in &items {
            command.arg(item.receipt.id().to_string());
        }
        Call { command, kind: Kind::Plain, items }
    }

    fn write(&self, items: Vec<Item>) -> Call {
        let mut streams: Vec<&str> = Vec::new();
        let mut values = redis::cmd("");
        for item in &items {
            values.arg(item.receipt.id().to_string()).arg(item.entries().count());
            for entry in item.entries() {
                let index = streams.iter().position(|s| *s == entry.stream).unwrap_or_else(|| {
                    streams.push(&entry.stream);
                    streams.len() - 1
                });
                values.arg(index + 1);
                fields(values.arg(2 * entry.fields.len()), &entry.fields);
            }
        }
        let mut keys = vec![self.0.keys.stream.as_str(), self.0.keys.failures.as_str()];
        keys.extend(streams);
        let mut command = Lua::Settle.call(&keys);
        command.arg(&*self.0.handler.group).arg(&self.0.consumer);
        append(&mut command, &values);
        Call { command, kind: Kind::Each, items }
    }

    fn park(&self, items: Vec<Item>) -> Call {
        let keys = [&*self.0.keys.stream, &*self.0.keys.failures, &*self.0.keys.waiting];
        let mut command = Lua::Park.call(&keys);
        command.arg(&*self.0.handler.group).arg(&self.0.consumer).arg(WAITING);
        for item in &items {
            if let Settlement::Later { delay, error } = &item.settlement {
                command.arg(item.receipt.id().to_string()).arg(item.attempt().number());
                command.arg(delay.as_millis() as u64).arg(cut(error, ERROR_BYTES));
            }
        }
        Call { command, kind: Kind::Each, items }
    }

    fn bury(&self, item: Item) -> Call {
        let keys = [
            &*self.0.keys.stream,
            &*self.0.keys.failures,
            &*self.0.keys.waiting,
            &*self.0.handler.dead_letter,
        ];
        let mut command = Lua::Bury.call(&keys);
        command.arg(&*self.0.handler.group);
        if let Settlement::Bury { reason, error } = &item.settlement {
            let death = Death {
                id: item.receipt.id(),
                attempts: item.attempt().number(),
                reason: *reason,
                error,
            };
            command.arg(self.holder(*reason)).arg(death.id.to_string());
            fields(&mut command, &item.message.fields);
            fields(&mut command, &self.0.epitaph(&death));
        }
        Call { command, kind: Kind::One, items: vec![item] }
    }
}

impl Clerk {
    /// Who must hold an entry for it to be buried. A body that is gone is nobody's
    /// any more: whoever notices it buries it.
    fn holder(&self, reason: Reason) -> &str {
        if reason == Reason::Trimmed { "" } else { &self.0.consumer }
    }
}

/// Whether nothing but `XACK` is needed: no entry to write, no failure to forget.
fn is_plain(item: &Item) -> bool {
    item.attempt() == Attempt::FIRST && item.entries().next().is_none()
}

fn trimmed(item: Item) -> Item {
    let error = "trimmed from the stream while it waited for another attempt".to_owned();
    Item { settlement: Settlement::Bury { reason: Reason::Trimmed, error }, ..item }
}

fn fields(command: &mut Cmd, fields: &[Field]) {
    for field in fields {
        command.arg(&field.name).arg(&field.value);
    }
}

fn append(command: &mut Cmd, values: &Cmd) {
    for value in values.args_iter().skip(1) {
        if let redis::Arg::Simple(value) = value {
            command.arg(value);
        }
    }
}

/// Splits settlements into loads that one call of a script may carry.
fn chunks(items: Vec<Item>) -> impl Iterator<Item = Vec<Item>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut values, mut bytes) = (0, 0);
        let mut chunk = Vec::new();
        while let Some(item) = items.next_if(|item| {
            let weight = item.weight();
            values += weight.0;
            bytes += weight.1;
            chunk.is_empty() || (values <= SCRIPT_VALUES && bytes <= SCRIPT_BYTES)
        }) {
            chunk.push(item);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}
