//! Reading one (stream, group): entries that come back, then new ones, never more than asked for.
//!
//! The blocking read has a connection of its own that waits for as long as it
//! takes; a watchdog ends it, and with it whatever the server may still send
//! there. What was on its way then is found in this consumer's own pending list.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::time::timeout;

use super::capability::Ability;
use super::connect::{Backoff, Connector, Replies};
use super::lease;
use super::portion::{Portion, REPLY_BYTES};
use super::post::Post;
use super::presence::Presence;
use super::quarantine::Whose;
use super::rate::Meter;
use super::reign::Wire;
use super::reply::{self, RawEntry, UnexpectedReply};
use super::returns::Returns;
use super::trouble::Trouble;
use crate::figures::add;
use crate::health::Symptom;
use crate::manifest::Handler;
use crate::message::{Attempt, Delivery};
use crate::shutdown::Stop;

/// A read blocks at most this long: how late a host notices what no reply tells
/// it, such as a flush on a 6.2 server, and looks for entries that come back.
const BLOCK: Duration = Duration::from_secs(2);

/// A reply may come this much later than BLOCK before the connection counts as dead.
const WATCHDOG: Duration = Duration::from_secs(3);

/// Where the server may not be asked to unblock a read, reads block this long instead.
const SHORT_BLOCK: Duration = Duration::from_millis(250);

/// The reading side of a handler.
pub struct Feed {
    pub(super) post: Arc<Post>,
    pub(super) connector: Arc<Connector>,
    pub(super) presence: Arc<Presence>,
    pub(super) returns: Returns,
    /// Where the handler has a rate.
    pub(super) meter: Option<Meter>,
    pub(super) subscription: Symptom,
    pub(super) stop: Stop,
    pub(super) state: State,
}

/// What a reader remembers from one call to the next.
#[derive(Default)]
pub(super) struct State {
    reader: Option<Reader>,
    backoff: Backoff,
    turn: Turn,
    portion: Portion,
    /// The name that is to replace a contested one, until what is in hand has moved there.
    moving_to: Option<String>,
    /// Connections opened so far.
    connections: u64,
}

/// Whose turn it is, so that neither entries that return nor new ones starve.
#[derive(Default, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    #[default]
    Returned,
    New,
}

/// The connection of the blocking read, and the id to unblock it by.
struct Reader {
    connection: Wire,
    client_id: Option<i64>,
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Reply(#[from] UnexpectedReply),
    #[error("no reply within {0:?}")]
    Silent(Duration),
}

impl ReadError {
    pub(super) fn trouble(&self) -> Trouble {
        match self {
            Self::Redis(error) => Trouble::of(error),
            Self::Silent(_) => Trouble::Unreachable,
            Self::Reply(_) => Trouble::Other,
        }
    }
}

impl Feed {
    /// The next deliveries: at least one unless the wait ended without, and `slots` at most.
    ///
    /// Returns empty-handed now and then, also after trouble, which is logged
    /// and waited out here; the caller asks again for as long as it wants more.
    /// Must be polled to its end: a read that is dropped strands its entries
    /// until the connection is replaced.
    pub async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        if self.post.valve.is_shut() {
            // Whether it could read shows once it is to.
            self.subscription.is_well();
            self.rest().await;
            return Vec::new();
        }
        match self.step(slots).await {
            Ok(deliveries) => {
                if !self.state.backoff.is_fresh() {
                    tracing::info!(handler = %self.post.handler.name, stream = %self.post.handler.stream, "reading again");
                    self.state.backoff.reset();
                    self.subscription.is_well();
                }
                deliveries
            }
            Err(error) => {
                self.cope(error).await;
                Vec::new()
            }
        }
    }

