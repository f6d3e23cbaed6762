//! A redis-server of a test's own: on a Unix socket in its own directory, and a TCP port when asked.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::{ConnectionAddr, IntoConnectionInfo};
use tempfile::TempDir;

use super::{Redis, eventually};

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Also listen on a free TCP port.
    pub tcp: bool,
    /// Also listen with TLS on a free port, with these certificates; clients must show theirs.
    pub tls: Option<Certificates>,
    /// Write every command to disk before it is answered, so that a kill loses nothing.
    pub durable: bool,
    /// The default user's password.
    pub password: Option<&'static str>,
    /// Further lines of the configuration.
    pub lines: Vec<String>,
}

/// PEM files: an authority, and what it signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How to connect to a server, whoever owns it and whether or not it runs.
#[derive(Clone)]
pub struct Doorway(redis::ConnectionInfo);

impl Doorway {
    pub fn client(&self) -> redis::RedisResult<Redis> {
        Redis::open(self.0.clone())
    }
}

/// A server that runs until this is dropped.
pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    options: Options,
    /// TCP port, if asked for.
    pub port: u16,
    /// TLS port, if asked for.
    pub tls_port: u16,
}

impl Server {
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    #[track_caller]
    pub fn with(options: Options) -> Self {
        let mut server = Self::absent(options);
        server.begin();
        server
    }

    /// A server that is not started yet.
    pub fn absent(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("tide-").tempdir().unwrap();
        let port = if options.tcp { free_port() } else { 0 };
        let tls_port = if options.tls.is_some() { free_port() } else { 0 };
        Self { process: None, directory, options, port, tls_port }
    }

    /// Starts it, or starts it again on the same data and at the same places.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let configuration = self.directory.path().join("redis.conf");
        std::fs::write(&configuration, self.configuration()).unwrap();
        let log = File::create(self.directory.path().join("redis.log")).unwrap();
        let child = Command::new(program())
            .arg(&configuration)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program().display()));
        self.process = Some(child);
        eventually("the server listens", || {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.log());
            }
            self.doorway().client().is_ok_and(|mut redis| redis.attempt::<String>("PING").is_ok())
        });
    }

    /// SIGKILL: nothing is saved, nobody is told.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Asks it to stop (SIGTERM), and waits until it did.
    pub fn stop(&mut self) {
        self.signal("TERM");
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// Whether it was started and has ended by itself.
    pub fn has_crashed(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some())
    }

    /// What it said since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }

    /// Sends a signal by its name, if it runs.
    pub fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            super::signal(process.id(), name);
        }
    }

    /// A connection for the test itself, as the default user.
    #[track_caller]
    pub fn client(&self) -> Redis {
        self.doorway().client().unwrap_or_else(|error| {
            panic!("cannot reach the server: {error}; its log: {}", self.log())
        })
    }

    /// What makes such connections elsewhere, such as on another thread.
    pub fn doorway(&self) -> Doorway {
        let address = ConnectionAddr::Unix(self.socket()).into_connection_info().unwrap();
        let mut login = redis::RedisConnectionInfo::default();
        if let Some(password) = self.options.password {
            login = login.set_password(password);
        }
        Doorway(address.set_redis_settings(login))
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// How a manifest names it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn configuration(&self) -> String {
        let mut lines = vec![
            "save \"\"".to_owned(),
            "daemonize no".into(),
            format!("port {}", self.port),
            "bind 127.0.0.1".into(),
            format!("unixsocket {}", self.socket().display()),
            format!("dir {}", self.directory.path().display()),
            "enable-debug-command local".into(),
        ];
        if self.options.durable {
            lines.extend(["appendonly yes".into(), "appendfsync always".into()]);
        }
        if let Some(password) = self.options.password {
            lines.push(format!("requirepass {password}"));
        }
        if let Some(tls) = &self.options.tls {
            lines.push(format!("tls-port {}", self.tls_port));
            lines.push(format!("tls-ca-cert-file {}", tls.authority.display()));
            lines.push(format!("tls-cert-file {}", tls.certificate.display()));
            lines.push(format!("tls-key-file {}", tls.key.display()));
            lines.push("tls-auth-clients yes".into());
        }
        lines.extend(self.options.lines.iter().cloned());
        if !knows_debug_setting() {
            lines.retain(|line| !line.starts_with("enable-debug-command"));
        }
        lines.join("\n") + "\n"
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server to test against: `TIDEGATE_TEST_SERVER`, or what is in PATH.
pub(super) fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("TIDEGATE_TEST_SERVER") {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path)
        .flat_map(|folder| ["redis-server", "valkey-server"].map(|name| folder.join(name)));
    let mut found = candidates.filter(|file| file.is_file());
    found.next().expect("no redis-server or valkey-server in PATH; run \"make setup\" first")
}

/// Whether the server to test against was built with TLS.
///
/// Only one that was named may be without: what `make setup` installs has it, and a test
/// that is skipped on it would be skipped everywhere.
pub fn speaks_tls() -> bool {
    if std::env::var_os("TIDEGATE_TEST_SERVER").is_none() {
        return true;
    }
    // Without a certificate none starts; one with TLS says that it misses that.
    let told = Command::new(program()).args(["--port", "0", "--tls-port", "1"]).output().unwrap();
    let told = String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned();
    // The first is what 6.2 says of a setting that it does not know, the second what later ones say.
    !["Bad directive", "Failed finding TLS support"].iter().any(|lack| told.contains(lack))
}

/// Redis before 7.0 lets anyone debug, and refuses to start with a setting it does not know.
fn knows_debug_setting() -> bool {
    let told = Command::new(program()).arg("--version").output().unwrap();
    !String::from_utf8_lossy(&told.stdout).contains(" v=6.")
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
