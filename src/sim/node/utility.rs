//! Statements that are no queries: CREATE, SET, SHOW, DISCARD.
//!
//! A table is created once and for all: CREATE stands alone, is on disk before anybody sees it, and never rolled back.

use sqlparser::ast;

use super::exec::Outcome;
use super::expr::{Analysis, data_type};
use super::parse::{all_understood, bare, ident, object};
use super::sequence::Sequence;
use super::session::{Block, Session};
use super::sql::Statement;
use super::table::{Column, Foreign, Table, Unique};
use super::value::{Res, Value, unknown};
use crate::wire::PgError;

/// Length from which PostgreSQL shortens names (NAMEDATALEN).
const NAME_MAX: usize = 64;

impl Session {
    /// Runs a utility statement that does not control transactions.
    pub async fn utility(&mut self, statement: &Statement) -> Res<Outcome> {
        match statement {
            Statement::CreateTable(c) => self.create_table(c).await,
            Statement::CreateSequence(name) => self.create(name, "CREATE SEQUENCE").await,
            Statement::CreateTrigger(table) => self.create_trigger(table).await,
            Statement::Set { name, value, local, tag } => {
                if *local {
                    self.only_in_block("SET LOCAL", self.block != Block::Open);
                }
                self.settings.set(name, value.as_deref(), *local)?;
                Ok(Outcome::done(*tag))
            }
            Statement::SetTransaction(modes) => {
                self.only_in_block("SET TRANSACTION", self.block == Block::Single);
                self.set_modes(*modes)?;
                Ok(Outcome::done("SET"))
            }
            Statement::SetConstraints { deferred } => {
                self.only_in_block("SET CONSTRAINTS", self.block == Block::Single);
                self.tx().constraints = Some(*deferred);
                if !deferred {
                    self.run_deferred().await?;
                }
                Ok(Outcome::done("SET CONSTRAINTS"))
            }
            Statement::ResetAll => {
                self.settings.reset_all();
                Ok(Outcome::done("RESET"))
            }
            Statement::Show(name) => {
                let rows = vec![vec![Value::Text(self.show(name)?)]];
                Ok(Outcome { rows, tag: "SHOW".into() })
            }
            Statement::DiscardAll => {
                if self.block != Block::Single {
                    return Err(unknown("DISCARD ALL within a transaction"));
                }
                self.settings.discard();
                self.statements.clear();
                self.portals.clear();
                Ok(Outcome::done("DISCARD ALL"))
            }
            Statement::Deallocate(None) => {
                self.statements.retain(|name, _| name.is_empty());
                Ok(Outcome::done("DEALLOCATE ALL"))
            }
            Statement::Deallocate(Some(name)) => {
                self.statement(name)?;
                self.statements.remove(name);
                Ok(Outcome::done("DEALLOCATE"))
            }
            other => Err(unknown(format!("{other:?} here"))),
        }
    }

    fn only_in_block(&self, what: &str, outside: bool) {
        if outside {
            self.warn("25P01", &format!("{what} can only be used in transaction blocks"));
        }
    }

    /// Waits until a new relation is on disk, and sees to it that its name is free then.
    async fn create(&mut self, name: &str, what: &str) -> Res<Outcome> {
        self.check_writable(what)?;
        if self.block != Block::Single {
            return Err(unknown(format!("{what} within a transaction")));
        }
        let lsn = self.server().txns.log_other();
        self.make_durable(lsn).await;
        if self.look().has_relation(name) {
            return Err(PgError::error("42P07", format!("relation \"{name}\" already exists")));
        }
        if what == "CREATE SEQUENCE" {
            self.server().sequences.insert(name.to_owned(), Sequence::new(lsn));
        }
        Ok(Outcome::done(what))
    }

