//! Many messages in flight in one instance, and what one may do to the others.

use super::*;
use crate::outcome::FaultKind;

/// The attempts at which the waiter does not simply answer.
const SPINS: u32 = 12;
const TRAPS: u32 = 13;
const NEVER: u32 = 14;
const AFTER_ANOTHER: u32 = 15;
const HOARDS: u32 = 16;

fn waiter(limits: Limits) -> Runner {
    runner(&sandbox(), "friendly/waiter", limits)
}

#[track_caller]
fn assert_done(outcome: Outcome) {
    assert!(matches!(&outcome, Outcome::Done(outputs) if outputs.is_empty()), "{outcome:?}");
}

#[track_caller]
fn assert_fault(outcome: Outcome, kind: FaultKind, detail: &str) {
    let fault = fault(outcome);
    assert_eq!((fault.kind, fault.detail.as_str()), (kind, detail));
}

#[tokio::test]
async fn a_message_that_waits_for_another_is_answered_with_it() {
    let runner = waiter(limits());
    let (first, second) = tokio::join!(run(&runner, AFTER_ANOTHER), run(&runner, 1));
    assert_done(first);
    assert_done(second);
}

#[tokio::test]
async fn each_message_has_an_instance_of_its_own_when_asked_for() {
    let runner = waiter(Limits { isolation: Isolation::Message, ..hurried() });
    let (first, second) = tokio::join!(run(&runner, AFTER_ANOTHER), run(&runner, 1));
    assert_fault(first, FaultKind::Timeout, "ran past its timeout of 300ms");
    assert_done(second);
}

#[tokio::test]
async fn a_message_that_is_never_ready_ends_alone() {
    let runner = waiter(hurried());
    let (never, others) = tokio::join!(run(&runner, NEVER), async {
        for _ in 0..100 {
            assert_done(run(&runner, 1).await);
        }
    });
    assert_fault(never, FaultKind::Timeout, "ran past its timeout of 300ms");
    assert_eq!(others, ());
    assert_done(run(&runner, 1).await);
}

#[tokio::test]
async fn a_trap_is_blamed_on_one_and_the_others_are_run_again() {
    let runner = waiter(limits());
    let (trap, first, second) = tokio::join!(run(&runner, TRAPS), run(&runner, 1), run(&runner, 2));
    assert_fault(trap, FaultKind::Trap, "trapped: wasm `unreachable` instruction executed");
    assert_done(first);
    assert_done(second);
    assert_done(run(&runner, 1).await);
}

#[tokio::test]
async fn a_message_that_spins_ends_as_a_timeout_and_hurts_no_other() {
    let runner = waiter(hurried());
    let (spins, first, second) =
        tokio::join!(run(&runner, SPINS), run(&runner, 1), run(&runner, 2));
    assert_fault(spins, FaultKind::Timeout, "ran past its timeout of 300ms");
    assert_done(first);
    assert_done(second);
    assert_done(run(&runner, 1).await);
}

#[tokio::test]
async fn what_a_guest_makes_the_engine_keep_is_counted() {
    let fault = fault(run(&waiter(limits()), HOARDS).await);
    assert_eq!(fault.kind, FaultKind::Trap);
    assert!(fault.detail.starts_with("broke the contract: "), "{}", fault.detail);
}

#[tokio::test]
async fn an_instance_ends_with_its_last_caller_and_gives_its_place_back() {
    let sandbox =
        Sandbox::new(Capacity { instances: 1, memory: 64 << 20, stack: 1 << 20 }).unwrap();
    let runner = runner(&sandbox, "friendly/waiter", hurried());
    for _ in 0..3 {
        assert_fault(
            run(&runner, NEVER).await,
            FaultKind::Timeout,
            "ran past its timeout of 300ms",
        );
        // There is one place only, so this needs the one before to be gone.
        assert_done(run(&runner, 1).await);
    }
}

#[tokio::test]
async fn an_instance_retires_after_its_calls() {
    let further = manifest::Limits { calls: 1, ..manifest::Limits::default() };
    let runner = waiter(Limits { further, ..hurried() });
    let (first, second) = tokio::join!(run(&runner, AFTER_ANOTHER), run(&runner, 1));
    assert_fault(first, FaultKind::Timeout, "ran past its timeout of 300ms");
    assert_done(second);
}

#[tokio::test]
async fn a_plain_plugin_does_not_open_the_engine_of_the_others() {
    let sandbox = sandbox();
    let plain = runner(&sandbox, "friendly/counter", limits());
    assert_eq!(number(&run(&plain, 1).await), 1);
    assert!(sandbox.0.concurrent.get().is_none());
    load(&sandbox, "friendly/waiter").unwrap();
    assert!(sandbox.0.concurrent.get().is_some());
}

#[tokio::test]
async fn a_plain_plugin_may_ask_the_clock_of_wasi_03() {
    let sandbox = sandbox();
    let clock = runner(&sandbox, "friendly/clock", limits());
    for _ in 0..3 {
        let outcome = run(&clock, 1).await;
        assert!(matches!(&outcome, Outcome::Done(outputs) if outputs.len() == 1), "{outcome:?}");
    }
    assert!(sandbox.0.concurrent.get().is_some());
}
