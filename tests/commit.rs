//! COMMIT: what main refuses at the last moment, what a replica answers otherwise, and a replica that does not answer.

mod support;

use pglockstep::sandbox::process::{Signal, signal};
use std::time::{Duration, Instant};
use support::{Options, Sandbox};

fn sandbox(config: &str) -> Sandbox {
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT n, 0 FROM generate_series(1, 9) n; \
               CREATE TABLE parent (id int PRIMARY KEY); \
               CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";
    sandbox.psql_ok(&["-q", "-c", sql]);
    sandbox
}

fn code(error: &dyn std::error::Error) -> String {
    error.to_string()
}

#[test]
fn what_main_refuses_at_commit_has_happened_nowhere() {
    let sandbox = sandbox("");
    let (a, b) = (sandbox.connect("postgres"), sandbox.connect("postgres"));
    // A deferred constraint.
    let refused = a.rows("BEGIN; INSERT INTO t VALUES (20, 0); INSERT INTO child VALUES (1, 77); COMMIT").unwrap_err();
    assert!(code(&*refused).contains("23503"), "{refused}");
    // Write skew between SERIALIZABLE transactions: one of the two is refused, and the other is there.
    for c in [&a, &b] {
        c.rows("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(v) FROM t WHERE id IN (1, 2)").unwrap();
    }
    a.rows("UPDATE t SET v = v + 1 WHERE id = 1").unwrap();
    b.rows("UPDATE t SET v = v + 1 WHERE id = 2").unwrap();
    let ends = [a.rows("COMMIT"), b.rows("COMMIT")];
    let refused: Vec<_> = ends.iter().filter_map(|e| e.as_ref().err()).collect();
    assert!(refused.len() == 1 && code(&**refused[0]).contains("40001"), "{refused:?}");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT sum(v) FROM t"), ["1"; 3]);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM pg_prepared_xacts"), ["0"; 3]);
    // A SERIALIZABLE transaction that cannot be prepared is committed all the same.
    a.rows("ROLLBACK").ok();
    a.rows("BEGIN ISOLATION LEVEL SERIALIZABLE; NOTIFY x; UPDATE t SET v = 5 WHERE id = 3; COMMIT").unwrap();
    // WITH HOLD cursors run their query at COMMIT.
    let held =
        "BEGIN; UPDATE t SET v = 6 WHERE id = 4; DECLARE c CURSOR WITH HOLD FOR SELECT 1 / (v - v) FROM t; COMMIT";
    assert!(code(&*a.rows(held).unwrap_err()).contains("22012"));
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_nothing_in_transaction();
}

/// Makes node 2 differ from the others in one row.
fn spoil(sandbox: &Sandbox) {
    sandbox.connect_node(2, "postgres").rows("DELETE FROM t WHERE id = 7").unwrap();
}

#[test]
fn the_odd_node_is_out_and_the_transaction_goes_on_when_a_majority_agrees() {
    let sandbox = sandbox("");
    spoil(&sandbox);
    let client = sandbox.connect("postgres");
    client.rows("UPDATE t SET v = 1 WHERE id = 7").unwrap();
    assert!(sandbox.log().contains("it diverged from main"), "{}", sandbox.log());
    // The node is out for good: later writes do not reach it, and it is not read from.
    client.rows("UPDATE t SET v = 2 WHERE id = 1").unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT v FROM t WHERE id = 1"), ["2", "2", "0"]);
    for _ in 0..20 {
        assert_eq!(sandbox.connect("postgres").value("SELECT v FROM t WHERE id = 1").unwrap(), "2");
    }
}

#[test]
fn a_stale_node_stays_out_when_the_proxy_is_started_again() {
    let mut sandbox = sandbox("[replication]\non_divergence = \"main\"\n");
    spoil(&sandbox);
    sandbox.connect("postgres").rows("UPDATE t SET v = 1 WHERE id = 7").unwrap();
    sandbox.restart_proxy(Signal::TERM);
    sandbox.connect("postgres").rows("UPDATE t SET v = 3 WHERE id = 1").unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT v FROM t WHERE id = 1"), ["3", "3", "0"]);
}

#[test]
fn with_refuse_a_difference_changes_nothing_anywhere_and_is_told_with_node_and_statement() {
    let sandbox = sandbox("[replication]\non_divergence = \"refuse\"\n");
    spoil(&sandbox);
    let output = sandbox.psql(&["-v", "VERBOSITY=verbose", "-c", "UPDATE t SET v = 1 WHERE id = 7"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("40001") && complaint.contains("node 2"), "{complaint}");
    assert!(complaint.contains("UPDATE t SET v"), "{complaint}");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT sum(v) FROM t"), ["0"; 3]);
    sandbox.connect("postgres").rows("UPDATE t SET v = 1 WHERE id = 1").unwrap();
    sandbox.assert_nothing_in_transaction();
}

/// All processes of a node stand still: it accepts connections and answers nothing.
#[test]
fn a_replica_that_does_not_answer_is_given_up_and_clients_go_on() {
    let config = "[replication]\nreplica_timeout = \"1s\"\ncommit_timeout = \"1s\"\n\
                  [health_check]\nhealth_check_period = \"0\"\nhealth_check_timeout = \"1s\"\n[limits]\nconnect_timeout = \"1s\"\n";
    let sandbox = sandbox(config);
    let client = sandbox.connect("postgres");
    client.rows("UPDATE t SET v = 1 WHERE id = 1").unwrap();
    let postmaster = sandbox.summary.nodes[2].pid;
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
    let all: Vec<u32> = children.split_whitespace().map(|p| p.parse().unwrap()).chain([postmaster]).collect();
    all.iter().for_each(|p| signal(*p, Signal::STOP));
    let started = Instant::now();
    let done = client.rows("UPDATE t SET v = 2 WHERE id = 1");
    let took = started.elapsed();
    all.iter().for_each(|p| signal(*p, Signal::CONT));
    done.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(sandbox.log().contains("it does not answer"), "{}", sandbox.log());
    client.rows("UPDATE t SET v = 3 WHERE id = 1").unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT v FROM t WHERE id = 1")[..2], ["3", "3"]);
}
