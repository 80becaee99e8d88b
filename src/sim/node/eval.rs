//! Expressions computed, with SQL's three-valued logic.

use super::functions::Function;
use super::session::Session;
use super::value::{Res, Type, Value, int, unknown};
use crate::wire::PgError;

/// An operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Negate,
    Concat,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Not,
    IsNull,
    Cast,
}

/// An expression that can be computed.
#[derive(Clone, PartialEq, Debug)]
pub enum Ex {
    Const(Value),
    /// A parameter whose value is not known yet: the statement is only being described.
    Param(usize),
    Column(usize),
    /// A column of the row proposed for insertion.
    Excluded(usize),
    /// The n-th aggregate.
    Aggregate(usize),
    /// An operator, the type of its result, and what it works on.
    Op(Op, Type, Vec<Ex>),
    Call(Function, Vec<Ex>),
}

impl Ex {
    /// Some part of it satisfies `f`.
    pub fn any(&self, f: &impl Fn(&Ex) -> bool) -> bool {
        let of = |list: &[Ex]| list.iter().any(|e| e.any(f));
        f(self) || if let Ex::Op(_, _, args) | Ex::Call(_, args) = self { of(args) } else { false }
    }
}

/// What an expression may refer to.
#[derive(Clone, Copy, Default)]
pub struct Env<'a> {
    pub row: &'a [Value],
    pub excluded: &'a [Value],
    pub aggregates: &'a [Value],
}

impl<'a> Env<'a> {
    /// One row of a table.
    pub fn row(row: &'a [Value]) -> Env<'a> {
        Env { row, ..Env::default() }
    }
}

/// Applies an operator; nothing but AND, OR and IS NULL makes something of NULL.
pub fn apply(op: Op, ty: Type, args: &[Value]) -> Res<Value> {
    let decisive = Value::Bool(op == Op::Or);
    Ok(match (op, args) {
        (Op::IsNull, [v]) => Value::Bool(*v == Value::Null),
        (Op::And | Op::Or, [a, b]) if *a == decisive || *b == decisive => decisive,
        (_, args) if args.contains(&Value::Null) => Value::Null,
        (Op::And | Op::Or, [_, b]) => b.clone(),
        (Op::Not, [Value::Bool(b)]) => Value::Bool(!b),
        (Op::Eq, [a, b]) => Value::Bool(a == b),
        (Op::Ne, [a, b]) => Value::Bool(a != b),
        (Op::Lt, [a, b]) => Value::Bool(a < b),
        (Op::Le, [a, b]) => Value::Bool(a <= b),
        (Op::Gt, [a, b]) => Value::Bool(a > b),
        (Op::Ge, [a, b]) => Value::Bool(a >= b),
        (Op::Concat, [Value::Text(a), Value::Text(b)]) => Value::Text(format!("{a}{b}")),
        (Op::Negate, [Value::Int(n)]) => int(ty, -i128::from(*n))?,
        (Op::Div | Op::Mod, [_, Value::Int(0)]) => return Err(PgError::error("22012", "division by zero")),
        (Op::Cast, [v]) => cast(ty, v)?,
        (op, [Value::Int(a), Value::Int(b)]) => {
            let (a, b) = (i128::from(*a), i128::from(*b));
            let n = match op {
                Op::Add => a + b,
                Op::Sub => a - b,
                Op::Mul => a * b,
                Op::Div => a / b,
                _ => a % b,
            };
            int(ty, n)?
        }
        _ => return Err(unknown(format!("{op:?} of {args:?}"))),
    })
}

fn cast(to: Type, v: &Value) -> Res<Value> {
    match (to, v) {
        (to, Value::Int(n)) if to.is_int() => int(to, i128::from(*n)),
        (to, Value::Text(t)) => Value::parse(to, t),
        (Type::Text, Value::Bool(b)) => Ok(Value::Text(b.to_string())),
        (Type::Text, v) => Ok(v.text().map_or(Value::Null, Value::Text)),
        _ => Err(PgError::error("42846", format!("cannot cast {v:?} to {}", to.name()))),
    }
}

impl Session {
    /// Computes an expression.
    pub fn eval(&mut self, ex: &Ex, env: &Env<'_>) -> Res<Value> {
        let at = |values: &[Value], i: usize| values.get(i).cloned().unwrap_or(Value::Null);
        Ok(match ex {
            Ex::Const(v) => v.clone(),
            Ex::Param(n) => return Err(unknown(format!("a value of ${}", n + 1))),
            Ex::Column(n) => at(env.row, *n),
            Ex::Excluded(n) => at(env.excluded, *n),
            Ex::Aggregate(n) => at(env.aggregates, *n),
            Ex::Op(op @ (Op::And | Op::Or), ty, args) => {
                let left = self.eval(&args[0], env)?;
                if left == Value::Bool(*op == Op::Or) {
                    return Ok(left);
                }
                apply(*op, *ty, &[left, self.eval(&args[1], env)?])?
            }
            Ex::Op(op, ty, args) => apply(*op, *ty, &self.eval_all(args, env)?)?,
            Ex::Call(f, args) => {
                let values = self.eval_all(args, env)?;
                self.call(*f, &values)?
            }
        })
    }

    /// Computes several.
    pub fn eval_all(&mut self, list: &[Ex], env: &Env<'_>) -> Res<Vec<Value>> {
        list.iter().map(|e| self.eval(e, env)).collect()
    }

    /// A WHERE clause: NULL is no.
    pub fn holds(&mut self, filter: Option<&Ex>, env: &Env<'_>) -> Res<bool> {
        Ok(match filter {
            None => true,
            Some(f) => self.eval(f, env)? == Value::Bool(true),
        })
    }
}
