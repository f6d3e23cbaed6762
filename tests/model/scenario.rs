//! What happens in one run, drawn from its seed: the faults with their times, and what may be asked of the end.

use std::time::Duration;

use fastrand::Rng;

use super::messages::Line;

/// How many hosts there are.
pub const SEATS: usize = 3;

/// One run of the model: the same for the same seed and terms.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub terms: Terms,
    /// In the order of their times.
    pub events: Vec<Event>,
}

/// What a run is made of, and what may be asked of its end.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// For how long producers send and faults begin.
    pub lasting: Duration,
    pub repeats: Repeats,
    pub order: Order,
    pub names: Names,
    pub freezes: Freezes,
    pub outages: Outages,
    pub leftovers: Leftovers,
}

/// Whether a message may be handled more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// Its outputs are there once.
    Never,
    /// Groups are destroyed, and all is delivered again from the beginning.
    AfterDestruction,
}

/// Whether there is a handler with `order-by`, whose outputs must be in the order of their messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Unclaimed,
    Kept,
}

/// What the hosts are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Each has its own.
    Apart,
    /// All want the same.
    Shared,
}

/// How long a host may be frozen at worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezes {
    /// Some seconds.
    Short,
    /// Longer than its sign of life lasts.
    Long,
}

/// How long the server may be away at worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outages {
    /// Some seconds.
    Short,
    /// Longer than a host's sign of life lasts.
    Long,
}

/// Whether consumers of hosts that are no more are waited for to be removed: it takes a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    HoldNothing,
    AreRemoved,
}

impl Terms {
    /// Those of a run that is over soon.
    pub const SHORT: Self = Self {
        lasting: Duration::from_secs(20),
        repeats: Repeats::Never,
        order: Order::Kept,
        names: Names::Apart,
        freezes: Freezes::Short,
        outages: Outages::Short,
        leftovers: Leftovers::HoldNothing,
    };

    /// Those of a run without haste, drawn from its seed.
    pub fn drawn(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut one_in = |count: u32| random.u32(..count) == 0;
        Self {
            lasting: Duration::from_secs(40),
            repeats: if one_in(4) { Repeats::AfterDestruction } else { Repeats::Never },
            names: if one_in(4) { Names::Shared } else { Names::Apart },
            outages: if one_in(5) { Outages::Long } else { Outages::Short },
            freezes: if one_in(2) { Freezes::Long } else { Freezes::Short },
            leftovers: if one_in(4) { Leftovers::AreRemoved } else { Leftovers::HoldNothing },
            ..Self::SHORT
        }
    }
}

#[derive(Debug, Clone)]
pub struct Event {
    pub at: Duration,
    pub action: Action,
}

/// The number of a host, from 0.
pub type Seat = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL to a host.
    Kill(Seat),
    /// SIGTERM to a host.
    Stop(Seat),
    /// A host in place of one that was killed or stopped.
    Start(Seat, NextName),
    /// SIGKILL to every host, and all of them anew at once.
    KillAll,
    StartAll,
    /// SIGSTOP to a host, and SIGCONT.
    Freeze(Seat),
    Thaw(Seat),
    /// Another file in place of a host's plugin, which behaves as the last.
    SwapPlugin(Seat),
    KillServer,
    StopServer,
    StartServer,
    FreezeServer,
    ThawServer,
    Reload,
    FlushScripts,
    /// A script that takes so long, while others are told that the server is busy.
    Busy(Duration),
    PauseWrites(Duration),
    PauseAll(Duration),
    KillConnections(Share),
    /// The server is out of memory, or misses a replica: it takes no writes.
    RefuseWrites(Refusal),
    TakeWrites,
    /// What waits for another attempt, and how often it failed, as if evicted.
    Evict(Line),
    DestroyGroup(Line),
    /// A handler reads nothing, on any host, until it is resumed.
    Pause(Line),
    Resume(Line),
    /// Replies to a command with this word are cut after so many bytes, so many times.
    CutReplies(&'static str, usize, usize),
    /// Connections are cut at random, after so many bytes at most.
    Storm(usize),
    CutConnections,
    Swallow,
    Refuse,
    /// The proxy passes everything on again.
    Pass,
}

