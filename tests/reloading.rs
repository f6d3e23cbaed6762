//! A manifest that changes while a host runs: which handlers come, go and stay, and what becomes
//! of messages meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::{Entry, Host, Redis, Server, Setup, eventually, never, plugin, variant};

const HANDLER: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
"#;

const OTHER: &str = r#"
[handler.other]
plugin = "probe.wasm"
stream = "more"
outputs = ["other"]
"#;

/// A host, the server it works on, and the folder where its manifest is.
struct Stage {
    host: Host,
    redis: Redis,
    setup: Setup,
    server: Server,
}

impl Stage {
    #[track_caller]
    fn new(manifest: &str) -> Self {
        let server = Server::start();
        let setup = Setup::new(&server, manifest);
        Self::of(server, setup)
    }

    #[track_caller]
    fn of(server: Server, setup: Setup) -> Self {
        let (host, mut redis) = (setup.start(), server.client());
        eventually("the handler is at work", || redis.sign("in", "h")["plugin"].is_string());
        Self { host, redis, setup, server }
    }

    /// Has the manifest say this from now on.
    fn rewrite(&self, manifest: &str) {
        let manifest = format!("[redis]\nurl = \"{}\"\n\n{manifest}", self.server.url());
        let beside = self.setup.folder().join("tidegate.toml.new");
        fs::write(&beside, manifest).unwrap();
        fs::rename(&beside, self.setup.folder().join("tidegate.toml")).unwrap();
    }

    /// Why the manifest is not in force.
    fn refusal(&mut self) -> Option<String> {
        self.redis.sign("in", "h")["manifest-refused"].as_str().map(str::to_owned)
    }

    #[track_caller]
    fn wait_refused(&mut self, part: &str) {
        eventually(&format!("a refusal that says {part:?}"), || {
            self.refusal().is_some_and(|why| why.contains(part))
        });
    }

    fn is_at_work(&mut self, stream: &str, handler: &str) -> bool {
        !self.redis.sign(stream, handler).is_null()
    }

    /// Sends the handler a message, and gives what it emits.
    #[track_caller]
    fn try_out(&mut self, fields: &[(&str, &str)]) -> Entry {
        let id = self.redis.add("in", &[fields, &[("emit", "out")]].concat());
        let mut found = None;
        eventually("the message is handled", || {
            let out = self.redis.entries("out");
            found = out.into_iter().find(|entry| entry.get("id") == id);
            found.is_some()
        });
        found.unwrap()
    }
}

#[test]
fn handlers_come_and_go_and_change_while_another_is_in_the_middle_of_a_message() {
    let mut stage = Stage::new(HANDLER);
    stage.redis.add("in", &[("sleep-ms", "12000"), ("emit", "out-slow")]);
    eventually("it is in hand", || stage.redis.pending("in", "h") == 1);
    let held = stage.redis.sign("in", "h");

    stage.rewrite(&format!("{HANDLER}{OTHER}"));
    stage.redis.add("more", &[("emit", "other")]);
    assert_eq!(stage.redis.wait_first("other").get("attempt"), "1");

    stage.rewrite(&format!("{HANDLER}{}", OTHER.replace("[\"other\"]", "[\"changed\"]")));
    eventually("the change is in force", || {
        stage.redis.add("more", &[("emit", "changed")]);
        stage.redis.length("changed") > 0
    });

    stage.rewrite(HANDLER);
    eventually("it is gone", || !stage.is_at_work("more", "other"));
    stage.redis.add("more", &[("emit", "changed")]);
    never(Duration::from_millis(300), "who is gone reads on", || {
        stage.redis.unread("more", "other") == 0
    });

    assert_eq!(stage.redis.length("out-slow"), 0, "the slow one is still in flight");
    assert_eq!(stage.redis.sign("in", "h")["token"], held["token"], "its handler never stopped");
    assert_eq!(stage.redis.wait_first("out-slow").get("attempt"), "1");
    stage.redis.wait_settled("in", "h");
    assert_eq!(stage.redis.length("out-slow"), 1);
}

#[test]
fn a_changed_handler_finishes_what_is_in_hand_as_it_was() {
    let mut stage = Stage::new(&format!("{HANDLER}env = {{ WHO = \"before\" }}\n"));
    let slow = [("sleep-ms", "2500"), ("env", "WHO"), ("emit", "out")];
    stage.redis.add("in", &slow);
    eventually("it is in hand", || stage.redis.pending("in", "h") == 1);
    stage.rewrite(&format!("{HANDLER}env = {{ WHO = \"after\" }}\n"));
    let first = stage.redis.wait_first("out");
    assert_eq!((first.get("env"), first.get("attempt")), ("before".into(), "1".into()));
    eventually("the change is in force", || {
        stage.try_out(&[("env", "WHO")]).find("env").as_deref() == Some("after")
    });
    let figures = stage.redis.sign("in", "h");
    assert!(figures["handled"].as_u64().unwrap() >= 1, "what it counted goes on: {figures}");
}

