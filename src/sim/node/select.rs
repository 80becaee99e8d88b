//! SELECT: rows found, sorted, locked one by one, and put out.

use std::cmp::Ordering;

use super::eval::Env;
use super::exec::{Filter, Matching};
use super::functions;
use super::plan::{Ex, From, SelectPlan};
use super::session::Session;
use super::sql::{RowLock, WaitPolicy};
use super::table::Tid;
use super::txn::Snapshot;
use super::value::{Res, Value};
use crate::wire::PgError;

impl Session {
    /// Row locks are writes.
    pub fn check_lockable(&mut self, lock: Option<(RowLock, WaitPolicy)>) -> Res<()> {
        match lock {
            None => Ok(()),
            Some((RowLock::Update, _)) => self.check_writable("SELECT FOR UPDATE"),
            Some(_) => self.check_writable("SELECT FOR SHARE"),
        }
    }

    pub async fn select(&mut self, p: &SelectPlan, snapshot: &Snapshot, params: &[Value]) -> Res<Vec<Vec<Value>>> {
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
    pub async fn outputs(&mut self, outputs: &[Ex], env: &Env<'_>) -> Res<Vec<Value>> {
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
}
