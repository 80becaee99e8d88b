//! The control plane: one tokio thread that answers shards' questions, watches nodes' health, and ends the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use tokio::sync::{Semaphore, mpsc};

use super::board::{Board, Reach};
use super::decoder::Decoder;
use super::detach::Probes;
use super::handover::Handover;
use super::images::Slots;
use super::membership::{Membership, NodeStatus, SharedMembership};
use super::nodes::{Connection, connect, incarnation};
pub use super::nodes::{Login, NodeAddress, RoleRow, Rows};
use super::state::State;
use crate::image::Refusal;
use crate::image::build::Step;
use crate::sequencer::{NodeId, Sequencer};
use crate::session::io::{Fate, Probe};
use crate::shard::driver::Doorbell;
use crate::shard::reload::Reloaded;
use crate::wire::literal;

/// Questions that are worked on at the same time; more wait.
const AT_ONCE: usize = 32;
/// How long nodes may take to come up when the proxy starts.
const STARTUP_WAIT: Duration = Duration::from_secs(10);

/// What the control plane is told.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// `cluster.name`.
    pub cluster: String,
    /// Directory of the state file.
    pub work_dir: PathBuf,
    /// By node id.
    pub nodes: Vec<NodeAddress>,
    /// `apply_user`.
    pub apply: Login,
    /// `auth_user`.
    pub auth: Login,
    /// `auth_database`.
    pub auth_database: String,
    /// What a reload changes.
    pub live: Live,
    /// Reads the configuration again.
    pub reread: Reread,
    /// Images can be had: of all nodes that are up, as [`Startup::can_image`] found.
    pub can_image: bool,
    /// Which databases have a slot.
    pub slots: Arc<Slots>,
    /// What users are told of nodes.
    pub board: Arc<Board>,
    /// What is read of a database's catalogue.
    pub catalogue_queries: &'static [&'static str],
}

/// The part of [`ControlConfig`] that a reload changes.
#[derive(Clone, Debug)]
pub struct Live {
    /// `health_check_user`.
    pub health_check: Login,
    /// `health_check_database`.
    pub health_check_database: String,
    /// `health_check_period`; zero: none.
    pub health_check_period: Duration,
    /// `health_check_timeout`; zero: none.
    pub health_check_timeout: Duration,
    /// `health_check_max_retries`.
    pub health_check_max_retries: u32,
    /// `health_check_retry_delay`.
    pub health_check_retry_delay: Duration,
    /// `connect_timeout`.
    pub connect_timeout: Duration,
    /// `drain_timeout`.
    pub drain_timeout: Duration,
    /// `image_timeout`.
    pub image_timeout: Duration,
    /// `image_limit`, bytes.
    pub image_limit: u64,
    /// `image_wal_limit`, bytes.
    pub image_wal_limit: u64,
}

/// Reads the configuration again and says what came of it; `None`: it stays as it is.
#[derive(Clone)]
pub struct Reread(pub Arc<dyn Fn() -> Option<(Live, Arc<Reloaded>)> + Send + Sync>);

impl std::fmt::Debug for Reread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reread")
    }
}

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The shard.
    pub shard: usize,
    /// Its own token.
    pub token: u64,
}

/// What a shard asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The role's secret and rights.
    Role { user: String },
    /// The database's catalogue.
    Catalogue { database: String },
    /// Wait until the backend is gone.
    BackendGone { node: NodeId, pid: u32 },
    /// Does the backend make another one wait for a lock?
    Blocks { node: NodeId, pid: u32 },
    /// Why does the backend not answer?
    Probe { node: NodeId, pid: u32 },
    /// Commit or roll back what main has prepared.
    Prepared { database: String, gid: String, commit: bool },
    /// End (by ROLLBACK PREPARED, or COMMIT) what this backend of main may have prepared, or may still prepare, however long it takes.
    Resolve { node: NodeId, pid: u32, database: String, gid: String, commit: bool },
    /// There is to be a slot for images of this database; `moment`: nobody waits for it long.
    Slot { database: String, moment: bool },
    /// There is to be no slot of these databases any more.
    NoSlot { databases: Vec<String> },
    /// What replicas do to have what this prepared transaction changed. `version`: of the catalogue.
    Image { database: String, gid: String, xid: u64, version: u64 },
    /// End the backend.
    TerminateBackend { node: NodeId, pid: u32 },
    /// What became of a transaction.
    XactStatus { node: NodeId, database: String, xid: u64 },
    /// Take the node out.
    Detach { node: NodeId, reason: String },
    /// A connection to the node has broken: does it stand?
    Stands { node: NodeId },
}

