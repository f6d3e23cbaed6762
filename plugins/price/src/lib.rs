//! Works out what an order costs.
//!
//! Reads `validated`, appends to `priced`: the same order with `net`, `tax` and
//! `total` added, in cents. A product without a price is rejected.
//!
//! For the demo an order may ask for a failure. Nothing fails here by itself, so
//! its `note` stands in for what goes wrong elsewhere:
//!
//! | note    | what this handler does                  | what it stands for                        |
//! |---------|-----------------------------------------|-------------------------------------------|
//! | `flaky` | asks for a retry before its 3rd attempt | a service that is down and comes back     |
//! | `trap`  | panics                                  | a bug                                     |
//! | `loop`  | never returns                           | a worse bug; the host's timeout stops it  |

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Entry, Failure, Field, Message, Output};

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

/// What one piece costs, in euro cents.
const PRICES: [(&str, u64); 5] =
    [("mug", 1_250), ("shirt", 2_490), ("poster", 1_900), ("sticker", 150), ("hoodie", 5_490)];

/// Tax on the net amount, in per cent.
const TAX: u64 = 19;

/// The attempt at which an order with the note `flaky` gets through.
const FLAKY_UNTIL: u32 = 3;

struct Price;
export!(Price);

impl Guest for Price {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        let order = read(&message).map_err(Failure::Reject)?;
        fail_as_asked(&order, message.attempt)?;
        let priced = price(order).map_err(Failure::Reject)?;
        let json = serde_json::to_vec(&priced)
            .map_err(|error| Failure::Reject(format!("the order cannot be written: {error}")))?;
        let fields = vec![Field { name: "order".into(), value: json }];
        Ok(vec![Output::Append(Entry { stream: "priced".into(), fields, delay_ms: None })])
    }
}

/// What this stage needs of an order; `rest` travels along untouched.
#[derive(Serialize, Deserialize)]
struct Order {
    currency: String,
    lines: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sku: String,
    quantity: u32,
}

/// An order and what it costs, in cents.
#[derive(Serialize)]
struct Priced {
    #[serde(flatten)]
    order: Order,
    net: u64,
    tax: u64,
    total: u64,
}

fn read(message: &Message) -> Result<Order, String> {
    let field = message.fields.iter().find(|field| field.name == "order");
    let json = &field.ok_or("the message has no field `order`")?.value;
    serde_json::from_slice(json).map_err(|error| format!("not an order: {error}"))
}

fn price(order: Order) -> Result<Priced, String> {
    if order.currency != "EUR" {
        return Err(format!("prices are in EUR, the order is in {}", order.currency));
    }
    let amounts = order.lines.iter().map(|line| {
        let price = PRICES.iter().find(|(sku, _)| *sku == line.sku);
        let (_, cents) = price.ok_or_else(|| format!("no price for {:?}", line.sku))?;
        Ok(cents * u64::from(line.quantity))
    });
    let net: u64 = amounts.sum::<Result<_, String>>()?;
    let tax = (net * TAX + 50) / 100; // half a cent rounds up
    Ok(Priced { order, net, tax, total: net + tax })
}

/// The demo's failures, at the order's own request.
fn fail_as_asked(order: &Order, attempt: u32) -> Result<(), Failure> {
    match order.note.as_deref() {
        Some("flaky") if attempt < FLAKY_UNTIL => Err(Failure::Retry(
            "the price list is not reachable (the order's note asks for it)".into(),
        )),
        Some("trap") => panic!("a bug in the price list (the order's note asks for it)"),
        Some("loop") => loop {
            std::hint::spin_loop();
        },
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Message {
        let fields = vec![Field { name: "order".into(), value: json.into() }];
        Message { id: "1-0".into(), stream: "validated".into(), attempt: 1, fields }
    }

    fn priced(message: Message) -> Value {
        let outputs = Price::handle(message).unwrap();
        let [Output::Append(entry)] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!(entry.stream, "priced");
        serde_json::from_slice(&entry.fields[0].value).unwrap()
    }

    #[test]
    fn an_order_keeps_what_it_had_and_gains_its_amounts() {
        let lines = r#"[{"sku":"mug","quantity":2},{"sku":"sticker","quantity":3}]"#;
        let json = format!(r#"{{"id":"o-17","customer":"c-3","currency":"EUR","lines":{lines}}}"#);
        let priced = priced(order(&json));
        assert_eq!(priced["id"], "o-17");
        assert_eq!(
            priced["lines"].to_string(),
            r#"[{"quantity":2,"sku":"mug"},{"quantity":3,"sku":"sticker"}]"#
        );
        assert_eq!(
            (&priced["net"], &priced["tax"], &priced["total"]),
            (&2950.into(), &561.into(), &3511.into())
        );
    }

    #[test]
    fn what_has_no_price_is_rejected() {
        let cases = [
            (
                r#"{"currency":"EUR","lines":[{"sku":"yacht","quantity":1}]}"#,
                r#"no price for "yacht""#,
            ),
            (r#"{"currency":"USD","lines":[]}"#, "prices are in EUR, the order is in USD"),
        ];
        for (json, complaint) in cases {
            let failure = Price::handle(order(json)).unwrap_err();
            assert!(matches!(&failure, Failure::Reject(text) if text == complaint), "{failure:?}");
        }
    }

    #[test]
    fn a_flaky_order_gets_through_at_its_third_attempt() {
        let json = r#"{"currency":"EUR","note":"flaky","lines":[{"sku":"mug","quantity":1}]}"#;
        for attempt in [1, 2] {
            let failure = Price::handle(Message { attempt, ..order(json) }).unwrap_err();
            assert!(matches!(failure, Failure::Retry(_)), "{failure:?}");
        }
        assert_eq!(priced(Message { attempt: 3, ..order(json) })["total"], 1488);
    }
}
