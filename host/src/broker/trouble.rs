//! What an error from Redis means for the host.
//!
//! The crate's own classes say whether a connection is usable; what a host has
//! to do also depends on the reply's code, the first word of the server's error.

use redis::{ErrorKind, RedisError};

/// The code of the errors that we give ourselves to requests whose server was replaced meanwhile.
pub(super) const DEPOSED: &str = "DEPOSED";

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is gone or answers no more: connect again.
    Unreachable,
    /// The server is starting, failing over or busy: wait, keep the connection.
    NotReady,
    /// The server is a replica now: connect again, perhaps elsewhere.
    Demoted,
    /// The server refuses writes for now (`OOM`, `MISCONF`, `NOREPLICAS`): wait.
    Unwritable,
    /// The credentials are wrong, or are being rotated: everything waits.
    Refused,
    /// The user may not run a command, or touch a key: a person must act.
    Forbidden,
    /// A key is not of the type it should be: a person must act.
    WrongType,
    /// A key of Tidegate's own is not of the type it should be: a person must act, and no message is to blame.
    OddKey,
    /// The key's slot is on another node of a cluster, or on its way there: wait until it is back.
    Elsewhere,
    /// The group, or the stream with it, is gone: create it again.
    GroupGone,
    /// The server forgot our scripts: load them again.
    ScriptsGone,
    /// The server does not know a command or one of its options: do without.
    Incapable,
    /// Anything else: the request itself was refused.
    Other,
}

impl Trouble {
    /// The word for it in figures.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NotReady => "not-ready",
            Self::Demoted => "demoted",
            Self::Unwritable => "unwritable",
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
            Self::WrongType => "wrong-type",
            Self::OddKey => "odd-key",
            Self::Elsewhere => "elsewhere",
            Self::GroupGone => "group-gone",
            Self::ScriptsGone => "scripts-gone",
            Self::Incapable => "incapable",
            Self::Other => "other",
        }
    }

    pub(super) fn of(error: &RedisError) -> Self {
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Self::Refused;
        }
        if error.kind() == ErrorKind::MasterNameNotFoundBySentinel {
            return Self::Unreachable;
        }
        if error.is_io_error() || error.is_unrecoverable_error() {
            return Self::Unreachable;
        }
        Self::of_reply(error.code().unwrap_or_default(), &error.to_string())
    }

    fn of_reply(code: &str, text: &str) -> Self {
        match code {
            "ERR" if text.contains("no such key") => Some(Self::GroupGone),
            "ERR" if is_incapable(text) => Some(Self::Incapable),
            // What 6.2 says inside a script where elsewhere it says NOPERM.
            "ERR" if text.contains("user executing the script can't") => Some(Self::Forbidden),
            // Before 7.0 an error inside a script came wrapped, its code in the text.
            "ERR" => text.split([' ', ':', '-']).map(Self::of_code).find(|t| *t != Self::Other),
            "UNBLOCKED" if text.contains("replica") => Some(Self::Demoted),
            // Somebody's CLIENT UNBLOCK … ERROR; nothing is wrong with the stream.
            "UNBLOCKED" if text.contains("CLIENT UNBLOCK") => Some(Self::NotReady),
            code => Some(Self::of_code(code)),
        }
        .unwrap_or(Self::Other)
    }

    fn of_code(code: &str) -> Self {
        match code {
            "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => Self::NotReady,
            "READONLY" | DEPOSED => Self::Demoted,
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::Unwritable,
            "NOAUTH" | "WRONGPASS" => Self::Refused,
            "NOPERM" => Self::Forbidden,
            "WRONGTYPE" => Self::WrongType,
            // What our own scripts say (kinds.lua).
            "ODDKEY" => Self::OddKey,
            "MOVED" | "ASK" => Self::Elsewhere,
            "NOGROUP" | "UNBLOCKED" => Self::GroupGone,
            "NOSCRIPT" => Self::ScriptsGone,
            _ => Self::Other,
        }
    }

    /// Whether the same request may succeed later without anyone changing it.
    pub(super) fn passes(self) -> bool {
        match self {
            Self::Unreachable
            | Self::NotReady
            | Self::Demoted
            | Self::Unwritable
            | Self::Refused
            | Self::Elsewhere
            | Self::ScriptsGone => true,
            Self::Forbidden
            | Self::WrongType
            | Self::OddKey
            | Self::GroupGone
            | Self::Incapable
            | Self::Other => false,
        }
    }

    /// Whether it says nothing of requests other than the one that was refused.
    pub(super) fn is_of_one_request(self) -> bool {
        match self {
            Self::Refused
            | Self::Forbidden
            | Self::WrongType
            | Self::OddKey
            | Self::Elsewhere
            | Self::ScriptsGone
            | Self::Incapable
            | Self::Other => true,
            Self::Unreachable
            | Self::NotReady
            | Self::Demoted
            | Self::Unwritable
            | Self::GroupGone => false,
        }
    }

    /// Whether the connection that gave the error is of no more use.
    pub(super) fn ends_connection(self) -> bool {
        match self {
            Self::Unreachable | Self::Demoted => true,
            Self::NotReady
            | Self::Unwritable
            | Self::Refused
            | Self::Forbidden
            | Self::WrongType
            | Self::OddKey
            | Self::Elsewhere
            | Self::GroupGone
            | Self::ScriptsGone
            | Self::Incapable
            | Self::Other => false,
        }
    }

    /// Whether the server does not let this user in, or not do this: credentials and rights are a person's to mend.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::Refused | Self::Forbidden)
    }
}

