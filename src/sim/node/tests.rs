//! What a real server cannot be asked to show on demand: crashes, delays, hanging, lost clients. What can be compared
//! with one is in `tests/sim_node.rs`.

mod prepared;

use bytes::BytesMut;
use proptest::prelude::*;

use super::value::Value;
use super::*;
use crate::wire::front;

/// A node with a clock, and a client that speaks simple queries.
struct World {
    node: Node,
    now: i64,
}

impl World {
    fn new(config: NodeConfig) -> World {
        World { node: Node::new(config), now: 1000 }
    }

    fn open(&mut self) -> BackendId {
        let id = self.node.connect().unwrap();
        let mut out = BytesMut::new();
        front::startup(&mut out, [("user", "postgres"), ("database", "d")]);
        self.node.receive(id, &out);
        self.run();
        assert!(text(&self.node.take_output(id).bytes).contains("server_version"));
        id
    }

    /// All that is possible, without time passing.
    fn run(&mut self) {
        while let Some(step) = self.node.runnable(self.now).first().copied() {
            self.node.step(step, self.now);
        }
    }

    /// Only so many steps.
    fn steps(&mut self, n: usize) -> Vec<Step> {
        let mut taken = Vec::new();
        for _ in 0..n {
            let Some(step) = self.node.runnable(self.now).first().copied() else { break };
            self.node.step(step, self.now);
            taken.push(step);
        }
        taken
    }

    fn send(&mut self, id: BackendId, sql: &str) {
        let mut out = BytesMut::new();
        front::query(&mut out, sql.as_bytes());
        self.node.receive(id, &out);
    }

    fn ask(&mut self, id: BackendId, sql: &str) -> String {
        self.send(id, sql);
        self.run();
        text(&self.node.take_output(id).bytes)
    }

    fn pass(&mut self, us: i64) {
        self.now += us;
        self.run();
    }
}

/// The printable part of an answer.
fn text(bytes: &[u8]) -> String {
    bytes.iter().filter(|b| b.is_ascii_graphic() || **b == b' ').map(|b| char::from(*b)).collect()
}

fn ints(rows: &[Vec<Value>]) -> Vec<Vec<i64>> {
    let int = |v: &Value| if let Value::Int(n) = v { *n } else { -1 };
    rows.iter().map(|r| r.iter().map(int).collect()).collect()
}

fn with_table() -> (World, BackendId) {
    let mut w = World::new(NodeConfig::default());
    let a = w.open();
    w.ask(a, "CREATE TABLE t (id int PRIMARY KEY, v int)");
    w.ask(a, "INSERT INTO t VALUES (1, 1)");
    (w, a)
}

#[test]
fn a_commit_is_durable_first_and_visible_later_and_answered_only_then() {
    let config = NodeConfig { flush_us: 100, visible_us: 50, ..NodeConfig::default() };
    let mut w = World::new(config);
    let (a, b) = (w.open(), w.open());
    w.send(a, "CREATE TABLE t (id int PRIMARY KEY)");
    w.run();
    w.pass(100);
    assert!(text(&w.node.take_output(a).bytes).contains("CREATE TABLE"));
    w.send(a, "INSERT INTO t VALUES (1)");
    w.run();
    assert_eq!(w.node.next_wakeup(w.now), Some(w.now + 100));
    w.now += 100;
    assert_eq!(w.steps(1), [Step::Backend(a, Why::Flush)]);
    // Durable, and nobody sees it: a row lock on it would still be waited for.
    assert_eq!(w.node.rows("t"), Vec::<Vec<Value>>::new());
    assert!(w.ask(b, "SELECT count(*) FROM t").contains("SELECT 1"));
    assert!(w.node.take_output(a).bytes.is_empty());
    // Nothing interrupts between the two.
    w.node.terminate(a);
    w.node.cancel(a);
    w.run();
    assert!(w.node.take_output(a).bytes.is_empty());
    w.pass(50);
    assert_eq!(ints(&w.node.rows("t")), [[1]]);
    let answer = w.node.take_output(a);
    assert!(text(&answer.bytes).contains("INSERT 0 1") && text(&answer.bytes).contains("57P01") && answer.closed);
}

