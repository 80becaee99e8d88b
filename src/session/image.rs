//! Transactions that reach the replicas by their image ([`crate::image`]).
//!
//! | when | what |
//! |---|---|
//! | the first statement that needs it | a slot is waited for, which must be there before the transaction begins to write; without one in time, or if it writes already: 40001, or its text where `unsafe_statements` allows that. A block that begins to write while one is being made waits a moment |
//! | COMMIT | a closing message, so that a transaction without rows is told of too, and PREPARE TRANSACTION |
//! | main has prepared | the rows are asked for; they become the script that replicas apply, as `apply_user` |
//! | the replicas have applied | in the gate, with its number: COMMIT PREPARED on main, then COMMIT on the replicas |
//!
//! The script that every transaction writes goes on being written: if a statement changes the catalogue, which no image
//! tells, that is what replicas get. Whatever ends the commit before COMMIT PREPARED rolls back what main has prepared,
//! on the lane or, if that is gone, by the control plane.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::commit::{Phase, Work};
use super::fallback::must_image;
use super::io::{Answer, Cx, Question};
use super::owed::{Asked, Own, Whose};
use super::route::{Given, Plan};
use super::rows::bind_for;
use super::transaction::{Open, Target};
use super::{Request, Session};
use crate::cluster::images::Slot;
use crate::config::UnsafeStatements;
use crate::image::Refusal;
use crate::image::build::Step;
use crate::script::entry::Room;
use crate::script::{Digest, Entry, Expect, Script, Statement};
use crate::sim::planted::{Planted, is};
use crate::sql::cache::Verdict;
use crate::sql::proof::{Form, Rows};
use crate::wire::{PgError, front, literal};

/// Prefix of the closing message.
const MESSAGE: &str = "pglockstep";

/// What a session knows of its database's slot.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    slot: Option<Slot>,
    /// Token of the question for one.
    asked: Option<u64>,
    /// Why there is none; taken by the statement that waited.
    missing: Option<String>,
    /// One that was being made has been waited for in vain.
    waited: bool,
}

impl Wanted {
    /// There is one.
    pub(super) fn is_ready(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::is_ready)
    }

    /// A slot is awaited.
    pub(super) fn waits(&self) -> bool {
        self.asked.is_some()
    }
}

/// How far main has prepared a transaction that is committed by its image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Prepared {
    /// It has not, or it is finished.
    #[default]
    No,
    /// PREPARE TRANSACTION is under way.
    Asked,
    /// It has.
    Done,
}

impl Session {
    /// The plan, if what the statement does can reach the replicas; and whether the client is to be warned.
    pub(super) fn with_image(&self, plan: Plan, verdict: &Verdict, cx: &Cx<'_>) -> Plan {
        let Plan::Write(mut p, writes) = plan else { return plan };
        if writes.ddl || self.tx.open().is_some_and(|o| o.ddl) {
            // What has changed the catalogue goes by its text: no image tells of that.
            p.image = None;
        }
        if p.image.is_none() || cx.env.slots.is_some() {
            // Rows may be written whatever the tag says (hazard 1).
            p.counted &= p.image.is_none();
            return Plan::Write(p, writes);
        }
        p.image = None;
        match cx.env.config.replication.unsafe_statements {
            UnsafeStatements::Refuse => Plan::Refused(unsafe_statement(&reason(verdict))),
            UnsafeStatements::Warn => {
                p.warning = Some(reason(verdict));
                Plan::Write(p, writes)
            }
            UnsafeStatements::Allow => Plan::Write(p, writes),
        }
    }

