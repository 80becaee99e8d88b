//! Write conflicts at REPEATABLE READ (`snapshot_isolation`): a statement that main refuses with 40001 is run again, as
//! long as nothing of its answer has left, if it stands alone or is the first of a block.
//!
//! Whoever writes one row in one statement outside a block has chosen no snapshot and seen none: that another client was
//! faster is of no interest to it. The same is true of a block's first statement. The transaction is rolled back and the
//! statement's messages are looked at once more, as if they had just come, at most `conflict_retries` times. Later in a
//! block 40001 is the client's own affair, as in PostgreSQL.
//!
//! By the simple protocol nothing of an answer leaves before the error would. By the extended protocol ParseComplete and
//! its like do, so they are kept back until the statement's first row or its completion. A client that sends more of its
//! block before it has that is not made to wait for it: it gets the error.

use bytes::Bytes;

use super::batch::Batch;
use super::io::Cx;
use super::owed::Whose;
use super::transaction::{Open, Target, Tx};
use super::{Request, Session};
use crate::sql::class::TxModes;
use crate::wire::error::ErrorFields;
use crate::wire::frame::Frame;
use crate::wire::front;

/// Batches of more bytes are not kept to be run again: their client gets the error.
const KEPT_MAX: usize = 256 * 1024;

/// What is kept for running a statement again.
#[derive(Debug, Default)]
pub(super) struct Conflict {
    /// How often the statement at hand has been run again.
    tries: u32,
    /// The extended batch at hand, whose answers are kept back.
    frames: Option<Vec<Frame>>,
    /// It has failed, and is run again when its transaction is rolled back.
    again: bool,
    /// Modes of the client's block, of which it is the first statement.
    block: Option<TxModes>,
}

impl Session {
    /// An extended batch of one statement begins outside a block, or is a block's first: what is needed to run it again is
    /// kept.
    pub(super) fn keep_for_conflict(&mut self, cx: &Cx<'_>) {
        if !Self::isolates(cx) || cx.env.config.replication.conflict_retries == 0 {
            return;
        }
        // An error that main still owes to an earlier batch is not this one's.
        if self.link_ref(Target::Lane).is_some_and(|l| l.owed.owes_client()) {
            return;
        }
        let until_sync = self.inbox.iter().position(|f| f.tag == b'S').unwrap_or(0);
        let frames = || self.inbox.iter().take(until_sync + 1);
        if frames().map(|f| f.raw.len()).sum::<usize>() > KEPT_MAX {
            return;
        }
        self.conflict.frames = Some(frames().cloned().collect());
        self.out.hold();
    }

    /// A message of the lane's: once it is part of the statement's own answer, nothing is kept back any more.
    pub(super) fn conflict_answer(&mut self, tag: u8, chunk: &Bytes) {
        if !matches!(tag, b'D' | b'C' | b'I' | b's' | b'G' | b'H' | b'd' | b'V') {
            return;
        }
        let head = self.link_ref(Target::Lane).and_then(|l| l.owed.head());
        if head.is_some_and(|h| matches!(h.whose, Whose::Client(_))) {
            self.tx.open_mut().into_iter().for_each(|o| o.answered = true);
            if self.conflict.frames.is_some() {
                self.out.end_run(chunk);
                self.keep_no_longer();
            }
        }
    }

    /// The batch will not be run again for a conflict.
    pub(super) fn keep_no_longer(&mut self) {
        if self.conflict.frames.take().is_some() {
            self.out.release();
        }
    }

    /// An error of the client's statement on main. True: the client does not hear of it, the statement will be run again.
    pub(super) fn is_run_again(&mut self, error: &[u8], cx: &Cx<'_>) -> bool {
        let alone = match &self.request {
            Request::Simple(s) => !s.is_several() && !s.everywhere && !s.in_copy() && !self.out.has_spoken(),
            _ => self.conflict.frames.is_some(),
        };
        let first = |o: &Open| !o.failed && if o.implicit { !self.batch.begun } else { !o.answered };
        if !alone || !self.tx.open().is_some_and(first) || !Self::isolates(cx) || self.cancels > 0 {
            return false;
        }
        let conflict = ErrorFields::parse(error.get(5..).unwrap_or_default()).sqlstate == "40001";
        if !conflict || self.conflict.tries >= cx.env.config.replication.conflict_retries {
            return false;
        }
        self.conflict.tries += 1;
        self.conflict.again = true;
        self.conflict.block = self.tx.open().filter(|o| !o.implicit).map(|o| o.modes.clone());
        cx.env.recorder.borrow_mut().counters.conflicts += 1;
        true
    }

    /// The transaction is to be rolled back for it.
    pub(super) fn will_run_again(&self) -> bool {
        self.conflict.again
    }

    /// Its transaction is rolled back: the statement's messages are looked at once more, if they are to be.
    pub(super) fn run_again(&mut self) -> bool {
        if !std::mem::take(&mut self.conflict.again) {
            return false;
        }
        self.out.drop_held();
        self.tx = self.conflict.block.take().map_or(Tx::Idle, Tx::Begun);
        let frames = match (std::mem::take(&mut self.request), self.conflict.frames.take()) {
            (Request::Simple(s), _) => vec![s.frame()],
            (_, frames) => frames.unwrap_or_default(),
        };
        for f in frames.into_iter().rev() {
            if let Some(p) = front::Parse::read(f.body()).filter(|_| f.tag == b'P') {
                // The error has left its link with a statement that is closed before the name is used again.
                self.registry.remove(p.name);
            }
            self.inbox_bytes += f.raw.len();
            self.inbox.push_front(f);
        }
        self.registry.batch_repeated();
        self.batch = Batch::default();
        true
    }

    /// The request is answered.
    pub(super) fn conflict_over(&mut self) {
        self.keep_no_longer();
        self.conflict = Conflict::default();
    }
}
