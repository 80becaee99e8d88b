//! One row: is it visible, may it be locked or changed, is its key unique. After src/backend/access/heap/heapam.c
//! (heap_lock_tuple, heap_update, heap_delete), heapam_handler.c (heapam_tuple_lock) and nbtinsert.c.

use super::keys::check_not_null;
use super::lock::Tag;
use super::server::Wait;
use super::session::Session;
use super::sql::{LockMode, RowLock, WaitPolicy};
use super::table::{HeapId, Replaced, Table, Tid, Version};
use super::txn::{Fate, Snapshot, Transactions, Xid};
use super::value::{Res, Value};
use crate::wire::PgError;

/// What became of the attempt to lock or change a row (TM_Result in tableam.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is ours to change or lock, until the next await.
    Ok,
    /// This command cannot see it.
    Invisible,
    /// This transaction has changed it already, in this command or a later one.
    SelfModified(u32),
    /// Another transaction has updated it and committed; where its next version is.
    Updated(Tid),
    /// Another transaction has deleted it and committed.
    Deleted,
    /// One would have to wait (SKIP LOCKED).
    WouldBlock,
}

/// Row locks that exclude each other (tupleLockExtraInfo in heapam.c; the table in the documentation).
fn conflict(a: RowLock, b: RowLock) -> bool {
    let (weak, strong) = if a <= b { (a, b) } else { (b, a) };
    match weak {
        RowLock::KeyShare => strong == RowLock::Update,
        RowLock::Share => strong >= RowLock::NoKeyUpdate,
        RowLock::NoKeyUpdate | RowLock::Update => true,
    }
}

/// The heavyweight lock that queues for a row lock (tupleLockExtraInfo in heapam.c).
fn queue_mode(lock: RowLock) -> LockMode {
    match lock {
        RowLock::KeyShare => LockMode::AccessShare,
        RowLock::Share => LockMode::RowShare,
        RowLock::NoKeyUpdate => LockMode::Exclusive,
        RowLock::Update => LockMode::AccessExclusive,
    }
}

fn is_own(txns: &Transactions, own: Option<Xid>, xid: Xid) -> bool {
    own.is_some() && own == Some(txns.top(xid))
}

/// The version is visible to the snapshot of transaction `own` (HeapTupleSatisfiesMVCC).
pub fn visible(txns: &Transactions, own: Option<Xid>, v: &Version, s: &Snapshot) -> bool {
    let sees = |xid: Xid, command: u32| {
        if is_own(txns, own, xid) { txns.fate(xid) != Fate::Aborted && command < s.command } else { txns.sees(s, xid) }
    };
    sees(v.xmin, v.cmin) && !v.replaced.as_ref().is_some_and(|r| sees(r.xid, r.command))
}

/// The row, with what it lacks of columns that were added after it.
pub fn full_row(table: &Table, v: &Version) -> Vec<Value> {
    let mut row = v.row.clone();
    row.extend(table.columns.iter().skip(v.row.len()).map(|c| c.missing.clone()));
    row
}

/// What a unique check must know of another version (SnapshotDirty).
pub enum Dirty {
    Live,
    Dead,
    Undecided(Xid),
}

pub fn dirty(txns: &Transactions, own: Option<Xid>, v: &Version) -> Dirty {
    match txns.fate(v.xmin) {
        Fate::Aborted => return Dirty::Dead,
        Fate::InProgress if !is_own(txns, own, v.xmin) => return Dirty::Undecided(v.xmin),
        _ => {}
    }
    match &v.replaced {
        None => Dirty::Live,
        Some(r) => match txns.fate(r.xid) {
            Fate::Aborted => Dirty::Live,
            Fate::Committed => Dirty::Dead,
            Fate::InProgress if is_own(txns, own, r.xid) => Dirty::Dead,
            Fate::InProgress => Dirty::Undecided(r.xid),
        },
    }
}

