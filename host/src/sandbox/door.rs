//! Who may come in: what a file must be, export and import to be a plugin.
//!
//! Each refusal is a sentence that says what would be right.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::contract;
use super::engine::{Dialect, Engine};
use super::offer::{self, Grant};
use super::plain::plain;
use super::plugin::World;
use super::reach::Reach;
use crate::manifest::Digest;

/// The package of the contract, and the version that this host speaks.
const PACKAGE: &str = "tidegate:plugin";
pub(super) const VERSION: &str = "0.1.0";

/// The interface of handlers that are called while others wait.
pub(super) const ASYNC_HANDLER: &str = "tidegate:plugin/async-handler";

const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];

/// Bytes of the compiler's words that go into a sentence; it quotes what it does not like.
const WORDS_MAX: usize = 600;

/// Imports that are named when they are missing; the others are counted.
const NAMED_MAX: usize = 10;

/// Why a file is not a plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not begin as WebAssembly does.
    #[error("is not WebAssembly: expected a component, as a build for wasm32-wasip2 makes")]
    NotWasm,
    /// It ends before its header does.
    #[error("is cut short: build or copy it again")]
    CutShort,
    /// It is WebAssembly of the older kind, and does not say which component it is to be.
    #[error(
        "is a core module, not a component: build it for wasm32-wasip2, \
         or let wit-bindgen embed the type of the component that it is to be"
    )]
    CoreModule,
    /// It is of a binary format that this host does not know.
    #[error("is WebAssembly of an unknown version: build it with current tools")]
    UnknownFormat,
    /// It is nothing that has an end, or no file at all.
    #[error("is no regular file: expected a component's file")]
    NoFile,
    /// It has more bytes than a plugin may have.
    #[error(
        "has more than the {} that a plugin's file may have: build it for release, or raise \
         `plugin-bytes` in [host]", ByteSize::b(*.0)
    )]
    TooLarge(u64),
    /// It is another file than the manifest means.
    #[error(
        "has the digest {found}, and its handler takes only {pinned}: put the file that is meant in \
         its place, or change `digest`"
    )]
    OtherDigest {
        /// The digest in the manifest.
        pinned: Digest,
        /// That of the file.
        found: Digest,
    },
    /// No component can be made of it.
    #[error("is a core module of which no component can be made: {0}")]
    Wrapping(String),
    /// Compiling took too long.
    #[error(
        "took longer than {} to compile: make it smaller, or raise `compile-time` in [host]",
        humantime::format_duration(*.0)
    )]
    CompileTime(Duration),
    /// Compiling took too much memory.
    #[error(
        "needed more than {} of memory to compile: make it smaller, above all its largest functions",
        ByteSize::b(*.0)
    )]
    CompileMemory(u64),
    /// Somebody else killed the compiler, most likely the system.
    #[error("was not compiled: the compiler was killed, as systems do that run out of memory")]
    CompilerKilled,
    /// The compiler ended as it should not.
    #[error("breaks the compiler, which ended with {0}: build it with other tools or settings")]
    CompilerBroke(String),
    /// The compiler does not work on this machine.
    #[error("was not compiled, as the compiler does not work here: {0}")]
    NoCompiler(String),
    /// What a compiler in another process said.
    #[error("{0}")]
    Reported(String),
    /// It does not validate, or needs what the engine does not allow.
    #[error("cannot be compiled: {0}")]
    Invalid(String),
    /// It is no handler.
    #[error(
        "exports no handler: expected {PACKAGE}/handler@{VERSION}, {PACKAGE}/batch-handler@{VERSION} \
         or {ASYNC_HANDLER}@{VERSION}"
    )]
    NoHandler,
    /// It is more than one handler.
    #[error("exports {}: expected exactly one of them", .0.join(" and "))]
    TwoHandlers(Vec<String>),
    /// It was built against another version of the contract.
    #[error("exports {0}: this host speaks {PACKAGE}@{VERSION}, build the plugin against that")]
    OtherVersion(String),
    /// It imports what it cannot have.
    #[error("{}", sentence(.0))]
    Imports(Vec<Missing>),
    /// The names are right, the types behind them are not.
    #[error(
        "does not fit {PACKAGE}@{VERSION} in its function {function}: {why}; \
         build it against that version's wit"
    )]
    Mismatch {
        /// The function that differs.
        function: &'static str,
        /// The first difference.
        why: String,
    },
    /// An import has the right name and other types than are provided.
    #[error("imports something of other types than this host provides: {0}")]
    Unlinkable(String),
}

/// An import that nobody provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The import, as the component names it.
    pub name: String,
    /// Why it is not there.
    pub absence: Absence,
}

