//! What the backends of one node share: the data, the locks, and what each backend waits for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::BytesMut;

use super::decoding::ChangeLog;
use super::lock::Locks;
use super::sequence::Sequence;
use super::serializable::Judged;
use super::table::{Heap, Oid, Table};
use super::twophase::Prepared;
use super::txn::{Transactions, Xid};
use super::value::Res;
use super::{Gone, NodeConfig, Why};

/// The server as its backends hold it. Only one of them runs at a time, and none keeps a borrow while it waits.
pub type Shared = Rc<RefCell<Server>>;

/// PqSendBuffer's size (pqcomm.c): replies leave when it is full, or when the backend flushes.
const SEND_BUFFER: usize = 8192;

/// What a backend waits for. It is polled only when that has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Wait {
    /// Its turn.
    #[default]
    Turn,
    /// A whole message of the client. `idle`: outside of any statement, where a cancel means nothing.
    Message { startup: bool, idle: bool },
    /// A lock; or the time to look for a deadlock.
    Lock { check_at: Option<i64> },
    /// Its commit record being flushed. Nothing interrupts this.
    Flush { until: i64 },
    /// Its commit, durable already, becoming visible. Nothing interrupts this.
    Visible { until: i64 },
}

/// A backend, as the others see it.
#[derive(Default, Debug)]
pub struct BackendState {
    pub pid: u32,
    pub secret: u32,
    pub user: String,
    pub application_name: String,
    /// As pg_stat_activity has it.
    pub state: &'static str,
    pub xid: Option<Xid>,
    /// Ids from here on may be running for some snapshot that it holds.
    pub xmin: Option<Xid>,
    /// Snapshots that statements have been given so far; one that a transaction goes on with counts once.
    pub snapshots: u64,
    pub wait: Wait,
    /// The client has gone, to be noticed so.
    pub gone: Option<Gone>,
    pub terminate: bool,
    pub cancel: bool,
    /// Sending has failed.
    pub lost: bool,
    pub input: BytesMut,
    held: Vec<u8>,
    pub output: Vec<u8>,
    /// Something has been sent since the last ReadyForQuery.
    pub midway: bool,
    /// The process has ended.
    pub ended: bool,
}

impl BackendState {
    /// A backend that has just been started.
    pub fn new(pid: u32) -> BackendState {
        BackendState { pid, secret: pid.wrapping_mul(2_654_435_761), state: "starting", ..BackendState::default() }
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
        self.midway = true;
        match self.gone {
            None => self.output.append(&mut self.held),
            Some(noticed) => {
                self.held.clear();
                self.lost = noticed == Gone::AtWrite;
            }
        }
    }

    /// What it waits for has come. `None`: it has not; else why it may go on.
    pub fn ready(&self, waits_for_lock: bool, now: i64) -> Option<Why> {
        let interrupted = self.terminate || self.cancel;
        match self.wait {
            Wait::Turn => Some(Why::Turn),
            // A cancel is not looked at while a message is read (ProcessClientReadInterrupt in postgres.c, and
            // HOLD_CANCEL_INTERRUPTS in CopyGetData).
            Wait::Message { .. } if self.terminate => Some(Why::Interrupt),
            Wait::Message { startup, .. } if self.has_message(startup) => Some(Why::Message),
            Wait::Message { .. } => self.gone.filter(|g| *g != Gone::Never).map(|_| Why::ClientGone),
            Wait::Lock { .. } if !waits_for_lock => Some(Why::Granted),
            Wait::Lock { .. } if interrupted => Some(Why::Interrupt),
            Wait::Lock { check_at } => check_at.filter(|t| now >= *t).map(|_| Why::Timer),
            Wait::Flush { until } => (now >= until).then_some(Why::Flush),
            Wait::Visible { until } => (now >= until).then_some(Why::Visible),
        }
    }

    /// When its wait may end by time alone.
    pub fn wakeup(&self) -> Option<i64> {
        match self.wait {
            Wait::Turn | Wait::Message { .. } => None,
            Wait::Lock { check_at } => check_at,
            Wait::Flush { until } | Wait::Visible { until } => Some(until),
        }
    }
}

