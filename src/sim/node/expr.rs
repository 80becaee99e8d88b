//! Expressions: from sqlparser's trees to what can be computed; names resolved, types decided, constants computed
//! (parse_expr.c, parse_coerce.c and clauses.c as far as they are needed).

use std::rc::Rc;

use sqlparser::ast;

use super::eval::{Ex, Op, apply};
use super::functions;
use super::parse::{ident, object};
use super::server::Server;
use super::table::Table;
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// An expression whose type may be open yet (a string literal, NULL, a parameter).
type Open = (Ex, Option<Type>);

/// Aggregates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
}

/// The analysis of one statement.
pub struct Analysis<'a> {
    pub server: &'a Server,
    /// The table's name in this statement, and the table.
    pub scope: Option<(String, Rc<Table>)>,
    /// Within ON CONFLICT DO UPDATE, where `excluded` is a table as well.
    pub excluded: bool,
    /// The parameters' types; `None`: not known yet.
    pub params: Vec<Option<Type>>,
    /// The parameters' values. `None`: it is only Parse, which computes nothing.
    pub values: Option<&'a [Value]>,
    pub aggregates: Vec<(Aggregate, Type, Ex)>,
    /// What is constant is computed at once, as the planner does: its errors come before the first row is described.
    pub fold: bool,
}

impl<'a> Analysis<'a> {
    /// Of an expression that stands alone.
    pub fn new(server: &'a Server) -> Analysis<'a> {
        let (params, values, aggregates) = (Vec::new(), Some(&[] as &[Value]), Vec::new());
        Analysis { server, scope: None, excluded: false, params, values, aggregates, fold: true }
    }

    /// A condition.
    pub fn condition(&mut self, e: &ast::Expr, clause: &str) -> Res<Ex> {
        let wrong = |ty: Type| format!("argument of {clause} must be type boolean, not type {}", ty.name());
        match self.typed(e, Type::Bool)? {
            (ex, Type::Bool) => Ok(ex),
            (_, ty) => Err(PgError::error("42804", wrong(ty))),
        }
    }

    /// An expression whose type is decided: `want`, if it is open.
    pub fn typed(&mut self, e: &ast::Expr, want: Type) -> Res<(Ex, Type)> {
        let (ex, ty) = self.expr(e)?;
        match ty {
            Some(ty) => Ok((ex, ty)),
            None => Ok((self.decide(ex, want)?, want)),
        }
    }

    /// An expression of just this type: integers are converted to each other, nothing else is.
    pub fn of_type(&mut self, e: &ast::Expr, want: Type) -> Res<Ex> {
        match self.typed(e, want)? {
            (ex, ty) if ty == want => Ok(ex),
            (ex, ty) if ty.is_int() && want.is_int() => self.make(Op::Cast, want, vec![ex]),
            (_, ty) => Err(unknown(format!("{e} of type {} where {} is wanted", ty.name(), want.name()))),
        }
    }

    /// Gives an open expression a type.
    fn decide(&mut self, ex: Ex, ty: Type) -> Res<Ex> {
        Ok(match ex {
            Ex::Const(Value::Text(t)) => Ex::Const(Value::parse(ty, &t)?),
            Ex::Param(n) => {
                self.params[n] = Some(ty);
                Ex::Param(n)
            }
            other => other,
        })
    }

    /// An operator with its arguments, computed if they are constant.
    fn make(&self, op: Op, ty: Type, args: Vec<Ex>) -> Res<Ex> {
        let constant = |e: &Ex| if let Ex::Const(v) = e { Some(v.clone()) } else { None };
        match args.iter().map(constant).collect::<Option<Vec<Value>>>() {
            Some(values) if self.fold => Ok(Ex::Const(apply(op, ty, &values)?)),
            _ => Ok(Ex::Op(op, ty, args)),
        }
    }

    fn boolean(&self, op: Op, args: Vec<Ex>) -> Res<Open> {
        Ok((self.make(op, Type::Bool, args)?, Some(Type::Bool)))
    }

    fn expr(&mut self, e: &ast::Expr) -> Res<Open> {
        use ast::Expr as E;
        match e {
            E::Nested(inner) => self.expr(inner),
            E::Value(v) => self.literal(&v.value),
            E::Identifier(name) => self.column(None, &ident(name)),
            E::CompoundIdentifier(parts) if parts.len() == 2 => self.column(Some(&ident(&parts[0])), &ident(&parts[1])),
            E::BinaryOp { left, op, right } => self.binary(op, left, right),
            E::UnaryOp { op: ast::UnaryOperator::Not, expr } => {
                let a = self.condition(expr, "NOT")?;
                self.boolean(Op::Not, vec![a])
            }
            E::UnaryOp { op: ast::UnaryOperator::Minus, expr } => {
                let (a, ty) = self.typed(expr, Type::Int4)?;
                Ok((self.make(Op::Negate, ty, vec![a])?, Some(ty)))
            }
            // The type of what is tested stays open: a parameter must get it elsewhere.
            E::IsNull(a) => {
                let a = self.expr(a)?.0;
                self.boolean(Op::IsNull, vec![a])
            }
            E::IsNotNull(a) => {
                let (is, _) = self.expr(&E::IsNull(a.clone()))?;
                self.boolean(Op::Not, vec![is])
            }
            E::In { expr: a, target: ast::InTarget::List(list), negated, global: false } => {
                let mut any = Ex::Const(Value::Bool(false));
                for e in list {
                    let one = self.binary(&ast::BinaryOperator::Eq, a, e)?.0;
                    any = if let Ex::Const(Value::Bool(false)) = any {
                        one
                    } else {
                        self.boolean(Op::Or, vec![any, one])?.0
                    };
                }
                if *negated { self.boolean(Op::Not, vec![any]) } else { Ok((any, Some(Type::Bool))) }
            }
            E::Between { expr: a, negated: false, low, high } => {
                let low = self.binary(&ast::BinaryOperator::GtEq, a, low)?.0;
                let high = self.binary(&ast::BinaryOperator::LtEq, a, high)?.0;
                self.boolean(Op::And, vec![low, high])
            }
            E::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, expr, data_type: t, format: None } => {
                let to = data_type(t)?;
                match self.expr(expr)? {
                    (ex, None) => Ok((self.decide(ex, to)?, Some(to))),
                    (ex, Some(from)) if from == to => Ok((ex, Some(to))),
                    (ex, Some(_)) => Ok((self.make(Op::Cast, to, vec![ex])?, Some(to))),
                }
            }
            E::Function(f) => self.call(f),
            other => Err(unknown(format!("the expression {other}"))),
        }
    }

