//! What main has done only in part: a query that writes as its rows are fetched. By its text the other nodes could only
//! do all of it, so such a transaction is committed by its image or not at all.

mod support;

use support::raw::Raw;
use support::{Options, Sandbox};

fn sandbox(images: bool) -> (Sandbox, Raw) {
    let config = format!("[replication]\nimages = {images}\n");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    let tables = "CREATE TABLE t (n int PRIMARY KEY); CREATE TABLE u (a int PRIMARY KEY); \
        CREATE FUNCTION put(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (n) RETURNING n'; \
        CREATE FUNCTION look(n int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT n'";
    sandbox.psql_ok(&["-q", "-c", tables]);
    let raw = Raw::login(&sandbox.summary.proxy(), "postgres");
    (sandbox, raw)
}

/// Parse and Bind of `portal`.
fn bind(raw: &mut Raw, portal: &str, sql: &str) {
    raw.send(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    raw.send(b'B', &[portal.as_bytes(), b"\0\0\0\0\0\0\0\0"].concat());
}

fn fetch(raw: &mut Raw, portal: &str, rows: u32) {
    raw.send(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat());
}

fn sync(raw: &mut Raw) {
    raw.send(b'S', b"");
    raw.until(b'Z');
}

fn is_refused(raw: &mut Raw) {
    let (error, closed) = raw.refusal();
    let e = error.unwrap();
    assert!(!closed && e.sqlstate == "0A000" && e.message.contains("not fetched to its end"), "{e:?}");
}

fn count(sandbox: &Sandbox) -> Vec<String> {
    sandbox.on_nodes("postgres", "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM u)")
}

const PUTS: &str = "SELECT put(n) FROM generate_series(1, 9) n";

#[test]
fn a_query_that_writes_is_committed_only_if_it_was_fetched_to_its_end() {
    let (sandbox, mut raw) = sandbox(false);
    // In a block, and alone.
    raw.run("BEGIN");
    bind(&mut raw, "p", PUTS);
    fetch(&mut raw, "p", 4);
    sync(&mut raw);
    raw.query("COMMIT");
    is_refused(&mut raw);
    bind(&mut raw, "", PUTS);
    fetch(&mut raw, "", 4);
    raw.send(b'S', b"");
    is_refused(&mut raw);
    assert_eq!(count(&sandbox), ["0 0"; 3]);

    // To its end, in three steps, with something between.
    raw.run("BEGIN");
    bind(&mut raw, "p", PUTS);
    for _ in 0..3 {
        fetch(&mut raw, "p", 4);
        sync(&mut raw);
        raw.run("INSERT INTO u SELECT count(*) + 1 FROM u");
    }
    raw.run("COMMIT");
    assert_eq!(count(&sandbox), ["9 3"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn an_image_tells_how_far_it_was_fetched() {
    let (sandbox, mut raw) = sandbox(true);
    let fetch_four = |raw: &mut Raw, portal: &str| {
        bind(raw, portal, PUTS);
        fetch(raw, portal, 4);
        sync(raw);
    };
    // The slot is made at first use.
    raw.run("SELECT put(100)");
    raw.run("BEGIN");
    fetch_four(&mut raw, "p");
    raw.run("COMMIT");
    assert_eq!(count(&sandbox), ["5 0"; 3]);
    raw.run("DELETE FROM t");
    // Alone, its transaction ends at Sync.
    fetch_four(&mut raw, "");
    assert_eq!(count(&sandbox), ["4 0"; 3]);
    raw.run("DELETE FROM t");
    // There is no image of this one.
    raw.run("BEGIN; NOTIFY c");
    fetch_four(&mut raw, "p");
    raw.query("COMMIT");
    is_refused(&mut raw);
    assert_eq!(count(&sandbox), ["0 0"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn what_was_taken_back_of_it_counts_no_more_unless_it_is_fetched_on() {
    let (sandbox, mut raw) = sandbox(false);
    raw.run("BEGIN; INSERT INTO u VALUES (1); SAVEPOINT s");
    bind(&mut raw, "p", PUTS);
    fetch(&mut raw, "p", 4);
    sync(&mut raw);
    raw.run("ROLLBACK TO s");
    raw.run("COMMIT");
    assert_eq!(count(&sandbox), ["0 1"; 3]);

    // Bound before the savepoint: the portal goes on behind ROLLBACK TO.
    raw.run("BEGIN; INSERT INTO u VALUES (2)");
    bind(&mut raw, "p", PUTS);
    sync(&mut raw);
    raw.run("SAVEPOINT s");
    fetch(&mut raw, "p", 4);
    sync(&mut raw);
    raw.run("ROLLBACK TO s");
    fetch(&mut raw, "p", 0);
    raw.send(b'S', b"");
    let (mut failed, mut seen) = (false, 0);
    loop {
        match raw.message().unwrap() {
            (b'E', _) => failed = true,
            (b'D', _) => seen += 1,
            (b'Z', _) => break,
            _ => {}
        }
    }
    raw.query("COMMIT");
    if failed {
        raw.until(b'Z');
    } else {
        assert!(seen > 0);
        is_refused(&mut raw);
    }
    // Its first Execute was skipped because of an error before it: the next one counts.
    raw.run("BEGIN; INSERT INTO u VALUES (3)");
    bind(&mut raw, "p", PUTS);
    sync(&mut raw);
    raw.run("SAVEPOINT s");
    bind(&mut raw, "", "SELECT 1/0");
    fetch(&mut raw, "", 0);
    fetch(&mut raw, "p", 4);
    raw.send(b'S', b"");
    assert_eq!(raw.refusal().0.unwrap().sqlstate, "22012");
    raw.run("ROLLBACK TO s");
    fetch(&mut raw, "p", 0);
    sync(&mut raw);
    raw.run("COMMIT");
    assert_eq!(count(&sandbox), ["9 2"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn a_row_limit_is_no_matter_where_main_has_done_all_or_nothing() {
    let (sandbox, mut raw) = sandbox(true);
    // RETURNING: main has run the statement before its first row goes out.
    raw.run("BEGIN");
    bind(&mut raw, "p", "INSERT INTO u SELECT generate_series(1, 9) RETURNING a");
    fetch(&mut raw, "p", 4);
    sync(&mut raw);
    raw.run("COMMIT");
    assert_eq!(count(&sandbox), ["0 9"; 3]);
    // Nobody can prove that it only reads, but nothing was written.
    raw.run("BEGIN");
    bind(&mut raw, "p", "SELECT look(n) FROM generate_series(1, 9) n");
    fetch(&mut raw, "p", 4);
    sync(&mut raw);
    raw.run("COMMIT");
    sandbox.assert_nodes_equal("postgres");
}

/// What must not stand in a block is told from what stands before it by its Sync, which may come later.
#[test]
fn a_batch_with_vacuum_that_comes_in_pieces_is_run_as_one() {
    let (_sandbox, mut raw) = sandbox(true);
    let pause = || std::thread::sleep(std::time::Duration::from_millis(50));
    for sql in ["ANALYZE t", "VACUUM t", "REINDEX INDEX CONCURRENTLY t_pkey", "VACUUM u"] {
        bind(&mut raw, "", sql);
        pause();
        fetch(&mut raw, "", 0);
        pause();
        sync(&mut raw);
    }
    // With a Flush and no Sync nobody knows what follows.
    bind(&mut raw, "", "VACUUM t");
    fetch(&mut raw, "", 0);
    raw.send(b'H', b"");
    let error = loop {
        match raw.message().unwrap() {
            (b'E', body) => break body,
            (tag, _) => assert!(matches!(tag, b'1' | b'2'), "{}", tag.escape_ascii()),
        }
    };
    assert!(String::from_utf8_lossy(&error).contains("25001"));
    raw.send(b'S', b"");
    raw.until(b'Z');
}
