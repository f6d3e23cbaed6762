//! The scripts that keep a settlement in one step. Each file's header says what it promises.

use std::sync::LazyLock;

use redis::{Cmd, Script};

/// One of the scripts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lua {
    Settle,
    Park,
    Bury,
    Claim,
    Retire,
    Redrive,
    Lease,
    Release,
    Members,
    Inherit,
    Read,
    Fetch,
    Remember,
}

/// The hashes that Redis knows the scripts by, in the order of [`Lua::ALL`].
static HASHES: LazyLock<[String; Lua::ALL.len()]> =
    LazyLock::new(|| Lua::ALL.map(|lua| Script::new(lua.source()).get_hash().to_owned()));

impl Lua {
    const ALL: [Self; 13] = [
        Self::Settle,
        Self::Park,
        Self::Bury,
        Self::Claim,
        Self::Retire,
        Self::Redrive,
        Self::Lease,
        Self::Release,
        Self::Members,
        Self::Inherit,
        Self::Read,
        Self::Fetch,
        Self::Remember,
    ];

    fn source(self) -> &'static str {
        match self {
            Self::Settle => include_str!("scripts/settle.lua"),
            Self::Park => include_str!("scripts/park.lua"),
            Self::Bury => include_str!("scripts/bury.lua"),
            Self::Claim => include_str!("scripts/claim.lua"),
            Self::Retire => include_str!("scripts/retire.lua"),
            Self::Redrive => include_str!("scripts/redrive.lua"),
            Self::Lease => include_str!("scripts/lease.lua"),
            Self::Release => include_str!("scripts/release.lua"),
            Self::Members => include_str!("scripts/members.lua"),
            Self::Inherit => include_str!("scripts/inherit.lua"),
            Self::Read => include_str!("scripts/read.lua"),
            Self::Fetch => include_str!("scripts/fetch.lua"),
            Self::Remember => include_str!("scripts/remember.lua"),
        }
    }

    /// An `EVALSHA` of this script with its keys; its arguments are for the caller to add.
    pub(super) fn call(self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&HASHES[self as usize]).arg(keys.len()).arg(keys);
        command
    }

    /// The commands that teach a server every script (`SCRIPT LOAD`).
    pub(super) fn loading() -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for lua in Self::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(lua.source()).ignore();
        }
        pipeline
    }
}
