//! A handler that has been checked: a plugin, its stream, its limits and its grants.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;
use crate::outcome::RetryRule;

use super::digest::Digest;
use super::flow::{Circuit, Dedupe, Durability, Order, Rate, Supply, Trim};
use super::http::HttpGrants;
use super::limits::{Limits, Rollout};
use super::sharding::Sharding;
use super::stream::{RESERVED, default_dead_letter};

/// A plugin put to work on one stream by one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name, unique in the manifest: `a-z`, `0-9`, `-` and `_`.
    pub name: Arc<str>,
    /// The component file, resolved from the manifest's directory.
    pub plugin: PathBuf,
    /// The only digest that file may have.
    pub digest: Option<Digest>,
    /// The stream it reads; of a handler on a channel the channel, or a pattern of channels.
    pub stream: Arc<str>,
    /// How messages come from there.
    pub supply: Supply,
    /// The consumer group it reads as; no other handler has both this stream and this group.
    pub group: Arc<str>,
    /// Where its group begins when it is created.
    pub start: Start,
    /// Where its group begins when it was lost and is created again.
    pub after_loss: Start,
    /// Which messages wait for each other.
    pub order: Option<Order>,
    /// Which shard its stream is, and of what; none for a stream that the manifest names.
    pub shard: Option<Shard>,
    /// Which messages repeat one that was handled.
    pub dedupe: Option<Dedupe>,
    /// How many messages all hosts together hand to it.
    pub rate: Option<Rate>,
    /// When to stop reading for a while, as everything fails.
    pub circuit: Option<Circuit>,
    /// Which messages it handles.
    pub filter: Match,
    /// How many messages it handles at a time.
    pub concurrency: NonZeroUsize,
    /// How many messages a batch plugin gets in a call at most.
    pub batch: NonZeroUsize,
    /// What an instance of the plugin is used for.
    pub isolation: Isolation,
    /// How long one call of the plugin may take.
    pub timeout: Duration,
    /// How much memory an instance may use, in bytes.
    pub memory: u64,
    /// Further bounds on its plugin.
    pub limits: Limits,
    /// How a new version of its plugin takes over; at once where this is none.
    pub rollout: Option<Rollout>,
    /// How failed messages are tried again.
    pub retry: RetryRule,
    /// Where messages go that are given up; never the stream itself.
    pub dead_letter: Arc<str>,
    /// What happens to entries that every group has acknowledged.
    pub trim: Trim,
    /// What a settlement waits for.
    pub durability: Durability,
    /// What it may reach.
    pub grants: Grants,
}

impl Handler {
    /// The handler on one of its streams: itself, or one for each shard of an ordered stream.
    pub fn on_each_stream(&self) -> Vec<Self> {
        let shards = self.order.as_ref().and_then(|order| order.shards);
        let Some(shards) = shards.filter(|_| self.shard.is_none()) else {
            return vec![self.clone()];
        };
        (0..shards.get()).map(|index| self.on(index, shards)).collect()
    }

    /// The handler on one shard, with its share of the calls.
    fn on(&self, index: u32, shards: NonZeroU32) -> Self {
        let stream = shard(&self.stream, index);
        let default = *self.dead_letter == *default_dead_letter(&self.stream);
        let dead_letter =
            if default { default_dead_letter(&stream).into() } else { self.dead_letter.clone() };
        let concurrency = self.concurrency.get().div_ceil(shards.get() as usize);
        let concurrency = NonZeroUsize::new(concurrency).unwrap_or(NonZeroUsize::MIN);
        let shard = Some(Shard { index, of: self.stream.clone() });
        Self { stream: stream.into(), shard, dead_letter, concurrency, ..self.clone() }
    }

    /// The stream as the manifest names it.
    pub fn named_stream(&self) -> &Arc<str> {
        self.shard.as_ref().map_or(&self.stream, |shard| &shard.of)
    }

    /// How its stream is made of several, if it is.
    pub fn sharding(&self) -> Option<Sharding> {
        let order = self.order.as_ref()?;
        let (stream, field) = (self.named_stream().clone(), order.field.clone());
        Some(Sharding { stream, count: order.shards?, field })
    }

    /// Whether an entry for this stream would come back to the handler.
    pub fn is_fed_by(&self, stream: &str) -> bool {
        let own = self.named_stream();
        **own == *stream || self.sharding().is_some_and(|sharding| sharding.has(stream))
    }
}

/// One of the streams that a stream is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub index: u32,
    /// The stream that it is a part of.
    pub of: Arc<str>,
}

/// The name of one shard of a stream: each has a hash tag, and so a slot, of its own.
pub fn shard(stream: &str, index: u32) -> String {
    format!("{stream}:{{{index}}}")
}

/// Where a new consumer group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With all that the stream retains: `"0"`.
    Beginning,
    /// With what is appended from now on: `"$"`.
    New,
}

