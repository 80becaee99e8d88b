//! Bugs that were, each as the scenario that showed it.

mod support;

use support::{Options, Sandbox};
use tokio_postgres::NoTls;

async fn connect(sandbox: &Sandbox) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&sandbox.url("postgres"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The sandbox's own calls block, which the thread of a runtime may not: they go to a thread of theirs.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn earlier_bugs_stay_away() {
    let sandbox = Sandbox::start(Options::default());
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE t (a int PRIMARY KEY, b text)"]);
    run(async {
        a_refused_statement_is_not_taken_for_the_answer_to_a_later_commit(&sandbox).await;
        a_portal_may_be_the_first_thing_in_a_transaction(&sandbox).await;
        copy_to_stdout_in_a_writing_transaction_ends(&sandbox).await;
        begin_twice_leaves_no_transaction_open(&sandbox).await;
        temporary_tables_stay_on_main(&sandbox).await;
        catalogue_changes_are_seen_by_statements_that_were_prepared_before(&sandbox).await;
    });
    a_default_keeps_its_time_function(&sandbox);
    a_database_with_idle_appliers_can_be_dropped(&sandbox);
    sandbox.assert_nothing_in_transaction();
    sandbox.assert_nodes_equal("postgres");
}

/// The transaction was committed on main, reported as failed, and missing on the replicas.
async fn a_refused_statement_is_not_taken_for_the_answer_to_a_later_commit(sandbox: &Sandbox) {
    let c = connect(sandbox).await;
    c.batch_execute("BEGIN").await.unwrap();
    c.execute("INSERT INTO t VALUES (8, NULL)", &[]).await.unwrap();
    c.batch_execute("COMMIT").await.unwrap();
    c.query("SELECT a FROM t LIMIT 1", &[]).await.unwrap();
    c.batch_execute("BEGIN READ ONLY").await.unwrap();
    c.query("SELECT a FROM t LIMIT 1", &[]).await.unwrap();
    assert!(c.execute("DELETE FROM t WHERE a = 1", &[]).await.is_err());
    c.batch_execute("ROLLBACK").await.unwrap();
    c.batch_execute("BEGIN").await.unwrap();
    c.execute("INSERT INTO t VALUES (9, NULL)", &[]).await.unwrap();
    c.batch_execute("COMMIT").await.unwrap();
    aside(|| sandbox.assert_nodes_equal("postgres"));
}

/// Bind without Execute did not open the transaction, and the portal was gone at Sync.
async fn a_portal_may_be_the_first_thing_in_a_transaction(sandbox: &Sandbox) {
    let mut c = connect(sandbox).await;
    let tx = c.transaction().await.unwrap();
    let portal = tx.bind("SELECT a FROM t ORDER BY a", &[]).await.unwrap();
    assert_eq!(tx.query_portal(&portal, 1).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
}

/// The replica's CopyOutResponse counted as nonsense, for ever.
async fn copy_to_stdout_in_a_writing_transaction_ends(sandbox: &Sandbox) {
    use futures_util::TryStreamExt;
    let mut c = connect(sandbox).await;
    c.batch_execute("CREATE FUNCTION touch() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    let tx = c.transaction().await.unwrap();
    tx.execute("INSERT INTO t VALUES (10, NULL)", &[]).await.unwrap();
    let rows: Vec<bytes::Bytes> =
        tx.copy_out("COPY (SELECT touch()) TO STDOUT").await.unwrap().try_collect().await.unwrap();
    assert_eq!(rows.concat(), b"1\n");
    tx.commit().await.unwrap();
}

/// The second BEGIN reached main although the first had been answered here, and COMMIT then ended nothing there.
async fn begin_twice_leaves_no_transaction_open(sandbox: &Sandbox) {
    let c = connect(sandbox).await;
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute("COMMIT").await.unwrap();
    aside(|| sandbox.assert_nothing_in_transaction());
}

async fn temporary_tables_stay_on_main(sandbox: &Sandbox) {
    let c = connect(sandbox).await;
    // By the extended protocol: its name was not noted there.
    c.execute("CREATE TEMP TABLE scratch (a int)", &[]).await.unwrap();
    c.execute("INSERT INTO scratch VALUES ($1)", &[&1i32]).await.unwrap();
    c.batch_execute("SELECT 7 AS a INTO TEMP other; BEGIN; INSERT INTO t VALUES (11, NULL); SELECT * FROM scratch; TRUNCATE scratch; COMMIT").await.unwrap();
    let refused = c.batch_execute("INSERT INTO t SELECT a, 'x' FROM other").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "0A000");
    // It is gone after this, and a permanent one of its name must not be taken for it.
    c.batch_execute("BEGIN; CREATE TEMP TABLE twin (a int) ON COMMIT DROP; COMMIT").await.unwrap();
    let refused = c.batch_execute("CREATE TABLE twin (a int)").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "0A000");
    aside(|| sandbox.psql_ok(&["-q", "-c", "CREATE TABLE twin (a int)"]));
    let refused = c.batch_execute("INSERT INTO twin VALUES (1)").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "0A000");
    c.batch_execute("DISCARD ALL").await.unwrap();
    c.batch_execute("INSERT INTO twin VALUES (1)").await.unwrap();
    aside(|| sandbox.assert_nodes_equal("postgres"));
}

