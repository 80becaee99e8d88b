//! What a shard is made of besides its driver: who owns which connection, timers, the applier pool, the questions that
//! are under way. Sessions see it as [`Io`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::driver::{Address, ConnId, Driver, Time};
use crate::sequencer::NodeId;
use crate::session::applier::Applier;
use crate::session::io::{Io, PoolKey, Question, TimerKind};
use crate::wire::front;

/// Idle appliers kept per node, database and role; more are closed.
pub const POOL_MAX: usize = 64;

/// A session of this shard. The generation makes a stale id harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId {
    /// Slot in the shard's table.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// Who a connection belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody: what still comes is dropped.
    Nobody,
    /// The client's side of a session.
    Client(SessionId),
    /// A backend of a session.
    Server(SessionId),
    /// An idle applier.
    Pooled(PoolKey),
    /// A CancelRequest that leaves once the connection stands.
    Cancel(Bytes),
}

/// Who owns which connection.
#[derive(Debug, Default)]
struct Owners {
    /// By slot of the driver's table: the generation that is owned, and by whom.
    slots: Vec<(u32, Owner)>,
    /// Connections beyond the driver's table: they only live to be reported closed.
    strays: HashMap<ConnId, Owner>,
}

impl Owners {
    fn of(&self, conn: ConnId) -> Owner {
        match self.slots.get(conn.index as usize) {
            Some((generation, owner)) if *generation == conn.generation => owner.clone(),
            Some(_) => Owner::Nobody,
            None => self.strays.get(&conn).cloned().unwrap_or(Owner::Nobody),
        }
    }

    fn set(&mut self, conn: ConnId, owner: Owner) {
        if conn.index == u32::MAX {
            if owner == Owner::Nobody {
                self.strays.remove(&conn);
            } else {
                self.strays.insert(conn, owner);
            }
            return;
        }
        let at = conn.index as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, (0, Owner::Nobody));
        }
        // Events of one turn are worked on one by one: the slot may be another connection's when the end of the one
        // before is heard of. Only a connection itself can lose its owner.
        if owner == Owner::Nobody && self.slots[at].0 != conn.generation {
            return;
        }
        self.slots[at] = (conn.generation, owner);
    }
}

/// Something that must wait until the session at work has returned.
#[derive(Debug)]
pub enum Deferred {
    /// A CancelRequest named this pid and secret.
    Cancel { pid: u32, secret: u32 },
    /// A question for the control plane.
    Ask { session: SessionId, token: u64, question: Question },
}

/// Everything of a shard that sessions act upon.
pub struct Core<D> {
    /// The operating system.
    pub driver: D,
    /// Addresses of the nodes, by id.
    pub nodes: Vec<Address>,
    owners: Owners,
    timers: BinaryHeap<Reverse<(Time, u64, SessionId, u8, u8)>>,
    next: u64,
    pools: HashMap<PoolKey, Vec<Box<Applier>>>,
    /// Sessions with a commit under way.
    pub watchers: Vec<SessionId>,
    /// To be done when the session at work has returned.
    pub deferred: Vec<Deferred>,
    /// The session at work.
    pub current: SessionId,
}

impl<D: Driver> Core<D> {
    /// A core with nothing under way.
    pub fn new(driver: D, nodes: Vec<Address>) -> Core<D> {
        Core {
            driver,
            nodes,
            owners: Owners::default(),
            timers: BinaryHeap::new(),
            next: 0,
            pools: HashMap::new(),
            watchers: Vec::new(),
            deferred: Vec::new(),
            current: SessionId { slot: u32::MAX, generation: 0 },
        }
    }

    /// Who owns the connection.
    #[must_use]
    pub fn owner(&self, conn: ConnId) -> Owner {
        self.owners.of(conn)
    }

    /// Gives the connection an owner.
    pub fn own(&mut self, conn: ConnId, owner: Owner) {
        self.owners.set(conn, owner);
    }

    /// When the next timer is due.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// Timers that are due.
    pub fn due(&mut self) -> Option<(SessionId, TimerKind)> {
        let now = self.driver.now();
        let Reverse((at, ..)) = self.timers.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((_, _, session, kind, node)) = self.timers.pop()?;
        let kind = match kind {
            0 => TimerKind::Authentication,
            1 => TimerKind::Replica(NodeId(node)),
            2 => TimerKind::Idle,
            _ => TimerKind::Drain,
        };
        Some((session, kind))
    }

    /// A pooled applier spoke or broke: it is of no use any more.
    pub fn drop_pooled(&mut self, key: &PoolKey, conn: ConnId) {
        if let Some(pool) = self.pools.get_mut(key) {
            pool.retain(|a| a.link.conn != conn);
        }
        self.own(conn, Owner::Nobody);
        self.driver.abort(conn);
    }

