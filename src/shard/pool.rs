//! Backends of clients' sessions: how many there are, who waits for one, and those that wait for the next client.
//!
//! Sans-I/O: the shard's core tells it of connections and asks it who may have one. Each key (node, database, role,
//! start-up parameters, for reads or not) has a pool of its own. Bounds: `pool_size` backends per key, `max_pool` idle
//! ones in all (the one that has been idle longest goes first); who waits is served in the order of coming.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::core::SessionId;
use super::driver::{ConnId, Time};
use crate::session::io::{LaneKey, PoolLimits};
use crate::session::link::Link;

#[derive(Debug, Default)]
struct Pool {
    /// The one that was parked last is at the end.
    idle: VecDeque<(Box<Link>, Time)>,
    /// In use, idle, or being opened.
    open: usize,
    waiting: VecDeque<SessionId>,
    /// It was their turn, and they have been told.
    granted: BTreeSet<SessionId>,
}

impl Pool {
    fn is_empty(&self) -> bool {
        self.open == 0 && self.waiting.is_empty() && self.granted.is_empty()
    }

    /// How many more may be had: idle ones, and those that may be opened.
    fn free(&self, size: usize) -> usize {
        let room = if size == 0 { usize::MAX } else { size.saturating_sub(self.open) };
        self.idle.len().saturating_add(room)
    }
}

/// What a session that needs a backend gets.
#[derive(Debug)]
pub enum Offer {
    /// An idle one, and since when it has been idle.
    Idle(Box<Link>, Time),
    /// It may open one, and say so by [`Pools::opened`].
    Open,
    /// None now; the session is in the queue, or was not to wait.
    None,
}

/// All pools of a shard.
#[derive(Debug, Default)]
pub struct Pools {
    pools: BTreeMap<LaneKey, Pool>,
    by_conn: BTreeMap<ConnId, LaneKey>,
    /// Sessions whose turn it is and that have not been told.
    turns: Vec<SessionId>,
    idle: usize,
}

impl Pools {
    /// A session needs a backend. `wait`: it queues for one.
    pub fn offer(&mut self, key: &LaneKey, session: SessionId, limits: &PoolLimits, wait: bool) -> Offer {
        let pool = self.pools.entry(key.clone()).or_default();
        let granted = pool.granted.remove(&session);
        let before = pool.waiting.iter().take_while(|s| **s != session).count() + pool.granted.len();
        if granted || pool.free(limits.pool_size) > before {
            pool.waiting.retain(|s| *s != session);
            if let Some((link, since)) = pool.idle.pop_back() {
                self.idle -= 1;
                return Offer::Idle(link, since);
            }
            if limits.pool_size == 0 || pool.open < limits.pool_size {
                return Offer::Open;
            }
        }
        if wait && !pool.waiting.contains(&session) {
            pool.waiting.push_back(session);
        }
        if pool.is_empty() {
            self.pools.remove(key);
        }
        Offer::None
    }

    /// A session has begun to open one.
    pub fn opened(&mut self, key: &LaneKey, conn: ConnId) {
        self.pools.entry(key.clone()).or_default().open += 1;
        self.by_conn.insert(conn, key.clone());
    }

    /// A backend is ready for the next client. Returns those that are too many, to be closed.
    pub fn park(&mut self, link: Box<Link>, limits: &PoolLimits, now: Time) -> Vec<ConnId> {
        let Some(key) = self.by_conn.get(&link.conn).cloned() else { return vec![link.conn] };
        let Some(pool) = self.pools.get_mut(&key) else { return vec![link.conn] };
        pool.idle.push_back((link, now));
        self.idle += 1;
        self.next_turn(&key);
        let mut closed = Vec::new();
        while self.idle > limits.max_pool {
            let oldest = self.pools.iter().filter_map(|(k, p)| Some((p.idle.front()?.1, k.clone()))).min();
            let Some((_, key)) = oldest else { break };
            closed.extend(self.take_oldest(&key));
        }
        closed
    }

    fn take_oldest(&mut self, key: &LaneKey) -> Option<ConnId> {
        let (link, _) = self.pools.get_mut(key)?.idle.pop_front()?;
        self.idle -= 1;
        self.gone(link.conn);
        Some(link.conn)
    }

    /// The connection has ended, or is being closed. False: it was none of a pool's.
    pub fn gone(&mut self, conn: ConnId) -> bool {
        let Some(key) = self.by_conn.remove(&conn) else { return false };
        if let Some(pool) = self.pools.get_mut(&key) {
            let before = pool.idle.len();
            pool.idle.retain(|(l, _)| l.conn != conn);
            self.idle -= before - pool.idle.len();
            pool.open = pool.open.saturating_sub(1);
        }
        self.next_turn(&key);
        true
    }

    /// Something of this pool has become free.
    fn next_turn(&mut self, key: &LaneKey) {
        let Some(pool) = self.pools.get_mut(key) else { return };
        if let Some(session) = pool.waiting.pop_front() {
            pool.granted.insert(session);
            self.turns.push(session);
        } else if pool.is_empty() {
            self.pools.remove(key);
        }
    }

