//! The lock manager: tuples (the queue before a row) and transaction ids.
//!
//! As src/backend/storage/lmgr does it: a lock that conflicts with a holder or with one that waits already is queued,
//! first come first served; a release wakes the front of the queue as far as nothing conflicts (ProcLockWakeup).
//!
//! Row locks are not here but in the row's version (`xmax`), as in PostgreSQL: who must wait for a row takes the
//! heavyweight lock on the tuple, which makes the queue, and waits for the transaction id that stands in the version.
//! The modes of those heavyweight locks exclude each other as the row locks do that they stand for (tupleLockExtraInfo
//! in heapam.c), so there is one set of modes; a transaction holds its id with the strongest, who waits shares it.
//! Table locks do not exist: without LOCK TABLE and changes of definitions none would ever be waited for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sql::Strength;
use super::table::{Oid, Tid};
use super::txn::Xid;

/// Who holds locks: a backend, by its number.
pub type Owner = u32;

/// What is locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tag {
    /// The place in the queue before a row version.
    Tuple(Oid, Tid),
    /// A transaction or subtransaction, which holds its own id exclusively while it runs.
    Xid(Xid),
}

#[derive(Clone, Default, Debug)]
struct Lock {
    held: Vec<(Owner, Strength)>,
    queue: VecDeque<(Owner, Strength)>,
}

impl Lock {
    fn free_for(&self, owner: Owner, mode: Strength) -> bool {
        !self.held.iter().any(|(o, m)| *o != owner && m.conflicts(mode))
    }
}

/// All locks of a node.
#[derive(Default, Debug)]
pub struct Locks {
    locks: BTreeMap<Tag, Lock>,
    waiting: BTreeMap<Owner, Tag>,
    /// Number of each owner's last request that was granted after a wait.
    granted: BTreeMap<Owner, u64>,
    grants: u64,
}

impl Locks {
    /// Asks for a lock. False: it is queued ([`Locks::waits_for`]).
    pub fn ask(&mut self, owner: Owner, tag: Tag, mode: Strength) -> bool {
        let lock = self.locks.entry(tag).or_default();
        let behind = lock.queue.iter().any(|(_, m)| m.conflicts(mode));
        let granted = !behind && lock.free_for(owner, mode);
        if granted {
            lock.held.push((owner, mode));
        } else {
            lock.queue.push_back((owner, mode));
            self.waiting.insert(owner, tag);
        }
        granted
    }

    /// What the owner waits for.
    pub fn waits_for(&self, owner: Owner) -> Option<Tag> {
        self.waiting.get(&owner).copied()
    }

    /// Gives a request up.
    pub fn cancel(&mut self, owner: Owner) {
        if let Some(tag) = self.waiting.remove(&owner) {
            self.locks.entry(tag).or_default().queue.retain(|(o, _)| *o != owner);
            self.wake(tag);
        }
    }

    /// Gives back what the owner holds of such tags.
    pub fn release(&mut self, owner: Owner, which: impl Fn(Tag) -> bool) {
        let mut tags = Vec::new();
        for (tag, lock) in self.locks.iter_mut().filter(|(tag, _)| which(**tag)) {
            let before = lock.held.len();
            lock.held.retain(|(o, _)| *o != owner);
            if lock.held.len() != before {
                tags.push(*tag);
            }
        }
        tags.into_iter().for_each(|t| self.wake(t));
    }

    /// What the owner holds is another's from here on (PostPrepare_Locks in lock.c). The other one waits for nothing.
    pub fn transfer(&mut self, owner: Owner, to: Owner) {
        let held = self.locks.values_mut().flat_map(|l| &mut l.held);
        held.filter(|(o, _)| *o == owner).for_each(|(o, _)| *o = to);
    }

    /// Grants the front of the queue as far as nothing conflicts (ProcLockWakeup in proc.c).
    fn wake(&mut self, tag: Tag) {
        let Some(lock) = self.locks.get_mut(&tag) else { return };
        let mut ahead: Vec<Strength> = Vec::new();
        let mut at = 0;
        while let Some(&(owner, mode)) = lock.queue.get(at) {
            if ahead.iter().all(|m| !m.conflicts(mode)) && lock.free_for(owner, mode) {
                lock.held.push((owner, mode));
                lock.queue.remove(at);
                self.waiting.remove(&owner);
                self.grants += 1;
                self.granted.insert(owner, self.grants);
            } else {
                ahead.push(mode);
                at += 1;
            }
        }
        if lock.held.is_empty() && lock.queue.is_empty() {
            self.locks.remove(&tag);
        }
    }

