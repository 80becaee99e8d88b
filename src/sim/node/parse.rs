//! From text to [`Statement`]s.
//!
//! sqlparser reads queries and definitions; what it has parsed is taken only if nothing is left over: each tree is
//! compared with that of a bare statement after the parts that are understood were taken out. Statements that control
//! transactions and settings are few and fixed, and read from the tokens ([`Words`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::simpler;
use super::sql::*;
use super::value::{Res, unknown};
use super::words::Words;
use crate::wire::PgError;

/// [`crate::session::transaction::OPAQUE`], as this node can answer it: no transaction changes its catalogues.
const OPAQUE_ANSWER: &str = "SELECT pg_catalog.txid_current_if_assigned(), 0::int8 AS sum";

/// [`crate::session::digits::ASK`]: all numbers here print exactly.
const DIGITS_ANSWER: &str = "SELECT '=1'";

/// Statement texts kept parsed; beyond it all are forgotten.
const PARSED_MAX: usize = 2000;

thread_local! {
    /// Parsing takes longer than most statements: all nodes of all runs on this thread share what was parsed.
    static PARSED: RefCell<HashMap<String, Rc<Vec<Statement>>>> = RefCell::default();
}

/// [`parse`], once for each text.
pub fn parsed(text: &str) -> Res<Rc<Vec<Statement>>> {
    if let Some(p) = PARSED.with_borrow(|all| all.get(text).cloned()) {
        return Ok(p);
    }
    let p = Rc::new(parse(text)?);
    PARSED.with_borrow_mut(|all| {
        if all.len() >= PARSED_MAX {
            all.clear();
        }
        all.insert(text.to_owned(), p.clone());
    });
    Ok(p)
}

/// Reads a whole query string: nothing of it is run if any of it is malformed (pg_parse_query in postgres.c).
pub fn parse(text: &str) -> Res<Vec<Statement>> {
    if text == crate::session::settings::QUERY {
        return Ok(vec![Statement::SessionSettings]);
    }
    if text == crate::session::snapshot::DEFAULT {
        return Ok(vec![Statement::DefaultLevel]);
    }
    let follows = simpler::follows(text);
    let text = match &follows {
        Some(text) => text,
        None if text == crate::session::transaction::OPAQUE => OPAQUE_ANSWER,
        None if text == crate::session::digits::ASK => DIGITS_ANSWER,
        None => text,
    };
    let dialect = PostgreSqlDialect {};
    let syntax = |e: String| PgError::error("42601", format!("syntax error: {e}"));
    let tokens = Tokenizer::new(&dialect, text).tokenize().map_err(|e| syntax(e.to_string()))?;
    let tokens = simpler::tokens(tokens.into_iter().filter(|t| !matches!(t, Token::Whitespace(_))).collect());
    let mut statements = Vec::new();
    for part in tokens.split(|t| *t == Token::SemiColon).filter(|p| !p.is_empty()) {
        let mut words = Words { tokens: part, at: 0 };
        if let Some(statement) = words.statement()? {
            if words.at != part.len() {
                return Err(unknown(format!("what follows \"{}\"", part[words.at])));
            }
            statements.push(statement);
            continue;
        }
        let mut parser = Parser::new(&dialect).with_tokens(part.to_vec());
        let parsed = parser.parse_statement().map_err(|e| syntax(e.to_string()))?;
        let rest = parser.peek_token();
        if rest.token != Token::EOF {
            return Err(syntax(format!("at or near \"{rest}\"")));
        }
        statements.push(statement(parsed)?);
    }
    Ok(statements)
}

/// A name as it is looked up.
pub fn ident(i: &ast::Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_lowercase() }
}

/// A name without its schema, which must be one of those that everybody sees.
pub fn object(name: &ast::ObjectName) -> Res<String> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident().map(ident)).collect();
    match parts.as_slice() {
        [one] => Ok(one.clone()),
        [schema, one] if schema == "public" || schema == "pg_catalog" => Ok(one.clone()),
        _ => Err(unknown(format!("the name {name}"))),
    }
}