/// What a probe of a node came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It stands: a backend was lost, no more.
    Stands,
    /// It is out.
    Out,
    /// It is lost and cannot be taken out, being the last one; or that could not be made durable.
    Stays(String),
}

/// The answer.
#[derive(Debug)]
pub enum Reply {
    /// To [`Request::Role`].
    Role(Result<Option<RoleRow>, String>),
    /// To [`Request::Catalogue`]: rows per query.
    Catalogue { database: String, rows: Result<Vec<Rows>, String> },
    /// To [`Request::BackendGone`].
    BackendGone(bool),
    /// To [`Request::Blocks`].
    Blocks(bool),
    /// To [`Request::Probe`].
    Probe(Probe),
    /// To [`Request::Prepared`].
    Prepared(Fate),
    /// To [`Request::Slot`].
    Slot(Result<(), String>),
    /// To [`Request::Image`].
    Image(Result<Vec<Step>, Refusal>),
    /// To [`Request::TerminateBackend`] and [`Request::Resolve`].
    Terminated,
    /// To [`Request::XactStatus`]: `committed`, `aborted`, or nobody knows.
    XactStatus(Option<String>),
    /// To [`Request::Detach`].
    Detached(Result<(), String>),
    /// To [`Request::Stands`].
    Stands(Standing),
}

/// What reaches a shard from outside.
#[derive(Debug)]
pub enum ShardMessage {
    /// An answer.
    Reply { token: u64, reply: Reply },
    /// A CancelRequest that came in elsewhere.
    Cancel { pid: u32, secret: u32 },
    /// Idle appliers of this database are to be closed: it is about to be dropped on replicas.
    ForgetDatabase { database: String },
    /// A node is lost: this membership is to be confirmed. From then on nothing is relayed of nodes not in it, and until
    /// [`Self::Go`] nothing is finished, acknowledged or begun.
    Confirm { next: Arc<Membership> },
    /// All shards have confirmed this epoch.
    Go { epoch: u64 },
    /// Another configuration.
    Reload(Arc<Reloaded>),
    /// No new clients; end when the last transaction has.
    Drain,
    /// End now.
    Stop,
}

/// How a shard is reached.
#[derive(Clone)]
pub struct ShardHandle {
    /// Its inbox.
    pub inbox: Arc<ArrayQueue<ShardMessage>>,
    /// Wakes it.
    pub doorbell: Arc<dyn Doorbell>,
}

/// What shards send to the control plane.
#[derive(Debug)]
pub enum ToControl {
    /// A question.
    Ask(Ticket, Request),
    /// Idle appliers in these databases are to be closed, in all shards.
    Forget(Vec<String>),
    /// A shard relays nothing any more of nodes that are not in this epoch.
    Confirmed { shard: usize, epoch: u64 },
    /// A shard has ended.
    ShardDone { shard: usize },
}

/// The control plane's end of a [`ControlHandle`], without a runtime: for the simulator.
#[derive(Debug)]
pub struct ControlQueue {
    from: mpsc::UnboundedReceiver<ToControl>,
}

impl ControlQueue {
    /// The next message, if there is one.
    pub fn next_message(&mut self) -> Option<ToControl> {
        self.from.try_recv().ok()
    }
}

/// How shards reach the control plane.
#[derive(Clone)]
pub struct ControlHandle {
    to: mpsc::UnboundedSender<ToControl>,
}

impl ControlHandle {
    /// A handle, and the queue of what is sent through it.
    #[must_use]
    pub fn with_queue() -> (ControlHandle, ControlQueue) {
        let (to, from) = mpsc::unbounded_channel();
        (ControlHandle { to }, ControlQueue { from })
    }

    /// Asks. Bound: a session has at most a few questions open, so their number is that of the sessions.
    pub fn ask(&self, ticket: Ticket, request: Request) {
        // The control plane outlives the shards; if it is gone, the process is ending.
        let _ = self.to.send(ToControl::Ask(ticket, request));
    }

    /// Idle appliers in these databases are to be closed, in all shards.
    pub fn forget(&self, databases: Vec<String>) {
        let _ = self.to.send(ToControl::Forget(databases));
    }

    /// This shard has confirmed the membership of this epoch.
    pub fn confirmed(&self, shard: usize, epoch: u64) {
        let _ = self.to.send(ToControl::Confirmed { shard, epoch });
    }

    /// A shard has ended.
    pub fn shard_done(&self, shard: usize) {
        let _ = self.to.send(ToControl::ShardDone { shard });
    }
}

