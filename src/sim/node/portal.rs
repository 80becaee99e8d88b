//! One statement from its text to its rows, for both query protocols; prepared statements and portals
//! (src/backend/tcop/postgres.c and pquery.c).

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};

use super::exec::Outcome;
use super::parse;
use super::plan::{self, Field, Plan, Planned, SelectPlan};
use super::session::{Block, Session};
use super::sql::Statement;
use super::txn::Snapshot;
use super::value::{Res, Row, Type, Value, unknown};
use crate::wire::{PgError, back};

/// A prepared statement.
#[derive(Clone)]
pub struct PreparedStatement {
    /// The text's statements: one, or none.
    list: Rc<Vec<Statement>>,
    pub params: Vec<Type>,
    pub fields: Vec<Field>,
    /// It returns rows.
    pub returns: bool,
}

/// A statement bound to parameters.
#[derive(Clone)]
pub struct Portal {
    list: Rc<Vec<Statement>>,
    pub planned: Planned,
    /// Result formats, one for each column.
    pub formats: Vec<u16>,
    snapshot: Option<Snapshot>,
    /// Rows that wait for the next Execute; `None`: it has not run.
    rows: Option<VecDeque<Row>>,
    tag: String,
}

/// The error of everything but the end of a failed transaction.
pub fn in_failed_transaction() -> PgError {
    PgError::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

/// RowDescription.
pub fn row_description(fields: &[Field], formats: &[u16]) -> BytesMut {
    let mut out = BytesMut::new();
    back::message(&mut out, b'T', |b| {
        b.put_u16(u16::try_from(fields.len()).unwrap_or(u16::MAX)); // a statement has at most 1664 result columns
        for (f, format) in fields.iter().zip(formats) {
            b.put_slice(f.name.as_bytes());
            b.put_u8(0);
            b.put_u32(f.table);
            b.put_i16(f.column);
            b.put_u32(f.ty.oid());
            b.put_i16(f.ty.length());
            b.put_i32(-1);
            b.put_u16(*format);
        }
    });
    out
}

/// DataRow.
fn data_row(fields: &[Field], formats: &[u16], row: &[Value]) -> Res<BytesMut> {
    let mut values = Vec::with_capacity(row.len());
    for ((v, f), format) in row.iter().zip(fields).zip(formats) {
        values.push(if *format == 0 { v.text().map(String::into_bytes) } else { v.binary(f.ty)? });
    }
    let mut out = BytesMut::new();
    back::message(&mut out, b'D', |b| {
        b.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX)); // as above
        for v in values {
            match v {
                None => b.put_i32(-1),
                Some(bytes) => {
                    b.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)); // values came in messages of bounded size
                    b.put_slice(&bytes);
                }
            }
        }
    });
    Ok(out)
}

impl Session {
    /// Refuses all but the end of a transaction that has failed.
    fn check_not_failed(&self, statement: Option<&Statement>) -> Res<()> {
        if self.block == Block::Failed && !statement.is_some_and(Statement::is_exit) {
            return Err(in_failed_transaction());
        }
        Ok(())
    }

    /// Analyses a statement. `values`: its parameters, unless it is only to be described.
    fn analyse(&mut self, statement: &Statement, types: &[u32], values: Option<&[Value]>) -> Res<Planned> {
        if statement.is_planned() {
            self.snapshot();
        }
        plan::plan(&self.look(), statement, types, values)
    }

    /// Runs a statement. `bound`: the snapshot that a SELECT has from Bind.
    async fn run_statement(&mut self, statement: &Statement, plan: &Plan, bound: Option<Snapshot>) -> Res<Outcome> {
        if statement.is_transaction() {
            return Ok(Outcome::done(self.transaction(statement).await?));
        }
        if let Statement::Copy { table, columns } = statement {
            return self.copy_in(table, columns).await;
        }
        if !statement.is_planned() {
            return self.utility(statement).await;
        }
        let snapshot = bound.unwrap_or_else(|| self.snapshot());
        self.execute(plan, &snapshot).await
    }

    /// Query: a string of statements.
    pub async fn simple_query(&mut self, text: &str) -> Res<()> {
        self.start();
        self.statements.remove("");
        self.portals.remove("");
        let list = parse::parsed(text)?;
        if list.is_empty() {
            self.finish().await?;
            self.send(back::EMPTY_QUERY);
            return Ok(());
        }
        for (i, statement) in list.iter().enumerate() {
            self.check_not_failed(Some(statement))?;
            self.start();
            if list.len() > 1 && self.block == Block::Single {
                self.block = Block::Implicit;
            }
            self.interrupts()?;
            let planned = self.analyse(statement, &[], Some(&[]))?;
            if !planned.params.is_empty() {
                return Err(PgError::error("42P02", "there is no parameter $1"));
            }
            let formats = vec![0; planned.fields.len()];
            let described = row_description(&planned.fields, &formats);
            // A SELECT describes its rows as it begins, what is run to its end first (RETURNING, SHOW) after that.
            if let Plan::Select(p) = &planned.plan {
                self.check_lockable(p)?;
            }
            let at_once = planned.plan.is_select();
            if at_once {
                self.send(&described);
            }
            let outcome = self.run_statement(statement, &planned.plan, None).await?;
            if !at_once && planned.returns() {
                self.send(&described);
            }
            for row in &outcome.rows {
                let row = data_row(&planned.fields, &formats, row)?;
                self.send(&row);
            }
            if i + 1 == list.len() {
                if self.block == Block::Implicit {
                    self.block = Block::Single;
                }
                self.finish().await?;
            } else if statement.is_transaction() {
                self.finish().await?;
            } else {
                self.tx().command += 1;
            }
            self.send(&back::command_complete(&outcome.tag));
        }
        Ok(())
    }

