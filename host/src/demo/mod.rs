//! The demo: the bundled order pipeline on a private Redis, with real messages, and sums that must hold.

mod orders;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::broker::{Broker, BrokerError, PrivateServer};
use crate::figures::{Figures, read};
use crate::host::{Host, HostError, Plugins, Roster};
use crate::manifest::{Handler, Manifest};
use crate::shutdown::Stop;
use orders::DOOMED;

/// Orders sent as fast as Redis takes them.
pub const BURST: usize = 20_000;

/// Orders sent evenly after that, to see how long one takes when there is no crowd.
pub const PACED: usize = 1_000;

/// How many of those a second.
pub const PACE: usize = 500;

/// Without any progress for this long, the demo gives up.
const STUCK: Duration = Duration::from_secs(20);

/// The stream that the last handler appends to.
const RESULTS: &str = "invoices";

/// Why the demo could not be run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The host did not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Redis did not do what was asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A stop was requested.
    #[error("stopped before the demo was over")]
    Stopped,
    /// Messages are left that nothing happens to.
    #[error("nothing moved for {} s: {missing} orders have come to no end", STUCK.as_secs())]
    Stuck {
        /// Orders neither invoiced nor dead.
        missing: u64,
    },
}

/// What the demo tells while it runs.
pub trait Audience {
    /// A private server was started, and every handler is at work.
    fn ready(&self, server: &Path);
    /// So many of so many orders have come to an end.
    fn progress(&self, ended: u64, sent: u64);
}

/// What happened to one handler's messages.
#[derive(Debug)]
pub struct Line {
    /// The handler.
    pub handler: String,
    /// Messages it handled.
    pub handled: u64,
    /// Failures that were tried again.
    pub retried: u64,
    /// Messages it buried.
    pub dead: u64,
    /// Half of its messages took this long from append to acknowledgement, at an even pace.
    pub p50: Duration,
    /// All but one in a hundred took no longer than this.
    pub p99: Duration,
}

/// What happened, and whether it adds up.
#[derive(Debug)]
pub struct Story {
    /// Orders sent.
    pub sent: u64,
    /// Results on the last stream.
    pub results: u64,
    /// Dead letters by reason.
    pub dead: BTreeMap<String, u64>,
    /// Messages handled a second in the burst, over all handlers.
    pub rate: f64,
    /// A line for each handler.
    pub lines: Vec<Line>,
    /// What does not add up; empty when all is well.
    pub objections: Vec<String>,
}

/// The bundled example's manifest: of the clone one is in, or installed beside the program.
pub fn bundled() -> Option<PathBuf> {
    const EXAMPLE: &str = "examples/orders/tidegate.toml";
    let installed = std::env::current_exe().ok();
    let share =
        installed.as_deref().and_then(Path::parent).map(|bin| bin.join("../share/tidegate"));
    let places = [Some(PathBuf::new()), share];
    places.into_iter().flatten().map(|place| place.join(EXAMPLE)).find(|file| file.is_file())
}

/// Runs the example on a private Redis to its end.
///
/// # Errors
///
/// When it cannot be run to its end; sums that do not hold are part of the story.
pub async fn play(
    manifest: &Manifest,
    audience: &impl Audience,
    stop: &Stop,
) -> Result<Story, DemoError> {
    let server = PrivateServer::start()?;
    let redis = server.settings();
    let plugins = tokio::task::block_in_place(|| Plugins::load(manifest))?;
    let broker = Broker::connect(&redis, "demo", stop).await?;
    let halt = stop.child_token();
    let host = Host::start(manifest, plugins, &redis, Roster::default(), &halt).await?;
    audience.ready(server.program());

    let figures = host.roster().now().into_iter().map(|state| state.figures).collect();
    let stage = Stage { manifest, broker, figures };
    let rate = stage.burst(audience, stop).await?;
    let sent = stage.paced(audience, stop).await?;
    let story = stage.story(sent, rate).await;
    halt.cancel();
    host.finished().await;
    Ok(story?)
}

/// Where the demo plays: a host at work and a connection beside it.
struct Stage<'a> {
    manifest: &'a Manifest,
    broker: Broker,
    figures: Vec<std::sync::Arc<Figures>>,
}

