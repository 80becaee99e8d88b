//! The extended query protocol: batches of Parse, Bind, Describe, Execute, Close up to Sync.
//!
//! A batch is relayed as it comes; what it was answered with is held against the queue of owed replies. Only COMMIT
//! and ROLLBACK make it wait. BEGIN, COMMIT and ROLLBACK never reach a server by the client's own messages: their
//! Parse, Bind and Describe are answered locally (they have no parameters and return no rows), so that BEGIN costs no
//! round trip and COMMIT is the session's to do.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::commit::After;
use super::held::kept;
use super::io::Cx;
use super::leave::{OnReader, needs_main};
use super::link::Fresh;
use super::note::Note;
use super::owed::{Asked, Own, Whose};
use super::prepared::{is_reserved, no_statement, reserved, too_many};
use super::reader::ReaderIs;
use super::registry::Prepared;
use super::route::{Given, Plan, Retry, changes_logins};

use super::survey::has_own_types;
use super::transaction::{Target, Tx};
use super::{AfterRollback, Request, Session};
use crate::sql::cache::Verdict;
use crate::sql::class::Class;
use crate::wire::fault::fault;
use crate::wire::frame::Frame;
use crate::wire::front::{Bind, Parse, read_execute, read_target};
use crate::wire::{PgError, Severity, back, front, read_u16};

