//! The messages of a model: what each asks of its handler, and what must therefore come of it.

use fastrand::Rng;

/// Names and values, in order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A stream and the handler on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// One message a call, with time for it.
    Work,
    /// Many messages a call.
    Batch,
    /// Little time, little memory.
    Strict,
    /// Equal keys in their order.
    Ordered,
    /// What the first line writes to, handled once more, and removed from its stream then.
    Next,
}

impl Line {
    /// Those whose messages are the producers'.
    pub const PRODUCED: [Self; 4] = [Self::Work, Self::Batch, Self::Strict, Self::Ordered];

    pub const ALL: [Self; 5] = [Self::Work, Self::Batch, Self::Strict, Self::Ordered, Self::Next];

    pub fn stream(self) -> &'static str {
        match self {
            Self::Work => "in",
            Self::Batch => "many",
            Self::Strict => "strict",
            Self::Ordered => "lined",
            Self::Next => "mid",
        }
    }

    /// The handler's name, which is its group's.
    pub fn group(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Batch => "batch",
            Self::Strict => "strict",
            Self::Ordered => "ordered",
            Self::Next => "next",
        }
    }

    pub fn dead(self) -> String {
        format!("{{{}}}:dead", self.stream())
    }
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One output.
    Plain,
    /// An output after so many milliseconds.
    Slow(u32),
    /// One output, so many milliseconds later.
    Delayed(u32),
    /// Outputs on two streams.
    Both,
    /// An output that another handler handles.
    Chained,
    /// One output for all that share this value.
    Repeated(u32),
    /// No output: only the log shows that it was handled.
    Silent,
    /// Many fields, some of one name.
    Wide,
    /// Kilobytes of payload.
    Large(u32),
    /// Fails until this attempt.
    Failing(u32),
    /// Asks to be tried again after a time of its own.
    PutOff(u32),
    /// Fails for ever.
    Hopeless,
    /// Rejected, with many fields.
    Rejected,
    Trapping,
    Exiting,
    /// Has a field name that is not UTF-8.
    Undecodable,
    /// Asks for an output that is not granted.
    Denied,
    /// Never returns.
    Looping,
    /// Needs too much memory.
    Hungry,
    /// One output, of a key whose messages keep their order; fails until this attempt.
    Keyed(u32, u32),
}

/// Values that messages share: each comes again now and then, also while its like is in flight.
const VALUES: u32 = 40;

/// What must come of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// An entry on each of these streams, at this attempt or a later one.
    Written(&'static [&'static str], u32),
    /// An entry on each of these streams, but only from one of all messages that share a value.
    Shared(&'static [&'static str]),
    /// A line in a host's log.
    Heard,
    /// A dead letter with this reason.
    Buried(&'static str),
}

/// Every stream that outputs go to, and stay on.
pub const OUTPUTS: [&str; 4] = ["out", "side", "mirror", "lined-out"];

/// The field that has a message's label, here and on its outputs.
pub const LABEL: &str = "data";

impl Kind {
    /// One of those that a line is sent, the rare ones seldom.
    pub fn draw(line: Line, random: &mut Rng) -> Self {
        match line {
            Line::Work | Line::Next => Self::draw_work(random),
            Line::Batch => Self::draw_batch(random),
            Line::Strict if random.bool() => Self::Looping,
            Line::Strict => Self::Hungry,
            Line::Ordered => {
                Self::Keyed(random.u32(..6), if random.u32(..20) == 0 { 2 } else { 1 })
            }
        }
    }

    fn draw_work(random: &mut Rng) -> Self {
        match random.u32(..200) {
            0..58 => Self::Plain,
            58..68 => Self::Repeated(random.u32(..VALUES)),
            68..80 => Self::Delayed(random.u32(20..2500)),
            80..112 => Self::Slow(random.u32(5..40)),
            112..115 => Self::Slow(random.u32(300..1500)),
            115..135 => Self::Silent,
            135..150 => Self::Both,
            150..170 => Self::Chained,
            170..172 => Self::Wide,
            172..174 => Self::Large(random.u32(1..60)),
            174..184 => Self::Failing(random.u32(2..4)),
            184..188 => Self::PutOff(random.u32(50..1500)),
            188..190 => Self::Hopeless,
            190..193 => Self::Rejected,
            193..195 => Self::Trapping,
            195 => Self::Exiting,
            196..198 => Self::Undecodable,
            _ => Self::Denied,
        }
    }

