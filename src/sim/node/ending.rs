//! How transactions end: savepoints taken back, errors, ROLLBACK, and COMMIT in its two steps (xact.c).

use super::server::Wait;
use super::session::{Block, Level, Session};
use super::txn::Fate;
use super::value::Res;
use crate::wire::PgError;

impl Session {
    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &str) {
        let settings = self.settings.clone();
        let tx = self.tx();
        tx.command += 1;
        let level = Level {
            name: name.to_owned(),
            xid: None,
            settings,
            deferred: tx.deferred.len(),
            constraints: tx.constraints,
            read_only: tx.read_only,
        };
        tx.levels.push(level);
    }

    /// The depth at which a savepoint of this name stands.
    pub fn find_savepoint(&self, name: &str) -> Res<usize> {
        let levels = self.tx.as_ref().map_or(&[] as &[Level], |t| &t.levels);
        let at = levels.iter().skip(1).rposition(|l| l.name == name);
        at.map(|i| i + 1).ok_or_else(|| PgError::error("3B001", format!("savepoint \"{name}\" does not exist")))
    }

    /// RELEASE SAVEPOINT: everything from this level on becomes part of the one below.
    pub fn release_savepoint(&mut self, at: usize) {
        let owner = self.owner();
        while self.tx().levels.len() > at {
            let depth = self.tx().levels.len();
            self.tx().levels.pop();
            self.server().locks.merge(owner, depth);
        }
        self.tx().command += 1;
    }

    /// Undoes everything from this level on, the level included; its locks are free at once.
    fn undo_levels(&mut self, at: usize) {
        let mut oldest = None;
        while self.tx().levels.len() > at {
            oldest = self.tx().levels.pop();
        }
        let Some(level) = oldest else { return };
        self.settings.roll_back(level.settings.clone());
        let tx = self.tx();
        tx.deferred.truncate(level.deferred);
        tx.constraints = level.constraints;
        tx.read_only = level.read_only;
        tx.command += 1;
        let owner = self.owner();
        let mut s = self.server();
        let s = &mut *s;
        if let Some(xid) = level.xid {
            s.txns.abort_below(xid);
            s.catalogue.undo(|x| s.txns.fate(x) == Fate::Aborted);
        }
        s.locks.release_from(owner, at + 1);
    }

    /// ROLLBACK TO: the savepoint stays, empty.
    pub fn rollback_to(&mut self, at: usize) {
        let name = self.tx().levels[at].name.clone();
        self.undo_levels(at);
        self.savepoint(&name);
        self.block = Block::Open;
    }

    /// An error: what the failed (sub)transaction has done and locked goes at once (AbortCurrentTransaction).
    pub fn fail(&mut self) {
        self.events.clear();
        self.sleep_us = 0;
        self.portals.clear();
        match self.block {
            Block::None => {}
            Block::Single | Block::Implicit => self.abort(),
            Block::Failed => {}
            Block::Open => {
                self.block = Block::Failed;
                let depth = self.tx().levels.len();
                if depth > 1 {
                    // The level stays, as a name to roll back to; it just has nothing any more.
                    let name = self.tx().levels[depth - 1].name.clone();
                    self.undo_levels(depth - 1);
                    self.savepoint(&name);
                } else {
                    self.abort_top();
                }
            }
        }
    }

    fn abort_top(&mut self) {
        let owner = self.owner();
        let xid = self.top_xid();
        if let Some(tx) = &mut self.tx {
            self.settings.roll_back(tx.levels[0].settings.clone());
            tx.levels[0].xid = None;
            tx.deferred.clear();
        }
        let mut s = self.server();
        let s = &mut *s;
        if let Some(xid) = xid {
            s.txns.end(xid, Fate::Aborted);
            s.catalogue.undo(|x| s.txns.fate(x) == Fate::Aborted);
            s.drop_unused_heaps();
        }
        s.locks.release_from(owner, 1);
        if let Some(b) = s.backends.get_mut(&self.id) {
            b.xid = None;
            b.xmin = None;
        }
    }

    /// ROLLBACK of everything.
    pub fn abort(&mut self) {
        if self.tx.is_some() {
            // Levels above the first have parts in the first one's id, and end with it.
            self.abort_top();
            self.tx = None;
        }
        self.portals.clear();
        self.block = Block::None;
    }

    /// COMMIT. An error leaves the transaction as it is, for [`Session::fail`] to undo.
    pub async fn commit(&mut self) -> Res<()> {
        if self.tx.is_none() {
            return Ok(());
        }
        self.run_deferred().await?;
        self.interrupts()?;
        // From here on nothing interrupts (HOLD_INTERRUPTS in CommitTransaction).
        if let Some(xid) = self.top_xid() {
            let synchronous = self.settings.get("synchronous_commit").as_deref() != Some("off");
            let lsn = self.server().txns.write_commit(xid);
            if synchronous {
                self.make_durable(lsn).await;
                self.wait_visible().await;
            } else {
                let mut s = self.server();
                let at = s.now_us + s.config.log_writer_us;
                s.flush_at.get_or_insert(at);
            }
            let mut s = self.server();
            let s = &mut *s;
            s.txns.end(xid, Fate::Committed);
            s.catalogue.committed(xid, &s.txns);
            s.drop_unused_heaps();
        }
        self.settings.end_transaction();
        self.end();
        Ok(())
    }

    /// Waits until the log is flushed up to here.
    pub async fn make_durable(&self, lsn: super::txn::Lsn) {
        let until = self.look().now_us + self.look().config.flush_us;
        self.pause(Wait::Flush { until }).await;
        self.server().txns.flush(lsn);
    }

    /// Waits for the step that makes a durable commit visible.
    pub async fn wait_visible(&self) {
        let until = self.look().now_us + self.look().config.visible_us;
        self.pause(Wait::Visible { until }).await;
    }

    /// The transaction is over: its locks are free.
    pub fn end(&mut self) {
        self.tx = None;
        self.block = Block::None;
        self.portals.clear();
        let owner = self.owner();
        let mut s = self.server();
        s.locks.release_from(owner, 1);
        if let Some(b) = s.backends.get_mut(&self.id) {
            b.xid = None;
            b.xmin = None;
        }
    }
}
