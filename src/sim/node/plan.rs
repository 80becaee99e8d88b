//! From a statement to a plan: what is read and written, by which expressions, and what the client is told of it.

use std::rc::Rc;

use sqlparser::ast;

use super::eval::{Ex, Op};
use super::expr::{Aggregate, Analysis, output_name};
use super::parse::ident;
use super::server::Server;
use super::sql::*;
use super::table::Table;
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// A result column.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    /// Its table and its place there; 0: it is no column of a table.
    pub table: u32,
    pub column: i16,
}

impl Field {
    fn new(name: impl Into<String>, ty: Type) -> Field {
        Field { name: name.into(), ty, table: 0, column: 0 }
    }
}

/// SELECT.
#[derive(Clone, Debug)]
pub struct SelectPlan {
    /// `None`: one row without columns.
    pub table: Option<Rc<Table>>,
    pub filter: Option<Ex>,
    pub outputs: Vec<Ex>,
    pub aggregates: Vec<(Aggregate, Type, Ex)>,
    /// With "descending".
    pub order: Vec<(Ex, bool)>,
    pub limit: Option<Ex>,
    pub lock: Option<Strength>,
}

/// Columns and their new values.
pub type Assigned = Vec<(usize, Ex)>;

/// INSERT.
#[derive(Clone, Debug)]
pub struct InsertPlan {
    pub table: Rc<Table>,
    pub columns: Vec<usize>,
    pub rows: Vec<Vec<Ex>>,
    pub on_conflict: Option<ConflictPlan>,
    pub returning: Vec<Ex>,
}

/// ON CONFLICT.
#[derive(Clone, Debug)]
pub struct ConflictPlan {
    /// Unique keys, by their place.
    pub arbiters: Vec<usize>,
    /// DO UPDATE, with its WHERE.
    pub update: Option<(Assigned, Option<Ex>)>,
}

/// UPDATE or DELETE.
#[derive(Clone, Debug)]
pub struct ChangePlan {
    pub table: Rc<Table>,
    /// `None`: DELETE.
    pub set: Option<Assigned>,
    pub filter: Option<Ex>,
    pub returning: Vec<Ex>,
}

/// A statement as it will run.
#[derive(Clone, Debug)]
pub enum Plan {
    Select(SelectPlan),
    Insert(InsertPlan),
    Change(ChangePlan),
    SessionSettings,
    DefaultLevel,
    /// A statement without analysis.
    Utility,
}

impl Plan {
    /// It is a SELECT.
    pub fn is_select(&self) -> bool {
        matches!(self, Plan::Select(_) | Plan::SessionSettings | Plan::DefaultLevel)
    }
}

/// A plan with what clients must know of it.
#[derive(Clone, Debug)]
pub struct Planned {
    pub plan: Plan,
    pub fields: Vec<Field>,
    pub params: Vec<Type>,
}

impl Planned {
    /// It returns rows. Those of a SELECT may have no columns, and are described all the same.
    pub fn returns(&self) -> bool {
        self.plan.is_select() || !self.fields.is_empty()
    }
}

/// Analyses a statement. `types` are the parameters' OIDs (0: to be found out), `values` their values; without those
/// the statement is only described.
pub fn plan(server: &Server, statement: &Statement, types: &[u32], values: Option<&[Value]>) -> Res<Planned> {
    let known = |oid: &u32| if *oid == 0 { Ok(None) } else { Type::from_oid(*oid).map(Some) };
    let params = types.iter().map(known).collect::<Res<_>>()?;
    let mut a = Analysis { params, values, fold: values.is_some(), ..Analysis::new(server) };
    let (plan, fields) = match statement {
        Statement::Select(s) => a.select(s)?,
        Statement::Insert(i) => a.insert(i)?,
        Statement::Change(c) => a.change(c)?,
        Statement::SessionSettings => (Plan::SessionSettings, vec![Field::new("?column?", Type::Text)]),
        Statement::DefaultLevel => (Plan::DefaultLevel, vec![Field::new("current_setting", Type::Text)]),
        Statement::Show(name) => (Plan::Utility, vec![Field::new(name, Type::Text)]),
        _ => (Plan::Utility, Vec::new()),
    };
    let undecided = |(n, t): (usize, &Option<Type>)| {
        t.ok_or_else(|| PgError::error("42P18", format!("could not determine data type of parameter ${}", n + 1)))
    };
    let params = a.params.iter().enumerate().map(undecided).collect::<Res<_>>()?;
    Ok(Planned { plan, fields, params })
}

