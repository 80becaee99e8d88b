//! Transactions that change the catalogue and then write: statements are judged by the catalogue as the transaction sees
//! it.
//!
//! What is committed says nothing of a default, a trigger, a function or a table that the transaction itself has made. So
//! the first statement behind such a change that is judged at all (a write, a query) waits until main has been asked for
//! the catalogue once more, by the lane, in the transaction. A change behind that makes it stale; what does not change
//! what statements do (COMMENT, ANALYZE) leaves it. So a restore pays for one such look, a migration for one per turn
//! from changing tables to changing rows (some ten milliseconds, as others pay when the change is committed).
//!
//! What is judged so goes as any other write does, as it is or by its rows. There is no image of a transaction that has
//! changed the catalogue: what only an image could carry is for `unsafe_statements` to decide.
//!
//! **What the proof rests on.** The transaction's own look O holds its own changes, and of others' what its snapshot
//! shows; at REPEATABLE READ that may be old. What it wrote was done under R: its own changes and all that had been
//! committed by then. So O counts as of the version before its snapshot was taken. If that has not moved at COMMIT, R is
//! O. If it has, the statement is judged once more by what is committed then, C ([`super::proofs`]), and must come out the
//! same. Each row of R is the transaction's own, which O has, or another's, which C has since the table's lock keeps it
//! from being changed again; and what both have is in R. A proof says that nothing stands against a form: what would is
//! in R only if it is in O or in C, where it would have been found. So both saying the same means that R does. Where they
//! differ (the transaction has changed that very table, and somebody else any other), it ends with 40001.
//!
//! Not read where names could not be told apart: with a `client_encoding` other than UTF8 or SQL_ASCII. Nothing is proved
//! there.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::image::reason;
use super::io::Cx;
use super::owed::Own;
use super::route::{Plan, Writes, changes_logins};
use super::tokens::Holds;
use super::transaction::{Columns, Open, Target};
use crate::config::UnsafeStatements;
use crate::sql::cache::{Verdict, VerdictCache};
use crate::sql::class::Class;
use crate::sql::proof::Catalogue;
use crate::wire::error::ErrorFields;
use crate::wire::frame::Frame;
use crate::wire::front::{Bind, Parse, read_execute, read_target};
use crate::wire::{PgError, TxStatus};

/// Shapes of statements that are remembered under one look at the catalogue.
const SHAPES: usize = 64;

/// Names under which a lane keeps [`Catalogue::QUERIES`] prepared.
const NAMES: [&str; 10] = [
    "_pgls_o0", "_pgls_o1", "_pgls_o2", "_pgls_o3", "_pgls_o4", "_pgls_o5", "_pgls_o6", "_pgls_o7", "_pgls_o8",
    "_pgls_o9",
];
const _: () = assert!(NAMES.len() == Catalogue::QUERIES.len());

const _: () = assert!(NAMES.len() == Catalogue::QUERIES.len(), "each question has a name");

/// What statements of a transaction are judged by.
#[derive(Debug, Default)]
pub enum View {
    /// What is committed: it has changed nothing.
    #[default]
    Committed,
    /// It has been changed since main was last asked.
    Stale,
    /// Main is being asked.
    Asked(Box<Reading>),
    /// As the transaction sees it.
    Own(Box<Seen>),
    /// It could not be had: nothing is proved.
    Missing,
    /// The same; the question has failed, and the transaction with it.
    Failed(Box<PgError>),
}

/// Rows of one answer, in text.
type Rows = Vec<Vec<Option<String>>>;

/// Main's answers as they come.
///
/// Bound: the catalogue's own size, as of the one that all sessions share.
#[derive(Debug)]
pub struct Reading {
    version: u64,
    /// Per query.
    rows: Vec<Rows>,
}

/// The catalogue as the transaction sees it.
#[derive(Debug)]
pub struct Seen {
    catalogue: Arc<Catalogue>,
    verdicts: RefCell<VerdictCache>,
}

impl Seen {
    pub(super) fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    pub(super) fn judge(&self, text: &str, std_strings: bool, database: &str) -> Arc<Verdict> {
        self.verdicts.borrow_mut().judge(text, std_strings, database, Some(&self.catalogue))
    }
}

impl View {
    fn is_open(&self) -> bool {
        matches!(self, View::Stale | View::Asked(_) | View::Failed(_))
    }

    /// The transaction has changed the catalogue, or may have.
    fn is_own(&self) -> bool {
        !matches!(self, View::Committed)
    }
}

impl Open {
    /// A statement is sent that changes the catalogue.
    pub(super) fn changes_catalogue(&mut self, class: &Class, sql: &[u8]) {
        self.ddl = true;
        if !leaves_proofs(class, sql) {
            self.view = View::Stale;
        }
    }

