//! Reading a stream that this host owns: messages of one key one at a time and in order, others beside them.
//!
//! Everything that is pending in the group is this host's: it takes that over when its
//! tenure begins, and then reads on. An entry whose turn has not come stays pending, and
//! only its id is kept; whoever owns the stream next finds all of them again. New entries
//! are waited for by a plain `XREAD`, which takes nothing, and read by a script that
//! compares the lease; whose turn it is, `lanes` says.

mod bell;
mod former;
mod kept;
mod pending;
mod suspects;

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::claim::Claims;
use super::connect::{Backoff, Connector};
use super::feed::ReadError;
use super::lanes::{End, Lanes, Stage};
use super::portion::Portion;
use super::post::Post;
use super::rate::Meter;
use super::reign::Wire;
use super::reply;
use super::scripts::Lua;
use super::settle::Settler;
use super::tenure::Tenure;
use super::trouble::Trouble;
use super::ward::Ward;
use crate::figures::add;
use crate::health::{Part, Symptom};
use crate::message::{Attempt, Delivery, Message, MessageId};
use crate::shutdown::Stop;
use bell::{Rang, Ringing};
pub(super) use former::Former;
use kept::{KEPT_BYTES, Kept};

/// How often is looked for what nobody tells of.
const EVERY: Duration = Duration::from_secs(2);

/// Entries read at once at least: most are of other keys than their neighbours, or their turn comes soon.
const READ_AT_LEAST: usize = 100;

/// Entries read at once at most.
const READ_AT_MOST: usize = 1000;

/// With this many that wait for another attempt, or for one before them, nothing new is read.
const WAITING_MAX: usize = 250_000;

/// The reading side of a stream that this host owns.
pub struct Ordered {
    post: Arc<Post>,
    lanes: Arc<Lanes>,
    connector: Arc<Connector>,
    claims: Claims,
    /// Where the handler has a rate.
    meter: Option<Meter>,
    tenure: Arc<Tenure>,
    former: Former,
    /// How many consumers of former owners are left.
    predecessors: usize,
    /// Whether anything may be noted of suspects.
    has_notes: bool,
    ward: Arc<Ward>,
    /// The one that runs alone, until it is known to have let its host live.
    running: Option<MessageId>,
    reading: Symptom,
    stop: Stop,
    standing: Standing,
    news: News,
    kept: Kept,
    /// Where the next single one comes from.
    end: End,
    portion: Portion,
    backoff: Backoff,
    swept: Instant,
    reader: Option<Wire>,
    bell: Option<Ringing>,
    /// Up to where retries were compared with what Redis knows; none to begin anew.
    compared: Option<MessageId>,
    /// The last entry that was seen: where the next wait begins.
    last: MessageId,
}

/// What makes a stream this host's.
pub(super) struct Ownership {
    pub tenure: Arc<Tenure>,
    pub former: Former,
    pub ward: Arc<Ward>,
    pub lanes: Arc<Lanes>,
}

/// How entries are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terms {
    /// To run beside others.
    Crowd,
    /// To run alone.
    Alone,
    /// To run alone, as the first that does in this host.
    First,
    /// To be buried.
    Dead,
}

/// How this host stands to what is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// All of it is known.
    Known,
    /// There may be some that it does not know of.
    Unknown,
    /// The group was lost, and with it everything that was pending.
    Lost,
}

/// Whether there may be new entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Some(Rang),
    None,
}

impl Ordered {
    pub(super) fn new(
        post: Arc<Post>,
        connector: Arc<Connector>,
        ownership: Ownership,
        (settler, stop): (Settler, Stop),
    ) -> Self {
        let Ownership { tenure, former, ward, lanes } = ownership;
        Self {
            claims: Claims::new(post.clone(), settler),
            meter: Meter::of(&post, &stop),
            reading: post.figures.health.part(Part::Duty),
            post,
            lanes,
            connector,
            tenure,
            former,
            predecessors: 0,
            has_notes: true,
            ward,
            running: None,
            stop,
            standing: Standing::Unknown,
            news: News::Some(Rang::TimedOut),
            kept: Kept::default(),
            end: End::Oldest,
            portion: Portion::default(),
            backoff: Backoff::default(),
            swept: Instant::now(),
            reader: None,
            bell: None,
            compared: None,
            last: MessageId { millis: 0, sequence: 0 },
        }
    }

