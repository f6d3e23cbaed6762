//! Where one host runs, again and again: its manifest, its plugin files, its logs.

use std::fs;
use std::time::Instant;

use super::scenario::{Names, NextName, Order, Seat, Terms};
use crate::harness::{Host, Setup, plugin, variant};

/// The handlers of every host. What there is for a test of order comes with it. What they print
/// tells what they handled, so none of it may be dropped.
const HANDLERS: &str = r#"
[handler.work]
plugin = "probe.wasm"
stream = "in"
outputs = ["out", "side", "mid"]
concurrency = 16
dedupe = { key = "once" }
timeout = "5s"
retry = { attempts = 5, first = "50ms", max = "500ms" }
limits = { log-lines = 1_000_000, log-bytes = "64MiB" }

[handler.batch]
plugin = "probe_batch.wasm"
stream = "many"
outputs = ["out", "side"]
concurrency = 4
batch = 20
timeout = "10s"
retry = { attempts = 5, first = "50ms", max = "500ms" }
limits = { log-lines = 1_000_000, log-bytes = "64MiB" }

[handler.strict]
plugin = "probe.wasm"
stream = "strict"
concurrency = 4
timeout = "500ms"
memory = "16MiB"
retry = { attempts = 2, first = "50ms", max = "500ms" }
limits = { log-lines = 1_000_000, log-bytes = "64MiB" }

[handler.next]
plugin = "mirror.wasm"
stream = "mid"
outputs = ["mirror"]
concurrency = 8
trim = "handled"
retry = { attempts = 5, first = "50ms", max = "500ms" }
limits = { log-lines = 1_000_000, log-bytes = "64MiB" }
"#;

const ORDERED: &str = r#"
[handler.ordered]
plugin = "probe.wasm"
stream = "lined"
order-by = "key"
outputs = ["lined-out"]
concurrency = 8
retry = { attempts = 5, first = "50ms", max = "500ms" }
limits = { log-lines = 1_000_000, log-bytes = "64MiB" }
"#;

/// Where one host runs, again and again.
pub struct Place {
    setup: Setup,
    pub host: Option<Host>,
    /// Hosts that were told to stop and may still be at it, while the next one runs.
    pub ending: Vec<(Host, Instant)>,
    url: String,
    handlers: String,
    name: String,
    names: Names,
    starts: u32,
    swaps: u8,
}

impl Place {
    /// Makes the place, and starts a host there.
    pub fn open(url: String, seat: Seat, terms: &Terms) -> Self {
        let names = terms.names;
        let ordered = if terms.order == Order::Kept { ORDERED } else { "" };
        let handlers = format!("{HANDLERS}{ordered}");
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

    pub fn start(&mut self, name: NextName) {
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
    pub fn dismiss(&mut self) {
        if let Some(host) = self.host.take() {
            host.terminate();
            self.ending.push((host, Instant::now()));
        }
    }

    /// In one step, as whoever deploys a plugin should: a host that runs takes it up.
    pub fn swap_plugin(&mut self) {
        self.swaps += 1;
        let bytes = variant(&plugin("probe"), self.swaps);
        let (new, place) =
            (self.setup.folder().join("new"), self.setup.folder().join("probe.wasm"));
        fs::write(&new, bytes).unwrap();
        fs::rename(new, place).unwrap();
    }

    /// The logs of its hosts, in the order of their beginning.
    pub fn logs(&self) -> Vec<String> {
        let files = fs::read_dir(self.setup.folder()).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "log"));
        let read = |file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        let mut logs: Vec<String> = files.map(read).collect();
        // Each line begins with its time.
        logs.sort();
        logs
    }
}
