//! Which suspects are next, and how many at a time: the order in which a message that kills its
//! host is looked for. Waiting for their turn and taking them is the quarantine's.
//!
//! Few run one at a time. Of many, a group runs together: where their host lives, all of them
//! are through at once; where it dies, those of the group run one at a time from then on.

use std::collections::VecDeque;
use std::sync::Arc;

use super::claim::Terms;
use crate::message::MessageId;

/// Suspects that are known at a time; further ones are found when these are done.
const KNOWN: usize = 1000;

/// So many run one at a time: that is soon done, and costs no further host.
const FEW: usize = 8;

/// Of more, so many run together: as many as may have to run again one at a time.
const TOGETHER: usize = 32;

/// The suspects of one handler that wait for their turn.
#[derive(Default)]
pub(super) struct Suspects {
    /// Those whose host died, and for whom no death was counted before, as far as is known.
    fresh: VecDeque<Suspect>,
    /// Those that run alone whatever their number: they go first.
    apart: VecDeque<Suspect>,
    /// Whether there were more than few since there were none.
    many: bool,
    /// Whether any has run in this process.
    tried: bool,
}

#[derive(Debug, Clone)]
struct Suspect {
    id: MessageId,
    holder: Arc<str>,
    terms: Terms,
}

/// Suspects that run next, with nothing beside them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub ids: Vec<MessageId>,
    pub holder: Arc<str>,
    pub terms: Terms,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.apart.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.fresh.len() + self.apart.len() < KNOWN
    }

    pub(super) fn know(&self, id: &MessageId) -> bool {
        self.fresh.iter().chain(&self.apart).any(|suspect| suspect.id == *id)
    }

    /// Adds those that are not known, as far as there is room; gives how many.
    pub(super) fn add<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a MessageId>,
        holder: &Arc<str>,
        terms: Terms,
    ) -> usize {
        let mut added = 0;
        for id in ids {
            if self.has_room() && !self.know(id) {
                let suspect = Suspect { id: *id, holder: holder.clone(), terms };
                match terms {
                    Terms::Died => self.fresh.push_back(suspect),
                    Terms::Crowd | Terms::Alone | Terms::Again | Terms::First | Terms::Together => {
                        self.apart.push_back(suspect);
                    }
                }
                added += 1;
            }
        }
        self.many |= self.fresh.len() > FEW;
        added
    }

    /// Those that run next, `most` at most.
    pub(super) fn next(&mut self, most: usize) -> Option<Group> {
        self.many &= !self.fresh.is_empty();
        let count = if self.many && self.apart.is_empty() { most.min(TOGETHER) } else { 1 };
        let first = self.apart.pop_front().or_else(|| self.fresh.pop_front())?;
        let holder = first.holder;
        let terms = match first.terms {
            Terms::Died if count > 1 => Terms::Together,
            Terms::Died if !self.tried => Terms::First,
            terms => terms,
        };
        let mut ids = vec![first.id];
        while ids.len() < count && self.fresh.front().is_some_and(|next| next.holder == holder) {
            ids.extend(self.fresh.pop_front().map(|next| next.id));
        }
        Some(Group { ids, holder, terms })
    }

    /// Notes that some run.
    pub(super) fn ran(&mut self) {
        self.tried = true;
    }

    /// Puts those back that the claim of a group did not come to.
    pub(super) fn put_back(&mut self, group: &Group, ids: &[MessageId]) {
        for id in ids.iter().rev() {
            let holder = group.holder.clone();
            self.fresh.push_front(Suspect { id: *id, holder, terms: Terms::Died });
        }
    }

    /// Puts a group back as it was before it was next.
    pub(super) fn restore(&mut self, group: &Group) {
        match group.terms {
            Terms::Together => self.put_back(group, &group.ids),
            Terms::Died | Terms::First => {
                self.set_apart(&group.ids, &group.holder, Terms::Died);
            }
            terms @ (Terms::Crowd | Terms::Alone | Terms::Again) => {
                self.set_apart(&group.ids, &group.holder, terms);
            }
        }
    }

    /// Has those run alone next that are in the group, or were to be.
    pub(super) fn set_apart(&mut self, ids: &[MessageId], holder: &Arc<str>, terms: Terms) {
        for id in ids.iter().rev() {
            self.apart.push_front(Suspect { id: *id, holder: holder.clone(), terms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u64) -> Vec<MessageId> {
        (1..=count).map(|millis| MessageId { millis, sequence: 0 }).collect()
    }

    fn of(count: u64) -> Suspects {
        let mut suspects = Suspects::default();
        suspects.add(ids(count).iter(), &"dead".into(), Terms::Died);
        suspects
    }

    fn sizes(suspects: &mut Suspects, most: usize) -> Vec<(usize, Terms)> {
        let mut sizes = Vec::new();
        while let Some(group) = suspects.next(most) {
            sizes.push((group.ids.len(), group.terms));
            suspects.ran();
        }
        sizes
    }

    #[test]
    fn few_run_one_at_a_time_and_the_first_is_known_as_such() {
        let mut suspects = of(3);
        let expected = [(1, Terms::First), (1, Terms::Died), (1, Terms::Died)];
        assert_eq!(sizes(&mut suspects, 100), expected);
    }

    #[test]
    fn many_run_together_to_the_last_and_no_more_than_there_are_slots() {
        assert_eq!(sizes(&mut of(70), 100), [32, 32, 6].map(|size| (size, Terms::Together)));
        assert_eq!(sizes(&mut of(9), 5), [5, 4].map(|size| (size, Terms::Together)));
        assert_eq!(sizes(&mut of(9), 1)[..2], [(1, Terms::First), (1, Terms::Died)]);
    }

    #[test]
    fn those_of_different_hosts_do_not_run_together() {
        let mut suspects = of(20);
        suspects.add(ids(40).iter(), &"other".into(), Terms::Died);
        assert_eq!(sizes(&mut suspects, 100), [20, 20].map(|size| (size, Terms::Together)));
    }

    #[test]
    fn what_a_group_left_runs_alone_before_the_others_and_what_it_did_not_come_to_is_next() {
        let mut suspects = of(50);
        let group = suspects.next(32).unwrap();
        suspects.ran();
        suspects.put_back(&group, &group.ids[30..]);
        suspects.set_apart(&group.ids[..2], &group.holder, Terms::Died);
        assert!(suspects.know(&group.ids[0]) && suspects.know(&group.ids[31]));
        assert!(!suspects.know(&group.ids[2]));
        let mut next = || suspects.next(32).unwrap();
        assert_eq!((next().ids, next().ids), (vec![group.ids[0]], vec![group.ids[1]]));
        assert_eq!(next().ids[..2], group.ids[30..]);
    }

    #[test]
    fn what_could_not_be_taken_is_next_on_the_same_terms() {
        for (count, expected) in [(20, Terms::Together), (2, Terms::First)] {
            let mut suspects = of(count);
            let group = suspects.next(32).unwrap();
            assert_eq!(group.terms, expected);
            suspects.restore(&group);
            assert_eq!(suspects.next(32).unwrap(), group);
        }
        let mut suspects = of(2);
        suspects.add(ids(3)[2..].iter(), &"other".into(), Terms::Alone);
        let group = suspects.next(32).unwrap();
        suspects.restore(&group);
        assert_eq!((suspects.next(32).unwrap(), group.terms), (group, Terms::Alone));
    }

    #[test]
    fn no_more_are_known_than_there_is_room_for() {
        let mut suspects = of(KNOWN as u64 + 5);
        assert!(!suspects.has_room());
        assert_eq!(suspects.add(ids(2).iter(), &"other".into(), Terms::Alone), 0);
        assert_eq!(sizes(&mut suspects, 32).iter().map(|(size, _)| size).sum::<usize>(), KNOWN);
    }
}
