//! Every way to reach a Redis, and what is said when it refuses.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{
    Certificates, Host, Options, Proxy, Redis, Server, Setup, eventually, skipped, speaks_tls,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
"#;

const SECRET: &str = "s3cr3t-of-the-test";

/// Shows that a host with this `[redis]` table handles a message.
#[track_caller]
fn works(server: &Server, redis: &str) -> String {
    let setup = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}"));
    let host = setup.start();
    let mut client = server.client();
    let id = client.add("in", &[("emit", "out")]);
    assert_eq!(client.wait_first("out").get("id"), id);
    client.wait_settled("in", "h");
    host.log()
}

fn tcp(server: &Server, scheme: &str, login: &str) -> String {
    format!("url = \"{scheme}://{login}127.0.0.1:{}\"", server.port)
}

#[test]
fn by_unix_socket() {
    let server = Server::start();
    works(&server, &format!("url = \"unix://{}\"", server.socket().display()));
}

#[test]
fn by_tcp() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    works(&server, &tcp(&server, "redis", ""));
}

#[test]
fn by_host_and_port() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    works(&server, &format!("host = \"127.0.0.1\"\nport = {}", server.port));
}

#[test]
fn to_a_database_by_its_number() {
    let server = Server::start();
    let setup = Setup::alone(&format!("[redis]\nurl = \"{}?db=3\"\n{PROBE}", server.url()));
    let _host = setup.start();
    let mut client = server.client();
    client.tell("SELECT 3");
    client.add("in", &[("emit", "out")]);
    client.wait_first("out");
    client.tell("SELECT 0");
    assert_eq!(client.ask::<usize>("DBSIZE"), 0);
}

#[test]
fn with_a_password_that_is_never_shown() {
    let options = Options { tcp: true, password: Some(SECRET), ..Options::default() };
    let server = Server::with(options);
    let log = works(&server, &tcp(&server, "redis", &format!(":{SECRET}@")));
    assert!(!log.contains(SECRET), "{log}");
}

#[test]
fn with_a_password_from_the_environment() {
    let server = Server::with(Options { password: Some(SECRET), ..Options::default() });
    let manifest =
        format!("[redis]\nurl = \"{}\"\npassword = \"${{env:PASSWORD}}\"\n{PROBE}", server.url());
    let setup = Setup::alone(&manifest).env("PASSWORD", SECRET);
    let _host = setup.start();
    let mut client = server.client();
    client.add("in", &[("emit", "out")]);
    client.wait_first("out");
}

/// What docs/manifest.md or an operator would grant a host: its keys, and the commands it needs.
const RIGHTS: &str = "ACL SETUSER app on >s3cr3t-of-the-test ~* &* +@all -@dangerous +client +info";

#[test]
fn as_a_user_with_few_rights() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    server.client().tell(RIGHTS);
    works(&server, &tcp(&server, "redis", &format!("app:{SECRET}@")));
}

/// A user with the rights that README.md lists for a host, and these.
fn restrict(server: &Server, more: &str) {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let rights: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    +")).collect();
    assert!(rights.len() > 2, "README.md lists no rights");
    let mut granting =
        format!("ACL SETUSER app on >{SECRET} resetkeys ~* resetchannels &news -@all");
    for right in rights.iter().flat_map(|line| line.split(' ')).chain(more.split_whitespace()) {
        let right = right.trim_start_matches('+');
        let known: Result<redis::Value, _> =
            server.client().attempt(&format!("ACL SETUSER probe +{right}"));
        if known.is_ok() {
            granting.push_str(&format!(" +{right}"));
        }
    }
    server.client().tell(&granting);
    server.client().tell("ACL DELUSER probe");
}

/// What the server refused to the user, whatever became of it: command and reason.
fn refused(client: &mut harness::Redis) -> Vec<String> {
    let log: Vec<std::collections::HashMap<String, redis::Value>> = client.ask("ACL LOG");
    let text = |value: &redis::Value| redis::from_redis_value::<String>(value.clone()).unwrap();
    log.iter()
        .map(|entry| format!("{} {}", text(&entry["object"]), text(&entry["reason"])))
        .collect()
}

#[test]
fn the_rights_that_the_readme_lists_are_enough() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    restrict(&server, "");
    let mut client = server.client();
    let redis = tcp(&server, "redis", &format!("app:{SECRET}@"));
    let retry = "retry = { attempts = 2, first = \"10ms\", max = \"10ms\" }";
    let setup = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}channels = [\"news\"]\n{retry}\n"));
    let mut host = setup.start();
    client.add("in", &[("retry-until", "2"), ("delay-ms", "20"), ("emit", "out")]);
    client.add("in", &[("trap", "now"), ("notice", "news")]);
    client.add("in", &[("notice", "news")]);
    let long: Vec<(String, &str)> = (0..4000).map(|n| (format!("field{n}"), "x")).collect();
    client.add("in", &[&[("reject".to_owned(), "no")], &long[..]].concat());
    client.wait_first("out");
    client.wait_for(2, "{in}:dead");
    client.wait_settled("in", "h");
    client.add("in", &[("print", "begun"), ("sleep-ms", "700"), ("emit", "out")]);
    eventually("it is in hand", || host.log().contains("begun"));
    host.kill();
    let mut host = setup.start();
    client.wait_for(2, "out");
    client.wait_settled("in", "h");
    host.stop();
    let refused = refused(&mut client);
    // These are only asked about: newer servers, and whether scripts are known.
    let asked = ["xackdel", "xnack", "waitaof", "xautoclaim", "xtrim", "hello", "client", "ping"];
    let odd = |line: &&String| !asked.iter().any(|command| line.starts_with(command));
    assert_eq!(refused.iter().filter(odd).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn a_wrong_password_is_named_as_such_and_ends_the_start() {
    let server = Server::with(Options { tcp: true, password: Some("right"), ..Options::default() });
    for login in [format!(":{SECRET}@"), format!("nobody:{SECRET}@"), String::new()] {
        let redis = tcp(&server, "redis", &login);
        let done = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}")).finish().expect(1);
        assert!(done.stderr.contains("password"), "{}", done.stderr);
        assert!(done.stderr.contains("127.0.0.1"), "it says where: {}", done.stderr);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[test]
fn a_missing_permission_is_named_and_ends_the_start() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    server.client().tell(&format!("{RIGHTS} -xgroup"));
    let redis = tcp(&server, "redis", &format!("app:{SECRET}@"));
    let done = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}")).finish().expect(1);
    assert!(done.stderr.contains("xgroup"), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn a_permission_taken_away_is_named_and_once_it_is_back_the_work_goes_on() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut client = server.client();
    client.tell(&format!("{RIGHTS} -xreadgroup"));
    let redis = tcp(&server, "redis", &format!("app:{SECRET}@"));
    let setup = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}"));
    let host = setup.start();
    eventually("it names what is missing", || host.log().contains("xreadgroup"));
    client.add("in", &[("emit", "out")]);
    client.tell("ACL SETUSER app +xreadgroup");
    client.wait_first("out");
}

