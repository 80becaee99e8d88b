//! The rows of main's answers ([`super::queries`]), as the objects that they describe.

use super::Effect;
use super::builtin;
use super::graph::{Graph, Key, Need};
use crate::sql::reason::Cause;
use crate::wire::FIRST_OWN_OID;

/// One row of text values.
pub(super) struct Cells<'a>(&'a [Option<String>]);

impl<'a> Cells<'a> {
    /// A column that is not NULL.
    pub(super) fn text(&self, column: usize) -> Result<&'a str, String> {
        let cell = self.0.get(column).ok_or_else(|| format!("there is no column {column}"))?;
        cell.as_deref().ok_or_else(|| format!("column {column} is NULL"))
    }

    /// A column; NULL and missing are empty.
    pub(super) fn text_or_empty(&self, column: usize) -> &'a str {
        self.text(column).unwrap_or_default()
    }

    /// A boolean column.
    pub(super) fn flag(&self, column: usize) -> Result<bool, String> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            other => Err(format!("column {column} is {other:?}, not t or f")),
        }
    }

    /// A column of one letter.
    fn letter(&self, column: usize) -> Result<char, String> {
        self.text(column)?.chars().next().ok_or_else(|| format!("column {column} is empty"))
    }

    /// A column with an OID.
    pub(super) fn oid(&self, column: usize) -> Result<u32, String> {
        let text = self.text(column)?;
        text.parse().map_err(|_| format!("column {column} is {text:?}, which is no OID"))
    }

    /// A column with OIDs, blanks between; NULL and 0 are none.
    pub(super) fn oids(&self, column: usize) -> Result<Vec<u32>, String> {
        let parse = |t: &str| t.parse().map_err(|_| format!("column {column} has {t:?}, which is no OID"));
        let all: Vec<u32> = self.text_or_empty(column).split_whitespace().map(parse).collect::<Result<_, String>>()?;
        Ok(all.into_iter().filter(|oid| *oid != 0).collect())
    }
}

/// All rows of one answer.
pub(super) fn parse<'a, T>(
    rows: &'a [Vec<Option<String>>],
    what: &str,
    row: impl Fn(&Cells<'a>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let numbered = rows.iter().enumerate();
    numbered.map(|(n, r)| row(&Cells(r)).map_err(|e| format!("catalogue: {what}, row {n}: {e}"))).collect()
}

/// A function.
pub(super) struct FunctionRow {
    pub(super) oid: u32,
    schema: String,
    pub(super) name: String,
    volatile: bool,
    pub(super) immutable: bool,
    /// It may be called with one argument.
    pub(super) takes_one: bool,
    pub(super) arguments: Vec<u32>,
    pub(super) results: Vec<u32>,
    /// Of an aggregate: what does its work.
    support: Vec<u32>,
}

impl FunctionRow {
    pub(super) fn new(c: &Cells<'_>) -> Result<FunctionRow, String> {
        Ok(FunctionRow {
            oid: c.oid(0)?,
            schema: c.text(1)?.to_owned(),
            name: c.text(2)?.to_owned(),
            volatile: c.letter(3)? == 'v',
            immutable: c.letter(3)? == 'i',
            takes_one: c.flag(4)?,
            arguments: c.oids(5)?,
            results: c.oids(6)?,
            support: c.oids(7)?,
        })
    }

    /// `name` or `schema.name` is in a configured list, which knows unquoted names only.
    fn is_listed(&self, list: &[String]) -> bool {
        let qualified = format!("{}.{}", self.schema, self.name);
        list.iter().map(|entry| entry.to_lowercase()).any(|entry| entry == self.name || entry == qualified)
    }

    pub(super) fn add_to(&self, graph: &mut Graph, read_only: &[String], write: &[String]) {
        let key = Key::Function(self.oid);
        if self.is_listed(write) {
            return graph.add(key, &self.name, (Effect::Unknown, Cause::Listed), Vec::new());
        }
        if self.is_listed(read_only) {
            return graph.add(key, &self.name, (Effect::Read, Cause::Unknown), Vec::new());
        }
        if self.oid < FIRST_OWN_OID {
            let effect = builtin::function(&self.name, self.volatile);
            return graph.add(key, &self.name, (effect, Cause::of_builtin(effect)), Vec::new());
        }
        let own = if self.volatile { Effect::Unknown } else { Effect::Read };
        let support = self.support.iter().map(|f| Need::all(Key::Function(*f)));
        let types = self.arguments.iter().chain(&self.results).map(|t| Need::doubt(Key::Type(*t)));
        graph.add(key, &self.name, (own, Cause::Volatile), support.chain(types).collect());
    }
}

