//! Statements prepared by SQL, and SQL that names prepared statements.
//!
//! PREPARE and Parse fill one list of names, as in PostgreSQL: what one of them has prepared the other can execute,
//! close or deallocate. The session is the owner of that list ([`super::registry`]), so a PREPARE that main has done
//! is entered there, with the parameter types that main gave it (asked by Describe, in the same packet), and a name
//! that stands in SQL is prepared on main if it is not there yet.
//!
//! What EXECUTE does is what its statement does. Replicas have no statement of that name: their entry brings it along
//! ([`Prepare`]), and the text executes it under a name of the proxy's.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::io::Cx;
use super::link::Link;
use super::note::{Note, PendingWrite};
use super::owed::{Asked, Own, Whose};
use super::proofs::Proof;
use super::registry::Prepared;
use super::route::{Given, Plan, Writes};
use super::transaction::Target;
use crate::script::{EXECUTED_NAME, Expect, Prepare, Statement};
use crate::sql::cache::portable;
use crate::sql::class::Class;
use crate::sql::lexer::mentions;
use crate::sql::prepare::{executed, prepared_statement};
use crate::wire::{PgError, front, read_u16, read_u32};

/// A PREPARE that main has done and whose parameter types it is about to tell.
#[derive(Debug)]
pub struct Preparing {
    /// Folded.
    pub name: String,
    /// What is prepared.
    pub sql: Bytes,
}

impl Session {
    /// PREPARE.
    pub(super) fn plan_prepare(&self, given: &Given, name: &str, cx: &Cx<'_>) -> Plan {
        let limit = cx.env.config.limits.prepared_statements;
        if is_reserved(name) {
            return Plan::Refused(reserved(name));
        }
        if self.registry.len() >= limit {
            return Plan::Refused(too_many(limit));
        }
        let text = String::from_utf8_lossy(&given.sql);
        let body = prepared_statement(&text, self.std_strings).filter(|_| text.len() == given.sql.len());
        // Without a statement the server says what is wrong with it.
        let note = body.map_or(Note::Nothing, |body| {
            let sql = Bytes::copy_from_slice(&given.sql[body]);
            Note::PreparedBySql(Box::new(Preparing { name: name.to_owned(), sql }))
        });
        Plan::Plain(note)
    }

    /// EXECUTE, alone or inside EXPLAIN ANALYZE or CREATE TABLE AS; `None`: there is none in the text.
    pub(super) fn plan_execute(&self, given: &Given, class: &Class, cx: &Cx<'_>) -> Option<Plan> {
        let text = std::str::from_utf8(&given.sql).ok()?;
        let e = executed(text, self.std_strings)?;
        let Some(statement) = self.registry.statement(&e.name).filter(|_| !e.name.is_empty()) else {
            return Some(Plan::Refused(no_statement(&e.name)));
        };
        // One that executes another (or itself, for ever) would need that on the replicas, too.
        if executed(&String::from_utf8_lossy(&statement.sql), self.std_strings).is_some() {
            return Some(Plan::Refused(cannot_execute(&e.name)));
        }
        let verdict = self.known(statement, cx).verdict;
        let (types, bind) = (statement.types.clone(), Bytes::from_static(front::BIND_NOTHING));
        let inner = Given { sql: statement.sql.clone(), types: types.clone(), bind, extended: true, rows: None };
        let (rows, ddl) = (true, *class == Class::Ddl);
        let alone = matches!(class, Class::Execute(_));
        let mut image = None;
        let (counted, opaque, writes) = match self.plan_class(&inner, &verdict, &verdict.class, cx) {
            Plan::Plain(Note::Nothing) if e.literal && !ddl => return Some(Plan::Plain(Note::Nothing)),
            _ if ddl => (false, false, Writes { rows, ddl }),
            Plan::Plain(Note::Nothing) => (false, true, Writes { rows: false, ddl }),
            Plan::Write(p, _) if p.copy => return Some(Plan::Refused(cannot_execute(&e.name))),
            Plan::Write(p, writes) => {
                image = p.image;
                (p.counted && alone, p.opaque || !alone, writes)
            }
            Plan::Refused(error) => return Some(Plan::Refused(error)),
            _ => return Some(Plan::Refused(cannot_execute(&e.name))),
        };
        let sql = format!("{}{EXECUTED_NAME}{}", &text[..e.place.start], &text[e.place.end..]);
        let statement = Statement {
            sql: Bytes::from(sql).into(),
            types: given.types.clone(),
            bind: Bytes::copy_from_slice(&given.bind).into(),
            keep: false,
            prepare: Some(Box::new(Prepare { sql: statement.sql.clone().into(), types: portable(&types) })),
            expect: Expect::Success,
        };
        let asked = given.rows.clone().filter(|_| alone);
        let image = image.filter(|_| asked.is_none());
        let by_rows = asked.is_some();
        let proof = by_rows.then(|| Proof { verdict: verdict.clone(), sql: inner.sql.clone() });
        let new = PendingWrite { asked, by_rows, proof, executes: true, image, ..PendingWrite::new(statement) };
        let write = PendingWrite { time: true, counted, opaque, ..new };
        Some(Plan::Write(Box::new(write), writes))
    }

