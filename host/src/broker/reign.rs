//! Which server is worked with: for as long as it reigns every connection goes to it, and then none does.
//!
//! Each connection is told which reign it was opened in. It gives no more answers once that is
//! over, as when the server says that it is a replica now, when the sentinels name another, or
//! when another answers at the same address. So no part of the host works with one
//! server while the rest works with the next.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio_util::sync::CancellationToken;

use super::trouble::{DEPOSED, Trouble};

/// So many changes within a minute are not what failovers look like.
const UNSTEADY: usize = 5;
const UNSTEADY_WITHIN: Duration = Duration::from_secs(60);

/// What a server tells of itself (`INFO server`, `INFO replication`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Where it listens.
    pub place: String,
    /// What tells this run of it from all others; none where it does not say.
    pub run: Option<String>,
    pub role: Role,
}

/// What a server is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Replica,
    /// It does not say.
    Untold,
}

impl Server {
    pub(super) fn new(place: String, told: &str) -> Self {
        let find = |name: &str| {
            let mut lines = told.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let role = match find("role") {
            Some("master") => Role::Primary,
            Some("slave" | "replica") => Role::Replica,
            Some(_) | None => Role::Untold,
        };
        Self { place, run: find("run_id").map(str::to_owned), role }
    }

    /// Whether it is the same as one that was asked earlier, as far as it says.
    fn is(&self, earlier: &Self) -> bool {
        self.place == earlier.place && (self.run.is_none() || self.run == earlier.run)
    }
}

/// The time for which one server is worked with.
#[derive(Debug)]
pub(super) struct Reign {
    server: Server,
    ended: AtomicBool,
    over: CancellationToken,
}

/// Why a reign ends.
#[derive(Debug)]
pub(super) enum Fall<'e> {
    /// The server said that it is a replica.
    Demoted(&'e RedisError),
    /// The sentinels name this one.
    Replaced(&'e str),
    /// Another answered.
    Succeeded,
}

impl Reign {
    fn of(server: Server) -> Arc<Self> {
        Arc::new(Self { server, ended: AtomicBool::new(false), over: CancellationToken::new() })
    }

    /// Where the server listens.
    pub(super) fn place(&self) -> &str {
        &self.server.place
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits until it is over.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Ends every connection of this reign; says so once.
    pub(super) fn end(&self, why: &Fall<'_>) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let server = self.place();
        match why {
            Fall::Demoted(error) => tracing::warn!(server, %error,
                "failover: the server is a read only replica now; giving up every connection to it"),
            Fall::Replaced(by) => tracing::warn!(
                server,
                by,
                "failover: the sentinels name another primary; giving up every connection to the old one"
            ),
            Fall::Succeeded => {}
        }
        self.over.cancel();
    }

    /// The error of a request whose reign ended before its answer came.
    fn deposed(&self) -> RedisError {
        let told = format!("{} is no longer the server to work with", self.place());
        redis::make_extension_error(DEPOSED.into(), Some(told))
    }

    /// What a request comes to, as long as this goes on.
    async fn during<T>(&self, request: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        if self.is_over() {
            return Err(self.deposed());
        }
        tokio::select! {
            biased;
            answer = request => answer,
            () = self.over() => Err(self.deposed()),
        }
    }

    fn hear(&self, error: &RedisError) {
        // Whoever was a replica from the start has not become one.
        if self.server.role == Role::Primary && Trouble::of(error) == Trouble::Demoted {
            self.end(&Fall::Demoted(error));
        }
    }
}

/// Who reigns.
#[derive(Debug, Default)]
pub(super) struct Throne(Mutex<Seat>);

#[derive(Debug, Default)]
struct Seat {
    reign: Option<Arc<Reign>>,
    /// When the last changes were, the oldest first.
    changes: VecDeque<Instant>,
}

impl Throne {
    /// The reign of a server that was just connected to; it begins unless it goes on.
    pub(super) fn seat(&self, server: Server) -> Arc<Reign> {
        let mut seat = self.lock();
        let before = seat.reign.take();
        let reign = match &before {
            Some(now) if !now.is_over() && server.is(&now.server) && !promoted(&server, now) => {
                now.clone()
            }
            _ => Reign::of(server),
        };
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &reign)) {
            before.end(&Fall::Succeeded);
            announce(&before.server, &reign.server);
            seat.note_change(reign.place());
        }
        seat.reign = Some(reign.clone());
        reign
    }

    /// Ends the present reign unless it is that of the server at this place.
    pub(super) fn claim(&self, place: &str) {
        let now = self.lock().reign.clone();
        if let Some(now) = now.filter(|now| now.place() != place) {
            now.end(&Fall::Replaced(place));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Says what may be wrong, once in a while, where servers come and go.
    fn note_change(&mut self, place: &str) {
        let now = Instant::now();
        self.changes.retain(|change| now.duration_since(*change) < UNSTEADY_WITHIN);
        self.changes.push_back(now);
        if self.changes.len() == UNSTEADY {
            self.changes.clear();
            tracing::warn!(
                server = place,
                "another server answered {UNSTEADY} times within a minute, and each time every connection was made \
                 anew: either it is restarted again and again, or several servers answer at this address, \
                 which has to lead to the primary alone"
            );
        }
    }
}

/// Whether a server that was a replica is one no more.
fn promoted(server: &Server, reign: &Reign) -> bool {
    server.role != Role::Untold && server.role != reign.server.role
}

fn announce(before: &Server, now: &Server) {
    if now.place != before.place {
        tracing::info!(from = %before.place, to = %now.place, "failed over to another primary");
    } else if now.run != before.run {
        tracing::info!(server = %now.place, "the server was restarted, or another answers in its place");
    } else if now.role == Role::Primary {
        tracing::info!(server = %now.place, "the server is a primary again");
    }
}

/// A connection to the server that reigns, for as long as it does; clones share it.
#[derive(Clone)]
pub(super) struct Wire {
    connection: MultiplexedConnection,
    reign: Arc<Reign>,
}

impl Wire {
    pub(super) fn new(connection: MultiplexedConnection, reign: Arc<Reign>) -> Self {
        Self { connection, reign }
    }

    /// In which reign it was opened.
    pub(super) fn reign(&self) -> &Arc<Reign> {
        &self.reign
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let Self { connection, reign } = self;
        Box::pin(async move {
            let answer = reign.during(connection.req_packed_command(cmd)).await;
            answer.inspect_err(|error| reign.hear(error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let Self { connection, reign } = self;
        Box::pin(async move {
            let asked = connection.req_packed_commands(pipeline, offset, count);
            let answers = reign.during(asked).await.inspect_err(|error| reign.hear(error))?;
            for answer in &answers {
                if let Value::ServerError(error) = answer {
                    reign.hear(&error.clone().into());
                }
            }
            Ok(answers)
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(place: &str, run: &str, role: &str) -> Server {
        Server::new(place.into(), &format!("# Server\r\nrun_id:{run}\r\n# R\r\nrole:{role}\r\n"))
    }

    #[test]
    fn connections_to_one_server_are_of_one_reign() {
        let throne = Throne::default();
        let first = throne.seat(server("a:1", "r1", "master"));
        assert!(Arc::ptr_eq(&first, &throne.seat(server("a:1", "r1", "master"))));
        // One that does not say who it is, is taken for the one that was there.
        let silent = Server::new("a:1".into(), "");
        assert!(Arc::ptr_eq(&first, &throne.seat(silent)));
        assert!(!first.is_over());
    }

    #[test]
    fn another_server_or_run_or_role_ends_the_reign_before() {
        let throne = Throne::default();
        let mut before = throne.seat(server("a:1", "r1", "master"));
        for next in [("b:1", "r1", "master"), ("b:1", "r2", "master"), ("b:1", "r2", "slave")] {
            let now = throne.seat(server(next.0, next.1, next.2));
            assert!(before.is_over() && !now.is_over(), "{next:?}");
            before = now;
        }
    }

    #[test]
    fn only_a_primary_can_be_demoted() {
        let demotion = redis::make_extension_error("READONLY".into(), None);
        for (role, is_over) in [("master", true), ("slave", false), ("", false)] {
            let reign = Throne::default().seat(server("a:1", "r1", role));
            reign.hear(&demotion);
            assert_eq!(reign.is_over(), is_over, "{role}");
        }
    }

    #[test]
    fn what_the_sentinels_name_reigns() {
        let throne = Throne::default();
        let reign = throne.seat(server("a:1", "r1", "master"));
        throne.claim("a:1");
        assert!(!reign.is_over());
        throne.claim("b:1");
        assert!(reign.is_over());
    }
}
