//! What a guest says: each line of its standard output and error, and each entry that it logs, is
//! one log event, as long as its handler is not too loud for its limits (`loudness`).
//!
//! The last words on standard error are kept, as a trap alone seldom says why.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tracing::Level;
use tracing::field::display;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::loudness::Loudness;
use super::plain::plain;
use crate::message::MessageId;

/// Bytes of a line that are logged; the rest of it is cut.
const LINE_MAX: usize = 8 * 1024;

/// Bytes a guest may write at once.
const WRITE_MAX: usize = 64 * 1024;

/// Bytes of what a logged entry is about; the rest of it is cut.
const CONTEXT_MAX: usize = 128;

/// Bytes of last words that go into a fault's sentence.
const LAST_WORDS_MAX: usize = 300;

/// One instance's standard output and error.
#[derive(Clone)]
pub(super) struct Voice(Arc<Mutex<Lines>>);

/// What an instance is working on while it speaks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Topic {
    /// The message, or the first of a batch; none while the instance starts.
    pub(super) message: Option<MessageId>,
    /// How many messages, when it is a batch.
    pub(super) count: Option<u64>,
}

struct Lines {
    handler: Arc<str>,
    loudness: Arc<Loudness>,
    /// Bytes of a line that are kept: no more than may be logged in a second.
    line_max: usize,
    topic: Topic,
    out: Vec<u8>,
    err: Vec<u8>,
    last_words: String,
}

impl Voice {
    /// The voice of an instance that is as loud as `loudness` and its line's length allow.
    pub(super) fn new(handler: Arc<str>, loudness: Arc<Loudness>, log_bytes: u32) -> Self {
        let log_bytes = usize::try_from(log_bytes).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(Lines {
            handler,
            loudness,
            line_max: LINE_MAX.min(log_bytes),
            topic: Topic::default(),
            out: Vec::new(),
            err: Vec::new(),
            last_words: String::new(),
        })))
    }

    /// A call begins: what is said from now on is about `topic`.
    pub(super) fn begin(&self, topic: Topic) {
        let mut lines = self.lines();
        lines.topic = topic;
        lines.last_words.clear();
    }

    /// A call has ended: lines without an end end here.
    pub(super) fn end(&self) {
        let mut lines = self.lines();
        lines.flush(Stream::Out);
        lines.flush(Stream::Err);
        lines.loudness.tell();
    }

    /// An entry that the guest logs by itself, in place of printing it. What it says of an error
    /// counts as last words.
    pub(super) fn log(&self, level: Level, context: &str, text: &str) {
        let mut lines = self.lines();
        let text = plain(text[..text.floor_char_boundary(lines.line_max)].trim_end());
        let text = &text[..text.floor_char_boundary(lines.line_max)];
        let context = plain(&context[..context.floor_char_boundary(CONTEXT_MAX)]);
        lines.say(level, Some(&*context).filter(|context| !context.is_empty()), text);
        if level == Level::ERROR {
            remember(&mut lines.last_words, text);
        }
    }

    /// The last words on standard error since the call began, if any.
    pub(super) fn last_words(&self) -> Option<String> {
        let lines = self.lines();
        (!lines.last_words.is_empty()).then(|| lines.last_words.clone())
    }

    /// The end of standard output that the guest writes to.
    pub(super) fn out(&self) -> Mouth {
        Mouth { voice: self.clone(), stream: Stream::Out }
    }

    /// The end of standard error that the guest writes to.
    pub(super) fn err(&self) -> Mouth {
        Mouth { voice: self.clone(), stream: Stream::Err }
    }

    /// A panic elsewhere while lines were held leaves them in order: they are only text.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Err,
}

impl Stream {
    fn level(self) -> Level {
        match self {
            Self::Out => Level::INFO,
            Self::Err => Level::WARN,
        }
    }
}

