//! What a handler allows its plugin, and how new versions of it take over.

use std::num::NonZeroUsize;
use std::time::Duration;

/// Bounds on one handler's plugin, beside its `timeout` and `memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most outputs that one message may be answered with.
    pub outputs: usize,
    /// The most bytes of names, values and payloads in the outputs for one message.
    pub output_bytes: usize,
    /// Lines a second that it may print or log.
    pub log_lines: u32,
    /// Bytes a second that it may print or log.
    pub log_bytes: u32,
    /// Instances alive at a time, idle ones included; `None` for as many as the handler has calls.
    pub instances: Option<NonZeroUsize>,
    /// Calls after which an instance is replaced.
    pub calls: u32,
    /// Bytes of values that one operation of `wasi:keyvalue` may write or read.
    pub keyvalue_bytes: usize,
    /// Operations of `wasi:keyvalue` in flight at a time.
    pub keyvalue_calls: usize,
    /// How long one request over HTTP may take.
    pub http_timeout: Duration,
    /// Bytes of the largest body that it may send or be sent over HTTP.
    pub http_bytes: u64,
    /// Requests over HTTP in flight at a time.
    pub http_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outputs: 1000,
            output_bytes: 8 << 20,
            log_lines: 100,
            log_bytes: 64 << 10,
            instances: None,
            calls: 100_000,
            keyvalue_bytes: 1 << 20,
            keyvalue_calls: 64,
            http_timeout: Duration::from_secs(10),
            http_bytes: 8 << 20,
            http_calls: 64,
        }
    }
}

/// How a new version of a plugin takes over from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// The share of messages that the new version gets first, in hundredths: 1 to 99.
    pub percent: u8,
    /// How long it gets no more than that.
    pub period: Duration,
    /// How many messages it must have handled by then.
    pub messages: u32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { percent: 10, period: Duration::from_secs(300), messages: 100 }
    }
}
