//! `tidegate retries bury`: give a message up before its attempts run out.

use super::{Failure, Place, Tally, locate, once};
use crate::message::MessageId;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ids of messages, as `list` shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<MessageId>,
    /// Why, for the dead letter's error
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let groups = arguments.place.open().await?;
    let (found, missing) = locate(&groups, &once(&arguments.ids)).await?;
    let mut tally = Tally::default();
    for (handler, ids) in found {
        let retries = groups.broker.retries(handler);
        for id in ids {
            tally.add(id, retries.bury(id, arguments.because.as_deref()).await?);
        }
    }
    tally.missing(&missing);
    tally.verdict("buried", arguments.place.form())
}
