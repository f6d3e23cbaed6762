//! What a handler may call over HTTP, and what it may not.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test may take what it knows to be there"
)]

#[path = "calling/bounds.rs"]
mod bounds;
mod harness;
#[path = "calling/web.rs"]
mod web;

use std::net::ToSocketAddrs;

use harness::{Entry, Host, Redis, Server, Setup, eventually, skipped};
use web::Web;

/// A handler that makes the requests that its messages describe.
const PROBE: &str = r#"
[handler.h]
plugin = "probe_http.wasm"
stream = "in"
outputs = ["out"]
"#;

/// A host for the probe with more lines in its table, on a server of its own.
struct Calling {
    redis: Redis,
    host: Host,
    _setup: Setup,
    _server: Server,
}

impl Calling {
    #[track_caller]
    fn start(lines: &str) -> Self {
        Self::with(lines, &[])
    }

    /// As [`Self::start`], with variables in the host's environment.
    #[track_caller]
    fn with(lines: &str, variables: &[(&str, &str)]) -> Self {
        let server = Server::start();
        let mut setup = Setup::new(&server, &format!("{PROBE}{lines}"));
        for (name, value) in variables {
            setup = setup.env(name, value);
        }
        Self { redis: server.client(), host: setup.start(), _setup: setup, _server: server }
    }

    /// What comes of a request.
    #[track_caller]
    fn ask(&mut self, fields: &[(&str, &str)]) -> Entry {
        let id = self.redis.add("in", fields);
        let mut found = None;
        eventually("the request has come to something", || {
            let mut entries = self.redis.entries("out").into_iter();
            found = entries.find(|entry| entry.get("id") == id);
            found.is_some()
        });
        found.unwrap()
    }

    #[track_caller]
    fn get(&mut self, url: &str) -> Entry {
        self.ask(&[("url", url)])
    }

    /// The code of a request that fails.
    #[track_caller]
    fn error(&mut self, url: &str) -> String {
        self.get(url).get("error")
    }

    /// Lines of the log that have this in them.
    fn lines(&self, with: &str) -> Vec<String> {
        self.host.log().lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
    }
}

#[test]
fn a_granted_host_is_called_over_http_and_https() {
    let (plain, secure) = (Web::greeting(), Web::secure(&["localhost", "127.0.0.1"]));
    let granted = format!(
        "http = [\"127.0.0.1:{}\", \"https://localhost:{}\", \"127.0.0.1:{}\"]",
        plain.port, secure.port, secure.port
    );
    let mut calling = Calling::with(&granted, &[("SSL_CERT_FILE", secure.authority())]);
    let answer = calling.get(&plain.url("/a?b=c"));
    assert_eq!(answer.get("status"), "200");
    assert_eq!(answer.get("body"), "hello GET /a?b=c HTTP/1.1");
    assert!(answer.to_string().contains("header=x-from: web"), "{answer}");
    for host in ["localhost", "LOCALHOST.", "127.0.0.1"] {
        let answer = calling.get(&format!("https://{host}:{}/tls", secure.port));
        assert_eq!(answer.get("body"), "hello GET /tls HTTP/1.1", "{host}");
    }
    assert_eq!(calling.error(&format!("http://localhost:{}/", secure.port)), "HttpRequestDenied");
}

#[test]
fn a_request_carries_what_the_guest_gave_and_nothing_of_the_hosts() {
    let web = Web::greeting();
    let nowhere = "http://127.0.0.1:1";
    let variables = [("http_proxy", nowhere), ("HTTP_PROXY", nowhere), ("ALL_PROXY", nowhere)];
    let mut calling = Calling::with(&format!("http = [\"127.0.0.1:{}\"]", web.port), &variables);
    let fields = [("method", "POST"), ("header", "x-own: 1"), ("body", "hello"), ("url", "")];
    let url = format!("http://127.1:{}/post", web.port);
    let fields: Vec<_> =
        fields.iter().map(|(n, v)| (*n, if *n == "url" { url.as_str() } else { *v })).collect();
    assert_eq!(calling.ask(&fields).get("status"), "200");
    let request = web.requests().remove(0);
    assert_eq!(request.line, "POST /post HTTP/1.1");
    assert_eq!(request.body, b"hello");
    assert_eq!(request.names(), ["host", "transfer-encoding", "x-own"]);
    assert_eq!(request.header("host").unwrap(), format!("127.0.0.1:{}", web.port));
    for forbidden in ["host: evil.test", "connection: upgrade", "proxy-authorization: x"] {
        let refused = calling.ask(&[("url", url.as_str()), ("header", forbidden)]);
        assert!(refused.get("error").contains("Forbidden"), "{refused}");
    }
    assert_eq!(web.requests().len(), 1);
}

#[test]
fn what_is_not_granted_is_denied_and_the_log_says_what_would_grant_it() {
    let web = Web::greeting();
    let mut calling = Calling::start("http = [\"api.example.com\", \"127.0.0.1:1\"]");
    for _ in 0..3 {
        assert_eq!(calling.error(&web.url("/")), "HttpRequestDenied");
    }
    assert_eq!(calling.error("https://other.example.com/"), "HttpRequestDenied");
    assert_eq!(calling.error("https://api.example.com:8443/"), "HttpRequestDenied");
    assert_eq!(calling.error("https://sub.api.example.com/"), "HttpRequestDenied");
    assert!(web.requests().is_empty());
    let told = calling.lines(&format!("http = [\"127.0.0.1:{}\"]", web.port));
    assert_eq!(told.len(), 1, "once for each host: {told:?}");
    assert!(told[0].contains("WARN") && told[0].contains("handler=h"), "{told:?}");
    assert_eq!(calling.lines("http = [\"api.example.com:8443\"]").len(), 1);
}

