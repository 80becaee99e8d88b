//! Plans run: which rows, locked or changed in which order, and what is looked at again after a wait.
//!
//! At READ COMMITTED a row that somebody else has changed meanwhile is taken in its newest version, if that still
//! satisfies the condition (EvalPlanQual in execMain.c, used by nodeModifyTable.c and nodeLockRows.c); rows are never
//! added by that. At REPEATABLE READ it is an error.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::Env;
use super::functions;
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
type Changed = Vec<Value>;

fn concurrent(what: &str) -> PgError {
    PgError::error("40001", format!("could not serialize access due to concurrent {what}"))
}

fn count(n: usize) -> i64 {
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

    /// Row locks are writes.
    pub fn check_lockable(&mut self, lock: Option<(RowLock, WaitPolicy)>) -> Res<()> {
        match lock {
            None => Ok(()),
            Some((RowLock::Update, _)) => self.check_writable("SELECT FOR UPDATE"),
            Some(_) => self.check_writable("SELECT FOR SHARE"),
        }
    }

    async fn select(&mut self, p: &SelectPlan, snapshot: &Snapshot, params: &[Value]) -> Res<Vec<Vec<Value>>> {
        self.check_lockable(p.lock)?;
        if let [Ex::Call(functions::Function::SessionSettings, _)] = p.outputs.as_slice() {
            let row = |(n, v): (String, String)| {
                vec![Value::Text(format!("{},{}", functions::quote(&n), functions::quote(&v)))]
            };
            let mut rows: Vec<_> = self.settings.of_session().into_iter().map(row).collect();
            rows.sort();
            return Ok(rows);
        }
        let mut rows: Vec<(Tid, Vec<Value>)> = match &p.from {
            From::One => vec![(0, Vec::new())],
            From::Virtual(v) => functions::virtual_rows(&self.look(), *v).into_iter().map(|r| (0, r)).collect(),
            From::Table(t) => {
                let matching = Matching { table: t.clone(), filter: Filter::Expression(p.filter.clone()) };
                self.matching(&matching, snapshot, params)?
            }
        };
        if !matches!(p.from, From::Table(_)) {
            let mut kept = Vec::new();
            for (tid, row) in rows {
                if self.holds(p.filter.as_ref(), &Env { row: &row, params, ..Env::default() })? {
                    kept.push((tid, row));
                }
            }
            rows = kept;
        }
        if !p.aggregates.is_empty() {
            let all: Vec<Vec<Value>> = rows.into_iter().map(|(_, r)| r).collect();
            let aggregates = self.aggregate(&p.aggregates, &all, params)?;
            let env = Env { params, aggregates: &aggregates, ..Env::default() };
            let row = self.outputs(&p.outputs, &env).await?;
            return Ok(vec![row]);
        }
        self.sort(&mut rows, &p.order, params)?;
        let number = |me: &mut Self, e: &Option<Ex>| -> Res<Option<usize>> {
            let Some(e) = e else { return Ok(None) };
            match me.eval(e, &Env { params, ..Env::default() })? {
                Value::Int(n) if n < 0 => Err(PgError::error("2201W", "LIMIT must not be negative")),
                Value::Int(n) => Ok(usize::try_from(n).ok()),
                _ => Ok(None),
            }
        };
        let (limit, skip) = (number(self, &p.limit)?.unwrap_or(usize::MAX), number(self, &p.offset)?.unwrap_or(0));
        let mut results = Vec::new();
        let mut passed = 0;
        for (tid, row) in rows {
            if results.len() >= limit {
                break;
            }
            let row = match (&p.from, p.lock) {
                (From::Table(t), Some((lock, policy))) => {
                    let matching = Matching { table: t.clone(), filter: Filter::Expression(p.filter.clone()) };
                    match self.lock_row(&matching, (tid, row), snapshot.command, lock, policy, params).await? {
                        Some((_, row)) => row,
                        None => continue,
                    }
                }
                _ => row,
            };
            passed += 1;
            if passed > skip {
                let env = Env { row: &row, params, ..Env::default() };
                results.push(self.outputs(&p.outputs, &env).await?);
            }
        }
        Ok(results)
    }

    /// One result row; pg_sleep() sleeps here.
    async fn outputs(&mut self, outputs: &[Ex], env: &Env<'_>) -> Res<Vec<Value>> {
        let mut row = Vec::with_capacity(outputs.len());
        for o in outputs {
            row.push(self.eval(o, env)?);
            let sleep = std::mem::take(&mut self.sleep_us);
            if sleep > 0 {
                let until = self.look().now_us + sleep;
                self.pause(super::server::Wait::Sleep { until }).await;
                self.interrupts()?;
            }
        }
        Ok(row)
    }

    fn sort(&mut self, rows: &mut Vec<(Tid, Vec<Value>)>, order: &[(Ex, bool, bool)], params: &[Value]) -> Res<()> {
        if order.is_empty() {
            return Ok(());
        }
        let mut keyed = Vec::new();
        for r in rows.drain(..) {
            let env = Env { row: &r.1, params, ..Env::default() };
            let key = order.iter().map(|(e, _, _)| self.eval(e, &env)).collect::<Res<Vec<_>>>()?;
            keyed.push((key, r));
        }
        keyed.sort_by(|(a, _), (b, _)| {
            let each = a.iter().zip(b).zip(order).map(|((a, b), (_, descending, nulls_first))| match (a, b) {
                (Value::Null, Value::Null) => Ordering::Equal,
                (Value::Null, _) => {
                    if *nulls_first {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (_, Value::Null) => {
                    if *nulls_first {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (a, b) if *descending => b.cmp(a),
                (a, b) => a.cmp(b),
            });
            each.fold(Ordering::Equal, Ordering::then)
        });
        rows.extend(keyed.into_iter().map(|(_, r)| r));
        Ok(())
    }

    fn passes(&mut self, filter: &Filter, row: &[Value], params: &[Value]) -> Res<bool> {
        match filter {
            Filter::Key(..) => Ok(filter.key_matches(row)),
            Filter::Expression(e) => self.holds(e.as_ref(), &Env { row, params, ..Env::default() }),
        }
    }

    /// Rows that the snapshot sees and that match, in physical order.
    fn matching(&mut self, m: &Matching, snapshot: &Snapshot, params: &[Value]) -> Res<Vec<(Tid, Vec<Value>)>> {
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
    async fn lock_row(
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
    fn default_of(&mut self, table: &Table, c: usize) -> Res<Value> {
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

    fn apply(&mut self, table: &Table, old: &[Value], set: &Setting, env: &Env<'_>) -> Res<Option<Vec<Value>>> {
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

    async fn returning(&mut self, outputs: &[Ex], changed: &[Changed], params: &[Value]) -> Res<Vec<Vec<Value>>> {
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

    async fn insert(&mut self, p: &InsertPlan, snapshot: &Snapshot, params: &[Value]) -> Res<Outcome> {
        self.check_writable("INSERT")?;
        let mut inserted = Vec::new();
        match &p.rows {
            Rows::Values(list) => {
                for exprs in list {
                    let mut given = Vec::new();
                    for e in exprs {
                        given.push(match e {
                            None => None,
                            Some(e) => Some(self.eval(e, &Env { params, ..Env::default() })?),
                        });
                    }
                    inserted.extend(self.insert_row(p, given, snapshot, params).await?);
                }
            }
            Rows::Select(select, types) => {
                for row in self.select(select, snapshot, params).await? {
                    let cast = |((v, from), c): ((Value, &super::value::Type), &usize)| {
                        super::eval::cast(*from, p.table.columns[*c].ty, v).map(Some)
                    };
                    let given = row.into_iter().zip(types).zip(&p.columns).map(cast).collect::<Res<_>>()?;
                    inserted.extend(self.insert_row(p, given, snapshot, params).await?);
                }
            }
        }
        let rows = self.returning(&p.returning, &inserted, params).await?;
        self.fire_events().await?;
        Ok(Outcome { rows, tag: format!("INSERT 0 {}", count(inserted.len())) })
    }

    /// A whole row from the values given for some columns (`None` among them: DEFAULT).
    pub fn complete_row(&mut self, table: &Table, columns: &[usize], given: Vec<Option<Value>>) -> Res<Vec<Value>> {
        let mut values: Vec<Option<Value>> = vec![None; table.columns.len()];
        for (c, v) in columns.iter().zip(given) {
            values[*c] = v;
        }
        let mut row = Vec::with_capacity(values.len());
        for (c, v) in values.into_iter().enumerate() {
            row.push(match v {
                Some(v) => v,
                None => self.default_of(table, c)?,
            });
        }
        Ok(row)
    }

    async fn insert_row(
        &mut self,
        p: &InsertPlan,
        given: Vec<Option<Value>>,
        snapshot: &Snapshot,
        params: &[Value],
    ) -> Res<Option<Changed>> {
        let table = &p.table;
        let row = self.complete_row(table, &p.columns, given)?;
        let command = snapshot.command;
        let Some(conflict) = &p.on_conflict else {
            let tid = self.insert_version(table, row.clone(), command).await?;
            self.queue_checks(table, None, Some((tid, &row)));
            return Ok(Some(row));
        };
        loop {
            let existing = match self.insert_unless(table, &conflict.arbiters, &row, command).await? {
                Ok(tid) => {
                    self.queue_checks(table, None, Some((tid, &row)));
                    return Ok(Some(row));
                }
                Err(existing) => existing,
            };
            let Some((set, filter)) = &conflict.update else {
                // ExecCheckTIDVisible: at REPEATABLE READ a row that cannot be seen must not decide.
                if self.one_snapshot()
                    && !self.is_visible(table.heap, existing, snapshot)
                    && !self.is_own_row(table, existing)
                {
                    return Err(concurrent("update"));
                }
                return Ok(None);
            };
            match self.update_conflicting(table, existing, &row, (set, filter.as_ref()), snapshot, params).await? {
                Some(result) => return Ok(result),
                None => continue,
            }
        }
    }

    fn is_own_row(&self, table: &Table, tid: Tid) -> bool {
        let s = self.look();
        let v = s.heaps.get(&table.heap).and_then(|h| h.versions.get(&tid));
        v.is_some_and(|v| self.top_xid() == Some(s.txns.top(v.xmin)))
    }

    /// ExecOnConflictUpdate. The outer `None`: the row is gone, insert again.
    async fn update_conflicting(
        &mut self,
        table: &Rc<Table>,
        tid: Tid,
        excluded: &[Value],
        (set, filter): (&[Assigned], Option<&Ex>),
        snapshot: &Snapshot,
        params: &[Value],
    ) -> Res<Option<Option<Changed>>> {
        let command = snapshot.command;
        let keys = table.key_columns();
        let lock = if set.iter().any(|(c, _)| keys.contains(c)) { RowLock::Update } else { RowLock::NoKeyUpdate };
        match self.claim(table.heap, tid, lock, WaitPolicy::Block, command).await? {
            Claim::Ok => self.mark_locked(table.heap, tid, lock),
            Claim::Invisible if self.is_own_row(table, tid) => {
                let e = "ON CONFLICT DO UPDATE command cannot affect row a second time";
                return Err(PgError::error("21000", e));
            }
            Claim::Updated(_) if self.one_snapshot() => return Err(concurrent("update")),
            Claim::Deleted if self.one_snapshot() => return Err(concurrent("delete")),
            _ => return Ok(None),
        }
        if self.one_snapshot() && !self.is_visible(table.heap, tid, snapshot) {
            return Err(concurrent("update"));
        }
        let old = self.row_of(table, tid);
        let env = Env { row: &old, excluded, params, ..Env::default() };
        if !self.holds(filter, &env)? {
            return Ok(Some(None));
        }
        let new = self.apply(table, &old, &Setting::Assigned(set.to_vec()), &env)?.unwrap_or_default();
        let next = self.update_version(table, tid, &old, new.clone(), command).await?;
        self.queue_checks(table, Some(&old), Some((next, &new)));
        Ok(Some(Some(new)))
    }
}
