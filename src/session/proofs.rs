//! What a transaction's writes rest on, looked at once more before COMMIT goes to main (hazard 18).
//!
//! A statement is judged, then sent; DDL of another session may commit on main in between. From the moment a write has its
//! table's lock the table cannot change until the transaction ends, so the catalogue that is read before COMMIT says how
//! the table was while the write ran: if the statement is judged by it as it was judged then, it did what was proved.
//!
//! The look comes when all replicas have applied. DDL of the same table that main has committed holds its lock on each
//! replica until its session has heard of that and has raised the version; nothing of a later write can be applied there
//! before. So a version that has not moved by then means that there was no such DDL.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::io::Cx;
use crate::sql::cache::Verdict;
use crate::wire::PgError;

/// Shapes of statements that one transaction keeps the proofs of. One that has more must find the catalogue as it was.
const KEPT_MAX: usize = 32;

/// The proof that one shape of statements rests on.
#[derive(Clone, Debug)]
pub struct Proof {
    /// One per shape and version.
    pub verdict: Arc<Verdict>,
    /// A statement of that shape.
    pub sql: Bytes,
}

/// All of a transaction's.
#[derive(Debug, Default)]
pub struct Proofs {
    kept: Vec<Proof>,
    /// Oldest version that one rests on which is not kept.
    rest: Option<u64>,
}

/// Whether the proofs hold under today's catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// All of them.
    All,
    /// It is known when the catalogue has been read.
    Unknown,
    /// One of them does not: a table has changed.
    NotAll,
}

impl Proofs {
    /// A write of this shape has been done.
    pub fn add(&mut self, proof: Proof) {
        if self.kept.iter().any(|p| Arc::ptr_eq(&p.verdict, &proof.verdict)) {
            return;
        }
        if self.kept.len() < KEPT_MAX {
            return self.kept.push(proof);
        }
        let version = proof.verdict.version();
        self.rest = Some(self.rest.map_or(version, |rest| rest.min(version)));
    }

    /// None of them is older than this version.
    fn are_of(&self, version: u64) -> bool {
        self.rest.is_none_or(|rest| rest >= version) && self.kept.iter().all(|p| p.verdict.version() >= version)
    }
}

impl Session {
    /// Whether what the commit rests on is so still. Asks for the catalogue if it has moved.
    pub(super) fn proofs_hold(&mut self, cx: &mut Cx<'_>) -> Hold {
        let current = self.version.current();
        // An image rests on nothing that was proved: it is what main has done.
        if self.commit.as_ref().is_none_or(|c| c.image || c.proofs.are_of(current)) {
            return Hold::All;
        }
        if !self.has_catalogue(cx) {
            return Hold::Unknown;
        }
        let mut proofs = match &mut self.commit {
            Some(c) => std::mem::take(&mut c.proofs),
            None => return Hold::All,
        };
        let rest = proofs.rest.is_none_or(|rest| rest >= current);
        let mut holds = |p: &mut Proof| {
            if p.verdict.version() >= current {
                return true;
            }
            let now = self.judge(&p.sql, cx);
            let same = now.version() >= current && now.form() == p.verdict.form();
            p.verdict = now;
            same
        };
        let all = rest && proofs.kept.iter_mut().all(&mut holds);
        self.commit.iter_mut().for_each(|c| c.proofs = std::mem::take(&mut proofs));
        if all { Hold::All } else { Hold::NotAll }
    }
}

/// A table is not what it was when a write of it was judged.
pub(super) fn table_changed() -> PgError {
    PgError::error("40001", "could not commit: a table was changed while the transaction wrote to it")
        .hint("Run the transaction again.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::proof::Catalogue;

    fn proof(version: u64) -> Proof {
        let mut catalogue = Catalogue::default();
        catalogue.version = version;
        Proof { verdict: Verdict::of("DELETE FROM t WHERE id = 1", true, &catalogue), sql: Bytes::from_static(b"") }
    }

    #[test]
    fn one_proof_is_kept_for_each_shape_and_of_the_others_the_oldest_version() {
        let mut proofs = Proofs::default();
        assert!(proofs.are_of(9));
        let one = proof(5);
        proofs.add(one.clone());
        proofs.add(one);
        assert_eq!(proofs.kept.len(), 1);
        assert!(proofs.are_of(5) && !proofs.are_of(6));
        (1..KEPT_MAX).for_each(|_| proofs.add(proof(7)));
        assert!(proofs.rest.is_none());
        proofs.add(proof(6));
        proofs.add(proof(4));
        proofs.add(proof(8));
        assert_eq!((proofs.kept.len(), proofs.rest), (KEPT_MAX, Some(4)));
        assert!(proofs.are_of(4) && !proofs.are_of(5));
    }
}
