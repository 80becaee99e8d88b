//! The batch of extended messages that is being relayed: where it goes, what it begins, and how it ends.

use bytes::Bytes;

use super::commit::After;
use super::elsewhere::Retry;
use super::io::Cx;
use super::note::Note;
use super::owed::{Asked, Whose};
use super::reader::ReaderIs;
use super::tokens::Holds;
use super::transaction::{Reads, Target, Tx};
use super::{AfterRollback, Request, Session};
use crate::sql::class::TxModes;
use crate::wire::frame::Frame;
use crate::wire::front;

/// The batch that is being relayed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Its first message has been looked at. (COMMIT and ROLLBACK end what was decided then: the messages behind them
    /// are another transaction's.)
    pub(super) open: bool,
    /// Where it goes.
    target: Option<Target>,
    /// An error has been told: everything up to Sync is dropped, as the server does.
    pub(super) skipping: bool,
    /// Something was sent to a server since the last Sync (the client's, or the one behind COMMIT and ROLLBACK).
    pub(super) sent: bool,
    /// A message of the client's in it went to a server.
    pub(super) asks: bool,
    /// A reader has refused it, or was lost.
    pub(super) force_main: bool,
    /// Its snapshot on a replica could not be used.
    again: bool,
    /// COPY FROM STDIN: the client's data is awaited.
    pub(super) copy: bool,
    /// An Execute of COPY FROM STDIN has not been answered yet. Only the answer tells what the messages behind it are:
    /// data, or (Sync, Flush) nothing, or the next requests. So they wait; the server flushes either answer by itself.
    pub(super) copy_asked: bool,
    /// A BEGIN stands in this batch, or stood in it, that makes its implicit transaction the client's.
    pub(super) begun: bool,
    /// The one statement of this batch goes to every replica after main.
    pub(super) everywhere: Option<Bytes>,
    /// Main was lost while it owed answers to this batch.
    pub(super) owes: bool,
    /// The batch has failed, with this error, when all that had come of it was answered: what comes next is told.
    pub(super) untold: Option<Bytes>,
}

/// What the loss of main means for a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LostBatch {
    /// Nothing: no server had heard of it, or it had failed already.
    GoesOn,
    /// It fails, and the client waits for an answer.
    Fails,
    /// It fails, and everything that the client has asked was answered: nobody would understand an error now.
    FailsLater,
}

impl Batch {
    /// An error has been told, and no Sync has come since.
    pub(super) fn skips(&self) -> bool {
        self.skipping
    }

    /// A Query or a FunctionCall has come before its Sync: it may end the transaction and begin another, so where the
    /// messages behind it go is decided anew.
    pub(super) fn interrupt(&mut self) {
        self.open = false;
    }

    /// It is under way on a reader.
    pub(super) fn goes_to_reader(&self) -> bool {
        self.open && self.target == Some(Target::Reader)
    }

    /// Half of it has been answered by a reader that is lost, and main goes on with its block: so does the other half.
    pub(super) fn moves(&mut self) {
        if self.target == Some(Target::Reader) {
            (self.open, self.sent) = (false, false);
        }
    }

    /// A batch that is run again. `overtaken`: its snapshot on a replica could not be used; else main must do it.
    pub(super) fn run_again(overtaken: bool) -> Batch {
        Batch { force_main: !overtaken, again: overtaken, ..Batch::default() }
    }

    /// The connection of this target was lost. `open`: a transaction was.
    pub(super) fn lose(&mut self, of: Target, open: bool) -> LostBatch {
        let owes = std::mem::take(&mut self.owes);
        if self.open && self.target == Some(of) && !(self.asks || self.skipping || owes) {
            // It has heard nothing of it: what comes next decides anew where it goes.
            (self.open, self.sent) = (false, false);
            return LostBatch::GoesOn;
        }
        if !self.open || self.target.is_some_and(|t| t != of) || !(self.sent || open || owes) {
            return LostBatch::GoesOn;
        }
        self.sent = false;
        self.begun = false;
        self.copy = false;
        self.copy_asked = false;
        self.everywhere = None;
        match (std::mem::replace(&mut self.skipping, true), owes) {
            (true, _) => LostBatch::GoesOn,
            (false, true) => LostBatch::Fails,
            (false, false) => LostBatch::FailsLater,
        }
    }
}

impl Session {
    pub(super) fn target(&self) -> Target {
        self.batch.target.unwrap_or(Target::Lane)
    }

