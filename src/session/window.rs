//! A commit's window (`snapshot_isolation`): from before COMMIT is sent to main until every node has acknowledged it or is
//! out, nobody takes a snapshot that more than one node must agree about (design, section 2).

use super::commit::Commit;
use super::held::AtGate;
use super::io::Cx;
use crate::sequencer::{CommitPass, Entry as GateEntry, GateFull, Waiting};
use crate::shard::driver::Time;
use crate::sim::planted::{Planted, is};
use crate::telemetry as measured;

/// Where a commit stands with the gate.
#[derive(Debug, Default)]
pub(super) enum Gate {
    /// It has not asked, or needs not.
    #[default]
    Outside,
    /// It is another class's turn.
    Waiting(Waiting<CommitPass>, Time),
    /// Its window is open.
    Inside(CommitPass, Time),
}

impl Commit {
    /// It is in the gate, and its window is open; asked again when the gate was handed over.
    pub(super) fn is_in_gate(&mut self, cx: &Cx<'_>) -> bool {
        if !cx.env.gated || is(Planted::WindowTooLate) && !self.main_has {
            return true;
        }
        let now = cx.io.now();
        let (entry, since) = match std::mem::take(&mut self.gate) {
            Gate::Inside(pass, since) => {
                self.gate = Gate::Inside(pass, since);
                return true;
            }
            Gate::Waiting(place, since) => (place.poll().map_or_else(GateEntry::Wait, GateEntry::In), since),
            Gate::Outside => match cx.env.sequencer.enter_commit(cx.env.shard) {
                Ok(entry) => (entry, now),
                // It is asked again when somebody has left.
                Err(GateFull) => return false,
            },
        };
        match entry {
            GateEntry::In(mut pass) => {
                pass.mark(self.footprint.clone());
                cx.env.recorder.borrow_mut().gate(measured::Gate::Commit, now.since(since));
                self.gate = Gate::Inside(pass, now);
                true
            }
            GateEntry::Wait(place) => {
                self.gate = Gate::Waiting(place, since);
                false
            }
        }
    }

    pub(super) fn at_gate(&self) -> AtGate {
        match &self.gate {
            Gate::Outside => AtGate::Outside,
            Gate::Waiting(place, since) => AtGate::of(place, *since),
            Gate::Inside(_, since) => AtGate::Inside(*since),
        }
    }

    /// Every node has acknowledged it or is out: its window closes.
    pub(super) fn leave_gate(&mut self, cx: &Cx<'_>) {
        if let Gate::Inside(_, since) = std::mem::take(&mut self.gate) {
            cx.env.recorder.borrow_mut().gate(measured::Gate::Window, cx.io.now().since(since));
        }
    }
}
