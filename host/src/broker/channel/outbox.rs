//! What becomes of a channel's messages: outputs are written, failures are counted, and none comes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{Semaphore, mpsc};

use super::super::call::{Item, fields};
use super::super::delay::{Delays, asked, keeping};
use super::super::ledger::{WAITING_BYTES, bytes};
use super::super::link::{Line, Link};
use super::super::settle::{BATCH, QUEUE, Settler};
use super::super::trouble::Trouble;
use crate::figures::{Figures, add};
use crate::message::Held;
use crate::outcome::{Output, Settlement};

/// A server that has forgotten our scripts is asked again once it was taught them. Whatever else
/// fails may have been done all the same, and is not done twice.
const TRIES: usize = 2;

/// Writes what the messages of one channel handler lead to.
pub(super) struct Outbox {
    handler: Arc<str>,
    link: Link,
    delays: Arc<Delays>,
    held: Arc<Held>,
    figures: Arc<Figures>,
    /// For what waits to be written, in bytes.
    room: Arc<Semaphore>,
    /// Whether a person was told that outputs are lost: once for each time that they are.
    complained: bool,
}

/// The settling side of a channel handler: the queue's entrance, and the task that empties it.
pub(super) fn open(outbox: Outbox) -> (Settler, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Settler::to(sender, outbox.room.clone()), outbox.work(receiver))
}

impl Outbox {
    pub(super) fn new(
        handler: Arc<str>,
        link: Link,
        delays: Arc<Delays>,
        held: Arc<Held>,
        figures: Arc<Figures>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(WAITING_BYTES as usize));
        Self { handler, link, delays, held, figures, room, complained: false }
    }

    async fn work(mut self, mut queue: mpsc::Receiver<Item>) {
        let mut items = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut items, BATCH).await > 0 {
            let failed = self.write(&items).await;
            self.record(&items, &failed);
            self.room.add_permits(bytes(&items));
            self.held.discharge(items.drain(..).map(|item| item.receipt));
        }
        super::sum_up(&self.handler, &self.figures);
    }

    /// Writes the outputs of these messages, once; gives for each whether any was refused.
    async fn write(&mut self, items: &[Item]) -> Vec<bool> {
        let mut failed = vec![false; items.len()];
        if outputs(items).next().is_none() {
            return failed;
        }
        let mut trouble = None;
        let link = self.link.clone();
        let (line, announced) = self.announce(&link, items).await;
        let mut due = Vec::new();
        for (at, output) in outputs(items) {
            match (&announced, is_delayed(output)) {
                (Err(error), true) => {
                    failed[at] = true;
                    trouble = Some(error.clone());
                }
                (Ok(()), _) | (Err(_), false) => due.extend(writing(output).map(|cmd| (at, cmd))),
            }
        }
        if due.is_empty() && trouble.is_none() {
            return failed;
        }
        for _ in 0..TRIES {
            let replies = send(&line, &due).await;
            let mut untaught = Vec::new();
            for ((at, command), reply) in due.drain(..).zip(replies) {
                match reply {
                    Ok(_) => {}
                    Err(error) if Trouble::of(&error) == Trouble::ScriptsGone => {
                        untaught.push((at, command));
                    }
                    Err(error) => {
                        failed[at] = true;
                        trouble = Some(error);
                    }
                }
            }
            due = untaught;
        }
        due.iter().for_each(|(at, _)| failed[*at] = true);
        self.tell(trouble);
        failed
    }

    /// Announces what these messages delay. Gives the line to write on as well: the same, if it was heard there.
    async fn announce<'l>(
        &self,
        link: &'l Link,
        items: &[Item],
    ) -> (RedisResult<Line<'l>>, RedisResult<()>) {
        let delays = items.iter().flat_map(Item::entries).filter_map(asked);
        let delays: Vec<(&str, Duration)> = delays.collect();
        let line = match link.line().await {
            Ok(line) => line,
            Err(error) => return (Err(error.clone()), Err(error)),
        };
        match self.delays.announce(&line, delays.into_iter()).await {
            Ok(()) => (Ok(line), Ok(())),
            Err(error) => (link.line().await, Err(error)),
        }
    }

    /// Says when outputs begin to be lost, and when they no longer are.
    fn tell(&mut self, trouble: Option<RedisError>) {
        match trouble {
            Some(error) if !self.complained => {
                self.complained = true;
                tracing::error!(handler = %self.handler, %error, "outputs are not written, and are gone");
            }
            Some(_) => {}
            None if self.complained => {
                self.complained = false;
                tracing::info!(handler = %self.handler, "outputs are written again");
            }
            None => {}
        }
    }

    fn record(&self, items: &[Item], failed: &[bool]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut waits = Vec::new();
        for (item, failed) in items.iter().zip(failed) {
            match (&item.settlement, failed) {
                (Settlement::Acknowledge(_), false) => {
                    add(&self.figures.handled, 1);
                    waits.push(now.saturating_sub(Duration::from_millis(item.receipt.id().millis)));
                }
                (Settlement::Skip, _) => add(&self.figures.skipped, 1),
                (Settlement::Acknowledge(_), true)
                | (Settlement::Later { .. } | Settlement::Bury { .. }, _) => {
                    add(&self.figures.failed, 1);
                }
            }
        }
        self.figures.acknowledged(waits.into_iter());
    }
}

/// The answers to commands, each for itself.
async fn send(line: &RedisResult<Line<'_>>, commands: &[(usize, Cmd)]) -> Vec<RedisResult<Value>> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for (_, command) in commands {
        pipeline.add_command(command.clone());
    }
    pipeline.ignore_errors();
    let replies = match line {
        Ok(line) => line.pipeline(&pipeline).await,
        Err(error) => Err(error.clone()),
    };
    match replies {
        Ok(replies) => replies,
        Err(error) => commands.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// What these messages lead to, and which of them.
fn outputs(items: &[Item]) -> impl Iterator<Item = (usize, &Output)> {
    items.iter().enumerate().flat_map(|(at, item)| item.outputs().iter().map(move |o| (at, o)))
}

fn is_delayed(output: &Output) -> bool {
    match output {
        Output::Append(entry) => asked(entry).is_some(),
        Output::Publish(_) => false,
    }
}

/// The command that writes an output.
fn writing(output: &Output) -> Option<Cmd> {
    match output {
        Output::Append(entry) => match asked(entry) {
            Some((stream, delay)) => {
                let calls = keeping(stream, delay, [entry.fields.as_slice()]);
                calls.into_iter().next().map(|(call, _)| call)
            }
            None => {
                let mut adding = redis::cmd("XADD");
                fields(adding.arg(&entry.stream).arg("*"), &entry.fields);
                Some(adding)
            }
        },
        Output::Publish(notice) => {
            let mut publishing = redis::cmd("PUBLISH");
            publishing.arg(&notice.channel).arg(&notice.payload);
            Some(publishing)
        }
    }
}
