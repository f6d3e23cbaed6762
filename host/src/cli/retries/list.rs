//! `tidegate retries list`: the retries of all handlers, the soonest first.

use std::collections::VecDeque;

use comfy_table::Cell;
use serde::Serialize;

use super::print::{self, cell, number};
use super::{Amiss, Failure, Listed, Listing, Place, moment};
use crate::broker::{Retries, Waiting};
use crate::manifest::Handler;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How many retries to list at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = crate::cli::listing::at_least_one)]
    limit: usize,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let groups = arguments.place.open().await?;
    let mut queues: Vec<Queue<'_>> = groups
        .handlers
        .iter()
        .map(|handler| Queue {
            handler,
            retries: groups.broker.retries(handler),
            read: 0,
            ahead: VecDeque::new(),
            ended: false,
        })
        .collect();
    let mut listing = Listing::new(arguments.place.form(), arguments.limit);
    let mut amiss = Amiss::default();
    while !listing.is_over() {
        let page = soonest(&mut queues, &mut amiss).await?;
        if page.is_empty() {
            break;
        }
        listing.page(page)?;
    }
    listing.end("no retry waits")?;
    amiss.verdict()
}

/// Retries that are printed together.
const PAGE: usize = 500;

/// The retries of one group, of which a page is read ahead.
struct Queue<'a> {
    handler: &'a Handler,
    retries: Retries<'a>,
    read: usize,
    ahead: VecDeque<Waiting>,
    ended: bool,
}

impl Queue<'_> {
    /// When its next one is due; none at its end.
    async fn next_due(&mut self) -> Result<Option<u64>, Failure> {
        if self.ahead.is_empty() && !self.ended {
            self.ahead = self.retries.page(self.read).await?.into();
            self.read += self.ahead.len();
            self.ended = self.ahead.is_empty();
        }
        Ok(self.ahead.front().map(|retry| retry.due))
    }
}

/// The next page of all queues together; empty at the end of all.
async fn soonest(queues: &mut [Queue<'_>], amiss: &mut Amiss) -> Result<Vec<Shown>, Failure> {
    let mut page = Vec::new();
    while page.len() < PAGE {
        let mut first = None;
        for (at, queue) in queues.iter_mut().enumerate() {
            let due = queue.next_due().await;
            queue.ended |= due.is_err();
            let due = amiss.pass_over(due)?.flatten();
            first = [first, due.map(|due| (due, at))].into_iter().flatten().min();
        }
        let Some((_, at)) = first else { break };
        let queue = &mut queues[at];
        page.extend(queue.ahead.pop_front().map(|retry| Shown::new(queue.handler, retry)));
    }
    Ok(page)
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
        vec![
            cell(&self.id),
            cell(&self.handler),
            cell(&self.stream),
            number(self.failures),
            cell(&print::due(self.due_in_ms)),
            self.error.as_deref().map_or(cell(print::ABSENT), cell),
        ]
    }
}