/// The name that a host is started with anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextName {
    Same,
    New,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    OutOfMemory,
    NoReplica,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    All,
    Half,
}

impl Action {
    /// The kind of fault that it is; none where it ends one.
    pub fn fault(&self) -> Option<&'static str> {
        Some(match self {
            Self::Kill(_) => "host killed",
            Self::KillAll => "all hosts killed",
            Self::Stop(_) => "host stopped",
            Self::Freeze(_) => "host frozen",
            Self::SwapPlugin(_) => "plugin swapped",
            Self::KillServer => "server killed",
            Self::StopServer => "server stopped",
            Self::FreezeServer => "server frozen",
            Self::Reload => "server reloaded",
            Self::FlushScripts => "scripts flushed",
            Self::Busy(_) => "server busy",
            Self::PauseWrites(_) => "writes paused",
            Self::PauseAll(_) => "everything paused",
            Self::KillConnections(_) => "connections killed",
            Self::RefuseWrites(_) => "writes refused",
            Self::Evict(_) => "keys evicted",
            Self::DestroyGroup(_) => "group destroyed",
            Self::Pause(_) => "handler paused",
            Self::CutReplies(..) => "replies cut",
            Self::Storm(_) => "storm",
            Self::CutConnections => "connections cut",
            Self::Swallow => "network silent",
            Self::Refuse => "connections refused",
            Self::Start(..) | Self::StartAll | Self::Thaw(_) => return None,
            Self::StartServer | Self::ThawServer => return None,
            Self::TakeWrites | Self::Resume(_) | Self::Pass => return None,
        })
    }
}

impl Scenario {
    /// The kinds of faults that it draws.
    pub fn faults(&self) -> impl Iterator<Item = &'static str> {
        self.events.iter().filter_map(|event| event.action.fault())
    }

    pub fn of(seed: u64, terms: Terms) -> Self {
        let mut script = Script { random: Rng::with_seed(seed), terms, events: Vec::new() };
        script.write();
        Self { seed, terms, events: script.events }
    }
}

/// Draws the events: hosts, server and proxy each have faults of their own, one after the other.
struct Script {
    random: Rng,
    terms: Terms,
    events: Vec<Event>,
}

impl Script {
    fn write(&mut self) {
        for seat in 0..SEATS {
            self.lane((800, 4500), |script, at| script.host_fault(at, seat));
        }
        self.lane((300, 3000), Self::server_fault);
        self.lane((500, 3000), Self::proxy_fault);
        self.lane((5000, 25_000), |script, at| {
            let down = script.millis(0, 1000);
            script.pair(at, down, Action::KillAll, Action::StartAll)
        });
        self.lane((2000, 9000), |script, at| {
            let line = Line::ALL[script.random.usize(..Line::ALL.len())];
            let time = script.millis(300, 5000);
            script.pair(at, time, Action::Pause(line), Action::Resume(line))
        });
        self.events.sort_by_key(|event| event.at);
    }

    /// Faults with gaps of so many milliseconds between them.
    fn lane(&mut self, (least, most): (u64, u64), fault: impl Fn(&mut Self, Duration) -> Duration) {
        let mut at = Duration::ZERO;
        loop {
            at += self.millis(least, most);
            if at >= self.terms.lasting {
                return;
            }
            at += fault(self, at);
        }
    }

    fn host_fault(&mut self, at: Duration, seat: Seat) -> Duration {
        let name = if self.random.u32(..3) == 0 { NextName::New } else { NextName::Same };
        match self.random.u32(..100) {
            0..45 => {
                let down = self.millis(0, 3000);
                self.pair(at, down, Action::Kill(seat), Action::Start(seat, name))
            }
            45..65 => {
                let down = self.millis(200, 3000);
                self.pair(at, down, Action::Stop(seat), Action::Start(seat, name))
            }
            65..85 => {
                let frozen = self.millis(100, 5000);
                self.pair(at, frozen, Action::Freeze(seat), Action::Thaw(seat))
            }
            85..92 => {
                let long = match self.terms.freezes {
                    Freezes::Short => self.millis(5000, 8000),
                    Freezes::Long => self.millis(16_000, 26_000),
                };
                self.pair(at, long, Action::Freeze(seat), Action::Thaw(seat))
            }
            _ => self.once(at, Action::SwapPlugin(seat)),
        }
    }

