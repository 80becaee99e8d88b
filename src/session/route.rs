//! What a statement is for the session, and where it goes.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::held::kept;
use super::image::needs_image;
use super::io::{Cx, Question};
use super::note::{Forgets, Note, PendingSetting, PendingWrite};
use super::owed::Own;
use super::prepared::{is_reserved, reserved};
use super::proofs::Proof;
use super::tokens::refuses_set;
use super::transaction::{INFO, OPAQUE, Target};
use crate::auth::{DEFAULT_ITERATIONS, ScramVerifier};
use crate::script::{Expect, Statement};
use crate::sql::cache::Verdict;
use crate::sql::class::{Class, DiscardWhat, TxModes, written_relation};
use crate::sql::proof::{Catalogue, Form, Rows};
use crate::wire::{PgError, front};

/// What is to be done with a statement.
#[derive(Debug)]
pub(super) enum Plan {
    /// BEGIN.
    Begin(TxModes),
    /// COMMIT or END.
    Commit { chain: bool },
    /// ROLLBACK or ABORT.
    Rollback { chain: bool },
    /// One server runs it and no replica hears of it.
    Plain(Note),
    /// Main runs it in a transaction, and the script gets an entry.
    Write(Box<PendingWrite>, Writes),
    /// Main runs it outside any transaction, then every replica.
    Everywhere,
    /// The proxy answers it.
    Answer,
    /// It cannot be done here.
    Refused(PgError),
}

/// What kind of write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Writes {
    /// Rows are written for certain (if any): the transaction's id may be taken beforehand.
    pub rows: bool,
    /// The catalogue changes.
    pub ddl: bool,
}

/// Why a session's reads are not spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeptOnMain {
    /// `load_balance_mode` is off.
    NoBalance,
    /// It has made temporary tables.
    Temporary,
    /// It may have state that readers do not know: an opaque statement has run, or more SETs than are remembered.
    State,
}

impl std::fmt::Display for KeptOnMain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KeptOnMain::NoBalance => "load_balance_mode is off",
            KeptOnMain::Temporary => "the session has made a temporary table",
            KeptOnMain::State => "something that the session has run may have changed its state, which only main knows",
        })
    }
}

impl KeptOnMain {
    /// What to change.
    pub(super) fn advice(self) -> Option<&'static str> {
        (self != KeptOnMain::NoBalance).then_some("DISCARD ALL, or a new session.")
    }
}

/// A login after it may be another than one before: idle backends of before are of no use.
pub(super) fn changes_logins(class: &Class, sql: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sql);
    let mut words = text.split_ascii_whitespace().map(str::to_ascii_lowercase);
    let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let of_roles = ["role", "user", "group", "database", "owned"].contains(&second.as_str());
    *class == Class::Ddl && (matches!(first.as_str(), "grant" | "revoke") || (first != "create" && of_roles))
}

/// A statement as the client gave it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// The text, in the client's encoding.
    pub sql: Bytes,
    /// Parameter types of its Parse.
    pub types: Arc<[u32]>,
    /// Its Bind behind the names.
    pub bind: Bytes,
    /// By the extended protocol.
    pub extended: bool,
    /// Main is asked for its rows.
    pub rows: Option<Arc<Rows>>,
}

impl Session {
    fn fresh_catalogue(&self, cx: &Cx<'_>) -> Option<Arc<Catalogue>> {
        if let Some(view) = self.own_view() {
            return view.map(|seen| seen.catalogue().clone());
        }
        let catalogue = cx.env.catalogues.borrow().get(&self.database).cloned();
        let current = self.version.current();
        catalogue.filter(|c| c.version >= current)
    }

    /// The catalogue that a statement is judged by, as the session sees it; `None`: there is none.
    pub(super) fn catalogue_for(&self, text: &str, cx: &Cx<'_>) -> Option<Arc<Catalogue>> {
        let catalogue = self.fresh_catalogue(cx)?;
        Some(match self.temporaries_in(text) {
            Some(own) => Arc::new(catalogue.with_temporary(own.clone())),
            None => catalogue,
        })
    }

