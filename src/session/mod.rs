//! One client connection: every state it can be in.
//!
//! A session is sans-I/O: [`Session::event`] takes what has happened, and what follows leaves through [`io::Io`].
//! It asks no clock, draws no random number and touches no socket itself, so the shard, a unit test and the simulator
//! run the same code.
//!
//! Where to look:
//! - `event`: what can happen; [`startup`]: start-up packets, passwords, the lane's login; [`reader`]: the backends for
//!   reads; [`recycle`]: how backends are had and given back;
//! - `inbox`: the client's messages until their turn comes; `send`: what leaves for a backend;
//! - [`simple`], [`extended`]: what the client asks, by either protocol; [`strings`]: several statements at once;
//!   `batch`: what a batch is and where it goes, `survey`: what it holds; `copy`: COPY data; [`function`]: calls by OID;
//!   [`route`]: where a statement goes;
//! - [`server`]: what the lane and the reader answer, held against [`owed`]; `done`: what a statement leaves behind;
//! - `blocks`: BEGIN, COMMIT and ROLLBACK of the client's; `begin`: on which server a transaction begins, and how it
//!   reads on a replica;
//! - [`transaction`], [`commit`]: the client's transaction, its script, and the commit on all nodes; [`replica`],
//!   [`applier`]: one replica's part in it; [`early`]: large ones start before COMMIT; [`proofs`]: what they rest on;
//!   `on_main`: COMMIT there; `fate`: main did not answer it; `window`: a commit's place at the gate; `overdue`: nodes that
//!   do not answer in time; `ended`: what follows;
//! - [`lifecycle`]: how requests and sessions end; `lost`: what becomes of them when the lane is lost, or main;
//! - [`catalogue`]: what statements are judged by;
//! - [`registry`], [`settings`]: what the session has prepared and set; `names`: which backend knows it; [`prepared`]:
//!   by SQL;
//! - `explain`: `EXPLAIN (PGLOCKSTEP)`; `treatment`: what it answers; `show`: `SHOW POOL_NODES` and its kin;
//! - `rows`: writes that reach the replicas by the rows that main tells of; `digits`: whether these print exactly;
//!   `conflict`: single statements that are run again after 40001;
//! - [`own_ddl`]: what is judged behind DDL of the same transaction;
//! - `image`: transactions that reach the replicas by what main's WAL tells of them; `fallback`: those that cannot;
//! - `snapshot`: `snapshot_isolation`'s reads on replicas, and isolation levels; `tokens`: what clients can ask about it;
//! - `footprint`: which rows a transaction writes, and a read looks at;
//! - `elsewhere`: reads that a replica could not serve are run again; `leave`: blocks that began on a replica and need
//!   main;
//! - [`held`]: how much a session keeps in memory;
//! - `logging`: log_connections and log_disconnections;
//! - `fuzz`: all of it under arbitrary interleavings.
//!
//! Invariants: at most one of lane and reader has replies of the client's outstanding, so replies reach the client in
//! the order of its requests; while a commit or a request of several steps is under way no further message of the
//! client is looked at.

pub mod applier;
mod batch;
mod begin;
mod blocks;
pub mod catalogue;
pub mod commit;
mod conflict;
mod copy;
pub mod digits;
mod done;
pub mod early;
mod elsewhere;
mod ended;
mod event;
mod explain;
pub mod extended;
mod fallback;
mod fate;
mod footprint;
pub mod function;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod held;
mod image;
mod inbox;
pub mod io;
mod leave;
pub mod lifecycle;
pub mod link;
mod logging;
mod lost;
mod names;
pub mod note;
mod on_main;
pub mod out;
mod overdue;
pub mod owed;
pub mod own_ddl;
pub mod prepared;
pub mod proofs;
pub mod reader;
pub mod recycle;
pub mod registry;
pub mod replica;
pub mod route;
pub mod rows;
mod send;
pub mod server;
pub mod settings;
mod show;
pub mod simple;
pub mod snapshot;
pub mod startup;
pub mod strings;
mod survey;
mod tokens;
pub mod transaction;
mod treatment;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::catalogue::Version;
use self::commit::{After, Commit};
use self::io::{Answer, Cx, TimerKind};
use self::link::Link;
use self::out::ClientOut;
use self::reader::Reader;
use self::registry::Registry;
use self::settings::Settings;
use self::transaction::{Target, Tx};
use crate::auth::{Credentials, MAX_PASSWORD_MESSAGE_LEN};
use crate::script::RowHasher;
use crate::sequencer::NodeId;
use crate::shard::driver::{ConnId, Peer, Time};
use crate::wire::frame::{Frame, FrontendFramer, HEADER};
use crate::wire::{PgError, TxStatus};

