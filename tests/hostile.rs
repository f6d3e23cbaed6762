//! What hostile plugins do to a whole host: nothing that their neighbours notice.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;
#[path = "hostile/expected.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared with the sandbox's own tests"
)]
mod expected;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use expected::Hostile;
use harness::{Host, Redis, Running, Server, Setup, within};

/// What a neighbour may wait at its worst also where it waits less in a quiet host: as long as a
/// few hostile plugins have their turns, of five milliseconds each, on a machine that does other
/// things as well. It is a third of what it would wait were they not interrupted at all.
const FLOOR: Duration = Duration::from_millis(100);

/// Hostile plugins that are in one host at a time.
const GROUP: usize = 12;

/// Messages that each hostile plugin gets.
const HOSTILE: usize = 6;

/// Messages that the neighbour gets in a quiet host, and again beside each group.
const HEALTHY: usize = 150;

const NEIGHBOUR: &str = r#"
[handler.neighbour]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
"#;

fn refused(hostile: &Hostile) -> bool {
    matches!(hostile.word.as_str(), "refused" | "broken")
}

#[test]
fn hostile_plugins_hurt_no_neighbour_and_their_messages_end_as_they_must() {
    let corpus = expected::all();
    let loadable: Vec<&Hostile> = corpus.iter().filter(|hostile| !refused(hostile)).collect();
    let groups = loadable.len().div_ceil(GROUP);
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    for first in 0..groups {
        // Like ones are neighbours by name, so each group has some of every kind.
        let group: Vec<&Hostile> = loadable.iter().skip(first).step_by(groups).copied().collect();
        let server = Server::start();
        let mut redis = server.client();
        let host = start(&server, &group);
        quiet.extend(busy(|| feed(&mut redis, || {})));
        let mut feeder = server.client();
        let mut rounds = (0..HOSTILE).map(|_| add_to_each(&mut feeder, &group));
        beside.extend(feed(&mut redis, || rounds.next().unwrap()));
        for hostile in &group {
            assert_fate(&mut redis, hostile);
        }
        assert_log(&host);
    }
    let (quiet, beside) = (p99(quiet), p99(beside));
    eprintln!("p99 of the neighbour: {quiet:?} alone, {beside:?} beside hostile plugins");
    assert!(
        beside <= FLOOR.max(2 * quiet),
        "p99: {quiet:?} alone, {beside:?} beside hostile plugins"
    );
}

/// Keeps every core of the machine busy for as long as `act` takes, as hostile plugins do from
/// within: what is compared is what they do to their own host, not to the machine.
fn busy<T>(act: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let came = act();
        over.store(true, Ordering::Relaxed);
        came
    })
}

fn start(server: &Server, group: &[&Hostile]) -> Running {
    let mut manifest = NEIGHBOUR.to_owned();
    for hostile in group {
        manifest.push_str(&handler(hostile));
    }
    Host::start(server, &manifest)
}

fn handler(Hostile { name, given, .. }: &Hostile) -> String {
    let usual = [("concurrency", "2"), ("memory", "\"64MiB\""), ("outputs", "[\"out-*\"]")];
    let given: Vec<_> = given.iter().map(|(key, value)| (&**key, &**value)).collect();
    let is_given = |key: &str| given.iter().any(|(given, _)| *given == key);
    let usual = usual.into_iter().filter(|(key, _)| !is_given(key));
    let keys = usual.chain(given.iter().copied());
    let keys: String = keys.map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!(
        "\n[handler.{name}]\nplugin = \"{name}.wasm\"\nstream = \"in-{name}\"\n\
         retry = {{ attempts = 1 }}\n{keys}"
    )
}

fn add_to_each(redis: &mut Redis, group: &[&Hostile]) {
    for hostile in group {
        redis.add(&format!("in-{}", hostile.name), &[("name", "value")]);
    }
}

/// Sends the neighbour its messages, one at a time, and gives how long each took from being
/// appended to its output, by the server's clock. None may be missing.
fn feed(redis: &mut Redis, mut meanwhile: impl FnMut()) -> Vec<Duration> {
    let before = redis.length("out");
    for index in 0..HEALTHY {
        if index % (HEALTHY / HOSTILE) == 0 {
            meanwhile();
        }
        redis.add("in", &[("emit", "out")]);
        within(Duration::from_secs(10), "the neighbour answers", || {
            redis.length("out") == before + index + 1
        });
    }
    let outputs = redis.entries("out");
    let took = |entry: &harness::Entry| entry.millis() - harness::millis(&entry.get("id"));
    outputs[before..].iter().map(took).map(Duration::from_millis).collect()
}

#[track_caller]
fn assert_fate(redis: &mut Redis, hostile: &Hostile) {
    let Hostile { name, word, sentence, .. } = hostile;
    let stream = format!("in-{name}");
    within(Duration::from_secs(60), &format!("all of {stream} is settled"), || {
        redis.has_group(&stream, name)
            && redis.unread(&stream, name) == 0
            && redis.pending(&stream, name) == 0
    });
    let letters = redis.entries(&format!("{{{stream}}}:dead"));
    if word == "done" {
        assert!(letters.is_empty(), "{name}: {}", letters[0]);
        return;
    }
    let reason = if word == "retry" { "retries" } else { word };
    assert_eq!(letters.len(), HOSTILE, "{name}");
    for letter in &letters {
        let (found, error) = (letter.get("tidegate.reason"), letter.get("tidegate.error"));
        assert!(error.len() < 5000, "{name}: {} bytes of error", error.len());
        assert!(found == reason && error.contains(sentence), "{name}: {found}: {error}");
        assert!(!error.contains(|character: char| character.is_control()), "{name}: {error:?}");
    }
}

/// What hostile plugins print is bounded, and does nothing to whoever reads it.
#[track_caller]
fn assert_log(host: &Host) {
    let log = host.log();
    assert!(log.len() < 8 << 20, "{} bytes of log", log.len());
    let acts = |character: char| character.is_control() && character != '\n' && character != '\t';
    let line = log.lines().find(|line| line.contains(acts));
    assert!(line.is_none(), "{line:?}");
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

#[test]
fn what_cannot_be_put_to_work_is_refused_before_anything_runs_each_in_its_own_words() {
    let corpus = expected::all();
    let refused: Vec<&Hostile> = corpus.iter().filter(|hostile| refused(hostile)).collect();
    assert!(refused.len() > 10);
    let server = Server::start();
    let manifest: String = refused.iter().map(|hostile| handler(hostile)).collect();
    for command in ["run", "check"] {
        let done = Setup::new(&server, &manifest).command(&[command]).finish();
        assert!(!done.status.success(), "{command}: {}", done.stdout);
        for Hostile { name, sentence, .. } in &refused {
            let start = format!("handler.{name}.plugin: ");
            let line = done.stderr.lines().find(|line| line.contains(&start));
            let line = line.unwrap_or_else(|| panic!("{command}: {name} in {}", done.stderr));
            assert!(line.contains(sentence.as_str()), "{command}: {name}: {line}");
        }
        let acts = |character: char| character.is_control() && character != '\n';
        assert!(!done.stderr.contains(acts), "{:?}", done.stderr);
    }
    assert!(!server.client().exists("in-trap"), "nothing was asked of Redis");
}
