//! How messages flow to a handler: where from, in which order, how fast, and what is left of them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// How messages come to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// From its stream; each message goes to one of the hosts.
    Group,
    /// From its stream; every host sees every message.
    Broadcast,
    /// From a channel, or the channels of a pattern, at most once (`SUBSCRIBE`, `PSUBSCRIBE`).
    Channel,
}

/// Which messages wait for each other: those with the same value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The field; of a repeated one the first counts.
    pub field: Arc<str>,
    /// How many streams the stream is; `None` for one, under its own name.
    pub shards: Option<NonZeroU32>,
}

/// Which messages repeat one that was handled: those with the same value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// The field; of a repeated one the first counts.
    pub key: Arc<str>,
    /// For how long after it was handled a message is remembered.
    pub window: Duration,
}

/// How many messages all hosts together hand to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many in each `period`.
    pub count: NonZeroU32,
    /// A second, a minute or an hour.
    pub period: Duration,
    /// So many may go at once after a pause.
    pub burst: NonZeroU32,
}

/// When to stop reading for a while, as everything fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit {
    /// After so many failures in a row.
    pub failures: NonZeroU32,
    /// How long to pause before one message is tried.
    pub pause: Duration,
}

/// What happens to entries that every group of their stream has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trim {
    /// They stay.
    Never,
    /// They are removed.
    Handled,
}

/// What a settlement waits for before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The server's answer.
    None,
    /// A replica's acknowledgement (`WAIT`).
    Replica,
    /// The server's disk (`WAITAOF`).
    Aof,
}
