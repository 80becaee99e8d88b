//! The extended query protocol: batches of Parse, Bind, Describe, Execute, Close up to Sync.
//!
//! A batch is relayed as it comes; what it was answered with is held against the queue of owed replies. Only COMMIT
//! and ROLLBACK make it wait. BEGIN, COMMIT and ROLLBACK never reach a server by the client's own messages: their
//! Parse, Bind and Describe are answered locally (they have no parameters and return no rows), so that BEGIN costs no
//! round trip and COMMIT is the session's to do.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::held::kept;
use super::image::warning;
use super::io::Cx;
use super::leave::{OnReader, needs_main};
use super::link::Fresh;
use super::note::Note;
use super::owed::{Asked, Own, Whose};
use super::prepared::{is_reserved, no_statement, reserved, too_many};
use super::registry::Prepared;
use super::route::{Given, Plan};
use super::rows::{Asks, bind_for, end_of};
use super::survey::has_own_types;
use super::tokens::{Holds, shown};
use super::transaction::{Reads, Target, Tx};
use crate::sql::cache::Verdict;
use crate::sql::class::Class;
use crate::wire::fault::fault;
use crate::wire::frame::Frame;
use crate::wire::front::{Bind, Parse, read_execute, read_target};
use crate::wire::{PgError, Severity, back, front, read_u16};

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
        if let Some(e) = self.min_csn.fails.clone().filter(|_| opens) {
            let went = self.refuse_in_batch(&e, cx);
            self.min_csn.fails = self.min_csn.fails.take().filter(|_| !went);
            return went;
        }
        if let Some(went) = self.batch_awaits_view(frame, cx) {
            return went;
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

    fn parse(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some(p) = Parse::read(frame.body()) else { return self.malformed(frame, cx) };
        if is_reserved(p.name) {
            return self.refuse_in_batch(&reserved(p.name), cx);
        }
        if let Some(sql) = self.rewritten(p.sql, cx) {
            let mut raw = BytesMut::new();
            front::parse(&mut raw, p.name, &sql, &p.types);
            return self.parse(&Frame { tag: b'P', raw: raw.freeze() }, cx);
        }
        let verdict = self.judge(p.sql, cx);
        if matches!(self.digits_hold(&verdict, cx), Holds::Waits) {
            return false;
        }
        self.renew_executed(&verdict.class, cx);
        let version = self.registry.next_version();
        let raw = kept(&frame.raw);
        let at = p.sql.as_ptr() as usize - frame.raw.as_ptr() as usize;
        let sql = raw.slice(at..at + p.sql.len());
        let instead = match verdict.class {
            Class::ExplainPglockstep => self.parse_of_explained(&p, cx),
            Class::ShowProxy(shown) => {
                let mut parse = BytesMut::new();
                front::parse(&mut parse, p.name, shown.stand_in().as_bytes(), &p.types);
                Some(parse.freeze())
            }
            _ => None,
        };
        let (raw, types) = (instead.unwrap_or(raw), Arc::from(p.types));
        let asks = self.asks(p.name, &sql, &types, &verdict);
        let prepared = Arc::new(Prepared { version, sql, raw: raw.clone(), types, verdict, asks });
        let limit = cx.env.config.limits.prepared_statements;
        if let Some(existing) = self.registry.statement(p.name).filter(|_| !p.name.is_empty()).cloned() {
            // The server will refuse it (StorePreparedStatement in prepare.c), if it finds nothing else to say; which
            // link knows the name is the proxy's affair.
            let target = self.target();
            self.prepare_on(target, p.name, &existing, cx);
            let note = Note::Replaced(Arc::from(p.name), prepared);
            self.send_client(target, raw, Asked::Parse, note, cx);
            return true;
        }
        if !p.name.is_empty() && self.registry.len() >= limit {
            return self.refuse_in_batch(&too_many(limit), cx);
        }
        let class = prepared.verdict.class.clone();
        let control = class.is_block_control();
        if let Some(went) = self.begin_in_failed(&class, cx) {
            return went;
        }
        self.registry.insert(p.name, prepared.clone(), false);
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
        self.defines_shown(target, p.sql, &class, cx);
        let asks = prepared.asks.as_ref().filter(|_| target == Target::Lane);
        let version = if asks.is_some() { prepared.asking_version() } else { version };
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
        let raw = asks.map_or(raw, |a| a.raw.clone());
        self.send_client(target, raw, Asked::Parse, note, cx);
        true
    }

    /// What main is asked besides, if the statement reaches the replicas by its rows.
    pub(super) fn asks(&self, name: &str, sql: &Bytes, types: &[u32], verdict: &Verdict) -> Option<Asks> {
        let rows = self.rows_of(sql, verdict)?;
        let mut raw = BytesMut::new();
        match verdict.class {
            Class::Execute(_) => front::parse(&mut raw, name, sql, types),
            _ => front::parse(&mut raw, name, &rows.asked(sql, end_of(sql, self.std_strings)), types),
        }
        Some(Asks { rows, raw: raw.freeze() })
    }

    /// What EXECUTE names, as it is to be used now.
    pub(super) fn renew_executed(&mut self, class: &Class, cx: &mut Cx<'_>) {
        let Class::Execute(name) = class else { return };
        if let Some(statement) = self.registry.statement(name).cloned() {
            self.renewed(name, statement, cx);
        }
    }

    /// The statement as it is to be used now: judged anew if the catalogue has moved, and with the text for main that
    /// follows from that.
    fn renewed(&mut self, name: &str, statement: Arc<Prepared>, cx: &mut Cx<'_>) -> Arc<Prepared> {
        let fresh = self.is_current(&statement.verdict);
        let may_ask = || statement.asks.is_none() || self.rows_of(&statement.sql, &statement.verdict).is_some();
        if fresh && may_ask() {
            return statement;
        }
        let verdict = self.judge(&statement.sql, cx);
        self.renew_executed(&verdict.class, cx);
        let asks = self.asks(name, &statement.sql, &statement.types, &verdict);
        let same = match (&asks, &statement.asks) {
            (None, None) => true,
            (Some(a), Some(b)) => a.raw == b.raw && a.rows.statement == b.rows.statement,
            _ => false,
        };
        if same {
            return statement;
        }
        let version = self.registry.next_version();
        let (raw, sql, types) = (statement.raw.clone(), statement.sql.clone(), statement.types.clone());
        let renewed = Arc::new(Prepared { version, raw, sql, types, verdict, asks });
        self.registry.insert(name, renewed.clone(), true);
        renewed
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
        let known = self.known(&statement, cx).verdict;
        if matches!(self.digits_hold(&known, cx), Holds::Waits) {
            return false;
        }
        let statement = self.renewed(b.statement, statement, cx);
        let control = statement.verdict.class.is_block_control();
        let taken = self.registry.portal(b.portal).filter(|_| !b.portal.is_empty());
        if taken.is_some_and(|p| control || p.statement.verdict.class.is_block_control()) {
            // No server knows both of them (CreatePortal in portalmem.c).
            let e = PgError::error("42P03", format!("cursor \"{}\" already exists", b.portal));
            return self.refuse_in_batch(&e, cx);
        }
        if control {
            if let Some(e) = supplied(b.statement, frame.body(), b.rest) {
                return self.refuse_in_batch(&e, cx);
            }
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
        self.defines_shown(target, &statement.sql, &statement.verdict.class, cx);
        self.prepare_on(target, b.statement, &statement, cx);
        let told = match statement.asked().filter(|_| target == Target::Lane) {
            Some(rows) => bind_for(b.rest, &rows).0,
            None => None,
        };
        let raw = told.map_or_else(
            || frame.raw.clone(),
            |rest| {
                let mut out = BytesMut::new();
                front::bind_raw(&mut out, b.portal, b.statement, &rest);
                out.freeze()
            },
        );
        self.send_client(target, raw, Asked::Bind, Note::Bound, cx);
        true
    }

    fn describe(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let Some((kind, name)) = read_target(frame.body()) else { return self.malformed(frame, cx) };
        let target = self.target();
        if kind == b'S' {
            if let Some(statement) = self.registry.statement(name).cloned() {
                if statement.verdict.class.is_block_control() {
                    let mut both = BytesMut::from(back::NO_PARAMETERS);
                    both.extend_from_slice(back::NO_DATA);
                    self.local(both.freeze(), Asked::DescribeStatement, Note::Nothing, cx);
                    return true;
                }
                let statement = self.renewed(name, statement, cx);
                self.defines_shown(target, &statement.sql, &statement.verdict.class, cx);
                self.prepare_on(target, name, &statement, cx);
                let note = described(target, &statement);
                self.send_client(target, frame.raw.clone(), Asked::DescribeStatement, note, cx);
                return true;
            }
            self.send_client(target, frame.raw.clone(), Asked::DescribeStatement, Note::Nothing, cx);
            return true;
        }
        if self.registry.portal(name).is_some_and(|p| p.statement.verdict.class.is_block_control()) {
            self.local(Bytes::from_static(back::NO_DATA), Asked::DescribePortal, Note::Nothing, cx);
        } else {
            let note = self.registry.portal(name).map(|p| described(target, &p.statement));
            if note.is_none() {
                self.forget_own_portal(name, cx);
            }
            self.send_client(target, frame.raw.clone(), Asked::DescribePortal, note.unwrap_or_default(), cx);
        }
        true
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
            Class::SetTransaction(_) => "SET TRANSACTION",
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
            rows: portal.statement.asked(),
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
        let plan = self.without_rows(self.plan(&given, &verdict, cx), &portal.bind, rows, &verdict, cx);
        match self.has_slot(&plan, &given.sql, cx) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(e) => return self.refuse_in_batch(&e, cx),
        }
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
            Plan::Answer => self.execute_answer(name, rows, cx),
            Plan::Everywhere => {
                self.forget_databases(&given.sql, cx);
                self.send_client(self.target(), frame.raw.clone(), Asked::Execute, Note::Nothing, cx);
                true
            }
            Plan::Plain(note) => {
                match shown(&given.sql, &verdict.class).map_or(Holds::Yes, |shown| self.sets_shown(shown, true, cx)) {
                    Holds::Yes => {}
                    Holds::Waits => return false,
                    Holds::Never(e) => return self.refuse_in_batch(&e, cx),
                }
                match self.lacks_block(&verdict, &given.sql) {
                    Some(e) if e.severity == Severity::Error => return self.refuse_in_batch(&e, cx),
                    Some(w) => self.local(w.encode(), Asked::Execute, Note::Nothing, cx),
                    None => {}
                }
                self.mark_unpreparable(&verdict);
                self.pin(&verdict.class, rows > 0);
                // A batch that a reader will refuse (its Parse names what there is already) asks nothing of the lane.
                let on_lane = self.target() == Target::Lane;
                if on_lane {
                    self.bring_named(&given.sql, &verdict.class, cx);
                }
                let prepared = match &note {
                    Note::PreparedBySql(p) if on_lane => Some(p.name.clone()),
                    _ => None,
                };
                self.count_select(&verdict.class, self.target(), cx);
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
                let mut raw = frame.raw.clone();
                if let Some(asked) = pending.asked.clone() {
                    pending.binary = bind_for(&portal.bind, &asked).1;
                    if rows > 0 && !asked.returns {
                        // A statement that returns nothing runs to its end, whatever limit Execute names.
                        let mut out = BytesMut::new();
                        front::execute(&mut out, name, 0);
                        raw = out.freeze();
                    }
                }
                self.mark_image(&pending);
                self.counts_anew(&verdict.class);
                if pending.opaque {
                    self.ask_baseline(true, cx);
                }
                if let Some(why) = &pending.warning {
                    self.local(warning(why).encode(), Asked::Execute, Note::Nothing, cx);
                }
                let fetches = pending.opaque && matches!(verdict.class, Class::Select { .. });
                pending.stepwise = fetches.then_some(portal.id);
                if writes.rows {
                    self.ask_info(true, cx);
                }
                let opaque = pending.opaque;
                self.mark_catalogue(writes, opaque, &verdict.class, &given.sql);
                if opaque {
                    self.ran_opaque();
                }
                if self.target() == Target::Lane {
                    self.bring_named(&given.sql, &verdict.class, cx);
                }
                self.count_select(&verdict.class, self.target(), cx);
                self.send_client(self.target(), raw, Asked::Execute, Note::Write(pending), cx);
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
            let control = self.registry.portal(name).is_some_and(|p| p.statement.verdict.class.is_block_control());
            self.registry.remove_portal(name);
            if control {
                self.local(Bytes::from_static(back::CLOSE_COMPLETE), Asked::Close, Note::Nothing, cx);
                return true;
            }
        } else {
            let control = self.registry.statement(name).is_some_and(|p| p.verdict.class.is_block_control());
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

    fn send_client(&mut self, target: Target, raw: Bytes, asked: Asked, note: Note, cx: &mut Cx<'_>) {
        (self.batch.sent, self.batch.asks) = (true, true);
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
    pub(super) fn malformed(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        self.refuse_in_batch(&unreadable(frame), cx)
    }

    /// A statement that the proxy will not run, in its turn.
    pub(super) fn refuse_in_batch(&mut self, e: &PgError, cx: &mut Cx<'_>) -> bool {
        if !self.barrier(self.target(), cx) {
            return false;
        }
        // Part of the answer is told: nothing of the batch can be run elsewhere.
        self.retry = None;
        self.keep_no_longer();
        self.out.release();
        self.out.push(e.encode());
        self.batch_failed();
        if let Tx::Begun(modes) = &self.tx {
            let modes = modes.clone();
            match self.target() {
                Target::Lane => self.begin_on_main(false, modes, cx),
                Target::Reader => self.begin_on_reader(Reads::AsItIs, modes, cx),
            }
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

/// What a Describe of it is told without.
fn described(target: Target, statement: &Prepared) -> Note {
    statement.asked().filter(|_| target == Target::Lane).map_or(Note::Nothing, Note::Described)
}

/// What is wrong with a Bind of a statement without parameters and results (`exec_bind_message` in postgres.c).
fn supplied(statement: &str, body: &[u8], rest: &[u8]) -> Option<PgError> {
    if let Some(error) = fault(b'B', body) {
        return Some(error);
    }
    let formats = usize::from(read_u16(rest)?);
    let parameters = read_u16(rest.get(2 + 2 * formats..)?)?;
    match (formats, parameters) {
        (0 | 1, 0) => None,
        (_, 0) => Some(format!("bind message has {formats} parameter formats but 0 parameters")),
        _ => Some(format!(
            "bind message supplies {parameters} parameters, but prepared statement \"{statement}\" requires 0"
        )),
    }
    .map(|text| PgError::error("08P01", text))
}

/// Why a message cannot be read. What a server could read is refused for its names: in whatever encoding the client has,
/// they are kept as UTF-8.
pub(super) fn unreadable(frame: &Frame) -> PgError {
    fault(frame.tag, frame.body()).unwrap_or_else(|| {
        PgError::error("22021", "the name of a prepared statement or portal is not valid UTF-8")
            .hint("Use names of ASCII characters.")
    })
}
