//! Writes that reach the replicas by their rows ([`crate::sql::proof::Rows`]): main is asked for columns that the client
//! has not asked for, which are taken out again from everything that it is told, and become entries of the script.
//!
//! | message | on its way |
//! |---|---|
//! | Parse, Query | the text gets its RETURNING, or a longer one |
//! | Bind | formats for the columns that are asked for (in text, unless the client wants all of its own in binary) |
//! | Execute | without a row limit where the client's statement returns no rows, which has none either |
//! | RowDescription | without those columns; NoData if there are no others |
//! | DataRow | the same; what was cut off is the entry's Bind, byte for byte |
//!
//! An INSERT of many rows becomes one COPY. What main has told becomes an entry as it comes, so a statement of any size
//! is bounded as the script is; a statement that fails takes its transaction, or the entries behind a savepoint, along.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::io::Cx;
use super::note::PendingWrite;
use super::transaction::Target;
use crate::script::{Digest, Entry, Expect, Statement};
use crate::sql::cache::Verdict;
use crate::sql::class::Class;
use crate::sql::lexer::{Kind, Lexer};
use crate::sql::proof::{Change, Form, Rows};
use crate::wire::frame::HEADER;
use crate::wire::{back, read_u16, read_u32};

/// OID of bigint (pg_type.dat).
const INT8: u32 = 20;

/// Inserted rows that become a statement each; more become a COPY.
const ROWS_AS_STATEMENTS: usize = 32;

/// What is known of a prepared statement whose rows main is asked for.
#[derive(Debug)]
pub struct Asks {
    /// What is asked, and what becomes of it.
    pub rows: Arc<Rows>,
    /// The Parse message that main gets.
    pub raw: Bytes,
}

/// What in a session keeps a write from going by its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRows {
    /// `extra_float_digits` is below 1.
    Digits,
    /// `IntervalStyle` is sql_standard.
    Intervals,
    /// `DateStyle` is not ISO.
    DateStyle,
    /// Names or text that are not ASCII, in another encoding than UTF-8.
    Encoding,
    /// The role may not read the table, or is another one than logged in.
    Role,
}

impl std::fmt::Display for NoRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NoRows::Digits => "extra_float_digits is below 1: numbers do not print exactly",
            NoRows::Intervals => "IntervalStyle is sql_standard: what is printed means something else in another style",
            NoRows::DateStyle => "DateStyle is not ISO: dates do not print exactly",
            NoRows::Encoding => "client_encoding is not UTF8, and the statement or the table's names are not ASCII",
            NoRows::Role => {
                "the role lacks a privilege on the table (to read all of its columns), or SET ROLE has been used"
            }
        })
    }
}

impl NoRows {
    /// What to change.
    pub(super) fn advice(self) -> &'static str {
        match self {
            NoRows::Digits => "RESET extra_float_digits.",
            NoRows::Intervals => "SET IntervalStyle = postgres.",
            NoRows::DateStyle => "SET DateStyle = ISO.",
            NoRows::Encoding => "SET client_encoding = UTF8.",
            NoRows::Role => "GRANT SELECT on the table to the role.",
        }
    }
}

/// Rows of the statement at hand.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Binds of inserted rows that may still become statements.
    few: Vec<Bytes>,
    /// They have become a COPY.
    copying: bool,
    count: u64,
    /// The last number of each sequence that values came from.
    last: Vec<Option<i64>>,
}

impl Session {
    /// The rows that main is to be asked for, if the statement reaches the replicas by them.
    pub(super) fn rows_of(&self, sql: &[u8], verdict: &Verdict) -> Option<Arc<Rows>> {
        if let Class::Execute(name) = &verdict.class {
            // What is prepared under that name asks for them.
            return self.registry.statement(name)?.asked();
        }
        self.rows_for(sql, verdict).ok()
    }

