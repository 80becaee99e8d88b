//! One row: seen, locked, changed. After src/backend/access/heap/heapam.c (heap_lock_tuple, heap_update, heap_delete)
//! and heapam_handler.c (heapam_tuple_lock).

use super::keys::check_not_null;
use super::lock::Tag;
use super::server::Wait;
use super::session::Session;
use super::sql::Strength;
use super::table::{Oid, Replaced, Table, Tid, Version};
use super::txn::{Fate, Snapshot, Xid};
use super::value::{Res, Row, Value};

/// What became of the attempt to lock or change a row (TM_Result in tableam.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It is ours to change or lock, until the next await.
    Ok,
    /// This command cannot see it.
    Invisible,
    /// This transaction has changed it already, in this command or a later one.
    SelfModified,
    /// Another transaction has updated it and committed; where its next version is.
    Updated(Tid),
    /// Another transaction has deleted it and committed.
    Deleted,
}

impl Session {
    /// A version's row.
    pub fn row_of(&self, table: Oid, tid: Tid) -> Row {
        self.look().heap(table).versions.get(&tid).map_or(Vec::new(), |v| v.row.clone())
    }

    /// Visible versions, in physical order; only those with this key of this index, if one is given.
    pub fn scan(&self, table: Oid, s: &Snapshot, key: Option<(usize, Row)>) -> Vec<(Tid, Row)> {
        let server = self.look();
        let heap = server.heap(table);
        let own = self.top_xid();
        let one = |(tid, v): (&Tid, &Version)| v.visible(&server.txns, own, s).then(|| (*tid, v.row.clone()));
        match key {
            None => heap.versions.iter().filter_map(one).collect(),
            Some((index, key)) => {
                let tids = heap.with_key(index, &key);
                tids.iter().filter_map(|t| heap.versions.get_key_value(t)).filter_map(one).collect()
            }
        }
    }

    /// The version can be seen by this snapshot.
    pub fn is_visible(&self, table: Oid, tid: Tid, snapshot: &Snapshot) -> bool {
        let s = self.look();
        s.heap(table).versions.get(&tid).is_some_and(|v| v.visible(&s.txns, self.top_xid(), snapshot))
    }

    /// How the version stands towards a lock (HeapTupleSatisfiesUpdate), and whom it must wait for.
    fn inspect(&self, table: Oid, tid: Tid, lock: Strength, command: u32) -> (Claim, Vec<Xid>) {
        let s = self.look();
        let (txns, own) = (&s.txns, self.top_xid());
        let Some(v) = s.heap(table).versions.get(&tid) else { return (Claim::Deleted, Vec::new()) };
        match txns.fate(v.xmin) {
            Fate::Aborted => return (Claim::Invisible, Vec::new()),
            Fate::InProgress if !txns.is_part(v.xmin, own) || v.cmin >= command => {
                return (Claim::Invisible, Vec::new());
            }
            _ => {}
        }
        let in_the_way = |(x, l): &&(Xid, Strength)| {
            txns.fate(*x) == Fate::InProgress && !txns.is_part(*x, own) && l.conflicts(lock)
        };
        let mut wait: Vec<Xid> = v.lockers.iter().filter(in_the_way).map(|(x, _)| *x).collect();
        if let Some(r) = &v.replaced {
            match txns.fate(r.xid) {
                Fate::Aborted => {}
                // An update that left the keys alone is not in the way of a KEY SHARE lock, committed or not.
                Fate::Committed if !r.lock.conflicts(lock) => {}
                // Lockers that still run are waited for even then (HeapTupleSatisfiesUpdate on a MultiXact).
                Fate::Committed => {
                    let gone = r.next.map_or(Claim::Deleted, Claim::Updated);
                    return (if wait.is_empty() { gone } else { Claim::Ok }, wait);
                }
                Fate::InProgress if txns.is_part(r.xid, own) => {
                    let claim = if r.command < command { Claim::Invisible } else { Claim::SelfModified };
                    return (claim, Vec::new());
                }
                Fate::InProgress if r.lock.conflicts(lock) => wait.insert(0, r.xid),
                Fate::InProgress => {}
            }
        }
        drop(s);
        if lock == Strength::KeyShare {
            match self.inspect_newer(table, tid, lock) {
                Ok(newer) => wait.extend(newer),
                Err(gone) => return (gone, wait),
            }
        }
        (Claim::Ok, wait)
    }

    /// A weak lock on a row with newer versions must be possible on those too (heap_lock_updated_tuple). The first of
    /// them who is in the way, and still runs.
    fn inspect_newer(&self, table: Oid, tid: Tid, lock: Strength) -> Result<Option<Xid>, Claim> {
        let s = self.look();
        let versions = &s.heap(table).versions;
        let replaced = |tid: Tid| {
            let r = versions.get(&tid)?.replaced.as_ref()?;
            (s.txns.fate(r.xid) != Fate::Aborted).then_some(r)
        };
        let first = replaced(tid).and_then(|r| r.next);
        let mut at = first;
        while let Some(r) = at.and_then(replaced) {
            if r.lock.conflicts(lock) && !s.txns.is_part(r.xid, self.top_xid()) {
                let runs = s.txns.fate(r.xid) == Fate::InProgress;
                return if runs { Ok(Some(r.xid)) } else { Err(first.map_or(Claim::Deleted, Claim::Updated)) };
            }
            at = r.next;
        }
        Ok(None)
    }