    fn server_fault(&mut self, at: Duration) -> Duration {
        if self.terms.repeats == Repeats::AfterDestruction && self.random.u32(..4) == 0 {
            let line = self.line();
            return self.once(at, Action::DestroyGroup(line));
        }
        match self.random.u32(..100) {
            0..12 => {
                let down = self.millis(0, 2500);
                self.pair(at, down, Action::KillServer, Action::StartServer)
            }
            12..18 => {
                let down = self.outage();
                self.pair(at, down, Action::StopServer, Action::StartServer)
            }
            18..26 => {
                let frozen = self.millis(100, 6000);
                self.pair(at, frozen, Action::FreezeServer, Action::ThawServer)
            }
            26..34 => self.once(at, Action::Reload),
            34..40 => self.once(at, Action::FlushScripts),
            40..44 => {
                let time = self.millis(100, 2500);
                self.once(at, Action::Busy(time))
            }
            44..51 => {
                let time = self.millis(100, 3000);
                self.once(at, Action::PauseWrites(time))
            }
            51..58 => {
                let time = self.millis(100, 6500);
                self.once(at, Action::PauseAll(time))
            }
            58..68 => self.once(at, Action::KillConnections(Share::All)),
            68..78 => self.once(at, Action::KillConnections(Share::Half)),
            78..90 => {
                let all = [Refusal::OutOfMemory, Refusal::NoReplica];
                let refusal = all[self.random.usize(..all.len())];
                let time = self.millis(100, 3000);
                self.pair(at, time, Action::RefuseWrites(refusal), Action::TakeWrites)
            }
            _ => {
                let line = self.line();
                self.once(at, Action::Evict(line))
            }
        }
    }

    fn outage(&mut self) -> Duration {
        match self.terms.outages {
            Outages::Short => self.millis(200, 2500),
            Outages::Long => self.millis(16_000, 22_000),
        }
    }

    fn line(&mut self) -> Line {
        let lines = [Line::Work, Line::Batch, Line::Strict, Line::Next];
        lines[self.random.usize(..lines.len())]
    }

    fn proxy_fault(&mut self, at: Duration) -> Duration {
        const WORDS: [&str; 6] =
            ["XREADGROUP", "EVALSHA", "XACK", "XPENDING", "XINFO", "tidegate:"];
        match self.random.u32(..100) {
            0..50 => {
                let word = WORDS[self.random.usize(..WORDS.len())];
                let magnitude = self.random.u32(1..12);
                let bytes = self.random.usize(..1 << magnitude);
                let times = self.random.usize(1..4);
                self.once(at, Action::CutReplies(word, bytes, times))
            }
            50..65 => {
                let (bytes, time) = (self.random.usize(2000..80_000), self.millis(500, 4000));
                self.pair(at, time, Action::Storm(bytes), Action::Pass)
            }
            65..80 => self.once(at, Action::CutConnections),
            80..90 => {
                let time = self.millis(300, 6000);
                self.pair(at, time, Action::Swallow, Action::Pass)
            }
            _ => {
                let time = self.millis(200, 2000);
                self.pair(at, time, Action::Refuse, Action::Pass)
            }
        }
    }

    fn once(&mut self, at: Duration, action: Action) -> Duration {
        self.events.push(Event { at, action });
        Duration::ZERO
    }

    fn pair(&mut self, at: Duration, time: Duration, begin: Action, end: Action) -> Duration {
        self.events.push(Event { at, action: begin });
        self.events.push(Event { at: at + time, action: end });
        time
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(least..most))
    }
}
