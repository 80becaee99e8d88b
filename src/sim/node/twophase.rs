//! Transactions that are prepared: PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED (twophase.c, and
//! PrepareTransaction in xact.c).
//!
//! What a prepared transaction has done and locked stays, whatever becomes of its backend; its record is on disk before
//! PREPARE is answered, and recovery brings back those whose record is.

use super::Node;
use super::lock::{Owner, Tag};
use super::server::{Server, Wait};
use super::session::{Block, Session};
use super::sql::Strength;
use super::txn::{Fate, Lsn, Xid};
use super::value::{Res, unknown};
use crate::wire::PgError;

/// Locks of prepared transactions have owners from here on: backends' numbers are smaller.
const FIRST_OWNER: Owner = 1 << 31;

/// A prepared transaction.
#[derive(Debug)]
pub struct Prepared {
    pub xid: Xid,
    owner: Owner,
    /// Where its record is.
    at: Lsn,
    /// Some backend prepares or finishes it (LockGXact).
    busy: bool,
    /// Where the record of its end is, if that is written.
    ends_at: Option<Lsn>,
}

/// What became of the attempt to finish a prepared transaction from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finished {
    /// There is none of this name.
    Nothing,
    /// Somebody else is about to finish it.
    Busy,
    /// It is.
    Done,
}

fn missing(gid: &str) -> PgError {
    PgError::error("42704", format!("prepared transaction with identifier \"{gid}\" does not exist"))
}

impl Session {
    /// PREPARE TRANSACTION.
    pub async fn prepare(&mut self, gid: &str) -> Res<&'static str> {
        match self.block {
            Block::Failed => {
                self.abort();
                return Ok("ROLLBACK");
            }
            Block::Open => {}
            Block::Implicit => return Err(unknown("PREPARE TRANSACTION behind other statements without BEGIN")),
            Block::None | Block::Single => {
                self.warn("25P01", "there is no transaction in progress");
                return Ok("ROLLBACK");
            }
        }
        // An error from here on ends the transaction: it does not fail a block (TBLOCK_PREPARE).
        self.block = Block::Single;
        self.run_deferred().await?;
        self.interrupts()?;
        if !self.look().config.logical {
            let e = PgError::error("55000", "prepared transactions are disabled");
            return Err(e.hint("Set max_prepared_transactions to a nonzero value."));
        }
        if self.look().prepared.contains_key(gid) {
            let e = format!("transaction identifier \"{gid}\" is already in use");
            return Err(PgError::error("42710", e));
        }
        self.judge()?;
        // Savepoints end with it: ids know their parents.
        self.tx().levels.truncate(1);
        let xid = self.xid();
        let at = {
            let s = &mut *self.server();
            s.owners += 1;
            let (owner, at) = (FIRST_OWNER + s.owners, s.txns.write_prepare(xid));
            s.prepared.insert(gid.to_owned(), Prepared { xid, owner, at, busy: true, ends_at: None });
            at
        };
        self.make_durable(at).await;
        {
            let s = &mut *self.server();
            s.tell(xid, &format!("PREPARE TRANSACTION {}, txid {xid}", crate::wire::literal(gid)));
            if let Some(p) = s.prepared.get_mut(gid) {
                p.busy = false;
                s.locks.transfer(self.id, p.owner);
            }
        }
        self.settings.end_transaction();
        self.leave();
        self.forget();
        Ok("PREPARE TRANSACTION")
    }

    /// COMMIT PREPARED, ROLLBACK PREPARED.
    pub async fn finish_prepared(&mut self, gid: &str, commit: bool) -> Res<&'static str> {
        let what = if commit { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" };
        if self.block != Block::Single {
            return Err(PgError::error("25001", format!("{what} cannot run inside a transaction block")));
        }
        let at = {
            let s = &mut *self.server();
            let p = s.prepared.get_mut(gid).ok_or_else(|| missing(gid))?;
            if p.busy {
                let e = format!("prepared transaction with identifier \"{gid}\" is busy");
                return Err(PgError::error("55000", e));
            }
            p.busy = true;
            let at = if commit { s.txns.write_commit(p.xid) } else { s.txns.log_other() };
            p.ends_at = Some(at);
            at
        };
        self.make_durable(at).await;
        if commit {
            let until = self.look().now_us + self.look().config.visible_us;
            self.pause(Wait::Visible { until }).await;
        }
        self.server().end_prepared(gid, commit);
        Ok(what)
    }
}

impl Server {
    /// The transaction is over, durably.
    fn end_prepared(&mut self, gid: &str, commit: bool) {
        let Some(p) = self.prepared.remove(gid) else { return };
        let (how, fate) = if commit { ("COMMIT", Fate::Committed) } else { ("ROLLBACK", Fate::Aborted) };
        self.tell_end(p.xid, &format!("{how} PREPARED {}, txid {}", crate::wire::literal(gid), p.xid));
        if !commit {
            self.judged.forget(p.xid);
        }
        self.txns.end(p.xid, fate);
        self.locks.release(p.owner, |_| true);
    }

    /// A crash: what was not on disk was never prepared, and whose end is on disk is so no longer.
    pub fn keep_prepared(&mut self, flushed: Lsn) {
        self.prepared.retain(|_, p| p.at <= flushed && p.ends_at.is_none_or(|at| at > flushed));
        for p in self.prepared.values_mut() {
            (p.busy, p.ends_at) = (false, None);
        }
    }

    /// Recovery: who is prepared holds its ids (lock_twophase_recover).
    pub fn lock_prepared(&mut self) {
        for xid in self.txns.running().clone() {
            let top = self.txns.top(xid);
            if let Some(p) = self.prepared.values().find(|p| p.xid == top) {
                self.locks.ask(p.owner, Tag::Xid(xid), Strength::Update);
            }
        }
    }
}

impl Node {
    /// Names of prepared transactions (pg_prepared_xacts).
    #[must_use]
    pub fn prepared(&self) -> Vec<String> {
        self.server.borrow().prepared.keys().cloned().collect()
    }

    /// How many were prepared so far.
    #[must_use]
    pub fn prepares(&self) -> u64 {
        u64::from(self.server.borrow().owners)
    }

    /// COMMIT PREPARED or ROLLBACK PREPARED, from outside and at once.
    pub fn finish_prepared(&mut self, gid: &str, commit: bool) -> Finished {
        let s = &mut *self.server.borrow_mut();
        let Some(p) = s.prepared.get(gid) else { return Finished::Nothing };
        if p.busy {
            return Finished::Busy;
        }
        let at = if commit { s.txns.write_commit(p.xid) } else { s.txns.log_other() };
        s.txns.flush(at);
        s.end_prepared(gid, commit);
        Finished::Done
    }
}
