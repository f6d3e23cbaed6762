//! A server, a proxy and the hosts of one run, and the faults done to them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::Value;

use super::audit::keys;
use super::messages::Line;
use super::place::Place;
use super::scenario::{Action, NextName, Refusal, SEATS, Scenario, Seat, Share};
use crate::harness::{Options, Proxy, Redis, Server};

/// A stop may take this long: its grace, what is written after it, and a machine that is busy.
const STOPPED: Duration = Duration::from_secs(20);

/// So many lines of its log are shown of a server that crashed.
const CRASH_LINES: usize = 20;

pub struct Stage {
    pub server: Server,
    pub history: History,
    /// What a host did that no host may do.
    pub violations: Vec<String>,
    places: Vec<Place>,
    proxy: Proxy,
    power: Power,
    began: Instant,
}

/// What happened, with times.
#[derive(Default)]
pub struct History {
    pub lines: Vec<String>,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Frozen,
    Off,
}

impl Stage {
    /// Starts the server and every host.
    pub fn open(scenario: &Scenario) -> Self {
        let server = Server::with(Options { durable: true, ..Options::default() });
        let proxy = Proxy::before(&server);
        let places = (0..SEATS).map(|seat| {
            // The first has the server to itself, the others share a network that fails.
            let url = if seat == 0 { server.url() } else { proxy.url() };
            Place::open(url, seat, &scenario.terms)
        });
        let places = places.collect();
        Self {
            server,
            history: History::default(),
            violations: Vec::new(),
            places,
            proxy,
            power: Power::On,
            began: Instant::now(),
        }
    }

    /// Does all that the scenario says, each at its time.
    pub fn play(&mut self, scenario: &Scenario, random: &mut fastrand::Rng) {
        for event in &scenario.events {
            let early = event.at.saturating_sub(self.began.elapsed());
            std::thread::sleep(early);
            self.revive_server();
            let done = self.perform(&event.action, random);
            let skipped = if done { "" } else { " (not possible now)" };
            self.note(format!("{:?}{skipped}", event.action));
            if done {
                self.history.count(&event.action);
            }
        }
    }

    /// Starts a server again that crashed under what is done to it: its fault is no host's.
    fn revive_server(&mut self) {
        if self.server.has_crashed() {
            let log = self.server.log();
            // What it says loudest; the rest of a report on a crash goes on for pages.
            let loud: Vec<&str> = log.lines().filter(|line| line.contains(" # ")).collect();
            let told = loud[loud.len().saturating_sub(CRASH_LINES)..].join("\n         ");
            eprintln!("the server itself crashed: {told}");
            self.note(format!("the server itself crashed: {told}"));
            *self.history.faults.entry("server crashed").or_default() += 1;
            self.server.kill();
            self.server.begin();
            self.power = Power::On;
        }
    }

    /// Ends every fault, and has all hosts up.
    pub fn heal(&mut self) {
        self.revive_server();
        match self.power {
            Power::On => {}
            Power::Frozen => self.server.signal("CONT"),
            Power::Off => self.server.begin(),
        }
        self.power = Power::On;
        let mut redis = self.server.client();
        redis.tell("CLIENT UNPAUSE");
        take_writes(&mut redis);
        for line in Line::ALL {
            resume(&mut redis, line);
        }
        self.proxy.heal();
        for seat in 0..SEATS {
            self.look_after(seat);
            let place = &mut self.places[seat];
            match &place.host {
                Some(host) => host.signal("CONT"),
                None => place.start(NextName::Same),
            }
        }
        self.note("healed".to_owned());
    }

