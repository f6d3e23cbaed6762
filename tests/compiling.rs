//! From a plugin's file to code: compiled once, apart, within bounds, and only what is meant.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;
#[path = "compiling/made.rs"]
mod made;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Done, Host, Server, Setup, eventually, within};

/// Compiling takes its time on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(240);

const NOWHERE: &str = "redis://127.0.0.1:1";

/// A handler for a plugin, with a cache beside the manifest.
fn handler(plugin: &str, host: &str) -> String {
    format!(
        "[host]\ncache = \"kept\"\n{host}\n[handler.h]\nplugin = \"{plugin}.wasm\"\n\
         stream = \"in\"\noutputs = [\"mirror\"]\n"
    )
}

fn offline(plugin: &str, host: &str) -> Setup {
    Setup::at(NOWHERE, &handler(plugin, host))
}

#[track_caller]
fn finish(setup: &Setup) -> Done {
    let mut host = setup.start();
    let status = host.wait_within(PATIENCE);
    Done { status, stdout: host.output(), stderr: host.log() }
}

/// What became of the plugin in `tidegate compile`.
#[track_caller]
fn compile(setup: Setup) -> (Setup, String) {
    let setup = setup.command(&["compile"]);
    let table = finish(&setup).expect(0).stdout;
    let row = table.lines().nth(1).unwrap();
    let code = row.split_whitespace().nth(1).unwrap().to_owned();
    (setup, code)
}

/// The one artefact in the folder `kept`.
#[track_caller]
fn kept(setup: &Setup) -> PathBuf {
    let entries = fs::read_dir(setup.folder().join("kept")).unwrap();
    let kept: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    kept[0].clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// The compilers that a process has started and that still run.
fn compilers_of(process: u32) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let of_it = |line: &Vec<u8>| {
        let mut words = line.split(|byte| *byte == 0);
        words.nth(1) == Some(b"compile-one") && words.nth(1) == Some(process.to_string().as_bytes())
    };
    lines.filter(of_it).count()
}

/// Starts a host, sends it a message and sees it mirrored.
#[track_caller]
fn mirrors(server: &Server, setup: &Setup) {
    let mut redis = server.client();
    let before = redis.length("mirror");
    let mut host = setup.start();
    redis.add("in", &[("a", "b")]);
    within(PATIENCE, "the message is mirrored", || {
        assert!(host.is_running(), "{}", host.log());
        redis.length("mirror") > before
    });
    host.stop();
}

#[test]
fn a_plugin_is_compiled_once_and_found_from_then_on() {
    let (setup, code) = compile(offline("mirror", ""));
    assert_eq!(code, "compiled");
    assert_eq!(mode(&kept(&setup)), 0o644);
    assert_eq!(compile(setup).1, "cached");
}

#[test]
fn a_host_keeps_what_it_has_compiled_to_itself() {
    let setup = offline("mirror", "").command(&["check"]);
    finish(&setup).expect(0);
    assert_eq!(mode(&setup.folder().join("kept")), 0o700);
    assert_eq!(compile(setup).1, "cached");
}

#[test]
fn a_host_that_finds_its_plugins_compiled_compiles_nothing() {
    let server = Server::start();
    let slow = made::slow();
    let patient = Setup::new(&server, &handler("slow", "compile-time = \"10m\""));
    let (setup, code) = compile(patient.file("slow.wasm", &slow));
    assert_eq!(code, "compiled");
    // Within a second this could not be compiled.
    let hasty = handler("slow", "compile-time = \"1s\"");
    let cold = Setup::new(&server, &hasty).file("slow.wasm", &slow);
    let refused = finish(&cold).expect(2);
    assert!(refused.stderr.contains("took longer than 1s"), "{}", refused.stderr);
    let redis = format!("[redis]\nurl = \"{}\"\n", server.url());
    let warm = setup.file("tidegate.toml", redis + &hasty).command(&["run"]);
    mirrors(&server, &warm);
}

#[test]
fn what_takes_longer_than_its_compile_time_is_refused_and_leaves_no_process() {
    let setup = offline("slow", "compile-time = \"1s\"").file("slow.wasm", made::slow());
    let setup = setup.command(&["check"]);
    let mut host = setup.start();
    let process = host.pid();
    let status = host.wait_within(PATIENCE);
    let log = host.log();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("slow.wasm: took longer than 1s to compile: make it smaller"), "{log}");
    assert!(log.contains("raise `compile-time` in [host]"), "{log}");
    assert_eq!(compilers_of(process), 0);
}

#[test]
fn what_needs_too_much_memory_to_compile_is_refused() {
    let setup = offline("bomb", "compile-time = \"10m\"").file("bomb.wasm", made::bomb());
    let refused = finish(&setup.command(&["check"])).expect(2);
    let sentence = " of memory to compile: make it smaller, above all its largest functions";
    assert!(refused.stderr.contains(sentence), "{}", refused.stderr);
}

