//! In which of its shards a message is.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::handler::shard;
use crate::message::Field;

/// A stream that is made of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharding {
    /// Its name, which no stream bears.
    pub stream: Arc<str>,
    /// How many streams it is made of.
    pub count: NonZeroU32,
    /// The field by which a message is in one of them; of a repeated one the first counts.
    pub field: Arc<str>,
}

impl Sharding {
    /// The stream that a message of these fields belongs to.
    ///
    /// It is the CRC-32 of the field's value (the one of Ethernet, zlib and PNG) modulo the number of shards;
    /// without the field, the first. Other producers do the same, so this never changes.
    pub fn of(&self, fields: &[Field]) -> String {
        let value = fields.iter().find(|field| field.name == self.field.as_bytes());
        let index = value.map_or(0, |field| crc32fast::hash(&field.value) % self.count);
        shard(&self.stream, index)
    }

    /// Whether a stream is one of those it is made of.
    pub fn has(&self, stream: &str) -> bool {
        let index = stream.strip_prefix(&*self.stream).and_then(|rest| rest.strip_prefix(":{"));
        let index =
            index.and_then(|rest| rest.strip_suffix('}')).and_then(|i| i.parse::<u32>().ok());
        index.is_some_and(|index| index < self.count.get() && stream == shard(&self.stream, index))
    }

    /// Why nobody would read what is appended to a stream: it is named as one of those that this
    /// one is made of, and is none of them.
    pub fn objection(&self, stream: &str) -> Option<String> {
        if whole(stream) != Some(&self.stream) || self.has(stream) {
            return None;
        }
        let last = shard(&self.stream, self.count.get() - 1);
        Some(format!(
            "`{}` is made of {} streams, the last of them `{last}`, so nobody reads `{stream}`; \
             name `{0}`, and the right one is picked",
            self.stream, self.count
        ))
    }
}

/// The stream that another would be a shard of, by its name.
pub fn whole(stream: &str) -> Option<&str> {
    let (whole, index) = stream.strip_suffix('}')?.rsplit_once(":{")?;
    let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !whole.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharding() -> Sharding {
        let count = NonZeroU32::new(8).unwrap();
        Sharding { stream: "orders".into(), count, field: "customer".into() }
    }

    /// Producers in other languages count on these: `zlib.crc32(b"ada") % 8`.
    #[test]
    fn the_shard_of_a_value_never_changes() {
        let of =
            |value: &str| sharding().of(&[Field::new("x", "y"), Field::new("customer", value)]);
        assert_eq!(of("123456789"), "orders:{6}");
        assert_eq!(of(""), "orders:{0}");
        assert_eq!(sharding().of(&[Field::new("x", "y")]), "orders:{0}");
    }

    #[test]
    fn its_shards_are_known_by_their_names() {
        let has = |name| sharding().has(name);
        assert!(has("orders:{0}") && has("orders:{7}"));
        assert!(!has("orders:{8}") && !has("orders:{07}") && !has("orders") && !has("other:{1}"));
    }

    #[test]
    fn a_name_of_a_shard_that_is_none_is_objected_to() {
        let objection = |name| sharding().objection(name);
        for fine in ["orders:{0}", "orders:{7}", "orders", "other:{9}", "orders:{x}", "orders:{}"] {
            assert_eq!(objection(fine), None, "{fine}");
        }
        for wrong in ["orders:{8}", "orders:{07}"] {
            assert!(objection(wrong).unwrap().contains("the last of them `orders:{7}`"), "{wrong}");
        }
    }
}