    /// Sessions whose turn it is.
    pub fn take_turns(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.turns)
    }

    /// The session waits no more: it is over, or has waited too long. A turn that it had goes to the next.
    pub fn forget(&mut self, session: SessionId) {
        let keys: Vec<LaneKey> = self.pools.iter().filter(|(_, p)| !p.is_idle_only()).map(|(k, _)| k.clone()).collect();
        for key in keys {
            let Some(pool) = self.pools.get_mut(&key) else { continue };
            pool.waiting.retain(|s| *s != session);
            if pool.granted.remove(&session) {
                self.next_turn(&key);
            }
        }
    }

    /// Closes what has been idle for longer than `connection_life_time`, but for `min_pool` of each key.
    pub fn reap(&mut self, limits: &PoolLimits, now: Time) -> Vec<ConnId> {
        let mut closed = Vec::new();
        if limits.connection_life_time.is_zero() {
            return closed;
        }
        let keys: Vec<LaneKey> = self.pools.keys().cloned().collect();
        for key in keys {
            let old = |p: &Pool| {
                let oldest = p.idle.front().map(|(_, since)| now.since(*since));
                p.idle.len() > limits.min_pool && oldest.is_some_and(|t| t >= limits.connection_life_time)
            };
            while self.pools.get(&key).is_some_and(old) {
                closed.extend(self.take_oldest(&key));
            }
        }
        closed
    }

    /// When [`Self::reap`] may have something to do.
    #[must_use]
    pub fn next_reap(&self, limits: &PoolLimits) -> Option<Duration> {
        (self.idle > 0 && !limits.connection_life_time.is_zero()).then_some(limits.connection_life_time)
    }

    /// Closes all idle ones of these keys.
    pub fn drop_idle(&mut self, gone: impl Fn(&LaneKey) -> bool) -> Vec<ConnId> {
        let keys: Vec<LaneKey> = self.pools.keys().filter(|k| gone(k)).cloned().collect();
        let mut closed = Vec::new();
        for key in keys {
            while let Some(conn) = self.take_oldest(&key) {
                closed.push(conn);
            }
        }
        closed
    }

    /// Idle backends.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Sessions that wait or whose turn it is.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.pools.values().map(|p| p.waiting.len() + p.granted.len()).sum()
    }
}

impl Pool {
    /// Nobody waits for it.
    fn is_idle_only(&self) -> bool {
        self.waiting.is_empty() && self.granted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Credentials;
    use crate::sequencer::NodeId;

    fn key() -> LaneKey {
        LaneKey {
            node: NodeId(0),
            database: Arc::from("d"),
            user: Arc::from("u"),
            startup: Arc::from([]),
            reader: false,
        }
    }

    fn limits(pool_size: usize) -> PoolLimits {
        PoolLimits { pool_size, max_pool: 2, min_pool: 1, connection_life_time: Duration::from_secs(10) }
    }

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 0 }
    }

    fn session(slot: u32) -> SessionId {
        SessionId { slot, generation: 0 }
    }

    fn link(index: u32) -> Box<Link> {
        Box::new(Link::new(NodeId(0), conn(index), "u", &[], Credentials::None, [0; 18], (100, 1)))
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn who_waits_is_served_in_the_order_of_coming_and_nobody_overtakes() {
        let (mut p, l) = (Pools::default(), limits(1));
        assert!(matches!(p.offer(&key(), session(1), &l, true), Offer::Open));
        p.opened(&key(), conn(1));
        assert!(matches!(p.offer(&key(), session(2), &l, true), Offer::None));
        assert!(matches!(p.offer(&key(), session(3), &l, true), Offer::None));
        assert!(p.park(link(1), &l, at(0)).is_empty());
        assert_eq!(p.take_turns(), [session(2)]);
        assert!(matches!(p.offer(&key(), session(4), &l, true), Offer::None));
        assert!(matches!(p.offer(&key(), session(2), &l, true), Offer::Idle(..)));
        assert!(p.gone(conn(1)));
        assert_eq!(p.take_turns(), [session(3)]);
        p.forget(session(3));
        assert_eq!(p.take_turns(), [session(4)]);
        assert!(matches!(p.offer(&key(), session(4), &l, true), Offer::Open));
        assert_eq!(p.waiting(), 0);
    }

    #[test]
    fn idle_ones_are_bounded_age_and_leave_min_pool() {
        let (mut p, l) = (Pools::default(), limits(0));
        for i in 1..=3 {
            p.opened(&key(), conn(i));
        }
        assert!(p.park(link(1), &l, at(1)).is_empty());
        assert!(p.park(link(2), &l, at(2)).is_empty());
        assert_eq!(p.park(link(3), &l, at(3)), [conn(1)]);
        assert!(p.reap(&l, at(11)).is_empty());
        assert_eq!(p.reap(&l, at(60)), [conn(2)]);
        assert_eq!((p.idle(), p.drop_idle(|_| true)), (1, vec![conn(3)]));
        assert!(p.pools.is_empty() && p.by_conn.is_empty());
    }

    #[test]
    fn a_backend_that_breaks_while_idle_is_forgotten() {
        let (mut p, l) = (Pools::default(), limits(1));
        p.opened(&key(), conn(1));
        p.park(link(1), &l, at(0));
        assert!(p.gone(conn(1)) && !p.gone(conn(1)));
        assert!(matches!(p.offer(&key(), session(1), &l, false), Offer::Open));
    }
}