/// A statement that was proved to be a read when it was prepared is a write after its function was replaced.
async fn catalogue_changes_are_seen_by_statements_that_were_prepared_before(sandbox: &Sandbox) {
    let c = connect(sandbox).await;
    c.batch_execute("CREATE FUNCTION f() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    let prepared = c.prepare("SELECT f()").await.unwrap();
    for _ in 0..5 {
        c.query(&prepared, &[]).await.unwrap();
    }
    let other = connect(sandbox).await;
    let body = "'INSERT INTO t VALUES (77, NULL) ON CONFLICT DO NOTHING; SELECT 2'";
    let sql = format!("CREATE OR REPLACE FUNCTION f() RETURNS int VOLATILE LANGUAGE sql AS {body}");
    other.batch_execute(&sql).await.unwrap();
    let row = c.query_one(&prepared, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    let there = aside(|| sandbox.on_nodes("postgres", "SELECT count(*) FROM t WHERE a = 77"));
    assert_eq!(there, ["1"; 3]);
}

/// now() in a definition became a literal on the replicas.
fn a_default_keeps_its_time_function(sandbox: &Sandbox) {
    let sql = "CREATE TABLE defaults (id int PRIMARY KEY, at timestamptz DEFAULT now()); \
               CREATE VIEW today AS SELECT current_date; CREATE TABLE filled AS SELECT now() AS at";
    sandbox.psql_ok(&["-q", "-c", sql]);
    let defaults = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'defaults'::regclass";
    assert_eq!(sandbox.on_nodes("postgres", defaults), ["now()"; 3]);
    assert!(sandbox.on_nodes("postgres", "SELECT pg_get_viewdef('today')")[1].contains("CURRENT_DATE"));
    sandbox.assert_nodes_equal("postgres");
}

/// Idle appliers kept the database from being dropped on the replicas, which were then taken out.
fn a_database_with_idle_appliers_can_be_dropped(sandbox: &Sandbox) {
    sandbox.psql_ok(&["-q", "-c", "CREATE DATABASE gone"]);
    let client = sandbox.connect("gone");
    client.rows("CREATE TABLE x (a int); INSERT INTO x VALUES (1)").unwrap();
    drop(client);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !sandbox.psql(&["-q", "-c", "DROP DATABASE gone"]).status.success() {
        // The client's own backend on main takes a moment to leave.
        assert!(std::time::Instant::now() < end, "{}", sandbox.log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'gone'"), ["0"; 3]);
    sandbox.assert_no_node_lost();
}
