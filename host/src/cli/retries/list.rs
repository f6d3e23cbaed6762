//! `tidegate retries list`: the retries of all handlers, the soonest first.

use comfy_table::Cell;
use serde::Serialize;

use super::print::{self, CELL};
use super::{Failure, Listed, Listing, Place, moment};
use crate::broker::Waiting;
use crate::manifest::Handler;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How many retries to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let groups = arguments.place.open().await?;
    let mut soonest: Vec<(u64, Shown)> = Vec::new();
    // One more than is asked for shows that there are more.
    let kept = arguments.limit.saturating_add(1);
    for handler in &groups.handlers {
        let retries = groups.broker.retries(handler);
        let mut read = 0;
        while read < kept {
            let page = retries.page(read).await?;
            if page.is_empty() {
                break;
            }
            read += page.len();
            soonest.extend(page.into_iter().map(|retry| (retry.due, Shown::new(handler, retry))));
        }
        soonest.sort_by_key(|(due, _)| *due);
        soonest.truncate(kept);
    }
    let mut listing = Listing::new(arguments.place.form(), arguments.limit);
    listing.page(soonest.into_iter().map(|(_, shown)| shown).collect())?;
    listing.end("no retry waits")
}

/// A retry as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Shown {
    handler: String,
    stream: String,
    group: String,
    id: String,
    failures: u32,
    due: String,
    due_in_ms: u64,
    error: Option<String>,
}

impl Shown {
    fn new(handler: &Handler, retry: Waiting) -> Self {
        Self {
            handler: handler.name.to_string(),
            stream: handler.stream.to_string(),
            group: handler.group.to_string(),
            id: retry.id.to_string(),
            failures: retry.failures,
            due: moment::shown(retry.due),
            due_in_ms: retry.due_in,
            error: retry.error,
        }
    }
}

impl Listed for Shown {
    const COLUMNS: &'static [&'static str] =
        &["id", "handler", "stream", "failures", "next try", "last error"];

    fn row(&self) -> Vec<Cell> {
        let cell = |text: &str| Cell::new(print::elided(&print::legible(text.as_bytes()), CELL));
        vec![
            cell(&self.id),
            cell(&self.handler),
            cell(&self.stream),
            Cell::new(self.failures),
            cell(&print::due(self.due_in_ms)),
            self.error.as_deref().map_or(cell(print::ABSENT), cell),
        ]
    }
}
