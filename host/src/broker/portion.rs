//! How many entries a reply is asked to hold, learnt from those seen and those that never came. Pure.

use super::reply::RawEntry;

/// A reply is asked to hold about this many bytes at most, by the sizes seen so far.
pub(super) const REPLY_BYTES: usize = 8 << 20;

/// A reply is asked to hold this many entries at most.
const REPLY_ENTRIES: usize = 1000;

/// What is known of the entries of a stream.
#[derive(Debug)]
pub(super) struct Portion {
    /// A running mean of the bytes of an entry.
    entry_bytes: usize,
    /// What a reply may hold since one was too much; it doubles with each that comes.
    entries: usize,
}

impl Default for Portion {
    fn default() -> Self {
        Self { entry_bytes: 0, entries: REPLY_ENTRIES }
    }
}

impl Portion {
    /// How many to ask for when so many are wanted; at least one.
    pub(super) fn of(&self, wanted: usize) -> usize {
        let affordable = REPLY_BYTES / self.entry_bytes.max(1);
        wanted.min(affordable).min(self.entries).clamp(1, REPLY_ENTRIES)
    }

    /// Learns from a reply.
    pub(super) fn came(&mut self, entries: &[RawEntry]) {
        for fields in entries.iter().filter_map(|entry| entry.fields.as_ref()) {
            let bytes: usize = fields.iter().map(|f| f.name.len() + f.value.len()).sum();
            self.entry_bytes = (self.entry_bytes * 7 + bytes) / 8;
        }
        if !entries.is_empty() {
            self.entries = (self.entries * 2).min(REPLY_ENTRIES);
        }
    }

    /// Learns from a reply to a request for so many that did not come: it may have been too large.
    pub(super) fn failed(&mut self, asked: usize) {
        self.entries = (asked / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Field;

    fn entry(bytes: usize) -> RawEntry {
        let fields = vec![Field::new("", vec![0; bytes])];
        RawEntry { id: "1-1".parse().unwrap(), fields: Some(fields) }
    }

    #[test]
    fn large_entries_are_asked_for_few_at_a_time() {
        let mut portion = Portion::default();
        assert_eq!(portion.of(100), 100);
        assert_eq!(portion.of(5000), REPLY_ENTRIES);
        for _ in 0..50 {
            portion.came(&[entry(2 << 20)]);
        }
        assert_eq!(portion.of(100), 4);
        assert_eq!(portion.of(0), 1);
    }

    #[test]
    fn a_reply_that_does_not_come_halves_what_is_asked_for_and_one_that_does_doubles_it() {
        let mut portion = Portion::default();
        portion.failed(100);
        assert_eq!(portion.of(100), 50);
        portion.failed(50);
        assert_eq!(portion.of(100), 25);
        portion.came(&[]);
        assert_eq!(portion.of(100), 25, "nothing is learnt from nothing");
        portion.came(&[entry(1)]);
        assert_eq!(portion.of(100), 50);
        portion.failed(1);
        assert_eq!(portion.of(100), 1);
    }
}