    /// A statement that is judged must wait.
    fn view_is_open(&self) -> bool {
        self.unsure || self.view.is_open()
    }

    /// What the backend has written to catalogues by now, as main tells behind such a statement.
    pub(super) fn catalogue_counted(&mut self, counted: Option<&[u8]>) {
        let uncounted = counted == Some(&super::transaction::UNCOUNTED);
        self.ddl |= uncounted || counted != self.baseline.as_deref();
        let before = self.counted.as_deref().or(self.baseline.as_deref());
        if uncounted || counted != before {
            self.view = View::Stale;
        }
        self.counted = counted.map(<[u8]>::to_vec);
    }

    /// Something is taken back.
    pub(super) fn catalogue_taken_back(&mut self) {
        if self.view.is_own() {
            self.view = View::Stale;
        }
    }
}

/// It changes nothing that a proof rests on.
fn leaves_proofs(class: &Class, sql: &[u8]) -> bool {
    let word = sql.trim_ascii_start().get(..7);
    *class == Class::Analyze || word.is_some_and(|w| w.eq_ignore_ascii_case(b"comment"))
}

/// What becomes of it depends on what is proved of it.
pub(super) fn is_judged(class: &Class) -> bool {
    matches!(
        class,
        Class::Insert
            | Class::Update
            | Class::Delete
            | Class::Select { .. }
            | Class::CopyTo { .. }
            | Class::CopyFrom { .. }
            | Class::Declare
            | Class::Explain { .. }
            | Class::ExplainPglockstep
            | Class::Execute(_)
            | Class::Prepare(_)
    )
}

impl Session {
    /// A write is sent.
    pub(super) fn mark_catalogue(&mut self, writes: Writes, opaque: bool, class: &Class, sql: &[u8]) {
        let Some(open) = self.tx.open_mut() else { return };
        if writes.ddl {
            open.changes_catalogue(class, sql);
            open.logins |= changes_logins(class, sql);
        }
        // What it does main says behind it.
        open.unsure |= opaque;
    }

    /// The transaction's own view of the catalogue; `Some(None)`: it has one, and it cannot be had.
    pub(super) fn own_view(&self) -> Option<Option<&Seen>> {
        match &self.tx.open()?.view {
            View::Own(seen) => Some(Some(seen)),
            View::Missing | View::Failed(_) => Some(None),
            View::Committed | View::Stale | View::Asked(_) => None,
        }
    }

    /// The statement is judged by the catalogue as it is for this session now.
    pub(super) fn is_current(&self, verdict: &Verdict) -> bool {
        let view = self.own_view().flatten().map_or(0, |seen| seen.catalogue.view);
        verdict.version() >= self.version.current() && verdict.view() == view
    }

    /// The transaction has changed the catalogue itself, or may have.
    pub(super) fn has_changed_catalogue(&self) -> bool {
        self.tx.open().is_some_and(|o| o.view.is_own())
    }

    /// May a statement of this class be judged? Asks main for the catalogue if need be.
    pub(super) fn view_holds(&mut self, class: &Class, cx: &mut Cx<'_>) -> Holds {
        let Some(open) = self.tx.open().filter(|o| o.view_is_open() && is_judged(class)) else { return Holds::Yes };
        if let View::Failed(e) = &open.view {
            return Holds::Never((**e).clone());
        }
        if open.on != Target::Lane || self.status() == TxStatus::Failed {
            return Holds::Yes;
        }
        if matches!(open.view, View::Asked(_)) || !self.barrier(Target::Lane, cx) {
            return Holds::Waits;
        }
        let utf8 = self.told_parameter("client_encoding").is_some_and(|e| e == "UTF8" || e == "SQL_ASCII");
        let now = self.version.current();
        let Some(open) = self.tx.open_mut() else { return Holds::Yes };
        // Main has answered everything.
        open.unsure = false;
        match open.view {
            View::Stale if !utf8 => open.view = View::Missing,
            View::Stale => {
                // Main's other commits are seen by a snapshot that is taken now only if the level says so.
                let anew = open.info.as_ref().is_some_and(|i| i.isolation.starts_with("read "));
                let version = if anew { now } else { open.version };
                open.view = View::Asked(Box::new(Reading { version, rows: Vec::new() }));
                for (name, sql) in NAMES.into_iter().zip(Catalogue::QUERIES) {
                    let bind = crate::wire::front::BIND_NOTHING;
                    self.send_own_in(Target::Lane, (name, sql), Own::View, "_pgls", bind, cx);
                }
                self.sync_own(Target::Lane, Own::View, cx);
                return Holds::Waits;
            }
            _ => {}
        }
        Holds::Yes
    }

