//! Moving delayed entries to their streams when they are due. Every host does, for every stream.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::Broker;
use super::connect::Backoff;
use super::delay::Delays;
use super::keys::{DELAYED_STREAMS, delayed};
use super::reply;
use super::scripts::Lua;
use super::trouble::Trouble;
use crate::message::Field;
use crate::shutdown::Stop;

/// How often a host looks at all that it knows, and through the whole list of streams.
const SELDOM: Duration = Duration::from_secs(1);

/// How often it asks for what was announced since: others may delay entries at any time, and a short
/// delay must not be overslept.
const OFTEN: Duration = Duration::from_millis(50);

/// An entry is written this soon after its announcement, or else it may be noticed a little late.
const WRITTEN: Duration = Duration::from_secs(2);

/// A stream without delayed entries is forgotten once nothing was delayed for it for so long.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// How often streams are looked through for those to forget.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Entries of one stream moved in one call at most, so that the server serves others in between.
const ENTRIES: usize = 100;

/// Bytes moved in one call, give or take an entry.
const BYTES: usize = 1 << 20;

/// Streams read or served in one request at most.
const PAGE: usize = 500;

impl Broker {
    /// Moves delayed entries to their streams as they are due, until a stop is requested.
    pub async fn promote(&self, stop: &Stop) {
        Promoter::new(self.delays.clone()).work(stop).await;
    }
}

/// Looks after the delayed entries of all streams.
struct Promoter {
    delays: Arc<Delays>,
    targets: HashMap<String, Target>,
    /// The latest announcement that was noticed, by the server's clock.
    newest: u64,
    /// When the whole list was read last.
    learned: Option<Instant>,
    tidied: Option<Instant>,
    trouble: Backoff,
}

/// A stream with delayed entries.
struct Target {
    /// When it was announced last, by the server's clock.
    announced: u64,
    /// When that was noticed.
    stirred: Instant,
    /// When to look again.
    look_at: Instant,
    content: Content,
    trouble: Backoff,
}

#[derive(Clone, Copy, PartialEq)]
enum Content {
    Entries,
    Nothing,
}

impl Promoter {
    fn new(delays: Arc<Delays>) -> Self {
        let targets = HashMap::new();
        let trouble = Backoff::default();
        Self { delays, targets, newest: 0, learned: None, tidied: None, trouble }
    }

    async fn work(mut self, stop: &Stop) {
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = stop.cancelled() => return,
            };
            let wait = self.judge(looked);
            self.delays.wake.after(wait);
            tokio::select! {
                () = self.delays.wake.due() => {}
                () = stop.cancelled() => return,
            }
            self.delays.wake.take_due();
        }
    }

    /// Says once that there is trouble, and how long to wait.
    fn judge(&mut self, looked: RedisResult<()>) -> Duration {
        match looked {
            Ok(()) => {
                if !self.trouble.is_fresh() {
                    tracing::info!("delayed entries are seen to again");
                    self.trouble.reset();
                }
                self.pause()
            }
            Err(error) => {
                if self.trouble.is_fresh() {
                    tracing::warn!(%error, "cannot see to delayed entries; trying again");
                }
                self.trouble.next()
            }
        }
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let next = self.targets.values().map(|target| target.look_at).min();
        next.map_or(OFTEN, |at| at.saturating_duration_since(Instant::now())).min(OFTEN)
    }

    /// Learns which streams there are, then moves what is due.
    async fn look(&mut self) -> RedisResult<()> {
        if self.learned.is_some_and(|last| last.elapsed() < SELDOM) {
            self.hear().await?;
        } else {
            self.learn().await?;
            self.learned = Some(Instant::now());
        }
        let now = Instant::now();
        let due = self.targets.iter().filter(|(_, target)| target.look_at <= now);
        let due: Vec<String> = due.map(|(stream, _)| stream.clone()).collect();
        for streams in due.chunks(PAGE) {
            self.serve(streams).await?;
        }
        if self.tidied.is_none_or(|last| last.elapsed() >= TIDY_EVERY) {
            self.tidied = Some(now);
            self.tidy().await?;
        }
        Ok(())
    }

    /// Takes note of the latest announcements, which are all news unless the server's clock was set
    /// back or the list was deleted: then the whole list tells.
    async fn hear(&mut self) -> RedisResult<()> {
        let mut asking = redis::cmd("ZRANGE");
        asking.arg(DELAYED_STREAMS).arg(self.newest).arg("+inf").arg("BYSCORE");
        asking.arg("LIMIT").arg(0).arg(PAGE).arg("WITHSCORES");
        let answer = self.delays.link.query(&asking).await?;
        for row in reply::fields("ZRANGE", answer).map_err(odd)? {
            self.note(&row);
        }
        Ok(())
    }

    /// Reads the whole list.
    async fn learn(&mut self) -> RedisResult<()> {
        let mut announced = Vec::new();
        loop {
            let mut asking = redis::cmd("ZRANGE");
            asking.arg(DELAYED_STREAMS).arg(announced.len()).arg(announced.len() + PAGE - 1);
            let answer = self.delays.link.query(asking.arg("WITHSCORES")).await?;
            let page = reply::fields("ZRANGE", answer).map_err(odd)?;
            let is_last = page.len() < PAGE;
            announced.extend(page);
            if is_last {
                break;
            }
        }
        self.newest = 0;
        let listed: HashSet<String> = announced.iter().map(|row| self.note(row)).collect();
        let lost = self.targets.extract_if(|stream, _| !listed.contains(stream));
        let lost = lost.filter(|(_, target)| target.content == Content::Entries).collect();
        self.announce_again(lost).await
    }

    /// Takes note of an announcement; gives its stream.
    fn note(&mut self, row: &Field) -> String {
        let at = reply::number(&row.value);
        self.newest = self.newest.max(at);
        let stream = String::from_utf8_lossy(&row.name).into_owned();
        self.targets.entry(stream.clone()).or_insert_with(Target::new).announced_at(at);
        stream
    }

    /// Puts streams back on the list that are no longer there although entries wait for them.
    async fn announce_again(&mut self, lost: HashMap<String, Target>) -> RedisResult<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let streams: Vec<String> = lost.keys().cloned().collect();
        self.targets.extend(lost);
        let line = self.delays.link.line().await?;
        self.delays.announce(&line, streams.iter().map(|stream| (&**stream, SELDOM))).await?;
        tracing::warn!(
            key = DELAYED_STREAMS,
            ?streams,
            "streams with delayed entries were not in this key, as if it had been deleted; they are put back"
        );
        Ok(())
    }

    async fn serve(&mut self, streams: &[String]) -> RedisResult<()> {
        let mut moving = redis::pipe();
        for stream in streams {
            let mut one = Lua::Promote.call(&[&delayed(stream), stream]);
            one.arg(ENTRIES).arg(BYTES);
            moving.add_command(one);
        }
        let answers = self.delays.link.pipeline(moving.ignore_errors()).await?;
        let mut away = Ok(());
        for (stream, answer) in streams.iter().zip(answers) {
            let Some(target) = self.targets.get_mut(stream) else { continue };
            match answer {
                Ok(answer) => target.take_in(stream, answer).map_err(odd)?,
                // Every stream's trouble is told as one, and ends with it.
                Err(error) if is_the_servers(&error) => away = Err(error),
                Err(error) => target.complain(stream, &error),
            }
        }
        away
    }

    /// Forgets streams for which nothing is delayed any more.
    async fn tidy(&self) -> RedisResult<()> {
        let mut forgetting = redis::pipe();
        let empty = self.targets.iter().filter(|(_, target)| target.content == Content::Nothing);
        for (stream, target) in empty.take(PAGE) {
            let mut one = Lua::Forget.call(&[DELAYED_STREAMS]);
            one.arg(stream).arg(target.announced).arg(FORGET_AFTER.as_millis() as u64);
            forgetting.add_command(one);
        }
        if forgetting.is_empty() {
            return Ok(());
        }
        let answers = self.delays.link.pipeline(forgetting.ignore_errors()).await?;
        answers.into_iter().collect::<RedisResult<Vec<_>>>().map(drop)
    }
}

