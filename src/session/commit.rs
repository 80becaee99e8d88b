//! COMMIT: apply everywhere, commit on main, commit on the replicas, then tell the client (design, sections 1.3, 1.4).
//!
//! One [`Commit`] exists while a session's transaction is being committed. Its rules, each with what breaks without it:
//!
//! - The script is applied on every replica before main commits: main's locks are held while replicas take theirs.
//! - A difference proves nothing if, when the script was *sent*, the replica had not acknowledged every commit up to
//!   `need`: roll back, wait for exactly those, apply once more (hazard 56).
//! - COMMIT goes to main when main has acknowledged all of `need`, to a replica when that replica has (hazard 77).
//! - An applier lost before COMMIT was sent to main is replaced, its backend first seen gone (hazard 35); lost after,
//!   its node is stale: its locks are free, others may have gone past, with equal counts (hazard 55).
//! - From the moment COMMIT is sent to main nothing but main's answer decides.
//! - In `snapshot_isolation` COMMIT goes to main inside the gate, which is left when every node has acknowledged it or is
//!   out: until then its window is open, and nobody looks at a replica.
//! - A transaction that goes by its image is prepared on main before anything is applied (`image`).
//! - A SERIALIZABLE transaction is prepared on main first, where that is possible: main judges it at COMMIT, and a
//!   judgement that was lost with its answer cannot be made up (hazard 70).

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::image::Prepared;
use super::io::{Answer, Cx, Question};
use super::owed::Own;
use super::proofs::Proofs;
use super::replica::{Replica, Step};
use super::transaction::Open;
use super::window::Gate;
use crate::config::OnDivergence;
use crate::script::{Entry, Script};
use crate::sequencer::{Csn, Footprint};
use crate::shard::driver::Time;
use crate::sim::planted::{Planted, is};
use crate::sql::cache::Verdict;
use crate::telemetry::{Phase as Measured, StatementClass};
use crate::wire::PgError;

/// What the client is told when the transaction is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// COMMIT stood in a simple query.
    SimpleCommit { chain: bool },
    /// The implicit transaction of a simple query ends.
    SimpleEnd,
    /// COMMIT was executed by the extended protocol.
    ExecuteCommit { chain: bool },
    /// The implicit transaction of an extended batch ends at its Sync.
    SyncEnd,
}

/// What the replicas are to do.
#[derive(Debug)]
pub enum Work {
    /// Apply the script, later COMMIT.
    Script(Script),
    /// Run a statement that must not stand in a transaction block; main has done it (design, section 1.7).
    Statement(Bytes),
}

/// How far the commit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// SET CONSTRAINTS ALL IMMEDIATE on main.
    Constraints,
    /// Main is asked whether it can prepare a transaction that should go by its image.
    Preparable { yes: bool },
    /// Main prepares a transaction that goes by its image.
    ImagePrepare,
    /// Its rows have been asked for.
    ImageRows { token: u64 },
    /// The replicas apply.
    Apply,
    /// Main must acknowledge what this commit may rest on.
    Need,
    /// PREPARE TRANSACTION is under way on main.
    Prepare,
    /// COMMIT is under way on main.
    Main,
    /// Main did not answer; its backend must be seen gone.
    MainGoing { token: u64 },
    /// Main did not answer; its transaction's fate has been asked for.
    MainFate { token: u64 },
    /// Nobody can say what became of it; it has been asked whether main stands.
    MainAsked { token: u64 },
    /// Main stands and still nobody can say; it is being taken out.
    MainLeaving { token: u64 },
    /// Main is lost. What follows happens when all shards have confirmed that.
    Promoting,
    /// Replicas commit.
    Replicas,
}

