//! What a manifest means, and what no manifest can do. The words of every report
//! are in `tests/manifest/`.

use std::env::VarError;
use std::num::NonZeroU32;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

const SECRET: &str = "s3cr3t-nobody-types";
const COMPLETE: &str = include_str!("../../../tests/manifest/good/complete.toml");

struct Secretive;

impl Environment for Secretive {
    fn variable(&self, _: &str) -> Result<String, VarError> {
        Ok(SECRET.into())
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Ok(SECRET.into())
    }
}

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text, Path::new("/etc/tidegate/tidegate.toml"), &Secretive)
}

fn handler(keys: &str) -> Handler {
    let text = format!("[handler.charge]\nplugin = \"charge.wasm\"\nstream = \"orders\"\n{keys}");
    parse(&text).unwrap().handlers.remove(0)
}

fn redis(keys: &str) -> RedisSettings {
    let text = format!("[redis]\n{keys}\n[handler.a]\nplugin = \"a.wasm\"\nstream = \"s\"\n");
    parse(&text).unwrap().redis.unwrap()
}

fn problems(text: &str) -> Vec<Problem> {
    match parse(text).unwrap_err() {
        ManifestError::Invalid(report) => report.problems().to_vec(),
        unreadable @ ManifestError::Unreadable { .. } => panic!("{unreadable}"),
    }
}

#[test]
fn a_handler_of_two_keys_has_the_documented_defaults() {
    let handler = handler("");
    assert_eq!(&*handler.name, "charge");
    assert_eq!(handler.plugin, Path::new("/etc/tidegate/charge.wasm"));
    assert_eq!((&*handler.stream, &*handler.group), ("orders", "charge"));
    assert_eq!((handler.start, handler.after_loss), (Start::Beginning, Start::Beginning));
    assert_eq!(handler.supply, Supply::Group);
    assert_eq!((handler.order, handler.dedupe), (None, None));
    assert_eq!((handler.rate, handler.circuit), (None, None));
    assert_eq!((handler.trim, handler.durability), (Trim::Never, Durability::None));
    assert_eq!(handler.filter, Match::default());
    assert_eq!((handler.concurrency.get(), handler.batch.get()), (64, 100));
    assert_eq!(handler.isolation, Isolation::Reuse);
    assert_eq!(handler.timeout, Duration::from_secs(30));
    assert_eq!(handler.memory, 64 << 20);
    assert_eq!((handler.limits, handler.rollout), (Limits::default(), None));
    assert_eq!(handler.digest, None);
    assert_eq!(handler.retry.attempts, 5);
    assert_eq!(handler.retry.first, Duration::from_secs(1));
    assert_eq!(handler.retry.max, Duration::from_secs(300));
    assert_eq!(&*handler.dead_letter, "{orders}:dead");
    assert_eq!(handler.grants, Grants::default());
}

#[test]
fn a_manifest_without_redis_and_host_leaves_them_to_others() {
    let manifest = parse("[handler.a]\nplugin = \"a\"\nstream = \"s\"").unwrap();
    assert_eq!(manifest.redis, None);
    assert_eq!(manifest.host, HostSettings::default());
}

#[test]
fn a_complete_manifest_is_read_key_by_key() {
    let manifest = parse(COMPLETE).unwrap();
    let redis = manifest.redis.as_ref().unwrap();
    assert_eq!(redis.to_string(), "rediss://ann:***@cache.internal:6380/2");
    assert_eq!(redis.password.as_ref().unwrap().expose(), SECRET);
    let ca = redis.tls.as_ref().unwrap().ca.as_deref();
    assert_eq!(ca, Some(Path::new("/etc/tidegate/tls/ca.pem")));
    assert_eq!(manifest.host.name.as_deref(), Some("worker-1"));
    assert_eq!(manifest.host.grace, Duration::from_secs(90));
    let charge = manifest.handler("charge").unwrap();
    assert_eq!((charge.start, charge.after_loss), (Start::New, Start::New));
    let shards = NonZeroU32::new(8);
    assert_eq!(charge.order, Some(Order { field: "customer".into(), shards }));
    let window = Duration::from_secs(7200);
    assert_eq!(charge.dedupe, Some(Dedupe { key: "order-id".into(), window }));
    let rate = charge.rate.unwrap();
    assert_eq!(
        (rate.count.get(), rate.period, rate.burst.get()),
        (100, Duration::from_secs(1), 20)
    );
    let circuit = charge.circuit.unwrap();
    assert_eq!((circuit.failures.get(), circuit.pause), (20, Duration::from_secs(10)));
    assert_eq!((charge.trim, charge.durability), (Trim::Handled, Durability::Aof));
    assert_eq!(manifest.handler("notify").unwrap().supply, Supply::Channel);
    assert_eq!(manifest.handler("refresh").unwrap().supply, Supply::Broadcast);
    assert_eq!((charge.concurrency.get(), charge.batch.get()), (16, 50));
    assert_eq!(charge.isolation, Isolation::Message);
    assert_eq!((charge.timeout, charge.memory), (Duration::from_secs(5), 128 << 20));
    assert_eq!(charge.retry.attempts, 3);
    assert_eq!(&*charge.dead_letter, "orders:given-up");
    assert!(charge.grants.outputs.allows("audit.charge"));
    assert!(!charge.grants.outputs.allows("orders"));
    assert!(charge.grants.channels.allows("scale_events"));
    assert_eq!(charge.grants.env["TOKEN"], SECRET);
    assert_eq!(charge.grants.env["LITERAL"], "${env:SECRET}");
    assert_eq!(manifest.handler("refund"), None);
}

