//! Main is lost: what was acknowledged is there, the nodes that stay are identical, and clients go on.

mod support;

use pglockstep::sandbox::compare::compare_nodes;
use pglockstep::sandbox::process::{Signal, signal};
use pglockstep::wire::error::ErrorFields;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::raw::Raw;
use support::{Options, Sandbox};
use tokio_postgres::NoTls;

/// Clients at the same time.
const CLIENTS: i32 = 8;
/// Accounts that they fight over.
const ROWS: i32 = 20;
/// How long they work before main is lost, and after.
const WORK: Duration = Duration::from_secs(3);
/// Nobody may wait longer than this for a statement.
const PATIENCE: Duration = Duration::from_secs(30);

const HEALTH: &str = "[health_check]\nhealth_check_period = '1s'\nhealth_check_timeout = '3s'\n\
                      health_check_max_retries = 1\nhealth_check_retry_delay = '200ms'\n";

fn sandbox() -> Sandbox {
    Sandbox::start(Options { config: HEALTH.into(), ..Options::default() })
}

/// What the clients of a run came to.
#[derive(Default)]
struct Tally {
    /// Client and number of each transaction whose COMMIT was answered.
    acknowledged: Vec<(i32, i32)>,
    /// Errors that a transaction must be run again for.
    again: u64,
    /// The longest time between two acknowledgements of one client.
    longest: Duration,
}

