//! Where a handler's deliveries come from.

use super::channel::Listening;
use super::feed::Feed;
use crate::message::Delivery;

/// Where deliveries come from.
pub enum Source {
    /// Entries of a stream, which hosts share; each is to be settled.
    Shared(Box<Feed>),
    /// Messages of a channel; nobody waits for them to be settled.
    Channel(Listening),
}

impl Source {
    /// The next deliveries, at most `slots`; may end its wait without. To be polled to its end.
    pub async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        match self {
            Self::Shared(feed) => feed.next(slots).await,
            Self::Channel(listening) => listening.next(slots).await,
        }
    }
}
