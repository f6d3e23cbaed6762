//! What is read from a stream: the message, its id, and one attempt at it.
//!
//! Nothing here knows Redis or WebAssembly; how bytes become a message is the
//! broker's, what becomes of it the sandbox's.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    held: Option<Arc<Held>>,
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
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.forget(self.id);
        }
    }
}

/// The deliveries of one handler that are in hand: read, and not yet settled.
///
/// What Redis says this host holds, less these, was lost on the way and is
/// delivered again.
#[derive(Debug, Default)]
pub struct Held(Mutex<InHand>);

#[derive(Debug, Default)]
struct InHand {
    ids: HashSet<MessageId>,
    forgotten: bool,
}

impl Held {
    /// Issues the receipt for one attempt at an entry that was just read.
    pub(crate) fn issue(self: &Arc<Self>, id: MessageId, attempt: Attempt) -> Receipt {
        self.lock().ids.insert(id);
        Receipt { id, attempt, held: Some(self.clone()) }
    }

    /// Takes back the receipts of deliveries that are settled.
    pub(crate) fn discharge(&self, receipts: impl IntoIterator<Item = Receipt>) {
        let mut in_hand = self.lock();
        for mut receipt in receipts {
            receipt.held = None;
            in_hand.ids.remove(&receipt.id);
        }
    }

    /// Whether nothing is in hand.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().ids.is_empty()
    }

    /// Whether the entry is in hand.
    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.lock().ids.contains(id)
    }

    /// Whether a receipt was dropped since this was last asked.
    pub(crate) fn take_forgotten(&self) -> bool {
        std::mem::take(&mut self.lock().forgotten)
    }

    fn forget(&self, id: MessageId) {
        let mut in_hand = self.lock();
        in_hand.ids.remove(&id);
        in_hand.forgotten = true;
    }

    fn lock(&self) -> MutexGuard<'_, InHand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
}
