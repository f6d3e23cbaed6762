//! What an error from Redis means for the host.
//!
//! The crate's own classes say whether a connection is usable; what a host has
//! to do also depends on the reply's code, the first word of the server's error.

use redis::RedisError;

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
    /// The credentials or their permissions are wrong: a person must act.
    Refused,
    /// A key is not of the type it should be: a person must act.
    WrongType,
    /// The group, or the stream with it, is gone: create it again.
    GroupGone,
    /// The server forgot our scripts: load them again.
    ScriptsGone,
    /// Anything else: the request itself was refused.
    Other,
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        if error.kind() == redis::ErrorKind::AuthenticationFailed {
            return Self::Refused;
        }
        if error.is_io_error() || error.is_unrecoverable_error() {
            return Self::Unreachable;
        }
        Self::of_reply(error.code().unwrap_or_default(), &error.to_string())
    }

    fn of_reply(code: &str, text: &str) -> Self {
        match code {
            // Before 7.0 an error inside a script came wrapped, its code in the text.
            "ERR" if text.contains("no such key") => Some(Self::GroupGone),
            "ERR" => text.split([' ', ':', '-']).map(Self::of_code).find(|t| *t != Self::Other),
            "UNBLOCKED" if text.contains("replica") => Some(Self::Demoted),
            code => Some(Self::of_code(code)),
        }
        .unwrap_or(Self::Other)
    }

    fn of_code(code: &str) -> Self {
        match code {
            "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => Self::NotReady,
            "READONLY" => Self::Demoted,
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::Unwritable,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Refused,
            "WRONGTYPE" => Self::WrongType,
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
            | Self::ScriptsGone => true,
            Self::WrongType | Self::GroupGone | Self::Other => false,
        }
    }

    /// Whether it says nothing of requests other than the one that was refused.
    pub(super) fn is_of_one_request(self) -> bool {
        match self {
            Self::Refused | Self::WrongType | Self::ScriptsGone | Self::Other => true,
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
            | Self::WrongType
            | Self::GroupGone
            | Self::ScriptsGone
            | Self::Other => false,
        }
    }
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
            ("NOPERM this user has no permissions", Trouble::Refused),
            ("WRONGTYPE Operation against a key", Trouble::WrongType),
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
        assert_eq!(trouble("ERR value is not an integer"), Trouble::Other);
    }

    #[test]
    fn a_stream_that_is_gone_took_its_group_along() {
        assert_eq!(trouble("ERR no such key"), Trouble::GroupGone);
    }
}
