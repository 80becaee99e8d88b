//! Reads that name one row by its primary key, while a commit is on main and not yet on node 2: they mind it only if it
//! writes that row, or cannot say which rows it writes.
//!
//! The column `who` holds each node's number, written past the proxy.

use super::cluster::{Cluster, PROTOCOLS, Protocol, Session, patiently};
use tokio::task::spawn_local;

const TABLES: &str = "
    CREATE TABLE marked (id int PRIMARY KEY, v bigint NOT NULL, who bigint);
    INSERT INTO marked SELECT i, 0, 0 FROM generate_series(1, 40) i;
    CREATE TABLE pair (a bigint, b smallint, v bigint NOT NULL, who bigint, PRIMARY KEY (a, b));
    INSERT INTO pair SELECT i, 1, 0, 0 FROM generate_series(1, 9) i;
    CREATE TABLE parent (id int PRIMARY KEY);
    INSERT INTO parent SELECT i FROM generate_series(1, 9) i;
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE, v bigint NOT NULL);
    INSERT INTO child SELECT i, i, 7 FROM generate_series(1, 9) i;
    CREATE TABLE log (v bigint);
    CREATE FUNCTION touches(i int) RETURNS int LANGUAGE sql VOLATILE AS 'UPDATE marked SET v = 77 WHERE id = i RETURNING id'";

/// Which reads a write leaves to the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    /// All but those of the row.
    Others,
    /// None.
    None,
}

/// A write, a read of a row that it has written, what that gives from then on (the first column; empty: no row).
const CASES: &[(&str, &str, &str, Leaves)] = &[
    ("UPDATE marked SET v = 1 WHERE id = 1", "SELECT v, who FROM marked WHERE id = 1", "1", Leaves::Others),
    (
        "UPDATE marked SET v = 2 WHERE id = '1'",
        "SELECT v, who FROM marked m WHERE 1 = m.id AND v >= 0",
        "2",
        Leaves::Others,
    ),
    (
        "UPDATE marked SET v = 3 WHERE id = 001",
        "SELECT max(v), max(who) FROM public.marked WHERE id = '1'",
        "3",
        Leaves::Others,
    ),
    ("DELETE FROM marked WHERE id = 2", "SELECT v, who FROM marked WHERE id = 2", "", Leaves::Others),
    (
        "INSERT INTO marked VALUES (50, 4, 0), (51, 4, 0)",
        "SELECT v, who FROM marked WHERE id = 51",
        "4",
        Leaves::Others,
    ),
    ("INSERT INTO log VALUES (1)", "SELECT 1::bigint, 0::bigint FROM log", "1", Leaves::Others),
    // By the rows that main tells of.
    ("UPDATE marked SET v = 5 WHERE id IN (3, 4)", "SELECT v, who FROM marked WHERE id = 4", "5", Leaves::Others),
    ("DELETE FROM marked WHERE id > 38", "SELECT v, who FROM marked WHERE id = 39", "", Leaves::Others),
    ("INSERT INTO marked SELECT 60, 6, random()", "SELECT v, who FROM marked WHERE id = 60", "6", Leaves::Others),
    (
        "UPDATE pair SET v = 7 WHERE b = 1 AND a = 3",
        "SELECT v, who FROM pair WHERE a = 3 AND b = 1",
        "7",
        Leaves::Others,
    ),
    // A key that changes, rows of other tables, and what nobody can follow.
    ("UPDATE marked SET id = 70 WHERE id = 5", "SELECT v, who FROM marked WHERE id = 5", "", Leaves::None),
    ("UPDATE marked SET id = 71 WHERE id = 6", "SELECT v, who FROM marked WHERE id = 71", "0", Leaves::None),
    ("DELETE FROM parent WHERE id = 1", "SELECT v, id::bigint FROM child WHERE id = 1", "", Leaves::None),
    ("DELETE FROM parent WHERE id IN (2, 3)", "SELECT v, id::bigint FROM child WHERE id = 3", "", Leaves::None),
    ("SELECT touches(7)::bigint", "SELECT v, who FROM marked WHERE id = 7", "77", Leaves::None),
    ("UPDATE marked SET v = 9 WHERE id > 8 AND id < 38", "SELECT v, who FROM marked WHERE id = 9", "9", Leaves::Others),
    (
        "INSERT INTO marked SELECT i, 8, 0 FROM generate_series(100, 199) i",
        "SELECT v, who FROM marked WHERE id = 150",
        "8",
        Leaves::None,
    ),
];

/// Of another row of the same table, which nothing of all this writes.
const OTHER: &str = "SELECT v, who FROM marked WHERE id = 8";

/// A read of the other row, or of the row; the first column, and who has answered.
async fn read(session: &Session, sql: &str) -> (String, i64) {
    let rows = session.rows(sql).await.unwrap();
    let row = rows.first().cloned().unwrap_or_default();
    (row.first().cloned().unwrap_or_default(), row.get(1).and_then(|w| w.parse().ok()).unwrap_or(-1))
}

/// Plays all cases: each write by one protocol, reads by all.
pub async fn work(cluster: &Cluster) {
    let main = cluster.on_node(0).await;
    cluster.session(Protocol::Simple).await.all(&TABLES.split(';').collect::<Vec<_>>()).await;
    for node in 0..3 {
        let c = cluster.on_node(node).await;
        c.all(&[&format!("UPDATE marked SET who = {node}"), &format!("UPDATE pair SET who = {node}")]).await;
    }
    let mut readers = Vec::new();
    for protocol in PROTOCOLS {
        readers.push(cluster.session(protocol).await);
    }
    for (i, (write, look, wanted, leaves)) in CASES.iter().enumerate() {
        let trap = cluster.relays.nodes[2].commits();
        let writer = cluster.session(PROTOCOLS[i % 2]).await;
        trap.set(true);
        let committing = spawn_local(async move { writer.all(&["BEGIN", write, "COMMIT"]).await });
        patiently(write, trap.wait(1)).await;
        trap.set(false);
        let done = format!("SELECT coalesce((SELECT v::text FROM ({look}) q (v, who)), '')");
        main.wait_for(&done, wanted).await;
        let mut answered = [0; 3];
        for n in 0..45 {
            let reader = &readers[n % 3];
            let (found, who) = read(reader, look).await;
            assert_eq!(found, *wanted, "{write}: {look}, answered by {who}");
            let (_, who) = read(reader, OTHER).await;
            answered[usize::try_from(who).unwrap()] += 1;
        }
        let spread = answered[1] > 0 && answered[2] > 0;
        assert_eq!(spread, *leaves == Leaves::Others, "{write}: {answered:?}");
        assert!(spread || answered[0] == 45, "{write}: {answered:?}");
        assert!(!committing.is_finished(), "{write}: answered before all nodes had committed");
        cluster.relays.nodes.iter().for_each(|r| r.commits().release());
        patiently(write, committing).await.unwrap();
    }
    for node in 0..3 {
        cluster.on_node(node).await.all(&["UPDATE marked SET who = 0", "UPDATE pair SET who = 0"]).await;
    }
}