/// The batch that is being relayed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Its first message has been looked at. (COMMIT and ROLLBACK end what was decided then: the messages behind them
    /// are another transaction's.)
    pub(super) open: bool,
    /// Where it goes.
    target: Option<Target>,
    /// An error has been told: everything up to Sync is dropped, as the server does.
    skipping: bool,
    /// Something was sent to a server since the last Sync (the client's, or the one behind COMMIT and ROLLBACK).
    pub(super) sent: bool,
    /// A reader has refused it, or was lost.
    pub(super) force_main: bool,
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
    /// Nothing: nobody had heard of it, or it had failed already.
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

    /// A batch that no reader may serve.
    pub(super) fn on_main() -> Batch {
        Batch { force_main: true, ..Batch::default() }
    }

    /// The rest of the batch is dropped.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Main was lost. `open`: a transaction was.
    pub(super) fn lose(&mut self, open: bool) -> LostBatch {
        let owes = std::mem::take(&mut self.owes);
        if !self.open || self.target == Some(Target::Reader) || !(self.sent || open || owes) {
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
    /// A message of the extended protocol. False: it must wait.
    pub(super) fn extended(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if self.batch.copy_asked {
            return false;
        }
        if frame.tag != b'H' {
            self.batch.untold.take().into_iter().for_each(|error| self.out.push(error));
        }
        if self.batch.skipping && frame.tag != b'S' {
            return true;
        }
        let opens = !matches!(frame.tag, b'S' | b'H') || (frame.tag == b'H' && !frame.body().is_empty());
        if opens && !self.batch.open && !self.open_batch(cx) {
            return false;
        }
        match frame.tag {
            b'P' => self.parse(frame, cx),
            b'B' => self.bind(frame, cx),
            b'D' => self.describe(frame, cx),
            b'E' => self.execute(frame, cx),
            b'C' => self.close_target(frame, cx),
            b'S' if !frame.body().is_empty() => self.malformed_sync(frame, cx),
            b'S' => self.sync(frame, cx),
            _ if !frame.body().is_empty() => self.malformed(frame, cx),
            _ => {
                if self.batch.sent {
                    let target = self.target();
                    if let Some(l) = self.link(target) {
                        l.unflushed = false;
                        let conn = l.conn;
                        cx.io.send(conn, frame.raw.clone());
                    }
                }
                true
            }
        }
    }

    pub(super) fn target(&self) -> Target {
        self.batch.target.unwrap_or(Target::Lane)
    }

    /// Decides where the batch goes. False: it must wait.
    fn open_batch(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.has_catalogue(cx) {
            return false;
        }
        let survey = self.survey(cx);
        if survey.leaves && self.tx.open().is_some_and(|o| o.on == Target::Reader) {
            if !self.barrier(Target::Reader, cx) {
                return false;
            }
            if self.may_leave() {
                self.leave_reader(cx);
                return false;
            }
        }
        // Whether it may stand alone only the rest of the batch tells, which the network may have cut off.
        if survey.may_stand_alone() && matches!(self.tx, Tx::Idle) && !self.is_crowded(cx) {
            return false;
        }
        let force_main = self.batch.force_main;
        let target = match &self.tx {
            Tx::Open(o) => o.on,
            Tx::Idle if survey.read && !force_main && self.may_spread(cx) => match self.reader_is(cx) {
                ReaderIs::Ready => Target::Reader,
                ReaderIs::Coming => return false,
                ReaderIs::None => Target::Lane,
            },
            Tx::Begun(modes) if survey.read && !force_main && self.read_only_spread(&modes.clone(), cx) => {
                match self.reader_is(cx) {
                    ReaderIs::Ready => Target::Reader,
                    ReaderIs::Coming => return false,
                    ReaderIs::None => Target::Lane,
                }
            }
            _ => Target::Lane,
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
        // Something may have been sent before a COMMIT in the same batch, and the client's Sync is still to come.
        self.batch = Batch { open: true, target: Some(target), sent: self.batch.sent, ..Batch::default() };
        self.began.get_or_insert(cx.io.now());
        if target == Target::Reader && matches!(self.tx, Tx::Idle) {
            let until_sync = self.inbox.iter().position(|f| f.tag == b'S').unwrap_or(0);
            let frames = self.inbox.iter().take(until_sync + 1).cloned().collect();
            self.retry = Some(Retry { refuted: false, frames });
            self.out.hold();
        }
        match &self.tx {
            // A portal lives in the transaction in which it was bound.
            Tx::Begun(modes) if survey.touches || survey.executes > usize::from(survey.control) || !survey.complete => {
                let modes = modes.clone();
                self.open_transaction(target, false, modes, cx);
                self.batch.sent = true;
            }
            Tx::Idle if target == Target::Lane => {
                let alone = survey.complete && survey.executes <= 1;
                let begins = survey.begin.is_some() && survey.touches;
                if let Some(sql) = survey.everywhere.filter(|_| alone) {
                    self.batch.everywhere = Some(sql);
                } else if begins
                    || ((!survey.complete || survey.executes > 1 || survey.writes) && !(alone && survey.control))
                {
                    self.open_transaction(Target::Lane, true, survey.begin.unwrap_or_default(), cx);
                    self.batch.sent = true;
                }
            }
            _ => {}
        }
        true
    }

    fn parse(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some(p) = Parse::read(frame.body()) else { return self.malformed(frame, cx) };
        if is_reserved(p.name) {
            return self.refuse_in_batch(&reserved(p.name), cx);
        }
        if let Some(sql) = self.with_verifier(p.sql, cx) {
            let mut raw = BytesMut::new();
            front::parse(&mut raw, p.name, &sql, &p.types);
            return self.parse(&Frame { tag: b'P', raw: raw.freeze() }, cx);
        }
        let verdict = self.judge(p.sql, cx);
        let version = self.registry.next_version();
        let raw = kept(&frame.raw);
        let at = p.sql.as_ptr() as usize - frame.raw.as_ptr() as usize;
        let prepared = Arc::new(Prepared {
            version,
            sql: raw.slice(at..at + p.sql.len()),
            raw,
            types: Arc::from(p.types),
            verdict,
        });
        let limit = cx.env.config.limits.prepared_statements;
        if let Some(existing) = self.registry.statement(p.name).filter(|_| !p.name.is_empty()).cloned() {
            // The server will refuse it (StorePreparedStatement in prepare.c), if it finds nothing else to say; which
            // link knows the name is the proxy's affair.
            let target = self.target();
            self.prepare_on(target, p.name, &existing, cx);
            let note = Note::Replaced(Arc::from(p.name), prepared);
            self.send_client(target, frame.raw.clone(), Asked::Parse, note, cx);
            return true;
        }
        if !p.name.is_empty() && self.registry.len() >= limit {
            return self.refuse_in_batch(&too_many(limit), cx);
        }
        let class = prepared.verdict.class.clone();
        let control = is_control(&class);
        if let Some(went) = self.begin_in_failed(&class, cx) {
            return went;
        }
        self.registry.insert(p.name, prepared, false);
        let note = if p.name.is_empty() { Note::Unnamed } else { Note::Named };
        if control {
            self.local(Bytes::from_static(back::PARSE_COMPLETE), Asked::Parse, note, cx);
            return true;
        }
        let target = self.target();
        if target == Target::Lane {
            // The server looks at once for what EXECUTE names (UtilityTupleDescriptor in utility.c).
            self.bring_named(p.sql, &class, cx);
        }
        if !p.name.is_empty() {
            self.close_leftovers(target, cx);
        }
        if let Some(l) = self.link(target) {
            if p.name.is_empty() {
                l.unnamed = Some(version);
                l.prepares(Fresh::Unnamed);
            } else {
                let name: Arc<str> = Arc::from(p.name);
                l.statements.insert(name.clone(), version);
                l.prepares(Fresh::Named(name));
            }
        }
        self.send_client(target, frame.raw.clone(), Asked::Parse, note, cx);
        true
    }

    fn bind(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some(b) = Bind::read(frame.body()) else { return self.malformed(frame, cx) };
        if is_reserved(b.portal) {
            return self.refuse_in_batch(&reserved(b.portal), cx);
        }
        let target = self.target();
        let Some(statement) = self.registry.statement(b.statement).cloned() else {
            return self.refuse_in_batch(&no_statement(b.statement), cx);
        };
        let control = is_control(&statement.verdict.class);
        let taken = self.registry.portal(b.portal).filter(|_| !b.portal.is_empty());
        if taken.is_some_and(|p| control || is_control(&p.statement.verdict.class)) {
            // No server knows both of them (CreatePortal in portalmem.c).
            let e = PgError::error("42P03", format!("cursor \"{}\" already exists", b.portal));
            return self.refuse_in_batch(&e, cx);
        }
        if let Some(e) = supplied(b.statement, b.rest).filter(|_| control) {
            return self.refuse_in_batch(&e, cx);
        }
        if let Some(went) = self.begin_in_failed(&statement.verdict.class, cx) {
            return went;
        }
        self.registry.insert_portal(b.portal, statement.clone(), frame.raw.slice_ref(b.rest));
        if control {
            self.local(Bytes::from_static(back::BIND_COMPLETE), Asked::Bind, Note::Bound, cx);
            return true;
        }
        if target == Target::Lane {
            self.bring_named(&statement.sql, &statement.verdict.class, cx);
        }
        self.prepare_on(target, b.statement, &statement, cx);
        self.send_client(target, frame.raw.clone(), Asked::Bind, Note::Bound, cx);
        true
    }

    /// Prepares the statement where it is needed and not yet known.
    pub(super) fn prepare_on(&mut self, target: Target, name: &str, statement: &Prepared, cx: &mut Cx<'_>) {
        let Some(l) = self.link(target) else { return };
        let known = if name.is_empty() { l.unnamed } else { l.statements.get(name).copied() };
        if known == Some(statement.version) {
            return;
        }
        if name.is_empty() {
            l.unnamed = Some(statement.version);
            l.prepares(Fresh::Unnamed);
        } else {
            let key: Arc<str> = Arc::from(name);
            l.statements.insert(key.clone(), statement.version);
            l.prepares(Fresh::Named(key));
            let mut out = BytesMut::new();
            front::close(&mut out, b'S', name);
            self.forward(target, out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
        self.forward(target, statement.raw.clone(), Asked::Parse, Whose::Own(Own::Prepare), cx);
    }

    /// Closes what the link may have under names that the client may use anew.
    pub(super) fn close_leftovers(&mut self, target: Target, cx: &mut Cx<'_>) {
        let Some(l) = self.link(target) else { return };
        for name in std::mem::take(&mut l.leftover) {
            let Some(l) = self.link(target).filter(|l| !l.statements.contains_key(&name)) else { continue };
            let mut out = BytesMut::new();
            front::close(&mut out, b'S', &name);
            l.prepares(Fresh::Closed(name));
            self.forward(target, out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
    }

    /// The client has closed the statement: other links than this one still have it.
    pub(super) fn disown(&mut self, but: Option<Target>, name: &str) {
        for target in [Target::Lane, Target::Reader].into_iter().filter(|t| Some(*t) != but) {
            if let Some(l) = self.link(target) {
                l.disown(name);
            }
        }
        self.parked.iter_mut().for_each(|l| l.disown(name));
    }

    fn describe(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some((kind, name)) = read_target(frame.body()) else { return self.malformed(frame, cx) };
        let target = self.target();
        if kind == b'S' {
            if let Some(statement) = self.registry.statement(name).cloned() {
                if is_control(&statement.verdict.class) {
                    let mut both = BytesMut::from(back::NO_PARAMETERS);
                    both.extend_from_slice(back::NO_DATA);
                    self.local(both.freeze(), Asked::DescribeStatement, Note::Nothing, cx);
                    return true;
                }
                self.prepare_on(target, name, &statement, cx);
            }
            self.send_client(target, frame.raw.clone(), Asked::DescribeStatement, Note::Nothing, cx);
            return true;
        }
        if self.registry.portal(name).is_some_and(|p| is_control(&p.statement.verdict.class)) {
            self.local(Bytes::from_static(back::NO_DATA), Asked::DescribePortal, Note::Nothing, cx);
        } else {
            if self.registry.portal(name).is_none() {
                self.forget_own_portal(name, cx);
            }
            self.send_client(target, frame.raw.clone(), Asked::DescribePortal, Note::Nothing, cx);
        }
        true
    }

    /// The client asks for an unnamed portal that it has not made: it must not find one of the proxy's own (a BEGIN's).
    fn forget_own_portal(&mut self, name: &str, cx: &mut Cx<'_>) {
        if name.is_empty() {
            let mut out = BytesMut::new();
            front::close(&mut out, b'P', "");
            self.forward(self.target(), out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
    }

    /// The proxy has opened a block around the batch, and a server would not have: what a statement says to that which
    /// needs one (`RequireTransactionBlock`, `WarnNoTransactionBlock` in xact.c).
    pub(super) fn lacks_block(&self, verdict: &Verdict, sql: &[u8]) -> Option<PgError> {
        if self.batch.begun || self.tx.open().is_none_or(|o| !o.implicit) {
            return None;
        }
        let what = match &verdict.class {
            Class::Declare if !crate::sql::class::holds_cursor(&String::from_utf8_lossy(sql), self.std_strings) => {
                "DECLARE CURSOR"
            }
            Class::Lock => "LOCK TABLE",
            Class::Set { local: true, .. } => "SET LOCAL",
            Class::SetTransaction => "SET TRANSACTION",
            Class::SetConstraints => "SET CONSTRAINTS",
            _ => return None,
        };
        let e = PgError::error("25P01", format!("{what} can only be used in transaction blocks"));
        let warns = !matches!(verdict.class, Class::Declare | Class::Lock);
        Some(if warns { PgError { severity: Severity::Warning, ..e } } else { e })
    }

    fn execute(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some((name, rows)) = read_execute(frame.body()) else { return self.malformed(frame, cx) };
        let Some(portal) = self.registry.portal(name).cloned() else {
            // A cursor's portal, or one of a statement prepared by SQL.
            self.forget_own_portal(name, cx);
            self.send_client(self.target(), frame.raw.clone(), Asked::Execute, Note::Nothing, cx);
            return true;
        };
        let given = Given {
            sql: portal.statement.sql.clone(),
            types: portal.statement.types.clone(),
            bind: portal.bind.clone(),
            extended: true,
        };
        let verdict = self.known(&portal.statement, cx).verdict;
        self.bound |= verdict.leaves_state();
        match self.on_reader(&verdict, has_own_types(&given.types)) {
            OnReader::Stays => {}
            OnReader::Refuses => {
                self.send_client(Target::Reader, frame.raw.clone(), Asked::Execute, Note::Nothing, cx);
                return true;
            }
            // It came behind what had gone to the reader already.
            OnReader::Moves | OnReader::Cannot => {
                self.block_on_main = true;
                return self.refuse_in_batch(&needs_main(), cx);
            }
        }
        self.notice_custom(&given, &verdict);
        let plan = self.plan(&given, &verdict, cx);
        let copies = verdict.class == Class::CopyFrom { stdin: true };
        self.batch.copy_asked = copies && matches!(plan, Plan::Plain(_) | Plan::Write(..));
        match plan {
            Plan::Begin(modes) => match self.begin_in_failed(&verdict.class, cx) {
                Some(went) => went,
                None => self.execute_begin(&given.sql, modes, cx),
            },
            Plan::Commit { chain } => self.execute_commit(chain, cx),
            Plan::Rollback { chain } => self.execute_rollback(chain, cx),
            Plan::Refused(e) => self.refuse_in_batch(&e, cx),
            Plan::Everywhere => {
                self.forget_databases(&given.sql, cx);
                self.send_client(self.target(), frame.raw.clone(), Asked::Execute, Note::Nothing, cx);
                true
            }
            Plan::Plain(note) => {
                match self.lacks_block(&verdict, &given.sql) {
                    Some(e) if e.severity == Severity::Error => return self.refuse_in_batch(&e, cx),
                    Some(w) => self.local(w.encode(), Asked::Execute, Note::Nothing, cx),
                    None => {}
                }
                self.mark_unpreparable(&verdict.class);
                self.pin(&verdict.class, rows > 0);
                self.bring_named(&given.sql, &verdict.class, cx);
                let prepared = if let Note::PreparedBySql(p) = &note { Some(p.name.clone()) } else { None };
                self.send_client(self.target(), frame.raw.clone(), Asked::Execute, note, cx);
                if let Some(name) = prepared {
                    self.ask_types(&name, cx);
                }
                true
            }
            Plan::Write(mut pending, writes) => {
                if let Some(p) = self.registry.portal_mut(name) {
                    pending.noted = p.noted.get_or_insert_default().clone();
                }
                let fetches = pending.opaque && matches!(verdict.class, Class::Select { .. });
                pending.stepwise = fetches.then_some(portal.id);
                if writes.rows {
                    self.ask_info(true, cx);
                }
                let opaque = pending.opaque;
                let logins = writes.ddl && changes_logins(&verdict.class, &given.sql);
                if let Some(open) = self.tx.open_mut() {
                    open.ddl |= writes.ddl;
                    open.logins |= logins;
                }
                if opaque {
                    self.ran_opaque();
                }
                self.bring_named(&given.sql, &verdict.class, cx);
                self.send_client(self.target(), frame.raw.clone(), Asked::Execute, Note::Write(pending), cx);
                if opaque && self.tx.open().is_some() {
                    let bind = front::BIND_NOTHING_BINARY;
                    self.send_own_in(
                        Target::Lane,
                        ("_pgls_x", super::transaction::OPAQUE),
                        Own::Opaque,
                        "_pgls",
                        bind,
                        cx,
                    );
                }
                true
            }
        }
    }

    fn close_target(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some((kind, name)) = read_target(frame.body()) else { return self.malformed(frame, cx) };
        if is_reserved(name) {
            return self.refuse_in_batch(&reserved(name), cx);
        }
        let target = self.target();
        if kind == b'P' {
            let control = self.registry.portal(name).is_some_and(|p| is_control(&p.statement.verdict.class));
            self.registry.remove_portal(name);
            if control {
                self.local(Bytes::from_static(back::CLOSE_COMPLETE), Asked::Close, Note::Nothing, cx);
                return true;
            }
        } else {
            let control = self.registry.statement(name).is_some_and(|p| is_control(&p.verdict.class));
            let note = if self.registry.close(name) { Note::Named } else { Note::Nothing };
            if control {
                self.local(Bytes::from_static(back::CLOSE_COMPLETE), Asked::Close, note, cx);
                return true;
            }
            self.disown(Some(target), name);
            if let Some(l) = self.link(target) {
                if let Some((name, _)) = l.statements.remove_entry(name) {
                    l.prepares(Fresh::Closed(name));
                }
            }
            self.send_client(target, frame.raw.clone(), Asked::Close, note, cx);
            return true;
        }
        self.send_client(target, frame.raw.clone(), Asked::Close, Note::Nothing, cx);
        true
    }

    fn sync(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        // A Sync alone is answered here, and not before what a reader still owes to the batch before it.
        if !self.batch.open && !self.barrier(Target::Reader, cx) {
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
        if batch.sent {
            self.forward(target, frame.raw.clone(), Asked::Sync, Whose::Client(Note::Ready), cx);
            return true;
        }
        self.local(Bytes::new(), Asked::Sync, Note::Ready, cx);
        true
    }

    /// ReadyForQuery behind the last message of an implicit transaction.
    pub(super) fn implicit_end(&mut self, cx: &mut Cx<'_>) {
        match std::mem::take(&mut self.tx) {
            Tx::Open(open) if open.implicit && open.failed => {
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

    fn send_client(&mut self, target: Target, raw: Bytes, asked: Asked, note: Note, cx: &mut Cx<'_>) {
        self.batch.sent = true;
        self.forward(target, raw, asked, Whose::Client(note), cx);
    }

    /// A reply of the proxy's own, in its turn.
    pub(super) fn local(&mut self, bytes: Bytes, asked: Asked, note: Note, cx: &mut Cx<'_>) {
        let target = self.target();
        let quiet = self.link_ref(target).is_none_or(|l| l.owed.is_empty());
        if !quiet {
            if let Some(l) = self.link(target) {
                l.owed.push(asked, Whose::Local(bytes, note));
            }
            return;
        }
        self.out.push(bytes);
        if matches!(note, Note::Ready) {
            self.ready(cx);
        } else {
            self.take_note(target, note, &[], cx);
        }
    }

    /// A message that is none of its kind: an error like any other (`pq_getmsgend` and its like in pqformat.c).
    fn malformed(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        self.refuse_in_batch(&fault(frame.tag, frame.body()), cx)
    }

    /// Sync with a body: it fails first, then it is a Sync (`PostgresMain` in postgres.c).
    fn malformed_sync(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if !self.batch.open && !self.open_batch(cx) || !self.malformed(frame, cx) {
            return false;
        }
        self.sync(&Frame { tag: b'S', raw: Bytes::from_static(front::SYNC) }, cx)
    }

    /// A statement that the proxy will not run, in its turn.
    pub(super) fn refuse_in_batch(&mut self, e: &PgError, cx: &mut Cx<'_>) -> bool {
        if !self.barrier(self.target(), cx) {
            return false;
        }
        // Part of the answer is told: nothing of the batch can be run elsewhere.
        self.retry = None;
        self.out.release();
        self.out.push(e.encode());
        self.batch_failed();
        if let Tx::Begun(modes) = &self.tx {
            let modes = modes.clone();
            self.open_transaction(self.target(), false, modes, cx);
        }
        let status = self.tx.open().map(|o| (o.failed, o.on));
        if let Some((false, on)) = status {
            let mut out = BytesMut::new();
            front::parse(&mut out, "_pgls_refused", b"pglockstep_refused_a_statement", &[]);
            if let Some(open) = self.tx.open_mut() {
                open.failed = true;
            }
            self.batch.sent = true;
            self.forward(on, out.freeze(), Asked::Parse, Whose::Own(Own::Tidy), cx);
        }
        true
    }
}

/// What is wrong with a Bind (behind its names) of a statement without parameters and results (`exec_bind_message` in
/// postgres.c).
fn supplied(statement: &str, rest: &[u8]) -> Option<PgError> {
    let mut rest = rest;
    let mut number = || {
        let n = usize::from(read_u16(rest)?);
        rest = &rest[2..];
        Some(n)
    };
    let e = |text| Some(PgError::error("08P01", text));
    let read = (|| {
        let formats = number()?;
        (0..formats).try_for_each(|_| number().map(drop))?;
        Some((formats, number()?))
    })();
    let Some((formats, parameters)) = read else { return Some(invalid_format()) };
    match (formats, parameters) {
        (0 | 1, 0) => {}
        (_, 0) => return e(format!("bind message has {formats} parameter formats but 0 parameters")),
        _ if formats > 1 && formats != parameters => {
            return e(format!("bind message has {formats} parameter formats but {parameters} parameters"));
        }
        _ => {
            return e(format!(
                "bind message supplies {parameters} parameters, but prepared statement \"{statement}\" requires 0"
            ));
        }
    }
    // Formats of results, of which there are none, do no harm.
    let whole = number().is_some_and(|n| (0..n).try_for_each(|_| number().map(drop)).is_some());
    (!whole || !rest.is_empty()).then(invalid_format)
}

/// A message that is none of its kind.
fn invalid_format() -> PgError {
    PgError::error("08P01", "invalid message format")
}

pub(super) fn is_control(class: &Class) -> bool {
    matches!(class, Class::Begin(_) | Class::Commit { .. } | Class::Rollback { .. })
}