    /// A parameter's value as the session's servers have told it.
    pub(super) fn told_parameter(&self, name: &str) -> Option<&str> {
        let of_welcome = || self.welcome.as_ref()?.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        self.lane.as_ref().and_then(|l| l.parameter(name)).or_else(of_welcome)
    }

    /// The same, for a statement that is no EXECUTE.
    ///
    /// # Errors
    /// What in the session stands against it; `None`: the statement's own proof does.
    pub(super) fn rows_for(&self, sql: &[u8], verdict: &Verdict) -> Result<Arc<Rows>, Option<NoRows>> {
        let Form::Rows(rows) = verdict.form() else { return Err(None) };
        // Values go back in as they come out: text that is unambiguous under this session's settings.
        let told = |name: &str| self.told_parameter(name);
        let iso = told("DateStyle").is_some_and(|s| s.starts_with("ISO"));
        let utf8 = told("client_encoding").is_some_and(|e| e == "UTF8");
        let ascii = rows.returning.is_ascii() && rows.statement.is_ascii();
        let readable = std::str::from_utf8(sql).is_ok() && (utf8 || (ascii && sql.is_ascii()));
        let may_read = rows.roles.contains(&*self.user) && !self.role_changed;
        match () {
            () if rows.floats && !self.prints_exactly() => Err(Some(NoRows::Digits)),
            () if rows.intervals && told("IntervalStyle") == Some("sql_standard") => Err(Some(NoRows::Intervals)),
            () if !iso => Err(Some(NoRows::DateStyle)),
            () if !readable => Err(Some(NoRows::Encoding)),
            () if !may_read => Err(Some(NoRows::Role)),
            () => Ok(rows.clone()),
        }
    }

    /// DataRow of a statement whose rows were asked for, complete in `own_row`.
    pub(super) fn row_told(&mut self, target: Target, cx: &mut Cx<'_>) {
        let Some(link) = self.link(target) else { return };
        let row = std::mem::take(&mut link.own_row);
        let Some((rows, by_rows, binary, digest)) = self.pending_rows(target) else { return };
        let Some((shown, asked)) = split_row(&row, rows.columns) else { return };
        let shown = rows.returns.then_some(shown);
        if let Some(shown) = shown {
            if digest {
                self.rows.part(&shown, true);
            }
            self.out.push(shown);
        }
        if by_rows {
            self.add_row(&rows, asked, binary, cx);
        }
        if let Some(link) = self.link(target) {
            link.own_row = row;
            link.own_row.clear();
        }
    }

    /// Of the statement that the lane is answering: its rows, whether they become entries, whether they come in binary,
    /// and whether what the client is shown is held against what replicas answer.
    fn pending_rows(&self, target: Target) -> Option<(Arc<Rows>, bool, bool, bool)> {
        let p = self.link_ref(target)?.owed.head()?.whose.write()?;
        let digest = !p.by_rows && !p.opaque && !p.noted.is_set();
        Some((p.asked.clone()?, p.by_rows, p.binary, digest))
    }

    fn add_row(&mut self, rows: &Rows, asked: &[u8], binary: bool, cx: &mut Cx<'_>) {
        self.row_entries.count += 1;
        self.touches_row(rows, asked, binary);
        self.row_entries.last.resize(rows.sequences.len(), None);
        for (last, follow) in self.row_entries.last.iter_mut().zip(&rows.sequences) {
            let Some(n) = number(asked, follow.column, binary) else { continue };
            *last = Some(last.map_or(n, |l| if follow.down { l.min(n) } else { l.max(n) }));
        }
        let inserts = rows.change == Change::Insert && rows.copy.is_some() && !binary;
        if self.row_entries.copying {
            return self.copy_row(asked, rows.columns, cx);
        }
        let bind = bind_of(asked, rows.columns, binary);
        if !inserts {
            return self.row_entry(rows, bind, cx);
        }
        self.row_entries.few.push(bind);
        if self.row_entries.few.len() <= ROWS_AS_STATEMENTS {
            return;
        }
        let Some(copy) = &rows.copy else { return };
        self.row_entries.copying = true;
        let statement = statement(copy.clone(), Bytes::from_static(crate::wire::front::BIND_NOTHING), "");
        let begun = self.with_noted(cx, |open, room| open.script.copy_begin(statement, room));
        self.script_written(begun, cx);
        for bind in std::mem::take(&mut self.row_entries.few) {
            // Behind two counts of two bytes: no formats, and the columns; in front of the result formats.
            self.copy_row(&bind[4..bind.len() - 2], rows.columns, cx);
        }
    }