/// What the start leaves for the running control plane.
pub struct Startup {
    runtime: tokio::runtime::Runtime,
    state: State,
    guards: Vec<Option<Connection>>,
    incarnations: Vec<Option<String>>,
    can_prepare: bool,
    can_image: bool,
    scram_verifiers: bool,
}

impl Startup {
    /// Every node that is up can be read images of: version 14, wal_level = logical, PREPARE TRANSACTION, a slot and a WAL
    /// sender.
    #[must_use]
    pub fn can_image(&self) -> bool {
        self.can_image
    }

    /// PREPARE TRANSACTION is possible on every node that is up.
    #[must_use]
    pub fn can_prepare(&self) -> bool {
        self.can_prepare
    }

    /// Main stores passwords as SCRAM verifiers.
    #[must_use]
    pub fn scram_verifiers(&self) -> bool {
        self.scram_verifiers
    }
}

/// The running control plane.
pub struct Control {
    handle: ControlHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the control plane's tasks share. All run on its one thread; the locks are for what they await.
pub(super) struct Plane {
    pub(super) config: ControlConfig,
    /// As of the last reload.
    live: ArcSwap<Live>,
    pub(super) membership: Arc<SharedMembership>,
    pub(super) sequencer: Arc<Sequencer>,
    pub(super) shards: Vec<ShardHandle>,
    /// The state file's contents; its lock makes detaching one at a time.
    pub(super) state: tokio::sync::Mutex<State>,
    /// Bounds the connections that questions open.
    pub(super) permits: Semaphore,
    /// By node id: a connection as apply_user, kept open.
    pub(super) kept: Vec<tokio::sync::Mutex<Option<Arc<Connection>>>>,
    /// A connection to main for roles, kept open.
    pub(super) auth: tokio::sync::Mutex<Option<Arc<Connection>>>,
    /// By node id.
    pub(super) probes: Vec<tokio::sync::Mutex<Probes>>,
    /// The hand-over that is under way, or the last one.
    pub(super) handover: std::sync::Mutex<Option<Handover>>,
    /// Something has happened to it.
    pub(super) confirmed: tokio::sync::Notify,
    /// Shards that have ended.
    pub(super) ended: std::sync::Mutex<std::collections::BTreeSet<usize>>,
    /// By database.
    pub(super) decoders: std::sync::Mutex<std::collections::HashMap<String, Arc<Decoder>>>,
}

impl Control {
    /// Looks at all nodes, and at what the state file says of them.
    ///
    /// # Errors
    /// No node can be used, another proxy serves them, or they are of different versions.
    pub fn startup(config: &ControlConfig, sequencer: &Sequencer) -> Result<(Arc<SharedMembership>, Startup), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let addresses: Vec<String> = config.nodes.iter().map(|n| format!("{}:{}", n.host, n.port)).collect();
        let mut state = match State::load(&config.work_dir).map_err(|e| e.to_string())? {
            Some(s) if s.nodes.len() == addresses.len() => s,
            Some(_) => return Err("the state file is of a cluster with another number of nodes: set [cluster] work_dir to a directory of this cluster".into()),
            None => State::new(addresses.clone()),
        };
        for (node, address) in state.nodes.iter_mut().zip(addresses) {
            node.address = address;
        }
        let (found, problems): (Vec<Option<Found>>, Vec<String>) = runtime.block_on(look_at_all(config));
        for (i, found) in found.iter().enumerate() {
            let node = &mut state.nodes[i];
            if found.is_some() && node.status == NodeStatus::Down {
                node.status = NodeStatus::Stale;
                node.reason = "it was not there while the others were used".into();
            }
            if found.is_none() && node.status == NodeStatus::Up {
                node.status = NodeStatus::Down;
                node.reason = problems[i].clone();
            }
            if node.status != NodeStatus::Up {
                tracing::warn!(node = i, status = %node.status, reason = %node.reason, "node is not used");
                sequencer.release(NodeId(u8::try_from(i).unwrap_or(u8::MAX)));
            }
        }
        let up = |i: &usize| state.nodes[*i].status == NodeStatus::Up;
        let Some(main) = (0..state.nodes.len()).find(up) else {
            let told = state.nodes.iter().enumerate().map(|(i, n)| match problems[i].as_str() {
                "" => format!("node {i} ({}) is {}: {}", n.address, n.status, n.reason),
                problem => problem.to_owned(),
            });
            let told = told.collect::<Vec<_>>().join("; ");
            return Err(format!("no node can be used: {told}; start a server that is up to date, then this again"));
        };
        let majors: std::collections::BTreeSet<u32> = found.iter().flatten().map(|f| f.version / 10_000).collect();
        if majors.len() > 1 {
            return Err(format!("the nodes are of different major versions ({majors:?}): all must be of one"));
        }
        state.epoch += 1;
        state.main = u8::try_from(main).unwrap_or(u8::MAX);
        state.save(&config.work_dir).map_err(|e| e.to_string())?;
        let first = Membership {
            epoch: state.epoch,
            main: NodeId(state.main),
            status: state.nodes.iter().map(|n| n.status).collect(),
        };
        tracing::info!(epoch = first.epoch, main = main, up = first.up(), "membership");
        let scram_verifiers = found[main].as_ref().is_some_and(|f| f.password_encryption == "scram-sha-256");
        let can_prepare = found.iter().flatten().all(|f| f.max_prepared > 0);
        let can_image = can_prepare && found.iter().flatten().all(|f| f.can_decode);
        let incarnations = found.iter().map(|f| f.as_ref().and_then(|f| f.incarnation.clone())).collect();
        let guards = found.into_iter().map(|f| f.map(|f| f.connection)).collect();
        let startup = Startup { runtime, state, guards, incarnations, can_prepare, can_image, scram_verifiers };
        Ok((Arc::new(SharedMembership::new(first)), startup))
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        config: ControlConfig,
        startup: Startup,
        membership: Arc<SharedMembership>,
        sequencer: Arc<Sequencer>,
        shards: Vec<ShardHandle>,
    ) -> std::io::Result<Control> {
        let (to, from) = mpsc::unbounded_channel();
        let Startup { runtime, state, guards, incarnations, .. } = startup;
        for (i, node) in state.nodes.iter().enumerate() {
            config.board.changed(i, &node.reason);
            config.board.probed(i, if guards[i].is_some() { Reach::Answers } else { Reach::Fails });
        }
        let kept = config.nodes.iter().map(|_| tokio::sync::Mutex::new(None)).collect();
        let probes = incarnations.into_iter().map(|i| tokio::sync::Mutex::new(Probes::new(i))).collect();
        let plane = Arc::new(Plane {
            live: ArcSwap::from_pointee(config.live.clone()),
            config,
            membership,
            sequencer,
            shards,
            state: tokio::sync::Mutex::new(state),
            permits: Semaphore::new(AT_ONCE),
            kept,
            auth: tokio::sync::Mutex::new(None),
            probes,
            handover: std::sync::Mutex::new(None),
            confirmed: tokio::sync::Notify::new(),
            ended: std::sync::Mutex::default(),
            decoders: std::sync::Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, plane.run(from));
            drop(guards);
        })?;
        Ok(Control { handle: ControlHandle { to }, thread: Some(thread) })
    }

    /// How shards reach it.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Waits for its end: it ends when all shards have.
    pub fn stop(mut self) {
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// What a node is found to be at the start.
struct Found {
    /// Holds the advisory lock.
    connection: Connection,
    /// `server_version_num`.
    version: u32,
    /// `max_prepared_transactions`.
    max_prepared: u32,
    /// Logical decoding of prepared transactions is possible.
    can_decode: bool,
    /// `password_encryption`.
    password_encryption: String,
    /// Start time of its checkpointer.
    incarnation: Option<String>,
}

/// Connects to every node, waits a little for those that are starting, and takes the lock that keeps other proxies out.
async fn look_at_all(config: &ControlConfig) -> (Vec<Option<Found>>, Vec<String>) {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    let end = tokio::time::Instant::now() + STARTUP_WAIT;
    for (i, node) in config.nodes.iter().enumerate() {
        loop {
            match look_at(config, node).await {
                Ok(found) => {
                    all.push(Some(found));
                    problems.push(String::new());
                    break;
                }
                Err(e) if tokio::time::Instant::now() < end && is_passing(&e) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(e) => {
                    all.push(None);
                    problems.push(format!("node {i} ({}:{}): {e}", node.host, node.port));
                    break;
                }
            }
        }
    }
    (all, problems)
}

/// A server that is starting, or whose last proxy's connection is not gone yet.
fn is_passing(e: &str) -> bool {
    e.contains("57P03") || e.contains("refused") || e.contains("another pglockstep")
}

async fn look_at(config: &ControlConfig, node: &NodeAddress) -> Result<Found, String> {
    let c = connect(node, &config.apply, &config.auth_database, config.live.connect_timeout).await.map_err(|e| {
        if e.contains("28P01") || e.contains("28000") {
            format!("{e}; run \"pglockstep setup\" to create apply_user on all nodes")
        } else {
            e
        }
    })?;
    let key = literal(&format!("pglockstep {}", config.cluster));
    let locked = c.value(&format!("SELECT pg_try_advisory_lock(hashtext({key})::bigint)")).await?;
    if locked.as_deref() != Some("t") {
        return Err("another pglockstep holds the advisory lock of this cluster: stop it first".into());
    }
    roll_back_prepared(config, node, &c).await?;
    let number = |v: Option<String>| v.and_then(|v| v.parse().ok()).unwrap_or(0);
    let version = number(c.value("SHOW server_version_num").await?);
    let max_prepared = number(c.value("SHOW max_prepared_transactions").await?);
    let decodes = "SELECT current_setting('wal_level') = 'logical' AND current_setting('max_replication_slots')::int > 0 \
        AND current_setting('max_wal_senders')::int > 0";
    let can_decode = version >= 140_000 && c.value(decodes).await?.as_deref() == Some("t");
    let password_encryption = c.value("SHOW password_encryption").await?.unwrap_or_default();
    let incarnation = incarnation(&c).await?;
    Ok(Found { connection: c, version, max_prepared, can_decode, password_encryption, incarnation })
}

/// What an earlier process prepared and did not commit: no client has heard of it, and no replica has it.
async fn roll_back_prepared(config: &ControlConfig, node: &NodeAddress, c: &Connection) -> Result<(), String> {
    let ours = literal(&format!("pglockstep:{}:", config.cluster));
    let sql = format!("SELECT gid, database FROM pg_prepared_xacts WHERE starts_with(gid, {ours})");
    for row in c.rows(&sql).await? {
        let [Some(gid), Some(database)] = &row[..] else { continue };
        tracing::warn!(gid, database, port = node.port, "rolling back what an earlier process had prepared");
        let there = connect(node, &config.apply, database, config.live.connect_timeout).await?;
        there.rows(&format!("ROLLBACK PREPARED {}", literal(gid))).await?;
    }
    Ok(())
}

impl Plane {
    async fn run(self: Arc<Self>, mut from: mpsc::UnboundedReceiver<ToControl>) {
        tokio::task::spawn_local(self.clone().signals());
        tokio::task::spawn_local(self.clone().reloads());
        for i in 0..self.config.nodes.len() {
            tokio::task::spawn_local(self.clone().health(i));
        }
        let mut running = self.shards.len();
        while running > 0 {
            match from.recv().await {
                Some(ToControl::Ask(ticket, request)) => {
                    tokio::task::spawn_local(self.clone().answer(ticket, request));
                }
                Some(ToControl::Forget(databases)) => {
                    for database in databases {
                        self.forget_decoder(&database);
                        for shard in 0..self.shards.len() {
                            self.tell(shard, ShardMessage::ForgetDatabase { database: database.clone() }).await;
                        }
                    }
                }
                Some(ToControl::Confirmed { shard, epoch }) => self.shard_confirmed(shard, epoch),
                Some(ToControl::ShardDone { shard }) => {
                    self.shard_ended(shard);
                    running -= 1;
                }
                None => return,
            }
        }
    }

    /// Puts a message into a shard's inbox; a full one is waited for, nothing is lost.
    pub(super) async fn tell(&self, shard: usize, message: ShardMessage) {
        let Some(handle) = self.shards.get(shard) else { return };
        let mut message = message;
        loop {
            match handle.inbox.push(message) {
                Ok(()) => return handle.doorbell.ring(),
                Err(back) => {
                    message = back;
                    handle.doorbell.ring();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// The first SIGTERM or SIGINT drains, the second one stops at once.
    /// What may change while the proxy runs.
    pub(super) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// SIGHUP.
    async fn reloads(self: Arc<Self>) {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return tracing::error!("SIGHUP cannot be received");
        };
        while hangup.recv().await.is_some() {
            let Some((live, reloaded)) = (self.config.reread.0)() else { continue };
            self.live.store(Arc::new(live));
            for shard in 0..self.shards.len() {
                self.tell(shard, ShardMessage::Reload(reloaded.clone())).await;
            }
        }
    }

    async fn signals(self: Arc<Self>) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            return tracing::error!("signals cannot be received");
        };
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!(drain_timeout = ?self.live().drain_timeout, "shutting down: open transactions may finish");
        for shard in 0..self.shards.len() {
            self.tell(shard, ShardMessage::Drain).await;
        }
        tokio::select! {
            _ = term.recv() => tracing::warn!("second signal: stopping at once"),
            _ = int.recv() => tracing::warn!("second signal: stopping at once"),
            () = tokio::time::sleep(self.live().drain_timeout) => tracing::warn!("drain_timeout reached: stopping"),
        }
        for shard in 0..self.shards.len() {
            self.tell(shard, ShardMessage::Stop).await;
        }
    }
}