    /// What the statement is; parsed once per shape.
    pub(super) fn judge(&self, sql: &[u8], cx: &Cx<'_>) -> Arc<Verdict> {
        let text = String::from_utf8_lossy(sql);
        let catalogue = self.fresh_catalogue(cx);
        if let (Some(c), Some(own)) = (&catalogue, self.temporaries_in(&text)) {
            return Verdict::of(&text, self.std_strings, &c.with_temporary(own.clone()));
        }
        if let Some(Some(seen)) = self.own_view() {
            return seen.judge(&text, self.std_strings, &self.database);
        }
        cx.env.verdicts.borrow_mut().judge(&text, self.std_strings, &self.database, catalogue.as_deref())
    }

    /// What is to be done with a statement.
    pub(super) fn plan(&self, given: &Given, verdict: &Arc<Verdict>, cx: &Cx<'_>) -> Plan {
        let plan = self.with_own_ddl(self.plan_class(given, verdict, &verdict.class, cx), verdict, cx);
        self.with_image(plan, verdict, cx)
    }

    pub(super) fn plan_class(&self, given: &Given, verdict: &Arc<Verdict>, class: &Class, cx: &Cx<'_>) -> Plan {
        let rows = Writes { rows: true, ddl: false };
        let plain = Plan::Plain(Note::Nothing);
        match class {
            Class::Begin(modes) => Plan::Begin(modes.clone()),
            Class::Commit { chain } => Plan::Commit { chain: *chain },
            Class::Rollback { chain } => Plan::Rollback { chain: *chain },
            Class::Savepoint(_) | Class::RollbackTo(_) | Class::Release(_)
                if self.tx.open().is_some_and(|o| o.implicit) =>
            {
                Plan::Refused(only_in_blocks(class))
            }
            Class::Savepoint(n) => Plan::Plain(Note::Savepoint(n.clone())),
            Class::RollbackTo(n) => Plan::Plain(Note::RollbackTo(n.clone())),
            Class::Release(n) => Plan::Plain(Note::Release(n.clone())),
            Class::PrepareTransaction | Class::CommitPrepared | Class::RollbackPrepared => Plan::Refused(
                PgError::error("0A000", "two-phase commit by the client is not supported")
                    .hint("pglockstep commits on all nodes by itself; use COMMIT."),
            ),
            Class::Select { .. } | Class::CopyTo { .. } if verdict.changes_nothing() => plain,
            Class::Select { into: false, .. } | Class::CopyTo { .. } => self.opaque(given, verdict),
            Class::Select { into: true, .. } => {
                Plan::Write(self.pending(given, verdict, false, false), Writes { rows: true, ddl: true })
            }
            Class::Update | Class::Delete if verdict.is_positioned() && given.rows.is_none() => Plan::Refused(
                PgError::error("0A000", "WHERE CURRENT OF is not replicated here: cursors exist on main only")
                    .detail("Replicas get the row by its primary key: the table must have one that is not changed, and no trigger, rule or row security.")
                    .hint("Name the row by its primary key."),
            ),
            Class::Insert | Class::Update | Class::Delete | Class::Merge => self.dml(given, verdict),
            Class::CopyFrom { stdin } => {
                if let Some(plan) = self.temporary_write(given, verdict) {
                    return plan;
                }
                let mut p = self.pending(given, verdict, true, false);
                p.copy = *stdin;
                Plan::Write(p, rows)
            }
            Class::Truncate => self.dml_uncounted(given, verdict),
            // Alone it does nothing but warn, so no transaction is opened for it.
            Class::SetConstraints => Plan::Plain(Note::Write(self.pending(given, verdict, false, false))),
            Class::Set { local, name } => match refuses_set(&given.sql, name) {
                Some(e) => Plan::Refused(e),
                None => self.setting(given, name, *local),
            },
            Class::Reset(name) => self.setting(given, name, false),
            Class::SetSessionCharacteristics => self.setting(given, "", false),
            Class::Discard(DiscardWhat::All) => Plan::Plain(Note::Forgets(Forgets::All)),
            Class::Discard(DiscardWhat::Temp) => Plan::Plain(Note::Forgets(Forgets::Temporary)),
            Class::Deallocate(None) => Plan::Plain(Note::Forgets(Forgets::Statements)),
            Class::Deallocate(Some(n)) | Class::Execute(n) if is_reserved(n) => Plan::Refused(reserved(n)),
            Class::Deallocate(Some(n)) => Plan::Plain(Note::Forgets(Forgets::Statement(n.clone()))),
            Class::Explain { analyze: true, inner } if matches!(**inner, Class::Execute(_)) => {
                self.plan_execute(given, class, cx).unwrap_or(plain)
            }
            Class::Explain { analyze: true, inner } => match self.plan_class(given, verdict, inner, cx) {
                Plan::Plain(_) => plain,
                _ => self.opaque(given, verdict),
            },
            Class::ShowProxy(_) => Plan::Answer,
            Class::ExplainPglockstep => self.explained(&given.sql).map_or_else(Plan::Refused, |_| Plan::Answer),
            Class::SetTransaction(modes) => Plan::Plain(Note::Modes(modes.clone())),
            Class::Show
            | Class::Lock
            | Class::Discard(_)
            | Class::Declare
            | Class::Fetch
            | Class::Move
            | Class::ClosePortal
            | Class::Listen
            | Class::Unlisten
            | Class::Notify
            | Class::Explain { .. }
            | Class::Checkpoint
            | Class::Load
            | Class::Empty => plain,
            Class::Prepare(name) => self.plan_prepare(given, name, cx),
            Class::Execute(_) => self.plan_execute(given, class, cx).unwrap_or(plain),
            Class::WithDml | Class::Call | Class::Do | Class::Other => self.opaque(given, verdict),
            Class::NonTransactional | Class::DropDatabase(_) => Plan::Everywhere,
            Class::CreateTemp => {
                let text = String::from_utf8_lossy(&given.sql);
                Plan::Plain(Note::Temporary(written_relation(&text, self.std_strings)))
            }
            Class::Ddl => match self.plan_execute(given, class, cx) {
                Some(plan) => plan,
                None => self.ddl(given, verdict),
            },
            Class::Analyze | Class::Cluster => self.ddl(given, verdict),
        }
    }