impl Lines {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            let line_max = self.line_max;
            let line = self.line(stream);
            let room = line_max.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.flush(stream);
            }
        }
    }

    /// Logs the line so far. Blank lines say nothing and are left out.
    fn flush(&mut self, stream: Stream) {
        if self.line(stream).is_empty() {
            return; // As at the end of nearly every call.
        }
        let mut line = std::mem::take(self.line(stream));
        let text = String::from_utf8_lossy(&line);
        let text = plain(text.trim_end());
        let text = &text[..text.floor_char_boundary(self.line_max)];
        if !text.is_empty() {
            self.say(stream.level(), None, text);
            if let Stream::Err = stream {
                remember(&mut self.last_words, text);
            }
        }
        line.clear();
        *self.line(stream) = line; // Keeps its allocation for the next line.
    }

    fn line(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    /// Logs a line, unless that would be too much. It is held against nobody: the message goes on.
    fn say(&self, level: Level, context: Option<&str>, text: &str) {
        if text.is_empty() || !self.loudness.admits(text.len()) {
            return;
        }
        let handler = &*self.handler;
        let message_id = self.topic.message.map(display);
        let count = self.topic.count;
        if level == Level::ERROR {
            tracing::error!(target: "plugin", handler, message_id, count, context, "{text}");
        } else if level == Level::WARN {
            tracing::warn!(target: "plugin", handler, message_id, count, context, "{text}");
        } else if level == Level::INFO {
            tracing::info!(target: "plugin", handler, message_id, count, context, "{text}");
        } else if level == Level::DEBUG {
            tracing::debug!(target: "plugin", handler, message_id, count, context, "{text}");
        } else {
            tracing::trace!(target: "plugin", handler, message_id, count, context, "{text}");
        }
    }
}

/// Keeps the line that says most: the last one, but of a Rust panic, which
/// ends in a note on backtraces, the place and the first line of its message.
fn remember(last_words: &mut String, line: &str) {
    let panicked = last_words.contains(" panicked at ");
    if panicked && !last_words.ends_with(':') || line.starts_with("note: run with ") {
        return;
    }
    if panicked {
        last_words.push(' ');
    } else {
        last_words.clear();
    }
    let room = LAST_WORDS_MAX.saturating_sub(last_words.len());
    last_words.push_str(&line[..line.floor_char_boundary(room)]);
}

/// The guest's end of one stream. It is always ready: lines go to the log at once.
pub(super) struct Mouth {
    voice: Voice,
    stream: Stream,
}

impl IsTerminal for Mouth {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Mouth {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Self { voice: self.voice.clone(), stream: self.stream })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Self { voice: self.voice.clone(), stream: self.stream })
    }
}

#[async_trait]
impl Pollable for Mouth {
    async fn ready(&mut self) {}
}

impl OutputStream for Mouth {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // More would hold the thread, and is more than [`Self::check_write`] said.
        if bytes.len() > WRITE_MAX {
            return Err(StreamError::trap("wrote more at once than it was told it may"));
        }
        self.voice.lines().write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX)
    }
}

impl AsyncWrite for Mouth {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        self.voice.lines().write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Limits;

    fn voice() -> Voice {
        let limits = Limits::default();
        let loudness = Arc::new(Loudness::new("h".into(), &limits));
        Voice::new("h".into(), loudness, limits.log_bytes)
    }

    fn said(lines: &[&str]) -> Option<String> {
        let voice = voice();
        voice.begin(Topic::default());
        for line in lines {
            voice.lines().write(Stream::Err, line.as_bytes());
        }
        voice.end();
        voice.last_words()
    }

    #[test]
    fn the_last_line_is_remembered_even_without_an_end() {
        assert_eq!(said(&["Traceback:\n", "Value", "Error: 7\n\n"]).unwrap(), "ValueError: 7");
        assert_eq!(said(&["one\ntwo"]).unwrap(), "two");
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn of_a_panic_the_place_and_the_message_are_remembered() {
        let panic = "\nthread 'main' (1) panicked at src/lib.rs:9:5:\nno total\n\
                     note: run with `RUST_BACKTRACE=1` environment variable\n";
        let words = said(&[panic]).unwrap();
        assert_eq!(words, "thread 'main' (1) panicked at src/lib.rs:9:5: no total");
    }

    #[test]
    fn a_line_without_end_is_cut_and_kept_small() {
        let voice = voice();
        for _ in 0..100 {
            voice.lines().write(Stream::Out, &[b'x'; 4096]);
        }
        assert_eq!(voice.lines().out.len(), LINE_MAX);
        voice.end();
        assert!(voice.lines().out.is_empty());
        assert!(said(&["é".repeat(1000).as_str()]).unwrap().len() <= LAST_WORDS_MAX);
    }

    #[test]
    fn last_words_are_those_of_the_call() {
        let voice = voice();
        voice.lines().write(Stream::Err, b"old\n");
        voice.begin(Topic::default());
        assert_eq!(voice.last_words(), None);
    }

    #[test]
    fn an_error_that_the_guest_logs_is_its_last_words() {
        let voice = voice();
        voice.log(Level::INFO, "", "all is well");
        assert_eq!(voice.last_words(), None);
        voice.log(Level::ERROR, "totals", "no total\n");
        assert_eq!(voice.last_words().unwrap(), "no total");
    }
}