#[test]
fn a_compiler_does_not_outlive_its_host() {
    let setup = offline("slow", "compile-time = \"10m\"").file("slow.wasm", made::slow());
    let setup = setup.command(&["check"]);
    let mut host = setup.start();
    let process = host.pid();
    eventually("it compiles", || compilers_of(process) == 1);
    host.kill();
    eventually("the compiler has ended too", || compilers_of(process) == 0);
}

#[test]
fn a_damaged_or_foreign_artefact_is_not_loaded_and_is_made_again() {
    let (mut setup, _) = compile(offline("mirror", ""));
    let artefact = kept(&setup);
    let whole = fs::read(&artefact).unwrap();
    let mut instead: Vec<(String, Vec<u8>)> = Vec::new();
    for at in [0, 7, 20, 44, 60, 90, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        instead.push((format!("with a bit turned at {at}"), flipped));
    }
    for length in [0, 40, 79, 80, whole.len() - 1] {
        instead.push((format!("cut at {length}"), whole[..length].to_vec()));
    }
    instead.push(("with more behind it".into(), [&whole[..], b"more"].concat()));
    let (other, _) = compile(offline("echo", ""));
    instead.push(("of another plugin".into(), fs::read(kept(&other)).unwrap()));
    for (what, bytes) in instead {
        fs::write(&artefact, bytes).unwrap();
        let (after, code) = compile(setup);
        assert_eq!(code, "compiled", "an artefact {what} was loaded");
        assert_eq!(fs::read(kept(&after)).unwrap().len(), whole.len(), "it is still there {what}");
        setup = after;
    }
    assert_eq!(compile(setup).1, "cached");
}

