//! Unique keys: whoever inserts or deletes the same key at the same time is waited for. After nbtinsert.c
//! (_bt_check_unique) and nodeModifyTable.c (ExecInsert).

use super::session::Session;
use super::table::{Dirty, Table, Tid};
use super::value::{Res, Row, Value};
use crate::wire::PgError;

impl Session {
    /// Inserts a row, and checks its keys.
    pub async fn insert_row(&mut self, table: &Table, row: &Row, command: u32) -> Res<Tid> {
        check_not_null(table, row)?;
        let tid = self.insert_version(table, row.clone(), command, Vec::new());
        self.log_change(table, tid, None, Some(row));
        for i in 0..table.uniques.len() {
            self.insert_key(table, i, tid, row).await?;
        }
        Ok(tid)
    }

    /// ON CONFLICT: looks for a row in the way, waiting for whoever is about to decide that; inserts if there is none.
    /// `Err`: the row in the way (ExecInsert in nodeModifyTable.c).
    pub async fn insert_unless(
        &mut self,
        table: &Table,
        arbiters: &[usize],
        row: &Row,
        command: u32,
    ) -> Res<Result<Tid, Tid>> {
        check_not_null(table, row)?;
        'again: loop {
            for i in arbiters {
                if let Some(t) = self.find_conflict(table, *i, row).await? {
                    return Ok(Err(t));
                }
            }
            let tid = self.insert_version(table, row.clone(), command, Vec::new());
            self.log_change(table, tid, None, Some(row));
            // Index by index, in their order; while another index is waited for an arbiter may be filled.
            for i in 0..table.uniques.len() {
                if !arbiters.contains(&i) {
                    self.insert_key(table, i, tid, row).await?;
                } else if self.with_key(table, i, row).is_empty() {
                    self.enter(table, i, tid, row);
                } else {
                    // A speculative insertion is withdrawn (heap_abort_speculative). Who waits for it waits, other
                    // than on a real server, for the end of its transaction.
                    self.server().heap_mut(table.oid).0.remove(tid);
                    self.unlog(tid);
                    continue 'again;
                }
            }
            return Ok(Ok(tid));
        }
    }

    /// Versions that have the row's key in this index and are not dead.
    fn with_key(&self, table: &Table, index: usize, row: &[Value]) -> Vec<(Tid, Dirty)> {
        let key = Table::key(&table.uniques[index].columns, row);
        let s = self.look();
        let heap = s.heap(table.oid);
        let state = |t: Tid| Some((t, heap.versions.get(&t)?.dirty(&s.txns, self.top_xid())));
        let found = heap.with_key(index, &key).into_iter().filter_map(state);
        found.filter(|(_, d)| !matches!(d, Dirty::Dead)).collect()
    }

    fn enter(&mut self, table: &Table, index: usize, tid: Tid, row: &[Value]) {
        let key = Table::key(&table.uniques[index].columns, row);
        self.server().heap_mut(table.oid).0.index(index, key, tid);
    }

    /// Finds a live version with the row's key, waiting for those that may or may not become it.
    async fn find_conflict(&self, table: &Table, index: usize, row: &[Value]) -> Res<Option<Tid>> {
        loop {
            match self.with_key(table, index, row).first() {
                None => return Ok(None),
                Some((_, Dirty::Undecided(xid))) => self.wait_for(*xid).await?,
                Some((tid, _)) => return Ok(Some(*tid)),
            };
        }
    }

    /// Puts a version into a unique index once nothing is in its way (_bt_doinsert).
    pub async fn insert_key(&mut self, table: &Table, index: usize, tid: Tid, row: &[Value]) -> Res<()> {
        if self.find_conflict(table, index, row).await?.is_some() {
            let u = &table.uniques[index];
            let key = table.show_key(&u.columns, &Table::key(&u.columns, row));
            let e = format!("duplicate key value violates unique constraint \"{}\"", u.name);
            return Err(PgError::error("23505", e).detail(format!("{key} already exists.")));
        }
        self.enter(table, index, tid, row);
        Ok(())
    }
}

/// NOT NULL.
pub fn check_not_null(table: &Table, row: &[Value]) -> Res<()> {
    match table.columns.iter().zip(row).find(|(c, v)| c.not_null && **v == Value::Null) {
        None => Ok(()),
        Some((c, _)) => {
            let values: Vec<String> = row.iter().map(|v| v.text().unwrap_or_else(|| "null".into())).collect();
            let (name, table) = (&c.name, &table.name);
            let e = format!("null value in column \"{name}\" of relation \"{table}\" violates not-null constraint");
            Err(PgError::error("23502", e).detail(format!("Failing row contains ({}).", values.join(", "))))
        }
    }
}
