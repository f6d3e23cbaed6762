//! Where messages of an ordered handler run alone: nothing else of it at work in this host, on
//! whichever of its streams, and no other suspect in the process.
//!
//! Which ones, `ordered` says. Suspects and all others take turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::message::Held;
use crate::shutdown::Stop;

/// Suspects and all others take turns of this length, one message at least.
const SHIFT: Duration = Duration::from_secs(1);

/// At first a suspect waits this long for all others to be done; then they have their turn
/// again for as long, and it waits for twice as long the next time. No call takes longer than its
/// timeout, so there is no need to wait for longer than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readers that may hand out messages at the same time: more than a stream has shards.
const PLACES: u32 = 1 << 16;

/// One handler's streams in this host.
#[derive(Debug)]
pub(super) struct Ward {
    /// Whoever hands out messages has one of them meanwhile; a suspect has them all while it runs.
    places: Arc<Semaphore>,
    /// One suspect at a time in the whole process, whichever handler's.
    cell: Arc<Semaphore>,
    /// What is in hand on each stream.
    streams: Mutex<Vec<Weak<Held>>>,
    turns: Mutex<Turns>,
    /// Whether a suspect of the handler has run in this host.
    tried: AtomicBool,
    /// The longest that a suspect waits for all others.
    longest: Duration,
}

#[derive(Debug)]
struct Turns {
    /// When the turn of all others ends.
    others_until: Option<Instant>,
    patience: Duration,
}

/// Being alone; all others have their turn when this is dropped.
#[derive(Debug)]
pub(super) struct Solitude {
    ward: Arc<Ward>,
    until: Instant,
    _places: OwnedSemaphorePermit,
    _cell: OwnedSemaphorePermit,
}