    /// What a write needs before it is sent. `Ok(false)`: it must wait.
    pub(super) fn has_slot(&mut self, plan: &Plan, sql: &[u8], cx: &mut Cx<'_>) -> Result<bool, Box<PgError>> {
        if matches!(plan, Plan::Everywhere) {
            return Ok(self.has_no_slot(sql, cx));
        }
        let Plan::Write(p, _) = plan else { return Ok(true) };
        let Some(slots) = &cx.env.slots else { return Ok(true) };
        let slot = self.wanted.slot.get_or_insert_with(|| slots.of(&self.database));
        if slot.is_ready() {
            (self.wanted.missing, self.wanted.waited) = (None, false);
            return Ok(true);
        }
        if p.image.is_none() {
            return Ok(!(slot.is_being_made() && self.awaits_making(cx)));
        }
        // Without one, replicas get its text where that is allowed.
        if let Some(why) = self.wanted.missing.take() {
            return if must_image(cx) { Err(Box::new(no_slot(why))) } else { Ok(true) };
        }
        if self.wanted.asked.is_none() {
            let token = cx.io.ask(Question::Slot { database: self.database.to_string(), moment: false });
            // A slot waits for all that write, this transaction among them.
            if self.tx.open().is_some_and(|o| o.info_asked || o.xid().is_some()) {
                if !must_image(cx) {
                    return Ok(true);
                }
                return Err(Box::new(no_slot(
                    "The transaction had begun to write before there was a slot for it.".into(),
                )));
            }
            self.wanted.asked = Some(token);
        }
        Ok(false)
    }

    /// A block that begins to write while the slot is being made could not have an image later: it waits a moment, once.
    fn awaits_making(&mut self, cx: &mut Cx<'_>) -> bool {
        self.wanted.waited |= self.wanted.missing.take().is_some();
        let several = matches!(&self.request, Request::Simple(s) if s.is_several());
        let writes = self.tx.open().is_some_and(|o| o.info_asked || o.xid().is_some());
        if self.wanted.waited || writes || !(several || self.in_clients_block()) {
            return false;
        }
        if self.wanted.asked.is_none() {
            let q = Question::Slot { database: self.database.to_string(), moment: true };
            self.wanted.asked = Some(cx.io.ask(q));
        }
        true
    }

    /// The plan of a write whose rows main is asked for in vain: the client does not fetch all that it returns, or fetches
    /// in binary what is each node's own there.
    pub(super) fn without_rows(
        &self,
        plan: Plan,
        bind: &[u8],
        limit: u32,
        verdict: &Arc<Verdict>,
        cx: &Cx<'_>,
    ) -> Plan {
        let Plan::Write(mut p, writes) = plan else { return plan };
        let vain = |asked: &Rows| (limit > 0 && asked.returns) || (asked.text_only && bind_for(bind, asked).1);
        if !p.by_rows || !p.asked.as_deref().is_some_and(vain) {
            return Plan::Write(p, writes);
        }
        p.by_rows = false;
        p.image = Some(verdict.clone());
        self.with_image(Plan::Write(p, writes), verdict, cx)
    }

    /// A database that is dropped must have no slot that is being read (dropdb in dbcommands.c): the one that it has is
    /// given up first. False: that is awaited.
    fn has_no_slot(&mut self, sql: &[u8], cx: &mut Cx<'_>) -> bool {
        let Some(slots) = &cx.env.slots else { return true };
        let text = String::from_utf8_lossy(sql);
        let names = crate::sql::lexer::identifiers(&text, self.std_strings);
        if !names.iter().any(|n| n == "database") {
            return true;
        }
        let databases: Vec<String> = names.into_iter().filter(|n| slots.of(n).is_ready()).collect();
        if databases.is_empty() || self.wanted.missing.take().is_some() {
            return true;
        }
        if self.wanted.asked.is_none() {
            self.wanted.asked = Some(cx.io.ask(Question::NoSlot { databases }));
        }
        false
    }

    /// The answer to the question for a slot. False: it is another's.
    pub(super) fn slot_answered(&mut self, token: u64, answer: &Answer, cx: &mut Cx<'_>) -> bool {
        let Answer::Slot(result) = answer else { return false };
        if self.wanted.asked == Some(token) {
            self.wanted.asked = None;
            self.wanted.missing = result.clone().err();
            self.pump_requests(cx);
        }
        true
    }

