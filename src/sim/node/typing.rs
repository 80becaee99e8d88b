//! Expressions: names resolved, types decided (parse_expr.c, parse_coerce.c as far as they are needed).

use super::functions::{self, Function};
use super::plan::{Aggregate, Ex};
use super::session::Session;
use super::sql::{BinOp, Expr};
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// An expression whose type may be open yet (a string literal, NULL, a parameter).
type Open = (Ex, Option<Type>);

/// Columns that a name may mean.
pub struct Analysis<'a> {
    pub session: &'a Session,
    /// The table's name in this statement, and its columns.
    pub scope: Option<(String, Vec<(String, Type)>)>,
    pub excluded: bool,
    /// `None`: not known yet.
    pub params: Vec<Option<Type>>,
    pub aggregates: Vec<(Aggregate, Type, Option<Ex>)>,
}

fn mismatch(op: BinOp, a: Type, b: Type) -> PgError {
    PgError::error("42883", format!("operator does not exist: {} {} {}", a.name(), op.symbol(), b.name()))
}

impl Analysis<'_> {
    pub fn condition(&mut self, e: &Expr, clause: &str) -> Res<Ex> {
        let (ex, ty) = self.typed(e, Some(Type::Bool))?;
        if ty != Type::Bool {
            let e = format!("argument of {clause} must be type boolean, not type {}", ty.name());
            return Err(PgError::error("42804", e));
        }
        Ok(ex)
    }

    /// An expression whose type is decided: that of `want`, or text, if it is open.
    pub fn typed(&mut self, e: &Expr, want: Option<Type>) -> Res<(Ex, Type)> {
        let (ex, ty) = self.open(e)?;
        match ty {
            Some(ty) => Ok((ex, ty)),
            None => {
                let ty = want.unwrap_or(Type::Text);
                Ok((self.decide(ex, ty)?, ty))
            }
        }
    }

    /// Gives an open expression a type.
    pub fn decide(&mut self, ex: Ex, ty: Type) -> Res<Ex> {
        Ok(match ex {
            Ex::Const(Value::Text(t)) => Ex::Const(Value::parse(ty, &t)?),
            Ex::Param(n) => {
                self.params[n] = Some(ty);
                Ex::Param(n)
            }
            other => other,
        })
    }

    pub fn open(&mut self, e: &Expr) -> Res<Open> {
        Ok(match e {
            Expr::Literal(v, ty) => (Ex::Const(v.clone()), *ty),
            Expr::Decimal(n) => return Err(unknown(format!("the number {n}"))),
            Expr::String(s) => (Ex::Const(Value::Text(s.clone())), None),
            Expr::Param(n) => {
                if self.params.len() <= *n {
                    self.params.resize(n + 1, None);
                }
                (Ex::Param(*n), self.params[*n])
            }
            Expr::Column(table, name) => self.column(table.as_deref(), name)?,
            Expr::Default => return Err(PgError::error("42601", "DEFAULT is not allowed in this context")),
            Expr::Binary(op, a, b) => self.binary(*op, a, b)?,
            Expr::Not(a) => (Ex::Not(Box::new(self.condition(a, "NOT")?)), Some(Type::Bool)),
            Expr::Negate(a) => {
                let (a, ty) = self.typed(a, Some(Type::Int4))?;
                if !ty.is_int() {
                    return Err(PgError::error("42883", format!("operator does not exist: - {}", ty.name())));
                }
                match a {
                    Ex::Const(Value::Int(n)) => (Ex::Const(Value::Int(-n)), Some(ty)),
                    a => (Ex::Negate(ty, Box::new(a)), Some(ty)),
                }
            }
            // The type of what is tested stays open: a parameter must get it elsewhere.
            Expr::IsNull(a, is) => (Ex::IsNull(Box::new(self.open(a)?.0), *is), Some(Type::Bool)),
            Expr::In(a, list, is) => self.one_of(a, list, *is)?,
            Expr::Cast(a, to) => {
                let (ex, ty) = self.open(a)?;
                match ty {
                    None => (self.decide(ex, *to)?, Some(*to)),
                    Some(ty) => {
                        let allowed = ty == *to || *to == Type::Text || ty == Type::Text || ty.is_int() && to.is_int();
                        if !allowed {
                            let e = format!("cannot cast type {} to {}", ty.name(), to.name());
                            return Err(PgError::error("42846", e));
                        }
                        (cast(ex, ty, *to), Some(*to))
                    }
                }
            }
            Expr::CountAll => {
                self.aggregates.push((Aggregate::CountAll, Type::Int8, None));
                (Ex::Aggregate(self.aggregates.len() - 1), Some(Type::Int8))
            }
            Expr::Call(name, args) => self.call(name, args)?,
        })
    }

    fn column(&self, table: Option<&str>, name: &str) -> Res<Open> {
        let missing = || PgError::error("42703", format!("column \"{name}\" does not exist"));
        let (alias, columns) = self.scope.as_ref().ok_or_else(missing)?;
        let at = columns.iter().position(|(n, _)| n == name);
        match table {
            Some("excluded") if self.excluded => {
                let at = at.ok_or_else(|| PgError::error("42703", format!("column excluded.{name} does not exist")))?;
                Ok((Ex::Excluded(at), Some(columns[at].1)))
            }
            Some(t) if t != alias => {
                Err(PgError::error("42P01", format!("missing FROM-clause entry for table \"{t}\"")))
            }
            Some(t) => {
                let at = at.ok_or_else(|| PgError::error("42703", format!("column {t}.{name} does not exist")))?;
                Ok((Ex::Column(at), Some(columns[at].1)))
            }
            // Under ON CONFLICT a bare name could mean excluded's column as well.
            None if self.excluded && at.is_some() => {
                Err(PgError::error("42702", format!("column reference \"{name}\" is ambiguous")))
            }
            None => {
                let at = at.ok_or_else(missing)?;
                Ok((Ex::Column(at), Some(columns[at].1)))
            }
        }
    }

    /// Both sides of an operator in one type.
    fn same_type(&mut self, op: BinOp, a: Open, b: Open, open: Type) -> Res<(Ex, Ex, Type)> {
        Ok(match (a, b) {
            ((a, Some(s)), (b, Some(t))) if s == t => (a, b, s),
            ((a, Some(s)), (b, Some(t))) if s.is_int() && t.is_int() => {
                let wide = if s == Type::Int4 {
                    t
                } else if t == Type::Int4 {
                    s
                } else {
                    Type::Numeric
                };
                (a, b, wide)
            }
            ((_, Some(s)), (_, Some(t))) => return Err(mismatch(op, s, t)),
            ((a, Some(s)), (b, None)) => (a, self.decide(b, s)?, s),
            ((a, None), (b, Some(t))) => (self.decide(a, t)?, b, t),
            ((a, None), (b, None)) => (self.decide(a, open)?, self.decide(b, open)?, open),
        })
    }

    fn binary(&mut self, op: BinOp, a: &Expr, b: &Expr) -> Res<Open> {
        let (a, b) = (self.open(a)?, self.open(b)?);
        Ok(match op {
            BinOp::And | BinOp::Or => {
                let (a, b, ty) = self.same_type(op, a, b, Type::Bool)?;
                if ty != Type::Bool {
                    let e = format!("argument of {} must be type boolean, not type {}", op.symbol(), ty.name());
                    return Err(PgError::error("42804", e));
                }
                (Ex::Binary(op, ty, Box::new(a), Box::new(b)), Some(ty))
            }
            BinOp::Concat => {
                let text = |me: &mut Self, (ex, ty): Open| match ty {
                    None => me.decide(ex, Type::Text),
                    Some(ty) => Ok(cast(ex, ty, Type::Text)),
                };
                if ![a.1, b.1].iter().any(|t| t.is_none() || *t == Some(Type::Text)) {
                    return Err(mismatch(op, a.1.unwrap_or(Type::Text), b.1.unwrap_or(Type::Text)));
                }
                let (a, b) = (text(self, a)?, text(self, b)?);
                (Ex::Binary(op, Type::Text, Box::new(a), Box::new(b)), Some(Type::Text))
            }
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div | BinOp::Mod => {
                let (a, b, ty) = self.same_type(op, a, b, Type::Int4)?;
                if !ty.is_int() {
                    return Err(mismatch(op, ty, ty));
                }
                (Ex::Binary(op, ty, Box::new(a), Box::new(b)), Some(ty))
            }
            BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge => {
                let (a, b, ty) = self.same_type(op, a, b, Type::Text)?;
                (Ex::Binary(op, ty, Box::new(a), Box::new(b)), Some(Type::Bool))
            }
        })
    }

    fn one_of(&mut self, a: &Expr, list: &[Expr], is: bool) -> Res<Open> {
        let (mut a, mut ty) = self.open(a)?;
        let mut rest = Vec::new();
        for e in list {
            let e = self.open(e)?;
            let (left, right, t) = self.same_type(BinOp::Eq, (a, ty), e, Type::Text)?;
            (a, ty) = (left, Some(t));
            rest.push(right);
        }
        Ok((Ex::In(Box::new(a), rest, is), Some(Type::Bool)))
    }

    fn call(&mut self, name: &str, args: &[Expr]) -> Res<Open> {
        let aggregate = match name {
            "count" => Some(Aggregate::Count),
            "sum" => Some(Aggregate::Sum),
            "min" => Some(Aggregate::Min),
            "max" => Some(Aggregate::Max),
            _ => None,
        };
        if let (Some(kind), [arg]) = (aggregate, args) {
            let (ex, ty) = self.typed(arg, None)?;
            let ty = match (kind, ty) {
                (Aggregate::Count | Aggregate::CountAll, _) => Type::Int8,
                (Aggregate::Sum, Type::Int4) => Type::Int8,
                (Aggregate::Sum, Type::Int8) => Type::Numeric,
                (Aggregate::Sum, other) => {
                    return Err(PgError::error("42883", format!("function sum({}) does not exist", other.name())));
                }
                (Aggregate::Min | Aggregate::Max, ty) => ty,
            };
            self.aggregates.push((kind, ty, Some(ex)));
            return Ok((Ex::Aggregate(self.aggregates.len() - 1), Some(ty)));
        }
        if name == "coalesce" && !args.is_empty() {
            let mut done: Vec<Open> = args.iter().map(|e| self.open(e)).collect::<Res<_>>()?;
            let ty = done.iter().find_map(|(_, t)| *t).unwrap_or(Type::Text);
            let mut list = Vec::new();
            for (ex, t) in done.drain(..) {
                list.push(match t {
                    None => self.decide(ex, ty)?,
                    Some(t) if t == ty => ex,
                    Some(t) => return Err(unknown(format!("COALESCE of {} and {}", ty.name(), t.name()))),
                });
            }
            return Ok((Ex::Call(Function::Coalesce, list), Some(ty)));
        }
        let (function, types, result) = functions::lookup(name, args.len())
            .ok_or_else(|| unknown(format!("the function {name} with {} arguments", args.len())))?;
        let mut list = Vec::new();
        for (e, want) in args.iter().zip(types) {
            if let (Function::Sleep, Expr::Decimal(n)) = (function, e) {
                list.push(Ex::Const(Value::Text(n.clone())));
                continue;
            }
            let (ex, ty) = self.typed(e, Some(*want))?;
            let converts = ty.is_int() && (want.is_int() || function == Function::Sleep);
            if ty != *want && !converts {
                return Err(PgError::error("42883", format!("function {name}({}) does not exist", ty.name())));
            }
            list.push(cast(ex, ty, *want));
        }
        if let (Function::Nextval | Function::Currval | Function::Setval, Some(Ex::Const(Value::Text(t)))) =
            (function, list.first())
        {
            // A regclass literal is resolved here.
            self.session.find_sequence(t)?;
        }
        Ok((Ex::Call(function, list), Some(result)))
    }
}

/// A cast, where the types differ.
pub fn cast(ex: Ex, from: Type, to: Type) -> Ex {
    if from == to { ex } else { Ex::Cast(from, to, Box::new(ex)) }
}

/// FigureColname in parse_target.c.
pub fn output_name(e: &Expr) -> String {
    match e {
        Expr::Column(_, name) => name.clone(),
        Expr::Call(name, _) => name.clone(),
        Expr::CountAll => "count".into(),
        Expr::Cast(inner, ty) => match output_name(inner) {
            name if name == "?column?" => match ty {
                Type::Bool => "bool",
                Type::Int4 => "int4",
                Type::Int8 => "int8",
                Type::Numeric => "numeric",
                Type::Text => "text",
                Type::Timestamptz => "timestamptz",
                Type::Void => "void",
            }
            .into(),
            name => name,
        },
        _ => "?column?".into(),
    }
}
