//! Tables: their definitions, which never change, and heaps with row versions and unique indexes.

use std::collections::{BTreeMap, BTreeSet};

use super::eval::Ex;
use super::sql::Strength;
use super::txn::{Fate, Snapshot, Transactions, Xid};
use super::value::{Res, Row, Type, Value};
use crate::wire::PgError;

/// A table's identity.
pub type Oid = u32;
/// A row version's place in its heap. Scans go in this order.
pub type Tid = u64;

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub not_null: bool,
    pub default: Option<Ex>,
}

/// A primary key or unique constraint, which has an index.
#[derive(Clone, Debug)]
pub struct Unique {
    pub name: String,
    pub columns: Vec<usize>,
}

/// A foreign key, held by the child. A change of the parent takes no action but an error.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub name: String,
    pub columns: Vec<usize>,
    pub parent: String,
    pub parent_columns: Vec<usize>,
    pub deferrable: bool,
    pub initially_deferred: bool,
}

/// A table's definition.
#[derive(Clone, Debug)]
pub struct Table {
    pub oid: Oid,
    pub name: String,
    pub columns: Vec<Column>,
    /// The primary key first, as PostgreSQL makes and checks its index first.
    pub uniques: Vec<Unique>,
    pub foreigns: Vec<Foreign>,
}

impl Table {
    /// A column's place.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// A column's place, or the error that PostgreSQL has.
    pub fn place(&self, name: &str) -> Res<usize> {
        let e = || format!("column \"{name}\" of relation \"{}\" does not exist", self.name);
        self.column(name).ok_or_else(|| PgError::error("42703", e()))
    }

    /// The places of some columns; without names those of all.
    pub fn places(&self, names: &[String]) -> Res<Vec<usize>> {
        if names.is_empty() {
            return Ok((0..self.columns.len()).collect());
        }
        names.iter().map(|n| self.place(n)).collect()
    }

    /// The values of some columns of a row.
    pub fn key(columns: &[usize], row: &[Value]) -> Row {
        columns.iter().map(|c| row[*c].clone()).collect()
    }

    /// `Key (a, b)=(1, 2)`.
    pub fn show_key(&self, columns: &[usize], key: &[Value]) -> String {
        let names: Vec<&str> = columns.iter().map(|c| self.columns[*c].name.as_str()).collect();
        let values: Vec<String> = key.iter().map(|v| v.text().unwrap_or_else(|| "null".into())).collect();
        format!("Key ({})=({})", names.join(", "), values.join(", "))
    }

    /// The strength that a change of these columns takes: the stronger one if one of them belongs to a unique index
    /// (RelationGetIndexAttrBitmap in relcache.c).
    pub fn strength(&self, mut changed: impl FnMut(usize) -> bool) -> Strength {
        let of_key = self.uniques.iter().flat_map(|u| &u.columns).any(|c| changed(*c));
        if of_key { Strength::Update } else { Strength::NoKeyUpdate }
    }
}

/// Who deleted or updated a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replaced {
    pub xid: Xid,
    pub command: u32,
    /// The strength that it counts as: an UPDATE that leaves keys alone is weaker.
    pub lock: Strength,
    /// The next version; `None`: deleted.
    pub next: Option<Tid>,
}

/// A row version.
#[derive(Clone, Debug)]
pub struct Version {
    pub row: Row,
    pub xmin: Xid,
    pub cmin: u32,
    pub replaced: Option<Replaced>,
    /// Who has locked it (xmax as a locker, or a MultiXact of several).
    pub lockers: Vec<(Xid, Strength)>,
}

/// What a unique check must know of a version (SnapshotDirty).
pub enum Dirty {
    Live,
    Dead,
    Undecided(Xid),
}

impl Version {
    /// It is visible to the snapshot of transaction `own` (HeapTupleSatisfiesMVCC).
    pub fn visible(&self, txns: &Transactions, own: Option<Xid>, s: &Snapshot) -> bool {
        let sees = |xid: Xid, command: u32| {
            if txns.is_part(xid, own) {
                txns.fate(xid) != Fate::Aborted && command < s.command
            } else {
                txns.sees(s, xid)
            }
        };
        sees(self.xmin, self.cmin) && !self.replaced.as_ref().is_some_and(|r| sees(r.xid, r.command))
    }