impl Solitude {
    /// Whether there is time for one more.
    pub(super) fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Drop for Solitude {
    fn drop(&mut self) {
        self.ward.give_others(SHIFT);
    }
}

impl Ward {
    /// The ward of a handler whose calls take `timeout` at most.
    pub(super) fn new(cell: Arc<Semaphore>, timeout: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES as usize)),
            cell,
            streams: Mutex::default(),
            turns: Mutex::new(Turns { others_until: None, patience: PATIENCE }),
            tried: AtomicBool::new(false),
            longest: timeout.saturating_add(PATIENCE),
        }
    }

    /// Has a suspect wait for what is in hand on one more stream, for as long as anyone has it.
    pub(super) fn mind(&self, held: &Arc<Held>) {
        let mut streams = self.streams();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(held));
    }

    /// Whether a suspect has run before: then one that its host dies with need not be to blame.
    pub(super) fn has_tried(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    /// Notes that a suspect runs.
    pub(super) fn tries(&self) {
        self.tried.store(true, Ordering::Relaxed);
    }

    /// A place among those that hand out messages, once nobody runs alone; none when a stop is requested first.
    pub(super) async fn beside(&self, stop: &Stop) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            place = self.places.acquire() => place.ok(),
        }
    }

    /// How long it is until suspects have their turn.
    pub(super) fn until_turn(&self) -> Duration {
        let until = self.turns().others_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Waits until nothing else is at work, and keeps it so; none if that takes too long, or a stop is
    /// requested first.
    pub(super) async fn alone(self: &Arc<Self>, stop: &Stop) -> Option<Solitude> {
        let entering = async {
            let patience = self.turns().patience;
            let places = timeout(patience, self.quiet()).await.ok().flatten();
            let Some(places) = places else {
                self.turns().patience = patience.saturating_mul(2).min(self.longest);
                self.give_others(patience);
                return None;
            };
            self.turns().patience = PATIENCE;
            let cell = timeout(SHIFT, self.cell.clone().acquire_owned()).await;
            let Ok(Ok(cell)) = cell else {
                self.give_others(SHIFT);
                return None;
            };
            Some((places, cell))
        };
        let (places, cell) = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            entered = entering => entered?,
        };
        let until = Instant::now() + SHIFT;
        Some(Solitude { ward: self.clone(), until, _places: places, _cell: cell })
    }

    /// Waits until nothing is at work on any of the streams; for whoever has all places.
    pub(super) async fn at_rest(&self) {
        let streams: Vec<_> = self.streams().iter().filter_map(Weak::upgrade).collect();
        for held in streams {
            held.at_rest().await;
        }
    }

    /// Ends the turn of all others, if nothing of theirs is in hand.
    pub(super) fn hurry(&self) {
        let idle = |held: &Weak<Held>| held.upgrade().is_none_or(|held| held.is_empty());
        if self.streams().iter().all(idle) {
            self.turns().others_until = None;
        }
    }

    async fn quiet(&self) -> Option<OwnedSemaphorePermit> {
        let places = self.places.clone().acquire_many_owned(PLACES).await.ok()?;
        self.at_rest().await;
        Some(places)
    }

    fn give_others(&self, turn: Duration) {
        self.turns().others_until = Some(Instant::now() + turn);
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Held>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Attempt;

    fn ward() -> Arc<Ward> {
        Arc::new(Ward::new(Arc::new(Semaphore::new(1)), Duration::from_secs(60)))
    }

    #[tokio::test]
    async fn who_is_alone_has_waited_for_all_streams_and_keeps_everyone_out() {
        let (ward, stop) = (ward(), Stop::new());
        let streams = [Arc::new(Held::default()), Arc::new(Held::default())];
        streams.iter().for_each(|held| ward.mind(held));
        let place = ward.beside(&stop).await;
        let at_work = streams[1].issue("1-1".parse().unwrap(), Attempt::FIRST);
        let ends = async {
            tokio::task::yield_now().await;
            drop(place);
            tokio::task::yield_now().await;
            drop(at_work);
        };
        let (alone, ()) = tokio::join!(ward.alone(&stop), ends);
        let alone = alone.expect("all are done");
        assert!(alone.lasts());
        assert!(ward.places.try_acquire().is_err(), "nobody hands out anything");
        assert_eq!(ward.until_turn(), Duration::ZERO);
        drop(alone);
        assert!(ward.beside(&stop).await.is_some());
        assert!(ward.until_turn() > Duration::ZERO, "it is the turn of all others");
        ward.hurry();
        assert_eq!(ward.until_turn(), Duration::ZERO, "they have nothing to do");
    }

    #[tokio::test]
    async fn who_waits_in_vain_lets_the_others_go_on_and_waits_longer_the_next_time() {
        let (ward, stop, held) = (ward(), Stop::new(), Arc::new(Held::default()));
        ward.mind(&held);
        let _at_work = held.issue("1-1".parse().unwrap(), Attempt::FIRST);
        let patience = Duration::from_millis(300);
        ward.turns().patience = patience;
        assert!(ward.alone(&stop).await.is_none());
        assert!(ward.beside(&stop).await.is_some());
        let turn = ward.until_turn();
        assert!(turn > Duration::ZERO && turn <= patience, "for as long as it waited");
        assert_eq!(ward.turns().patience, 2 * patience);
        ward.turns().patience = Duration::from_secs(3600);
        stop.cancel();
        assert!(ward.alone(&stop).await.is_none(), "a stop is heard");
    }

    #[tokio::test]
    async fn of_all_handlers_one_suspect_is_alone_at_a_time() {
        let (cell, stop) = (Arc::new(Semaphore::new(1)), Stop::new());
        let wards = [(); 2].map(|()| Arc::new(Ward::new(cell.clone(), PATIENCE)));
        let alone = wards[0].alone(&stop).await;
        assert!(wards[1].alone(&stop).await.is_none());
        assert!(wards[1].beside(&stop).await.is_some(), "its others do not wait for that");
        drop(alone);
        assert!(wards[1].alone(&stop).await.is_some());
    }
}
