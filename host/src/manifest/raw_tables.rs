//! The tables within a handler's, as typed.

use super::reader::Reader;
use super::section::{Entry, Place};

/// `retry = { … }`: how failed messages are tried again.
#[derive(Debug)]
pub(super) struct RawRetry<'t> {
    /// Attempts in all, the first included, 1 to 1000000. Default: 5.
    pub(super) attempts: Option<Entry<'t>>,
    /// The longest wait before the second attempt; it doubles with each further one. Up to
    /// `30days`, no longer than `max`. Default: `"1s"`.
    pub(super) first: Option<Entry<'t>>,
    /// The longest wait of all, up to `30days`. Default: `"5m"`.
    pub(super) max: Option<Entry<'t>>,
    pub(super) place: Place,
}

impl<'t> RawRetry<'t> {
    pub(super) fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let what = "a table such as { attempts = 5, first = \"1s\", max = \"5m\" }";
        let mut table = reader.section(entry, what)?;
        Some(Self {
            attempts: table.take("attempts"),
            first: table.take("first"),
            max: table.take("max"),
            place: table.close(reader),
        })
    }
}

/// `limits = { … }`: bounds that few plugins ever meet.
#[derive(Debug, Default)]
pub(super) struct RawLimits<'t> {
    /// The most outputs that one message may be answered with, 1 to 1000000. Default: 1000.
    pub(super) outputs: Option<Entry<'t>>,
    /// The most bytes of names, values and payloads in the outputs for one message, `1KiB` to
    /// `64MiB`. Default: `"8MiB"`.
    pub(super) output_bytes: Option<Entry<'t>>,
    /// Lines a second that the plugin may print or log, 1 to 1000000. Default: 100.
    pub(super) log_lines: Option<Entry<'t>>,
    /// Bytes a second that the plugin may print or log, `1KiB` to `64MiB`. Default: `"64KiB"`.
    pub(super) log_bytes: Option<Entry<'t>>,
    /// Instances of the plugin alive at a time, idle ones included, 1 to 10000. Default: as many
    /// as `concurrency`.
    pub(super) instances: Option<Entry<'t>>,
    /// Calls after which an instance is replaced, 1 to 1000000000. Default: 100000.
    pub(super) calls: Option<Entry<'t>>,
    /// The most bytes of values that one operation of `wasi:keyvalue` may write or read, `1KiB` to `64MiB`.
    /// Default: `"1MiB"`.
    pub(super) keyvalue_bytes: Option<Entry<'t>>,
    /// Operations of `wasi:keyvalue` in flight at a time, over all of the handler's calls, 1 to
    /// 10000. Default: 64.
    pub(super) keyvalue_calls: Option<Entry<'t>>,
    /// How long one request over HTTP may take, `1ms` to `1day`. Default: `"10s"`.
    pub(super) http_timeout: Option<Entry<'t>>,
    /// The largest body that the plugin may send or be sent over HTTP, `1KiB` to `1GiB`.
    /// Default: `"8MiB"`.
    pub(super) http_bytes: Option<Entry<'t>>,
    /// Requests over HTTP in flight at a time, over all of the handler's calls, 1 to 10000.
    /// Default: 64.
    pub(super) http_calls: Option<Entry<'t>>,
}

impl<'t> RawLimits<'t> {
    pub(super) fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut table = reader.section(entry, "a table such as { outputs = 1000 }")?;
        let raw = Self {
            outputs: table.take("outputs"),
            output_bytes: table.take("output-bytes"),
            log_lines: table.take("log-lines"),
            log_bytes: table.take("log-bytes"),
            instances: table.take("instances"),
            calls: table.take("calls"),
            keyvalue_bytes: table.take("keyvalue-bytes"),
            keyvalue_calls: table.take("keyvalue-calls"),
            http_timeout: table.take("http-timeout"),
            http_bytes: table.take("http-bytes"),
            http_calls: table.take("http-calls"),
        };
        table.close(reader);
        Some(raw)
    }
}

/// `rollout = { … }`: how a new version of the plugin takes over from the one before.
#[derive(Debug)]
pub(super) struct RawRollout<'t> {
    /// The share of messages that the new version gets first, `"1%"` to `"99%"`. Default: `"10%"`.
    pub(super) share: Option<Entry<'t>>,
    /// How long it gets no more than that, `1s` to `30days`. Default: `"5m"`.
    pub(super) period: Option<Entry<'t>>,
    /// How many messages it must have handled by then, 1 to 1000000; until it has, the share
    /// stays. Default: 100.
    pub(super) messages: Option<Entry<'t>>,
}

impl<'t> RawRollout<'t> {
    pub(super) fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let what = "a table such as { share = \"10%\", period = \"5m\" }";
        let mut table = reader.section(entry, what)?;
        let raw = Self {
            share: table.take("share"),
            period: table.take("period"),
            messages: table.take("messages"),
        };
        table.close(reader);
        Some(raw)
    }
}

/// `dedupe = { … }`: acknowledge unseen what repeats a message that was handled.
#[derive(Debug)]
pub(super) struct RawDedupe<'t> {
    /// The field whose equal values make messages equal. Required. Example: `"order-id"`.
    pub(super) key: Option<Entry<'t>>,
    /// For how long after it was handled a message is remembered, `1s` to `30days`. Default: `"1h"`.
    pub(super) window: Option<Entry<'t>>,
    pub(super) place: Place,
}

impl<'t> RawDedupe<'t> {
    pub(super) fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let what = "a table such as { key = \"order-id\", window = \"1h\" }";
        let mut table = reader.section(entry, what)?;
        let (key, window) = (table.take("key"), table.take("window"));
        Some(Self { key, window, place: table.close(reader) })
    }
}

/// `circuit = { … }`: stop reading while everything fails.
#[derive(Debug)]
pub(super) struct RawCircuit<'t> {
    /// After this many failures in a row, 1 to 1000000. Default: 10.
    pub(super) failures: Option<Entry<'t>>,
    /// How long to pause before one message is tried, `1ms` to `1day`. Default: `"30s"`.
    pub(super) pause: Option<Entry<'t>>,
    pub(super) place: Place,
}

impl<'t> RawCircuit<'t> {
    pub(super) fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let what = "a table such as { failures = 10, pause = \"30s\" }";
        let mut table = reader.section(entry, what)?;
        let (failures, pause) = (table.take("failures"), table.take("pause"));
        Some(Self { failures, pause, place: table.close(reader) })
    }
}
