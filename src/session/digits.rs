//! `extra_float_digits`: below 1, float4 and float8 do not print exactly, so what main tells of its rows in text is not
//! what it has stored.
//!
//! No server reports the setting by itself, and it comes from many places: SET, set_config() in a function or a trigger,
//! the start-up packet, ALTER ROLE, ALTER DATABASE, the server's configuration. So where a write's rows have columns whose
//! text depends on it ([`crate::sql::proof::Rows::floats`]), main's value must be known: told since the lane was had, and
//! since the last statement that may have changed it. If it is not, the write waits for the answer to a question, which is
//! one round trip for the first such write of a backend in most sessions, and none for tables without such columns. (Where
//! the session's settings are asked for anyway, in front of a BEGIN, the answer tells it too.)
//!
//! What may have changed it is every statement that is not proved to leave it alone: SETs of other names, reads, keyed
//! writes and writes by rows are, what begins and ends transactions, and what only describes or locks. What was told in a
//! transaction is forgotten with it, and behind a ROLLBACK TO; if something in it may have changed the value, so is what
//! was known before.

use bytes::Bytes;

use super::Session;
use super::io::Cx;
use super::owed::Own;
use super::tokens::Holds;
use super::transaction::{Columns, Target};
use crate::sql::cache::Verdict;
use crate::sql::class::Class;
use crate::sql::proof::Form;
use crate::wire::TxStatus;

const NAME: &str = "extra_float_digits";

/// What main is asked for it.
pub const ASK: &str = "SELECT pg_catalog.concat('=', pg_catalog.current_setting('extra_float_digits'))";

/// What is known of the setting on the lane.
#[derive(Debug, Default)]
pub(super) struct Digits {
    /// Outside of any block: numbers print exactly.
    exact: Option<bool>,
    /// It may have changed so often.
    changes: u64,
    /// It was at this when main was asked last; asked inside of a transaction.
    asked: Option<(u64, bool)>,
    /// The question of its own is under way.
    waits: bool,
    /// A statement that may change it is about to be sent, behind what is asked now.
    pending: bool,
}

/// The same in an open transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InBlock {
    /// As it was in front of it.
    #[default]
    Before,
    /// It may have been changed since.
    Unknown,
    /// Main has told: numbers print exactly.
    Told(bool),
}

/// The statement is proved to leave the setting alone.
fn leaves(verdict: &Verdict) -> bool {
    match &verdict.class {
        Class::Set { name, .. } => !name.is_empty() && name != NAME,
        Class::Reset(name) => !matches!(name.as_str(), NAME | "all" | ""),
        Class::Insert | Class::Update | Class::Delete => matches!(verdict.form(), Form::Keyed | Form::Rows(_)),
        Class::Begin(_)
        | Class::Commit { .. }
        | Class::Rollback { .. }
        | Class::Savepoint(_)
        | Class::Release(_)
        | Class::SetTransaction(_)
        | Class::SetConstraints
        | Class::Show
        | Class::Lock
        | Class::Listen
        | Class::Unlisten
        | Class::Notify
        | Class::Prepare(_)
        | Class::Deallocate(_)
        | Class::ClosePortal
        | Class::ExplainPglockstep
        | Class::Empty => true,
        _ => verdict.is_read(),
    }
}

impl Session {
    /// The statement is sent.
    pub(super) fn notice_digits(&mut self, verdict: &Verdict) {
        self.digits.pending = !leaves(verdict);
        if self.digits.pending {
            self.digits_may_change();
        }
    }

    fn digits_may_change(&mut self) {
        self.digits.changes += 1;
        self.digits.exact = None;
        self.tx.open_mut().into_iter().for_each(|o| o.digits = InBlock::Unknown);
    }

    /// The lane is another, with the settings of its login.
    pub(super) fn digits_unknown(&mut self) {
        self.digits_may_change();
        (self.digits.waits, self.digits.asked) = (false, None);
    }

    /// Numbers print exactly; `None`: main has to be asked.
    fn digits_exact(&self) -> Option<bool> {
        match self.tx.open().map(|o| o.digits) {
            None | Some(InBlock::Before) => self.digits.exact,
            Some(InBlock::Unknown) => None,
            Some(InBlock::Told(exact)) => Some(exact),
        }
    }

    /// The same; false where nobody knows.
    pub(super) fn prints_exactly(&self) -> bool {
        self.digits_exact() == Some(true)
    }

    /// Main is being asked for the session's settings.
    pub(super) fn digits_asked(&mut self) {
        let now = (self.digits.changes, self.tx.open().is_some());
        self.digits.asked = (!self.digits.pending).then_some(now);
    }

    /// A row of main's answer: it is not about another setting.
    pub(super) fn digits_told(&mut self, row: &str) -> bool {
        let Some(value) = row.strip_prefix('=') else { return false };
        self.digits_are(value.trim().parse().is_ok_and(|n: i32| n >= 1));
        true
    }

    /// That is the answer to the question that was asked last.
    fn digits_are(&mut self, exact: bool) {
        match self.digits.asked.take() {
            Some((changes, _)) if changes != self.digits.changes => {}
            Some((_, true)) => self.tx.open_mut().into_iter().for_each(|o| o.digits = InBlock::Told(exact)),
            Some((_, false)) => self.digits.exact = Some(exact),
            None => {}
        }
    }

    /// The same of the question of its own.
    pub(super) fn digits_row(&mut self, row: &[u8]) {
        let value = Columns::new(row).and_then(|mut c| c.next()).flatten();
        self.digits_told(&String::from_utf8_lossy(value.unwrap_or_default()));
    }

    /// That is answered.
    pub(super) fn digits_answered(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        self.digits.waits = false;
        // Without a value nothing is known to be exact; it is asked again behind what may change it.
        self.digits_are(false);
        if let Some(raw) = error {
            self.question_failed(&raw);
        }
        self.pump_requests(cx);
    }

    /// May it be decided whether the write goes by its rows? Asks main if need be.
    pub(super) fn digits_hold(&mut self, verdict: &Verdict, cx: &mut Cx<'_>) -> Holds {
        let by_floats = |v: &Verdict| matches!(v.form(), Form::Rows(rows) if rows.floats);
        let concerns = match &verdict.class {
            // What it is about is not looked at here.
            Class::Prepare(_) | Class::ExplainPglockstep => true,
            Class::Execute(name) => {
                self.registry.statement(name).is_some_and(|p| by_floats(&self.known(p, cx).verdict))
            }
            _ => by_floats(verdict),
        };
        let elsewhere = self.tx.target() == Some(Target::Reader) || self.status() == TxStatus::Failed;
        if !concerns || elsewhere || self.digits_exact().is_some() {
            return Holds::Yes;
        }
        if self.digits.waits || !self.has_lane(cx) || !self.barrier(Target::Lane, cx) {
            return Holds::Waits;
        }
        if self.digits_exact().is_some() {
            return Holds::Yes;
        }
        // What may have changed it is answered.
        (self.digits.waits, self.digits.pending) = (true, false);
        self.digits_asked();
        self.send_own_in(Target::Lane, ("_pgls_e", ASK), Own::Digits, "_pgls", crate::wire::front::BIND_NOTHING, cx);
        self.sync_own(Target::Lane, Own::Digits, cx);
        Holds::Waits
    }
}
