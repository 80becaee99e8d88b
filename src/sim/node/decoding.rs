//! What transactions change, in order; and a logical slot of test_decoding that tells it (contrib/test_decoding), with
//! two_phase, include-xids and without skip-empty-xacts.
//!
//! Kept only where `wal_level` would be logical ([`super::NodeConfig`]). A transaction is told of when it is committed or
//! prepared, whole, if it has begun to write after the slot had a point to start from: when all had ended that wrote while
//! it was made (SnapBuildFindSnapshot in snapbuild.c).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::Node;
use super::server::Server;
use super::session::Session;
use super::table::{Column, Oid, Table, Tid};
use super::txn::{Fate, Xid};
use super::value::{Row, Type, Value};

/// A table, for catalogues.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// Its OID.
    pub oid: Oid,
    /// Its name.
    pub name: String,
    /// Name, type and place in the primary key (from 1) of its columns.
    pub columns: Vec<(String, u32, Option<usize>)>,
    /// It has a trigger.
    pub fires: bool,
}

/// Something of a transaction.
#[derive(Debug)]
enum Logged {
    Change { table: Rc<Table>, old: Option<Row>, new: Option<Row> },
    Message(String),
}

/// Of one transaction.
#[derive(Debug, Default)]
struct OfTransaction {
    /// With the (sub)transaction that did it, and where.
    entries: Vec<(Xid, Tid, Logged)>,
    /// Sequences that it has drawn from: it holds them locked until its end (`lock_and_open_sequence` in sequence.c).
    sequences: BTreeSet<String>,
}

#[derive(Debug)]
struct Slot {
    /// Who was writing when it was made, and has not ended.
    awaits: BTreeSet<Xid>,
    /// Transactions from this id on are told of.
    since: Option<Xid>,
    lines: VecDeque<String>,
}

/// The log as far as slots read it.
#[derive(Debug, Default)]
pub struct ChangeLog {
    of: BTreeMap<Xid, OfTransaction>,
    slot: Option<Slot>,
}

impl ChangeLog {
    /// The transaction is rolled back.
    pub fn forget(&mut self, xid: Xid) {
        self.of.remove(&xid);
    }

    /// A sequence has moved in it.
    pub fn draws(&mut self, xid: Xid, sequence: &str) {
        self.of.entry(xid).or_default().sequences.insert(sequence.to_owned());
    }

    /// The slot is a temporary one: it goes.
    pub fn crash(&mut self, prepared: &BTreeSet<Xid>) {
        self.slot = None;
        self.of.retain(|xid, _| prepared.contains(xid));
    }
}

impl Session {
    fn log_entry(&mut self, tid: Tid, what: Logged) {
        let (xid, top) = (self.xid(), self.top_xid());
        let s = &mut *self.server();
        if let Some(top) = top.filter(|_| s.config.logical) {
            s.log.of.entry(top).or_default().entries.push((xid, tid, what));
        }
    }

    /// A row was changed: `tid` is its new version (of a deleted one, the old).
    pub fn log_change(&mut self, table: &Table, tid: Tid, old: Option<&[Value]>, new: Option<&Row>) {
        self.tx().changed.insert(table.oid);
        let logical = self.look().config.logical;
        let Ok(table) = self.look().table(&table.name) else { return };
        if logical {
            let what = Logged::Change { table, old: old.map(<[Value]>::to_vec), new: new.cloned() };
            self.log_entry(tid, what);
        }
    }

    /// The version that was inserted last is taken back.
    pub fn unlog(&mut self, tid: Tid) {
        let top = self.top_xid();
        let s = &mut *self.server();
        if let Some(t) = top.and_then(|top| s.log.of.get_mut(&top)) {
            t.entries.retain(|(_, at, _)| *at != tid);
        }
    }

    /// pg_logical_emit_message() of a transactional message.
    pub fn log_message(&mut self, prefix: &str, content: &str) -> Value {
        let (text, size) = (format!("message: transactional: 1 prefix: {prefix}"), content.len());
        self.log_entry(0, Logged::Message(format!("{text}, sz: {size} content:{content}")));
        let xid = self.xid();
        self.server().txns.log(xid);
        Value::of("0/0")
    }
}

impl Server {
    /// The transaction is committed or prepared, durably, and told of. `last`: its last line.
    pub fn tell(&mut self, xid: Xid, last: &str) {
        let goes_on = last.starts_with("PREPARE");
        if let Some(slot) = self.log.slot.as_mut().filter(|s| s.since.is_some_and(|since| xid >= since)) {
            slot.lines.push_back(format!("BEGIN {xid}"));
            for (by, _, what) in self.log.of.get(&xid).map_or(&[][..], |t| &t.entries) {
                if self.txns.fate(*by) != Fate::Aborted {
                    slot.lines.push_back(match what {
                        Logged::Change { table, old, new } => line(table, old.as_deref(), new.as_deref()),
                        Logged::Message(text) => text.clone(),
                    });
                }
            }
            slot.lines.push_back(last.to_owned());
        }
        if !goes_on {
            self.log.forget(xid);
        }
    }

