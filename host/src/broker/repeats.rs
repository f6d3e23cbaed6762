//! Messages that repeat one that was handled: the key that remembers it, and those that are dropped before a plugin sees them.
//!
//! What is in hand twice at once is told apart when it is settled (`settle.lua`).

use redis::Value;
use sha2::{Digest, Sha256};

use super::feed::ReadError;
use super::keys::Keys;
use super::lanes::After;
use super::post::Post;
use super::reply;
use super::scripts::Lua;
use crate::figures::add;
use crate::message::{Delivery, Message, MessageId};

/// Bytes of a value's hash in its key: no two values will ever share 128 bits.
const HASH_BYTES: usize = 16;

impl Keys {
    /// String with an expiry: the id of the message with this value that was handled.
    pub(super) fn seen(&self, value: &[u8]) -> String {
        let hash = Sha256::digest(value);
        let hash: String = hash[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{hash}", self.seen)
    }
}

impl Post {
    /// The key that remembers a message, if the handler drops repeats and the message can be one.
    pub(super) fn memory(&self, message: &Message) -> Option<String> {
        let dedupe = self.handler.dedupe.as_ref()?;
        message.first(&dedupe.key).map(|value| self.keys.seen(value))
    }

    /// The deliveries that are still to be handled; the others are acknowledged.
    pub(super) async fn without_repeats(
        &self,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, ReadError> {
        if self.handler.dedupe.is_none() {
            return Ok(deliveries);
        }
        let mut keys = vec![self.keys.stream.clone(), self.keys.failures.clone()];
        let mut ids = Vec::new();
        for Delivery { message, .. } in &deliveries {
            if self.handler.filter.accepts(message)
                && let Some(key) = self.memory(message)
            {
                keys.push(key);
                ids.push(message.id);
            }
        }
        if ids.is_empty() {
            return Ok(deliveries);
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut asking = Lua::Repeat.call(&keys);
        asking.arg(&*self.handler.group).arg(&self.consumer);
        for id in &ids {
            asking.arg(id.to_string());
        }
        let statuses = reply::array("repeat.lua", self.link.query(&asking).await?)?;
        let mut asked = ids.into_iter().zip(statuses).peekable();
        let mut is_repeat = |delivery: &Delivery| {
            let answer = asked.next_if(|(id, _)| *id == delivery.message.id);
            answer.is_some_and(|(_, status)| status == Value::Int(1))
        };
        let (repeats, fresh): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(&mut is_repeat);
        self.count_repeats(repeats.iter().map(|delivery| delivery.message.id));
        self.let_go(repeats.into_iter().map(|delivery| (delivery.receipt, After::Next)));
        Ok(fresh)
    }

    /// Counts messages that were acknowledged as repeats.
    pub(super) fn count_repeats(&self, ids: impl Iterator<Item = MessageId>) {
        for message_id in ids {
            add(&self.figures.duplicates, 1);
            tracing::debug!(handler = %self.handler.name, stream = %self.handler.stream, %message_id,
                "repeats a message that was handled; acknowledged");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_a_key_and_others_do_not() {
        let keys = Keys::new("orders", "charge");
        assert_eq!(keys.seen(b"7"), keys.seen(b"7"));
        assert_ne!(keys.seen(b"7"), keys.seen(b"8"));
        assert_ne!(keys.seen(b"7"), Keys::new("orders", "bill").seen(b"7"));
        let key = keys.seen(b"");
        assert_eq!(key, "tidegate:{orders}:seen:orders:charge:e3b0c44298fc1c149afbf4c8996fb924");
    }
}