    /// The prepared statement that the text names is needed on main, in front of it.
    pub(super) fn bring_named(&mut self, sql: &[u8], class: &Class, cx: &mut Cx<'_>) {
        if matches!(class, Class::Prepare(_)) {
            self.close_leftovers(Target::Lane, cx);
        }
        if self.registry.is_empty() {
            return;
        }
        if mentions(sql, "pg_prepared_statements", VIEWED) {
            // What only readers were sent so far is the session's all the same.
            for (name, statement) in self.registry.named() {
                self.prepare_as_given(&name, &statement, cx);
            }
        }
        let name = match class {
            Class::Prepare(name) | Class::Deallocate(Some(name)) => Some(name.clone()),
            Class::Execute(_) | Class::Explain { .. } | Class::Ddl => {
                executed(&String::from_utf8_lossy(sql), self.std_strings).map(|e| e.name)
            }
            _ => None,
        };
        let found = name.and_then(|n| self.registry.statement(&n).cloned().map(|s| (n, s)));
        if let Some((name, statement)) = found.filter(|(n, _)| !n.is_empty()) {
            match class {
                // What it returns is taken out again.
                Class::Execute(_) => self.prepare_on(Target::Lane, &name, &statement, cx),
                _ => self.prepare_as_given(&name, &statement, cx),
            }
        }
    }

    /// Behind a PREPARE: what types have its parameters?
    pub(super) fn ask_types(&mut self, name: &str, cx: &mut Cx<'_>) {
        let mut out = BytesMut::new();
        front::describe(&mut out, b'S', name);
        self.forward(Target::Lane, out.freeze(), Asked::DescribeStatement, Whose::Own(Own::Types), cx);
    }

    /// ParameterDescription.
    pub(super) fn types_told(&mut self, message: &[u8]) {
        let body = message.get(5..).unwrap_or_default();
        let count = read_u16(body).map_or(0, usize::from);
        self.told_types = (0..count).map_while(|i| read_u32(body.get(2 + 4 * i..)?)).collect();
    }

    /// RowDescription or NoData behind it: the statement is complete.
    pub(super) fn types_complete(&mut self, cx: &mut Cx<'_>) {
        let types = std::mem::take(&mut self.told_types);
        let Some(Preparing { name, sql }) = self.preparing.take().map(|p| *p) else { return };
        let mut raw = BytesMut::new();
        front::parse(&mut raw, &name, &sql, &types);
        let (verdict, version) = (self.judge(&sql, cx), self.registry.next_version());
        let (raw, types) = (raw.freeze(), Arc::from(types));
        let asks = self.asks(&name, &sql, &types, &verdict);
        let prepared = Prepared { version, raw, sql, types, verdict, asks };
        self.registry.insert(&name, Arc::new(prepared), true);
        if let Some(l) = &mut self.lane {
            l.statements.insert(Arc::from(name), version);
        }
    }

    /// DEALLOCATE has been done.
    pub(super) fn deallocated(&mut self, name: &str) {
        self.registry.remove(name);
        self.disown(Some(Target::Lane), name);
        let forget = |l: &mut Link| l.statements.remove(name);
        self.lane.as_mut().map(forget);
    }
}

/// `FetchPreparedStatement` in prepare.c.
pub(super) fn no_statement(name: &str) -> PgError {
    match name {
        "" => PgError::error("26000", "unnamed prepared statement does not exist"),
        _ => PgError::error("26000", format!("prepared statement \"{name}\" does not exist")),
    }
}

/// So far into a text it is looked for the view of prepared statements.
const VIEWED: usize = 4096;

/// The proxy's own statements and portals on the client's backends begin like this.
const RESERVED: &str = "_pgls";

/// A name that no client may give or take away: the proxy's own ROLLBACK would be another statement, or none.
pub(super) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

pub(super) fn reserved(name: &str) -> PgError {
    PgError::error("42939", format!("name \"{name}\" is reserved"))
        .detail(format!("Names that begin with \"{RESERVED}\" are the proxy's own."))
}

pub(super) fn too_many(limit: usize) -> PgError {
    PgError::error("54000", format!("too many prepared statements: prepared_statements allows {limit}"))
}

fn cannot_execute(name: &str) -> PgError {
    PgError::error("0A000", format!("EXECUTE of \"{name}\" is not replicated: it is no query"))
        .hint("Send the statement itself.")
}
