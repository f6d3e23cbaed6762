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

/// Keys that tell of hosts that run, and who owns what of an ordered stream.
const OF_HOSTS: [&str; 6] =
    ["}:live:", "}:hosts:", "}:members:", "}:lease:", "}:tenures:", "}:generation:"];

impl Audit<'_> {
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
        let of_those_that_run = |key: &str| OF_HOSTS.iter().any(|kind| key.contains(kind));
        keys.retain(|key| !of_those_that_run(key) && !expected.contains(key));
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
