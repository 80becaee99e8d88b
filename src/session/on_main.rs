//! COMMIT on main: when it may be sent, what is sent, and what main answers. (What follows if main does not: [`super::fate`].)

use bytes::{Bytes, BytesMut};

use super::Session;
use super::commit::Phase;
use super::image::Prepared;
use super::io::{Cx, Question};
use super::owed::{Asked, Own, Whose};
use super::proofs::{Hold, table_changed};
use super::replica::{Replica, Step};
use super::transaction::{Open, Target};
use super::window::Gate;
use crate::sim::planted::{Planted, is};
use crate::telemetry::Phase as Measured;
use crate::wire::{PgError, front};

impl Session {
    pub(super) fn own_statement(&mut self, statement: (&'static str, &'static str), own: Own, cx: &mut Cx<'_>) {
        self.send_own(Target::Lane, statement, own, cx);
        self.sync_own(Target::Lane, own, cx);
    }

    /// Name for PREPARE TRANSACTION, if this one is to be prepared: SERIALIZABLE, and nothing stands against it (what
    /// PrepareTransaction in xact.c and PreCommit_Notify refuse; an opaque statement may have done such a thing).
    pub(super) fn two_phase_name(&self, open: &Open, writes: bool, image: bool, cx: &Cx<'_>) -> Option<String> {
        let serializable = open.info.as_ref().is_some_and(|i| i.isolation == "serializable");
        let possible = serializable && !open.opaque && !open.unpreparable && !self.temporary && cx.env.can_prepare;
        if !writes || !(image || possible) {
            return None;
        }
        let cluster = &cx.env.config.cluster.name;
        Some(format!("pglockstep:{cluster}:{}:{}", cx.env.membership.epoch(), open.xid()?))
    }

    pub(super) fn commit_on_main(&mut self, cx: &mut Cx<'_>) {
        let membership = cx.env.membership.load();
        let Some(commit) = &mut self.commit else { return };
        if cx.env.sequencer.watermark(membership.main) < commit.need && !is(Planted::CommitWithoutNeed) {
            return cx.io.watch_commits();
        }
        match self.proofs_hold(cx) {
            Hold::All => {}
            Hold::Unknown => return,
            Hold::NotAll => return self.refuse_commit(table_changed().encode(), cx),
        }
        let Some(commit) = &mut self.commit else { return };
        if !commit.is_in_gate(cx) {
            return cx.io.watch_commits();
        }
        if commit.ddl {
            self.version.raise();
        }
        // A full window opens again when others are acknowledged; this session is told then.
        let Ok(csn) = cx.env.sequencer.open_commit() else { return cx.io.watch_commits() };
        commit.csn = Some(csn);
        commit.phase_started = cx.io.now();
        // Nodes that are not in this commit have nothing to acknowledge.
        for node in membership.nodes() {
            let applied = |r: &Replica| r.node == node && matches!(r.step, Step::Applied);
            if node != membership.main && !self.replicas.iter().any(applied) {
                cx.env.sequencer.acknowledge(node, csn);
            }
        }
        if let (Some(gid), Prepared::Done) = (&commit.gid, commit.prepared) {
            let sql = format!("COMMIT PREPARED {}", crate::wire::literal(gid));
            commit.prepared = Prepared::No;
            commit.phase = Phase::Main;
            return self.own_text(&sql, cx);
        }
        if let Some(gid) = &commit.gid {
            let sql = format!("PREPARE TRANSACTION {}", crate::wire::literal(gid));
            commit.phase = Phase::Prepare;
            return self.own_text(&sql, cx);
        }
        commit.phase = Phase::Main;
        self.own_statement(("_pgls_c", "COMMIT"), Own::Commit, cx);
    }

    /// One of the commit's own statements whose text is not always the same.
    pub(super) fn own_text(&mut self, sql: &str, cx: &mut Cx<'_>) {
        let mut out = BytesMut::new();
        front::query(&mut out, sql.as_bytes());
        if let Some(lane) = &mut self.lane {
            lane.unnamed = None;
        }
        self.forward(Target::Lane, out.freeze(), Asked::Query, Whose::Own(Own::Commit), cx);
    }

    /// Main has answered COMMIT (or PREPARE TRANSACTION): with an error, or with a tag.
    pub(super) fn main_committed(&mut self, error: Option<Bytes>, tag: &str, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let wanted = match (commit.phase, &commit.gid) {
            (Phase::Prepare | Phase::ImagePrepare, _) => "PREPARE TRANSACTION",
            (_, Some(_)) => "COMMIT PREPARED",
            (_, None) => "COMMIT",
        };
        let refused = match error {
            Some(raw) => Some(raw),
            // COMMIT of a failed transaction answers ROLLBACK; the session sends none for those.
            None if tag != wanted => {
                Some(PgError::error("40001", format!("main answered {wanted} with {tag}")).encode())
            }
            None => None,
        };
        match (refused, commit.phase, &commit.gid) {
            (Some(_), Phase::Main, Some(gid)) => {
                // Prepared and not committed: it can still be, and must be.
                let q = Question::Prepared { database: self.database.to_string(), gid: gid.clone(), commit: true };
                let token = cx.io.ask(q);
                commit.phase = Phase::MainFate { token };
            }
            (Some(raw), Phase::ImagePrepare, _) => self.image_refused(raw, cx),
            (None, Phase::ImagePrepare, _) => self.image_prepared(cx),
            (Some(raw), ..) => {
                if let Some(csn) = commit.csn.take() {
                    cx.env.sequencer.abort(csn);
                }
                self.refuse_commit(raw, cx);
            }
            (None, Phase::Prepare, Some(gid)) => {
                let sql = format!("COMMIT PREPARED {}", crate::wire::literal(gid));
                commit.phase = Phase::Main;
                commit.unjudged = false;
                self.own_text(&sql, cx);
            }
            (None, ..) => {
                if let Some(csn) = commit.csn {
                    cx.env.sequencer.acknowledge(cx.env.membership.load().main, csn);
                }
                commit.main_has = true;
                commit.phase = Phase::Replicas;
                if let Gate::Inside(pass, _) = &mut commit.gate {
                    pass.main_has_answered();
                }
                if is(Planted::WindowTooLate) {
                    commit.is_in_gate(cx);
                } else if is(Planted::WindowTooEarly) {
                    commit.gate = Gate::Outside;
                }
                if commit.ddl {
                    // Once more: what was read since the first time may be the old catalogue under the new version.
                    self.version.raise();
                }
                self.measure(Measured::Main, cx);
                let late = is(Planted::ApplyAfterMain) || is(Planted::ImageAfterMain);
                if late && self.replicas.is_empty() {
                    self.take_over_early(cx);
                }
                self.commit_on_replicas(cx);
            }
        }
    }
}
