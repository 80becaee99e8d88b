//! From text to [`Statement`]s.
//!
//! sqlparser reads queries and definitions; what it has parsed is taken only if nothing is left over: each tree is
//! compared with that of a bare statement after the parts that are understood were taken out. Statements that control
//! transactions and settings are few and fixed, and read from the tokens.

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::parse_words::Words;
use super::sql::*;
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// Reads a whole query string: nothing of it is run if any of it is malformed (pg_parse_query in postgres.c).
pub fn parse(text: &str) -> Res<Vec<Statement>> {
    if text == crate::session::settings::QUERY {
        return Ok(vec![Statement::SessionSettings]);
    }
    let dialect = PostgreSqlDialect {};
    let syntax = |e: String| PgError::error("42601", format!("syntax error: {e}"));
    let tokens = Tokenizer::new(&dialect, text).tokenize().map_err(|e| syntax(e.to_string()))?;
    let tokens: Vec<Token> = tokens.into_iter().filter(|t| !matches!(t, Token::Whitespace(_))).collect();
    let mut statements = Vec::new();
    for part in tokens.split(|t| *t == Token::SemiColon).filter(|p| !p.is_empty()) {
        let mut words = Words { tokens: part, at: 0 };
        if let Some(statement) = words.utility()? {
            if words.at != part.len() {
                return Err(syntax(format!("at or near \"{}\"", part[words.at])));
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
fn all_understood<T: PartialEq + std::fmt::Display>(left_over: &T, bare: &T, what: &str) -> Res<()> {
    if left_over == bare { Ok(()) } else { Err(unknown(format!("all of this {what}: {left_over}"))) }
}

/// What sqlparser makes of the smallest statement of its kind; parsed once per statement text, which is cached.
fn bare(text: &str) -> Res<ast::Statement> {
    let mut parsed =
        Parser::parse_sql(&PostgreSqlDialect {}, text).map_err(|e| PgError::error("XX000", e.to_string()))?;
    parsed.pop().ok_or_else(|| PgError::error("XX000", "an empty bare statement"))
}

fn statement(s: ast::Statement) -> Res<Statement> {
    Ok(match s {
        ast::Statement::Query(q) => Statement::Select(query(*q)?),
        ast::Statement::Insert(i) => Statement::Insert(insert(i)?),
        ast::Statement::Update(u) => update(u)?,
        ast::Statement::Delete(d) => delete(d)?,
        ast::Statement::Copy { source, to: false, target: ast::CopyTarget::Stdin, options, legacy_options, .. }
            if options.is_empty() && legacy_options.is_empty() =>
        {
            let ast::CopySource::Table { table_name, columns } = source else { return Err(unknown("COPY of a query")) };
            Statement::Copy { table: object(&table_name)?, columns: columns.iter().map(ident).collect() }
        }
        other => super::parse_ddl::definition(other)?,
    })
}

fn query(mut q: ast::Query) -> Res<Select> {
    let ast::Statement::Query(bare) = bare("SELECT")? else { return Err(unknown("SELECT")) };
    let ast::SetExpr::Select(bare_select) = *bare.body.clone() else { return Err(unknown("SELECT")) };
    let (order, limit, locks) = (q.order_by.take(), q.limit_clause.take(), std::mem::take(&mut q.locks));
    let body = std::mem::replace(&mut q.body, bare.body.clone());
    all_understood(&q, &bare, "SELECT")?;
    let ast::SetExpr::Select(mut s) = *body else { return Err(unknown("a query that is no plain SELECT")) };
    let items = items(std::mem::take(&mut s.projection))?;
    let (from, filter) = (std::mem::take(&mut s.from), s.selection.take());
    all_understood(&s, &bare_select, "SELECT")?;
    let mut from = from.into_iter();
    let table = from.next().map(table).transpose()?;
    if from.next().is_some() {
        return Err(unknown("a join"));
    }
    let (limit, offset) = match limit {
        None => (None, None),
        Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            (limit.map(expr).transpose()?, offset.map(|o| expr(o.value)).transpose()?)
        }
        Some(other) => return Err(unknown(other)),
    };
    Ok(Select {
        items,
        from: table,
        filter: filter.map(expr).transpose()?,
        order: order_by(order)?,
        limit,
        offset,
        lock: lock(&locks)?,
    })
}

fn order_by(order: Option<ast::OrderBy>) -> Res<Vec<(Expr, bool, Option<bool>)>> {
    let Some(order) = order else { return Ok(Vec::new()) };
    let ast::OrderByKind::Expressions(list) = order.kind else { return Err(unknown("ORDER BY ALL")) };
    let one = |o: ast::OrderByExpr| {
        let descending = match &o.options.sort {
            None | Some(ast::OrderBySort::Asc) => false,
            Some(ast::OrderBySort::Desc) => true,
            Some(ast::OrderBySort::Using(_)) => return Err(unknown("ORDER BY USING")),
        };
        Ok((expr(o.expr)?, descending, o.options.nulls_first))
    };
    list.into_iter().map(one).collect()
}

fn lock(locks: &[ast::LockClause]) -> Res<Option<(RowLock, WaitPolicy)>> {
    let [one] = locks else {
        return if locks.is_empty() { Ok(None) } else { Err(unknown("several locking clauses")) };
    };
    if one.of.is_some() {
        return Err(unknown("FOR UPDATE OF"));
    }
    let strength = match one.lock_type {
        ast::LockType::Update => RowLock::Update,
        ast::LockType::Share => RowLock::Share,
    };
    let policy = match one.nonblock {
        None => WaitPolicy::Block,
        Some(ast::NonBlock::Nowait) => WaitPolicy::NoWait,
        Some(ast::NonBlock::SkipLocked) => WaitPolicy::SkipLocked,
    };
    Ok(Some((strength, policy)))
}

fn table(t: ast::TableWithJoins) -> Res<TableRef> {
    let shown = t.to_string();
    match t {
        ast::TableWithJoins { relation: ast::TableFactor::Table { name, alias, .. }, joins } if joins.is_empty() => {
            // Sampling, functions and hints show in the text.
            let plain = alias.as_ref().map_or_else(|| name.to_string(), |a| format!("{name} {a}"));
            let plain_as = alias.as_ref().map_or_else(|| name.to_string(), |a| format!("{name} AS {a}"));
            if shown != plain && shown != plain_as {
                return Err(unknown(shown));
            }
            Ok(TableRef { name: object(&name)?, alias: alias.map(|a| ident(&a.name)) })
        }
        _ => Err(unknown(format!("the table expression {shown}"))),
    }
}

fn items(list: Vec<ast::SelectItem>) -> Res<Vec<Item>> {
    let one = |i: ast::SelectItem| {
        Ok(match i {
            ast::SelectItem::UnnamedExpr(e) => Item::Expr(expr(e)?, None),
            ast::SelectItem::ExprWithAlias { expr: e, alias } => Item::Expr(expr(e)?, Some(ident(&alias))),
            ast::SelectItem::Wildcard(_) if i.to_string() == "*" => Item::Star,
            other => return Err(unknown(other)),
        })
    };
    list.into_iter().map(one).collect()
}

fn assignments(list: Vec<ast::Assignment>) -> Res<Assignments> {
    let one = |a: ast::Assignment| match a.target {
        ast::AssignmentTarget::ColumnName(name) => Ok((object(&name)?, expr(a.value)?)),
        ast::AssignmentTarget::Tuple(_) => Err(unknown("SET (a, b) = ...")),
    };
    list.into_iter().map(one).collect()
}

fn insert(mut i: ast::Insert) -> Res<Insert> {
    let ast::Statement::Insert(bare) = bare("INSERT INTO t DEFAULT VALUES")? else { return Err(unknown("INSERT")) };
    let name = std::mem::replace(&mut i.table, bare.table.clone());
    let ast::TableObject::TableName(name) = name else { return Err(unknown("INSERT into a function")) };
    let alias = i.table_alias.take().map(|a| ident(&a.alias));
    let columns = std::mem::take(&mut i.columns).iter().map(object).collect::<Res<_>>()?;
    let source = match i.source.take() {
        None => Source::Defaults,
        Some(q) => match *q.body {
            ast::SetExpr::Values(v) if q.order_by.is_none() && q.limit_clause.is_none() && q.with.is_none() => {
                let row = |r: ast::Parens<Vec<ast::Expr>>| r.content.into_iter().map(expr).collect::<Res<_>>();
                Source::Values(v.rows.into_iter().map(row).collect::<Res<_>>()?)
            }
            _ => Source::Select(Box::new(query(*q)?)),
        },
    };
    let on_conflict = match i.on.take() {
        None => None,
        Some(ast::OnInsert::OnConflict(c)) => Some(on_conflict(c)?),
        Some(other) => return Err(unknown(other)),
    };
    let returning = items(i.returning.take().unwrap_or_default())?;
    all_understood(&i, &bare, "INSERT")?;
    Ok(Insert { table: TableRef { name: object(&name)?, alias }, columns, source, on_conflict, returning })
}

fn on_conflict(c: ast::OnConflict) -> Res<OnConflict> {
    let target = match c.conflict_target {
        None => Target::Any,
        Some(ast::ConflictTarget::Columns { columns, predicate: None }) => {
            Target::Columns(columns.iter().map(ident).collect())
        }
        Some(ast::ConflictTarget::OnConstraint(name)) => Target::Constraint(object(&name)?),
        Some(other) => return Err(unknown(other)),
    };
    let update = match c.action {
        ast::OnConflictAction::DoNothing => None,
        ast::OnConflictAction::DoUpdate(u) => Some((assignments(u.assignments)?, u.selection.map(expr).transpose()?)),
    };
    Ok(OnConflict { target, update })
}

fn update(mut u: ast::Update) -> Res<Statement> {
    let ast::Statement::Update(bare) = bare("UPDATE t SET a = 1")? else { return Err(unknown("UPDATE")) };
    let target = table(std::mem::replace(&mut u.table, bare.table.clone()))?;
    let set = Some(assignments(std::mem::replace(&mut u.assignments, bare.assignments.clone()))?);
    let filter = u.selection.take().map(expr).transpose()?;
    let returning = items(u.returning.take().unwrap_or_default())?;
    all_understood(&u, &bare, "UPDATE")?;
    Ok(Statement::Change(Change { table: target, set, filter, returning }))
}

fn delete(mut d: ast::Delete) -> Res<Statement> {
    let ast::Statement::Delete(bare) = bare("DELETE FROM t")? else { return Err(unknown("DELETE")) };
    let from = std::mem::replace(&mut d.from, bare.from.clone());
    let (ast::FromTable::WithFromKeyword(mut list) | ast::FromTable::WithoutKeyword(mut list)) = from;
    let target = table(list.pop().ok_or_else(|| unknown("DELETE without a table"))?)?;
    if !list.is_empty() {
        return Err(unknown("DELETE from several tables"));
    }
    let filter = d.selection.take().map(expr).transpose()?;
    let returning = items(d.returning.take().unwrap_or_default())?;
    all_understood(&d, &bare, "DELETE")?;
    Ok(Statement::Change(Change { table: target, set: None, filter, returning }))
}

/// A type's name.
pub fn data_type(t: &ast::DataType) -> Res<Type> {
    use ast::DataType as D;
    Ok(match t {
        D::Int(None) | D::Int4(None) | D::Integer(None) => Type::Int4,
        D::BigInt(None) | D::Int8(None) => Type::Int8,
        D::Text => Type::Text,
        D::Bool | D::Boolean => Type::Bool,
        D::Timestamp(None, ast::TimezoneInfo::Tz | ast::TimezoneInfo::WithTimeZone) => Type::Timestamptz,
        other => return Err(unknown(format!("the type {other}"))),
    })
}

fn operator(op: &ast::BinaryOperator) -> Res<BinOp> {
    use ast::BinaryOperator as B;
    Ok(match op {
        B::Plus => BinOp::Add,
        B::Minus => BinOp::Sub,
        B::Multiply => BinOp::Mul,
        B::Divide => BinOp::Div,
        B::Modulo => BinOp::Mod,
        B::StringConcat => BinOp::Concat,
        B::Eq => BinOp::Eq,
        B::NotEq => BinOp::Ne,
        B::Lt => BinOp::Lt,
        B::LtEq => BinOp::Le,
        B::Gt => BinOp::Gt,
        B::GtEq => BinOp::Ge,
        B::And => BinOp::And,
        B::Or => BinOp::Or,
        other => return Err(unknown(format!("the operator {other}"))),
    })
}

/// An expression.
pub fn expr(e: ast::Expr) -> Res<Expr> {
    use ast::Expr as E;
    let boxed = |e: Box<ast::Expr>| expr(*e).map(Box::new);
    Ok(match e {
        E::Value(v) => literal(v.value)?,
        E::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default") => Expr::Default,
        E::Identifier(i) => Expr::Column(None, ident(&i)),
        E::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] => Expr::Column(Some(ident(table)), ident(column)),
            _ => return Err(unknown("a name of more than two parts")),
        },
        E::Nested(inner) => expr(*inner)?,
        E::BinaryOp { left, op, right } => Expr::Binary(operator(&op)?, boxed(left)?, boxed(right)?),
        E::UnaryOp { op: ast::UnaryOperator::Not, expr: inner } => Expr::Not(boxed(inner)?),
        E::UnaryOp { op: ast::UnaryOperator::Minus, expr: inner } => Expr::Negate(boxed(inner)?),
        E::IsNull(inner) => Expr::IsNull(boxed(inner)?, true),
        E::IsNotNull(inner) => Expr::IsNull(boxed(inner)?, false),
        E::In { expr: inner, target: ast::InTarget::List(list), negated, global: false } => {
            Expr::In(boxed(inner)?, list.into_iter().map(expr).collect::<Res<_>>()?, !negated)
        }
        E::Between { expr: inner, negated, low, high } => {
            let inner = boxed(inner)?;
            let low = Expr::Binary(BinOp::Ge, inner.clone(), boxed(low)?);
            let both = Expr::Binary(BinOp::And, Box::new(low), Box::new(Expr::Binary(BinOp::Le, inner, boxed(high)?)));
            if negated { Expr::Not(Box::new(both)) } else { both }
        }
        E::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, expr: inner, data_type: t, format: None } => {
            Expr::Cast(boxed(inner)?, data_type(&t)?)
        }
        E::TypedString(t) => Expr::Cast(Box::new(literal(t.value.value)?), data_type(&t.data_type)?),
        E::Function(f) => call(f)?,
        other => return Err(unknown(format!("the expression {other}"))),
    })
}