/// Unread client messages above which the client is not received from, as a multiple of what may be queued towards one
/// peer ([`io::Io::queue_high`]): 1 MiB.
pub const INBOX_QUEUES: usize = 4;

/// SETs remembered for readers; beyond it the session reads on main.
pub const REPLAY_MAX: usize = 200;

/// What has happened to a session.
#[derive(Debug)]
pub enum Event {
    /// Bytes of the client.
    Client(Bytes),
    /// The client reads again.
    ClientDrained,
    /// The client is gone.
    ClientGone,
    /// A connection to a node stands.
    Connected(ConnId),
    /// Bytes of a node.
    Server(ConnId, Bytes),
    /// A node reads again.
    ServerDrained,
    /// A connection to a node is gone.
    ServerGone(ConnId, String),
    /// A timer.
    Timer(TimerKind),
    /// The control plane has answered.
    Answer(u64, Answer),
    /// Watermarks have moved, or the gate was handed over.
    Watermarks,
    /// It is this session's turn to have a backend.
    Turn,
    /// The shard confirms another membership: nothing is relayed any more of nodes that are not in it.
    Confirm {
        /// Another node is main in it.
        main_lost: bool,
    },
    /// All shards have confirmed it.
    Go,
    /// Another connection asks for the running statement's end.
    Cancel,
    /// The server has closed the connection of a CancelRequest of this session's: the cancel hits nothing any more that
    /// is sent from here on.
    CancelDone,
    /// Its place is needed for another client, and it has not said yet who it is.
    MakeRoom,
    /// Stop when no transaction is open.
    Drain,
    /// Stop now.
    Stop,
}

/// How far the client's connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The start-up packet is being collected.
    Startup(BytesMut),
    /// The role's secret has been asked for.
    Secret { token: u64 },
    /// Passwords are exchanged.
    Password(Box<crate::auth::ClientAuth>),
    /// The lane logs in.
    Lane,
    /// The catalogue is being read, so that reads can be proved from the first statement on.
    Catalogue,
    /// Queries.
    Ready,
    /// Over; the shard removes the session.
    Over,
}

/// The request that is under way, if it takes several steps.
#[derive(Debug, Default)]
pub(super) enum Request {
    /// None: the next message may be looked at.
    #[default]
    None,
    /// A simple query.
    Simple(simple::Simple),
    /// A FunctionCall.
    Function,
    /// An extended batch's implicit transaction is ending.
    ImplicitEnd,
    /// COMMIT or ROLLBACK by the extended protocol.
    ExecuteEnd,
}

/// What follows a ROLLBACK of the proxy's own on the lane.
#[derive(Debug)]
pub(super) enum AfterRollback {
    /// A commit was refused.
    Commit { after: After, error: Bytes },
    /// The implicit transaction of a simple query has failed.
    Simple,
    /// The implicit transaction of a batch has failed.
    Sync,
    /// The client's own ROLLBACK, executed by the extended protocol.
    Execute { chain: bool },
}