/// A node's server.
#[derive(Default)]
pub struct Server {
    pub config: NodeConfig,
    /// Simulated time, the same for all nodes.
    pub now_us: i64,
    pub up: bool,
    pub hung: bool,
    pub txns: Transactions,
    pub locks: Locks,
    tables: BTreeMap<String, Rc<Table>>,
    pub heaps: BTreeMap<Oid, Heap>,
    pub sequences: BTreeMap<String, Sequence>,
    pub backends: BTreeMap<u32, BackendState>,
    /// When the log writer flushes asynchronous commits.
    pub flush_at: Option<i64>,
    /// Transactions that are prepared, by name.
    pub prepared: BTreeMap<String, Prepared>,
    /// Owners of prepared transactions' locks so far.
    pub owners: u32,
    pub log: ChangeLog,
    pub judged: Judged,
    /// Tables with the trigger that there is.
    pub audited: BTreeSet<Oid>,
}

/// The first OID that a user's table gets (FirstNormalObjectId).
const FIRST_OID: u32 = 16_384;

impl Server {
    /// An empty node.
    pub fn new(config: NodeConfig) -> Server {
        let txns = Transactions::new(config.first_xid);
        Server { config, txns, up: true, ..Server::default() }
    }

    /// The node's own clock.
    pub fn clock(&self) -> i64 {
        self.now_us + self.config.clock_skew_us
    }

    /// A table by name, or the error that PostgreSQL has.
    pub fn table(&self, name: &str) -> Res<Rc<Table>> {
        self.tables.get(name).cloned().ok_or_else(|| super::functions::no_relation(name))
    }

    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.tables.values()
    }

    /// A table or a sequence has this name.
    pub fn has_relation(&self, name: &str) -> bool {
        self.tables.contains_key(name) || self.sequences.contains_key(name)
    }

    /// Puts a table into the catalogue, with an empty heap.
    pub fn add_table(&mut self, mut table: Table) {
        table.oid = FIRST_OID + u32::try_from(self.tables.len()).unwrap_or(0); // far fewer than 2^32
        let seed = self.config.physical_order_seed;
        let seed = if seed == 0 { 0 } else { seed.wrapping_add(u64::from(table.oid) << 32) };
        self.heaps.insert(table.oid, Heap::new(table.uniques.len(), seed));
        self.tables.insert(table.name.clone(), Rc::new(table));
    }

    /// A table's rows.
    pub fn heap(&self, table: Oid) -> &Heap {
        self.heaps.get(&table).expect("a table has a heap as long as the node lives")
    }

    /// A table's rows, to change; and the transactions that decide about them.
    pub fn heap_mut(&mut self, table: Oid) -> (&mut Heap, &mut Transactions) {
        (self.heaps.get_mut(&table).expect("a table has a heap as long as the node lives"), &mut self.txns)
    }

    /// Takes a table's old versions away, if there are many.
    pub fn prune(&mut self, table: Oid) {
        // The oldest id that some snapshot may take for running.
        let oldest = self.txns.snapshot(0).xmin;
        let horizon = self.backends.values().filter_map(|b| b.xmin).fold(oldest, Xid::min);
        let (heap, txns) = self.heap_mut(table);
        heap.prune(txns, horizon);
    }

    /// What the backend waits for has come. `None`: it has not; else why it may go on.
    pub fn ready(&self, id: u32, now: i64) -> Option<Why> {
        let b = self.backends.get(&id).filter(|b| !b.ended)?;
        b.ready(self.locks.waits_for(id).is_some(), now)
    }

    /// A cancel request; a backend that is idle forgets it.
    pub fn cancel(&mut self, pid: u32, secret: u32) {
        let found = self.backends.values_mut().find(|b| b.pid == pid && b.secret == secret && !b.ended);
        if let Some(b) = found.filter(|b| !matches!(b.wait, Wait::Message { idle: true, .. })) {
            b.cancel = true;
        }
    }

    /// The server dies: connections and locks are gone, and what was not on disk.
    pub fn crash(&mut self) {
        self.up = false;
        self.hung = false;
        self.backends.clear();
        self.locks = Locks::default();
        self.flush_at = None;
        let flushed = self.txns.flushed();
        self.keep_prepared(flushed);
        let prepared = self.prepared.values().map(|p| p.xid).collect();
        let lost = self.txns.crash(&prepared);
        self.lock_prepared();
        self.log.crash(&prepared);
        self.judged.crash(&prepared);
        let txns = &self.txns;
        self.heaps.values_mut().for_each(|h| h.crash(&lost, txns));
        self.sequences.values_mut().for_each(|s| s.crash(flushed));
    }
}