#[test]
fn a_crash_loses_commits_that_were_not_flushed_and_gives_their_ids_out_again() {
    let (mut w, a) = with_table();
    w.ask(a, "SET synchronous_commit = off");
    let lost = w.ask(a, "INSERT INTO t VALUES (2, 2); UPDATE t SET v = 5 WHERE id = 1; SELECT txid_current()");
    assert_eq!(ints(&w.node.rows("t")), [[1, 5], [2, 2]]);
    w.node.crash();
    assert!(w.node.connect().is_none() && w.node.runnable(w.now).is_empty());
    assert!(w.node.take_output(a).closed);
    w.node.restart(w.now);
    assert_eq!(ints(&w.node.rows("t")), [[1, 1]]);
    let b = w.open();
    let again = w.ask(b, "INSERT INTO t VALUES (3, 3); SELECT 1; SELECT txid_current()");
    let id = |s: &str| s.rsplit_once("D").unwrap().1.split_once("CSELECT").unwrap().0.to_owned();
    assert_eq!((id(&lost), id(&lost).len()), (id(&again), 3));
    assert_eq!(ints(&w.node.rows("t")), [[1, 1], [3, 3]]);
}

#[test]
fn asynchronous_commits_are_flushed_by_the_log_writer_or_by_the_next_synchronous_commit() {
    for by_writer in [true, false] {
        let (mut w, a) = with_table();
        let b = w.open();
        w.ask(a, "SET synchronous_commit = off");
        w.ask(a, "INSERT INTO t VALUES (2, 2)");
        if by_writer {
            assert_eq!(w.node.next_wakeup(w.now), Some(w.now + 200_000));
            w.pass(200_000);
        } else {
            w.ask(b, "UPDATE t SET v = 7 WHERE id = 1");
        }
        w.node.crash();
        w.node.restart(w.now);
        assert_eq!(w.node.rows("t").len(), 2, "by the log writer: {by_writer}");
    }
}

#[test]
fn a_crash_rolls_back_what_was_open() {
    let (mut w, a) = with_table();
    w.ask(a, "BEGIN; UPDATE t SET v = 9 WHERE id = 1");
    w.ask(a, "INSERT INTO t VALUES (2, 2)");
    w.node.crash();
    w.node.restart(w.now);
    assert_eq!(ints(&w.node.rows("t")), [[1, 1]]);
    let b = w.open();
    w.ask(b, "UPDATE t SET v = v + 1");
    assert_eq!(ints(&w.node.rows("t")), [[1, 2]], "nobody holds the row");
}

#[test]
fn answers_stay_in_the_buffer_until_a_flush_or_eight_kilobytes() {
    let (mut w, a) = with_table();
    w.ask(a, "BEGIN");
    let mut out = BytesMut::new();
    front::parse(&mut out, "", b"SELECT id FROM t", &[]);
    front::bind_raw(&mut out, "", "", front::BIND_NOTHING);
    front::execute(&mut out, "", 0);
    w.node.receive(a, &out);
    w.run();
    assert!(w.node.take_output(a).bytes.is_empty());
    w.node.receive(a, front::FLUSH);
    w.run();
    assert!(text(&w.node.take_output(a).bytes).contains("SELECT 1"));
    w.node.receive(a, front::SYNC);
    w.ask(a, "COMMIT");
    let long = "x".repeat(3000);
    w.ask(a, "CREATE TABLE l (v text)");
    w.ask(a, &format!("INSERT INTO l VALUES ('{long}'), ('{long}'), ('{long}')"));
    let mut out = BytesMut::new();
    front::parse(&mut out, "", b"SELECT v FROM l", &[]);
    front::bind_raw(&mut out, "", "", front::BIND_NOTHING);
    front::execute(&mut out, "", 0);
    w.node.receive(a, &out);
    w.run();
    assert_eq!(w.node.take_output(a).bytes.len(), 8192);
}

#[test]
fn a_client_that_is_gone_is_noticed_when_sending_only_if_the_driver_says_so() {
    for (noticed, expected) in [(Gone::AtRead, 3), (Gone::AtWrite, 1)] {
        let (mut w, a) = with_table();
        for sql in ["BEGIN", "UPDATE t SET v = 3", "COMMIT"] {
            w.send(a, sql);
        }
        w.node.client_gone(a, noticed);
        w.run();
        assert_eq!(ints(&w.node.rows("t")), [[1, expected]], "{noticed:?}");
        assert!(w.node.backends().is_empty() && w.node.take_output(a).closed);
    }
}

