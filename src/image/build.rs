//! Changes of one transaction as what replicas do: statements by key, in the order in which they were decoded, and COPY
//! for many inserted rows.
//!
//! Values are parameters without a type, in text: each column's own input function reads what its output function wrote,
//! so nothing is lost on a printed type's way back ("bit(4)"). [`SETTINGS`] stands in front: what both depend on is set
//! to what the decoder's session has.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::decode::{Change, Relation, Tuple, Value};
use super::facts::{Facts, Identity, Sequence, Table};
use super::{Refusal, quoted};
use crate::sim::planted::{Planted, is};

/// Inserted rows that become a statement each; more of one table in a row become a COPY.
const ROWS_AS_STATEMENTS: usize = 32;

/// COPY's lines are gathered in pieces of about this many bytes.
const COPY_PIECE: usize = 64 * 1024;

/// What the decoder's session has too, in libpq's `options`: how values are written down.
pub const DECODER_OPTIONS: &str = "-c datestyle=ISO,YMD -c intervalstyle=postgres -c timezone=UTC \
     -c extra_float_digits=3 -c bytea_output=hex -c lc_monetary=C -c xmloption=content -c quote_all_identifiers=off \
     -c search_path=pg_catalog";

/// What replicas set in front of an image, and how they read values. `encoding`: the database's.
#[must_use]
pub fn settings(encoding: &str) -> Bytes {
    let mut sql = String::from("SELECT ");
    let pairs = [
        ("session_replication_role", "replica"),
        ("datestyle", "ISO, YMD"),
        ("intervalstyle", "postgres"),
        ("timezone", "UTC"),
        ("extra_float_digits", "3"),
        ("lc_monetary", "C"),
        ("xmloption", "content"),
        ("array_nulls", "on"),
        ("search_path", "pg_catalog"),
        ("client_encoding", encoding),
    ];
    for (n, (name, value)) in pairs.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        sql.push_str(&format!("{comma}pg_catalog.set_config('{name}', {}, true)", crate::wire::literal(value)));
    }
    Bytes::from(sql)
}

/// One thing that a replica does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A statement with parameters.
    Statement {
        /// The text; the same for all rows of a table that are treated alike.
        sql: Bytes,
        /// Types of its parameters; none: left to the server.
        types: Arc<[u32]>,
        /// Its Bind behind the names.
        bind: Bytes,
        /// The tag that it must have; `None`: any.
        tag: Option<&'static str>,
    },
    /// COPY FROM STDIN.
    Copy {
        /// The text.
        sql: Bytes,
        /// CopyData messages, headers included.
        data: Vec<Bytes>,
        /// How many rows.
        count: u64,
    },
}

/// OID of bigint (pg_type.dat).
const INT8: u32 = 20;

/// Makes one transaction's steps.
pub struct Builder<'a> {
    facts: &'a Facts,
    steps: Vec<Step>,
    texts: HashMap<Vec<u8>, Bytes>,
    /// Inserted rows of one table, not yet steps.
    run: Vec<(Relation, Tuple)>,
    none: Arc<[u32]>,
}

