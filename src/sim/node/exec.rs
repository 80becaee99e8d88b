//! Plans run: which rows, locked or changed in which order, and what is looked at again after a wait.
//!
//! At READ COMMITTED a row that somebody else has changed meanwhile is taken in its newest version, if that still
//! satisfies the condition (EvalPlanQual in execMain.c, used by nodeModifyTable.c and nodeLockRows.c); rows are never
//! added by that. At REPEATABLE READ it is an error.

use std::rc::Rc;

use super::eval::Env;
use super::lock::Tag;
use super::plan::*;
use super::rows::Claim;
use super::session::Session;
use super::sql::{LockMode, RowLock, WaitPolicy};
use super::table::{DefaultValue, Oid, Table, Tid};
use super::txn::Snapshot;
use super::value::{Res, Value, int};
use crate::wire::PgError;

/// What a statement has returned.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Vec<Value>>,
    pub tag: String,
}

/// Which rows.
#[derive(Clone, Debug)]
pub enum Filter {
    /// A condition.
    Expression(Option<Ex>),
    /// These columns have these values.
    Key(Vec<usize>, Vec<Value>),
}

impl Filter {
    /// A row has the key.
    pub fn key_matches(&self, row: &[Value]) -> bool {
        matches!(self, Filter::Key(columns, key) if Table::key(columns, row) == *key)
    }
}

/// Rows of a table.
#[derive(Clone, Debug)]
pub struct Matching {
    pub table: Rc<Table>,
    pub filter: Filter,
}

/// How matching rows change.
#[derive(Clone, Debug)]
pub enum Setting {
    /// UPDATE.
    Assigned(Vec<Assigned>),
    /// ON UPDATE CASCADE (`Some`), DELETE and ON DELETE CASCADE (`None`).
    Values(Option<Vec<(usize, Value)>>),
}

/// A row that was changed: as it is now, or as it was when it was deleted.
pub type Changed = Vec<Value>;

/// 40001.
pub fn concurrent(what: &str) -> PgError {
    PgError::error("40001", format!("could not serialize access due to concurrent {what}"))
}