    /// Why an image cannot be had of it, as far as is known before main is asked to prepare it.
    pub(super) fn refuses_image(open: &Open) -> Option<PgError> {
        let what = if open.notifies {
            "it has executed LISTEN, UNLISTEN or NOTIFY"
        } else if open.large_objects {
            "it writes large objects, which main's WAL does not tell"
        } else {
            return None;
        };
        Some(cannot_prepare(what))
    }

    /// Main is told to prepare.
    pub(super) fn prepare_image(&mut self, cx: &mut Cx<'_>) {
        let pid = self.lane.as_ref().map_or(0, |l| l.pid);
        let Some(commit) = &mut self.commit else { return };
        let Some(gid) = &commit.gid else { return };
        commit.phase = Phase::ImagePrepare;
        commit.prepared = Prepared::Asked;
        commit.pid = pid;
        let gid = literal(gid);
        let sql =
            format!("SELECT pg_catalog.pg_logical_emit_message(true, '{MESSAGE}', {gid}); PREPARE TRANSACTION {gid}");
        self.own_text(&sql, cx);
    }

    /// Main has answered that: the rows are asked for.
    pub(super) fn image_prepared(&mut self, cx: &mut Cx<'_>) {
        let late = self.cancels > 0;
        let version = self.version.current();
        let database = self.database.to_string();
        let Some(commit) = &mut self.commit else { return };
        let Some(gid) = commit.gid.clone() else { return };
        commit.prepared = Prepared::Done;
        // Main has judged it.
        commit.unjudged = false;
        commit.need = cx.env.sequencer.newest();
        if late {
            let e = PgError::error("57014", "canceling statement due to user request");
            return self.refuse_commit(e.encode(), cx);
        }
        let token = cx.io.ask(Question::Image { database, gid, xid: commit.xid, version });
        commit.phase = Phase::ImageRows { token };
    }

    /// The rows are here: they are the script.
    pub(super) fn image_answered(&mut self, result: &Result<Vec<Step>, Refusal>, cx: &mut Cx<'_>) {
        let script = match result {
            Ok(steps) => script_of(steps, cx),
            Err(Refusal::Unsupported { what, .. }) if !must_image(cx) => return self.give_image_up(what, cx),
            Err(refusal) => {
                tracing::warn!(?refusal, "no image");
                return self.refuse_commit(refusal.error().encode(), cx);
            }
        };
        match script {
            Ok(script) => {
                if let Some(commit) = &mut self.commit {
                    commit.work = Work::Script(script);
                    commit.phase = Phase::Apply;
                }
                self.start_apply(cx);
            }
            Err(e) => {
                let e = PgError::error("53100", "could not write the transaction's spill file").detail(e.to_string());
                self.refuse_commit(e.encode(), cx);
            }
        }
    }

    /// What main has prepared is rolled back on the lane; then the client is told.
    pub(super) fn roll_back_prepared(&mut self, gid: &str, after: super::AfterRollback, cx: &mut Cx<'_>) {
        self.after_rollback = Some(after);
        let mut out = BytesMut::new();
        front::query(&mut out, format!("ROLLBACK PREPARED {}", literal(gid)).as_bytes());
        if let Some(lane) = &mut self.lane {
            lane.unnamed = None;
        }
        self.undoing = Some(gid.to_owned());
        self.forward(Target::Lane, out.freeze(), Asked::Query, Whose::Own(Own::Rollback), cx);
    }

    /// That has been answered, or will never be: the control plane does it if it was not done.
    pub(super) fn undo_answered(&mut self, failed: bool, cx: &mut Cx<'_>) {
        let Some(gid) = self.undoing.take().filter(|_| failed) else { return };
        self.undo(gid, 0, cx);
    }

