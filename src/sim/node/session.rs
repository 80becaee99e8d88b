//! A backend's own side: its transaction, how it waits, its snapshots and ids.
//!
//! A backend is written as PostgreSQL's are: straight on, waiting in the middle. Rust's `async` makes a state machine
//! of that. There is no executor and no waker: [`super::Node::step`] polls one backend once, and each wait leaves word
//! in [`BackendState::wait`] of what it is for.

use std::cell::{Ref, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::task::Poll;

use super::constraint::Event;
use super::lock::Tag;
use super::portal::{Portal, PreparedStatement};
use super::server::{BackendState, Server, Shared, Wait};
use super::settings::Settings;
use super::sql::{Isolation, Modes, Strength};
use super::table::Oid;
use super::trigger::Audit;
use super::txn::{Fate, Snapshot, Xid};
use super::value::Res;
use crate::wire::{PgError, Severity};

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
#[derive(Default, Debug)]
pub struct Tx {
    /// The first is the transaction itself.
    pub levels: Vec<Level>,
    pub isolation: Isolation,
    pub read_only: bool,
    /// now(): the node's clock at its first command.
    pub started_us: i64,
    /// REPEATABLE READ's only one.
    pub snapshot: Option<Snapshot>,
    /// A snapshot has been taken: the isolation level is fixed.
    began: bool,
    pub command: u32,
    /// Checks that wait for COMMIT.
    pub deferred: Vec<Event>,
    /// SET CONSTRAINTS ALL: deferred or not.
    pub constraints: Option<bool>,
    /// SERIALIZABLE: the tables that it has looked for rows in, and those that it has changed.
    pub looked: BTreeSet<Oid>,
    pub changed: BTreeSet<Oid>,
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
    /// Checks that this statement has made necessary.
    pub events: Vec<Event>,
    /// Row changes that its triggers are to be told of.
    pub audits: Vec<Audit>,
}

impl Session {
    /// A backend that has just been started.
    pub fn new(server: Shared, id: u32) -> Session {
        Session {
            server,
            id,
            settings: Settings::default(),
            tx: None,
            block: Block::None,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            events: Vec::new(),
            audits: Vec::new(),
        }
    }

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

    /// Queues a message.
    pub fn send(&self, bytes: &[u8]) {
        self.me().send(bytes);
    }

    /// An error or a notice. As every message of elog.c it is flushed at once, with what stands before it.
    pub fn send_error(&self, e: &PgError) {
        let mut me = self.me();
        me.send(&e.encode());
        me.flush();
    }

    /// A WARNING.
    pub fn warn(&self, sqlstate: &'static str, message: &str) {
        self.send_error(&PgError { severity: Severity::Warning, ..PgError::error(sqlstate, message) });
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

    /// Takes a lock, waiting for it if need be.
    pub async fn lock(&self, tag: Tag, mode: Strength) -> Res<()> {
        if self.server().locks.ask(self.id, tag, mode) {
            return Ok(());
        }
        let timeout = self.settings.deadlock_timeout_us().unwrap_or(self.look().config.deadlock_timeout_us);
        let mut check_at = Some(self.look().now_us + timeout);
        loop {
            self.pause(Wait::Lock { check_at }).await;
            if self.look().locks.waits_for(self.id).is_none() {
                return Ok(());
            }
            let mut outcome = self.interrupts();
            let due = check_at.is_some_and(|t| self.look().now_us >= t);
            if outcome.is_ok() && due {
                check_at = None;
                if self.server().locks.deadlocked(self.id) {
                    outcome = Err(PgError::error("40P01", "deadlock detected"));
                }
            }
            if let Err(e) = outcome {
                self.server().locks.cancel(self.id);
                return Err(e);
            }
        }
    }

    /// Gives a lock back.
    pub fn unlock(&self, tag: Tag) {
        self.server().locks.release(self.id, |t| t == tag);
    }

    /// Waits for the end of a transaction, or until its subtransaction has been rolled back (XactLockTableWait).
    pub async fn wait_for(&self, mut xid: Xid) -> Res<()> {
        loop {
            self.lock(Tag::Xid(xid), Strength::Share).await?;
            self.unlock(Tag::Xid(xid));
            let s = self.look();
            let top = s.txns.top(xid);
            if s.txns.fate(xid) != Fate::InProgress || top == xid {
                return Ok(());
            }
            xid = top;
        }
    }

    /// The transaction that is open. Callers run inside one.
    pub fn tx(&mut self) -> &mut Tx {
        self.tx.as_mut().expect("statements run inside a transaction")
    }

    /// Begins a transaction if there is none (start_xact_command in postgres.c).
    pub fn start(&mut self) {
        if self.tx.is_some() {
            return;
        }
        let isolation = [Isolation::RepeatableRead, Isolation::ReadCommitted]
            .into_iter()
            .find(|i| self.settings.is("default_transaction_isolation", i.text()));
        let mut tx = Tx {
            isolation: isolation.unwrap_or_default(),
            read_only: self.settings.is("default_transaction_read_only", "on"),
            started_us: self.look().clock(),
            ..Tx::default()
        };
        tx.push_level("", self.settings.clone());
        self.tx = Some(tx);
        self.block = Block::Single;
    }

    /// Puts modes in force (BEGIN, SET TRANSACTION).
    pub fn set_modes(&mut self, modes: Modes) -> Res<()> {
        let tx = self.tx();
        let refuse = |e: &str| Err(PgError::error("25001", e));
        if let Some(i) = modes.isolation.filter(|i| *i != tx.isolation) {
            if tx.began {
                return refuse("SET TRANSACTION ISOLATION LEVEL must be called before any query");
            }
            if tx.levels.len() > 1 {
                return refuse("SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction");
            }
            tx.isolation = i;
        }
        if let Some(read_only) = modes.read_only {
            if !read_only && tx.read_only && tx.began {
                return refuse("transaction read-write mode must be set before any query");
            }
            tx.read_only = read_only;
        }
        Ok(())
    }

    /// REPEATABLE READ, SERIALIZABLE.
    pub fn one_snapshot(&self) -> bool {
        self.tx.as_ref().is_some_and(|t| t.isolation != Isolation::ReadCommitted)
    }

    /// What a statement that begins now sees (GetTransactionSnapshot in snapmgr.c).
    pub fn snapshot(&mut self) -> Snapshot {
        let fresh = self.latest_snapshot();
        let single = self.one_snapshot();
        let tx = self.tx();
        tx.began = true;
        let goes_on = single && tx.snapshot.is_some();
        let snapshot = if single { tx.snapshot.get_or_insert(fresh).at(tx.command) } else { fresh };
        let mut me = self.me();
        me.xmin = Some(me.xmin.unwrap_or(snapshot.xmin).min(snapshot.xmin));
        me.snapshots += u64::from(!goes_on);
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
        let (id, server) = (self.id, self.server.clone());
        let s = &mut *server.borrow_mut();
        let mut parent = None;
        for level in &mut self.tx().levels {
            let xid = *level.xid.get_or_insert_with(|| {
                let x = s.txns.assign(parent);
                // Nobody else knows the id yet, so the lock is free.
                s.locks.ask(id, Tag::Xid(x), Strength::Update);
                x
            });
            parent = Some(xid);
        }
        let top = self.top_xid();
        if let Some(b) = s.backends.get_mut(&self.id) {
            b.xid = top;
        }
        parent.unwrap_or_default() // a transaction has at least one level
    }
}

impl Tx {
    /// Another level, of the state that there is.
    pub fn push_level(&mut self, name: &str, settings: Settings) {
        let (deferred, constraints, read_only) = (self.deferred.len(), self.constraints, self.read_only);
        self.levels.push(Level { name: name.to_owned(), xid: None, settings, deferred, constraints, read_only });
    }
}
