//! Messages of a channel that wait for the handler: a bounded number, of which the oldest give way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::figures::{Figures, add};
use crate::message::{Field, Message, MessageId};

/// Messages that wait at most.
const MESSAGES: usize = 10_000;

/// Bytes of payloads that wait at most, unless one message alone has more.
const BYTES: usize = 16 << 20;

/// The name of the one field of a channel's message.
const PAYLOAD: &str = "payload";

/// Holds messages until there is someone to handle them.
pub(super) struct Mailbox {
    handler: Arc<str>,
    figures: Arc<Figures>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Messages dropped since there last was room.
    dropped: usize,
    last: Option<MessageId>,
}

impl Mailbox {
    pub(super) fn new(handler: Arc<str>, figures: Arc<Figures>) -> Self {
        Self { handler, figures, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// Adds a message at the end; where there is no room, the oldest are dropped for it.
    pub(super) fn put(&self, channel: &str, payload: Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut waiting = self.waiting();
        let was_full = waiting.dropped > 0;
        let dropped = waiting.put(channel, payload, now.as_millis() as u64);
        drop(waiting);
        self.arrived.notify_one();
        add(&self.figures.dropped, dropped);
        if dropped > 0 && !was_full {
            tracing::warn!(handler = %self.handler,
                "messages come faster than they are handled; the oldest of those that wait are dropped");
        }
    }

    /// The oldest messages, at most `most` of them; waits until there is one.
    pub(super) async fn take(&self, most: usize) -> Vec<Message> {
        loop {
            let arrived = self.arrived.notified();
            let taken = self.waiting().take(most);
            if let Some((messages, dropped)) = taken {
                if dropped > 0 {
                    tracing::info!(handler = %self.handler, dropped, "messages find room again");
                }
                return messages;
            }
            arrived.await;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().messages.len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Gives how many messages had to go for this one.
    fn put(&mut self, channel: &str, payload: Vec<u8>, now: u64) -> usize {
        self.bytes += payload.len();
        let mut dropped = 0;
        while self.messages.len() >= MESSAGES || self.bytes > BYTES {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= size(&oldest);
            dropped += 1;
        }
        self.dropped += dropped;
        let id = next_id(self.last, now);
        self.last = Some(id);
        // Most come on the channel of the one before.
        let before = self.messages.back().map(|message| &message.stream);
        let stream = match before {
            Some(known) if **known == *channel => known.clone(),
            Some(_) | None => channel.into(),
        };
        self.messages.push_back(Message { id, stream, fields: vec![Field::new(PAYLOAD, payload)] });
        dropped
    }

    /// The oldest messages and, when none is left, how many were dropped in the flood that ends with it.
    fn take(&mut self, most: usize) -> Option<(Vec<Message>, usize)> {
        let count = self.messages.len().min(most);
        let messages: Vec<_> = self.messages.drain(..count).collect();
        self.bytes -= messages.iter().map(size).sum::<usize>();
        let is_over = self.messages.is_empty();
        let dropped = if is_over { std::mem::take(&mut self.dropped) } else { 0 };
        (!messages.is_empty()).then_some((messages, dropped))
    }
}

fn size(message: &Message) -> usize {
    message.fields.iter().map(|field| field.value.len()).sum()
}

/// An id in the form of a stream's: when the message came, and which of its millisecond it is.
fn next_id(last: Option<MessageId>, now: u64) -> MessageId {
    match last {
        Some(last) if last.millis >= now => MessageId { sequence: last.sequence + 1, ..last },
        Some(_) | None => MessageId { millis: now, sequence: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_rise_though_the_clock_does_not() {
        let mut last = None;
        let mut seen = Vec::new();
        for now in [7, 7, 6, 8] {
            let id = next_id(last, now);
            seen.push(id.to_string());
            last = Some(id);
        }
        assert_eq!(seen, ["7-0", "7-1", "7-2", "8-0"]);
    }

    #[test]
    fn the_oldest_give_way_by_number_and_by_bytes() {
        let mut waiting = Waiting::default();
        for n in 0..MESSAGES + 5 {
            waiting.put("c", n.to_string().into_bytes(), 1);
        }
        let (taken, dropped) = waiting.take(1).unwrap();
        assert_eq!(taken[0].fields, [Field::new(PAYLOAD, "5")]);
        assert_eq!((dropped, waiting.messages.len()), (0, MESSAGES - 1));

        assert_eq!(waiting.put("c", vec![0; BYTES], 1), MESSAGES - 1);
        assert_eq!(
            waiting.put("c", vec![0; BYTES + 1], 1),
            1,
            "one too large for any room has it all"
        );
        let (taken, dropped) = waiting.take(9).unwrap();
        assert_eq!((taken.len(), dropped), (1, 5 + MESSAGES));
        assert_eq!((waiting.bytes, waiting.dropped), (0, 0));
        assert!(waiting.take(9).is_none());
    }
}
