//! The file as typed: every key of `tidegate.toml`, before any of it is checked.
//!
//! The comments here are the manual of the keys; `docs/manifest.md` is the same
//! for readers without the source. In every string `${env:NAME}` stands for an
//! environment variable, `${file:PATH}` for the text of a file without its last
//! line break, and `$${` for a plain `${`. Durations are typed as `250ms`, `30s`
//! or `5m`, sizes as `64MiB`. Relative paths start from the manifest's directory.

use super::raw_tables::{RawCircuit, RawDedupe, RawLimits, RawRetry, RawRollout};
use super::reader::Reader;
use super::section::{Entry, Place, Section};

/// The whole file.
#[derive(Debug)]
pub(super) struct RawManifest<'t> {
    /// `[redis]`: which Redis to use. Without it, the command line says.
    pub(super) redis: Option<RawRedis<'t>>,
    /// `[host]`: the host itself. Optional.
    pub(super) host: Option<RawHost<'t>>,
    /// `[service]`: makes the host discoverable. Not available yet.
    pub(super) service: Option<Entry<'t>>,
    /// `[handler.NAME]`: one table for each handler, at least one. A name is made of
    /// `a-z`, `0-9`, `-` and `_`.
    pub(super) handlers: Vec<RawHandler<'t>>,
}

/// `[redis]`: which Redis to use, by `url`, by `host` and `port`, or by `sentinel`.
#[derive(Debug)]
pub(super) struct RawRedis<'t> {
    /// `redis://[user:password@]host[:port][/db]`, with TLS `rediss://…`, over a Unix socket
    /// `unix:///path[?db=N]`; `valkey://`, `valkeys://` and `redis+unix://` mean the same.
    /// Special characters in user and password are percent-encoded.
    pub(super) url: Option<Entry<'t>>,
    /// Instead of `url`: a host name or address. Example: `"10.0.0.5"`.
    pub(super) host: Option<Entry<'t>>,
    /// With `host`: the port. Default: 6379.
    pub(super) port: Option<Entry<'t>>,
    /// The number of the database. Default: 0.
    pub(super) db: Option<Entry<'t>>,
    /// The user of Redis' access control list; needs `password`. Default: Redis' default user.
    pub(super) username: Option<Entry<'t>>,
    /// The password. Example: `"${env:REDIS_PASSWORD}"`. Default: none.
    pub(super) password: Option<Entry<'t>>,
    /// `true` for TLS, or a table to say with which certificates. Default: what the `url` says.
    pub(super) tls: Option<Entry<'t>>,
    /// Instead of `url`: the sentinels to ask which server is the primary, now and after each
    /// failover. Example: `{ master = "mymaster", nodes = ["10.0.0.5:26379", "10.0.0.6:26379"] }`.
    pub(super) sentinel: Option<Entry<'t>>,
    /// The nodes of a Redis Cluster. Not available yet.
    pub(super) cluster: Option<Entry<'t>>,
    pub(super) place: Place,
}

/// `redis.tls = { … }`: TLS with certificates of one's own. All paths to PEM files.
#[derive(Debug)]
pub(super) struct RawTls<'t> {
    /// The authority that signed the server's certificate. Default: the public authorities.
    pub(super) ca: Option<Entry<'t>>,
    /// The certificate to show to the server; needs `key`. Default: none.
    pub(super) cert: Option<Entry<'t>>,
    /// The private key of `cert`.
    pub(super) key: Option<Entry<'t>>,
}

/// `redis.sentinel = { … }`: who to ask for the primary. `db`, `username`, `password` and `tls` beside it
/// are for the servers that the sentinels name.
#[derive(Debug)]
pub(super) struct RawSentinel<'t> {
    /// What the sentinels call the primary, as in their `sentinel monitor mymaster …`. Required.
    pub(super) master: Option<Entry<'t>>,
    /// Where sentinels listen, port 26379 unless named; all of them, as what most of them say
    /// counts. Required. Example: `["10.0.0.5:26379", "10.0.0.6:26379", "10.0.0.7:26379"]`.
    pub(super) nodes: Option<Entry<'t>>,
    /// The sentinels' user; needs `password`. Default: their default user.
    pub(super) username: Option<Entry<'t>>,
    /// The sentinels' password. Example: `"${env:SENTINEL_PASSWORD}"`. Default: none.
    pub(super) password: Option<Entry<'t>>,
    /// `true` for TLS to the sentinels, a table as `redis.tls`, or `false`. Default: what `redis.tls` says.
    pub(super) tls: Option<Entry<'t>>,
    pub(super) place: Place,
}