    fn copy_row(&mut self, asked: &[u8], columns: usize, cx: &mut Cx<'_>) {
        let message = copy_line(asked, columns);
        let added = self.with_noted(cx, |open, room| open.script.copy_data(&message, room));
        self.script_written(added, cx);
    }

    fn row_entry(&mut self, rows: &Rows, bind: Bytes, cx: &mut Cx<'_>) {
        let tag = match rows.change {
            Change::Insert => "INSERT 0 1",
            Change::Update => "UPDATE 1",
            Change::Delete => "DELETE 1",
        };
        let entry = Entry::Statement(statement(rows.statement.clone(), bind, tag));
        let added = self.with_noted(cx, |open, room| open.script.add(entry, room));
        self.script_written(added, cx);
    }

    /// Main has completed the statement: what is left of its rows becomes entries.
    pub(super) fn rows_complete(&mut self, write: &PendingWrite, cx: &mut Cx<'_>) {
        let Told { few, copying, count, last } = std::mem::take(&mut self.row_entries);
        let Some(rows) = &write.asked else { return };
        if copying {
            let expect = Expect::Same { tag: format!("COPY {count}").into_bytes().into(), rows: Digest::default() };
            let ended = self.with_noted(cx, |open, room| open.script.copy_end(expect, room));
            self.script_written(ended, cx);
        }
        for bind in few {
            self.row_entry(rows, bind, cx);
        }
        for (follow, last) in rows.sequences.iter().zip(last) {
            let Some(last) = last else { continue };
            let mut value = BytesMut::new();
            let text = last.to_string();
            value.put_u32(u32::try_from(text.len()).unwrap_or(0)); // 20 digits at most
            value.put_slice(text.as_bytes());
            let types = Arc::from([INT8]);
            let bind = bind_of(&value, 1, false);
            let entry = Statement { types, expect: Expect::Success, ..statement(follow.statement.clone(), bind, "") };
            // Nobody reads a sequence on a replica.
            let added = self.with_noted(cx, |open, room| open.script.add(Entry::Statement(entry), room));
            self.script_written(added, cx);
        }
    }

    /// RowDescription of a statement whose rows were asked for, as the client is told it; `None`: it has none.
    pub(super) fn description_told(message: &[u8], rows: &Rows) -> Option<Bytes> {
        rows.returns.then(|| shorter_description(message, rows.columns)).flatten()
    }
}

fn statement(sql: Bytes, bind: Bytes, tag: &str) -> Statement {
    let expect = Expect::Same { tag: tag.as_bytes().into(), rows: Digest::default() };
    Statement { sql: sql.into(), types: Arc::from([]), bind: bind.into(), prepare: None, keep: true, expect }
}

/// Where the statement's last word ends.
pub(super) fn end_of(sql: &[u8], std_strings: bool) -> usize {
    let text = std::str::from_utf8(sql).unwrap_or_default();
    let last = Lexer::new(text, std_strings).filter(|t| t.kind != Kind::Punctuation(b';')).last();
    last.map_or(0, |t| t.end)
}