    /// It is there, is not, or somebody has not decided yet.
    pub fn dirty(&self, txns: &Transactions, own: Option<Xid>) -> Dirty {
        match txns.fate(self.xmin) {
            Fate::Aborted => return Dirty::Dead,
            Fate::InProgress if !txns.is_part(self.xmin, own) => return Dirty::Undecided(self.xmin),
            _ => {}
        }
        match &self.replaced {
            None => Dirty::Live,
            Some(r) => match txns.fate(r.xid) {
                Fate::Aborted => Dirty::Live,
                Fate::InProgress if !txns.is_part(r.xid, own) => Dirty::Undecided(r.xid),
                _ => Dirty::Dead,
            },
        }
    }
}

/// A heap and the indexes on it.
#[derive(Default, Debug)]
pub struct Heap {
    pub versions: BTreeMap<Tid, Version>,
    /// By unique constraint, in the table's order. A version is in an index only once its check there has passed.
    indexes: Vec<BTreeMap<Row, Vec<Tid>>>,
    inserted: u64,
    seed: u64,
    /// Prune when there are as many versions.
    prune_at: usize,
}

/// A heap is not looked at for old versions before it has so many.
const PRUNE_MIN: usize = 64;

impl Heap {
    /// An empty heap. `seed` 0: scans go in the order of insertion; else in an order of the heap's own.
    pub fn new(uniques: usize, seed: u64) -> Heap {
        Heap { indexes: vec![BTreeMap::new(); uniques], seed, prune_at: PRUNE_MIN, ..Heap::default() }
    }

    /// Puts a version somewhere.
    pub fn insert(&mut self, version: Version) -> Tid {
        self.inserted += 1;
        let tid = if self.seed == 0 { self.inserted } else { mix(self.seed ^ mix(self.inserted)) };
        self.versions.insert(tid, version);
        tid
    }

    /// Versions that have this key in this index. None has a NULL in a key: NULLs are never equal.
    pub fn with_key(&self, index: usize, key: &[Value]) -> Vec<Tid> {
        if key.contains(&Value::Null) { Vec::new() } else { self.indexes[index].get(key).cloned().unwrap_or_default() }
    }

    /// Puts a version into an index.
    pub fn index(&mut self, index: usize, key: Row, tid: Tid) {
        self.indexes[index].entry(key).or_default().push(tid);
    }

    /// Takes one version away, with its index entries.
    pub fn remove(&mut self, tid: Tid) {
        self.versions.remove(&tid);
        self.indexes.iter_mut().flat_map(BTreeMap::values_mut).for_each(|tids| tids.retain(|t| *t != tid));
    }

    /// Takes away versions that no snapshot can see any more: vacuum. `horizon` is the oldest id that some snapshot
    /// may take for running.
    pub fn prune(&mut self, txns: &Transactions, horizon: Xid) {
        if self.versions.len() < self.prune_at {
            return;
        }
        self.retain(|v| {
            let dead = v.replaced.as_ref().is_some_and(|r| r.xid < horizon && txns.fate(r.xid) == Fate::Committed);
            !dead && txns.fate(v.xmin) != Fate::Aborted
        });
        self.prune_at = (self.versions.len() * 2).max(PRUNE_MIN);
    }

    fn retain(&mut self, keep: impl Fn(&Version) -> bool) {
        self.versions.retain(|_, v| keep(v));
        for index in &mut self.indexes {
            index.values_mut().for_each(|tids| tids.retain(|t| self.versions.contains_key(t)));
            index.retain(|_, tids| !tids.is_empty());
        }
    }

    /// After a crash: what the lost transactions did is not there, and rows are locked by prepared ones alone.
    pub fn crash(&mut self, lost: &BTreeSet<Xid>, txns: &Transactions) {
        self.retain(|v| !lost.contains(&v.xmin));
        for v in self.versions.values_mut() {
            v.replaced = v.replaced.take().filter(|r| !lost.contains(&r.xid));
            v.lockers.retain(|(x, _)| txns.fate(*x) == Fate::InProgress);
        }
    }
}

/// A number that looks like nothing (splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
