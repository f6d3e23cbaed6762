//! What must hold once all faults are over: every message accounted for, and nothing left behind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::ledger::Sent;
use super::messages::{Fate, Kind, LABEL, Line, OUTPUTS, heard};
use super::scenario::{Order, Repeats, Scenario};
use super::sums::Sums;
use crate::harness::{Entry, Redis, millis};

/// How long all that is left may take to be handled: signs of life end, idle entries are taken over.
const DRAINED: Duration = Duration::from_secs(60);

/// A run with fewer messages has gone wrong itself.
const FEWEST: usize = 1000;

/// What the dead letter of a message says that was in flight at the death of its host twice.
const CONDEMNED: &str = "the host died twice while this message was in flight";

/// Something that does not hold, and the message it is about, if it is about one.
#[derive(Debug, Clone)]
pub struct Violation {
    pub text: String,
    pub about: Option<Sent>,
}

impl Violation {
    pub fn general(text: impl Into<String>) -> Self {
        Self { text: text.into(), about: None }
    }
}

/// What is known at the end.
pub struct Audit<'a> {
    pub scenario: &'a Scenario,
    pub ledger: &'a [Sent],
    /// Each host's log.
    pub logs: &'a [(String, String)],
    pub redis: &'a mut Redis,
    pub sums: &'a mut Sums,
    pub violations: Vec<Violation>,
}

/// The lines that a scenario's hosts work on.
pub fn lines(scenario: &Scenario) -> impl Iterator<Item = Line> {
    let ordered = scenario.terms.order == Order::Kept;
    Line::ALL.into_iter().filter(move |line| ordered || *line != Line::Ordered)
}

