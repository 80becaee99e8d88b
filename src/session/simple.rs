//! The simple query protocol: one string, one or many statements, one ReadyForQuery.
//!
//! The string is run statement by statement, each judged on its own. Several statements are one implicit transaction,
//! as in PostgreSQL (`exec_simple_query` in postgres.c), until a BEGIN among them makes it the client's.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::commit::After;
use super::elsewhere::Retry;
use super::extended::unreadable;
use super::image::warning;
use super::io::Cx;
use super::leave::{OnReader, needs_main};
use super::note::{Note, without_nul};
use super::owed::{Asked, Own, Whose};
use super::own_ddl::is_judged;
use super::reader::ReaderIs;
use super::route::{Given, Plan, Writes, only_in_blocks};
use super::rows::end_of;
use super::strings::Syntax;
use super::tokens::{Holds, shown, waits};
use super::transaction::{OPAQUE, Reads, Target, Tx};
use super::{AfterRollback, Request, Session, Stage};
use crate::sequencer::RowHash;
use crate::sql::cache::Verdict;
use crate::sql::class::{Class, TxModes};
use crate::sql::lexer::split_bytes;
use crate::wire::frame::{Frame, HEADER, Piece};
use crate::wire::{PgError, Severity, TxStatus, front};

/// A simple query that is being run.
#[derive(Debug)]
pub struct Simple {
    frame: Frame,
    pub(super) text: Bytes,
    pub(super) steps: Vec<Range<usize>>,
    pub(super) next: usize,
    pub(super) failed: bool,
    /// A reader has refused the statement, or was lost.
    force_main: bool,
    /// Its snapshot on a replica could not be used.
    again: bool,
    /// The statement that main is doing goes to every replica afterwards.
    pub(super) everywhere: bool,
    /// COPY FROM STDIN: the client's data is awaited.
    pub(super) copy: bool,
    /// The current step waits for a backend.
    waiting: bool,
    /// Of the whole string.
    pub(super) syntax: Syntax,
}

impl Simple {
    /// It is run again. `overtaken`: its snapshot on a replica could not be used; else main must do it.
    pub(super) fn is_run_again(&mut self, overtaken: bool) {
        (self.force_main, self.again) = (!overtaken, overtaken);
    }

    /// The client is sending COPY data.
    pub(super) fn in_copy(&self) -> bool {
        self.copy
    }

    /// The step waits for a reader, or for a lane.
    pub(super) fn waits(&self) -> bool {
        self.waiting
    }

    /// Its error has been told.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The client's message.
    pub(super) fn frame(&self) -> Frame {
        self.frame.clone()
    }

    fn is_last(&self) -> bool {
        self.next + 1 >= self.steps.len()
    }

    /// More than one statement stands in the string.
    pub(super) fn is_several(&self) -> bool {
        self.steps.len() > 1
    }

    /// The whole string.
    pub(super) fn text(&self) -> &Bytes {
        &self.text
    }

    /// What stands before the current step, if that is sent alone.
    pub(super) fn before_step(&self) -> Option<&[u8]> {
        let step = self.steps.get(self.next).filter(|_| self.is_several())?;
        self.text.get(..step.start)
    }
}

/// What became of a step.
pub(super) enum Went {
    /// It was answered locally.
    Done,
    /// A server is at work on it.
    Sent,
}

impl Session {
    /// A Query message. False: it must wait until all earlier replies are there.
    pub(super) fn simple_query(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let quiet = self.barrier(Target::Lane, cx) & self.barrier(Target::Reader, cx);
        if !quiet || !self.has_catalogue(cx) {
            return false;
        }
        if memchr::memchr(0, frame.body()) != frame.body().len().checked_sub(1) {
            return self.malformed_request(frame, cx);
        }
        let text = without_nul(&frame.raw.slice(HEADER..));
        let steps = split_bytes(&text, self.std_strings).statements;
        let steps = if steps.is_empty() { std::iter::once(0..text.len()).collect() } else { steps };
        // The server parses it first.
        if steps.len() > 1 && self.tx.target() != Some(Target::Reader) && !self.has_lane(cx) {
            return false;
        }
        let (frame, text, steps) = self.rewritten_steps(frame, text, steps, cx);
        self.registry.drop_unnamed();
        self.registry.batch_ends();
        self.batch.interrupt();
        self.began = Some(cx.io.now());
        self.out.begin();
        self.request = Request::Simple(self.simple(frame, text, steps));
        if !self.ask_syntax(cx) {
            self.run_steps(cx);
        }
        true
    }