    /// Asks every host to stop, and expects them to do so in good order.
    pub fn close(&mut self) {
        for seat in 0..SEATS {
            self.look_after(seat);
            self.places[seat].dismiss();
        }
        while self.places.iter().any(|place| !place.ending.is_empty()) {
            (0..SEATS).for_each(|seat| self.see_off(seat));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Each host's log and a name for it, place after place.
    pub fn logs(&self) -> Vec<(String, String)> {
        let named = |(seat, place): (Seat, &Place)| {
            let logs = place.logs().into_iter().enumerate();
            logs.map(move |(start, log)| (format!("host{seat}-{start}.log"), log))
        };
        self.places.iter().enumerate().flat_map(named).collect()
    }

    /// A host that ended by itself is told of, and started again.
    pub fn look_after(&mut self, seat: Seat) -> bool {
        let place = &mut self.places[seat];
        let Some(host) = &mut place.host else { return false };
        if host.is_running() {
            return false;
        }
        let last = host.log().lines().last().unwrap_or_default().to_owned();
        let violation = format!("host {seat} ended by itself: {last}");
        place.host = None;
        place.start(NextName::Same);
        self.note(violation.clone());
        self.violations.push(violation);
        true
    }

    pub fn note(&mut self, line: String) {
        self.history.lines.push(format!("{:6.2} {line}", self.began.elapsed().as_secs_f64()));
    }

    /// Does it, unless it cannot be done as things are.
    fn perform(&mut self, action: &Action, random: &mut fastrand::Rng) -> bool {
        match action {
            Action::Kill(seat)
            | Action::Stop(seat)
            | Action::Start(seat, _)
            | Action::Freeze(seat)
            | Action::Thaw(seat)
            | Action::SwapPlugin(seat) => self.treat_host(*seat, action),
            Action::KillAll => {
                let kills = (0..SEATS).map(Action::Kill);
                kills.enumerate().filter(|(seat, kill)| self.treat_host(*seat, kill)).count() > 0
            }
            Action::StartAll => {
                let starts = (0..SEATS).map(|seat| Action::Start(seat, NextName::Same));
                starts.enumerate().filter(|(seat, start)| self.treat_host(*seat, start)).count() > 0
            }
            Action::CutReplies(..)
            | Action::Storm(_)
            | Action::CutConnections
            | Action::Swallow
            | Action::Refuse
            | Action::Pass => self.treat_proxy(action, random),
            Action::KillServer
            | Action::StopServer
            | Action::StartServer
            | Action::FreezeServer
            | Action::ThawServer => self.treat_server(action),
            Action::Reload
            | Action::FlushScripts
            | Action::Busy(_)
            | Action::PauseWrites(_)
            | Action::PauseAll(_)
            | Action::KillConnections(_)
            | Action::RefuseWrites(_)
            | Action::TakeWrites
            | Action::Evict(_)
            | Action::DestroyGroup(_)
            | Action::Pause(_)
            | Action::Resume(_) => {
                if self.power != Power::On {
                    return false;
                }
                let mut redis = self.server.client();
                command(&mut redis, action, random)
            }
        }
    }

    fn treat_host(&mut self, seat: Seat, action: &Action) -> bool {
        self.see_off(seat);
        if self.look_after(seat) {
            return false;
        }
        let place = &mut self.places[seat];
        match (action, &mut place.host) {
            (Action::Kill(_), Some(host)) => host.kill(),
            (Action::Freeze(_), Some(host)) => host.signal("STOP"),
            (Action::Thaw(_), Some(host)) => host.signal("CONT"),
            (Action::Stop(_), Some(_)) => place.dismiss(),
            (Action::Start(_, name), None) => place.start(*name),
            (Action::SwapPlugin(_), _) => place.swap_plugin(),
            _ => return false,
        }
        if matches!(action, Action::Kill(_)) {
            place.host = None;
        }
        true
    }

    /// Lets go of hosts that have stopped as they were told to, and tells of those that have not.
    fn see_off(&mut self, seat: Seat) {
        let mut complaints = Vec::new();
        self.places[seat].ending.retain_mut(|(host, asked)| {
            if host.is_running() {
                let late = asked.elapsed() > STOPPED;
                complaints.extend(late.then(|| format!("did not stop within {STOPPED:?}")));
                return !late;
            }
            let log = host.log();
            // One without a word had not begun to listen to signals.
            if !host.wait().success() && !log.is_empty() {
                let last = log.lines().last().unwrap_or_default();
                complaints.push(format!("stopped with a failure: {last}"));
            }
            false
        });
        self.violations.extend(complaints.into_iter().map(|text| format!("host {seat} {text}")));
    }

    fn treat_server(&mut self, action: &Action) -> bool {
        let (server, power) = (&mut self.server, self.power);
        self.power = match (action, power) {
            (Action::KillServer, Power::On) => {
                server.kill();
                Power::Off
            }
            (Action::StopServer, Power::On) => {
                server.stop();
                Power::Off
            }
            (Action::StartServer, Power::Off) => {
                server.begin();
                Power::On
            }
            (Action::FreezeServer, Power::On) => {
                server.signal("STOP");
                Power::Frozen
            }
            (Action::ThawServer, Power::Frozen) => {
                server.signal("CONT");
                Power::On
            }
            _ => return false,
        };
        true
    }

    fn treat_proxy(&mut self, action: &Action, random: &mut fastrand::Rng) -> bool {
        match action {
            Action::CutReplies(word, bytes, times) => self.proxy.cut_replies(word, *bytes, *times),
            Action::Storm(bytes) => {
                self.proxy.storm(*bytes, random.fork());
                self.proxy.cut();
            }
            Action::CutConnections => self.proxy.cut(),
            Action::Swallow => self.proxy.swallow(),
            Action::Refuse => {
                self.proxy.refuse();
                self.proxy.cut();
            }
            Action::Pass => self.proxy.heal(),
            _ => return false,
        }
        true
    }
}

/// The faults that are commands.
fn command(redis: &mut Redis, action: &Action, random: &mut fastrand::Rng) -> bool {
    match action {
        Action::Reload => redis.tell("DEBUG RELOAD"),
        Action::FlushScripts => redis.tell("SCRIPT FLUSH"),
        Action::Busy(time) => keep_busy(redis, *time),
        Action::PauseWrites(time) => {
            redis.tell(&format!("CLIENT PAUSE {} WRITE", time.as_millis()));
        }
        Action::PauseAll(time) => redis.tell(&format!("CLIENT PAUSE {} ALL", time.as_millis())),
        Action::KillConnections(Share::All) => drop(redis.kill_others()),
        Action::KillConnections(Share::Half) => {
            let list: String = redis.ask("CLIENT LIST");
            let ids = list.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
            for id in ids.filter(|_| random.bool()) {
                // It may be our own, or gone by now.
                let _ = redis.attempt::<Value>(&format!("CLIENT KILL ID {id} SKIPME yes"));
            }
        }
        Action::RefuseWrites(Refusal::OutOfMemory) => redis.tell("CONFIG SET maxmemory 1"),
        Action::RefuseWrites(Refusal::NoReplica) => {
            redis.tell("CONFIG SET min-replicas-to-write 1");
        }
        Action::TakeWrites => take_writes(redis),
        Action::Evict(line) => {
            let (waiting, failures) = keys(*line);
            return redis.ask::<usize>(&format!("DEL {waiting} {failures}")) > 0;
        }
        Action::Pause(line) => {
            // As `tidegate pause` does; a server that takes no writes refuses it.
            let pausing = format!("SET {} {{\"by\":\"model\",\"since-ms\":1}} NX", paused(*line));
            return redis.attempt::<Value>(&pausing).is_ok_and(|told| told != Value::Nil);
        }
        Action::Resume(line) => return resume(redis, *line),
        Action::DestroyGroup(line) => {
            let line = format!("XGROUP DESTROY {} {}", line.stream(), line.group());
            return redis.attempt::<usize>(&line).is_ok_and(|count| count > 0);
        }
        _ => return false,
    }
    true
}

fn keep_busy(redis: &mut Redis, time: Duration) {
    redis.tell("CONFIG SET lua-time-limit 50");
    let now = "local t = redis.call('TIME'); return t[1] * 1000000 + t[2]";
    let micros = time.as_micros();
    redis.eval(&format!(
        "local function now() {now} end; local start = now(); while now() - start < {micros} do end"
    ));
}

fn paused(line: Line) -> String {
    let (stream, group) = (line.stream(), line.group());
    format!("tidegate:{{{stream}}}:paused:{stream}:{group}")
}

/// Whether it was paused; a server that takes no writes leaves it so.
fn resume(redis: &mut Redis, line: Line) -> bool {
    redis.attempt(&format!("DEL {}", paused(line))).unwrap_or(false)
}

fn take_writes(redis: &mut Redis) {
    redis.tell("CONFIG SET maxmemory 0");
    redis.tell("CONFIG SET min-replicas-to-write 0");
}

impl History {
    fn count(&mut self, action: &Action) {
        if let Some(fault) = action.fault() {
            *self.faults.entry(fault).or_default() += 1;
        }
    }
}