    fn literal(&mut self, v: &ast::Value) -> Res<Open> {
        use ast::Value as V;
        Ok(match v {
            V::Number(n, _) => {
                let n: i64 = n.parse().map_err(|_| unknown(format!("the number {n}")))?;
                let ty = if i32::try_from(n).is_ok() { Type::Int4 } else { Type::Int8 };
                (Ex::Const(Value::Int(n)), Some(ty))
            }
            V::SingleQuotedString(s) | V::EscapedStringLiteral(s) => (Ex::Const(Value::of(s)), None),
            V::Boolean(b) => (Ex::Const(Value::Bool(*b)), Some(Type::Bool)),
            V::Null => (Ex::Const(Value::Null), None),
            V::Placeholder(p) => self.parameter(p)?,
            other => return Err(unknown(format!("the literal {other}"))),
        })
    }

    fn parameter(&mut self, p: &str) -> Res<Open> {
        let number: Option<usize> = p.strip_prefix('$').and_then(|n| n.parse().ok());
        let number = number.filter(|n| (1..=65_535).contains(n));
        let n = number.ok_or_else(|| PgError::error("42P02", format!("there is no parameter {p}")))? - 1;
        if self.params.len() <= n {
            self.params.resize(n + 1, None);
        }
        let value = self.values.and_then(|v| v.get(n)).cloned();
        Ok((value.map_or(Ex::Param(n), Ex::Const), self.params[n]))
    }

    fn column(&self, table: Option<&str>, name: &str) -> Res<Open> {
        let shown = table.map_or_else(|| format!("\"{name}\""), |t| format!("{t}.{name}"));
        let missing = || PgError::error("42703", format!("column {shown} does not exist"));
        let (alias, columns) = self.scope.as_ref().ok_or_else(missing)?;
        let excluded = self.excluded && table == Some("excluded");
        if table.is_some_and(|t| t != alias) && !excluded {
            let e = format!("missing FROM-clause entry for table \"{}\"", table.unwrap_or_default());
            return Err(PgError::error("42P01", e));
        }
        let at = columns.column(name).ok_or_else(missing)?;
        if table.is_none() && self.excluded {
            // It could mean excluded's column as well.
            return Err(PgError::error("42702", format!("column reference \"{name}\" is ambiguous")));
        }
        Ok((if excluded { Ex::Excluded(at) } else { Ex::Column(at) }, Some(columns.columns[at].ty)))
    }

    /// Both sides of an operator in one type; `open`: if neither has one.
    fn same_type(&mut self, a: Open, b: Open, open: Type) -> Res<(Vec<Ex>, Type)> {
        let ty = match (a.1, b.1) {
            (Some(s), Some(t)) if s == t => s,
            (Some(Type::Int4 | Type::Int8), Some(Type::Int4 | Type::Int8)) => Type::Int8,
            (Some(s), Some(t)) => return Err(unknown(format!("an operator of {} and {}", s.name(), t.name()))),
            (s, t) => s.or(t).unwrap_or(open),
        };
        let mut args = Vec::new();
        for (ex, own) in [a, b] {
            args.push(if own.is_none() { self.decide(ex, ty)? } else { ex });
        }
        Ok((args, ty))
    }