#[test]
fn a_changed_password_ends_no_work_that_goes_on() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut client = server.client();
    client.tell(RIGHTS);
    let redis = tcp(&server, "redis", &format!("app:{SECRET}@"));
    let setup = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}"));
    let mut host = setup.start();
    client.add("in", &[("emit", "out")]);
    client.wait_first("out");
    client.tell("ACL SETUSER app resetpass >another");
    client.kill_others();
    eventually("it is told to look at its password", || host.log().contains("authentication"));
    assert!(host.is_running());
    client.tell("ACL SETUSER app >s3cr3t-of-the-test");
    client.add("in", &[("emit", "out")]);
    client.wait_for(2, "out");
}

#[test]
fn a_stream_of_another_type_is_named_and_ends_the_start() {
    let server = Server::start();
    server.client().tell("SET in text");
    let done = Setup::new(&server, PROBE).finish().expect(1);
    assert!(done.stderr.contains("`in`") && done.stderr.contains("WRONGTYPE"), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn a_host_is_seen_by_its_name() {
    let server = Server::start();
    let _host = Host::start(&server, &format!("[host]\nname = \"worker 7\"\n{PROBE}"));
    let mut client = server.client();
    eventually("its connections bear its name", || {
        let clients: String = client.ask("CLIENT LIST");
        clients.lines().filter(|line| line.contains(" name=tidegate:worker-7 ")).count() >= 2
    });
}

/// An authority with a certificate for 127.0.0.1, for server and clients alike, as files.
fn certificates(folder: &Path) -> Certificates {
    let mut authority = CertificateParams::new([]).unwrap();
    // A name of its own: OpenSSL takes a certificate named as its issuer for one without.
    authority.distinguished_name.push(DnType::CommonName, "the authority of the test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &authority).unwrap();
    let write = |name: &str, pem: String| {
        let file = folder.join(name);
        fs::write(&file, pem).unwrap();
        file
    };
    Certificates {
        authority: write("ca.pem", authority.pem()),
        certificate: write("cert.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}

/// A server that speaks TLS to those who show a certificate of its authority; none, and
/// that is said, where the server to test against was built without.
fn with_tls() -> Option<(tempfile::TempDir, Certificates, Server)> {
    if !speaks_tls() {
        skipped("the server was built without TLS");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let pem = certificates(folder.path());
    let server = Server::with(Options { tls: Some(pem.clone()), ..Options::default() });
    Some((folder, pem, server))
}

#[test]
fn by_tls_with_a_private_authority_and_a_client_certificate() {
    let Some((_folder, pem, server)) = with_tls() else { return };
    let redis = format!(
        "url = \"rediss://127.0.0.1:{}\"\ntls = {{ ca = {:?}, cert = {:?}, key = {:?} }}",
        server.tls_port, pem.authority, pem.certificate, pem.key
    );
    works(&server, &redis);
}

#[test]
fn a_server_of_an_unknown_authority_is_not_trusted() {
    let Some((_folder, _, server)) = with_tls() else { return };
    let redis = format!("url = \"rediss://127.0.0.1:{}\"", server.tls_port);
    let setup = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}"));
    let host = setup.start();
    eventually("it says why", || host.log().to_lowercase().contains("certificate"));
    let mut client: Redis = server.client();
    assert!(!client.has_group("in", "h"));
}

#[test]
fn a_certificate_file_that_is_missing_is_named() {
    let redis = "url = \"rediss://127.0.0.1:1\"\ntls = { ca = \"no-such-file.pem\" }";
    let done = Setup::alone(&format!("[redis]\n{redis}\n{PROBE}")).finish().expect(1);
    assert!(done.stderr.contains("no-such-file.pem"), "{}", done.stderr);
}

#[test]
fn a_connection_that_breaks_while_a_host_starts_does_not_end_it() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    // First of its sign of life, then of its group the answer is lost.
    for (times, words) in [(1, "live:in:h"), (2, "MKSTREAM")] {
        proxy.cut_replies(words, 0, 1);
        let mut host = Host::at(&proxy.url(), PROBE);
        let mut redis = server.client();
        redis.add("in", &[("emit", "out")]);
        redis.wait_for(times, "out");
        assert_eq!(proxy.cuts(), times, "an answer was cut");
        host.stop();
    }
}
