//! Replies that no server should give: all that reads replies must take them without a panic.
//!
//! Part of the tests and of the fuzzing, not of the product.

use redis::Value;

use super::{broadcast, orphans, pending, presence, replay, reply};

/// Reads any bytes as a server's reply, and the reply as that to each command.
pub fn read_any(bytes: &[u8]) {
    if let Ok(reply) = redis::parse_redis_value(bytes) {
        walk(&reply);
    }
}

/// Reads a reply as that to each command.
fn walk(reply: &Value) {
    const COMMAND: &str = "ANY";
    let again = || reply.clone();
    let _ = reply::read_group(again());
    let _ = reply::entries(COMMAND, again());
    let _ = reply::fields(COMMAND, again());
    let _ = reply::pairs(COMMAND, again());
    let _ = reply::text(COMMAND, again());
    let _ = reply::integer(COMMAND, reply);
    let _ = reply::server_millis(again());
    let _ = reply::id(COMMAND, reply);
    for row in reply::rows(COMMAND, again()).unwrap_or_default() {
        let _ = (row.number("lag"), row.text("name"));
    }
    let _ = broadcast::seen(again());
    let _ = (orphans::names(again()), orphans::unowned(again()), orphans::owners(again()));
    let _ = (pending::row(again()), presence::sign(reply));
    let _ = replay::replayed(again());
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Field, MessageId};

    /// A reply that is near those that are read: ids, names and counts where they belong, mostly.
    fn near_value() -> impl Strategy<Value = Value> {
        let text = |text: &str| Just(Value::BulkString(text.as_bytes().to_vec()));
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Double),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            (any::<u64>(), any::<u64>())
                .prop_map(|(millis, sequence)| MessageId { millis, sequence })
                .prop_map(|id| Value::BulkString(id.to_string().into_bytes())),
            ".{0,8}".prop_map(Value::SimpleString),
            text("1e308"),
            text("-9223372036854775808"),
            text("{\"plugin\":\"x\"}"),
            text("lag"),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                4 => vec(inner.clone(), 0..6).prop_map(Value::Array),
                1 => vec(inner.clone(), 0..4).prop_map(Value::Set),
                1 => vec((inner.clone(), inner), 0..4).prop_map(Value::Map),
            ]
        })
    }

    fn bulk(bytes: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
    }

    /// The answer of a server to `XREADGROUP`, as it is on the wire.
    fn wire(id: MessageId, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut wire = b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n".to_vec();
        wire.extend(bulk(id.to_string().as_bytes()));
        wire.extend(format!("*{}\r\n", fields.len() * 2).into_bytes());
        fields.iter().for_each(|(name, value)| wire.extend([bulk(name), bulk(value)].concat()));
        wire
    }

    #[test]
    fn a_time_that_no_clock_shows_is_the_last_there_is() {
        let wire = b"*2\r\n$5\r\n1e308\r\n$1\r\n5\r\n";
        let reply = redis::parse_redis_value(wire).unwrap();
        assert_eq!(reply::server_millis(reply), Ok(u64::MAX));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_reply_of_no_known_shape_is_an_error(reply in near_value()) {
            walk(&reply);
        }

        #[test]
        fn bytes_that_are_almost_a_reply_are_an_error(
            fields in vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..4),
            edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut wire = wire(MessageId { millis: 5, sequence: 1 }, &fields);
            for (at, byte) in edits {
                let at = at.index(wire.len());
                wire[at] = byte;
            }
            read_any(&wire);
        }

        #[test]
        fn an_entry_is_read_as_it_was_appended(
            (millis, sequence) in (any::<u64>(), any::<u64>()),
            fields in vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 1..8),
        ) {
            let id = MessageId { millis, sequence };
            let reply = redis::parse_redis_value(&wire(id, &fields)).unwrap();
            let read = reply::read_group(reply).unwrap();
            let fields = fields.into_iter().map(|(name, value)| Field { name, value }).collect();
            prop_assert_eq!(read, [reply::RawEntry { id, fields: Some(fields) }]);
        }
    }
}
