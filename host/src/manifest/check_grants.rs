//! The rules of what a handler may reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::given;
use super::check_handler::{key, named};
use super::handler::{Grants, Patterns};
use super::http::{HttpGrant, HttpGrants};
use super::raw::RawHandler;
use super::reader::Reader;
use super::section::{Echo, Entry};
use super::stream::RESERVED;

pub(super) fn grants(
    raw: &RawHandler<'_>,
    stream: Option<&Arc<str>>,
    reader: &mut Reader<'_>,
) -> Option<Grants> {
    let outputs = given(&raw.outputs, Patterns::default(), |entry| outputs(entry, stream, reader));
    let channels = given(&raw.channels, Patterns::default(), |entry| {
        let what = "an array of channels such as [\"scale_events\"]";
        let texts = reader.texts(entry, what, "a channel such as \"scale_events\"")?;
        Some(texts.into_iter().map(|(_, channel)| channel).collect())
    });
    let keyvalue = given(&raw.keyvalue, None, |entry| prefix(entry, reader).map(Some));
    let config = given(&raw.config, None, |entry| {
        key(entry, "a hash such as \"app_config\"", reader).map(Some)
    });
    let http = given(&raw.http, HttpGrants::default(), |entry| http(entry, reader));
    let env = given(&raw.env, BTreeMap::new(), |entry| env(entry, reader));
    Some(Grants {
        outputs: outputs?,
        channels: channels?,
        keyvalue: keyvalue?,
        config: config?,
        http: http?,
        env: env?,
    })
}

fn outputs(
    entry: &Entry<'_>,
    stream: Option<&Arc<str>>,
    reader: &mut Reader<'_>,
) -> Option<Patterns> {
    const WHAT: &str = "a stream such as \"invoices\" or \"audit.*\"";
    let texts =
        reader.texts(entry, "an array of streams such as [\"invoices\", \"audit.*\"]", WHAT)?;
    for (entry, output) in &texts {
        if stream.is_some_and(|stream| **stream == **output) {
            reader.refuse(
                entry,
                "this is the handler's own stream, which it would feed for ever; remove it, or \
                 write to another stream",
            );
        }
        if output.starts_with(RESERVED) {
            reader.refuse(entry, "names that begin with `tidegate:` belong to the host; remove it");
        }
    }
    Some(texts.into_iter().map(|(_, output)| output).collect())
}

/// A prefix of keys none of which is the host's own.
fn prefix(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let prefix = key(entry, "a prefix of keys such as \"charge:\"", reader)?;
    if RESERVED.starts_with(&*prefix) {
        reader.refuse(
            entry,
            "keys that begin with `tidegate:` belong to the host, and this prefix would reach \
             them; choose a longer one such as \"charge:\"",
        );
        return None;
    }
    Some(prefix)
}

fn http(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<HttpGrants> {
    let what = "an array of hosts such as [\"api.example.com\"]";
    let texts = reader.texts(entry, what, "a host such as \"api.example.com\"")?;
    let grants: Vec<_> = texts
        .iter()
        .map(|(entry, host)| HttpGrant::parse(host).map_err(|why| reader.refuse(entry, why)).ok())
        .collect();
    grants.into_iter().collect()
}

fn env(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<BTreeMap<String, String>> {
    let variables = reader.section(entry, "a table such as { REGION = \"eu\" }")?.named();
    let variables: Vec<_> = variables
        .into_iter()
        .map(|(name, entry)| {
            let entry = Entry { echo: Echo::Kind, ..entry };
            let value = reader.any_text(&entry, "a string");
            variable(name, &entry, reader).zip(value)
        })
        .collect();
    variables.into_iter().collect()
}

fn variable(name: &str, entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<String> {
    if name.contains(['=', '\0']) {
        reader.problem(entry.key_at, &entry.path, "expected a name without `=`");
        return None;
    }
    named(name, entry, "a variable", reader)
}
