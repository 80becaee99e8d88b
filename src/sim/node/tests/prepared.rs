//! Prepared transactions, the slot that tells of them, SERIALIZABLE, the trigger.

use super::*;
use crate::sim::node::twophase::Finished;

fn logical() -> NodeConfig {
    NodeConfig { logical: true, ..NodeConfig::default() }
}

fn with_rows(config: NodeConfig) -> (World, BackendId) {
    let mut w = World::new(config);
    let a = w.open();
    w.ask(a, "CREATE TABLE t (id int PRIMARY KEY, v int)");
    w.ask(a, "INSERT INTO t VALUES (1, 1), (2, 2)");
    (w, a)
}

fn t(w: &World) -> Vec<Vec<i64>> {
    ints(&w.node.rows("t"))
}

#[test]
fn what_is_prepared_keeps_its_locks_when_its_backend_goes_on_and_ends() {
    let (mut w, a) = with_rows(logical());
    let (b, c) = (w.open(), w.open());
    w.ask(a, "BEGIN");
    w.ask(a, "SAVEPOINT s");
    w.ask(a, "UPDATE t SET v = 10 WHERE id = 1");
    assert!(w.ask(a, "PREPARE TRANSACTION 'x'").contains("PREPARE TRANSACTION"));
    assert_eq!((w.node.prepared(), t(&w)), (vec!["x".to_owned()], vec![vec![1, 1], vec![2, 2]]));
    // Its backend is idle, and may go.
    assert!(w.ask(a, "UPDATE t SET v = 20 WHERE id = 2").contains("UPDATE 1"));
    w.node.terminate(a);
    w.run();
    w.send(b, "UPDATE t SET v = v + 1 WHERE id = 1");
    w.run();
    assert!(w.node.backends().iter().any(|i| i.id == b && i.waits_for.is_some()));
    assert!(w.ask(c, "COMMIT PREPARED 'x'").contains("COMMIT PREPARED"));
    assert!(text(&w.node.take_output(b).bytes).contains("UPDATE 1"));
    assert_eq!(t(&w), vec![vec![1, 11], vec![2, 20]]);
}

#[test]
fn prepare_and_its_ends_are_refused_as_postgresql_refuses_them() {
    let (mut w, a) = with_rows(logical());
    let b = w.open();
    let prepare = |w: &mut World, id, name: &str| {
        w.ask(id, "BEGIN");
        w.ask(id, "UPDATE t SET v = 0 WHERE id = 1");
        w.ask(id, &format!("PREPARE TRANSACTION '{name}'"))
    };
    prepare(&mut w, a, "x");
    w.ask(b, "BEGIN");
    w.ask(b, "UPDATE t SET v = 0 WHERE id = 2");
    let e = w.ask(b, "PREPARE TRANSACTION 'x'");
    assert!(e.contains("42710") && e.ends_with("ZI"), "{e}");
    assert!(w.ask(b, "COMMIT PREPARED 'y'").contains("42704"));
    w.ask(b, "BEGIN");
    assert!(w.ask(b, "ROLLBACK PREPARED 'x'").contains("25001"));
    // A failed transaction's PREPARE rolls back.
    let told = w.ask(b, "PREPARE TRANSACTION 'z'");
    assert!(told.contains("ROLLBACK") && told.ends_with("ZI"), "{told}");
    assert!(w.ask(b, "ROLLBACK PREPARED 'x'").contains("ROLLBACK PREPARED"));
    assert_eq!((w.node.prepared(), t(&w)), (Vec::new(), vec![vec![1, 1], vec![2, 2]]));
    assert!(w.ask(b, "PREPARE TRANSACTION 'x'").contains("25P01"));
    let (mut w, a) = with_rows(NodeConfig::default());
    assert!(prepare(&mut w, a, "x").contains("55000"));
}

#[test]
fn what_is_prepared_durably_survives_a_crash_with_its_locks_and_what_is_not_does_not() {
    let (mut w, a) = with_rows(NodeConfig { flush_us: 100, ..logical() });
    w.pass(1000);
    w.pass(1000);
    let b = w.open();
    for (id, row, name) in [(a, 1, "kept"), (b, 2, "lost")] {
        w.ask(id, "BEGIN");
        w.ask(id, &format!("UPDATE t SET v = 10 WHERE id = {row}"));
        w.send(id, &format!("PREPARE TRANSACTION '{name}'"));
        w.run();
        if name == "kept" {
            w.pass(200);
        }
    }
    w.node.crash();
    w.node.restart(w.now);
    assert_eq!(w.node.prepared(), ["kept"]);
    let c = w.open();
    w.send(c, "UPDATE t SET v = v + 5 WHERE id = 1");
    w.run();
    assert!(w.node.backends()[0].waits_for.is_some());
    assert_eq!(w.node.finish_prepared("kept", true), Finished::Done);
    assert_eq!(w.node.finish_prepared("kept", true), Finished::Nothing);
    w.pass(200);
    w.pass(200);
    assert_eq!(t(&w), vec![vec![1, 15], vec![2, 2]]);
    // Its end is lost with a crash as well, if it was not on disk.
    w.ask(c, "BEGIN");
    w.ask(c, "UPDATE t SET v = 7 WHERE id = 2");
    w.send(c, "PREPARE TRANSACTION 'again'");
    w.pass(200);
    w.pass(200);
    w.send(c, "COMMIT PREPARED 'again'");
    w.run();
    assert_eq!(w.node.finish_prepared("again", false), Finished::Busy);
    w.node.crash();
    w.node.restart(w.now);
    assert_eq!(w.node.prepared(), ["again"]);
    assert_eq!(w.node.finish_prepared("again", false), Finished::Done);
    assert_eq!(t(&w), vec![vec![1, 15], vec![2, 2]]);
}

