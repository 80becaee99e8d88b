//! What a shard is made of besides its driver: who owns which connection, timers, the applier pool, the questions that
//! are under way. Sessions see it as [`Io`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::driver::{Address, ConnId, Driver, Time};
use super::pool::{Offer, Pools};
use crate::script::Spill;
use crate::sequencer::NodeId;
use crate::session::applier::Applier;
use crate::session::io::{Backend, Io, LaneKey, PoolKey, PoolLimits, Question, TimerKind};
use crate::session::link::Link;
use crate::session::settings::Settings;
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
    /// An idle backend of this node, for the next client.
    Idle(NodeId),
    /// A CancelRequest that leaves once the connection stands; the session is told when the server has closed it.
    Cancel(SessionId, Bytes),
}

/// A timer of a session. Ordered by time; those of one moment in the order in which they were armed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Timer {
    at: Time,
    number: u64,
    session: SessionId,
    kind: TimerKind,
}

/// Something that must wait until the session at work has returned.
#[derive(Debug)]
pub enum Deferred {
    /// A CancelRequest named this pid and secret.
    Cancel { pid: u32, secret: u32 },
    /// A question for the control plane.
    Ask { session: SessionId, token: u64, question: Question },
}

/// Makes a transaction's spill file.
pub type MakeSpill = Box<dyn Fn() -> std::io::Result<Box<dyn Spill>> + Send>;

/// Everything of a shard that sessions act upon.
pub struct Core<D> {
    /// The operating system.
    pub driver: D,
    /// Addresses of the nodes, by id.
    pub nodes: Vec<Address>,
    make_spill: MakeSpill,
    owners: Vec<(u32, Owner)>,
    /// Connections beyond the driver's table: they only live to be reported closed.
    strays: HashMap<ConnId, Owner>,
    timers: BinaryHeap<Reverse<Timer>>,
    next: u64,
    #[allow(clippy::vec_box)] // moved whole between here and sessions
    pools: BTreeMap<PoolKey, Vec<Box<Applier>>>,
    /// Backends of clients.
    pub backends: Pools,
    /// Sessions whose commit waits for a watermark.
    pub watchers: BTreeSet<SessionId>,
    /// To be done when the session at work has returned.
    pub deferred: Vec<Deferred>,
    /// The session at work.
    pub current: SessionId,
}

impl<D: Driver> Core<D> {
    /// A core with nothing under way.
    pub fn new(driver: D, nodes: Vec<Address>, make_spill: MakeSpill) -> Core<D> {
        Core {
            driver,
            nodes,
            make_spill,
            owners: Vec::new(),
            strays: HashMap::new(),
            timers: BinaryHeap::new(),
            next: 0,
            pools: BTreeMap::new(),
            backends: Pools::default(),
            watchers: BTreeSet::new(),
            deferred: Vec::new(),
            current: SessionId { slot: u32::MAX, generation: 0 },
        }
    }

    /// Who owns the connection.
    #[must_use]
    pub fn owner(&self, conn: ConnId) -> Owner {
        match self.owners.get(conn.index as usize) {
            Some((generation, owner)) if *generation == conn.generation => owner.clone(),
            Some(_) => Owner::Nobody,
            None => self.strays.get(&conn).cloned().unwrap_or(Owner::Nobody),
        }
    }

    /// Gives the connection an owner.
    pub fn own(&mut self, conn: ConnId, owner: Owner) {
        if conn.index == u32::MAX {
            if owner == Owner::Nobody {
                self.strays.remove(&conn);
            } else {
                self.strays.insert(conn, owner);
            }
            return;
        }
        let at = conn.index as usize;
        if self.owners.len() <= at {
            self.owners.resize(at + 1, (0, Owner::Nobody));
        }
        // A late word about an old connection must not take the slot's new one from its owner.
        if owner != Owner::Nobody || self.owners[at].0 == conn.generation {
            self.owners[at] = (conn.generation, owner);
        }
    }