#[test]
fn an_artefact_that_is_not_certainly_ones_own_is_not_loaded() {
    let (mut setup, _) = compile(offline("mirror", ""));
    let artefact = kept(&setup);
    let elsewhere = setup.folder().join("elsewhere");
    let link = || std::os::unix::fs::symlink(&elsewhere, &artefact).unwrap();
    let pipe = || assert!(Command::new("mkfifo").arg(&artefact).status().unwrap().success());
    let instead: [(&str, &dyn Fn()); 4] = [
        ("that all may write to", &|| set_mode(&artefact, 0o666)),
        ("that its group may write to", &|| set_mode(&artefact, 0o664)),
        ("that is a link", &|| fs::rename(&artefact, &elsewhere).map(|()| link()).unwrap()),
        ("that is a pipe", &|| fs::remove_file(&artefact).map(|()| pipe()).unwrap()),
    ];
    for (what, put) in instead {
        put();
        let (after, code) = compile(setup);
        assert_eq!(code, "compiled", "an artefact {what} was loaded");
        assert_eq!(mode(&kept(&after)), 0o644, "one {what} is still there");
        setup = after;
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_not_used() {
    let (setup, _) = compile(offline("mirror", ""));
    let folder = setup.folder().join("kept");
    let real = setup.folder().join("real");
    for wrong in ["mode", "link"] {
        match wrong {
            "mode" => set_mode(&folder, 0o777),
            _ => {
                set_mode(&folder, 0o755);
                fs::rename(&folder, &real).unwrap();
                std::os::unix::fs::symlink(&real, &folder).unwrap();
            }
        }
        let done = finish(&setup).expect(1);
        assert!(done.stdout.contains("not kept"), "{wrong}: {}", done.stdout);
        assert!(done.stderr.contains("is not kept: "), "{wrong}: {}", done.stderr);
    }
    // Who runs plugins does so all the same.
    let checked = finish(&setup.command(&["check"])).expect(0);
    assert!(checked.stderr.contains("compiled plugins are not kept"), "{}", checked.stderr);
}

#[test]
fn without_a_place_for_a_cache_a_host_works_and_says_so_once() {
    let server = Server::start();
    let setup = Setup::new(&server, &handler("mirror", "")).file("kept", "a file in its place");
    mirrors(&server, &setup);
    let two = handler("mirror", "") + "[handler.e]\nplugin = \"echo.wasm\"\nstream = \"x\"\n";
    let setup = Setup::at(NOWHERE, &two).file("kept", "").command(&["check"]);
    let said = finish(&setup).expect(0).stderr;
    assert_eq!(said.matches("compiled plugins are not kept").count(), 1, "{said}");
}

#[test]
fn hosts_that_start_together_on_an_empty_cache_all_work() {
    let server = Server::start();
    let setup = Setup::new(&server, &handler("mirror", ""));
    let mut hosts: Vec<Host> = (0..3).map(|_| setup.start()).collect();
    for host in &hosts {
        within(PATIENCE, "it is ready", || host.log().contains("ready"));
    }
    for host in &mut hosts {
        host.stop();
    }
    kept(&setup);
    assert_eq!(compile(setup).1, "cached");
}

#[test]
fn compile_ends_with_status_1_when_a_plugin_is_refused_and_compiles_the_others() {
    let two = handler("mirror", "") + "[handler.e]\nplugin = \"no-export.wasm\"\nstream = \"x\"\n";
    let setup = Setup::at(NOWHERE, &two).command(&["compile", "--cache", "given"]);
    let done = finish(&setup).expect(1);
    let row = |name: &str| done.stdout.lines().find(|line| line.contains(name)).unwrap();
    assert!(row("mirror.wasm").contains("compiled"), "{}", done.stdout);
    assert!(row("no-export.wasm").contains("refused"), "{}", done.stdout);
    assert!(done.stderr.contains("no-export.wasm: exports no handler"), "{}", done.stderr);
    assert!(setup.folder().join("given").is_dir() && !setup.folder().join("kept").exists());
}

#[test]
fn what_one_user_compiles_ahead_root_included_another_can_load_and_none_else() {
    let (setup, _) = compile(offline("mirror", ""));
    let folder = setup.folder().join("kept");
    assert_eq!(mode(&folder), 0o755, "an image is built by one user and run by another");
    if fs::metadata(&folder).unwrap().uid() != 0 {
        return harness::skipped("only root can give files away");
    }
    // What belongs to neither root nor oneself is not loaded.
    let own = |user: u32| std::os::unix::fs::chown(kept(&setup), Some(user), None).unwrap();
    own(12345);
    let other = finish(&setup).expect(0);
    assert!(other.stderr.contains("belongs to another user"), "{}", other.stderr);
    // What root has compiled is loaded by anyone.
    let setup = setup.command(&["check"]);
    set_mode(setup.folder(), 0o755);
    let mut checks = harness::command();
    let checked = checks.args(["check"]).current_dir(setup.folder()).uid(12345).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && !said.contains("compiled plugin"), "{said}");
}

#[test]
fn a_pinned_digest_lets_no_other_file_in() {
    let setup = offline("mirror", "").command(&["check"]);
    let digest = finish(&setup).expect(0).stdout;
    let digest = digest.split(['(', ')']).nth(1).unwrap().to_owned();
    let pinned = |digest: &str| {
        let pin = format!("{}digest = \"{digest}\"\n", handler("mirror", ""));
        Setup::at(NOWHERE, &pin)
    };
    finish(&pinned(&digest).command(&["check"])).expect(0);
    let other = format!("sha256:{}", "0".repeat(64));
    for command in ["check", "run"] {
        let setup = pinned(&other).command(&[command]);
        let said = finish(&setup).expect(2).stderr;
        assert!(said.contains(&other) && said.contains(&digest), "{said}");
        assert!(said.contains("put the file that is meant in its place, or change `digest`"));
        assert!(!setup.folder().join("kept").exists(), "it was compiled");
    }
    let setup = pinned(&other).command(&["compile"]);
    finish(&setup).expect(1);
}

#[test]
fn what_is_no_file_or_too_large_a_file_is_not_read() {
    let setup = offline("large", "").file("large.wasm", "");
    let large = fs::File::options().write(true).open(setup.folder().join("large.wasm")).unwrap();
    large.set_len(200 << 20).unwrap();
    let said = finish(&setup.command(&["check"])).expect(2).stderr;
    assert!(
        said.contains("large.wasm: has more than the 128.0 MiB that a plugin's file"),
        "{said}"
    );
    assert!(said.contains("raise `plugin-bytes` in [host]"), "{said}");

    let small = offline("probe", "plugin-bytes = \"64KiB\"").command(&["check"]);
    let said = finish(&small).expect(2).stderr;
    assert!(said.contains("probe.wasm: has more than the 64.0 KiB"), "{said}");

    let setup = offline("odd", "").command(&["check"]);
    let odd = setup.folder().join("odd.wasm");
    let pipe = || assert!(Command::new("mkfifo").arg(&odd).status().unwrap().success());
    let device = || std::os::unix::fs::symlink("/dev/zero", &odd).unwrap();
    let instead: [&dyn Fn(); 3] = [&pipe, &device, &|| fs::create_dir(&odd).unwrap()];
    for put in instead {
        put();
        let said = finish(&setup).expect(2).stderr;
        assert!(said.contains("odd.wasm: is no regular file"), "{said}");
        fs::remove_file(&odd).or_else(|_| fs::remove_dir(&odd)).unwrap();
    }
}

#[test]
fn core_modules_that_say_which_component_they_are_to_be_handle_messages() {
    let server = Server::start();
    for module in [made::core_module(), made::core_module_with_library()] {
        let setup = Setup::new(&server, &handler("core", "")).file("core.wasm", &module);
        mirrors(&server, &setup);
    }
}

#[test]
fn a_core_module_that_does_not_say_so_is_told_the_remedy() {
    let setup = offline("core", "").file("core.wasm", made::mute_module()).command(&["check"]);
    let said = finish(&setup).expect(2).stderr;
    assert!(said.contains("core.wasm: is a core module, not a component: build it for"), "{said}");
    assert!(said.contains("let wit-bindgen embed"), "{said}");
}
