//! The client's transaction, as the session keeps it.

use std::sync::Arc;

use bytes::Bytes;

use super::digits::InBlock;
use super::own_ddl::View;
use super::proofs::Proofs;
use crate::script::{Entry, Script};
use crate::sequencer::{Footprint, SnapshotToken};
use crate::sql::cache::Verdict;
use crate::sql::class::{Isolation, TxModes};

/// Which of the session's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Its backend on main.
    Lane,
    /// Its read-only backend on some up node.
    Reader,
}

/// The client's transaction.
#[derive(Debug, Default)]
pub enum Tx {
    /// None.
    #[default]
    Idle,
    /// BEGIN has been answered; no server has heard of it yet (`lazy_begin`).
    Begun(TxModes),
    /// Open on a server.
    Open(Box<Open>),
}

/// What main said of the transaction when its first write began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Main's transaction id, 64 bits (txid_current, which servers from 12 to 18 have).
    pub xid: u64,
    /// now(): microseconds since 2000-01-01 UTC.
    pub now: i64,
    /// Its isolation level, as SHOW prints it.
    pub isolation: String,
}

/// How a transaction reads on a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// READ ONLY, with the replica's own snapshots (`native_replication`).
    AsItIs,
    /// Each read has a snapshot of its own, which must turn out to be one that any node could have taken: a single read,
    /// or a READ ONLY block at READ COMMITTED (`snapshot_isolation`).
    Singly,
    /// From one snapshot that is taken in the gate: READ ONLY, or around a single read.
    Cut,
    /// It may write. Main has begun it too, with the same snapshot, and has run nothing of it.
    Twin,
    /// The same, and main's part of it is gone.
    Bereft,
}

/// A transaction that is open on a server.
#[derive(Debug)]
pub struct Open {
    /// Where.
    pub on: Target,
    /// The proxy opened it around a write or a string of statements; it ends with the request.
    pub implicit: bool,
    /// How the client began it (for AND CHAIN).
    pub modes: TxModes,
    /// The server has told of an error.
    pub failed: bool,
    /// A statement of the client's has been completed in it.
    pub answered: bool,
    /// What it has done to rows.
    pub script: Script,
    /// Newest commit sent to main before main's last answer to this transaction.
    pub need: u64,
    /// Main's id and time of it.
    pub info: Option<Info>,
    /// The snapshot of a block that has one, where that is known.
    pub token: Option<SnapshotToken>,
    /// It is being taken for that.
    pub token_asked: bool,
    /// [`Info`] has been asked for.
    pub info_asked: bool,
    /// A statement whose tag proves nothing has run.
    pub opaque: bool,
    /// Its id according to txid_current_if_assigned(), asked behind an opaque statement.
    pub assigned: Option<u64>,
    /// Rows of catalogues that its backend had written before its first such statement, as [`OPAQUE`] tells.
    pub baseline: Option<Vec<u8>>,
    /// That has been asked for.
    pub baseline_asked: bool,
    /// It has written large objects.
    pub large_objects: bool,
    /// A statement has run that changes catalogues.
    pub ddl: bool,
    /// What its statements are judged by.
    pub view: View,
    /// A statement has been sent that may change the catalogue, and perhaps not been answered.
    pub unsure: bool,
    /// Version of the catalogue from before it began.
    pub version: u64,
    /// By what it sees, some constraint may be deferred to COMMIT.
    pub deferrable: bool,
    /// Rows of catalogues that its backend had written behind its newest statement of unknown effect.
    pub counted: Option<Vec<u8>>,
    /// The rows that it has written.
    pub footprint: Footprint,
    /// Whether numbers print exactly in it.
    pub digits: InBlock,
    /// One of them changes what logins are like.
    pub logins: bool,
    /// A statement has run that PREPARE TRANSACTION refuses to follow (NOTIFY, LISTEN, a cursor that may be held).
    pub unpreparable: bool,
    /// Of these, what no cursor is: NOTIFY and its kin.
    pub notifies: bool,
    /// A statement has run that reaches the replicas by the transaction's image only.
    pub image: bool,
    /// The shapes of such statements, a few of them.
    pub imaged: Vec<Arc<Verdict>>,
    /// One of them is known to do what main does not prepare, or was sent while there was no slot.
    pub imageless: bool,
    /// On a reader it has something that main has not: a savepoint, a SET, a portal.
    pub pinned: bool,
    /// How it reads there, if it is on a reader.
    pub reads: Reads,
    /// Cursors that were declared on a reader and not closed.
    pub cursors: u32,
    /// Queries that write as their rows are fetched, and were not fetched to their end: portal, entry.
    pub unfinished: Vec<(u64, usize)>,
    /// Such portals whose entry ROLLBACK TO has taken back: the portal itself may live on, and its query with it.
    pub torn: Vec<u64>,
    /// One of those has: what main has done of it no other node can do.
    pub unrepeatable: bool,
    /// What its writes rest on.
    pub proofs: Proofs,
    /// The script was started early once, and that was given up.
    pub early_off: bool,
}