impl Session {
    pub fn version<R>(
        &self,
        heap: HeapId,
        tid: Tid,
        f: impl FnOnce(&Transactions, Option<Xid>, &Version) -> R,
    ) -> Option<R> {
        let s = self.look();
        let v = s.heaps.get(&heap)?.versions.get(&tid)?;
        Some(f(&s.txns, self.top_xid(), v))
    }

    /// A version's row.
    pub fn row_of(&self, table: &Table, tid: Tid) -> Vec<Value> {
        self.version(table.heap, tid, |_, _, v| full_row(table, v)).unwrap_or_default()
    }

    /// Visible versions, in physical order; only those with this key of this index, if one is given.
    pub fn scan(&self, table: &Table, s: &Snapshot, key: Option<(usize, &[Value])>) -> Vec<(Tid, Vec<Value>)> {
        let server = self.look();
        let Some(heap) = server.heaps.get(&table.heap) else { return Vec::new() };
        let own = self.top_xid();
        let one = |(tid, v): (&Tid, &Version)| visible(&server.txns, own, v, s).then(|| (*tid, full_row(table, v)));
        match key {
            None => heap.versions.iter().filter_map(one).collect(),
            Some((index, key)) => {
                let found = heap.with_key(index, key).iter().filter_map(|t| heap.versions.get_key_value(t));
                found.filter_map(one).collect()
            }
        }
    }

    /// How the version stands towards a lock (HeapTupleSatisfiesUpdate), and whom it must wait for.
    fn inspect(&self, heap: HeapId, tid: Tid, lock: RowLock, command: u32) -> (Claim, Vec<Xid>) {
        let state = self.version(heap, tid, |txns, own, v| {
            let mut wait = Vec::new();
            let in_the_way = |(x, l): &&(Xid, RowLock)| {
                txns.fate(*x) == Fate::InProgress && !is_own(txns, own, *x) && conflict(*l, lock)
            };
            match txns.fate(v.xmin) {
                Fate::Aborted => return (Claim::Invisible, wait),
                Fate::InProgress if !is_own(txns, own, v.xmin) || v.cmin >= command => return (Claim::Invisible, wait),
                _ => {}
            }
            if let Some(r) = &v.replaced {
                match txns.fate(r.xid) {
                    Fate::Aborted => {}
                    // An update that left the keys alone is not in the way of a KEY SHARE lock, committed or not.
                    Fate::Committed if !conflict(r.lock, lock) => {}
                    // Lockers that still run are waited for even then (HeapTupleSatisfiesUpdate on a MultiXact).
                    Fate::Committed => {
                        wait.extend(v.lockers.iter().filter(in_the_way).map(|(x, _)| *x));
                        let gone = r.next.map_or(Claim::Deleted, Claim::Updated);
                        return (if wait.is_empty() { gone } else { Claim::Ok }, wait);
                    }
                    Fate::InProgress if is_own(txns, own, r.xid) => {
                        let earlier = r.command < command;
                        return (if earlier { Claim::Invisible } else { Claim::SelfModified(r.command) }, wait);
                    }
                    Fate::InProgress if conflict(r.lock, lock) => wait.push(r.xid),
                    Fate::InProgress => {}
                }
            }
            wait.extend(v.lockers.iter().filter(in_the_way).map(|(x, _)| *x));
            (Claim::Ok, wait)
        });
        let (state, mut wait) = state.unwrap_or((Claim::Deleted, Vec::new()));
        if state == Claim::Ok && lock == RowLock::KeyShare {
            match self.inspect_newer(heap, tid, lock) {
                Ok(newer) => wait.extend(newer),
                Err(gone) => return (gone, wait),
            }
        }
        (state, wait)
    }

