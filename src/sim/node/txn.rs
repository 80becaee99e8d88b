//! Transaction ids, their fate, snapshots, and the write-ahead log as far as it decides what a crash leaves.
//!
//! The log is only a counter: a position for each thing that a crash could lose, and how far it has been flushed. A
//! commit is durable when its record is flushed and visible a step later, when its transaction leaves the set of those
//! that run (ProcArrayEndTransaction); in between everybody else still sees it in progress.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A transaction id, 64 bits, as txid_current() returns it.
pub type Xid = u64;
/// A position in the write-ahead log.
pub type Lsn = u64;

/// What has become of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    InProgress,
    Committed,
    Aborted,
}

impl Fate {
    /// As pg_xact_status() says it.
    pub fn text(self) -> &'static str {
        match self {
            Fate::InProgress => "in progress",
            Fate::Committed => "committed",
            Fate::Aborted => "aborted",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    fate: Fate,
    parent: Option<Xid>,
    /// Where the log first names it; `None`: nowhere, so that a crash gives the id out again in any case.
    logged: Option<Lsn>,
    /// Where its commit is.
    commit: Option<Lsn>,
}

/// Which transactions a statement sees.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Every id below has ended.
    pub xmin: Xid,
    xmax: Xid,
    running: Rc<BTreeSet<Xid>>,
    /// Own changes of earlier commands are seen, not those of this one.
    pub command: u32,
}

impl Snapshot {
    /// The same, for a later command.
    pub fn at(&self, command: u32) -> Snapshot {
        Snapshot { command, ..self.clone() }
    }
}

/// All transactions of a node.
#[derive(Default, Debug)]
pub struct Transactions {
    next: Xid,
    entries: BTreeMap<Xid, Entry>,
    running: Rc<BTreeSet<Xid>>,
    written: Lsn,
    flushed: Lsn,
}

impl Transactions {
    /// The first id to give out.
    pub fn new(first: Xid) -> Transactions {
        Transactions { next: first, ..Transactions::default() }
    }

    /// A new id, of a transaction or of a subtransaction of `parent`.
    pub fn assign(&mut self, parent: Option<Xid>) -> Xid {
        let xid = self.next;
        self.next += 1;
        self.entries.insert(xid, Entry { fate: Fate::InProgress, parent, logged: None, commit: None });
        Rc::make_mut(&mut self.running).insert(xid);
        xid
    }

    /// Something of this transaction was written to the log.
    pub fn log(&mut self, xid: Xid) {
        self.written += 1;
        if let Some(e) = self.entries.get_mut(&xid) {
            e.logged.get_or_insert(self.written);
        }
    }

    /// Something without a transaction was written (a sequence's value). Returns where.
    pub fn log_other(&mut self) -> Lsn {
        self.written += 1;
        self.written
    }

    /// The commit record is written. Returns up to where the log must be flushed for it to last.
    pub fn write_commit(&mut self, xid: Xid) -> Lsn {
        self.written += 1;
        let at = self.written;
        if let Some(e) = self.entries.get_mut(&xid) {
            e.logged.get_or_insert(at);
            e.commit = Some(at);
        }
        at
    }

    /// The record of a transaction that is prepared is written. Returns as [`Self::write_commit`] does.
    pub fn write_prepare(&mut self, xid: Xid) -> Lsn {
        self.log(xid);
        self.written
    }

    /// The next id.
    pub fn next(&self) -> Xid {
        self.next
    }

    /// Ids of transactions that run.
    pub fn running(&self) -> &BTreeSet<Xid> {
        &self.running
    }

    /// The log is on disk up to here, and all before it.
    pub fn flush(&mut self, to: Lsn) {
        self.flushed = self.flushed.max(to);
    }

    /// How far the log is on disk.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// All that is written is on disk.
    pub fn flush_all(&mut self) {
        self.flushed = self.written;
    }

    /// The transaction leaves the running ones, with its subtransactions that have not been rolled back. Or a
    /// subtransaction does, with those below it. Returns them all.
    pub fn end(&mut self, xid: Xid, fate: Fate) -> Vec<Xid> {
        let below = |mut x: Xid| loop {
            match self.entries.get(&x).and_then(|e| e.parent) {
                _ if x == xid => return true,
                Some(p) => x = p,
                None => return false,
            }
        };
        let family: Vec<Xid> = self.running.iter().copied().filter(|x| below(*x)).collect();
        for x in &family {
            self.finish(*x, fate);
        }
        family
    }

    fn finish(&mut self, xid: Xid, fate: Fate) {
        if let Some(e) = self.entries.get_mut(&xid) {
            e.fate = fate;
        }
        Rc::make_mut(&mut self.running).remove(&xid);
    }

