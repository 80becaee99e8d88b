//! A small and honest PostgreSQL behind the wire protocol: deterministic, single-threaded, sans-I/O.
//!
//! It exists so that the proxy can be driven through interleavings that real servers show once in a million. It is
//! checked against a real PostgreSQL 15 by `tests/sim_node.rs`. What it does not know is an error (0A000), never a
//! guess: a model that flatters the proxy is worse than none.
//!
//! To be read in this order; the first half decides who sees what, who waits for whom, and what lasts:
//!
//! | part | what it is for |
//! |---|---|
//! | this file, `api`, `server` | the node as its driver sees it; what its backends share and wait for |
//! | [`txn`] | transaction ids, their fate, snapshots, what a crash leaves |
//! | `table`, `sequence` | tables, row versions, who sees them, unique indexes; sequences |
//! | [`lock`] | the lock manager, its queues, deadlocks |
//! | `session`, `xact` | one backend's transaction: waiting, snapshots, savepoints, errors, COMMIT in two steps |
//! | `twophase` | transactions that are prepared: they outlive their backend, and a crash |
//! | `serializable` | who may commit at SERIALIZABLE |
//! | `decoding` | what transactions change, as a slot of test_decoding tells it |
//! | `rows`, `keys` | one row: locked, changed; inserted, and its keys checked |
//! | `exec`, `insert`, `constraint`, `trigger` | a statement's rows in turn, and what is looked at again after a wait; foreign keys; a trigger |
//! | `portal`, `protocol`, `copy` | a statement from text to rows in both protocols; messages |
//! | [`value`], `eval`, `functions` | values, operators, functions |
//! | `sql`, `parse`, `words`, `simpler` | statements, and how they are read from text |
//! | `expr`, `plan` | names and types of a statement, and what it will do |
//! | `settings`, `utility` | run-time settings; CREATE, SET, SHOW |
//!
//! **Time and order are the driver's.** [`Node::runnable`] lists what could happen next, in a fixed order; the driver
//! picks one and calls [`Node::step`]. One step is one message, or a statement's part up to a wait, or what follows
//! the wait; a commit is two steps more (durable, then visible). Nothing reads a clock: the driver says what time it
//! is, and [`Node::next_wakeup`] when time alone will make something runnable.
//!
//! **Simplifications**, all of them on the side of an error or of an order that a real server could show too:
//! - Refused are joins, subqueries, GROUP BY, cursors, triggers but one (`trigger`), cascades, table locks, TRUNCATE, and
//!   what else the proxy and its workloads do not need.
//! - SERIALIZABLE is judged at COMMIT alone, table by table (`serializable`): a real server fails fewer, and some earlier.
//! - A table is created outside of transactions and stays as it is ([`utility`]): no lock on a table ever waits.
//! - A SELECT runs to its end at its first Execute; one with a row limit and FOR UPDATE is refused.
//! - COPY FROM STDIN inserts its rows when all data has come (a real one: in batches of up to 1000 rows).
//! - Text compares bytewise. Privileges and roles do not exist.
//! - A row that ON CONFLICT has inserted and takes back (speculative insertion) makes others wait for its transaction.
//! - A crash takes no time; recovery is done when [`Node::restart`] returns.

mod api;
mod constraint;
mod copy;
pub mod decoding;
mod eval;
mod exec;
mod expr;
mod functions;
mod insert;
mod keys;
pub mod lock;
mod parse;
mod plan;
mod portal;
mod protocol;
mod rows;
mod sequence;
mod serializable;
mod server;
mod session;
mod settings;
mod simpler;
pub mod sql;
mod table;
#[cfg(test)]
mod tests;
mod trigger;
pub mod twophase;
pub mod txn;
mod utility;
pub mod value;
mod words;
mod xact;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

pub use api::{BackendId, BackendInfo, Gone, NodeConfig, Output, Step, Why};
use server::{BackendState, Server, Shared};
use txn::{Fate, Xid};
use value::Row;

/// Process ids of clients' backends are higher.
const FIRST_PID: u32 = 1000;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A simulated PostgreSQL server.
pub struct Node {
    server: Shared,
    tasks: BTreeMap<u32, Task>,
    last_backend: u32,
    last_pid: u32,
}

impl Node {
    /// An empty server that is up.
    #[must_use]
    pub fn new(config: NodeConfig) -> Node {
        let server = Rc::new(RefCell::new(Server::new(config)));
        Node { server, tasks: BTreeMap::new(), last_backend: 0, last_pid: 0 }
    }

    /// A client connects. `None`: the server is down, the connection is refused. A server that hangs lets its kernel
    /// accept.
    pub fn connect(&mut self) -> Option<BackendId> {
        let mut s = self.server.borrow_mut();
        if !s.up {
            return None;
        }
        self.last_backend += 1;
        self.last_pid += 1;
        let id = self.last_backend;
        s.backends.insert(id, BackendState::new(FIRST_PID + self.last_pid));
        drop(s);
        let session = session::Session::new(self.server.clone(), id);
        self.tasks.insert(id, Box::pin(session.run()));
        Some(BackendId(id))
    }

    fn backend<R>(&self, id: BackendId, f: impl FnOnce(&mut BackendState) -> R) -> Option<R> {
        self.server.borrow_mut().backends.get_mut(&id.0).map(f)
    }

    /// Bytes of the client have arrived, cut anywhere.
    pub fn receive(&mut self, id: BackendId, bytes: &[u8]) {
        self.backend(id, |b| b.input.extend_from_slice(bytes));
    }

    /// The client's end of the connection is gone. The backend goes on with what it has received.
    pub fn client_gone(&mut self, id: BackendId, noticed: Gone) {
        self.backend(id, |b| {
            b.gone = Some(noticed);
            b.output.clear();
        });
    }

