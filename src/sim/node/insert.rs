//! INSERT, and ON CONFLICT (ExecInsert and ExecOnConflictUpdate in nodeModifyTable.c).

use std::rc::Rc;

use super::eval::{Env, Ex};
use super::exec::{Outcome, concurrent};
use super::plan::{Assigned, InsertPlan};
use super::rows::Claim;
use super::session::Session;
use super::table::{Table, Tid};
use super::txn::Snapshot;
use super::value::{Res, Row, Value};
use crate::wire::PgError;

impl Session {
    /// Runs an INSERT.
    pub async fn insert(&mut self, p: &InsertPlan, snapshot: &Snapshot) -> Res<Outcome> {
        self.check_writable("INSERT")?;
        let mut inserted = Vec::new();
        for exprs in &p.rows {
            let given = self.eval_all(exprs, &Env::default())?;
            let row = self.complete_row(&p.table, &p.columns, given)?;
            inserted.extend(self.insert_one(p, row, snapshot).await?);
        }
        let rows = self.returning(&p.returning, &inserted)?;
        self.fire_events().await?;
        Ok(Outcome { rows, tag: format!("INSERT 0 {}", inserted.len()) })
    }

    /// A whole row from the values given for some columns; the others have their defaults.
    pub fn complete_row(&mut self, table: &Table, columns: &[usize], given: Row) -> Res<Row> {
        let mut row = Vec::new();
        for (i, c) in table.columns.iter().enumerate() {
            let at = columns.iter().position(|c| *c == i);
            row.push(match (at.and_then(|at| given.get(at)), &c.default) {
                (Some(v), _) => v.clone(),
                (None, Some(default)) => self.eval(default, &Env::default())?,
                (None, None) => Value::Null,
            });
        }
        Ok(row)
    }

    async fn insert_one(&mut self, p: &InsertPlan, row: Row, snapshot: &Snapshot) -> Res<Option<Row>> {
        let table = &p.table;
        loop {
            let inserted = match &p.on_conflict {
                None => Ok(self.insert_row(table, &row, snapshot.command).await?),
                Some(c) => self.insert_unless(table, &c.arbiters, &row, snapshot.command).await?,
            };
            let existing = match inserted {
                Ok(tid) => {
                    self.queue_checks(table, None, Some((tid, &row)));
                    return Ok(Some(row));
                }
                Err(existing) => existing,
            };
            let Some((set, filter)) = p.on_conflict.as_ref().and_then(|c| c.update.as_ref()) else {
                // ExecCheckTIDVisible: at REPEATABLE READ a row that cannot be seen must not decide.
                let unseen = self.one_snapshot() && !self.is_visible(table.oid, existing, snapshot);
                return if unseen && !self.is_own(table, existing) { Err(concurrent("update")) } else { Ok(None) };
            };
            if let Some(outcome) = self.update_existing(table, existing, &row, (set, filter.as_ref()), snapshot).await?
            {
                return Ok(outcome);
            }
        }
    }

    fn is_own(&self, table: &Table, tid: Tid) -> bool {
        let s = self.look();
        s.heap(table.oid).versions.get(&tid).is_some_and(|v| s.txns.is_part(v.xmin, self.top_xid()))
    }

    /// ExecOnConflictUpdate. The outer `None`: the row is gone, insert again.
    async fn update_existing(
        &mut self,
        table: &Rc<Table>,
        tid: Tid,
        excluded: &[Value],
        (set, filter): (&Assigned, Option<&Ex>),
        snapshot: &Snapshot,
    ) -> Res<Option<Option<Row>>> {
        let command = snapshot.command;
        let lock = table.strength(|c| set.iter().any(|(to, _)| *to == c));
        match self.claim(table.oid, tid, lock, command).await? {
            Claim::Ok => self.mark_locked(table.oid, tid, lock),
            Claim::Invisible if self.is_own(table, tid) => {
                let e = "ON CONFLICT DO UPDATE command cannot affect row a second time";
                return Err(PgError::error("21000", e));
            }
            Claim::Updated(_) if self.one_snapshot() => return Err(concurrent("update")),
            Claim::Deleted if self.one_snapshot() => return Err(concurrent("delete")),
            _ => return Ok(None),
        }
        if self.one_snapshot() && !self.is_visible(table.oid, tid, snapshot) {
            return Err(concurrent("update"));
        }
        let old = self.row_of(table.oid, tid);
        let env = Env { row: &old, excluded, ..Env::default() };
        if !self.holds(filter, &env)? {
            return Ok(Some(None));
        }
        let new = self.assign(set, &env)?;
        let next = self.update_version(table, tid, &old, &new, command).await?;
        self.queue_checks(table, Some(&old), Some((next, &new)));
        Ok(Some(Some(new)))
    }
}