/// A DataRow cut in front of its last columns: the message that is left, and their bytes.
fn split_row(row: &[u8], asked: usize) -> Option<(Bytes, &[u8])> {
    let all = usize::from(read_u16(row.get(HEADER..)?)?);
    let shown = all.checked_sub(asked)?;
    let mut at = HEADER + 2;
    for _ in 0..shown {
        let length = read_u32(row.get(at..)?)?;
        at += 4 + if length == u32::MAX { 0 } else { length as usize };
    }
    let mut out = BytesMut::with_capacity(at);
    out.put_u8(b'D');
    out.put_u32(u32::try_from(at - 1).ok()?);
    out.put_u16(u16::try_from(shown).ok()?);
    out.put_slice(row.get(HEADER + 2..at)?);
    Some((out.freeze(), row.get(at..)?))
}

/// RowDescription without its last columns.
fn shorter_description(message: &[u8], asked: usize) -> Option<Bytes> {
    let shown = usize::from(read_u16(message.get(HEADER..)?)?).checked_sub(asked)?;
    let mut at = HEADER + 2;
    for _ in 0..shown {
        // A name, then 18 bytes of numbers.
        at += memchr::memchr(0, message.get(at..)?)? + 1 + 18;
    }
    let mut out = BytesMut::with_capacity(at);
    out.put_u8(b'T');
    out.put_u32(u32::try_from(at - 1).ok()?);
    out.put_u16(u16::try_from(shown).ok()?);
    out.put_slice(message.get(HEADER + 2..at)?);
    Some(out.freeze())
}

/// A Bind behind its names, of values as they stand in a DataRow.
fn bind_of(values: &[u8], columns: usize, binary: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(values.len() + 10);
    if binary {
        out.put_u16(1);
        out.put_u16(1);
    } else {
        out.put_u16(0);
    }
    out.put_u16(u16::try_from(columns).unwrap_or(u16::MAX)); // a table has no more than 1600
    out.put_slice(values);
    out.put_u16(0);
    out.freeze()
}

/// An integer among values as they stand in a DataRow.
pub(super) fn number(values: &[u8], column: usize, binary: bool) -> Option<i64> {
    let mut rest = values;
    for _ in 0..column {
        let length = read_u32(rest)?;
        rest = rest.get(4 + if length == u32::MAX { 0 } else { length as usize }..)?;
    }
    let value = rest.get(4..)?.get(..read_u32(rest)? as usize)?;
    match (binary, value.len()) {
        (false, _) => std::str::from_utf8(value).ok()?.parse().ok(),
        (true, 2) => Some(i16::from_be_bytes(value.try_into().ok()?).into()),
        (true, 4) => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
        (true, 8) => Some(i64::from_be_bytes(value.try_into().ok()?)),
        (true, _) => None,
    }
}