impl Open {
    /// A transaction that is being opened.
    #[must_use]
    pub fn new(on: Target, implicit: bool, modes: TxModes) -> Open {
        Open {
            on,
            implicit,
            modes,
            failed: false,
            answered: false,
            script: Script::default(),
            need: 0,
            info: None,
            token: None,
            token_asked: false,
            info_asked: false,
            opaque: false,
            assigned: None,
            baseline: None,
            baseline_asked: false,
            large_objects: false,
            ddl: false,
            view: View::default(),
            unsure: false,
            version: 0,
            deferrable: false,
            counted: None,
            footprint: Footprint::default(),
            digits: InBlock::default(),
            logins: false,
            unpreparable: false,
            notifies: false,
            image: false,
            imaged: Vec::new(),
            imageless: false,
            pinned: false,
            reads: Reads::AsItIs,
            cursors: 0,
            unfinished: Vec::new(),
            torn: Vec::new(),
            unrepeatable: false,
            proofs: Proofs::default(),
            early_off: false,
        }
    }

    /// Main's transaction id, if it has one as far as is known.
    #[must_use]
    pub fn xid(&self) -> Option<u64> {
        self.info.as_ref().map(|i| i.xid).or(self.assigned)
    }

    /// How it reads on a reader; `None`: it is on the lane.
    #[must_use]
    pub fn on_replica(&self) -> Option<Reads> {
        (self.on == Target::Reader).then_some(self.reads)
    }

    /// It is on a reader only as long as it does nothing but read.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        matches!(self.on_replica(), Some(Reads::Singly | Reads::Twin | Reads::Bereft))
    }

    /// There is something for the replicas to do.
    #[must_use]
    pub fn has_writes(&self) -> bool {
        !self.script.is_empty() && self.xid().is_some()
    }

    /// Main has run a query in part that may write: replicas would run all of it.
    #[must_use]
    pub fn is_half_done(&self) -> bool {
        self.unrepeatable || !self.unfinished.is_empty()
    }

    /// SETs of the transaction that outlive it.
    pub fn lasting_settings(&self) -> impl Iterator<Item = &Entry> {
        self.script.entries().iter().filter(|e| matches!(e, Entry::Setting(_)))
    }
}

impl Tx {
    /// Open, and where.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match self {
            Tx::Open(o) => Some(o.on),
            _ => None,
        }
    }

    /// The open transaction.
    pub fn open_mut(&mut self) -> Option<&mut Open> {
        match self {
            Tx::Open(o) => Some(o),
            _ => None,
        }
    }

    /// The same, to look at.
    #[must_use]
    pub fn open(&self) -> Option<&Open> {
        match self {
            Tx::Open(o) => Some(o),
            _ => None,
        }
    }
}

/// The BEGIN that these modes mean, and the name under which a link keeps it prepared.
#[must_use]
pub fn begin_statement(modes: &TxModes) -> (&'static str, &'static str) {
    let [(name, sql), _] = &texts()[code(modes)];
    (name, sql)
}

/// What sets these modes in a transaction that has begun already, and its name. Not for default modes, which need
/// nothing.
#[must_use]
pub fn modes_statement(modes: &TxModes) -> (&'static str, &'static str) {
    let [_, (name, sql)] = &texts()[code(modes)];
    (name, sql)
}

/// There are 45 combinations of modes, so their texts are made once and kept for ever.
fn texts() -> &'static [[(String, String); 2]] {
    use std::sync::OnceLock;
    static TEXTS: OnceLock<Vec<[(String, String); 2]>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let both = |code| {
            let begin = begin_text(code);
            let set = begin.replacen("BEGIN", "SET TRANSACTION", 1);
            [(format!("_pgls_b{code}"), begin), (format!("_pgls_m{code}"), set)]
        };
        (0..45).map(both).collect()
    })
}

fn code(modes: &TxModes) -> usize {
    let level = match modes.isolation {
        None => 0,
        Some(Isolation::ReadUncommitted) => 1,
        Some(Isolation::ReadCommitted) => 2,
        Some(Isolation::RepeatableRead) => 3,
        Some(Isolation::Serializable) => 4,
    };
    let flag = |f: Option<bool>| f.map_or(0, |on| if on { 1 } else { 2 });
    level * 9 + flag(modes.read_only) * 3 + flag(modes.deferrable)
}

fn begin_text(code: usize) -> String {
    let mut parts = Vec::new();
    match code / 9 {
        1 => parts.push("ISOLATION LEVEL READ UNCOMMITTED"),
        2 => parts.push("ISOLATION LEVEL READ COMMITTED"),
        3 => parts.push("ISOLATION LEVEL REPEATABLE READ"),
        4 => parts.push("ISOLATION LEVEL SERIALIZABLE"),
        _ => {}
    }
    match code / 3 % 3 {
        1 => parts.push("READ ONLY"),
        2 => parts.push("READ WRITE"),
        _ => {}
    }
    match code % 3 {
        1 => parts.push("DEFERRABLE"),
        2 => parts.push("NOT DEFERRABLE"),
        _ => {}
    }
    if parts.is_empty() { "BEGIN".into() } else { format!("BEGIN {}", parts.join(", ")) }
}