/// A commit in progress.
#[derive(Debug)]
pub struct Commit {
    after: After,
    pub(super) work: Work,
    /// Newest commit that had been sent to main before main's last answer to this transaction.
    pub(super) need: u64,
    pub(super) xid: u64,
    pub(super) ddl: bool,
    /// It changes what logins are like.
    logins: bool,
    pub(super) constraints: bool,
    pub(super) csn: Option<Csn>,
    pub(super) phase: Phase,
    /// Main prepares it first, under this name.
    pub(super) gid: Option<String>,
    /// That has not been answered yet: main has not judged the transaction (hazard 70).
    pub(super) unjudged: bool,
    /// It goes by its image, and replicas apply it as `apply_user`; main has prepared it.
    pub(super) image: bool,
    /// The shapes of statements that need it.
    pub(super) imaged: Vec<Arc<Verdict>>,
    /// Its script has a query in it that main was not asked to run to its end: only an image tells what came of that.
    pub(super) half_done: bool,
    pub(super) prepared: Prepared,
    /// The lane's backend.
    pub(super) pid: u32,
    /// How often its fate could not be had.
    pub(super) asked: u32,
    /// Main has committed, and has not been lost since.
    pub(super) main_has: bool,
    started: Time,
    pub(super) phase_started: Time,
    /// The client is told that nobody knows (main vanished for good after COMMIT was sent).
    pub(super) unknown: bool,
    lasting: Vec<Entry>,
    /// What its writes rest on.
    pub(super) proofs: Proofs,
    /// The rows that they write.
    pub(super) footprint: Footprint,
    /// From before COMMIT is sent to main until every node has acknowledged it or is out (`snapshot_isolation`).
    pub(super) gate: Gate,
}

impl Commit {
    fn new(after: After, work: Work, phase: Phase, now: Time) -> Commit {
        Commit {
            after,
            work,
            need: 0,
            xid: 0,
            ddl: false,
            logins: false,
            constraints: false,
            csn: None,
            phase,
            gid: None,
            unjudged: false,
            image: false,
            imaged: Vec::new(),
            half_done: false,
            prepared: Prepared::No,
            pid: 0,
            asked: 0,
            main_has: false,
            started: now,
            phase_started: now,
            unknown: false,
            lasting: Vec::new(),
            proofs: Proofs::default(),
            footprint: Footprint::all(),
            gate: Gate::Outside,
        }
    }

    /// Main is at work on SET CONSTRAINTS, or prepares an image's transaction or says whether it can.
    #[must_use]
    pub fn checks_constraints(&self) -> bool {
        matches!(self.phase, Phase::Constraints | Phase::Preparable { .. } | Phase::ImagePrepare)
    }

    /// One line for the log.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{:?} need {} csn {:?} xid {}", self.phase, self.need, self.csn.map(Csn::get), self.xid)
    }

    /// What replicas apply.
    #[must_use]
    pub fn script(&self) -> Option<&Script> {
        match &self.work {
            Work::Script(s) => Some(s),
            Work::Statement(_) => None,
        }
    }

    /// COMMIT has been sent to main and nothing is known of its end yet, or main has committed.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Constraints
                | Phase::Preparable { .. }
                | Phase::ImagePrepare
                | Phase::ImageRows { .. }
                | Phase::Apply
                | Phase::Need
        )
    }

    /// What the client is told in the end.
    pub(super) fn after(&self) -> After {
        self.after
    }

    /// It does not end with its lane: COMMIT has been sent to main, and the replicas have applied.
    pub(super) fn outlives_main(&self) -> bool {
        self.is_decided() && (self.csn.is_some() || self.phase == Phase::Replicas)
    }

    /// Main is lost. True: the survivors finish this commit, or roll it back, when all shards have confirmed.
    pub(super) fn lose_main(&mut self) -> bool {
        if !self.outlives_main() {
            return false;
        }
        self.main_has = false;
        if self.phase != Phase::Replicas {
            self.phase = Phase::Promoting;
        }
        true
    }

    /// A replica has lost what it had applied: COMMIT waits until it has applied again, even if only main was awaited.
    pub(super) fn apply_again(&mut self) {
        if self.phase == Phase::Need {
            self.phase = Phase::Apply;
            // Nobody waits for an apply in the gate.
            self.gate = Gate::Outside;
        }
    }

    /// The script leaves settings in force that nobody has noted.
    #[must_use]
    pub fn changes_settings(&self) -> bool {
        !self.lasting.is_empty()
    }

    /// The statement of an entry, for messages.
    fn statement(&self, index: Option<usize>) -> String {
        let found = self.script().zip(index).and_then(|(s, i)| Some((s, s.entries().get(i)?)));
        let text = found.and_then(|(s, e)| s.load(&e.statement().sql).ok());
        text.map_or_else(|| "(the proxy's own)".to_owned(), |t| String::from_utf8_lossy(&t).into_owned())
    }
}