/// One client connection.
#[derive(Debug)]
pub struct Session {
    client: ConnId,
    peer: Peer,
    stage: Stage,
    framer: FrontendFramer,
    inbox: VecDeque<Frame>,
    inbox_bytes: usize,
    client_paused: bool,
    servers_paused: bool,
    out: ClientOut,
    client_gone: bool,

    user: Arc<str>,
    database: Arc<str>,
    startup: Arc<[(String, String)]>,
    credentials: Credentials,
    cancel_key: (u32, u32),
    std_strings: bool,

    lane: Option<Link>,
    reader: Reader,
    tx: Tx,
    /// Number of the batch in which that was begun: what answers earlier ones does not tell of it.
    tx_since: u64,
    request: Request,
    batch: batch::Batch,
    registry: Registry,
    commit: Option<Box<Commit>>,
    after_rollback: Option<AfterRollback>,

    settings: Arc<Settings>,
    settings_dirty: bool,
    settings_rows: Vec<String>,
    replay: Vec<Bytes>,
    /// Names of custom settings that the session has, or may have, set.
    custom: BTreeSet<String>,
    /// It has made some known to its backends, which keep them for good.
    made_custom: bool,
    /// One of them was new to the statement at hand, which main may be asked in front of.
    new_custom: bool,
    /// Readers of other nodes, with `statement_level_load_balance`.
    #[allow(clippy::vec_box)] // moved whole between here and `reader`
    parked: Vec<Box<Link>>,
    /// The node that is to serve the next read.
    chosen: Option<NodeId>,
    main_only: bool,
    snapshots: snapshot::Snapshots,
    /// Number of the session's newest commit; 0: it has made none.
    last_commit: u64,
    min_csn: tokens::MinCsn,
    conflict: conflict::Conflict,
    row_entries: rows::Told,
    wanted: image::Wanted,
    /// Name of what is being rolled back on main, where it was prepared.
    undoing: Option<String>,
    /// SET ROLE or SET SESSION AUTHORIZATION has been run: whose privileges main checks is not known here.
    role_changed: bool,
    digits: digits::Digits,
    /// Looks that its transactions have taken at a catalogue of their own, to tell them apart.
    views: u64,
    /// The next READ ONLY block begins on main: on a replica it has met what only main can do.
    block_on_main: bool,
    temporary: bool,
    version: Version,
    /// Token of the question, and the version that is wanted.
    catalogue_asked: Option<(u64, u64)>,

