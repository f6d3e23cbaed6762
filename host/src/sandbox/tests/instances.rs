//! How instances are kept, shared and replaced, and what they may say.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::outcome::FaultKind;

#[tokio::test]
async fn an_instance_is_used_again() {
    let runner = runner(&sandbox(), "friendly/counter", limits());
    for call in 1..=5 {
        assert_eq!(number(&run(&runner, 1).await), call);
    }
    let three = [delivery(1), delivery(2), delivery(3)];
    let outcomes = runner.run(&three).await;
    assert_eq!(outcomes.iter().map(number).collect::<Vec<_>>(), [6, 7, 8], "in order");
    assert!(runner.run(&[]).await.is_empty());
}

#[tokio::test]
async fn an_instance_of_its_own_for_each_message_when_asked_for() {
    let isolated = Limits { isolation: Isolation::Message, ..limits() };
    let runner = runner(&sandbox(), "friendly/counter", isolated);
    let outcomes = runner.run(&[delivery(1), delivery(2), delivery(3)]).await;
    assert_eq!(outcomes.iter().map(number).collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test]
async fn an_instance_that_broke_is_never_used_again() {
    let runner = runner(&sandbox(), "friendly/counter", limits());
    assert_eq!(number(&run(&runner, 1).await), 1);
    assert_eq!(fault(run(&runner, UNLUCKY).await).kind, FaultKind::Trap);
    assert_eq!(number(&run(&runner, 1).await), 1, "a fresh one");
}

#[tokio::test]
async fn an_instance_that_grew_past_half_of_what_was_left_is_replaced() {
    let runner = runner(&sandbox(), "friendly/counter", limits());
    assert_eq!(number(&run(&runner, HUNGRY).await), 1);
    assert_eq!(number(&run(&runner, HUNGRY).await), 2, "the last half");
    assert_eq!(number(&run(&runner, 1).await), 1, "a fresh one");
}

#[tokio::test]
async fn an_instance_is_replaced_after_very_many_calls() {
    let runner = runner(&sandbox(), "friendly/counter", limits());
    let mut last = 0;
    for _ in 0..100_000 {
        last = number(&run(&runner, 1).await);
    }
    assert_eq!(last, 100_000);
    assert_eq!(number(&run(&runner, 1).await), 1);
}

#[tokio::test]
async fn calls_at_the_same_time_have_instances_of_their_own() {
    let sandbox = sandbox();
    let runner = runner(&sandbox, "hostile/sleep", hurried());
    let calls = (0..7).map(|_| run(&runner, 1));
    for outcome in futures_util::future::join_all(calls).await {
        assert_eq!(fault(outcome).detail, "ran past its timeout of 300ms");
    }
}

#[tokio::test]
async fn a_call_without_a_place_waits_for_one_and_then_says_so() {
    let sandbox =
        Sandbox::new(Capacity { instances: 1, memory: 64 << 20, stack: 1 << 20 }).unwrap();
    let first = runner(&sandbox, "friendly/counter", limits());
    let plugin = load(&sandbox, "friendly/echo").unwrap();
    let crowded = put_to_work(&plugin, hurried()).err().unwrap();
    assert!(crowded.to_string().ends_with("no instance could be started within 300ms"));
    drop(first);
    assert!(put_to_work(&plugin, limits()).is_ok());
}

#[test]
fn without_address_space_for_a_pool_plugins_run_all_the_same() {
    // Far more than the 128 TiB of addresses that a process has.
    let vast = Capacity { instances: 1_000_000, memory: 64 << 20, stack: 1 << 20 };
    let (log, count) = logged(async || {
        let runner = runner(&Sandbox::new(vast).unwrap(), "friendly/counter", limits());
        number(&run(&runner, 1).await)
    });
    assert_eq!(count, 1);
    assert!(log.contains("no address space for a pool of instances"), "{log}");
}

#[tokio::test]
async fn a_call_that_is_dropped_frees_its_place() {
    let sandbox =
        Sandbox::new(Capacity { instances: 1, memory: 64 << 20, stack: 1 << 20 }).unwrap();
    let runner = runner(&sandbox, "hostile/sleep", limits());
    for _ in 0..3 {
        let impatient = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(impatient, run(&runner, 1)).await.is_err());
    }
    assert_eq!(sandbox.0.plain.places.available_permits(), 1);
}

#[tokio::test]
async fn the_thread_ends_with_the_last_plugin_and_not_before() {
    let sandbox = sandbox();
    let shared = Arc::downgrade(&sandbox.0);
    let runner = runner(&sandbox, "hostile/loop", hurried());
    drop(sandbox);
    assert_eq!(fault(run(&runner, 1).await).kind, FaultKind::Timeout);
    drop(runner);
    assert!(shared.upgrade().is_none());
}

#[tokio::test]
async fn the_last_words_of_a_guest_are_in_its_fault() {
    let runner = runner(&sandbox(), "friendly/talker", limits());
    let fault = fault(run(&runner, UNLUCKY).await);
    assert_eq!(
        fault.detail,
        "trapped: wasm `unreachable` instruction executed; its last words: \
         thread 'main' panicked at here: no total"
    );
}

#[test]
fn each_line_a_guest_prints_is_logged_with_its_handler_and_message() {
    let (log, _) = logged(async || {
        let runner = runner(&sandbox(), "friendly/talker", limits());
        run(&runner, 2).await
    });
    let about = r#"handler="test" message_id=7-2"#;
    for line in [
        format!(" INFO plugin: a line {about}"),
        format!(" INFO plugin: and a half {about}"),
        format!(" WARN plugin: no total {about}"),
    ] {
        assert!(log.lines().any(|logged| logged == line), "{line:?} is not in\n{log}");
    }
}

/// What is logged while `act` runs, and what comes of it.
pub(super) fn logged<T>(act: impl AsyncFnOnce() -> T) -> (String, T) {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(log.clone()).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let came = tracing::subscriber::with_default(subscriber, || runtime.block_on(act()));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (text, came)
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn an_old_versions_idle_instances_go_at_once() {
    let sandbox =
        Sandbox::new(Capacity { instances: 2, memory: 64 << 20, stack: 1 << 20 }).unwrap();
    let [old, new] = ["friendly/counter"; 2].map(|name| runner(&sandbox, name, limits()));
    assert_eq!(
        sandbox.0.plain.places.available_permits(),
        0,
        "each keeps the instance that proved it"
    );
    old.retire();
    assert_eq!(sandbox.0.plain.places.available_permits(), 1);
    assert_eq!(number(&run(&old, 1).await), 1, "what it has to finish it still can");
    assert_eq!(sandbox.0.plain.places.available_permits(), 1, "and keeps nothing");
    assert_eq!(number(&run(&new, 1).await), 1);
    assert_eq!(number(&run(&new, 1).await), 2);
}
