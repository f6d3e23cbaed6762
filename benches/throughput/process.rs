//! Child processes that end with us, however we end, and take their directory along.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::Result;

/// The shell's standard input closes with our process, even when that is
/// killed; the shell then stops the program, and removes its directory.
const LEASH: &str = r#"
exec 2>/dev/null
"$@" </dev/null >log 2>&1 &
echo $!
read -r _
kill $!
wait $!
rm -rf -- "$0"
"#;

/// Clock ticks a second in /proc: the same on every Linux (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// A program that is stopped when this is dropped.
pub(crate) struct Leashed {
    leash: Child,
    pid: u32,
    directory: TempDir,
}

/// A directory for one process.
pub(crate) fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("tidegate-bench-").tempdir()?)
}

impl Leashed {
    /// Runs a program in its directory, with its output in a file there.
    pub(crate) fn start<'a>(
        directory: TempDir,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(LEASH).arg(directory.path()).arg(program).args(arguments);
        command.current_dir(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: ctrl-c is for us, the shell has yet to clean up.
        let mut leash = command.process_group(0).spawn()?;
        let mut line = String::new();
        if let Some(told) = leash.stdout.take() {
            BufReader::new(told).read_line(&mut line)?;
        }
        let pid = line.trim().parse().map_err(|_| format!("cannot run {}", program.display()))?;
        Ok(Self { leash, pid, directory })
    }

    /// Fails with the program's log if it has ended.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.stat() {
            Some(stat) if stat.starts_with('Z') => Err(self.complaint("ended by itself")),
            Some(_) | None => Ok(()),
        }
    }

    /// What the program did wrong, and its log.
    pub(crate) fn complaint(&self, wrong: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        format!("a program {wrong}; its log:\n{log}").into()
    }

    /// Time it spent on processors, in it and in the kernel for it; none where there is no /proc.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = self.stat()?;
        // The 14th and 15th field (proc(5)), counted from the third.
        let ticks = stat.split(' ').skip(11).take(2).map(str::parse::<f64>);
        let ticks: f64 = ticks.sum::<std::result::Result<f64, _>>().ok()?;
        Some(Duration::from_secs_f64(ticks / TICKS))
    }

    /// `/proc/PID/stat` from the third field on, the state; the second may hold anything.
    fn stat(&self) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}
