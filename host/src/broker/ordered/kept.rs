//! Messages that were read before their turn: as many as there is room for.

use std::collections::HashMap;

use crate::message::{Message, MessageId};

/// Bytes of messages kept until their turn comes; those beyond are fetched again.
pub(super) const KEPT_BYTES: usize = 1 << 20;

/// Messages that were read and whose turn has not come.
#[derive(Debug, Default)]
pub(super) struct Kept {
    messages: HashMap<MessageId, Message>,
    bytes: usize,
    /// A running mean of the bytes of a message.
    pub(super) mean: usize,
}

impl Kept {
    pub(super) fn put(&mut self, message: Message) {
        let size = weight(&message);
        self.mean = (self.mean * 7 + size) / 8;
        if self.bytes + size <= KEPT_BYTES {
            self.bytes += size;
            self.messages.insert(message.id, message);
        }
    }

    pub(super) fn take(&mut self, id: &MessageId) -> Option<Message> {
        let message = self.messages.remove(id)?;
        self.bytes -= weight(&message);
        Some(message)
    }
}

/// Bytes that a message takes up, what is around its fields included.
fn weight(message: &Message) -> usize {
    const AROUND: usize = 64;
    let fields = message.fields.iter().map(|field| field.name.len() + field.value.len() + AROUND);
    AROUND + fields.sum::<usize>()
}
