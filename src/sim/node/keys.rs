//! Rows inserted, and unique keys checked: whoever inserts or deletes the same key at the same time is waited for.
//! After nbtinsert.c (_bt_check_unique), nodeModifyTable.c (ExecInsert) and constraint.c (unique_key_recheck).

use super::constraint::Event;
use super::rows::{Dirty, dirty, gone};
use super::session::Session;
use super::sql::WaitPolicy;
use super::table::{Table, Tid, Version};
use super::value::{Res, Value};
use crate::wire::PgError;

/// A conflict that ON CONFLICT has found.
pub enum Conflict {
    None,
    /// With this version.
    With(Tid),
}

impl Session {
    /// Inserts a row, and checks its keys.
    pub async fn insert_version(&mut self, table: &Table, row: Vec<Value>, command: u32) -> Res<Tid> {
        check_not_null(table, &row)?;
        let tid = self.insert_unchecked(table, row.clone(), command)?;
        for i in 0..table.uniques.len() {
            self.insert_key(table, i, tid, &row).await?;
        }
        Ok(tid)
    }

    fn insert_unchecked(&mut self, table: &Table, row: Vec<Value>, command: u32) -> Res<Tid> {
        let xid = self.xid();
        let mut s = self.server();
        let s = &mut *s;
        s.txns.log(xid);
        let horizon = s.horizon();
        let Some(heap) = s.heaps.get_mut(&table.heap) else { return Err(gone()) };
        heap.prune(&s.txns, horizon);
        Ok(heap.insert(Version { row, xmin: xid, cmin: command, replaced: None, lockers: Vec::new() }))
    }

    /// ON CONFLICT: looks for a row in the way, waiting for whoever is about to decide that; inserts if there is none.
    /// `Err`: the row in the way (ExecInsert in nodeModifyTable.c).
    pub async fn insert_unless(
        &mut self,
        table: &Table,
        arbiters: &[usize],
        row: &[Value],
        command: u32,
    ) -> Res<Result<Tid, Tid>> {
        check_not_null(table, row)?;
        'again: loop {
            for i in arbiters {
                if let Conflict::With(t) = self.find_conflict(table, *i, None, row).await? {
                    return Ok(Err(t));
                }
            }
            let tid = self.insert_unchecked(table, row.to_vec(), command)?;
            // Index by index, in their order; while another index is waited for an arbiter may be filled.
            for i in 0..table.uniques.len() {
                if !arbiters.contains(&i) {
                    self.insert_key(table, i, tid, row).await?;
                } else if self.has_key(table, i, row) {
                    self.take_back(table, tid);
                    continue 'again;
                } else {
                    self.enter(table, i, tid, row);
                }
            }
            return Ok(Ok(tid));
        }
    }

    /// A speculative insertion is withdrawn (heap_abort_speculative). Who waits for it waits, other than on a real
    /// server, for the end of its transaction.
    fn take_back(&mut self, table: &Table, tid: Tid) {
        if let Some(heap) = self.server().heaps.get_mut(&table.heap) {
            heap.remove(tid);
        }
    }

    fn has_key(&self, table: &Table, index: usize, row: &[Value]) -> bool {
        let key = Table::key(&table.uniques[index].columns, row);
        let s = self.look();
        let Some(heap) = s.heaps.get(&table.heap) else { return false };
        !key.contains(&Value::Null)
            && heap
                .with_key(index, &key)
                .iter()
                .filter_map(|t| heap.versions.get(t))
                .any(|v| !matches!(dirty(&s.txns, self.top_xid(), v), Dirty::Dead))
    }

    fn enter(&mut self, table: &Table, index: usize, tid: Tid, row: &[Value]) {
        let key = Table::key(&table.uniques[index].columns, row);
        if let Some(h) = self.server().heaps.get_mut(&table.heap) {
            h.index(index, key, tid);
        }
    }

    /// Finds a live version with the row's key, waiting for those that may or may not become it.
    async fn find_conflict(&self, table: &Table, index: usize, except: Option<Tid>, row: &[Value]) -> Res<Conflict> {
        let key = Table::key(&table.uniques[index].columns, row);
        if key.contains(&Value::Null) {
            return Ok(Conflict::None);
        }
        loop {
            let undecided = {
                let s = self.look();
                let Some(heap) = s.heaps.get(&table.heap) else { return Err(gone()) };
                let mut undecided = None;
                for t in heap.with_key(index, &key).iter().filter(|t| Some(**t) != except) {
                    match heap.versions.get(t).map(|v| dirty(&s.txns, self.top_xid(), v)) {
                        Some(Dirty::Live) => return Ok(Conflict::With(*t)),
                        Some(Dirty::Undecided(x)) => {
                            undecided = Some(x);
                            break;
                        }
                        Some(Dirty::Dead) | None => {}
                    }
                }
                undecided
            };
            let Some(xid) = undecided else { return Ok(Conflict::None) };
            self.wait_for(xid, WaitPolicy::Block).await?;
        }
    }

    /// Puts a version into a unique index once nothing is in its way (_bt_doinsert).
    pub async fn insert_key(&mut self, table: &Table, index: usize, tid: Tid, row: &[Value]) -> Res<()> {
        let u = &table.uniques[index];
        if u.deferral.deferrable {
            // What looks like a conflict is looked at again later (UNIQUE_CHECK_PARTIAL).
            if self.has_key(table, index, row) {
                self.events.push(Event::Unique { table: table.oid, index, tid });
            }
        } else if let Conflict::With(_) = self.find_conflict(table, index, None, row).await? {
            return Err(duplicate(table, index, row));
        }
        self.enter(table, index, tid, row);
        Ok(())
    }

    /// The check of a deferrable unique constraint (unique_key_recheck in constraint.c).
    pub async fn recheck_unique(&mut self, table: &Table, index: usize, tid: Tid) -> Res<()> {
        let live = self.version(table.heap, tid, |txns, own, v| matches!(dirty(txns, own, v), Dirty::Live));
        let row = self.row_of(table, tid);
        if live != Some(true) {
            return Ok(());
        }
        match self.find_conflict(table, index, Some(tid), &row).await? {
            Conflict::None => Ok(()),
            Conflict::With(_) => Err(duplicate(table, index, &row)),
        }
    }
}

/// NOT NULL.
pub fn check_not_null(table: &Table, row: &[Value]) -> Res<()> {
    match table.columns.iter().zip(row).find(|(c, v)| c.not_null && **v == Value::Null) {
        None => Ok(()),
        Some((c, _)) => Err(PgError::error(
            "23502",
            format!("null value in column \"{}\" of relation \"{}\" violates not-null constraint", c.name, table.name),
        )
        .detail({
            let values: Vec<String> = row.iter().map(|v| v.text().unwrap_or_else(|| "null".into())).collect();
            format!("Failing row contains ({}).", values.join(", "))
        })),
    }
}

/// `Key (a, b)=(1, 2)`.
pub fn show_key(table: &Table, columns: &[usize], row: &[Value]) -> String {
    let names: Vec<&str> = columns.iter().filter_map(|c| table.columns.get(*c)).map(|c| c.name.as_str()).collect();
    let values: Vec<String> =
        Table::key(columns, row).iter().map(|v| v.text().unwrap_or_else(|| "null".into())).collect();
    format!("Key ({})=({})", names.join(", "), values.join(", "))
}

fn duplicate(table: &Table, index: usize, row: &[Value]) -> PgError {
    let u = &table.uniques[index];
    PgError::error("23505", format!("duplicate key value violates unique constraint \"{}\"", u.name))
        .detail(format!("{} already exists.", show_key(table, &u.columns, row)))
}