    /// The next deliveries: as many as it is the turn of, and `slots` at most, but for those
    /// that `match` does not ask for, which wait for nobody.
    ///
    /// Returns empty-handed now and then, also after trouble, which is logged and waited out
    /// here; once the tenure is over, it waits for the stop.
    pub async fn next(&mut self, slots: usize) -> Vec<Delivery> {
        if !self.tenure.holds() {
            self.stop.cancelled().await;
            return Vec::new();
        }
        match self.step(slots).await {
            Ok(deliveries) => {
                if !self.backoff.is_fresh() {
                    tracing::info!(handler = %self.post.handler.name, stream = %self.post.handler.stream, "reading again");
                    self.backoff.reset();
                    self.reading.is_well();
                }
                deliveries
            }
            Err(error) => {
                self.cope(error).await;
                Vec::new()
            }
        }
    }

    /// Waits while the handler is held; looks up now and then, as the tenure may be over.
    async fn rest(&mut self) {
        tokio::select! {
            () = self.post.valve.open() => {}
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }

    async fn step(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        self.see_out().await?;
        if self.post.valve.is_shut() {
            self.go_among_others();
            // Whether it could read shows once it is to.
            self.reading.is_well();
            self.rest().await;
            return Ok(Vec::new());
        }
        self.look_around().await?;
        if self.standing != Standing::Known || self.post.valve.is_shut() || self.running.is_some() {
            return Ok(Vec::new());
        }
        let allowed = match &mut self.meter {
            Some(meter) => meter.tokens(slots).await?,
            None => slots,
        };
        if allowed == 0 {
            return Ok(Vec::new());
        }
        if let Some(meter) = &mut self.meter {
            // Until something comes of them.
            meter.unused += allowed;
        }
        let found = match self.suspect().await? {
            Some(suspect) => vec![suspect],
            None => self.beside_others(allowed).await?,
        };
        let found = self.post.without_repeats(found).await.inspect_err(|_| self.put_back())?;
        if let Some(meter) = &mut self.meter {
            let used = found.iter().filter(|one| self.post.handler.filter.accepts(&one.message));
            meter.unused = meter.unused.saturating_sub(used.count());
            if found.is_empty() {
                meter.give_back().await?;
            }
        }
        // A page of messages whose turn has not come is followed by the next at once.
        let more = matches!(self.news, News::Some(_)) && self.has_room();
        if found.is_empty() && !more && self.running.is_none() {
            self.wait().await?;
        }
        Ok(found)
    }

    /// Those whose turn it is, once no suspect runs alone.
    async fn beside_others(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let ward = self.ward.clone();
        match ward.beside(&self.stop).await {
            Some(_place) => self.find(slots).await,
            None => Ok(Vec::new()),
        }
    }

    /// Those whose turn it is, and new ones that wait for nobody.
    async fn find(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let mut found = Vec::new();
        // Where one alone is let through, as a circuit does, it is the oldest and the newest in turn:
        // it need not be the messages that are to blame, and then others are not kept waiting.
        let from = if slots == 1 { self.end.swap() } else { End::Oldest };
        if let (End::Newest, News::Some(rang)) = (from, self.news) {
            found.extend(self.read(slots, rang).await?);
        }
        found.extend(self.hand_out(slots.saturating_sub(found.len()), from).await?);
        // Also beside others, so that one key with much to do does not keep new ones out.
        if let News::Some(rang) = self.news
            && found.len() < slots
            && self.has_room()
        {
            found.extend(self.read(slots, rang).await?);
            found.extend(self.hand_out(slots.saturating_sub(found.len()), from).await?);
        }
        Ok(found)
    }

    /// Learns of everything that has come about: what was lost, what is due, what nobody has in hand.
    async fn look_around(&mut self) -> Result<(), ReadError> {
        if self.swept.elapsed() >= EVERY {
            self.swept = Instant::now();
            self.compare().await?;
            self.look_back().await?;
            self.post.wake.after(Duration::ZERO);
            if self.news == News::None {
                // Who always has something to do waits for nothing, and would never hear of it.
                self.news = News::Some(Rang::TimedOut);
            }
        }
        if self.post.held.take_forgotten() {
            self.standing = self.standing.max(Standing::Unknown);
        }
        match self.standing {
            Standing::Known => {}
            Standing::Unknown => self.inherit().await?,
            Standing::Lost => self.begin_again().await?,
        }
        if self.post.wake.take_due() {
            self.due().await?;
        }
        Ok(())
    }

    /// Hands out the messages whose turn it is.
    async fn hand_out(&mut self, slots: usize, from: End) -> Result<Vec<Delivery>, ReadError> {
        if slots == 0 {
            return Ok(Vec::new());
        }
        let ids = self.lanes.take(self.portion.of(slots), from);
        let mut found = Vec::with_capacity(ids.len());
        let mut absent = Vec::new();
        for id in ids {
            match self.kept.take(&id) {
                Some(message) => found.push(self.first(message)),
                None => absent.push(id),
            }
        }
        if !absent.is_empty() {
            found.extend(self.fetch(&absent, Terms::Crowd).await?);
        }
        Ok(found)
    }

    /// A first attempt at a message.
    fn first(&self, message: Message) -> Delivery {
        let receipt = self.post.held.issue(message.id, Attempt::FIRST);
        Delivery { attempt: Attempt::FIRST, receipt, message }
    }

    fn has_room(&self) -> bool {
        self.lanes.behind() + self.lanes.waiting() < WAITING_MAX
    }

    /// Reads new entries and puts them at their places. What is not asked for needs none, and is given.
    async fn read(&mut self, slots: usize, rang: Rang) -> Result<Vec<Delivery>, ReadError> {
        let affordable = KEPT_BYTES / self.kept.mean.max(1);
        let count = slots.clamp(READ_AT_LEAST, READ_AT_MOST).min(affordable);
        let count = self.portion.of(count);
        let mut reading = Lua::Read.call(&[&self.post.keys.stream, &self.post.keys.lease]);
        reading.arg(&*self.post.handler.group).arg(&self.post.consumer).arg(count);
        let answer = self.post.link.query(&reading).await;
        // Entries of an answer that is lost are pending all the same.
        let answer = answer.inspect_err(|_| self.portion.failed(count))?;
        let Some(listed) = self.unless_over(answer) else { return Ok(Vec::new()) };
        let entries = reply::read_group(listed)?;
        self.portion.came(&entries);
        if entries.len() < count {
            self.news = News::None;
        }
        if entries.is_empty() && rang == Rang::SawOne {
            self.last = self.delivered().await?.max(self.last);
        }
        let mut unasked = Vec::new();
        for entry in entries {
            self.last = self.last.max(entry.id);
            let Ok(message) = entry.into_message(&self.post.handler.stream) else {
                // Without a body it is pending all the same, and is found there.
                self.standing = Standing::Unknown;
                continue;
            };
            if self.post.handler.filter.accepts(&message) {
                self.admit(message);
            } else {
                unasked.push(self.first(message));
            }
        }
        Ok(unasked)
    }

    fn admit(&mut self, message: Message) {
        let field = self.post.handler.order.as_ref().map(|order| &*order.field);
        let key = field.and_then(|field| message.first(field)).unwrap_or_default();
        self.lanes.admit(message.id, key.into(), Stage::Ready);
        self.kept.put(message);
    }

    /// The answer of a script that compares the lease; none once the tenure is over.
    fn unless_over(&self, answer: Value) -> Option<Value> {
        if answer == Value::Int(0) {
            self.tenure.end();
            return None;
        }
        Some(answer)
    }

    /// Does what an error calls for, then waits a little longer than the last time.
    async fn cope(&mut self, error: ReadError) {
        let trouble = error.trouble();
        self.post.figures.trouble(trouble.as_str());
        self.go_among_others();
        let (handler, stream) = (&self.post.handler.name, &self.post.handler.stream);
        if trouble == Trouble::GroupGone {
            tracing::warn!(%handler, %stream, group = %self.post.handler.group, %error,
                "the group is gone; creating it again");
            add(&self.post.figures.healed, 1);
            self.standing = Standing::Lost;
        } else {
            if self.backoff.is_fresh() {
                tracing::warn!(%handler, %stream, %error, "cannot read; trying again");
            }
            self.reading.ails(format_args!("cannot read stream `{stream}`: {error}"));
            self.standing = self.standing.max(Standing::Unknown);
        }
        if trouble.ends_connection() && self.reader.take().is_some() {
            self.bell = None;
            add(&self.post.figures.reconnects, 1);
        }
        tokio::select! {
            () = tokio::time::sleep(self.backoff.next()) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