    fn binary(&mut self, op: &ast::BinaryOperator, left: &ast::Expr, right: &ast::Expr) -> Res<Open> {
        use ast::BinaryOperator as B;
        let op = match op {
            B::And => return self.logic(Op::And, left, right),
            B::Or => return self.logic(Op::Or, left, right),
            B::Plus => Op::Add,
            B::Minus => Op::Sub,
            B::Multiply => Op::Mul,
            B::Divide => Op::Div,
            B::Modulo => Op::Mod,
            B::StringConcat => Op::Concat,
            B::Eq => Op::Eq,
            B::NotEq => Op::Ne,
            B::Lt => Op::Lt,
            B::LtEq => Op::Le,
            B::Gt => Op::Gt,
            B::GtEq => Op::Ge,
            other => return Err(unknown(format!("the operator {other}"))),
        };
        let (a, b) = (self.expr(left)?, self.expr(right)?);
        let compares = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
        let (args, ty) = self.same_type(a, b, if compares || op == Op::Concat { Type::Text } else { Type::Int4 })?;
        if compares {
            return self.boolean(op, args);
        }
        if if op == Op::Concat { ty != Type::Text } else { !matches!(ty, Type::Int4 | Type::Int8) } {
            return Err(unknown(format!("{op:?} of {}", ty.name())));
        }
        Ok((self.make(op, ty, args)?, Some(ty)))
    }

    /// AND, OR. What they do not need is not computed.
    fn logic(&mut self, op: Op, left: &ast::Expr, right: &ast::Expr) -> Res<Open> {
        let clause = if op == Op::And { "AND" } else { "OR" };
        let a = self.condition(left, clause)?;
        let decided = a == Ex::Const(Value::Bool(op == Op::Or));
        let fold = self.fold;
        self.fold &= !decided;
        let b = self.condition(right, clause);
        self.fold = fold;
        if decided && fold { Ok((a, Some(Type::Bool))) } else { self.boolean(op, vec![a, b?]) }
    }

    fn call(&mut self, f: &ast::Function) -> Res<Open> {
        let name = object(&f.name)?;
        let ast::FunctionArguments::List(list) = &f.args else { return Err(unknown(f)) };
        let mut args = Vec::new();
        for a in &list.args {
            match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => args.push(e),
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard) if name == "count" => {}
                _ => return Err(unknown(f)),
            }
        }
        // DISTINCT, FILTER, OVER and their like.
        let shown: Vec<String> = list.args.iter().map(ToString::to_string).collect();
        if f.to_string() != format!("{}({})", f.name, shown.join(", ")) {
            return Err(unknown(f));
        }
        let aggregate = match name.as_str() {
            "count" => Aggregate::Count,
            "sum" => Aggregate::Sum,
            "min" => Aggregate::Min,
            "max" => Aggregate::Max,
            _ => {
                let (function, types, result) = functions::lookup(&name, args.len())?;
                let args: Vec<Ex> =
                    args.into_iter().zip(types).map(|(e, ty)| self.of_type(e, *ty)).collect::<Res<_>>()?;
                if let (functions::Function::Nextval, [Ex::Const(Value::Text(t))]) = (function, args.as_slice()) {
                    // A regclass literal is resolved here.
                    self.server.sequences.get(t).ok_or_else(|| functions::no_relation(t))?;
                }
                return Ok((Ex::Call(function, args), Some(result)));
            }
        };
        let (ex, ty) = match args.as_slice() {
            [] => (Ex::Const(Value::Bool(true)), Type::Bool),
            [one] => self.typed(one, Type::Text)?,
            _ => return Err(unknown(f)),
        };
        let ty = match (aggregate, ty) {
            (Aggregate::Count, _) | (Aggregate::Sum, Type::Int4) => Type::Int8,
            (Aggregate::Sum, Type::Int8) => Type::Numeric,
            (Aggregate::Sum, _) => return Err(unknown(f)),
            (Aggregate::Min | Aggregate::Max, ty) => ty,
        };
        self.aggregates.push((aggregate, ty, ex));
        Ok((Ex::Aggregate(self.aggregates.len() - 1), Some(ty)))
    }
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

/// A result column's name (FigureColname in parse_target.c).
pub fn output_name(e: &ast::Expr) -> String {
    let name = match e {
        ast::Expr::Identifier(i) => Some(ident(i)),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(ident),
        ast::Expr::Function(f) => object(&f.name).ok(),
        ast::Expr::Nested(inner) => Some(output_name(inner)),
        ast::Expr::Cast { expr, data_type: t, .. } => match (output_name(expr).as_str(), data_type(t)) {
            ("?column?", Ok(ty)) => Some(ty.short_name().into()),
            (name, _) => Some(name.into()),
        },
        _ => None,
    };
    name.unwrap_or_else(|| "?column?".into())
}
