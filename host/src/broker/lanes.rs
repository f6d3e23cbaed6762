//! Whose turn it is: messages of one key follow each other, those of different keys do not wait.
//!
//! A lane is a key's line of ids, as short as it is long ago that one failed. Only its
//! head is handed out; the next becomes the head once Redis has confirmed that the
//! head is settled. Nothing here knows Redis, and no bodies are kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ward::Solitude;
use crate::message::MessageId;

/// What messages of one lane have in common: the value of the handler's `order-by` field, empty without it.
pub(super) type Key = Arc<[u8]>;

/// Where the head of a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It may be handed out.
    Ready,
    /// It may be handed out to run alone.
    Suspected,
    /// Nobody may have it for now.
    Withheld,
    /// It was handed out and is not settled.
    InHand,
    /// It waits for its next attempt.
    Waiting,
}

/// Where heads are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Oldest,
    Newest,
}

impl End {
    /// This one; the other is next.
    pub(super) fn swap(&mut self) -> Self {
        let other = match self {
            Self::Oldest => Self::Newest,
            Self::Newest => Self::Oldest,
        };
        std::mem::replace(self, other)
    }
}

/// What a settlement means for those behind the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It is done with: the next one's turn has come.
    Next,
    /// It is tried again, and they wait for that.
    Again,
}

/// The lanes of one stream.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lines: Mutex<Lines>,
    moved: Notify,
    /// While a head runs alone. Here, as it is to last until whoever knows the lanes is done with it.
    solitude: Mutex<Option<Solitude>>,
}

#[derive(Debug, Default)]
struct Lines {
    lanes: HashMap<Key, Lane>,
    /// The lane of each head.
    heads: HashMap<MessageId, Key>,
    ready: BTreeSet<MessageId>,
    suspected: BTreeSet<MessageId>,
    withheld: BTreeSet<MessageId>,
    /// Heads that wait for their next attempt.
    waiting: usize,
    /// Ids that are not heads.
    behind: usize,
    /// Those of them that wait in Redis, as a replay has them do, and whether their time has come.
    parked: HashMap<MessageId, Stage>,
}

#[derive(Debug)]
struct Lane {
    /// Where its head is.
    stage: Stage,
    behind: BTreeSet<MessageId>,
}

impl Lanes {
    /// Puts a message at its place in its lane; as the head, it is at this stage. One that is known stays as
    /// it is, unless it is suspected or withheld.
    pub(super) fn admit(&self, id: MessageId, key: Key, stage: Stage) {
        let mut lines = self.lock();
        match lines.stage(&id) {
            Some(Stage::Suspected | Stage::Withheld) => return lines.move_to(&id, stage),
            Some(Stage::Ready | Stage::InHand | Stage::Waiting) => return,
            None => {}
        }
        let added = lines.lanes.get_mut(&key).map(|lane| lane.behind.insert(id));
        match added {
            Some(added) => {
                lines.behind += usize::from(added);
                if added && stage == Stage::Waiting {
                    lines.parked.insert(id, stage);
                }
            }
            None => lines.lead(id, key, stage, BTreeSet::new()),
        }
    }

    /// Hands out heads that are ready, beginning at this end.
    pub(super) fn take(&self, most: usize, from: End) -> Vec<MessageId> {
        let mut lines = self.lock();
        let next = || match from {
            End::Oldest => lines.ready.pop_first(),
            End::Newest => lines.ready.pop_last(),
        };
        let taken: Vec<_> = std::iter::from_fn(next).take(most).collect();
        for id in &taken {
            lines.move_to(id, Stage::InHand);
        }
        taken
    }

    /// Hands out the oldest head that is to run alone.
    pub(super) fn take_suspect(&self) -> Option<MessageId> {
        let mut lines = self.lock();
        let id = lines.suspected.first().copied()?;
        lines.move_to(&id, Stage::InHand);
        Some(id)
    }

    /// Takes back a head that was handed out in vain, as one that is to run alone.
    pub(super) fn suspect(&self, id: &MessageId) {
        self.lock().move_to(id, Stage::Suspected);
    }

    /// Has nobody have a head for now.
    pub(super) fn withhold(&self, id: &MessageId) {
        self.lock().move_to(id, Stage::Withheld);
    }

    /// How many heads are to run alone.
    pub(super) fn suspects(&self) -> usize {
        self.lock().suspected.len()
    }

    /// The solitude of the head that runs alone, if one does.
    pub(super) fn solitude(&self) -> MutexGuard<'_, Option<Solitude>> {
        self.solitude.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in that messages are settled, in one step with `let_go`, which takes them out of hand.
    pub(super) fn settled(
        &self,
        settled: impl IntoIterator<Item = (MessageId, After)>,
        let_go: impl FnOnce(),
    ) {
        let mut lines = self.lock();
        let_go();
        for (id, after) in settled {
            match after {
                After::Next => lines.pass(&id),
                After::Again => lines.move_to(&id, Stage::Waiting),
            }
        }
        self.moved.notify_one();
    }

