//! `tidegate pause` and `tidegate resume`: a handler on all hosts at once, also after restarts.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::source::Source;
use super::{Failure, print};
use crate::broker::{Broker, Change, Paused};
use crate::manifest::{Handler, Manifest, Supply};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The handlers, by their names in the manifest
    #[arg(value_name = "HANDLER", required_unless_present = "all", conflicts_with = "all")]
    handlers: Vec<String>,
    /// All handlers of the manifest
    #[arg(long)]
    all: bool,
    /// Print the new state as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// What is wanted of the handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Pause,
    Resume,
}

pub(super) async fn run(arguments: Arguments, wish: Wish) -> Result<(), Failure> {
    let manifest = arguments.source.manifest.load()?;
    let handlers = if arguments.all {
        let (may, others) = manifest.handlers.iter().partition::<Vec<_>, _>(|h| may_pause(h));
        for handler in others {
            eprintln!("{}: left alone, as it listens to a channel", handler.name);
        }
        may
    } else {
        arguments
            .handlers
            .iter()
            .map(|name| named(&manifest, name))
            .collect::<Result<Vec<_>, _>>()?
    };
    let broker = arguments.source.connect("tidegate-pause").await?;
    let mut states = Vec::with_capacity(handlers.len());
    for handler in handlers {
        states.push(State::reach(&broker, handler, wish).await?);
    }
    let printed = if arguments.json {
        print::json(&States { handlers: states })
    } else {
        print::text(&states.iter().map(State::line).collect::<String>())
    };
    printed.map(drop)
}

fn named<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a Handler, Failure> {
    let handler = manifest.handler(name).ok_or_else(|| {
        let known: Vec<_> = manifest.handlers.iter().map(|handler| &*handler.name).collect();
        let (file, known) = (manifest.path.display(), known.join(", "));
        Failure::Usage(format!("no handler `{name}` in {file}; there is {known}"))
    })?;
    if may_pause(handler) {
        return Ok(handler);
    }
    Err(Failure::Usage(format!(
        "handler `{name}` listens to a channel, which keeps nothing for later; stop its hosts instead"
    )))
}

/// Whether what comes while it is paused is kept for it.
fn may_pause(handler: &Handler) -> bool {
    match handler.supply {
        Supply::Group | Supply::Broadcast => true,
        Supply::Channel => false,
    }
}

#[derive(Debug, Serialize)]
struct States {
    handlers: Vec<State>,
}

/// How a handler stands now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct State {
    handler: String,
    paused: bool,
    /// Whether this command made it so.
    changed: bool,
    /// Who paused it, while it is paused.
    pause: Option<Paused>,
}

impl State {
    async fn reach(broker: &Broker, handler: &Handler, wish: Wish) -> Result<Self, Failure> {
        let change = match wish {
            Wish::Pause => broker.pause(handler, &oneself()).await?,
            Wish::Resume => broker.resume(handler).await?,
        };
        let pause = broker.paused(handler).await?;
        let changed = change == Change::Made;
        Ok(Self { handler: handler.name.to_string(), paused: pause.is_some(), changed, pause })
    }

    fn line(&self) -> String {
        let name = &self.handler;
        match (&self.pause, self.changed) {
            (Some(_), true) => format!("{name}: paused; what is in hand is finished\n"),
            (Some(pause), false) => format!("{name}: was paused already, {}\n", by(pause)),
            (None, true) => format!("{name}: resumed\n"),
            (None, false) => format!("{name}: was not paused\n"),
        }
    }
}

fn by(pause: &Paused) -> String {
    let who = print::legible(pause.by.as_bytes());
    let who = if who.is_empty() { "by somebody".to_owned() } else { format!("by {who}") };
    match pause.lasted {
        Duration::ZERO => who,
        lasted => format!("{who} {} ago", print::span(lasted.as_millis() as u64)),
    }
}

/// Who uses this terminal, for whoever wonders later.
pub(super) fn oneself() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let machine = gethostname::gethostname().to_string_lossy().into_owned();
    user.map_or_else(|| machine.clone(), |user| format!("{user}@{machine}"))
}
