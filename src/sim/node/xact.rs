//! Statements that control transactions (src/backend/access/transam/xact.c and twophase.c).

use super::lock::Owner;
use super::server::PreparedTransaction;
use super::session::{Block, Session};
use super::sql::{Modes, Statement};
use super::txn::Fate;
use super::value::{Res, unknown};
use crate::wire::PgError;

fn only_in_block(what: &str) -> PgError {
    PgError::error("25P01", format!("{what} can only be used in transaction blocks"))
}

impl Session {
    /// Runs one; returns its tag.
    pub async fn transaction(&mut self, statement: &Statement) -> Res<&'static str> {
        match statement {
            Statement::Begin { modes, start } => {
                match self.block {
                    Block::Open => self.warn("25001", "there is already a transaction in progress"),
                    _ => self.block = Block::Open,
                }
                self.set_modes(*modes)?;
                Ok(if *start { "START TRANSACTION" } else { "BEGIN" })
            }
            Statement::Commit { chain } => self.end_block(true, *chain).await,
            Statement::Rollback { chain } => self.end_block(false, *chain).await,
            Statement::Savepoint(name) => {
                self.require_open("SAVEPOINT")?;
                self.savepoint(name);
                Ok("SAVEPOINT")
            }
            Statement::Release(name) => {
                self.require_open("RELEASE SAVEPOINT")?;
                let at = self.find_savepoint(name)?;
                self.release_savepoint(at);
                Ok("RELEASE")
            }
            Statement::RollbackTo(name) => {
                if self.block != Block::Failed {
                    self.require_open("ROLLBACK TO SAVEPOINT")?;
                }
                let at = self.find_savepoint(name)?;
                self.rollback_to(at);
                Ok("ROLLBACK")
            }
            Statement::PrepareTransaction(gid) => self.prepare_transaction(gid).await,
            Statement::CommitPrepared(gid) => self.end_prepared(gid, true).await,
            Statement::RollbackPrepared(gid) => self.end_prepared(gid, false).await,
            other => Err(unknown(format!("{other:?} as a transaction statement"))),
        }
    }

    fn require_open(&self, what: &str) -> Res<()> {
        if self.block == Block::Open { Ok(()) } else { Err(only_in_block(what)) }
    }

    /// COMMIT and ROLLBACK.
    async fn end_block(&mut self, commit: bool, chain: bool) -> Res<&'static str> {
        let healthy = match self.block {
            Block::Open => true,
            Block::Failed => false,
            _ if chain => return Err(only_in_block(if commit { "COMMIT AND CHAIN" } else { "ROLLBACK AND CHAIN" })),
            _ => {
                self.warn("25P01", "there is no transaction in progress");
                true
            }
        };
        let modes = {
            let tx = self.tx();
            Modes { isolation: Some(tx.isolation), read_only: Some(tx.read_only) }
        };
        let tag = if commit && healthy {
            // An error from here on ends the transaction: it does not fail a block (TBLOCK_END).
            self.block = Block::Single;
            self.commit().await?;
            "COMMIT"
        } else {
            self.abort();
            "ROLLBACK"
        };
        if chain {
            self.start()?;
            self.block = Block::Open;
            self.set_modes(modes)?;
        }
        Ok(tag)
    }

    async fn prepare_transaction(&mut self, gid: &str) -> Res<&'static str> {
        if self.block != Block::Open {
            if self.block != Block::Failed {
                self.warn("25P01", "there is no transaction in progress");
            }
            self.abort();
            return Ok("ROLLBACK");
        }
        self.block = Block::Single;
        self.run_deferred().await?;
        self.interrupts()?;
        if self.look().prepared.contains_key(gid) {
            return Err(PgError::error("42710", format!("transaction identifier \"{gid}\" is already in use")));
        }
        while self.tx().levels.len() > 1 {
            self.release_savepoint(1);
        }
        let xid = self.xid();
        let lsn = self.server().txns.write_commit(xid);
        self.make_durable(lsn).await;
        let owner = self.owner();
        let mut s = self.server();
        s.prepared.insert(gid.to_owned(), PreparedTransaction { xid, lsn, decided: false, busy: false });
        s.locks.hand_over(owner, Owner::Prepared(xid));
        drop(s);
        self.settings.end_transaction();
        self.end();
        Ok("PREPARE TRANSACTION")
    }

    async fn end_prepared(&mut self, gid: &str, commit: bool) -> Res<&'static str> {
        let tag = if commit { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" };
        if self.block != Block::Single {
            return Err(PgError::error("25001", format!("{tag} cannot run inside a transaction block")));
        }
        let xid = {
            let mut s = self.server();
            let missing =
                || PgError::error("42704", format!("prepared transaction with identifier \"{gid}\" does not exist"));
            let p = s.prepared.get_mut(gid).ok_or_else(missing)?;
            if p.busy {
                let e = format!("prepared transaction with identifier \"{gid}\" is busy");
                return Err(PgError::error("55000", e));
            }
            p.busy = true;
            p.xid
        };
        let lsn = self.server().txns.log_other();
        self.make_durable(lsn).await;
        if commit {
            if let Some(p) = self.server().prepared.get_mut(gid) {
                p.decided = true;
            }
            self.wait_visible().await;
        }
        let mut s = self.server();
        let s = &mut *s;
        s.prepared.remove(gid);
        s.txns.end(xid, if commit { Fate::Committed } else { Fate::Aborted });
        if commit {
            s.catalogue.committed(xid, &s.txns);
        } else {
            s.catalogue.undo(|x| s.txns.fate(x) == Fate::Aborted);
        }
        s.locks.release_from(Owner::Prepared(xid), 1);
        Ok(tag)
    }
}
