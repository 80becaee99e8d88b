//! Two transactions that get into each other's way, step by step: what snapshot isolation forbids and what it allows.

use super::cluster::{Cluster, Protocol, Session, code, patiently};
use super::registers::{Reading, Seen};
use std::cell::RefCell;
use std::rc::Rc;

const READ: &str = "SELECT v FROM register WHERE id = 1";
/// Who waits for a lock on a node.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";

async fn pair(cluster: &Cluster, protocol: Protocol) -> (Session, Rc<Session>) {
    let (a, b) = (cluster.session(protocol).await, cluster.session(protocol).await);
    a.all(&["UPDATE register SET v = 0"]).await;
    (a, Rc::new(b))
}

/// When the second of two transactions that count one register up gets to its UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    AfterTheFirstCommitted,
    BeforeTheFirstCommitted,
    BeforeTheFirstRolledBack,
}

/// Both read, both write what they have read plus one. Returns the second one's end (the SQLSTATE, if it failed) and
/// the value that is left.
pub async fn count_up_twice(cluster: &Cluster, protocol: Protocol, second: Second) -> (Result<(), String>, String) {
    let (a, b) = pair(cluster, protocol).await;
    for session in [&a, &*b] {
        session.all(&["BEGIN"]).await;
        assert_eq!(session.value(READ).await.unwrap(), "0");
    }
    let update = "UPDATE register SET v = 0 + 1 WHERE id = 1";
    a.all(&[update]).await;
    let end = if second == Second::BeforeTheFirstRolledBack { "ROLLBACK" } else { "COMMIT" };
    if second == Second::AfterTheFirstCommitted {
        a.all(&[end]).await;
    }
    let other = b.clone();
    let task = tokio::task::spawn_local(async move { other.run(update).await });
    if second != Second::AfterTheFirstCommitted {
        cluster.on_node(0).await.wait_for(WAITING, "1").await;
        a.all(&[end]).await;
    }
    let updated = task.await.unwrap().map_err(|e| code(&e));
    let done = match updated {
        Ok(()) => b.run("COMMIT").await.map_err(|e| code(&e)),
        Err(error) => {
            b.all(&["ROLLBACK"]).await;
            Err(error)
        }
    };
    // Whichever node is asked.
    let left = b.value(READ).await.unwrap();
    (done, left)
}

/// Two transactions each read both registers and write one. Returns how both ended.
pub async fn write_skew(cluster: &Cluster, protocol: Protocol, begin: &str) -> [Result<(), String>; 2] {
    let (a, b) = pair(cluster, protocol).await;
    let both = "SELECT sum(v)::bigint FROM register";
    for session in [&a, &*b] {
        session.all(&[begin]).await;
        assert_eq!(session.value(both).await.unwrap(), "0");
    }
    let mut ends = [Ok(()), Ok(())];
    for (id, session) in [&a, &*b].into_iter().enumerate() {
        let update = format!("UPDATE register SET v = 1 WHERE id = {}", id + 1);
        ends[id] = session.run(&update).await.map_err(|e| code(&e));
    }
    for (end, session) in ends.iter_mut().zip([&a, &*b]) {
        let committed = session.run("COMMIT").await.map_err(|e| code(&e));
        *end = end.clone().and(committed);
    }
    ends
}

/// One transaction reads the registers one after the other, while another commits a change of both.
pub async fn read_skew(cluster: &Cluster, protocol: Protocol, begin: &str) -> [String; 2] {
    let (a, b) = pair(cluster, protocol).await;
    a.all(&[begin]).await;
    let first = a.value(READ).await.unwrap();
    b.all(&["BEGIN", "UPDATE register SET v = 1", "COMMIT"]).await;
    let second = a.value("SELECT v FROM register WHERE id = 2").await.unwrap();
    a.all(&["COMMIT"]).await;
    [first, second]
}

/// A transaction writes and waits, then commits, but its COMMIT does not reach main: applied on all nodes, and committed
/// on none. Fails if a reader sees any of that.
pub async fn nobody_reads_what_is_not_committed(cluster: &Cluster) {
    let (a, readers) = pair(cluster, Protocol::Simple).await;
    a.all(&["BEGIN", "UPDATE register SET v = 77"]).await;
    let seen = Rc::new(RefCell::new(Seen::default()));
    for i in 0..12 {
        let reading = [Reading::Single, Reading::ReadOnly, Reading::Block][i % 3];
        reading.read(&readers, "before COMMIT", &seen).await.unwrap();
    }
    cluster.relays.nodes[0].commits().set(true);
    let committing = tokio::task::spawn_local(async move { a.all(&["COMMIT"]).await });
    patiently("COMMIT on main", cluster.relays.nodes[0].commits().wait(1)).await;
    // A COMMIT of a transaction that only reads would be caught too, and a cut waits for the commit.
    for _ in 0..12 {
        Reading::Single.read(&readers, "at COMMIT", &seen).await.unwrap();
    }
    cluster.hurry();
    committing.await.unwrap();
    let pairs = seen.borrow().pairs();
    assert_eq!(pairs, [[0, 0]], "what was not committed was read");
    Reading::ReadOnly.read(&readers, "after COMMIT", &seen).await.unwrap();
    assert_eq!(seen.borrow().pairs(), [[0, 0], [77, 77]]);
}
