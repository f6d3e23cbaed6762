//! The producers, and the ledger of what they sent: what was confirmed, and what may or may not be there.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::messages::{Kind, Line};
use super::scenario::{Order, Scenario};
use crate::harness::{Doorway, Redis};

/// A message that a producer sent once, and will not send again.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Unlike any other's.
    pub label: String,
    pub line: Line,
    pub kind: Kind,
    /// What the server answered; `None` when the answer was lost.
    pub id: Option<String>,
}

/// Threads that send for as long as a scenario lasts.
pub struct Producers(Vec<JoinHandle<Vec<Sent>>>);

impl Producers {
    pub fn start(scenario: &Scenario, doorway: &Doorway, random: &mut Rng) -> Self {
        let lines: Vec<(&str, Vec<Line>, u32)> = match scenario.terms.order {
            Order::Unclaimed => vec![],
            // Alone on its line, so that the order of sending is the order of the stream.
            Order::Kept => vec![("o", vec![Line::Ordered], 2)],
        };
        let mixed: Vec<Line> = [(Line::Work, 40), (Line::Batch, 25), (Line::Strict, 1)]
            .iter()
            .fold(Vec::new(), |mut all, (line, count)| {
                all.extend(std::iter::repeat_n(*line, *count));
                all
            });
        let all = [("p", mixed.clone(), 1), ("q", mixed, 1)].into_iter().chain(lines);
        let threads = all.map(|(name, lines, pace)| {
            let producer = Producer {
                name: name.to_owned(),
                lines,
                pause: Duration::from_millis(u64::from(90 * pace)),
                random: random.fork(),
                doorway: doorway.clone(),
                sent: Vec::new(),
            };
            let lasting = scenario.terms.lasting;
            thread::spawn(move || producer.work(lasting))
        });
        Self(threads.collect())
    }

    /// Waits for their end and gives all that they sent.
    pub fn ledger(self) -> Vec<Sent> {
        self.0.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

struct Producer {
    name: String,
    lines: Vec<Line>,
    /// The longest time between two sendings.
    pause: Duration,
    random: Rng,
    doorway: Doorway,
    sent: Vec<Sent>,
}

impl Producer {
    fn work(mut self, lasting: Duration) -> Vec<Sent> {
        let start = Instant::now();
        let mut connection: Option<Redis> = None;
        while start.elapsed() < lasting {
            let Some(mut redis) = connection.take().or_else(|| self.doorway.client().ok()) else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let batch = self.draw();
            let entries =
                batch.iter().map(|sent| (sent.line.stream(), sent.kind.fields(&sent.label)));
            if let Ok(ids) = redis.append(entries) {
                connection = Some(redis);
                let confirmed = batch.into_iter().zip(ids);
                self.sent.extend(confirmed.map(|(sent, id)| Sent { id: Some(id), ..sent }));
            } else {
                self.sent.extend(batch);
            }
            let pause = self.random.u64(..self.pause.as_millis() as u64);
            thread::sleep(Duration::from_millis(pause));
        }
        self.sent
    }

    fn draw(&mut self) -> Vec<Sent> {
        let count = self.random.usize(1..20);
        let first = self.sent.len();
        let draw = |n| {
            let line = self.lines[self.random.usize(..self.lines.len())];
            let kind = Kind::draw(line, &mut self.random);
            Sent { label: format!("{}{}", self.name, first + n), line, kind, id: None }
        };
        (0..count).map(draw).collect()
    }
}