/// Why an import is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// No grant could ever allow it.
    Never,
    /// The handler has no grant for it.
    Ungranted(Grant),
    /// A later version may provide it.
    NotYet,
    /// It is part of another version of an interface that is offered.
    OtherVersion,
    /// It is nothing the host has heard of.
    Unknown,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.absence {
            Absence::Never => "which no handler can be granted",
            Absence::Ungranted(grant) => {
                let line = grant.line();
                return write!(f, "{}, which needs a grant such as `{line}`", self.name);
            }
            Absence::NotYet => "which is not available in this version",
            Absence::OtherVersion => "which is not of a version this host provides",
            Absence::Unknown => "which no host of handlers provides",
        };
        write!(f, "{}, {why}", self.name)
    }
}

fn sentence(missing: &[Missing]) -> String {
    let mut names: Vec<String> = missing.iter().take(NAMED_MAX).map(Missing::to_string).collect();
    if let more @ 1.. = missing.len().saturating_sub(NAMED_MAX) {
        names.push(format!("and {more} more"));
    }
    format!("imports {}", names.join("; "))
}

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A component.
    Component,
    /// A core module, which may be made a component.
    Module,
}

/// Tells WebAssembly from everything else, so that the compiler's words are not needed for it.
pub(super) fn check_header(bytes: &[u8]) -> Result<Form, Refusal> {
    let Some((magic, rest)) = bytes.split_at_checked(MAGIC.len()) else {
        return Err(if MAGIC.starts_with(bytes) { Refusal::CutShort } else { Refusal::NotWasm });
    };
    match rest.get(..4) {
        _ if magic != MAGIC => Err(Refusal::NotWasm),
        None => Err(Refusal::CutShort),
        Some(COMPONENT) => Ok(Form::Component),
        Some(CORE_MODULE) => Ok(Form::Module),
        Some(_) => Err(Refusal::UnknownFormat),
    }
}

/// What a component asks of its engine, by the names of its imports and exports. What cannot be
/// read is taken for plain: the compiler has the better words for it.
pub(super) fn dialect(bytes: &[u8]) -> Dialect {
    match asks_for_concurrency(bytes) {
        Ok(true) => Dialect::Concurrent,
        Ok(false) | Err(_) => Dialect::Plain,
    }
}

fn asks_for_concurrency(bytes: &[u8]) -> wasmparser::Result<bool> {
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    let name = import?.name.name;
                    let is_wasi = name.starts_with("wasi:");
                    if is_wasi && version(name).is_some_and(|version| version.starts_with("0.3.")) {
                        return Ok(true);
                    }
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    if interface(export?.name.name) == ASYNC_HANDLER {
                        return Ok(true);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

/// Why a component did not compile.
pub(super) fn cannot_compile(error: &wasmtime::Error) -> Refusal {
    let error = format!("{error:#}");
    if ends_early(&error) {
        return Refusal::CutShort;
    }
    Refusal::Invalid(plain(&error[..error.floor_char_boundary(WORDS_MAX)]).into_owned())
}

/// Whether what a parser says means that there should be more.
pub(super) fn ends_early(error: &str) -> bool {
    error.contains("unexpected end") || error.contains("is out of bounds (bound = ")
}

/// Finds which world the component is of.
pub(super) fn check_exports(component: &Component, engine: &Engine) -> Result<World, Refusal> {
    let ty = component.component_type();
    let handlers: Vec<&str> =
        ty.exports(engine).map(|(name, _)| name).filter(|name| is_handler(name)).collect();
    match handlers.as_slice() {
        [] => Err(Refusal::NoHandler),
        [name] => {
            let world = world(name)?;
            check_types(component, engine, name, world)?;
            Ok(world)
        }
        names => Err(Refusal::TwoHandlers(names.iter().map(|name| (*name).to_owned()).collect())),
    }
}

fn is_handler(export: &str) -> bool {
    let interface = interface(export);
    ["handler", "batch-handler", "async-handler"]
        .iter()
        .any(|handler| interface.strip_prefix(PACKAGE) == Some(&format!("/{handler}")))
}

fn world(export: &str) -> Result<World, Refusal> {
    if version(export) != Some(VERSION) {
        return Err(Refusal::OtherVersion(export.to_owned()));
    }
    match interface(export).rsplit('/').next() {
        Some("handler") => Ok(World::Plugin),
        Some("batch-handler") => Ok(World::Batch),
        Some(_) | None => Ok(World::Async),
    }
}

fn check_types(
    component: &Component,
    engine: &Engine,
    export: &str,
    world: World,
) -> Result<(), Refusal> {
    let function = contract::function(world);
    let mismatch = |why: String| Refusal::Mismatch { function, why };
    let ty = component.component_type();
    let Some(ComponentItem::ComponentInstance(handler)) =
        ty.get_export(engine, export).map(|export| export.ty)
    else {
        return Err(mismatch("it is no interface".to_owned()));
    };
    let Some(ComponentItem::ComponentFunc(handle)) =
        handler.get_export(engine, function).map(|export| export.ty)
    else {
        return Err(mismatch("it is missing".to_owned()));
    };
    contract::compare(world, &ty, &handle).map_err(|error| mismatch(format!("{error:#}")))
}

/// Refuses every import that this handler is not offered, all at once.
pub(super) fn check_imports(
    component: &Component,
    engine: &Engine,
    reach: &Reach,
) -> Result<(), Refusal> {
    let ty = component.component_type();
    let missing: Vec<Missing> = ty
        .imports(engine)
        .filter_map(|(name, _)| Some((name, absence(name, reach)?)))
        .map(|(name, absence)| Missing { name: name.to_owned(), absence })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Refusal::Imports(missing)) }
}

