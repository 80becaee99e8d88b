//! CREATE, ALTER, DROP, TRUNCATE.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::exec::Outcome;
use super::lock::Tag;
use super::parse_ddl::generated_name;
use super::plan::{default_value, find_table};
use super::session::{Block, Session};
use super::sql::*;
use super::table::{Column, DefaultValue, Foreign, Oid, Relation, Table, Unique};
use super::utility::done;
use super::value::{Res, Value, unknown};
use crate::wire::{PgError, Severity};

impl Session {
    /// The relation is there already: an error, or with IF NOT EXISTS a notice.
    pub fn exists(&self, name: &str, if_not_exists: bool) -> Res<bool> {
        let e = format!("relation \"{name}\" already exists");
        let found = {
            let s = self.look();
            s.catalogue.find(name, &s.txns, self.top_xid()).is_some()
        };
        match (found, if_not_exists) {
            (false, _) => Ok(false),
            (true, false) => Err(PgError::error("42P07", e)),
            (true, true) => {
                self.notice(Severity::Notice, "42P07", &format!("{e}, skipping"));
                Ok(true)
            }
        }
    }

    pub async fn create_table(&mut self, c: &CreateTable) -> Res<Outcome> {
        self.check_writable("CREATE TABLE")?;
        if self.exists(&c.name, c.if_not_exists)? {
            return Ok(done("CREATE TABLE"));
        }
        let mut columns = Vec::new();
        let oid = self.server().catalogue.new_oid();
        for spec in &c.columns {
            let mut column = self.column(spec)?;
            if spec.serial {
                let name = generated_name(&c.name, std::slice::from_ref(&spec.name), "seq")?;
                self.create_sequence(&name, 1, 1, Some(oid));
                column.default = Some(DefaultValue::Nextval(name));
            }
            columns.push(column);
        }
        let mut table =
            Table { oid, name: c.name.clone(), columns, uniques: Vec::new(), foreigns: Vec::new(), heap: 0 };
        for u in &c.uniques {
            let places = places(&table, &u.columns)?;
            if u.primary {
                places.iter().for_each(|p| table.columns[*p].not_null = true);
            }
            let generated = if u.primary {
                generated_name(&c.name, &[], "pkey")?
            } else {
                generated_name(&c.name, &u.columns, "key")?
            };
            let name = u.name.clone().unwrap_or(generated);
            table.uniques.push(Unique { name, columns: places, primary: u.primary, deferral: u.deferral });
        }
        for f in &c.foreigns {
            let foreign = self.foreign(&table, f).await?;
            table.foreigns.push(foreign);
        }
        let xid = self.xid();
        {
            let mut s = self.server();
            table.heap = s.new_heap(table.uniques.len());
            s.txns.log(xid);
            s.catalogue.add(c.name.clone(), Relation::Table(Rc::new(table)), xid);
        }
        self.lock_relation(oid, LockMode::AccessExclusive).await?;
        Ok(done("CREATE TABLE"))
    }

    fn column(&self, spec: &ColumnSpec) -> Res<Column> {
        let default = spec.default.as_ref().map(|d| default_value(self, d, spec.ty)).transpose()?;
        let default = default.filter(|d| *d != DefaultValue::Constant(Value::Null));
        Ok(Column { name: spec.name.clone(), ty: spec.ty, not_null: spec.not_null, default, missing: Value::Null })
    }

    pub async fn foreign(&mut self, table: &Table, f: &ForeignSpec) -> Res<Foreign> {
        let columns = places(table, &f.columns)?;
        let own = f.parent == table.name;
        let parent = if own { Rc::new(table.clone()) } else { find_table(self, &f.parent)? };
        if !own {
            // ATAddForeignKeyConstraint: nobody may change the parent's rows meanwhile.
            self.lock_relation(parent.oid, LockMode::ShareRowExclusive).await?;
        }
        let parent_columns = if f.parent_columns.is_empty() {
            let primary = parent.uniques.iter().find(|u| u.primary);
            let e = || format!("there is no primary key for referenced table \"{}\"", parent.name);
            primary.ok_or_else(|| PgError::error("42704", e()))?.columns.clone()
        } else {
            places(&parent, &f.parent_columns)?
        };
        if !parent.uniques.iter().any(|u| u.columns == parent_columns && !u.deferral.deferrable) {
            let e =
                format!("there is no unique constraint matching given keys for referenced table \"{}\"", parent.name);
            return Err(PgError::error("42830", e));
        }
        let generated = generated_name(&table.name, &f.columns, "fkey")?;
        Ok(Foreign {
            name: f.name.clone().unwrap_or(generated),
            columns,
            parent: parent.oid,
            parent_columns,
            on_delete: f.on_delete,
            on_update: f.on_update,
            deferral: f.deferral,
        })
    }