    rows: RowHasher,
    /// Of the message that passes to the client only a part has come.
    torn: bool,
    retry: Option<elsewhere::Retry>,
    draining: bool,
    /// The session counts as one of num_init_children.
    counted: bool,
    /// The client has got its first ReadyForQuery.
    admitted: bool,
    /// When the client was accepted.
    accepted: Time,
    /// What the lane's server said before it ended the connection.
    farewell: Option<Bytes>,
    /// The lane is gone, and it is being asked whether main is.
    limbo: Option<Box<lost::Limbo>>,
    /// The client's transaction block was lost with main.
    lost: Option<lost::Lost>,
    /// Since when it waits for a lane that there cannot be yet.
    queued: Option<Time>,
    /// The lane that was taken over was idle for long.
    stale: bool,
    /// What the client was told at its login, if no lane was asked.
    welcome: Option<Arc<[(String, String)]>>,
    /// Backends that are given back.
    resetting: Vec<recycle::Resetting>,
    /// The session may have state that lives in its backend on main alone.
    bound: bool,
    /// Modes of the transaction that AND CHAIN begins.
    chained: Option<crate::sql::class::TxModes>,
    /// A simple query's next step waits for the answers to own requests behind the last one.
    steps_wait: bool,
    /// Names of temporary tables, lower-case.
    temporary_names: HashSet<String>,
    /// Replicas that are sent the script of the transaction that commits, or (early start) that still runs.
    replicas: Vec<replica::Replica>,
    right_of_way_armed: bool,
    commit_timer_armed: bool,
    /// When the client last sent something.
    heard: Time,
    /// When the request that is under way began, and which link has been at work on it.
    began: Option<Time>,
    served_by: Option<Target>,
    /// CancelRequests under way: while there are any, nothing new is sent that they could hit.
    cancels: usize,
    /// Version of a catalogue that could not be had: under it nothing is proved.
    catalogue_missing: Option<u64>,
    /// What PREPARE has done, until its parameter types are known; and these types.
    preparing: Option<Box<prepared::Preparing>>,
    told_types: Vec<u32>,
    /// A statement of an extended batch that goes to every replica once main has done it.
    everywhere: Option<Bytes>,
    /// The transaction that is being ended by ROLLBACK had only read: the client asked for COMMIT.
    commit_as_rollback: bool,
    /// Syncs that came while the client was sending COPY data, which the server ignores. Those that came before the first
    /// of it do not count: no data can have made the COPY fail before them.
    ignored_syncs: usize,
    /// CopyData of the COPY that is under way has been sent on.
    copy_data: bool,
    /// Parameters that main has reported since the client's last ReadyForQuery, by lower-case name. As a server does
    /// since version 14, the client is told of those that have changed in front of the next one.
    changed: BTreeMap<String, (String, String)>,
    /// What the client was told of each parameter last.
    told: Vec<(String, String)>,
    /// The client's stream cannot be cut into messages any more; told when what came before is answered.
    broken: Option<PgError>,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Startup(_) => "startup",
            Stage::Secret { .. } => "secret",
            Stage::Password(_) => "password",
            Stage::Lane => "lane",
            Stage::Catalogue => "catalogue",
            Stage::Ready => "ready",
            Stage::Over => "over",
        }
    }
}

impl Request {
    fn name(&self) -> &'static str {
        match self {
            Request::None => "none",
            Request::Simple(_) => "simple",
            Request::Function => "function",
            Request::ImplicitEnd => "implicit end",
            Request::ExecuteEnd => "execute end",
        }
    }
}

impl Session {
    /// A client has been accepted. `cancel_key` is what its BackendKeyData will say.
    #[must_use]
    pub fn new(client: ConnId, peer: Peer, cancel_key: (u32, u32), cx: &mut Cx<'_>) -> Session {
        cx.io.arm(cx.env.config.authentication.authentication_timeout, TimerKind::Authentication);
        if cx.env.config.logging.log_connections {
            tracing::info!("connection received: {}", logging::Host(peer));
        }
        Session {
            client,
            peer,
            stage: Stage::Startup(BytesMut::new()),
            framer: FrontendFramer::new(cx.env.max_message_size().min(HEADER + MAX_PASSWORD_MESSAGE_LEN)),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            client_paused: false,
            servers_paused: false,
            out: ClientOut::default(),
            client_gone: false,
            user: Arc::from(""),
            database: Arc::from(""),
            startup: Arc::from([]),
            credentials: Credentials::None,
            cancel_key,
            std_strings: true,
            lane: None,
            reader: Reader::None,
            tx: Tx::Idle,
            tx_since: 0,
            request: Request::None,
            batch: batch::Batch::default(),
            registry: Registry::default(),
            commit: None,
            after_rollback: None,
            settings: Arc::new(Settings::default()),
            settings_dirty: true,
            settings_rows: Vec::new(),
            replay: Vec::new(),
            custom: BTreeSet::new(),
            made_custom: false,
            new_custom: false,
            parked: Vec::new(),
            chosen: None,
            main_only: false,
            snapshots: snapshot::Snapshots::default(),
            last_commit: 0,
            min_csn: tokens::MinCsn::default(),
            conflict: conflict::Conflict::default(),
            row_entries: rows::Told::default(),
            wanted: image::Wanted::default(),
            undoing: None,
            role_changed: false,
            digits: digits::Digits::default(),
            views: 0,
            block_on_main: false,
            temporary: false,
            version: cx.env.catalogue_versions.of(&Arc::from("")),
            catalogue_asked: None,
            rows: RowHasher::default(),
            torn: false,
            retry: None,
            draining: false,
            counted: false,
            admitted: false,
            accepted: cx.io.now(),
            farewell: None,
            limbo: None,
            lost: None,
            queued: None,
            stale: false,
            welcome: None,
            resetting: Vec::new(),
            bound: false,
            chained: None,
            steps_wait: false,
            temporary_names: HashSet::new(),
            replicas: Vec::new(),
            right_of_way_armed: false,
            commit_timer_armed: false,
            heard: cx.io.now(),
            began: None,
            served_by: None,
            cancels: 0,
            catalogue_missing: None,
            preparing: None,
            told_types: Vec::new(),
            everywhere: None,
            commit_as_rollback: false,
            ignored_syncs: 0,
            copy_data: false,
            changed: BTreeMap::new(),
            told: Vec::new(),
            broken: None,
        }
    }

