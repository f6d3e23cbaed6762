//! `tidegate dead purge`: remove letters for good; what no burial wrote is left alone.

use super::Failure;
use super::amiss::Amiss;
use super::pace::until_signal;
use super::print;
use super::select::{Choice, Filter, Graveyard, Place, Selection, missing};
use crate::broker::DeadLetter;
use crate::message::MessageId;
use crate::shutdown::Stop;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Yes, remove them all
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let choice = arguments.selection.choice()?;
    if matches!(choice, Choice::All(_)) && !arguments.yes {
        let problem = "--all removes letters for good; say --yes to it";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let graveyard = arguments.place.open().await?;
    let (purged, done) = until_signal(async |stop: Stop| {
        let mut purged = 0;
        let done = purge(&graveyard, choice, &stop, &mut purged).await;
        (purged, done)
    })
    .await?;
    eprintln!("purged {}", print::count(purged, "dead letter"));
    done
}

async fn purge(
    graveyard: &Graveyard,
    choice: Choice,
    stop: &Stop,
    purged: &mut u64,
) -> Result<(), Failure> {
    match choice {
        Choice::These(ids) => {
            let found = graveyard.find(&ids).await?;
            for (stream, letters) in &found.letters {
                *purged += graveyard.letters(stream).purge(&ids_of(letters)).await?;
            }
            missing(&found.missing)
        }
        Choice::All(filter) => {
            let mut amiss = Amiss::default();
            for stream in graveyard.streams() {
                amiss.pass_over(whole(graveyard, stream, &filter, (stop, purged)).await)?;
            }
            if stop.is_cancelled() {
                return Err(Failure::Wrong("stopped before the end; the others stay".to_owned()));
            }
            amiss.verdict()
        }
    }
}

async fn whole(
    graveyard: &Graveyard,
    stream: &str,
    filter: &Filter,
    (stop, purged): (&Stop, &mut u64),
) -> Result<(), Failure> {
    let mut walk = graveyard.walk(stream, filter).await?;
    while !stop.is_cancelled()
        && let Some(page) = walk.next().await?
    {
        *purged += walk.letters.purge(&ids_of(&page)).await?;
    }
    Ok(())
}

fn ids_of(letters: &[DeadLetter]) -> Vec<MessageId> {
    letters.iter().map(|letter| letter.id).collect()
}
