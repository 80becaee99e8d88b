//! A network between the proxy and the nodes that can be slow: TCP relays, one in front of each node.
//!
//! Two nodes may make two commits visible in different orders, but on one machine they hardly ever do. A relay lets a
//! COMMIT, anything else that goes to its node, or what comes back, take a random time; or it keeps COMMITs, reads, or
//! the answers to them until they are let go, so that a test can look at the moment between two nodes' commits for as
//! long as it likes.

use super::random::Random;
use super::raw::V3_0;
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Bytes that a relay takes from a socket at a time.
const CHUNK: usize = 64 * 1024;

/// A word in the text of statements that can be caught.
pub const MARK: &str = "FILTER";

/// Least and most milliseconds that something takes on its way.
pub type Range = (usize, usize);

/// How long things take on the way to a node and back; drawn anew for every packet.
#[derive(Clone, Copy, Default)]
pub struct Delays {
    /// A COMMIT.
    pub commit: Range,
    /// Whatever else is sent to the node.
    pub request: Range,
    /// What the node answers.
    pub reply: Range,
}

/// Keeps what comes by, while it is set.
pub struct Trap {
    set: AtomicBool,
    caught: AtomicUsize,
    /// Changes when what was caught is let go.
    released: watch::Sender<usize>,
}

impl Trap {
    fn new() -> Trap {
        Trap { set: AtomicBool::new(false), caught: AtomicUsize::new(0), released: watch::Sender::new(0) }
    }

    /// Whether what comes from now on is kept. What is kept already stays.
    pub fn set(&self, set: bool) {
        self.set.store(set, Ordering::SeqCst);
    }

    /// How much is kept.
    pub fn caught(&self) -> usize {
        self.caught.load(Ordering::SeqCst)
    }

    /// Waits until so much is kept.
    pub async fn wait(&self, count: usize) {
        while self.caught() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets go what was kept, and keeps no more.
    pub fn release(&self) {
        self.set(false);
        self.released.send_modify(|n| *n += 1);
    }

    /// Something comes by.
    async fn pass(&self) {
        let mut released = self.released.subscribe();
        if self.set.load(Ordering::SeqCst) {
            self.caught.fetch_add(1, Ordering::SeqCst);
            let _sender_is_ours = released.changed().await;
            self.caught.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The relay in front of one node.
pub struct Relay {
    /// Where it listens, on the loopback address.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    delays: Mutex<Delays>,
    commits: Trap,
    reads: Trap,
    answers: Trap,
}

impl Relay {
    /// Sets the delays, for packets from now on.
    pub fn delay(&self, delays: Delays) {
        *self.shared.delays.lock().unwrap() = delays;
    }

    /// The trap for COMMITs.
    pub fn commits(&self) -> &Trap {
        &self.shared.commits
    }

    /// The trap for statements whose text holds [`MARK`].
    pub fn reads(&self) -> &Trap {
        &self.shared.reads
    }

    /// The trap for answers on connections on which there was such a statement.
    pub fn answers(&self) -> &Trap {
        &self.shared.answers
    }
}

/// The relays of a cluster, in a thread of their own. Dropping them closes all their connections.
pub struct Relays {
    pub nodes: Vec<Relay>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Relays {
    /// One relay for each of these ports of the loopback address, without any delay yet.
    pub fn start(targets: &[u16]) -> Relays {
        let mut nodes = Vec::new();
        let mut listeners = Vec::new();
        for &target in targets {
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let shared = Arc::new(Shared {
                delays: Mutex::default(),
                commits: Trap::new(),
                reads: Trap::new(),
                answers: Trap::new(),
            });
            nodes.push(Relay { port: listener.local_addr().unwrap().port(), shared: shared.clone() });
            listeners.push((listener, target, shared));
        }
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (listener, target, shared) in listeners {
                    tokio::spawn(serve(TcpListener::from_std(listener).unwrap(), target, shared));
                }
                let _dropped = stopped.await;
            });
        });
        Relays { nodes, _stop: stop }
    }
}

async fn serve(listener: TcpListener, target: u16, shared: Arc<Shared>) {
    for seed in 0.. {
        let Ok((client, _)) = listener.accept().await else { return };
        let shared = shared.clone();
        tokio::spawn(async move {
            // A node that is down closes the client's connection, as a refused connection would.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
            let _fails_later = client.set_nodelay(true).and(server.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let reads = Arc::new(AtomicBool::new(false));
            tokio::spawn(requests(from_client, to_server, shared.clone(), reads.clone(), Random::new(seed)));
            replies(from_server, to_client, shared, reads, Random::new(!seed)).await;
        });
    }
}

/// `reads` becomes true when there was a statement with [`MARK`].
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    reads: Arc<AtomicBool>,
    mut random: Random,
) {
    let (mut buffer, mut commits) = (vec![0; CHUNK], Commits::default());
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        let is_commit = commits.are_in(bytes);
        if is_commit {
            shared.commits.pass().await;
        } else if memchr::memmem::find(bytes, MARK.as_bytes()).is_some() {
            reads.store(true, Ordering::SeqCst);
            shared.reads.pass().await;
        }
        let delays = *shared.delays.lock().unwrap();
        pause(if is_commit { delays.commit } else { delays.request }, &mut random).await;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    reads: Arc<AtomicBool>,
    mut random: Random,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if reads.load(Ordering::SeqCst) {
            shared.answers.pass().await;
        }
        let range = shared.delays.lock().unwrap().reply;
        pause(range, &mut random).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn pause((least, most): Range, random: &mut Random) {
    let time = random.between(least, most);
    if time > 0 {
        tokio::time::sleep(Duration::from_millis(time as u64)).await;
    }
}

/// Finds COMMIT in what a client of PostgreSQL sends: as a query, or as the Bind of a statement that is one.
#[derive(Default)]
struct Commits {
    /// The start-up packet has passed.
    started: bool,
    /// The beginning of a message whose end is yet to come.
    rest: Vec<u8>,
    /// Names of prepared statements that are COMMIT.
    names: HashSet<Vec<u8>>,
}

impl Commits {
    /// Whether one of them ends in `bytes`, which follow those of the last call.
    fn are_in(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let (mut found, mut at) = (false, 0);
        loop {
            let tag = usize::from(self.started);
            let Some(header) = self.rest.get(at + tag..at + tag + 4) else { break };
            let length = u32::from_be_bytes(header.try_into().unwrap()) as usize;
            let Some(body) = self.rest.get(at + tag + 4..at + tag + length) else { break };
            if !self.started {
                self.started = body.starts_with(&V3_0.to_be_bytes());
            } else {
                let mut strings = body.split(|&b| b == 0);
                let (first, second) = (strings.next().unwrap_or_default(), strings.next().unwrap_or_default());
                match self.rest[at] {
                    b'Q' => found |= is_commit(first),
                    b'P' if is_commit(second) => drop(self.names.insert(first.to_vec())),
                    b'P' => drop(self.names.remove(first)),
                    b'B' => found |= self.names.contains(second),
                    _ => {}
                }
            }
            at += tag + length;
        }
        self.rest.drain(..at);
        found
    }
}

fn is_commit(sql: &[u8]) -> bool {
    sql.starts_with(b"COMMIT")
}
