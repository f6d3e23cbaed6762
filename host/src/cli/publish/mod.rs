//! `tidegate publish`: append messages to a stream.
//!
//! Prints the ids that the messages got, one a line, or when they are due. A file or standard input
//! is read a line at a time and appended in batches, so it may be endless.

mod delay;
mod fields;
mod lines;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::ArgGroup;
use clap::builder::{OsStringValueParser, TypedValueParser};
use tokio::io::AsyncRead;

use super::source::Source;
use super::{Failure, print};
use crate::broker::{Broker, ENTRY_FIELDS_MAX};
use crate::manifest::{Sharding, whole};
use crate::message::Field;
use fields::Shape;
use lines::Lines;

/// Messages that are sent to Redis together at most.
const BATCH: usize = 500;

/// Bytes of lines that are sent to Redis together, give or take one line.
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
// Left to itself, clap puts the group before the stream.
#[command(
    override_usage = "tidegate publish [OPTIONS] <STREAM> <FIELD=VALUE ...|--json <TEXT>|--file <FILE>|--stdin>"
)]
#[command(group(ArgGroup::new("message").required(true).args(["fields", "json", "file", "stdin"])))]
pub(super) struct Arguments {
    /// The stream to append to; of one that is made of shards, the one that the message belongs to
    stream: String,
    /// A message of these fields; order and repetition are kept
    #[arg(value_name = "FIELD=VALUE", value_parser = OsStringValueParser::new().try_map(fields::argument))]
    fields: Vec<Field>,
    /// A message of a JSON object: strings become fields as they are, other values as JSON text
    #[arg(long, value_name = "TEXT")]
    json: Option<String>,
    /// A message for each line of a file, a JSON object each; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as `--file -`
    #[arg(long)]
    stdin: bool,
    /// Put the JSON text, or each line whatever it is, whole in this field
    #[arg(long, value_name = "NAME", conflicts_with = "fields")]
    field: Option<String>,
    /// Append the message this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(conflicts_with_all = ["file", "stdin"])]
    count: u64,
    /// Let them appear on the stream after this long, such as 5s or 2h; a running host appends them
    #[arg(long, value_name = "DURATION", value_parser = delay::argument)]
    delay: Option<Duration>,
    /// Do not print the ids, or with --delay the times
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.stream.starts_with("tidegate:") {
        let problem =
            "names that begin with `tidegate:` belong to the host; publish to another stream";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let shape = arguments.field.clone().map_or(Shape::Object, Shape::Whole);
    let message = single(&arguments, &shape)?;
    let broker = arguments.source.connect("tidegate-publish").await?;
    let told = if arguments.quiet { Told::Nothing } else { Told::EachMessage };
    let stream = &*arguments.stream;
    let sharding = sharding(&arguments, &broker).await?;
    let delay = arguments.delay.filter(|delay| delay.as_millis() > 0);
    let mut press = Press { broker: &broker, stream, sharding, delay, told, appended: 0 };
    let done = match (message, &arguments.file) {
        (Some(message), _) => press.repeat(&message, arguments.count).await,
        (None, Some(file)) if file.as_os_str() != "-" => {
            let name = file.display().to_string();
            match tokio::fs::File::open(file).await {
                Ok(opened) => press.lines(opened, &name, &shape).await,
                Err(source) => Err(Failure::system(format!("open {name}"))(source)),
            }
        }
        (None, _) => press.lines(tokio::io::stdin(), "standard input", &shape).await,
    };
    press.sum_up(&done);
    done
}

/// How the stream is made of several, if it is: as a handler of the manifest says, or as Redis remembers.
async fn sharding(arguments: &Arguments, broker: &Broker) -> Result<Option<Sharding>, Failure> {
    if arguments.source.redis.is_none() {
        let handlers = arguments.source.manifest.load()?.handlers;
        let ordered = handlers
            .into_iter()
            .find(|handler| *handler.stream == *arguments.stream && handler.order.is_some());
        if let Some(handler) = ordered {
            broker.agree(&handler).await?;
            return Ok(handler.sharding());
        }
    }
    if let Some(whole) = whole(&arguments.stream)
        && let Some(sharding) = broker.sharding(whole).await?
        && let Some(problem) = sharding.objection(&arguments.stream)
    {
        return Err(Failure::Usage(problem));
    }
    Ok(broker.sharding(&arguments.stream).await?)
}

/// The message that the command line itself holds, if it does.
fn single(arguments: &Arguments, shape: &Shape) -> Result<Option<Vec<Field>>, Failure> {
    if !arguments.fields.is_empty() {
        return Ok(Some(arguments.fields.clone()));
    }
    let Some(json) = &arguments.json else { return Ok(None) };
    let message = shape.json(json.as_bytes());
    message.map(Some).map_err(|mistake| Failure::Usage(format!("--json:{mistake}")))
}

/// What a line turned out to be.
enum Next {
    Message(Vec<Field>),
    Blank,
    End,
}

async fn next<R>(lines: &mut Lines<R>, name: &str, shape: &Shape) -> Result<Next, Failure>
where
    R: AsyncRead + Unpin,
{
    let line = lines.next().await.map_err(Failure::system(format!("read {name}")))?;
    let Some(line) = line else { return Ok(Next::End) };
    match shape.line(&line) {
        Ok(message) => Ok(message.map_or(Next::Blank, Next::Message)),
        Err(mistake) => Err(Failure::Wrong(format!("{name}:{}:{mistake}", lines.number()))),
    }
}

/// What is printed of messages that were appended or delayed.
#[derive(Clone, Copy)]
enum Told {
    /// Its id, or when it is due.
    EachMessage,
    Nothing,
}

/// Appends or delays, prints ids or times, and counts.
struct Press<'a> {
    broker: &'a Broker,
    stream: &'a str,
    sharding: Option<Sharding>,
    delay: Option<Duration>,
    told: Told,
    appended: u64,
}