/// `[host]`: the host itself.
#[derive(Debug)]
pub(super) struct RawHost<'t> {
    /// The consumer name, unique to each running host. Example: `"worker-1"`. Default: the
    /// machine's host name.
    pub(super) name: Option<Entry<'t>>,
    /// Where health and metrics are to be had over HTTP: a name or an address, and a port, 0 for any
    /// that is free. Anyone who can connect is answered. Example: `"127.0.0.1:9464"`. Default:
    /// `"off"`, for nowhere.
    pub(super) admin: Option<Entry<'t>>,
    /// How long a stop may wait for messages in work, `1ms` to `1day`. Default: `"30s"`.
    pub(super) grace: Option<Entry<'t>>,
    /// Where compiled plugins are kept, so that the next start is quick; `"off"` for nowhere.
    /// Default: `$XDG_CACHE_HOME/tidegate` or `~/.cache/tidegate`; nowhere for a user without a
    /// home.
    pub(super) cache: Option<Entry<'t>>,
    /// The largest plugin file, `1KiB` to `1GiB`. Default: `"128MiB"`.
    pub(super) plugin_bytes: Option<Entry<'t>>,
    /// How long compiling one plugin may take, `1s` to `1h`. Default: `"2m"`.
    pub(super) compile_time: Option<Entry<'t>>,
    /// How much stack a plugin may use, `64KiB` to `8MiB`. Default: `"1MiB"`.
    pub(super) stack: Option<Entry<'t>>,
}