    /// What was prepared is over.
    pub fn tell_end(&mut self, xid: Xid, line: &str) {
        self.log.forget(xid);
        if let Some(slot) = self.log.slot.as_mut().filter(|s| s.since.is_some_and(|since| xid >= since)) {
            slot.lines.push_back(line.to_owned());
        }
    }
}

impl Node {
    /// Makes the slot. There is one at most.
    pub fn create_slot(&mut self) {
        let s = &mut *self.server.borrow_mut();
        let awaits = s.txns.running().clone();
        s.log.slot = Some(Slot { awaits, since: None, lines: VecDeque::new() });
    }

    /// The slot tells of what begins to write from here on.
    pub fn slot_is_ready(&mut self) -> bool {
        let s = &mut *self.server.borrow_mut();
        let Some(slot) = &mut s.log.slot else { return false };
        if slot.since.is_none() && slot.awaits.iter().all(|x| s.txns.fate(*x) != Fate::InProgress) {
            slot.since = Some(s.txns.next());
        }
        slot.since.is_some()
    }

    /// The slot is there.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        self.server.borrow().log.slot.is_some()
    }

    /// Drops it.
    pub fn drop_slot(&mut self) {
        self.server.borrow_mut().log.slot = None;
    }

    /// What it tells next.
    pub fn slot_line(&mut self) -> Option<String> {
        self.server.borrow_mut().log.slot.as_mut()?.lines.pop_front()
    }

    /// Sequences from which the prepared transaction of this id has drawn, and their last values.
    #[must_use]
    pub fn drawn(&self, xid: Xid) -> Vec<(String, i64)> {
        let s = self.server.borrow();
        let names = s.log.of.get(&xid).into_iter().flat_map(|t| &t.sequences);
        names.filter_map(|n| Some((n.clone(), s.sequences.get(n)?.last()))).collect()
    }

    /// Tables, for catalogues.
    #[must_use]
    pub fn tables(&self) -> Vec<TableInfo> {
        let s = self.server.borrow();
        let of = |t: &Rc<Table>| {
            let key = key(t);
            let place = |i| key.iter().position(|k| *k == i).map(|p| p + 1);
            let column = |(i, c): (usize, &Column)| (c.name.clone(), c.ty.oid(), place(i));
            let columns = t.columns.iter().enumerate().map(column).collect();
            TableInfo { oid: t.oid, name: t.name.clone(), columns, fires: s.audited.contains(&t.oid) }
        };
        s.tables().map(of).collect()
    }
}

/// The columns of the primary key, which is the replica identity.
fn key(table: &Table) -> Vec<usize> {
    let key = table.uniques.iter().find(|u| u.name.ends_with("_pkey"));
    key.map_or(Vec::new(), |u| u.columns.clone())
}

/// pg_decode_change.
fn line(table: &Table, old: Option<&[Value]>, new: Option<&[Value]>) -> String {
    let key = key(table);
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let head = format!("table public.{}:", table.name);
    match (old, new) {
        (Some(old), Some(new)) => {
            let changed = key.iter().any(|c| old[*c] != new[*c]);
            let before =
                if changed { format!(" old-key:{} new-tuple:", tuple(table, &key, old, true)) } else { String::new() };
            format!("{head} UPDATE:{before}{}", tuple(table, &all, new, false))
        }
        (None, Some(new)) => format!("{head} INSERT:{}", tuple(table, &all, new, false)),
        (Some(_), None) if key.is_empty() => format!("{head} DELETE: (no-tuple-data)"),
        (old, None) => format!("{head} DELETE:{}", tuple(table, &key, old.unwrap_or_default(), true)),
    }
}

/// tuple_to_stringinfo.
fn tuple(table: &Table, columns: &[usize], row: &[Value], skip_nulls: bool) -> String {
    let mut out = String::new();
    for (c, v) in columns.iter().filter_map(|c| Some((&table.columns[*c], row.get(*c)?))) {
        let value = match (c.ty, v) {
            (_, Value::Null) if skip_nulls => continue,
            (_, Value::Null) => "null".to_owned(),
            (_, Value::Bool(b)) => b.to_string(),
            (Type::Int4 | Type::Int8 | Type::Numeric, v) => v.text().unwrap_or_default(),
            (_, v) => format!("'{}'", v.text().unwrap_or_default().replace('\'', "''")),
        };
        out.push_str(&format!(" {}[{}]:{value}", c.name, c.ty.name()));
    }
    out
}
