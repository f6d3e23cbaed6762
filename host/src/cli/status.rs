//! `tidegate status`: how the manifest's handlers stand, and which hosts carry them.
//!
//! What Redis cannot tell is shown as `–`, or `null` in JSON, never as 0.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Color};

use super::print::{self, Reader};
use super::source::Source;
use super::{Failure, explain};
use crate::broker::{HostStatus, Sign};
use crate::host::{Delivery, HandlerStatus, Status};

/// How often `--watch` looks; a host tells its rate no more often than this.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Moves the cursor home and clears what is below it (ECMA-48).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// So much of a digest tells plugin files apart.
const DIGEST: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look again every two seconds, until interrupted; with --json, a line each time
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let handlers = arguments.source.manifest.load()?.handlers;
    let broker = arguments.source.connect("tidegate-status").await?;
    if !arguments.watch {
        let status = Status::read(&broker, &handlers).await?;
        let printed =
            if arguments.json { print::json(&status) } else { print::text(&status.tables()) };
        return printed.map(drop);
    }
    let mut every = tokio::time::interval(WATCH_EVERY);
    loop {
        every.tick().await;
        let status = match Status::read(&broker, &handlers).await {
            Ok(status) => status,
            // Whoever watches wants to see it come back.
            Err(failure) => {
                explain(&failure.into());
                continue;
            }
        };
        let reader = if arguments.json {
            print::json_line(&status)
        } else {
            let before = if io::stdout().is_terminal() { CLEAR } else { "" };
            print::text(&format!("{before}{}\n", status.tables()))
        };
        if reader? == Reader::Gone {
            return Ok(());
        }
    }
}

impl Status {
    /// The handlers, and below them the hosts, if there are any.
    fn tables(&self) -> String {
        let handlers = self.handlers.iter().map(HandlerStatus::row).collect();
        let mut tables = print::table(&HANDLER_COLUMNS, handlers);
        let hosts: Vec<_> = self.handlers.iter().flat_map(HandlerStatus::host_rows).collect();
        if !hosts.is_empty() {
            tables.push('\n');
            tables.push_str(&print::table(&HOST_COLUMNS, hosts));
        }
        let refusals = self.handlers.iter().flat_map(HandlerStatus::changes);
        let suspects = self.handlers.iter().filter_map(HandlerStatus::suspects);
        let troubles = self.handlers.iter().flat_map(HandlerStatus::troubles);
        let notes: Vec<_> = suspects.chain(troubles).chain(refusals).collect();
        if !notes.is_empty() {
            tables.push('\n');
            notes.iter().for_each(|line| tables.push_str(line));
        }
        tables
    }
}

const HANDLER_COLUMNS: [&str; 13] = [
    "handler", "stream", "group", "unread", "oldest", "pending", "waiting", "next try", "delayed",
    "dead", "hosts", "rate/s", "plugin",
];

const HOST_COLUMNS: [&str; 7] =
    ["host", "handler", "pending", "idle", "version", "plugin", "alive"];

impl HandlerStatus {
    fn row(&self) -> Vec<Cell> {
        let plugins: Vec<_> = self.plugins.iter().map(|digest| short(digest)).collect();
        let plugins = (!plugins.is_empty()).then(|| plugins.join(", "));
        vec![
            self.name(),
            Cell::new(self.source()),
            Cell::new(print::figure(self.readers())),
            number(self.unread),
            number(self.oldest_unread_ms.map(print::span)),
            number(self.pending),
            number(self.retries_waiting),
            number(self.next_retry_ms.map(print::due)),
            number(self.delayed),
            unwanted(self.dead),
            self.owner.as_ref().map_or_else(
                || needed(self.hosts_alive),
                |owner| Cell::new(print::legible(owner.as_bytes())),
            ),
            number(self.rate.map(|rate| format!("{rate:.1}"))),
            Cell::new(print::figure(plugins)),
        ]
    }

    /// The handler's name, and whether it is paused.
    fn name(&self) -> Cell {
        if self.paused {
            Cell::new(format!("{} (paused)", self.handler)).fg(Color::Yellow)
        } else {
            Cell::new(&self.handler)
        }
    }

