//! Choosing, counting and showing, without a server.

use comfy_table::Cell;

use super::Failure;
use super::count::Counts;
use super::list::{Extent, row, sentence};
use super::select::{Choice, Filter, Selection, missing};
use super::show::{Shown, page};
use super::tally::{Act, Tally, Wanted};
use crate::broker::{DeadLetter, Note, Redriven};
use crate::message::Field;

pub(super) fn letter(id: &str, handler: &str, reason: &str) -> DeadLetter {
    let note = Note {
        source: "orders".into(),
        id: "7-1".into(),
        group: "g".into(),
        handler: handler.into(),
        plugin: "sha256:ab".into(),
        attempts: "5".into(),
        reason: reason.into(),
        error: "first\u{1b}[2J\nsecond".into(),
        time: "2026-01-01T00:00:00.000Z".into(),
    };
    let fields = vec![Field::new("sku", "A-1"), Field::new([0xff], "")];
    DeadLetter { id: id.parse().unwrap(), fields, note }
}

fn filter(handler: Option<&str>, reason: Option<&str>) -> Filter {
    Filter { handler: handler.map(Into::into), reason: reason.map(Into::into), ..Filter::default() }
}

#[test]
fn a_filter_wants_all_that_it_names() {
    let trap = letter("1-0", "price", "trap");
    assert!(filter(None, None).accepts(&trap));
    assert!(filter(Some("price"), Some("trap")).accepts(&trap));
    assert!(!filter(Some("price"), Some("reject")).accepts(&trap));
    assert!(!filter(Some("validate"), None).accepts(&trap));
    let matching = |text: &str| Filter { matching: Some(text.into()), ..Filter::default() };
    assert!(matching("second").accepts(&trap));
    assert!(!matching("third").accepts(&trap));
}

#[test]
fn ids_are_chosen_once_each_and_a_filter_never_stands_for_all() {
    let ids = ["2-0", "1-0", "2"].map(|id| id.parse().unwrap()).to_vec();
    let selection = Selection { ids: ids.clone(), all: false, filter: Filter::default() };
    assert_eq!(selection.choice().unwrap(), Choice::These(ids[..2].to_vec()));
    let selection = Selection { ids, all: false, filter: filter(Some("price"), None) };
    assert!(matches!(selection.choice(), Err(Failure::Usage(_))));
    let selection = Selection { ids: vec![], all: true, filter: filter(Some("price"), None) };
    assert_eq!(selection.choice().unwrap(), Choice::All(filter(Some("price"), None)));
}

#[test]
fn ids_that_no_stream_has_are_named() {
    assert!(missing(&[]).is_ok());
    let named = missing(&["1-0".parse().unwrap(), "2-0".parse().unwrap()]).unwrap_err();
    assert_eq!(named.to_string(), "no such dead letter: 1-0, 2-0");
}

#[test]
fn letters_are_counted_by_handler_and_reason() {
    let mut counts = Counts::default();
    assert_eq!(sentence(&counts, 0, Extent::Whole), "no dead letters");
    for (handler, reason) in [("price", "trap"), ("validate", "reject"), ("price", "trap")] {
        counts.add(&letter("1-0", handler, reason));
    }
    let kinds = "\n  price: 2 trap\n  validate: 1 reject";
    let said = |listed, extent| sentence(&counts, listed, extent);
    assert_eq!(said(3, Extent::Whole), format!("3 dead letters{kinds}"));
    assert_eq!(said(1, Extent::Whole), format!("3 dead letters, 1 listed (--limit){kinds}"));
    assert!(said(1, Extent::Part).starts_with("more than 3 dead letters"));
}

#[test]
fn a_row_is_one_line_that_cannot_command_a_terminal() {
    let shown: Vec<_> = row(&letter("1-0", "price", "trap")).iter().map(Cell::content).collect();
    assert_eq!(shown[..3], ["1-0", "orders", "7-1"]);
    assert_eq!(shown[7], r"first\u{1b}[2J\nsecond");
}

#[test]
fn a_page_shows_an_error_line_by_line_and_every_field() {
    let page = page("{orders}:dead", &letter("1-0", "price", "trap"));
    assert!(page.contains("error     first\\u{1b}[2J\n          second\n"), "{page}");
    assert!(page.contains("sku    A-1\n\\xff\n"), "{page}");
}

#[test]
fn a_letter_in_json_keeps_bytes_that_are_no_text() {
    let letter = letter("1-0", "price", "trap");
    let shown = serde_json::to_value(Shown::new("{orders}:dead", &letter)).unwrap();
    assert_eq!(shown["stream"], "{orders}:dead");
    assert_eq!(shown["source-id"], "7-1");
    assert_eq!(shown["fields"][1], serde_json::json!({ "name": { "hex": "ff" }, "value": "" }));
}

#[test]
fn a_redrive_that_moved_nothing_has_failed_and_says_so() {
    let said = |tally: &Tally| tally.verdict().unwrap_err().to_string();
    let mut tally = Tally::new(Act::Move, Wanted::Movable);
    assert_eq!(said(&tally), "nothing moved: no dead letter matches");
    tally.searched("a:dead", 0);
    let none = "nothing moved: no dead letter is on `a:dead`, or none of that time";
    assert_eq!(said(&tally), none);
    tally.searched("b:dead", 2);
    let none = "nothing moved: none of the 2 dead letters on `a:dead`, `b:dead` matches";
    assert_eq!(said(&tally), none);
    let letter = letter("1-0", "price", "trap");
    assert!(tally.add(&letter, &Redriven::Bodiless).unwrap_err().contains("trimmed"));
    assert_eq!(said(&tally), "nothing moved");
}

#[test]
fn a_redrive_says_what_moved_and_where() {
    let mut tally = Tally::new(Act::Move, Wanted::Movable);
    let letter = letter("1-0", "price", "trap");
    let moved = tally.add(&letter, &Redriven::As("9-0".into()));
    assert_eq!(moved.unwrap().line(), "1-0\torders\t9-0\n");
    assert_eq!(tally.sentence(), "moved 1 message to `orders`");
    assert!(tally.verdict().is_ok());
    let mut tally = Tally::new(Act::Rehearse, Wanted::Movable);
    let moved = tally.add(&letter, &letter.prospect());
    assert_eq!(moved.unwrap().line(), "1-0\torders\t-\n");
    assert_eq!(tally.sentence(), "would move 1 message to `orders`");
}

#[test]
fn what_stays_is_a_failure_when_it_was_named_or_refused() {
    let letter = letter("1-0", "price", "trap");
    let after = |what: Redriven, wanted: Wanted| {
        let mut tally = Tally::new(Act::Move, wanted);
        tally.add(&letter, &Redriven::As("9-0".into())).unwrap();
        tally.add(&letter, &what).unwrap_err();
        tally.verdict()
    };
    assert!(after(Redriven::Bodiless, Wanted::Movable).is_ok());
    assert!(after(Redriven::Bodiless, Wanted::Each).is_err());
    assert!(after(Redriven::Refused("OOM".into()), Wanted::Movable).is_err());
}
