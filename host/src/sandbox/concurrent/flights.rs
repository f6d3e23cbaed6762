//! The messages that are in flight in one instance, and what it owes each of them. No waiting here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::Ended;
use crate::message::MessageId;
use crate::outcome::Fault;
use crate::sandbox::voice::Topic;

/// One message in flight.
pub(super) struct Flight {
    pub(super) id: MessageId,
    /// When it must be answered.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Ended>,
}

/// All of them, in the order in which they began.
#[derive(Default)]
pub(super) struct Flights(Mutex<Board>);

#[derive(Default)]
struct Board {
    next: u64,
    flights: BTreeMap<u64, Flight>,
}

impl Flights {
    /// A message begins; the number is for [`Self::end`].
    pub(super) fn begin(&self, flight: Flight) -> u64 {
        let mut board = self.board();
        let number = board.next;
        board.next += 1;
        board.flights.insert(number, flight);
        number
    }

    /// A message is answered. Whoever waited for it may have gone.
    pub(super) fn end(&self, number: u64, ended: Ended) {
        let flight = self.board().flights.remove(&number);
        if let Some(Flight { reply, .. }) = flight {
            reply.send(ended).ok();
        }
    }

    /// The instance is gone: the only message in it is to blame; of several, nobody knows which.
    pub(super) fn crash(&self, fault: Fault) {
        let flights = std::mem::take(&mut self.board().flights);
        let alone = flights.len() == 1;
        for Flight { reply, .. } in flights.into_values() {
            reply.send(if alone { Ended::Broke(fault.clone()) } else { Ended::Disturbed }).ok();
        }
    }

    /// The instance is to be ended from outside, whoever is to blame for that.
    pub(super) fn disturb(&self) {
        for Flight { reply, .. } in std::mem::take(&mut self.board().flights).into_values() {
            reply.send(Ended::Disturbed).ok();
        }
    }

    /// The earliest deadline that has not passed. One that has is no longer waited for.
    pub(super) fn earliest(&self, now: Instant) -> Option<Instant> {
        let board = self.board();
        board.flights.values().map(|flight| flight.deadline).find(|deadline| *deadline > now)
    }

    /// What is spoken of: the only message, or how many there are.
    pub(super) fn topic(&self) -> Topic {
        let board = self.board();
        let mut flights = board.flights.values();
        match (flights.next(), flights.len()) {
            (None, _) => Topic::default(),
            (Some(flight), 0) => Topic { message: Some(flight.id), count: None },
            (Some(_), others) => Topic { message: None, count: Some(others as u64 + 1) },
        }
    }

    /// Each change is a single step, so a panic elsewhere does not spoil it.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::{FaultKind, Outcome};

    fn begin(flights: &Flights, deadline: Instant) -> (u64, oneshot::Receiver<Ended>) {
        let (reply, answer) = oneshot::channel();
        let id = MessageId { millis: 7, sequence: 0 };
        (flights.begin(Flight { id, deadline, reply }), answer)
    }

    #[test]
    fn of_a_crash_only_a_lone_message_is_blamed() {
        let flights = Flights::default();
        let now = Instant::now();
        let (first, mut answered) = begin(&flights, now);
        let (_, mut alone) = begin(&flights, now);
        flights.end(first, Ended::Answered(Outcome::Done(Vec::new())));
        flights.crash(Fault::new(FaultKind::Trap, "so"));
        assert!(matches!(answered.try_recv(), Ok(Ended::Answered(_))));
        assert!(matches!(alone.try_recv(), Ok(Ended::Broke(_))));

        let (mut one, mut two) = (begin(&flights, now).1, begin(&flights, now).1);
        flights.crash(Fault::new(FaultKind::Trap, "so"));
        assert!(matches!(one.try_recv(), Ok(Ended::Disturbed)));
        assert!(matches!(two.try_recv(), Ok(Ended::Disturbed)));
    }

    #[test]
    fn a_deadline_that_has_passed_binds_nobody() {
        let flights = Flights::default();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let _answers = [now, now + second, now + 2 * second].map(|at| begin(&flights, at));
        assert_eq!(flights.earliest(now), Some(now + second));
        assert_eq!(flights.earliest(now + 5 * second), None);
    }

    #[test]
    fn what_is_said_is_about_one_message_only_while_it_is_the_only_one() {
        let flights = Flights::default();
        assert_eq!((flights.topic().message, flights.topic().count), (None, None));
        let (first, _answer) = begin(&flights, Instant::now());
        assert!(flights.topic().message.is_some());
        let (_, _other) = begin(&flights, Instant::now());
        assert_eq!((flights.topic().message, flights.topic().count), (None, Some(2)));
        flights.end(first, Ended::Disturbed);
        assert!(flights.topic().message.is_some());
    }
}
