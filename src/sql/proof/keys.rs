//! The rows that a statement names by their primary key, so that commits can say which rows they write and reads which
//! one they look at ([`crate::sequencer::Footprint`]).
//!
//! The same row must come out the same however its key is written. So keys are of integers alone: a literal, quoted or
//! not, or a parameter, in text or in binary, that can be nothing but a decimal integer of int2, int4 or int8. (What a
//! parameter is of which the client states no type follows from the one place where it stands.) Anything else is no key:
//! then a read minds every commit, and a commit counts as one of all rows.
//!
//! And one row must have one name. So tables that are partitioned, or partitions, have no keyed reads, nor have those
//! without such a key; what is written to them is nobody's row. Where a foreign key's action may follow from a statement
//! it writes rows that it does not name.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use super::catalogue::Catalogue;
use super::tables::Table;
use super::tokens::Tokens;
use super::writes::{Write, name};
use crate::sql::lexer::{Kind, Lexer};
use crate::wire::{read_u16, read_u32};

/// OIDs of int8, int2 and int4 (pg_type.dat).
const INTEGERS: [u32; 3] = [20, 21, 23];

/// A table whose rows can be told apart by their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyed(Arc<str>);

/// One row that a statement names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowKey {
    table: Keyed,
    /// Which of the statement's tokens each column's value is.
    tokens: Vec<usize>,
}

impl Keyed {
    /// `None`: nobody reads rows of this table by their key alone.
    pub(super) fn of(table: &Table) -> Option<Keyed> {
        let is_integer = |k: &usize| table.columns[*k].integer;
        let keyed = table.plain && table.alone && !table.key.is_empty() && table.key.iter().all(is_integer);
        keyed.then(|| Keyed(Arc::from(format!("{}\0{}", table.schema, table.name))))
    }

    /// Hash of its row with this key.
    #[must_use]
    pub fn row(&self, database: &str, key: &[i64]) -> u64 {
        let mut h = DefaultHasher::new();
        h.write(database.as_bytes());
        h.write_u8(0);
        h.write(self.0.as_bytes());
        h.write_u8(0);
        key.iter().for_each(|k| h.write_i64(*k));
        h.finish()
    }
}

impl RowKey {
    /// Hash of the row that a statement of this shape names. `types` and `bind` (behind its names) are those of a client's
    /// Parse and Bind. `None`: its key is not written as one that is known here.
    #[must_use]
    pub fn row(&self, database: &str, sql: &str, std_strings: bool, types: &[u32], bind: &[u8]) -> Option<u64> {
        let key =
            self.tokens.iter().map(|at| value(sql, std_strings, *at, types, bind)).collect::<Option<Vec<i64>>>()?;
        Some(self.table.row(database, &key))
    }
}

/// The integer that this token is.
fn value(sql: &str, std_strings: bool, at: usize, types: &[u32], bind: &[u8]) -> Option<i64> {
    let token = Lexer::new(sql, std_strings).nth(at)?;
    let text = token.text(sql);
    match token.kind {
        Kind::Integer => integer(text),
        Kind::String => integer(text.strip_prefix('\'')?.strip_suffix('\'')?),
        Kind::Parameter => {
            let n = text.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)?;
            let stated = types.get(n).copied().unwrap_or(0);
            let same = |t: &crate::sql::lexer::Token| t.kind == Kind::Parameter && t.text(sql) == text;
            let once = Lexer::new(sql, std_strings).filter(same).count() == 1;
            if !once || (stated != 0 && !INTEGERS.contains(&stated)) {
                return None;
            }
            parameter(bind, n)
        }
        _ => None,
    }
}

/// A decimal integer, as int8in() and its kin read it, and as no other type's input does otherwise.
fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// The integer that a Bind gives to this parameter.
fn parameter(bind: &[u8], n: usize) -> Option<i64> {
    let formats = usize::from(read_u16(bind)?);
    let format = match formats {
        0 => 0,
        1 => read_u16(bind.get(2..)?)?,
        _ => read_u16(bind.get(2 + 2 * n..).filter(|_| n < formats)?)?,
    };
    let mut at = 2 + 2 * formats;
    let values = usize::from(read_u16(bind.get(at..)?)?);
    at += 2;
    for i in 0..values {
        let length = read_u32(bind.get(at..)?)?;
        at += 4;
        let length = if length == u32::MAX { None } else { Some(length as usize) };
        if i == n {
            let value = bind.get(at..at + length?)?;
            return match format {
                0 => integer(std::str::from_utf8(value).ok()?),
                _ => binary(value),
            };
        }
        at += length.unwrap_or(0);
    }
    None
}

