//! Transactions that should go by their image and cannot: where `unsafe_statements` allows it, replicas get their text.
//!
//! Main refuses to prepare what has executed NOTIFY, touched temporary tables or opened a cursor WITH HOLD
//! (PrepareTransaction in xact.c, AtPrepare_Notify in async.c, PreCommit_Portals in portalmem.c), and ends the
//! transaction when it is asked to: so it has to be known before. Other things show only in what was prepared: rows of
//! tables without a key, unlogged tables, large objects.
//!
//! | known | by what | then |
//! |---|---|---|
//! | while it runs | a NOTIFY or a large object in its own statements; a shape that main has refused before; no slot | its script, as if nothing needed an image |
//! | at COMMIT | [`PREPARABLE`], asked where the session has temporary tables or a cursor WITH HOLD | the same |
//! | when main is told to prepare it | main's refusal | 40001, once for each shape of statement: the next time it is known |
//! | when its rows have come | [`crate::image::Refusal::Unsupported`] | replicas apply its script, and main commits what it has prepared |

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::commit::{Commit, Phase, half_done};
use super::image::{Prepared, cannot_prepare, warning};
use super::io::Cx;
use super::note::PendingWrite;
use super::owed::Own;
use super::transaction::{Open, Target};
use crate::config::UnsafeStatements;
use crate::wire::error::ErrorFields;
use crate::wire::{PgError, front};

/// Shapes of statements that a transaction remembers to have needed an image.
const IMAGED_MAX: usize = 8;

/// Whether main would prepare the transaction, temporary tables and cursors considered. Operators are named in full: the
/// client may have others of these names.
pub const PREPARABLE: &str = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_locks l, pg_catalog.pg_class c \
    WHERE c.oid OPERATOR(pg_catalog.=) l.relation AND c.relpersistence OPERATOR(pg_catalog.=) 't' \
    AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable \
    AND creation_time OPERATOR(pg_catalog.>=) pg_catalog.now())";

impl Session {
    /// A statement that needs an image is sent.
    pub(super) fn mark_image(&mut self, write: &PendingWrite) {
        let ready = self.wanted.is_ready();
        let Some(open) = self.tx.open_mut() else { return };
        open.large_objects |= write.large_objects;
        let Some(verdict) = &write.image else { return };
        open.image = true;
        open.imageless |= !ready || verdict.is_unpreparable();
        if open.imaged.len() < IMAGED_MAX && !open.imaged.iter().any(|v| Arc::ptr_eq(v, verdict)) {
            open.imaged.push(verdict.clone());
        }
    }

    /// The transaction is to be committed by its image.
    pub(super) fn commits_by_image(&self, open: &Open, cx: &Cx<'_>) -> bool {
        let possible = must_image(cx) || !(open.notifies || open.large_objects || open.imageless);
        open.image && open.has_writes() && !open.ddl && possible && cx.env.slots.is_some()
    }

    /// Whether main prepares it must be asked before it is told to. False: it goes on.
    pub(super) fn asks_preparable(&mut self, unpreparable: bool, cx: &mut Cx<'_>) -> bool {
        if must_image(cx) || !(self.temporary || unpreparable) {
            return false;
        }
        let Some(commit) = &mut self.commit else { return false };
        commit.phase = Phase::Preparable { yes: false };
        let statement = ("_pgls_y", PREPARABLE);
        self.send_own_in(Target::Lane, statement, Own::Preparable, "", front::BIND_NOTHING_BINARY, cx);
        self.sync_own(Target::Lane, Own::Preparable, cx);
        true
    }

    /// Main's word.
    pub(super) fn preparable_told(&mut self, value: Option<&[u8]>) {
        if let Some(Commit { phase: Phase::Preparable { yes }, .. }) = self.commit.as_deref_mut() {
            *yes = value == Some(&[1]);
        }
    }

    /// That is complete.
    pub(super) fn preparable_answered(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        let Some(Commit { phase: Phase::Preparable { yes }, .. }) = self.commit.as_deref() else { return };
        match (error, *yes) {
            (Some(raw), _) => self.refuse_commit(raw, cx),
            (None, true) => self.prepare_image(cx),
            (None, false) => self.give_image_up("it uses temporary tables or a cursor WITH HOLD", cx),
        }
    }

    /// Main could not prepare it.
    pub(super) fn image_refused(&mut self, raw: Bytes, cx: &mut Cx<'_>) {
        if let Some(commit) = &mut self.commit {
            commit.prepared = Prepared::No;
        }
        let fields = ErrorFields::parse(raw.get(5..).unwrap_or_default());
        let error = match fields.sqlstate.as_str() {
            "0A000" if must_image(cx) => cannot_prepare(&fields.message).encode(),
            "0A000" => {
                let imaged = self.commit.iter().flat_map(|c| &c.imaged);
                imaged.for_each(|verdict| verdict.set_unpreparable());
                will_be_text(&fields.message).encode()
            }
            _ => raw,
        };
        self.refuse_commit(error, cx);
    }

    /// Its image cannot be had: replicas get its script, if `unsafe_statements` allows that.
    pub(super) fn give_image_up(&mut self, why: &str, cx: &mut Cx<'_>) {
        let constraints = self.deferrable_constraints(cx);
        let Some(commit) = &mut self.commit else { return };
        if commit.half_done {
            let error = half_done().encode();
            return self.refuse_commit(error, cx);
        }
        tracing::warn!(why, "a transaction that needs an image has none: replicas run its statements");
        if cx.env.config.replication.unsafe_statements == UnsafeStatements::Warn {
            self.out.push(warning(why).encode());
        }
        commit.image = false;
        commit.constraints = constraints;
        if commit.prepared == Prepared::No {
            commit.gid = None;
            commit.unjudged = false;
            if constraints {
                return self.check_constraints(cx);
            }
        }
        commit.phase = Phase::Apply;
        self.start_apply(cx);
    }
}

/// Nothing goes by its text that needs an image.
pub(super) fn must_image(cx: &Cx<'_>) -> bool {
    cx.env.config.replication.unsafe_statements == UnsafeStatements::Refuse
}

/// Main has refused to prepare it; the next one goes by its text.
fn will_be_text(why: &str) -> PgError {
    PgError::error("40001", "could not commit: main does not prepare the transaction")
        .detail(format!("{why}."))
        .hint("Run the transaction again: from now on these statements go to the other nodes by their text.")
}