    /// Waits until the version can be locked so strongly. `Ok` holds until the next await: the caller acts at once.
    pub async fn claim(&self, table: Oid, tid: Tid, lock: Strength, command: u32) -> Res<Claim> {
        let tag = Tag::Tuple(table, tid);
        let mut queued = false;
        loop {
            let (state, wait) = self.inspect(table, tid, lock, command);
            if state != Claim::Ok || wait.is_empty() {
                if queued {
                    self.unlock(tag);
                }
                return Ok(state);
            }
            // One place in the queue for the whole of the wait (heap_acquire_tuplock).
            if !queued {
                self.lock(tag, lock).await?;
            }
            queued = true;
            for xid in wait {
                self.wait_for(xid).await?;
            }
        }
    }

    /// Notes the lock in the version, after [`Session::claim`].
    pub fn mark_locked(&mut self, table: Oid, tid: Tid, lock: Strength) {
        let xid = self.xid();
        let s = &mut *self.server();
        let (heap, txns) = s.heap_mut(table);
        txns.log(xid);
        let mut at = Some(tid);
        while let Some(v) = at.and_then(|t| heap.versions.get_mut(&t)) {
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
        table: Oid,
        first: Tid,
        lock: Strength,
        command: u32,
    ) -> Res<Result<Tid, Claim>> {
        self.pause(Wait::Turn).await;
        self.interrupts()?;
        let mut tid = first;
        loop {
            // Whoever is updating this version is waited for without a place in the queue.
            if let Some(xid) = self.updater(table, tid) {
                self.wait_for(xid).await?;
                continue;
            }
            match self.claim(table, tid, lock, command).await? {
                Claim::Ok => {
                    self.mark_locked(table, tid, lock);
                    return Ok(Ok(tid));
                }
                Claim::Updated(next) => tid = next,
                other => return Ok(Err(other)),
            }
        }
    }

    /// Who else is updating the version.
    fn updater(&self, table: Oid, tid: Tid) -> Option<Xid> {
        let s = self.look();
        let xid = s.heap(table).versions.get(&tid)?.replaced.as_ref()?.xid;
        (s.txns.fate(xid) == Fate::InProgress && !s.txns.is_part(xid, self.top_xid())).then_some(xid)
    }

    /// Puts a version into the heap, and into no index.
    pub fn insert_version(&mut self, table: &Table, row: Row, command: u32, lockers: Vec<(Xid, Strength)>) -> Tid {
        let xid = self.xid();
        let s = &mut *self.server();
        s.prune(table.oid);
        let (heap, txns) = s.heap_mut(table.oid);
        txns.log(xid);
        heap.insert(Version { row, xmin: xid, cmin: command, replaced: None, lockers })
    }

    /// Deletes a claimed version (`None`), or says which has replaced it.
    pub fn replace_version(&mut self, table: Oid, tid: Tid, command: u32, lock: Strength, next: Option<Tid>) {
        let xid = self.xid();
        let s = &mut *self.server();
        let (heap, txns) = s.heap_mut(table);
        txns.log(xid);
        if let Some(v) = heap.versions.get_mut(&tid) {
            v.replaced = Some(Replaced { xid, command, lock, next });
        }
    }

    /// The strength of an update by what it changes (HeapDetermineColumnsInfo).
    pub fn update_strength(table: &Table, old: &[Value], new: &[Value]) -> Strength {
        table.strength(|c| old[c] != new[c])
    }

    /// Replaces a claimed version by a new one, and checks the keys that have changed.
    pub async fn update_version(
        &mut self,
        table: &Table,
        tid: Tid,
        old: &[Value],
        new: &Row,
        command: u32,
    ) -> Res<Tid> {
        check_not_null(table, new)?;
        // Others' weaker locks go with the row to its new version (compute_new_xmax_infomask).
        let lockers = {
            let s = self.look();
            let mut lockers = s.heap(table.oid).versions.get(&tid).map_or(Vec::new(), |v| v.lockers.clone());
            lockers.retain(|(x, _)| s.txns.fate(*x) == Fate::InProgress);
            lockers
        };
        let next = self.insert_version(table, new.clone(), command, lockers);
        self.replace_version(table.oid, tid, command, Self::update_strength(table, old, new), Some(next));
        self.log_change(table, next, Some(old), Some(new));
        let changed = |i: usize| {
            let columns = &table.uniques[i].columns;
            (Table::key(columns, old) != Table::key(columns, new), Table::key(columns, new))
        };
        for i in 0..table.uniques.len() {
            if let (false, key) = changed(i) {
                self.server().heap_mut(table.oid).0.index(i, key, next);
            }
        }
        for i in (0..table.uniques.len()).filter(|i| changed(*i).0) {
            self.insert_key(table, i, next, new).await?;
        }
        Ok(next)
    }
}
