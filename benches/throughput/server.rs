//! The private Redis that everybody reads from, and what is looked up in it.

use std::cell::RefCell;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Client, Connection, Value};

use crate::Result;
use crate::process::{Leashed, directory};
use crate::rate::Load;

/// The consumer group, and the handler's name.
pub(crate) const GROUP: &str = "tally";

/// How long the server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries appended in one round trip.
const PRELOAD_BATCH: usize = 1000;

/// A server on a free port of the loopback interface.
pub(crate) struct Server {
    /// The server's process.
    pub process: Leashed,
    port: u16,
    /// For questions and preparations; no contestant uses it.
    connection: RefCell<Connection>,
}

/// How far a group has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The last entry that was read.
    pub delivered: String,
    /// Entries read and not acknowledged.
    pub pending: i64,
}

impl Progress {
    /// Whether anything was read.
    pub(crate) fn begun(&self) -> bool {
        self.delivered != "0-0"
    }

    /// Whether everything up to an entry is acknowledged.
    pub(crate) fn ended(&self, last: &str) -> bool {
        self.delivered == last && self.pending == 0
    }
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let shown = port.to_string();
        let arguments =
            ["--port", &shown, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let program = Path::new("redis-server");
        let process = Leashed::start(directory()?, program, arguments.map(AsRef::as_ref))?;
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            process.alive()?;
            if Instant::now() > deadline {
                return Err(process.complaint("does not listen"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let connection = RefCell::new(Client::open(url(port))?.get_connection()?);
        Ok(Self { process, port, connection })
    }

    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// A connection that speaks no Redis yet.
    pub(crate) fn socket(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect(("127.0.0.1", self.port))?)
    }

    pub(crate) fn version(&self) -> Result<String> {
        let told: String = self.ask(redis::cmd("INFO").arg("server"))?;
        let version = told.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("unknown").to_owned())
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        Ok(command.query(&mut *self.connection.borrow_mut())?)
    }

    /// Fills the stream of a load.
    pub(crate) fn preload(&self, load: &Load) -> Result<()> {
        let numbers: Vec<usize> = (0..load.messages).collect();
        for some in numbers.chunks(PRELOAD_BATCH) {
            let mut appending = redis::pipe();
            for number in some {
                appending.add_command(append(&load.stream(), *number, load.bytes)).ignore();
            }
            appending.exec(&mut *self.connection.borrow_mut())?;
        }
        Ok(())
    }

    /// Gives the memory of a load's stream back.
    pub(crate) fn discard(&self, load: &Load) -> Result<()> {
        self.ask(redis::cmd("DEL").arg(load.stream()))
    }

    /// A group that has read nothing of the stream, whatever was before.
    pub(crate) fn new_group(&self, stream: &str) -> Result<()> {
        // Refused where there is no stream yet.
        let _: Result<Value> = self.ask(redis::cmd("XGROUP").arg("DESTROY").arg(stream).arg(GROUP));
        let mut creating = redis::cmd("XGROUP");
        let _: Value =
            self.ask(creating.arg("CREATE").arg(stream).arg(GROUP).arg(0).arg("MKSTREAM"))?;
        Ok(())
    }

    pub(crate) fn progress(&self, stream: &str) -> Result<Progress> {
        let groups: Vec<std::collections::HashMap<String, Value>> =
            self.ask(redis::cmd("XINFO").arg("GROUPS").arg(stream))?;
        let group = groups.into_iter().next().unwrap_or_default();
        match (group.get("last-delivered-id"), group.get("pending")) {
            (Some(Value::BulkString(id)), Some(Value::Int(pending))) => {
                let delivered = String::from_utf8_lossy(id).into_owned();
                Ok(Progress { delivered, pending: *pending })
            }
            _ => Err(format!("the group of `{stream}` is gone").into()),
        }
    }

    pub(crate) fn last_id(&self, stream: &str) -> Result<String> {
        let newest: Vec<(String, Value)> =
            self.ask(redis::cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1))?;
        let (id, _) = newest.into_iter().next().ok_or("the stream is empty")?;
        Ok(id)
    }

    /// Fails if a contestant gave up on messages instead of handling them.
    pub(crate) fn no_dead_letters(&self, stream: &str) -> Result<()> {
        let dead: usize = self.ask(redis::cmd("XLEN").arg(format!("{{{stream}}}:dead")))?;
        if dead == 0 {
            Ok(())
        } else {
            Err(format!("{dead} messages ended as dead letters").into())
        }
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

/// The command that appends one payment, of so many bytes in its field `data`.
pub(crate) fn append(stream: &str, number: usize, bytes: usize) -> redis::Cmd {
    let customer = number % 1000;
    let head = format!(
        r#"{{"id":"p-{number:07}","customer":"c-{customer:03}","amount":1250,"currency":"EUR","note":""#
    );
    let note = "x".repeat(bytes.saturating_sub(head.len() + 2));
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg("id").arg(format!("p-{number:07}"));
    command.arg("data").arg(format!("{head}{note}\"}}")).arg("source").arg("shop");
    command
}