impl Start {
    /// How the manifest, and Redis, write it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Beginning => "0",
            Self::New => "$",
        }
    }
}

/// What one instance of a plugin is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Many messages, one after the other.
    Reuse,
    /// One message.
    Message,
}

/// Which messages a handler handles: those whose fields have all the named values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match(Vec<(String, String)>);

impl Match {
    /// Whether every named field of the message has its value; of a repeated field the
    /// first counts. Without names every message is accepted.
    pub fn accepts(&self, message: &Message) -> bool {
        self.0.iter().all(|(name, value)| message.first(name) == Some(value.as_bytes()))
    }
}

impl FromIterator<(String, String)> for Match {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// What a handler may reach; by default nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// The streams it may append to.
    pub outputs: Patterns,
    /// The channels it may publish on.
    pub channels: Patterns,
    /// The prefix of the keys that it may use.
    pub keyvalue: Option<Arc<str>>,
    /// The hash that is its configuration.
    pub config: Option<Arc<str>>,
    /// The hosts that it may call over HTTP.
    pub http: HttpGrants,
    /// The environment its plugin sees.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for Grants {
    /// Without the environment's values: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants")
            .field("outputs", &self.outputs)
            .field("channels", &self.channels)
            .field("keyvalue", &self.keyvalue)
            .field("config", &self.config)
            .field("http", &self.http)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Names of which any may be meant, where `*` stands for any run of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Whether a pattern covers this name. Without patterns, no name is covered; keys that
    /// Tidegate made for itself, which begin with `tidegate:`, never are.
    pub fn allows(&self, name: &str) -> bool {
        !name.starts_with(RESERVED) && self.0.iter().any(|pattern| covers(pattern, name))
    }

    /// The patterns without a star: each is a name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|pattern| !pattern.contains('*'))
    }
}

impl<S: Into<String>> FromIterator<S> for Patterns {
    fn from_iter<I: IntoIterator<Item = S>>(patterns: I) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }
}

/// Matches the parts between the stars from left to right, each as early as it goes: with
/// `*` as the only wildcard this never has to go back.
fn covers(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(suffix));
    let Some(mut inner) = inner else { return false };
    middle.split('*').all(|part| match inner.split_once(part) {
        Some((_, after)) => {
            inner = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Field;
    use proptest::prelude::*;

    fn message(fields: &[(&str, &str)]) -> Message {
        Message {
            id: "1-1".parse().unwrap(),
            stream: "s".into(),
            fields: fields.iter().map(|(name, value)| Field::new(*name, *value)).collect(),
        }
    }

    fn matching(fields: &[(&str, &str)]) -> Match {
        fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_match_wants_every_named_field_to_be_equal() {
        let filter = matching(&[("name", "order.created"), ("v", "2")]);
        assert!(filter.accepts(&message(&[("v", "2"), ("x", "y"), ("name", "order.created")])));
        assert!(!filter.accepts(&message(&[("name", "order.created")])));
        assert!(!filter.accepts(&message(&[("name", "order.created"), ("v", "3"), ("v", "2")])));
    }

    #[test]
    fn an_empty_match_accepts_everything() {
        assert!(Match::default().accepts(&message(&[])));
        assert!(Match::default().accepts(&message(&[("a", "b")])));
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let cases = [
            ("audit", "audit", true),
            ("audit", "audits", false),
            ("audit.*", "audit.", true),
            ("audit.*", "audit.x.y", true),
            ("audit.*", "audit", false),
            ("*.log", "a.log", true),
            ("*.log", "a.log.gz", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("**", "any", true),
            ("?", "x", false),
            ("é*", "école", true),
        ];
        for (pattern, name, expected) in cases {
            let patterns: Patterns = [pattern].into_iter().collect();
            assert_eq!(patterns.allows(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_not_granted_is_not_allowed() {
        assert!(!Patterns::default().allows("audit"));
        let all: Patterns = ["*"].into_iter().collect();
        assert!(all.allows("audit"));
        assert!(!all.allows("tidegate:{orders}:leases"));
    }

    #[test]
    fn grants_never_print_the_environments_values() {
        let env = BTreeMap::from([("TOKEN".to_owned(), "hunter2".to_owned())]);
        let shown = format!("{:?}", Grants { env, ..Grants::default() });
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    /// The plainest matcher there is, to hold the quick one against.
    fn covers_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], name) => {
                (0..=name.len()).any(|skipped| covers_slowly(rest, &name[skipped..]))
            }
            ([p, pattern @ ..], [n, name @ ..]) if p == n => covers_slowly(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_the_plainest_matcher_says(
            pattern in "[ab*]{0,8}",
            name in "[ab]{0,8}",
        ) {
            let expected = covers_slowly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(covers(&pattern, &name), expected);
        }
    }
}
