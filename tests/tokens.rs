//! "Read at or after this": `SHOW pglockstep.snapshot`, `SHOW pglockstep.last_commit`, `SET pglockstep.min_csn`.

mod support;

use std::time::Duration;

use pglockstep::sandbox::process::Signal;
use support::{Options, Sandbox};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

fn start(mode: &str) -> Sandbox {
    let config =
        format!("[cluster]\nbackend_clustering_mode = \"{mode}\"\n[replication]\nmin_csn_timeout = \"1500ms\"\n");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)"]);
    sandbox
}

async fn connect(sandbox: &Sandbox) -> Client {
    connect_with(sandbox, "").await
}

async fn connect_with(sandbox: &Sandbox, options: &str) -> Client {
    let mut config: tokio_postgres::Config = sandbox.url("postgres").parse().unwrap();
    config.options(options);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The one value of a string's last statement, by the simple protocol.
async fn simple(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let rows = messages.iter().filter_map(|m| if let SimpleQueryMessage::Row(r) = m { r.get(0) } else { None });
    rows.last().unwrap_or_default().to_owned()
}

/// The one value, by the extended protocol: Parse, Describe, Bind, Execute.
async fn extended(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
}

fn csn(token: &str) -> u64 {
    token.rsplit('/').next().unwrap().parse().unwrap()
}

fn state(e: &tokio_postgres::Error) -> SqlState {
    e.code().unwrap_or_else(|| panic!("{e:?}")).clone()
}

#[tokio::test]
async fn a_session_is_told_its_newest_commit_and_its_snapshot() {
    for mode in ["snapshot_isolation", "native_replication"] {
        let sandbox = start(mode);
        let (a, b) = (connect(&sandbox).await, connect(&sandbox).await);
        assert_eq!(simple(&a, "SHOW pglockstep.last_commit").await, "0", "{mode}");
        assert_eq!(extended(&b, "show PGLOCKSTEP.last_commit").await, "0", "{mode}");
        // A setting that nobody has set is none, as with any other custom parameter.
        let unset = a.simple_query("SHOW pglockstep.min_csn").await.unwrap_err();
        assert_eq!(state(&unset), SqlState::UNDEFINED_OBJECT, "{mode}");
        let unset = b.query("SHOW pglockstep.min_csn", &[]).await.unwrap_err();
        assert_eq!(state(&unset), SqlState::UNDEFINED_OBJECT, "{mode}");
        a.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
        let first = csn(&simple(&a, "SHOW pglockstep.last_commit;").await);
        b.execute("UPDATE t SET v = v + 1 WHERE id = $1", &[&1]).await.unwrap();
        let second = csn(&extended(&b, "SHOW \"pglockstep\".last_commit").await);
        assert!(0 < first && first < second, "{mode}: {first} {second}");
        // A read and a transaction that is rolled back are no commits.
        b.batch_execute("SELECT 1; BEGIN; UPDATE t SET v = 100; ROLLBACK").await.unwrap();
        assert_eq!(csn(&extended(&b, "SHOW pglockstep.last_commit").await), second);
        assert_eq!(csn(&simple(&a, "SHOW pglockstep.last_commit").await), first);
        // Outside a block, the snapshot that a statement would get now.
        assert_eq!(csn(&simple(&a, "SHOW pglockstep.snapshot").await), second);
        // In a block, that of the block: what others commit later does not change it.
        for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"] {
            a.batch_execute(begin).await.unwrap();
            let token = csn(&extended(&a, "SHOW pglockstep.snapshot").await);
            let seen = simple(&a, "SELECT v FROM t").await;
            b.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
            let newer = csn(&simple(&b, "SHOW pglockstep.last_commit").await);
            assert!(token < newer, "{mode}: {token} {newer}");
            assert_eq!(csn(&simple(&a, "SHOW pglockstep.snapshot").await), token, "{mode} {begin}");
            assert_eq!(simple(&a, "SELECT v FROM t").await, seen, "{mode}: the snapshot was not taken with its token");
            a.batch_execute("COMMIT").await.unwrap();
            assert_eq!(csn(&simple(&a, "SHOW pglockstep.snapshot").await), newer);
        }
        // At READ COMMITTED each statement has one of its own.
        a.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.unwrap();
        let token = csn(&simple(&a, "SHOW pglockstep.snapshot").await);
        b.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
        simple(&a, "SELECT v FROM t").await;
        assert!(csn(&extended(&a, "SHOW pglockstep.snapshot").await) > token);
        // A block that has failed refuses it as everything else.
        a.batch_execute("SELECT 1 / 0").await.unwrap_err();
        let e = a.simple_query("SHOW pglockstep.snapshot").await.unwrap_err();
        assert_eq!(state(&e), SqlState::IN_FAILED_SQL_TRANSACTION);
        a.batch_execute("ROLLBACK").await.unwrap();
        std::thread::scope(|s| s.spawn(|| sandbox.assert_nodes_equal("postgres")).join()).unwrap();
    }
}

