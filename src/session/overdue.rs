//! Commits in which a node does not answer in time: the control plane is asked why.

use super::Session;
use super::commit::{Phase, Work};
use super::io::{Cx, Probe, Question, TimerKind};
use super::replica::Step;

impl Session {
    /// One timer per session, whatever the number of its commits.
    pub(super) fn arm_commit_timer(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.commit_timer_armed, true) {
            let c = &cx.env.config.replication;
            cx.io.arm(c.replica_timeout.min(c.commit_timeout), TimerKind::Commit);
        }
    }

    /// Looks for replicas that have not answered for `replica_timeout` (`commit_timeout` for COMMIT).
    pub(super) fn commit_timer(&mut self, cx: &mut Cx<'_>) {
        self.commit_timer_armed = false;
        if self.commit.is_none() {
            return;
        }
        let now = cx.io.now();
        self.watch_main(cx);
        let (apply, commit) = {
            let c = &cx.env.config.replication;
            (c.replica_timeout, c.commit_timeout)
        };
        for r in &mut self.replicas {
            let limit = match r.step {
                Step::Applying { .. } | Step::RollingBack | Step::Settings => apply,
                Step::Committing => commit,
                _ => continue,
            };
            let silent = now.since(r.sent) >= limit && r.asked.is_none();
            if let Some(a) = r.applier.as_ref().filter(|_| silent) {
                r.asked = Some(cx.io.ask(Question::Probe { node: r.node, pid: a.link.pid }));
            }
        }
        self.arm_commit_timer(cx);
    }

    /// A COMMIT that main has not answered for `commit_timeout` starts a probe.
    fn watch_main(&mut self, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        let asked = |p: Phase| matches!(p, Phase::Main | Phase::Prepare | Phase::ImagePrepare);
        let Some(commit) = self.commit.as_ref().filter(|c| asked(c.phase)) else { return };
        if now.since(commit.phase_started) >= cx.env.config.replication.commit_timeout {
            cx.io.ask(Question::Stands { node: cx.env.membership.load().main });
        }
    }

    /// The answer to [`Question::Probe`].
    pub(super) fn probed(&mut self, token: u64, probe: &Probe, cx: &mut Cx<'_>) {
        let Some(i) = self.replicas.iter().position(|r| r.asked == Some(token)) else { return };
        let r = &mut self.replicas[i];
        r.asked = None;
        let commits = matches!(self.commit.as_ref().map(|c| &c.work), Some(Work::Script(_)));
        match probe {
            // Whoever holds the lock is watched for elsewhere.
            Probe::WaitsForLock => r.sent = cx.io.now(),
            // It is at work. A COMMIT does not take that long; an apply may.
            Probe::Works if !(commits && matches!(r.step, Step::Committing)) => r.sent = cx.io.now(),
            Probe::Works => self.detach_replica(i, "COMMIT was not answered within commit_timeout".into(), cx),
            Probe::Gone => self.applier_lost(i, "its backend is gone", cx),
            Probe::Unreachable(why) => {
                self.detach_replica(i, format!("it does not answer: {why}"), cx);
            }
        }
        self.advance_commit(cx);
    }
}