/// `[handler.NAME]`: a plugin put to work on a stream.
#[derive(Debug)]
pub(super) struct RawHandler<'t> {
    /// The handler's name, as typed in the table's header.
    pub(super) name: &'t str,
    /// The component file, or a core module that says which component it is to be. Required.
    /// Example: `"plugins/charge.wasm"`.
    pub(super) plugin: Option<Entry<'t>>,
    /// The only digest that the component file may have. Example: `"sha256:9f86…"`, of 64
    /// hexadecimal digits. Default: any.
    pub(super) digest: Option<Entry<'t>>,
    /// The stream to read. Required. Example: `"orders"`.
    pub(super) stream: Option<Entry<'t>>,
    /// Instead of `stream`: a channel to subscribe to, or a pattern of channels as `PSUBSCRIBE`
    /// takes it. What is published while no host listens is gone. Example: `"news.*"`.
    pub(super) channel: Option<Entry<'t>>,
    /// The consumer group; no two handlers share a stream and a group. Default: the
    /// handler's name.
    pub(super) group: Option<Entry<'t>>,
    /// `"group"`: each message goes to one of the hosts. `"broadcast"`: every host sees every
    /// message; each reads as a group of its own, named after `group` and the host.
    /// Default: `"group"`.
    pub(super) delivery: Option<Entry<'t>>,
    /// Where a new group begins: `"0"` for all that the stream retains, `"$"` for only what
    /// is new. Default: `"0"`.
    pub(super) start: Option<Entry<'t>>,
    /// Where a group begins that was lost, by a flush or a failover, and is created again:
    /// `"0"` handles all that the stream retains once more, `"start"` does as `start` says and
    /// may skip what was not handled yet. Default: `"0"`.
    pub(super) after_loss: Option<Entry<'t>>,
    /// Handle only messages whose fields have exactly these values; the rest are
    /// acknowledged unseen. Example: `{ name = "order.created" }`. Default: all.
    pub(super) filter: Option<Entry<'t>>,
    /// A field: messages with equal values of it are handled one at a time, in their order. One
    /// host at a time owns the stream, or each of its `shards`. Default: no order.
    pub(super) order_by: Option<Entry<'t>>,
    /// With `order-by`: the stream is this many streams, `orders:{0}`, `orders:{1}` …, shared
    /// out to the hosts; 1 to 1024. Default: one stream, under its own name.
    pub(super) shards: Option<Entry<'t>>,
    /// Acknowledge unseen what repeats a message that was handled. Default: nothing is dropped.
    pub(super) dedupe: Option<RawDedupe<'t>>,
    /// How many messages a second, minute or hour all hosts together hand to the plugin, such as
    /// `"100/s"`, `"30/m"` or `"5/h"`. Default: no bound.
    pub(super) rate: Option<Entry<'t>>,
    /// With `rate`: how many messages may go at once after a pause, 1 to 1000000. Default: a
    /// tenth of a second's worth, at least 1.
    pub(super) burst: Option<Entry<'t>>,
    /// Stop reading while everything fails. Default: messages fail one by one.
    pub(super) circuit: Option<RawCircuit<'t>>,
    /// How many calls of the plugin are in flight at a time, 1 to 10000; a batch plugin's call
    /// is a batch. No more is read than there are calls for, so a small number costs speed.
    /// Default: 64.
    pub(super) concurrency: Option<Entry<'t>>,
    /// How many messages a batch plugin gets in a call at most, 1 to 1000. Default: 100.
    pub(super) batch: Option<Entry<'t>>,
    /// `"reuse"` an instance of the plugin for many messages, or start a fresh one for each
    /// `"message"`. Default: `"reuse"`.
    pub(super) isolation: Option<Entry<'t>>,
    /// How long one call of the plugin may take, `1ms` to `1day`. Default: `"30s"`.
    pub(super) timeout: Option<Entry<'t>>,
    /// How much memory an instance may use, `1MiB` to `4GiB`. Default: `"64MiB"`.
    pub(super) memory: Option<Entry<'t>>,
    /// Bounds that few plugins ever meet.
    pub(super) limits: Option<RawLimits<'t>>,
    /// How a new version of the plugin takes over from the one before. Default: at once.
    pub(super) rollout: Option<RawRollout<'t>>,
    /// How failed messages are tried again.
    pub(super) retry: Option<RawRetry<'t>>,
    /// The stream for messages that are given up; not the handler's own. Default:
    /// `"{orders}:dead"` for the stream `orders`, and `"orders:{0}:dead"` for
    /// `orders:{0}`: the same slot of Redis Cluster as the stream.
    pub(super) dead_letter: Option<Entry<'t>>,
    /// `"handled"`: entries that every group of the stream has acknowledged are removed from it.
    /// `"never"`: they stay. Default: `"never"`.
    pub(super) trim: Option<Entry<'t>>,
    /// What a settlement waits for before it counts as written: `"none"`, `"replica"` until a
    /// replica has it (`WAIT`), `"aof"` until it is on the server's disk (`WAITAOF`).
    /// Default: `"none"`.
    pub(super) durability: Option<Entry<'t>>,
    /// Grant: the streams that the handler may append to; `*` stands for any run of
    /// characters. Example: `["invoices", "audit.*"]`. Default: none.
    pub(super) outputs: Option<Entry<'t>>,
    /// Grant: the channels that the handler may publish on, with `*` as above. Default: none.
    pub(super) channels: Option<Entry<'t>>,
    /// Grant: the prefix of the keys that the handler may use through `wasi:keyvalue`. Example:
    /// `"charge:"`. Default: none.
    pub(super) keyvalue: Option<Entry<'t>>,
    /// Grant: a hash that the handler reads through `wasi:config`. Example: `"app_config"`.
    /// Default: none.
    pub(super) config: Option<Entry<'t>>,
    /// Grant: the hosts that the handler may call through `wasi:http`, as `"api.example.com"`,
    /// `"api.example.com:8443"`, `"https://api.example.com"`, `"*.example.com"`, `"[::1]:8080"` or
    /// `"10.0.0.0/8"`. An address that is not public is dialled only where it, or a network that
    /// holds it, is named. Default: none.
    pub(super) http: Option<Entry<'t>>,
    /// Grant: the environment that the plugin sees; nothing is inherited. Example:
    /// `{ REGION = "eu", TOKEN = "${env:TOKEN}" }`. Default: empty.
    pub(super) env: Option<Entry<'t>>,
    /// Remembers outputs for equal messages. Not available yet.
    pub(super) cache: Option<Entry<'t>>,
    pub(super) place: Place,
}

