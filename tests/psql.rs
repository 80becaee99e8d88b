//! psql through the proxy, as a person uses it.

mod support;

use pglockstep::sandbox::process::{Signal, signal, wait_for};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Options, Sandbox};

#[test]
fn backslash_commands_show_tables_and_their_columns() {
    let sandbox = Sandbox::start(Options::default());
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE fruit (id int PRIMARY KEY, name text NOT NULL DEFAULT 'apple')"]);
    let table = sandbox.psql_ok(&["-c", "\\d fruit"]);
    assert!(table.contains("fruit_pkey") && table.contains("'apple'::text"), "{table}");
    assert!(sandbox.psql_ok(&["-c", "\\dt"]).contains("fruit"));
    assert!(sandbox.psql_ok(&["-c", "\\du"]).contains("postgres"));
    assert!(sandbox.psql_ok(&["-c", "\\l"]).contains("template1"));
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn copy_goes_in_and_out_and_reaches_every_node() {
    let sandbox = Sandbox::start(Options::default());
    let (source, target) = (sandbox.dir().join("in.csv"), sandbox.dir().join("out.csv"));
    let rows: String = (0..20_000).map(|n| format!("{n},\"text, with {n}\"\n")).collect();
    std::fs::write(&source, &rows).unwrap();
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE lines (id int PRIMARY KEY, t text)"]);
    sandbox.psql_ok(&["-q", "-c", &format!("\\copy lines FROM '{}' CSV", source.display())]);
    sandbox.psql_ok(&["-q", "-c", &format!("\\copy (TABLE lines ORDER BY id) TO '{}' CSV", target.display())]);
    assert_eq!(std::fs::read_to_string(target).unwrap(), rows);
    sandbox.assert_nodes_equal("postgres");

    std::fs::write(&source, "30000,fine\nnonsense,bad\n").unwrap();
    let refused = sandbox.psql(&["-c", &format!("\\copy lines FROM '{}' CSV", source.display())]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid input syntax for type integer"));
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM lines"), ["20000"; 3]);
}

#[test]
fn errors_come_with_their_fields_and_the_session_goes_on() {
    let sandbox = Sandbox::start(Options::default());
    let output = sandbox.psql(&["-v", "VERBOSITY=verbose", "-c", "SELECT 1 FROM nowhere", "-Atc", "SELECT 'alive'"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("42P01") && complaint.contains("nowhere") && complaint.contains("LINE 1"),
        "{complaint}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("alive"));

    let sql = "CREATE TABLE t (a int PRIMARY KEY); BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; \
               INSERT INTO t VALUES (1); ROLLBACK TO s; INSERT INTO t VALUES (2); COMMIT";
    let script = sql.replace("; ", ";\n");
    let file = sandbox.dir().join("script.sql");
    std::fs::write(&file, script).unwrap();
    let output = sandbox.psql(&["-q", "-f", file.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("duplicate key value"));
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), ["1,2"; 3]);
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn notices_are_shown() {
    let sandbox = Sandbox::start(Options::default());
    let output = sandbox.psql(&["-c", "DROP TABLE IF EXISTS nowhere"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("NOTICE"));
}

#[test]
fn wrong_password_unknown_user_and_unknown_database_are_refused_as_postgresql_does() {
    let sandbox = Sandbox::start(Options::default());
    let refused = |name: &str, value: &str| {
        let output = sandbox.program("psql").env(name, value).args(["-X", "-c", "SELECT 1"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let complaint = refused("PGPASSWORD", "wrong");
    assert!(complaint.contains("password authentication failed for user \"postgres\""), "{complaint}");
    let complaint = refused("PGUSER", "nobody_here");
    assert!(complaint.contains("password authentication failed for user \"nobody_here\""), "{complaint}");
    let complaint = refused("PGDATABASE", "nowhere");
    assert!(complaint.contains("database \"nowhere\" does not exist"), "{complaint}");
}

#[test]
fn ctrl_c_cancels_the_running_statement() {
    let sandbox = Sandbox::start(Options::default());
    let mut command = sandbox.program("psql");
    command.args(["-X", "-c", "SELECT pg_sleep(60)"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut psql = command.spawn().unwrap();
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    while sandbox.on_nodes("postgres", running).iter().all(|count| count == "0") {
        assert!(started.elapsed() < Duration::from_secs(20), "the statement does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(psql.id(), Signal::INT);
    assert!(wait_for(&mut psql, Duration::from_secs(10)).unwrap().is_some(), "psql was not released");
    let complaint = std::io::read_to_string(psql.stderr.take().unwrap()).unwrap();
    assert!(complaint.contains("canceling statement due to user request"), "{complaint}");
    assert!(sandbox.on_nodes("postgres", running).iter().all(|count| count == "0"));
}

#[test]
fn watch_repeats_a_statement_until_ctrl_c() {
    let sandbox = Sandbox::start(Options::default());
    let file = sandbox.dir().join("watch.out");
    // \watch needs its query in the same buffer, which several -c do not give: hence a script.
    let script = sandbox.dir().join("watch.sql");
    std::fs::write(&script, "SELECT 'tick' \\watch 0.2\n").unwrap();
    let mut command = sandbox.program("psql");
    command.args(["-X", "-At", "-f", script.to_str().unwrap()]).stdout(std::fs::File::create(&file).unwrap());
    let mut psql = command.spawn().unwrap();
    let ticks = || std::fs::read_to_string(&file).unwrap().matches("tick").count();
    let end = Instant::now() + Duration::from_secs(20);
    while ticks() < 3 {
        assert!(Instant::now() < end, "only {} ticks:\n{}", ticks(), sandbox.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    signal(psql.id(), Signal::INT);
    assert!(wait_for(&mut psql, Duration::from_secs(10)).unwrap().is_some());
}
