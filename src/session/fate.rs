//! Main was sent COMMIT and did not answer: what became of it, and what follows.

use super::Session;
use super::commit::Phase;
use super::io::{Cx, Fate, Question};
use crate::cluster::control::Standing;
use crate::sim::planted::{Planted, is};
use crate::wire::PgError;

/// How often a transaction's fate is asked for again while main stands.
pub(super) const FATE_RETRIES: u32 = 3;

impl Session {
    /// The lane broke while a commit that outlives it was under way.
    pub(super) fn main_lost(&mut self, lane: &super::link::Link, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        if matches!(commit.phase, Phase::Main | Phase::Prepare) {
            commit.pid = lane.pid;
            self.ask_main(cx);
        }
    }

    /// What became of the transaction is known once its backend is gone.
    fn ask_main(&mut self, cx: &mut Cx<'_>) {
        let node = cx.env.membership.load().main;
        let Some(commit) = &mut self.commit else { return };
        let token = cx.io.ask(Question::BackendGone { node, pid: commit.pid });
        commit.phase = Phase::MainGoing { token };
    }

    /// The lane's old backend is seen gone, or not: what became of the transaction?
    pub(super) fn main_gone(&mut self, gone: bool, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let database = self.database.to_string();
        let question = match (&commit.gid, gone) {
            // What main has judged is finished; what it was not heard to judge is not (hazard 70).
            (Some(gid), true) => Question::Prepared { database, gid: gid.clone(), commit: !commit.unjudged },
            (None, true) => Question::Fate { node: cx.env.membership.load().main, database, xid: commit.xid },
            (_, false) => return self.main_fate(Fate::Unknown, cx),
        };
        let token = cx.io.ask(question);
        commit.phase = Phase::MainFate { token };
    }

    pub(super) fn main_fate(&mut self, fate: Fate, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let main = cx.env.membership.load().main;
        match fate {
            // Nothing is prepared: PREPARE was not done, or COMMIT PREPARED was.
            Fate::Nothing if !commit.unjudged => self.main_fate(Fate::Committed, cx),
            Fate::Aborted | Fate::Nothing => self.main_aborted("57P01", cx),
            Fate::Committed => {
                if let Some(csn) = commit.csn {
                    cx.env.sequencer.acknowledge(main, csn);
                }
                commit.main_has = true;
                self.survivors_commit(cx);
            }
            Fate::Unknown => {
                let token = cx.io.ask(Question::Stands { node: main });
                commit.phase = Phase::MainAsked { token };
            }
        }
    }

    /// The transaction's fate could not be had; main was probed.
    pub(super) fn main_stands(&mut self, standing: &Standing, cx: &mut Cx<'_>) {
        let main = cx.env.membership.load().main;
        let Some(commit) = &mut self.commit else { return };
        match standing {
            Standing::Stands if commit.asked < FATE_RETRIES => {
                commit.asked += 1;
                self.ask_main(cx);
            }
            Standing::Stands => {
                let reason = "what became of a transaction could not be found out".to_owned();
                let token = cx.io.ask(Question::Detach { node: main, reason });
                commit.phase = Phase::MainLeaving { token };
            }
            Standing::Stays(_) => self.main_unknown(cx),
            // The shard has confirmed that before this answer came.
            Standing::Out => {}
        }
    }

    /// Nobody can say what main has done, and no other node can take its place.
    pub(super) fn main_unknown(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        if let Some(csn) = commit.csn {
            cx.env.sequencer.acknowledge(cx.env.membership.load().main, csn);
        }
        commit.unknown = true;
        // What it has prepared, and stays prepared behind a crash, would hold its locks for ever.
        if let Some(gid) = commit.gid.clone() {
            let (pid, judged) = (if self.lane.is_none() { commit.pid } else { 0 }, !commit.unjudged);
            self.resolve(gid, pid, judged, cx);
        }
        self.survivors_commit(cx);
    }

    fn main_aborted(&mut self, state: &'static str, cx: &mut Cx<'_>) {
        if let Some(csn) = self.commit.as_mut().and_then(|c| c.csn.take()) {
            cx.env.sequencer.abort(csn);
        }
        let e = PgError::error(state, "main was lost, or the connection to it, before the transaction could commit");
        self.refuse_commit(e.encode(), cx);
    }

    /// Main has committed, or counts as if it had: the replicas do.
    fn survivors_commit(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        commit.phase = Phase::Replicas;
        if commit.ddl {
            self.version.raise();
        }
        self.commit_on_replicas(cx);
    }

    /// All shards have confirmed that main is lost: what had been sent to it is finished, but for what it had not
    /// judged.
    pub(super) fn promoted(&mut self, cx: &mut Cx<'_>) {
        match &self.commit {
            Some(c) if c.phase != Phase::Promoting => {}
            Some(c) if c.unjudged || is(Planted::ForgetSent) => self.main_aborted("40001", cx),
            Some(_) => self.survivors_commit(cx),
            None => {}
        }
    }
}
