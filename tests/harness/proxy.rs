//! A proxy between a host and its server that loses connections on purpose.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use super::Server;

/// Passes connections on, until told otherwise. Its threads end with their connections.
pub struct Proxy {
    socket: PathBuf,
    rules: Arc<Mutex<Rules>>,
}

/// What is done to connections from now on.
#[derive(Default)]
struct Rules {
    /// Where new connections lead.
    target: PathBuf,
    /// New connections are closed at once.
    refuse: bool,
    /// What arrives is swallowed; nothing is closed.
    swallow: bool,
    /// Replies to a command with this word are cut after so many bytes, so many more times.
    trap: Option<Trap>,
    /// Connections are cut after a random number of bytes up to this one, in either direction.
    storm: Option<(usize, fastrand::Rng)>,
    cuts: usize,
    made: usize,
    connections: Vec<UnixStream>,
}

struct Trap {
    word: &'static str,
    bytes: usize,
    times: usize,
}

/// How many bytes a direction of a connection may still pass.
type Allowance = Arc<Mutex<Option<usize>>>;

impl Proxy {
    /// A proxy before a server, on a socket in the server's folder.
    pub fn before(server: &Server) -> Self {
        let socket = server.directory().join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let rules = Rules { target: server.socket(), ..Rules::default() };
        let rules = Arc::new(Mutex::new(rules));
        let shared = rules.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (refused, target) = {
                    let rules = shared.lock().unwrap();
                    (rules.refuse, rules.target.clone())
                };
                if let (false, Ok(server)) = (refused, UnixStream::connect(target)) {
                    join(client, server, &shared);
                }
            }
        });
        Self { socket, rules }
    }

    /// How a manifest names it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The next replies to commands with this word are cut after so many bytes, with their connection.
    pub fn cut_replies(&self, word: &'static str, bytes: usize, times: usize) {
        self.rules().trap = Some(Trap { word, bytes, times });
    }

    /// Every connection from now on is cut at random, after at most so many bytes a direction.
    pub fn storm(&self, bytes: usize, random: fastrand::Rng) {
        self.rules().storm = Some((bytes, random));
    }

    /// New connections lead to this server; those that there are stay where they are.
    pub fn lead_to(&self, server: &Server) {
        self.rules().target = server.socket();
    }

    /// New connections are closed at once.
    pub fn refuse(&self) {
        self.rules().refuse = true;
    }

    /// Nothing passes any more, and nobody is told.
    pub fn swallow(&self) {
        self.rules().swallow = true;
    }

    /// Passes everything on again. What was swallowed stays so.
    pub fn heal(&self) {
        let mut rules = self.rules();
        rules.refuse = false;
        rules.swallow = false;
        rules.trap = None;
        rules.storm = None;
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for connection in self.rules().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were cut by a trap or a storm.
    pub fn cuts(&self) -> usize {
        self.rules().cuts
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.rules().made
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
        self.cut();
    }
}

fn join(client: UnixStream, server: UnixStream, rules: &Arc<Mutex<Rules>>) {
    let [mut up, mut down] = [None, None];
    {
        let mut rules = rules.lock().unwrap();
        rules.made += 1;
        rules.connections.push(client.try_clone().unwrap());
        if let Some((most, random)) = &mut rules.storm {
            (up, down) = (Some(random.usize(..*most)), Some(random.usize(..*most)));
        }
    }
    let (up, down): (Allowance, Allowance) = (Arc::new(Mutex::new(up)), Arc::new(Mutex::new(down)));
    let silent = Arc::new(AtomicBool::new(false));
    let requests = Pump {
        silent: silent.clone(),
        from: client.try_clone().unwrap(),
        to: server.try_clone().unwrap(),
        allowance: up,
        replies: Some(down.clone()),
        rules: rules.clone(),
    };
    let (from, to) = (server, client);
    let replies = Pump { silent, from, to, allowance: down, replies: None, rules: rules.clone() };
    thread::spawn(move || requests.run());
    thread::spawn(move || replies.run());
}

/// One direction of a connection.
struct Pump {
    /// What was swallowed is missing for good: a connection that lost some carries nothing any more.
    silent: Arc<AtomicBool>,
    from: UnixStream,
    to: UnixStream,
    allowance: Allowance,
    /// The other direction's allowance, where this one carries requests.
    replies: Option<Allowance>,
    rules: Arc<Mutex<Rules>>,
}

impl Pump {
    fn run(mut self) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = self.from.read(&mut buffer) {
            if !self.pass(&buffer[..count]) {
                break;
            }
        }
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }

    /// Passes bytes on; `false` once the connection is to be cut.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        {
            let mut rules = self.rules.lock().unwrap();
            if rules.swallow || self.silent.load(Ordering::Relaxed) {
                self.silent.store(true, Ordering::Relaxed);
                return true;
            }
            self.spring(bytes, &mut rules);
        }
        let share = self.share(bytes.len());
        let passed = self.to.write_all(&bytes[..share]).is_ok();
        if share < bytes.len() {
            self.rules.lock().unwrap().cuts += 1;
        }
        passed && share == bytes.len()
    }

    /// How many of the bytes at hand may still pass.
    fn share(&self, wanted: usize) -> usize {
        let mut allowance = self.allowance.lock().unwrap();
        let Some(left) = &mut *allowance else { return wanted };
        let share = wanted.min(*left);
        *left -= share;
        share
    }

    /// Limits the replies if these requests have the word that the trap waits for.
    fn spring(&self, bytes: &[u8], rules: &mut Rules) {
        let (Some(trap), Some(replies)) = (&mut rules.trap, &self.replies) else { return };
        let word = trap.word.as_bytes();
        if trap.times > 0 && bytes.windows(word.len()).any(|window| window == word) {
            let mut allowance = replies.lock().unwrap();
            if allowance.is_none() {
                trap.times -= 1;
                *allowance = Some(trap.bytes);
            }
        }
    }
}
