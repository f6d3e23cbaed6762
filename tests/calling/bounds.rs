//! How long requests may take, how much they may carry, and how many there may be.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use super::Calling;
use super::harness::eventually;
use super::web::{Connection, Web, ok, wait_for_end};

/// Lines of a handler that may call these servers, within limits.
fn granted(webs: &[&Web], limits: &str) -> String {
    let hosts: Vec<_> = webs.iter().map(|web| format!("\"127.0.0.1:{}\"", web.port)).collect();
    format!("http = [{}]\nlimits = {{ {limits} }}\n", hosts.join(", "))
}

/// A response that goes on for as long as somebody listens.
fn endless(to: &mut dyn Connection, piece: &[u8], pause: Duration) -> io::Result<()> {
    write!(to, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        write!(to, "{:x}\r\n", piece.len())?;
        to.write_all(piece)?;
        write!(to, "\r\n")?;
        to.flush()?;
        thread::sleep(pause);
    }
}

#[test]
fn a_server_that_never_answers_costs_no_more_than_the_timeout() {
    let web = Web::start(|_, to| wait_for_end(to));
    let mut calling = Calling::start(&granted(&[&web], "http-timeout = \"600ms\""));
    let asked = Instant::now();
    assert_eq!(calling.error(&web.url("/")), "HttpResponseTimeout");
    assert!(asked.elapsed() >= Duration::from_millis(600));
    eventually("the connection is closed", || web.open() == 0);
}

#[test]
fn a_guests_own_shorter_timeouts_are_kept() {
    let silent = Web::start(|_, to| wait_for_end(to));
    let stalled = Web::start(|_, to| {
        write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
        to.flush()?;
        wait_for_end(to)
    });
    let mut calling = Calling::start(&granted(&[&silent, &stalled], "http-timeout = \"1day\""));
    let first = calling.ask(&[("url", silent.url("/").as_str()), ("first-byte-ms", "200")]);
    assert_eq!(first.get("error"), "ConnectionReadTimeout");
    let next = calling.ask(&[("url", stalled.url("/").as_str()), ("between-bytes-ms", "200")]);
    assert_eq!(next.get("error"), "ConnectionReadTimeout after 5 bytes");
    eventually("the connections are closed", || silent.open() + stalled.open() == 0);
}

#[test]
fn a_body_that_drips_ends_with_the_timeout_of_the_whole() {
    let web = Web::start(|_, to| endless(to, b"drip", Duration::from_millis(20)));
    let mut calling = Calling::start(&granted(&[&web], "http-timeout = \"800ms\""));
    let error = calling.error(&web.url("/"));
    assert!(error.starts_with("HttpResponseTimeout after "), "{error}");
    eventually("the connection is closed", || web.open() == 0);
}

#[test]
fn a_body_without_an_end_stops_at_the_limit() {
    let web = Web::start(|_, to| endless(to, &[b'x'; 1000], Duration::ZERO));
    let mut calling = Calling::start(&granted(&[&web], "http-bytes = \"64KiB\""));
    let error = calling.error(&web.url("/"));
    let bytes = error.strip_prefix("HttpResponseBodySize(Some(65536)) after ");
    let bytes: usize = bytes.unwrap().strip_suffix(" bytes").unwrap().parse().unwrap();
    assert!((1..=65536).contains(&bytes), "{error}");
    eventually("the connection is closed", || web.open() == 0);
}