    async fn create_table(&mut self, c: &ast::CreateTable) -> Res<Outcome> {
        let ast::Statement::CreateTable(bare) = bare("CREATE TABLE t ()") else { return Err(unknown(c)) };
        let mut rest = c.clone();
        rest.name = bare.name.clone();
        rest.columns.clear();
        rest.constraints.clear();
        all_understood(&rest, &bare)?;
        let name = object(&c.name)?;
        let mut table = Table { oid: 0, name, columns: Vec::new(), uniques: Vec::new(), foreigns: Vec::new() };
        for def in &c.columns {
            self.column(&mut table, def)?;
        }
        for constraint in &c.constraints {
            let (columns, primary) = match constraint {
                ast::TableConstraint::PrimaryKey(p) => (&p.columns, true),
                ast::TableConstraint::Unique(u) => (&u.columns, false),
                other => return Err(unknown(other)),
            };
            let list: Vec<String> = columns.iter().map(ToString::to_string).collect();
            let kind = if primary { "PRIMARY KEY" } else { "UNIQUE" };
            if constraint.to_string() != format!("{kind} ({})", list.join(", ")) {
                return Err(unknown(constraint));
            }
            unique(&mut table, &list, primary)?;
        }
        let outcome = self.create(&table.name, "CREATE TABLE").await?;
        self.server().add_table(table);
        Ok(outcome)
    }

    fn column(&self, table: &mut Table, def: &ast::ColumnDef) -> Res<()> {
        let (name, ty) = (ident(&def.name), data_type(&def.data_type)?);
        table.columns.push(Column { name: name.clone(), ty, not_null: false, default: None });
        for o in &def.options {
            let last = table.columns.len() - 1;
            match (&o.option, o.to_string().as_str()) {
                (_, "NOT NULL") => table.columns[last].not_null = true,
                (_, "PRIMARY KEY") => unique(table, std::slice::from_ref(&name), true)?,
                (_, "UNIQUE") => unique(table, std::slice::from_ref(&name), false)?,
                (ast::ColumnOption::Default(e), _) if o.name.is_none() => {
                    let server = self.look();
                    table.columns[last].default = Some(Analysis::new(&server).of_type(e, ty)?);
                }
                (ast::ColumnOption::ForeignKey(f), _) if o.name.is_none() => {
                    let foreign = self.foreign(table, last, f)?;
                    table.foreigns.push(foreign);
                }
                _ => return Err(unknown(format!("the column option {o}"))),
            }
        }
        Ok(())
    }

    fn foreign(&self, table: &Table, column: usize, f: &ast::ForeignKeyConstraint) -> Res<Foreign> {
        let parent = self.look().table(&object(&f.foreign_table)?)?;
        let parent_columns = match f.referred_columns.as_slice() {
            [] => parent.uniques.iter().find(|u| u.name.ends_with("_pkey")).map_or(Vec::new(), |u| u.columns.clone()),
            named => parent.places(&named.iter().map(ident).collect::<Vec<_>>())?,
        };
        let acts = |a: &Option<ast::ReferentialAction>| !matches!(a, None | Some(ast::ReferentialAction::NoAction));
        let unique = parent.uniques.iter().any(|u| u.columns == parent_columns);
        if acts(&f.on_delete) || acts(&f.on_update) || f.match_kind.is_some() || parent_columns.len() != 1 || !unique {
            return Err(unknown(format!("the foreign key {f}")));
        }
        let c = f.characteristics.unwrap_or_default();
        let initially_deferred = c.initially == Some(ast::DeferrableInitial::Deferred);
        Ok(Foreign {
            name: generated_name(table, std::slice::from_ref(&table.columns[column].name), "fkey")?,
            columns: vec![column],
            parent: parent.name.clone(),
            parent_columns,
            deferrable: initially_deferred || c.deferrable == Some(true),
            initially_deferred,
        })
    }
}

fn unique(table: &mut Table, columns: &[String], primary: bool) -> Res<()> {
    let places = table.places(columns)?;
    if primary {
        places.iter().for_each(|p| table.columns[*p].not_null = true);
    }
    let name = if primary { generated_name(table, &[], "pkey")? } else { generated_name(table, columns, "key")? };
    // The primary key's index is made first (transformIndexConstraints in parse_utilcmd.c), and checked first.
    let at = if primary { 0 } else { table.uniques.len() };
    table.uniques.insert(at, Unique { name, columns: places });
    Ok(())
}

/// The name that PostgreSQL gives a constraint or sequence (ChooseConstraintName in pg_constraint.c).
fn generated_name(table: &Table, columns: &[String], suffix: &str) -> Res<String> {
    let parts = std::iter::once(&table.name).chain(columns).map(String::as_str).chain([suffix]);
    let name = parts.collect::<Vec<_>>().join("_");
    if name.len() < NAME_MAX { Ok(name) } else { Err(unknown(format!("how to shorten the name {name}"))) }
}
