//! The names of the keys that Tidegate makes: all start with `tidegate:` and
//! share their stream's slot, so that one script can reach them together.

use crate::manifest::hash_tag;

/// The consumer that owns entries waiting for their next attempt.
///
/// They stay in the group's pending list, so that nothing about them is lost
/// with a host, under a name that no host has, so that none takes them early.
pub(super) const WAITING: &str = "tidegate:waiting";

/// The keys that go with one group of one stream.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// The stream itself.
    pub stream: String,
    /// Sorted set: ids waiting for another attempt, by the server's time it is due (ms).
    pub waiting: String,
    /// Hash: id → recorded failures, a space, the last error.
    pub failures: String,
    /// String with an expiry: the tenure of the host that owns an ordered stream, `name#generation`.
    pub lease: String,
    /// Number: the tenures there have been.
    pub generation: String,
    /// Sorted set: the hosts that share an ordered stream, by the server's time they last showed themselves (ms).
    pub members: String,
    live: String,
}

impl Keys {
    pub(super) fn new(stream: &str, group: &str) -> Self {
        let tag = hash_tag(stream);
        let name = |kind: &str| format!("tidegate:{{{tag}}}:{kind}:{stream}:{group}");
        Self {
            stream: stream.to_owned(),
            waiting: name("waiting"),
            failures: name("failures"),
            lease: name("lease"),
            generation: name("generation"),
            members: name("members"),
            live: name("live"),
        }
    }

    /// String with an expiry: what a live host tells of itself.
    pub(super) fn live(&self, consumer: &str) -> String {
        format!("{}:{consumer}", self.live)
    }
}

/// Hash: of how many streams a stream is made, and the field that says which a message is in.
pub(super) fn shards(stream: &str) -> String {
    format!("tidegate:{{{}}}:shards:{stream}", hash_tag(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_shares_its_streams_slot() {
        for stream in ["orders", "orders:{3}", "{a}b"] {
            let keys = Keys::new(stream, "g");
            let more = [&keys.lease, &keys.generation, &keys.members, &shards(stream)];
            for key in [&keys.waiting, &keys.failures, &keys.live("me")].into_iter().chain(more) {
                assert_eq!(hash_tag(key), hash_tag(stream), "{key}");
                assert!(key.starts_with("tidegate:"), "{key}");
            }
        }
    }
}