    /// The stream, or the channel.
    fn source(&self) -> String {
        match (&self.stream, &self.channel) {
            (Some(stream), _) => print::legible(stream.as_bytes()),
            (None, channel) => {
                let channel = channel.as_deref().unwrap_or_default();
                format!("{} (channel)", print::legible(channel.as_bytes()))
            }
        }
    }

    /// The group, or the groups of all hosts.
    fn readers(&self) -> Option<String> {
        let group = print::legible(self.group.as_ref()?.as_bytes());
        let each = if self.delivery == Delivery::Broadcast { ":*" } else { "" };
        let missing = match (&self.trouble, self.group_exists) {
            (Some(_), _) => " (a key is of another type)",
            (None, true) => "",
            (None, false) => " (not yet there)",
        };
        Some(format!("{group}{each}{missing}"))
    }

    /// The hosts that tell of themselves. Each shard has all of them: the first speaks for all shards.
    fn telling(&self) -> impl Iterator<Item = (&String, &Sign)> {
        let hosts = self.hosts.iter().filter_map(|host| Some((&host.name, host.sign.as_ref()?)));
        hosts.filter(|_| self.shard.is_none_or(|index| index == 0))
    }

    /// How many messages may have killed their hosts, if any.
    fn suspects(&self) -> Option<String> {
        let count = self.suspected.filter(|count| *count > 0)?;
        Some(format!(
            "{}, {}: suspected of having killed a host: {}; see `tidegate pending`\n",
            self.handler,
            self.source(),
            print::count(count, "message")
        ))
    }

    /// Which hosts' circuits are open, and what Redis refused them, a line each.
    fn troubles(&self) -> impl Iterator<Item = String> {
        self.telling().flat_map(|(host, sign)| {
            let whose = format!("{}, {}", self.handler, print::legible(host.as_bytes()));
            let open = sign.circuit_open.then(|| {
                format!(
                    "{whose}: circuit open: everything failed; it tries one message now and then\n"
                )
            });
            let troubles: Vec<_> = sign
                .troubles
                .iter()
                .map(|(word, count)| {
                    format!(
                        "{} ({})",
                        print::legible(word.as_bytes()),
                        print::count(*count, "time")
                    )
                })
                .collect();
            let troubles = (!troubles.is_empty()).then(|| {
                format!(
                    "{whose}: what Redis refused or did not answer since this host started: {}\n",
                    troubles.join(", ")
                )
            });
            [open, troubles].into_iter().flatten()
        })
    }

    /// What hosts try out, and what they would not take up, a line each: what was at work before goes on.
    fn changes(&self) -> impl Iterator<Item = String> {
        self.telling()
            .flat_map(|(host, sign)| {
                let trying = sign.plugin_trying.as_ref().map(|digest| {
                    let (host, digest) = (print::legible(host.as_bytes()), short(digest));
                    format!(
                        "{}, {host}: trying out plugin {digest} on a share of messages\n",
                        self.handler
                    )
                });
                let refused =
                    [("plugin", &sign.plugin_refused), ("manifest", &sign.manifest_refused)];
                let refused = refused.map(|(what, why)| {
                    let lines =
                        why.as_ref()?.lines().map(|line| print::legible(line.trim().as_bytes()));
                    let why = lines.collect::<Vec<_>>().join("; ");
                    let host = print::legible(host.as_bytes());
                    Some(format!("{}, {host}: new {what} refused: {why}\n", self.handler))
                });
                std::iter::once(trying).chain(refused)
            })
            .flatten()
    }

    fn host_rows(&self) -> impl Iterator<Item = Vec<Cell>> {
        // Each shard has all hosts: here, those that have to do with it are enough.
        let concerned = |host: &&HostStatus| {
            self.shard.is_none() || host.pending > 0 || Some(&host.name) == self.owner.as_ref()
        };
        self.hosts.iter().filter(concerned).map(|host| {
            let sign = host.sign.as_ref();
            vec![
                Cell::new(print::legible(host.name.as_bytes())),
                Cell::new(&self.handler),
                number(Some(host.pending)),
                number(host.idle.map(print::span)),
                Cell::new(print::figure(sign.map(|sign| print::legible(sign.version.as_bytes())))),
                Cell::new(print::figure(sign.map(|sign| short(&sign.plugin)))),
                sign.map_or(Cell::new("no").fg(Color::Red), |_| Cell::new("yes")),
            ]
        })
    }
}

