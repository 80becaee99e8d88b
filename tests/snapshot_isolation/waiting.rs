//! Who waits for whom: readers keep no commit back, however long they take, and writers keep no reader back.

use super::cluster::{Cluster, PATIENCE, Protocol, patiently};
use super::registers::{Errors, Plan, Reading, work};
use pglockstep::sandbox::process::{Signal, signal};
use std::time::Duration;

const COMMITS: usize = 20;
const READERS: i64 = 12;

async fn commit_often(cluster: &Cluster) {
    let writer = cluster.session(Protocol::Prepared).await;
    for _ in 0..COMMITS {
        writer.all(&["UPDATE register SET v = v + 1", "BEGIN", "UPDATE register SET v = v + 1", "COMMIT"]).await;
    }
}

/// A read that takes long on a replica, because a lock there keeps it, keeps no commit back, be it a single statement
/// or the first one of a READ ONLY transaction. `slow` is locked on the replicas, past the proxy, and main has no weight.
pub async fn a_long_read_keeps_no_commit_back(cluster: &Cluster) {
    let admin = cluster.session(Protocol::Simple).await;
    admin.all(&["CREATE TABLE slow (id int PRIMARY KEY)", "INSERT INTO slow VALUES (1)"]).await;
    let sql = "SELECT count(*)::text FROM slow";
    for begin in [None, Some("BEGIN READ ONLY")] {
        let locks = [cluster.on_node(1).await, cluster.on_node(2).await];
        for lock in &locks {
            lock.all(&["BEGIN", "LOCK TABLE slow"]).await;
        }
        let mut readers = Vec::new();
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'slow'::regclass";
        for _ in 0..READERS {
            let session = cluster.session(Protocol::Unnamed).await;
            readers.push(tokio::task::spawn_local(async move {
                if let Some(begin) = begin {
                    session.all(&[begin]).await;
                }
                let count = session.value(sql).await.unwrap();
                if begin.is_some() {
                    session.all(&["COMMIT"]).await;
                }
                count
            }));
        }
        // All of them, on whichever replica: one that is sent while a commit is under way reads on main.
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let waiting =
                locks[0].numbers(waiting).await.unwrap()[0][0] + locks[1].numbers(waiting).await.unwrap()[0][0];
            if waiting == READERS {
                break;
            }
            assert!(tokio::time::Instant::now() < end, "only {waiting} of {READERS} reads wait on a replica");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        commit_often(cluster).await;
        let others = cluster.session(Protocol::Simple).await;
        others.all(&["BEGIN READ ONLY", "SELECT sum(v)::text FROM register", "COMMIT"]).await;
        assert!(readers.iter().all(|r| !r.is_finished()));
        for lock in &locks {
            lock.all(&["ROLLBACK"]).await;
        }
        for reader in readers {
            assert_eq!(patiently("a long read", reader).await.unwrap(), "1");
        }
    }
    admin.all(&["DROP TABLE slow"]).await;
}

/// READ ONLY transactions that have read and stay open, on each replica, keep no commit back and go on seeing what they
/// saw. Others see the commits.
pub async fn an_open_snapshot_keeps_no_commit_back(cluster: &Cluster) {
    let read = "SELECT sum(v)::text FROM register";
    let node = "SELECT max(id) FROM node";
    let mut open = Vec::new();
    let mut nodes = [0; 3];
    for i in 0.. {
        assert!(i < 200, "READ ONLY transactions are not spread over the replicas: {nodes:?}");
        let session = cluster.session([Protocol::Simple, Protocol::Prepared][i % 2]).await;
        session.all(&["BEGIN READ ONLY"]).await;
        let before = session.value(read).await.unwrap();
        nodes[session.numbers(node).await.unwrap()[0][0] as usize] += 1;
        open.push((session, before));
        if nodes[1..].iter().all(|&n| n > 0) {
            break;
        }
    }
    commit_often(cluster).await;
    let now = cluster.on_node(0).await.value(read).await.unwrap();
    for (session, before) in open {
        assert_eq!(session.value(read).await.unwrap(), before);
        session.all(&["COMMIT"]).await;
        assert_eq!(session.value(read).await.unwrap(), now);
        assert_ne!(before, now);
    }
}

/// A transaction that has written and waits for its client keeps no reader back, nor a writer of another row.
pub async fn an_open_write_keeps_nobody_back(cluster: &Cluster) {
    let (writer, others) = (cluster.session(Protocol::Simple).await, cluster.session(Protocol::Prepared).await);
    writer.all(&["BEGIN", "UPDATE register SET v = v + 1 WHERE id = 1"]).await;
    for _ in 0..10 {
        others.all(&["SELECT sum(v)::text FROM register"]).await;
        others.all(&["BEGIN READ ONLY", "SELECT sum(v)::text FROM register", "COMMIT"]).await;
        others.all(&["UPDATE register SET v = v + 1 WHERE id = 2"]).await;
    }
    writer.all(&["COMMIT"]).await;
}

/// All processes of a node's server: the postmaster and its children, which have process groups of their own.
fn processes(postmaster: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, which may hold anything, ends at the last parenthesis; state and parent follow.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    std::iter::once(postmaster).chain(pids.filter(|&pid| parent(pid) == Some(postmaster))).collect()
}

/// Replica 2 stops in the middle of commits, as a machine does that hangs: it is taken out, nobody waits for it any
/// longer, and the history that readers see stays one.
pub async fn a_replica_that_hangs_is_left(cluster: &Cluster) {
    let pid = cluster.sandbox.summary.nodes[2].pid;
    let mut stopped = Vec::new();
    let (mut before, mut after) = (0, None);
    let readings = [Reading::Single, Reading::ReadOnly, Reading::Block];
    let plan = Plan { errors: Errors::Note, ..Plan::of(&readings) };
    let seen = work(cluster, plan, |seen, elapsed| {
        assert!(elapsed < Duration::from_secs(40), "the node that hangs is not left: {}", seen.summary());
        if seen.commits >= 20 && stopped.is_empty() {
            stopped = processes(pid);
            stopped.iter().for_each(|&pid| signal(pid, Signal::STOP));
            before = seen.commits;
        }
        if after.is_none() && !stopped.is_empty() && cluster.sandbox.whole_log().contains("node is out") {
            after = Some((seen.commits, seen.answers.clone()));
        }
        // Commits and reads of all kinds go on.
        let Some((commits, answers)) = &after else { return false };
        let more = |reading| {
            let count = |answers: &std::collections::BTreeMap<(Reading, i64), usize>| -> usize {
                answers.iter().filter(|((r, _), _)| *r == reading).map(|(_, n)| n).sum()
            };
            count(&seen.answers) - count(answers)
        };
        seen.commits >= commits + 20 && readings.iter().all(|&r| more(r) >= 20)
    })
    .await;
    stopped.iter().rev().for_each(|&pid| signal(pid, Signal::CONT));
    println!("a replica hangs after {before} commits: {}", seen.summary());
    seen.assert_sound();
    // What was reading there in a transaction cannot go on; nobody else is to notice.
    let lost = |(reading, code): &(Option<Reading>, String)| {
        *reading == Some(Reading::ReadOnly) && ["40001", "57P01"].contains(&code.as_str())
    };
    assert!(seen.errors.keys().all(lost), "{:?}", seen.errors);
}
