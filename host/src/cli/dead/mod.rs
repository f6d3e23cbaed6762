//! `tidegate dead`: what became of messages that were given up.

mod count;
mod list;
mod purge;
mod redrive;
mod select;
mod show;
mod siblings;
mod tally;
#[cfg(test)]
mod tests;

use super::{Failure, amiss, listing, moment, pace, print};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters, the oldest first, and count them by handler and reason
    List(list::Arguments),
    /// Count dead letters by handler and reason
    Count(count::Arguments),
    /// Show one dead letter with its original fields
    Show(show::Arguments),
    /// Put original messages back on their streams; each has all its attempts again
    Redrive(redrive::Arguments),
    /// Remove dead letters for good
    Purge(purge::Arguments),
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::List(arguments) => list::run(arguments).await,
        Command::Count(arguments) => count::run(arguments).await,
        Command::Show(arguments) => show::run(arguments).await,
        Command::Redrive(arguments) => redrive::run(arguments).await,
        Command::Purge(arguments) => purge::run(arguments).await,
    }
}
