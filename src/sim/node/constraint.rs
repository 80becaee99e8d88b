//! What is checked after a statement, or at COMMIT: foreign keys and deferrable unique constraints.
//!
//! After src/backend/utils/adt/ri_triggers.c: a child locks its parent FOR KEY SHARE; a parent that goes looks for
//! children in the newest state, whatever the isolation level, or takes them along.

use std::rc::Rc;

use super::exec::{Filter, Matching};
use super::keys::show_key;
use super::session::Session;
use super::sql::{Action, Deferral, RowLock, WaitPolicy};
use super::table::{Oid, Table, Tid};
use super::value::{Res, Value};
use crate::wire::PgError;

/// A check that a row change has made necessary.
#[derive(Clone, Debug)]
pub enum Event {
    /// A deferrable key that may be there twice.
    Unique { table: Oid, index: usize, tid: Tid },
    /// A child's row needs its parent.
    Child { table: Oid, foreign: usize, tid: Tid },
    /// A parent's key is gone; `new` is the row's key now, if it still exists.
    Parent { child: Oid, foreign: usize, parent: Rc<Table>, old: Vec<Value>, new: Option<Vec<Value>> },
}

impl Session {
    /// A table by its identity, as this transaction sees the catalogue.
    pub fn table(&self, oid: Oid) -> Res<Rc<Table>> {
        let s = self.look();
        let table = s.catalogue.table(oid, &s.txns, self.top_xid());
        table.ok_or_else(|| PgError::error("XX000", "a table has vanished under the simulated node"))
    }

    /// Queues the checks that a row change needs.
    pub fn queue_checks(&mut self, table: &Rc<Table>, old: Option<&[Value]>, new: Option<(Tid, &[Value])>) {
        if let Some((tid, new)) = new {
            for (i, f) in table.foreigns.iter().enumerate() {
                // RI_FKey_fk_upd_check_required: an unchanged reference needs no check.
                let unchanged = old.is_some_and(|o| Table::key(&f.columns, o) == Table::key(&f.columns, new));
                if !unchanged {
                    self.events.push(Event::Child { table: table.oid, foreign: i, tid });
                }
            }
        }
        let Some(old) = old else { return };
        let referrers: Vec<(Rc<Table>, usize)> = {
            let s = self.look();
            let tables = s.catalogue.relations(&s.txns, self.top_xid()).filter_map(|(_, r)| match r {
                super::table::Relation::Table(t) => Some(t.clone()),
                super::table::Relation::Sequence(..) => None,
            });
            let pointing = |t: Rc<Table>| {
                let of = t.foreigns.iter().enumerate().filter(|(_, f)| f.parent == table.oid).map(|(i, _)| i);
                of.map(|i| (t.clone(), i)).collect::<Vec<_>>()
            };
            tables.flat_map(pointing).collect()
        };
        for (child, foreign) in referrers {
            let columns = &child.foreigns[foreign].parent_columns;
            let (key, now) = (Table::key(columns, old), new.map(|(_, n)| Table::key(columns, n)));
            if now.as_ref() != Some(&key) && !key.contains(&Value::Null) {
                let parent = table.clone();
                self.events.push(Event::Parent { child: child.oid, foreign, parent, old: key, new: now });
            }
        }
    }

    fn deferral(&self, event: &Event) -> Res<Deferral> {
        Ok(match event {
            Event::Unique { table, index, .. } => self.table(*table)?.uniques[*index].deferral,
            Event::Child { table, foreign, .. } => self.table(*table)?.foreigns[*foreign].deferral,
            Event::Parent { child, foreign, new, .. } => {
                let f = self.table(*child)?.foreigns[*foreign].clone();
                let action = if new.is_some() { f.on_update } else { f.on_delete };
                // Only NO ACTION can wait; RESTRICT and CASCADE act at once.
                if action == Action::NoAction { f.deferral } else { Deferral::default() }
            }
        })
    }

    /// The statement is done: what must be checked at once is, the rest waits for COMMIT.
    pub async fn fire_events(&mut self) -> Res<()> {
        if self.events.is_empty() {
            return Ok(());
        }
        for event in std::mem::take(&mut self.events) {
            let d = self.deferral(&event)?;
            let tx = self.tx();
            tx.command += 1;
            if d.deferrable && tx.constraints.unwrap_or(d.initially_deferred) {
                tx.deferred.push(event);
            } else {
                self.check(event).await?;
            }
        }
        Ok(())
    }

    /// COMMIT, or SET CONSTRAINTS ALL IMMEDIATE.
    pub async fn run_deferred(&mut self) -> Res<()> {
        // An error leaves the list as it is: ROLLBACK TO brings the checks back that stood before the savepoint.
        let mut at = 0;
        while let Some(event) = self.tx().deferred.get(at).cloned() {
            self.tx().command += 1;
            self.check(event).await?;
            at += 1;
        }
        self.tx().deferred.clear();
        Ok(())
    }

