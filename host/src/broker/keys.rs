//! The names of the keys that Tidegate makes: all start with `tidegate:` and
//! share their stream's slot, so that one script can reach them together.

use crate::manifest::{Handler, hash_tag};

/// The consumer that owns entries waiting for their next attempt.
///
/// They stay in the group's pending list, so that nothing about them is lost
/// with a host, under a name that no host has, so that none takes them early.
pub(super) const WAITING: &str = "tidegate:waiting";

/// Sorted set: streams with delayed entries, by when one was last announced (ms, the server's clock).
///
/// One for all of a Redis, so that a host finds those of streams that it never reads.
pub(super) const DELAYED_STREAMS: &str = "tidegate:{delayed}:streams";

/// Sorted set: entries that are to appear on a stream, by when they are due (ms, the server's clock).
pub(super) fn delayed(stream: &str) -> String {
    format!("tidegate:{{{}}}:delayed:{stream}", hash_tag(stream))
}

/// The keys that go with one group of one stream.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// The stream itself.
    pub stream: String,
    /// Sorted set: ids waiting for another attempt, by the server's time it is due (ms).
    pub waiting: String,
    /// Hash: id → recorded failures, a space, the last error.
    pub failures: String,
    /// String: who paused the handler, for as long as it is paused.
    pub paused: String,
    /// Hash: the digests of versions of the plugin that were taken back, each with who did and why.
    pub refused: String,
    /// Hash: id → how it runs since a host died while it was in flight, as a number of `claim.lua`; only of
    /// those that run apart. Where order is kept a hash of its own, as the numbers are those of `inherit.lua`.
    pub deaths: String,
    /// Hash: id → the tenure that it was in flight under when it was put to run alone, where order is kept.
    pub suspects: String,
    /// Set: the consumers that are hosts, and have not said that they leave.
    pub hosts: String,
    /// String with an expiry: written before a wait for a replica or the disk.
    pub mark: String,
    /// Hash: the tokens of the handler's rate, and when they were counted (µs, the server's clock).
    pub rate: String,
    pub(super) seen: String,
    /// Hash: host → when it was last seen (ms, the server's clock), where every host has a group of its own.
    pub broadcast: String,
    /// String with an expiry: the tenure of the host that owns an ordered stream, `name#generation`.
    pub lease: String,
    /// Hash: tenure → whose it is; only of those that were not given up.
    pub tenures: String,
    /// Number: the tenures there have been.
    pub generation: String,
    /// Sorted set: the hosts that share an ordered stream, by the server's time they last showed themselves (ms).
    pub members: String,
    live: String,
}

impl Keys {
    /// The keys of a handler's group.
    pub(super) fn of(handler: &Handler) -> Self {
        let keys = Self::new(&handler.stream, &handler.group);
        if handler.order.is_none() {
            return keys;
        }
        let tag = hash_tag(&handler.stream);
        let deaths = format!("tidegate:{{{tag}}}:alone:{}:{}", handler.stream, handler.group);
        Self { deaths, ..keys }
    }

    /// The keys of a group that are the same whether order is kept or not.
    pub(super) fn new(stream: &str, group: &str) -> Self {
        let tag = hash_tag(stream);
        let name = |kind: &str| format!("tidegate:{{{tag}}}:{kind}:{stream}:{group}");
        Self {
            stream: stream.to_owned(),
            waiting: name("waiting"),
            failures: name("failures"),
            paused: name("paused"),
            refused: name("refused"),
            deaths: name("deaths"),
            suspects: name("suspects"),
            hosts: name("hosts"),
            mark: name("mark"),
            rate: name("rate"),
            seen: name("seen"),
            broadcast: name("broadcast"),
            lease: name("lease"),
            tenures: name("tenures"),
            generation: name("generation"),
            members: name("members"),
            live: name("live"),
        }
    }

    /// The keys of one host's group, where every host has one: who lives is told of all together.
    pub(super) fn of_host(&self, group: &str) -> Self {
        let Self { broadcast, live, hosts, paused, .. } = self.clone();
        Self { broadcast, live, hosts, paused, ..Self::new(&self.stream, group) }
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
            let (live, seen) = (keys.live("me"), keys.seen(b"v"));
            let own = [&keys.waiting, &keys.failures, &keys.deaths, &keys.hosts, &keys.paused];
            let others = [
                &keys.refused,
                &keys.rate,
                &keys.mark,
                &keys.broadcast,
                &live,
                &seen,
                &delayed(stream),
            ];
            let shards = shards(stream);
            let order = [&keys.lease, &keys.generation, &keys.tenures, &keys.members];
            let order = order.into_iter().chain([&keys.suspects, &shards]);
            for key in own.into_iter().chain(others).chain(order) {
                assert_eq!(hash_tag(key), hash_tag(stream), "{key}");
                assert!(key.starts_with("tidegate:"), "{key}");
            }
        }
    }
}