/// An operator that a user has made.
pub(super) struct OperatorRow {
    pub(super) oid: u32,
    pub(super) name: String,
    /// 0 for one that is announced only (a commutator to come), which cannot be used.
    pub(super) function: u32,
    types: [u32; 2],
}

impl OperatorRow {
    pub(super) fn new(c: &Cells<'_>) -> Result<OperatorRow, String> {
        let types = [c.oid(3)?, c.oid(4)?];
        Ok(OperatorRow { oid: c.oid(0)?, name: c.text(1)?.to_owned(), function: c.oid(2)?, types })
    }

    pub(super) fn add_to(&self, graph: &mut Graph) {
        let function = (self.function != 0).then(|| Need::all(Key::Function(self.function)));
        let types = self.types.iter().filter(|t| **t != 0).map(|t| Need::doubt(Key::Type(*t)));
        let own = (Effect::Read, Cause::Unknown);
        graph.add(Key::Operator(self.oid), &self.name, own, function.into_iter().chain(types).collect());
    }
}

/// A relation that a user has made; composite types too.
pub(super) struct RelationRow {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) kind: char,
    row_security: bool,
    types: Vec<u32>,
}

impl RelationRow {
    pub(super) fn new(c: &Cells<'_>) -> Result<RelationRow, String> {
        Ok(RelationRow {
            oid: c.oid(0)?,
            name: c.text(1)?.to_owned(),
            kind: c.letter(2)?,
            row_security: c.flag(3)?,
            types: c.oids(4)?,
        })
    }

    pub(super) fn add_to(&self, graph: &mut Graph) {
        let own = match self.kind {
            // Who reads decides what is seen, by settings too.
            'r' | 'p' if self.row_security => (Effect::MainOnly, Cause::RowSecurity),
            'r' | 'p' | 'm' | 'v' | 'c' => (Effect::Read, Cause::Unknown),
            // Each node has its own sequences; a foreign table is read by main alone.
            'S' => (Effect::MainOnly, Cause::Sequence),
            'f' => (Effect::MainOnly, Cause::Foreign),
            _ => (Effect::Unknown, Cause::Unknown),
        };
        let types = self.types.iter().map(|t| Need::all(Key::Type(*t))).collect();
        graph.add(Key::Relation(self.oid), &self.name, own, types);
    }
}

/// A type that a user has made, or a built-in one whose values are each node's own.
pub(super) struct TypeRow {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) named: bool,
    parts: Vec<u32>,
    relation: u32,
}

impl TypeRow {
    pub(super) fn new(c: &Cells<'_>) -> Result<TypeRow, String> {
        Ok(TypeRow {
            oid: c.oid(0)?,
            name: c.text(1)?.to_owned(),
            named: c.flag(2)?,
            parts: c.oids(3)?,
            relation: c.oid(4)?,
        })
    }

    pub(super) fn add_to(&self, graph: &mut Graph) {
        let parts = self.parts.iter().map(|t| Need::all(Key::Type(*t)));
        let relation = (self.relation != 0).then(|| Need::all(Key::Relation(self.relation)));
        // Their OIDs, or what they hold, differ between nodes.
        let own = (Effect::MainOnly, Cause::OwnOid);
        graph.add(Key::Type(self.oid), &self.name, own, parts.chain(relation).collect());
    }
}

/// What a view, policy, domain check or default argument uses: one field of its stored tree.
pub(super) fn use_row(c: &Cells<'_>) -> Result<(Key, Vec<Need>), String> {
    let user = match c.letter(0)? {
        'r' => Key::Relation(c.oid(1)?),
        't' => Key::Type(c.oid(1)?),
        'f' => Key::Function(c.oid(1)?),
        other => return Err(format!("a user of an unknown kind {other:?}")),
    };
    let (field, values) = c.text(2)?.split_once(' ').ok_or("a field without a value")?;
    // A list of OIDs is written `(o 96 97`.
    let oids = values.split_whitespace().filter_map(|v| v.parse().ok()).filter(|oid| *oid != 0);
    let all = |key: fn(u32) -> Key| oids.map(|oid| Need::all(key(oid))).collect();
    let needs: Vec<Need> = match field {
        "funcid" | "aggfnoid" | "winfnoid" | "tsmhandler" => all(Key::Function),
        "opno" | "opnos" | "eqop" | "sortop" => all(Key::Operator),
        "relid" => all(Key::Relation),
        // A row lock, a system column: as if a catalogue were read.
        "strength" | "varattno" => vec![Need::main_only()],
        _ => all(Key::Type),
    };
    Ok((user, needs))
}