/// Refuses a tree that has more in it than was understood.
pub fn all_understood<T: PartialEq + Display>(left_over: &T, bare: &T) -> Res<()> {
    if left_over == bare { Ok(()) } else { Err(unknown(format!("all of this: {left_over}"))) }
}

/// What sqlparser makes of the smallest statement of its kind. Texts are parsed once and kept.
pub fn bare(text: &str) -> ast::Statement {
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, text).ok().and_then(|mut list| list.pop());
    parsed.expect("a bare statement is one that sqlparser reads")
}

fn statement(s: ast::Statement) -> Res<Statement> {
    let whole = s.to_string();
    Ok(match s {
        ast::Statement::Query(q) => Statement::Select(Box::new(query(*q)?)),
        ast::Statement::Insert(i) => Statement::Insert(insert(i)?),
        ast::Statement::Update(u) => Statement::Change(update(u)?),
        ast::Statement::Delete(d) => Statement::Change(delete(d)?),
        ast::Statement::CreateTable(c) => Statement::CreateTable(Box::new(c)),
        ast::Statement::CreateSequence { name, .. } if whole.trim_end() == format!("CREATE SEQUENCE {name}") => {
            Statement::CreateSequence(object(&name)?)
        }
        ast::Statement::Copy { source: ast::CopySource::Table { table_name, columns }, .. }
            if [
                format!("COPY {table_name} FROM STDIN"),
                format!("COPY {table_name} ({}) FROM STDIN", list(&columns)),
            ]
            .contains(&whole) =>
        {
            Statement::Copy { table: object(&table_name)?, columns: columns.iter().map(ident).collect() }
        }
        _ => return Err(unknown(whole)),
    })
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn query(mut q: ast::Query) -> Res<Select> {
    let ast::Statement::Query(bare) = bare("SELECT") else { return Err(unknown(q)) };
    let (order, limit, locks) = (q.order_by.take(), q.limit_clause.take(), std::mem::take(&mut q.locks));
    let body = std::mem::replace(&mut q.body, bare.body.clone());
    all_understood(&q, &bare)?;
    let (ast::SetExpr::Select(mut s), ast::SetExpr::Select(bare)) = (*body, *bare.body) else {
        return Err(unknown("a query that is no plain SELECT"));
    };
    let items = std::mem::take(&mut s.projection);
    let (from, filter) = (std::mem::take(&mut s.from), s.selection.take());
    all_understood(&s, &bare)?;
    let from = match from.as_slice() {
        [] => None,
        [one] => Some(table(one)?),
        _ => return Err(unknown("a join")),
    };
    let limit = match limit {
        None => None,
        Some(ast::LimitClause::LimitOffset { limit, offset: None, limit_by }) if limit_by.is_empty() => limit,
        Some(other) => return Err(unknown(other)),
    };
    Ok(Select { items, from, filter, order: order_by(order)?, limit, lock: lock(&locks)? })
}

fn order_by(order: Option<ast::OrderBy>) -> Res<Vec<(ast::Expr, bool)>> {
    let Some(order) = order else { return Ok(Vec::new()) };
    let ast::OrderByKind::Expressions(list) = order.kind else { return Err(unknown("ORDER BY ALL")) };
    let one = |o: ast::OrderByExpr| match o.to_string() {
        text if text == o.expr.to_string() || text == format!("{} ASC", o.expr) => Ok((o.expr, false)),
        text if text == format!("{} DESC", o.expr) => Ok((o.expr, true)),
        text => Err(unknown(format!("ORDER BY {text}"))),
    };
    list.into_iter().map(one).collect()
}

fn lock(locks: &[ast::LockClause]) -> Res<Option<Strength>> {
    let shown: Vec<String> = locks.iter().map(ToString::to_string).collect();
    match shown.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ok(None),
        ["FOR UPDATE"] => Ok(Some(Strength::Update)),
        ["FOR SHARE"] => Ok(Some(Strength::Share)),
        other => Err(unknown(other.join(" "))),
    }
}

