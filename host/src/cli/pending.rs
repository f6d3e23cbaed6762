//! `tidegate pending`: what was read and is not settled, who has it, and since when.

use std::time::Duration;

use comfy_table::{Cell, Color};
use serde::Serialize;

use super::Failure;
use super::amiss::Amiss;
use super::groups::Groups;
use super::listing::{FormWanted, Listed, Listing};
use super::moment;
use super::print::{self, cell, number};
use super::source::Source;
use crate::broker::{Broker, Holder, PendingEntry};
use crate::manifest::{self, Handler};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only these handlers; by default all of the manifest's
    #[arg(value_name = "HANDLER")]
    handlers: Vec<String>,
    /// How many entries to list at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = crate::cli::listing::at_least_one)]
    limit: usize,
    /// Only entries that have been where they are for at least so long, such as 30s
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = span)]
    idle: Duration,
    #[command(flatten)]
    wanted: FormWanted,
    #[command(flatten)]
    source: Source,
}

/// Parses a duration from the command line.
fn span(text: &str) -> Result<Duration, String> {
    manifest::duration(text).ok_or_else(|| "expected a time with its unit, such as 30s".to_owned())
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let groups = Groups::open(&arguments.source, &arguments.handlers, "tidegate-pending").await?;
    let mut listing = Listing::new(arguments.wanted.form(), arguments.limit);
    let mut amiss = Amiss::default();
    for handler in &groups.handlers {
        amiss.pass_over(list(&groups.broker, handler, arguments.idle, &mut listing).await)?;
        if listing.is_over() {
            break;
        }
    }
    listing.end("nothing is pending")?;
    amiss.verdict()
}

async fn list(
    broker: &Broker,
    handler: &Handler,
    idle: Duration,
    listing: &mut Listing,
) -> Result<(), Failure> {
    let Some(mut entries) = broker.pending(handler, idle).await? else { return Ok(()) };
    while !listing.is_over() {
        let page = entries.next().await?;
        if page.is_empty() {
            break;
        }
        listing.page(page.into_iter().map(|entry| Shown::new(handler, entry)).collect())?;
    }
    Ok(())
}

/// An entry as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Shown {
    handler: String,
    stream: String,
    group: String,
    id: String,
    state: &'static str,
    /// The consumer that has it; absent while it waits.
    holder: Option<String>,
    since: String,
    idle_ms: u64,
    deliveries: u64,
    failures: u32,
    /// Whether it runs apart from all others, as a host died with it in flight.
    suspected: bool,
    error: Option<String>,
    /// In how long its next attempt is due; absent unless it waits.
    due_in_ms: Option<u64>,
}

impl Shown {
    fn new(handler: &Handler, entry: PendingEntry) -> Self {
        let (state, holder, due_in_ms) = match entry.holder {
            Holder::Alive(name) => ("in hand", Some(name), None),
            Holder::Silent(name) => ("left behind", Some(name), None),
            Holder::Nobody { due_in } => ("waiting", None, due_in),
        };
        Self {
            handler: handler.name.to_string(),
            stream: handler.stream.to_string(),
            group: handler.group.to_string(),
            id: entry.id.to_string(),
            state,
            holder,
            since: moment::shown(entry.since),
            idle_ms: entry.idle,
            deliveries: entry.deliveries,
            failures: entry.failures,
            suspected: entry.suspected,
            error: entry.error,
            due_in_ms,
        }
    }
}

impl Listed for Shown {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "handler",
        "stream",
        "state",
        "host",
        "for",
        "deliveries",
        "failures",
        "suspected",
        "next try",
        "last error",
    ];

    fn row(&self) -> Vec<Cell> {
        let state = cell(self.state);
        vec![
            cell(&self.id),
            cell(&self.handler),
            cell(&self.stream),
            // Nobody shows a sign of life for it.
            if self.state == "left behind" { state.fg(Color::Red) } else { state },
            self.holder.as_deref().map_or(cell(print::ABSENT), cell),
            number(print::span(self.idle_ms)),
            number(self.deliveries),
            number(self.failures),
            if self.suspected { cell("yes").fg(Color::Red) } else { cell("no") },
            cell(&self.due_in_ms.map_or(print::ABSENT.to_owned(), print::due)),
            self.error.as_deref().map_or(cell(print::ABSENT), cell),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_has_it_or_when_it_is_due() {
        let entry = |holder| PendingEntry {
            id: "5-1".parse().unwrap(),
            holder,
            since: 1000,
            idle: 2500,
            deliveries: 2,
            failures: 1,
            suspected: true,
            error: Some("first\u{1b}[2J".into()),
        };
        let handler = {
            use crate::manifest::{Manifest, ProcessEnvironment};
            let text = "[handler.h]\nplugin = \"h.wasm\"\nstream = \"in\"";
            let path = std::path::Path::new("t.toml");
            Manifest::parse(text, path, &ProcessEnvironment).unwrap().handlers.remove(0)
        };
        let row = |holder| -> Vec<String> {
            Shown::new(&handler, entry(holder)).row().iter().map(Cell::content).collect()
        };
        let waiting = row(Holder::Nobody { due_in: Some(61_000) });
        assert_eq!(waiting[3..6], ["waiting", "–", "2s"]);
        assert_eq!(waiting[8..], ["yes", "in 1m 1s", r"first\u{1b}[2J"]);
        let held = row(Holder::Alive("a".into()));
        assert_eq!(held[3..10], ["in hand", "a", "2s", "2", "1", "yes", "–"]);
        assert_eq!(row(Holder::Silent("a".into()))[3], "left behind");
    }
}
