//! `tidegate retries release`: do not wait any longer.

use clap::ArgGroup;

use super::{Amiss, Failure, Place, Tally, locate, once};
use crate::broker::{Broker, Steered};
use crate::cli::groups::Groups;
use crate::cli::pace::until_signal;
use crate::manifest::Handler;
use crate::message::MessageId;
use crate::shutdown::Stop;

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
    let mut amiss = Amiss::default();
    let done = if arguments.all {
        until_signal(async |stop| all(&groups, &stop, &mut tally, &mut amiss).await).await?
    } else {
        these(&groups, &once(&arguments.ids), &mut tally).await
    };
    if tally.done > 0 {
        groups.holdups().await.iter().for_each(|why| eprintln!("{why}"));
    }
    let verdict = tally.verdict("released", arguments.place.form());
    done?;
    amiss.verdict().and(verdict)
}

async fn these(groups: &Groups, ids: &[MessageId], tally: &mut Tally) -> Result<(), Failure> {
    let (found, missing) = locate(groups, ids).await?;
    for (handler, ids) in found {
        let released = groups.broker.retries(handler).release(&ids).await?;
        ids.iter().zip(released).for_each(|(id, steered)| tally.add(*id, steered));
    }
    tally.missing(&missing);
    Ok(())
}

async fn all(
    groups: &Groups,
    stop: &Stop,
    tally: &mut Tally,
    amiss: &mut Amiss,
) -> Result<(), Failure> {
    for handler in &groups.handlers {
        amiss.pass_over(of_one(&groups.broker, handler, stop, tally).await)?;
        if stop.is_cancelled() {
            return Err(Failure::Wrong("stopped before the end; the others wait on".to_owned()));
        }
    }
    Ok(())
}

/// Releases what waits now; what a host takes meanwhile needs no release.
async fn of_one(
    broker: &Broker,
    handler: &Handler,
    stop: &Stop,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let retries = broker.retries(handler);
    let mut walk = retries.walk().await?;
    while !stop.is_cancelled() {
        let ids = walk.next().await?;
        if ids.is_empty() {
            break;
        }
        let released = retries.release(&ids).await?;
        tally.done += released.iter().filter(|steered| **steered == Steered::Done).count() as u64;
    }
    Ok(())
}
