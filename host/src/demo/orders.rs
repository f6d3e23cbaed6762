//! The demo's orders: real JSON, a few of them made to fail. Pure.

use serde_json::json;

use crate::message::Field;

/// What the price list of the example's `price` plugin knows.
const SKUS: [&str; 5] = ["mug", "shirt", "poster", "sticker", "hoodie"];

/// One order in this many asks to fail twice before it succeeds.
const FLAKY_EVERY: usize = 100;

/// The orders that end in a dead letter, one for each way to fail.
pub(super) const DOOMED: usize = 3;

/// The numbered orders from `first` on.
pub(super) fn orders(first: usize, count: usize) -> Vec<Vec<Field>> {
    (first..first + count).map(|number| message(&order(number, note(number)))).collect()
}

/// A numbered order that fails in no way.
pub(super) fn plain(number: usize) -> Vec<Field> {
    message(&order(number, None))
}

/// How many of those fail twice before they succeed.
pub(super) fn flaky(first: usize, count: usize) -> usize {
    (first..first + count).filter(|number| note(*number).is_some()).count()
}

/// One order that traps, one that loops for ever, one that is not JSON.
pub(super) fn doomed(first: usize) -> Vec<Vec<Field>> {
    vec![
        message(&order(first, Some("trap"))),
        message(&order(first + 1, Some("loop"))),
        message("two mugs, please"),
    ]
}

fn note(number: usize) -> Option<&'static str> {
    (number % FLAKY_EVERY == FLAKY_EVERY / 2).then_some("flaky")
}

fn message(order: &str) -> Vec<Field> {
    vec![Field::new("order", order)]
}

fn order(number: usize, note: Option<&str>) -> String {
    let mut order = json!({
        "id": format!("o-{number}"),
        "customer": format!("c-{}", number % 97),
        "currency": "EUR",
        "lines": [
            { "sku": SKUS[number % SKUS.len()], "quantity": 1 + number % 4 },
            { "sku": SKUS[(number / 7) % SKUS.len()], "quantity": 1 },
        ],
    });
    if let Some(note) = note {
        order["note"] = json!(note);
    }
    order.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_json_and_the_flaky_ones_are_counted() {
        let orders = orders(1, 250);
        let parsed: Vec<serde_json::Value> =
            orders.iter().map(|fields| serde_json::from_slice(&fields[0].value).unwrap()).collect();
        assert_eq!(parsed[0]["id"], "o-1");
        assert_eq!(parsed.iter().filter(|order| order["note"] == "flaky").count(), flaky(1, 250));
        assert_eq!(flaky(1, 250), 3);
    }

    #[test]
    fn each_doomed_order_fails_in_its_own_way() {
        let doomed = doomed(1);
        assert_eq!(doomed.len(), DOOMED);
        assert!(serde_json::from_slice::<serde_json::Value>(&doomed[2][0].value).is_err());
    }
}
