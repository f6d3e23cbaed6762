//! A Redis of our own, for trying things out: on a Unix socket, in a directory that goes with it.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::BrokerError;
use crate::manifest::{Address, RedisSettings};

/// The servers that do, in the order in which they are looked for.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the server from outliving us, however we end: the shell's standard
/// input closes with our process, and the shell then stops the server.
const LEASH: &str =
    r#""$0" "$@" </dev/null & server=$!; read -r _; kill "$server"; wait "$server""#;

/// A server that is stopped, and its data removed, when this is dropped.
pub struct PrivateServer {
    leash: Child,
    directory: TempDir,
    server: PathBuf,
}

impl PrivateServer {
    /// Starts the first of `redis-server` and `valkey-server` that is in PATH.
    ///
    /// # Errors
    ///
    /// When there is none, with how to install one, or when it does not come up, with its log.
    pub fn start() -> Result<Self, BrokerError> {
        let server = find().ok_or_else(|| {
            BrokerError::Private(format!(
                "neither {} is in PATH; install one (Debian: apt-get install redis-server, macOS: brew install redis) \
                 or name yours under [redis] in the manifest",
                SERVERS.join(" nor ")
            ))
        })?;
        let failed = |error: io::Error| {
            BrokerError::Private(format!("cannot start {}: {error}", server.display()))
        };
        let directory = tempfile::Builder::new().prefix("tidegate-").tempdir().map_err(failed)?;
        let leash = leashed(&server, &directory).spawn().map_err(failed)?;
        let mut started = Self { leash, directory, server };
        started.listening()?;
        Ok(started)
    }

    /// How to connect to it.
    pub fn settings(&self) -> RedisSettings {
        let address = Address::Unix(self.socket());
        RedisSettings { address, db: 0, username: None, password: None, tls: None }
    }

    /// The program that runs.
    pub fn program(&self) -> &std::path::Path {
        &self.server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn listening(&mut self) -> Result<(), BrokerError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let ended = self.leash.try_wait().ok().flatten().is_some();
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.path().join("redis.log"));
                let log = log.unwrap_or_default();
                let program = self.server.display();
                return Err(BrokerError::Private(format!(
                    "{program} does not listen; its log: {log}"
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

fn leashed(server: &std::path::Path, directory: &TempDir) -> Command {
    use std::os::unix::process::CommandExt;

    let mut command = Command::new("sh");
    command.arg("-c").arg(LEASH).arg(server);
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args([
        "--unixsocketperm",
        "700",
        "--logfile",
        "redis.log",
        "--maxmemory-policy",
        "noeviction",
    ]);
    command.arg("--unixsocket").arg(directory.path().join("redis.sock"));
    command.arg("--dir").arg(directory.path()).current_dir(directory.path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own: ctrl-c is for us, and the server must outlast our stop.
    command.process_group(0);
    command
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidates =
        SERVERS.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    candidates.into_iter().find(|file| file.is_file())
}
