//! From a statement to a plan: names resolved against the catalogue, types decided.

use std::rc::Rc;

use super::functions::{self, Function};
use super::session::Session;
use super::sql::*;
use super::table::{DefaultValue, Oid, Relation, Table, Unique};
use super::typing::{Analysis, cast, output_name};
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// An expression that can be computed.
#[derive(Clone, PartialEq, Debug)]
pub enum Ex {
    Const(Value),
    Param(usize),
    Column(usize),
    /// A column of the row proposed for insertion.
    Excluded(usize),
    /// The n-th aggregate.
    Aggregate(usize),
    /// An operator, and the type that it works in.
    Binary(BinOp, Type, Box<Ex>, Box<Ex>),
    Not(Box<Ex>),
    Negate(Type, Box<Ex>),
    IsNull(Box<Ex>, bool),
    In(Box<Ex>, Vec<Ex>, bool),
    Cast(Type, Type, Box<Ex>),
    Call(Function, Vec<Ex>),
}

impl Ex {
    /// Some part of it satisfies `f`.
    pub fn any(&self, f: &impl Fn(&Ex) -> bool) -> bool {
        f(self)
            || match self {
                Ex::Const(_) | Ex::Param(_) | Ex::Column(_) | Ex::Excluded(_) | Ex::Aggregate(_) => false,
                Ex::Binary(_, _, a, b) => a.any(f) || b.any(f),
                Ex::Not(a) | Ex::Negate(_, a) | Ex::IsNull(a, _) | Ex::Cast(_, _, a) => a.any(f),
                Ex::In(a, list, _) => a.any(f) || list.iter().any(|e| e.any(f)),
                Ex::Call(_, args) => args.iter().any(|e| e.any(f)),
            }
    }

    fn reads_row(&self) -> bool {
        self.any(&|e| matches!(e, Ex::Column(_) | Ex::Excluded(_)))
    }
}

/// Aggregates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    CountAll,
    Count,
    Sum,
    Min,
    Max,
}

/// A result column.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub table: Oid,
    pub column: i16,
}

/// Tables that are made up when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Virtual {
    Activity,
    Authid,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum From {
    /// SELECT without FROM: one row without columns.
    One,
    Table(Rc<Table>),
    Virtual(Virtual),
}

/// SELECT.
#[derive(Clone, Debug)]
pub struct SelectPlan {
    pub from: From,
    pub filter: Option<Ex>,
    pub outputs: Vec<Ex>,
    pub aggregates: Vec<(Aggregate, Type, Option<Ex>)>,
    /// With "descending" and "NULLs first".
    pub order: Vec<(Ex, bool, bool)>,
    pub limit: Option<Ex>,
    pub offset: Option<Ex>,
    pub lock: Option<(RowLock, WaitPolicy)>,
}

/// A column's new value; `None`: its default.
pub type Assigned = (usize, Option<Ex>);

/// ON CONFLICT.
#[derive(Clone, Debug)]
pub struct ConflictPlan {
    pub arbiters: Vec<usize>,
    /// DO UPDATE, with its WHERE.
    pub update: Option<(Vec<Assigned>, Option<Ex>)>,
}

/// Where INSERT's rows come from.
#[derive(Clone, Debug)]
pub enum Rows {
    Values(Vec<Vec<Option<Ex>>>),
    /// With the types of its columns.
    Select(Box<SelectPlan>, Vec<Type>),
}

/// INSERT.
#[derive(Clone, Debug)]
pub struct InsertPlan {
    pub table: Rc<Table>,
    pub columns: Vec<usize>,
    pub rows: Rows,
    pub on_conflict: Option<ConflictPlan>,
    pub returning: Vec<Ex>,
}

/// UPDATE or DELETE.
#[derive(Clone, Debug)]
pub struct ChangePlan {
    pub table: Rc<Table>,
    pub set: Option<Vec<Assigned>>,
    pub filter: Option<Ex>,
    pub returning: Vec<Ex>,
}

