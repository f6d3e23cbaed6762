//! Names of streams: the hash tag, and the names that follow from another.

/// What keys begin with that Tidegate makes for itself.
///
/// No manifest may name them and no grant covers them.
pub(super) const RESERVED: &str = "tidegate:";

/// The part of a key that decides its slot in Redis Cluster: what stands between
/// its first `{` and the first `}` after it, or all of it where nothing does.
///
/// See <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>.
pub fn hash_tag(key: &str) -> &str {
    key.split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key)
}

/// The dead-letter stream of a stream whose manifest names none, in the same slot.
///
/// A name with a `}` but without a tag shares its slot with no other name, so
/// there the slot is given up rather than the likeness.
pub(super) fn default_dead_letter(stream: &str) -> String {
    if stream.contains('}') { format!("{stream}:dead") } else { format!("{{{stream}}}:dead") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_tag_is_the_one_of_the_cluster_specification() {
        // The examples of the specification.
        assert_eq!(hash_tag("{user1000}.following"), "user1000");
        assert_eq!(hash_tag("foo{}{bar}"), "foo{}{bar}");
        assert_eq!(hash_tag("foo{{bar}}zap"), "{bar");
        assert_eq!(hash_tag("foo{bar}{zap}"), "bar");
        assert_eq!(hash_tag("orders"), "orders");
        assert_eq!(hash_tag("a}b{c"), "a}b{c");
        assert_eq!(hash_tag(""), "");
    }

    #[test]
    fn a_dead_letter_stream_keeps_an_existing_tag() {
        assert_eq!(default_dead_letter("orders"), "{orders}:dead");
        assert_eq!(default_dead_letter("orders:{0}"), "orders:{0}:dead");
        assert_eq!(default_dead_letter("or{ders"), "{or{ders}:dead");
    }

    proptest! {
        #[test]
        fn a_dead_letter_stream_shares_its_streams_slot(stream in "[a-z:{]{1,8}(\\{[a-z]{1,3}\\}[a-z]{0,3})?") {
            let dead = default_dead_letter(&stream);
            prop_assert_eq!(hash_tag(&dead), hash_tag(&stream));
        }
    }
}
