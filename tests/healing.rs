//! A stream, a group or a server that is not as it should be: named once, waited for, and gone on with.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use harness::eventually;

#[test]
fn x() { eventually("", || true) }
