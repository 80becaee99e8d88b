//! Actions out: what a session asks of whoever drives it, and what it shares with the other sessions of its shard.
//!
//! The shard implements [`Io`] over its driver, the simulator over its own world, unit tests over a recorder.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::applier::Applier;
use super::link::Link;
use super::settings::Settings;
use crate::auth::Role;
use crate::cluster::board::Board;
use crate::cluster::control::Standing;
use crate::cluster::images::Slots;
use crate::cluster::membership::View;
use crate::config::Config;
use crate::image::Refusal;
use crate::image::build::Step;
use crate::script::Spill;
use crate::sequencer::{NodeId, Sequencer};
use crate::shard::driver::{ConnId, Time};
use crate::sql::cache::VerdictCache;
use crate::sql::proof::Catalogue;
use crate::telemetry::Recorder;

/// What a session asks the control plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// The role's secret and rights.
    Role { user: String },
    /// The database's catalogue; the answer lands in [`Env::catalogues`], then the session is told.
    Catalogue { database: String },
    /// Wait until this backend is gone.
    BackendGone { node: NodeId, pid: u32 },
    /// End this backend and wait until it is gone; nobody waits for the answer.
    Terminate { node: NodeId, pid: u32 },
    /// Does this backend make another one wait for a lock?
    Blocks { node: NodeId, pid: u32 },
    /// Why does this backend not answer?
    Probe { node: NodeId, pid: u32 },
    /// Commit (or roll back) what main has prepared under this name.
    Prepared { database: String, gid: String, commit: bool },
    /// End (by ROLLBACK PREPARED, or COMMIT) what this backend of main has prepared, or may still prepare; nobody waits for
    /// the answer.
    Resolve { node: NodeId, pid: u32, database: String, gid: String, commit: bool },
    /// A slot for images of this database is wanted; `moment`: it may not be needed, and is not waited for as long.
    Slot { database: String, moment: bool },
    /// There is to be no slot of these databases any more: they are about to be dropped. Answered as [`Self::Slot`].
    NoSlot { databases: Vec<String> },
    /// What replicas do to have what main has prepared under this name. `version`: of the catalogue.
    Image { database: String, gid: String, xid: u64, version: u64 },
    /// Idle backends in these databases (an empty name: in all) are to be closed, in all shards: one of them is about to
    /// be dropped or copied, or new logins will be unlike old ones.
    Forget { databases: Vec<String> },
    /// What became of this transaction of main.
    Fate { node: NodeId, database: String, xid: u64 },
    /// The node is out: durably, before any client hears of a commit that it lacks.
    Detach { node: NodeId, reason: String },
    /// A connection to the node has broken: it is probed at once. Does it stand?
    Stands { node: NodeId },
}

/// The control plane's answer.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Role`]; `None`: no such role. `Err`: could not be asked.
    Role(Result<Option<Role>, String>),
    /// To [`Question::Catalogue`].
    Catalogue(Result<(), String>),
    /// To [`Question::BackendGone`]; false: it is still there, or the node cannot be reached.
    Gone(bool),
    /// To [`Question::Blocks`].
    Blocks(bool),
    /// To [`Question::Probe`].
    Probe(Probe),
    /// To [`Question::Fate`] and [`Question::Prepared`].
    Fate(Fate),
    /// To [`Question::Detach`]: done, or why not.
    Detached(Result<(), String>),
    /// To [`Question::Slot`]: there is one, or why not.
    Slot(Result<(), String>),
    /// To [`Question::Image`].
    Image(Result<Vec<Step>, Refusal>),
    /// To [`Question::Stands`].
    Stands(Standing),
}

/// What became of a transaction whose COMMIT was not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is not, and will not be.
    Aborted,
    /// Nothing is prepared under its name.
    Nothing,
    /// Nobody can say: main is gone, or has restarted since.
    Unknown,
}

/// Why a backend does not answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// It waits for a lock.
    WaitsForLock,
    /// It is at work.
    Works,
    /// There is no such backend, or it has nothing to do: its answer is lost.
    Gone,
    /// The node does not answer.
    Unreachable(String),
}

/// Which applier serves: node, database and role. Appliers log in as the client's own role, so nothing that a
/// script runs on a replica can reach further than it could on main.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PoolKey {
    /// The replica.
    pub node: NodeId,
    /// The database.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
}

/// Which backend serves a client, and so whom it can serve next.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LaneKey {
    /// The node.
    pub node: NodeId,
    /// The database.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
    /// The client's start-up parameters, which the backend keeps for good.
    pub startup: Arc<[(String, String)]>,
    /// It was opened read-only.
    pub reader: bool,
}

/// Bounds of the pools, as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolLimits {
    /// Backends per key; 0: no bound.
    pub pool_size: usize,
    /// Idle backends of the shard.
    pub max_pool: usize,
    /// Idle backends per key that are kept for good.
    pub min_pool: usize,
    /// How long others are kept; zero: for good.
    pub connection_life_time: Duration,
}

/// What a session that needs a backend gets.
#[derive(Debug)]
pub enum Backend {
    /// One that has served before and has been idle for this long; its events come to this session.
    Idle(Box<Link>, Duration),
    /// A connection that has begun to open.
    Opening(ConnId),
    /// None: it is this session's turn later ([`crate::session::Event::Turn`]), or it was not to wait.
    None,
}

