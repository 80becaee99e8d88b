//! Statements that control transactions, and how transactions end: savepoints taken back, errors, ROLLBACK, and COMMIT
//! in its two steps (src/backend/access/transam/xact.c).

use super::lock::Tag;
use super::server::Wait;
use super::session::{Block, Session};
use super::sql::Statement;
use super::txn::{Fate, Lsn};
use super::value::{Res, unknown};
use crate::wire::PgError;

impl Session {
    /// Runs a statement that controls transactions; returns its tag.
    pub async fn transaction(&mut self, statement: &Statement) -> Res<&'static str> {
        match statement {
            Statement::Begin(modes, tag) => {
                match self.block {
                    Block::Open => self.warn("25001", "there is already a transaction in progress"),
                    _ => self.block = Block::Open,
                }
                self.set_modes(*modes)?;
                Ok(tag)
            }
            Statement::PrepareTransaction(gid) => self.prepare(gid).await,
            Statement::FinishPrepared { gid, commit } => self.finish_prepared(gid, *commit).await,
            Statement::Commit => self.end_block(true).await,
            Statement::Rollback => self.end_block(false).await,
            Statement::Savepoint(name) => {
                self.require_open("SAVEPOINT")?;
                self.savepoint(name);
                Ok("SAVEPOINT")
            }
            Statement::Release(name) => {
                self.require_open("RELEASE SAVEPOINT")?;
                let at = self.find_savepoint(name)?;
                // What it has done belongs to the level below from here on: ids know their parents.
                self.tx().levels.truncate(at);
                self.tx().command += 1;
                Ok("RELEASE")
            }
            Statement::RollbackTo(name) => {
                if self.block != Block::Failed {
                    self.require_open("ROLLBACK TO SAVEPOINT")?;
                }
                let at = self.find_savepoint(name)?;
                self.undo_to(at);
                self.block = Block::Open;
                Ok("ROLLBACK")
            }
            other => Err(unknown(format!("{other:?} as a transaction statement"))),
        }
    }

    fn require_open(&self, what: &str) -> Res<()> {
        let e = || PgError::error("25P01", format!("{what} can only be used in transaction blocks"));
        if self.block == Block::Open { Ok(()) } else { Err(e()) }
    }

    /// COMMIT and ROLLBACK.
    async fn end_block(&mut self, commit: bool) -> Res<&'static str> {
        let failed = self.block == Block::Failed;
        if self.block != Block::Open && !failed {
            self.warn("25P01", "there is no transaction in progress");
        }
        if !commit || failed {
            self.abort();
            return Ok("ROLLBACK");
        }
        // An error from here on ends the transaction: it does not fail a block (TBLOCK_END).
        self.block = Block::Single;
        self.commit().await?;
        Ok("COMMIT")
    }

    fn savepoint(&mut self, name: &str) {
        let settings = self.settings.clone();
        self.tx().command += 1;
        self.tx().push_level(name, settings);
    }

    /// The depth at which a savepoint of this name stands.
    fn find_savepoint(&mut self, name: &str) -> Res<usize> {
        let at = self.tx().levels.iter().skip(1).rposition(|l| l.name == name);
        at.map(|i| i + 1).ok_or_else(|| PgError::error("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    /// Undoes everything from this level on; its locks are free at once. The level stays, empty.
    fn undo_to(&mut self, at: usize) {
        let mut undone = self.tx().levels.split_off(at);
        let level = undone.swap_remove(0);
        self.settings = level.settings;
        let tx = self.tx();
        tx.deferred.truncate(level.deferred);
        tx.constraints = level.constraints;
        tx.read_only = level.read_only;
        let gone = level.xid.map_or(Vec::new(), |xid| self.server().txns.end(xid, Fate::Aborted));
        self.server().locks.release(self.id, |t| match t {
            // A statement that has failed may have stood in a queue.
            Tag::Tuple(..) => true,
            Tag::Xid(x) => gone.contains(&x),
        });
        self.savepoint(&level.name);
    }

    /// An error: what the failed (sub)transaction has done and locked goes at once (AbortCurrentTransaction).
    pub fn fail(&mut self) {
        self.events.clear();
        self.audits.clear();
        self.portals.clear();
        match self.block {
            Block::None | Block::Failed => {}
            Block::Single | Block::Implicit => self.abort(),
            Block::Open => {
                self.block = Block::Failed;
                match self.tx().levels.len() {
                    1 => {
                        self.undo_all();
                        self.tx().levels[0].xid = None;
                        self.tx().deferred.clear();
                    }
                    depth => self.undo_to(depth - 1),
                }
            }
        }
    }

    /// Everything that the transaction has done is undone. Savepoints have parts in its id, and end with it.
    fn undo_all(&mut self) {
        let Some(tx) = &self.tx else { return };
        self.settings = tx.levels[0].settings.clone();
        if let Some(xid) = self.top_xid() {
            let s = &mut *self.server();
            s.txns.end(xid, Fate::Aborted);
            s.log.forget(xid);
        }
        self.leave();
    }

    /// Nobody waits for the transaction any more.
    pub fn leave(&self) {
        self.server().locks.release(self.id, |_| true);
        let mut me = self.me();
        (me.xid, me.xmin) = (None, None);
    }

    /// ROLLBACK of everything.
    pub fn abort(&mut self) {
        self.undo_all();
        self.forget();
    }

    pub fn forget(&mut self) {
        self.tx = None;
        self.block = Block::None;
        self.portals.clear();
    }

    /// COMMIT. An error leaves the transaction as it is, for [`Session::fail`] to undo.
    pub async fn commit(&mut self) -> Res<()> {
        if self.tx.is_none() {
            return Ok(());
        }
        self.run_deferred().await?;
        self.interrupts()?;
        self.judge()?;
        // From here on nothing interrupts (HOLD_INTERRUPTS in CommitTransaction).
        if let Some(xid) = self.top_xid() {
            let lsn = self.server().txns.write_commit(xid);
            if self.settings.is("synchronous_commit", "off") {
                let s = &mut *self.server();
                s.flush_at.get_or_insert(s.now_us + s.config.log_writer_us);
            } else {
                self.make_durable(lsn).await;
                let until = self.look().now_us + self.look().config.visible_us;
                self.pause(Wait::Visible { until }).await;
            }
            let s = &mut *self.server();
            s.tell(xid, &format!("COMMIT {xid}"));
            s.txns.end(xid, Fate::Committed);
        }
        self.settings.end_transaction();
        self.leave();
        self.forget();
        Ok(())
    }

    /// Waits until the log is flushed up to here.
    pub async fn make_durable(&self, lsn: Lsn) {
        let until = self.look().now_us + self.look().config.flush_us;
        self.pause(Wait::Flush { until }).await;
        self.server().txns.flush(lsn);
    }
}
