//! A server, a proxy and the hosts of one run, and the faults done to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::scenario::{Action, Names, NextName, Order, SEATS, Scenario, Seat, Share};
use crate::harness::{Host, Options, Proxy, Redis, Server, Setup, root};

/// A stop may take this long: its grace, what is written after it, and a machine that is busy.
const STOPPED: Duration = Duration::from_secs(30);

/// The handlers of every host. What there is for a test of order comes with it.
const HANDLERS: &str = r#"
[handler.work]
plugin = "probe.wasm"
stream = "in"
outputs = ["out", "side", "mid"]
concurrency = 16
timeout = "5s"
retry = { attempts = 5, first = "50ms", max = "500ms" }

[handler.batch]
plugin = "probe_batch.wasm"
stream = "many"
outputs = ["out", "side"]
concurrency = 4
batch = 20
timeout = "10s"
retry = { attempts = 5, first = "50ms", max = "500ms" }

[handler.strict]
plugin = "probe.wasm"
stream = "strict"
concurrency = 4
timeout = "500ms"
memory = "16MiB"
retry = { attempts = 2, first = "50ms", max = "500ms" }

[handler.next]
plugin = "mirror.wasm"
stream = "mid"
outputs = ["mirror"]
concurrency = 8
retry = { attempts = 5, first = "50ms", max = "500ms" }
"#;

const ORDERED: &str = r#"
[handler.ordered]
plugin = "probe.wasm"
stream = "lined"
order-by = "key"
outputs = ["lined-out"]
concurrency = 8
retry = { attempts = 5, first = "50ms", max = "500ms" }
"#;

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

/// Where one host runs, again and again.
struct Place {
    setup: Setup,
    host: Option<Host>,
    /// Hosts that were told to stop and may still be at it, while the next one runs.
    ending: Vec<(Host, Instant)>,
    url: String,
    handlers: String,
    name: String,
    names: Names,
    starts: u32,
    swaps: u8,
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
        let ordered = if scenario.order == Order::Kept { ORDERED } else { "" };
        let handlers = format!("{HANDLERS}{ordered}");
        let places = (0..SEATS).map(|seat| {
            // The first has the server to itself, the others share a network that fails.
            let url = if seat == 0 { server.url() } else { proxy.url() };
            Place::open(url, handlers.clone(), seat, scenario.names)
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
            let done = self.perform(&event.action, random);
            let skipped = if done { "" } else { " (not possible now)" };
            self.note(format!("{:?}{skipped}", event.action));
            if done {
                self.history.count(&event.action);
            }
        }
    }

    /// Ends every fault, and has all hosts up.
    pub fn heal(&mut self) {
        match self.power {
            Power::On => {}
            Power::Frozen => self.server.signal("CONT"),
            Power::Off => self.server.begin(),
        }
        self.power = Power::On;
        self.server.client().tell("CLIENT UNPAUSE");
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

    /// The logs of each place, in the order of their beginning.
    pub fn logs_so_far(&self) -> Vec<(String, String)> {
        let mut logs = Vec::new();
        for (seat, place) in self.places.iter().enumerate() {
            let mut files = place.logs();
            files.sort();
            for (start, (_, file)) in files.iter().enumerate() {
                let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
                logs.push((format!("host{seat}-{start}.log"), text));
            }
        }
        logs
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
            | Action::PauseWrites(_)
            | Action::PauseAll(_)
            | Action::KillConnections(_)
            | Action::DestroyGroup(_) => {
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
                let _ = redis.attempt::<redis::Value>(&format!("CLIENT KILL ID {id} SKIPME yes"));
            }
        }
        Action::DestroyGroup(line) => {
            let line = format!("XGROUP DESTROY {} {}", line.stream(), line.group());
            return redis.attempt::<usize>(&line).is_ok_and(|count| count > 0);
        }
        _ => return false,
    }
    true
}

impl Place {
    fn open(url: String, handlers: String, seat: Seat, names: Names) -> Self {
        let name = match names {
            Names::Apart => format!("host{seat}"),
            Names::Shared => "host".to_owned(),
        };
        let setup = Setup::at(&url, &handlers).env("TIDEGATE_LOG", "tidegate=debug,plugin=info");
        let mut place = Self {
            setup,
            host: None,
            ending: Vec::new(),
            url,
            handlers,
            name,
            names,
            starts: 0,
            swaps: 0,
        };
        place.start(NextName::Same);
        place
    }

    fn start(&mut self, name: NextName) {
        self.starts += 1;
        if (name, self.names) == (NextName::New, Names::Apart) {
            let base = self.name.split('.').next().unwrap_or_default().to_owned();
            self.name = format!("{base}.{}", self.starts);
        }
        let manifest = format!(
            "[redis]\nurl = \"{}\"\n\n[host]\nname = \"{}\"\ngrace = \"3s\"\n{}",
            self.url, self.name, self.handlers
        );
        fs::write(self.setup.folder().join("tidegate.toml"), manifest).unwrap();
        self.host = Some(self.setup.start());
    }

    /// Tells the host to stop.
    fn dismiss(&mut self) {
        if let Some(host) = self.host.take() {
            host.terminate();
            self.ending.push((host, Instant::now()));
        }
    }

    /// In one step, as whoever deploys a plugin should. Today a host loads it when it starts.
    fn swap_plugin(&mut self) {
        self.swaps += 1;
        let built = root().join("plugins/target/wasm32-wasip2/release/probe.wasm");
        let mut bytes = fs::read(built).unwrap();
        // A custom section changes the digest and nothing else.
        bytes.extend([0, 6, 4]);
        bytes.extend(b"swap");
        bytes.push(self.swaps);
        let (new, place) =
            (self.setup.folder().join("new"), self.setup.folder().join("probe.wasm"));
        fs::write(&new, bytes).unwrap();
        fs::rename(new, place).unwrap();
    }

    /// The log files, each with the time of its beginning.
    fn logs(&self) -> Vec<(String, PathBuf)> {
        let files = fs::read_dir(self.setup.folder()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|ending| ending == "log"));
        let first = |file: &PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
            text.split(' ').next().unwrap_or_default().to_owned()
        };
        logs.map(|file| (first(&file), file)).collect()
    }
}

impl History {
    fn count(&mut self, action: &Action) {
        let kind = match action {
            Action::Kill(_) => "host killed",
            Action::Stop(_) => "host stopped",
            Action::Freeze(_) => "host frozen",
            Action::SwapPlugin(_) => "plugin swapped",
            Action::KillServer => "server killed",
            Action::StopServer => "server stopped",
            Action::FreezeServer => "server frozen",
            Action::Reload => "server reloaded",
            Action::FlushScripts => "scripts flushed",
            Action::PauseWrites(_) => "writes paused",
            Action::PauseAll(_) => "everything paused",
            Action::KillConnections(_) => "connections killed",
            Action::DestroyGroup(_) => "group destroyed",
            Action::CutReplies(..) => "replies cut",
            Action::Storm(_) => "storm",
            Action::CutConnections => "connections cut",
            Action::Swallow => "network silent",
            Action::Refuse => "connections refused",
            Action::Start(..) | Action::Thaw(_) | Action::StartServer => return,
            Action::ThawServer | Action::Pass => return,
        };
        *self.faults.entry(kind).or_default() += 1;
    }
}