fn binary(value: &[u8]) -> Option<i64> {
    match value.len() {
        2 => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
        4 => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
        8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// `SELECT ... FROM table [alias] WHERE key = value ...` of one table and immutable functions: the row that it looks at.
pub(super) fn read(t: &Tokens<'_>, catalogue: &Catalogue) -> Option<RowKey> {
    if !t.is(0, "select") {
        return None;
    }
    let from = t.at_top("from", 1)?;
    let (schema, named, mut at) = name(t, from + 1)?;
    let mut alias = named.clone();
    if t.is(at, "as") {
        alias = t.plain_name(at + 1)?;
        at += 2;
    } else if !t.is(at, "where") {
        alias = t.plain_name(at)?;
        at += 1;
    }
    if !t.is(at, "where") {
        return None;
    }
    const ENDS: [&str; 7] = ["group", "having", "window", "order", "limit", "offset", "fetch"];
    let end = ENDS.iter().filter_map(|word| t.at_top(word, at)).min().unwrap_or(t.len());
    const OTHERS: [&str; 5] = ["union", "intersect", "except", "into", "for"];
    if OTHERS.iter().any(|word| t.at_top(word, 0).is_some()) {
        return None;
    }
    let table = catalogue.table(schema.as_deref(), &named)?;
    let keyed = Keyed::of(table)?;
    // No other SELECT, and nothing that could look at rows.
    t.is_fixed_from(1, catalogue).ok()?;
    let tokens = Write::looks_at(table, alias, t, at + 1, end)?;
    Some(RowKey { table: keyed, tokens })
}

/// The rows that a keyed write names. `None`: it may write others.
pub(super) fn written(write: &Write, table: &Table, t: &Tokens<'_>) -> Option<Vec<RowKey>> {
    let rows = write.rows_named(table, t);
    if !write.inserts() && table.acted {
        return None;
    }
    let Some(keyed) = Keyed::of(table) else { return Some(Vec::new()) };
    Some(rows?.into_iter().map(|tokens| RowKey { table: keyed.clone(), tokens }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sql: &str, at: usize, types: &[u32], bind: &[u8]) -> Option<i64> {
        value(sql, true, at, types, bind)
    }

    #[test]
    fn a_key_is_the_same_however_it_is_written() {
        let text = b"\0\0\0\x01\0\0\0\x0242\0\0";
        let int4 = b"\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x2a\0\0";
        let int8 = b"\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x2a\0\0";
        let none = b"\0\0\0\0\0\0";
        assert_eq!(row("x = 42", 2, &[], none), Some(42));
        assert_eq!(row("x = 0042", 2, &[], none), Some(42));
        assert_eq!(row("x = '42'", 2, &[], none), Some(42));
        assert_eq!(row("x = '-42'", 2, &[], none), Some(-42));
        for (bind, types) in
            [(&text[..], &[][..]), (text, &[23]), (int4, &[23]), (int4, &[0]), (int8, &[20]), (int8, &[])]
        {
            assert_eq!(row("x = $1", 2, types, bind), Some(42));
        }
        // What may be another value to the server.
        assert_eq!(row("x = $1", 2, &[701], int8), None);
        assert_eq!(row("x = $1 and y = $1", 2, &[], int8), None);
        assert_eq!(row("x = $2", 2, &[], int8), None);
        assert_eq!(row("x = $1", 2, &[], b"\0\0\0\x01\xff\xff\xff\xff\0\0"), None);
        for text in ["4.0", "'4.0'", "' 4'", "'0x4'", "''", "'-'", "E'4'", "99999999999999999999"] {
            assert_eq!(row(&format!("x = {text}"), 2, &[], none), None, "{text}");
        }
    }
}
