//! What may be left behind once all faults are over: nothing of hosts that are no more, and no key that is not known.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::audit::{Audit, lines};
use super::messages::{Line, OUTPUTS};
use super::scenario::{Leftovers, SEATS};
use crate::harness::Redis;

/// How long every host may take to show that it lives.
const SHOWN: Duration = Duration::from_secs(20);

/// How long consumers of hosts that are no more may take to be removed.
const RETIRED: Duration = Duration::from_secs(100);

/// How long what is handled may stay on a stream that is trimmed: hosts that have nothing to do look seldom.
const TRIMMED: Duration = Duration::from_secs(45);

/// Keys that tell of hosts that run, who owns what of an ordered stream, what is trimmed, and which
/// values were handled.
const KNOWN: [&str; 8] = [
    "}:live:",
    "}:hosts:",
    "}:members:",
    "}:lease:",
    "}:tenures:",
    "}:generation:",
    "}:trimming:",
    "}:seen:",
];

impl Audit<'_> {
    /// Nothing stays on the stream whose handler wants that.
    pub(super) fn what_is_handled_is_gone(&mut self) {
        let (began, stream) = (Instant::now(), Line::Next.stream());
        while self.redis.length(stream) > 0 {
            if began.elapsed() > TRIMMED {
                let left = self.redis.length(stream);
                return self
                    .report(format!("{left} handled messages are still on `{stream}`"), None);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Only the keys that ARCHITECTURE.md lists, and nothing of hosts that are no more.
    pub(super) fn no_key_is_litter(&mut self) {
        let mut expected: HashSet<String> = OUTPUTS.iter().map(|s| (*s).to_owned()).collect();
        // Streams for which something was delayed are remembered for an hour.
        expected.insert("tidegate:{delayed}:streams".to_owned());
        for line in Line::ALL {
            expected.extend([line.stream().to_owned(), line.dead()]);
        }
        let began = Instant::now();
        let mut litter = self.litter(&expected);
        // What is kept of messages that were in flight at a host's death goes with the next look at them.
        while !litter.is_empty() && began.elapsed() < SHOWN {
            std::thread::sleep(Duration::from_millis(100));
            litter = self.litter(&expected);
        }
        litter.into_iter().for_each(|key| self.report(format!("the key `{key}` is left"), None));
        let began = Instant::now();
        let mut wrong = self.wrong_lives();
        // A host that was frozen until now has yet to show itself again.
        while !wrong.is_empty() && began.elapsed() < SHOWN {
            std::thread::sleep(Duration::from_millis(100));
            wrong = self.wrong_lives();
        }
        wrong.into_iter().for_each(|text| self.report(text, None));
    }

    fn litter(&mut self, expected: &HashSet<String>) -> Vec<String> {
        let mut keys = self.redis.ask::<Vec<String>>("KEYS *");
        let is_known = |key: &str| KNOWN.iter().any(|kind| key.contains(kind));
        keys.retain(|key| !is_known(key) && !expected.contains(key));
        keys
    }

    /// Handlers of which not each host shows that it lives, or one that is no more.
    fn wrong_lives(&mut self) -> Vec<String> {
        let all = lines(self.scenario).map(|line| {
            let (stream, group) = (line.stream(), line.group());
            (format!("tidegate:{{{stream}}}:live:{stream}:{group}"), 0)
        });
        let mut live: BTreeMap<String, usize> = all.collect();
        for key in self.redis.ask::<Vec<String>>("KEYS *:live:*") {
            let handler = key.rsplit_once(':').map_or("", |(handler, _)| handler).to_owned();
            *live.entry(handler).or_default() += 1;
        }
        // Of a host that was killed, the sign of life may not have ended yet.
        let most = match self.scenario.terms.leftovers {
            Leftovers::AreRemoved => SEATS,
            Leftovers::HoldNothing => usize::MAX,
        };
        live.retain(|_, count| !(SEATS..=most).contains(count));
        live.into_iter().map(|(key, count)| format!("{count} hosts live by `{key}`")).collect()
    }

    /// Consumers that are left hold nothing; where it is waited for, none is left.
    pub(super) fn no_consumer_is_left(&mut self) {
        let began = Instant::now();
        loop {
            let strangers: Vec<String> =
                lines(self.scenario).flat_map(|line| strangers(self.redis, line)).collect();
            let is_over = strangers.is_empty()
                || self.scenario.terms.leftovers == Leftovers::HoldNothing
                || began.elapsed() > RETIRED;
            if !is_over {
                std::thread::sleep(Duration::from_millis(250));
                continue;
            }
            if self.scenario.terms.leftovers == Leftovers::AreRemoved && !strangers.is_empty() {
                self.report(format!("consumers are left: {}", strangers.join(", ")), None);
            }
            return;
        }
    }
}

/// The consumers of a line that no live host answers for, with what they hold.
fn strangers(redis: &mut Redis, line: Line) -> Vec<String> {
    let (stream, group) = (line.stream(), line.group());
    let mut consumers = redis.consumers(stream, group);
    consumers.retain(|name| {
        let live = format!("EXISTS tidegate:{{{stream}}}:live:{stream}:{group}:{name}");
        let lease = format!("GET tidegate:{{{stream}}}:lease:{stream}:{group}");
        let owns = redis.ask::<Option<String>>(&lease).as_ref() == Some(name);
        name != "tidegate:waiting" && !owns && redis.ask::<usize>(&live) == 0
    });
    consumers.into_iter().map(|name| format!("`{name}` of {group}")).collect()
}
