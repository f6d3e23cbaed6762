//! From the manifest's `[host]` to how plugins are loaded; and loading them ahead of time.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::HostError;
use crate::manifest::{Cache, HostSettings, Manifest};
use crate::sandbox::{
    Capacity, Compiler, Loading, Origin, Plugin, Program, Readers, Sandbox, SandboxError,
};

/// How a host loads its plugins.
pub(super) fn of(host: &HostSettings, readers: Readers) -> Result<Loading, HostError> {
    let cache = folder(&host.cache, |name| env::var_os(name).map(PathBuf::from));
    let compiler = Compiler::Apart {
        program: Program::this().map_err(HostError::Program)?,
        time: host.compile_time,
        cache: cache.map(|folder| (folder, readers)),
    };
    Ok(Loading { compiler, plugin_bytes: host.plugin_bytes })
}

/// Where compiled plugins are kept; none for nowhere.
fn folder(cache: &Cache, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    match cache {
        Cache::At(folder) => Some(folder.clone()),
        Cache::Off => None,
        Cache::Usual => {
            // What is not absolute is to be ignored, says the XDG base directory specification.
            let given = |name| variable(name).filter(|path| path.is_absolute());
            let caches = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")));
            caches.map(|caches| caches.join("tidegate"))
        }
    }
}

/// A plugin that was to be compiled ahead of time.
pub struct Attempted {
    /// Its file.
    pub path: PathBuf,
    /// Its code, or why there is none.
    pub plugin: Result<Plugin, SandboxError>,
    /// How long that took.
    pub elapsed: Duration,
}

/// Compiles each plugin of a manifest that the cache does not have yet, for whoever will run
/// it. Blocks for as long as that takes.
///
/// # Errors
///
/// When there is no compiler at all. What is wrong with a plugin stands beside it.
pub fn compile(manifest: &Manifest) -> Result<Vec<Attempted>, HostError> {
    // No instance is started, but plugins are held to their memory.
    let capacity = Capacity { instances: 1, ..super::capacity(&manifest.handlers, &manifest.host) };
    let loading = of(&manifest.host, Readers::Everyone)?;
    let sandbox = Sandbox::loading(capacity, loading).map_err(HostError::Sandbox)?;
    let mut attempted: Vec<Attempted> = Vec::new();
    for handler in &manifest.handlers {
        let known = attempted.iter_mut().find(|known| known.path == handler.plugin);
        if let Some(Attempted { plugin, .. }) = known {
            // Another handler may mean another file of that name.
            if let Err(error) = plugin.as_ref().map_or(Ok(()), |it| it.check_pin(handler.digest)) {
                *plugin = Err(error);
            }
            continue;
        }
        attempted.push(attempt(&sandbox, &handler.plugin, handler.digest));
    }
    Ok(attempted)
}

fn attempt(sandbox: &Sandbox, path: &Path, pin: Option<crate::manifest::Digest>) -> Attempted {
    let started = Instant::now();
    let plugin = sandbox.load_pinned(path, pin);
    Attempted { path: path.to_owned(), plugin, elapsed: started.elapsed() }
}

impl Attempted {
    /// Whether the next start need not compile it.
    pub fn is_kept(&self) -> bool {
        match self.plugin.as_ref().map(Plugin::origin) {
            Ok(Origin::Cache | Origin::Compiled) => true,
            Ok(Origin::Unkept(_)) | Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(variables: &[(&str, &str)]) -> Option<PathBuf> {
        folder(&Cache::Usual, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_usual_cache_is_where_the_user_keeps_caches() {
        assert_eq!(usual(&[("HOME", "/h")]), Some("/h/.cache/tidegate".into()));
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(usual(&both), Some("/c/tidegate".into()));
        let relative = [("HOME", "/h"), ("XDG_CACHE_HOME", "c")];
        assert_eq!(usual(&relative), Some("/h/.cache/tidegate".into()));
        assert_eq!(usual(&[]), None, "a user without a home has none");
        assert_eq!(folder(&Cache::Off, |_| Some("/h".into())), None);
    }
}
