//! The catalogue, and heaps with their row versions and unique indexes.
//!
//! A relation's definition has versions like a row: a transaction that changes it makes a new one, under an ACCESS
//! EXCLUSIVE lock, and everybody else finds the newest committed version by name. TRUNCATE gives a new, empty heap,
//! so whoever holds an older snapshot sees an empty table afterwards, as PostgreSQL's documentation warns.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::sql::{Action, Deferral, RowLock};
use super::txn::{Fate, Transactions, Xid};
use super::value::{Type, Value};

/// A relation's identity.
pub type Oid = u32;
/// A heap's identity; TRUNCATE changes it, the table's stays.
pub type HeapId = u32;
/// A row version's place in its heap. Scans go in this order.
pub type Tid = u64;

/// A column's default.
#[derive(Clone, PartialEq, Debug)]
pub enum DefaultValue {
    Constant(Value),
    Nextval(String),
    Now,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub ty: Type,
    pub not_null: bool,
    pub default: Option<DefaultValue>,
    /// What rows from before ADD COLUMN have (attmissingval).
    pub missing: Value,
}

/// A primary key or unique constraint, which has an index.
#[derive(Clone, Debug)]
pub struct Unique {
    pub name: String,
    pub columns: Vec<usize>,
    pub primary: bool,
    pub deferral: Deferral,
}

/// A foreign key, held by the child.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub name: String,
    pub columns: Vec<usize>,
    pub parent: Oid,
    pub parent_columns: Vec<usize>,
    pub on_delete: Action,
    pub on_update: Action,
    pub deferral: Deferral,
}

/// A table's definition.
#[derive(Clone, Debug)]
pub struct Table {
    pub oid: Oid,
    pub name: String,
    pub columns: Vec<Column>,
    pub uniques: Vec<Unique>,
    pub foreigns: Vec<Foreign>,
    pub heap: HeapId,
}

impl Table {
    /// A column's place.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// The values of some columns of a row.
    pub fn key(columns: &[usize], row: &[Value]) -> Vec<Value> {
        columns.iter().map(|c| row.get(*c).cloned().unwrap_or(Value::Null)).collect()
    }

    /// Columns of any unique index: changing one of them takes the stronger row lock (RelationGetIndexAttrBitmap).
    pub fn key_columns(&self) -> BTreeSet<usize> {
        self.uniques.iter().flat_map(|u| u.columns.iter().copied()).collect()
    }
}

/// A relation.
#[derive(Clone, Debug)]
pub enum Relation {
    Table(Rc<Table>),
    /// Its state is outside of transactions ([`super::sequence`]). The table that owns it, if one does.
    Sequence(Oid, Option<Oid>),
}

impl Relation {
    /// Its identity.
    pub fn oid(&self) -> Oid {
        match self {
            Relation::Table(t) => t.oid,
            Relation::Sequence(oid, _) => *oid,
        }
    }
}

#[derive(Debug)]
struct Entry {
    name: String,
    relation: Relation,
    xmin: Xid,
    xmax: Option<Xid>,
}

/// All relations.
#[derive(Default, Debug)]
pub struct Catalogue {
    entries: Vec<Entry>,
    /// Changes with every change of an entry: what was analysed under another number is analysed again.
    pub version: u64,
    next_oid: Oid,
}

impl Catalogue {
    /// A new identity.
    pub fn new_oid(&mut self) -> Oid {
        self.next_oid += 1;
        16_384 + self.next_oid // FirstNormalObjectId
    }

    fn seen(e: &Entry, txns: &Transactions, own: Option<Xid>) -> bool {
        let done =
            |x: Xid| own == Some(txns.top(x)) && txns.fate(x) != Fate::Aborted || txns.fate(x) == Fate::Committed;
        done(e.xmin) && !e.xmax.is_some_and(done)
    }

