//! What a command cannot read, as a key is of another type: said at once, and no reason to leave out the rest.

use super::{Failure, print, reasons};

/// How many places were passed over.
#[derive(Debug, Default)]
pub(super) struct Amiss(u64);

impl Amiss {
    /// Says what is wrong with one key, and goes on; every other failure is the command's.
    pub(super) fn pass_over<T>(&mut self, done: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match done {
            Err(Failure::Broker(error)) if error.is_of_one_key() => {
                self.0 += 1;
                eprintln!("{}; passed over", print::legible_lines(&reasons(&error)));
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    /// Whether all could be read.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.0 {
            0 => Ok(()),
            places => Err(Failure::Wrong(format!(
                "all but {}: a key of another type is in the way; `TYPE` says which, `DEL` or `RENAME` clears it",
                print::count(places, "place")
            ))),
        }
    }
}