#[test]
fn an_accepted_manifest_prints_neither_password_nor_environment() {
    let shown = format!("{:?}", parse(COMPLETE).unwrap());
    assert!(shown.contains("TOKEN") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn handlers_keep_the_order_of_the_file() {
    let tables = ["zeta", "alpha", "mid"]
        .map(|name| format!("[handler.{name}]\nplugin = \"a\"\nstream = \"s\"\n"));
    let manifest = parse(&tables.concat()).unwrap();
    let names: Vec<_> = manifest.handlers.iter().map(|handler| &*handler.name).collect();
    assert_eq!(names, ["zeta", "alpha", "mid"]);
}

#[test]
fn a_stream_with_a_hash_tag_keeps_it_in_its_dead_letters() {
    let text = "[handler.a]\nplugin = \"a\"\nstream = \"orders:{0}\"";
    assert_eq!(&*parse(text).unwrap().handlers[0].dead_letter, "orders:{0}:dead");
}

#[test]
fn a_sharded_stream_is_as_many_streams_each_with_its_own_dead_letters() {
    let sharded = handler("order-by = \"customer\"\nshards = 2").on_each_stream();
    assert!(sharded.iter().all(|shard| &**shard.named_stream() == "orders"));
    let names = |handler: &Handler| (handler.stream.to_string(), handler.dead_letter.to_string());
    let names: Vec<_> = sharded.iter().map(names).collect();
    let expected = [("orders:{0}", "orders:{0}:dead"), ("orders:{1}", "orders:{1}:dead")];
    assert_eq!(names, expected.map(|(stream, dead)| (stream.to_owned(), dead.to_owned())));
    let named = handler("order-by = \"customer\"\nshards = 2\ndead-letter = \"given-up\"");
    assert!(named.on_each_stream().iter().all(|shard| &*shard.dead_letter == "given-up"));
    assert_eq!(handler("order-by = \"customer\"").on_each_stream().len(), 1);
}

#[test]
fn a_burst_is_a_tenth_of_a_seconds_worth_and_at_least_one() {
    let burst = |keys: &str| handler(keys).rate.unwrap().burst.get();
    assert_eq!(burst("rate = \"1000/s\""), 100);
    assert_eq!(burst("rate = \"5/h\""), 1);
    assert_eq!(burst("rate = \"5/h\"\nburst = 5"), 5);
}

#[test]
fn what_a_url_leaves_open_stands_beside_it() {
    let redis = redis(
        "url = \"redis://cache\"\ndb = 3\nusername = \"ann\"\npassword = \"pw\"\n\
         tls = { ca = \"/ca.pem\" }",
    );
    assert_eq!(redis.to_string(), "rediss://ann:***@cache:6379/3");
    assert_eq!(redis.tls.unwrap().ca.as_deref(), Some(Path::new("/ca.pem")));
}

#[test]
fn a_redis_is_named_by_host_and_port_too() {
    assert_eq!(redis("host = \"::1\"\nport = 7000").to_string(), "redis://[::1]:7000/0");
    assert_eq!(redis("host = \"cache\"\ntls = true").tls, Some(Tls::default()));
    assert_eq!(redis("host = \"cache\"\ntls = false").tls, None);
}

#[test]
fn a_url_in_a_file_may_hold_its_password() {
    let redis = redis("url = \"redis://:${file:token}@cache\"");
    assert_eq!(redis.password, Some(Secret::new(SECRET)));
}

#[test]
fn a_missing_key_is_not_reported_beside_its_misspelling() {
    let found = problems("[handler.a]\nplugni = \"a\"\nsteram = \"s\"");
    assert_eq!(found.len(), 2, "{found:#?}");
    let found = problems("[redis]\nhsot = \"a\"\n[handler.a]\nplugin = \"a\"\nstream = \"s\"");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn places_are_right_after_wide_characters_and_windows_line_ends() {
    let found = problems("# é\r\n[handler.a]\r\nplugin = \"ü\"\r\nstream = 5\r\n");
    assert_eq!((found[0].line, found[0].column), (4, 10));
    let found = problems("handler.a = { plugin = \"ü\", stream = 5 }");
    assert_eq!((found[0].line, found[0].column), (1, 38));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let error = Manifest::load(&path).unwrap_err();
    assert!(matches!(error, ManifestError::Unreadable { .. }));
    assert_eq!(error.to_string(), format!("cannot read the manifest {}", path.display()));
}

#[test]
fn files_are_found_beside_the_manifest_wherever_the_host_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.toml");
    std::fs::write(folder.path().join("group.txt"), "night\n").unwrap();
    let text = "[handler.a]\nplugin = \"a.wasm\"\nstream = \"s\"\ngroup = \"${file:group.txt}\"";
    std::fs::write(&path, text).unwrap();
    let manifest = Manifest::load(&path).unwrap();
    assert_eq!(manifest.path, path);
    assert_eq!(&*manifest.handlers[0].group, "night");
    assert_eq!(manifest.handlers[0].plugin, folder.path().join("a.wasm"));
}

/// What people type by accident, and what may upset a parser.
const SNIPPETS: [&str; 24] = [
    "${env:X}",
    "${file:x}",
    "${",
    "}",
    "$$",
    "\"",
    "'''",
    "[",
    "]]",
    "{",
    "=",
    ".",
    ",",
    "\n",
    "\r",
    "\0",
    "é\u{301}",
    "-1",
    "9e99",
    "0xffffffffffffffffff",
    "1979-05-27",
    "true",
    "redis://:${env:X}@",
    "[handler.x]\nstream = \"${env:X}\"\n",
];

/// Where to cut, how much, and what to put there.
fn edits() -> impl Strategy<Value = Vec<(Index, usize, &'static str)>> {
    proptest::collection::vec((any::<Index>(), 0..12usize, select(&SNIPPETS[..])), 1..6)
}

fn edited(text: &str, edits: &[(Index, usize, &str)]) -> String {
    let mut text = text.to_owned();
    for (at, length, snippet) in edits {
        let at = text.floor_char_boundary(at.index(text.len() + 1));
        let end = text.floor_char_boundary((at + length).min(text.len())).max(at);
        text.replace_range(at..end, snippet);
    }
    text
}

/// What people may see of a refusal. An accepted manifest shows the names it uses, as
/// every log line will, so only its secrets proper are hidden.
fn shown(parsed: &Result<Manifest, ManifestError>) -> String {
    parsed.as_ref().err().map_or(String::new(), |error| format!("{error} {error:?}"))
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_mistake_panics_or_shows_a_secret(edits in edits()) {
        let text = edited(COMPLETE, &edits);
        let parsed = parse(&text);
        prop_assert!(!shown(&parsed).contains(SECRET), "{text}");
        if let Err(ManifestError::Invalid(report)) = parsed {
            prop_assert!(!report.problems().is_empty());
            let lines = text.matches('\n').count() + 1;
            for problem in report.problems() {
                prop_assert!((1..=lines).contains(&problem.line) && problem.column >= 1);
                prop_assert!(!problem.to_owned().message.contains('\n'));
            }
        }
    }

    /// Every string of a manifest, whatever its key, replaced by a secret.
    #[test]
    fn no_value_shows_its_secret(which in any::<Index>(), around in "[a-z:/@$]{0,3}") {
        let quotes: Vec<_> = COMPLETE.match_indices('"').map(|(at, _)| at).collect();
        let pair = which.index(quotes.len() / 2) * 2;
        let mut text = COMPLETE.to_owned();
        let value = format!("{around}${{env:X}}{around}");
        text.replace_range(quotes[pair] + 1..quotes[pair + 1], &value);
        prop_assert!(!shown(&parse(&text)).contains(SECRET), "{text}");
    }
}