    /// A Query or a FunctionCall that is none: an error, which ends the transaction, and ReadyForQuery. False: it must
    /// wait.
    pub(super) fn malformed_request(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if !matches!(self.tx, Tx::Idle) && self.tx.target() != Some(Target::Reader) && !self.has_lane(cx) {
            return false;
        }
        // A call is refused in a failed block before it is read (`HandleFunctionRequest` in fastpath.c).
        let aborted = frame.tag == b'F' && self.status() == TxStatus::Failed;
        let e = if aborted { super::lost::is_aborted() } else { unreadable(frame) };
        self.out.push(e.encode());
        self.fail_transaction(cx);
        self.registry.batch_ends();
        self.batch.interrupt();
        let simple = self.simple(frame.clone(), Bytes::new(), Vec::new());
        self.request = Request::Simple(Simple { failed: true, ..simple });
        self.finish_simple(cx);
        true
    }

    fn simple(&self, frame: Frame, text: Bytes, steps: Vec<Range<usize>>) -> Simple {
        Simple {
            frame,
            text,
            steps,
            next: 0,
            failed: false,
            force_main: false,
            again: false,
            everywhere: false,
            copy: false,
            waiting: false,
            syntax: Syntax::default(),
        }
    }

    /// The same query, each statement as servers are to have it.
    fn rewritten_steps(
        &self,
        frame: &Frame,
        text: Bytes,
        steps: Vec<Range<usize>>,
        cx: &mut Cx<'_>,
    ) -> (Frame, Bytes, Vec<Range<usize>>) {
        let rewritten: Vec<Option<Bytes>> = steps.iter().map(|s| self.rewritten(&text[s.clone()], cx)).collect();
        if rewritten.iter().all(Option::is_none) {
            return (frame.clone(), text, steps);
        }
        let (mut whole, mut places, mut at) = (BytesMut::new(), Vec::new(), 0);
        for (step, new) in steps.iter().zip(&rewritten) {
            whole.extend_from_slice(&text[at..step.start]);
            let start = whole.len();
            whole.extend_from_slice(new.as_deref().unwrap_or(&text[step.clone()]));
            places.push(start..whole.len());
            at = step.end;
        }
        whole.extend_from_slice(&text[at..]);
        let mut raw = BytesMut::new();
        front::query(&mut raw, &whole);
        (Frame { tag: b'Q', raw: raw.freeze() }, whole.freeze(), places)
    }

    /// Runs steps until one is at a server, or all are done.
    pub(super) fn run_steps(&mut self, cx: &mut Cx<'_>) {
        loop {
            let Request::Simple(s) = &self.request else { return };
            if s.failed || s.next >= s.steps.len() {
                return self.finish_simple(cx);
            }
            match self.step(cx) {
                Went::Done => {
                    if let Request::Simple(s) = &mut self.request {
                        s.next += 1;
                    }
                }
                Went::Sent => return,
            }
        }
    }

    /// The backend that a step waited for is there, or will not come.
    pub(super) fn resume_step(&mut self, cx: &mut Cx<'_>) {
        // Nobody would close a backend that is opened for a session that is over.
        if matches!(self.stage, Stage::Over) {
            return;
        }
        let Request::Simple(s) = &mut self.request else { return };
        if std::mem::take(&mut s.waiting) {
            self.run_steps(cx);
        }
    }

