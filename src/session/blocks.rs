//! BEGIN, COMMIT and ROLLBACK of the client, by the simple and by the extended protocol.

use bytes::Bytes;

use super::commit::After;
use super::io::Cx;
use super::lost::is_aborted;
use super::note::Note;
use super::owed::{Asked, Own};
use super::simple::Went;
use super::transaction::{Target, Tx, begin_tag};
use super::{AfterRollback, Request, Session};
use crate::sql::class::{Class, TxModes};
use crate::wire::{PgError, Severity, back};

impl Session {
    /// BEGIN is answered here, but a block that has failed refuses it too, and only main knows whether it has.
    /// `None`: it has not. Otherwise whether the message has been dealt with.
    pub(super) fn begin_in_failed(&mut self, class: &Class, cx: &mut Cx<'_>) -> Option<bool> {
        let block = matches!(class, Class::Begin(_)) && self.tx.open().is_some_and(|o| !o.implicit);
        if !block {
            return None;
        }
        if !self.barrier(self.target(), cx) {
            return Some(false);
        }
        let failed = self.tx.open().is_some_and(|o| o.failed);
        failed.then(|| self.refuse_in_batch(&is_aborted(), cx))
    }

    pub(super) fn execute_begin(&mut self, sql: &Bytes, modes: TxModes, cx: &mut Cx<'_>) -> bool {
        match &mut self.tx {
            Tx::Idle => {
                self.tx = Tx::Begun(modes);
                self.tx_since = self.registry.batch();
            }
            // The block that was opened for the batch becomes the client's when BEGIN's turn comes, if it does: what
            // fails before it has no block to leave open, what fails behind it has (BeginTransactionBlock, xact.c).
            Tx::Open(o) if o.implicit && !self.batch.begun => {
                self.batch.begun = true;
                if modes != o.modes {
                    self.set_modes(&modes, cx);
                    self.batch.sent = true;
                }
                self.local(back::command_complete(begin_tag(sql)), Asked::Execute, Note::Begun(modes), cx);
                return true;
            }
            Tx::Begun(_) | Tx::Open(_) => {
                self.local(already_in_progress().encode(), Asked::Execute, Note::Nothing, cx);
            }
        }
        self.local(back::command_complete(begin_tag(sql)), Asked::Execute, Note::Nothing, cx);
        true
    }

    pub(super) fn execute_commit(&mut self, chain: bool, cx: &mut Cx<'_>) -> bool {
        if !self.barrier(self.target(), cx) {
            return false;
        }
        self.batch.open = false;
        // Of a block that was lost with main, the client knows that it has failed.
        let lost = self.lost.take().is_some();
        match std::mem::take(&mut self.tx) {
            Tx::Idle if chain => return self.refuse_in_batch(&no_block_to_chain("COMMIT"), cx),
            Tx::Idle => {
                self.out.push(no_transaction().encode());
                self.out.push(back::command_complete("COMMIT"));
            }
            Tx::Begun(modes) => {
                self.tx = if chain { Tx::Begun(modes) } else { Tx::Idle };
                self.out.push(back::command_complete(if lost { "ROLLBACK" } else { "COMMIT" }));
            }
            Tx::Open(open) if open.failed || lost || open.on == Target::Reader => {
                let failed = open.failed || lost;
                self.tx = Tx::Open(open);
                self.end_twin(cx);
                self.commit_as_rollback = !failed;
                self.batch.sent = false;
                self.request = Request::ExecuteEnd;
                self.roll_back_lane(AfterRollback::Execute { chain }, cx);
            }
            Tx::Open(open) if open.implicit && chain => {
                self.tx = Tx::Open(open);
                return self.refuse_in_batch(&no_block_to_chain("COMMIT"), cx);
            }
            Tx::Open(open) => {
                if open.implicit {
                    self.out.push(no_transaction().encode());
                }
                self.chained = chain.then(|| open.modes.clone());
                self.batch.sent = false;
                self.request = Request::ExecuteEnd;
                self.start_commit(open, After::ExecuteCommit { chain }, cx);
            }
        }
        true
    }

    pub(super) fn execute_rollback(&mut self, chain: bool, cx: &mut Cx<'_>) -> bool {
        if !self.barrier(self.target(), cx) {
            return false;
        }
        self.batch.open = false;
        match &self.tx {
            Tx::Idle if chain => return self.refuse_in_batch(&no_block_to_chain("ROLLBACK"), cx),
            Tx::Idle => {
                self.out.push(no_transaction().encode());
                self.out.push(back::command_complete("ROLLBACK"));
            }
            Tx::Begun(_) => {
                if !chain {
                    self.tx = Tx::Idle;
                }
                self.out.push(back::command_complete("ROLLBACK"));
            }
            Tx::Open(o) if o.implicit && chain => return self.refuse_in_batch(&no_block_to_chain("ROLLBACK"), cx),
            Tx::Open(o) => {
                if o.implicit {
                    self.out.push(no_transaction().encode());
                }
                self.chained = chain.then(|| o.modes.clone());
                self.end_twin(cx);
                self.batch.sent = false;
                self.request = Request::ExecuteEnd;
                self.roll_back_lane(AfterRollback::Execute { chain }, cx);
            }
        }
        true
    }

