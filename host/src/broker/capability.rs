//! What a server can do beyond what every one since 6.2 can: probed at each connect, never told by a version.
//!
//! An option that a server does not know is refused before its key is looked
//! at, so each is tried on a key that does not exist. What is lost later, as when
//! a failover lands on an older server, is noticed where it is used.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use redis::{Cmd, Pipeline, RedisResult, Value};

use super::trouble::Trouble;

/// A key that nobody makes.
const NOBODYS: &str = "tidegate:{probe}:none";

/// Something that only some servers can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ability {
    /// `XACKDEL … ACKED`: acknowledge, and remove what every group has acknowledged.
    AckDelete,
    /// `XTRIM … ACKED`: trim no more than every group has acknowledged.
    TrimAcked,
    /// `XREADGROUP … CLAIM`: new and idle pending entries in one read.
    ReadClaim,
    /// `XREADGROUP … MAXSIZE`: a reply of so many bytes.
    ReadSize,
    /// `XADD … IDMP`: the server drops a repeated append.
    Idempotent,
    /// `XNACK`: give an entry back.
    GiveBack,
    /// `XAUTOCLAIM`: take over idle pending entries.
    AutoClaim,
    /// `WAITAOF`: wait for the server's disk.
    WaitAof,
}

impl Ability {
    pub(super) const ALL: [Self; 8] = [
        Self::AckDelete,
        Self::TrimAcked,
        Self::ReadClaim,
        Self::ReadSize,
        Self::Idempotent,
        Self::GiveBack,
        Self::AutoClaim,
        Self::WaitAof,
    ];

    /// How the server's documentation calls it.
    fn name(self) -> &'static str {
        match self {
            Self::AckDelete => "XACKDEL",
            Self::TrimAcked => "XTRIM ACKED",
            Self::ReadClaim => "XREADGROUP CLAIM",
            Self::ReadSize => "XREADGROUP MAXSIZE",
            Self::Idempotent => "XADD IDMP",
            Self::GiveBack => "XNACK",
            Self::AutoClaim => "XAUTOCLAIM",
            Self::WaitAof => "WAITAOF",
        }
    }

    /// What does the job: of the first three where it is missing, of the others everywhere.
    fn instead(self) -> &'static str {
        match self {
            Self::AckDelete => "XACK, and a sweep that trims what every group has acknowledged",
            Self::ReadSize => "COUNT by the mean size of an entry",
            Self::WaitAof => "nothing: durability = \"aof\" is refused",
            Self::TrimAcked => "a script that looks at every group in the step in which it trims",
            Self::ReadClaim | Self::AutoClaim => {
                "signs of life, and a script that checks the owner"
            }
            Self::Idempotent => "a script that checks that the message is still pending",
            Self::GiveBack => "the sign of life, taken down at a stop",
        }
    }

    /// A command without effect that tells whether it is there.
    fn probe(self) -> Cmd {
        let words: &[&str] = match self {
            Self::AckDelete => &["XACKDEL", NOBODYS, "g", "ACKED", "IDS", "1", "1-1"],
            // So long a stream cannot be: even on one that exists nothing would go.
            Self::TrimAcked => &["XTRIM", NOBODYS, "MAXLEN", "=", "9000000000000000000", "ACKED"],
            Self::ReadClaim => &reading("CLAIM", "1000"),
            Self::ReadSize => &reading("MAXSIZE", "1"),
            Self::Idempotent => &["XADD", NOBODYS, "NOMKSTREAM", "IDMP", "p", "i", "*", "f", "v"],
            Self::GiveBack => &["XNACK", NOBODYS, "g", "SILENT", "IDS", "1", "1-1"],
            Self::AutoClaim => &["XAUTOCLAIM", NOBODYS, "g", "c", "0", "0"],
            Self::WaitAof => &["WAITAOF", "0", "0", "0"],
        };
        let mut command = Cmd::new();
        command.arg(words);
        command
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

fn reading(option: &'static str, value: &'static str) -> [&'static str; 11] {
    ["XREADGROUP", "GROUP", "g", "c", "COUNT", "1", option, value, "STREAMS", NOBODYS, ">"]
}

/// What the answer to a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    There,
    Missing,
    /// This user may not.
    Forbidden,
    /// The server could not say, as it takes no writes now: as before, and done without at first.
    Unclear,
}

