//! pgbench through the proxy in all its modes: no error, and identical nodes afterwards.

mod support;

use support::{Options, Sandbox};

/// Enough rows of pgbench_branches that 32 clients do not all wait for one row.
const SCALE: &str = "5";
const SECONDS: &str = "2";
/// On a machine that is so busy that logging in took all of that.
const SECONDS_BUSY: &str = "15";

fn run_all_modes(script: &[&str]) {
    let sandbox = Sandbox::start(Options::default());
    sandbox.psql_ok(&["-c", "CREATE DATABASE bench"]);
    sandbox.pgbench(&["-i", "-q", "-s", SCALE, "bench"]);
    sandbox.assert_nodes_equal("bench");
    for mode in ["simple", "extended", "prepared"] {
        for clients in ["1", "8", "32"] {
            let run = |seconds| ["-n", "-M", mode, "-c", clients, "-j", "2", "-T", seconds, "bench"];
            let mut report = sandbox.pgbench(&[script, &run(SECONDS)].concat());
            if report.contains("actually processed: 0\n") {
                report = sandbox.pgbench(&[script, &run(SECONDS_BUSY)].concat());
            }
            assert!(!report.contains("actually processed: 0\n"), "{mode} with {clients} clients: {report}");
            sandbox.assert_nodes_equal("bench");
        }
    }
    sandbox.assert_nothing_in_transaction();
    let history = sandbox.on_nodes("bench", "SELECT coalesce(sum(delta), 0) FROM pgbench_history");
    let accounts = sandbox.on_nodes("bench", "SELECT sum(abalance) FROM pgbench_accounts");
    assert_eq!(history, accounts, "every update of an account has its line in the history");
}

#[test]
fn tpcb_like_runs_in_all_modes_without_an_error() {
    run_all_modes(&["-b", "tpcb-like"]);
}

#[test]
fn simple_update_runs_in_all_modes_without_an_error() {
    run_all_modes(&["-N"]);
}

#[test]
fn select_only_runs_in_all_modes_without_an_error() {
    run_all_modes(&["-S"]);
}