fn table(t: &ast::TableWithJoins) -> Res<TableRef> {
    let whole = t.to_string();
    let ast::TableFactor::Table { name, alias, .. } = &t.relation else { return Err(unknown(whole)) };
    // Joins, sampling, functions and hints show in the text.
    let plain = match alias {
        None => whole == name.to_string(),
        Some(a) => whole == format!("{name} {a}") || whole == format!("{name} AS {a}"),
    };
    if !plain {
        return Err(unknown(format!("the table expression {whole}")));
    }
    let name = object(name)?;
    Ok(TableRef { alias: alias.as_ref().map_or_else(|| name.clone(), |a| ident(&a.name)), name })
}

fn assignments(list: Vec<ast::Assignment>) -> Res<Assignments> {
    let one = |a: ast::Assignment| match a.target {
        ast::AssignmentTarget::ColumnName(name) => Ok((object(&name)?, a.value)),
        ast::AssignmentTarget::Tuple(_) => Err(unknown("SET (a, b) = ...")),
    };
    list.into_iter().map(one).collect()
}

fn insert(mut i: ast::Insert) -> Res<Insert> {
    let ast::Statement::Insert(bare) = bare("INSERT INTO t DEFAULT VALUES") else { return Err(unknown(i)) };
    let ast::TableObject::TableName(name) = std::mem::replace(&mut i.table, bare.table.clone()) else {
        return Err(unknown("INSERT into a function"));
    };
    let name = object(&name)?;
    let alias = i.table_alias.take().map_or_else(|| name.clone(), |a| ident(&a.alias));
    let columns = std::mem::take(&mut i.columns).iter().map(object).collect::<Res<_>>()?;
    let source = i.source.take().ok_or_else(|| unknown("DEFAULT VALUES"))?;
    let whole = source.to_string();
    let ast::SetExpr::Values(values) = *source.body else { return Err(unknown("INSERT of a query")) };
    if whole != values.to_string() {
        return Err(unknown(whole));
    }
    let on_conflict = match i.on.take() {
        None => None,
        Some(ast::OnInsert::OnConflict(c)) => Some(on_conflict(c)?),
        Some(other) => return Err(unknown(other)),
    };
    let returning = i.returning.take().unwrap_or_default();
    all_understood(&i, &bare)?;
    let rows = values.rows.into_iter().map(|r| r.content).collect();
    Ok(Insert { table: TableRef { name, alias }, columns, rows, on_conflict, returning })
}

fn on_conflict(c: ast::OnConflict) -> Res<OnConflict> {
    let columns = match c.conflict_target {
        None => None,
        Some(ast::ConflictTarget::Columns { columns, predicate: None }) => Some(columns.iter().map(ident).collect()),
        Some(other) => return Err(unknown(other)),
    };
    let update = match c.action {
        ast::OnConflictAction::DoNothing => None,
        ast::OnConflictAction::DoUpdate(u) => Some((assignments(u.assignments)?, u.selection)),
    };
    Ok(OnConflict { columns, update })
}

fn update(mut u: ast::Update) -> Res<Change> {
    let ast::Statement::Update(bare) = bare("UPDATE t SET a = 1") else { return Err(unknown(u)) };
    let table = table(&std::mem::replace(&mut u.table, bare.table.clone()))?;
    let set = Some(assignments(std::mem::replace(&mut u.assignments, bare.assignments.clone()))?);
    let (filter, returning) = (u.selection.take(), u.returning.take().unwrap_or_default());
    all_understood(&u, &bare)?;
    Ok(Change { table, set, filter, returning })
}

fn delete(mut d: ast::Delete) -> Res<Change> {
    let ast::Statement::Delete(bare) = bare("DELETE FROM t") else { return Err(unknown(d)) };
    let from = std::mem::replace(&mut d.from, bare.from.clone());
    let (ast::FromTable::WithFromKeyword(list) | ast::FromTable::WithoutKeyword(list)) = from;
    let [one] = list.as_slice() else { return Err(unknown("DELETE from several tables")) };
    let (filter, returning) = (d.selection.take(), d.returning.take().unwrap_or_default());
    all_understood(&d, &bare)?;
    Ok(Change { table: table(one)?, set: None, filter, returning })
}
