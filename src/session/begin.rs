//! How a transaction begins: on main, on a replica, or on both; and how it reads on a replica ([`Reads`]).

use super::io::Cx;
use super::leave::stays_spread;
use super::owed::Own;
use super::snapshot::TINY;
use super::transaction::{Open, Reads, Target, Tx, begin_statement};
use super::{Request, Session};
use crate::config::TransactionReads;
use crate::sim::planted::{Planted, is};
use crate::sql::cache::Verdict;
use crate::sql::class::{Isolation, TxModes};

/// Asked with the first block of a reader that does not say its level.
const LEVEL: &str = "SELECT pg_catalog.current_setting('transaction_isolation')";

impl Reads {
    /// A block that begins with this statement may read so. `alone`: it is all that the client has sent.
    pub(super) fn may_begin_with(self, verdict: &Verdict, alone: bool) -> bool {
        match self {
            Reads::AsItIs | Reads::Cut => verdict.is_read(),
            Reads::Singly | Reads::Twin | Reads::Bereft => alone && stays_spread(verdict, false),
        }
    }
}

impl Session {
    /// How a block of these modes may read on a replica. `None`: it begins on main.
    pub(super) fn block_reads(&self, modes: &TxModes, cx: &Cx<'_>) -> Option<Reads> {
        if self.block_on_main || !self.may_spread(cx) {
            return None;
        }
        let reads_only = modes.read_only == Some(true);
        if !Self::isolates(cx) {
            // SERIALIZABLE is main's to judge.
            return (reads_only && modes.isolation != Some(Isolation::Serializable)).then_some(Reads::AsItIs);
        }
        if self.cuts(modes) {
            let spreads = cx.env.config.load_balance.transaction_reads == TransactionReads::Spread;
            return if reads_only { Some(Reads::Cut) } else { spreads.then_some(Reads::Twin) };
        }
        let quiet = Self::single_read(false, false, None, cx) == Some(Reads::Singly);
        (reads_only && self.reads_singly(modes) && quiet).then_some(Reads::Singly)
    }

    /// What has to be waited for before it begins so on the reader is there: last of all the gate, in which nobody waits
    /// for anything else.
    pub(super) fn may_begin(&mut self, reads: Reads, cx: &mut Cx<'_>) -> bool {
        match reads {
            Reads::AsItIs | Reads::Singly | Reads::Bereft => true,
            Reads::Cut => self.has_gate(cx),
            Reads::Twin => self.is_ready_for_twin(cx) && self.has_gate(cx),
        }
    }

    /// What the session has to ask main for is asked before the gate is entered. False: an answer is awaited.
    fn is_ready_for_twin(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.has_lane(cx) {
            return false;
        }
        self.see_to_default(cx);
        if self.settings_dirty {
            self.ask_settings(cx);
        }
        self.barrier(Target::Lane, cx)
    }

    /// Begins on the reader: the client's block, or a transaction of the proxy's around a single read.
    pub(super) fn begin_on_reader(&mut self, reads: Reads, modes: TxModes, cx: &mut Cx<'_>) {
        let implicit = matches!(self.tx, Tx::Idle);
        cx.env.recorder.borrow_mut().counters.reads_in_gate += u64::from(implicit);
        match reads {
            Reads::Twin => {
                self.begin_on_main(false, modes.clone(), cx);
                if !is(Planted::TwinOutside) {
                    self.send_own(Target::Lane, ("_pgls_s", TINY), Own::Cut, cx);
                }
                self.sync_own(Target::Lane, Own::Cut, cx);
            }
            // What was sent early in a transaction that has just ended is no part of this one.
            _ => self.drop_replicas(cx),
        }
        if matches!(reads, Reads::Cut | Reads::Twin) {
            let isolation = Some(Isolation::RepeatableRead);
            let modes = TxModes { isolation, read_only: Some(true), ..modes.clone() };
            self.send_own(Target::Reader, begin_statement(&modes), Own::Begin, cx);
            self.take_cut(cx);
        } else {
            self.send_own(Target::Reader, begin_statement(&modes), Own::Begin, cx);
            self.ask_level(&modes, cx);
        }
        self.has_begun(Open { reads, ..Open::new(Target::Reader, implicit, modes) });
    }

    /// Begins on main: settings first if they may have changed, then BEGIN, both in front of the statement that needs it,
    /// in one packet.
    pub(super) fn begin_on_main(&mut self, implicit: bool, modes: TxModes, cx: &mut Cx<'_>) {
        self.drop_replicas(cx);
        self.see_to_default(cx);
        if self.settings_dirty {
            self.ask_settings(cx);
        }
        self.send_own(Target::Lane, begin_statement(&modes), Own::Begin, cx);
        self.block_on_main &= modes.read_only != Some(true);
        self.has_begun(Open::new(Target::Lane, implicit, modes));
    }

    fn has_begun(&mut self, open: Open) {
        let open = Open { version: self.version.current(), ..open };
        if matches!(self.request, Request::Simple(_)) {
            // A Query begins when everything before it has been answered.
            self.tx_since = self.registry.answering();
        } else if matches!(self.tx, Tx::Idle) {
            self.tx_since = self.registry.batch();
        }
        self.tx = Tx::Open(Box::new(open));
    }

    /// Sees to it that a transaction is open: the client's, which begins on main, or an implicit one around this string.
    pub(super) fn enter_block(&mut self, cx: &mut Cx<'_>) {
        match std::mem::take(&mut self.tx) {
            Tx::Idle => self.begin_on_main(true, TxModes::default(), cx),
            Tx::Begun(modes) => self.begin_on_main(false, modes, cx),
            open @ Tx::Open(_) => self.tx = open,
        }
    }

    /// Behind BEGIN on a reader: at which level, if the client has not said it?
    pub(super) fn ask_level(&mut self, modes: &TxModes, cx: &mut Cx<'_>) {
        let asked = self.link_ref(Target::Reader).is_none_or(|l| l.read_committed.is_some());
        if modes.isolation.is_none() && !asked {
            self.send_own(Target::Reader, ("_pgls_l", LEVEL), Own::Level, cx);
        }
    }
}