/// CopyData with a line of these values, in COPY's text format.
fn copy_line(values: &[u8], columns: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(values.len() + HEADER);
    out.put_slice(b"d\0\0\0\0");
    let mut rest = values;
    for column in 0..columns {
        if column > 0 {
            out.put_u8(b'\t');
        }
        let Some(length) = read_u32(rest) else { break };
        rest = &rest[4..];
        if length == u32::MAX {
            out.put_slice(b"\\N");
            continue;
        }
        let (value, more) = rest.split_at((length as usize).min(rest.len()));
        rest = more;
        for &byte in value {
            match byte {
                b'\\' => out.put_slice(b"\\\\"),
                b'\t' => out.put_slice(b"\\t"),
                b'\n' => out.put_slice(b"\\n"),
                b'\r' => out.put_slice(b"\\r"),
                byte => out.put_u8(byte),
            }
        }
    }
    out.put_u8(b'\n');
    let length = u32::try_from(out.len() - 1).unwrap_or(u32::MAX); // a row is below a gigabyte
    out[1..5].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

/// The client's Bind behind its names, with formats for the columns that main is asked for; and whether their values
/// come in binary. `None`: it stays as it is.
pub(super) fn bind_for(bind: &[u8], rows: &Rows) -> (Option<Bytes>, bool) {
    let Some(at) = result_formats(bind) else { return (None, false) };
    let count = read_u16(&bind[at..]).unwrap_or(0);
    if count == 0 || (rows.returns && count == 1) {
        let binary = count == 1 && bind.get(at + 3) == Some(&1);
        return (None, binary);
    }
    let mut out = BytesMut::with_capacity(bind.len() + 2 * rows.columns);
    out.put_slice(&bind[..at]);
    if rows.returns {
        out.put_u16(count + u16::try_from(rows.columns).unwrap_or(0)); // a table has no more than 1600
        out.put_slice(&bind[at + 2..]);
        out.put_bytes(0, 2 * rows.columns);
    } else {
        out.put_u16(0);
    }
    (Some(out.freeze()), false)
}

/// Where the result formats stand.
fn result_formats(bind: &[u8]) -> Option<usize> {
    let formats = usize::from(read_u16(bind)?);
    let mut at = 2 + 2 * formats;
    let values = read_u16(bind.get(at..)?)?;
    at += 2;
    for _ in 0..values {
        let length = read_u32(bind.get(at..)?)?;
        at += 4 + if length == u32::MAX { 0 } else { length as usize };
    }
    (bind.len() >= at + 2).then_some(at)
}

/// NoData in place of a RowDescription of which nothing is left.
pub(super) fn told_or_no_data(told: Option<Bytes>) -> Bytes {
    told.unwrap_or_else(|| Bytes::from_static(back::NO_DATA))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for v in values {
            match v {
                None => body.extend(u32::MAX.to_be_bytes()),
                Some(v) => {
                    body.extend(u32::try_from(v.len()).unwrap().to_be_bytes());
                    body.extend(*v);
                }
            }
        }
        let mut out = vec![b'D'];
        out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn what_is_cut_off_a_row_is_the_bind_of_its_entry() {
        let whole = row(&[Some(b"shown"), None, Some(b"7"), None]);
        let (shown, asked) = split_row(&whole, 2).unwrap();
        assert_eq!(&shown[..], row(&[Some(b"shown"), None]));
        assert_eq!(bind_of(asked, 2, false), &b"\0\0\0\x02\0\0\0\x017\xff\xff\xff\xff\0\0"[..]);
        assert_eq!(bind_of(asked, 2, true)[..6], *b"\0\x01\0\x01\0\x02");
        assert!(split_row(&whole, 5).is_none());
    }

    #[test]
    fn a_row_as_a_line_of_copy_is_escaped() {
        let whole = row(&[Some(b"a\tb\\c\nd"), None, Some(b"")]);
        let line = copy_line(&whole[HEADER + 2..], 3);
        assert_eq!(&line[5..], b"a\\tb\\\\c\\nd\t\\N\t\n");
        assert_eq!(read_u32(&line[1..]).unwrap() as usize, line.len() - 1);
    }

    #[test]
    fn formats_of_the_columns_asked_for_follow_the_clients() {
        let rows = |returns| Rows {
            returning: String::new(),
            returns,
            columns: 2,
            text_only: false,
            floats: false,
            row: None,
            unread: false,
            intervals: false,
            statement: Bytes::new(),
            copy: None,
            change: Change::Update,
            sequences: Vec::new(),
            roles: Arc::default(),
        };
        let bind = |formats: &[u8]| [b"\0\0\0\x01\0\0\0\x01x", formats].concat();
        assert_eq!(bind_for(&bind(b"\0\0"), &rows(true)), (None, false));
        assert_eq!(bind_for(&bind(b"\0\x01\0\x01"), &rows(true)), (None, true));
        let (told, binary) = bind_for(&bind(b"\0\x02\0\x01\0\0"), &rows(true));
        assert_eq!((&told.unwrap()[9..], binary), (&b"\0\x04\0\x01\0\0\0\0\0\0"[..], false));
        let (told, binary) = bind_for(&bind(b"\0\x01\0\x01"), &rows(false));
        assert_eq!((&told.unwrap()[9..], binary), (&b"\0\0"[..], false));
    }
}
