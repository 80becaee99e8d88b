//! Blocks that may write and read on a replica first (`transaction_reads = "spread"`), and how they come to main.

use super::cluster::{Cluster, Protocol, Session, code, patiently};
use crate::support::raw::Raw;

/// Why a block leaves its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its next statement writes.
    ToWrite,
    /// The replica's backend is lost between two statements.
    Lost,
    /// It is lost while it is at work on one.
    LostInTheMiddle,
}

const READ: &str = "SELECT v FROM register WHERE id = 1";
const NODE: &str = "SELECT max(id) FROM node";

/// A block whose reads are answered by that node, and what its first one has read.
async fn block_on(cluster: &Cluster, protocol: Protocol, node: i64) -> (Session, String) {
    for _ in 0..200 {
        let session = cluster.session(protocol).await;
        session.all(&["BEGIN"]).await;
        let seen = session.value(READ).await.unwrap();
        if session.numbers(NODE).await.unwrap()[0][0] == node {
            return (session, seen);
        }
        session.all(&["COMMIT"]).await;
    }
    panic!("no block reads on node {node}");
}

/// What the block has read it reads again on main, whatever others have committed since; it can write there, and sees
/// what it has written.
pub async fn goes_on_on_main(cluster: &Cluster, protocol: Protocol, replica: i64, why: Why) {
    let what = format!("{protocol:?}, node {replica}, {why:?}");
    let (session, seen) = block_on(cluster, protocol, replica).await;
    let other = cluster.session(Protocol::Simple).await;
    other.all(&["UPDATE register SET v = v + 1 WHERE id = 1"]).await;
    assert_eq!(session.value(READ).await.unwrap(), seen, "{what}");
    let admin = cluster.on_node(replica as usize).await;
    let end = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
               WHERE state LIKE 'idle in transaction%' AND backend_type = 'client backend'";
    match why {
        Why::ToWrite => {}
        Why::Lost => {
            assert_eq!(admin.value(end).await.unwrap(), "true", "{what}");
            // Whether the proxy has heard of it yet does not matter.
        }
        Why::LostInTheMiddle => {
            admin.all(&["BEGIN", "LOCK TABLE account"]).await;
            // The block has no lock on this table yet.
            let read = session.value("SELECT sum(n)::text FROM account");
            let ends = async {
                let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'account'::regclass";
                let second = cluster.on_node(replica as usize).await;
                second.wait_for(waits, "1").await;
                let waiting = end.replace("state LIKE 'idle in transaction%'", "wait_event_type = 'Lock'");
                assert_eq!(second.value(&waiting).await.unwrap(), "true", "{what}");
            };
            let (read, ()) = patiently("a read whose replica is lost", async { tokio::join!(read, ends) }).await;
            assert_eq!(read.unwrap(), "1000", "{what}");
            admin.all(&["ROLLBACK"]).await;
        }
    }
    assert_eq!(session.value(READ).await.unwrap(), seen, "{what}");
    let stays = if why == Why::ToWrite { replica } else { 0 };
    assert_eq!(session.numbers(NODE).await.unwrap()[0][0], stays, "{what}");
    session.all(&["UPDATE register SET v = v + 1 WHERE id = 2"]).await;
    assert_eq!(session.numbers(NODE).await.unwrap()[0][0], 0, "{what}: after it has written");
    assert_eq!(session.value(READ).await.unwrap(), seen, "{what}: after it has written");
    // The row that others have written in the meantime.
    let e = session.run("UPDATE register SET v = v + 1 WHERE id = 1").await.unwrap_err();
    assert_eq!(code(&e), "40001", "{what}");
    session.all(&["ROLLBACK"]).await;
    assert_ne!(session.value(READ).await.unwrap(), seen, "{what}");
}

/// An error on the replica fails the block as any error does.
pub async fn fails_and_ends(cluster: &Cluster, protocol: Protocol) {
    let (session, _) = block_on(cluster, protocol, 1).await;
    let e = session.run("SELECT 1 / (v * 0) FROM register").await.unwrap_err();
    assert_eq!(code(&e), "22012");
    for sql in [READ, "UPDATE register SET v = v + 1 WHERE id = 1", "SAVEPOINT s"] {
        assert_eq!(code(&session.run(sql).await.unwrap_err()), "25P02", "{protocol:?}: {sql}");
    }
    session.all(&["COMMIT"]).await;
    session
        .all(&["BEGIN", READ, "SAVEPOINT s", "UPDATE register SET v = v + 1 WHERE id = 2", "ROLLBACK TO s", READ])
        .await;
    session.all(&["COMMIT", READ]).await;
}

/// A FunctionCall needs main: a block that has only read so far goes there.
pub fn calls_a_function(cluster: &Cluster, begin: &str) {
    let mut raw = Raw::login(&cluster.sandbox.summary.proxy(), "postgres");
    raw.run(begin);
    raw.run(READ);
    // lo_open(4242, INV_READ), results in binary.
    let mut call = Vec::new();
    call.extend(952u32.to_be_bytes());
    call.extend([0, 1, 0, 1, 0, 2, 0, 0, 0, 4]);
    call.extend(4242u32.to_be_bytes());
    call.extend([0, 0, 0, 4]);
    call.extend(0x0004_0000u32.to_be_bytes());
    call.extend([0, 1]);
    raw.send(b'F', &call);
    assert_eq!(raw.until(b'V'), [0, 0, 0, 4, 0, 0, 0, 0], "{begin}");
    assert_eq!(raw.until(b'Z'), b"T");
    raw.run(READ);
    raw.run("COMMIT");
}
