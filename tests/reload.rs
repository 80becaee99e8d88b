//! SIGHUP: what may change while the proxy runs does, key by key, and a bad file changes nothing.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use pglockstep::sandbox::process::{Signal, signal};
use support::{Options, Sandbox};

fn reload(sandbox: &Sandbox) -> (bool, String) {
    let config = sandbox.dir().join("pglockstep.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_pglockstep")).arg("reload").arg("-c").arg(config).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The sandbox's configuration with these lines in place of its num_init_children.
fn write_limits(sandbox: &Sandbox, first: &str, limits: &str) {
    let lines: Vec<&str> = first.lines().map(|l| if l.starts_with("num_init_children") { limits } else { l }).collect();
    assert!(lines.contains(&limits), "{first}");
    std::fs::write(sandbox.dir().join("pglockstep.toml"), lines.join("\n")).unwrap();
}

#[test]
fn a_reload_changes_what_may_change_and_a_bad_file_nothing() {
    let sandbox = Sandbox::start(Options::default());
    let first = std::fs::read_to_string(sandbox.dir().join("pglockstep.toml")).unwrap();
    let before = sandbox.connect("postgres");
    assert_eq!(before.value("SELECT 1").unwrap(), "1");

    write_limits(&sandbox, &first, "client_idle_limit = \"1s\"\nnum_init_children = 3");
    let (done, said) = reload(&sandbox);
    assert!(done && said.contains("reads") && said.contains("its log says what has changed"), "{said}");
    sandbox.wait_for_log("configuration reloaded");
    let log = sandbox.whole_log();
    assert!(log.contains("limits.client_idle_limit") && log.contains("not changed: it takes a restart"), "{log}");
    // A session that begins now is held to it.
    let client = sandbox.connect("postgres");
    let begun = Instant::now();
    while client.value("SELECT 1").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20), "client_idle_limit has not changed");
        std::thread::sleep(Duration::from_millis(2500));
    }
    assert_eq!(before.value("SELECT 2").unwrap(), "2");

    write_limits(&sandbox, &first, "client_idle_limit = \"never\"");
    let (done, said) = reload(&sandbox);
    assert!(!done && said.contains("client_idle_limit") && said.contains("allowed"), "{said}");
    signal(sandbox.proxy_pid(), Signal::HUP);
    sandbox.wait_for_log("configuration not reloaded: nothing has changed");
    assert_eq!(before.value("SELECT 3").unwrap(), "3");
}
