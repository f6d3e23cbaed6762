//! Writes the invoice of a priced order.
//!
//! Reads `priced`, appends to `invoices`, and tells whoever listens on the
//! channel `invoiced`. The entry commits together with the acknowledgement; the
//! notice follows it, and reaches only those who listen at that moment.
//!
//! A message can be handed over twice, should a host be killed between handling
//! and acknowledging it. The invoice's number is therefore made from the order's
//! id, never counted: the same order gives the same invoice.

use serde::{Deserialize, Serialize};

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Entry, Failure, Field, Message, Notice, Output};

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

struct Invoicing;
export!(Invoicing);

impl Guest for Invoicing {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        let order = read(&message).map_err(Failure::Reject)?;
        let json = serde_json::to_vec(&invoice(order))
            .map_err(|error| Failure::Reject(format!("the invoice cannot be written: {error}")))?;
        let fields = vec![Field { name: "invoice".into(), value: json.clone() }];
        Ok(vec![
            Output::Append(Entry { stream: "invoices".into(), fields, delay_ms: None }),
            Output::Publish(Notice { channel: "invoiced".into(), payload: json }),
        ])
    }
}

/// What an invoice needs of a priced order; amounts in cents.
#[derive(Deserialize)]
struct Order {
    id: String,
    customer: String,
    currency: String,
    net: u64,
    tax: u64,
    total: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Invoice {
    number: String,
    order: String,
    customer: String,
    currency: String,
    net: u64,
    tax: u64,
    total: u64,
}

fn read(message: &Message) -> Result<Order, String> {
    let field = message.fields.iter().find(|field| field.name == "order");
    let json = &field.ok_or("the message has no field `order`")?.value;
    serde_json::from_slice(json).map_err(|error| format!("not a priced order: {error}"))
}

fn invoice(order: Order) -> Invoice {
    let Order { id, customer, currency, net, tax, total } = order;
    let number = format!("INV-{}", id.strip_prefix("o-").unwrap_or(&id));
    Invoice { number, order: id, customer, currency, net, tax, total }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priced(json: &str) -> Message {
        let fields = vec![Field { name: "order".into(), value: json.into() }];
        Message { id: "1-0".into(), stream: "priced".into(), attempt: 1, fields }
    }

    #[test]
    fn the_same_order_gives_the_same_invoice_and_notice() {
        let json = r#"{"id":"o-17","customer":"c-3","currency":"EUR","net":2500,"tax":475,"total":2975,"lines":[]}"#;
        let expected = r#"{"number":"INV-17","order":"o-17","customer":"c-3","currency":"EUR","net":2500,"tax":475,"total":2975}"#;
        for attempt in [1, 2] {
            let outputs = Invoicing::handle(Message { attempt, ..priced(json) }).unwrap();
            let [Output::Append(entry), Output::Publish(notice)] = outputs.as_slice() else {
                panic!("{outputs:?}")
            };
            assert_eq!((entry.stream.as_str(), notice.channel.as_str()), ("invoices", "invoiced"));
            assert_eq!(entry.fields[0].name, "invoice");
            assert_eq!(entry.fields[0].value, expected.as_bytes());
            assert_eq!(notice.payload, expected.as_bytes());
        }
    }

    #[test]
    fn an_order_without_amounts_is_rejected() {
        let failure = Invoicing::handle(priced(r#"{"id":"o-1","customer":"c"}"#)).unwrap_err();
        assert!(
            matches!(&failure, Failure::Reject(text) if text.starts_with("not a priced order")),
            "{failure:?}"
        );
    }
}
