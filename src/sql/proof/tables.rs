//! Tables as writes need to know them: columns, defaults, primary keys, and whether anything but the statement itself
//! writes when rows are written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::rows::Cells;
use crate::sql::reason::{Given, Obstacle};

/// What a column gets when a statement names no value for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Default {
    /// The same on every node: nothing, or an expression of literals and immutable built-ins.
    Fixed,
    /// Another value at each evaluation, or on each node: a sequence's next, a clock, a random number.
    Varies,
    /// It calls something of which nobody knows what it does.
    Unknown,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its values carry OIDs that are each node's own when they travel in binary.
    pub(super) carries_oids: bool,
    /// Their text depends on `extra_float_digits`, or may.
    pub(super) floats: bool,
    /// They are intervals, or may hold some.
    pub(super) intervals: bool,
    /// Of type int2, int4 or int8.
    pub(super) integer: bool,
    /// GENERATED ALWAYS AS (...) STORED: nobody gives it a value.
    pub(super) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: UPDATE may not give it a value.
    pub(super) always: bool,
    pub(super) default: Default,
    /// Why that is not fixed.
    pub(super) given: Option<Given>,
    /// The sequence that its default takes values from.
    pub(super) sequence: Option<Sequence>,
}

impl Column {
    /// Why its default is not the same on every node.
    pub(super) fn why(&self) -> Given {
        self.given.clone().unwrap_or(Given::Anew)
    }
}

/// A sequence that does not begin anew at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sequence {
    /// With its schema, quoted where need be.
    pub(super) name: String,
    pub(super) increment: i64,
    pub(super) start: i64,
}

/// A table, or something else (then it is not plain and has no columns) whose name may stand where a table's does.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    /// Nothing but the statement writes: no user trigger, rule, row security or inheritance child.
    pub(super) plain: bool,
    /// What else writes, if it is not plain.
    pub(super) obstacles: Vec<Obstacle>,
    pub(super) columns: Vec<Column>,
    /// Places in `columns` of the primary key's, in its order; empty: there is none.
    pub(super) key: Vec<usize>,
    /// Roles that may read all of its columns.
    pub(super) readers: HashSet<String>,
    /// Roles that may insert into all of them.
    pub(super) inserters: HashSet<String>,
    /// Roles that may update all of them.
    pub(super) updaters: HashSet<String>,
    /// All of a changed row is in main's WAL (REPLICA IDENTITY FULL).
    pub(super) full: bool,
    /// A DELETE writes more, by a foreign key, than the server does in the same way on every node.
    pub(super) delete_fires: bool,
    /// The same of an UPDATE.
    pub(super) update_fires: bool,
    /// It is no partition and has none.
    pub(super) alone: bool,
    /// A foreign key's action may write other rows, when one of its own is deleted or changed.
    pub(super) acted: bool,
}

/// All tables by name: one name may stand in several schemas.
#[derive(Clone, Debug, std::default::Default)]
pub(super) struct Tables(HashMap<String, Vec<Arc<Table>>>);

impl Tables {
    /// The one table that the name can mean. `None`: there is none, or it depends on the search path.
    pub(super) fn find(&self, schema: Option<&str>, name: &str) -> Option<&Arc<Table>> {
        let all = self.0.get(name)?;
        match (schema, &all[..]) {
            (Some(schema), all) => all.iter().find(|t| t.schema == schema),
            (None, [one]) => Some(one),
            (None, _) => None,
        }
    }

    /// From main's answers: tables, then their columns in order. `calls`: what calling a function makes of a default.
    pub(super) fn read<'a>(
        tables: &[Vec<Option<String>>],
        columns: &[Vec<Option<String>>],
        calls: impl Fn(u32) -> (Default, &'a str),
    ) -> Result<Tables, String> {
        let mut by_oid: HashMap<u32, (Table, Vec<(usize, usize)>)> = HashMap::new();
        for (oid, table) in super::rows::parse(tables, "tables", |c| Ok((c.oid(0)?, table(c)?)))? {
            by_oid.insert(oid, (table, Vec::new()));
        }
        let read = |c: &Cells<'_>| Ok((c.oid(0)?, column(c, &calls)?, c.text_or_empty(5).parse::<usize>().ok()));
        for (oid, column, place) in super::rows::parse(columns, "columns", read)? {
            if let Some((table, key)) = by_oid.get_mut(&oid) {
                key.extend(place.map(|p| (p, table.columns.len())));
                table.columns.push(column);
            }
        }
        let mut all = Tables::default();
        for (mut table, mut key) in by_oid.into_values() {
            key.sort_unstable();
            table.key = key.into_iter().map(|(_, at)| at).collect();
            all.0.entry(table.name.clone()).or_default().push(Arc::new(table));
        }
        Ok(all)
    }
}

fn table(c: &Cells<'_>) -> Result<Table, String> {
    let roles = |at| c.text_or_empty(at).split('\n').filter(|r| !r.is_empty()).map(str::to_owned).collect();
    let (schema, name, plain) = (c.text(1)?.to_owned(), c.text(2)?.to_owned(), c.flag(3)?);
    let obstacles: Vec<Obstacle> =
        c.text_or_empty(10).split('\n').filter(|o| !o.is_empty()).map(Obstacle::read).collect();
    let obstacles: Vec<Obstacle> = if obstacles.is_empty() && !plain { vec![Obstacle::Unknown] } else { obstacles };
    let (columns, key) = (Vec::new(), Vec::new());
    let is = |at| c.text_or_empty(at) == "t";
    let (full, delete_fires, update_fires, alone, acted) = (is(7), is(8), is(9), is(11), is(12));
    let (readers, inserters, updaters) = (roles(4), roles(5), roles(6));
    Ok(Table {
        schema,
        name,
        plain,
        obstacles,
        columns,
        key,
        readers,
        inserters,
        updaters,
        full,
        delete_fires,
        update_fires,
        alone,
        acted,
    })
}

fn column<'a>(c: &Cells<'_>, calls: &impl Fn(u32) -> (Default, &'a str)) -> Result<Column, String> {
    let identity = c.text_or_empty(4);
    let varies = !identity.is_empty() || c.text_or_empty(7) == "t";
    let own = if varies { Default::Varies } else { Default::Fixed };
    let called = if c.flag(6)? { c.oids(8)?.into_iter().map(calls).max() } else { None };
    let default = called.map_or(own, |(does, _)| does.max(own));
    let number = |at| c.text(at).ok()?.parse::<i64>().ok();
    let sequence = match (c.text(9).ok(), number(10), number(11)) {
        (Some(name), Some(increment), Some(start)) => Some(Sequence { name: name.to_owned(), increment, start }),
        _ => None,
    };
    let given = match (default, called, &sequence) {
        (Default::Fixed, ..) => None,
        (Default::Varies, ..) if !identity.is_empty() => Some(Given::Identity),
        (Default::Varies, _, Some(s)) => Some(Given::Sequence(s.name.clone())),
        (_, Some((does, name)), _) if does == default => Some(Given::Calls(name.to_owned())),
        _ => Some(Given::Anew),
    };
    Ok(Column {
        given,
        name: c.text(1)?.to_owned(),
        carries_oids: c.text_or_empty(12) == "t",
        floats: c.text_or_empty(13) == "t",
        intervals: c.text_or_empty(14) == "t",
        integer: matches!(c.oid(2)?, 20 | 21 | 23),
        generated: c.flag(3)?,
        always: identity == "a",
        default,
        sequence,
    })
}
