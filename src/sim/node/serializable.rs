//! Who may commit at SERIALIZABLE.
//!
//! PostgreSQL looks for dangerous structures among rw-conflicts (predicate.c). Here a transaction is refused if another
//! SERIALIZABLE one, prepared or committed, has changed a table in which it has looked for rows, and its snapshot does not
//! show that: validation backwards (Kung and Robinson, "On Optimistic Methods for Concurrency Control", TODS 1981). What
//! it lets through is serializable in the order of the judgements; a real server lets more through.

use std::collections::{BTreeMap, BTreeSet};

use super::session::Session;
use super::sql::Isolation;
use super::table::Oid;
use super::txn::Xid;
use super::value::Res;
use crate::wire::PgError;

/// Ids of those that are old are forgotten when there are so many.
const KEPT: usize = 64;

/// What those have changed that were judged well.
#[derive(Debug, Default)]
pub struct Judged(BTreeMap<Xid, BTreeSet<Oid>>);

impl Judged {
    /// It is rolled back after all.
    pub fn forget(&mut self, xid: Xid) {
        self.0.remove(&xid);
    }

    /// A crash: there are no snapshots left that do not show what was committed.
    pub fn crash(&mut self, prepared: &BTreeSet<Xid>) {
        self.0.retain(|xid, _| prepared.contains(xid));
    }
}

impl Session {
    /// PreCommit_CheckForSerializationFailure.
    pub fn judge(&mut self) -> Res<()> {
        let Some(tx) = self.tx.as_ref().filter(|t| t.isolation == Isolation::Serializable) else { return Ok(()) };
        let Some(snapshot) = &tx.snapshot else { return Ok(()) };
        let s = &mut *self.server.borrow_mut();
        let unseen =
            |(xid, changed): (&Xid, &BTreeSet<Oid>)| !s.txns.sees(snapshot, *xid) && !changed.is_disjoint(&tx.looked);
        if s.judged.0.iter().any(unseen) {
            let e = "could not serialize access due to read/write dependencies among transactions";
            return Err(PgError::error("40001", e));
        }
        let Some(xid) = tx.levels[0].xid.filter(|_| !tx.changed.is_empty()) else { return Ok(()) };
        s.judged.0.insert(xid, tx.changed.clone());
        if s.judged.0.len() > KEPT {
            // Every snapshot that there is, or will be, shows those.
            let oldest = s.txns.snapshot(0).xmin;
            let horizon = s.backends.values().filter_map(|b| b.xmin).fold(oldest, Xid::min);
            s.judged.0.retain(|xid, _| *xid >= horizon);
        }
        Ok(())
    }
}
