//! What happens in one run, drawn from its seed: the faults with their times, and what may be asked of the end.

use std::time::Duration;

use fastrand::Rng;

use super::messages::Line;

/// How many hosts there are.
pub const SEATS: usize = 3;

/// One run of the model.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    /// For how long producers send and faults happen.
    pub lasting: Duration,
    pub repeats: Repeats,
    pub order: Order,
    pub names: Names,
    pub leftovers: Leftovers,
    /// In the order of their times.
    pub events: Vec<Event>,
}

/// Whether a message may be handled more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// Its outputs are there once.
    Never,
    /// Groups are destroyed, and all is delivered again from the beginning.
    AfterDestruction,
}

/// Whether messages of equal keys are checked to be handled in their order.
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

/// Whether consumers of hosts that are no more are waited for to be removed: it takes a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    HoldNothing,
    AreRemoved,
}

/// How long and how bad a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Half a minute in all.
    Short,
    /// A minute or more, with hosts that freeze for longer than their sign of life lasts.
    Long,
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
    PauseWrites(Duration),
    PauseAll(Duration),
    KillConnections(Share),
    DestroyGroup(Line),
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
pub enum Share {
    All,
    Half,
}

impl Scenario {
    /// The run of a seed: the same each time.
    pub fn drawn(seed: u64, extent: Extent) -> Self {
        let mut random = Rng::with_seed(seed);
        let repeats = match random.u32(..4) {
            0 => Repeats::AfterDestruction,
            _ => Repeats::Never,
        };
        let (lasting, leftovers) = match (extent, random.u32(..4)) {
            (Extent::Short, _) => (Duration::from_secs(20), Leftovers::HoldNothing),
            (Extent::Long, 0) => (Duration::from_secs(40), Leftovers::AreRemoved),
            (Extent::Long, _) => (Duration::from_secs(40), Leftovers::HoldNothing),
        };
        let mut script = Script { random, extent, repeats, lasting, events: Vec::new() };
        script.write();
        Self {
            seed,
            lasting,
            repeats,
            order: Order::Unclaimed,
            names: Names::Apart,
            leftovers,
            events: script.events,
        }
    }

    /// Checks order as well, of a handler with `order-by`.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    pub fn with_names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }
}

/// Draws the events: hosts, server and proxy each have faults of their own, one after the other.
struct Script {
    random: Rng,
    extent: Extent,
    repeats: Repeats,
    lasting: Duration,
    events: Vec<Event>,
}

impl Script {
    fn write(&mut self) {
        for seat in 0..SEATS {
            self.lane((1000, 6000), |script, at| script.host_fault(at, seat));
        }
        self.lane((500, 4000), Self::server_fault);
        self.lane((500, 3000), Self::proxy_fault);
        self.events.sort_by_key(|event| event.at);
    }

    /// Faults with gaps of so many milliseconds between them.
    fn lane(&mut self, (least, most): (u64, u64), fault: impl Fn(&mut Self, Duration) -> Duration) {
        let mut at = Duration::ZERO;
        loop {
            at += self.millis(least, most);
            if at >= self.lasting {
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
                let long = match self.extent {
                    Extent::Short => self.millis(5000, 8000),
                    Extent::Long => self.millis(16_000, 26_000),
                };
                self.pair(at, long, Action::Freeze(seat), Action::Thaw(seat))
            }
            _ => self.once(at, Action::SwapPlugin(seat)),
        }
    }

    fn server_fault(&mut self, at: Duration) -> Duration {
        match self.random.u32(..100) {
            0..14 => {
                let down = self.millis(0, 2500);
                self.pair(at, down, Action::KillServer, Action::StartServer)
            }
            14..22 => {
                let down = self.millis(200, 2500);
                self.pair(at, down, Action::StopServer, Action::StartServer)
            }
            22..32 => {
                let frozen = self.millis(100, 6000);
                self.pair(at, frozen, Action::FreezeServer, Action::ThawServer)
            }
            32..42 => self.once(at, Action::Reload),
            42..52 => self.once(at, Action::FlushScripts),
            52..60 => {
                let time = self.millis(100, 3000);
                self.once(at, Action::PauseWrites(time))
            }
            60..68 => {
                let time = self.millis(100, 6500);
                self.once(at, Action::PauseAll(time))
            }
            68..80 => self.once(at, Action::KillConnections(Share::All)),
            80..90 => self.once(at, Action::KillConnections(Share::Half)),
            _ => self.destruction(at),
        }
    }

    fn destruction(&mut self, at: Duration) -> Duration {
        let lines = [Line::Work, Line::Batch, Line::Strict, Line::Next];
        let line = lines[self.random.usize(..lines.len())];
        match self.repeats {
            Repeats::Never => self.once(at, Action::FlushScripts),
            Repeats::AfterDestruction => self.once(at, Action::DestroyGroup(line)),
        }
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