    /// A weak lock on a row with newer versions must be possible on those too (heap_lock_updated_tuple).
    fn inspect_newer(&self, heap: HeapId, tid: Tid, lock: RowLock) -> Result<Vec<Xid>, Claim> {
        let s = self.look();
        let Some(h) = s.heaps.get(&heap) else { return Err(Claim::Deleted) };
        let own = self.top_xid();
        let next = |v: &Version| {
            let r = v.replaced.as_ref().filter(|r| s.txns.fate(r.xid) != Fate::Aborted)?;
            Some((r.xid, r.lock, r.next))
        };
        let (mut wait, mut at) = (Vec::new(), h.versions.get(&tid).and_then(next));
        let first = at;
        while let Some((_, _, Some(t))) = at {
            at = h.versions.get(&t).and_then(next);
            match at {
                Some((x, l, _)) if conflict(l, lock) && !is_own(&s.txns, own, x) => {
                    if s.txns.fate(x) == Fate::InProgress {
                        wait.push(x);
                        break;
                    }
                    return Err(first.and_then(|f| f.2).map_or(Claim::Deleted, Claim::Updated));
                }
                _ => {}
            }
        }
        Ok(wait)
    }

    /// Waits until the version can be locked so strongly. `Ok` holds until the next await: the caller acts at once.
    pub async fn claim(&self, heap: HeapId, tid: Tid, lock: RowLock, policy: WaitPolicy, command: u32) -> Res<Claim> {
        let (tag, mode) = (Tag::Tuple(heap, tid), queue_mode(lock));
        let mut queued = false;
        let claim = loop {
            let (state, wait) = self.inspect(heap, tid, lock, command);
            if state != Claim::Ok || wait.is_empty() {
                break state;
            }
            // One place in the queue for the whole of the wait (heap_acquire_tuplock).
            if !queued && !self.lock(tag, mode, policy == WaitPolicy::Block).await? {
                break Claim::WouldBlock;
            }
            queued = true;
            let mut free = true;
            for xid in wait {
                free = free && self.wait_for(xid, policy).await?;
            }
            if !free {
                break Claim::WouldBlock;
            }
        };
        if queued {
            let depth = self.depth();
            self.server().locks.release(self.owner(), tag, mode, depth);
        }
        Ok(claim)
    }

    /// Notes the lock in the version, after [`Session::claim`].
    pub fn mark_locked(&mut self, heap: HeapId, tid: Tid, lock: RowLock) {
        let xid = self.xid();
        let server = self.server.clone();
        let mut s = server.borrow_mut();
        let s = &mut *s;
        s.txns.log(xid);
        let Some(h) = s.heaps.get_mut(&heap) else { return };
        let mut at = Some(tid);
        while let Some(v) = at.and_then(|t| h.versions.get_mut(&t)) {
            let txns = &s.txns;
            v.lockers.retain(|(x, _)| txns.fate(*x) == Fate::InProgress);
            if !v.lockers.iter().any(|(x, l)| *x == xid && *l >= lock) {
                v.lockers.push((xid, lock));
            }
            // A weak lock on a row that is being updated holds for its newer versions too (heap_lock_updated_tuple).
            at = v.replaced.as_ref().filter(|r| txns.fate(r.xid) != Fate::Aborted).and_then(|r| r.next);
        }
    }

    /// Locks the newest version of a row that has been updated (heapam_tuple_lock with
    /// TUPLE_LOCK_FLAG_FIND_LAST_VERSION); or says why there is none any more.
    ///
    /// The queue was for the old version and has been left: for the new one it is first come, first served, and on a
    /// real server who waited behind may get there before who waited in front. Hence the step of its own.
    pub async fn lock_newest(
        &mut self,
        heap: HeapId,
        first: Tid,
        lock: RowLock,
        policy: WaitPolicy,
        command: u32,
    ) -> Res<Result<Tid, Claim>> {
        self.pause(Wait::Turn).await;
        self.interrupts()?;
        let mut tid = first;
        loop {
            // Whoever is updating this version is waited for without a place in the queue.
            let updating = self.version(heap, tid, |txns, own, v| {
                let x = v.replaced.as_ref().map(|r| r.xid);
                x.filter(|x| txns.fate(*x) == Fate::InProgress && !is_own(txns, own, *x))
            });
            if let Some(xid) = updating.flatten() {
                if !self.wait_for(xid, policy).await? {
                    return Ok(Err(Claim::WouldBlock));
                }
                continue;
            }
            match self.claim(heap, tid, lock, policy, command).await? {
                Claim::Ok => {
                    self.mark_locked(heap, tid, lock);
                    return Ok(Ok(tid));
                }
                Claim::Updated(next) => tid = next,
                other => return Ok(Err(other)),
            }
        }
    }