fn verdict(answer: &RedisResult<Value>) -> Verdict {
    let Err(error) = answer else { return Verdict::There };
    match Trouble::of(error) {
        // The syntax was taken; there is no such stream, or it would be on another node.
        Trouble::GroupGone | Trouble::Elsewhere => Verdict::There,
        Trouble::Incapable => Verdict::Missing,
        // An option that is not known is taken for the id that should stand there.
        Trouble::Other if error.to_string().contains("Invalid stream ID") => Verdict::Missing,
        Trouble::Refused | Trouble::Forbidden => Verdict::Forbidden,
        Trouble::Unreachable
        | Trouble::NotReady
        | Trouble::Demoted
        | Trouble::Unwritable
        | Trouble::WrongType
        | Trouble::OddKey
        | Trouble::ScriptsGone
        | Trouble::Other => Verdict::Unclear,
    }
}

/// What one server told when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Its name and version, as far as it tells them.
    server: String,
    verdicts: Vec<(Ability, Verdict)>,
    /// What it removes when its memory is full (`maxmemory-policy`).
    pub policy: Option<String>,
}

impl Survey {
    /// What is asked: each ability in its order, then two sections of `INFO`.
    pub(super) fn questions() -> Pipeline {
        let mut asking = redis::pipe();
        for ability in Ability::ALL {
            asking.add_command(ability.probe());
        }
        asking.cmd("INFO").arg("server").cmd("INFO").arg("memory").ignore_errors();
        asking
    }

    pub(super) fn read(answers: &[RedisResult<Value>]) -> Self {
        let mut verdicts: Vec<_> =
            Ability::ALL.into_iter().zip(answers.iter().map(verdict)).collect();
        let told = |at: usize| match answers.get(Ability::ALL.len() + at) {
            Some(Ok(Value::BulkString(text))) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let (server, memory) = (told(0), told(1));
        // Before 8.2.3 it overflows the server's stack (CVE-2025-62507).
        let is_unsafe =
            ["8.2.0", "8.2.1", "8.2.2"].map(Some).contains(&line(&server, "redis_version"))
                && line(&server, "valkey_version").is_none();
        for (ability, verdict) in &mut verdicts {
            if is_unsafe && *ability == Ability::AckDelete {
                *verdict = Verdict::Missing;
            }
        }
        let named = match (line(&server, "valkey_version"), line(&server, "redis_version")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => "unknown".to_owned(),
        };
        let policy = line(&memory, "maxmemory_policy").map(str::to_owned);
        Self { server: named, verdicts, policy }
    }

    fn bits(&self) -> u32 {
        let there = self.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::There);
        there.fold(0, |bits, (ability, _)| bits | ability.bit())
    }

    fn names(&self, wanted: Verdict) -> String {
        let those = self.verdicts.iter().filter(|(_, verdict)| *verdict == wanted);
        those.map(|(ability, _)| ability.name()).collect::<Vec<_>>().join(", ")
    }

    fn tell(&self) {
        let (server, able) = (&self.server, self.names(Verdict::There));
        tracing::info!(server, able, "the server's abilities");
        let forbidden = self.names(Verdict::Forbidden);
        if !forbidden.is_empty() {
            tracing::info!(
                forbidden,
                "this user may not use all that the server can do; going without"
            );
        }
        for (ability, _) in self.verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::There) {
            tracing::debug!(missing = ability.name(), instead = ability.instead(), "doing without");
        }
    }
}

/// Where the value of a line of `INFO` stands.
fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// What the server at the other end of the shared connection can do.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    bits: AtomicU32,
    survey: Mutex<Survey>,
}

impl Abilities {
    /// Takes in what a server told; a line in the log says so where it is news.
    pub(super) fn learn(&self, mut survey: Survey) {
        let mut known = self.survey.lock().unwrap_or_else(PoisonError::into_inner);
        for ((_, verdict), (_, before)) in survey.verdicts.iter_mut().zip(&known.verdicts) {
            if *verdict == Verdict::Unclear {
                *verdict = *before;
            }
        }
        self.bits.store(survey.bits(), Ordering::Relaxed);
        if *known != survey {
            survey.tell();
            *known = survey;
        }
    }

    pub(super) fn has(&self, ability: Ability) -> bool {
        self.bits.load(Ordering::Relaxed) & ability.bit() != 0
    }

    /// Does without an ability until the next connection, as it just turned out not to be there.
    pub(super) fn lose(&self, ability: Ability) {
        let before = self.bits.fetch_and(!ability.bit(), Ordering::Relaxed);
        if before & ability.bit() != 0 {
            tracing::warn!(
                ability = ability.name(),
                instead = ability.instead(),
                "the server does not take this any more; doing without"
            );
        }
    }

