//! A guest's words, made so that they do nothing to whoever reads them.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with every character escaped that moves a cursor, colours a screen, begins a line
/// or turns the direction of reading.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if acts(character) {
            let escape = character.escape_debug();
            write!(escaped, "{escape}").expect("a string takes what is written to it");
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// The same for several lines, each of which stays one.
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

fn acts(character: char) -> bool {
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (character.is_control() && character != '\t') || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_screen_is_escaped_and_nothing_else() {
        assert_eq!(plain("naïve\t日本 \\ \"x\""), "naïve\t日本 \\ \"x\"");
        assert_eq!(plain("a\u{1b}[2J\r\nb\u{9b}\u{202e}"), "a\\u{1b}[2J\\r\\nb\\u{9b}\\u{202e}");
        assert_eq!(plain_lines("a\u{7}\nb"), "a\\u{7}\nb");
    }
}