    /// The strength that a change of this row takes: stronger if a key changes.
    pub fn change_strength(table: &Table, old: &[Value], new: Option<&[Value]>) -> RowLock {
        match new {
            None => RowLock::Update,
            Some(new) if table.key_columns().iter().any(|c| old.get(*c) != new.get(*c)) => RowLock::Update,
            Some(_) => RowLock::NoKeyUpdate,
        }
    }

    /// Deletes a claimed version.
    pub fn delete_version(&mut self, table: &Table, tid: Tid, command: u32) {
        let xid = self.xid();
        let mut s = self.server();
        let s = &mut *s;
        s.txns.log(xid);
        if let Some(v) = s.heaps.get_mut(&table.heap).and_then(|h| h.versions.get_mut(&tid)) {
            v.replaced = Some(Replaced { xid, command, lock: RowLock::Update, next: None });
        }
    }

    /// Replaces a claimed version by a new one, and checks the keys that have changed.
    pub async fn update_version(
        &mut self,
        table: &Table,
        tid: Tid,
        old: &[Value],
        new: Vec<Value>,
        command: u32,
    ) -> Res<Tid> {
        check_not_null(table, &new)?;
        let lock = Self::change_strength(table, old, Some(&new));
        let xid = self.xid();
        let next = {
            let mut s = self.server();
            let s = &mut *s;
            s.txns.log(xid);
            let horizon = s.horizon();
            let Some(heap) = s.heaps.get_mut(&table.heap) else { return Err(gone()) };
            heap.prune(&s.txns, horizon);
            let Some(v) = heap.versions.get(&tid) else { return Err(gone()) };
            // Others' weaker locks go with the row to its new version (compute_new_xmax_infomask).
            let lockers = v.lockers.iter().filter(|(x, _)| s.txns.fate(*x) == Fate::InProgress).copied().collect();
            let version = Version { row: new.clone(), xmin: xid, cmin: command, replaced: None, lockers };
            let next = heap.insert(version);
            if let Some(v) = heap.versions.get_mut(&tid) {
                v.replaced = Some(Replaced { xid, command, lock, next: Some(next) });
            }
            for (i, u) in table.uniques.iter().enumerate() {
                let key = Table::key(&u.columns, &new);
                if key == Table::key(&u.columns, old) {
                    heap.index(i, key, next);
                }
            }
            next
        };
        for (i, u) in table.uniques.iter().enumerate() {
            if Table::key(&u.columns, &new) != Table::key(&u.columns, old) {
                self.insert_key(table, i, next, &new).await?;
            }
        }
        Ok(next)
    }

    /// The version has not been replaced, by anybody who has committed or by this transaction (SnapshotSelf).
    pub fn is_live(&self, heap: HeapId, tid: Tid) -> bool {
        let live = |txns: &Transactions, own: Option<Xid>, v: &Version| {
            let undone = |x: Xid| match txns.fate(x) {
                Fate::Aborted => true,
                Fate::InProgress => !is_own(txns, own, x),
                Fate::Committed => false,
            };
            !undone(v.xmin) && v.replaced.as_ref().is_none_or(|r| undone(r.xid))
        };
        self.version(heap, tid, live).unwrap_or(false)
    }

    /// The version can be seen by this snapshot.
    pub fn is_visible(&self, heap: HeapId, tid: Tid, s: &Snapshot) -> bool {
        self.version(heap, tid, |txns, own, v| visible(txns, own, v, s)).unwrap_or(false)
    }
}

/// The table's heap is not there: an ACCESS EXCLUSIVE lock was not waited for. A bug of the model, told as such.
pub fn gone() -> PgError {
    PgError::error("XX000", "the simulated node has lost a row version")
}