#[test]
fn a_handler_that_takes_long_to_end_holds_up_no_swap_of_another() {
    let mut stage = Stage::new(&format!("{HANDLER}{OTHER}"));
    stage.redis.add("more", &[("sleep-ms", "12000"), ("emit", "other")]);
    eventually("it is in hand", || stage.redis.pending("more", "other") == 1);
    stage.rewrite(HANDLER);
    eventually("it reads no more", || stage.redis.readers() == 1);
    let next = variant(&plugin("probe"), 2);
    let file = stage.setup.folder().join("next.wasm");
    fs::write(&file, &next).unwrap();
    fs::rename(&file, stage.setup.folder().join("probe.wasm")).unwrap();
    let expected = tidegate::manifest::Digest::of(&next).to_string();
    eventually("the plugin is at work", || stage.redis.sign("in", "h")["plugin"] == expected);
    assert_eq!(stage.redis.length("other"), 0, "the slow one is still in flight");
    assert_eq!(stage.redis.wait_first("other").get("attempt"), "1");
}

#[test]
fn a_bad_manifest_changes_nothing_and_status_says_why() {
    let mut stage = Stage::new(HANDLER);
    stage.rewrite(&format!("{}{OTHER}colour = \"blue\"\n", HANDLER.replace("out*", "none")));
    stage.wait_refused("unknown key");
    assert!(!stage.is_at_work("more", "other"));
    stage.try_out(&[]);
    let asking = Setup::new(&stage.server, HANDLER).command(&["status"]);
    let table = asking.finish().expect(0).stdout;
    assert!(table.contains("new manifest refused") && table.contains("colour"), "{table}");

    let told = |stage: &Stage| stage.host.log().matches("the manifest is not taken up").count();
    never(Duration::from_secs(3), "it is told of again", || told(&stage) != 1);

    stage.rewrite("no manifest at all");
    stage.wait_refused("tidegate.toml");
    fs::remove_file(stage.setup.folder().join("tidegate.toml")).unwrap();
    stage.wait_refused("cannot read");
    stage.try_out(&[]);
    stage.rewrite(&format!("{HANDLER}{OTHER}"));
    eventually("the good one is in force", || stage.is_at_work("more", "other"));
    eventually("nothing is wrong", || stage.refusal().is_none());
}

#[test]
fn a_manifest_with_a_bad_plugin_changes_nothing() {
    let mut stage = Stage::new(HANDLER);
    fs::write(stage.setup.folder().join("bad.wasm"), plugin("start-trap")).unwrap();
    let bad = OTHER.replace("probe.wasm", "bad.wasm");
    stage.rewrite(&format!("{}{bad}", HANDLER.replace("out*", "none")));
    stage.wait_refused("handler.other.plugin");
    stage.try_out(&[]);
    // That the plugin is mended is not noticed, as nobody uses it yet; a signal tells.
    fs::write(stage.setup.folder().join("bad.wasm"), plugin("probe")).unwrap();
    stage.host.signal("HUP");
    eventually("it is in force", || stage.is_at_work("more", "other"));
    eventually("nothing is wrong", || stage.refusal().is_none());
}

#[test]
fn a_handler_that_cannot_be_put_to_work_as_changed_goes_on_as_it_was() {
    let mut stage = Stage::new(HANDLER);
    stage.redis.tell("SET text x");
    let spoilt = HANDLER.replace("\"in\"", "\"text\"");
    stage.rewrite(&format!("{spoilt}{OTHER}"));
    stage.wait_refused("handler.h");
    stage.try_out(&[]);
    eventually("the rest is in force", || stage.is_at_work("more", "other"));
    stage.redis.tell("DEL text");
    stage.host.signal("HUP");
    eventually("it is where it should be, alone", || !stage.is_at_work("in", "h"));
    stage.redis.add("text", &[("emit", "out")]);
    stage.redis.wait_settled("text", "h");
}

#[test]
fn a_hangup_reads_the_manifest_again_and_ends_nothing() {
    let server = Server::start();
    let lines = "env = { WHO = \"${file:who}\" }\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("who");
    fs::write(&file, "before").unwrap();
    let lines = lines.replace("who}", &format!("{}}}", file.display()));
    let setup = Setup::new(&server, &format!("{HANDLER}{lines}"));
    let mut stage = Stage::of(server, setup);
    assert_eq!(stage.try_out(&[("env", "WHO")]).get("env"), "before");
    fs::write(&file, "after").unwrap();
    stage.host.signal("HUP");
    eventually("what the manifest refers to is read again", || {
        stage.try_out(&[("env", "WHO")]).get("env") == "after"
    });
    stage.host.signal("HUP");
    stage.try_out(&[]);
    assert!(stage.host.is_running());
}

