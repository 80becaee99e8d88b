//! Expressions computed, with SQL's three-valued logic.

use super::functions::Function;
use super::plan::{Aggregate, Ex, Plan, Rows, SelectPlan};
use super::session::Session;
use super::sql::BinOp;
use super::value::{Res, Type, Value, int, unknown};
use crate::wire::PgError;

/// What an expression may refer to.
#[derive(Clone, Copy, Default)]
pub struct Env<'a> {
    pub row: &'a [Value],
    pub excluded: &'a [Value],
    pub params: &'a [Value],
    pub aggregates: &'a [Value],
}

fn at(values: &[Value], i: usize) -> Value {
    values.get(i).cloned().unwrap_or(Value::Null)
}

fn select_expressions<'a>(p: &'a mut SelectPlan, all: &mut Vec<&'a mut Ex>) {
    all.extend(p.filter.iter_mut().chain(&mut p.outputs).chain(&mut p.limit).chain(&mut p.offset));
    all.extend(p.aggregates.iter_mut().filter_map(|(_, _, e)| e.as_mut()));
    all.extend(p.order.iter_mut().map(|(e, _, _)| e));
}

fn arithmetic(op: BinOp, ty: Type, a: i64, b: i64) -> Res<Value> {
    let (a, b) = (i128::from(a), i128::from(b));
    if matches!(op, BinOp::Div | BinOp::Mod) && b == 0 {
        return Err(PgError::error("22012", "division by zero"));
    }
    let n = match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        BinOp::Div if ty == Type::Numeric => return Err(unknown("division of numeric")),
        BinOp::Div => a / b,
        _ => a % b,
    };
    int(ty, n)
}

fn compare(op: BinOp, a: &Value, b: &Value) -> Value {
    if *a == Value::Null || *b == Value::Null {
        return Value::Null;
    }
    Value::Bool(match op {
        BinOp::Eq => a == b,
        BinOp::Ne => a != b,
        BinOp::Lt => a < b,
        BinOp::Le => a <= b,
        BinOp::Gt => a > b,
        _ => a >= b,
    })
}

/// A value in another type.
pub fn cast(from: Type, to: Type, v: Value) -> Res<Value> {
    Ok(match v {
        Value::Null => Value::Null,
        Value::Int(n) if to.is_int() => int(to, n.into())?,
        Value::Bool(b) if to == Type::Text => Value::Text(b.to_string()),
        v if from == Type::Text => Value::parse(to, &v.text().unwrap_or_default())?,
        v if to == Type::Text => Value::Text(v.text().unwrap_or_default()),
        v => v,
    })
}

impl Session {
    /// Computes an expression.
    pub fn eval(&mut self, ex: &Ex, env: &Env<'_>) -> Res<Value> {
        Ok(match ex {
            Ex::Const(v) => v.clone(),
            Ex::Param(n) => at(env.params, *n),
            Ex::Column(n) => at(env.row, *n),
            Ex::Excluded(n) => at(env.excluded, *n),
            Ex::Aggregate(n) => at(env.aggregates, *n),
            Ex::Binary(op, ty, a, b) => self.binary(*op, *ty, a, b, env)?,
            Ex::Not(a) => match self.eval(a, env)? {
                Value::Bool(b) => Value::Bool(!b),
                other => other,
            },
            Ex::Negate(ty, a) => match self.eval(a, env)? {
                Value::Int(n) => int(*ty, -i128::from(n))?,
                other => other,
            },
            Ex::IsNull(a, is) => Value::Bool((self.eval(a, env)? == Value::Null) == *is),
            Ex::In(a, list, is) => {
                let a = self.eval(a, env)?;
                let mut found = Value::Bool(false);
                for e in list {
                    match compare(BinOp::Eq, &a, &self.eval(e, env)?) {
                        Value::Bool(true) => return Ok(Value::Bool(*is)),
                        Value::Null => found = Value::Null,
                        _ => {}
                    }
                }
                if found == Value::Null { found } else { Value::Bool(!is) }
            }
            Ex::Cast(from, to, a) => cast(*from, *to, self.eval(a, env)?)?,
            Ex::Call(Function::SessionSettings, _) => return Err(unknown("this use of the session's settings")),
            Ex::Call(f, args) => self.call(*f, args, env)?,
        })
    }

    fn binary(&mut self, op: BinOp, ty: Type, a: &Ex, b: &Ex, env: &Env<'_>) -> Res<Value> {
        let left = self.eval(a, env)?;
        if op == BinOp::And || op == BinOp::Or {
            let decisive = Value::Bool(op == BinOp::Or);
            if left == decisive {
                return Ok(decisive);
            }
            let right = self.eval(b, env)?;
            return Ok(if right == decisive || left != Value::Null { right } else { Value::Null });
        }
        let right = self.eval(b, env)?;
        match (op, left, right) {
            (BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge, a, b) => Ok(compare(op, &a, &b)),
            (_, Value::Null, _) | (_, _, Value::Null) => Ok(Value::Null),
            (BinOp::Concat, Value::Text(a), Value::Text(b)) => Ok(Value::Text(a + &b)),
            (_, Value::Int(a), Value::Int(b)) => arithmetic(op, ty, a, b),
            (op, a, b) => Err(unknown(format!("{a:?} {} {b:?}", op.symbol()))),
        }
    }

