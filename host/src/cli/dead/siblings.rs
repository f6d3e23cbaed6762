//! Letters of one message: several hosts may have buried it, where each sees every message, and one new
//! message on its stream comes to all of them.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::broker::DeadLetter;
use crate::message::MessageId;

/// What goes between a broadcast's group and the name of a host.
const BETWEEN: char = ':';

/// Letters that moved, by the message that they are of, as far as there may be others of it.
#[derive(Debug, Default)]
pub(super) struct Siblings(HashMap<[u8; 32], Moved>);

/// The letter that moved for all others of its message, and the new message's id.
#[derive(Debug)]
struct Moved {
    letter: MessageId,
    new: String,
}

impl Siblings {
    /// So many are remembered at a time at most.
    pub(super) const MOST: usize = 100_000;

    /// The first letter of each message that none moved for yet.
    pub(super) fn eldest<'a>(&self, letters: &'a [DeadLetter]) -> Vec<&'a DeadLetter> {
        let mut seen = Vec::new();
        let is_first = |letter: &&DeadLetter| {
            let Some(message) = message(letter) else { return true };
            let is_known = self.0.contains_key(&message) || seen.contains(&message);
            seen.push(message);
            !is_known
        };
        letters.iter().filter(is_first).collect()
    }

    /// Takes note of a letter that moved, and of the new message's id.
    pub(super) fn note(&mut self, letter: &DeadLetter, new: &str) {
        if let Some(message) = message(letter) {
            self.0.insert(message, Moved { letter: letter.id, new: new.to_owned() });
        }
    }

    /// The id of the new message that another letter of the same message moved as.
    pub(super) fn went_as(&self, letter: &DeadLetter) -> Option<&str> {
        let moved = self.0.get(&message(letter)?)?;
        (moved.letter != letter.id).then_some(&*moved.new)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Which message a letter is of, if others may be of the same: handler, stream, id and, as ids may come
/// again on a stream that was deleted, what is in it.
fn message(letter: &DeadLetter) -> Option<[u8; 32]> {
    if !letter.note.group.contains(BETWEEN) {
        return None;
    }
    let mut hash = Sha256::new();
    let mut take = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    for part in [&letter.note.handler, &letter.note.source, &letter.note.id] {
        take(part.as_bytes());
    }
    for field in &letter.fields {
        take(&field.name);
        take(&field.value);
    }
    Some(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::letter;
    use super::*;
    use crate::message::Field;

    fn of_host(id: &str, host: &str) -> DeadLetter {
        let mut letter = letter(id, "price", "reject");
        letter.note.group = format!("price:{host}");
        letter
    }

    fn ids(letters: &[&DeadLetter]) -> Vec<String> {
        letters.iter().map(|letter| letter.id.to_string()).collect()
    }

    #[test]
    fn of_the_letters_of_one_message_the_first_moves_and_the_others_go_with_it() {
        let mut other = of_host("4-0", "b");
        other.fields.push(Field::new("more", ""));
        let letters = [of_host("1-0", "a"), of_host("2-0", "b"), of_host("3-0", "c"), other];
        let mut siblings = Siblings::default();
        assert_eq!(ids(&siblings.eldest(&letters)), ["1-0", "4-0"]);
        siblings.note(&letters[0], "9-0");
        assert_eq!(ids(&siblings.eldest(&letters)), ["4-0"]);
        let went = letters.each_ref().map(|letter| siblings.went_as(letter));
        assert_eq!(went, [None, Some("9-0"), Some("9-0"), None]);
    }

    #[test]
    fn letters_of_a_group_that_all_hosts_share_each_move() {
        let letters = ["1-0", "2-0"].map(|id| letter(id, "price", "reject"));
        let mut siblings = Siblings::default();
        siblings.note(&letters[0], "9-0");
        assert_eq!(siblings.len(), 0);
        assert_eq!(ids(&siblings.eldest(&letters)), ["1-0", "2-0"]);
    }
}