#[tokio::test]
async fn later_reads_wait_for_the_commit_that_min_csn_names() {
    for mode in ["snapshot_isolation", "native_replication"] {
        let sandbox = start(mode);
        let (a, b) = (connect(&sandbox).await, connect(&sandbox).await);
        a.batch_execute("UPDATE t SET v = 1 WHERE id = 1").await.unwrap();
        let last = csn(&simple(&a, "SHOW pglockstep.last_commit").await);
        // What there is already nobody waits for; a token serves as well.
        b.batch_execute(&format!("SET pglockstep.min_csn = {last}")).await.unwrap();
        assert_eq!(simple(&b, "SELECT v FROM t").await, "1");
        let token = simple(&a, "SHOW pglockstep.snapshot").await;
        b.batch_execute(&format!("SET pglockstep.min_csn TO '{token}'")).await.unwrap();
        assert_eq!(b.query_one("SELECT v FROM t", &[]).await.unwrap().get::<_, i32>(0), 1);
        assert_eq!(simple(&b, "SHOW pglockstep.min_csn").await, token);
        // The one after it: the read is answered when another session has made it.
        for by_extended in [false, true] {
            let next = csn(&simple(&a, "SHOW pglockstep.snapshot").await) + 1;
            b.batch_execute(&format!("SET pglockstep.min_csn = {next}")).await.unwrap();
            let read = async {
                if by_extended {
                    b.query_one("SELECT v FROM t WHERE id = $1", &[&1]).await.unwrap().get::<_, i32>(0).to_string()
                } else {
                    simple(&b, "SELECT v FROM t").await
                }
            };
            let write = async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                a.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
                simple(&a, "SELECT v FROM t").await
            };
            let (read, written) = tokio::join!(read, write);
            assert_eq!(read, written, "{mode}: the read did not wait");
        }
        // One that nobody makes: an error, and the session goes on.
        let never = csn(&simple(&a, "SHOW pglockstep.snapshot").await) + 1000;
        b.batch_execute(&format!("SET pglockstep.min_csn = {never}")).await.unwrap();
        let e = b.simple_query("SELECT v FROM t").await.unwrap_err();
        assert_eq!(state(&e), SqlState::QUERY_CANCELED, "{e:?}");
        let e = b.query("SELECT v FROM t", &[]).await.unwrap_err();
        assert_eq!(state(&e), SqlState::QUERY_CANCELED, "{e:?}");
        // Who waits can be cancelled.
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            b.cancel_token().cancel_query(NoTls).await.unwrap();
        };
        let (read, ()) = tokio::join!(b.simple_query("SELECT v FROM t"), cancel);
        assert_eq!(read.unwrap_err().as_db_error().unwrap().message(), "canceling statement due to user request");
        b.batch_execute("RESET pglockstep.min_csn").await.unwrap();
        simple(&b, "SELECT v FROM t").await;
    }
}