    /// The same in a batch, for what this message is about. `None`: it may go on.
    pub(super) fn batch_awaits_view(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> Option<bool> {
        if !self.tx.open().is_some_and(Open::view_is_open) {
            return None;
        }
        let of = |p: &super::registry::Prepared| p.verdict.class.clone();
        let class = match frame.tag {
            b'P' => self.judge(Parse::read(frame.body())?.sql, cx).class.clone(),
            b'B' => of(self.registry.statement(Bind::read(frame.body())?.statement)?),
            b'D' => match read_target(frame.body())? {
                (b'S', name) => of(self.registry.statement(name)?),
                (_, name) => of(&self.registry.portal(name)?.statement),
            },
            b'E' => of(&self.registry.portal(read_execute(frame.body())?.0)?.statement),
            _ => return None,
        };
        match self.view_holds(&class, cx) {
            Holds::Yes => None,
            Holds::Waits => Some(false),
            Holds::Never(e) => Some(self.refuse_in_batch(&e, cx)),
        }
    }

    /// A row of main's answers.
    pub(super) fn view_row(&mut self, row: &[u8]) {
        let Some(View::Asked(reading)) = self.tx.open_mut().map(|o| &mut o.view) else { return };
        let text = |v: Option<&[u8]>| v.map(|v| String::from_utf8_lossy(v).into_owned());
        let cells = Columns::new(row).into_iter().flatten().map(text).collect();
        if let Some(rows) = reading.rows.last_mut() {
            rows.push(cells);
        }
    }

    /// Main begins to answer the next question.
    pub(super) fn view_begins(&mut self) {
        if let Some(View::Asked(reading)) = self.tx.open_mut().map(|o| &mut o.view) {
            reading.rows.push(Vec::new());
        }
    }

    /// Main has answered all of them.
    pub(super) fn view_read(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        self.views += 1;
        let (number, config) = (self.views, &cx.env.config.load_balance);
        let (reads, writes) = (&config.read_only_function_list[..], &config.write_function_list[..]);
        if let Some(raw) = error {
            self.question_failed(&raw);
        } else if let Some(open) = self.tx.open_mut() {
            match std::mem::take(&mut open.view) {
                View::Asked(reading) => {
                    open.view = match Catalogue::from_rows(reading.version, &reading.rows, reads, writes) {
                        Ok(mut catalogue) => {
                            open.deferrable |= catalogue.has_deferrable_constraints;
                            catalogue.view = number;
                            let verdicts = RefCell::new(VerdictCache::new(SHAPES));
                            View::Own(Box::new(Seen { catalogue: Arc::new(catalogue), verdicts }))
                        }
                        Err(error) => {
                            tracing::warn!(database = %self.database, error, "a transaction's own catalogue cannot be read");
                            View::Missing
                        }
                    }
                }
                other => open.view = other,
            }
        }
        self.pump_requests(cx);
    }

    /// A question of the session's own has failed, and with it the transaction in which it was asked: whoever waits for
    /// the answer is told.
    pub(super) fn question_failed(&mut self, raw: &[u8]) {
        let Some(open) = self.tx.open_mut() else { return };
        open.failed = true;
        let fields = ErrorFields::parse(raw.get(5..).unwrap_or_default());
        let sqlstate = if fields.sqlstate == "57014" { "57014" } else { "XX000" };
        open.view = View::Failed(Box::new(PgError::error(sqlstate, fields.message)));
    }

    /// The plan for a write behind such a change: what only an image could carry is not proved to leave the same rows.
    pub(super) fn with_own_ddl(&self, plan: Plan, verdict: &Verdict, cx: &Cx<'_>) -> Plan {
        let Plan::Write(mut p, writes) = plan else { return plan };
        if p.image.is_none() || writes.ddl || !self.has_changed_catalogue() {
            return Plan::Write(p, writes);
        }
        match cx.env.config.replication.unsafe_statements {
            UnsafeStatements::Allow => {}
            UnsafeStatements::Refuse => return Plan::Refused(unsafe_statement(&reason(verdict))),
            UnsafeStatements::Warn => p.warning = Some(reason(verdict)),
        }
        Plan::Write(p, writes)
    }

    /// The session's temporary tables, as far as the text names one.
    pub(super) fn temporaries_in(&self, text: &str) -> Option<&HashSet<String>> {
        if self.temporary_names.is_empty() {
            return None;
        }
        let names = crate::sql::lexer::identifiers(text, self.std_strings);
        names.iter().any(|n| self.temporary_names.contains(n)).then_some(&self.temporary_names)
    }
}

fn unsafe_statement(reason: &str) -> PgError {
    PgError::error("0A000", "the statement may leave other rows on other nodes")
        .detail(format!(
            "Replicas cannot be told what it does: {reason}. There is no image of a transaction that has changed the catalogue."
        ))
        .hint("COMMIT what changes the catalogue first, or set unsafe_statements to another value.")
}