impl Target {
    fn new() -> Self {
        Self {
            announced: 0,
            stirred: Instant::now(),
            look_at: Instant::now(),
            content: Content::Entries,
            trouble: Backoff::default(),
        }
    }

    /// News of an announcement: there is more to see than there was.
    fn announced_at(&mut self, at: u64) {
        if at != self.announced {
            (self.announced, self.stirred) = (at, Instant::now());
            if self.trouble.is_fresh() {
                self.look_at = Instant::now();
            }
        }
    }

    /// Takes in the answer of `promote.lua`: how many were moved, and in how long the next is due.
    fn take_in(&mut self, stream: &str, answer: Value) -> Result<(), reply::UnexpectedReply> {
        let mut parts = reply::array("promote.lua", answer)?.into_iter();
        let mut part = || reply::integer("promote.lua", &parts.next().unwrap_or_default());
        let (moved, wait) = (part()?, part()?);
        if !self.trouble.is_fresh() {
            tracing::info!(stream, "delayed entries are appended again");
            self.trouble.reset();
        }
        if moved > 0 {
            tracing::debug!(stream, count = moved, "delayed entries are on their stream");
        }
        let wait = u64::try_from(wait).ok();
        self.content = if wait.is_none() { Content::Nothing } else { Content::Entries };
        let usual = if self.stirred.elapsed() < WRITTEN { OFTEN } else { SELDOM };
        self.look_at = Instant::now() + wait.map_or(usual, Duration::from_millis).min(usual);
        Ok(())
    }

    fn complain(&mut self, stream: &str, error: &RedisError) {
        if self.trouble.is_fresh() {
            tracing::error!(stream, %error,
                "delayed entries cannot be appended until this is mended; they stay, and are tried again");
        }
        self.look_at = Instant::now() + self.trouble.next();
    }
}

/// Whether an error is of the whole server rather than of one stream.
fn is_the_servers(error: &RedisError) -> bool {
    match Trouble::of(error) {
        Trouble::Unreachable
        | Trouble::NotReady
        | Trouble::Demoted
        | Trouble::Unwritable
        | Trouble::ScriptsGone => true,
        Trouble::Refused
        | Trouble::Forbidden
        | Trouble::WrongType
        | Trouble::OddKey
        | Trouble::Elsewhere
        | Trouble::GroupGone
        | Trouble::Incapable
        | Trouble::Other => false,
    }
}

fn odd(error: reply::UnexpectedReply) -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "an odd reply", error.to_string()).into()
}