/// One client on one connection: nothing but 40001 may come in its way.
async fn work(url: String, id: i32, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Tally {
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let done = client.prepare("INSERT INTO done VALUES ($1, $2)").await.unwrap();
    let (mut tally, mut n, mut last) = (Tally::default(), 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let (a, b) = ((id * 7 + n * 3) % ROWS, (id * 5 + n * 11 + 1) % ROWS);
        let (a, b) = (a.min(b), a.max(b));
        let transaction = async {
            match n % 4 {
                0 => {
                    client.batch_execute("BEGIN").await?;
                    client.execute(&done, &[&id, &n]).await?;
                    client.batch_execute(&format!("UPDATE account SET n = n - 1 WHERE id = {a}")).await?;
                    client.batch_execute(&format!("UPDATE account SET n = n + 1 WHERE id = {b}")).await?;
                    client.batch_execute("COMMIT").await
                }
                1 => client.execute(&done, &[&id, &n]).await.map(drop),
                2 => client.batch_execute(&format!("INSERT INTO done VALUES ({id}, {n})")).await,
                _ => {
                    let move_one = format!(
                        "BEGIN; INSERT INTO done VALUES ({id}, {n}); UPDATE account SET n = n - 2 WHERE id = {a}; \
                         UPDATE account SET n = n + 2 WHERE id = {b}; COMMIT"
                    );
                    client.batch_execute(&move_one).await
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, transaction).await;
        match ended.unwrap_or_else(|_| panic!("client {id} has waited too long for {n}")) {
            Ok(()) => {
                tally.acknowledged.push((id, n));
                tally.longest = tally.longest.max(last.elapsed());
                last = Instant::now();
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                let code = e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned());
                assert_eq!(code, "40001", "client {id}, transaction {n}: {e}");
                tally.again += 1;
                // As a client should that was in a block; outside of one it is told so.
                client.batch_execute("ROLLBACK").await.unwrap();
            }
        }
    }
    tally
}

/// Clients at work; main is lost in the way that `lose` knows; clients at work.
fn lose_under_load(what: &str, lose: impl FnOnce(&Sandbox)) {
    let sandbox = sandbox();
    let mut schema = Raw::login(&sandbox.summary.proxy(), "postgres");
    schema.run("CREATE TABLE account (id int PRIMARY KEY, n int NOT NULL)");
    schema.run("INSERT INTO account SELECT i, 100 FROM generate_series(0, 19) i");
    schema.run("CREATE TABLE done (client int, n int, PRIMARY KEY (client, n))");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = |id| {
        let client = work(sandbox.url("postgres"), id, stop.clone(), count.clone());
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(client)
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(start).collect();
    std::thread::sleep(WORK);
    let before = count.load(Ordering::Relaxed);
    lose(&sandbox);
    sandbox.wait_for_log("another node is main");
    std::thread::sleep(WORK);
    stop.store(true, Ordering::Relaxed);
    signal(sandbox.summary.nodes[0].pid, Signal::CONT);
    let tallies: Vec<Tally> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    let after = count.load(Ordering::Relaxed) - before;
    let (again, longest) = (tallies.iter().map(|t| t.again).sum::<u64>(), tallies.iter().map(|t| t.longest).max());
    println!("{what}: {before} transactions before, {after} after, {again} run again, longest gap {longest:?}");
    assert!(before > 0 && after > 0, "{what}: {before} transactions before, {after} after");

    // The old main may be there and differ: it is out.
    let survivors = &sandbox.nodes()[1..];
    let comparison = compare_nodes(survivors, "postgres").unwrap();
    assert!(comparison.is_equal(), "{what}: the nodes differ:\n{}", comparison.to_text());
    for node in 1..3 {
        let client = sandbox.connect_node(node, "postgres");
        assert_eq!(client.value("SELECT sum(n)::text FROM account").unwrap(), "2000");
        let rows = client.rows("SELECT client || ' ' || n FROM done").unwrap();
        let there: BTreeSet<String> = rows.into_iter().filter_map(|mut r| r.pop().flatten()).collect();
        for (client, n) in tallies.iter().flat_map(|t| &t.acknowledged) {
            let row = format!("{client} {n}");
            assert!(there.contains(&row), "{what}: {n} of client {client} was acknowledged and is lost");
        }
    }
}

#[test]
fn a_main_that_is_killed_under_load_costs_nothing_that_was_acknowledged() {
    lose_under_load("kill -9 of the postmaster", |s| signal(s.summary.nodes[0].pid, Signal::KILL));
}

#[test]
fn a_main_that_is_stopped_under_load_costs_nothing_that_was_acknowledged() {
    lose_under_load("fast stop", |s| signal(s.summary.nodes[0].pid, Signal::INT));
}

#[test]
fn a_main_that_lets_nobody_in_is_left_while_its_old_backends_still_answer() {
    // A stopped postmaster: its backends go on.
    lose_under_load("SIGSTOP of the postmaster", |s| signal(s.summary.nodes[0].pid, Signal::STOP));
    lose_under_load("smart stop", |s| signal(s.summary.nodes[0].pid, Signal::TERM));
}

#[test]
fn a_main_that_restarts_after_a_crash_under_load_is_noticed() {
    lose_under_load("crash of one backend", |s| {
        let pid = s.connect_node(0, "postgres").value(
            "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
             AND application_name NOT LIKE 'pglockstep%' LIMIT 1",
        );
        signal(pid.unwrap().parse().unwrap(), Signal::KILL);
    });
}

fn code(error: Option<ErrorFields>) -> String {
    error.map_or_else(String::new, |e| e.sqlstate)
}

/// The state that ReadyForQuery tells after this query, which must succeed; and its last tag.
fn status(raw: &mut Raw, sql: &str) -> (u8, String) {
    raw.query(sql);
    let mut tag = Vec::new();
    loop {
        match raw.message().expect("the connection was closed") {
            (b'C', body) => tag = body,
            (b'Z', body) => return (body[0], String::from_utf8_lossy(&tag).trim_end_matches('\0').to_owned()),
            (b'E', body) => panic!("{sql}: {:?}", ErrorFields::parse(&body)),
            _ => {}
        }
    }
}

#[test]
fn each_session_is_told_the_truth_when_main_is_lost_and_goes_on_if_nothing_of_it_lived_there() {
    let sandbox = sandbox();
    let proxy = sandbox.summary.proxy();
    let login = || Raw::login(&proxy, "postgres");
    login().run("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL); INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)");

    let mut idle = login();
    idle.run("SET search_path = pg_catalog, public; SET DateStyle = 'German'");
    idle.send(b'P', b"kept\0SELECT b FROM t WHERE a = $1\0\0\0");
    idle.send(b'S', b"");
    idle.until(b'Z');
    let mut block = login();
    block.run("BEGIN; UPDATE t SET b = b + 1 WHERE a = 1");
    let mut commits = login();
    commits.run("BEGIN; UPDATE t SET b = b + 1 WHERE a = 2");
    let mut failed = login();
    failed.query("BEGIN; SELECT 1/0");
    assert_eq!(code(failed.refusal().0), "22012");
    let mut begun = login();
    begun.run("BEGIN");
    let mut bound = [login(), login(), login()];
    bound[0].run("CREATE TEMPORARY TABLE mine (a int)");
    bound[1].run("SELECT pg_advisory_lock(1)");
    bound[2].run("LISTEN news");
    // These wait for a lock: of the block, whose transaction is lost with main.
    let mut waits = login();
    waits.query("UPDATE t SET b = b + 10 WHERE a = 1");
    let mut waits_in_block = login();
    waits_in_block.run("BEGIN");
    waits_in_block.query("UPDATE t SET b = b + 100 WHERE a = 1");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    sandbox.wait_on_node(0, waiting, "2");

    signal(sandbox.summary.nodes[0].pid, Signal::KILL);

    for raw in &mut bound {
        let (error, closed) = raw.refusal();
        assert_eq!((code(error).as_str(), closed), ("57P01", true));
    }
    // A statement outside a block of which nothing had happened is run again.
    waits.until(b'Z');
    let (error, closed) = waits_in_block.refusal();
    assert_eq!((code(error).as_str(), closed), ("40001", false));
    assert_eq!(status(&mut waits_in_block, "ROLLBACK"), (b'I', "ROLLBACK".into()));
    waits_in_block.run("SELECT 1");

    block.query("UPDATE t SET b = b + 1 WHERE a = 1");
    assert_eq!(code(block.refusal().0), "40001");
    block.query("SELECT 1");
    assert_eq!(code(block.refusal().0), "25P02");
    assert_eq!(status(&mut block, "ROLLBACK"), (b'I', "ROLLBACK".into()));
    assert_eq!(status(&mut block, "BEGIN; UPDATE t SET b = b + 1 WHERE a = 3; COMMIT"), (b'I', "COMMIT".into()));
    commits.query("COMMIT");
    assert_eq!(code(commits.refusal().0), "40001");
    assert_eq!(status(&mut commits, "SELECT 1"), (b'I', "SELECT 1".into()));
    failed.query("SELECT 1");
    assert_eq!(code(failed.refusal().0), "25P02");
    assert_eq!(status(&mut failed, "COMMIT"), (b'I', "ROLLBACK".into()));
    assert_eq!(status(&mut begun, "UPDATE t SET b = b + 1 WHERE a = 2"), (b'T', "UPDATE 1".into()));
    assert_eq!(status(&mut begun, "COMMIT"), (b'I', "COMMIT".into()));

    idle.send(b'B', b"\0kept\0\0\0\0\x01\0\0\0\x013\0\0");
    idle.send(b'E', b"\0\0\0\0\0");
    idle.send(b'S', b"");
    assert_eq!(idle.until(b'D'), b"\0\x01\0\0\0\x011");
    idle.until(b'Z');
    idle.query("SELECT current_setting('search_path') || current_setting('DateStyle')");
    assert!(String::from_utf8_lossy(&idle.until(b'D')).contains("pg_catalog, publicGerman"));

    // New clients are let in, and DDL goes everywhere that is left.
    login().run("CREATE TABLE u (a int PRIMARY KEY)");
    for node in 1..3 {
        let rows = "SELECT string_agg(a || ':' || b, ' ' ORDER BY a) FROM t";
        assert_eq!(sandbox.connect_node(node, "postgres").value(rows).unwrap(), "1:10 2:1 3:1");
    }
    let comparison = compare_nodes(&sandbox.nodes()[1..], "postgres").unwrap();
    assert!(comparison.is_equal(), "{}", comparison.to_text());
}

#[test]
fn pgbench_retries_what_main_took_with_it_and_no_transaction_fails() {
    let sandbox = sandbox();
    sandbox.pgbench(&["-i", "-s", "1", "-q"]);
    for protocol in ["simple", "prepared"] {
        let main = usize::from(protocol == "prepared");
        let mut command = sandbox.program("pgbench");
        command.args(["-n", "-c", "8", "-T", "8", "--max-tries", "20", "-M", protocol]);
        let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(3));
        signal(sandbox.summary.nodes[main].pid, Signal::KILL);
        let output = running.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains("aborted"), "{told}\n{}", sandbox.log());
        assert!(told.contains("number of failed transactions: 0 "), "{told}");
        println!("{protocol}: {told}");
    }
    let client = sandbox.connect_node(2, "postgres");
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
                AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)";
    assert_eq!(client.value(sums).unwrap(), "t");
}

/// A statement that main was lost under may have come as far as its commit: then it is told to be run again.
fn run_again(raw: &mut Raw, sql: &str) {
    loop {
        raw.query(sql);
        let mut error = None;
        loop {
            match raw.message().expect("the connection stays") {
                (b'Z', _) => break,
                (b'E', body) => error = Some(ErrorFields::parse(&body)),
                _ => {}
            }
        }
        match error {
            None => return,
            Some(e) => assert_eq!(e.sqlstate, "40001", "{e:?}"),
        }
    }
}

#[test]
fn two_nodes_lost_one_after_the_other_leave_the_last_one_serving() {
    let sandbox = sandbox();
    let mut raw = Raw::login(&sandbox.summary.proxy(), "postgres");
    raw.run("CREATE TABLE t (a int PRIMARY KEY)");
    for (node, a) in [(0, 1), (1, 2)] {
        raw.run(&format!("INSERT INTO t VALUES ({a})"));
        signal(sandbox.summary.nodes[node].pid, Signal::KILL);
        run_again(&mut raw, &format!("INSERT INTO t VALUES ({a}0)"));
    }
    let values = sandbox.connect_node(2, "postgres").value("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t");
    assert_eq!(values.unwrap(), "1 2 10 20");
}
