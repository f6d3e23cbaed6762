//! A web server of the test's own, plain or by TLS, that does with each request what it is told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a request said.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET /path HTTP/1.1`.
    pub line: String,
    /// Names in lower case, and values, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The names of its headers, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What answers: it has the request and the connection, which is closed when it returns.
type Answer = dyn Fn(&Request, &mut dyn Connection) -> io::Result<()> + Send + Sync;

pub trait Connection: Read + Write {}

impl<T: Read + Write> Connection for T {}

/// A server on a free port of 127.0.0.1. Its threads end with their connections.
pub struct Web {
    pub port: u16,
    shared: Arc<Shared>,
    /// The authority that signed its certificate, if it has one, in a folder that goes with it.
    authority: Option<(tempfile::TempDir, PathBuf)>,
}

struct Shared {
    answer: Box<Answer>,
    tls: Option<Arc<ServerConfig>>,
    requests: Mutex<Vec<Request>>,
    open: AtomicUsize,
}

impl Web {
    pub fn start(
        answer: impl Fn(&Request, &mut dyn Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with(Box::new(answer), None)
    }

    /// A server that greets, and says what was asked for.
    pub fn greeting() -> Self {
        Self::start(|request, to| ok(to, &format!("hello {}", request.line)))
    }

    /// The same by TLS, with a certificate for these names.
    pub fn secure(names: &[&str]) -> Self {
        let (tls, authority) = certified(names);
        let answer =
            |request: &Request, to: &mut dyn Connection| ok(to, &format!("hello {}", request.line));
        let mut web = Self::with(Box::new(answer), Some(tls));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, authority).unwrap();
        web.authority = Some((folder, file));
        web
    }

    fn with(answer: Box<Answer>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = AtomicUsize::new(0);
        let shared = Arc::new(Shared { answer, tls, requests: Mutex::default(), open });
        let serving = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(connection));
            }
        });
        Self { port, shared, authority: None }
    }

    /// `http://127.0.0.1:PORT` and what comes after it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The PEM file of whoever signed its certificate.
    pub fn authority(&self) -> &str {
        self.authority.as_ref().unwrap().1.to_str().unwrap()
    }
}

impl Shared {
    fn serve(&self, connection: TcpStream) {
        self.open.fetch_add(1, Ordering::SeqCst);
        // Whoever hangs up early means to.
        let _ = match &self.tls {
            None => self.talk(connection),
            Some(tls) => {
                let session = ServerConnection::new(tls.clone()).unwrap();
                self.talk(StreamOwned::new(session, connection))
            }
        };
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn talk(&self, connection: impl Connection) -> io::Result<()> {
        let mut reader = BufReader::new(connection);
        let request = read(&mut reader)?;
        self.requests.lock().unwrap().push(request.clone());
        (self.answer)(&request, reader.get_mut())
    }
}

/// A response with a body, after which the connection is closed.
pub fn ok(to: &mut dyn Connection, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(to, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nx-from: web\r\n\r\n{body}")?;
    to.flush()
}

/// Keeps the connection until the other side closes it.
pub fn wait_for_end(of: &mut dyn Connection) -> io::Result<()> {
    while of.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn read(from: &mut impl BufRead) -> io::Result<Request> {
    let line = text(from)?;
    let mut headers = Vec::new();
    loop {
        let header = text(from)?;
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut request = Request { line, headers, body: Vec::new() };
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(&text(from)?, 16).unwrap_or_default();
            let mut piece = vec![0; size];
            from.read_exact(&mut piece)?;
            text(from)?;
            if size == 0 {
                break;
            }
            request.body.extend(piece);
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().unwrap()];
        from.read_exact(&mut request.body)?;
    }
    Ok(request)
}

/// A line without its end.
fn text(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// What a server shows to prove its names, and its authority in PEM.
fn certified(names: &[&str]) -> (Arc<ServerConfig>, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(config), authority.pem())
}
