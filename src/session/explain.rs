//! `EXPLAIN (PGLOCKSTEP) statement`: how this session would treat that statement, answered by the proxy itself.
//!
//! Nothing is executed anywhere. A server only parses: so that an error in the statement is PostgreSQL's own, with its
//! position, and parameters have the types that they would have.
//!
//! | protocol | a server gets | the proxy answers |
//! |---|---|---|
//! | simple | Parse, Sync of the session's own | rows and CommandComplete when those are answered |
//! | extended | Parse, Bind, Describe, Close as the client sent them | Execute |
//!
//! As the client sent them, since servers take the option's name for one that they do not know, which they say when the
//! statement is executed and not before. So that must never happen, and if it did, nothing would have been done. Where
//! EXPLAIN of such a statement is no SQL (DDL, CALL, SET), the server parses the statement alone, behind blanks in place of
//! EXPLAIN, under a name that is closed at once; and under the client's name a stand-in.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::io::Cx;
use super::lost::is_aborted;
use super::note::Note;
use super::owed::{Asked, Own, Whose};
use super::show::row;
use super::simple::Went;
use super::transaction::{Target, Tx};
use super::{Request, Session};
use crate::sql::class::Class;
use crate::sql::explain::{Explained, Refusal, explained};
use crate::wire::front::Parse;
use crate::wire::{PgError, TxStatus, back, front};

/// OIDs of text and json (pg_type.dat).
const TEXT: u32 = 25;
const JSON: u32 = 114;

/// Under this name a statement is parsed that has no EXPLAIN.
const CHECKED: &str = "_pgls_explained";

/// Rows of an answer that a portal gives, and how many of them have gone.
#[derive(Clone, Debug)]
pub struct Answered {
    rows: Arc<[Bytes]>,
    gone: usize,
}

impl Session {
    /// A text of class [`crate::sql::class::Class::ExplainPglockstep`].
    ///
    /// # Errors
    /// Its options are refused.
    pub(super) fn explained(&self, sql: &[u8]) -> Result<Explained, PgError> {
        let text = std::str::from_utf8(sql).map_err(|_| {
            PgError::error("0A000", "EXPLAIN (PGLOCKSTEP) takes statements in UTF-8 only")
                .hint("SET client_encoding = UTF8.")
        })?;
        match explained(text, self.std_strings) {
            Some(Ok(explained)) => Ok(explained),
            Some(Err(refusal)) => Err(refused(&refusal)),
            None => Err(PgError::error("42601", "syntax error in the options of EXPLAIN")),
        }
    }

    /// The statement that is explained, with as many blanks in front as characters stood there: positions in errors stay.
    fn alone(sql: &[u8], e: &Explained) -> Bytes {
        let before = sql.get(..e.inner.start).unwrap_or_default();
        let blanks = String::from_utf8_lossy(before).chars().count();
        let mut out = BytesMut::with_capacity(sql.len());
        out.put_bytes(b' ', blanks);
        out.put_slice(sql.get(e.inner.clone()).unwrap_or_default());
        out.freeze()
    }

    /// By the simple protocol: a server is asked to parse it.
    pub(super) fn simple_explain(&mut self, sql: &Bytes, cx: &mut Cx<'_>) -> Went {
        if self.status() == TxStatus::Failed {
            return self.refuse(&is_aborted(), cx);
        }
        let e = match self.explained(sql) {
            Ok(e) => e,
            Err(error) => return self.refuse(&error, cx),
        };
        let target = self.tx.target().unwrap_or(Target::Lane);
        if target == Target::Lane && !self.has_lane(cx) {
            return self.step_waits();
        }
        let text = if e.stand_in.is_some() { Self::alone(sql, &e) } else { sql.clone() };
        let mut parse = BytesMut::new();
        front::parse(&mut parse, "", &text, &[]);
        if let Some(l) = self.link(target) {
            l.unnamed = None;
        }
        self.forward(target, parse.freeze(), Asked::Parse, Whose::Own(Own::Explain), cx);
        self.sync_own(target, Own::Explain, cx);
        Went::Sent
    }

    /// It has been parsed, or cannot be.
    pub(super) fn explain_parsed(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        let Request::Simple(s) = &self.request else { return };
        let Some(sql) = s.steps.get(s.next).map(|step| s.text.slice(step.clone())) else { return };
        if let Some(raw) = error {
            match &mut self.tx {
                Tx::Open(o) => o.failed = true,
                Tx::Begun(_) => self.fail_transaction(cx),
                Tx::Idle => {}
            }
            let moved = self.with_clients_position(&raw);
            self.out.push(moved.unwrap_or(raw));
            self.step_failed();
            return self.run_steps(cx);
        }
        let answer = self.explained(&sql).and_then(|e| Ok((e.json, self.answer(&sql, &e, &[], false, cx)?)));
        match answer {
            Ok((json, rows)) => {
                self.out.push(description(json));
                rows.iter().for_each(|r| self.out.push(r.clone()));
                self.local_complete(back::command_complete("EXPLAIN"));
                if let Request::Simple(s) = &mut self.request {
                    s.next += 1;
                }
            }
            Err(e) => {
                self.refuse(&e, cx);
            }
        }
        self.run_steps(cx);
    }

