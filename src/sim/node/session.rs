//! A backend's own side: its transaction, how it waits, how it commits and rolls back.
//!
//! A backend is written as PostgreSQL's are: straight on, waiting in the middle. Rust's `async` makes a state machine
//! of that. There is no executor and no waker: [`super::Node::step`] polls one backend once, and each wait leaves word
//! in [`BackendState::wait`] of what it is for.

use std::cell::{Ref, RefMut};
use std::collections::BTreeMap;
use std::task::Poll;

use super::constraint::Event;
use super::lock::{Asked, Owner, Tag};
use super::portal::{Portal, PreparedStatement};
use super::server::{BackendState, Server, Shared, Wait};
use super::settings::Settings;
use super::sql::{Isolation, LockMode, Modes, WaitPolicy};
use super::table::Oid;
use super::txn::{Fate, Snapshot, Xid};
use super::value::{Res, unknown};
use crate::wire::{PgError, TxStatus};

/// Where the session stands between transactions and blocks (TransBlockState in xact.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    /// No transaction.
    None,
    /// One statement's own, or a pipeline's up to Sync.
    Single,
    /// That of a string of several statements.
    Implicit,
    /// BEGIN.
    Open,
    /// BEGIN, and then an error.
    Failed,
}

/// The transaction proper, or a savepoint in it.
#[derive(Debug)]
pub struct Level {
    pub name: String,
    pub xid: Option<Xid>,
    /// What of the transaction's state ROLLBACK TO brings back.
    pub settings: Settings,
    pub deferred: usize,
    pub constraints: Option<bool>,
    pub read_only: bool,
}

/// A transaction.
#[derive(Debug)]
pub struct Tx {
    /// The first is the transaction itself.
    pub levels: Vec<Level>,
    pub isolation: Isolation,
    pub read_only: bool,
    /// now(): the node's clock at its first command.
    pub started_us: i64,
    /// REPEATABLE READ's only one.
    snapshot: Option<Snapshot>,
    /// A snapshot has been taken: the isolation level is fixed.
    pub began: bool,
    pub command: u32,
    /// Checks that wait for COMMIT.
    pub deferred: Vec<Event>,
    /// SET CONSTRAINTS ALL: deferred or not.
    pub constraints: Option<bool>,
}

/// A backend.
pub struct Session {
    pub server: Shared,
    pub id: u32,
    pub settings: Settings,
    pub tx: Option<Tx>,
    pub block: Block,
    pub statements: BTreeMap<String, PreparedStatement>,
    pub portals: BTreeMap<String, Portal>,
    pub currval: BTreeMap<Oid, i64>,
    /// pg_sleep() was called: for so long.
    pub sleep_us: i64,
    /// Checks that this statement has made necessary.
    pub events: Vec<Event>,
}