impl Session {
    /// The transaction on the lane ends well. `open` has not failed.
    pub(super) fn start_commit(&mut self, open: Box<Open>, after: After, cx: &mut Cx<'_>) {
        let image = self.commits_by_image(&open, cx);
        if let Some(e) = self.refuses_commit(&open, image) {
            self.tx = super::transaction::Tx::Open(open);
            return self.roll_back_lane(super::AfterRollback::Commit { after, error: e.encode() }, cx);
        }
        // A pipelining client's ROLLBACK TO and COMMIT may come at once: nobody has looked in between.
        if self.sent_what_was_taken_back(&open) {
            self.drop_replicas(cx);
        }
        let writes = open.has_writes();
        let gid = self.two_phase_name(&open, writes, image, cx);
        let (need, xid, ddl, logins) = (open.need, open.xid().unwrap_or(0), open.ddl, open.logins);
        let lasting = open.lasting_settings().cloned().collect();
        // PREPARE TRANSACTION checks them, and replicas have nothing to check.
        let constraints = writes && !image && (open.deferrable || self.deferrable_constraints(cx));
        let (unpreparable, half_done) = (open.unpreparable, writes && open.is_half_done());
        let (proofs, imaged) = (open.proofs, open.imaged);
        let footprint = if image || ddl || open.opaque { Footprint::all() } else { open.footprint };
        let commit = Commit::new(after, Work::Script(open.script), Phase::Apply, cx.io.now());
        let unjudged = gid.is_some();
        let commit = Commit { need, xid, ddl, logins, constraints, lasting, proofs, gid, unjudged, image, ..commit };
        let commit = Commit { imaged, half_done, footprint, ..commit };
        let mut commit = Box::new(commit);
        if !writes {
            // Nothing for the replicas: main's own COMMIT, and no number.
            commit.phase = Phase::Main;
            self.commit = Some(commit);
            return self.own_statement(("_pgls_c", "COMMIT"), Own::Commit, cx);
        }
        self.arm_commit_timer(cx);
        if image {
            // What was sent early was sent as the client.
            self.drop_replicas(cx);
            self.commit = Some(commit);
            if !self.asks_preparable(unpreparable, cx) {
                self.prepare_image(cx);
            }
            return;
        }
        self.commit = Some(commit);
        if constraints {
            return self.check_constraints(cx);
        }
        self.start_apply(cx);
    }

    /// What is deferred is seen to on main before replicas hear of anything.
    pub(super) fn check_constraints(&mut self, cx: &mut Cx<'_>) {
        self.commit.iter_mut().for_each(|c| c.phase = Phase::Constraints);
        self.own_statement(("_pgls_d", "SET CONSTRAINTS ALL IMMEDIATE"), Own::Constraints, cx);
    }

    /// Why main must not even be asked to commit.
    fn refuses_commit(&self, open: &Open, image: bool) -> Option<PgError> {
        if self.cancels > 0 {
            // The client's cancel came late; it must not hit COMMIT, which nothing may undo (hazard 63).
            return Some(PgError::error("57014", "canceling statement due to user request"));
        }
        if image {
            // What main has done is what the others get, however far it was fetched.
            return Self::refuses_image(open);
        }
        let half_done = open.has_writes() && open.is_half_done();
        half_done.then(self::half_done)
    }

    /// Main has done a statement that must not stand in a transaction block; now the replicas.
    pub(super) fn start_everywhere(&mut self, sql: Bytes, after: After, cx: &mut Cx<'_>) {
        let commit = Commit::new(after, Work::Statement(sql), Phase::Replicas, cx.io.now());
        self.commit = Some(Box::new(Commit { ddl: true, main_has: true, ..commit }));
        self.version.raise();
        self.start_apply(cx);
    }