    /// The client's own ROLLBACK (or the COMMIT of a transaction that had failed, or only read) is done.
    pub(super) fn rollback_executed(&mut self, chain: bool, cx: &mut Cx<'_>) {
        let committed = std::mem::take(&mut self.commit_as_rollback);
        self.request = Request::None;
        self.tx = match self.chained.take() {
            Some(modes) if chain => Tx::Begun(modes),
            _ => Tx::Idle,
        };
        self.out.push(back::command_complete(if committed { "COMMIT" } else { "ROLLBACK" }));
        self.pump(cx);
    }

    pub(super) fn simple_begin(&mut self, sql: &Bytes, modes: TxModes, cx: &mut Cx<'_>) -> Went {
        match &mut self.tx {
            Tx::Idle => {
                self.tx = Tx::Begun(modes);
                self.out.push(back::command_complete(begin_tag(sql)));
                Went::Done
            }
            Tx::Open(o) if o.implicit && modes == TxModes::default() => {
                o.implicit = false;
                self.out.push(back::command_complete(begin_tag(sql)));
                Went::Done
            }
            Tx::Begun(_) => {
                self.out.push(already_in_progress().encode());
                self.out.push(back::command_complete(begin_tag(sql)));
                Went::Done
            }
            Tx::Open(o) if o.implicit && !o.failed => {
                self.set_modes(&modes, cx);
                self.sync_own(Target::Lane, Own::Modes, cx);
                Went::Sent
            }
            // The server has the right warning for it.
            Tx::Open(_) => self.send_step(Note::Nothing, None, cx),
        }
    }

    /// The server has set the modes of a BEGIN behind other statements, or refused to (the client has been told).
    pub(super) fn modes_set(&mut self, cx: &mut Cx<'_>) {
        let Request::Simple(s) = &mut self.request else { return };
        if !s.failed {
            let tag = begin_tag(&s.text.slice(s.steps[s.next].clone()));
            s.next += 1;
            self.out.push(back::command_complete(tag));
            if let Some(open) = self.tx.open_mut() {
                open.implicit = false;
            }
        }
        self.run_steps(cx);
    }

    pub(super) fn simple_commit(&mut self, chain: bool, cx: &mut Cx<'_>) -> Went {
        match std::mem::take(&mut self.tx) {
            Tx::Idle => self.send_step(Note::Nothing, None, cx),
            Tx::Begun(modes) => {
                self.tx = if chain { Tx::Begun(modes) } else { Tx::Idle };
                self.out.push(back::command_complete("COMMIT"));
                Went::Done
            }
            Tx::Open(open) if open.failed || open.on == Target::Reader => {
                let on = open.on;
                self.tx = Tx::Open(open);
                self.end_twin(cx);
                self.send_text(on, "COMMIT", Note::Ended { chain }, cx)
            }
            Tx::Open(open) if open.implicit && chain => {
                self.tx = Tx::Open(open);
                self.refuse(&no_block_to_chain("COMMIT"), cx)
            }
            Tx::Open(open) => {
                if open.implicit {
                    self.out.push(no_transaction().encode());
                }
                let modes = open.modes.clone();
                self.chained = chain.then_some(modes);
                self.start_commit(open, After::SimpleCommit { chain }, cx);
                Went::Sent
            }
        }
    }

    pub(super) fn simple_rollback(&mut self, chain: bool, cx: &mut Cx<'_>) -> Went {
        match &self.tx {
            Tx::Idle => self.send_step(Note::Nothing, None, cx),
            Tx::Begun(_) => {
                if !chain {
                    self.tx = Tx::Idle;
                }
                self.out.push(back::command_complete("ROLLBACK"));
                Went::Done
            }
            Tx::Open(o) if o.implicit && chain => self.refuse(&no_block_to_chain("ROLLBACK"), cx),
            Tx::Open(o) => {
                if o.implicit {
                    self.out.push(no_transaction().encode());
                }
                let on = o.on;
                self.end_twin(cx);
                self.send_text(on, "ROLLBACK", Note::Ended { chain }, cx)
            }
        }
    }
}

/// BEGIN in a transaction block (`BeginTransactionBlock` in xact.c).
fn already_in_progress() -> PgError {
    PgError { severity: Severity::Warning, ..PgError::error("25001", "there is already a transaction in progress") }
}

/// COMMIT and ROLLBACK outside a transaction block (`EndTransactionBlock` in xact.c).
fn no_transaction() -> PgError {
    PgError { severity: Severity::Warning, ..PgError::error("25P01", "there is no transaction in progress") }
}

/// AND CHAIN outside a transaction block (`EndTransactionBlock` in xact.c).
fn no_block_to_chain(what: &str) -> PgError {
    PgError::error("25P01", format!("{what} AND CHAIN can only be used in transaction blocks"))
}