impl<'t> RawManifest<'t> {
    pub(super) fn read(mut file: Section<'t>, reader: &mut Reader<'_>) -> Self {
        let handlers = file.take("handler");
        let raw = Self {
            redis: file.take("redis").and_then(|entry| RawRedis::read(&entry, reader)),
            host: file.take("host").and_then(|entry| RawHost::read(&entry, reader)),
            service: file.take_reserved("service"),
            handlers: handlers.as_ref().map_or(vec![], |entry| RawHandler::read_all(entry, reader)),
        };
        let place = file.close(reader);
        match handlers {
            Some(entry) if entry.value.as_table().is_some_and(|table| table.is_empty()) => {
                reader.problem(entry.key_at, "handler", NO_HANDLER);
            }
            Some(_) => {}
            None if place.misspelt.contains(&"handler") => {}
            None => reader.problem(0, "handler", NO_HANDLER),
        }
        raw
    }
}

const NO_HANDLER: &str = "expected at least one handler, such as [handler.charge] with `plugin` and `stream`, found none";

impl<'t> RawRedis<'t> {
    fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut table = reader.section(entry, "a table with `url`, `host` or `sentinel`")?;
        Some(Self {
            url: table.take_secret("url"),
            host: table.take("host"),
            port: table.take("port"),
            db: table.take("db"),
            username: table.take("username"),
            password: table.take_secret("password"),
            tls: table.take("tls"),
            sentinel: table.take("sentinel"),
            cluster: table.take_reserved("cluster"),
            place: table.close(reader),
        })
    }
}

impl<'t> RawSentinel<'t> {
    pub(super) fn read(mut table: Section<'t>, reader: &mut Reader<'_>) -> Self {
        Self {
            master: table.take("master"),
            nodes: table.take("nodes"),
            username: table.take("username"),
            password: table.take_secret("password"),
            tls: table.take("tls"),
            place: table.close(reader),
        }
    }
}

impl<'t> RawTls<'t> {
    pub(super) fn read(mut table: Section<'t>, reader: &mut Reader<'_>) -> Self {
        let raw = Self { ca: table.take("ca"), cert: table.take("cert"), key: table.take("key") };
        table.close(reader);
        raw
    }
}

impl<'t> RawHost<'t> {
    fn read(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut table = reader.section(entry, "a table with `name` or `grace`")?;
        let raw = Self {
            name: table.take("name"),
            admin: table.take("admin"),
            grace: table.take("grace"),
            cache: table.take("cache"),
            plugin_bytes: table.take("plugin-bytes"),
            compile_time: table.take("compile-time"),
            stack: table.take("stack"),
        };
        table.close(reader);
        Some(raw)
    }
}

impl<'t> RawHandler<'t> {
    fn read_all(entry: &Entry<'t>, reader: &mut Reader<'_>) -> Vec<Self> {
        let Some(table) = reader.section(entry, "tables such as [handler.charge]") else {
            return vec![];
        };
        let named = table.named();
        named.iter().filter_map(|(name, entry)| Self::read(name, entry, reader)).collect()
    }

    fn read(name: &'t str, entry: &Entry<'t>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut table = reader.section(entry, "a table with `plugin` and `stream`")?;
        Some(Self {
            name,
            plugin: table.take("plugin"),
            digest: table.take("digest"),
            stream: table.take("stream"),
            channel: table.take("channel"),
            group: table.take("group"),
            delivery: table.take("delivery"),
            start: table.take("start"),
            after_loss: table.take("after-loss"),
            filter: table.take("match"),
            order_by: table.take("order-by"),
            shards: table.take("shards"),
            dedupe: table.take("dedupe").and_then(|entry| RawDedupe::read(&entry, reader)),
            rate: table.take("rate"),
            burst: table.take("burst"),
            circuit: table.take("circuit").and_then(|entry| RawCircuit::read(&entry, reader)),
            concurrency: table.take("concurrency"),
            batch: table.take("batch"),
            isolation: table.take("isolation"),
            timeout: table.take("timeout"),
            memory: table.take("memory"),
            limits: table.take("limits").and_then(|entry| RawLimits::read(&entry, reader)),
            rollout: table.take("rollout").and_then(|entry| RawRollout::read(&entry, reader)),
            retry: table.take("retry").and_then(|entry| RawRetry::read(&entry, reader)),
            dead_letter: table.take("dead-letter"),
            trim: table.take("trim"),
            durability: table.take("durability"),
            outputs: table.take("outputs"),
            channels: table.take("channels"),
            keyvalue: table.take("keyvalue"),
            config: table.take("config"),
            http: table.take("http"),
            env: table.take("env"),
            cache: table.take_reserved("cache"),
            place: table.close(reader),
        })
    }
}
