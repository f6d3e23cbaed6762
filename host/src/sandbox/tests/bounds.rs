//! Bounds on all instances of a handler together, and what they cost.

use std::num::NonZeroUsize;

use futures_util::future::join_all;

use super::*;
use crate::outcome::FaultKind;
use crate::sandbox::Retired;

fn further(change: impl FnOnce(&mut manifest::Limits)) -> Limits {
    let mut limits = limits();
    change(&mut limits.further);
    limits
}

#[tokio::test]
async fn a_handler_has_no_more_instances_than_it_may() {
    let sandbox = sandbox();
    let two = further(|limits| limits.instances = NonZeroUsize::new(2));
    let runner = runner(&sandbox, "hostile/sleep", Limits { timeout: hurried().timeout, ..two });
    let calls = join_all((0..5).map(|_| run(&runner, 1)));
    let most_taken = async {
        let mut most = 0;
        for _ in 0..60 {
            most = most.max(8 - sandbox.0.plain.places.available_permits());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        most
    };
    let (outcomes, most_taken) = tokio::join!(calls, most_taken);
    for outcome in outcomes {
        assert_eq!(fault(outcome).detail, "ran past its timeout of 300ms", "each had its turn");
    }
    assert_eq!(most_taken, 2);
}

#[tokio::test]
async fn a_batch_is_taken_apart_also_where_there_is_one_instance_only() {
    let one = further(|limits| limits.instances = NonZeroUsize::new(1));
    let runner = runner(&sandbox(), "hostile/poison-batch", one);
    for _ in 0..2 {
        let outcomes = runner.run(&[delivery(1), delivery(UNLUCKY), delivery(2)]).await;
        assert_eq!((number(&outcomes[0]), number(&outcomes[2])), (1, 1));
        assert_eq!(fault(outcomes[1].clone()).kind, FaultKind::Trap);
    }
}

#[tokio::test]
async fn a_wait_for_one_of_the_handlers_instances_has_an_end() {
    // More calls than the handler may have in flight, so that some wait longer than all of those.
    let further = manifest::Limits { instances: NonZeroUsize::new(1), ..Default::default() };
    let one = Limits { concurrency: 2, further, ..hurried() };
    let runner = runner(&sandbox(), "hostile/sleep", one);
    let outcomes = join_all((0..9).map(|_| run(&runner, 1))).await;
    let last = fault(outcomes.last().unwrap().clone());
    let detail = "none of the handler's 1 instances was free within 1s 800ms";
    assert_eq!((last.kind, last.detail.as_str()), (FaultKind::Limit, detail));
}

#[tokio::test]
async fn a_guest_has_as_much_stack_as_the_host_says() {
    const DEEP: u32 = 500;
    let depth = async |stack| {
        let capacity = Capacity { instances: 2, memory: 64 << 20, stack };
        let runner = runner(&Sandbox::new(capacity).unwrap(), "friendly/deep", limits());
        assert_eq!(run(&runner, 1).await, Outcome::Done(Vec::new()));
        run(&runner, DEEP).await
    };
    assert_eq!(depth(8 << 20).await, Outcome::Done(Vec::new()));
    let fault = fault(depth(64 << 10).await);
    assert_eq!(fault.detail, "trapped: its calls nested too deep for its stack");
}

#[test]
fn what_a_plugin_says_too_much_is_dropped_and_counted() {
    let (log, outcomes) = instances::logged(async || {
        let quiet = further(|limits| limits.log_lines = 10);
        let runner = runner(&sandbox(), "hostile/log-flood", quiet);
        // Two instances, as one is busy while the other starts, share what may be said.
        join_all((0..2).map(|_| run(&runner, 1))).await
    });
    assert_eq!(outcomes, [Outcome::Done(Vec::new()), Outcome::Done(Vec::new())]);
    let said = log.lines().filter(|line| line.contains("plugin: x")).count();
    let dropped = log.lines().filter_map(|line| {
        line.split(" lines dropped").next()?.rsplit(' ').next()?.parse::<usize>().ok()
    });
    let dropped: Vec<usize> = dropped.collect();
    assert!((10..1000).contains(&said), "{said} lines were said");
    assert_eq!(said + dropped.iter().sum::<usize>(), 2 * 16 * 2048);
    assert!(
        log.contains("lines dropped: past `log-lines` or `log-bytes` handler=\"test\""),
        "{log}"
    );
}

#[tokio::test]
async fn a_message_is_put_off_for_a_year_at_most() {
    let outcome = run(&runner(&sandbox(), "hostile/pause", limits()), 1).await;
    let year = Duration::from_secs(365 * 24 * 3600);
    assert_eq!(outcome, Outcome::Retry { reason: "later".into(), delay: Some(year) });
}

#[tokio::test]
async fn what_a_plugin_costs_is_counted() {
    let runner = runner(&sandbox(), "friendly/counter", further(|limits| limits.calls = 4));
    let page = 64 << 10;
    for call in 1..=3 {
        run(&runner, 1).await;
        assert_eq!(runner.cost().calls, call);
    }
    let cost = runner.cost();
    assert_eq!((cost.started, cost.memory_peak, cost.retired), (1, page, Retired::default()));
    assert!(!cost.cpu.is_zero());
    run(&runner, 1).await;
    run(&runner, UNLUCKY).await;
    run(&runner, HUNGRY).await;
    run(&runner, HUNGRY).await;
    let cost = runner.cost();
    assert_eq!(cost.retired, Retired { faults: 1, calls: 1, growth: 1 });
    assert_eq!((cost.calls, cost.started, cost.memory_peak), (7, 3, page + (32 << 20)));
}

#[tokio::test]
async fn the_time_of_a_guest_that_is_stopped_is_counted() {
    let runner = runner(&sandbox(), "hostile/loop", hurried());
    assert_eq!(fault(run(&runner, 1).await).kind, FaultKind::Timeout);
    assert!(runner.cost().cpu > Duration::from_millis(50), "{:?}", runner.cost().cpu);
}
