//! What is read from a stream: the message, its id, and one attempt at it.
//!
//! Nothing here knows Redis or WebAssembly; how bytes become a message is the
//! broker's, what becomes of it the sandbox's.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The id of a stream entry: milliseconds since the Unix epoch and a sequence number.
///
/// Ordered as Redis orders entries. See <https://redis.io/docs/latest/develop/data-types/streams/#entry-ids>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Milliseconds since the Unix epoch by the server's clock, unless the producer chose the id.
    pub millis: u64,
    /// Tells entries of the same millisecond apart.
    pub sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl MessageId {
    /// The least id after this one; none after the last.
    pub fn after(self) -> Option<Self> {
        let Self { millis, sequence } = self;
        match sequence.checked_add(1) {
            Some(sequence) => Some(Self { millis, sequence }),
            None => millis.checked_add(1).map(|millis| Self { millis, sequence: 0 }),
        }
    }

    /// The greatest id before this one; none before the first.
    pub fn before(self) -> Option<Self> {
        match (self.millis, self.sequence) {
            (0, 0) => None,
            (millis, 0) => Some(Self { millis: millis - 1, sequence: u64::MAX }),
            (millis, sequence) => Some(Self { millis, sequence: sequence - 1 }),
        }
    }
}

/// A text that is not a message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a message id such as \"1716998413541-0\", found {0:?}")]
pub struct NotAMessageId(pub String);

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        match (millis.parse(), sequence.parse()) {
            (Ok(millis), Ok(sequence)) => Ok(Self { millis, sequence }),
            _ => Err(NotAMessageId(text.to_owned())),
        }
    }
}

/// One field of a message: any bytes under any name, as `XADD` took them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name; UTF-8 by custom, not by any rule of Redis.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Field {
    /// A field of the given name and value.
    pub fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// An immutable stream entry: order and repetition of its fields are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The entry's id.
    pub id: MessageId,
    /// The stream it was read from.
    pub stream: Arc<str>,
    /// The entry's fields, in order.
    pub fields: Vec<Field>,
}

impl Message {
    /// The first value under `name`, if there is one.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| field.name == name.as_bytes())?;
        Some(&field.value)
    }

    /// The first field name that is not UTF-8: such a message cannot be handed to a plugin.
    pub fn undecodable_name(&self) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| std::str::from_utf8(&field.name).is_err())?;
        Some(&field.name)
    }
}

/// Which attempt at a message this is: 1, and one more for each recorded failure.
///
/// A host's crash is nobody's failure and does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first attempt.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The attempt that follows `failures` recorded failures.
    pub fn after_failures(failures: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(failures))
    }

    /// The attempt's number, from 1.
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attempt at a message, with the duty to settle it.
#[derive(Debug)]
pub struct Delivery {
    /// What to handle.
    pub message: Message,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// What the broker wants back.
    pub receipt: Receipt,
}

/// The duty to settle one delivery.
///
/// It is consumed by settling and cannot be cloned. Dropping it loses nothing:
/// the entry stays pending in Redis, and [`Held`] has it delivered again.
#[derive(Debug)]
#[must_use = "an unsettled delivery comes back"]
pub struct Receipt {
    id: MessageId,
    attempt: Attempt,
    stage: Stage,
    held: Option<Arc<Held>>,
}

/// How far a delivery has come in this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for its turn, or its handler runs.
    AtWork,
    /// What becomes of it is decided, and has only to be written.
    Decided,
}