    fn step(&mut self, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &self.request else { return Went::Done };
        let sql = s.text.slice(s.steps[s.next].clone());
        let mut verdict = self.judge(&sql, cx);
        // A statement before it in the string may have changed the catalogue.
        if is_judged(&verdict.class) && !self.has_catalogue(cx) {
            return self.step_waits();
        }
        match self.view_holds(&verdict.class, cx) {
            Holds::Yes if self.is_current(&verdict) => {}
            Holds::Yes => verdict = self.judge(&sql, cx),
            Holds::Waits => return self.step_waits(),
            Holds::Never(e) => return self.refuse(&e, cx),
        }
        if matches!(self.digits_hold(&verdict, cx), Holds::Waits) {
            return self.step_waits();
        }
        if verdict.class == Class::ExplainPglockstep {
            return self.simple_explain(&sql, cx);
        }
        if let Class::ShowProxy(shown) = verdict.class {
            return self.simple_show(shown, cx);
        }
        self.renew_executed(&verdict.class, cx);
        let given = Given {
            sql: sql.clone(),
            types: std::sync::Arc::from([]),
            bind: Bytes::from_static(front::BIND_NOTHING),
            extended: false,
            rows: self.rows_of(&sql, &verdict),
        };
        if self.min_csn.heard && waits(&verdict.class) {
            match self.min_csn_holds(cx) {
                Holds::Yes => {}
                Holds::Waits => return self.step_waits(),
                Holds::Never(e) => return self.refuse(&e, cx),
            }
        }
        self.bound |= verdict.leaves_state();
        self.notice_custom(&given, &verdict);
        let plan = self.plan(&given, &verdict, cx);
        match self.on_reader(&verdict, false) {
            OnReader::Stays if !verdict.class.is_block_control() && self.must_leave(cx) => {
                self.leave_reader(cx);
                return self.step(cx);
            }
            OnReader::Stays => {}
            OnReader::Refuses => return self.send_step(Note::Nothing, None, cx),
            OnReader::Moves => {
                self.leave_reader(cx);
                return self.step(cx);
            }
            OnReader::Cannot => {
                self.block_on_main = true;
                return self.refuse(&needs_main(), cx);
            }
        }
        if self.step_needs_lane(&plan, &verdict, cx) && !self.has_lane(cx) {
            return self.step_waits();
        }
        match self.has_slot(&plan, &sql, cx) {
            Ok(true) => {}
            Ok(false) => return self.step_waits(),
            Err(e) => return self.refuse(&e, cx),
        }
        match plan {
            Plan::Begin(modes) => self.simple_begin(&sql, modes, cx),
            Plan::Commit { chain } => self.simple_commit(chain, cx),
            Plan::Rollback { chain } => self.simple_rollback(chain, cx),
            Plan::Refused(e) => self.refuse(&e, cx),
            Plan::Answer => self.simple_explain(&sql, cx),
            Plan::Everywhere => self.simple_everywhere(cx),
            Plan::Plain(note) => self.simple_plain(note, &verdict, cx),
            Plan::Write(pending, writes) => self.simple_write(pending, writes, &verdict.class, cx),
        }
    }

    /// Main is to do it; what is answered here, and what a reader may do, needs no backend there.
    fn step_needs_lane(&self, plan: &Plan, verdict: &Verdict, cx: &Cx<'_>) -> bool {
        let Request::Simple(s) = &self.request else { return true };
        let asks_us = shown(&s.text[s.steps[s.next].clone()], &verdict.class).is_some();
        match (plan, &self.tx) {
            (_, Tx::Open(o)) => o.on == Target::Lane,
            (Plan::Begin(_), _) | (Plan::Commit { .. } | Plan::Rollback { .. }, Tx::Begun(_)) => false,
            (Plan::Plain(_), _) if !verdict.is_read() || s.force_main || asks_us => true,
            (Plan::Plain(_), Tx::Idle) => {
                let row = self.row_of_step(verdict);
                let main = || Self::single_read(verdict.class == Class::Show, s.again, row, cx).is_none();
                s.is_several() || !self.may_spread(cx) || main()
            }
            (Plan::Plain(_), Tx::Begun(modes)) => self.block_reads(modes, cx).is_none_or(|r| r == Reads::Twin),
            _ => true,
        }
    }

    /// A statement that the proxy will not run. The transaction has failed, as after any error.
    pub(super) fn refuse(&mut self, e: &PgError, cx: &mut Cx<'_>) -> Went {
        self.out.push(e.encode());
        self.step_failed();
        self.fail_transaction(cx);
        Went::Done
    }