    fn pending(&self, given: &Given, verdict: &Arc<Verdict>, counted: bool, opaque: bool) -> Box<PendingWrite> {
        let f = verdict.replica_form(&given.sql, &given.types, &given.bind, given.extended);
        let bind = kept(&f.bind).into();
        let sql = if f.keep { f.sql } else { kept(&f.sql) }.into();
        let statement = Statement { sql, types: f.types, bind, prepare: None, keep: f.keep, expect: Expect::Success };
        // A portal that was bound before the transaction's own DDL tells of the table as it was.
        let told = |rows: &Arc<Rows>| matches!(verdict.form(), Form::Rows(now) if now == rows);
        let by_rows = given.rows.as_ref().is_some_and(|rows| !self.has_changed_catalogue() || told(rows));
        let keyed = matches!(verdict.form(), Form::Keyed);
        let proof = (by_rows || keyed).then(|| Proof { verdict: verdict.clone(), sql: given.sql.clone() });
        let rows = if keyed { self.rows_named(given, verdict) } else { None };
        let asked = given.rows.clone();
        let image = needs_image(given, verdict).then(|| verdict.clone());
        let large_objects = verdict.names_large_objects();
        let (moments, time) = (f.moments, f.time);
        let new = PendingWrite::new(statement);
        Box::new(PendingWrite {
            moments,
            time,
            counted,
            opaque,
            asked,
            by_rows,
            proof,
            rows,
            image,
            large_objects,
            ..new
        })
    }

    fn dml(&self, given: &Given, verdict: &Arc<Verdict>) -> Plan {
        if let Some(plan) = self.temporary_write(given, verdict) {
            return plan;
        }
        Plan::Write(self.pending(given, verdict, true, false), Writes { rows: true, ddl: false })
    }

    fn dml_uncounted(&self, given: &Given, verdict: &Arc<Verdict>) -> Plan {
        if let Some(plan) = self.temporary_write(given, verdict) {
            return plan;
        }
        Plan::Write(self.pending(given, verdict, false, false), Writes { rows: true, ddl: false })
    }

    fn ddl(&self, given: &Given, verdict: &Arc<Verdict>) -> Plan {
        if let Some(plan) = self.temporary_write(given, verdict) {
            return plan;
        }
        Plan::Write(self.pending(given, verdict, false, false), Writes { rows: true, ddl: true })
    }