#[tokio::test]
async fn min_csn_is_what_the_server_says_it_is() {
    let sandbox = start("snapshot_isolation");
    let a = connect(&sandbox).await;
    a.batch_execute("UPDATE t SET v = 1 WHERE id = 1").await.unwrap();
    let never = csn(&simple(&a, "SHOW pglockstep.last_commit").await) + 1000;
    let waits = async |why: &str| {
        let e = a.simple_query("SELECT v FROM t").await.expect_err(why);
        assert_eq!(state(&e), SqlState::QUERY_CANCELED, "{why}: {e:?}");
    };
    // A block takes it back, or keeps it.
    a.batch_execute(&format!("BEGIN; SET pglockstep.min_csn = {never}; ROLLBACK")).await.unwrap();
    simple(&a, "SELECT v FROM t").await;
    a.batch_execute(&format!("BEGIN; SET LOCAL pglockstep.min_csn = {never}")).await.unwrap();
    waits("SET LOCAL").await;
    a.batch_execute("ROLLBACK").await.unwrap();
    simple(&a, "SELECT v FROM t").await;
    a.batch_execute(&format!("BEGIN; SAVEPOINT s; SET pglockstep.min_csn = {never}; ROLLBACK TO s; COMMIT"))
        .await
        .unwrap();
    simple(&a, "SELECT v FROM t").await;
    a.batch_execute(&format!("BEGIN; SET pglockstep.min_csn = {never}; COMMIT")).await.unwrap();
    waits("a block that committed").await;
    a.batch_execute("DISCARD ALL").await.unwrap();
    simple(&a, "SELECT v FROM t").await;
    simple(&a, &format!("SELECT set_config('pglockstep.min_csn', '{never}', false)")).await;
    waits("set_config").await;
    a.batch_execute("RESET ALL").await.unwrap();
    simple(&a, "SELECT v FROM t").await;
    // In one string, what stands behind it.
    let e = a.batch_execute(&format!("SET pglockstep.min_csn = {never}; SELECT v FROM t")).await.unwrap_err();
    assert_eq!(state(&e), SqlState::QUERY_CANCELED);
    simple(&a, "SELECT v FROM t").await;
    // From the start-up packet.
    let b = connect_with(&sandbox, &format!("-c pglockstep.min_csn={never}")).await;
    assert_eq!(state(&b.simple_query("SELECT v FROM t").await.unwrap_err()), SqlState::QUERY_CANCELED);
    // What is no number is refused, at once or when it counts.
    for value in ["abc", "-1", "'1.5'", "'1/x'"] {
        let e = a.batch_execute(&format!("SET pglockstep.min_csn = {value}")).await.unwrap_err();
        assert_eq!(state(&e), SqlState::INVALID_PARAMETER_VALUE, "{value}");
    }
    simple(&a, "SELECT set_config('pglockstep.min_csn', 'x', false)").await;
    assert_eq!(state(&a.simple_query("SELECT v FROM t").await.unwrap_err()), SqlState::INVALID_PARAMETER_VALUE);
    a.batch_execute("SET pglockstep.min_csn = DEFAULT").await.unwrap();
    simple(&a, "SELECT v FROM t").await;
    let e = a.batch_execute("SET pglockstep.last_commit = 1").await.unwrap_err();
    assert_eq!(state(&e), SqlState::CANT_CHANGE_RUNTIME_PARAM);
    let e = a.batch_execute("SHOW pglockstep.nonsense").await.unwrap_err();
    assert_eq!(state(&e), SqlState::UNDEFINED_OBJECT);
}

#[test]
fn a_restart_gives_no_number_again() {
    let mut sandbox = start("snapshot_isolation");
    let commit = |s: &Sandbox| {
        let told =
            s.psql_ok(&["-qAt", "-c", "UPDATE t SET v = v + 1 WHERE id = 1", "-c", "SHOW pglockstep.last_commit"]);
        told.trim().parse::<u64>().unwrap()
    };
    let before = commit(&sandbox);
    sandbox.restart_proxy(Signal::TERM);
    let after = commit(&sandbox);
    assert!(before > 0 && after > before, "{before} before the restart, {after} after it");
}
