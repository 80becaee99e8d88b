//! Reads on a replica that are run again elsewhere, as long as nothing of their answer has left: the reader says that the
//! statement writes, it is lost, or a commit has overtaken the snapshot.
//!
//! Main runs them; with `busy_reads = "wait"` one that was overtaken gets a snapshot on the replica in the gate. What a
//! reader has refused is a write from then on, whatever was proved of it.

use std::sync::Arc;

use bytes::Bytes;

use super::batch::Batch;
use super::io::Cx;
use super::owed::{Asked, Own, Whose};
use super::registry::Prepared;
use super::server::bytes_of;
use super::transaction::{Reads, Target};
use super::{Request, Session};
use crate::sim::planted::{Planted, is};
use crate::wire::error::ErrorFields;
use crate::wire::frame::{Frame, Piece};
use crate::wire::front;

/// What can be run again, as long as nothing of its answer has left.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// It will be, when the reader's last ReadyForQuery is here.
    pub why: Option<Why>,
    /// The batch, if it came by the extended protocol.
    pub frames: Vec<Frame>,
    /// Version of the newest statement that the client had prepared before it.
    pub since: u64,
}

/// Why a read is run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// The reader has said that the statement writes.
    Refuted,
    /// A commit was under way on some node while its snapshot was taken.
    Overtaken,
}

impl Session {
    /// A read of a block that main can go on with: kept back until its first row.
    pub(super) fn may_go_elsewhere(&mut self, cx: &Cx<'_>) {
        let Some(open) = self.tx.open().filter(|o| !o.failed) else { return };
        match open.on_replica() {
            Some(Reads::Singly) => self.note_look(false, None, cx),
            Some(Reads::Twin) => {}
            _ => return,
        }
        self.retry = Some(Retry::default());
        self.out.hold();
    }

    /// The reader answers a read of which nothing has left, and which it has not been found unable to answer.
    pub(super) fn may_still_go_elsewhere(&self) -> bool {
        self.retry.as_ref().is_some_and(|r| r.why.is_none())
    }

    /// A read on a reader may still be run again. True: the message has been dealt with.
    pub(super) fn first_answer(&mut self, chunk: &Bytes, piece: &Piece) -> bool {
        match piece.tag {
            b'D' | b'C' | b'I' | b's' | b'd' | b'H' => {}
            b'E' => {
                let fields = ErrorFields::parse(&bytes_of(chunk, piece)[5..]);
                if fields.sqlstate == "25006" {
                    self.out.end_run(chunk);
                    self.refuted();
                    return true;
                }
            }
            _ => return false,
        }
        self.out.end_run(chunk);
        self.out.release();
        if !is(Planted::ResendAnswered) {
            self.retry = None;
        }
        false
    }

    /// A commit was under way while the reader took its snapshot: nothing of the answer leaves, it is run again.
    pub(super) fn answer_elsewhere(&mut self, chunk: &Bytes) {
        self.out.end_run(chunk);
        self.out.drop_held();
        self.link(Target::Reader).into_iter().for_each(|l| l.owed.disown_all());
        self.retry.iter_mut().for_each(|r| r.why = Some(Why::Overtaken));
        self.registry.drop_all_unconfirmed();
    }

    /// The reader says that the statement writes: nothing of its answer has left, main runs it.
    fn refuted(&mut self) {
        self.out.drop_held();
        tracing::info!("a statement taken for a read writes; it runs on main");
        let Some(link) = self.link(Target::Reader) else { return };
        let skip = link.owed.head().is_some_and(|h| h.asked != Asked::Query && h.asked != Asked::Sync);
        if skip {
            link.owed.skip_to_sync();
            link.forget_fresh();
        }
        if let Some(head) = link.owed.head_mut() {
            head.whose = Whose::Own(Own::Tidy);
        }
        self.retry.iter_mut().for_each(|r| r.why = Some(Why::Refuted));
        self.forget_look();
        self.registry.drop_all_unconfirmed();
    }

    /// The reader has refused the statement, was lost, or was overtaken by a commit: it is run again.
    pub(super) fn run_elsewhere(&mut self, cx: &mut Cx<'_>) {
        let Some(retry) = self.retry.take() else { return };
        self.give_up_cut(cx);
        if self.tx.open().is_some_and(|o| matches!(o.on_replica(), Some(Reads::Singly | Reads::Twin))) {
            self.leave_reader(cx);
        }
        if matches!(self.request, Request::ImplicitEnd) {
            self.request = Request::None;
        }
        let again = retry.why == Some(Why::Overtaken);
        if let Request::Simple(s) = &mut self.request {
            s.is_run_again(again);
            // A reader that was lost proves nothing about the statement.
            return if retry.why == Some(Why::Refuted) { self.run_refuted(cx) } else { self.run_steps(cx) };
        }
        if retry.why == Some(Why::Refuted) {
            self.refute_batch(&retry.frames, cx);
        }
        // What of it has not been looked at yet is in the inbox still.
        let rest = self.batch_rest();
        let seen = retry.frames.len().saturating_sub(rest);
        for f in retry.frames.into_iter().take(seen).rev() {
            let parsed = front::Parse::read(f.body()).filter(|_| f.tag == b'P');
            // One that the client had before is refused again.
            let is_new = |p: &front::Parse<'_>| self.registry.statement(p.name).is_none_or(|s| s.version > retry.since);
            if let Some(p) = parsed.filter(is_new) {
                // Who runs it is asked whether it can be prepared; that the reader could does not count, even if it is the
                // reader again.
                self.registry.remove(p.name);
                self.disown(None, p.name);
            }
            self.inbox_bytes += f.raw.len();
            self.inbox.push_front(f);
        }
        if rest == 0 {
            self.registry.batch_repeated();
        }
        self.batch = Batch::run_again(again);
        self.pump(cx);
    }

    /// How many messages of the batch under way have not been looked at yet, its Sync among them.
    fn batch_rest(&self) -> usize {
        let sync = self.inbox.iter().position(|f| f.tag == b'S').filter(|_| self.batch.open);
        sync.map_or(0, |at| at + 1)
    }

    /// A statement that a reader refused is a write, whatever was proved of it.
    fn run_refuted(&mut self, cx: &mut Cx<'_>) {
        let Request::Simple(s) = &self.request else { return };
        let sql = s.text.slice(s.steps[s.next].clone());
        self.refute(&sql, cx);
        self.run_steps(cx);
    }

    fn refute(&self, sql: &[u8], cx: &Cx<'_>) {
        cx.env.verdicts.borrow_mut().refute(&String::from_utf8_lossy(sql), self.std_strings, &self.database);
    }

    /// The same of a batch: what it parses or binds is judged anew before main runs it.
    fn refute_batch(&mut self, frames: &[Frame], cx: &Cx<'_>) {
        for f in frames {
            if let Some(p) = front::Parse::read(f.body()).filter(|_| f.tag == b'P') {
                self.refute(p.sql, cx);
            }
            let Some(bind) = front::Bind::read(f.body()).filter(|_| f.tag == b'B') else { continue };
            let Some(old) = self.registry.statement(bind.statement).cloned() else { continue };
            self.refute(&old.sql, cx);
            let verdict = self.judge(&old.sql, cx);
            let (version, raw, sql, types) = (old.version, old.raw.clone(), old.sql.clone(), old.types.clone());
            let refuted = Prepared { version, raw, sql, types, verdict, asks: None };
            self.registry.insert(bind.statement, Arc::new(refuted), true);
        }
    }
}