    /// The session is over and nothing of it is left to finish.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over) && self.commit.is_none() && self.resetting.is_empty()
    }

    /// The client has not got its first ReadyForQuery.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        !self.admitted && !matches!(self.stage, Stage::Over)
    }

    /// The client has not even said who it is: its start-up packet is not there.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.stage, Stage::Startup(_))
    }

    /// Pid and secret that a CancelRequest must name.
    #[must_use]
    pub fn cancel_key(&self) -> (u32, u32) {
        self.cancel_key
    }

    /// The link of a target, if it is ready.
    pub(super) fn link(&mut self, target: Target) -> Option<&mut Link> {
        match target {
            Target::Lane => self.lane.as_mut(),
            Target::Reader => match &mut self.reader {
                Reader::Ready(l) => Some(l),
                _ => None,
            },
        }
    }

    fn link_ref(&self, target: Target) -> Option<&Link> {
        match target {
            Target::Lane => self.lane.as_ref(),
            Target::Reader => match &self.reader {
                Reader::Ready(l) => Some(l),
                _ => None,
            },
        }
    }

    /// What ReadyForQuery tells the client.
    pub(super) fn status(&self) -> TxStatus {
        match &self.tx {
            _ if self.lost.is_some() => TxStatus::Failed,
            Tx::Idle => TxStatus::Idle,
            Tx::Begun(_) => TxStatus::InBlock,
            Tx::Open(o) if o.failed => TxStatus::Failed,
            Tx::Open(_) => TxStatus::InBlock,
        }
    }

    /// A SET that outlives its transaction: readers must have it too.
    pub(super) fn remember_setting(&mut self, sql: Bytes) {
        self.settings_dirty = true;
        self.default_may_change(&sql);
        if self.replay.len() >= REPLAY_MAX {
            self.main_only = true;
            self.bound = true;
            return;
        }
        self.replay.push(sql);
    }

    /// Sends what has been gathered for the client; pauses the servers if it does not read.
    fn flush(&mut self, cx: &mut Cx<'_>) {
        if self.client_gone {
            for _ in self.out.take() {}
            return;
        }
        for b in self.out.take() {
            cx.io.send(self.client, b);
        }
        self.out.slim();
        if !self.servers_paused && cx.io.queued(self.client) > cx.io.queue_high() {
            self.servers_paused = true;
            for t in [Target::Lane, Target::Reader] {
                if let Some(conn) = self.link_ref(t).map(|l| l.conn) {
                    cx.io.pause(conn);
                }
            }
        }
    }

    pub(super) fn client_drained(&mut self, cx: &mut Cx<'_>) {
        if self.servers_paused {
            self.servers_paused = false;
            for t in [Target::Lane, Target::Reader] {
                if let Some(conn) = self.link_ref(t).map(|l| l.conn) {
                    cx.io.resume(conn);
                }
            }
        }
    }

    /// The node a link is connected to, for messages.
    pub(super) fn main_node(cx: &Cx<'_>) -> NodeId {
        cx.env.membership.load().main
    }
}