    fn opaque(&self, given: &Given, verdict: &Arc<Verdict>) -> Plan {
        // Whatever may have changed the session's state is not known to readers (hazard 22).
        Plan::Write(self.pending(given, verdict, false, true), Writes { rows: false, ddl: false })
    }

    /// Temporary tables live on main alone. A statement that writes one stays there; one that brings rows from one
    /// into a permanent table cannot be replicated as it stands.
    ///
    /// Whether a temporary table still exists is known to main only (ON COMMIT DROP, a rollback). Where no permanent
    /// relation has its name that does not matter: main then says itself that there is none. Where one has, nobody can
    /// say here which of the two main will write, so that is refused.
    fn temporary_write(&self, given: &Given, verdict: &Arc<Verdict>) -> Option<Plan> {
        if self.temporary_names.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(&given.sql);
        let is_temporary = |n: &String| self.temporary_names.contains(n);
        let refused = |what: &str, hint: &str| {
            let e = PgError::error("0A000", what).detail("Temporary tables exist on main only.").hint(hint);
            Some(Plan::Refused(e))
        };
        if let Some(target) = written_relation(&text, self.std_strings).filter(is_temporary) {
            let creates = verdict.class == Class::Ddl && crate::sql::class::creates_relation(&text, self.std_strings);
            if creates || verdict.hides_permanent(&target) {
                let what =
                    format!("\"{target}\" is the name of a temporary table of this session and of a permanent one");
                return refused(&what, "Give one of them another name, or DISCARD TEMP first.");
            }
            return Some(Plan::Plain(Note::Nothing));
        }
        let names = crate::sql::lexer::identifiers(&text, self.std_strings);
        if names.iter().any(is_temporary) {
            let hint = "Use an ordinary table, or send the rows with COPY.";
            return refused("a temporary table cannot be the source of a replicated write", hint);
        }
        None
    }

    fn setting(&self, given: &Given, name: &str, local: bool) -> Plan {
        let statement = Statement {
            sql: Bytes::copy_from_slice(&given.sql).into(),
            types: given.types.clone(),
            bind: Bytes::copy_from_slice(&given.bind).into(),
            prepare: None,
            keep: false,
            expect: Expect::Success,
        };
        Plan::Plain(Note::Setting(Box::new(PendingSetting { statement, name: name.to_owned(), local })))
    }

    /// The read may be spread: not in a transaction, nothing known against it.
    pub(super) fn may_spread(&self, cx: &Cx<'_>) -> bool {
        self.kept_on_main(cx).is_none()
    }

    /// Why it may not.
    pub(super) fn kept_on_main(&self, cx: &Cx<'_>) -> Option<KeptOnMain> {
        match () {
            () if !cx.env.config.load_balance.load_balance_mode => Some(KeptOnMain::NoBalance),
            () if self.temporary => Some(KeptOnMain::Temporary),
            () if self.main_only => Some(KeptOnMain::State),
            () => None,
        }
    }

    /// A statement of which nobody knows what it does may have changed the session's state: reads stay on main, and main
    /// is asked for its settings anew.
    pub(super) fn ran_opaque(&mut self) {
        self.main_only = true;
        if self.min_csn.heard {
            self.min_csn_may_change();
        }
        self.snapshots.stale = true;
        self.settings_dirty = true;
        self.bound = true;
    }

    /// The statement as servers are to have it; `None`: as it is.
    pub(super) fn rewritten(&self, sql: &[u8], cx: &mut Cx<'_>) -> Option<Bytes> {
        // Behind a comment too.
        let may = matches!(sql.trim_ascii_start().first(), Some(b'e' | b'E' | b'/' | b'-'));
        let off = || {
            let text = std::str::from_utf8(sql).ok().filter(|t| super::tokens::mentions(t.as_bytes()))?;
            crate::sql::explain::without_option(text, self.std_strings).map(Bytes::from)
        };
        let off = if may { off() } else { None };
        off.or_else(|| self.with_verifier(sql, cx))
    }