/// Why an import is not offered; none when it is.
fn absence(import: &str, reach: &Reach) -> Option<Absence> {
    let interface = interface(import);
    if interface == "tidegate:plugin/types" {
        return (version(import) != Some(VERSION)).then_some(Absence::OtherVersion);
    }
    if let Some(offer) = offer::of(import) {
        return offer.grant.filter(|grant| !reach.has(*grant)).map(Absence::Ungranted);
    }
    if offer::is_known(interface) {
        return Some(Absence::OtherVersion);
    }
    let package = interface.split('/').next().unwrap_or(interface);
    Some(match package {
        "wasi:sockets" | "wasi:filesystem" | "wasi:tls" => Absence::Never,
        "wasi:keyvalue" | "wasi:config" | "wasi:logging" | PACKAGE => Absence::NotYet,
        _ => Absence::Unknown,
    })
}

/// `a:b/c` of `a:b/c@1.0.0`.
pub(super) fn interface(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

/// `1.0.0` of `a:b/c@1.0.0`.
pub(super) fn version(name: &str) -> Option<&str> {
    name.split_once('@').map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::reach::Unreachable;
    use super::*;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        assert_eq!(check_header(b"\0asm\x0d\0\x01\0..."), Ok(Form::Component));
        assert_eq!(check_header(b"\0asm\x01\0\0\0..."), Ok(Form::Module));
        assert_eq!(check_header(b"\0asm\x63\0\x01\0..."), Err(Refusal::UnknownFormat));
        assert_eq!(check_header(b"#!/bin/sh\nexit"), Err(Refusal::NotWasm));
        assert_eq!(check_header(b"el"), Err(Refusal::NotWasm));
        for cut in [b"".as_slice(), b"\0as", b"\0asm", b"\0asm\x0d\0"] {
            assert_eq!(check_header(cut), Err(Refusal::CutShort), "{cut:?}");
        }
    }

    #[test]
    fn what_is_offered_is_offered_in_every_version_of_wasi_02() {
        assert_eq!(absence("wasi:io/poll@0.2.0", &Reach::default()), None);
        assert_eq!(absence("wasi:io/poll@0.2.12", &Reach::default()), None);
        assert_eq!(absence("wasi:filesystem/preopens@0.2.6", &Reach::default()), None);
        assert_eq!(absence("wasi:sockets/tcp@0.2.9", &Reach::default()), None);
        let ungranted = Some(Absence::Ungranted(Grant::Http));
        assert_eq!(absence("wasi:http/outgoing-handler@0.2.10", &Reach::default()), ungranted);
        assert_eq!(absence("tidegate:plugin/types@0.1.0", &Reach::default()), None);
        assert_eq!(
            absence("wasi:clocks/monotonic-clock@0.4.0", &Reach::default()),
            Some(Absence::OtherVersion)
        );
        assert_eq!(
            absence("tidegate:plugin/types@0.2.0", &Reach::default()),
            Some(Absence::OtherVersion)
        );
    }

    #[test]
    fn a_draft_is_offered_as_itself_and_as_nothing_else() {
        let granted = Reach { keyvalue: Some(Arc::new(Unreachable)), ..Reach::default() };
        assert_eq!(absence("wasi:keyvalue/store@0.2.0-draft", &granted), None);
        assert_eq!(absence("wasi:keyvalue/store@0.2.0-draft2", &granted), None);
        assert_eq!(
            absence("wasi:keyvalue/store@0.2.0-draft2", &Reach::default()),
            Some(Absence::Ungranted(Grant::KeyValue))
        );
        for other in ["@0.2.0-draft3", "@0.2.0", ""] {
            let import = format!("wasi:keyvalue/store{other}");
            assert_eq!(absence(&import, &granted), Some(Absence::OtherVersion), "{import}");
        }
        assert_eq!(absence("wasi:logging/logging", &Reach::default()), None);
        assert_eq!(absence("wasi:logging/logging@0.1.0-draft", &Reach::default()), None);
        assert_eq!(
            absence("wasi:config/store@0.2.0-rc.1", &granted),
            Some(Absence::Ungranted(Grant::Config))
        );
    }

    #[test]
    fn each_absent_import_is_told_why() {
        assert_eq!(absence("wasi:tls/types@0.2.0", &Reach::default()), Some(Absence::Never));
        assert_eq!(
            absence("wasi:http/incoming-handler@0.2.0", &Reach::default()),
            Some(Absence::Unknown)
        );
        assert_eq!(
            absence("tidegate:plugin/services@0.1.0", &Reach::default()),
            Some(Absence::NotYet)
        );
        assert_eq!(absence("acme:rockets/launch", &Reach::default()), Some(Absence::Unknown));
    }
}
