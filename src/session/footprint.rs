//! Which rows a session's transactions write, and its reads look at: what the sequencer needs to tell the ones from the
//! others ([`crate::sequencer::Footprint`]).
//!
//! A transaction gathers it with its script, entry by entry: keyed statements name their rows, rows that main has told of
//! have their keys in them, and of everything else (statements as they are, COPY, DDL, images) nobody can say which rows
//! it writes. What a ROLLBACK TO takes back stays in it: a row too many makes a read run again that need not.

use super::Session;
use super::route::Given;
use super::rows::number;
use crate::sequencer::{Footprint, RowHash};
use crate::sim::planted::{Planted, is};
use crate::sql::cache::Verdict;
use crate::sql::proof::Rows;

impl Session {
    /// An entry of the script writes these rows; `None`: nobody can say which.
    pub(super) fn touches(&mut self, rows: Option<Vec<u64>>) {
        let Some(open) = self.tx.open_mut() else { return };
        if is(Planted::LastRowsOnly) && rows.as_ref().is_some_and(|r| !r.is_empty()) {
            open.footprint = Footprint::default();
        }
        match rows {
            Some(rows) => rows.into_iter().for_each(|row| open.footprint.add(Some(RowHash(row)))),
            None => open.footprint.add(None),
        }
    }

    /// Main has told of a row.
    pub(super) fn touches_row(&mut self, rows: &Rows, asked: &[u8], binary: bool) {
        if rows.unread || self.tx.open().is_none_or(|o| o.footprint.is_all()) {
            return;
        }
        let row = rows.row.as_ref().and_then(|(table, columns)| {
            let key = columns.iter().map(|c| number(asked, *c, binary)).collect::<Option<Vec<i64>>>()?;
            Some(RowHash(table.row(&self.database, &key)))
        });
        self.tx.open_mut().into_iter().for_each(|o| o.footprint.add(row));
    }

    /// The rows that a keyed write names.
    pub(super) fn rows_named(&self, given: &Given, verdict: &Verdict) -> Option<Vec<u64>> {
        let sql = std::str::from_utf8(&given.sql).ok()?;
        let bind = if given.extended { &given.bind[..] } else { &[] };
        verdict.rows_named(&self.database, sql, &given.types, bind)
    }

    /// The row that a read looks at, if it is one alone.
    pub(super) fn row_read(&self, verdict: &Verdict, sql: &[u8], types: &[u32], bind: &[u8]) -> Option<RowHash> {
        if !verdict.is_read() {
            return None;
        }
        let rows = verdict.rows_named(&self.database, std::str::from_utf8(sql).ok()?, types, bind)?;
        let [row] = rows[..] else { return None };
        Some(RowHash(row))
    }
}
