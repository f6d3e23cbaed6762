//! Printing: a table for people, JSON for programs, and bytes so that both can read them.
//!
//! A table is coloured and fitted to its width on a terminal, and plain
//! columns anywhere else. Whoever reads may stop reading: that is no failure.

use std::env;
use std::io::{self, Write};
use std::str;
use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::{Serialize, Serializer};

use super::Failure;

/// What stands where a figure cannot be given.
pub(super) const ABSENT: &str = "–";

/// Characters of an error or a name in a table.
const CELL: usize = 60;

/// Whether anyone still reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Listening,
    /// The other end of the pipe is closed, as by `head`.
    Gone,
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> Result<Reader, Failure> {
    write_to(&mut io::stdout().lock(), text).map_err(Failure::system("write to standard output"))
}

fn write_to(out: &mut dyn Write, text: &str) -> io::Result<Reader> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// Prints a value as indented JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Reader, Failure> {
    let written = serde_json::to_string_pretty(value).map_err(io::Error::from);
    text(&(written.map_err(Failure::system("write the answer as JSON"))? + "\n"))
}

/// Prints a value as JSON on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<Reader, Failure> {
    text(&(as_json(value)? + "\n"))
}

/// A value as JSON on one line, for [`text`].
pub(super) fn as_json(value: &impl Serialize) -> Result<String, Failure> {
    let written = serde_json::to_string(value).map_err(io::Error::from);
    written.map_err(Failure::system("write the answer as JSON"))
}

/// Lays out a table, for [`text`].
pub(super) fn table(columns: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if env::var_os("NO_COLOR").is_some_and(|wish| !wish.is_empty()) {
        if let Some(width) = table.width() {
            table.set_width(width);
        }
        table.force_no_tty();
    }
    table.trim_fmt() + "\n"
}

/// Bytes in JSON: a string where they are UTF-8, else `{"hex": "…"}`, so that nothing is lost.
pub(super) struct Bytes<'a>(pub &'a [u8]);

#[derive(Serialize)]
struct Hex {
    hex: String,
}

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let hex = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                Hex { hex }.serialize(serializer)
            }
        }
    }
}

/// Bytes on a screen: text where they are UTF-8, with control characters escaped because
/// whoever wrote them should not command a terminal; other bytes as `\xff`.
pub(super) fn legible(bytes: &[u8]) -> String {
    let Ok(text) = str::from_utf8(bytes) else { return bytes.escape_ascii().to_string() };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_unseen(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character shows nothing itself but changes how those beside it are shown, such as their direction.
fn is_unseen(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// As [`legible`], for a text of several lines.
pub(super) fn legible_lines(text: &str) -> String {
    text.lines().map(|line| legible(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// The start of a text, at most `length` characters long; cut texts end in `…`.
pub(super) fn elided(text: &str, length: usize) -> String {
    if text.chars().nth(length).is_none() {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// A text that somebody else wrote, for a cell: one line, not too long, and harmless.
pub(super) fn cell(text: &str) -> Cell {
    Cell::new(elided(&legible(text.as_bytes()), CELL))
}

/// A number in a cell.
pub(super) fn number(number: impl ToString) -> Cell {
    Cell::new(number.to_string()).set_alignment(CellAlignment::Right)
}

/// A figure, or [`ABSENT`].
pub(super) fn figure(figure: Option<impl ToString>) -> String {
    figure.map_or(ABSENT.to_owned(), |figure| figure.to_string())
}

/// A span of time, to the two units that matter.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let span = match seconds {
        0 => Duration::from_millis(millis),
        1..3_600 => Duration::from_secs(seconds),
        3_600..86_400 => Duration::from_secs(seconds / 60 * 60),
        _ => Duration::from_secs(seconds / 3_600 * 3_600),
    };
    humantime::format_duration(span).to_string()
}

/// When something is due.
pub(super) fn due(in_millis: u64) -> String {
    if in_millis == 0 { "now".to_owned() } else { format!("in {}", span(in_millis)) }
}

/// `1 letter`, `2 letters`.
pub(super) fn count(number: u64, one: &str) -> String {
    count_as(number, one, &format!("{one}s"))
}

/// `1 retry`, `2 retries`.
pub(super) fn count_as(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_a_full_disk_is() {
        let mut left = Closed(io::ErrorKind::BrokenPipe);
        assert_eq!(write_to(&mut left, "x").unwrap(), Reader::Gone);
        assert!(write_to(&mut Closed(io::ErrorKind::StorageFull), "x").is_err());
    }

    #[test]
    fn bytes_in_json_are_text_or_hex_and_never_lost() {
        let shown = |bytes| serde_json::to_string(&Bytes(bytes)).unwrap();
        assert_eq!(shown("née\n".as_bytes()), r#""née\n""#);
        assert_eq!(shown(b"\xff\x00a"), r#"{"hex":"ff0061"}"#);
    }

    #[test]
    fn what_is_shown_cannot_command_a_terminal() {
        assert_eq!(legible("né\u{1b}[2J\n".as_bytes()), r"né\u{1b}[2J\n");
        assert_eq!(legible(b"\xffa\x1b"), r"\xffa\x1b");
        assert_eq!(legible("paid\u{202e}000".as_bytes()), r"paid\u{202e}000");
        assert_eq!(legible_lines("a\u{1b}[1m\nb"), "a\\u{1b}[1m\nb");
    }

    #[test]
    fn only_what_is_too_long_is_cut() {
        assert_eq!(elided("öööö", 4), "öööö");
        assert_eq!(elided("ööööö", 4), "ööö…");
    }

    #[test]
    fn a_span_keeps_the_units_that_matter() {
        assert_eq!(span(340), "340ms");
        assert_eq!(span(61_999), "1m 1s");
        assert_eq!(span(3_725_000), "1h 2m");
        assert_eq!(span(90_061_000), "1day 1h");
    }

    #[test]
    fn a_table_in_a_pipe_is_plain_columns() {
        let printed = table(&["name", "n"], vec![vec![Cell::new("a"), Cell::new(1)]]);
        assert_eq!(printed, "name  n\na     1\n");
    }
}