/// Whether a server says that it does not know a command, or one of its options.
fn is_incapable(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["unknown command", "unknown redis command", "syntax error"].iter().any(|s| text.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(reply: &str) -> Trouble {
        let (code, detail) = reply.split_once(' ').unwrap();
        Trouble::of(&redis::make_extension_error(code.into(), Some(detail.into())))
    }

    #[test]
    fn each_reply_of_a_server_in_distress_has_its_meaning() {
        let cases = [
            ("LOADING Redis is loading the dataset in memory", Trouble::NotReady),
            ("BUSY Redis is busy running a script", Trouble::NotReady),
            ("READONLY You can't write against a read only replica.", Trouble::Demoted),
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
                Trouble::Demoted,
            ),
            ("UNBLOCKED the stream key no longer exists", Trouble::GroupGone),
            ("NOGROUP No such key 'a' or consumer group 'b'", Trouble::GroupGone),
            ("OOM command not allowed when used memory > 'maxmemory'.", Trouble::Unwritable),
            ("NOREPLICAS Not enough good replicas to write.", Trouble::Unwritable),
            ("MISCONF Redis is configured to save RDB snapshots", Trouble::Unwritable),
            ("WRONGPASS invalid username-password pair", Trouble::Refused),
            ("NOAUTH Authentication required.", Trouble::Refused),
            ("NOPERM this user has no permissions", Trouble::Forbidden),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Trouble::NotReady),
            ("ERR unknown command 'XACKDEL', with args beginning with: 's'", Trouble::Incapable),
            ("ERR syntax error", Trouble::Incapable),
            ("WRONGTYPE Operation against a key", Trouble::WrongType),
            ("ODDKEY tidegate:{a}:waiting:a:b is a string", Trouble::OddKey),
            ("MOVED 3999 127.0.0.1:6381", Trouble::Elsewhere),
            ("ASK 3999 127.0.0.1:6381", Trouble::Elsewhere),
        ];
        for (reply, meaning) in cases {
            assert_eq!(trouble(reply), meaning, "{reply}");
        }
    }

    #[test]
    fn an_error_wrapped_by_an_old_servers_script_is_still_known() {
        let wrapped = "ERR Error running script (call to f_0): @user_script:3: WRONGTYPE Operation";
        assert_eq!(trouble(wrapped), Trouble::WrongType);
        let wrapped =
            "ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed";
        assert_eq!(trouble(wrapped), Trouble::Unwritable);
        let wrapped = "ERR Error running script (call to f_0): @user_script:52: The user executing the script can't \
                       access at least one of the keys mentioned in the command arguments";
        assert_eq!(trouble(wrapped), Trouble::Forbidden);
        assert_eq!(trouble("ERR value is not an integer"), Trouble::Other);
    }

    #[test]
    fn a_stream_that_is_gone_took_its_group_along() {
        assert_eq!(trouble("ERR no such key"), Trouble::GroupGone);
    }
}
