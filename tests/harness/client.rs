//! A plain blocking client: what a test says to Redis, and how it reads the answers.

use redis::{FromRedisValue, Value};

use super::eventually;

/// A connection of the test's own.
pub struct Redis(redis::Connection);

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// Names and values, in order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The first value of a field, as text.
    #[track_caller]
    pub fn get(&self, name: &str) -> String {
        self.find(name).unwrap_or_else(|| panic!("no field `{name}` in {self}"))
    }

    pub fn find(&self, name: &str) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(found, _)| found == name.as_bytes())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// When it was appended, in milliseconds by the server's clock.
    pub fn millis(&self) -> u64 {
        millis(&self.id)
    }
}

/// The time in an entry's id.
pub fn millis(id: &str) -> u64 {
    id.split('-').next().unwrap().parse().unwrap()
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.id)?;
        for (name, value) in &self.fields {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

impl Redis {
    pub fn open(info: redis::ConnectionInfo) -> redis::RedisResult<Self> {
        let client = redis::Client::open(info)?;
        Ok(Self(client.get_connection()?))
    }

    /// Sends a command, its words apart by spaces, and reads the answer.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&mut self, line: &str) -> T {
        self.attempt(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// As [`Self::ask`], for a command that may be refused.
    pub fn attempt<T: FromRedisValue>(&mut self, line: &str) -> redis::RedisResult<T> {
        let mut command = redis::Cmd::new();
        for word in line.split_whitespace() {
            command.arg(word);
        }
        command.query(&mut self.0)
    }

    /// Sends a command whose words are any bytes.
    #[track_caller]
    pub fn query<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> T {
        command.query(&mut self.0).unwrap()
    }

    /// Sends a command of which only success matters.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        self.ask::<Value>(line);
    }

    /// Runs a script without keys or arguments.
    #[track_caller]
    pub fn eval(&mut self, script: &str) {
        redis::cmd("EVAL").arg(script).arg(0).exec(&mut self.0).unwrap();
    }

    /// Runs a script.
    #[track_caller]
    pub fn run<T: FromRedisValue>(&mut self, script: &str, keys: &[&str], values: &[&str]) -> T {
        self.attempt_run(script, keys, values).unwrap()
    }

    /// As [`Self::run`], for a script that may refuse.
    pub fn attempt_run<T: FromRedisValue>(
        &mut self,
        script: &str,
        keys: &[&str],
        values: &[&str],
    ) -> redis::RedisResult<T> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys).arg(values);
        command.query(&mut self.0)
    }

    /// What the one host of a handler tells of itself; nothing while none does.
    pub fn sign(&mut self, stream: &str, group: &str) -> serde_json::Value {
        let keys: Vec<String> = self.ask(&format!("KEYS tidegate:*:live:{stream}:{group}:*"));
        let told = keys.first().map(|key| self.ask::<String>(&format!("GET {key}")));
        told.map_or(serde_json::Value::Null, |told| serde_json::from_str(&told).unwrap())
    }

    /// Whether the server knows a command.
    pub fn knows(&mut self, command: &str) -> bool {
        let told: redis::RedisResult<Vec<Value>> = self.attempt(&format!("COMMAND INFO {command}"));
        told.is_ok_and(|told| !matches!(told.first(), None | Some(Value::Nil)))
    }

    /// Appends a message and gives its id.
    #[track_caller]
    pub fn add<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        stream: &str,
        fields: &[(N, V)],
    ) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("*");
        for (name, value) in fields {
            command.arg(name.as_ref()).arg(value.as_ref());
        }
        command.query(&mut self.0).unwrap()
    }

    /// Appends the same message many times, quickly, and gives the ids.
    #[track_caller]
    pub fn add_many(&mut self, count: usize, stream: &str, fields: &[(&str, &str)]) -> Vec<String> {
        let mut pipeline = redis::pipe();
        for _ in 0..count {
            let adding = pipeline.cmd("XADD").arg(stream).arg("*");
            for (name, value) in fields {
                adding.arg(*name).arg(*value);
            }
        }
        pipeline.query(&mut self.0).unwrap()
    }

    /// Appends messages together and gives their ids; after an error any of them may be there.
    pub fn append<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, Vec<(Vec<u8>, Vec<u8>)>)>,
    ) -> redis::RedisResult<Vec<String>> {
        let mut pipeline = redis::pipe();
        for (stream, fields) in messages {
            let adding = pipeline.cmd("XADD").arg(stream).arg("*");
            for (name, value) in fields {
                adding.arg(name).arg(value);
            }
        }
        pipeline.query(&mut self.0)
    }

    /// All entries of a stream.
    #[track_caller]
    pub fn entries(&mut self, stream: &str) -> Vec<Entry> {
        let rows: Vec<(String, Vec<Vec<u8>>)> = self.ask(&format!("XRANGE {stream} - +"));
        let fields = |values: Vec<Vec<u8>>| {
            values.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        };
        rows.into_iter().map(|(id, values)| Entry { id, fields: fields(values) }).collect()
    }

    /// The first value of a field, in each entry of a stream.
    #[track_caller]
    pub fn column(&mut self, stream: &str, field: &str) -> Vec<String> {
        self.entries(stream).iter().map(|entry| entry.get(field)).collect()
    }

    #[track_caller]
    pub fn length(&mut self, stream: &str) -> usize {
        self.ask(&format!("XLEN {stream}"))
    }

    #[track_caller]
    pub fn exists(&mut self, key: &str) -> bool {
        self.ask(&format!("EXISTS {key}"))
    }

    /// How many entries a group has read and not settled; none while there is no such group.
    pub fn pending(&mut self, stream: &str, group: &str) -> usize {
        let line = format!("XPENDING {stream} {group}");
        let answer: redis::RedisResult<Vec<Value>> = self.attempt(&line);
        match answer {
            Ok(summary) => FromRedisValue::from_redis_value(summary[0].clone()).unwrap(),
            Err(_) => 0,
        }
    }

    /// Who holds which entries of a group: consumer and id, at most a thousand.
    #[track_caller]
    pub fn holders(&mut self, stream: &str, group: &str) -> Vec<(String, String)> {
        let rows: Vec<(String, String, i64, i64)> =
            self.ask(&format!("XPENDING {stream} {group} - + 1000"));
        rows.into_iter().map(|(id, consumer, ..)| (consumer, id)).collect()
    }

    /// The consumers of a group, by name.
    pub fn consumers(&mut self, stream: &str, group: &str) -> Vec<String> {
        type Rows = Vec<std::collections::HashMap<String, Value>>;
        let rows: redis::RedisResult<Rows> =
            self.attempt(&format!("XINFO CONSUMERS {stream} {group}"));
        let name = |row: &std::collections::HashMap<String, Value>| {
            FromRedisValue::from_redis_value(row["name"].clone()).unwrap()
        };
        rows.unwrap_or_default().iter().map(name).collect()
    }

    pub fn has_group(&mut self, stream: &str, group: &str) -> bool {
        self.attempt::<Value>(&format!("XPENDING {stream} {group}")).is_ok()
    }

    /// Entries of the stream that the group has not read.
    #[track_caller]
    pub fn unread(&mut self, stream: &str, group: &str) -> usize {
        type Rows = Vec<std::collections::HashMap<String, Value>>;
        let rows: Rows = self.ask(&format!("XINFO GROUPS {stream}"));
        let text = |value: &Value| String::from_redis_value(value.clone()).unwrap();
        let row = rows.iter().find(|row| text(&row["name"]) == group).unwrap();
        let last = text(&row["last-delivered-id"]);
        self.ask::<Vec<Value>>(&format!("XRANGE {stream} ({last} +")).len()
    }

    /// Whether a group has read all of a stream. Cheap also when there is much left, by its lag.
    #[track_caller]
    pub fn is_read(&mut self, stream: &str, group: &str) -> bool {
        type Rows = Vec<std::collections::HashMap<String, Value>>;
        let rows: Rows = self.ask(&format!("XINFO GROUPS {stream}"));
        let row = rows.iter().find(|row| {
            String::from_redis_value(row["name"].clone()).is_ok_and(|name| name == group)
        });
        row.is_some_and(|row| row.get("lag") == Some(&Value::Int(0)))
    }

    /// Waits until a group has nothing left to read and nothing pending.
    #[track_caller]
    pub fn wait_settled(&mut self, stream: &str, group: &str) {
        eventually(&format!("all of `{stream}` is settled by `{group}`"), || {
            self.has_group(stream, group)
                // In this order: what was unread a moment ago may be pending now.
                && self.unread(stream, group) == 0
                && self.pending(stream, group) == 0
        });
    }

    /// Waits until a stream is at least this long, and gives its entries.
    #[track_caller]
    pub fn wait_for(&mut self, count: usize, stream: &str) -> Vec<Entry> {
        eventually(&format!("{count} entries on `{stream}`"), || self.length(stream) >= count);
        self.entries(stream)
    }

    /// Waits until a stream has its first entry, and gives it.
    #[track_caller]
    pub fn wait_first(&mut self, stream: &str) -> Entry {
        self.wait_for(1, stream).remove(0)
    }

    /// How many connections are blocked in a read of a group.
    #[track_caller]
    pub fn readers(&mut self) -> usize {
        self.blocked_readers().len()
    }

    /// Whether the host of this name is blocked in a read of a group.
    #[track_caller]
    pub fn reads(&mut self, host: &str) -> bool {
        let name = format!(" name=tidegate:{host} ");
        self.blocked_readers().iter().any(|line| line.contains(&name))
    }

    #[track_caller]
    fn blocked_readers(&mut self) -> Vec<String> {
        let clients: String = self.ask("CLIENT LIST");
        let is_blocked = |line: &str| {
            let flags = line.split(" flags=").nth(1).and_then(|rest| rest.split(' ').next());
            flags.is_some_and(|flags| flags.contains('b'))
        };
        let reads = |line: &&str| is_blocked(line) && line.contains(" cmd=xreadgroup ");
        clients.lines().filter(reads).map(str::to_owned).collect()
    }

    /// Ends every other connection, as the server sees them. Gives how many there were.
    pub fn kill_others(&mut self) -> usize {
        self.ask("CLIENT KILL TYPE normal SKIPME yes")
    }

    /// Listens to a channel; the answer gives the next payload.
    #[track_caller]
    pub fn subscribe(mut self, channel: &str) -> Subscriber {
        self.0
            .send_packed_command(&redis::cmd("SUBSCRIBE").arg(channel).get_packed_command())
            .unwrap();
        let _confirmation: Value = self.0.recv_response().unwrap();
        self.0.set_read_timeout(Some(super::DEADLINE)).unwrap();
        Subscriber(self.0)
    }
}

/// A connection that only listens.
pub struct Subscriber(redis::Connection);

impl Subscriber {
    /// The next payload on the channel.
    #[track_caller]
    pub fn next(&mut self) -> Vec<u8> {
        let message: Value = self.0.recv_response().unwrap();
        let (_, _, payload): (String, String, Vec<u8>) =
            FromRedisValue::from_redis_value(message).unwrap();
        payload
    }
}
