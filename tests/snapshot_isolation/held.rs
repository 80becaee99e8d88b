//! The moment between two nodes' commits, kept for as long as it takes: the anomalies of [`super::registers`] without
//! chance.
//!
//! One commit has reached all nodes but node 1, another all but node 2. Neither rests on the other, and both their
//! clients wait.

use super::cluster::{Cluster, Protocol, patiently};
use super::registers::{Reading, Seen};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_local};

/// The two commits under way.
struct Between {
    writers: [JoinHandle<()>; 2],
}

impl Between {
    /// Each register is counted up by one; the second transaction has run before the first commits. `before` is done
    /// when both are about to commit.
    async fn start(cluster: &Cluster, before: impl AsyncFnOnce()) -> Between {
        let nodes = [cluster.on_node(0).await, cluster.on_node(1).await, cluster.on_node(2).await];
        let last = nodes[0].numbers("SELECT max(v) FROM register").await.unwrap()[0][0];
        let value = (last + 1).to_string();
        let update = |id: usize| format!("UPDATE register SET v = {value} WHERE id = {id}");
        let look = |id: usize| format!("SELECT v FROM register WHERE id = {id}");
        // Not prepared ones: main would answer the second one's Parse of COMMIT, behind the first one's commit.
        let (first, second) = (cluster.session(Protocol::Unnamed).await, cluster.session(Protocol::Simple).await);
        let traps = [cluster.relays.nodes[1].commits(), cluster.relays.nodes[2].commits()];

        first.all(&["BEGIN", &update(1)]).await;
        second.all(&["BEGIN", &update(2)]).await;
        before().await;
        traps[0].set(true);
        let first = spawn_local(async move { first.all(&["COMMIT"]).await });
        nodes[0].wait_for(&look(1), &value).await;
        nodes[2].wait_for(&look(1), &value).await;
        patiently("COMMIT on node 1", traps[0].wait(1)).await;
        traps[0].set(false);
        traps[1].set(true);
        let second = spawn_local(async move { second.all(&["COMMIT"]).await });
        nodes[0].wait_for(&look(2), &value).await;
        nodes[1].wait_for(&look(2), &value).await;
        patiently("COMMIT on node 2", traps[1].wait(1)).await;
        // Those of readers pass.
        traps[1].set(false);
        Between { writers: [first, second] }
    }

    /// Both commits go on to their end.
    async fn end(self, cluster: &Cluster) {
        assert!(self.writers.iter().all(|w| !w.is_finished()), "a writer was answered before all nodes had committed");
        cluster.relays.nodes.iter().for_each(|r| r.commits().release());
        for writer in self.writers {
            patiently("a writer's COMMIT", writer).await.unwrap();
        }
    }
}

/// Readings that start between the commits. Returns what was seen, and how many of the readings were answered before
/// the commits went on.
pub async fn between(cluster: &Cluster, reading: Reading, count: usize) -> (Seen, usize) {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let sessions = Rc::new([cluster.session(Protocol::Simple).await, cluster.session(Protocol::Unnamed).await]);
    let commits = Between::start(cluster, async || {}).await;
    let mut waits = None;
    let mut answered = 0;
    for i in 0..count {
        let (seen, sessions) = (seen.clone(), sessions.clone());
        let mut task = spawn_local(async move {
            reading.read(&sessions[i % 2], &format!("reader {}", i % 2), &seen).await.unwrap();
        });
        // A reading that waits for the commits does so until they go on.
        match tokio::time::timeout(Duration::from_millis(500), &mut task).await {
            Ok(done) => done.unwrap(),
            Err(_) => {
                waits = Some(task);
                break;
            }
        }
        answered += 1;
    }
    commits.end(cluster).await;
    if let Some(reader) = waits {
        patiently("a reading that had waited for the commits", reader).await.unwrap();
    }
    (Rc::into_inner(seen).unwrap().into_inner(), answered)
}

/// When the answers to reads come that were sent before the commits, and whose snapshots lie between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// While the commits are under way.
    Between,
    /// When both have ended, and nothing is under way.
    After,
}

/// Single reads that are sent before the commits and reach their nodes between them.
pub async fn overtaken(cluster: &Cluster, answers: Answers) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let replicas = &cluster.relays.nodes[1..];
    let mut readers: Vec<JoinHandle<()>> = Vec::new();
    let commits = Between::start(cluster, async || {
        replicas.iter().for_each(|r| r.reads().set(true));
        let caught = || replicas.iter().map(|r| r.reads().caught()).sum::<usize>();
        // Until each replica has one to answer, whoever answers the others.
        while replicas.iter().any(|r| r.reads().caught() == 0) {
            let i = readers.len();
            assert!(i < 60, "single reads are not spread over the nodes");
            let (session, seen) = (cluster.session([Protocol::Simple, Protocol::Unnamed][i % 2]).await, seen.clone());
            readers.push(spawn_local(async move {
                Reading::Single.read(&session, &format!("reader {i}"), &seen).await.unwrap();
            }));
            let sent = async {
                while caught() + readers.iter().filter(|r| r.is_finished()).count() < readers.len() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            patiently("a read's way to its node", sent).await;
        }
    })
    .await;
    let caught: Vec<usize> = replicas.iter().map(|r| r.reads().caught()).collect();
    if answers == Answers::After {
        replicas.iter().for_each(|r| r.answers().set(true));
    }
    replicas.iter().for_each(|r| r.reads().release());
    if answers == Answers::Between {
        for reader in readers.drain(..) {
            patiently("a read between the commits", reader).await.unwrap();
        }
    }
    for (replica, caught) in replicas.iter().zip(caught).filter(|_| answers == Answers::After) {
        patiently("the answers to reads", replica.answers().wait(caught)).await;
    }
    commits.end(cluster).await;
    replicas.iter().for_each(|r| r.answers().release());
    for reader in readers {
        patiently("a read whose answer was late", reader).await.unwrap();
    }
    Rc::into_inner(seen).unwrap().into_inner()
}