    /// Relations as they are committed, or changed by transaction `own`.
    pub fn relations<'a>(
        &'a self,
        txns: &'a Transactions,
        own: Option<Xid>,
    ) -> impl Iterator<Item = (&'a str, &'a Relation)> {
        self.entries.iter().filter(move |e| Self::seen(e, txns, own)).map(|e| (e.name.as_str(), &e.relation))
    }

    /// By name.
    pub fn find(&self, name: &str, txns: &Transactions, own: Option<Xid>) -> Option<&Relation> {
        self.entries.iter().find(|e| e.name == name && Self::seen(e, txns, own)).map(|e| &e.relation)
    }

    /// A table by its identity.
    pub fn table(&self, oid: Oid, txns: &Transactions, own: Option<Xid>) -> Option<Rc<Table>> {
        self.relations(txns, own).find_map(|(_, r)| match r {
            Relation::Table(t) if t.oid == oid => Some(t.clone()),
            _ => None,
        })
    }

    /// Adds a relation, or a new version of one.
    pub fn add(&mut self, name: String, relation: Relation, xid: Xid) {
        self.version += 1;
        self.entries.push(Entry { name, relation, xmin: xid, xmax: None });
    }

    /// Takes a relation's version away.
    pub fn remove(&mut self, oid: Oid, xid: Xid, txns: &Transactions) {
        self.version += 1;
        for e in &mut self.entries {
            if e.relation.oid() == oid && Self::seen(e, txns, Some(txns.top(xid))) {
                e.xmax = Some(xid);
            }
        }
    }

    /// Transactions have been rolled back, or lost in a crash: what they did is undone.
    pub fn undo(&mut self, gone: impl Fn(Xid) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|e| !gone(e.xmin));
        let mut changed = self.entries.len() != before;
        for e in &mut self.entries {
            if e.xmax.is_some_and(&gone) {
                e.xmax = None;
                changed = true;
            }
        }
        if changed {
            self.version += 1;
        }
    }

    /// A transaction has committed: what it changed is there for all, and what is gone for good is forgotten.
    pub fn committed(&mut self, xid: Xid, txns: &Transactions) {
        let of = |x: Xid| txns.top(x) == xid;
        if self.entries.iter().any(|e| of(e.xmin) || e.xmax.is_some_and(of)) {
            self.version += 1;
        }
        self.entries.retain(|e| !e.xmax.is_some_and(|x| txns.is_durable(x)));
    }

    /// Heaps that some version of some table still has.
    pub fn heaps(&self) -> BTreeSet<HeapId> {
        let heap = |e: &Entry| match &e.relation {
            Relation::Table(t) => Some(t.heap),
            Relation::Sequence(..) => None,
        };
        self.entries.iter().filter_map(heap).collect()
    }
}

/// Who deleted or updated a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replaced {
    pub xid: Xid,
    pub command: u32,
    /// The strength that it counts as: an UPDATE that leaves keys alone is weaker.
    pub lock: RowLock,
    /// The next version; `None`: deleted.
    pub next: Option<Tid>,
}

/// A row version.
#[derive(Clone, Debug)]
pub struct Version {
    pub row: Vec<Value>,
    pub xmin: Xid,
    pub cmin: u32,
    pub replaced: Option<Replaced>,
    /// Who has locked it (xmax as a locker, or a MultiXact of several).
    pub lockers: Vec<(Xid, RowLock)>,
}

/// A heap and the indexes on it.
#[derive(Default, Debug)]
pub struct Heap {
    pub versions: BTreeMap<Tid, Version>,
    /// By unique constraint, in the table's order. A version is in an index only once its check there has passed.
    pub indexes: Vec<BTreeMap<Vec<Value>, Vec<Tid>>>,
    inserted: u64,
    seed: u64,
    /// Prune when there are as many versions.
    prune_at: usize,
}

impl Heap {
    /// An empty heap. `seed` 0: scans go in the order of insertion; else in an order of the heap's own.
    pub fn new(uniques: usize, seed: u64) -> Heap {
        Heap { indexes: vec![BTreeMap::new(); uniques], seed, prune_at: 64, ..Heap::default() }
    }

    /// Puts a version somewhere.
    pub fn insert(&mut self, version: Version) -> Tid {
        self.inserted += 1;
        let tid = if self.seed == 0 { self.inserted } else { mix(self.seed ^ mix(self.inserted)) };
        self.versions.insert(tid, version);
        tid
    }

    /// Versions that have this key in this index.
    pub fn with_key(&self, index: usize, key: &[Value]) -> &[Tid] {
        self.indexes.get(index).and_then(|i| i.get(key)).map_or(&[], Vec::as_slice)
    }

    /// Puts a version into an index.
    pub fn index(&mut self, index: usize, key: Vec<Value>, tid: Tid) {
        if let Some(i) = self.indexes.get_mut(index) {
            i.entry(key).or_default().push(tid);
        }
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
        self.prune_at = (self.versions.len() * 2).max(64);
    }

    /// Keeps some versions, and their index entries.
    pub fn retain(&mut self, keep: impl Fn(&Version) -> bool) {
        self.versions.retain(|_, v| keep(v));
        let versions = &self.versions;
        for i in &mut self.indexes {
            for tids in i.values_mut() {
                tids.retain(|t| versions.contains_key(t));
            }
            i.retain(|_, tids| !tids.is_empty());
        }
    }

    /// After a crash: what the lost transactions did is not there, and no row is locked but by `prepared` ones.
    pub fn crash(&mut self, lost: &BTreeSet<Xid>, prepared: impl Fn(Xid) -> bool) {
        self.retain(|v| !lost.contains(&v.xmin));
        for v in self.versions.values_mut() {
            if v.replaced.as_ref().is_some_and(|r| lost.contains(&r.xid)) {
                v.replaced = None;
            }
            v.lockers.retain(|(x, _)| prepared(*x));
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
