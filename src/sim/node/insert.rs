//! INSERT, and ON CONFLICT (ExecInsert and ExecOnConflictUpdate in nodeModifyTable.c).

use std::rc::Rc;

use super::eval::Env;
use super::exec::{Changed, Outcome, Setting, concurrent, count};
use super::plan::{Assigned, Ex, InsertPlan, Rows};
use super::rows::Claim;
use super::session::Session;
use super::sql::{RowLock, WaitPolicy};
use super::table::{Table, Tid};
use super::txn::Snapshot;
use super::value::{Res, Value};
use crate::wire::PgError;

impl Session {
    pub async fn insert(&mut self, p: &InsertPlan, snapshot: &Snapshot, params: &[Value]) -> Res<Outcome> {
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
