//! The scripts that keep a settlement, or an operation on keys, in one step. Each header says what it promises.

use std::sync::LazyLock;

use redis::{Cmd, RedisResult, Script};

use super::reign::Wire;

/// One of the scripts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lua {
    Settle,
    Park,
    Bury,
    Seal,
    Trim,
    Claim,
    Retire,
    Redrive,
    Delay,
    Promote,
    Register,
    Forget,
    Sign,
    Leave,
    Renew,
    Acquit,
    Release,
    Replay,
    Rate,
    Repeat,
    Disband,
    Lease,
    Yield,
    Members,
    Inherit,
    Read,
    Fetch,
    Remember,
    Recall,
    Keep,
    Discard,
    Swap,
    Consult,
}

/// The scripts as Redis is taught them, in the order of [`Lua::ALL`].
static SOURCES: LazyLock<Vec<String>> =
    LazyLock::new(|| Lua::ALL.iter().map(|lua| lua.prelude() + lua.body()).collect());

/// The hashes that Redis knows the scripts by, in the order of [`Lua::ALL`].
static HASHES: LazyLock<Vec<String>> = LazyLock::new(|| {
    Lua::ALL.iter().map(|lua| Script::new(lua.source()).get_hash().to_owned()).collect()
});

impl Lua {
    const ALL: &[Self] = &[
        Self::Settle,
        Self::Park,
        Self::Bury,
        Self::Seal,
        Self::Trim,
        Self::Claim,
        Self::Retire,
        Self::Redrive,
        Self::Delay,
        Self::Promote,
        Self::Register,
        Self::Forget,
        Self::Sign,
        Self::Leave,
        Self::Renew,
        Self::Acquit,
        Self::Release,
        Self::Replay,
        Self::Rate,
        Self::Repeat,
        Self::Disband,
        Self::Lease,
        Self::Yield,
        Self::Members,
        Self::Inherit,
        Self::Read,
        Self::Fetch,
        Self::Remember,
        Self::Recall,
        Self::Keep,
        Self::Discard,
        Self::Swap,
        Self::Consult,
    ];

    fn source(self) -> &'static str {
        &SOURCES[self as usize]
    }

    /// What it begins with, which others share.
    fn prelude(self) -> String {
        let kinds = matches!(
            self,
            Self::Settle
                | Self::Park
                | Self::Bury
                | Self::Seal
                | Self::Claim
                | Self::Register
                | Self::Sign
                | Self::Acquit
                | Self::Lease
                | Self::Members
                | Self::Inherit
                | Self::Fetch
        );
        let hold = matches!(self, Self::Settle | Self::Delay | Self::Promote);
        let kinds = if kinds { include_str!("scripts/kinds.lua") } else { "" };
        let hold = if hold { include_str!("scripts/hold.lua") } else { "" };
        format!("{kinds}{hold}")
    }

    /// What is its own.
    fn body(self) -> &'static str {
        match self {
            Self::Settle => include_str!("scripts/settle.lua"),
            Self::Park => include_str!("scripts/park.lua"),
            Self::Bury => include_str!("scripts/bury.lua"),
            Self::Seal => include_str!("scripts/seal.lua"),
            Self::Trim => include_str!("scripts/trim.lua"),
            Self::Claim => include_str!("scripts/claim.lua"),
            Self::Retire => include_str!("scripts/retire.lua"),
            Self::Redrive => include_str!("scripts/redrive.lua"),
            Self::Delay => include_str!("scripts/delay.lua"),
            Self::Promote => include_str!("scripts/promote.lua"),
            Self::Register => include_str!("scripts/register.lua"),
            Self::Forget => include_str!("scripts/forget.lua"),
            Self::Sign => include_str!("scripts/sign.lua"),
            Self::Leave => include_str!("scripts/leave.lua"),
            Self::Renew => include_str!("scripts/renew.lua"),
            Self::Acquit => include_str!("scripts/acquit.lua"),
            Self::Release => include_str!("scripts/release.lua"),
            Self::Replay => include_str!("scripts/replay.lua"),
            Self::Rate => include_str!("scripts/rate.lua"),
            Self::Repeat => include_str!("scripts/repeat.lua"),
            Self::Disband => include_str!("scripts/disband.lua"),
            Self::Lease => include_str!("scripts/lease.lua"),
            Self::Yield => include_str!("scripts/yield.lua"),
            Self::Members => include_str!("scripts/members.lua"),
            Self::Inherit => include_str!("scripts/inherit.lua"),
            Self::Read => include_str!("scripts/read.lua"),
            Self::Fetch => include_str!("scripts/fetch.lua"),
            Self::Remember => include_str!("scripts/remember.lua"),
            Self::Recall => include_str!("scripts/recall.lua"),
            Self::Keep => include_str!("scripts/keep.lua"),
            Self::Discard => include_str!("scripts/discard.lua"),
            Self::Swap => include_str!("scripts/swap.lua"),
            Self::Consult => include_str!("scripts/consult.lua"),
        }
    }

    /// An `EVALSHA` of this script with its keys; its arguments are for the caller to add.
    pub(super) fn call(self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&HASHES[self as usize]).arg(keys.len()).arg(keys);
        command
    }

    /// As [`Self::call`], with the script itself (`EVAL`): for a transaction, which a forgotten
    /// script would leave half done.
    pub(super) fn spell_out(self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.source()).arg(keys.len()).arg(keys);
        command
    }

    /// Teaches a server the scripts that it does not know (`SCRIPT EXISTS`, `SCRIPT LOAD`).
    ///
    /// A server keeps them for as long as it runs: a connection that breaks often is not to
    /// carry all of them each time.
    pub(super) async fn teach(connection: &mut Wire) -> RedisResult<()> {
        let mut asking = redis::cmd("SCRIPT");
        let known = asking.arg("EXISTS").arg(&*HASHES).query_async(connection).await;
        // Who may not ask may tell.
        let known: Vec<bool> = known.unwrap_or_default();
        let mut loading = redis::pipe();
        for (index, lua) in Self::ALL.iter().enumerate() {
            if known.get(index) != Some(&true) {
                loading.cmd("SCRIPT").arg("LOAD").arg(lua.source()).ignore();
            }
        }
        if loading.is_empty() { Ok(()) } else { loading.exec_async(connection).await }
    }
}