    /// The client's transaction fails for a reason that no server knows: the server's must fail too, and text that
    /// cannot be parsed does that.
    pub(super) fn fail_transaction(&mut self, cx: &mut Cx<'_>) {
        if let Tx::Begun(modes) = &self.tx {
            let modes = modes.clone();
            self.begin_on_main(false, modes, cx);
        }
        let Some(open) = self.tx.open_mut().filter(|o| !o.failed) else { return };
        open.failed = true;
        let on = open.on;
        let mut out = BytesMut::new();
        front::query(&mut out, b"pglockstep_refused_a_statement");
        self.forward(on, out.freeze(), Asked::Query, Whose::Own(Own::Tidy), cx);
    }

    fn simple_everywhere(&mut self, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &mut self.request else { return Went::Done };
        // In a block, or in a string of several statements, the server refuses it.
        if s.steps.len() == 1 && matches!(self.tx, Tx::Idle) {
            s.everywhere = true;
            let text = s.text.clone();
            self.forget_databases(&text, cx);
            if self.settings_dirty {
                self.ask_settings(cx);
            }
        } else {
            self.enter_block(cx);
        }
        self.send_step(Note::Nothing, None, cx)
    }

    /// A statement that one server runs and no replica hears of.
    fn simple_plain(&mut self, note: Note, verdict: &Verdict, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &self.request else { return Went::Done };
        let shown = shown(&s.text[s.steps[s.next].clone()], &verdict.class);
        let (single, again) = (s.steps.len() == 1, s.again);
        let force_main = s.force_main || shown.is_some();
        match self.lacks_block(verdict, &s.text).filter(|_| single) {
            Some(e) if e.severity == Severity::Error => return self.refuse(&e, cx),
            Some(w) => self.out.push(w.encode()),
            None => {}
        }
        match &self.tx {
            Tx::Open(_) => {}
            Tx::Begun(modes) => {
                let modes = modes.clone();
                let reads = self.block_reads(&modes, cx).filter(|r| !force_main && r.may_begin_with(verdict, single));
                match reads.map(|reads| (reads, self.reader_is(cx))) {
                    Some((_, ReaderIs::Coming)) => return self.step_waits(),
                    Some((reads, ReaderIs::Ready)) if !self.may_begin(reads, cx) => return self.step_waits(),
                    Some((reads, ReaderIs::Ready)) => self.begin_on_reader(reads, modes, cx),
                    _ if !self.has_lane(cx) => return self.step_waits(),
                    _ => self.enter_block(cx),
                }
            }
            Tx::Idle if single => {
                let spreads = verdict.is_read() && !force_main && self.may_spread(cx);
                let shows = verdict.class == Class::Show;
                let row = if spreads { self.row_of_step(verdict) } else { None };
                let reads = if spreads { Self::single_read(shows, again, row, cx) } else { None };
                if spreads && reads.is_none() && !again {
                    Self::count_busy(cx);
                }
                match reads.map(|reads| (reads, self.reader_is(cx))) {
                    Some((_, ReaderIs::Coming)) => return self.step_waits(),
                    Some((reads, ReaderIs::Ready)) if !self.may_begin(reads, cx) => return self.step_waits(),
                    Some((reads, ReaderIs::Ready)) => {
                        self.count_select(&verdict.class, Target::Reader, cx);
                        return self.send_read(reads, row, cx);
                    }
                    _ if !self.has_lane(cx) => return self.step_waits(),
                    _ => self.see_to_default(cx),
                }
            }
            Tx::Idle if matches!(note, Note::Savepoint(_) | Note::RollbackTo(_) | Note::Release(_)) => {
                return self.refuse(&only_in_blocks(&verdict.class), cx);
            }
            Tx::Idle => self.enter_block(cx),
        }
        self.may_go_elsewhere(cx);
        match shown.map_or(Holds::Yes, |shown| self.sets_shown(shown, false, cx)) {
            Holds::Yes => {}
            Holds::Waits => return self.step_waits(),
            Holds::Never(e) => return self.refuse(&e, cx),
        }
        self.mark_unpreparable(verdict);
        self.pin(&verdict.class, false);
        self.send_named(note, &verdict.class, None, cx)
    }

