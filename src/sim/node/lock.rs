//! The lock manager: tables, tuples (the queue before a row), transaction ids, advisory locks.
//!
//! As src/backend/storage/lmgr does it: a lock that conflicts with a holder or with one that waits already is queued,
//! first come first served; who holds a lock on the same object that waiters would conflict with goes in front of them
//! (ProcSleep in proc.c); a release wakes the front of the queue as far as nothing conflicts (ProcLockWakeup).
//!
//! Row locks are not here but in the row's version (`xmax`), as in PostgreSQL: who must wait for a row takes the
//! heavyweight lock on the tuple, which makes the queue, and waits for the transaction id that stands in the version.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::sql::LockMode;
use super::table::{HeapId, Oid, Tid};
use super::txn::Xid;

/// Who holds locks: a backend, or a prepared transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// A backend, by its number.
    Backend(u32),
    /// A prepared transaction, by its id.
    Prepared(Xid),
}

/// What is locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tag {
    /// A table or sequence.
    Relation(Oid),
    /// The place in the queue before a row version.
    Tuple(HeapId, Tid),
    /// A transaction or subtransaction, which holds its own id exclusively while it runs.
    Xid(Xid),
    /// An advisory lock.
    Advisory(i64),
}

/// How long a lock is held: 0 is the session, 1 the transaction, above that the savepoint of that depth.
pub type Depth = usize;

/// Until the session ends or gives it back.
pub const SESSION: Depth = 0;

