//! The instructions that `probe` and `probe-batch` obey.
//!
//! Each field of a message is one instruction, obeyed in order; fields of other
//! names are left alone. The first that fails, or never returns, is the last.
//!
//! | field                | what happens                                                                   |
//! |----------------------|--------------------------------------------------------------------------------|
//! | `emit=<stream>`      | appends an entry with the message's `data` (if it has one), `id` and `attempt` |
//! | `outputs=<n>`        | anywhere in the message: each `emit` appends n entries in place of one         |
//! | `delay-ms=<n>`       | the next `emit` has this delay                                                 |
//! | `env=<NAME>`         | the next `emit` has a field `env` with that variable's value, if it is set     |
//! | `calls`              | the next `emit` has a field `calls`: the messages this instance has begun      |
//! | `stream`             | the next `emit` has a field `stream`: where the message came from              |
//! | `payload=<a=b ...>`  | as if the message had these fields instead, apart by spaces                    |
//! | `notice=<channel>`   | publishes the message's `data`                                                 |
//! | `retry=<text>`       | asks for a retry                                                               |
//! | `retry-until=<n>`    | asks for a retry while the attempt is below n                                  |
//! | `retry-after-ms=<n>` | asks for a retry after n milliseconds, at the first attempt                    |
//! | `retry-before=<ms>`  | asks for a retry until this time, in milliseconds since the Unix epoch         |
//! | `reject=<text>`      | rejects the message                                                            |
//! | `trap=<text>`        | panics with the text                                                           |
//! | `exit=<n>`           | ends the process with this status                                              |
//! | `loop`               | never returns                                                                  |
//! | `recurse`            | calls itself until the stack is full                                           |
//! | `sleep-ms=<n>`       | sleeps                                                                         |
//! | `spin-ms=<n>`        | is busy                                                                        |
//! | `allocate-mb=<n>`    | allocates n MiB, writes to all of it, and frees it                             |
//! | `print=<text>`       | writes a line to standard output                                               |
//! | `eprint=<text>`      | writes a line to standard error                                                |
//!
//! A number that is none rejects the message.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use tidegate::plugin::types::{Entry, Failure, Field, Message, Notice, Output, Pause};

// The contract's types alone, so that both worlds can share what is made of them.
wit_bindgen::generate!({
    path: "../../wit",
    inline: "package tidegate:probe; world script { import tidegate:plugin/types@0.1.0; }",
    generate_all,
});

/// Messages that this instance has begun.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Obeys the message's fields in order.
///
/// # Errors
///
/// The failure that the message asks for, or a rejection of what cannot be read.
pub fn obey(message: &Message) -> Result<Vec<Output>, Failure> {
    CALLS.fetch_add(1, Relaxed);
    let message = &unfolded(message);
    let mut script = Script::new(message)?;
    for field in &message.fields {
        script.step(field)?;
    }
    Ok(script.outputs)
}

/// The message with the instructions that its `payload` holds, as it comes on a channel.
fn unfolded(message: &Message) -> Message {
    let fields = message.fields.iter().flat_map(|field| {
        if field.name != "payload" {
            return vec![field.clone()];
        }
        let text = text(field);
        let instructions =
            text.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")));
        instructions.map(|(name, value)| pair(name, value)).collect()
    });
    Message { fields: fields.collect(), ..message.clone() }
}

/// A message under way: what it asked to be written, and what waits for its next `emit`.
struct Script<'a> {
    message: &'a Message,
    repeat: usize,
    outputs: Vec<Output>,
    delay_ms: Option<u64>,
    extra: Vec<Field>,
}

impl<'a> Script<'a> {
    fn new(message: &'a Message) -> Result<Self, Failure> {
        let outputs = message.fields.iter().find(|field| field.name == "outputs");
        let repeat = outputs.map_or(Ok(1), number)?;
        Ok(Self { message, repeat, outputs: Vec::new(), delay_ms: None, extra: Vec::new() })
    }