/// Reads the row that [`INFO`] returns, a DataRow in binary.
#[must_use]
pub fn read_info(row: &[u8]) -> Option<Info> {
    let mut columns = Columns::new(row)?;
    let xid = u64::from_be_bytes(columns.next()??.try_into().ok()?);
    let now = i64::from_be_bytes(columns.next()??.try_into().ok()?);
    let isolation = std::str::from_utf8(columns.next()??).ok()?.to_owned();
    Some(Info { xid, now, isolation })
}

/// What main is asked in front of a transaction's first write. It gives the transaction its id, which the write
/// would do a moment later.
pub const INFO: &str =
    "SELECT pg_catalog.txid_current(), pg_catalog.now(), pg_catalog.current_setting('transaction_isolation')";
/// What main is asked in front of a transaction's first statement of which nobody knows what it does, and behind each:
/// the transaction's id, if it has one by now, and how many rows of the catalogues that verdicts rest on its backend has
/// written (the statistics that it has not reported yet, which it does between transactions only; -1: without
/// track_counts nobody can say). Operators are named in full: the client may have others of these names.
pub const OPAQUE: &str = "SELECT pg_catalog.txid_current_if_assigned(), \
    CASE WHEN pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off' THEN (-1)::pg_catalog.int8 ELSE \
    (SELECT pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(c) \
    OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(c) \
    OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(c))::pg_catalog.int8 FROM pg_catalog.unnest(ARRAY[\
    'pg_catalog.pg_class', 'pg_catalog.pg_attribute', 'pg_catalog.pg_attrdef', 'pg_catalog.pg_constraint', \
    'pg_catalog.pg_index', 'pg_catalog.pg_inherits', 'pg_catalog.pg_proc', 'pg_catalog.pg_aggregate', \
    'pg_catalog.pg_operator', 'pg_catalog.pg_opclass', 'pg_catalog.pg_amop', 'pg_catalog.pg_amproc', \
    'pg_catalog.pg_cast', 'pg_catalog.pg_type', 'pg_catalog.pg_enum', 'pg_catalog.pg_trigger', \
    'pg_catalog.pg_rewrite', 'pg_catalog.pg_policy', 'pg_catalog.pg_namespace']::pg_catalog.regclass[]) c) END";
/// The second column where nobody can say.
pub const UNCOUNTED: [u8; 8] = (-1i64).to_be_bytes();

/// The columns of a DataRow message, header included; a NULL is `None`.
pub struct Columns<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Columns<'a> {
    /// `None`: not a DataRow.
    #[must_use]
    pub fn new(row: &'a [u8]) -> Option<Columns<'a>> {
        let body = row.get(5..)?;
        Some(Columns { left: crate::wire::read_u16(body)?, rest: &body[2..] })
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        self.left = self.left.checked_sub(1)?;
        let length = crate::wire::read_u32(self.rest)?;
        self.rest = &self.rest[4..];
        if length == u32::MAX {
            return Some(None);
        }
        let value = self.rest.get(..length as usize)?;
        self.rest = &self.rest[length as usize..];
        Some(Some(value))
    }
}

/// The tag that a locally answered BEGIN has.
#[must_use]
pub fn begin_tag(sql: &Bytes) -> &'static str {
    let start = sql.iter().position(|b| b.is_ascii_alphabetic()).unwrap_or(0);
    if sql[start..].get(..5).is_some_and(|w| w.eq_ignore_ascii_case(b"start")) { "START TRANSACTION" } else { "BEGIN" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_modes_has_its_own_begin() {
        let modes = TxModes { isolation: Some(Isolation::RepeatableRead), read_only: Some(true), deferrable: None };
        assert_eq!(begin_statement(&modes).1, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
        assert_eq!(modes_statement(&modes).1, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
        assert_eq!(begin_statement(&TxModes::default()), ("_pgls_b0", "BEGIN"));
    }

    #[test]
    fn the_transactions_id_and_time_are_read_from_a_binary_row() {
        let mut row = b"D\0\0\0\0\0\x03\0\0\0\x08".to_vec();
        row.extend(77u64.to_be_bytes());
        row.extend(8u32.to_be_bytes());
        row.extend((-5i64).to_be_bytes());
        row.extend(4u32.to_be_bytes());
        row.extend(b"abcd");
        assert_eq!(read_info(&row), Some(Info { xid: 77, now: -5, isolation: "abcd".into() }));
        assert_eq!(read_info(&row[..row.len() - 1]), None);
    }
}