impl Stage<'_> {
    fn first(&self) -> &str {
        self.manifest.handlers.first().map_or("", |handler| &*handler.stream)
    }

    /// Sends many orders at once, some of which fail, and gives the messages handled a second.
    async fn burst(&self, audience: &impl Audience, stop: &Stop) -> Result<f64, DemoError> {
        let started = Instant::now();
        let mut orders = orders::orders(1, BURST);
        orders.splice(BURST / 2..BURST / 2, orders::doomed(BURST + 1));
        let sent = orders.len() as u64;
        let publishing = async {
            for batch in orders.chunks(1000) {
                self.broker.publish(self.first(), batch).await?;
            }
            Ok::<_, DemoError>(())
        };
        let quick = sent - DOOMED as u64 - orders::flaky(1, BURST) as u64;
        let watching = async {
            // The few that wait for a retry would say more about their waits than about the rate.
            self.ended(quick, sent, audience, stop).await?;
            let rate = self.handled() as f64 / started.elapsed().as_secs_f64();
            self.ended(sent, sent, audience, stop).await?;
            Ok(rate)
        };
        let (published, rate) = tokio::join!(publishing, watching);
        published?;
        rate
    }

    /// Sends some more at an even pace, for the latencies; gives the number of all orders sent.
    async fn paced(&self, audience: &impl Audience, stop: &Stop) -> Result<u64, DemoError> {
        for figures in &self.figures {
            figures.reset_latency();
        }
        let mut tick = tokio::time::interval(Duration::from_secs(1) / PACE as u32);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let before = (BURST + DOOMED) as u64;
        for number in 0..PACED {
            tick.tick().await;
            // Plain orders only: a retry's wait is not the pipeline's.
            let order = orders::plain(BURST + 100 + number);
            self.broker.publish(self.first(), &[order]).await?;
            audience.progress(self.done(), before + number as u64 + 1);
        }
        let sent = before + PACED as u64;
        self.ended(sent, sent, audience, stop).await?;
        Ok(sent)
    }

    /// Waits until so many orders have come to an end.
    async fn ended(
        &self,
        wanted: u64,
        sent: u64,
        audience: &impl Audience,
        stop: &Stop,
    ) -> Result<(), DemoError> {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut last = (0, Instant::now());
        loop {
            let done = self.done();
            audience.progress(done, sent);
            if done >= wanted {
                return Ok(());
            }
            if self.handled() != last.0 {
                last = (self.handled(), Instant::now());
            } else if last.1.elapsed() > STUCK {
                return Err(DemoError::Stuck { missing: wanted - done });
            }
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Err(DemoError::Stopped),
            }
        }
    }

    /// Orders that have come to an end: handled by the last handler, or buried by any.
    fn done(&self) -> u64 {
        let results = self.figures.last().map_or(0, |figures| read(&figures.handled));
        results + self.figures.iter().map(|figures| figures.buried_in_all()).sum::<u64>()
    }

    fn handled(&self) -> u64 {
        self.figures.iter().map(|figures| read(&figures.handled)).sum()
    }

    /// Adds it up, by what Redis holds rather than by what the host counted.
    async fn story(&self, sent: u64, rate: f64) -> Result<Story, BrokerError> {
        let mut dead = BTreeMap::new();
        let mut objections = Vec::new();
        for handler in &self.manifest.handlers {
            self.count_dead(handler, &mut dead).await?;
            let pending = self.broker.inspect(handler).await?.map_or(0, |group| group.pending);
            if pending > 0 {
                objections.push(format!("{} still holds {pending} messages", handler.name));
            }
        }
        let results = self.broker.length(RESULTS).await?;
        let buried: u64 = dead.values().sum();
        if results + buried != sent {
            objections
                .push(format!("{sent} sent, but {results} results and {buried} dead letters"));
        }
        if buried != DOOMED as u64 {
            objections.push(format!("{DOOMED} orders were made to die, {buried} did"));
        }
        let flaky = 2 * orders::flaky(1, BURST) as u64;
        let lines: Vec<_> = self.manifest.handlers.iter().zip(&self.figures).map(line).collect();
        let retried: u64 = lines.iter().map(|line| line.retried).sum();
        if retried < flaky {
            objections.push(format!("{flaky} failures were to be retried, {retried} were"));
        }
        Ok(Story { sent, results, dead, rate, lines, objections })
    }

    async fn count_dead(
        &self,
        handler: &Handler,
        dead: &mut BTreeMap<String, u64>,
    ) -> Result<(), BrokerError> {
        let mut letters = self.broker.dead_letters(&handler.dead_letter);
        let mut after = None;
        loop {
            let (page, last) = letters.page(after).await?;
            for letter in page {
                *dead.entry(letter.note.reason).or_default() += 1;
            }
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }
}

fn line((handler, figures): (&Handler, &std::sync::Arc<Figures>)) -> Line {
    Line {
        handler: handler.name.to_string(),
        handled: read(&figures.handled),
        retried: read(&figures.retried),
        dead: figures.buried_in_all(),
        p50: figures.latency(0.5),
        p99: figures.latency(0.99),
    }
}