impl<'a> Builder<'a> {
    /// Nothing yet but the settings.
    #[must_use]
    pub fn new(facts: &'a Facts, encoding: &str) -> Builder<'a> {
        let none: Arc<[u32]> = Arc::from([]);
        let first = Step::Statement {
            sql: settings(encoding),
            types: none.clone(),
            bind: Bytes::from_static(crate::wire::front::BIND_NOTHING),
            tag: None,
        };
        Builder { facts, steps: vec![first], texts: HashMap::new(), run: Vec::new(), none }
    }

    /// The next change.
    ///
    /// # Errors
    /// Its row cannot be told.
    pub fn add(&mut self, change: Change) -> Result<(), Refusal> {
        if let Change::Insert { table, new } = change {
            self.table(&table)?;
            let other = |(of, row): &(Relation, Tuple)| *of != table || row.len() != new.len();
            if self.run.last().is_some_and(other) {
                self.end_run()?;
            }
            self.run.push((table, new));
            return Ok(());
        }
        self.end_run()?;
        match change {
            Change::Update { table, old, new } => self.update(&table, old.as_ref(), &new),
            Change::Delete { table, old } => {
                let facts = self.table(&table)?;
                let Some(old) = old.filter(|_| facts.identity != Identity::None) else {
                    return Err(no_identity(&table, "deleted from"));
                };
                self.delete(&table, &facts, &old)
            }
            Change::Truncate { tables, restart } => self.truncate(&tables, restart),
            Change::Insert { .. } => Ok(()),
        }
    }

    /// All steps.
    ///
    /// # Errors
    /// A row cannot be told.
    pub fn finish(mut self) -> Result<Vec<Step>, Refusal> {
        self.end_run()?;
        if is(Planted::ImageReversed) {
            self.steps[1..].reverse();
        }
        Ok(self.steps)
    }

    fn table(&self, relation: &Relation) -> Result<Arc<Table>, Refusal> {
        let Some(table) = self.facts.0.get(relation) else {
            return Err(Refusal::Lost(format!("nothing is known of table {}", shown(relation))));
        };
        match table.problem {
            Some(problem) => Err(unsupported(relation, problem)),
            None => Ok(table.clone()),
        }
    }

    fn statement(&mut self, sql: Vec<u8>, values: &[Value], tag: &'static str) {
        let sql = self.texts.entry(sql).or_insert_with_key(|k| Bytes::copy_from_slice(k)).clone();
        self.steps.push(Step::Statement { sql, types: self.none.clone(), bind: bind(values), tag: Some(tag) });
    }

    fn end_run(&mut self) -> Result<(), Refusal> {
        let run = std::mem::take(&mut self.run);
        if run.len() > ROWS_AS_STATEMENTS {
            return self.copy(&run);
        }
        run.iter().try_for_each(|(table, row)| self.insert(table, row))
    }

    fn insert(&mut self, relation: &Relation, row: &Tuple) -> Result<(), Refusal> {
        let table = self.table(relation)?;
        let given: Vec<&(Bytes, Value)> = row.iter().filter(|(n, _)| !is_generated(&table, n)).collect();
        let mut sql = b"INSERT INTO ".to_vec();
        name(relation, &mut sql);
        if given.is_empty() {
            sql.extend_from_slice(b" DEFAULT VALUES");
        } else {
            list(&given, &mut sql);
            sql.extend_from_slice(b" OVERRIDING SYSTEM VALUE VALUES (");
            for n in 1..=given.len() {
                sql.extend_from_slice(if n == 1 { b"$" } else { b", $" });
                sql.extend_from_slice(n.to_string().as_bytes());
            }
            sql.push(b')');
        }
        let values = given.into_iter().map(|(_, v)| whole(relation, v)).collect::<Result<Vec<_>, _>>()?;
        self.statement(sql, &values, "INSERT 0 1");
        Ok(())
    }

    fn copy(&mut self, run: &[(Relation, Tuple)]) -> Result<(), Refusal> {
        let Some((relation, first)) = run.first() else { return Ok(()) };
        let table = self.table(relation)?;
        let given: Vec<&(Bytes, Value)> = first.iter().filter(|(n, _)| !is_generated(&table, n)).collect();
        if given.is_empty() {
            return run.iter().try_for_each(|(table, row)| self.insert(table, row));
        }
        let mut sql = b"COPY ".to_vec();
        name(relation, &mut sql);
        list(&given, &mut sql);
        sql.extend_from_slice(b" FROM STDIN");
        let (mut data, mut piece) = (Vec::new(), BytesMut::new());
        for (_, row) in run {
            let begin = piece.len();
            piece.put_slice(b"d\0\0\0\0");
            for (n, (_, value)) in row.iter().filter(|(n, _)| !is_generated(&table, n)).enumerate() {
                if n > 0 {
                    piece.put_u8(b'\t');
                }
                copy_value(&whole(relation, value)?, &mut piece);
            }
            piece.put_u8(b'\n');
            let length = u32::try_from(piece.len() - begin - 1).unwrap_or(u32::MAX); // a row is below a gigabyte
            piece[begin + 1..begin + 5].copy_from_slice(&length.to_be_bytes());
            if piece.len() >= COPY_PIECE {
                data.push(piece.split().freeze());
            }
        }
        if !piece.is_empty() {
            data.push(piece.freeze());
        }
        self.steps.push(Step::Copy { sql: Bytes::from(sql), data, count: run.len() as u64 });
        Ok(())
    }

    fn update(&mut self, relation: &Relation, old: Option<&Tuple>, new: &Tuple) -> Result<(), Refusal> {
        let table = self.table(relation)?;
        if table.identity == Identity::None || (table.full && old.is_none()) {
            return Err(no_identity(relation, "changed in"));
        }
        let before = old.unwrap_or(new);
        // UPDATE may not give such a column a value; whether it has changed, only an old row tells, or the key.
        let may_change = |column: &Bytes, value: &Value| {
            let Some(c) = table.columns.iter().find(|c| c.name == *column && c.always) else { return false };
            match old {
                Some(old) if table.full || c.key.is_some() => {
                    old.iter().find(|(n, _)| n == column).map(|(_, v)| v) != Some(value)
                }
                None if c.key.is_some() => false,
                _ => true,
            }
        };
        if new.iter().any(|(n, v)| may_change(n, v)) {
            self.delete(relation, &table, before)?;
            return self.insert(relation, new);
        }
        let settable = |(n, v): &&(Bytes, Value)| {
            let column = table.columns.iter().find(|c| c.name == *n);
            *v != Value::Unchanged && column.is_none_or(|c| !c.generated && !c.always)
        };
        let set: Vec<&(Bytes, Value)> = new.iter().filter(settable).collect();
        if set.is_empty() {
            return Ok(());
        }
        let mut sql = b"UPDATE ONLY ".to_vec();
        name(relation, &mut sql);
        for (n, (column, _)) in set.iter().enumerate() {
            sql.extend_from_slice(if n == 0 { b" SET " } else { b", " });
            quoted(column, &mut sql);
            sql.extend_from_slice(format!(" = ${}", n + 1).as_bytes());
        }
        let mut values: Vec<Value> = set.into_iter().map(|(_, v)| v.clone()).collect();
        condition(relation, &table, before, &mut sql, &mut values)?;
        self.statement(sql, &values, "UPDATE 1");
        Ok(())
    }

    fn delete(&mut self, relation: &Relation, table: &Table, old: &Tuple) -> Result<(), Refusal> {
        let mut sql = b"DELETE FROM ONLY ".to_vec();
        name(relation, &mut sql);
        let mut values = Vec::new();
        condition(relation, table, old, &mut sql, &mut values)?;
        self.statement(sql, &values, "DELETE 1");
        Ok(())
    }

    /// Main has told of all tables, so CASCADE could only reach more; children of an inheritance parent are among them if
    /// they were emptied.
    fn truncate(&mut self, tables: &[Relation], restart: bool) -> Result<(), Refusal> {
        let mut sql = b"TRUNCATE".to_vec();
        for (n, relation) in tables.iter().enumerate() {
            let table = self.table(relation)?;
            sql.extend_from_slice(if n == 0 { b" " } else { b", " });
            if !table.partitioned {
                sql.extend_from_slice(b"ONLY ");
            }
            name(relation, &mut sql);
        }
        if restart {
            sql.extend_from_slice(b" RESTART IDENTITY");
        }
        self.statement(sql, &[], "TRUNCATE TABLE");
        Ok(())
    }
}

/// Takes a sequence along to where main's is.
#[must_use]
pub fn follow(sequence: &Sequence) -> Step {
    let text = sequence.last.to_string();
    let sql = crate::sql::proof::follow(&sequence.name, sequence.increment, sequence.start);
    let bind = bind(&[Value::Text(Bytes::from(text))]);
    Step::Statement { sql, types: Arc::from([INT8]), bind, tag: None }
}

/// What finds one row.
fn condition(
    relation: &Relation,
    table: &Table,
    row: &Tuple,
    sql: &mut Vec<u8>,
    values: &mut Vec<Value>,
) -> Result<(), Refusal> {
    let value = |column: &Bytes| row.iter().find(|(n, _)| n == column).map_or(&Value::Null, |(_, v)| v);
    if table.identity == Identity::Key {
        let key = table.columns.iter().filter_map(|c| Some((c, c.key.as_ref()?)));
        for (n, (column, equal)) in key.enumerate() {
            sql.extend_from_slice(if n == 0 { b" WHERE " } else { b" AND " });
            quoted(&column.name, sql);
            let Value::Text(_) = value(&column.name) else {
                return Err(Refusal::Lost(format!("a row of table {} has no key", shown(relation))));
            };
            values.push(value(&column.name).clone());
            sql.push(b' ');
            sql.extend_from_slice(equal);
            sql.extend_from_slice(format!(" ${}", values.len()).as_bytes());
        }
        return Ok(());
    }
    // One of several equal rows. As text, since not every type has an equality; by its output function.
    sql.extend_from_slice(b" WHERE ctid = (SELECT ctid FROM ONLY ");
    name(relation, sql);
    for (n, column) in table.columns.iter().filter(|c| !c.generated).enumerate() {
        sql.extend_from_slice(if n == 0 { b" WHERE " } else { b" AND " });
        match value(&column.name) {
            Value::Null => {
                quoted(&column.name, sql);
                sql.extend_from_slice(b" IS NOT DISTINCT FROM NULL");
            }
            value => {
                values.push(whole(relation, value)?);
                // Of a NULL format() makes an empty string.
                sql.extend_from_slice(b"pg_catalog.num_nulls(");
                quoted(&column.name, sql);
                sql.extend_from_slice(b") OPERATOR(pg_catalog.=) 0 AND pg_catalog.format('%s', ");
                quoted(&column.name, sql);
                let parameter = format!(") COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ${}", values.len());
                sql.extend_from_slice(parameter.as_bytes());
            }
        }
    }
    sql.extend_from_slice(b" LIMIT 1)");
    Ok(())
}

fn is_generated(table: &Table, column: &Bytes) -> bool {
    table.columns.iter().any(|c| c.generated && c.name == *column)
}

/// A value that must be known.
fn whole(relation: &Relation, value: &Value) -> Result<Value, Refusal> {
    if *value == Value::Unchanged {
        let problem = "has a large value beside an identity column that was changed, which main's WAL does not tell";
        return Err(unsupported(relation, problem));
    }
    Ok(value.clone())
}

fn name(relation: &Relation, sql: &mut Vec<u8>) {
    quoted(&relation.schema, sql);
    sql.push(b'.');
    quoted(&relation.name, sql);
}

fn list(columns: &[&(Bytes, Value)], sql: &mut Vec<u8>) {
    for (n, (column, _)) in columns.iter().enumerate() {
        sql.extend_from_slice(if n == 0 { b" (" } else { b", " });
        quoted(column, sql);
    }
    sql.push(b')');
}

/// A Bind behind its names: all in text.
fn bind(values: &[Value]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX)); // a table has no more than 1600 columns
    for value in values {
        match value {
            Value::Text(text) => {
                out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX - 1)); // a value is below a gigabyte
                out.put_slice(text);
            }
            Value::Null | Value::Unchanged => out.put_u32(u32::MAX),
        }
    }
    out.put_u16(0);
    out.freeze()
}

/// In COPY's text format.
fn copy_value(value: &Value, out: &mut BytesMut) {
    let Value::Text(text) = value else { return out.put_slice(b"\\N") };
    for &b in text {
        match b {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b => out.put_u8(b),
        }
    }
}

fn shown(relation: &Relation) -> String {
    let mut out = Vec::new();
    name(relation, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Rows of this table cannot go by an image.
#[must_use]
pub fn unsupported(relation: &Relation, problem: &str) -> Refusal {
    let what = format!("table {} {problem}", shown(relation));
    let hint = "Write to it in a transaction of plain statements, or change the table.";
    Refusal::Unsupported { what, hint }
}

fn no_identity(relation: &Relation, what: &str) -> Refusal {
    let what = format!("rows were {what} table {}, which has no replica identity", shown(relation));
    Refusal::Unsupported { what, hint: "Give the table a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL." }
}

#[cfg(test)]
mod tests;