    /// The control plane rolls back what is prepared under this name, when the backend of this process id is gone.
    pub(super) fn undo(&self, gid: String, pid: u32, cx: &mut Cx<'_>) {
        self.resolve(gid, pid, false, cx);
    }

    /// The same; `commit`: it commits it.
    pub(super) fn resolve(&self, gid: String, pid: u32, commit: bool, cx: &mut Cx<'_>) {
        if is(Planted::LeavePrepared) {
            return;
        }
        let (node, database) = (Self::main_node(cx), self.database.to_string());
        cx.io.ask(Question::Resolve { node, pid, database, gid, commit });
    }
}

/// Needs an image: by its form, or because its rows cannot be asked for here.
pub(super) fn needs_image(given: &Given, verdict: &Verdict) -> bool {
    match verdict.form() {
        Form::Image(_) => true,
        Form::Rows(_) => given.rows.is_none(),
        Form::AsItIs | Form::Keyed => false,
    }
}

pub(super) fn reason(verdict: &Verdict) -> String {
    match verdict.form() {
        Form::Image(reason) => reason.to_string(),
        _ => {
            "its rows cannot be asked for: the role may not read them, the session's settings change how they look, or \
              the client fetches only some of them, or fetches OIDs in binary"
                .into()
        }
    }
}

const NOT_SET_UP: &str = "Set wal_level = logical, max_prepared_transactions, max_replication_slots and max_wal_senders on all \
    nodes (PostgreSQL 14 or later), or unsafe_statements to another value.";

fn unsafe_statement(reason: &str) -> PgError {
    PgError::error("0A000", "the statement may leave other rows on other nodes")
        .detail(format!("Replicas cannot be told what it does: {reason}."))
        .hint(NOT_SET_UP)
}

/// What the client is warned with.
pub(super) fn warning(reason: &str) -> PgError {
    PgError { severity: crate::wire::Severity::Warning, sqlstate: "01000", ..unsafe_statement(reason) }
}

fn no_slot(why: String) -> PgError {
    PgError::error("40001", "could not write: main's WAL is not read for this database yet")
        .detail(why)
        .hint("Run the transaction again.")
}

pub(super) fn cannot_prepare(what: &str) -> PgError {
    PgError::error("0A000", "could not commit: the transaction can reach the other nodes by its image only, and has none")
        .detail(format!("It cannot be had: {what}."))
        .hint("Triggers, rules and functions that write cannot stand in one transaction with temporary tables, NOTIFY, large objects or cursors WITH HOLD.")
}

fn script_of(steps: &[Step], cx: &mut Cx<'_>) -> std::io::Result<Script> {
    let mut script = Script::default();
    let limit = usize::try_from(cx.env.config.replication.script_limit).unwrap_or(usize::MAX);
    let room = &mut Room { limit, spill: &mut || cx.io.spill() };
    for step in steps {
        match step {
            Step::Statement { sql, types, bind, tag } => {
                let expect = tag.map_or(Expect::Success, |tag| Expect::Same {
                    tag: tag.as_bytes().into(),
                    rows: Digest::default(),
                });
                let (sql, bind) = (sql.clone().into(), bind.clone().into());
                let statement = Statement { sql, types: types.clone(), bind, prepare: None, keep: true, expect };
                script.add(Entry::Statement(statement), room)?;
            }
            Step::Copy { sql, data, count } => {
                let (sql, bind) = (sql.clone().into(), Bytes::from_static(front::BIND_NOTHING).into());
                let expect = Expect::Success;
                let statement = Statement { sql, types: Arc::from([]), bind, prepare: None, keep: true, expect };
                script.copy_begin(statement, room)?;
                for piece in data {
                    script.copy_data(piece, room)?;
                }
                let tag = format!("COPY {count}").into_bytes().into();
                script.copy_end(Expect::Same { tag, rows: Digest::default() }, room)?;
            }
        }
    }
    Ok(script)
}