    fn step(&mut self, field: &Field) -> Result<(), Failure> {
        let attempt = self.message.attempt;
        match field.name.as_str() {
            "emit" => self.emit(text(field)),
            "notice" => self.notice(text(field)),
            "delay-ms" => self.delay_ms = Some(number(field)?),
            "env" => {
                self.extra.extend(std::env::var(text(field)).ok().map(|value| pair("env", value)))
            }
            "calls" => self.extra.push(pair("calls", CALLS.load(Relaxed).to_string())),
            "stream" => self.extra.push(pair("stream", self.message.stream.as_str())),
            "retry" => return Err(Failure::Retry(text(field))),
            "retry-until" if attempt < number(field)? => {
                return Err(Failure::Retry(format!("attempt {attempt} of {}", text(field))));
            }
            "retry-after-ms" if attempt == 1 => {
                let reason = "the first attempt is put off".into();
                return Err(Failure::RetryAfter(Pause { reason, delay_ms: number(field)? }));
            }
            "retry-before" if now() < Duration::from_millis(number(field)?) => {
                return Err(Failure::Retry("it is too early".into()));
            }
            "reject" => return Err(Failure::Reject(text(field))),
            "sleep-ms" => std::thread::sleep(Duration::from_millis(number(field)?)),
            "spin-ms" => spin(Duration::from_millis(number(field)?)),
            "allocate-mb" => allocate(number(field)?),
            "print" => println!("{}", text(field)),
            "eprint" => eprintln!("{}", text(field)),
            _ => return end(field),
        }
        Ok(())
    }

    fn emit(&mut self, stream: String) {
        let mut fields: Vec<Field> = self.data().cloned().into_iter().collect();
        fields.push(pair("id", self.message.id.as_str()));
        fields.push(pair("attempt", self.message.attempt.to_string()));
        fields.append(&mut self.extra);
        let entry = Entry { stream, fields, delay_ms: self.delay_ms.take() };
        self.outputs.extend(std::iter::repeat_n(Output::Append(entry), self.repeat));
    }

    fn notice(&mut self, channel: String) {
        let payload = self.data().map_or_else(Vec::new, |field| field.value.clone());
        self.outputs.push(Output::Publish(Notice { channel, payload }));
    }

    fn data(&self) -> Option<&Field> {
        self.message.fields.iter().find(|field| field.name == "data")
    }
}

