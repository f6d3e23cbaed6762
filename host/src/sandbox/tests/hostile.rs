//! What a guest may do at its worst, and what becomes of it.

use std::time::{Duration, Instant};

use super::*;
use crate::outcome::FaultKind;

/// Runs a hostile guest beside an echo, on one thread, and hands back its fault.
///
/// Whatever the guest does, the echo answers before, during and after it.
async fn worst(name: &str, limits: Limits) -> Fault {
    let sandbox = sandbox();
    let healthy = runner(&sandbox, "friendly/echo", super::limits());
    let hostile = runner(&sandbox, &format!("hostile/{name}"), limits);
    assert_echo(&run(&healthy, 1).await);
    let beside = async {
        for _ in 0..100 {
            assert_echo(&run(&healthy, 1).await);
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = tokio::join!(run(&hostile, 1), beside);
    assert_echo(&run(&healthy, 1).await);
    let again = fault(run(&hostile, 1).await);
    let fault = fault(outcome);
    assert_eq!((fault.kind, &fault.detail), (again.kind, &again.detail), "and so every time");
    fault
}

fn assert_echo(outcome: &Outcome) {
    let Outcome::Done(outputs) = outcome else { panic!("the neighbour was hurt: {outcome:?}") };
    let [Output::Append(entry)] = outputs.as_slice() else { panic!("not an echo: {outputs:?}") };
    assert_eq!((&*entry.stream, &entry.fields), ("orders", &delivery(1).message.fields));
}

#[track_caller]
fn assert_fault(fault: &Fault, kind: FaultKind, detail: &str) {
    assert_eq!((fault.kind, fault.detail.as_str()), (kind, detail));
}

#[tokio::test]
async fn a_looping_guest_ends_as_a_timeout() {
    let began = Instant::now();
    let fault = worst("loop", hurried()).await;
    assert_fault(&fault, FaultKind::Timeout, "ran past its timeout of 300ms");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_guest_that_waits_for_ever_ends_as_a_timeout() {
    let fault = worst("sleep", hurried()).await;
    assert_fault(&fault, FaultKind::Timeout, "ran past its timeout of 300ms");
}

#[tokio::test]
async fn a_looping_guest_leaves_its_thread_to_others() {
    // More time than the sleeper takes on the slowest machine.
    let limits = Limits { timeout: Duration::from_secs(60), ..limits() };
    let hostile = runner(&sandbox(), "hostile/loop", limits);
    // Two tasks of one thread. Were the guest not to yield, the other would
    // sleep until the guest's time is up.
    let guest = tokio::spawn(async move { run(&hostile, 1).await });
    let sleeper = tokio::spawn(async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    sleeper.await.unwrap();
    assert!(!guest.is_finished(), "the sleeper ended first");
    guest.abort();
    assert!(guest.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_guest_that_wants_all_memory_ends_as_out_of_memory() {
    for name in ["memory", "memories"] {
        let fault = worst(name, limits()).await;
        assert_fault(&fault, FaultKind::Memory, "needed more than its memory of 64.0 MiB");
    }
}

#[tokio::test]
async fn tables_count_as_memory() {
    let small = Limits { memory: 1 << 19, ..limits() };
    let fault = worst("table", small).await;
    assert_fault(&fault, FaultKind::Memory, "needed more than its memory of 512.0 KiB");
    let fault = worst("table", limits()).await;
    assert_eq!(fault.kind, FaultKind::Memory, "past the largest table of all, too");
}

#[tokio::test]
async fn endless_recursion_ends_as_a_trap_that_says_so() {
    let fault = worst("recursion", limits()).await;
    let detail = "trapped: its calls nested too deep for its stack";
    assert_fault(&fault, FaultKind::Trap, detail);
    assert!(fault.backtrace.unwrap().lines().count() < 40);
}

#[tokio::test]
async fn a_trap_tells_where_it_was() {
    let fault = worst("trap", limits()).await;
    let detail = "trapped: wasm `unreachable` instruction executed";
    assert_fault(&fault, FaultKind::Trap, detail);
    assert!(fault.backtrace.unwrap().contains("inner"));
}

#[tokio::test]
async fn an_exit_is_a_trap() {
    let fault = worst("exit", limits()).await;
    assert_fault(&fault, FaultKind::Trap, "exited with status 1 instead of answering");
}

#[tokio::test]
async fn too_many_outputs_are_past_a_limit() {
    let fault = worst("many-outputs", limits()).await;
    let detail = "answered with 2000 outputs, more than the 1000 allowed";
    assert_fault(&fault, FaultKind::Limit, detail);
}

#[tokio::test]
async fn too_large_outputs_are_past_a_limit() {
    let fault = worst("big-output", limits()).await;
    let detail = "answered with 9437184 bytes of outputs, more than the 8388608 allowed";
    assert_fault(&fault, FaultKind::Limit, detail);
}

#[tokio::test]
async fn an_answer_that_unfolds_in_the_host_is_past_a_limit() {
    let began = Instant::now();
    let fault = worst("overlap", limits()).await;
    let detail = "answered with more than its limit on outputs allows";
    assert_fault(&fault, FaultKind::Limit, detail);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn what_breaks_the_contract_is_a_trap_that_says_how() {
    for (name, why) in [("bad-text", "utf-8"), ("bad-answer", "bound"), ("bad-realloc", "beyond")] {
        let fault = worst(name, limits()).await;
        assert_eq!(fault.kind, FaultKind::Trap);
        assert!(fault.detail.starts_with("broke the contract: "), "{}", fault.detail);
        assert!(fault.detail.contains(why), "{}", fault.detail);
    }
}

#[tokio::test]
async fn handles_of_the_host_are_counted() {
    let fault = worst("hoarder", limits()).await;
    let detail = "broke the contract: resource table has no free keys";
    assert_fault(&fault, FaultKind::Trap, detail);
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_is_a_fault_and_no_panic() {
    let runner = runner(&sandbox(), "friendly/echo", limits());
    let mut bad = delivery(1);
    bad.message.fields.push(Field::new([0xff], ""));
    let outcomes = runner.run(&[delivery(1), bad, delivery(2)]).await;
    assert!(matches!(outcomes[0], Outcome::Done(_)));
    assert!(matches!(outcomes[2], Outcome::Done(_)));
    let Outcome::Fault(fault) = &outcomes[1] else { panic!("{outcomes:?}") };
    let detail = "the message is undecodable: field \"\u{fffd}\" is not UTF-8";
    assert_fault(fault, FaultKind::Trap, detail);
}

#[tokio::test]
async fn a_batch_blames_only_the_message_at_fault() {
    let runner = runner(&sandbox(), "hostile/poison-batch", limits());
    let healthy = runner.run(&[delivery(1), delivery(2), delivery(3)]).await;
    assert_eq!(healthy.iter().map(number).collect::<Vec<_>>(), [3, 3, 3], "one call for all");
    let batch = [delivery(1), delivery(UNLUCKY), delivery(2), delivery(3)];
    let outcomes = runner.run(&batch).await;
    assert_eq!(outcomes.len(), 4);
    for innocent in [0, 2, 3] {
        assert_eq!(number(&outcomes[innocent]), 1, "each alone");
    }
    assert_eq!(fault(outcomes[1].clone()).kind, FaultKind::Trap);
}

#[tokio::test]
async fn a_batch_with_too_few_answers_is_not_believed() {
    let runner = runner(&sandbox(), "hostile/wrong-count", limits());
    let outcomes = runner.run(&[delivery(1), delivery(2), delivery(3)]).await;
    assert_eq!(outcomes.len(), 3);
    for outcome in outcomes {
        assert_fault(&fault(outcome), FaultKind::Trap, "answered 0 of 1 messages");
    }
}