#[test]
fn a_body_of_the_limit_passes_and_one_byte_more_does_not() {
    let web = Web::start(|request, to| {
        let length: usize = request.line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        ok(to, &"x".repeat(length))
    });
    let mut calling = Calling::start(&granted(&[&web], "http-bytes = \"64KiB\""));
    assert_eq!(calling.get(&web.url("/65536")).get("bytes"), "65536");
    assert_eq!(calling.error(&web.url("/65537")), "HttpResponseBodySize(Some(65537))");
    let url = web.url("/1");
    let post = [("url", url.as_str()), ("method", "POST")];
    let mut send = |bytes: &str| calling.ask(&[&post[..], &[("body-bytes", bytes)]].concat());
    assert_eq!(send("65536").get("status"), "200");
    assert_eq!(send("65537").get("error"), "HttpRequestBodySize(Some(65536))");
    let sent: Vec<_> = web.requests().iter().map(|request| request.body.len()).collect();
    assert_eq!(sent, [0, 0, 65536], "the last one was never whole");
}

#[test]
fn a_head_without_an_end_is_refused() {
    let web = Web::start(|_, to| {
        write!(to, "HTTP/1.1 200 OK\r\n")?;
        for n in 0.. {
            write!(to, "x-{n}: {}\r\n", "y".repeat(1000))?;
        }
        Ok(())
    });
    let mut calling = Calling::start(&granted(&[&web], "http-calls = 1"));
    assert_eq!(calling.error(&web.url("/")), "HttpResponseHeaderSectionSize(None)");
    eventually("the connection is closed", || web.open() == 0);
}

#[test]
fn no_more_requests_are_in_flight_than_the_handler_may_have() {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let web = Web::start(move |_, to| {
        seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        thread::sleep(Duration::from_millis(50));
        now.fetch_sub(1, SeqCst);
        ok(to, "done")
    });
    let lines = granted(&[&web], "http-calls = 2");
    let mut calling = Calling::start(&format!("concurrency = 16\n{lines}"));
    for _ in 0..24 {
        calling.redis.add("in", &[("url", web.url("/").as_str())]);
    }
    let answers = calling.redis.wait_for(24, "out");
    assert!(answers.iter().all(|answer| answer.find("status").is_some()), "{answers:?}");
    assert!((1..=2).contains(&most.load(SeqCst)), "{most:?} at once");
}

#[test]
fn a_request_that_nobody_waits_for_ends_with_its_time() {
    let web = Web::start(|_, to| wait_for_end(to));
    let limits = "http-calls = 1, http-timeout = \"1s\"";
    let mut calling = Calling::start(&granted(&[&web], limits));
    let asked = calling.ask(&[("url", web.url("/").as_str()), ("abandon", "")]);
    assert!(asked.find("abandoned").is_some(), "{asked}");
    eventually("it has arrived", || !web.requests().is_empty());
    eventually("the connection is closed", || web.open() == 0);
    assert!(calling.host.is_running());
}

#[test]
fn a_connection_that_breaks_is_an_error_of_the_guests() {
    let gone = Web::start(|_, _| Ok(()));
    let short = Web::start(|_, to| write!(to, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1234"));
    let noise = Web::start(|_, to| write!(to, "what?\r\n\r\n"));
    let mut calling = Calling::start(&granted(&[&gone, &short, &noise], "http-calls = 1"));
    assert_eq!(calling.error(&gone.url("/")), "HttpResponseIncomplete");
    let error = calling.error(&short.url("/"));
    assert!(error.starts_with("HttpResponseIncomplete after "), "{error}");
    assert_eq!(calling.error(&noise.url("/")), "HttpProtocolError");
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut calling = Calling::start(&format!("http = [\"127.0.0.1:{port}\"]"));
    assert_eq!(calling.error(&format!("http://127.0.0.1:{port}/")), "ConnectionRefused");
}

#[test]
fn a_method_has_a_length() {
    let web = Web::greeting();
    let mut calling = Calling::start(&granted(&[&web], "http-calls = 1"));
    let url = web.url("/");
    let [longest, longer] = [64, 65].map(|length| "X".repeat(length));
    let sent = calling.ask(&[("url", &url), ("method", &longest)]);
    assert_eq!(sent.get("status"), "200", "{sent}");
    let refused = calling.ask(&[("url", &url), ("method", &longer)]);
    assert_eq!(refused.get("error"), "not a request");
}
