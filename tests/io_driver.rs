//! Which driver runs where: kernels that lack something are played by a seccomp filter (tests/python/without.py).

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::{Options, Sandbox};

/// The program, as if the kernel lacked something.
fn without(what: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("tests/python/without.py").arg(what).arg(env!("CARGO_BIN_EXE_pglockstep")).stdin(Stdio::null());
    command
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `check` of a small file.
fn check(what: &str, io_driver: &str, directory: &Path) -> String {
    let file = directory.join("pglockstep.toml");
    let text = format!(
        "[cluster]\nbackend_clustering_mode = \"native_replication\"\nwork_dir = \"/\"\n[shards]\n\
         io_driver = \"{io_driver}\"\n[apply]\napply_password = \"x\"\n[[node]]\nid = 0\nbackend_hostname = \"127.0.0.1\"\n"
    );
    std::fs::write(&file, text).unwrap();
    words(&without(what).arg("check").arg("-c").arg(file).output().unwrap())
}

#[test]
fn check_says_which_driver_would_run_and_why_another_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let said = check("buffer-rings", "auto", directory.path());
    assert!(said.contains("io_driver on this host: glommio (io_uring on kernel "), "{said}");
    assert!(said.contains("not ring: kernel ") && said.contains("IORING_REGISTER_PBUF_RING) needs 5.19"), "{said}");
    let said = check("buffer-rings", "ring", directory.path());
    assert!(said.contains("\"ring\" cannot run here") && said.contains("io_driver = \"glommio\" can"), "{said}");
    for io_driver in ["auto", "ring", "glommio"] {
        let said = check("io-uring", io_driver, directory.path());
        assert!(said.contains("cannot run here") || said.contains("no io_driver can run here"), "{said}");
        assert!(said.contains("seccomp"), "{said}");
    }
}

#[test]
fn an_older_kernel_is_served_by_glommio_and_one_without_io_uring_by_a_clear_refusal() {
    let config = "[shards]\nio_driver = \"auto\"\n[logging]\nlog_min_messages = \"info\"\n".to_owned();
    let mut sandbox = Sandbox::start(Options { config, ..Options::default() });
    sandbox.stop_proxy(pglockstep::sandbox::process::Signal::TERM);
    let refused = without("io-uring").arg("run").arg("-c").arg(sandbox.dir().join("pglockstep.toml")).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
    assert!(words(&refused).contains("pglockstep: no io_driver can run here. ring: io_uring is refused"));

    sandbox.start_proxy_as(without("buffer-rings"));
    sandbox.wait_for_log("io driver chosen: glommio");
    let client = sandbox.connect("postgres");
    client.value("CREATE TABLE t AS SELECT generate_series(1, 100) AS n").unwrap_or_default();
    assert_eq!(client.value("SELECT count(*) FROM t").unwrap(), "100");
    drop(client);
    sandbox.assert_nodes_equal("postgres");
}
