//! Leases: what is in hand for long is renewed, so that nobody takes it for left behind.
//!
//! An entry's idle time begins at its read. A worker of another kind that takes over what has
//! been idle for long (`XAUTOCLAIM`) would take what a slow handler is still busy with.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::feed::ReadError;
use super::keys::WAITING;
use super::post::Post;
use super::reply;
use super::scripts::Lua;
use crate::figures::add;
use crate::message::{MessageId, Tick};

/// How often leases are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// A lease is renewed at this age, in seconds: most entries never get so old.
const AGE: Tick = 5;

/// Leases renewed by one call.
const BATCH: usize = 100;

/// Renews leases until the task is ended.
pub(super) async fn keep(post: Arc<Post>) {
    let began = Instant::now();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now = u32::try_from(began.elapsed().as_secs()).unwrap_or(Tick::MAX);
        let ids = post.held.aged(now, AGE);
        if let Err(error) = renew(&post, &ids).await {
            tracing::debug!(handler = %post.handler.name, %error, "cannot renew leases; trying again");
        }
    }
}

async fn renew(post: &Post, ids: &[MessageId]) -> Result<(), ReadError> {
    let name = post.consumer.now();
    let mut lost = Vec::new();
    for batch in ids.chunks(BATCH) {
        let answers = pass(post, [&name, &name], batch).await?;
        // Those no longer pending are settled, and those without a body are only to be settled.
        for (id, answer) in batch.iter().zip(answers) {
            let taken = answer == Value::Int(-1) && *name == *post.consumer.now();
            if !taken {
                post.held.renewed(id);
            } else if post.held.lost(id) {
                lost.push(*id);
            }
        }
    }
    if let Some(first) = lost.first() {
        add(&post.figures.lost, lost.len());
        tracing::warn!(handler = %post.handler.name, stream = %post.handler.stream, message_id = %first,
            count = lost.len(), "another consumer has taken what is in hand here; what comes of it here is not written");
    }
    Ok(())
}

/// Has all that is in hand be pending for another name of this host.
pub(super) async fn move_along(post: &Post, names: [&str; 2]) -> Result<(), ReadError> {
    let ids = post.held.ids();
    for (id, answer) in ids.iter().zip(pass(post, names, &ids).await?) {
        if answer == Value::Int(1) {
            post.held.renewed(id);
        }
    }
    Ok(())
}

/// Passes what is in hand from one name of this host to another; gives an answer for each.
pub(super) async fn pass(
    post: &Post,
    [from, to]: [&str; 2],
    ids: &[MessageId],
) -> Result<Vec<Value>, ReadError> {
    let mut answers = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let mut passing = Lua::Renew.call(&[&post.keys.stream]);
        passing.arg(&*post.handler.group).arg(from).arg(to).arg(WAITING);
        for id in batch {
            passing.arg(id.to_string());
        }
        answers.extend(reply::array("renew.lua", post.link.query(&passing).await?)?);
    }
    Ok(answers)
}
