//! Plugins for a manifest: built ones, and those that are written as text.

use std::fs;
use std::path::{Path, PathBuf};

/// Puts every plugin that a manifest names into its folder.
///
/// `NAME.wasm` is `tests/hostile/NAME.wat` or `tests/friendly/NAME.wat` assembled,
/// or else what `make plugins` built. A name that is neither is left missing.
pub fn provide(folder: &Path, manifest: &str) {
    let lines = manifest.lines().filter_map(|line| line.trim().strip_prefix("plugin = \""));
    let names = lines.filter_map(|rest| rest.split_once(".wasm\"").map(|(name, _)| name));
    for name in names {
        let target = folder.join(format!("{name}.wasm"));
        if !target.exists() {
            put(name, &target);
        }
    }
}

fn put(name: &str, target: &Path) {
    let text = ["hostile", "friendly"].map(|kind| root().join(format!("tests/{kind}/{name}.wat")));
    if let Some(text) = text.iter().find(|file| file.exists()) {
        let component = wat::parse_file(text).unwrap();
        fs::write(target, component).unwrap();
        return;
    }
    let built = root().join("plugins/target/wasm32-wasip2/release");
    let plugin = built.join(format!("{name}.wasm"));
    if plugin.exists() {
        return std::os::unix::fs::symlink(plugin, target).unwrap();
    }
    let source = root().join("plugins").join(name.replace('_', "-"));
    assert!(!source.exists(), "{name}.wasm is not built; run \"make plugins\" first");
}

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A plugin that is built, or written as text: its bytes.
#[track_caller]
pub fn plugin(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.wasm");
    put(name, &file);
    fs::read(file).unwrap()
}

/// The same plugin with another digest: a section that nobody reads tells it from others.
pub fn variant(plugin: &[u8], number: u8) -> Vec<u8> {
    // A custom section: its id, the length of the rest, a name with its length, and the number.
    let section = [0, 9, 7, b'v', b'a', b'r', b'i', b'a', b'n', b't', number];
    [plugin, &section].concat()
}
