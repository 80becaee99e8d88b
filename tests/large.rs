//! Transactions larger than memory should hold: early start, spill files, the right of way.

mod support;

use std::time::{Duration, Instant};
use support::{Options, Sandbox};

fn sandbox(config: &str) -> Sandbox {
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let tables = "CREATE TABLE big (id int PRIMARY KEY, pad text); CREATE TABLE t (id int PRIMARY KEY, v int); \
                  INSERT INTO t SELECT n, 0 FROM generate_series(1, 4) n";
    sandbox.psql_ok(&["-q", "-c", tables]);
    sandbox
}

fn appliers(sandbox: &Sandbox, condition: &str) -> usize {
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pglockstep applier' AND {condition}");
    sandbox.on_nodes("postgres", &sql)[1..].iter().map(|n| n.parse::<usize>().unwrap()).sum()
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Statement texts of about 100 kB each.
fn insert(from: usize, to: usize) -> String {
    let row = "x".repeat(100_000);
    (from..to).map(|id| format!("INSERT INTO big VALUES ({id}, '{row}');")).collect()
}

#[test]
fn a_load_beyond_script_limit_goes_through_a_spill_file_and_reaches_every_node() {
    let sandbox = sandbox("[replication]\nscript_limit = \"256kB\"\nearly_start = \"64kB\"\n");
    let file = sandbox.dir().join("load.csv");
    let rows: String = (0..200_000).map(|n| format!("{n},{n} of a long load that does not fit\n")).collect();
    std::fs::write(&file, &rows).unwrap();
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE lines (id int PRIMARY KEY, t text)"]);
    let copy = format!("\\copy lines FROM '{}' CSV", file.display());
    sandbox.psql_ok(&["-q", "-c", "BEGIN", "-c", "UPDATE t SET v = 1", "-c", &copy, "-c", "COMMIT"]);
    sandbox.connect("postgres").rows(&insert(1, 30)).unwrap();
    sandbox.assert_nodes_equal("postgres");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM lines"), ["200000"; 3]);
    let left = std::fs::read_dir(sandbox.dir().join("work")).unwrap().count();
    assert!(left <= 3, "{left} files are left in work_dir");
}

#[test]
fn a_large_transaction_is_on_the_replicas_before_it_commits_and_goes_from_there_when_it_fails() {
    let sandbox = sandbox("");
    let client = sandbox.connect("postgres");
    client.rows(&format!("BEGIN; {}", insert(1, 6))).unwrap();
    wait_for("an early start", || appliers(&sandbox, "state <> 'idle'") == 2);
    client.rows(&insert(10, 12)).unwrap();
    client.rows("COMMIT").unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM big"), ["7"; 3]);

    // Failed on main, rolled back, taken back: nothing of it stays on a replica, while the client has not spoken yet.
    for end in ["SELECT 1/0", "ROLLBACK", "ROLLBACK TO s"] {
        client.rows(&format!("BEGIN; UPDATE t SET v = v + 1 WHERE id = 1; SAVEPOINT s; {}", insert(20, 26))).unwrap();
        wait_for("an early start", || appliers(&sandbox, "state <> 'idle'") == 2);
        assert_eq!(client.rows(end).is_err(), end == "SELECT 1/0");
        wait_for("an end of it", || appliers(&sandbox, "state <> 'idle'") == 0);
        client.rows("ROLLBACK").unwrap();
    }
    client.rows(&format!("BEGIN; {} SAVEPOINT s; {}", insert(30, 33), insert(40, 43))).unwrap();
    wait_for("an early start", || appliers(&sandbox, "state <> 'idle'") == 2);
    client.rows(&format!("ROLLBACK TO s; {} COMMIT", insert(50, 53))).unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT sum(id) FROM big"), ["282"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

/// Hazard 64: an early applier holds what main does not, since it saw a newer row than main's snapshot had.
#[test]
fn an_early_applier_never_makes_a_committing_transaction_wait() {
    let sandbox = sandbox("[replication]\nimages = false\n");
    // Not a plain table: its writes go as the statements that they are, which may lock what main has not.
    sandbox.psql_ok(&["-q", "-c", "ALTER TABLE t ENABLE ROW LEVEL SECURITY"]);
    let (early, other) = (sandbox.connect("postgres"), sandbox.connect("postgres"));
    early.rows("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").unwrap();
    other.rows("INSERT INTO t VALUES (5, 0)").unwrap();
    early.rows(&format!("{} UPDATE t SET v = 1 WHERE id IN (4, 5)", insert(1, 6))).unwrap();
    wait_for("an early start", || appliers(&sandbox, "query LIKE 'UPDATE t %'") == 2);
    let started = Instant::now();
    other.rows("UPDATE t SET v = 9 WHERE id = 5").unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    early.rows("ROLLBACK").unwrap();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT v FROM t WHERE id = 5"), ["9"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn a_copy_that_fails_leaves_nothing_behind_and_the_session_goes_on() {
    let sandbox = sandbox("[replication]\nearly_start = \"64kB\"\n");
    let file = sandbox.dir().join("bad.csv");
    let rows: String = (100..50_000).map(|n| format!("{n},fine\n")).collect();
    std::fs::write(&file, rows + "1,twice\n1,twice\n").unwrap();
    let copy = format!("\\copy big FROM '{}' CSV", file.display());
    let output = sandbox.psql(&["-q", "-c", &copy, "-c", "INSERT INTO t VALUES (7, 7)"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("duplicate key value"));
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM big"), ["0"; 3]);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["5"; 3]);
    sandbox.assert_nothing_in_transaction();
}
