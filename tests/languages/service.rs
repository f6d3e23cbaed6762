//! The quote service that the handlers ask: a tiny HTTP server on a port of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::harness::DEADLINE;

/// Every article costs this much.
pub(super) const PRICE: &str = "199 EUR";

/// Answers every path with [`PRICE`], but `/unknown` with 404, until this is dropped.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (paths, stop) = (Arc::clone(&asked), Arc::clone(&stopping));
        let thread = thread::spawn(move || {
            for caller in listener.incoming() {
                if stop.load(Relaxed) {
                    break;
                }
                // A caller that leaves early is the handler's affair, not the test's.
                let _ = serve(&caller.unwrap(), &paths);
            }
        });
        Self { address, asked, stopping, thread: Some(thread) }
    }

    /// The paths that were asked for, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
        // The thread waits for a caller: this is the last.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one request and answers it; the connection is not used again.
fn serve(caller: &TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    caller.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(caller).lines();
    let Some(request) = lines.next().transpose()? else { return Ok(()) };
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let status = if path == "/unknown" { "404 Not Found" } else { "200 OK" };
    asked.lock().unwrap().push(path);
    let length = PRICE.len();
    let mut caller = caller;
    write!(
        caller,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{PRICE}"
    )
}
