//! `tidegate replay`: hand what a handler has settled to it again, and to no other group.

use std::time::Duration;

use serde::Serialize;

use super::groups::{Groups, named};
use super::moment::{self, Moment, moment};
use super::pace::{Pace, progress, rate, until_signal};
use super::source::Source;
use super::{Failure, print};
use crate::broker::{Act, Broker, Replayed};
use crate::manifest::Handler;
use crate::message::MessageId;
use crate::shutdown::Stop;

/// What a careful operator wants to know before saying yes.
const CONSEQUENCES: &str = "\
All that the handler has settled is handed to it again: handled, passed over or buried. Only it
sees the messages, each as a first attempt; other groups of the stream do not notice. Its outputs
are written again, and whatever else it does is done again. What it holds, or has not read yet,
is left alone: it is handled anyway. A handler with `dedupe` still drops
what repeats another message, but a message that comes again is no repeat of itself.";

#[derive(Debug, clap::Args)]
#[command(after_help = CONSEQUENCES)]
pub(super) struct Arguments {
    /// The handler
    handler: String,
    /// Where to begin: an id, a time such as 2026-11-21T10:00:00Z, or how long ago, such as 30m
    #[arg(long, value_name = "ID|TIME", value_parser = moment)]
    from: Moment,
    /// Where to end, included; by default with what is there now
    #[arg(long, value_name = "ID|TIME", value_parser = moment)]
    to: Option<Moment>,
    /// How many messages at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// No faster than so many a second, minute or hour, such as 100/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Duration>,
    /// Only say what would be replayed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Yes, replay them
    #[arg(long, short)]
    yes: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.source.manifest.load()?;
    let handler = named(&manifest, &arguments.handler)?;
    let names = [arguments.handler.clone()];
    let groups = Groups::open(&arguments.source, &names, "tidegate-replay").await?;
    if groups.handlers.is_empty() {
        let text = format!("no host of broadcast handler `{}` has a group yet", handler.name);
        return Err(Failure::Wrong(text));
    }
    for group in &groups.handlers {
        exists(&groups.broker, group).await?;
    }
    let now = groups.broker.now().await?;
    let last = MessageId { millis: u64::MAX, sequence: u64::MAX };
    let range =
        Range { from: arguments.from.first(now), to: arguments.to.map_or(last, |to| to.last(now)) };
    if range.from > range.to {
        return Err(Failure::Usage(format!("--from {} is after --to {}", range.from, range.to)));
    }
    let act = if arguments.yes { Act::InEarnest } else { Act::Count };
    let (tally, done) = until_signal(async |stop: Stop| {
        // Counting is quick, and no one needs to be spared.
        let between = arguments.rate.filter(|_| act == Act::InEarnest);
        let pace = Pace::new(between, arguments.limit, stop);
        let mut tally = Tally::default();
        let done = replay(&groups, range, act, pace, &mut tally).await;
        (tally, done)
    })
    .await?;
    if let Err(failure) = done {
        let messages = print::count(tally.sum.replayed, "message");
        eprintln!("ended after {messages}{}", tally.end());
        return Err(failure);
    }
    if arguments.yes && tally.sum.replayed > 0 {
        groups.holdups().await.iter().for_each(|why| eprintln!("{why}"));
    }
    tell(&arguments, handler, &tally)
}

/// Which part of the stream.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: MessageId,
    to: MessageId,
}

async fn exists(broker: &Broker, handler: &Handler) -> Result<(), Failure> {
    if broker.pending(handler, Duration::ZERO).await?.is_some() {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "stream `{}` has no group `{}`: `{}` has read nothing of it yet; a host that starts begins there",
        handler.stream, handler.group, handler.name
    )))
}

/// What came of it, on all streams and groups of the handler.
#[derive(Debug, Default)]
struct Tally {
    sum: Replayed,
    stopped: bool,
    streams: usize,
    /// The stream of the last step.
    last_on: String,
    /// Streams that begin later than was asked for, and where.
    trimmed: Vec<(String, MessageId)>,
}

impl Tally {
    /// How far it came, and how to go on from there.
    fn end(&self) -> String {
        let Some(last) = self.sum.last else { return String::new() };
        match (self.streams, last.after()) {
            (1, Some(next)) => format!(", at {last}; --from {next} goes on"),
            _ => format!(", at {last} on `{}`", self.last_on),
        }
    }
}

