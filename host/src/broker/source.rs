//! Where a handler's deliveries come from.

use super::feed::Feed;
use super::ordered::Ordered;
use crate::message::Delivery;

/// The reading side of a handler.
pub enum Source {
    /// A stream that all hosts read together.
    Shared(Feed),
    /// A stream that this host owns, whose messages come in order.
    Owned(Box<Ordered>),
}

impl Source {
    /// The next deliveries, for so many free slots; see [`Feed::next`].
    pub async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        match self {
            Self::Shared(feed) => feed.next(slots).await,
            Self::Owned(ordered) => ordered.next(slots).await,
        }
    }
}