    /// SET CONSTRAINTS ALL IMMEDIATE has been answered on main.
    pub(super) fn constraints_checked(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        match error {
            Some(raw) => self.refuse_commit(raw, cx),
            None => self.start_apply(cx),
        }
    }

    pub(super) fn start_apply(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        if commit.phase == Phase::Constraints {
            commit.phase = Phase::Apply;
        }
        let late = is(Planted::ApplyAfterMain) || (commit.image && is(Planted::ImageAfterMain));
        if late && matches!(commit.work, Work::Script(_)) {
            commit.phase = Phase::Need;
            self.drop_replicas(cx);
            return self.commit_on_main(cx);
        }
        self.take_over_early(cx);
        self.advance_commit(cx);
    }

    /// The control plane has answered a question of the commit.
    pub(super) fn commit_answer(&mut self, token: u64, answer: &Answer, cx: &mut Cx<'_>) {
        if let Answer::Blocks(blocks) = answer {
            return self.blocks(token, *blocks, cx);
        }
        if let Answer::Probe(probe) = answer {
            return self.probed(token, probe, cx);
        }
        let Some(commit) = &mut self.commit else { return };
        match (commit.phase, answer) {
            (Phase::MainGoing { token: t }, Answer::Gone(gone)) if t == token => {
                return self.main_gone(*gone, cx);
            }
            (Phase::ImageRows { token: t }, Answer::Image(result)) if t == token => {
                return self.image_answered(result, cx);
            }
            (Phase::MainFate { token: t }, Answer::Fate(fate)) if t == token => return self.main_fate(*fate, cx),
            (Phase::MainAsked { token: t }, Answer::Stands(standing)) if t == token => {
                return self.main_stands(standing, cx);
            }
            (Phase::MainLeaving { token: t }, Answer::Detached(Err(why))) if t == token => {
                tracing::error!(why, "nobody knows whether main has committed, and it cannot be taken out");
                return self.main_unknown(cx);
            }
            _ => {}
        }
        let mine = |r: &Replica| matches!(r.step, Step::Going { token: t } | Step::Leaving { token: t } if t == token);
        let Some(i) = self.replicas.iter().position(mine) else { return };
        match answer {
            Answer::Gone(true) => self.open_applier(i, cx),
            Answer::Gone(false) => self.detach_replica(i, "a lost backend could not be seen gone".into(), cx),
            Answer::Detached(Ok(())) => self.replicas[i].step = Step::Out,
            Answer::Detached(Err(why)) if commit.is_decided() => {
                // Main has committed and nothing can undo that; the node stays listed, and a comparison will find it.
                let r = &mut self.replicas[i];
                tracing::error!(node = %r.node, why, "a node that lacks a commit could not be detached");
                r.step = Step::Out;
                // Nothing more will be heard of it: who waits for this node's watermark must not wait for ever.
                commit.csn.iter().for_each(|csn| cx.env.sequencer.acknowledge(r.node, *csn));
            }
            Answer::Detached(Err(why)) => {
                let e = PgError::error("40001", "could not commit: a node differs and cannot be given up")
                    .detail(why.clone());
                return self.refuse_commit(e.encode(), cx);
            }
            _ => return,
        }
        self.advance_commit(cx);
    }

    /// The membership has changed: replicas that are no longer up are out.
    pub(super) fn commit_membership(&mut self, cx: &mut Cx<'_>) {
        let membership = cx.env.membership.load();
        let early = self.commit.is_none();
        for r in &mut self.replicas {
            if !membership.is_up(r.node) && !matches!(r.step, Step::Done) {
                if let Some(a) = r.applier.take() {
                    cx.io.abort(a.link.conn);
                }
                r.step = if early { Step::Later } else { Step::Out };
            }
        }
        self.advance_commit(cx);
    }