    /// Waits while the handler is held.
    async fn rest(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.post.valve.open() => {}
            never = self.returns.quarantine.stand_down() => match never {},
        }
    }

    /// What there is to do while nothing is to be read; may be dropped at any time.
    pub async fn stand_down(&mut self) -> Infallible {
        self.returns.quarantine.stand_down().await
    }

    async fn step(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        if self.state.reader.is_none() {
            self.open().await?;
        }
        if self.presence.is_contested() {
            self.move_out().await?;
        }
        if let Some(early) = self.early().await? {
            return Ok(early);
        }
        match self.returns.quarantine.whose_turn(&self.stop).await? {
            Whose::Suspects => {
                if let Some(suspects) = self.suspects(slots).await? {
                    return Ok(suspects);
                }
            }
            Whose::Nobodys => return Ok(Vec::new()),
            Whose::Everyones => {}
        }
        let found = match self.meter.take() {
            Some(mut meter) => {
                let found = self.metered(&mut meter, slots).await;
                self.meter = Some(meter);
                let Some(found) = found? else {
                    self.returns.quarantine.leave_turn();
                    return Ok(Vec::new());
                };
                found
            }
            None => self.unmetered(slots).await?,
        };
        if found.is_empty() {
            self.returns.quarantine.hurry();
        }
        Ok(found)
    }

    async fn unmetered(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let turn = self.take_turn();
        if let Some(returned) = self.returned(turn, slots).await? {
            return Ok(returned);
        }
        self.read(slots, self.patience(turn)).await
    }

    /// Connects, and makes sure of what may have changed since the last connection was lost.
    async fn open(&mut self) -> Result<(), ReadError> {
        let reader = self.connect().await?;
        if self.state.connections > 0 {
            self.presence.affirm(0.0).await?;
            self.returns.spare_others();
        } else {
            self.subscription.is_well();
        }
        self.state.connections += 1;
        self.state.reader = Some(reader);
        // Replies that died with the last connection are pending in our name.
        self.returns.look_for_lost();
        Ok(())
    }

    /// Leaves a name that another host has as well. What is in hand moves along, unless the
    /// other host has taken it for lost: then only its settlement counts.
    ///
    /// It goes first: until it could, it is settled under the name that it is pending for.
    async fn move_out(&mut self) -> Result<(), ReadError> {
        let old = self.post.consumer.now();
        let new = self.presence.another_name(self.state.moving_to.as_deref()).await?;
        let new = &**self.state.moving_to.insert(new);
        lease::move_along(&self.post, [&old, new]).await?;
        self.presence.go_by(new);
        tracing::warn!(handler = %self.post.handler.name, stream = %self.post.handler.stream, from = %old,
            consumer = new, "reading under another name from now on");
        self.state.moving_to = None;
        self.returns.look_for_lost();
        Ok(())
    }

    /// Whose turn it is. Whatever comes of looking back, new entries are read next.
    pub(super) fn take_turn(&mut self) -> Turn {
        std::mem::replace(&mut self.state.turn, Turn::New)
    }

    /// Entries that come back, if it is their turn and there are any; they may all be repeats.
    /// Nothing at all is to be read where a suspect is next.
    pub(super) async fn returned(
        &mut self,
        turn: Turn,
        slots: usize,
    ) -> Result<Option<Vec<Delivery>>, ReadError> {
        if turn == Turn::Returned {
            let returned = self.returns.take(slots).await?;
            if !returned.is_empty() {
                return self.post.without_repeats(returned).await.map(Some);
            }
        }
        self.state.turn = Turn::Returned;
        Ok(self.returns.quarantine.is_turn().then(Vec::new))
    }

    /// How long a read may block: not at all where entries that come back were not looked for.
    pub(super) fn patience(&self, turn: Turn) -> Option<Duration> {
        let unblocks = self.state.reader.as_ref().is_some_and(|reader| reader.client_id.is_some());
        let longest = if unblocks { BLOCK } else { SHORT_BLOCK };
        match turn {
            // Suspects wait for a moment when there is nothing else to do. No time at all would be for ever.
            Turn::Returned => Some(longest.min(self.returns.quarantine.until_turn()))
                .filter(|patience| patience.as_millis() > 0),
            Turn::New => None,
        }
    }

    async fn connect(&self) -> Result<Reader, ReadError> {
        let mut connection = self.connector.open(Replies::Whenever).await?;
        let mut asking = redis::cmd("CLIENT");
        let answer: RedisResult<Value> =
            answered(asking.arg("ID").query_async(&mut connection)).await?;
        let client_id = match answer {
            Ok(Value::Int(id)) => Some(id),
            Ok(_) | Err(_) => None,
        };
        Ok(Reader { connection, client_id })
    }

    /// Reads new entries (`XREADGROUP … >`), blocking for `patience` if there is any.
    pub(super) async fn read(
        &mut self,
        slots: usize,
        patience: Option<Duration>,
    ) -> Result<Vec<Delivery>, ReadError> {
        let count = self.state.portion.of(slots);
        let name = self.post.consumer.now();
        let command = self.command(count, patience);
        let Some(reader) = &self.state.reader else { return Ok(Vec::new()) };
        let (mut connection, mut client_id) = (reader.connection.clone(), reader.client_id);
        let limit = patience.unwrap_or_default() + WATCHDOG;
        let reading = timeout(limit, command.query_async::<Value>(&mut connection));
        let reply = self.attended(reading, &mut client_id).await;
        let reply = reply.map_err(|_| ReadError::Silent(limit)).and_then(|reply| Ok(reply?));
        if let Some(reader) = &mut self.state.reader {
            reader.client_id = client_id;
        }
        let reply = reply.inspect_err(|error| {
            if error.trouble().ends_connection() {
                self.state.portion.failed(count);
            }
        })?;
        let entries = reply::read_group(reply)?;
        self.state.portion.came(&entries);
        if self.presence.is_contested() || name != self.post.consumer.now() {
            // They are pending for the other host of this name, which finds them.
            return Ok(Vec::new());
        }
        self.post.without_repeats(self.deliver(entries)).await
    }

    fn command(&self, count: usize, patience: Option<Duration>) -> Cmd {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&*self.post.handler.group).arg(&self.post.consumer);
        command.arg("COUNT").arg(count);
        if self.post.link.abilities().has(Ability::ReadSize) {
            command.arg("MAXSIZE").arg(REPLY_BYTES);
        }
        if let Some(patience) = patience {
            command.arg("BLOCK").arg(patience.as_millis() as u64);
        }
        command.arg("STREAMS").arg(&*self.post.handler.stream).arg(">");
        command
    }

    /// Waits for a blocking read, and has the server end it early for a stop, for a retry that is
    /// due, or as the handler is held.
    ///
    /// Forgets the id of the connection where the server does not allow that.
    async fn attended<T>(
        &self,
        reading: impl Future<Output = T>,
        client_id: &mut Option<i64>,
    ) -> T {
        tokio::pin!(reading);
        loop {
            tokio::select! {
                biased;
                reply = &mut reading => return reply,
                () = self.stop.cancelled() => {}
                () = self.post.wake.due() => {}
                () = self.post.valve.shut() => {}
            }
            let Some(id) = *client_id else { return reading.await };
            // Sent again until the read returns: the first may overtake the read itself.
            if let Err(error) = self.unblock(id).await
                && Trouble::of(&error).is_of_one_request()
            {
                *client_id = None;
            }
            if let Ok(reply) = timeout(Duration::from_millis(20), &mut reading).await {
                return reply;
            }
        }
    }

    /// Ends what a connection waits for (`CLIENT UNBLOCK`).
    ///
    /// Servers before Redis 8.2 crash when the client is held back by a pause (`CLIENT PAUSE`) instead.
    /// A pause holds back scripts too, and all that a connection sends after one.
    async fn unblock(&self, client_id: i64) -> RedisResult<()> {
        let mut asking = redis::pipe();
        asking.cmd("EVAL").arg("return 0").arg(0);
        asking.cmd("CLIENT").arg("UNBLOCK").arg(client_id).arg("TIMEOUT");
        self.post.link.pipeline(&asking).await?.into_iter().try_for_each(|answer| answer.map(drop))
    }

    fn deliver(&self, entries: Vec<RawEntry>) -> Vec<Delivery> {
        let stream = &self.post.handler.stream;
        // A new entry always has its body; one that had none would be pending, and found as lost.
        let messages = entries.into_iter().filter_map(|entry| entry.into_message(stream).ok());
        // A group that was lost and begins anew reads what is in hand once more: it runs already,
        // is pending as ours again, and so will be settled.
        let messages = messages.filter(|message| !self.post.held.contains(&message.id));
        let issue = |id| self.post.held.issue(id, Attempt::FIRST);
        messages
            .map(|message| Delivery {
                attempt: Attempt::FIRST,
                receipt: issue(message.id),
                message,
            })
            .collect()
    }

    /// Does what an error calls for, then waits a little longer than the last time.
    async fn cope(&mut self, error: ReadError) {
        let trouble = error.trouble();
        self.post.figures.trouble(trouble.as_str());
        let (handler, stream) = (&self.post.handler.name, &self.post.handler.stream);
        if trouble == Trouble::GroupGone {
            if self.heal(&error).await {
                return;
            }
        } else if trouble == Trouble::Incapable && self.post.link.abilities().has(Ability::ReadSize)
        {
            self.post.link.abilities().lose(Ability::ReadSize);
        } else if self.state.backoff.is_fresh() {
            match trouble {
                Trouble::Refused | Trouble::Forbidden | Trouble::WrongType | Trouble::OddKey => {
                    tracing::error!(%handler, %stream, %error, "cannot read until this is mended; trying again");
                }
                Trouble::Elsewhere => {
                    tracing::error!(%handler, %stream, %error,
                        "the stream is on another node of a Redis Cluster, and this host speaks to one node only; trying again");
                }
                Trouble::Unreachable
                | Trouble::NotReady
                | Trouble::Demoted
                | Trouble::Unwritable
                | Trouble::GroupGone
                | Trouble::ScriptsGone
                | Trouble::Incapable
                | Trouble::Other => {
                    tracing::warn!(%handler, %stream, %error, "cannot read; trying again");
                }
            }
        }
        let stream = &self.post.handler.stream;
        self.subscription.ails(format_args!("cannot read stream `{stream}`: {error}"));
        if trouble.ends_connection() && self.state.reader.take().is_some() {
            add(&self.post.figures.reconnects, 1);
        }
        tokio::select! {
            () = tokio::time::sleep(self.state.backoff.next()) => {}
            () = self.stop.cancelled() => {}
            never = self.returns.quarantine.stand_down() => match never {},
        }
    }

    /// Creates the lost group again; whether it is there, and reading may go on at once.
    async fn heal(&mut self, error: &ReadError) -> bool {
        let Post { handler: Handler { name, stream, group, after_loss, .. }, .. } = &*self.post;
        let first = self.state.backoff.is_fresh();
        // Should it be gone again before anything is read, the next time is waited for.
        let _ = self.state.backoff.next();
        match self.post.create_group(*after_loss).await {
            Ok(()) => {
                let from = after_loss.id();
                tracing::warn!(handler = %name, %stream, %group, %error, from,
                    "the group was gone and is created again");
                add(&self.post.figures.healed, 1);
                first
            }
            Err(error) => {
                if first {
                    tracing::warn!(handler = %name, %stream, %group, %error,
                        "the group is gone and cannot be created again for now; trying again");
                }
                false
            }
        }
    }
}

/// Waits for an answer that does not block, on a connection that has no timeout of its own.
async fn answered<T>(asking: impl Future<Output = T>) -> Result<T, ReadError> {
    timeout(WATCHDOG, asking).await.map_err(|_| ReadError::Silent(WATCHDOG))
}
