//! A block that began on a replica, and what only main can do: sequences, catalogues, locks, functions that are not proven
//! to read.
//!
//! At READ COMMITTED each statement has a snapshot of its own, so the block can go on elsewhere between two of them: it
//! is rolled back on the reader and begins on main. Not if the reader has something of it that main lacks (a savepoint,
//! a SET, a cursor), and not at REPEATABLE READ, whose one snapshot was the replica's: then it fails with 40001, and
//! the session's next READ ONLY block begins on main.
//!
//! In `snapshot_isolation` each read of a READ ONLY block at READ COMMITTED is a single read (`snapshot`): if a commit
//! overtakes it, or is under way before it is sent, the block goes on on main.
//!
//! A block that may write (`transaction_reads = "spread"`) has a *twin*: main began it too, and took its snapshot in the same
//! pass through the gate, so both are of one state. It reads on the replica, and from the first statement on that is no
//! read, or if the replica is lost, it goes on on main, where its snapshot shows what it has seen.

use super::io::Cx;
use super::owed::Own;
use super::transaction::{Reads, Target, Tx};
use super::{Request, Session};
use crate::sql::cache::Verdict;
use crate::sql::class::{Class, Isolation};
use crate::wire::PgError;

/// What becomes of a statement, and of the READ ONLY block that it stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnReader {
    /// It may stand there, or there is no such block.
    Stays,
    /// It goes to the reader, which refuses it as any server would.
    Refuses,
    /// Main can go on with the block.
    Moves,
    /// Only main can do it, and the block cannot move.
    Cannot,
}

impl Session {
    /// Where the open block is on a reader: may this statement stand in it? `own_types`: it has parameters of types that
    /// are not built in.
    pub(super) fn on_reader(&self, verdict: &Verdict, own_types: bool) -> OnReader {
        let Some(open) = self.tx.open().filter(|o| o.on == Target::Reader) else { return OnReader::Stays };
        let ends = verdict.class.is_block_control();
        if open.only_reads() && !ends && !open.failed {
            let several = matches!(&self.request, Request::Simple(s) if s.is_several());
            return match (stays_spread(verdict, own_types) && !several, self.may_leave()) {
                (true, _) => OnReader::Stays,
                (false, true) => OnReader::Moves,
                (false, false) => OnReader::Cannot,
            };
        }
        if ends || (verdict.fits_read_only() && !own_types) {
            return OnReader::Stays;
        }
        // A block that has failed refuses everything.
        if open.failed || verdict.is_refused_read_only() {
            return OnReader::Refuses;
        }
        if self.may_leave() { OnReader::Moves } else { OnReader::Cannot }
    }

    /// The block on the reader can go on on main.
    pub(super) fn may_leave(&self) -> bool {
        let Some(open) = self.tx.open().filter(|o| !o.failed && !o.implicit) else { return false };
        match open.on_replica() {
            Some(Reads::Singly | Reads::Twin) => true,
            Some(Reads::AsItIs) if !open.pinned && open.cursors == 0 => match open.modes.isolation {
                Some(level) => matches!(level, Isolation::ReadCommitted | Isolation::ReadUncommitted),
                None => self.link_ref(Target::Reader).is_some_and(|l| l.read_committed == Some(true)),
            },
            Some(Reads::AsItIs | Reads::Cut | Reads::Bereft) | None => false,
        }
    }

    /// The block is rolled back on the reader and has only begun again: what comes next opens it on main.
    pub(super) fn leave_reader(&mut self, cx: &mut Cx<'_>) {
        if self.tx.open().is_some_and(|o| o.on_replica() == Some(Reads::Twin)) {
            return self.go_to_twin(cx);
        }
        let Tx::Open(open) = std::mem::take(&mut self.tx) else { return };
        if self.link_ref(Target::Reader).is_some() {
            self.send_own(Target::Reader, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
            self.sync_own(Target::Reader, Own::Leave, cx);
        }
        self.forget_look();
        self.registry.drop_portals();
        self.block_on_main = true;
        self.tx = Tx::Begun(open.modes);
    }

    /// The block goes on on main, where it has stood since it began.
    fn go_to_twin(&mut self, cx: &mut Cx<'_>) {
        let Some(open) = self.tx.open_mut() else { return };
        (open.on, open.failed) = (Target::Lane, false);
        // It has seen its snapshot: what conflicts from now on is its client's affair.
        open.answered = true;
        open.need = open.token.map_or(0, |t| t.csn);
        cx.env.recorder.borrow_mut().counters.blocks_moved += 1;
        if self.link_ref(Target::Reader).is_some() {
            self.send_own(Target::Reader, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
            self.sync_own(Target::Reader, Own::Leave, cx);
        }
        self.registry.drop_portals();
    }

    /// The block is about to end on the reader: it ends on main too, where it has done nothing.
    pub(super) fn end_twin(&mut self, cx: &mut Cx<'_>) {
        if self.lose_twin() {
            self.send_own(Target::Lane, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
            self.sync_own(Target::Lane, Own::Leave, cx);
        }
    }

    /// The block has no part on main any more. False: it had none.
    pub(super) fn lose_twin(&mut self) -> bool {
        let twin = self.tx.open_mut().filter(|o| o.on_replica() == Some(Reads::Twin));
        twin.map(|o| o.reads = Reads::Bereft).is_some()
    }

    /// Each read of the block has a snapshot of its own, and a commit is under way: what comes next goes to main.
    pub(super) fn must_leave(&self, cx: &Cx<'_>) -> bool {
        let singly = self.tx.open().is_some_and(|o| !o.failed && o.on_replica() == Some(Reads::Singly));
        singly && Self::single_read(false, false, None, cx) != Some(Reads::Singly)
    }

    /// The reader has something of the block that main would lack.
    pub(super) fn pin(&mut self, class: &Class, suspends: bool) {
        let Some(open) = self.tx.open_mut().filter(|o| o.on == Target::Reader) else { return };
        match class {
            Class::Savepoint(_) | Class::RollbackTo(_) | Class::Release(_) | Class::Set { .. } | Class::Reset(_) => {
                open.pinned = true;
            }
            Class::Declare => open.cursors += 1,
            Class::ClosePortal => open.cursors = open.cursors.saturating_sub(1),
            _ => open.pinned |= suspends,
        }
    }
}

/// It may stand in a block that may write and reads on a replica. SHOW would tell of the reader's own modes.
pub(super) fn stays_spread(verdict: &Verdict, own_types: bool) -> bool {
    verdict.is_read() && !own_types && verdict.class != Class::Show
}

/// The block cannot go on.
pub(super) fn needs_main() -> PgError {
    PgError::error("40001", "a transaction that began on a replica needs main for this statement")
        .hint("Run the transaction again: it will begin on main.")
}