/// A number of rows.
pub fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Session {
    /// Takes a table lock.
    pub async fn lock_relation(&mut self, oid: Oid, mode: LockMode) -> Res<()> {
        self.lock(Tag::Relation(oid), mode, true).await.map(|_| ())
    }

    /// Runs a plan.
    pub async fn execute(&mut self, plan: &Plan, snapshot: &Snapshot, params: &[Value]) -> Res<Outcome> {
        match plan {
            Plan::Select(p) => {
                let rows = self.select(p, snapshot, params).await?;
                Ok(Outcome { tag: format!("SELECT {}", rows.len()), rows })
            }
            Plan::Insert(p) => self.insert(p, snapshot, params).await,
            Plan::Change(p) => self.change(p, snapshot, params).await,
            Plan::Utility => Ok(Outcome::default()),
        }
    }

    fn passes(&mut self, filter: &Filter, row: &[Value], params: &[Value]) -> Res<bool> {
        match filter {
            Filter::Key(..) => Ok(filter.key_matches(row)),
            Filter::Expression(e) => self.holds(e.as_ref(), &Env { row, params, ..Env::default() }),
        }
    }

    /// Rows that the snapshot sees and that match, in physical order.
    pub fn matching(&mut self, m: &Matching, snapshot: &Snapshot, params: &[Value]) -> Res<Vec<(Tid, Vec<Value>)>> {
        let key = match &m.filter {
            Filter::Key(columns, values) => {
                let index = m.table.uniques.iter().position(|u| u.columns == *columns);
                index.map(|i| (i, values.clone()))
            }
            Filter::Expression(e) => match key_of(&m.table, e.as_ref()) {
                None => None,
                Some((i, key)) => {
                    let env = Env { params, ..Env::default() };
                    Some((i, key.iter().map(|e| self.eval(e, &env)).collect::<Res<Vec<_>>>()?))
                }
            },
        };
        let candidates = self.scan(&m.table, snapshot, key.as_ref().map(|(i, k)| (*i, k.as_slice())));
        let mut found = Vec::new();
        for (tid, row) in candidates {
            if self.passes(&m.filter, &row, params)? {
                found.push((tid, row));
            }
        }
        Ok(found)
    }

    /// Locks one row that matched (ExecLockRows). `None`: it is none of the result after all.
    pub async fn lock_row(
        &mut self,
        m: &Matching,
        found: (Tid, Vec<Value>),
        command: u32,
        lock: RowLock,
        policy: WaitPolicy,
        params: &[Value],
    ) -> Res<Option<(Tid, Vec<Value>)>> {
        let heap = m.table.heap;
        let mut claim = self.claim(heap, found.0, lock, policy, command).await?;
        if claim == Claim::Ok {
            self.mark_locked(heap, found.0, lock);
            return Ok(Some(found));
        }
        let mut newest = None;
        if let Claim::Updated(next) = claim {
            if self.one_snapshot() {
                return Err(concurrent("update"));
            }
            match self.lock_newest(heap, next, lock, policy, command).await? {
                Ok(tid) => newest = Some(tid),
                Err(other) => claim = other,
            }
        }
        if let Some(tid) = newest {
            let row = self.row_of(&m.table, tid);
            return Ok(self.passes(&m.filter, &row, params)?.then_some((tid, row)));
        }
        match claim {
            Claim::WouldBlock if policy == WaitPolicy::NoWait => {
                let e = format!("could not obtain lock on row in relation \"{}\"", m.table.name);
                Err(PgError::error("55P03", e))
            }
            Claim::Deleted if self.one_snapshot() => Err(concurrent("update")),
            _ => Ok(None),
        }
    }

    /// Locks all rows that match.
    pub async fn lock_matching(
        &mut self,
        m: &Matching,
        snapshot: &Snapshot,
        lock: RowLock,
        policy: WaitPolicy,
        params: &[Value],
    ) -> Res<Vec<(Tid, Vec<Value>)>> {
        let mut locked = Vec::new();
        for found in self.matching(m, snapshot, params)? {
            locked.extend(self.lock_row(m, found, snapshot.command, lock, policy, params).await?);
        }
        Ok(locked)
    }

    /// A column's default.
    pub fn default_of(&mut self, table: &Table, c: usize) -> Res<Value> {
        match &table.columns[c].default {
            None => Ok(Value::Null),
            Some(DefaultValue::Constant(v)) => Ok(v.clone()),
            Some(DefaultValue::Now) => Ok(Value::Time(self.tx().started_us)),
            Some(DefaultValue::Nextval(name)) => {
                let name = name.clone();
                int(table.columns[c].ty, self.nextval(&name)?.into())
            }
        }
    }

    pub fn apply(&mut self, table: &Table, old: &[Value], set: &Setting, env: &Env<'_>) -> Res<Option<Vec<Value>>> {
        let mut new = old.to_vec();
        match set {
            Setting::Values(None) => return Ok(None),
            Setting::Values(Some(values)) => values.iter().for_each(|(c, v)| new[*c] = v.clone()),
            Setting::Assigned(list) => {
                for (c, ex) in list {
                    new[*c] = match ex {
                        Some(ex) => self.eval(ex, env)?,
                        None => self.default_of(table, *c)?,
                    };
                }
            }
        }
        Ok(Some(new))
    }

    /// Updates or deletes all rows that match (ExecUpdate, ExecDelete).
    pub async fn change_matching(
        &mut self,
        m: &Matching,
        snapshot: &Snapshot,
        set: Setting,
        params: &[Value],
    ) -> Res<Vec<Changed>> {
        let mut changed = Vec::new();
        for found in self.matching(m, snapshot, params)? {
            changed.extend(self.change_row(m, found, snapshot.command, &set, params).await?);
        }
        Ok(changed)
    }

    async fn change_row(
        &mut self,
        m: &Matching,
        found: (Tid, Vec<Value>),
        command: u32,
        set: &Setting,
        params: &[Value],
    ) -> Res<Option<Changed>> {
        let table = &m.table;
        let (mut tid, mut old) = found;
        let what = if matches!(set, Setting::Values(None)) { "delete" } else { "update" };
        loop {
            let new = self.apply(table, &old, set, &Env { row: &old, params, ..Env::default() })?;
            let strength = Session::change_strength(table, &old, new.as_deref());
            match self.claim(table.heap, tid, strength, WaitPolicy::Block, command).await? {
                Claim::Ok => {
                    let now = match new {
                        None => {
                            self.delete_version(table, tid, command);
                            self.queue_checks(table, Some(&old), None);
                            old
                        }
                        Some(new) => {
                            let next = self.update_version(table, tid, &old, new.clone(), command).await?;
                            self.queue_checks(table, Some(&old), Some((next, &new)));
                            new
                        }
                    };
                    return Ok(Some(now));
                }
                Claim::Updated(_) if self.one_snapshot() => return Err(concurrent("update")),
                Claim::Deleted if self.one_snapshot() => return Err(concurrent("delete")),
                Claim::Updated(next) => {
                    // ExecUpdateLockMode: by the columns that are set, not by their values.
                    let keys = table.key_columns();
                    let lock = match set {
                        Setting::Values(None) => RowLock::Update,
                        Setting::Assigned(l) if l.iter().any(|(c, _)| keys.contains(c)) => RowLock::Update,
                        Setting::Values(Some(l)) if l.iter().any(|(c, _)| keys.contains(c)) => RowLock::Update,
                        _ => RowLock::NoKeyUpdate,
                    };
                    match self.lock_newest(table.heap, next, lock, WaitPolicy::Block, command).await? {
                        Ok(newest) => (tid, old) = (newest, self.row_of(table, newest)),
                        Err(_) => return Ok(None),
                    }
                    if !self.passes(&m.filter, &old, params)? {
                        return Ok(None);
                    }
                }
                Claim::SelfModified(c) if c != command => {
                    let e = format!(
                        "tuple to be {what}d was already modified by an operation triggered by the current command"
                    );
                    return Err(PgError::error("27000", e));
                }
                Claim::SelfModified(_) | Claim::Deleted | Claim::WouldBlock => return Ok(None),
                Claim::Invisible => {
                    return Err(PgError::error("XX000", format!("attempted to {what} invisible tuple")));
                }
            }
        }
    }

    pub async fn returning(&mut self, outputs: &[Ex], changed: &[Changed], params: &[Value]) -> Res<Vec<Vec<Value>>> {
        let mut rows = Vec::new();
        if !outputs.is_empty() {
            for row in changed {
                rows.push(self.outputs(outputs, &Env { row, params, ..Env::default() }).await?);
            }
        }
        Ok(rows)
    }

    async fn change(&mut self, p: &ChangePlan, snapshot: &Snapshot, params: &[Value]) -> Res<Outcome> {
        let verb = if p.set.is_some() { "UPDATE" } else { "DELETE" };
        self.check_writable(verb)?;
        let matching = Matching { table: p.table.clone(), filter: Filter::Expression(p.filter.clone()) };
        let set = p.set.clone().map_or(Setting::Values(None), Setting::Assigned);
        let changed = self.change_matching(&matching, snapshot, set, params).await?;
        let rows = self.returning(&p.returning, &changed, params).await?;
        self.fire_events().await?;
        Ok(Outcome { rows, tag: format!("{verb} {}", changed.len()) })
    }
}