    async fn check(&mut self, event: Event) -> Res<()> {
        match event {
            Event::Unique { table, index, tid } => {
                let table = self.table(table)?;
                self.recheck_unique(&table, index, tid).await
            }
            Event::Child { table, foreign, tid } => self.check_child(table, foreign, tid).await,
            Event::Parent { child, foreign, parent, old, new } => {
                self.check_parent(child, foreign, &parent, old, new).await
            }
        }
    }

    /// RI_FKey_check.
    async fn check_child(&mut self, table: Oid, foreign: usize, tid: Tid) -> Res<()> {
        let table = self.table(table)?;
        // A row that this transaction has replaced since has another check of its own.
        if !self.is_live(table.heap, tid) {
            return Ok(());
        }
        let row = self.row_of(&table, tid);
        let f = &table.foreigns[foreign];
        let key = Table::key(&f.columns, &row);
        if key.contains(&Value::Null) {
            return Ok(());
        }
        let parent = self.table(f.parent)?;
        self.lock_relation(parent.oid, super::sql::LockMode::RowShare).await?;
        let snapshot = self.snapshot();
        let matching = Matching { table: parent.clone(), filter: Filter::Key(f.parent_columns.clone(), key) };
        let found = self.lock_matching(&matching, &snapshot, RowLock::KeyShare, WaitPolicy::Block, &[]).await?;
        if found.is_empty() {
            let e =
                format!("insert or update on table \"{}\" violates foreign key constraint \"{}\"", table.name, f.name);
            let detail = format!("{} is not present in table \"{}\".", show_key(&table, &f.columns, &row), parent.name);
            return Err(PgError::error("23503", e).detail(detail));
        }
        Ok(())
    }

    async fn check_parent(
        &mut self,
        child: Oid,
        foreign: usize,
        parent: &Rc<Table>,
        old: Vec<Value>,
        new: Option<Vec<Value>>,
    ) -> Res<()> {
        let child = self.table(child)?;
        let f = child.foreigns[foreign].clone();
        let action = if new.is_some() { f.on_update } else { f.on_delete };
        let matching = Matching { table: child.clone(), filter: Filter::Key(f.columns.clone(), old.clone()) };
        if action == Action::Cascade {
            self.lock_relation(child.oid, super::sql::LockMode::RowExclusive).await?;
            return Box::pin(self.cascade(&matching, &f.columns, new)).await;
        }
        if action == Action::NoAction {
            // Somebody else may have taken the key over (ri_Check_Pk_Match).
            let same = Matching { table: parent.clone(), filter: Filter::Key(f.parent_columns.clone(), old.clone()) };
            let snapshot = self.latest_snapshot();
            if !self.lock_matching(&same, &snapshot, RowLock::KeyShare, WaitPolicy::Block, &[]).await?.is_empty() {
                return Ok(());
            }
        }
        self.lock_relation(child.oid, super::sql::LockMode::RowShare).await?;
        let snapshot = self.latest_snapshot();
        let found = self.lock_matching(&matching, &snapshot, RowLock::KeyShare, WaitPolicy::Block, &[]).await?;
        if found.is_empty() {
            return Ok(());
        }
        let e = format!(
            "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
            parent.name, f.name, child.name
        );
        let names: Vec<&str> = f.parent_columns.iter().map(|c| parent.columns[*c].name.as_str()).collect();
        let values: Vec<String> = old.iter().map(|v| v.text().unwrap_or_default()).collect();
        let key = format!("Key ({})=({})", names.join(", "), values.join(", "));
        Err(PgError::error("23503", e).detail(format!("{key} is still referenced from table \"{}\".", child.name)))
    }

    /// ON DELETE CASCADE, ON UPDATE CASCADE.
    async fn cascade(&mut self, matching: &Matching, columns: &[usize], new: Option<Vec<Value>>) -> Res<()> {
        let latest = self.latest_snapshot();
        if self.one_snapshot() {
            // The crosscheck of ri_PerformCheck: a child that this transaction cannot see must not vanish with its parent.
            let own = self.snapshot();
            let rows = self.scan(&matching.table, &latest, None);
            for (tid, row) in rows {
                if matching.filter.key_matches(&row) && !self.is_visible(matching.table.heap, tid, &own) {
                    return Err(PgError::error("40001", "could not serialize access due to concurrent update"));
                }
            }
        }
        let set = new.map(|values| columns.iter().copied().zip(values).collect::<Vec<_>>());
        self.change_matching(matching, &latest, super::exec::Setting::Values(set), &[]).await?;
        self.fire_events().await
    }
}
