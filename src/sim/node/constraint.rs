//! Foreign keys, checked after a statement or at COMMIT.
//!
//! After src/backend/utils/adt/ri_triggers.c: a child locks its parent FOR KEY SHARE; a parent that goes looks for
//! children in the newest state, whatever the isolation level.

use std::rc::Rc;

use super::eval::{Ex, Op};
use super::exec::Matching;
use super::session::Session;
use super::sql::Strength;
use super::table::{Dirty, Foreign, Table, Tid};
use super::txn::Snapshot;
use super::value::{Res, Row, Type, Value};
use crate::wire::PgError;

/// A check that a row change has made necessary.
#[derive(Clone, Debug)]
pub struct Event {
    /// The table that refers, and which of its foreign keys.
    child: Rc<Table>,
    foreign: usize,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// A child's row needs its parent.
    Child(Tid),
    /// A parent's key is gone.
    Parent(Row),
}

impl Event {
    fn foreign(&self) -> &Foreign {
        &self.child.foreigns[self.foreign]
    }
}

/// Rows that have this key.
fn with_key(table: &Rc<Table>, columns: &[usize], key: &[Value]) -> Matching {
    let equal = |(c, v): (&usize, &Value)| Ex::Op(Op::Eq, Type::Bool, vec![Ex::Column(*c), Ex::Const(v.clone())]);
    let both = |a, b| Ex::Op(Op::And, Type::Bool, vec![a, b]);
    Matching { table: table.clone(), filter: columns.iter().zip(key).map(equal).reduce(both) }
}

impl Session {
    /// Queues the checks that a row change needs.
    pub fn queue_checks(&mut self, table: &Rc<Table>, old: Option<&[Value]>, new: Option<(Tid, &[Value])>) {
        // Neither users' triggers nor those of foreign keys fire there.
        if self.settings.is("session_replication_role", "replica") {
            return;
        }
        self.queue_audit(table, old, new.map(|(_, new)| new));
        let mut events = Vec::new();
        if let Some((tid, new)) = new {
            for (foreign, f) in table.foreigns.iter().enumerate() {
                // RI_FKey_fk_upd_check_required: an unchanged reference needs no check.
                if old.is_none_or(|o| Table::key(&f.columns, o) != Table::key(&f.columns, new)) {
                    events.push(Event { child: table.clone(), foreign, change: Change::Child(tid) });
                }
            }
        }
        if let Some(old) = old {
            for child in self.look().tables() {
                for (foreign, f) in child.foreigns.iter().enumerate().filter(|(_, f)| f.parent == table.name) {
                    let key = Table::key(&f.parent_columns, old);
                    let stays = new.is_some_and(|(_, n)| Table::key(&f.parent_columns, n) == key);
                    if !stays && !key.contains(&Value::Null) {
                        events.push(Event { child: child.clone(), foreign, change: Change::Parent(key) });
                    }
                }
            }
        }
        self.events.extend(events);
    }

    /// The statement is done: what must be checked at once is, the rest waits for COMMIT.
    pub async fn fire_events(&mut self) -> Res<()> {
        for event in std::mem::take(&mut self.events) {
            let f = event.foreign();
            let (deferrable, initially) = (f.deferrable, f.initially_deferred);
            let tx = self.tx();
            tx.command += 1;
            if deferrable && tx.constraints.unwrap_or(initially) {
                tx.deferred.push(event);
            } else {
                self.check(event).await?;
            }
        }
        self.audit().await
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
        let f = event.foreign();
        let parent = self.look().table(&f.parent)?;
        match &event.change {
            Change::Child(tid) => self.check_child(&event.child, f, &parent, *tid).await,
            Change::Parent(key) => self.check_parent(&event.child, f, &parent, key).await,
        }
    }

    async fn has_row(&mut self, table: &Rc<Table>, columns: &[usize], key: &[Value], s: &Snapshot) -> Res<bool> {
        let matching = with_key(table, columns, key);
        let mut found = false;
        for row in self.matching(&matching, s)? {
            found |= self.lock_row(&matching, row, s.command, Strength::KeyShare).await?.is_some();
        }
        Ok(found)
    }

    /// RI_FKey_check.
    async fn check_child(&mut self, child: &Rc<Table>, f: &Foreign, parent: &Rc<Table>, tid: Tid) -> Res<()> {
        let key = {
            let s = self.look();
            // A row that this transaction has replaced since has another check of its own.
            let version = s.heap(child.oid).versions.get(&tid);
            let live = version.filter(|v| !matches!(v.dirty(&s.txns, self.top_xid()), Dirty::Dead));
            live.map(|v| Table::key(&f.columns, &v.row))
        };
        let Some(key) = key.filter(|k| !k.contains(&Value::Null)) else { return Ok(()) };
        let snapshot = self.snapshot();
        if self.has_row(parent, &f.parent_columns, &key, &snapshot).await? {
            return Ok(());
        }
        let e = format!("insert or update on table \"{}\" violates foreign key constraint \"{}\"", child.name, f.name);
        let key = child.show_key(&f.columns, &key);
        Err(PgError::error("23503", e).detail(format!("{key} is not present in table \"{}\".", parent.name)))
    }

    /// RI_FKey_noaction_del, RI_FKey_noaction_upd.
    async fn check_parent(&mut self, child: &Rc<Table>, f: &Foreign, parent: &Rc<Table>, key: &[Value]) -> Res<()> {
        // Somebody else may have taken the key over (ri_Check_Pk_Match).
        let snapshot = self.latest_snapshot();
        if self.has_row(parent, &f.parent_columns, key, &snapshot).await? {
            return Ok(());
        }
        let snapshot = self.latest_snapshot();
        if !self.has_row(child, &f.columns, key, &snapshot).await? {
            return Ok(());
        }
        let e = format!(
            "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
            parent.name, f.name, child.name
        );
        let key = parent.show_key(&f.parent_columns, key);
        Err(PgError::error("23503", e).detail(format!("{key} is still referenced from table \"{}\".", child.name)))
    }
}