    /// CREATE or ALTER ROLE with a plain password: every node would make a salt of its own, and the keys of one verifier
    /// open no other node (hazard 17). So the verifier is made here, once, and all nodes are given it. `None`: the
    /// statement stays as it is (md5 has no salt but the name).
    pub(super) fn with_verifier(&self, sql: &[u8], cx: &mut Cx<'_>) -> Option<Bytes> {
        let text = std::str::from_utf8(sql).ok()?;
        let (range, password) = crate::sql::role::plain_password(text, self.std_strings)?;
        if self.settings.value("password_encryption").map_or(!cx.env.scram_verifiers, |v| v != "scram-sha-256") {
            return None;
        }
        let mut salt = [0u8; 16];
        cx.io.random(&mut salt);
        let verifier = ScramVerifier::from_password(&password, &salt, DEFAULT_ITERATIONS).to_shadow();
        Some(Bytes::from(format!("{}'{verifier}'{}", &text[..range.start], &text[range.end..])))
    }

    /// A database that is dropped, renamed, moved or copied must have no other connection: idle appliers leave it.
    /// (PostgreSQL waits five seconds for that: CountOtherDBBackends in procarray.c.)
    pub(super) fn forget_databases(&self, sql: &[u8], cx: &mut Cx<'_>) {
        let text = String::from_utf8_lossy(sql);
        let names = crate::sql::lexer::identifiers(&text, self.std_strings);
        if names.iter().any(|n| n == "database") {
            cx.io.ask(Question::Forget { databases: names });
        }
    }

    /// What PREPARE TRANSACTION will refuse to follow is remembered (PreCommit_Notify, PreCommit_Portals).
    pub(super) fn mark_unpreparable(&mut self, verdict: &Verdict) {
        let class = &verdict.class;
        self.counts_anew(class);
        let refused =
            matches!(class, Class::Notify | Class::Listen | Class::Unlisten | Class::Declare | Class::CreateTemp)
                || verdict.is_unpreparable();
        if let Some(open) = self.tx.open_mut().filter(|_| matches!(class, Class::RollbackTo(_))) {
            open.unsure = true;
        }
        if let Some(open) = self.tx.open_mut().filter(|_| refused) {
            open.unpreparable = true;
            open.notifies |= *class != Class::Declare;
        }
    }

    /// What changes the catalogue and is no DDL to the replicas (new storage, temporary tables) is not to be taken for the
    /// next opaque statement's doing.
    pub(super) fn counts_anew(&mut self, class: &Class) {
        let Some(open) = self.tx.open_mut() else { return };
        let changes = matches!(class, Class::Truncate | Class::CreateTemp | Class::Ddl | Class::Discard(_));
        open.baseline_asked &= !changes;
    }

    /// What the lane's backend has written to catalogues, in front of the transaction's first opaque statement, or the
    /// first one since these were changed otherwise.
    pub(super) fn ask_baseline(&mut self, extended: bool, cx: &mut Cx<'_>) {
        let Some(open) = self.tx.open_mut() else { return };
        if open.baseline_asked || open.failed {
            return;
        }
        open.baseline_asked = true;
        let portal = if extended { "_pgls" } else { "" };
        self.send_own_in(Target::Lane, ("_pgls_x", OPAQUE), Own::Baseline, portal, front::BIND_NOTHING_BINARY, cx);
    }

    /// Main's id and time of the transaction, in front of its first write.
    pub(super) fn ask_info(&mut self, extended: bool, cx: &mut Cx<'_>) {
        let Some(open) = self.tx.open_mut() else { return };
        if open.info_asked || open.failed {
            return;
        }
        open.info_asked = true;
        let portal = if extended { "_pgls" } else { "" };
        let bind = front::BIND_NOTHING_BINARY;
        self.send_own_in(Target::Lane, ("_pgls_i", INFO), Own::Info, portal, bind, cx);
    }
}

/// SAVEPOINT and its like where a string or a batch has opened the transaction (`DefineSavepoint`, `RollbackToSavepoint`,
/// `ReleaseSavepoint` in xact.c).
pub(super) fn only_in_blocks(class: &Class) -> PgError {
    let what = match class {
        Class::Savepoint(_) => "SAVEPOINT",
        Class::Release(_) => "RELEASE SAVEPOINT",
        _ => "ROLLBACK TO SAVEPOINT",
    };
    PgError::error("25P01", format!("{what} can only be used in transaction blocks"))
}