/// A statement as it will run.
#[derive(Clone, Debug)]
pub enum Plan {
    Select(SelectPlan),
    Insert(InsertPlan),
    Change(ChangePlan),
    /// A statement without analysis.
    Utility,
}

/// A plan with what clients and the lock manager must know of it.
#[derive(Clone, Debug)]
pub struct Planned {
    pub plan: Plan,
    pub fields: Vec<Field>,
    pub params: Vec<Type>,
}

/// Analyses a statement. `types` are what Parse gave: 0 is for the analysis to find out.
pub fn plan(session: &Session, statement: &Statement, types: &[u32]) -> Res<Planned> {
    let known = |oid: &u32| match oid {
        0 => Ok(None),
        oid => Type::from_oid(*oid).map(Some).ok_or_else(|| unknown(format!("the type with OID {oid}"))),
    };
    let params = types.iter().map(known).collect::<Res<Vec<_>>>()?;
    let mut a = Analysis { session, scope: None, excluded: false, params, aggregates: Vec::new() };
    let (plan, fields) = match statement {
        Statement::Select(s) => {
            let (plan, fields) = a.select(s)?;
            (Plan::Select(plan), fields)
        }
        Statement::SessionSettings => {
            let outputs = vec![Ex::Call(Function::SessionSettings, Vec::new())];
            let plan = SelectPlan {
                from: From::One,
                filter: None,
                outputs,
                aggregates: Vec::new(),
                order: Vec::new(),
                limit: None,
                offset: None,
                lock: None,
            };
            (Plan::Select(plan), vec![Field { name: "?column?".into(), ty: Type::Text, table: 0, column: 0 }])
        }
        Statement::Insert(i) => {
            let (plan, fields) = a.insert(i)?;
            (Plan::Insert(plan), fields)
        }
        Statement::Change(c) => {
            let (plan, fields) = a.change(c)?;
            (Plan::Change(plan), fields)
        }
        Statement::Show(name) => {
            let field = Field { name: name.clone(), ty: Type::Text, table: 0, column: 0 };
            (Plan::Utility, vec![field])
        }
        _ => (Plan::Utility, Vec::new()),
    };
    let undecided = |(n, t): (usize, &Option<Type>)| {
        t.ok_or_else(|| PgError::error("42P18", format!("could not determine data type of parameter ${}", n + 1)))
    };
    let params = a.params.iter().enumerate().map(undecided).collect::<Res<_>>()?;
    Ok(Planned { plan, fields, params })
}

/// A table by name, or the error that PostgreSQL has.
pub fn find_table(session: &Session, name: &str) -> Res<Rc<Table>> {
    let s = session.look();
    match s.catalogue.find(name, &s.txns, session.top_xid()) {
        Some(Relation::Table(t)) => Ok(t.clone()),
        Some(Relation::Sequence(..)) => Err(unknown(format!("reading the sequence {name} as a table"))),
        None => Err(PgError::error("42P01", format!("relation \"{name}\" does not exist"))),
    }
}