#[test]
fn a_hangup_before_there_is_a_redis_ends_nothing() {
    let setup = Setup::at("unix:///nowhere/at/all.sock", HANDLER);
    let mut host = setup.start();
    eventually("it waits for Redis", || host.log().contains("trying again"));
    host.signal("HUP");
    never(Duration::from_millis(500), "it ended", || !host.is_running());
    host.stop();
}

#[test]
fn what_changes_under_redis_and_host_waits_for_the_next_start() {
    let mut stage = Stage::new(HANDLER);
    stage.rewrite(&format!("[host]\nname = \"another\"\n\n{HANDLER}{OTHER}"));
    eventually("its handlers are in force", || stage.is_at_work("more", "other"));
    eventually("it is said", || stage.host.log().contains("[host] takes effect at the next start"));
    assert!(!stage.redis.exists("tidegate:{more}:live:more:other:another"));
    stage.try_out(&[]);
}

#[test]
fn a_handler_may_come_back_with_more_room_than_the_host_was_started_with() {
    let mut stage = Stage::new(&format!("{HANDLER}concurrency = 1\n"));
    let wide = format!("{HANDLER}concurrency = 64\nmemory = \"128MiB\"\n");
    stage.rewrite(&wide);
    eventually("it is in force", || stage.host.log().contains("the manifest was taken up"));
    let started = Instant::now();
    stage.redis.add_many(64, "in", &[("sleep-ms", "2000"), ("emit", "out")]);
    stage.redis.wait_for(64, "out");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // A swap takes place in there as well.
    let next = variant(&plugin("probe"), 2);
    let file = stage.setup.folder().join("next.wasm");
    fs::write(&file, &next).unwrap();
    fs::rename(&file, stage.setup.folder().join("probe.wasm")).unwrap();
    let expected = tidegate::manifest::Digest::of(&next).to_string();
    eventually("the plugin is at work", || stage.redis.sign("in", "h")["plugin"] == expected);
    stage.try_out(&[]);
}

#[test]
fn an_ordered_handler_that_is_changed_keeps_the_order() {
    let ordered = format!("{HANDLER}order-by = \"key\"\nshards = 2\n");
    let mut stage = Stage::new(&ordered);
    let mut sent = Vec::new();
    let publish = |stage: &Stage, number: usize| {
        let payload = format!("data={number}");
        let line = ["publish", "in", "key=k", "emit=out", &payload];
        Setup::new(&stage.server, &ordered).command(&line).finish().expect(0);
    };
    for number in 0..12 {
        if number == 4 {
            stage.rewrite(&format!("{ordered}timeout = \"20s\"\n"));
        }
        publish(&stage, number);
        sent.push(number.to_string());
    }
    eventually("the change is in force", || stage.host.log().contains("the manifest was taken up"));
    publish(&stage, 12);
    sent.push("12".to_owned());
    stage.redis.wait_for(13, "out");
    assert_eq!(stage.redis.column("out", "data"), sent);
}

#[test]
fn a_broadcast_handler_that_is_changed_sees_every_message_once() {
    let broadcast = format!("{HANDLER}delivery = \"broadcast\"\n");
    let mut stage = Stage::new(&broadcast);
    let mut ids = stage.redis.add_many(20, "in", &[("emit", "out")]);
    stage.rewrite(&format!("{broadcast}timeout = \"20s\"\n"));
    ids.extend(stage.redis.add_many(20, "in", &[("emit", "out")]));
    eventually("the change is in force", || stage.host.log().contains("the manifest was taken up"));
    ids.extend(stage.redis.add_many(20, "in", &[("emit", "out")]));
    stage.redis.wait_for(60, "out");
    let mut seen = stage.redis.column("out", "id");
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
}

#[test]
fn outputs_find_the_shards_of_a_handler_that_came_later() {
    let mut stage = Stage::new(HANDLER);
    let sharded = r#"
[handler.sharded]
plugin = "probe.wasm"
stream = "out-sharded"
order-by = "data"
shards = 2
outputs = ["done"]
"#;
    stage.rewrite(&format!("{HANDLER}{sharded}"));
    eventually("it is at work", || stage.is_at_work("out-sharded", "sharded"));
    stage.redis.add("in", &[("data", "x"), ("emit", "out-sharded")]);
    let shards = ["out-sharded:{0}", "out-sharded:{1}"];
    eventually("the output is on a shard", || {
        shards.iter().any(|shard| stage.redis.length(shard) == 1)
    });
    assert_eq!(stage.redis.length("out-sharded"), 0);
}