    /// What the server removes when its memory is full.
    pub(super) fn policy(&self) -> Option<String> {
        self.survey.lock().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reply: &str) -> RedisResult<Value> {
        let (code, detail) = reply.split_once(' ').unwrap();
        Err(redis::make_extension_error(code.into(), Some(detail.into())))
    }

    fn info(text: &str) -> RedisResult<Value> {
        Ok(Value::BulkString(text.as_bytes().to_vec()))
    }

    #[test]
    fn what_servers_really_answer_to_a_probe_is_understood() {
        let missing = [
            "ERR syntax error",
            "ERR Invalid stream ID specified as stream command argument",
            "ERR unknown command `XACKDEL`, with args beginning with: `P`, `g`, `ACKED`, ",
            "ERR unknown command 'WAITAOF', with args beginning with: '0' '0' '0' ",
        ];
        for reply in missing {
            assert_eq!(verdict(&refused(reply)), Verdict::Missing, "{reply}");
        }
        let there = [
            refused("NOGROUP No such key 'P' or consumer group 'g'"),
            Ok(Value::Array(vec![Value::Int(-1)])),
            Ok(Value::Int(0)),
            Ok(Value::Nil),
        ];
        for answer in there {
            assert_eq!(verdict(&answer), Verdict::There, "{answer:?}");
        }
        for reply in [
            "NOPERM this user has no permissions to run the 'xackdel' command or its subcommand",
            "NOPERM User app has no permissions to run the 'waitaof' command",
        ] {
            assert_eq!(verdict(&refused(reply)), Verdict::Forbidden, "{reply}");
        }
        for reply in
            ["READONLY You can't write against a read only replica.", "OOM command not allowed"]
        {
            assert_eq!(verdict(&refused(reply)), Verdict::Unclear, "{reply}");
        }
    }

    /// The answers of a server that can do everything, with this `INFO server`.
    fn able(server: &str) -> Vec<RedisResult<Value>> {
        let mut answers: Vec<_> = Ability::ALL.iter().map(|_| Ok(Value::Nil)).collect();
        answers.extend([info(server), info("# Memory\r\nmaxmemory_policy:allkeys-lru\r\n")]);
        answers
    }

    #[test]
    fn a_server_whose_xackdel_is_unsafe_is_taken_to_have_none() {
        for (server, safe) in [
            ("redis_version:8.2.2\r\n", false),
            ("redis_version:8.2.3\r\n", true),
            ("redis_version:8.2.20\r\n", true),
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.2.0\r\n", true),
        ] {
            let abilities = Abilities::default();
            abilities.learn(Survey::read(&able(server)));
            assert_eq!(abilities.has(Ability::AckDelete), safe, "{server}");
            assert!(abilities.has(Ability::WaitAof));
            assert_eq!(abilities.policy().as_deref(), Some("allkeys-lru"));
        }
    }

    #[test]
    fn what_is_lost_stays_lost_until_the_next_connection() {
        let abilities = Abilities::default();
        abilities.learn(Survey::read(&able("redis_version:8.10.1")));
        abilities.lose(Ability::ReadSize);
        assert!(!abilities.has(Ability::ReadSize) && abilities.has(Ability::AckDelete));
        abilities.learn(Survey::read(&able("redis_version:8.10.1")));
        assert!(abilities.has(Ability::ReadSize));
    }

    #[test]
    fn a_server_that_cannot_say_for_now_is_taken_to_be_as_before() {
        let abilities = Abilities::default();
        let unclear = || {
            let mut answers = able("redis_version:8.2.3");
            answers[0] = refused("READONLY You can't write against a read only replica.");
            Survey::read(&answers)
        };
        abilities.learn(unclear());
        assert!(!abilities.has(Ability::AckDelete));
        abilities.learn(Survey::read(&able("redis_version:8.2.3")));
        abilities.learn(unclear());
        assert!(abilities.has(Ability::AckDelete));
    }

    #[test]
    fn a_server_that_answers_nothing_can_do_nothing() {
        let survey = Survey::read(&[]);
        assert_eq!((survey.bits(), survey.server.as_str()), (0, "unknown"));
        assert_eq!(Survey::questions().cmd_iter().count(), Ability::ALL.len() + 2);
    }
}
