//! The end of a settlement: what was written is counted, its notices are sent, and its receipt is let go.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;

use super::call::Item;
use super::lanes::After;
use super::post::Post;
use super::reign::Reign;
use crate::figures::add;
use crate::outcome::Settlement;

/// Settlements may take up this many bytes while they wait to be written; handlers wait beyond it.
pub(super) const WAITING_BYTES: u32 = 64 << 20;

/// Settlements that Redis has taken.
pub(super) struct Written {
    pub items: Vec<Item>,
    /// How many of them were acknowledged before, by whomever: the server only told their number.
    pub late: usize,
    /// In which reign it did.
    pub reign: Arc<Reign>,
}

/// Keeps the account of one handler's settlements.
#[derive(Clone)]
pub(super) struct Ledger {
    pub post: Arc<Post>,
    /// Room for what waits to be written, in bytes; whoever adds to it takes of it, and it is given back here.
    pub room: Arc<Semaphore>,
}

impl Ledger {
    pub(super) fn new(post: Arc<Post>) -> Self {
        Self { post, room: Arc::new(Semaphore::new(WAITING_BYTES as usize)) }
    }

    /// Counts what was written, tells whom it concerns, and lets go of it.
    pub(super) async fn close(&self, written: Written) {
        let Written { items, late, .. } = written;
        if items.is_empty() {
            return;
        }
        self.publish(&items).await;
        let figures = &self.post.figures;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let handled = items.iter().filter(|i| matches!(i.settlement, Settlement::Acknowledge(_)));
        let mut count = 0;
        let waits = handled.map(|item| {
            count += 1;
            now.saturating_sub(Duration::from_millis(item.receipt.id().millis))
        });
        figures.acknowledged(waits);
        add(&figures.handled, count - late.min(count));
        add(&figures.superseded, late);
        let mut soonest: Option<Duration> = None;
        for item in &items {
            match &item.settlement {
                Settlement::Acknowledge(_) => {}
                Settlement::Skip => add(&figures.skipped, 1),
                Settlement::Later { delay, .. } => {
                    add(&figures.retried, 1);
                    soonest = Some(soonest.map_or(*delay, |soonest| soonest.min(*delay)));
                }
                Settlement::Bury { reason, .. } => figures.bury(*reason),
            }
        }
        self.discharge(items, Item::after);
        // Not before: what is still in hand is not due.
        if let Some(soonest) = soonest {
            self.post.wake.after(soonest);
        }
    }

    /// Lets go of what was acknowledged without its outputs, as an equal message was handled meanwhile.
    pub(super) fn repeated(&self, items: Vec<Item>) {
        self.post.count_repeats(items.iter().map(|item| item.receipt.id()));
        self.discharge(items, |_| After::Next);
    }

    /// Lets go of what is no longer this host's to settle.
    pub(super) fn supersede(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        add(&self.post.figures.superseded, items.len());
        tracing::debug!(handler = %self.post.handler.name, count = items.len(),
            "settled elsewhere; nothing was written");
        self.discharge(items, |_| After::Next);
    }

    /// Gives up on settlements: their entries stay pending and are delivered again.
    pub(super) fn forsake(&self, items: Vec<Item>) {
        self.room.add_permits(bytes(&items));
    }

    fn discharge(&self, items: Vec<Item>, after: impl Fn(&Item) -> After) {
        self.room.add_permits(bytes(&items));
        self.post.let_go(items.into_iter().map(|item| {
            let after = after(&item);
            (item.receipt, after)
        }));
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

/// What settlements take up together.
pub(super) fn bytes(items: &[Item]) -> usize {
    items.iter().map(|item| item.bytes as usize).sum()
}