    /// Closes idle appliers of a node that is out, or of a database that is to be dropped.
    pub fn drop_pools(&mut self, gone: impl Fn(&PoolKey) -> bool) {
        let mut closed = Vec::new();
        self.pools.retain(|key, pool| {
            if gone(key) {
                closed.extend(pool.iter().map(|a| a.link.conn));
            }
            !gone(key)
        });
        for conn in closed {
            self.own(conn, Owner::Nobody);
            self.driver.send(conn, Bytes::from_static(front::TERMINATE));
            self.driver.close(conn);
        }
    }

    /// Number of idle appliers.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.pools.values().map(Vec::len).sum()
    }
}

impl<D: Driver> Io for Core<D> {
    fn now(&self) -> Time {
        self.driver.now()
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        self.driver.send(conn, bytes);
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.driver.queued(conn)
    }

    fn pause(&mut self, conn: ConnId) {
        self.driver.pause(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        self.driver.resume(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.own(conn, Owner::Nobody);
        self.driver.close(conn);
    }

    fn abort(&mut self, conn: ConnId) {
        self.own(conn, Owner::Nobody);
        self.driver.abort(conn);
    }

    fn connect(&mut self, node: NodeId) -> ConnId {
        let conn = self.driver.connect(&self.nodes[usize::from(node.0)]);
        self.own(conn, Owner::Server(self.current));
        conn
    }

    fn cancel(&mut self, node: NodeId, pid: u32, secret: &[u8]) {
        let mut out = BytesMut::new();
        front::cancel(&mut out, pid, secret);
        let conn = self.driver.connect(&self.nodes[usize::from(node.0)]);
        self.own(conn, Owner::Cancel(out.freeze()));
    }

    fn cancel_client(&mut self, pid: u32, secret: u32) {
        self.deferred.push(Deferred::Cancel { pid, secret });
    }

    fn random(&mut self, out: &mut [u8]) {
        self.driver.random(out);
    }

    fn arm(&mut self, after: Duration, what: TimerKind) {
        let at = self.driver.now().after(after);
        self.next += 1;
        let (kind, node) = match what {
            TimerKind::Authentication => (0, 0),
            TimerKind::Replica(n) => (1, n.0),
            TimerKind::Idle => (2, 0),
            TimerKind::Drain => (3, 0),
        };
        self.timers.push(Reverse((at, self.next, self.current, kind, node)));
    }

    fn ask(&mut self, question: Question) -> u64 {
        self.next += 1;
        let token = self.next;
        self.deferred.push(Deferred::Ask { session: self.current, token, question });
        token
    }

    fn take_applier(&mut self, key: &PoolKey, settings: u64) -> Option<Box<Applier>> {
        let pool = self.pools.get_mut(key)?;
        let at = pool.iter().rposition(|a| a.settings == Some(settings)).or(pool.len().checked_sub(1))?;
        let applier = pool.remove(at);
        self.own(applier.link.conn, Owner::Server(self.current));
        Some(applier)
    }

    fn give_applier(&mut self, key: &PoolKey, applier: Box<Applier>) {
        let conn = applier.link.conn;
        let pool = self.pools.entry(key.clone()).or_default();
        if pool.len() >= POOL_MAX {
            self.own(conn, Owner::Nobody);
            self.driver.send(conn, Bytes::from_static(front::TERMINATE));
            self.driver.close(conn);
            return;
        }
        pool.push(applier);
        self.own(conn, Owner::Pooled(key.clone()));
    }

    fn watch_commits(&mut self) {
        if !self.watchers.contains(&self.current) {
            self.watchers.push(self.current);
        }
    }
}

/// Resolves where a node listens; a host name is looked up here, once, since drivers look up nothing.
///
/// # Errors
/// The name cannot be resolved.
pub fn node_address(host: &str, port: u16) -> std::io::Result<Address> {
    use std::net::ToSocketAddrs;
    if host.starts_with('/') {
        return Ok(Address::Unix(format!("{host}/.s.PGSQL.{port}").into()));
    }
    let found = (host, port).to_socket_addrs()?.next();
    found.map(Address::Tcp).ok_or_else(|| std::io::Error::other(format!("host name \"{host}\" has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_late_end_of_a_connection_leaves_the_next_one_in_its_slot_alone() {
        let id = |generation| ConnId { index: 3, generation };
        let client = Owner::Client(SessionId { slot: 0, generation: 0 });
        let mut owners = Owners::default();
        owners.set(id(7), client.clone());
        assert_eq!(owners.of(id(7)), client);
        owners.set(id(7), Owner::Nobody);
        owners.set(id(8), Owner::Cancel(Bytes::new()));
        owners.set(id(7), Owner::Nobody);
        assert_eq!((owners.of(id(7)), owners.of(id(8))), (Owner::Nobody, Owner::Cancel(Bytes::new())));
    }
}
