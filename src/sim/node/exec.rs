//! SELECT, UPDATE and DELETE: which rows, locked or changed in which order, and what is looked at again after a wait.
//!
//! At READ COMMITTED a row that somebody else has changed meanwhile is taken in its newest version, if that still
//! satisfies the condition (EvalPlanQual in execMain.c, used by nodeModifyTable.c and nodeLockRows.c); rows are never
//! added by that. At REPEATABLE READ it is an error.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::{Env, Ex};
use super::expr::Aggregate;
use super::plan::*;
use super::rows::Claim;
use super::session::Session;
use super::sql::Strength;
use super::table::{Table, Tid};
use super::txn::Snapshot;
use super::value::{Res, Row, Type, Value, int, unknown};
use crate::wire::PgError;

/// What a statement has returned.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Row>,
    pub tag: String,
}

impl Outcome {
    /// A tag without rows.
    pub fn done(tag: impl Into<String>) -> Outcome {
        Outcome { rows: Vec::new(), tag: tag.into() }
    }
}

/// Rows of a table.
#[derive(Clone, Debug)]
pub struct Matching {
    pub table: Rc<Table>,
    pub filter: Option<Ex>,
}

/// 40001.
pub fn concurrent(what: &str) -> PgError {
    PgError::error("40001", format!("could not serialize access due to concurrent {what}"))
}

impl Session {
    /// Runs a plan.
    pub async fn execute(&mut self, plan: &Plan, snapshot: &Snapshot) -> Res<Outcome> {
        match plan {
            Plan::Select(p) => {
                let rows = self.select(p, snapshot).await?;
                Ok(Outcome { tag: format!("SELECT {}", rows.len()), rows })
            }
            Plan::Insert(p) => self.insert(p, snapshot).await,
            Plan::Change(p) => self.change(p, snapshot).await,
            Plan::SessionSettings => {
                let text = |(n, v): (String, String)| {
                    vec![Value::Text(format!("{},{}", crate::wire::literal(&n), crate::wire::literal(&v)))]
                };
                let mut rows: Vec<Row> = self.settings.of_session().into_iter().map(text).collect();
                // All numbers here print exactly.
                rows.push(vec![Value::Text("=1".into())]);
                rows.sort();
                Ok(Outcome { tag: format!("SELECT {}", rows.len()), rows })
            }
            Plan::DefaultLevel => {
                let level = Value::Text(self.settings.see_to_level()?);
                Ok(Outcome { tag: "SELECT 1".into(), rows: vec![vec![level]] })
            }
            Plan::Utility => Ok(Outcome::default()),
        }
    }

    /// Rows that the snapshot sees and that match, in physical order.
    pub fn matching(&mut self, m: &Matching, snapshot: &Snapshot) -> Res<Vec<(Tid, Row)>> {
        self.tx().looked.insert(m.table.oid);
        let mut found = Vec::new();
        for (tid, row) in self.scan(m.table.oid, snapshot, key_of(&m.table, m.filter.as_ref())) {
            if self.holds(m.filter.as_ref(), &Env::row(&row))? {
                found.push((tid, row));
            }
        }
        Ok(found)
    }

    /// Locks one row that matched (ExecLockRows). `None`: it is none of the result after all.
    pub async fn lock_row(
        &mut self,
        m: &Matching,
        (mut tid, mut row): (Tid, Row),
        command: u32,
        lock: Strength,
    ) -> Res<Option<Row>> {
        let mut claim = self.claim(m.table.oid, tid, lock, command).await?;
        if let Claim::Updated(next) = claim {
            if self.one_snapshot() {
                return Err(concurrent("update"));
            }
            claim = match self.lock_newest(m.table.oid, next, lock, command).await? {
                Ok(newest) => {
                    (tid, row) = (newest, self.row_of(m.table.oid, newest));
                    Claim::Ok
                }
                Err(other) => other,
            };
            if claim == Claim::Ok && !self.holds(m.filter.as_ref(), &Env::row(&row))? {
                return Ok(None);
            }
        }
        match claim {
            Claim::Ok => {
                self.mark_locked(m.table.oid, tid, lock);
                Ok(Some(row))
            }
            Claim::Deleted if self.one_snapshot() => Err(concurrent("update")),
            _ => Ok(None),
        }
    }

    /// Row locks are writes.
    pub fn check_lockable(&mut self, p: &SelectPlan) -> Res<()> {
        match p.lock {
            None => Ok(()),
            Some(Strength::Update) => self.check_writable("SELECT FOR UPDATE"),
            Some(_) => self.check_writable("SELECT FOR SHARE"),
        }
    }

    async fn select(&mut self, p: &SelectPlan, snapshot: &Snapshot) -> Res<Vec<Row>> {
        self.check_lockable(p)?;
        let matching = p.table.as_ref().map(|t| Matching { table: t.clone(), filter: p.filter.clone() });
        let rows = match &matching {
            Some(m) => self.matching(m, snapshot)?,
            None if self.holds(p.filter.as_ref(), &Env::default())? => vec![(0, Vec::new())],
            None => Vec::new(),
        };
        if !p.aggregates.is_empty() {
            let aggregates = self.aggregate(&p.aggregates, &rows)?;
            let row = self.eval_all(&p.outputs, &Env { aggregates: &aggregates, ..Env::default() })?;
            return Ok(vec![row]);
        }
        let rows = self.sort(rows, &p.order)?;
        let limit = match p.limit.as_ref().map(|e| self.eval(e, &Env::default())).transpose()? {
            Some(Value::Int(n)) => {
                usize::try_from(n).map_err(|_| PgError::error("2201W", "LIMIT must not be negative"))?
            }
            _ => usize::MAX,
        };
        let mut results = Vec::new();
        for (tid, mut row) in rows {
            if results.len() >= limit {
                break;
            }
            if let (Some(lock), Some(m)) = (p.lock, &matching) {
                match self.lock_row(m, (tid, row), snapshot.command, lock).await? {
                    Some(locked) => row = locked,
                    None => continue,
                }
            }
            results.push(self.eval_all(&p.outputs, &Env::row(&row))?);
        }
        Ok(results)
    }