impl Receipt {
    /// The entry it is for.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// The attempt it is for.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Notes that the handler is done with it; it is still in hand until it is settled.
    pub(crate) fn decided(&mut self) {
        if let (Stage::AtWork, Some(held)) = (self.stage, &self.held) {
            self.stage = Stage::Decided;
            held.one_less_at_work();
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.decided();
        if let Some(held) = self.held.take() {
            held.forget(self.id);
        }
    }
}

/// The deliveries of one handler that are in hand: read, and not yet settled.
///
/// What Redis says this host holds, less these, was lost on the way and is
/// delivered again. What is in hand for long has its lease renewed.
#[derive(Debug, Default)]
pub struct Held {
    in_hand: Mutex<InHand>,
    /// Deliveries of which nothing is decided yet.
    at_work: AtomicUsize,
    at_rest: Notify,
}

#[derive(Debug, Default)]
struct InHand {
    leases: HashMap<MessageId, Lease>,
    /// A coarse time: asking for a fine one for each message would cost.
    now: Tick,
    forgotten: bool,
}

/// Whole seconds by a clock that whoever renews leases keeps.
pub(crate) type Tick = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// Ours since the read or the last renewal.
    Since(Tick),
    /// Someone else has it now: nothing is left to renew.
    Lost,
}

impl Held {
    /// Issues the receipt for one attempt at an entry that was just read.
    pub(crate) fn issue(self: &Arc<Self>, id: MessageId, attempt: Attempt) -> Receipt {
        {
            let mut in_hand = self.lock();
            let lease = Lease::Since(in_hand.now);
            in_hand.leases.insert(id, lease);
        }
        self.at_work.fetch_add(1, Ordering::AcqRel);
        Receipt { id, attempt, stage: Stage::AtWork, held: Some(self.clone()) }
    }

    /// Takes back the receipts of deliveries that are settled.
    pub(crate) fn discharge(&self, receipts: impl IntoIterator<Item = Receipt>) {
        let mut in_hand = self.lock();
        for mut receipt in receipts {
            receipt.decided();
            receipt.held = None;
            in_hand.leases.remove(&receipt.id);
        }
    }

