//! A primary, a replica of it, and three sentinels that watch over both.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::IntoConnectionInfo;
use tempfile::TempDir;

use super::server::{free_port, program};
use super::{Options, Redis, Server, eventually, within};

/// What the sentinels call the primary.
const MASTER: &str = "m";

/// Sentinels begin a failover at a moment drawn at random, and look at what came of it by the second.
const FAILED_OVER: Duration = Duration::from_secs(60);

/// A sentinel that runs until this is dropped.
pub struct Sentinel {
    process: Child,
    directory: TempDir,
    pub port: u16,
}

impl Sentinel {
    /// One that watches over the server at a port, or over none, with further lines of configuration.
    #[track_caller]
    pub fn over(primary: Option<u16>, lines: &[&str]) -> Self {
        Self::at(free_port(), primary, lines)
    }

    /// As [`Self::over`], at this port.
    #[track_caller]
    pub fn at(port: u16, primary: Option<u16>, lines: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("tide-").tempdir().unwrap();
        let mut configuration = vec![format!("port {port}"), "bind 127.0.0.1".into()];
        if let Some(primary) = primary {
            configuration.push(format!("sentinel monitor {MASTER} 127.0.0.1 {primary} 2"));
            configuration.push(format!("sentinel down-after-milliseconds {MASTER} 1000"));
            configuration.push(format!("sentinel failover-timeout {MASTER} 3000"));
        }
        configuration.extend(lines.iter().map(|line| (*line).to_owned()));
        let file = directory.path().join("sentinel.conf");
        fs::write(&file, configuration.join("\n") + "\n").unwrap();
        let log = File::create(directory.path().join("sentinel.log")).unwrap();
        let process = Command::new(program())
            .arg(&file)
            .arg("--sentinel")
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let sentinel = Self { process, directory, port };
        eventually("the sentinel listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        sentinel
    }

    fn attempt(&self) -> redis::RedisResult<Redis> {
        Redis::open(format!("redis://127.0.0.1:{}", self.port).into_connection_info()?)
    }

    pub fn client(&self) -> Redis {
        self.attempt().unwrap()
    }

    /// The port of the server that it names as the primary.
    pub fn named(&self) -> u16 {
        let told: (String, u16) =
            self.client().ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}"));
        told.1
    }

    /// The connections on which it was last asked for the primary, by their ids and ages in seconds.
    pub fn askers(&self) -> Vec<(u64, u64)> {
        let clients: String = self.client().ask("CLIENT LIST");
        let field = |line: &str, name: &str| {
            let mut words = line.split(' ');
            words.find_map(|word| word.strip_prefix(name)?.parse().ok()).unwrap()
        };
        let asks = |line: &&str| line.contains(" cmd=sentinel");
        clients.lines().filter(asks).map(|line| (field(line, "id="), field(line, "age="))).collect()
    }

    /// What it knows of the primary under this name.
    fn knows(&self, what: &str) -> usize {
        let told: std::collections::HashMap<String, String> =
            self.client().ask(&format!("SENTINEL MASTER {MASTER}"));
        told[what].parse().unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        super::signal(self.process.id(), name);
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("sentinel.log")).unwrap_or_default()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two servers, the first of which is the primary, and who watches over them.
pub struct Watched {
    pub first: Server,
    pub second: Server,
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let (first, second) = pair(options);
        let sentinels: Vec<_> = (0..3).map(|_| Sentinel::over(Some(first.port), &[])).collect();
        let watched = Self { first, second, sentinels };
        within(FAILED_OVER, "the sentinels know each other and the replica", || {
            watched.sentinels.iter().all(|sentinel| {
                sentinel.knows("num-slaves") == 1 && sentinel.knows("num-other-sentinels") == 2
            })
        });
        watched
    }

    /// How a manifest names it.
    pub fn table(&self) -> String {
        let ports: Vec<u16> = self.sentinels.iter().map(|sentinel| sentinel.port).collect();
        table(&ports)
    }

    /// Waits until the sentinels name the second server as the primary, and it is one.
    #[track_caller]
    pub fn wait_for_failover(&self) {
        within(FAILED_OVER, "the sentinels fail over", || {
            let named = |sentinel: &&Sentinel| {
                sentinel.attempt().is_ok() && sentinel.named() == self.second.port
            };
            self.sentinels.iter().filter(named).count() >= 2
        });
        let mut second = self.second.client();
        eventually("it is a primary", || role(&mut second) == "master");
    }
}

/// What a server says that it is: `master` or `slave`.
pub fn role(server: &mut Redis) -> String {
    let told: Vec<redis::Value> = server.ask("ROLE");
    redis::from_redis_value(told[0].clone()).unwrap()
}

/// How a manifest names sentinels at these ports.
pub fn table(ports: &[u16]) -> String {
    let nodes: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!("[redis]\nsentinel = {{ master = \"{MASTER}\", nodes = [{}] }}\n", nodes.join(", "))
}

/// A primary and a replica that has all that it has.
#[track_caller]
pub fn pair(options: Options) -> (Server, Server) {
    let options = Options { tcp: true, ..options };
    let first = Server::with(options.clone());
    let mut lines = options.lines.clone();
    lines.push(format!("replicaof 127.0.0.1 {}", first.port));
    lines.push("repl-diskless-sync-delay 0".into());
    let second = Server::with(Options { lines, ..options });
    let mut client = first.client();
    eventually("the replica is up to date", || client.ask::<usize>("WAIT 1 100") == 1);
    (first, second)
}