    /// Decides where the batch goes. False: it must wait.
    pub(super) fn open_batch(&mut self, cx: &mut Cx<'_>) -> bool {
        // The one before it is run again first.
        if self.will_run_again() || !self.has_catalogue(cx) {
            return false;
        }
        let survey = self.survey(cx);
        if self.min_csn.heard && survey.waits && self.min_csn.fails.is_none() {
            match self.min_csn_holds(cx) {
                Holds::Yes => {}
                Holds::Waits => return false,
                Holds::Never(e) => self.min_csn.fails = Some(e),
            }
        }
        let leaves = match self.tx.open().and_then(|o| o.on_replica()) {
            None => false,
            Some(Reads::Singly) if !survey.ends_block() => !survey.may_begin_as(Reads::Singly) || self.must_leave(cx),
            Some(Reads::Twin | Reads::Bereft) => !survey.stays_spread,
            Some(_) => survey.leaves,
        };
        if leaves {
            if !self.barrier(Target::Reader, cx) {
                return false;
            }
            if self.may_leave() {
                self.leave_reader(cx);
                if !matches!(self.tx, Tx::Open(_)) {
                    return false;
                }
            }
        }
        // Whether it may stand alone only the rest of the batch tells, which the network may have cut off. Behind a message
        // that cannot be read there is none.
        let more = !self.is_crowded(cx) && self.broken.is_none();
        if survey.may_stand_alone() && matches!(self.tx, Tx::Idle) && more {
            return false;
        }
        let single = survey.read && !self.batch.force_main && self.may_spread(cx);
        let reads = match &self.tx {
            Tx::Idle if single => Self::single_read(survey.shows, self.batch.again, survey.row, cx),
            Tx::Begun(modes) if !self.batch.force_main => {
                self.block_reads(modes, cx).filter(|r| survey.may_begin_as(*r))
            }
            _ => None,
        };
        let busy = single && matches!(self.tx, Tx::Idle) && reads.is_none() && !self.batch.again;
        let target = match &self.tx {
            Tx::Open(o) => o.on,
            _ if reads.is_none() => Target::Lane,
            _ => match self.reader_is(cx) {
                ReaderIs::Ready => Target::Reader,
                ReaderIs::Coming => return false,
                ReaderIs::None => Target::Lane,
            },
        };
        if target == Target::Lane && !self.has_lane(cx) {
            return false;
        }
        let other = if target == Target::Lane { Target::Reader } else { Target::Lane };
        if !self.barrier(other, cx) {
            return false;
        }
        // What stands before the batch on its own link is answered before a read may be held back, and before a
        // transaction begins: what that says of the session's state (an error, ReadyForQuery) is not about this one.
        let begins = matches!(self.tx, Tx::Idle) && survey.may_begin();
        if (target == Target::Reader || begins) && !self.barrier(target, cx) {
            return false;
        }
        let opens = matches!(self.tx, Tx::Begun(_))
            && (survey.touches || survey.executes > usize::from(survey.control) || !survey.complete);
        // What begins on the reader: the client's block, or a transaction around a single read.
        let reads = reads.filter(|_| target == Target::Reader);
        let begins = reads.filter(|r| opens || (matches!(self.tx, Tx::Idle) && *r == Reads::Cut));
        if begins.is_some_and(|r| !self.may_begin(r, cx)) {
            return false;
        }
        if busy {
            Self::count_busy(cx);
        }
        // A client that goes on before it is answered is not made to wait.
        self.keep_no_longer();
        // Something may have been sent before a COMMIT in the same batch, and the client's Sync is still to come.
        self.batch = Batch { open: true, target: Some(target), sent: self.batch.sent, ..Batch::default() };
        self.began.get_or_insert(cx.io.now());
        if target == Target::Reader {
            let open = self.tx.open().filter(|o| !o.failed).map(|o| o.reads);
            let touches = (survey.touches || survey.executes > 0) && !survey.control;
            let goes_elsewhere = match reads.or(open) {
                _ if matches!(self.tx, Tx::Idle) => true,
                Some(Reads::Singly | Reads::Twin) => touches,
                _ => false,
            };
            if goes_elsewhere {
                let until_sync = self.inbox.iter().position(|f| f.tag == b'S').unwrap_or(0);
                let frames = self.inbox.iter().take(until_sync + 1).cloned().collect();
                self.retry = Some(Retry { why: None, frames, since: self.registry.newest_version() });
                self.out.hold();
                if reads.or(open) == Some(Reads::Singly) {
                    let row = survey.row.filter(|_| matches!(self.tx, Tx::Idle));
                    self.note_look(survey.by_bind, row, cx);
                }
            }
            if let Some(reads) = begins {
                let modes = if let Tx::Begun(modes) = &self.tx { modes.clone() } else { TxModes::default() };
                self.begin_on_reader(reads, modes, cx);
                self.batch.sent = true;
            }
            return true;
        }
        match &self.tx {
            // A portal lives in the transaction in which it was bound.
            Tx::Begun(modes) if opens => {
                let modes = modes.clone();
                if survey.is_alone() {
                    self.keep_for_conflict(cx);
                }
                self.begin_on_main(false, modes, cx);
                self.batch.sent = true;
            }
            // It has been parsed in a batch of its own.
            Tx::Open(o) if !o.implicit && !o.answered && !o.failed && survey.is_alone() => {
                self.keep_for_conflict(cx);
            }
            Tx::Idle => {
                let alone = survey.complete && survey.executes <= 1;
                let begins = survey.begin.is_some() && survey.touches;
                if let Some(sql) = survey.everywhere.filter(|_| alone) {
                    self.batch.everywhere = Some(sql);
                } else if begins
                    || ((!survey.complete || survey.executes > 1 || survey.writes) && !(alone && survey.control))
                {
                    if alone && survey.writes && survey.begin.is_none() {
                        self.keep_for_conflict(cx);
                    }
                    let keyed = alone && survey.keyed && survey.begin.is_none();
                    let modes = if keyed { self.modes_of_keyed(cx) } else { survey.begin.unwrap_or_default() };
                    self.begin_on_main(true, modes, cx);
                    self.batch.sent = true;
                } else {
                    self.see_to_default(cx);
                }
            }
            _ => {}
        }
        true
    }