    /// Whether nothing is in hand.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().leases.is_empty()
    }

    /// Whether the entry is in hand.
    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.lock().leases.contains_key(id)
    }

    /// How much is in hand.
    pub(crate) fn count(&self) -> usize {
        self.lock().leases.len()
    }

    /// All that is in hand.
    pub(crate) fn ids(&self) -> Vec<MessageId> {
        self.lock().leases.keys().copied().collect()
    }

    /// Whether a receipt was dropped since this was last asked.
    pub(crate) fn take_forgotten(&self) -> bool {
        std::mem::take(&mut self.lock().forgotten)
    }

    /// Whether no delivery waits for its handler, or is with it.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_work.load(Ordering::Acquire) == 0
    }

    /// Waits until no delivery waits for its handler, or is with it.
    pub(crate) async fn at_rest(&self) {
        while !self.is_at_rest() {
            self.at_rest.notified().await;
        }
    }

    /// Sets the coarse time, and gives what has been in hand for so long without a renewal.
    pub(crate) fn aged(&self, now: Tick, age: Tick) -> Vec<MessageId> {
        let mut in_hand = self.lock();
        in_hand.now = now;
        let old =
            |lease: &Lease| matches!(lease, Lease::Since(at) if now.saturating_sub(*at) >= age);
        in_hand.leases.iter().filter(|(_, lease)| old(lease)).map(|(id, _)| *id).collect()
    }

    /// Notes that an entry's lease begins anew.
    pub(crate) fn renewed(&self, id: &MessageId) {
        let mut in_hand = self.lock();
        let now = in_hand.now;
        if let Some(lease) = in_hand.leases.get_mut(id) {
            *lease = Lease::Since(now);
        }
    }

    /// Notes that an entry is someone else's by now. Gives whether it was in hand as ours.
    pub(crate) fn lost(&self, id: &MessageId) -> bool {
        let mut in_hand = self.lock();
        let lease = in_hand.leases.get_mut(id);
        lease.is_some_and(|lease| std::mem::replace(lease, Lease::Lost) != Lease::Lost)
    }

    /// How many entries are in hand that are not ours: only their burial is.
    pub(crate) fn count_lost(&self) -> usize {
        self.lock().leases.values().filter(|lease| **lease == Lease::Lost).count()
    }

    fn one_less_at_work(&self) {
        if self.at_work.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.at_rest.notify_one();
        }
    }

    fn forget(&self, id: MessageId) {
        let mut in_hand = self.lock();
        in_hand.leases.remove(&id);
        in_hand.forgotten = true;
    }

    fn lock(&self) -> MutexGuard<'_, InHand> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written_and_order_by_number() {
        let early: MessageId = "999-18446744073709551615".parse().unwrap();
        let late: MessageId = "1000-0".parse().unwrap();
        assert!(early < late);
        assert_eq!(early.to_string(), "999-18446744073709551615");
        assert_eq!("1000".parse::<MessageId>().unwrap(), late);
        assert!("12-x".parse::<MessageId>().is_err());
    }

    #[test]
    fn nothing_is_between_an_id_and_its_neighbours() {
        let before = |id: &str| id.parse::<MessageId>().unwrap().before();
        assert_eq!(before("5-3"), "5-2".parse().ok());
        assert_eq!(before("5-0"), "4-18446744073709551615".parse().ok());
        assert_eq!(before("0-0"), None);
        let after = |id: &str| id.parse::<MessageId>().unwrap().after();
        assert_eq!(after("5-2"), "5-3".parse().ok());
        assert_eq!(after("4-18446744073709551615"), "5-0".parse().ok());
        assert_eq!(after("18446744073709551615-18446744073709551615"), None);
    }

    #[test]
    fn an_attempt_counts_from_one_and_never_overflows() {
        assert_eq!(Attempt::after_failures(0), Attempt::FIRST);
        assert_eq!(Attempt::after_failures(2).number(), 3);
        assert_eq!(Attempt::after_failures(u32::MAX).number(), u32::MAX);
    }

    #[test]
    fn the_first_of_repeated_names_is_found_and_bad_names_are_named() {
        let message = Message {
            id: "1-1".parse().unwrap(),
            stream: "s".into(),
            fields: vec![Field::new("a", "1"), Field::new("a", "2"), Field::new([0xff], "")],
        };
        assert_eq!(message.first("a"), Some(b"1".as_slice()));
        assert_eq!(message.first("b"), None);
        assert_eq!(message.undecodable_name(), Some([0xff].as_slice()));
    }

    #[test]
    fn a_dropped_receipt_is_noticed_and_a_settled_one_is_not() {
        let held = Arc::new(Held::default());
        let id = "1-1".parse().unwrap();
        held.discharge([held.issue(id, Attempt::FIRST)]);
        assert!(!held.contains(&id));
        assert!(!held.take_forgotten());

        let receipt = held.issue(id, Attempt::FIRST);
        assert!(held.contains(&id));
        drop(receipt);
        assert!(!held.contains(&id));
        assert!(held.take_forgotten());
        assert!(!held.take_forgotten());
    }

    #[test]
    fn what_is_in_hand_for_long_is_to_be_renewed_until_it_is_lost() {
        let held = Arc::new(Held::default());
        let (old, young): (MessageId, MessageId) = ("1-1".parse().unwrap(), "2-1".parse().unwrap());
        let first = held.issue(old, Attempt::FIRST);
        assert_eq!(held.aged(4, 5), []);
        let second = held.issue(young, Attempt::FIRST);
        assert_eq!(held.aged(5, 5), [old]);
        held.renewed(&old);
        assert_eq!(held.aged(9, 5), [young]);
        assert!(held.lost(&young), "it was thought to be ours");
        assert!(!held.lost(&young), "that is said once");
        assert_eq!(held.aged(14, 5), [old]);
        drop((first, second));
        assert_eq!(held.aged(99, 5), []);
    }

    #[tokio::test]
    async fn at_rest_is_who_has_nothing_left_to_decide() {
        let held = Arc::new(Held::default());
        held.at_rest().await;
        let mut decided = held.issue("1-1".parse().unwrap(), Attempt::FIRST);
        let dropped = held.issue("1-2".parse().unwrap(), Attempt::FIRST);
        let ends = async {
            decided.decided();
            decided.decided();
            tokio::task::yield_now().await;
            drop(dropped);
        };
        tokio::join!(held.at_rest(), ends);
        assert!(held.contains(&decided.id()), "it is in hand until it is settled");
    }
}
