//! The program under test: `tidegate run` and its siblings, as a user starts them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{DEADLINE, Server, plugins, within};

/// What a host is started with: a folder with a manifest and its plugins.
pub struct Setup {
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A manifest for handlers on a server. What it does not say is said for it: `[redis]`.
    pub fn new(server: &Server, manifest: &str) -> Self {
        Self::at(&server.url(), manifest)
    }

    /// As [`Self::new`], for a Redis by its address.
    pub fn at(url: &str, manifest: &str) -> Self {
        Self::alone(&format!("[redis]\nurl = \"{url}\"\n\n{manifest}"))
    }

    /// A manifest as it stands.
    pub fn alone(manifest: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("tide-").tempdir().unwrap();
        fs::write(folder.path().join("tidegate.toml"), manifest).unwrap();
        plugins::provide(folder.path(), manifest);
        Self { folder, arguments: vec!["run".into()], environment: Vec::new() }
    }

    /// Another command than `run`.
    pub fn command(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file beside the manifest.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.folder.path().join(name), content).unwrap();
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) -> Host {
        let log = tempfile::Builder::new().suffix(".log").tempfile_in(self.folder.path()).unwrap();
        let (_, log) = log.keep().unwrap();
        let output = log.with_extension("out");
        let process = self
            .prepared()
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Host { process, log, output }
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn finish(&self) -> Done {
        let mut host = self.start();
        let status = host.wait();
        Done { status, stdout: host.output(), stderr: host.log() }
    }

    fn prepared(&self) -> Command {
        let mut prepared = command();
        prepared.args(&self.arguments).current_dir(self.folder.path());
        prepared.envs(self.environment.iter().map(|(name, value)| (name, value)));
        prepared
    }
}

/// The program, with an environment that no developer's settings leak into.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove("TIDEGATE_LOG").env_remove("RUST_LOG").stdin(Stdio::null());
    // What one test has compiled the next need not, and nobody's own cache is touched.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// What a command came to.
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Fails the test unless the exit status is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let parsed = serde_json::from_str(&self.stdout);
        parsed.unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.stdout))
    }
}

/// A running process, killed when this is dropped.
pub struct Host {
    process: Child,
    log: PathBuf,
    output: PathBuf,
}

impl Host {
    /// `tidegate run` for these handlers on this server. The folder goes with the process.
    #[track_caller]
    pub fn start(server: &Server, manifest: &str) -> Running {
        Self::at(&server.url(), manifest)
    }

    /// As [`Self::start`], for a Redis by its address.
    #[track_caller]
    pub fn at(url: &str, manifest: &str) -> Running {
        Running::of(Setup::at(url, manifest))
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGKILL: nothing is finished, nobody is told.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        super::signal(self.process.id(), name);
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(DEADLINE)
    }

    #[track_caller]
    pub fn wait_within(&mut self, deadline: Duration) -> ExitStatus {
        within(deadline, "the process ends", || !self.is_running());
        self.process.wait().unwrap()
    }

    /// Asks it to stop, and waits until it did, in good order.
    #[track_caller]
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "it ended with {status}");
    }

    /// What it said on standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of process {} ---\n{}---", self.process.id(), self.log());
        }
    }
}

/// A host and the folder it runs in.
pub struct Running {
    host: Host,
    setup: Setup,
}

impl Running {
    /// Starts what a setup says, and keeps its folder.
    #[track_caller]
    pub fn of(setup: Setup) -> Self {
        Self { host: setup.start(), setup }
    }

    /// Starts one more host with the same manifest in place of this one, which has ended.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(!self.host.is_running(), "it still runs");
        self.host = self.setup.start();
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}

impl std::ops::Deref for Running {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}