    /// ORDER BY; NULL is the greatest value.
    fn sort(&mut self, rows: Vec<(Tid, Row)>, order: &[(Ex, bool)]) -> Res<Vec<(Tid, Row)>> {
        let mut keyed = Vec::new();
        for (tid, row) in rows {
            let key = order.iter().map(|(e, _)| self.eval(e, &Env::row(&row))).collect::<Res<Row>>()?;
            keyed.push((key, (tid, row)));
        }
        keyed.sort_by(|(a, _), (b, _)| {
            let each = a.iter().zip(b).zip(order);
            let each = each.map(|((a, b), (_, descending))| if *descending { b.cmp(a) } else { a.cmp(b) });
            each.fold(Ordering::Equal, Ordering::then)
        });
        Ok(keyed.into_iter().map(|(_, row)| row).collect())
    }

    fn aggregate(&mut self, list: &[(Aggregate, Type, Ex)], rows: &[(Tid, Row)]) -> Res<Row> {
        let mut results = Vec::new();
        for (kind, ty, ex) in list {
            let mut values = Vec::new();
            for (_, row) in rows {
                values.push(self.eval(ex, &Env::row(row))?);
            }
            values.retain(|v| *v != Value::Null);
            let count = i128::try_from(values.len()).unwrap_or(i128::MAX);
            let number = |v: &Value| if let Value::Int(n) = v { i128::from(*n) } else { 0 };
            results.push(match kind {
                Aggregate::Count => int(*ty, count)?,
                Aggregate::Min => values.into_iter().min().unwrap_or(Value::Null),
                Aggregate::Max => values.into_iter().max().unwrap_or(Value::Null),
                Aggregate::Sum if values.is_empty() => Value::Null,
                Aggregate::Sum => {
                    int(*ty, values.iter().map(number).sum()).map_err(|_| unknown("a sum beyond 64 bits"))?
                }
            });
        }
        Ok(results)
    }

    /// Updates or deletes all rows that match (ExecUpdate, ExecDelete).
    async fn change(&mut self, p: &ChangePlan, snapshot: &Snapshot) -> Res<Outcome> {
        let verb = if p.set.is_some() { "UPDATE" } else { "DELETE" };
        self.check_writable(verb)?;
        let matching = Matching { table: p.table.clone(), filter: p.filter.clone() };
        let mut changed = Vec::new();
        for found in self.matching(&matching, snapshot)? {
            changed.extend(self.change_row(p, found, snapshot.command).await?);
        }
        let rows = self.returning(&p.returning, &changed)?;
        self.fire_events().await?;
        Ok(Outcome { rows, tag: format!("{verb} {}", changed.len()) })
    }

    /// The row after SET.
    pub fn assign(&mut self, set: &Assigned, env: &Env<'_>) -> Res<Row> {
        let mut new = env.row.to_vec();
        for (c, ex) in set {
            new[*c] = self.eval(ex, env)?;
        }
        Ok(new)
    }

    /// Changes one row that matched; returns it as it is now, or as it was when it was deleted.
    async fn change_row(&mut self, p: &ChangePlan, found: (Tid, Row), command: u32) -> Res<Option<Row>> {
        let table = &p.table;
        let (mut tid, mut old) = found;
        loop {
            let new = p.set.as_ref().map(|set| self.assign(set, &Env::row(&old))).transpose()?;
            let strength = new.as_ref().map_or(Strength::Update, |n| Session::update_strength(table, &old, n));
            let next = match self.claim(table.oid, tid, strength, command).await? {
                Claim::Ok => {
                    let Some(new) = new else {
                        self.replace_version(table.oid, tid, command, Strength::Update, None);
                        self.log_change(table, tid, Some(&old), None);
                        self.queue_checks(table, Some(&old), None);
                        return Ok(Some(old));
                    };
                    let next = self.update_version(table, tid, &old, &new, command).await?;
                    self.queue_checks(table, Some(&old), Some((next, &new)));
                    return Ok(Some(new));
                }
                Claim::Updated(_) if self.one_snapshot() => return Err(concurrent("update")),
                Claim::Deleted if self.one_snapshot() => return Err(concurrent("delete")),
                Claim::Updated(next) => next,
                Claim::Invisible => return Err(PgError::error("XX000", "attempted to change an invisible tuple")),
                Claim::SelfModified | Claim::Deleted => return Ok(None),
            };
            // ExecUpdateLockMode: by the columns that are set, not by their values.
            let set = p.set.as_ref();
            let lock = set.map_or(Strength::Update, |s| table.strength(|c| s.iter().any(|(to, _)| *to == c)));
            match self.lock_newest(table.oid, next, lock, command).await? {
                Ok(newest) => (tid, old) = (newest, self.row_of(table.oid, newest)),
                Err(_) => return Ok(None),
            }
            if !self.holds(p.filter.as_ref(), &Env::row(&old))? {
                return Ok(None);
            }
        }
    }

    /// RETURNING.
    pub fn returning(&mut self, outputs: &[Ex], changed: &[Row]) -> Res<Vec<Row>> {
        if outputs.is_empty() {
            return Ok(Vec::new());
        }
        changed.iter().map(|row| self.eval_all(outputs, &Env::row(row))).collect()
    }
}