    /// Watermarks have moved, or something has been answered: whatever can go on goes on.
    pub(super) fn advance_commit(&mut self, cx: &mut Cx<'_>) {
        self.retry_owed(cx);
        let Some(commit) = &mut self.commit else { return };
        match commit.phase {
            Phase::Apply => {
                let settled = |r: &Replica| matches!(r.step, Step::Applied | Step::Differs(_) | Step::Out);
                if !self.replicas.iter().all(settled) {
                    return;
                }
                if self.replicas.iter().any(|r| matches!(r.step, Step::Differs(_))) {
                    return self.judge_differences(cx);
                }
                commit.phase = Phase::Need;
                self.measure(Measured::Apply, cx);
                self.commit_on_main(cx);
            }
            Phase::Need => self.commit_on_main(cx),
            Phase::Replicas => self.commit_on_replicas(cx),
            Phase::Constraints
            | Phase::Preparable { .. }
            | Phase::ImagePrepare
            | Phase::ImageRows { .. }
            | Phase::Prepare
            | Phase::Main
            | Phase::MainGoing { .. }
            | Phase::MainFate { .. }
            | Phase::MainAsked { .. }
            | Phase::MainLeaving { .. }
            | Phase::Promoting => {}
        }
    }

    /// `on_divergence`.
    fn judge_differences(&mut self, cx: &mut Cx<'_>) {
        cx.env.recorder.borrow_mut().counters.divergences += 1;
        let Some(commit) = &self.commit else { return };
        let up = 1 + self.replicas.iter().filter(|r| !matches!(r.step, Step::Out)).count();
        let mut odd = Vec::new();
        for (i, r) in self.replicas.iter().enumerate() {
            if let Step::Differs(d) = &r.step {
                let told = format!("node {}: {d}; statement: {}", r.node, commit.statement(d.index()));
                odd.push((i, d.is_node_trouble(), told));
            }
        }
        let agree = up - odd.len();
        let go_on = odd.iter().all(|(_, trouble, _)| *trouble)
            || match cx.env.config.replication.on_divergence {
                OnDivergence::Main => true,
                OnDivergence::Vote => agree * 2 > up,
                OnDivergence::Refuse => false,
            };
        if go_on {
            for (i, _, why) in odd {
                self.detach_replica(i, format!("it diverged from main: {why}"), cx);
            }
            return;
        }
        let told: Vec<String> = odd.into_iter().map(|(_, _, told)| told).collect();
        let e = PgError::error("40001", "could not commit: the transaction has another effect on another node")
            .detail(told.join("\n"))
            .hint("Nothing was changed on any node. Compare the nodes' rows before you try again.");
        tracing::error!(detail = e.detail.as_deref().unwrap_or(""), "transaction refused");
        self.refuse_commit(e.encode(), cx);
    }

    pub(super) fn commit_on_replicas(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        for r in &mut self.replicas {
            if !matches!(r.step, Step::Applied) {
                continue;
            }
            if cx.env.sequencer.watermark(r.node) < commit.need && !is(Planted::CommitWithoutNeed) {
                cx.io.watch_commits();
            } else {
                r.step = Step::Committing;
                r.sent = cx.io.now();
                if let Some(a) = &mut r.applier {
                    a.commit(cx.io);
                }
            }
        }
        if is(Planted::WindowToFirst) && self.replicas.iter().any(|r| matches!(r.step, Step::Done)) {
            commit.gate = Gate::Outside;
        }
        if is(Planted::AnswerEarly) {
            for r in self.replicas.iter_mut().filter(|r| matches!(r.step, Step::Committing)) {
                r.applier.take().iter().for_each(|a| cx.io.close(a.link.conn));
                commit.csn.iter().for_each(|csn| cx.env.sequencer.acknowledge(r.node, *csn));
                r.step = Step::Done;
            }
        }
        // While a membership is held, some shard may still read from a node that lacks this commit (hazard 40).
        let held = cx.env.membership.is_held() && !is(Planted::AckBeforeAll);
        if !held && self.replicas.iter().all(|r| matches!(r.step, Step::Done | Step::Out)) {
            self.finish_commit(cx);
        }
    }