    fn draw_batch(random: &mut Rng) -> Self {
        match random.u32(..200) {
            0..120 => Self::Plain,
            120..122 => Self::Slow(random.u32(5..40)),
            122..150 => Self::Silent,
            150..175 => Self::Both,
            175..187 => Self::Failing(random.u32(2..4)),
            187..190 => Self::PutOff(random.u32(50..1500)),
            190 => Self::Hopeless,
            191..196 => Self::Rejected,
            196 => Self::Trapping,
            197..199 => Self::Undecodable,
            _ => Self::Denied,
        }
    }

    pub fn fate(self) -> Fate {
        const OUT: &[&str] = &["out"];
        match self {
            Self::Plain | Self::Slow(_) | Self::Delayed(_) => Fate::Written(OUT, 1),
            Self::Wide | Self::Large(_) => Fate::Written(OUT, 1),
            Self::Both => Fate::Written(&["out", "side"], 1),
            Self::Chained => Fate::Written(&["mirror"], 1),
            Self::Repeated(_) => Fate::Shared(OUT),
            Self::Silent => Fate::Heard,
            Self::Failing(attempt) => Fate::Written(OUT, attempt),
            Self::PutOff(_) => Fate::Written(OUT, 2),
            Self::Keyed(_, attempt) => Fate::Written(&["lined-out"], attempt),
            Self::Hopeless => Fate::Buried("retries"),
            Self::Rejected => Fate::Buried("reject"),
            Self::Trapping | Self::Exiting => Fate::Buried("trap"),
            Self::Undecodable => Fate::Buried("undecodable"),
            Self::Denied => Fate::Buried("denied"),
            Self::Looping => Fate::Buried("timeout"),
            Self::Hungry => Fate::Buried("memory"),
        }
    }

    /// The message itself: its label, then the instructions that the probe obeys.
    pub fn fields(self, label: &str) -> Fields {
        let mut fields = vec![(LABEL.into(), label.into())];
        let mut add = |name: &str, value: &str| fields.push((name.into(), value.into()));
        match self {
            Self::Plain => add("emit", "out"),
            Self::Slow(millis) => add("sleep-ms", &millis.to_string()),
            Self::Delayed(millis) => add("delay-ms", &millis.to_string()),
            Self::Repeated(value) => add("once", &value.to_string()),
            Self::Both => add("emit", "side"),
            Self::Chained => add("emit", "mid"),
            Self::Silent => add("print", &format!("{}{label}{}", HEARD.0, HEARD.1)),
            Self::Wide => (0..120).for_each(|n| add(&format!("f{}", n % 50), "x")),
            Self::Large(kib) => add("payload", &"x".repeat(1024 * kib as usize)),
            Self::Failing(attempt) => add("retry-until", &attempt.to_string()),
            Self::PutOff(millis) => add("retry-after-ms", &millis.to_string()),
            Self::Hopeless => add("retry-until", "1000"),
            Self::Rejected => (0..9).for_each(|n| add(&format!("f{}", n % 4), &n.to_string())),
            Self::Trapping => add("trap", "as told"),
            Self::Exiting => add("exit", "3"),
            Self::Undecodable => fields.push((vec![b'n', 0xff], b"x".to_vec())),
            Self::Denied => add("emit", "elsewhere"),
            Self::Looping => add("loop", ""),
            Self::Hungry => add("allocate-mb", "64"),
            Self::Keyed(key, attempt) => {
                add("key", &key.to_string());
                add("retry-until", &attempt.to_string());
                add("emit", "lined-out");
            }
        }
        let mut add = |name: &str, value: &str| fields.push((name.into(), value.into()));
        match self {
            Self::Slow(_) | Self::Delayed(_) | Self::Both | Self::Wide | Self::Large(_) => {
                add("emit", "out")
            }
            Self::Failing(_) | Self::PutOff(_) | Self::Hopeless => add("emit", "out"),
            Self::Repeated(_) => add("emit", "out"),
            Self::Rejected => add("reject", "as told"),
            _ => {}
        }
        fields
    }
}

/// What a silent message has its handler print before its label, and after it.
const HEARD: (&str, char) = ("heard:", '.');

/// The labels that the handlers of silent messages printed.
pub fn heard(log: &str) -> impl Iterator<Item = &str> {
    log.split(HEARD.0).skip(1).filter_map(|rest| Some(rest.split_once(HEARD.1)?.0))
}