    /// Takes in that messages have waited long enough; those behind a head still wait for it. Gives how many
    /// of these ids are not known here: somebody may have put them there, as a replay does.
    pub(super) fn due(&self, ids: impl IntoIterator<Item = MessageId>) -> usize {
        let mut lines = self.lock();
        let mut others = 0;
        for id in ids {
            match lines.stage(&id) {
                Some(Stage::Waiting) => lines.move_to(&id, Stage::Ready),
                Some(Stage::Ready | Stage::Suspected | Stage::Withheld | Stage::InHand) => {}
                None => match lines.parked.get_mut(&id) {
                    Some(stage) => *stage = Stage::Ready,
                    None => others += 1,
                },
            }
        }
        others
    }

    /// Heads that wait for their next attempt, behind an id, the oldest first.
    pub(super) fn waiting_behind(&self, from: Option<MessageId>, most: usize) -> Vec<MessageId> {
        let lines = self.lock();
        let waits = |id: &&MessageId| from < Some(**id) && lines.stage(id) == Some(Stage::Waiting);
        let mut waiting: Vec<_> = lines.heads.keys().filter(waits).copied().collect();
        waiting.sort_unstable();
        waiting.truncate(most);
        waiting
    }

    /// How many messages are not in hand.
    pub(super) fn at_rest(&self) -> usize {
        let lines = self.lock();
        let heads = lines.ready.len() + lines.suspected.len() + lines.withheld.len();
        lines.behind + lines.waiting + heads
    }

