//! Lets well-formed orders through and rejects the others.
//!
//! Reads `orders`, appends to `validated`. A message carries its order as JSON
//! in one field:
//!
//! ```text
//! order = {"id":"o-17","customer":"c-3","currency":"EUR","lines":[{"sku":"mug","quantity":2}]}
//! ```
//!
//! A bad order stays bad however often it is tried, so it is rejected: the host
//! moves it to the dead-letter stream with the text given here. Whether a product
//! exists, and what it costs, is for `price` to say.

use serde::Deserialize;

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Entry, Failure, Field, Message, Output};

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

struct Validate;
export!(Validate);

impl Guest for Validate {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        validate(message).map_err(Failure::Reject)
    }
}

/// Passes the order on, byte for byte, or says what is wrong with it.
fn validate(message: Message) -> Result<Vec<Output>, String> {
    let field = message.fields.into_iter().find(|field| field.name == "order");
    let json = field.ok_or("the message has no field `order`")?.value;
    check(&json)?;
    let fields = vec![Field { name: "order".into(), value: json }];
    Ok(vec![Output::Append(Entry { stream: "validated".into(), fields, delay_ms: None })])
}

/// What this stage looks at; whatever else an order holds is none of its business.
#[derive(Deserialize)]
struct Order {
    id: String,
    customer: String,
    currency: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    sku: String,
    quantity: u32,
}

fn check(json: &[u8]) -> Result<(), String> {
    let order: Order =
        serde_json::from_slice(json).map_err(|error| format!("not an order: {error}"))?;
    if order.id.is_empty() {
        return Err("the order has no id".into());
    }
    if order.customer.is_empty() {
        return Err(format!("order {} names no customer", order.id));
    }
    if order.currency.len() != 3 || !order.currency.bytes().all(|b| b.is_ascii_uppercase()) {
        return Err(format!(
            "order {}: expected a currency such as \"EUR\", found {:?}",
            order.id, order.currency
        ));
    }
    if order.lines.is_empty() {
        return Err(format!("order {} has no lines", order.id));
    }
    match order.lines.iter().position(|line| line.sku.is_empty() || line.quantity == 0) {
        Some(index) => Err(format!(
            "order {}: line {} needs a sku and a quantity of at least 1",
            order.id,
            index + 1
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"id":"o-17","customer":"c-3","currency":"EUR","lines":[{"sku":"mug","quantity":2}]}"#;

    fn message(name: &str, value: &str) -> Message {
        let fields = vec![Field { name: name.into(), value: value.into() }];
        Message { id: "1-0".into(), stream: "orders".into(), attempt: 1, fields }
    }

    #[test]
    fn a_good_order_is_passed_on_unchanged() {
        let outputs = validate(message("order", GOOD)).unwrap();
        let [Output::Append(entry)] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!(entry.stream, "validated");
        assert_eq!(entry.fields[0].value, GOOD.as_bytes());
    }

    #[test]
    fn a_bad_order_is_rejected_with_what_is_wrong() {
        let cases = [
            ("not json", "not an order: expected ident at line 1 column 2"),
            (r#"{"id":"o-1"}"#, "not an order: missing field `customer` at line 1 column 12"),
            (&GOOD.replace("o-17", ""), "the order has no id"),
            (&GOOD.replace("c-3", ""), "order o-17 names no customer"),
            (
                &GOOD.replace("EUR", "euros"),
                r#"order o-17: expected a currency such as "EUR", found "euros""#,
            ),
            (&GOOD.replace(r#"{"sku":"mug","quantity":2}"#, ""), "order o-17 has no lines"),
            (
                &GOOD.replace(":2}", ":0}"),
                "order o-17: line 1 needs a sku and a quantity of at least 1",
            ),
        ];
        for (order, complaint) in cases {
            assert_eq!(validate(message("order", order)).unwrap_err(), complaint);
        }
    }

    #[test]
    fn a_message_without_an_order_is_rejected() {
        let complaint = validate(message("ordre", GOOD)).unwrap_err();
        assert_eq!(complaint, "the message has no field `order`");
    }
}