    /// What the server gets in place of a Parse, and in front of it. `None`: the client's own.
    pub(super) fn parse_of_explained(&mut self, p: &Parse<'_>, cx: &mut Cx<'_>) -> Option<Bytes> {
        // What is wrong with its options is said when it is executed, as by a server.
        let e = self.explained(p.sql).ok()?;
        let stand_in = e.stand_in.as_ref()?;
        let target = self.target();
        let (mut close, mut parse, mut instead) = Default::default();
        front::close(&mut close, b'S', CHECKED);
        front::parse(&mut parse, CHECKED, &Self::alone(p.sql, &e), &p.types);
        front::parse(&mut instead, p.name, stand_in.as_bytes(), &p.types);
        let close = BytesMut::freeze(close);
        self.forward(target, close.clone(), Asked::Close, Whose::Own(Own::Tidy), cx);
        self.forward(target, BytesMut::freeze(parse), Asked::Parse, Whose::Own(Own::Prepare), cx);
        self.forward(target, close, Asked::Close, Whose::Own(Own::Tidy), cx);
        Some(BytesMut::freeze(instead))
    }

    /// Execute of a portal whose statement asks the proxy. False: it must wait.
    pub(super) fn execute_answer(&mut self, name: &str, limit: u32, cx: &mut Cx<'_>) -> bool {
        // It tells of the session as it is then, so what stands before it comes first.
        if !self.barrier(self.target(), cx) {
            return false;
        }
        let Some(portal) = self.registry.portal(name).cloned() else { return true };
        if self.status() == TxStatus::Failed {
            return self.refuse_in_batch(&is_aborted(), cx);
        }
        let (sql, types) = (portal.statement.sql.clone(), portal.statement.types.clone());
        let mut answered = match portal.answered {
            Some(answered) => answered,
            None => match self.says(&portal.statement.verdict.class, &sql, &types, cx) {
                Ok(rows) => Answered { rows: Arc::from(rows), gone: 0 },
                Err(e) => return self.refuse_in_batch(&e, cx),
            },
        };
        let left = answered.rows.len() - answered.gone;
        let now = if limit == 0 { left } else { left.min(limit as usize) };
        let mut out = BytesMut::new();
        answered.rows[answered.gone..answered.gone + now].iter().for_each(|row| out.put_slice(row));
        answered.gone += now;
        // Whether more rows would follow a server does not look either (`ExecutePlan` in execMain.c).
        if limit != 0 && now == limit as usize {
            out.put_slice(back::PORTAL_SUSPENDED);
        } else {
            let explains = portal.statement.verdict.class == Class::ExplainPglockstep;
            let tag = if explains { "EXPLAIN".to_owned() } else { format!("SELECT {now}") };
            out.put_slice(&back::command_complete(&tag));
        }
        if let Some(p) = self.registry.portal_mut(name) {
            p.answered = Some(answered);
        }
        self.local(out.freeze(), Asked::Execute, Note::Nothing, cx);
        true
    }

    /// What a statement says that the proxy answers.
    fn says(&mut self, class: &Class, sql: &Bytes, types: &[u32], cx: &mut Cx<'_>) -> Result<Vec<Bytes>, PgError> {
        match class {
            Class::ShowProxy(shown) => Ok(self.shown_rows(*shown, cx)),
            _ => self.explained(sql).and_then(|e| self.answer(sql, &e, types, true, cx)),
        }
    }

    /// The answer, a DataRow for each line.
    fn answer(
        &self,
        sql: &Bytes,
        e: &Explained,
        types: &[u32],
        extended: bool,
        cx: &Cx<'_>,
    ) -> Result<Vec<Bytes>, PgError> {
        let mut inner = e.inner.clone();
        // A Parse may end in semicolons; a simple query's statements have been cut at them.
        while sql[inner.clone()].trim_ascii_end().ends_with(b";") {
            inner.end = inner.start + sql[inner.clone()].trim_ascii_end().len() - 1;
        }
        let treatment = self.treatment(&sql.slice(inner), types, extended, cx)?;
        let lines = if e.json { vec![treatment.json()] } else { treatment.lines() };
        // Names from the catalogue are UTF-8 here; in another encoding they would be something else.
        let utf8 = self.told_parameter("client_encoding").is_none_or(|e| e == "UTF8");
        let fit = |line: String| match utf8 {
            true => line,
            false => line.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect(),
        };
        Ok(lines.into_iter().map(|line| row(&[fit(line)])).collect())
    }
}

fn refused(refusal: &Refusal) -> PgError {
    let e = |sqlstate| PgError::error(sqlstate, refusal.to_string());
    match refusal {
        Refusal::Analyze => e("0A000")
            .detail("EXPLAIN (PGLOCKSTEP) executes nothing.")
            .hint("Ask without ANALYZE, or EXPLAIN (ANALYZE) without PGLOCKSTEP."),
        Refusal::Format(_) => e("0A000").hint("Use FORMAT TEXT or FORMAT JSON."),
        Refusal::UnknownFormat(_) => e("22023"),
        Refusal::Option(_) | Refusal::Boolean(_) => e("42601"),
    }
}

/// RowDescription of the one column.
fn description(json: bool) -> Bytes {
    let mut out = BytesMut::new();
    back::message(&mut out, b'T', |b| {
        b.put_u16(1);
        b.put_slice(b"QUERY PLAN\0");
        b.put_u32(0);
        b.put_u16(0);
        b.put_u32(if json { JSON } else { TEXT });
        b.put_i16(-1);
        b.put_i32(-1);
        b.put_u16(0);
    });
    out.freeze()
}