    /// Computes what is constant once parameters are known, as the planner does (eval_const_expressions in clauses.c):
    /// its errors come before the first row is described.
    pub fn fold(&mut self, plan: &mut Plan, params: &[Value]) -> Res<()> {
        let mut all: Vec<&mut Ex> = Vec::new();
        match plan {
            Plan::Utility => {}
            Plan::Select(p) => select_expressions(p, &mut all),
            Plan::Insert(p) => {
                match &mut p.rows {
                    Rows::Values(rows) => all.extend(rows.iter_mut().flatten().flatten()),
                    Rows::Select(s, _) => select_expressions(s, &mut all),
                }
                if let Some((set, filter)) = p.on_conflict.as_mut().and_then(|c| c.update.as_mut()) {
                    all.extend(set.iter_mut().filter_map(|(_, e)| e.as_mut()).chain(filter));
                }
                all.extend(&mut p.returning);
            }
            Plan::Change(p) => {
                all.extend(p.set.iter_mut().flatten().filter_map(|(_, e)| e.as_mut()));
                all.extend(p.filter.iter_mut().chain(&mut p.returning));
            }
        }
        for ex in all {
            self.fold_one(ex, params)?;
        }
        Ok(())
    }

    fn fold_one(&mut self, ex: &mut Ex, params: &[Value]) -> Res<()> {
        match ex {
            Ex::Const(_) | Ex::Column(_) | Ex::Excluded(_) | Ex::Aggregate(_) => return Ok(()),
            Ex::Param(n) => {
                *ex = Ex::Const(at(params, *n));
                return Ok(());
            }
            Ex::Call(_, args) => return args.iter_mut().try_for_each(|a| self.fold_one(a, params)),
            Ex::Binary(op, _, a, b) => {
                self.fold_one(a, params)?;
                // What AND and OR do not need is not computed.
                let decided = Ex::Const(Value::Bool(*op == BinOp::Or));
                if matches!(op, BinOp::And | BinOp::Or) && **a == decided {
                    *ex = decided;
                    return Ok(());
                }
                self.fold_one(b, params)?;
            }
            Ex::Not(a) | Ex::Negate(_, a) | Ex::IsNull(a, _) | Ex::Cast(_, _, a) => self.fold_one(a, params)?,
            Ex::In(a, list, _) => {
                self.fold_one(a, params)?;
                list.iter_mut().try_for_each(|e| self.fold_one(e, params))?;
            }
        }
        let varies =
            |e: &Ex| matches!(e, Ex::Param(_) | Ex::Column(_) | Ex::Excluded(_) | Ex::Aggregate(_) | Ex::Call(..));
        if !ex.any(&varies) {
            *ex = Ex::Const(self.eval(ex, &Env::default())?);
        }
        Ok(())
    }

    /// A WHERE clause: NULL is no.
    pub fn holds(&mut self, filter: Option<&Ex>, env: &Env<'_>) -> Res<bool> {
        match filter {
            None => Ok(true),
            Some(f) => Ok(self.eval(f, env)? == Value::Bool(true)),
        }
    }

    /// Aggregates over rows.
    pub fn aggregate(
        &mut self,
        list: &[(Aggregate, Type, Option<Ex>)],
        rows: &[Vec<Value>],
        params: &[Value],
    ) -> Res<Vec<Value>> {
        let mut results = Vec::new();
        for (kind, ty, ex) in list {
            let mut values = Vec::new();
            for row in rows {
                match ex {
                    None => values.push(Value::Null),
                    Some(ex) => {
                        let v = self.eval(ex, &Env { row, params, ..Env::default() })?;
                        if v != Value::Null {
                            values.push(v);
                        }
                    }
                }
            }
            let count = i64::try_from(values.len()).unwrap_or(i64::MAX);
            results.push(match kind {
                Aggregate::CountAll | Aggregate::Count => Value::Int(count),
                Aggregate::Min => values.into_iter().min().unwrap_or(Value::Null),
                Aggregate::Max => values.into_iter().max().unwrap_or(Value::Null),
                Aggregate::Sum if values.is_empty() => Value::Null,
                Aggregate::Sum => {
                    let add = |sum: i128, v: &Value| if let Value::Int(n) = v { sum + i128::from(*n) } else { sum };
                    let sum = values.iter().fold(0, add);
                    match int(*ty, sum) {
                        Err(_) if *ty == Type::Numeric => return Err(unknown("a sum beyond 64 bits")),
                        result => result?,
                    }
                }
            });
        }
        Ok(results)
    }
}