#[test]
fn the_slot_tells_whole_transactions_that_began_after_it_was_ready() {
    let (mut w, a) = with_rows(logical());
    let b = w.open();
    w.ask(b, "BEGIN");
    w.ask(b, "INSERT INTO t VALUES (9, 9)");
    w.node.create_slot();
    assert!(!w.node.slot_is_ready());
    w.ask(b, "COMMIT");
    assert!(w.node.slot_is_ready());
    w.ask(a, "BEGIN");
    w.ask(a, "UPDATE t SET id = 3, v = NULL WHERE id = 1");
    w.ask(a, "SAVEPOINT s");
    w.ask(a, "INSERT INTO t VALUES (4, 4)");
    w.ask(a, "ROLLBACK TO SAVEPOINT s");
    w.ask(a, "DELETE FROM t WHERE id = 2");
    w.ask(a, "SELECT pg_catalog.pg_logical_emit_message(true, 'p', 'it'); PREPARE TRANSACTION 'x'");
    let mut lines: Vec<String> = std::iter::from_fn(|| w.node.slot_line()).collect();
    let xid = lines[0].strip_prefix("BEGIN ").unwrap().to_owned();
    assert_eq!(lines.pop(), Some(format!("PREPARE TRANSACTION 'x', txid {xid}")));
    let wanted = [
        "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:3 v[integer]:null",
        "table public.t: DELETE: id[integer]:2",
        "message: transactional: 1 prefix: p, sz: 2 content:it",
    ];
    assert_eq!(lines[1..], wanted);
    w.ask(a, "ROLLBACK PREPARED 'x'");
    assert_eq!(w.node.slot_line(), Some(format!("ROLLBACK PREPARED 'x', txid {xid}")));
}

#[test]
fn serializable_transactions_do_not_skew_and_a_prepared_one_counts() {
    let (mut w, a) = with_rows(logical());
    let b = w.open();
    for id in [a, b] {
        w.ask(id, "BEGIN ISOLATION LEVEL SERIALIZABLE");
        w.ask(id, "SELECT sum(v) FROM t");
    }
    w.ask(a, "UPDATE t SET v = 0 WHERE id = 1");
    w.ask(b, "UPDATE t SET v = 0 WHERE id = 2");
    assert!(w.ask(a, "PREPARE TRANSACTION 'x'").contains("PREPARE"));
    assert!(w.ask(b, "COMMIT").contains("40001"));
    w.ask(a, "COMMIT PREPARED 'x'");
    w.ask(b, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    w.ask(b, "UPDATE t SET v = 5 WHERE id = 2");
    assert!(w.ask(b, "COMMIT").contains("COMMIT"));
    assert_eq!(t(&w), vec![vec![1, 0], vec![2, 5]]);
}

#[test]
fn the_trigger_writes_what_is_the_nodes_own_and_none_fires_on_a_replica() {
    let mut w = World::new(NodeConfig { clock_skew_us: 77, ..logical() });
    let a = w.open();
    for sql in [
        "CREATE SEQUENCE audit_id",
        "CREATE TABLE audit (id bigint PRIMARY KEY DEFAULT nextval('audit_id'), tracked int, was bigint, becomes bigint, \
         at timestamptz)",
        "CREATE TABLE tracked (id int PRIMARY KEY, n bigint)",
        "CREATE TRIGGER audits AFTER INSERT OR UPDATE OR DELETE ON tracked FOR EACH ROW EXECUTE FUNCTION audit()",
        "INSERT INTO tracked VALUES (1, 5)",
        "UPDATE tracked SET n = n + 1",
    ] {
        let told = w.ask(a, sql);
        assert!(!told.contains("VERROR"), "{sql}: {told}");
    }
    let audit = ints(&w.node.rows("audit"));
    assert_eq!(audit, vec![vec![1, 1, -1, 5, -1], vec![2, 1, 5, 6, -1]]);
    w.ask(a, "SET session_replication_role = 'replica'");
    w.ask(a, "DELETE FROM ONLY public.tracked WHERE id OPERATOR(pg_catalog.=) 1");
    assert_eq!((w.node.rows("audit").len(), w.node.rows("tracked").len()), (2, 0));
    let follow = String::from_utf8(crate::sql::proof::follow("public.audit_id", 1, 1).to_vec()).unwrap();
    assert!(w.ask(a, &follow.replace("$1", "40")).contains("0A000"), "it has a parameter");
}