    pub fn create_sequence(&mut self, name: &str, start: i64, increment: i64, owner: Option<Oid>) {
        let xid = self.xid();
        let mut s = self.server();
        let oid = s.catalogue.new_oid();
        s.txns.log(xid);
        let at = s.txns.written();
        s.sequences.insert(oid, super::sequence::Sequence::new(name.to_owned(), start, increment, at));
        s.catalogue.add(name.to_owned(), Relation::Sequence(oid, owner), xid);
    }

    pub async fn drop_tables(&mut self, names: &[String], if_exists: bool) -> Res<Outcome> {
        let mut tables = Vec::new();
        for name in names {
            match self.locked_table(name, LockMode::AccessExclusive).await {
                Ok(t) => tables.push(t),
                Err(e) if e.sqlstate == "42P01" => {
                    if !if_exists {
                        return Err(PgError::error("42P01", format!("table \"{name}\" does not exist")));
                    }
                    self.notice(Severity::Notice, "00000", &format!("table \"{name}\" does not exist, skipping"));
                }
                Err(e) => return Err(e),
            }
        }
        for t in &tables {
            self.check_not_in_use(t, "DROP TABLE")?;
        }
        let gone: BTreeSet<Oid> = tables.iter().map(|t| t.oid).collect();
        for t in self.all_tables() {
            if !gone.contains(&t.oid) && t.foreigns.iter().any(|f| gone.contains(&f.parent)) {
                let e = format!("cannot drop table {} because other objects depend on it", names.join(", "));
                return Err(PgError::error("2BP01", e));
            }
        }
        let owned: Vec<Oid> = {
            let s = self.look();
            let of = |r: &Relation| matches!(r, Relation::Sequence(_, Some(o)) if gone.contains(o));
            let relations = s.catalogue.relations(&s.txns, self.top_xid());
            relations.filter(|(_, r)| of(r)).map(|(_, r)| r.oid()).collect()
        };
        self.remove_relations(gone.into_iter().chain(owned).collect());
        Ok(done("DROP TABLE"))
    }

    pub async fn drop_sequences(&mut self, names: &[String], if_exists: bool) -> Res<Outcome> {
        self.check_writable("DROP SEQUENCE")?;
        let mut oids = Vec::new();
        for name in names {
            let found = {
                let s = self.look();
                s.catalogue.find(name, &s.txns, self.top_xid()).cloned()
            };
            match found {
                Some(Relation::Sequence(oid, None)) => {
                    self.lock_relation(oid, LockMode::AccessExclusive).await?;
                    oids.push(oid);
                }
                Some(_) => return Err(unknown(format!("DROP SEQUENCE {name}, which a table owns or which is none"))),
                None if if_exists => {
                    self.notice(Severity::Notice, "00000", &format!("sequence \"{name}\" does not exist, skipping"));
                }
                None => return Err(PgError::error("42P01", format!("sequence \"{name}\" does not exist"))),
            }
        }
        self.remove_relations(oids);
        Ok(done("DROP SEQUENCE"))
    }

    fn remove_relations(&mut self, oids: Vec<Oid>) {
        if oids.is_empty() {
            return;
        }
        let xid = self.xid();
        let mut s = self.server();
        let s = &mut *s;
        s.txns.log(xid);
        for oid in oids {
            s.catalogue.remove(oid, xid, &s.txns);
        }
    }

    /// A table whose checks are still to come must not be altered under them (CheckTableNotInUse in tablecmds.c).
    fn check_not_in_use(&mut self, table: &Table, what: &str) -> Res<()> {
        use super::constraint::Event;
        let of = |e: &Event| match e {
            Event::Unique { table, .. } | Event::Child { table, .. } => *table,
            Event::Parent { parent, .. } => parent.oid,
        };
        if self.tx().deferred.iter().any(|e| of(e) == table.oid) {
            let e = format!("cannot {what} \"{}\" because it has pending trigger events", table.name);
            return Err(PgError::error("55006", e));
        }
        Ok(())
    }

    /// Tables as this transaction sees the catalogue.
    fn all_tables(&self) -> Vec<Rc<Table>> {
        let s = self.look();
        let table = |(_, r): (&str, &Relation)| match r {
            Relation::Table(t) => Some(t.clone()),
            Relation::Sequence(..) => None,
        };
        s.catalogue.relations(&s.txns, self.top_xid()).filter_map(table).collect()
    }

    /// Finds a table and locks it; looks again if it has changed while the lock was waited for
    /// (RangeVarGetRelidExtended in namespace.c).
    pub async fn locked_table(&mut self, name: &str, mode: LockMode) -> Res<Rc<Table>> {
        loop {
            let before = find_table(self, name)?;
            self.lock_relation(before.oid, mode).await?;
            let after = find_table(self, name)?;
            if after.oid == before.oid {
                return Ok(after);
            }
            let depth = self.depth();
            self.server().locks.release(self.owner(), Tag::Relation(before.oid), mode, depth);
        }
    }