/// The conflict table (LockConflicts in lock.c).
pub fn conflict(a: LockMode, b: LockMode) -> bool {
    use LockMode::*;
    let (weak, strong) = if a <= b { (a, b) } else { (b, a) };
    match weak {
        AccessShare => strong == AccessExclusive,
        RowShare => strong >= Exclusive,
        RowExclusive => strong >= Share,
        ShareUpdateExclusive => strong >= ShareUpdateExclusive,
        Share => strong > Share,
        ShareRowExclusive | Exclusive | AccessExclusive => true,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    owner: Owner,
    mode: LockMode,
    depth: Depth,
}

#[derive(Clone, Default, Debug)]
struct Lock {
    held: Vec<Held>,
    queue: VecDeque<(Owner, LockMode, Depth)>,
}

impl Lock {
    fn free_for(&self, owner: Owner, mode: LockMode) -> bool {
        !self.held.iter().any(|h| h.owner != owner && conflict(h.mode, mode))
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

/// How a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It is held.
    Granted,
    /// It is queued ([`Locks::is_waiting`]).
    Queued,
    /// It would have had to be queued.
    Refused,
    /// Queueing would make a deadlock at once (the early check of ProcSleep).
    Deadlock,
}

impl Locks {
    /// Asks for a lock; `queue` says whether to wait for it.
    pub fn ask(&mut self, owner: Owner, tag: Tag, mode: LockMode, depth: Depth, queue: bool) -> Asked {
        let lock = self.locks.entry(tag).or_default();
        let held = Held { owner, mode, depth };
        if lock.held.iter().any(|h| h.owner == owner && h.mode == mode) {
            if !lock.held.contains(&held) {
                lock.held.push(held);
            }
            return Asked::Granted;
        }
        let behind = lock.queue.iter().any(|(_, m, _)| conflict(*m, mode));
        if !behind && lock.free_for(owner, mode) {
            lock.held.push(held);
            return Asked::Granted;
        }
        let mine: Vec<LockMode> = lock.held.iter().filter(|h| h.owner == owner).map(|h| h.mode).collect();
        let before = lock.queue.iter().position(|(_, m, _)| mine.iter().any(|mine| conflict(*mine, *m)));
        if let Some(at) = before {
            // The waiter behind whom one would queue waits for this owner: going behind it could only end in a deadlock.
            let (waiter, _, _) = lock.queue[at];
            if lock.held.iter().any(|h| h.owner == waiter && conflict(h.mode, mode)) {
                return if queue { Asked::Deadlock } else { Asked::Refused };
            }
            let ahead = lock.queue.iter().take(at).any(|(_, m, _)| conflict(*m, mode));
            if !ahead && lock.free_for(owner, mode) {
                lock.held.push(held);
                return Asked::Granted;
            }
        }
        if !queue {
            if lock.held.is_empty() && lock.queue.is_empty() {
                self.locks.remove(&tag);
            }
            return Asked::Refused;
        }
        lock.queue.insert(before.unwrap_or(lock.queue.len()), (owner, mode, depth));
        self.waiting.insert(owner, tag);
        Asked::Queued
    }

    /// The owner's request has not been granted yet.
    pub fn is_waiting(&self, owner: Owner) -> bool {
        self.waiting.contains_key(&owner)
    }

    /// Gives a request up.
    pub fn cancel(&mut self, owner: Owner) {
        if let Some(tag) = self.waiting.remove(&owner) {
            if let Some(lock) = self.locks.get_mut(&tag) {
                lock.queue.retain(|(o, _, _)| *o != owner);
            }
            self.wake(tag);
        }
    }

    /// Gives one lock back.
    pub fn release(&mut self, owner: Owner, tag: Tag, mode: LockMode, depth: Depth) {
        if let Some(lock) = self.locks.get_mut(&tag) {
            lock.held.retain(|h| *h != Held { owner, mode, depth });
            self.wake(tag);
        }
    }

    /// Gives back what the owner holds from this depth on.
    pub fn release_from(&mut self, owner: Owner, depth: Depth) {
        let mut tags = Vec::new();
        for (tag, lock) in &mut self.locks {
            let before = lock.held.len();
            lock.held.retain(|h| h.owner != owner || h.depth < depth);
            if lock.held.len() != before {
                tags.push(*tag);
            }
        }
        tags.into_iter().for_each(|t| self.wake(t));
    }

    /// RELEASE SAVEPOINT: what was taken at this depth now belongs to the one below.
    pub fn merge(&mut self, owner: Owner, depth: Depth) {
        for h in self.locks.values_mut().flat_map(|l| &mut l.held) {
            if h.owner == owner && h.depth == depth {
                h.depth -= 1;
            }
        }
    }

    /// PREPARE TRANSACTION: the transaction's locks change hands.
    pub fn hand_over(&mut self, from: Owner, to: Owner) {
        for h in self.locks.values_mut().flat_map(|l| &mut l.held) {
            if h.owner == from && h.depth > SESSION {
                h.owner = to;
            }
        }
    }

    /// After a crash only prepared transactions hold locks.
    pub fn keep_only(&mut self, owners: &BTreeSet<Owner>) {
        self.waiting.clear();
        self.granted.clear();
        for lock in self.locks.values_mut() {
            lock.queue.clear();
            lock.held.retain(|h| owners.contains(&h.owner));
        }
        self.locks.retain(|_, l| !l.held.is_empty());
    }

    /// Grants the front of the queue as far as nothing conflicts (ProcLockWakeup in proc.c).
    fn wake(&mut self, tag: Tag) {
        let Some(lock) = self.locks.get_mut(&tag) else { return };
        let mut ahead: Vec<LockMode> = Vec::new();
        let mut at = 0;
        while let Some(&(owner, mode, depth)) = lock.queue.get(at) {
            if ahead.iter().all(|m| !conflict(*m, mode)) && lock.free_for(owner, mode) {
                lock.held.push(Held { owner, mode, depth });
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
        let Some((lock, at)) = self.waiting.get(&owner).and_then(|tag| {
            let lock = self.locks.get(tag)?;
            Some((lock, lock.queue.iter().position(|(o, _, _)| *o == owner)?))
        }) else {
            return Vec::new();
        };
        let mode = lock.queue[at].1;
        let hard = lock.held.iter().filter(|h| h.owner != owner && conflict(h.mode, mode)).map(|h| (h.owner, true));
        let soft = lock.queue.iter().take(at).filter(|(_, m, _)| conflict(*m, mode)).map(|(o, _, _)| (*o, false));
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
            let Some(lock) = self.locks.get_mut(&tag) else { continue };
            let before = lock.queue.clone();
            let place = |who: Owner| before.iter().position(|(o, _, _)| *o == who);
            let (Some(from), Some(to)) = (place(waiter), place(blocker)) else { continue };
            if let Some(entry) = lock.queue.remove(from) {
                lock.queue.insert(to, entry);
            }
            if [owner, waiter, blocker].iter().all(|o| self.cycle(*o).is_none()) {
                self.wake(tag);
                return false;
            }
            if let Some(lock) = self.locks.get_mut(&tag) {
                lock.queue = before;
            }
        }
        true
    }

    /// Tells in which order waiters were granted their locks.
    pub fn grant_number(&self, owner: Owner) -> u64 {
        self.granted.get(&owner).copied().unwrap_or(0)
    }

    /// The session is over, or its transaction prepared.
    pub fn forget(&mut self, owner: Owner) {
        self.granted.remove(&owner);
    }

    /// Every lock that is held, for checkers.
    pub fn held_by(&self, owner: Owner) -> Vec<(Tag, LockMode)> {
        let of = |(tag, lock): (&Tag, &Lock)| {
            lock.held.iter().filter(|h| h.owner == owner).map(|h| (*tag, h.mode)).collect::<Vec<_>>()
        };
        self.locks.iter().flat_map(of).collect()
    }

    /// What the owner waits for.
    pub fn waits_for(&self, owner: Owner) -> Option<Tag> {
        self.waiting.get(&owner).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::*;

    const T: Tag = Tag::Relation(1);
    const U: Tag = Tag::Relation(2);

    fn b(n: u32) -> Owner {
        Owner::Backend(n)
    }

    #[test]
    fn the_conflict_table_is_that_of_the_documentation() {
        // "Conflicting Lock Modes" in the chapter on explicit locking: the weakest mode each one conflicts with.
        assert!(conflict(AccessShare, AccessExclusive) && !conflict(AccessShare, Exclusive));
        assert!(conflict(RowShare, Exclusive) && !conflict(RowShare, ShareRowExclusive));
        assert!(conflict(RowExclusive, Share) && !conflict(RowExclusive, ShareUpdateExclusive));
        assert!(conflict(ShareUpdateExclusive, ShareUpdateExclusive) && conflict(ShareUpdateExclusive, Share));
        assert!(!conflict(Share, Share) && conflict(Share, ShareRowExclusive) && conflict(Share, RowExclusive));
        assert!(conflict(ShareRowExclusive, ShareRowExclusive) && conflict(Exclusive, RowShare));
    }

    #[test]
    fn a_weak_request_queues_behind_a_strong_one_that_waits() {
        let mut l = Locks::default();
        assert_eq!(l.ask(b(1), T, AccessShare, 1, true), Asked::Granted);
        assert_eq!(l.ask(b(2), T, AccessExclusive, 1, true), Asked::Queued);
        assert_eq!(l.ask(b(3), T, AccessShare, 1, true), Asked::Queued);
        assert_eq!(l.ask(b(1), T, RowExclusive, 1, true), Asked::Granted, "it holds the table already");
        l.release_from(b(1), 1);
        assert!(!l.is_waiting(b(2)) && l.is_waiting(b(3)));
        l.release_from(b(2), 1);
        assert!(!l.is_waiting(b(3)));
    }

    #[test]
    fn a_deadlock_over_a_queue_is_resolved_by_its_order_and_one_over_holders_is_not() {
        let mut l = Locks::default();
        // 1 holds T, 3 holds U; 2 waits for T exclusively, 3 behind it for a weak lock, 1 for U: only the queue's order
        // keeps 3 from going on.
        l.ask(b(1), T, AccessShare, 1, true);
        l.ask(b(3), U, AccessExclusive, 1, true);
        l.ask(b(2), T, AccessExclusive, 1, true);
        l.ask(b(3), T, AccessShare, 1, true);
        assert_eq!(l.ask(b(1), U, AccessShare, 1, true), Asked::Queued);
        assert!(!l.deadlocked(b(1)));
        assert!(!l.is_waiting(b(3)) && l.is_waiting(b(2)));

        let mut l = Locks::default();
        l.ask(b(1), T, Exclusive, 1, true);
        l.ask(b(2), U, Exclusive, 1, true);
        l.ask(b(1), U, Exclusive, 1, true);
        assert!(!l.deadlocked(b(1)));
        l.ask(b(2), T, Exclusive, 1, true);
        assert!(l.deadlocked(b(2)) && l.deadlocked(b(1)));
        l.cancel(b(2));
        l.release_from(b(2), 1);
        assert!(!l.is_waiting(b(1)));
    }

    #[test]
    fn locks_of_a_savepoint_go_with_it_and_merged_ones_stay() {
        let mut l = Locks::default();
        l.ask(b(1), T, Exclusive, 2, true);
        l.ask(b(1), U, Exclusive, 3, true);
        l.merge(b(1), 2);
        l.release_from(b(1), 2);
        assert_eq!(l.held_by(b(1)), [(T, Exclusive)]);
    }
}