#[test]
fn a_hanging_server_takes_connections_and_bytes_and_does_nothing() {
    let (mut w, a) = with_table();
    w.node.hang();
    w.send(a, "UPDATE t SET v = 2");
    let b = w.node.connect();
    assert!(b.is_some() && w.node.runnable(w.now).is_empty() && w.node.next_wakeup(w.now).is_none());
    w.node.unhang();
    w.run();
    assert_eq!(ints(&w.node.rows("t")), [[1, 2]]);
}

#[test]
fn nodes_have_clocks_and_a_transaction_one_time() {
    let mut w = World::new(NodeConfig { clock_skew_us: 3_600_000_000, ..NodeConfig::default() });
    let a = w.open();
    assert!(w.ask(a, "BEGIN; SELECT now()").contains("2000-01-01 01:00:00.001+00"));
    w.pass(1_000_000);
    assert!(w.ask(a, "SELECT now(), clock_timestamp()").contains("01:00:00.001+00"));
}

#[test]
fn the_proxys_question_about_a_transaction_is_answered_in_binary() {
    use crate::session::transaction::{INFO, read_info};
    let mut w = World::new(NodeConfig { first_xid: 5000, ..NodeConfig::default() });
    let a = w.open();
    w.ask(a, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    let mut out = BytesMut::new();
    front::parse(&mut out, "_pgls_i", INFO.as_bytes(), &[]);
    front::bind_raw(&mut out, "p", "_pgls_i", front::BIND_NOTHING_BINARY);
    front::execute(&mut out, "p", 0);
    out.extend_from_slice(front::SYNC);
    w.node.receive(a, &out);
    w.run();
    let answer = w.node.take_output(a).bytes;
    let row = &answer[10..];
    assert_eq!((&answer[..10], row[0]), (&b"1\0\0\0\x04\x32\0\0\0\x04"[..], b'D'));
    let info = read_info(row).unwrap();
    assert_eq!((info.xid, info.now, info.isolation.as_str()), (5000, 1000, "repeatable read"));
}

#[test]
fn a_snapshot_taken_by_bind_does_not_see_what_commits_before_execute() {
    let (mut w, a) = with_table();
    let b = w.open();
    let mut out = BytesMut::new();
    front::parse(&mut out, "", b"SELECT v FROM t", &[]);
    front::bind_raw(&mut out, "", "", front::BIND_NOTHING);
    w.node.receive(a, &out);
    w.run();
    w.ask(b, "UPDATE t SET v = 99");
    let mut out = BytesMut::new();
    front::execute(&mut out, "", 0);
    out.extend_from_slice(front::SYNC);
    w.node.receive(a, &out);
    w.run();
    assert!(!text(&w.node.take_output(a).bytes).contains("99"));
}

#[test]
fn rows_come_out_in_portions_and_the_rest_waits_in_the_portal() {
    let (mut w, a) = with_table();
    w.ask(a, "INSERT INTO t VALUES (2, 2), (3, 3)");
    let mut out = BytesMut::new();
    front::parse(&mut out, "", b"SELECT id FROM t ORDER BY id", &[]);
    front::bind_raw(&mut out, "", "", front::BIND_NOTHING);
    front::execute(&mut out, "", 2);
    front::execute(&mut out, "", 2);
    out.extend_from_slice(front::SYNC);
    w.node.receive(a, &out);
    w.run();
    let answer = w.node.take_output(a).bytes;
    assert_eq!(tags(&answer), b"12DDsDCZ");
}

fn tags(mut bytes: &[u8]) -> Vec<u8> {
    let mut tags = Vec::new();
    while let Some(length) = bytes.get(1..).and_then(crate::wire::read_u32) {
        tags.push(bytes[0]);
        bytes = &bytes[length as usize + 1..];
    }
    tags
}

#[test]
fn what_is_not_known_is_an_error_and_never_a_guess() {
    let (mut w, a) = with_table();
    let statements = [
        "SELECT * FROM t a JOIN t b ON a.id = b.id",
        "SELECT v, count(*) FROM t GROUP BY v",
        "SELECT DISTINCT v FROM t",
        "SELECT (SELECT 1)",
        "WITH x AS (SELECT 1) SELECT * FROM t",
        "SELECT * FROM t TABLESAMPLE SYSTEM (10)",
        "SELECT random()",
        "SELECT 1 UNION SELECT 2",
        "SELECT count(DISTINCT v) FROM t",
        "UPDATE t SET v = 1 FROM t AS o",
        "DELETE FROM t USING t AS o",
        "CREATE TEMPORARY TABLE x (id int)",
        "CREATE TABLE x (id int CHECK (id > 0))",
        "CREATE TABLE x (id numeric)",
        "CREATE INDEX i ON t (v)",
        "BEGIN ISOLATION LEVEL READ UNCOMMITTED",
        "SET TimeZone = 'Europe/Berlin'",
        "SET statement_timeout = 5",
        "COPY t TO STDOUT",
        "LISTEN x",
        "SELECT 1.5",
        "TRUNCATE t",
        "INSERT INTO t SELECT * FROM t",
        "SELECT pg_sleep(1)",
        "COMMIT AND CHAIN",
        "SET work_mem = '1MB'",
        "CREATE TABLE x (id int REFERENCES t ON DELETE CASCADE)",
        "CREATE TABLE x (id int UNIQUE DEFERRABLE)",
        "BEGIN; CREATE TABLE x (id int)",
        "SELECT v FROM t ORDER BY v NULLS FIRST",
        "SELECT v FROM t OFFSET 1",
    ];
    for sql in statements {
        let answer = w.ask(a, sql);
        assert!(answer.contains("0A000") && answer.contains("simulated node does not know"), "{sql}: {answer}");
        w.ask(a, "ROLLBACK");
    }
}

#[test]
fn old_versions_are_pruned_and_a_snapshot_keeps_those_that_it_needs() {
    let (mut w, a) = with_table();
    let b = w.open();
    w.ask(b, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t");
    for _ in 0..500 {
        w.ask(a, "UPDATE t SET v = v + 1 WHERE id = 1");
    }
    assert!(w.ask(b, "SELECT v FROM t").contains("SELECT 1"));
    w.ask(b, "COMMIT");
    for _ in 0..1100 {
        w.ask(a, "UPDATE t SET v = v + 1 WHERE id = 1");
    }
    assert_eq!(ints(&w.node.rows("t")), [[1, 1601]]);
    let versions: usize = w.node.server.borrow().heaps.values().map(|h| h.versions.len()).sum();
    assert!(versions < 200, "{versions} versions");
}

proptest! {
    #[test]
    fn no_bytes_make_a_backend_panic(
        login in any::<bool>(),
        pieces in proptest::collection::vec((prop_oneof![Just(b'Q'), Just(b'P'), Just(b'B'), Just(b'E'), Just(b'D'),
            Just(b'C'), Just(b'S'), Just(b'H'), Just(b'd'), Just(b'c'), any::<u8>()],
            proptest::collection::vec(any::<u8>(), 0..30)), 0..12),
    ) {
        let mut w = World::new(NodeConfig::default());
        let id = if login { w.open() } else { w.node.connect().unwrap() };
        for (tag, body) in pieces {
            let mut m = vec![tag];
            m.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            m.extend(body);
            w.node.receive(id, &m);
            w.run();
        }
    }

    #[test]
    fn no_text_makes_a_backend_panic(words in proptest::collection::vec(prop_oneof![
        Just("SELECT"), Just("*"), Just("FROM"), Just("t"), Just("WHERE"), Just("id"), Just("="), Just("1"), Just("("),
        Just(")"), Just(","), Just("UPDATE"), Just("SET"), Just("v"), Just("INSERT INTO t"), Just("VALUES"), Just("NULL"),
        Just("'x'"), Just("AND"), Just("NOT"), Just("IN"), Just("DELETE"), Just("ORDER BY"), Just("LIMIT"), Just("-"),
        Just("FOR UPDATE"), Just("ON CONFLICT"), Just("DO NOTHING"), Just("RETURNING"), Just("count(*)"), Just("BEGIN"),
        Just(";"), Just("COMMIT"), Just("ROLLBACK"), Just("SAVEPOINT a"), Just("$1"), Just("::int"), Just("sum("),
        Just("excluded.v"), Just("DO UPDATE SET v ="), Just("TRUNCATE"), Just("CREATE TABLE"), Just("x"), Just("int"),
    ], 0..14)) {
        let (mut w, a) = with_table();
        w.ask(a, &words.join(" "));
        w.ask(a, "ROLLBACK");
        prop_assert!(w.ask(a, "SELECT 1").contains("SELECT 1"));
    }
}