    /// A statement that may name prepared statements of the session's.
    fn send_named(&mut self, note: Note, class: &Class, ask_xid: Option<()>, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &self.request else { return Went::Done };
        let sql = s.text.slice(s.steps[s.next].clone());
        if self.tx.target() != Some(Target::Reader) {
            self.bring_named(&sql, class, cx);
        }
        self.count_select(class, self.tx.target().unwrap_or(Target::Lane), cx);
        let prepared = if let Note::PreparedBySql(p) = &note { Some(p.name.clone()) } else { None };
        let went = self.send_step(note, ask_xid, cx);
        if let Some(name) = prepared {
            self.ask_types(&name, cx);
            self.sync_own(Target::Lane, Own::Types, cx);
        }
        went
    }

    /// The row that the step looks at, if it is a read of one alone.
    fn row_of_step(&self, verdict: &Verdict) -> Option<RowHash> {
        let Request::Simple(s) = &self.request else { return None };
        self.row_read(verdict, &s.text[s.steps.get(s.next)?.clone()], &[], &[])
    }

    /// A reader or a lane is awaited.
    pub(super) fn step_waits(&mut self) -> Went {
        if let Request::Simple(s) = &mut self.request {
            s.waiting = true;
        }
        Went::Sent
    }

    /// A single read on the reader: kept back until its first row, so that main can still do it.
    fn send_read(&mut self, reads: Reads, row: Option<RowHash>, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &self.request else { return Went::Done };
        let raw = s.frame.raw.clone();
        self.retry = Some(Retry::default());
        self.out.hold();
        match reads {
            Reads::Cut => self.begin_on_reader(reads, TxModes::default(), cx),
            _ => self.note_look(false, row, cx),
        }
        self.forward_query(Target::Reader, raw, Note::Nothing, cx);
        Went::Sent
    }

    fn simple_write(
        &mut self,
        pending: Box<super::note::PendingWrite>,
        writes: Writes,
        class: &Class,
        cx: &mut Cx<'_>,
    ) -> Went {
        let keyed = pending.proof.is_some() && !pending.by_rows;
        match &self.tx {
            Tx::Idle if keyed && !matches!(&self.request, Request::Simple(s) if s.is_several()) => {
                let modes = self.modes_of_keyed(cx);
                self.begin_on_main(true, modes, cx);
            }
            _ => self.enter_block(cx),
        }
        self.mark_image(&pending);
        self.counts_anew(class);
        if pending.opaque {
            self.ask_baseline(false, cx);
        }
        pending.warning.iter().for_each(|why| self.out.push(warning(why).encode()));
        if writes.rows {
            self.ask_info(false, cx);
        }
        let opaque = pending.opaque;
        self.mark_catalogue(writes, opaque, class, pending.statement.sql.memory());
        if opaque {
            self.ran_opaque();
        }
        self.send_named(Note::Write(pending), class, opaque.then_some(()), cx)
    }

    /// Sends the current step. `ask_xid`: nobody knows whether it writes, so main is asked behind it.
    pub(super) fn send_step(&mut self, note: Note, ask_xid: Option<()>, cx: &mut Cx<'_>) -> Went {
        let Request::Simple(s) = &self.request else { return Went::Done };
        let target = self.tx.target().unwrap_or(Target::Lane);
        let step = || &s.text[s.steps[s.next].clone()];
        let asked = if let Note::Write(p) = &note { p.asked.as_ref().filter(|_| !p.executes) } else { None };
        let asked = asked.map(|rows| rows.asked(step(), end_of(step(), self.std_strings)));
        let raw = match asked {
            None if s.steps.len() == 1 => s.frame.raw.clone(),
            asked => {
                let mut out = BytesMut::new();
                front::query(&mut out, asked.as_deref().unwrap_or_else(step));
                out.freeze()
            }
        };
        self.forward_query(target, raw, note, cx);
        if ask_xid.is_some() && self.tx.open().is_some() {
            let bind = front::BIND_NOTHING_BINARY;
            self.send_own_in(target, ("_pgls_x", OPAQUE), Own::Opaque, "", bind, cx);
            self.sync_own(target, Own::Opaque, cx);
        }
        Went::Sent
    }