impl Session {
    /// The server, to look at. Never kept over an await.
    pub fn look(&self) -> Ref<'_, Server> {
        self.server.borrow()
    }

    /// The server, to change. Never kept over an await.
    pub fn server(&self) -> RefMut<'_, Server> {
        self.server.borrow_mut()
    }

    /// Its own entry among the backends. The entry lives as long as the task does: a crash drops both.
    pub fn me(&self) -> RefMut<'_, BackendState> {
        RefMut::map(self.server.borrow_mut(), |s| {
            s.backends.get_mut(&self.id).expect("a running backend has its entry")
        })
    }

    /// As whom it locks.
    pub fn owner(&self) -> Owner {
        Owner::Backend(self.id)
    }

    /// Waits until it is polled again.
    pub async fn pause(&self, wait: Wait) {
        let mut polled = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            self.me().wait = wait;
            Poll::Pending
        })
        .await;
    }

    /// CHECK_FOR_INTERRUPTS: has it been terminated or cancelled, or has sending failed?
    pub fn interrupts(&self) -> Res<()> {
        let mut me = self.me();
        if me.terminate {
            return Err(PgError::fatal("57P01", "terminating connection due to administrator command"));
        }
        if me.lost {
            return Err(PgError::fatal("08006", "connection to client lost"));
        }
        if std::mem::take(&mut me.cancel) {
            return Err(PgError::error("57014", "canceling statement due to user request"));
        }
        Ok(())
    }

    /// Depth of the current (sub)transaction, for its locks.
    pub fn depth(&self) -> usize {
        self.tx.as_ref().map_or(1, |t| t.levels.len())
    }

    /// Takes a lock at the current depth, waiting for it if need be. False: it would have had to wait.
    pub async fn lock(&self, tag: Tag, mode: LockMode, wait: bool) -> Res<bool> {
        let asked = self.server().locks.ask(self.owner(), tag, mode, self.depth(), wait);
        let since = self.look().now_us;
        match asked {
            Asked::Granted => return Ok(true),
            Asked::Refused => return Ok(false),
            Asked::Deadlock => return Err(PgError::error("40P01", "deadlock detected")),
            Asked::Queued => {}
        }
        let after = |name: &str| self.settings.milliseconds(name).filter(|ms| *ms > 0).map(|ms| since + ms * 1000);
        let mut check_at = after("deadlock_timeout");
        let give_up_at = after("lock_timeout");
        loop {
            self.pause(Wait::Lock { check_at, give_up_at }).await;
            if !self.look().locks.is_waiting(self.owner()) {
                return Ok(true);
            }
            let now = self.look().now_us;
            let mut outcome = self.interrupts();
            if outcome.is_ok() && give_up_at.is_some_and(|t| now >= t) {
                outcome = Err(PgError::error("55P03", "canceling statement due to lock timeout"));
            }
            if outcome.is_ok() && check_at.is_some_and(|t| now >= t) {
                check_at = None;
                if self.server().locks.deadlocked(self.owner()) {
                    outcome = Err(PgError::error("40P01", "deadlock detected"));
                }
            }
            if let Err(e) = outcome {
                self.server().locks.cancel(self.owner());
                return Err(e);
            }
        }
    }

    /// Waits for the end of a transaction, or until its subtransaction has been rolled back (XactLockTableWait).
    pub async fn wait_for(&self, xid: Xid, policy: WaitPolicy) -> Res<bool> {
        let mut xid = xid;
        loop {
            let tag = Tag::Xid(xid);
            if !self.lock(tag, LockMode::Share, policy == WaitPolicy::Block).await? {
                return Ok(false);
            }
            let depth = self.depth();
            self.server().locks.release(self.owner(), tag, LockMode::Share, depth);
            let s = self.look();
            let top = s.txns.top(xid);
            if s.txns.fate(xid) != Fate::InProgress || top == xid {
                return Ok(true);
            }
            xid = top;
        }
    }

    /// The transaction that is open. Callers run inside one.
    pub fn tx(&mut self) -> &mut Tx {
        self.tx.as_mut().expect("statements run inside a transaction")
    }

    /// Begins a transaction if there is none (start_xact_command in postgres.c).
    pub fn start(&mut self) -> Res<()> {
        if self.tx.is_some() {
            return Ok(());
        }
        let isolation = self.settings.get("default_transaction_isolation");
        let isolation = isolation.as_deref().and_then(Isolation::parse).unwrap_or_default();
        let read_only = self.settings.get("default_transaction_read_only").as_deref() == Some("on");
        let level = Level {
            name: String::new(),
            xid: None,
            settings: self.settings.clone(),
            deferred: 0,
            constraints: None,
            read_only,
        };
        let started_us = self.look().clock();
        self.tx = Some(Tx {
            levels: vec![level],
            isolation,
            read_only,
            started_us,
            snapshot: None,
            began: false,
            command: 0,
            deferred: Vec::new(),
            constraints: None,
        });
        self.block = Block::Single;
        if isolation == Isolation::Serializable {
            return Err(unknown("SERIALIZABLE"));
        }
        Ok(())
    }

    /// Puts modes in force (BEGIN, SET TRANSACTION).
    pub fn set_modes(&mut self, modes: Modes) -> Res<()> {
        let tx = self.tx();
        if let Some(i) = modes.isolation {
            if tx.began && i != tx.isolation {
                let e = "SET TRANSACTION ISOLATION LEVEL must be called before any query";
                return Err(PgError::error("25001", e));
            }
            if tx.levels.len() > 1 && i != tx.isolation {
                let e = "SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction";
                return Err(PgError::error("25001", e));
            }
            if i == Isolation::Serializable {
                return Err(unknown("SERIALIZABLE"));
            }
            tx.isolation = i;
        }
        if let Some(read_only) = modes.read_only {
            if !read_only && tx.read_only && tx.began {
                return Err(PgError::error("25001", "transaction read-write mode must be set before any query"));
            }
            tx.read_only = read_only;
        }
        Ok(())
    }

    /// REPEATABLE READ.
    pub fn one_snapshot(&self) -> bool {
        self.tx.as_ref().is_some_and(|t| t.isolation == Isolation::RepeatableRead)
    }

    /// What a statement that begins now sees (GetTransactionSnapshot in snapmgr.c).
    pub fn snapshot(&mut self) -> Snapshot {
        let single = self.one_snapshot();
        let command = self.tx().command;
        let fresh = self.look().txns.snapshot(command);
        let tx = self.tx();
        tx.began = true;
        let snapshot = if single {
            let mut s = tx.snapshot.get_or_insert(fresh).clone();
            s.command = command;
            s
        } else {
            fresh
        };
        let mut me = self.me();
        me.xmin = Some(me.xmin.unwrap_or(snapshot.xmin).min(snapshot.xmin));
        drop(me);
        snapshot
    }

    /// The newest state, whatever the isolation level (GetLatestSnapshot): for checks that must not miss a row.
    pub fn latest_snapshot(&mut self) -> Snapshot {
        let command = self.tx().command;
        self.look().txns.snapshot(command)
    }

    /// The transaction's own id, if it has one.
    pub fn top_xid(&self) -> Option<Xid> {
        self.tx.as_ref().and_then(|t| t.levels[0].xid)
    }

    /// The current (sub)transaction's id; gives it one, and its parents before it (AssignTransactionId in xact.c).
    pub fn xid(&mut self) -> Xid {
        let owner = self.owner();
        let server = self.server.clone();
        let mut s = server.borrow_mut();
        let mut parent = None;
        for (i, level) in self.tx().levels.iter_mut().enumerate() {
            let xid = match level.xid {
                Some(x) => x,
                None => {
                    let x = s.txns.assign(parent);
                    // Nobody else knows the id yet, so the lock is free.
                    s.locks.ask(owner, Tag::Xid(x), LockMode::Exclusive, i + 1, false);
                    level.xid = Some(x);
                    x
                }
            };
            parent = Some(xid);
        }
        let top = self.top_xid();
        if let Some(b) = s.backends.get_mut(&self.id) {
            b.xid = top;
        }
        parent.unwrap_or_default() // a transaction has at least one level
    }

    /// The status for ReadyForQuery.
    pub fn status(&self) -> TxStatus {
        match self.block {
            Block::None | Block::Single | Block::Implicit => TxStatus::Idle,
            Block::Open => TxStatus::InBlock,
            Block::Failed => TxStatus::Failed,
        }
    }
}