impl Analysis<'_> {
    fn enter(&mut self, t: &TableRef, columns: Vec<(String, Type)>) {
        self.scope = Some((t.alias.clone().unwrap_or_else(|| t.name.clone()), columns));
    }

    fn enter_table(&mut self, t: &TableRef) -> Res<Rc<Table>> {
        let table = find_table(self.session, &t.name)?;
        self.enter(t, table.columns.iter().map(|c| (c.name.clone(), c.ty)).collect());
        Ok(table)
    }

    fn select(&mut self, s: &Select) -> Res<(SelectPlan, Vec<Field>)> {
        let from = match &s.from {
            None => From::One,
            Some(t) => match functions::virtual_table(&t.name) {
                Some((v, columns)) => {
                    self.enter(t, columns.iter().map(|(n, ty)| ((*n).to_owned(), *ty)).collect());
                    From::Virtual(v)
                }
                None => From::Table(self.enter_table(t)?),
            },
        };
        let table = if let From::Table(t) = &from { Some(t.clone()) } else { None };
        let filter = s.filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
        if !self.aggregates.is_empty() {
            return Err(PgError::error("42803", "aggregate functions are not allowed in WHERE"));
        }
        let (outputs, fields) = self.items(&s.items, table.as_deref())?;
        let mut order = Vec::new();
        for (e, descending, nulls_first) in &s.order {
            let ex = match e {
                // A name or number of the list, before a column of the table.
                Expr::Column(None, n) if fields.iter().filter(|f| f.name == *n).count() == 1 => {
                    outputs[fields.iter().position(|f| f.name == *n).unwrap_or(0)].clone()
                }
                Expr::Literal(Value::Int(n), _) => {
                    let at = usize::try_from(*n - 1).ok().and_then(|i| outputs.get(i));
                    at.cloned().ok_or_else(|| {
                        PgError::error("42P10", format!("ORDER BY position {n} is not in select list"))
                    })?
                }
                e => self.typed(e, None)?.0,
            };
            order.push((ex, *descending, nulls_first.unwrap_or(*descending)));
        }
        let mut number = |e: &Option<Expr>| e.as_ref().map(|e| Ok(self.typed(e, Some(Type::Int8))?.0)).transpose();
        let (limit, offset) = (number(&s.limit)?, number(&s.offset)?);
        let aggregates = std::mem::take(&mut self.aggregates);
        if !aggregates.is_empty() {
            let loose = |i: &usize| {
                let is = |e: &Ex| e.any(&|e| *e == Ex::Column(*i));
                outputs.iter().any(is) || order.iter().any(|o| is(&o.0))
            };
            if let Some((table, columns)) = &self.scope {
                if let Some(i) = (0..columns.len()).find(loose) {
                    let name = format!("{table}.{}", columns[i].0);
                    let e = "must appear in the GROUP BY clause or be used in an aggregate function";
                    return Err(PgError::error("42803", format!("column \"{name}\" {e}")));
                }
            }
        }
        if s.lock.is_some() && !aggregates.is_empty() {
            return Err(PgError::error("0A000", "FOR UPDATE is not allowed with aggregate functions"));
        }
        Ok((SelectPlan { from, filter, outputs, aggregates, order, limit, offset, lock: s.lock }, fields))
    }

    fn items(&mut self, items: &[Item], table: Option<&Table>) -> Res<(Vec<Ex>, Vec<Field>)> {
        let (mut outputs, mut fields) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Star => {
                    let Some((_, columns)) = &self.scope else {
                        return Err(PgError::error("42601", "SELECT * with no tables specified is not valid"));
                    };
                    for (i, (name, ty)) in columns.clone().into_iter().enumerate() {
                        outputs.push(Ex::Column(i));
                        fields.push(field(name, ty, table, &Ex::Column(i)));
                    }
                }
                Item::Expr(e, alias) => {
                    let (ex, ty) = self.typed(e, None)?;
                    let name = alias.clone().unwrap_or_else(|| output_name(e));
                    fields.push(field(name, ty, table, &ex));
                    outputs.push(ex);
                }
            }
        }
        Ok((outputs, fields))
    }

    fn insert(&mut self, i: &Insert) -> Res<(InsertPlan, Vec<Field>)> {
        let table = find_table(self.session, &i.table.name)?;
        let columns = match i.columns.as_slice() {
            [] => (0..table.columns.len()).collect(),
            named => named.iter().map(|n| column(&table, n)).collect::<Res<Vec<_>>>()?,
        };
        let too_many = || PgError::error("42601", "INSERT has more expressions than target columns");
        let too_few = || PgError::error("42601", "INSERT has more target columns than expressions");
        let explicit = !i.columns.is_empty();
        let (rows, columns) = match &i.source {
            Source::Defaults => (Rows::Values(vec![Vec::new()]), Vec::new()),
            Source::Values(list) => {
                let mut rows = Vec::new();
                let width = list.first().map_or(0, Vec::len);
                for row in list {
                    if row.len() != width {
                        return Err(PgError::error("42601", "VALUES lists must all be the same length"));
                    }
                    if row.len() > columns.len() {
                        return Err(too_many());
                    }
                    if explicit && row.len() < columns.len() {
                        return Err(too_few());
                    }
                    let assigned = |(e, c): (&Expr, &usize)| self.assigned(&table, *c, e);
                    rows.push(row.iter().zip(&columns).map(assigned).collect::<Res<_>>()?);
                }
                (Rows::Values(rows), columns[..width].to_vec())
            }
            Source::Select(s) => {
                let (plan, fields) = self.select(s)?;
                if fields.len() > columns.len() {
                    return Err(too_many());
                }
                if explicit && fields.len() < columns.len() {
                    return Err(too_few());
                }
                let columns = columns[..fields.len()].to_vec();
                for (f, c) in fields.iter().zip(&columns) {
                    assignable(&table, *c, f.ty)?;
                }
                (Rows::Select(Box::new(plan), fields.iter().map(|f| f.ty).collect()), columns)
            }
        };
        self.enter_table(&i.table)?;
        let on_conflict = i.on_conflict.as_ref().map(|c| self.on_conflict(&table, c)).transpose()?;
        let (returning, fields) = self.items(&i.returning, Some(&table))?;
        Ok((InsertPlan { table, columns, rows, on_conflict, returning }, fields))
    }

    fn on_conflict(&mut self, table: &Table, c: &OnConflict) -> Res<ConflictPlan> {
        let arbiters: Vec<usize> = match &c.target {
            Target::Any => (0..table.uniques.len()).collect(),
            Target::Columns(names) => {
                let mut wanted = names.iter().map(|n| column(table, n)).collect::<Res<Vec<_>>>()?;
                wanted.sort_unstable();
                let fits = |u: &Unique| {
                    let mut columns = u.columns.clone();
                    columns.sort_unstable();
                    columns == wanted
                };
                (0..table.uniques.len()).filter(|i| fits(&table.uniques[*i])).collect()
            }
            Target::Constraint(name) => {
                let found: Vec<usize> = (0..table.uniques.len()).filter(|i| table.uniques[*i].name == *name).collect();
                if found.is_empty() {
                    let e = format!("constraint \"{name}\" for table \"{}\" does not exist", table.name);
                    return Err(PgError::error("42704", e));
                }
                found
            }
        };
        if arbiters.is_empty() && c.target != Target::Any {
            let e = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
            return Err(PgError::error("42P10", e));
        }
        if c.target != Target::Any && arbiters.iter().any(|i| table.uniques[*i].deferral.deferrable) {
            let e = "ON CONFLICT does not support deferrable unique constraints/exclusion constraints as arbiters";
            return Err(PgError::error("55000", e));
        }
        let arbiters = arbiters.into_iter().filter(|i| !table.uniques[*i].deferral.deferrable).collect();
        self.excluded = true;
        let update = match &c.update {
            None => None,
            Some(_) if c.target == Target::Any => {
                return Err(PgError::error(
                    "42601",
                    "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                ));
            }
            Some((set, filter)) => {
                let filter = filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
                Some((self.assignments(table, set)?, filter))
            }
        };
        self.excluded = false;
        Ok(ConflictPlan { arbiters, update })
    }

    fn change(&mut self, c: &Change) -> Res<(ChangePlan, Vec<Field>)> {
        let table = self.enter_table(&c.table)?;
        let set = c.set.as_ref().map(|s| self.assignments(&table, s)).transpose()?;
        let filter = c.filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
        let (returning, fields) = self.items(&c.returning, Some(&table))?;
        if !self.aggregates.is_empty() {
            return Err(PgError::error("42803", "aggregate functions are not allowed in RETURNING"));
        }
        Ok((ChangePlan { table, set, filter, returning }, fields))
    }

    fn assignments(&mut self, table: &Table, set: &[(String, Expr)]) -> Res<Vec<Assigned>> {
        let mut list: Vec<Assigned> = Vec::new();
        for (name, e) in set {
            let c = column(table, name)?;
            if list.iter().any(|(other, _)| *other == c) {
                return Err(PgError::error("42601", format!("multiple assignments to same column \"{name}\"")));
            }
            list.push((c, self.assigned(table, c, e)?));
        }
        Ok(list)
    }

    /// A value for a column; `None` is DEFAULT.
    fn assigned(&mut self, table: &Table, c: usize, e: &Expr) -> Res<Option<Ex>> {
        if *e == Expr::Default {
            return Ok(None);
        }
        let want = table.columns[c].ty;
        let (ex, ty) = self.open(e)?;
        match ty {
            None => Ok(Some(self.decide(ex, want)?)),
            Some(ty) => {
                assignable(table, c, ty)?;
                Ok(Some(cast(ex, ty, want)))
            }
        }
    }
}

fn column(table: &Table, name: &str) -> Res<usize> {
    let missing = || format!("column \"{name}\" of relation \"{}\" does not exist", table.name);
    table.column(name).ok_or_else(|| PgError::error("42703", missing()))
}

/// Assignment casts: integers to each other, anything to text.
fn assignable(table: &Table, c: usize, ty: Type) -> Res<()> {
    let column = &table.columns[c];
    if ty == column.ty || column.ty == Type::Text || column.ty.is_int() && ty.is_int() {
        return Ok(());
    }
    let e =
        format!("column \"{}\" is of type {} but expression is of type {}", column.name, column.ty.name(), ty.name());
    Err(PgError::error("42804", e))
}

fn field(name: String, ty: Type, table: Option<&Table>, ex: &Ex) -> Field {
    match (ex, table) {
        (Ex::Column(i), Some(t)) => Field { name, ty, table: t.oid, column: i16::try_from(i + 1).unwrap_or(0) },
        _ => Field { name, ty, table: 0, column: 0 },
    }
}

/// A filter's equalities of columns with what does not read the row: how a unique index finds the row.
pub fn key_of(table: &Table, filter: Option<&Ex>) -> Option<(usize, Vec<Ex>)> {
    fn collect<'a>(e: &'a Ex, found: &mut Vec<(usize, &'a Ex)>) {
        match e {
            Ex::Binary(BinOp::And, _, a, b) => {
                collect(a, found);
                collect(b, found);
            }
            Ex::Binary(BinOp::Eq, _, a, b) => match (&**a, &**b) {
                (Ex::Column(c), e) | (e, Ex::Column(c)) if !e.reads_row() => found.push((*c, e)),
                _ => {}
            },
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(filter?, &mut found);
    table.uniques.iter().enumerate().find_map(|(i, u)| {
        let of = |c: &usize| found.iter().find(|(f, _)| f == c).map(|(_, e)| (*e).clone());
        // What changes from call to call is no key.
        let key = u.columns.iter().map(of).collect::<Option<Vec<Ex>>>()?;
        (!key.iter().any(|e| e.any(&|e| matches!(e, Ex::Call(..))))).then_some((i, key))
    })
}

/// A column's default as an expression in the catalogue: a constant, nextval() or now().
pub fn default_value(session: &Session, e: &Expr, ty: Type) -> Res<DefaultValue> {
    if let Expr::Call(name, args) = e {
        match (name.as_str(), args.as_slice()) {
            ("nextval", [Expr::String(s)]) => return Ok(DefaultValue::Nextval(s.clone())),
            ("now", []) if ty == Type::Timestamptz => return Ok(DefaultValue::Now),
            _ => return Err(unknown(format!("{name}() as a default"))),
        }
    }
    let mut a = Analysis { session, scope: None, excluded: false, params: Vec::new(), aggregates: Vec::new() };
    let (ex, from) = a.typed(e, Some(ty))?;
    match ex {
        Ex::Const(v) if from == ty || from.is_int() && ty.is_int() => Ok(DefaultValue::Constant(v)),
        _ => Err(unknown("a default that is no constant")),
    }
}