impl Press<'_> {
    async fn repeat(&mut self, message: &[Field], times: u64) -> Result<(), Failure> {
        let batch = vec![message.to_vec(); times.min(BATCH as u64) as usize];
        let mut left = times;
        while left > 0 {
            let now = left.min(BATCH as u64);
            self.append(&batch[..now as usize]).await?;
            left -= now;
        }
        Ok(())
    }

    /// A message for each line; a batch goes off when it is full, or when the next line is not there yet.
    async fn lines<R>(&mut self, input: R, name: &str, shape: &Shape) -> Result<(), Failure>
    where
        R: AsyncRead + Unpin,
    {
        let mut lines = Lines::new(input);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        loop {
            match next(&mut lines, name, shape).await {
                Ok(Next::Message(message)) => {
                    bytes += message.iter().map(|field| field.value.len()).sum::<usize>();
                    batch.push(message);
                }
                Ok(Next::Blank) => {}
                Ok(Next::End) => return self.append(&batch).await,
                Err(failure) => {
                    self.append(&batch).await?;
                    return Err(failure);
                }
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES || lines.would_wait() {
                self.append(&batch).await?;
                (batch, bytes) = (Vec::new(), 0);
            }
        }
    }

    async fn append(&mut self, batch: &[Vec<Field>]) -> Result<(), Failure> {
        let lines = match self.delay {
            Some(delay) => self.delayed(batch, delay).await?,
            None => {
                let ids = match &self.sharding {
                    Some(sharding) => self.broker.publish_sharded(sharding, batch).await?,
                    None => self.broker.publish(self.stream, batch).await?,
                };
                ids.iter().map(|id| format!("{id}\n")).collect::<String>()
            }
        };
        self.appended += batch.len() as u64;
        match self.told {
            Told::Nothing => {}
            // Whoever asked for messages to be appended wants them all, read or not.
            Told::EachMessage => _ = print::text(&lines)?,
        }
        Ok(())
    }

    /// Delays messages, and says when each is due.
    async fn delayed(&self, batch: &[Vec<Field>], delay: Duration) -> Result<String, Failure> {
        if let Some(long) = batch.iter().find(|message| message.len() > ENTRY_FIELDS_MAX) {
            let fields = long.len();
            let problem = format!(
                "a message of {fields} fields, more than the {ENTRY_FIELDS_MAX} that can be delayed"
            );
            return Err(Failure::Wrong(problem));
        }
        let due = match &self.sharding {
            Some(sharding) => self.broker.publish_sharded_later(sharding, batch, delay).await?,
            None => self.broker.publish_later(self.stream, batch, delay).await?,
        };
        let line = |at: &u64| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(*at);
            format!("{}\n", humantime::format_rfc3339_millis(at))
        };
        Ok(due.iter().map(line).collect())
    }

    /// Says how much was appended, where the ids alone do not show it.
    fn sum_up(&self, done: &Result<(), Failure>) {
        let messages = print::count(self.appended, "message");
        let stream = self.stream;
        match (done, self.told) {
            (Ok(()), Told::Nothing) => {}
            (Ok(()), Told::EachMessage) => self.say_done(&messages),
            (Err(Failure::Broker(_) | Failure::System { .. }), _) if self.appended == 0 => {}
            // Of the batch that failed, some may have arrived.
            (Err(Failure::Broker(_)), _) => {
                eprintln!("at least {messages} went to `{stream}` before this:");
            }
            (Err(_), _) => eprintln!("{messages} went to `{stream}` before this:"),
        }
    }

    fn say_done(&self, messages: &str) {
        let stream = self.stream;
        match self.delay {
            Some(delay) => {
                let delay = humantime::format_duration(delay);
                eprintln!(
                    "delayed {messages} for `{stream}` by {delay}; a running host appends them"
                );
            }
            None if self.appended == 1 => {}
            None => eprintln!("appended {messages} to `{stream}`"),
        }
    }
}