    /// Has heads handed out again that were, and that nobody has in hand any more.
    pub(super) fn reconsider(&self, held: impl Fn(&MessageId) -> bool) {
        let mut lines = self.lock();
        let handed_out = |id: &&MessageId| lines.stage(id) == Some(Stage::InHand) && !held(id);
        let lost: Vec<_> = lines.heads.keys().filter(handed_out).copied().collect();
        for id in lost {
            lines.move_to(&id, Stage::Ready);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.lock() = Lines::default();
    }

    /// Waits until something was settled since this was last waited for.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// How many heads wait for their next attempt.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// How many messages wait for one before them.
    pub(super) fn behind(&self) -> usize {
        self.lock().behind
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn lead(&mut self, head: MessageId, key: Key, stage: Stage, behind: BTreeSet<MessageId>) {
        self.heads.insert(head, key.clone());
        // It enters as if it were in hand, which no index knows of.
        self.lanes.insert(key, Lane { stage: Stage::InHand, behind });
        self.move_to(&head, stage);
    }

    fn stage(&self, head: &MessageId) -> Option<Stage> {
        let key = self.heads.get(head)?;
        self.lanes.get(key).map(|lane| lane.stage)
    }

    fn move_to(&mut self, head: &MessageId, stage: Stage) {
        let Some(lane) = self.heads.get(head).and_then(|key| self.lanes.get_mut(key)) else {
            return;
        };
        let before = std::mem::replace(&mut lane.stage, stage);
        self.waiting -= usize::from(before == Stage::Waiting);
        self.waiting += usize::from(stage == Stage::Waiting);
        if let Some(index) = self.index(before) {
            index.remove(head);
        }
        if let Some(index) = self.index(stage) {
            index.insert(*head);
        }
    }

    /// The heads at a stage, where they are found by it.
    fn index(&mut self, stage: Stage) -> Option<&mut BTreeSet<MessageId>> {
        match stage {
            Stage::Ready => Some(&mut self.ready),
            Stage::Suspected => Some(&mut self.suspected),
            Stage::Withheld => Some(&mut self.withheld),
            Stage::InHand | Stage::Waiting => None,
        }
    }

    /// Lets the next one of its lane be the head.
    fn pass(&mut self, head: &MessageId) {
        self.move_to(head, Stage::InHand);
        let Some(key) = self.heads.remove(head) else { return };
        let Some(mut lane) = self.lanes.remove(&key) else { return };
        if let Some(next) = lane.behind.pop_first() {
            self.behind -= 1;
            let stage = self.parked.remove(&next).unwrap_or(Stage::Ready);
            self.lead(next, key, stage, lane.behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> MessageId {
        MessageId { millis: number, sequence: 0 }
    }

    fn key(name: &str) -> Key {
        name.as_bytes().into()
    }

    fn settled<const N: usize>(lanes: &Lanes, settled: [(MessageId, After); N]) {
        lanes.settled(settled, || {});
    }

    fn lanes(messages: &[(u64, &str)]) -> Lanes {
        let lanes = Lanes::default();
        for (number, name) in messages {
            lanes.admit(id(*number), key(name), Stage::Ready);
        }
        lanes
    }

    #[test]
    fn the_heads_of_different_keys_go_at_once_and_each_next_one_when_its_head_is_done() {
        let lanes = lanes(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
        assert_eq!(lanes.take(9, End::Oldest), [id(1), id(3)]);
        assert_eq!(lanes.take(9, End::Oldest), []);
        settled(&lanes, [(id(1), After::Next)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(2)]);
        assert_eq!(lanes.behind(), 1);
        settled(&lanes, [(id(3), After::Next), (id(2), After::Next)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(4)]);
    }

    #[test]
    fn a_head_that_is_tried_again_holds_back_its_own_key_alone() {
        let lanes = lanes(&[(1, "a"), (2, "a"), (3, "b"), (4, "b")]);
        lanes.take(9, End::Oldest);
        settled(&lanes, [(id(1), After::Again), (id(3), After::Next)]);
        assert_eq!((lanes.take(9, End::Oldest), lanes.waiting()), (vec![id(4)], 1));
        lanes.due([id(1), id(2), id(77)]);
        assert_eq!((lanes.take(9, End::Oldest), lanes.waiting()), (vec![id(1)], 0));
        settled(&lanes, [(id(1), After::Next)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(2)]);
    }

    #[test]
    fn what_is_known_is_not_admitted_twice() {
        let lanes = lanes(&[(1, "a"), (2, "a")]);
        lanes.take(1, End::Oldest);
        lanes.admit(id(1), key("a"), Stage::Ready);
        lanes.admit(id(2), key("a"), Stage::Ready);
        assert_eq!((lanes.take(9, End::Oldest), lanes.behind()), (vec![], 1));
    }

    #[test]
    fn one_behind_that_waits_itself_is_known_and_has_its_turn_when_both_have_come() {
        let lanes = Lanes::default();
        (1..4).for_each(|number| lanes.admit(id(number), key("a"), Stage::Waiting));
        assert_eq!(lanes.due([id(1), id(2), id(9)]), 1);
        assert_eq!(lanes.take(9, End::Oldest), [id(1)]);
        settled(&lanes, [(id(1), After::Next)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(2)]);
        settled(&lanes, [(id(2), After::Next)]);
        assert_eq!((lanes.take(9, End::Oldest), lanes.waiting()), (vec![], 1));
        assert_eq!((lanes.due([id(3)]), lanes.take(9, End::Oldest)), (0, vec![id(3)]));
    }

    #[test]
    fn what_nobody_has_in_hand_any_more_is_handed_out_again() {
        let lanes = lanes(&[(1, "a"), (2, "b"), (3, "c")]);
        lanes.take(2, End::Oldest);
        lanes.reconsider(|held| *held == id(1));
        assert_eq!(lanes.take(9, End::Oldest), [id(2), id(3)]);
    }

    #[test]
    fn a_suspect_is_handed_out_apart_and_what_is_withheld_to_nobody_until_more_is_known() {
        let lanes = Lanes::default();
        lanes.admit(id(1), key("a"), Stage::Suspected);
        lanes.admit(id(2), key("a"), Stage::Suspected);
        lanes.admit(id(3), key("b"), Stage::Withheld);
        lanes.admit(id(4), key("c"), Stage::Ready);
        assert_eq!((lanes.suspects(), lanes.at_rest()), (1, 4));
        assert_eq!(lanes.take(9, End::Oldest), [id(4)]);
        assert_eq!((lanes.take_suspect(), lanes.take_suspect()), (Some(id(1)), None));
        settled(&lanes, [(id(1), After::Next)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(2)], "only the head was in flight");
        lanes.admit(id(3), key("b"), Stage::Suspected);
        assert_eq!((lanes.take_suspect(), lanes.suspects()), (Some(id(3)), 0));
        settled(&lanes, [(id(3), After::Again)]);
        lanes.due([id(3)]);
        assert_eq!(lanes.take(9, End::Oldest), [id(3)], "it let its host live");
    }

    proptest! {
        /// Whatever is settled when, each key's messages are handed out in their order,
        /// one at a time, and all of them in the end.
        #[test]
        fn each_key_is_in_order(steps in proptest::collection::vec((0u8..4, 0u8..3), 1..80)) {
            let lanes = Lanes::default();
            for (number, (key, _)) in steps.iter().enumerate() {
                lanes.admit(id(number as u64), Arc::from([*key]), Stage::Ready);
            }
            let key_of = |id: &MessageId| steps[id.millis as usize].0;
            let mut handed: HashMap<u8, Vec<MessageId>> = HashMap::new();
            let mut failed: BTreeSet<MessageId> = BTreeSet::new();
            loop {
                let now = lanes.take(2, End::Oldest);
                if now.is_empty() && lanes.waiting() == 0 {
                    break;
                }
                for id in now {
                    let again = steps[id.millis as usize].1 == 0 && failed.insert(id);
                    if !again {
                        handed.entry(key_of(&id)).or_default().push(id);
                    }
                    settled(&lanes, [(id, if again { After::Again } else { After::Next })]);
                }
                lanes.due(failed.iter().copied());
            }
            prop_assert_eq!(handed.values().map(Vec::len).sum::<usize>(), steps.len());
            for ids in handed.values() {
                prop_assert!(ids.is_sorted());
            }
        }
    }
}