/// The instructions that an instance does not survive. Any other name is none of ours.
fn end(field: &Field) -> Result<(), Failure> {
    match field.name.as_str() {
        "trap" => panic!("{}", text(field)),
        "exit" => std::process::exit(number(field)?),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "recurse" => {
            black_box(recurse(0));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Piece by piece, so that whatever limit there is will be met rather than jumped over.
fn allocate(mebibytes: u32) {
    let pieces: Vec<Vec<u8>> = (0..mebibytes).map(|_| vec![1; 1 << 20]).collect();
    drop(black_box(pieces));
}

/// Goes one call deeper for ever: `black_box` keeps it from becoming a loop.
#[expect(unconditional_recursion, reason = "that is its job")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth) + 1)) + 1
}

fn pair(name: &str, value: impl Into<Vec<u8>>) -> Field {
    Field { name: name.into(), value: value.into() }
}

fn text(field: &Field) -> String {
    String::from_utf8_lossy(&field.value).into_owned()
}

fn number<N: std::str::FromStr>(field: &Field) -> Result<N, Failure> {
    let text = text(field);
    text.parse()
        .map_err(|_| Failure::Reject(format!("{}: expected a number, found {text:?}", field.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attempt: u32, fields: &[(&str, &str)]) -> Message {
        let fields = fields.iter().map(|(name, value)| pair(name, *value)).collect();
        Message { id: "7-0".into(), stream: "in".into(), attempt, fields }
    }

    fn entries(outputs: &[Output]) -> Vec<String> {
        let lines = outputs.iter().map(|output| match output {
            Output::Publish(Notice { channel, payload }) => {
                format!("publish {channel} {}", String::from_utf8_lossy(payload))
            }
            Output::Append(Entry { stream, fields, delay_ms }) => {
                let fields: Vec<_> =
                    fields.iter().map(|field| format!("{}={}", field.name, text(field))).collect();
                format!("append {stream} {} {delay_ms:?}", fields.join(" "))
            }
        });
        lines.collect()
    }

    #[test]
    fn the_readme_lists_the_same_instructions() {
        let table = |text: &str, mark: &str| -> Vec<String> {
            let rows = text.lines().filter_map(|line| line.strip_prefix(mark));
            rows.map(str::to_owned).collect()
        };
        let header = table(include_str!("lib.rs"), "//! | `");
        assert_eq!(header, table(include_str!("../README.md"), "| `"));
        assert!(!header.is_empty());
    }

    #[test]
    fn outputs_come_in_the_order_of_the_fields() {
        let fields =
            [("notice", "news"), ("delay-ms", "50"), ("emit", "a"), ("emit", "b"), ("data", "x")];
        let outputs = obey(&message(2, &fields)).unwrap();
        let expected = [
            "publish news x",
            "append a data=x id=7-0 attempt=2 Some(50)",
            "append b data=x id=7-0 attempt=2 None",
        ];
        assert_eq!(entries(&outputs), expected);
    }

    #[test]
    fn a_payload_holds_instructions() {
        let outputs = obey(&message(1, &[("payload", "stream emit=a data=x")])).unwrap();
        assert_eq!(entries(&outputs), ["append a data=x id=7-0 attempt=1 stream=in None"]);
    }

    #[test]
    fn outputs_multiplies_an_emit_before_or_after_it() {
        for fields in [[("outputs", "3"), ("emit", "a")], [("emit", "a"), ("outputs", "3")]] {
            let outputs = obey(&message(1, &fields)).unwrap();
            assert_eq!(entries(&outputs), ["append a id=7-0 attempt=1 None"; 3]);
        }
    }

    #[test]
    fn env_shows_a_variable_only_if_it_is_set() {
        let fields = [("env", "CARGO_PKG_NAME_THAT_IS_NOT_SET"), ("emit", "a")];
        let outputs = obey(&message(1, &fields)).unwrap();
        assert_eq!(entries(&outputs), ["append a id=7-0 attempt=1 None"]);
        let outputs = obey(&message(1, &[("env", "CARGO_PKG_NAME"), ("emit", "a")])).unwrap();
        assert_eq!(entries(&outputs), ["append a id=7-0 attempt=1 env=probe-script None"]);
    }

    #[test]
    fn failures_come_when_they_were_asked_for() {
        let retried = |attempt| obey(&message(attempt, &[("retry-until", "3")])).is_err();
        assert_eq!([1, 2, 3].map(retried), [true, true, false]);
        let put_off = |attempt| obey(&message(attempt, &[("retry-after-ms", "9")]));
        assert!(matches!(put_off(1), Err(Failure::RetryAfter(Pause { delay_ms: 9, .. }))));
        assert!(put_off(2).is_ok());
        let early = |time: &str| obey(&message(1, &[("retry-before", time)])).is_err();
        assert_eq!(["0", "99999999999999"].map(early), [false, true]);
        let rejected = obey(&message(1, &[("delay-ms", "soon"), ("emit", "a")])).unwrap_err();
        let complaint = r#"delay-ms: expected a number, found "soon""#;
        assert!(matches!(&rejected, Failure::Reject(text) if text == complaint), "{rejected:?}");
    }

    #[test]
    #[should_panic(expected = "as told")]
    fn a_trap_panics_with_its_text() {
        let _ = obey(&message(1, &[("trap", "as told")]));
    }
}