async fn replay(
    groups: &Groups,
    range: Range,
    act: Act,
    mut pace: Pace,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let bar = progress(if act == Act::Count { "counted" } else { "replayed" });
    tally.streams = groups.handlers.len();
    'groups: for handler in &groups.handlers {
        tally.last_on = handler.stream.to_string();
        let walk = groups.broker.replay(handler, range.from, range.to).await?;
        let Some(mut walk) = walk else { continue };
        if walk.oldest > range.from && range.from.millis > 0 {
            tally.trimmed.push((handler.stream.to_string(), walk.oldest));
        }
        loop {
            let most = pace.turn(u64::MAX).await;
            if most == 0 {
                break 'groups;
            }
            let Some(step) = walk.step(most, act).await? else { break };
            pace.went(step.replayed);
            tally.sum.add(step);
            bar.set_position(tally.sum.replayed);
        }
    }
    bar.finish_and_clear();
    tally.stopped = pace.is_stopped();
    Ok(())
}

/// What was done, for programs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    handler: &'a str,
    stream: &'a str,
    /// 0 unless it was done.
    replayed: u64,
    /// How many would be, had it been done.
    to_replay: u64,
    pending: u64,
    /// Counted as far as 10,000.
    unread: u64,
    last: Option<String>,
}

fn tell(arguments: &Arguments, handler: &Handler, tally: &Tally) -> Result<(), Failure> {
    let sum = &tally.sum;
    if arguments.json {
        let done = if arguments.yes { sum.replayed } else { 0 };
        print::json(&Report {
            handler: &handler.name,
            stream: &handler.stream,
            replayed: done,
            to_replay: sum.replayed - done,
            pending: sum.pending,
            unread: sum.unread,
            last: sum.last.map(|id| id.to_string()),
        })?;
    }
    for (stream, oldest) in &tally.trimmed {
        let since = moment::shown(oldest.millis);
        eprintln!("`{stream}` begins at {oldest} ({since}); it has nothing from before");
    }
    for line in left_alone(sum) {
        eprintln!("{line}");
    }
    let messages = print::count(sum.replayed, "message");
    let (name, stream) = (&handler.name, &handler.stream);
    if tally.stopped {
        return Err(Failure::Wrong(format!("stopped after {messages}{}", tally.end())));
    }
    if sum.replayed == 0 {
        return Err(Failure::Wrong(format!(
            "nothing to replay: `{name}` has settled nothing of `{stream}` in this range"
        )));
    }
    if arguments.yes {
        eprintln!(
            "replaying {messages} of `{stream}` to `{name}`; its hosts begin within two seconds"
        );
        if arguments.limit == Some(sum.replayed) {
            eprintln!("that was the limit{}", tally.end());
        }
        return Ok(());
    }
    eprintln!(
        "would hand {messages} of `{stream}` to `{name}` again, as first attempts: its outputs are \
         written again; other groups of the stream do not notice"
    );
    if arguments.dry_run {
        return Ok(());
    }
    Err(Failure::Usage("nothing is replayed yet; say --yes to do it".to_owned()))
}

/// What is in the range and not replayed, and why.
fn left_alone(sum: &Replayed) -> Vec<String> {
    let mut lines = Vec::new();
    if sum.pending > 0 {
        let messages = print::count(sum.pending, "message");
        lines.push(format!("left alone: {messages} pending, handled anyway"));
    }
    if sum.unread > 0 {
        let more = if sum.has_more_unread() { "more than " } else { "" };
        let messages = print::count(sum.unread, "message");
        lines.push(format!("left alone: {more}{messages} not read yet, handled anyway"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_alone_is_said_with_its_reason() {
        assert_eq!(left_alone(&Replayed::default()), Vec::<String>::new());
        let sum = Replayed { pending: 1, unread: 10_050, ..Replayed::default() };
        let expected = [
            "left alone: 1 message pending, handled anyway",
            "left alone: more than 10050 messages not read yet, handled anyway",
        ];
        assert_eq!(left_alone(&sum), expected);
    }
}
