//! The benchmark's work on one payload: read it as JSON and check it.
//!
//! `tally` and `tally-batch` do it inside the sandbox, the benchmark's native
//! loop outside: the same code, so that the difference between them is the host.

use std::borrow::Cow;

use serde::Deserialize;

/// One payment, as it stands in the `data` field of the benchmark's messages.
///
/// Texts are borrowed from the payload unless they hold an escape.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Payment<'a> {
    /// What tells it from the others; not empty.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Who paid; not empty.
    #[serde(borrow)]
    pub customer: Cow<'a, str>,
    /// How much, in cents; more than nothing.
    pub amount: u64,
    /// In which currency: three capital letters.
    #[serde(borrow)]
    pub currency: Cow<'a, str>,
    /// What the customer wrote, if anything.
    #[serde(borrow, default)]
    pub note: Option<Cow<'a, str>>,
}

/// Reads and checks the payment in `data`.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn tally(data: &[u8]) -> Result<Payment<'_>, String> {
    let payment: Payment<'_> =
        serde_json::from_slice(data).map_err(|error| format!("not a payment: {error}"))?;
    let currency = payment.currency.as_bytes();
    if payment.id.is_empty() {
        Err("the payment has no id".into())
    } else if payment.customer.is_empty() {
        Err(format!("payment {} names no customer", payment.id))
    } else if payment.amount == 0 {
        Err(format!("payment {} is of nothing", payment.id))
    } else if currency.len() != 3 || !currency.iter().all(u8::is_ascii_uppercase) {
        Err(format!("payment {}: {:?} is no currency", payment.id, payment.currency))
    } else {
        Ok(payment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"id":"p-1","customer":"c-1","amount":1250,"currency":"EUR","note":"thank you"}"#;

    #[test]
    fn a_good_payment_is_read_without_copying_its_texts() {
        let payment = tally(GOOD.as_bytes()).unwrap();
        assert_eq!(payment.amount, 1250);
        assert!(matches!(payment.id, Cow::Borrowed("p-1")));
    }

    #[test]
    fn escapes_are_read_and_a_note_may_be_missing() {
        let escaped = GOOD.replace("c-1", r"c\u002d1").replace(r#","note":"thank you""#, "");
        let payment = tally(escaped.as_bytes()).unwrap();
        assert_eq!((payment.customer.as_ref(), payment.note), ("c-1", None));
    }

    #[test]
    fn a_bad_payment_is_refused_with_what_is_wrong() {
        let cases = [
            (GOOD.replace("p-1", ""), "the payment has no id"),
            (GOOD.replace("c-1", ""), "payment p-1 names no customer"),
            (GOOD.replace("1250", "0"), "payment p-1 is of nothing"),
            (GOOD.replace("EUR", "eur"), r#"payment p-1: "eur" is no currency"#),
        ];
        for (data, complaint) in cases {
            assert_eq!(tally(data.as_bytes()).unwrap_err(), complaint);
        }
        assert!(tally(b"{").unwrap_err().starts_with("not a payment: "));
    }
}
