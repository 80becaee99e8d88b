//! Statements that are no queries: definitions, TRUNCATE, LOCK, SET, SHOW, DISCARD.

use super::exec::Outcome;
use super::lock::Tag;
use super::plan::find_table;
use super::session::{Block, Session};
use super::sql::*;
use super::value::{Res, Value, unknown};
use crate::wire::PgError;

/// A tag without rows.
pub fn done(tag: &str) -> Outcome {
    Outcome { rows: Vec::new(), tag: tag.to_owned() }
}

impl Session {
    /// Runs a utility statement that does not control transactions.
    pub async fn utility(&mut self, statement: &Statement) -> Res<Outcome> {
        match statement {
            Statement::CreateTable(c) => self.create_table(c).await,
            Statement::DropTable { names, if_exists } => {
                self.check_writable("DROP TABLE")?;
                self.drop_tables(names, *if_exists).await
            }
            Statement::Truncate { names, restart, cascade } => self.truncate(names, *restart, *cascade).await,
            Statement::AddColumn { table, column } => self.add_column(table, column).await,
            Statement::CreateSequence { name, if_not_exists, start, increment } => {
                self.check_writable("CREATE SEQUENCE")?;
                if self.exists(name, *if_not_exists)? {
                    return Ok(done("CREATE SEQUENCE"));
                }
                self.create_sequence(name, *start, *increment, None);
                Ok(done("CREATE SEQUENCE"))
            }
            Statement::DropSequence { names, if_exists } => self.drop_sequences(names, *if_exists).await,
            Statement::Lock { tables, mode, nowait } => self.lock_tables(tables, *mode, *nowait).await,
            Statement::Set { name, value, local } => {
                if *local && self.block != Block::Open {
                    self.warn("25P01", "SET LOCAL can only be used in transaction blocks");
                }
                self.set(name, value.as_deref(), *local)?;
                Ok(done("SET"))
            }
            Statement::Reset(name) => {
                self.set(name, None, false)?;
                Ok(done("RESET"))
            }
            Statement::SetTransaction { modes, session } => {
                if *session {
                    if let Some(i) = modes.isolation {
                        self.settings.set("default_transaction_isolation", Some(i.text()), false)?;
                    }
                    if let Some(r) = modes.read_only {
                        let value = if r { "on" } else { "off" };
                        self.settings.set("default_transaction_read_only", Some(value), false)?;
                    }
                } else {
                    if self.block == Block::Single {
                        self.warn("25P01", "SET TRANSACTION can only be used in transaction blocks");
                    }
                    self.set_modes(*modes)?;
                }
                Ok(done("SET"))
            }
            Statement::SetConstraints { deferred } => {
                if self.block == Block::Single {
                    self.warn("25P01", "SET CONSTRAINTS can only be used in transaction blocks");
                }
                self.tx().constraints = Some(*deferred);
                if !deferred {
                    self.run_deferred().await?;
                }
                Ok(done("SET CONSTRAINTS"))
            }
            Statement::ResetAll => {
                self.settings.reset_all();
                Ok(done("RESET"))
            }
            Statement::Show(name) => {
                let missing = || PgError::error("42704", format!("unrecognized configuration parameter \"{name}\""));
                let value = self.show(name).ok_or_else(missing)?;
                Ok(Outcome { rows: vec![vec![Value::Text(value)]], tag: "SHOW".into() })
            }
            Statement::DiscardAll => self.discard_all(),
            Statement::Deallocate(None) => {
                self.statements.retain(|name, _| name.is_empty());
                Ok(done("DEALLOCATE ALL"))
            }
            Statement::Deallocate(Some(name)) => {
                let missing = || PgError::error("26000", format!("prepared statement \"{name}\" does not exist"));
                self.statements.remove(name).ok_or_else(missing)?;
                Ok(done("DEALLOCATE"))
            }
            other => Err(unknown(format!("{other:?} here"))),
        }
    }

    fn discard_all(&mut self) -> Res<Outcome> {
        if self.block != Block::Single {
            let what = if self.block == Block::Open { "a transaction block" } else { "a pipeline" };
            let e = if self.block == Block::Open {
                format!("DISCARD ALL cannot run inside {what}")
            } else {
                "DISCARD ALL cannot be executed within a pipeline".into()
            };
            return Err(PgError::error("25001", e));
        }
        self.settings.discard();
        self.statements.clear();
        self.portals.clear();
        self.currval.clear();
        let owner = self.owner();
        let advisory = self.look().locks.held_by(owner);
        for (tag, mode) in advisory.into_iter().filter(|(t, _)| matches!(t, Tag::Advisory(_))) {
            self.server().locks.release(owner, tag, mode, super::lock::SESSION);
        }
        Ok(done("DISCARD ALL"))
    }

    async fn lock_tables(&mut self, tables: &[String], mode: LockMode, nowait: bool) -> Res<Outcome> {
        if self.block == Block::Single {
            return Err(PgError::error("25P01", "LOCK TABLE can only be used in transaction blocks"));
        }
        if mode > LockMode::RowExclusive {
            self.check_writable("LOCK TABLE")?;
        }
        for name in tables {
            if nowait {
                let t = find_table(self, name)?;
                if !self.lock(Tag::Relation(t.oid), mode, false).await? {
                    return Err(PgError::error("55P03", format!("could not obtain lock on relation \"{name}\"")));
                }
            } else {
                self.locked_table(name, mode).await?;
            }
        }
        Ok(done("LOCK TABLE"))
    }
}
