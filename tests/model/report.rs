//! A run that failed, told so that its cause can be found: what happened, and what is known of each message.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::audit::{Violation, keys};
use super::ledger::Sent;
use super::messages::LABEL;
use crate::harness::Redis;

/// So many violations are told in full; more say nothing new.
const TOLD: usize = 12;

/// So many lines of the logs are shown for each message.
const LINES: usize = 14;

/// What is told of a run that failed.
pub fn tell(
    history: &[String],
    violations: &[Violation],
    redis: &mut Redis,
    logs: &[(String, String)],
) -> String {
    let mut told = String::from("what happened (seconds):\n");
    for line in history {
        let _ = writeln!(told, "  {line}");
    }
    let _ = writeln!(told, "{} violations:", violations.len());
    for violation in violations.iter().take(TOLD) {
        match &violation.about {
            Some(sent) => {
                let id = sent.id.as_deref().unwrap_or("unconfirmed");
                let _ =
                    writeln!(told, "- {} ({id}, {:?}): {}", sent.label, sent.kind, violation.text);
                tell_of(&mut told, sent, redis, logs);
            }
            None => {
                let _ = writeln!(told, "- {}", violation.text);
            }
        }
    }
    told
}

/// What Redis and the hosts know of a message.
fn tell_of(told: &mut String, sent: &Sent, redis: &mut Redis, logs: &[(String, String)]) {
    let (stream, group) = (sent.line.stream(), sent.line.group());
    let entries = redis.entries(stream);
    let entry = entries.iter().find(|entry| entry.find(LABEL).as_deref() == Some(&sent.label));
    let Some(id) = entry.map(|entry| entry.id.clone()) else {
        let _ = writeln!(told, "    not on `{stream}`");
        return;
    };
    let (waiting, failures) = keys(sent.line);
    for question in [
        format!("XPENDING {stream} {group} {id} {id} 1"),
        format!("ZSCORE {waiting} {id}"),
        format!("HGET {failures} {id}"),
    ] {
        let answer = redis.attempt::<redis::Value>(&question);
        let _ = writeln!(told, "    {question}: {answer:?}");
    }
    let mut lines: Vec<String> = Vec::new();
    for (name, log) in logs {
        let about = log.lines().filter(|line| line.contains(&id) && line.contains(group));
        lines.extend(about.map(|line| format!("{line}  [{name}]")));
    }
    lines.sort();
    for line in lines.iter().take(LINES) {
        let _ = writeln!(told, "    {line}");
    }
}

/// Keeps the logs and the server's files, and says where.
pub fn keep(seed: u64, told: &str, logs: &[(String, String)], server: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{seed}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("told.txt"), told).unwrap();
    for (name, log) in logs {
        fs::write(folder.join(name), log).unwrap();
    }
    copy(server, &folder.join("server"));
    folder
}

/// Copies plain files and folders; what else there is, such as sockets, is left.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            fs::copy(&path, target).unwrap();
        }
    }
}
