//! Entries that are to appear later: writing them, and moving them to their streams when they are due.
//!
//! Every host moves the entries of every stream, whoever wrote them. A stream is announced
//! before an entry is delayed for it, so that hosts know where to look; what one entry looks
//! like while it waits is `hold.lua`'s.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult};

use super::call::{SCRIPT_BYTES, SCRIPT_VALUES, fields};
use super::keys::{DELAYED_STREAMS, delayed};
use super::link::{Line, Link};
use super::scripts::Lua;
use super::trouble::Trouble;
use super::wake::Wake;
use super::{Broker, BrokerError, reply};
use crate::manifest::Sharding;
use crate::message::Field;
use crate::outcome::Entry;

/// Longer than a stream is likely to be kept; beyond it, a mistake in the unit is likelier than a wish.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What everyone shares who delays entries, and who moves them when they are due.
pub(super) struct Delays {
    pub link: Link,
    /// When an entry is due that this host delayed.
    pub wake: Wake,
}

impl Delays {
    pub(super) fn new(link: Link) -> Self {
        Self { link, wake: Wake::default() }
    }

    /// Lets every host know where entries are about to be delayed; they may be written only after it, and on
    /// the same line: another server may not have heard it.
    pub(super) async fn announce<'a>(
        &self,
        line: &Line<'_>,
        delays: impl Iterator<Item = (&'a str, Duration)>,
    ) -> RedisResult<()> {
        let mut streams: Vec<&str> = Vec::new();
        for (stream, delay) in delays {
            self.wake.after(delay);
            if !streams.contains(&stream) {
                streams.push(stream);
            }
        }
        if streams.is_empty() {
            return Ok(());
        }
        let mut noting = Lua::Register.call(&[DELAYED_STREAMS]);
        noting.arg(streams);
        match line.query(&noting).await {
            // It was taught them again by now.
            Err(error) if Trouble::of(&error) == Trouble::ScriptsGone => {
                line.query(&noting).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }
}

/// For which stream an entry is to be delayed, and for how long; none if it is not.
pub(super) fn asked(entry: &Entry) -> Option<(&str, Duration)> {
    let delay = entry.delay.filter(|delay| delay.as_millis() > 0)?;
    Some((&entry.stream, delay))
}

/// The key that an entry is written to, and how many milliseconds it waits there.
pub(super) fn place(entry: &Entry) -> (Cow<'_, str>, u64) {
    match asked(entry) {
        Some((stream, delay)) => (delayed(stream).into(), delay.as_millis() as u64),
        None => ((&*entry.stream).into(), 0),
    }
}

/// The calls of `delay.lua` that keep entries for a stream, each as full as it may be.
pub(super) fn keeping<'a>(
    stream: &str,
    delay: Duration,
    entries: impl IntoIterator<Item = &'a [Field]>,
) -> Vec<(Cmd, usize)> {
    let key = delayed(stream);
    let (mut values, mut bytes) = (SCRIPT_VALUES, SCRIPT_BYTES);
    let mut calls: Vec<(Cmd, usize)> = Vec::new();
    for entry in entries {
        values += 1 + 2 * entry.len();
        bytes += entry.iter().map(|field| field.name.len() + field.value.len()).sum::<usize>();
        if values > SCRIPT_VALUES || bytes > SCRIPT_BYTES {
            let mut call = Lua::Delay.call(&[&key]);
            call.arg(delay.as_millis() as u64);
            calls.push((call, 0));
            (values, bytes) = (0, 0);
        }
        if let Some((call, count)) = calls.last_mut() {
            fields(call.arg(2 * entry.len()), entry);
            *count += 1;
        }
    }
    calls
}

impl Broker {
    /// As [`Self::publish_later`], to the streams that a stream is made of.
    ///
    /// # Errors
    ///
    /// As [`Self::publish_later`].
    pub async fn publish_sharded_later(
        &self,
        sharding: &Sharding,
        messages: &[Vec<Field>],
        delay: Duration,
    ) -> Result<Vec<u64>, BrokerError> {
        let mut streams: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, message) in messages.iter().enumerate() {
            streams.entry(sharding.of(message)).or_default().push(at);
        }
        let mut due = vec![0; messages.len()];
        for (stream, places) in streams {
            let batch: Vec<_> = places.iter().map(|at| messages[*at].clone()).collect();
            let times = self.publish_later(&stream, &batch, delay).await?;
            places.into_iter().zip(times).for_each(|(at, time)| due[at] = time);
        }
        Ok(due)
    }

    /// Has messages appended to a stream once a delay is over, in order, by whichever host runs
    /// then. Gives for each when it is due, in milliseconds by the server's clock.
    ///
    /// # Errors
    ///
    /// When Redis refuses; others of the same batch may be delayed all the same.
    pub async fn publish_later(
        &self,
        stream: &str,
        messages: &[Vec<Field>],
        delay: Duration,
    ) -> Result<Vec<u64>, BrokerError> {
        let failed = |source: RedisError| {
            self.failed(format!("delay messages for stream `{stream}`"), source)
        };
        let line = self.link.line().await.map_err(failed)?;
        self.delays.announce(&line, [(stream, delay)].into_iter()).await.map_err(failed)?;
        let mut due = Vec::with_capacity(messages.len());
        for (call, count) in keeping(stream, delay, messages.iter().map(Vec::as_slice)) {
            let at = line.query(&call).await.map_err(failed)?;
            let at = reply::integer("delay.lua", &at)?.max(0) as u64;
            due.extend(std::iter::repeat_n(at, count));
        }
        Ok(due)
    }
}