/// Waits until nothing is unread, pending or waiting; says what is when that takes too long.
pub fn drain(scenario: &Scenario, redis: &mut Redis) -> (Duration, Vec<Violation>) {
    let began = Instant::now();
    loop {
        let mut left: Vec<String> =
            lines(scenario).filter_map(|line| unfinished(redis, line)).collect();
        left.extend(delayed(redis));
        if left.is_empty() {
            return (began.elapsed(), Vec::new());
        }
        if began.elapsed() > DRAINED {
            let violations = left.into_iter().map(|left| {
                Violation::general(format!("{DRAINED:?} after the last fault: {left}"))
            });
            return (began.elapsed(), violations.collect());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn unfinished(redis: &mut Redis, line: Line) -> Option<String> {
    let (stream, group) = (line.stream(), line.group());
    if !redis.has_group(stream, group) {
        return Some(format!("`{stream}` has no group `{group}`"));
    }
    // In this order: what was unread a moment ago may be pending now.
    let (unread, pending) = (redis.unread(stream, group), redis.pending(stream, group));
    let (waiting, failures) = keys(line);
    let waiting: usize = redis.ask(&format!("ZCARD {waiting}"));
    let failures: usize = redis.ask(&format!("HLEN {failures}"));
    let left = [unread, pending, waiting, failures];
    (left != [0; 4]).then(|| {
        format!(
            "`{stream}`: {unread} unread, {pending} pending, {waiting} waiting, {failures} failures"
        )
    })
}

/// Outputs that are not on their stream yet.
fn delayed(redis: &mut Redis) -> Option<String> {
    let count: usize = redis.ask("ZCARD tidegate:{out}:delayed:out");
    (count > 0).then(|| format!("{count} delayed outputs"))
}

/// What waits for another attempt, and how often each has failed.
pub fn keys(line: Line) -> (String, String) {
    let (stream, group) = (line.stream(), line.group());
    let name = |kind: &str| format!("tidegate:{{{stream}}}:{kind}:{stream}:{group}");
    (name("waiting"), name("failures"))
}

impl Audit<'_> {
    pub fn run(&mut self) {
        if self.ledger.iter().filter(|sent| sent.id.is_some()).count() < FEWEST {
            self.report(
                format!("fewer than {FEWEST} messages were confirmed: this shows nothing"),
                None,
            );
        }
        self.confirmed_are_there();
        self.every_fate_is_met();
        self.repeats_are_dropped();
        self.order_is_kept();
        self.no_consumer_is_left();
        self.what_is_handled_is_gone();
        self.no_key_is_litter();
        self.no_host_panicked();
    }

    pub(super) fn report(&mut self, text: impl Into<String>, about: Option<&Sent>) {
        self.violations.push(Violation { text: text.into(), about: about.cloned() });
    }

    /// A test of the server rather than of the hosts: what it confirmed is in its stream.
    fn confirmed_are_there(&mut self) {
        for line in Line::PRODUCED {
            let ids: HashSet<String> =
                self.redis.entries(line.stream()).into_iter().map(|entry| entry.id).collect();
            for sent in self.ledger.iter().filter(|sent| sent.line == line) {
                let lost = sent.id.as_ref().is_some_and(|id| !ids.contains(id));
                if lost {
                    self.report("the server lost what it confirmed", Some(sent));
                }
            }
        }
    }

    fn every_fate_is_met(&mut self) {
        let ledger = self.ledger;
        let sent: HashMap<&str, &Sent> =
            ledger.iter().map(|sent| (sent.label.as_str(), sent)).collect();
        let outputs = OUTPUTS.map(|stream| (stream, by_label(self.redis.entries(stream))));
        for (stream, entries) in &outputs {
            let strange = entries.keys().find(|label| !sent.contains_key(label.as_str()));
            if let Some(label) = strange {
                self.report(format!("`{stream}` has an output of nothing: {label}"), None);
            }
        }
        let chained = by_label(self.redis.entries(&Line::Next.dead()));
        let logs = self.logs;
        let heard: HashSet<&str> = logs.iter().flat_map(|(_, log)| heard(log)).collect();
        for line in Line::PRODUCED {
            let letters = by_label(self.redis.entries(&line.dead()));
            for entry in self.redis.entries(line.stream()) {
                let Some(sent) = sent.get(entry.get(LABEL).as_str()) else {
                    self.report(format!("nobody sent {entry}"), None);
                    continue;
                };
                self.sums.message(sent);
                let found = Found {
                    written: outputs.each_ref().map(|(stream, entries)| {
                        (*stream, entries.get(&sent.label).map_or(&[][..], Vec::as_slice))
                    }),
                    letters: letters.get(&sent.label).map_or(&[], Vec::as_slice),
                    chained: chained.get(&sent.label).map_or(&[], Vec::as_slice),
                    heard: heard.contains(sent.label.as_str()),
                };
                self.fate_is_met(sent, &entry, &found);
            }
        }
    }

    fn fate_is_met(&mut self, sent: &Sent, entry: &Entry, found: &Found<'_>) {
        if found.letters.iter().any(is_condemned) {
            self.is_condemned_alone(sent, entry, found);
            return;
        }
        let (streams, attempt): (&[&str], u32) = match sent.kind.fate() {
            Fate::Written(streams, attempt) => (streams, attempt),
            Fate::Shared(streams) if found.is_on(streams) => (streams, 1),
            Fate::Shared(_) => (&[], 1),
            Fate::Heard | Fate::Buried(_) => (&[], 1),
        };
        let lost = found.chained.iter().filter(|letter| is_condemned(letter)).count();
        self.count_is(lost, found.chained.len(), "dead letters of what was chained", sent);
        for (stream, outputs) in found.written {
            let wanted = usize::from(streams.contains(&stream) && lost == 0);
            self.count_is(wanted, outputs.len(), &format!("outputs on `{stream}`"), sent);
            for output in outputs {
                self.output_is_right(sent, entry, (stream, output), attempt);
            }
        }
        let buried = match sent.kind.fate() {
            Fate::Buried(reason) => Some(reason),
            Fate::Written(..) | Fate::Shared(..) | Fate::Heard => None,
        };
        self.count_is(usize::from(buried.is_some()), found.letters.len(), "dead letters", sent);
        for letter in found.letters {
            self.letter_is_whole(sent, entry, letter, buried);
        }
        if sent.kind.fate() == Fate::Heard && !found.heard {
            self.sums.losses += 1;
            self.report("was never handled", Some(sent));
        }
    }

    /// Hosts are killed so often here that it happens to the innocent; they are not lost.
    fn is_condemned_alone(&mut self, sent: &Sent, entry: &Entry, found: &Found<'_>) {
        self.sums.condemned += 1;
        let outputs = found.written.iter().map(|(_, outputs)| outputs.len()).sum::<usize>();
        let letters = found.letters.len();
        if (letters, outputs) != (1, 0) && self.scenario.terms.repeats == Repeats::Never {
            self.report(
                format!("condemned, with {letters} letters, {outputs} outputs"),
                Some(sent),
            );
        }
        for letter in found.letters.iter().filter(|letter| is_condemned(letter)) {
            self.letter_is_whole(sent, entry, letter, Some("trap"));
        }
    }

    fn output_is_right(
        &mut self,
        sent: &Sent,
        entry: &Entry,
        (stream, output): (&str, &Entry),
        attempt: u32,
    ) {
        let at = output.get("attempt").parse::<u32>().unwrap();
        let after_loss = self.scenario.terms.repeats == Repeats::AfterDestruction;
        let mut wrong = |what: &str| {
            self.report(format!("an output on `{stream}` {what}: {output}"), Some(sent));
        };
        if let Kind::Delayed(wait) = sent.kind
            && output.millis() < millis(&entry.id) + u64::from(wait)
        {
            wrong("came before its time");
        }
        // What `mirror` has names the message that it was chained to.
        if output.get("id") != entry.id {
            wrong("is of another");
        } else if at < attempt && !after_loss {
            wrong("came too early");
        }
        if at > attempt && !self.timed_out(&entry.id, at - attempt) {
            self.report(format!("a failure too many was counted: {output}"), Some(sent));
        }
    }

    /// Whether a message ran out of time as often as this: on a host that is frozen any may.
    fn timed_out(&self, id: &str, times: u32) -> bool {
        let words = format!("message_id={id} ");
        let lines = self.logs.iter().flat_map(|(_, log)| log.lines());
        let timeout = |line: &&str| line.contains(&words) && line.contains("outcome=\"timeout\"");
        lines.filter(timeout).count() >= times as usize
    }

    fn count_is(&mut self, wanted: usize, found: usize, what: &str, sent: &Sent) {
        if found < wanted {
            self.sums.losses += 1;
            self.report(format!("{found} {what}, where there should be {wanted}"), Some(sent));
        } else if wanted == 0 && found > 0 {
            self.report(format!("{found} {what}, where there should be none"), Some(sent));
        } else if found > wanted {
            self.sums.duplicates += found - wanted;
            if self.scenario.terms.repeats == Repeats::Never {
                self.report(format!("{found} {what}, where there should be {wanted}"), Some(sent));
            }
        }
    }

    /// The original fields first and in order, then what tidegate adds, with the right reason.
    fn letter_is_whole(
        &mut self,
        sent: &Sent,
        entry: &Entry,
        letter: &Entry,
        reason: Option<&str>,
    ) {
        const ADDED: [&str; 9] =
            ["source", "id", "group", "handler", "plugin", "attempts", "reason", "error", "time"];
        let told = letter.get("tidegate.reason");
        self.sums.buried(&told);
        let own = entry.fields.len();
        let added: Vec<String> = letter.names().split_off(own.min(letter.fields.len()));
        if !letter.fields.starts_with(&entry.fields) {
            self.report("its dead letter has other fields than it had", Some(sent));
        } else if added != ADDED.map(|name| format!("tidegate.{name}")) {
            self.report(format!("its dead letter ends in {added:?}"), Some(sent));
        } else if letter.get("tidegate.id") != entry.id {
            self.report(format!("its dead letter is of {}", letter.get("tidegate.id")), Some(sent));
        }
        let excused = told == "timeout" && self.timed_out(&entry.id, 1);
        if reason.is_some_and(|reason| reason != told) && !excused {
            self.report(format!("its dead letter says `{told}`"), Some(sent));
        }
    }

    /// Of all messages that share a value, one was handled.
    fn repeats_are_dropped(&mut self) {
        let ledger = self.ledger;
        let sent: HashMap<&str, &Sent> = ledger.iter().map(|s| (s.label.as_str(), s)).collect();
        let value = |entry: &Entry| match sent.get(entry.find(LABEL)?.as_str())?.kind {
            Kind::Repeated(value) => Some(value),
            _ => None,
        };
        let mut counts: BTreeMap<u32, [usize; 3]> = BTreeMap::new();
        let streams = [Line::Work.stream().to_owned(), "out".to_owned(), Line::Work.dead()];
        for (index, stream) in streams.iter().enumerate() {
            for value in self.redis.entries(stream).iter().filter_map(value) {
                counts.entry(value).or_default()[index] += 1;
            }
        }
        for (value, [sent, written, buried]) in counts {
            let lost = written == 0 && buried < sent;
            if lost || (written > 1 && self.scenario.terms.repeats == Repeats::Never) {
                let text = format!(
                    "of {sent} messages with the value {value} {written} were handled, {buried} buried"
                );
                self.report(text, None);
            }
        }
    }

    /// Outputs of equal keys are in the order of their messages.
    fn order_is_kept(&mut self) {
        if self.scenario.terms.order == Order::Unclaimed {
            return;
        }
        let ledger = self.ledger;
        let keys: HashMap<&str, &Sent> = ledger.iter().map(|s| (s.label.as_str(), s)).collect();
        let mut last: HashMap<u32, (u64, u64)> = HashMap::new();
        for output in self.redis.entries("lined-out") {
            let Some(sent) = keys.get(output.get(LABEL).as_str()) else { continue };
            let Kind::Keyed(key, _) = sent.kind else { continue };
            let id = id_of(&output.get("id"));
            let before = last.insert(key, id);
            if self.scenario.terms.repeats == Repeats::Never
                && before.is_some_and(|before| before > id)
            {
                self.report(format!("came after a later one of key {key}"), Some(sent));
            }
        }
    }

    fn no_host_panicked(&mut self) {
        for (name, log) in self.logs {
            if let Some(line) =
                log.lines().find(|line| line.starts_with("thread '") && line.contains("panicked"))
            {
                self.violations.push(Violation::general(format!("{name}: {line}")));
            }
        }
    }
}

/// What came of one message.
struct Found<'a> {
    written: [(&'static str, &'a [Entry]); OUTPUTS.len()],
    letters: &'a [Entry],
    /// Dead letters of what it had another handler handle.
    chained: &'a [Entry],
    heard: bool,
}

impl Found<'_> {
    /// Whether it has an output on any of these streams.
    fn is_on(&self, streams: &[&str]) -> bool {
        self.written.iter().any(|(stream, outputs)| streams.contains(stream) && !outputs.is_empty())
    }
}

fn by_label(entries: Vec<Entry>) -> HashMap<String, Vec<Entry>> {
    let mut found: HashMap<String, Vec<Entry>> = HashMap::new();
    for entry in entries {
        found.entry(entry.find(LABEL).unwrap_or_default()).or_default().push(entry);
    }
    found
}

fn is_condemned(letter: &Entry) -> bool {
    letter.find("tidegate.error").is_some_and(|error| error.starts_with(CONDEMNED))
}

fn id_of(text: &str) -> (u64, u64) {
    let (millis, sequence) = text.split_once('-').unwrap();
    (millis.parse().unwrap(), sequence.parse().unwrap())
}