fn number(figure: Option<impl ToString>) -> Cell {
    Cell::new(print::figure(figure)).set_alignment(CellAlignment::Right)
}

/// A figure that stands out above 0.
fn unwanted(figure: Option<u64>) -> Cell {
    let cell = number(figure);
    if figure.is_some_and(|figure| figure > 0) { cell.fg(Color::Red) } else { cell }
}

/// A figure that stands out at 0.
fn needed(figure: Option<usize>) -> Cell {
    let cell = number(figure);
    if figure == Some(0) { cell.fg(Color::Red) } else { cell }
}

/// The start of a digest, without the name of its algorithm.
fn short(digest: &str) -> String {
    let digits = digest.rsplit_once(':').map_or(digest, |(_, digits)| digits);
    print::legible(digits.chars().take(DIGEST).collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{GroupStatus, Paused, Sign};
    use crate::manifest::{Handler, Manifest, ProcessEnvironment};
    use std::path::Path;

    fn handler() -> Handler {
        let text = "[handler.charge]\nplugin = \"charge.wasm\"\nstream = \"orders\"\n";
        let manifest = Manifest::parse(text, Path::new("t.toml"), &ProcessEnvironment).unwrap();
        manifest.handlers.into_iter().next().unwrap()
    }

    fn host(name: &str, sign: Option<(&str, f64)>) -> HostStatus {
        let sign = sign.map(|(plugin, rate)| {
            serde_json::from_value::<Sign>(serde_json::json!({
                "process": { "machine": "", "pid": 1, "started": "" },
                "version": "0.1.0", "plugin": plugin, "handled": 0, "retried": 0, "buried": 0,
                "rate": rate,
            }))
            .unwrap()
        });
        HostStatus { name: name.into(), pending: 2, idle: Some(1_500), sign }
    }

    fn shown(cells: &[Cell]) -> Vec<String> {
        cells.iter().map(Cell::content).collect()
    }

    #[test]
    fn a_handler_without_a_group_shows_no_figure_at_all() {
        let status = HandlerStatus::new(&handler(), None, None);
        let row = shown(&status.row());
        assert_eq!(row[..3], ["charge", "orders", "charge (not yet there)"]);
        assert!(row[3..].iter().all(|cell| cell == print::ABSENT), "{row:?}");
        let told = serde_json::to_value(&status).unwrap();
        for figure in ["unread", "pending", "delayed", "dead", "hosts-alive", "rate"] {
            assert_eq!(told.get(figure), Some(&serde_json::Value::Null), "{figure}");
        }
        assert_eq!(told["group-exists"], false);
    }

    #[test]
    fn a_figure_that_redis_cannot_give_is_absent_and_one_that_is_zero_is_zero() {
        let group = GroupStatus { lag: None, pending: 0, ..GroupStatus::default() };
        let row = shown(&HandlerStatus::new(&handler(), Some(group), None).row());
        assert_eq!(row[3..], ["–", "–", "0", "0", "–", "0", "0", "0", "–", "–"]);
    }

    #[test]
    fn rates_add_up_and_plugins_that_differ_are_all_named() {
        let hosts = vec![
            host("a", Some(("sha256:aaaaaaaaaaaaaaaa", 1.5))),
            host("b", Some(("sha256:bbbbbbbbbbbbbbbb", 2.0))),
            host("c", None),
        ];
        let group = GroupStatus { hosts, ..GroupStatus::default() };
        let status = HandlerStatus::new(&handler(), Some(group), Some(Paused::default()));
        let row = shown(&status.row());
        assert_eq!(row[10..], ["2", "3.5", "aaaaaaaa, bbbbbbbb"]);
        assert_eq!(row[0], "charge (paused)");
        let rows: Vec<_> = status.host_rows().map(|row| shown(&row)).collect();
        assert_eq!(rows[0], ["a", "charge", "2", "1s", "0.1.0", "aaaaaaaa", "yes"]);
        assert_eq!(rows[2], ["c", "charge", "2", "1s", "–", "–", "no"]);
    }
}
