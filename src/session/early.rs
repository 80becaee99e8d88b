//! Large transactions start early (design, section 1.5): a script beyond `early_start` is sent to the replicas while
//! its client is still at work, so that a load takes the time of one server and not of two.
//!
//! Nothing is judged here. At COMMIT the replicas that went along are sent the rest; whatever went wrong before begins
//! anew there. What was sent early goes at once
//! - when main's transaction fails, rolls back or takes back what a replica was sent: main's locks are free then, and
//!   healthy transactions would hang behind the replica's (hazards 27, 64);
//! - when it makes another backend wait on a replica: an applier of a transaction that is not committing never makes a
//!   committing one wait. Looked for every `right_of_way` (without this rule the stress stood still after 50 commits).
//!
//! After that the transaction is not started early again: it is applied at COMMIT, from memory or the spill file.

use super::io::{Cx, Question, TimerKind};
use super::replica::{Replica, Step, discard};
use super::transaction::{Open, Target, Tx};
use super::{Session, Stage};
use crate::script::entry::Room;

impl Session {
    /// After every event: starts early, goes on, or gives up.
    pub(super) fn early(&mut self, cx: &mut Cx<'_>) {
        // A session that has just ended has dropped its appliers; nobody would ever close new ones.
        if self.commit.is_some() || matches!(self.stage, Stage::Over) {
            return;
        }
        if self.replicas.is_empty() {
            if self.may_start_early(cx) {
                self.start_early(cx);
            }
            return;
        }
        let holds_on = match &self.tx {
            Tx::Open(open) => {
                !open.failed && !open.image && open.on == Target::Lane && !self.sent_what_was_taken_back(open)
            }
            Tx::Idle | Tx::Begun(_) => false,
        };
        if holds_on { self.feed_replicas(cx) } else { self.give_up_early(cx) }
    }

    fn may_start_early(&self, cx: &Cx<'_>) -> bool {
        let Tx::Open(open) = &self.tx else { return false };
        open.script.written() > cx.env.config.replication.early_start
            && open.on == Target::Lane
            && !open.failed
            && !open.early_off
            && !open.image
            && open.xid().is_some()
    }

    pub(super) fn sent_what_was_taken_back(&self, open: &Open) -> bool {
        let begun = self.replicas.iter().filter_map(|r| r.applier.as_ref()).map(|a| a.begun()).max().unwrap_or(0);
        open.script.taken_back_to().is_some_and(|n| n < begun)
    }

    fn start_early(&mut self, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        if let Tx::Open(open) = &mut self.tx {
            open.script.watch_taken_back();
        }
        self.replicas = cx.env.membership.load().replicas().map(|node| Replica::new(node, now)).collect();
        cx.env.recorder.borrow_mut().counters.early_starts += 1;
        for i in 0..self.replicas.len() {
            self.open_applier(i, cx);
        }
        self.arm_right_of_way(cx);
    }

    /// One timer at a time, however many transactions start early one after the other.
    fn arm_right_of_way(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.right_of_way_armed, true) {
            cx.io.arm(cx.env.config.replication.right_of_way, TimerKind::RightOfWay);
        }
    }

    /// The whole transaction is applied at COMMIT only.
    fn give_up_early(&mut self, cx: &mut Cx<'_>) {
        self.drop_replicas(cx);
        if let Tx::Open(open) = &mut self.tx {
            open.early_off = true;
        }
    }

    /// One replica does not go along.
    pub(super) fn drop_early(&mut self, i: usize, cx: &mut Cx<'_>) {
        let r = &mut self.replicas[i];
        if let Some(a) = r.applier.take() {
            discard(&a, cx);
        }
        r.step = Step::Later;
        r.asked = None;
    }

    /// Does an early applier make anybody wait?
    pub(super) fn right_of_way(&mut self, cx: &mut Cx<'_>) {
        self.right_of_way_armed = false;
        if !self.may_give_way() || self.replicas.is_empty() {
            return;
        }
        for r in &mut self.replicas {
            if let Some(a) = r.applier.as_ref().filter(|_| matches!(r.step, Step::Early { .. }) && r.asked.is_none()) {
                r.asked = Some(cx.io.ask(Question::Blocks { node: r.node, pid: a.link.pid }));
            }
        }
        self.arm_right_of_way(cx);
    }

    /// Main does not hold all of the transaction's locks yet: also in SET CONSTRAINTS it may wait for somebody, who would
    /// then wait for the early appliers.
    fn may_give_way(&self) -> bool {
        self.commit.as_ref().is_none_or(|c| c.checks_constraints())
    }

    /// The answer to [`Question::Blocks`].
    pub(super) fn blocks(&mut self, token: u64, blocks: bool, cx: &mut Cx<'_>) {
        let Some(i) = self.replicas.iter().position(|r| r.asked == Some(token)) else { return };
        self.replicas[i].asked = None;
        if blocks && self.may_give_way() {
            tracing::debug!(node = %self.replicas[i].node, "early start gives way");
            self.give_up_early(cx);
        }
    }

    /// At COMMIT: replicas that went along are sent the rest, the others begin.
    pub(super) fn take_over_early(&mut self, cx: &mut Cx<'_>) {
        let membership = cx.env.membership.load();
        let now = cx.io.now();
        let (stay, gone): (Vec<Replica>, Vec<Replica>) =
            std::mem::take(&mut self.replicas).into_iter().partition(|r| membership.is_up(r.node));
        for r in gone {
            r.applier.iter().for_each(|a| discard(a, cx));
        }
        self.replicas = stay;
        for node in membership.replicas() {
            if !self.replicas.iter().any(|r| r.node == node) {
                self.replicas.push(Replica::new(node, now));
            }
        }
        for i in 0..self.replicas.len() {
            let Some(r) = self.replicas.get_mut(i) else { return };
            r.asked = None;
            match r.step {
                Step::Early { level } => self.applier_rest(i, level, cx),
                _ if r.applier.is_none() => self.open_applier(i, cx),
                // On its way: it is told what to do when it is ready.
                _ => {}
            }
        }
    }

    /// Adds to the script something of which nobody can say which rows it writes. `None`: no transaction is on the lane.
    pub(super) fn with_script<T>(
        &mut self,
        cx: &mut Cx<'_>,
        write: impl FnOnce(&mut Open, &mut Room<'_>) -> std::io::Result<T>,
    ) -> Option<std::io::Result<T>> {
        self.touches(None);
        self.with_noted(cx, write)
    }

    /// Adds something whose rows have been noted.
    pub(super) fn with_noted<T>(
        &mut self,
        cx: &mut Cx<'_>,
        write: impl FnOnce(&mut Open, &mut Room<'_>) -> std::io::Result<T>,
    ) -> Option<std::io::Result<T>> {
        let limit = usize::try_from(cx.env.config.replication.script_limit).unwrap_or(usize::MAX);
        let open = self.tx.open_mut().filter(|o| o.on == Target::Lane)?;
        Some(write(open, &mut Room { limit, spill: &mut || cx.io.spill() }))
    }
}
