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
use super::snapshot::{Single, TINY};
use super::transaction::{Target, Tx, begin_statement};
use super::{Request, Session};
use crate::config::TransactionReads;
use crate::sim::planted::{Planted, is};
use crate::sql::cache::Verdict;
use crate::sql::class::{Class, Isolation, TxModes};
use crate::wire::PgError;

/// Asked with the first block of a reader that does not say its level.
const LEVEL: &str = "SELECT pg_catalog.current_setting('transaction_isolation')";

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
            return match (stays_spread(verdict, own_types) && !several, open.twin || open.singles) {
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
        if let Some(open) = self.tx.open().filter(|o| o.only_reads()) {
            return (open.twin || open.singles) && !open.failed;
        }
        let Some(open) = self.tx.open().filter(|o| !o.failed && !o.pinned && o.cursors == 0 && !o.implicit) else {
            return false;
        };
        match open.modes.isolation {
            Some(level) => matches!(level, Isolation::ReadCommitted | Isolation::ReadUncommitted),
            None => self.link_ref(Target::Reader).is_some_and(|l| l.read_committed == Some(true)),
        }
    }

    /// The block is rolled back on the reader and has only begun again: what comes next opens it on main.
    pub(super) fn leave_reader(&mut self, cx: &mut Cx<'_>) {
        if self.tx.open().is_some_and(|o| o.twin) {
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
        open.on = Target::Lane;
        (open.spread, open.twin, open.failed) = (false, false, false);
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
        if self.tx.open_mut().is_some_and(|o| std::mem::take(&mut o.twin)) {
            self.send_own(Target::Lane, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
            self.sync_own(Target::Lane, Own::Leave, cx);
        }
    }

    /// The block on the reader is at READ COMMITTED, and a commit is under way: what comes next goes to main.
    pub(super) fn must_leave(&self, cx: &Cx<'_>) -> bool {
        self.tx.open().is_some_and(|o| o.singles && !o.failed)
            && Self::single_read(false, false, cx) != Single::Optimistic
    }

    /// A block of these modes may read on a replica until it writes.
    pub(super) fn may_have_twin(&self, modes: &TxModes, cx: &Cx<'_>) -> bool {
        let spreads = cx.env.config.load_balance.transaction_reads == TransactionReads::Spread && Self::isolates(cx);
        spreads && modes.read_only != Some(true) && !self.block_on_main && self.may_spread(cx) && self.cuts(modes)
    }

    /// What the session has to ask main for is asked before the gate is entered. False: an answer is awaited.
    pub(super) fn is_ready_for_twin(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.has_lane(cx) {
            return false;
        }
        self.see_to_default(cx);
        if self.settings_dirty {
            self.ask_settings(cx);
        }
        self.barrier(Target::Lane, cx)
    }

    /// The block begins on main and on the reader, in the gate.
    pub(super) fn open_twin(&mut self, modes: TxModes, cx: &mut Cx<'_>) {
        self.open_transaction(Target::Lane, false, modes, cx);
        if !is(Planted::TwinOutside) {
            self.send_own(Target::Lane, ("_pgls_s", TINY), Own::Cut, cx);
        }
        self.sync_own(Target::Lane, Own::Cut, cx);
        let reads = TxModes { isolation: Some(Isolation::RepeatableRead), read_only: Some(true), deferrable: None };
        self.send_own(Target::Reader, begin_statement(&reads), Own::Begin, cx);
        self.take_cut(cx);
        if let Some(open) = self.tx.open_mut() {
            open.on = Target::Reader;
            (open.spread, open.twin) = (true, true);
        }
    }

    /// Behind BEGIN on a reader: at which level, if the client has not said it?
    pub(super) fn ask_level(&mut self, modes: &TxModes, cx: &mut Cx<'_>) {
        let asked = self.link_ref(Target::Reader).is_none_or(|l| l.read_committed.is_some());
        if modes.isolation.is_none() && !asked {
            self.send_own(Target::Reader, ("_pgls_l", LEVEL), Own::Level, cx);
        }
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