    /// pg_terminate_backend, from outside.
    pub fn terminate(&mut self, id: BackendId) {
        self.backend(id, |b| b.terminate = true);
    }

    /// pg_cancel_backend, from outside.
    pub fn cancel(&mut self, id: BackendId) {
        if let Some((pid, secret)) = self.backend(id, |b| (b.pid, b.secret)) {
            self.server.borrow_mut().cancel(pid, secret);
        }
    }

    /// What could happen next: first who only gave way, then who was granted a lock, in the order of the grants, then
    /// the others in the order of their numbers. Nothing while the server hangs or is down.
    #[must_use]
    pub fn runnable(&self, now_us: i64) -> Vec<Step> {
        let s = self.server.borrow();
        if !s.up || s.hung {
            return Vec::new();
        }
        let ready = |id: &u32| {
            let why = s.ready(*id, now_us)?;
            let key = match why {
                Why::Turn => (0, 0),
                Why::Granted => (1, s.locks.grant_number(*id)),
                _ => (2, 0),
            };
            Some((key, Step::Backend(BackendId(*id), why)))
        };
        let mut steps: Vec<_> = self.tasks.keys().filter_map(ready).collect();
        steps.sort_by_key(|(key, _)| *key);
        let log_writer = s.flush_at.filter(|at| now_us >= *at).map(|_| Step::LogWriter);
        steps.into_iter().map(|(_, step)| step).chain(log_writer).collect()
    }

    /// Does one of the steps that [`Node::runnable`] has listed. One that is not possible (any more) does nothing.
    pub fn step(&mut self, step: Step, now_us: i64) {
        {
            let mut s = self.server.borrow_mut();
            s.now_us = s.now_us.max(now_us);
            if !s.up || s.hung {
                return;
            }
        }
        let id = match step {
            Step::LogWriter => {
                let mut s = self.server.borrow_mut();
                s.flush_at = None;
                return s.txns.flush_all();
            }
            Step::Backend(id, _) => id,
        };
        let ready = self.server.borrow().ready(id.0, now_us).is_some();
        let Some(task) = self.tasks.get_mut(&id.0).filter(|_| ready) else { return };
        // The waker does nothing: readiness is looked for in what the backend waits for.
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.tasks.remove(&id.0);
            self.backend(id, |b| {
                b.flush();
                b.ended = true;
            });
        }
    }

    /// What the backend has sent since the last call.
    pub fn take_output(&mut self, id: BackendId) -> Output {
        let taken = self.backend(id, |b| Output { bytes: std::mem::take(&mut b.output), closed: b.ended });
        // No such backend: it went with a crash, or was told to be closed before.
        let output = taken.unwrap_or(Output { bytes: Vec::new(), closed: true });
        if output.closed {
            self.server.borrow_mut().backends.remove(&id.0);
        }
        output
    }

    /// How many snapshots the backend has taken for its statements; 0 if there is none such.
    #[must_use]
    pub fn snapshots(&self, id: BackendId) -> u64 {
        self.server.borrow().backends.get(&id.0).map_or(0, |b| b.snapshots)
    }

    /// When time alone will make something runnable, if that is later than `now_us`.
    #[must_use]
    pub fn next_wakeup(&self, now_us: i64) -> Option<i64> {
        let s = self.server.borrow();
        if !s.up || s.hung {
            return None;
        }
        let times = s.backends.values().filter(|b| !b.ended).filter_map(BackendState::wakeup).chain(s.flush_at);
        times.filter(|t| *t > now_us).min()
    }

    /// The server dies at once: commits that are not on disk are lost, all connections are cut.
    pub fn crash(&mut self) {
        self.tasks.clear();
        self.server.borrow_mut().crash();
    }

    /// The server comes up again.
    pub fn restart(&mut self, now_us: i64) {
        let mut s = self.server.borrow_mut();
        s.now_us = s.now_us.max(now_us);
        s.up = true;
    }

    /// It is up (a server that hangs is).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.server.borrow().up
    }

    /// Nothing moves from here on, and nobody can tell from outside.
    pub fn hang(&mut self) {
        self.server.borrow_mut().hung = true;
    }

    /// It moves again.
    pub fn unhang(&mut self) {
        self.server.borrow_mut().hung = false;
    }

    /// The table's committed rows, in the order of their values (the key first, if it stands first).
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Row> {
        let s = self.server.borrow();
        let Ok(t) = s.table(table) else { return Vec::new() };
        let snapshot = s.txns.snapshot(0);
        let seen = s.heap(t.oid).versions.values().filter(|v| v.visible(&s.txns, None, &snapshot));
        let mut rows: Vec<Row> = seen.map(|v| v.row.clone()).collect();
        rows.sort();
        rows
    }

    /// The node's backends, in the order of their start.
    #[must_use]
    pub fn backends(&self) -> Vec<BackendInfo> {
        let s = self.server.borrow();
        let info = |(id, b): (&u32, &BackendState)| BackendInfo {
            id: BackendId(*id),
            pid: b.pid,
            application_name: b.application_name.clone(),
            state: b.state,
            midway: b.midway,
            xid: b.xid,
            waits_for: s.locks.waits_for(*id),
            locks: s.locks.held_by(*id),
        };
        s.backends.iter().filter(|(_, b)| !b.ended).map(info).collect()
    }

    /// What has become of a transaction of this incarnation; `None`: the id has not been given out.
    #[must_use]
    pub fn fate(&self, xid: Xid) -> Option<Fate> {
        self.server.borrow().txns.known_fate(xid)
    }
}