fn literal(v: ast::Value) -> Res<Expr> {
    use ast::Value as V;
    Ok(match v {
        V::Number(n, _) if n.contains('.') => Expr::Decimal(n),
        V::Number(n, _) => {
            let n: i64 = n.parse().map_err(|_| unknown(format!("the number {n}")))?;
            let ty = if i32::try_from(n).is_ok() { Type::Int4 } else { Type::Int8 };
            Expr::Literal(Value::Int(n), Some(ty))
        }
        V::SingleQuotedString(s) | V::EscapedStringLiteral(s) => Expr::String(s),
        V::Boolean(b) => Expr::Literal(Value::Bool(b), Some(Type::Bool)),
        V::Null => Expr::Literal(Value::Null, None),
        V::Placeholder(p) => {
            let n: usize = p
                .strip_prefix('$')
                .and_then(|n| n.parse().ok())
                .filter(|n| (1..=65_535).contains(n))
                .ok_or_else(|| PgError::error("42P02", format!("there is no parameter {p}")))?;
            Expr::Param(n - 1)
        }
        other => return Err(unknown(format!("the literal {other}"))),
    })
}

fn call(f: ast::Function) -> Res<Expr> {
    let shown = f.to_string();
    let name = object(&f.name)?;
    let ast::FunctionArguments::List(list) = f.args else { return Err(unknown(shown)) };
    let plain = f.parameters == ast::FunctionArguments::None
        && f.within_group.is_empty()
        && f.filter.is_none()
        && f.over.is_none()
        && f.null_treatment.is_none()
        && list.duplicate_treatment.is_none()
        && list.clauses.is_empty();
    if !plain {
        return Err(unknown(shown));
    }
    if name == "count" && list.args == [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard)] {
        return Ok(Expr::CountAll);
    }
    let arg = |a: ast::FunctionArg| match a {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => expr(e),
        _ => Err(unknown(&shown)),
    };
    Ok(Expr::Call(name, list.args.into_iter().map(arg).collect::<Res<_>>()?))
}