    pub(super) fn send_text(&mut self, target: Target, sql: &'static str, note: Note, cx: &mut Cx<'_>) -> Went {
        let mut out = BytesMut::new();
        front::query(&mut out, sql.as_bytes());
        self.forward_query(target, out.freeze(), note, cx);
        Went::Sent
    }

    fn forward_query(&mut self, target: Target, raw: Bytes, note: Note, cx: &mut Cx<'_>) {
        if let Some(l) = self.link(target) {
            l.unnamed = None;
        }
        self.forward(target, raw, Asked::Query, Whose::Client(note), cx);
    }

    /// CommandComplete of a step. The last one of an implicit transaction waits for the commit, as in PostgreSQL.
    pub(super) fn simple_complete(&mut self, chunk: &Bytes, piece: &Piece) {
        if let Request::Simple(s) = &self.request {
            let implicit = self.tx.open().is_some_and(|o| o.implicit);
            if s.everywhere || (implicit && s.is_last()) {
                self.out.end_run(chunk);
                self.out.hold();
            }
        }
        self.out.relay(chunk, &piece.place);
        if self.out.is_holding() {
            self.out.end_run(chunk);
        }
    }

    /// The same of a step that the proxy has answered itself.
    pub(super) fn local_complete(&mut self, complete: Bytes) {
        let implicit = self.tx.open().is_some_and(|o| o.implicit);
        if implicit && matches!(&self.request, Request::Simple(s) if s.is_last()) {
            self.out.hold();
        }
        self.out.push(complete);
    }

    /// An error has been sent to the client for the current step.
    pub(super) fn step_failed(&mut self) {
        if let Request::Simple(s) = &mut self.request {
            s.failed = true;
            if std::mem::take(&mut s.copy) {
                self.reconsider_syncs();
            }
        }
    }

    /// ReadyForQuery of a step.
    pub(super) fn step_done(&mut self, target: Target, status: TxStatus, cx: &mut Cx<'_>) {
        self.retry = None;
        let Request::Simple(s) = &mut self.request else { return };
        s.copy = false;
        if s.everywhere && !s.failed {
            let sql = s.text.clone();
            return self.start_everywhere(sql, After::SimpleEnd, cx);
        }
        s.next += 1;
        if status == TxStatus::Idle && self.tx.target() == Some(target) {
            // The transaction ended on the server without the session's doing (its BEGIN failed).
            self.tx = Tx::Idle;
        }
        // Own requests behind the step (the transaction's id) are answered first.
        if self.link_ref(target).is_some_and(|l| !l.owed.is_empty()) {
            self.steps_wait = true;
            return;
        }
        self.run_steps(cx);
    }

    /// Own requests behind a step have been answered.
    pub(super) fn own_answered(&mut self, cx: &mut Cx<'_>) {
        if self.link_ref(Target::Lane).is_some_and(|l| !l.owed.is_empty()) {
            return;
        }
        if std::mem::take(&mut self.steps_wait) {
            return self.run_steps(cx);
        }
        // What asks main itself waits until nothing else is asked.
        self.resume_step(cx);
    }

    /// All steps are done, or one has failed.
    pub(super) fn finish_simple(&mut self, cx: &mut Cx<'_>) {
        match std::mem::take(&mut self.tx) {
            Tx::Open(open) if open.failed && (open.implicit || self.will_run_again()) => {
                self.tx = Tx::Open(open);
                self.roll_back_lane(AfterRollback::Simple, cx);
            }
            Tx::Open(open) if open.implicit => {
                let failed = matches!(&self.request, Request::Simple(s) if s.failed);
                // A cut has nothing to commit.
                if failed || open.on == Target::Reader {
                    self.tx = Tx::Open(open);
                    return self.roll_back_lane(AfterRollback::Simple, cx);
                }
                self.start_commit(open, After::SimpleEnd, cx);
            }
            tx => {
                self.tx = tx;
                self.simple_ready(cx);
            }
        }
    }

    pub(super) fn simple_ready(&mut self, cx: &mut Cx<'_>) {
        self.request = Request::None;
        self.out.release();
        self.ready(cx);
    }
}
