//! What the backends of one node share: the data, the locks, and what each backend waits for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::BytesMut;

use super::NodeConfig;
use super::lock::{Locks, Owner};
use super::sequence::Sequence;
use super::sql::Statement;
use super::table::{Catalogue, Heap, HeapId, Oid};
use super::txn::{Lsn, Transactions, Xid};
use super::value::Res;

/// The server as its backends hold it. Only one of them runs at a time, and none keeps a borrow while it waits.
pub type Shared = Rc<RefCell<Server>>;

/// Statement texts kept parsed; beyond it all are forgotten.
const PARSED_MAX: usize = 2000;
/// PqSendBuffer's size (pqcomm.c): replies leave when it is full, or when the backend flushes.
const SEND_BUFFER: usize = 8192;

/// What a backend waits for. It is polled only when that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Its turn.
    Turn,
    /// A whole message of the client. `idle`: outside of any statement, where a cancel means nothing.
    Message { startup: bool, idle: bool },
    /// A lock; or the time to look for a deadlock, or to give up.
    Lock { check_at: Option<i64>, give_up_at: Option<i64> },
    /// A time (pg_sleep).
    Sleep { until: i64 },
    /// Its commit record being flushed. Nothing interrupts this.
    Flush { until: i64 },
    /// Its commit, durable already, becoming visible. Nothing interrupts this.
    Visible { until: i64 },
}

/// The client's end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Here,
    /// Gone; noticed when the backend has read all that had arrived.
    GoneForReads,
    /// Gone; noticed at the next attempt to send, too.
    GoneForWrites,
}

/// A backend, as the others see it.
#[derive(Debug)]
pub struct BackendState {
    pub pid: u32,
    pub secret: u32,
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub started_us: i64,
    /// As pg_stat_activity has it.
    pub state: &'static str,
    pub xid: Option<Xid>,
    /// Ids from here on may be running for some snapshot that it holds.
    pub xmin: Option<Xid>,
    pub wait: Wait,
    pub client: Client,
    pub terminate: bool,
    pub cancel: bool,
    /// Sending has failed.
    pub lost: bool,
    pub input: BytesMut,
    held: Vec<u8>,
    pub output: Vec<u8>,
    /// The process has ended.
    pub ended: bool,
}

impl BackendState {
    /// A backend that has just been started.
    pub fn new(pid: u32, secret: u32, started_us: i64) -> BackendState {
        BackendState {
            pid,
            secret,
            user: String::new(),
            database: String::new(),
            application_name: String::new(),
            started_us,
            state: "starting",
            xid: None,
            xmin: None,
            wait: Wait::Turn,
            client: Client::Here,
            terminate: false,
            cancel: false,
            lost: false,
            input: BytesMut::new(),
            held: Vec::new(),
            output: Vec::new(),
            ended: false,
        }
    }

    /// A whole message is there.
    pub fn has_message(&self, startup: bool) -> bool {
        let at = usize::from(!startup);
        let Some(length) = self.input.get(at..).and_then(crate::wire::read_u32) else { return false };
        // A length that cannot be is for the backend to refuse.
        !(4..=super::protocol::MESSAGE_MAX).contains(&length) || self.input.len() >= at + length as usize
    }

    /// Queues a reply.
    pub fn send(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= SEND_BUFFER {
            let full = self.held.len() / SEND_BUFFER * SEND_BUFFER;
            let rest = self.held.split_off(full);
            self.flush();
            self.held = rest;
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self) {
        if self.held.is_empty() {
            return;
        }
        match self.client {
            Client::Here => self.output.append(&mut self.held),
            Client::GoneForReads => self.held.clear(),
            Client::GoneForWrites => {
                self.held.clear();
                self.lost = true;
            }
        }
    }
}

/// A prepared transaction.
#[derive(Debug)]
pub struct PreparedTransaction {
    pub xid: Xid,
    /// Where its record is.
    pub lsn: Lsn,
    /// COMMIT PREPARED is durable.
    pub decided: bool,
    /// Some backend is at it.
    pub busy: bool,
}

/// A node's server.
pub struct Server {
    pub config: NodeConfig,
    /// Simulated time, the same for all nodes.
    pub now_us: i64,
    pub up: bool,
    pub hung: bool,
    /// When this incarnation began, by the node's own clock.
    pub incarnation_us: i64,
    pub txns: Transactions,
    pub locks: Locks,
    pub catalogue: Catalogue,
    pub heaps: BTreeMap<HeapId, Heap>,
    pub sequences: BTreeMap<Oid, Sequence>,
    pub prepared: BTreeMap<String, PreparedTransaction>,
    pub backends: BTreeMap<u32, BackendState>,
    /// When the log writer flushes asynchronous commits.
    pub flush_at: Option<i64>,
    next_heap: HeapId,
    parsed: BTreeMap<String, Rc<Vec<Statement>>>,
}

impl Server {
    /// An empty node.
    pub fn new(config: NodeConfig) -> Server {
        let txns = Transactions::new(config.first_xid);
        Server {
            config,
            now_us: 0,
            up: true,
            hung: false,
            incarnation_us: 0,
            txns,
            locks: Locks::default(),
            catalogue: Catalogue::default(),
            heaps: BTreeMap::new(),
            sequences: BTreeMap::new(),
            prepared: BTreeMap::new(),
            backends: BTreeMap::new(),
            flush_at: None,
            next_heap: 0,
            parsed: BTreeMap::new(),
        }
    }

