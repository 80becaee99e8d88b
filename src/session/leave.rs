//! A READ ONLY block that began on a replica, and what only main can do: sequences, catalogues, locks, functions that are
//! not proven to read.
//!
//! At READ COMMITTED each statement has a snapshot of its own, so the block can go on elsewhere between two of them: it
//! is rolled back on the reader and begins on main. Not if the reader has something of it that main lacks (a savepoint,
//! a SET, a cursor), and not at REPEATABLE READ, whose one snapshot was the replica's: then it fails with 40001, and
//! the session's next READ ONLY block begins on main.

use super::Session;
use super::io::Cx;
use super::owed::Own;
use super::transaction::{Target, Tx};
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
        let Tx::Open(open) = std::mem::take(&mut self.tx) else { return };
        self.send_own(Target::Reader, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
        self.sync_own(Target::Reader, Own::Leave, cx);
        self.registry.drop_portals();
        self.block_on_main = true;
        self.tx = Tx::Begun(open.modes);
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

/// The block cannot go on.
pub(super) fn needs_main() -> PgError {
    PgError::error("40001", "a READ ONLY transaction that began on a replica needs main for this statement")
        .hint("Run the transaction again: it will begin on main.")
}