#[test]
fn a_plugin_that_calls_out_is_refused_without_a_grant() {
    let manifest = "[handler.h]\nplugin = \"probe_http.wasm\"\nstream = \"in\"\n";
    for command in ["check", "run"] {
        let setup = Setup::at("redis://127.0.0.1:1", manifest).command(&[command]);
        let refused = setup.finish().expect(2).stderr;
        assert!(refused.contains("wasi:http/outgoing-handler@0.2."), "{refused}");
        assert!(refused.contains("a grant such as `http = [\"api.example.com\"]`"), "{refused}");
    }
}

#[test]
fn no_spelling_of_an_address_gets_around_the_grants() {
    let web = Web::greeting();
    let port = web.port;
    let mut calling = Calling::start(&format!("http = [\"api.example.com:{port}\", \"8.8.8.8\"]"));
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.1.",
        "localhost",
        "LocalHost.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "0.0.0.0",
        "0",
        "[::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "192.168.1.1",
        "[64:ff9b::7f00:1]",
        "api.example.com.evil.test",
        "metadata.google.internal",
    ] {
        assert_eq!(calling.error(&format!("http://{host}:{port}/")), "HttpRequestDenied", "{host}");
    }
    for odd in ["api.example.com:80@127.0.0.1", "user@127.0.0.1", "api.example.com\\@127.0.0.1"] {
        let answer = calling.get(&format!("http://{odd}:{port}/"));
        assert!(answer.find("error").is_some(), "{odd}: {answer}");
    }
    assert!(web.requests().is_empty());
}

#[test]
fn a_name_of_this_machine_is_refused_unless_its_address_is_granted() {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let addresses: Vec<_> = (name.as_str(), 0).to_socket_addrs().into_iter().flatten().collect();
    if name == "localhost" || !addresses.iter().any(|address| address.ip().is_loopback()) {
        return skipped("the machine's name does not lead to itself");
    }
    let web = Web::greeting();
    let url = format!("http://{name}:{}/", web.port);
    let mut calling = Calling::start(&format!("http = [\"{name}:{}\"]", web.port));
    assert_eq!(calling.error(&url), "DestinationIpProhibited");
    assert!(web.requests().is_empty());
    let told = calling.lines("not public");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&format!("\"{name}:{}\", \"127.", web.port)), "{told:?}");
    let granted = format!("http = [\"{name}:{}\", \"127.0.0.0/8\"]", web.port);
    assert_eq!(Calling::start(&granted).get(&url).get("status"), "200");
}

#[test]
fn a_redirection_is_a_request_of_its_own() {
    let other = Web::greeting();
    let away = other.url("/away");
    let web = Web::start(move |request, to| {
        let location = request.line.split(' ').nth(1).unwrap();
        let location = if location == "/away" { away.as_str() } else { "/home" };
        write!(to, "HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
    });
    let follow =
        |calling: &mut Calling| calling.ask(&[("url", web.url("/away").as_str()), ("follow", "")]);
    let mut calling = Calling::start(&format!("http = [\"127.0.0.1:{}\"]", web.port));
    assert_eq!(follow(&mut calling).get("error"), "HttpRequestDenied");
    assert!(other.requests().is_empty());
    let both = format!("http = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", web.port, other.port);
    assert_eq!(follow(&mut Calling::start(&both)).get("body"), "hello GET /away HTTP/1.1");
}

#[test]
fn a_server_that_cannot_prove_its_name_gets_no_request() {
    let (web, other) = (Web::secure(&["localhost"]), Web::secure(&["other.test"]));
    let granted = format!("http = [\"localhost:{}\", \"localhost:{}\"]", web.port, other.port);
    let unknown = format!("https://localhost:{}/", web.port);
    assert_eq!(Calling::start(&granted).error(&unknown), "TlsCertificateError");
    let mut calling = Calling::with(&granted, &[("SSL_CERT_FILE", other.authority())]);
    let misnamed = format!("https://localhost:{}/", other.port);
    assert_eq!(calling.error(&misnamed), "TlsCertificateError");
    assert!(web.requests().is_empty() && other.requests().is_empty());
}

#[test]
fn authorities_that_cannot_be_read_are_told_before_anything_runs() {
    let manifest = format!("{PROBE}http = [\"api.example.com\"]");
    for (name, content) in [("empty.pem", ""), ("text.pem", "-----BEGIN CERTIFICATE-----\nx\n")] {
        let setup = Setup::alone(&manifest).command(&["check"]).file(name, content);
        let done = setup.env("SSL_CERT_FILE", name).finish().expect(2);
        assert!(done.stderr.contains("SSL_CERT_FILE names "), "{}", done.stderr);
    }
    let missing = Setup::alone(&manifest).command(&["check"]).env("SSL_CERT_FILE", "missing.pem");
    assert!(missing.finish().expect(2).stderr.contains("missing.pem"));
    Setup::alone(&manifest).command(&["check"]).finish().expect(0);
}
