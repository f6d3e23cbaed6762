//! Telling one process from another, and whether one that is known is no more.
//!
//! "Gone" is said only when it is certain: on the same machine, where the system shows
//! every process. Whatever cannot be known is taken to live.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// What tells one process from another, for whoever shares its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The machine's boot and the process namespace in it.
    machine: String,
    pid: u32,
    /// When it started, in the kernel's ticks: pids are used again.
    started: String,
}

/// What the system says of a pid.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It runs, since then.
    Running(String),
    /// There is none, or it has ended and only its parent has not looked.
    Ended,
    /// It cannot be told.
    Hidden,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        let started = match look(pid) {
            Seen::Running(started) => started,
            Seen::Ended | Seen::Hidden => String::new(),
        };
        Self { machine: machine(), pid, started }
    }

    /// Whether it can be told for sure that this process is no more.
    pub(super) fn is_gone(&self) -> bool {
        !self.machine.is_empty()
            && !self.started.is_empty()
            && self.machine == machine()
            && self.is_gone_by(look(self.pid))
    }

    /// Whether it can be told for sure that this process lives.
    pub(super) fn is_there(&self) -> bool {
        !self.machine.is_empty()
            && !self.started.is_empty()
            && self.machine == machine()
            && look(self.pid) == Seen::Running(self.started.clone())
    }

    fn is_gone_by(&self, seen: Seen) -> bool {
        match seen {
            Seen::Running(started) => started != self.started,
            Seen::Ended => true,
            Seen::Hidden => false,
        }
    }
}

/// Names the scope in which a pid means something; empty where that cannot be told.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

fn look(pid: u32) -> Seen {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => read(&stat),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Under `hidepid` the processes of other users seem not to be there.
            let mounts = fs::read_to_string("/proc/self/mounts");
            if mounts.is_ok_and(|mounts| shows_all(&mounts)) { Seen::Ended } else { Seen::Hidden }
        }
        Err(_) => Seen::Hidden,
    }
}

/// The start time of a process, the 22nd field of `/proc/PID/stat` (proc(5)).
fn read(stat: &str) -> Seen {
    let Some((_, after_name)) = stat.rsplit_once(") ") else { return Seen::Hidden };
    let mut fields = after_name.split(' ');
    match (fields.next(), fields.nth(18)) {
        (Some("Z" | "X"), _) => Seen::Ended,
        (Some(_), Some(started)) => Seen::Running(started.to_owned()),
        _ => Seen::Hidden,
    }
}

/// Whether `/proc` shows the processes of every user (`hidepid` in proc(5)).
fn shows_all(mounts: &str) -> bool {
    let mut proc = mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/proc"));
    let options = |line: &str| line.split(' ').nth(3).unwrap_or_default().to_owned();
    let hides = |option: &str| {
        option.strip_prefix("hidepid=").is_some_and(|mode| !["0", "off"].contains(&mode))
    };
    // What is mounted last lies on top.
    proc.next_back().is_some_and(|line| !options(line).split(',').any(hides))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_not_gone_and_one_of_its_pid_that_started_earlier_is() {
        let this = Process::this();
        assert!(!this.is_gone() && this.is_there());
        let earlier = Process { started: "1".into(), ..this.clone() };
        assert!(earlier.is_gone() && !earlier.is_there());
        let elsewhere = Process { machine: "another".into(), ..this };
        assert!(!elsewhere.is_gone() && !elsewhere.is_there(), "it cannot be known");
        let elsewhere = Process { machine: "another".into(), ..earlier };
        assert!(!elsewhere.is_gone(), "what cannot be known is taken to live");
    }

    #[test]
    fn what_the_system_hides_is_taken_to_live() {
        let process = Process { machine: "m".into(), pid: 7, started: "99".into() };
        assert!(!process.is_gone_by(Seen::Hidden));
        assert!(!process.is_gone_by(Seen::Running("99".into())));
        assert!(process.is_gone_by(Seen::Running("100".into())), "its pid is used again");
        assert!(process.is_gone_by(Seen::Ended));
        assert!(shows_all("proc /proc proc rw,nosuid 0 0\n"));
        assert!(shows_all("proc /proc proc rw,hidepid=off 0 0\n"));
        for hidden in ["hidepid=2", "hidepid=invisible", "hidepid=1"] {
            assert!(!shows_all(&format!("proc /proc proc rw,{hidden},gid=5 0 0\n")), "{hidden}");
        }
        assert!(!shows_all("sysfs /sys sysfs rw 0 0\n"));
    }

    #[test]
    fn the_start_of_a_process_is_read_past_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(read(&format!("7 (a) b) (c) {fields}")), Seen::Running("4711".into()));
        assert_eq!(read("7 (a) Z 1"), Seen::Ended);
        assert_eq!(read("nonsense"), Seen::Hidden);
    }
}