    /// When the next timer is due.
    #[must_use]
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse(t)| t.at)
    }

    /// Timers that are due.
    pub fn due(&mut self) -> Option<(SessionId, TimerKind)> {
        let now = self.driver.now();
        if self.timers.peek()?.0.at > now {
            return None;
        }
        let Reverse(Timer { session, kind, .. }) = self.timers.pop()?;
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

    /// Closes these idle backends.
    pub fn close_idle(&mut self, all: Vec<ConnId>) {
        for conn in all {
            self.own(conn, Owner::Nobody);
            self.driver.send(conn, Bytes::from_static(front::TERMINATE));
            self.driver.close(conn);
        }
    }

    /// Closes idle backends of these keys.
    pub fn drop_backends(&mut self, gone: impl Fn(&LaneKey) -> bool) {
        let all = self.backends.drop_idle(gone);
        self.close_idle(all);
    }

    /// Number of idle appliers.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.pools.values().map(Vec::len).sum()
    }

    /// Connections that belong to somebody, idle appliers' among them.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.owners.iter().filter(|(_, owner)| *owner != Owner::Nobody).count() + self.strays.len()
    }

    /// Timers that are armed.
    #[must_use]
    pub fn armed(&self) -> usize {
        self.timers.len()
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

    fn queue_high(&self) -> usize {
        D::HIGH_WATER
    }

    fn pause(&mut self, conn: ConnId) {
        self.driver.pause(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        self.driver.resume(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.backends.gone(conn);
        self.own(conn, Owner::Nobody);
        self.driver.close(conn);
    }

    fn abort(&mut self, conn: ConnId) {
        self.backends.gone(conn);
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
        self.own(conn, Owner::Cancel(self.current, out.freeze()));
    }

    fn cancel_client(&mut self, pid: u32, secret: u32) {
        self.deferred.push(Deferred::Cancel { pid, secret });
    }

    fn spill(&mut self) -> std::io::Result<Box<dyn Spill>> {
        (self.make_spill)()
    }

    fn random(&mut self, out: &mut [u8]) {
        self.driver.random(out);
    }

    fn arm(&mut self, after: Duration, what: TimerKind) {
        self.next += 1;
        let at = self.driver.now().after(after);
        self.timers.push(Reverse(Timer { at, number: self.next, session: self.current, kind: what }));
    }

    fn ask(&mut self, question: Question) -> u64 {
        self.next += 1;
        let token = self.next;
        self.deferred.push(Deferred::Ask { session: self.current, token, question });
        token
    }

    fn take_applier(&mut self, key: &PoolKey, settings: &Settings) -> Option<Box<Applier>> {
        let pool = self.pools.get_mut(key)?;
        let has = |a: &Applier| a.settings == Some(settings.id()) && a.fits(settings);
        let at = pool.iter().rposition(|a| has(a)).or_else(|| pool.iter().rposition(|a| a.fits(settings)))?;
        let applier = pool.remove(at);
        self.own(applier.link.conn, Owner::Server(self.current));
        Some(applier)
    }

    fn give_applier(&mut self, key: &PoolKey, applier: Box<Applier>) {
        let conn = applier.link.conn;
        let pool = self.pools.entry(key.clone()).or_default();
        pool.push(applier);
        if pool.len() > POOL_MAX {
            // The one that was used last is the likeliest to fit the next session.
            let oldest = pool.remove(0).link.conn;
            self.own(oldest, Owner::Nobody);
            self.driver.send(oldest, Bytes::from_static(front::TERMINATE));
            self.driver.close(oldest);
        }
        self.own(conn, Owner::Pooled(key.clone()));
    }

    fn take_backend(&mut self, key: &LaneKey, limits: &PoolLimits, wait: bool) -> Backend {
        match self.backends.offer(key, self.current, limits, wait) {
            Offer::Idle(link, since) => {
                self.own(link.conn, Owner::Server(self.current));
                Backend::Idle(link, self.driver.now().since(since))
            }
            Offer::Open => {
                let conn = self.connect(key.node);
                self.backends.opened(key, conn);
                Backend::Opening(conn)
            }
            Offer::None => Backend::None,
        }
    }

    fn leave_queue(&mut self) {
        self.backends.forget(self.current);
    }

    fn park_backend(&mut self, link: Box<Link>, limits: &PoolLimits) {
        self.own(link.conn, Owner::Idle(link.node));
        let too_many = self.backends.park(link, limits, self.driver.now());
        self.close_idle(too_many);
    }

    fn watch_commits(&mut self) {
        self.watchers.insert(self.current);
    }
}

/// Resolves where a node listens; a host name is looked up here, once, since drivers look up nothing. A name without an
/// address is a node that cannot be reached, as far as the shard is concerned: the others serve on.
#[must_use]
pub fn node_address(host: &str, port: u16) -> Address {
    use std::net::ToSocketAddrs;
    if host.starts_with('/') {
        return Address::Unix(format!("{host}/.s.PGSQL.{port}").into());
    }
    match (host, port).to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => Address::Tcp(address),
        found => {
            let why = found.err().map_or_else(|| "it has no address".to_owned(), |e| e.to_string());
            tracing::error!(host, why, "host name of a node cannot be resolved");
            // No such socket: a connect fails at once, with that path in its error.
            Address::Unix(format!("/unresolved/{host}").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::driver::Event;
    use std::sync::Arc;

    /// A driver whose connections are never heard of.
    struct Silent;

    impl Driver for Silent {
        fn connect(&mut self, _to: &Address) -> ConnId {
            ConnId { index: 0, generation: 0 }
        }
        fn send(&mut self, _conn: ConnId, _bytes: Bytes) {}
        fn queued(&self, _conn: ConnId) -> usize {
            0
        }
        fn pause(&mut self, _conn: ConnId) {}
        fn resume(&mut self, _conn: ConnId) {}
        fn close(&mut self, _conn: ConnId) {}
        fn abort(&mut self, _conn: ConnId) {}
        fn stop_listening(&mut self) {}
        fn is_settled(&self) -> bool {
            true
        }
        fn now(&self) -> Time {
            Time(0)
        }
        fn doorbell(&self) -> Arc<dyn crate::shard::driver::Doorbell> {
            struct Bell;
            impl crate::shard::driver::Doorbell for Bell {
                fn ring(&self) {}
            }
            Arc::new(Bell)
        }
        fn random(&mut self, _out: &mut [u8]) {}
        fn wait(&mut self, _until: Option<Time>, _events: &mut Vec<Event>) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn closing_an_old_connection_twice_leaves_the_slots_new_one_to_its_owner() {
        let mut core = Core::new(Silent, Vec::new(), Box::new(|| Err(std::io::ErrorKind::Unsupported.into())));
        let session = SessionId { slot: 1, generation: 0 };
        let (old, new) = (ConnId { index: 3, generation: 7 }, ConnId { index: 3, generation: 8 });
        core.own(old, Owner::Server(session));
        Io::abort(&mut core, old);
        core.own(new, Owner::Server(session));
        Io::abort(&mut core, old);
        assert_eq!((core.owner(old), core.owner(new)), (Owner::Nobody, Owner::Server(session)));
        Io::abort(&mut core, new);
        assert_eq!(core.owner(new), Owner::Nobody);
    }
}