    /// The node's own clock.
    pub fn clock(&self) -> i64 {
        self.now_us + self.config.clock_skew_us
    }

    /// A new, empty heap.
    pub fn new_heap(&mut self, uniques: usize) -> HeapId {
        self.next_heap += 1;
        let seed = self.config.physical_order_seed;
        let seed = if seed == 0 { 0 } else { seed.wrapping_add(u64::from(self.next_heap) << 32) };
        self.heaps.insert(self.next_heap, Heap::new(uniques, seed));
        self.next_heap
    }

    /// The statements of a query string.
    pub fn parse(&mut self, text: &str) -> Res<Rc<Vec<Statement>>> {
        if let Some(p) = self.parsed.get(text) {
            return Ok(p.clone());
        }
        let p = Rc::new(super::parse::parse(text)?);
        if self.parsed.len() >= PARSED_MAX {
            self.parsed.clear();
        }
        self.parsed.insert(text.to_owned(), p.clone());
        Ok(p)
    }

    /// The oldest id that some snapshot may take for running.
    pub fn horizon(&self) -> Xid {
        let oldest = self.txns.snapshot(0).xmin;
        self.backends.values().filter_map(|b| b.xmin).fold(oldest, Xid::min)
    }

    /// What the backend waits for has come. `None`: it has not; else why it may go on.
    pub fn ready(&self, id: u32, now: i64) -> Option<super::Why> {
        use super::Why;
        let b = self.backends.get(&id).filter(|b| !b.ended)?;
        let reached = |t: Option<i64>| t.is_some_and(|t| now >= t);
        match b.wait {
            Wait::Turn => Some(Why::Turn),
            Wait::Message { startup, idle } => {
                if b.terminate || (b.cancel && !idle) {
                    Some(Why::Interrupt)
                } else if b.has_message(startup) {
                    Some(Why::Message)
                } else {
                    (b.client != Client::Here).then_some(Why::ClientGone)
                }
            }
            Wait::Lock { check_at, give_up_at } => {
                if !self.locks.is_waiting(Owner::Backend(id)) {
                    Some(Why::Granted)
                } else if b.terminate || b.cancel {
                    Some(Why::Interrupt)
                } else {
                    (reached(check_at) || reached(give_up_at)).then_some(Why::Timer)
                }
            }
            Wait::Sleep { .. } if b.terminate || b.cancel => Some(Why::Interrupt),
            Wait::Sleep { until } => (now >= until).then_some(Why::Timer),
            Wait::Flush { until } => (now >= until).then_some(Why::Flush),
            Wait::Visible { until } => (now >= until).then_some(Why::Visible),
        }
    }

    /// When the backend's wait may end by time alone.
    pub fn wakeup(&self, id: u32) -> Option<i64> {
        let b = self.backends.get(&id).filter(|b| !b.ended)?;
        match b.wait {
            Wait::Turn | Wait::Message { .. } => None,
            Wait::Lock { check_at, give_up_at } => check_at.into_iter().chain(give_up_at).min(),
            Wait::Sleep { until } | Wait::Flush { until } | Wait::Visible { until } => Some(until),
        }
    }

    /// Ends the process of a backend whose connection is cut as well.
    pub fn crash(&mut self) {
        self.up = false;
        self.hung = false;
        self.backends.clear();
        self.flush_at = None;
        let flushed = self.txns.flushed();
        self.prepared.retain(|_, p| p.lsn <= flushed && !p.decided);
        for p in self.prepared.values_mut() {
            p.busy = false;
        }
        let prepared: BTreeSet<Xid> = self.prepared.values().map(|p| p.xid).collect();
        let lost = self.txns.crash(&prepared);
        self.locks.keep_only(&prepared.iter().map(|x| Owner::Prepared(*x)).collect());
        self.catalogue.undo(|x| lost.contains(&x));
        for heap in self.heaps.values_mut() {
            heap.crash(&lost, |x| prepared.contains(&self.txns.top(x)));
        }
        for s in self.sequences.values_mut() {
            s.crash(flushed);
        }
        self.drop_unused_heaps();
    }

    /// Heaps that no version of any table has any more.
    pub fn drop_unused_heaps(&mut self) {
        let used = self.catalogue.heaps();
        self.heaps.retain(|id, _| used.contains(id));
    }
}
