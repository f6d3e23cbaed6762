//! `tidegate retries release`: do not wait any longer.

use clap::ArgGroup;

use super::{Failure, Place, Tally, locate, once};
use crate::broker::{Broker, Steered};
use crate::manifest::Handler;
use crate::message::MessageId;

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub(super) struct Arguments {
    /// Ids of messages, as `list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
    /// All retries that wait now, or those of --handler
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let groups = arguments.place.open().await?;
    let mut tally = Tally::default();
    if arguments.all {
        for handler in &groups.handlers {
            tally.done += all(&groups.broker, handler).await?;
        }
    } else {
        let (found, missing) = locate(&groups, &once(&arguments.ids)).await?;
        for (handler, ids) in found {
            let released = groups.broker.retries(handler).release(&ids).await?;
            ids.iter().zip(released).for_each(|(id, steered)| tally.add(*id, steered));
        }
        tally.missing(&missing);
    }
    tally.verdict("released", arguments.place.form())
}

/// Releases what waits now; what a host takes meanwhile needs no release.
async fn all(broker: &Broker, handler: &Handler) -> Result<u64, Failure> {
    let retries = broker.retries(handler);
    let mut walk = retries.walk().await?;
    let mut done = 0;
    loop {
        let ids = walk.next().await?;
        if ids.is_empty() {
            return Ok(done);
        }
        let released = retries.release(&ids).await?;
        done += released.iter().filter(|steered| **steered == Steered::Done).count() as u64;
    }
}