    /// Whom a waiting owner waits for: holders in its way (hard), then those before it in the queue (soft).
    fn blockers(&self, owner: Owner) -> Vec<(Owner, bool)> {
        let Some(lock) = self.waiting.get(&owner).and_then(|tag| self.locks.get(tag)) else { return Vec::new() };
        let Some(at) = lock.queue.iter().position(|(o, _)| *o == owner) else { return Vec::new() };
        let mode = lock.queue[at].1;
        let hard = lock.held.iter().filter(|(o, m)| *o != owner && m.conflicts(mode)).map(|(o, _)| (*o, true));
        let soft = lock.queue.iter().take(at).filter(|(_, m)| m.conflicts(mode)).map(|(o, _)| (*o, false));
        hard.chain(soft).collect()
    }

    /// A cycle through `start`, as its soft edges (waiter, blocker); `None`: there is none.
    fn cycle(&self, start: Owner) -> Option<Vec<(Owner, Owner)>> {
        let mut path = vec![(start, self.blockers(start), 0)];
        let mut seen = BTreeSet::new();
        while let Some((_, blockers, at)) = path.last_mut() {
            let Some(&(next, _)) = blockers.get(*at) else {
                path.pop();
                continue;
            };
            *at += 1;
            if next == start {
                let edges = path.iter().map(|(o, blockers, at)| (*o, blockers[*at - 1]));
                return Some(edges.filter(|(_, (_, hard))| !hard).map(|(o, (b, _))| (o, b)).collect());
            }
            if seen.insert(next) {
                path.push((next, self.blockers(next), 0));
            }
        }
        None
    }

    /// Looks for a deadlock through this owner, as it does when it has waited for deadlock_timeout (DeadLockCheck in
    /// deadlock.c). A cycle that exists only because of the order of a queue is resolved by changing that order; of
    /// the rearrangements only those by one move are tried.
    pub fn deadlocked(&mut self, owner: Owner) -> bool {
        let Some(soft) = self.cycle(owner) else { return false };
        for (waiter, blocker) in soft {
            let Some(&tag) = self.waiting.get(&waiter) else { continue };
            let queue = self.locks.entry(tag).or_default().queue.clone();
            let place = |who: Owner| queue.iter().position(|(o, _)| *o == who);
            let (Some(from), Some(to)) = (place(waiter), place(blocker)) else { continue };
            let mut moved = queue.clone();
            if let Some(entry) = moved.remove(from) {
                moved.insert(to, entry);
            }
            self.locks.entry(tag).or_default().queue = moved;
            if [owner, waiter, blocker].iter().all(|o| self.cycle(*o).is_none()) {
                self.wake(tag);
                return false;
            }
            self.locks.entry(tag).or_default().queue = queue;
        }
        true
    }

    /// Tells in which order waiters were granted their locks.
    pub fn grant_number(&self, owner: Owner) -> u64 {
        self.granted.get(&owner).copied().unwrap_or(0)
    }

    /// Everything that the owner holds.
    pub fn held_by(&self, owner: Owner) -> Vec<(Tag, Strength)> {
        let of = |(tag, lock): (&Tag, &Lock)| {
            lock.held.iter().filter(|(o, _)| *o == owner).map(|(_, m)| (*tag, *m)).collect::<Vec<_>>()
        };
        self.locks.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Strength::*;

    const T: Tag = Tag::Tuple(1, 1);
    const U: Tag = Tag::Tuple(1, 2);

    #[test]
    fn a_weak_request_queues_behind_a_strong_one_that_waits() {
        let mut l = Locks::default();
        assert!(l.ask(1, T, KeyShare));
        assert!(!l.ask(2, T, Update));
        assert!(!l.ask(3, T, KeyShare));
        l.release(1, |_| true);
        assert!(l.waits_for(2).is_none() && l.waits_for(3).is_some());
        l.release(2, |_| true);
        assert!(l.waits_for(3).is_none());
    }

    #[test]
    fn a_deadlock_over_a_queue_is_resolved_by_its_order_and_one_over_holders_is_not() {
        let mut l = Locks::default();
        // 1 holds T, 3 holds U; 2 waits for T exclusively, 3 behind it for a weak lock, 1 for U: only the queue's order
        // keeps 3 from going on.
        l.ask(1, T, KeyShare);
        l.ask(3, U, Update);
        l.ask(2, T, Update);
        l.ask(3, T, KeyShare);
        assert!(!l.ask(1, U, KeyShare));
        assert!(!l.deadlocked(1));
        assert!(l.waits_for(3).is_none() && l.waits_for(2).is_some());

        let mut l = Locks::default();
        l.ask(1, T, Update);
        l.ask(2, U, Update);
        l.ask(1, U, Update);
        assert!(!l.deadlocked(1));
        l.ask(2, T, Update);
        assert!(l.deadlocked(2) && l.deadlocked(1));
        l.cancel(2);
        l.release(2, |_| true);
        assert!(l.waits_for(1).is_none());
    }
}