    /// Nothing happens on any node; the client gets this error.
    pub(super) fn refuse_commit(&mut self, error: Bytes, cx: &mut Cx<'_>) {
        let Some(after) = self.commit.as_ref().map(|c| c.after) else { return };
        // A failed PREPARE TRANSACTION may have ended the transaction, or never been reached.
        let open = self.lane.as_ref().is_some_and(|l| !l.is_idle());
        let at_main = self.commit.as_ref().is_some_and(|c| match c.phase {
            Phase::ImagePrepare => open,
            Phase::Constraints | Phase::Preparable { .. } | Phase::Apply | Phase::Need => true,
            _ => false,
        });
        let prepared = self.commit.as_mut().and_then(|c| {
            let done = std::mem::take(&mut c.prepared) == Prepared::Done;
            c.gid.clone().filter(|_| done)
        });
        self.drop_commit(cx);
        if let Some(gid) = prepared {
            // Without a lane (it was lost a moment ago) the control plane does it.
            if self.lane.is_none() {
                self.undo(gid, 0, cx);
                return self.commit_failed(after, error, cx);
            }
            return self.roll_back_prepared(&gid, super::AfterRollback::Commit { after, error }, cx);
        }
        if at_main && self.lane.is_some() {
            // The lane's transaction is still open: COMMIT was never sent.
            self.roll_back_lane(super::AfterRollback::Commit { after, error }, cx);
        } else {
            self.commit_failed(after, error, cx);
        }
    }

    /// Ends a commit that will not happen: what replicas have applied goes at once.
    pub(super) fn drop_commit(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = self.commit.take() else { return };
        if let Some(csn) = commit.csn {
            cx.env.sequencer.abort(csn);
        }
        if let Some(gid) = commit.gid.filter(|_| commit.prepared != Prepared::No) {
            // Its backend has let go of what is prepared; of what may yet be it has not.
            self.undo(gid, if commit.prepared == Prepared::Done { 0 } else { commit.pid }, cx);
        }
        self.drop_replicas(cx);
    }

    fn finish_commit(&mut self, cx: &mut Cx<'_>) {
        self.measure(Measured::Commit, cx);
        let Some(mut commit) = self.commit.take() else { return };
        // Main was lost, and then the appliers of all that stayed, or those that had it: no node that is up has it.
        let membership = cx.env.membership.load();
        let has = |r: &Replica| matches!(r.step, Step::Done) && membership.is_up(r.node);
        commit.unknown |= !commit.main_has && !self.replicas.iter().any(has);
        self.replicas.clear();
        commit.leave_gate(cx);
        let total = cx.io.now().since(commit.started);
        let mut recorder = cx.env.recorder.borrow_mut();
        recorder.record(StatementClass::Commit, Measured::Total, total);
        if let Some(csn) = commit.csn {
            recorder.counters.commits += 1;
            self.last_commit = csn.get();
        }
        drop(recorder);
        if commit.logins {
            // Of all databases.
            cx.io.ask(Question::Forget { databases: vec![String::new()] });
        }
        for entry in &commit.lasting {
            if let Entry::Setting(s) = entry {
                self.remember_setting(Bytes::copy_from_slice(s.sql.memory()));
            }
        }
        if commit.unknown {
            let e =
                PgError::error("08007", "main was lost while the transaction was committing; its outcome is unknown");
            return self.commit_failed(commit.after, e.encode(), cx);
        }
        self.commit_done(commit.after, cx);
    }

    pub(super) fn measure(&mut self, phase: Measured, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        if let Some(commit) = &mut self.commit {
            let took = now.since(commit.phase_started);
            commit.phase_started = now;
            cx.env.recorder.borrow_mut().record(StatementClass::Commit, phase, took);
        }
    }
}

/// A query that may write was not fetched to its end, and replicas would run it to that.
pub(super) fn half_done() -> PgError {
    PgError::error("0A000", "could not commit: a query that may write was not fetched to its end")
        .detail("It has done on main what its rows so far took; the other nodes would run it to its end.")
        .hint("Fetch all of its rows, or declare its functions STABLE if they only read.")
}