    /// Ends a transaction that no BEGIN has opened (finish_xact_command).
    pub async fn finish(&mut self) -> Res<()> {
        if self.block == Block::Single {
            return self.commit().await;
        }
        if let Some(tx) = &mut self.tx {
            tx.command += 1;
        }
        Ok(())
    }

    /// Parse.
    pub async fn parse_message(&mut self, name: &str, text: &str, types: Vec<u32>) -> Res<()> {
        self.start();
        if name.is_empty() {
            self.statements.remove("");
        }
        let list = parse::parsed(text)?;
        if list.len() > 1 {
            let e = PgError::error("42601", "cannot insert multiple commands into a prepared statement");
            return Err(PgError { routine: Some("exec_parse_message"), ..e });
        }
        let (mut params, mut fields, mut returns) = (Vec::new(), Vec::new(), false);
        if let Some(statement) = list.first() {
            self.check_not_failed(Some(statement))?;
            let planned = self.analyse(statement, &types, None)?;
            returns = planned.returns();
            (params, fields) = (planned.params, planned.fields);
        }
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(PgError::error("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.insert(name.to_owned(), PreparedStatement { list, params, fields, returns });
        self.send(back::PARSE_COMPLETE);
        Ok(())
    }

    /// A prepared statement, or the error that there is none.
    pub fn statement(&self, name: &str) -> Res<PreparedStatement> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let e = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            PgError::error("26000", e)
        })
    }

    /// Bind. `rest` is what follows the names.
    pub async fn bind_message(&mut self, portal: &str, name: &str, rest: &[u8]) -> Res<()> {
        self.start();
        let statement = self.statement(name)?;
        let first = statement.list.first();
        self.check_not_failed(first)?;
        if portal.is_empty() {
            self.portals.remove("");
        } else if self.portals.contains_key(portal) {
            return Err(PgError::error("42P03", format!("cursor \"{portal}\" already exists")));
        }
        let bound = super::protocol::read_bind(rest, name, &statement.params)?;
        let types: Vec<u32> = statement.params.iter().map(|t| t.oid()).collect();
        let planned = match first {
            Some(first) => self.analyse(first, &types, Some(&bound.values))?,
            None => Planned { plan: Plan::Utility, fields: Vec::new(), params: Vec::new() },
        };
        let formats = match bound.results.as_slice() {
            [] => vec![0; planned.fields.len()],
            [one] => vec![*one; planned.fields.len()],
            all if all.len() == planned.fields.len() => all.to_vec(),
            all => {
                let e = format!(
                    "bind message has {} result formats but query has {} columns",
                    all.len(),
                    planned.fields.len()
                );
                return Err(PgError::error("08P01", e));
            }
        };
        // A SELECT has its snapshot from here, everything else from Execute (PortalStart in pquery.c).
        let snapshot = matches!(planned.plan, Plan::Select(_)).then(|| self.snapshot());
        let list = statement.list.clone();
        let bound = Portal { list, planned, formats, snapshot, rows: None, tag: String::new() };
        self.portals.insert(portal.to_owned(), bound);
        self.send(back::BIND_COMPLETE);
        Ok(())
    }

    /// Execute.
    pub async fn execute_message(&mut self, name: &str, limit: u32) -> Res<()> {
        let missing = || PgError::error("34000", format!("portal \"{name}\" does not exist"));
        let mut portal = self.portals.get(name).cloned().ok_or_else(missing)?;
        let list = portal.list.clone();
        let Some(statement) = list.first() else {
            self.send(back::EMPTY_QUERY);
            return Ok(());
        };
        self.start();
        self.check_not_failed(Some(statement))?;
        self.interrupts()?;
        let is_select = portal.planned.plan.is_select();
        match &mut portal.rows {
            None => {
                if matches!(portal.planned.plan, Plan::Select(SelectPlan { lock: Some(_), .. })) && limit != 0 {
                    return Err(unknown("FOR UPDATE with a row limit"));
                }
                let bound = portal.snapshot.take();
                let outcome = self.run_statement(statement, &portal.planned.plan, bound).await?;
                portal.rows = Some(outcome.rows.into());
                portal.tag = outcome.tag;
            }
            Some(rows) if rows.is_empty() && !is_select => {
                return Err(PgError::error("55000", format!("portal \"{name}\" cannot be run")));
            }
            Some(_) => {}
        }
        let rows = portal.rows.as_mut().map(std::mem::take).unwrap_or_default();
        let many = if limit == 0 { rows.len() } else { rows.len().min(limit as usize) };
        let mut rows = rows;
        let rest = rows.split_off(many);
        for row in &rows {
            let row = data_row(&portal.planned.fields, &portal.formats, row)?;
            self.send(&row);
        }
        // As many rows as were asked for: whether there are more is for the next Execute to find out.
        let suspended = limit != 0 && many == limit as usize;
        portal.rows = Some(rest);
        let tag = if is_select { format!("SELECT {many}") } else { portal.tag.clone() };
        if statement.is_transaction() {
            self.finish().await?;
        } else {
            if let Some(p) = self.portals.get_mut(name) {
                *p = portal;
            }
            self.tx().command += 1;
        }
        if suspended {
            self.send(crate::wire::back::PORTAL_SUSPENDED);
        } else {
            self.send(&back::command_complete(&tag));
        }
        Ok(())
    }
}