impl Analysis<'_> {
    fn enter(&mut self, t: &TableRef) -> Res<Rc<Table>> {
        let table = self.server.table(&t.name)?;
        self.scope = Some((t.alias.clone(), table.clone()));
        Ok(table)
    }

    fn select(&mut self, s: &Select) -> Res<(Plan, Vec<Field>)> {
        let table = s.from.as_ref().map(|t| self.enter(t)).transpose()?;
        let filter = s.filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
        let (outputs, fields) = self.items(&s.items)?;
        let mut order = Vec::new();
        for (e, descending) in &s.order {
            let (ex, _) = self.typed(e, Type::Text)?;
            if !ex.any(&|e| matches!(e, Ex::Column(_))) {
                return Err(unknown(format!("ORDER BY {e}: only by columns")));
            }
            order.push((ex, *descending));
        }
        let limit = s.limit.as_ref().map(|e| self.of_type(e, Type::Int8)).transpose()?;
        let aggregates = std::mem::take(&mut self.aggregates);
        let loose = |e: &Ex| e.any(&|e| matches!(e, Ex::Column(_)));
        if !aggregates.is_empty() && (outputs.iter().any(loose) || !order.is_empty() || s.lock.is_some()) {
            return Err(unknown("aggregates together with columns, ORDER BY or row locks"));
        }
        Ok((Plan::Select(SelectPlan { table, filter, outputs, aggregates, order, limit, lock: s.lock }), fields))
    }

    /// A SELECT list, or RETURNING.
    fn items(&mut self, items: &[ast::SelectItem]) -> Res<(Vec<Ex>, Vec<Field>)> {
        let (mut outputs, mut fields) = (Vec::new(), Vec::new());
        let table = self.scope.as_ref().map(|(_, t)| t.clone());
        for item in items {
            let (e, name) = match (item, &table) {
                (ast::SelectItem::UnnamedExpr(e), _) => (e, output_name(e)),
                (ast::SelectItem::ExprWithAlias { expr, alias }, _) => (expr, ident(alias)),
                (ast::SelectItem::Wildcard(_), Some(table)) if item.to_string() == "*" => {
                    for (i, c) in table.columns.iter().enumerate() {
                        outputs.push(Ex::Column(i));
                        fields.push(Field::new(&c.name, c.ty).of(table, i));
                    }
                    continue;
                }
                _ => return Err(unknown(format!("{item} in this place"))),
            };
            let (ex, ty) = self.typed(e, Type::Text)?;
            let field = Field::new(name, ty);
            fields.push(match (&ex, &table) {
                (Ex::Column(i), Some(t)) => field.of(t, *i),
                _ => field,
            });
            outputs.push(ex);
        }
        Ok((outputs, fields))
    }

    fn returning(&mut self, items: &[ast::SelectItem]) -> Res<(Vec<Ex>, Vec<Field>)> {
        let (outputs, fields) = self.items(items)?;
        if !self.aggregates.is_empty() {
            return Err(PgError::error("42803", "aggregate functions are not allowed in RETURNING"));
        }
        Ok((outputs, fields))
    }

    fn insert(&mut self, i: &Insert) -> Res<(Plan, Vec<Field>)> {
        let table = self.server.table(&i.table.name)?;
        let columns = table.places(&i.columns)?;
        let width = i.rows.first().map_or(0, Vec::len);
        if i.rows.iter().any(|r| r.len() != width) {
            return Err(PgError::error("42601", "VALUES lists must all be the same length"));
        }
        if width > columns.len() {
            return Err(PgError::error("42601", "INSERT has more expressions than target columns"));
        }
        if width < columns.len() && !i.columns.is_empty() {
            return Err(PgError::error("42601", "INSERT has more target columns than expressions"));
        }
        let mut rows = Vec::new();
        for row in &i.rows {
            let typed = row.iter().zip(&columns).map(|(e, c)| self.of_type(e, table.columns[*c].ty));
            rows.push(typed.collect::<Res<_>>()?);
        }
        self.enter(&i.table)?;
        let on_conflict = i.on_conflict.as_ref().map(|c| self.on_conflict(&table, c)).transpose()?;
        let (returning, fields) = self.returning(&i.returning)?;
        let columns = columns[..width].to_vec();
        Ok((Plan::Insert(InsertPlan { table, columns, rows, on_conflict, returning }), fields))
    }

    fn on_conflict(&mut self, table: &Table, c: &OnConflict) -> Res<ConflictPlan> {
        let all = 0..table.uniques.len();
        let arbiters: Vec<usize> = match &c.columns {
            None => all.collect(),
            Some(names) => {
                let sorted = |mut list: Vec<usize>| {
                    list.sort_unstable();
                    list
                };
                let wanted = sorted(table.places(names)?);
                all.filter(|i| sorted(table.uniques[*i].columns.clone()) == wanted).collect()
            }
        };
        if arbiters.is_empty() && c.columns.is_some() {
            let e = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
            return Err(PgError::error("42P10", e));
        }
        self.excluded = true;
        let update = match &c.update {
            None => None,
            Some(_) if c.columns.is_none() => return Err(unknown("ON CONFLICT DO UPDATE without columns")),
            Some((set, filter)) => {
                let filter = filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
                Some((self.assignments(table, set)?, filter))
            }
        };
        self.excluded = false;
        Ok(ConflictPlan { arbiters, update })
    }

    fn change(&mut self, c: &Change) -> Res<(Plan, Vec<Field>)> {
        let table = self.enter(&c.table)?;
        let set = c.set.as_ref().map(|s| self.assignments(&table, s)).transpose()?;
        let filter = c.filter.as_ref().map(|f| self.condition(f, "WHERE")).transpose()?;
        let (returning, fields) = self.returning(&c.returning)?;
        Ok((Plan::Change(ChangePlan { table, set, filter, returning }), fields))
    }

    fn assignments(&mut self, table: &Table, set: &Assignments) -> Res<Assigned> {
        let mut list: Assigned = Vec::new();
        for (name, e) in set {
            let c = table.place(name)?;
            if list.iter().any(|(other, _)| *other == c) {
                return Err(PgError::error("42601", format!("multiple assignments to same column \"{name}\"")));
            }
            list.push((c, self.of_type(e, table.columns[c].ty)?));
        }
        Ok(list)
    }
}

impl Field {
    fn of(self, table: &Table, column: usize) -> Field {
        Field { table: table.oid, column: i16::try_from(column + 1).unwrap_or(0), ..self } // at most 1600 columns
    }
}

/// What a filter says of columns: those that must be equal to something constant. A unique index finds the row by it.
pub fn key_of(table: &Table, filter: Option<&Ex>) -> Option<(usize, Vec<Value>)> {
    fn collect(e: &Ex, found: &mut Vec<(usize, Value)>) {
        match e {
            Ex::Op(Op::And, _, args) => args.iter().for_each(|a| collect(a, found)),
            Ex::Op(Op::Eq, _, args) => match args.as_slice() {
                [Ex::Column(c), Ex::Const(v)] | [Ex::Const(v), Ex::Column(c)] => found.push((*c, v.clone())),
                _ => {}
            },
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(filter?, &mut found);
    table.uniques.iter().enumerate().find_map(|(i, u)| {
        let of = |c: &usize| found.iter().find(|(f, _)| f == c).map(|(_, v)| v.clone());
        Some((i, u.columns.iter().map(of).collect::<Option<_>>()?))
    })
}