    pub(super) fn sync(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        // A Sync alone is answered here, and not before what a reader still owes to the batch before it.
        if !self.batch.open && (self.will_run_again() || !self.barrier(Target::Reader, cx)) {
            return false;
        }
        let target = self.target();
        self.registry.batch_ends();
        let batch = std::mem::take(&mut self.batch);
        let implicit = self.tx.open().is_some_and(|o| o.implicit);
        if let Some(sql) = batch.everywhere.filter(|_| !batch.skipping) {
            self.everywhere = Some(sql);
            self.request = Request::ImplicitEnd;
        }
        if implicit {
            self.request = Request::ImplicitEnd;
            self.forward(target, frame.raw.clone(), Asked::Sync, Whose::Client(Note::ImplicitEnd), cx);
            return true;
        }
        // Whom it was sent to may be gone: lost while a Query behind it was answered.
        if batch.sent && self.link_ref(target).is_some() {
            self.forward(target, frame.raw.clone(), Asked::Sync, Whose::Client(Note::Ready), cx);
            return true;
        }
        self.local(Bytes::new(), Asked::Sync, Note::Ready, cx);
        true
    }

    /// ReadyForQuery behind the last message of an implicit transaction.
    pub(super) fn implicit_end(&mut self, cx: &mut Cx<'_>) {
        match std::mem::take(&mut self.tx) {
            // A cut has nothing to commit.
            Tx::Open(open) if open.implicit && (open.failed || open.on == Target::Reader) => {
                self.tx = Tx::Open(open);
                self.roll_back_lane(AfterRollback::Sync, cx);
            }
            Tx::Open(open) if open.implicit => self.start_commit(open, After::SyncEnd, cx),
            tx => {
                self.tx = tx;
                self.request = Request::None;
                self.ready(cx);
            }
        }
    }

    /// An error was told in this batch: the rest is skipped.
    pub(super) fn batch_failed(&mut self) {
        self.batch.skipping = true;
        self.batch.copy = false;
        self.batch.copy_asked = false;
        self.reconsider_syncs();
    }

    /// A COPY has failed. Whether the Syncs that came with its data stood before or behind what made it fail only the
    /// server knows, which has not seen them: they count as behind, so that none of them waits for ever.
    pub(super) fn reconsider_syncs(&mut self) {
        for _ in 0..std::mem::take(&mut self.ignored_syncs) {
            let frame = Frame { tag: b'S', raw: Bytes::from_static(front::SYNC) };
            self.inbox_bytes += frame.raw.len();
            self.inbox.push_front(frame);
        }
    }

    /// Sync with a body: it fails first, then it is a Sync (`PostgresMain` in postgres.c).
    pub(super) fn malformed_sync(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if !self.batch.open && !self.open_batch(cx) || !self.malformed(frame, cx) {
            return false;
        }
        self.sync(&Frame { tag: b'S', raw: Bytes::from_static(front::SYNC) }, cx)
    }
}