/// What a timer was armed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TimerKind {
    /// authentication_timeout.
    Authentication,
    /// Try again to reach a replica.
    Replica(NodeId),
    /// client_idle_limit.
    Idle,
    /// Do early appliers make anybody wait?
    RightOfWay,
    /// replica_timeout, commit_timeout.
    Commit,
    /// A CancelRequest has had connect_timeout.
    Cancel,
    /// queue_timeout.
    Queue,
    /// A backend that is given back has had long enough to reset itself.
    Reset,
    /// A statement has waited for a commit for `min_csn_timeout`.
    MinCsn,
    /// A snapshot has been waited for inside the gate for `commit_timeout`.
    Cut,
}

/// Actions out.
pub trait Io {
    /// The time of the current event.
    fn now(&self) -> Time;
    /// Queues bytes.
    fn send(&mut self, conn: ConnId, bytes: Bytes);
    /// Bytes queued and not yet taken by the kernel.
    fn queued(&self, conn: ConnId) -> usize;
    /// Bytes queued towards one peer above which the other side is not received from.
    fn queue_high(&self) -> usize;
    /// Stops receiving.
    fn pause(&mut self, conn: ConnId);
    /// Receives again.
    fn resume(&mut self, conn: ConnId);
    /// Closes when everything queued has left.
    fn close(&mut self, conn: ConnId);
    /// Closes at once.
    fn abort(&mut self, conn: ConnId);
    /// Begins to connect to a node; events of the connection come to this session.
    fn connect(&mut self, node: NodeId) -> ConnId;
    /// Sends a CancelRequest on a connection of its own.
    fn cancel(&mut self, node: NodeId, pid: u32, secret: &[u8]);
    /// A client asks for the end of another session's running statement, of whichever shard.
    fn cancel_client(&mut self, pid: u32, secret: u32);
    /// A spill file for one transaction.
    ///
    /// # Errors
    /// There is no room in work_dir, or it cannot be written to.
    fn spill(&mut self) -> std::io::Result<Box<dyn Spill>>;
    /// Unpredictable bytes.
    fn random(&mut self, out: &mut [u8]);
    /// Reports `what` to this session after a while, once. Timers are not taken back: late ones must do no harm.
    fn arm(&mut self, after: Duration, what: TimerKind);
    /// Asks the control plane; the answer comes with the token.
    fn ask(&mut self, question: Question) -> u64;
    /// A backend of this key for this session. `wait`: it queues if there can be none now.
    fn take_backend(&mut self, key: &LaneKey, limits: &PoolLimits, wait: bool) -> Backend;
    /// This session waits for no backend any more.
    fn leave_queue(&mut self);
    /// A backend that owes nothing and remembers nothing is for the next client.
    fn park_backend(&mut self, link: Box<Link>, limits: &PoolLimits);
    /// Takes an idle applier, if possible one that has these settings in force already; its events come to this session.
    fn take_applier(&mut self, key: &PoolKey, settings: &Settings) -> Option<Box<Applier>>;
    /// Gives an idle applier back.
    fn give_applier(&mut self, key: &PoolKey, applier: Box<Applier>);
    /// Tells this session, once, when any watermark has moved or the gate was handed over.
    fn watch_commits(&mut self);
}

/// What the sessions of a shard share. Single-threaded but for what is behind [`Arc`].
pub struct Env {
    /// The configuration.
    pub config: Arc<Config>,
    /// Who is up, who is main, as far as this shard has confirmed it.
    pub membership: View,
    /// The commit order, and the gate.
    pub sequencer: Arc<Sequencer>,
    /// Number of this shard.
    pub shard: usize,
    /// Reads and commits keep to the gate and the window (`snapshot_isolation`).
    pub gated: bool,
    /// Verdicts per statement shape.
    pub verdicts: RefCell<VerdictCache>,
    /// Catalogues per database, as loaded last.
    pub catalogues: RefCell<HashMap<Arc<str>, Arc<Catalogue>>>,
    /// Versions that catalogues must have: raised by DDL in any session of the process.
    pub catalogue_versions: Arc<crate::session::catalogue::Versions>,
    /// What main tells a client of this kind when it logs in.
    pub welcomes: RefCell<crate::session::recycle::Welcomes>,
    /// Latencies and counters.
    pub recorder: RefCell<Recorder>,
    /// The pool_passwd file, if one is configured.
    pub pool_passwd: Option<crate::auth::PoolPasswd>,
    /// Seed of mock SCRAM exchanges for unknown users, the same in all shards.
    pub mock_secret: [u8; 32],
    /// Number of clients in the whole process, held against num_init_children.
    pub clients: Arc<std::sync::atomic::AtomicUsize>,
    /// Main stores passwords as SCRAM verifiers (password_encryption).
    pub scram_verifiers: bool,
    /// PREPARE TRANSACTION is possible on all nodes (max_prepared_transactions).
    pub can_prepare: bool,
    /// Which databases have a slot for images; `None`: there can be none.
    pub slots: Option<Arc<Slots>>,
    /// What is told of nodes.
    pub board: Arc<Board>,
    /// No new work: the proxy is stopping.
    pub draining: std::cell::Cell<bool>,
}

impl Env {
    /// The pools' bounds.
    #[must_use]
    pub fn pool_limits(&self) -> PoolLimits {
        let p = &self.config.pool;
        PoolLimits {
            pool_size: p.pool_size,
            max_pool: p.max_pool,
            min_pool: p.min_pool,
            connection_life_time: p.connection_life_time,
        }
    }

    /// `max_message_size`, bytes.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        usize::try_from(self.config.limits.max_message_size).unwrap_or(usize::MAX)
    }
}

/// What every step of a session is given.
pub struct Cx<'a> {
    /// Shared by the shard's sessions.
    pub env: &'a Env,
    /// Actions out.
    pub io: &'a mut dyn Io,
}