    pub async fn truncate(&mut self, names: &[String], restart: bool, cascade: bool) -> Res<Outcome> {
        self.check_writable("TRUNCATE TABLE")?;
        let mut tables: Vec<Rc<Table>> = Vec::new();
        for name in names {
            let t = self.locked_table(name, LockMode::AccessExclusive).await?;
            if !tables.iter().any(|other| other.oid == t.oid) {
                tables.push(t);
            }
        }
        loop {
            let named = |oid: Oid| tables.iter().any(|t| t.oid == oid);
            let refers = |t: &Rc<Table>| !named(t.oid) && t.foreigns.iter().any(|f| named(f.parent));
            let Some(child) = self.all_tables().into_iter().find(refers) else { break };
            if !cascade {
                let e = "cannot truncate a table referenced in a foreign key constraint";
                return Err(PgError::error("0A000", e).detail(format!("Table \"{}\" references it.", child.name)));
            }
            self.notice(Severity::Notice, "00000", &format!("truncate cascades to table \"{}\"", child.name));
            let child = self.locked_table(&child.name.clone(), LockMode::AccessExclusive).await?;
            tables.push(child);
        }
        for t in &tables {
            self.check_not_in_use(t, "TRUNCATE")?;
        }
        if restart && self.block != Block::Single {
            return Err(unknown("TRUNCATE ... RESTART IDENTITY in a transaction block"));
        }
        let xid = self.xid();
        for t in tables {
            if restart {
                self.restart_sequences(t.oid);
            }
            let mut s = self.server();
            let s = &mut *s;
            s.txns.log(xid);
            let heap = s.new_heap(t.uniques.len());
            s.catalogue.remove(t.oid, xid, &s.txns);
            s.catalogue.add(t.name.clone(), Relation::Table(Rc::new(Table { heap, ..(*t).clone() })), xid);
        }
        Ok(done("TRUNCATE TABLE"))
    }

    /// RESTART IDENTITY. On a real server this is transactional; here a rolled back one would keep the restart, so it
    /// is refused in a block.
    fn restart_sequences(&mut self, table: Oid) {
        let owned: Vec<Oid> = {
            let s = self.look();
            let of = |r: &Relation| matches!(r, Relation::Sequence(_, Some(o)) if *o == table);
            s.catalogue.relations(&s.txns, self.top_xid()).filter(|(_, r)| of(r)).map(|(_, r)| r.oid()).collect()
        };
        let mut s = self.server();
        let s = &mut *s;
        for oid in owned {
            let at = s.txns.log_other();
            if let Some(q) = s.sequences.get_mut(&oid) {
                q.set(q.start, false, at);
            }
        }
    }

    pub async fn add_column(&mut self, name: &str, spec: &ColumnSpec) -> Res<Outcome> {
        self.check_writable("ALTER TABLE")?;
        let t = self.locked_table(name, LockMode::AccessExclusive).await?;
        self.check_not_in_use(&t, "ALTER TABLE")?;
        if t.column(&spec.name).is_some() {
            let e = format!("column \"{}\" of relation \"{name}\" already exists", spec.name);
            return Err(PgError::error("42701", e));
        }
        let mut column = self.column(spec)?;
        column.missing = match &column.default {
            None => Value::Null,
            Some(DefaultValue::Constant(v)) => v.clone(),
            Some(DefaultValue::Now) => Value::Time(self.tx().started_us),
            Some(DefaultValue::Nextval(_)) => return Err(unknown("ADD COLUMN with a volatile default")),
        };
        let snapshot = self.latest_snapshot();
        if column.not_null && column.missing == Value::Null && !self.scan(&t, &snapshot, None).is_empty() {
            let e = format!("column \"{}\" of relation \"{name}\" contains null values", spec.name);
            return Err(PgError::error("23502", e));
        }
        let mut new = (*t).clone();
        new.columns.push(column);
        let xid = self.xid();
        let mut s = self.server();
        let s = &mut *s;
        s.txns.log(xid);
        s.catalogue.remove(t.oid, xid, &s.txns);
        s.catalogue.add(t.name.clone(), Relation::Table(Rc::new(new)), xid);
        Ok(done("ALTER TABLE"))
    }
}

fn places(table: &Table, names: &[String]) -> Res<Vec<usize>> {
    let missing = |n: &String| PgError::error("42703", format!("column \"{n}\" named in key does not exist"));
    names.iter().map(|n| table.column(n).ok_or_else(|| missing(n))).collect()
}
