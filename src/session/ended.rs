//! What follows when a commit is over: for the client, and for the request that it was part of.

use bytes::Bytes;

use super::commit::After;
use super::io::Cx;
use super::transaction::Tx;
use super::{Request, Session};
use crate::wire::back;

impl Session {
    /// A commit is done.
    pub(super) fn commit_done(&mut self, after: After, cx: &mut Cx<'_>) {
        self.registry.drop_portals();
        self.tx = match (after, self.chained.take()) {
            (After::SimpleCommit { chain: true } | After::ExecuteCommit { chain: true }, Some(modes)) => {
                Tx::Begun(modes)
            }
            _ => Tx::Idle,
        };
        match after {
            After::SimpleCommit { .. } => {
                self.out.push(back::command_complete("COMMIT"));
                if let Request::Simple(s) = &mut self.request {
                    s.next += 1;
                }
                self.run_steps(cx);
            }
            After::SimpleEnd => self.simple_ready(cx),
            After::ExecuteCommit { .. } => {
                self.request = Request::None;
                self.out.push(back::command_complete("COMMIT"));
            }
            After::SyncEnd => {
                self.request = Request::None;
                self.ready(cx);
            }
        }
        self.after_commit(cx);
    }

    /// A commit did not happen.
    pub(super) fn commit_failed(&mut self, after: After, error: Bytes, cx: &mut Cx<'_>) {
        self.tx = Tx::Idle;
        self.chained = None;
        self.registry.drop_portals();
        self.out.drop_held();
        self.out.push(error);
        match after {
            After::SimpleCommit { .. } | After::SimpleEnd => {
                self.step_failed();
                self.finish_simple(cx);
            }
            After::ExecuteCommit { .. } => {
                self.request = Request::None;
                self.batch_failed();
            }
            After::SyncEnd => {
                self.request = Request::None;
                self.ready(cx);
            }
        }
        self.after_commit(cx);
    }

    /// The session goes on after a commit; one whose client or lane is gone ends.
    fn after_commit(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, super::Stage::Over) {
            return self.finish_over(cx);
        }
        if self.lane.is_none() {
            self.goes_on_without_lane(cx);
        }
        self.pump(cx);
    }
}