    /// The transaction of which this is a part.
    pub fn top(&self, xid: Xid) -> Xid {
        let mut x = xid;
        while let Some(p) = self.entries.get(&x).and_then(|e| e.parent) {
            x = p;
        }
        x
    }

    /// Its fate; ids before the node's first are of its beginnings and committed.
    pub fn fate(&self, xid: Xid) -> Fate {
        self.entries.get(&xid).map_or(Fate::Committed, |e| e.fate)
    }

    /// Its fate; `None`: the id has not been given out.
    pub fn known_fate(&self, xid: Xid) -> Option<Fate> {
        (xid < self.next).then(|| self.fate(xid))
    }

    /// It is the transaction `own`, or a part of it.
    pub fn is_part(&self, xid: Xid, own: Option<Xid>) -> bool {
        own == Some(self.top(xid))
    }

    /// Who is visible now.
    pub fn snapshot(&self, command: u32) -> Snapshot {
        let xmin = self.running.first().copied().unwrap_or(self.next);
        Snapshot { xmin, xmax: self.next, running: self.running.clone(), command }
    }

    /// The snapshot sees what this transaction did. (Own transactions are judged by command ids, not by this.)
    pub fn sees(&self, s: &Snapshot, xid: Xid) -> bool {
        xid < s.xmax && !s.running.contains(&xid) && self.fate(xid) == Fate::Committed
    }

    /// Loses what is not on disk. Returns the ids that never were: whatever they wrote must go. `prepared`: transactions
    /// that go on.
    pub fn crash(&mut self, prepared: &BTreeSet<Xid>) -> BTreeSet<Xid> {
        let flushed = self.flushed;
        let durable = |l: Option<Lsn>| l.is_some_and(|l| l <= flushed);
        // A commit that is durable and not yet visible is one: recovery finds its record.
        let kept = |x: Xid, e: &Entry| {
            e.fate == Fate::Aborted
                || prepared.contains(&self.top(x))
                || durable(self.entries.get(&self.top(x)).and_then(|top| top.commit))
        };
        let mut lost: BTreeSet<Xid> = self.entries.iter().filter(|(x, e)| !kept(**x, e)).map(|(x, _)| *x).collect();
        let named = self.entries.iter().filter(|(_, e)| durable(e.logged)).map(|(x, _)| *x + 1).max();
        let first = self.entries.keys().next().copied().unwrap_or(self.next);
        self.next = named.unwrap_or(first);
        // An id that will be given out again must not find the traces of its first life.
        lost.extend(self.entries.split_off(&self.next).into_keys());
        let goes_on: BTreeSet<Xid> =
            self.running.iter().copied().filter(|x| prepared.contains(&self.top(*x))).collect();
        for (x, e) in &mut self.entries {
            if lost.contains(x) {
                e.fate = Fate::Aborted;
            } else if goes_on.contains(x) {
                e.commit = None;
            } else if e.fate == Fate::InProgress {
                e.fate = Fate::Committed;
            }
        }
        self.running = Rc::new(goes_on);
        self.written = flushed;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loses_what_is_not_flushed_and_gives_its_ids_out_again() {
        let mut t = Transactions::new(100);
        let (a, b, c) = (t.assign(None), t.assign(None), t.assign(None));
        t.log(a);
        let durable = t.write_commit(a);
        t.flush(durable);
        t.end(a, Fate::Committed);
        t.log(b);
        t.write_commit(b);
        t.end(b, Fate::Committed);
        assert_eq!(t.known_fate(b), Some(Fate::Committed));
        let lost = t.crash(&BTreeSet::new());
        assert_eq!(lost, BTreeSet::from([b, c]));
        assert_eq!(t.known_fate(a), Some(Fate::Committed));
        assert_eq!(t.known_fate(b), None);
        assert_eq!(t.assign(None), b);
    }

    #[test]
    fn a_commit_that_is_durable_but_not_visible_survives_a_crash() {
        let mut t = Transactions::new(1);
        let a = t.assign(None);
        let at = t.write_commit(a);
        t.flush(at);
        assert_eq!(t.known_fate(a), Some(Fate::InProgress));
        assert!(t.crash(&BTreeSet::new()).is_empty());
        assert_eq!(t.known_fate(a), Some(Fate::Committed));
    }

    #[test]
    fn a_snapshot_does_not_see_what_ran_when_it_was_taken() {
        let mut t = Transactions::new(1);
        let a = t.assign(None);
        let sub = t.assign(Some(a));
        let s = t.snapshot(0);
        t.end(a, Fate::Committed);
        assert!(!t.sees(&s, a) && !t.sees(&s, sub));
        let s = t.snapshot(0);
        assert!(t.sees(&s, a) && t.sees(&s, sub));
        let late = t.assign(None);
        t.end(late, Fate::Committed);
        assert!(!t.sees(&s, late));
    }
}
