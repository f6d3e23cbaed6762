//! Where a handler's deliveries come from.

use std::convert::Infallible;
use std::future::pending;

use super::channel::Listening;
use super::feed::Feed;
use super::ordered::Ordered;
use crate::message::Delivery;

/// The reading side of a handler.
pub enum Source {
    /// A stream that all hosts read together.
    Shared(Box<Feed>),
    /// A stream that this host owns, whose messages come in order.
    Owned(Box<Ordered>),
    /// A channel; nobody waits for its messages to be settled.
    Channel(Listening),
}

impl Source {
    /// The next deliveries, at most `slots`; may end its wait without. To be polled to its end.
    pub async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        match self {
            Self::Shared(feed) => feed.next(slots).await,
            Self::Owned(ordered) => ordered.next(slots).await,
            Self::Channel(listening) => listening.next(slots).await,
        }
    }

    /// What there is to do while nothing is to be read, as a circuit is open; may be dropped at any time.
    pub async fn stand_down(&mut self) -> Infallible {
        match self {
            Self::Shared(feed) => feed.stand_down().await,
            Self::Owned(ordered) => ordered.stand_down().await,
            Self::Channel(_) => pending().await,
        }
    }
}
