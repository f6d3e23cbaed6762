//! Settling: what the stream should remember is written in batches, and again until it is.
//!
//! Each settlement is one step in Redis: outputs with their acknowledgement, a
//! dead letter with its own, a failure with its wait. A script checks that the
//! entry is still pending and still ours, so that sending it twice does it once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::call::{Call, Item, Kind, Progress};
use super::connect::Backoff;
use super::lanes::After;
use super::post::Post;
use super::trouble::Trouble;
use crate::figures::add;
use crate::message::Delivery;
use crate::outcome::{Draw, Outcome, Reason, Settlement};

/// Settlements sent to Redis together at most.
const BATCH: usize = 1000;

/// Settlements that wait for a flush at most; handlers wait beyond it.
const QUEUE: usize = 4096;

/// A message whose dead letter is refused waits at least this long, whatever its backoff.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

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
        let _ = self.0.send(Item { message, receipt, settlement, progress: Progress::Due }).await;
    }
}

/// Writes the settlements of one handler.
struct Clerk {
    post: Arc<Post>,
    /// Whether a person was told that settlements have to wait: once for each time that they do.
    complained: AtomicBool,
}

/// The settling side of a handler: the queue's entrance, and the task that empties it.
///
/// The task ends when every [`Settler`] is gone and everything is written.
pub(super) fn open(post: Arc<Post>) -> (Settler, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Settler(sender), Clerk { post, complained: AtomicBool::new(false) }.work(receiver))
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
                if self.complained.swap(false, Ordering::Relaxed) {
                    tracing::info!(handler = %self.post.handler.name, "settling again");
                }
                backoff.reset();
                again_at = Instant::now();
            }
        }
    }

    /// Sends settlements together and gives back those that must be sent again.
    async fn flush(&self, items: Vec<Item>) -> Vec<Item> {
        let mut calls = self.post.calls(items);
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
        match self.post.link.pipeline(&pipeline).await {
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
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!(handler = %self.post.handler.name, %error, waiting = items.len(),
                    "cannot settle for now; trying again");
            }
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
        tracing::error!(handler = %self.post.handler.name, stream = %self.post.keys.stream, message_id = %id,
            error, "Redis refuses the settlement");
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
            Settlement::Bury { .. } => {
                let error = format!("dead letter refused: {error}");
                Settlement::Later { delay: self.post.handler.retry.max.max(REFUSED_WAIT), error }
            }
            // Its receipt is dropped: it stays pending and is delivered again.
            Settlement::Later { .. } | Settlement::Skip => return None,
        };
        Some(Item { settlement, ..item })
    }

    /// Takes in the answer to a call; gives back what is to be settled otherwise.
    async fn conclude(&self, kind: Kind, items: Vec<Item>, reply: Value) -> Vec<Item> {
        if kind == Kind::Letter {
            let progress = Progress::LetterWritten;
            return items.into_iter().map(|item| Item { progress, ..item }).collect();
        }
        let statuses = match (kind, reply) {
            (Kind::Plain, Value::Int(count)) => {
                let missing = items.len().saturating_sub(count.max(0) as usize);
                add(&self.post.figures.superseded, missing);
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
        self.post.figures.acknowledged(waits);
        let mut soonest: Option<Duration> = None;
        for item in &items {
            match &item.settlement {
                Settlement::Acknowledge(_) => add(&self.post.figures.handled, 1),
                Settlement::Skip => add(&self.post.figures.skipped, 1),
                Settlement::Later { delay, .. } => {
                    add(&self.post.figures.retried, 1);
                    soonest = Some(soonest.map_or(*delay, |soonest| soonest.min(*delay)));
                }
                Settlement::Bury { reason, .. } => self.post.figures.bury(*reason),
            }
        }
        self.let_go(items, Item::after);
        // Not before: what is still in hand is not due.
        if let Some(soonest) = soonest {
            self.post.wake.after(soonest);
        }
    }

    /// Discharges receipts; where order is kept, the next messages' turn has come with that.
    fn let_go(&self, items: Vec<Item>, after: impl Fn(&Item) -> After) {
        let Some(lanes) = &self.post.lanes else {
            return self.post.held.discharge(items.into_iter().map(|item| item.receipt));
        };
        let after: Vec<_> = items.iter().map(|item| (item.receipt.id(), after(item))).collect();
        lanes.settled(after, || {
            self.post.held.discharge(items.into_iter().map(|item| item.receipt));
        });
    }

    /// Lets go of what is no longer this host's to settle.
    fn supersede(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        add(&self.post.figures.superseded, items.len());
        tracing::debug!(handler = %self.post.handler.name, count = items.len(),
            "settled elsewhere; nothing was written");
        self.let_go(items, |_| After::Next);
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
        let failed = match self.post.link.pipeline(&pipeline).await {
            Ok(replies) => replies.into_iter().find_map(Result::err),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::warn!(handler = %self.post.handler.name, %error, "a notice was not published");
        }
    }
}

fn trimmed(item: Item) -> Item {
    let error = "trimmed from the stream while it waited for another attempt".to_owned();
    Item { settlement: Settlement::Bury { reason: Reason::Trimmed, error }, ..item }
}
