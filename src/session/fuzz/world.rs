//! One session between its client, its nodes and the control plane, and what must hold of it after every event.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use super::backend::Backend;
use super::model::Model;
use super::net::{HIGH_WATER, Life, Net, State, id};
use super::speak::Speaker;
use super::{Bytecode, MESSAGE_MAX};
use crate::auth::{Role, Secret};
use crate::cluster::control::Standing;
use crate::cluster::membership::{Membership, NodeStatus, View};
use crate::config::{BusyReads, ClientAuth, Config, Mode, TransactionReads};
use crate::script::Spill;
use crate::script::store::MemorySpill;
use crate::sequencer::{NodeId, Sequencer};
use crate::session::held::inbox_high;
use crate::session::io::{Answer, Cx, Env, Fate, Probe, Question};
use crate::session::{Event, REPLAY_MAX, Session};
use crate::shard::core::{Core, Deferred, Owner, SessionId};
use crate::shard::driver::{ConnId, Driver, Peer, Time};
use crate::sim::driver::node_address;
use crate::sql::cache::VerdictCache;
use crate::sql::proof::Catalogue;
use crate::telemetry::Recorder;

/// Nodes of the cluster.
pub const NODES: usize = 3;
/// Bytes that a client sends at once, at most: as much as one receive buffer holds.
pub const CHUNK: usize = 1 << 14;
/// Bytes of a script that may be in memory.
const SCRIPT_LIMIT: u64 = 2000;
/// How far time goes on while everything comes to rest.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(11);

pub type Check = Result<(), String>;

/// The session, and all that it deals with.
pub struct World {
    pub net: Rc<RefCell<State>>,
    pub core: Core<Net>,
    pub env: Env,
    session: Option<Box<Session>>,
    id: SessionId,
    client: ConnId,
    pub model: Model,
    pub speaker: Speaker,
    /// What the client has still to send.
    pub backlog: BytesMut,
    /// What the control plane was asked.
    pub questions: VecDeque<(u64, Question)>,
    watermarks: [u64; NODES],
    pids: u32,
    honest: bool,
    /// What has happened, if somebody wants to know.
    pub trace: Option<Vec<String>>,
}

fn config(shape: u8) -> Config {
    static BASE: OnceLock<Config> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let mut text = String::from(
            "[cluster]\nname = \"fuzz\"\nwork_dir = \"/\"\nbackend_clustering_mode = \"native_replication\"\n",
        );
        for i in 0..NODES {
            text.push_str(&format!("[[node]]\nid = {i}\nbackend_hostname = \"node{i}\"\n"));
        }
        Config::parse(&text, std::path::Path::new("fuzz")).expect("a configuration of the harness's own")
    });
    let mut config = base.clone();
    config.authentication.client_auth = match shape & 3 {
        3 if shape & 4 != 0 => ClientAuth::Md5,
        3 => ClientAuth::Password,
        _ => ClientAuth::Trust,
    };
    // Who logs in without a word does it in both modes, and in the second with all that reads on replicas may do.
    if matches!(shape & 3, 1 | 2) {
        config.cluster.backend_clustering_mode = Mode::SnapshotIsolation;
    }
    if shape & 3 == 2 {
        config.load_balance.busy_reads = BusyReads::Wait;
        config.load_balance.transaction_reads = TransactionReads::Spread;
    }
    config.limits.max_message_size = MESSAGE_MAX as u64;
    config.limits.prepared_statements = 3;
    config.replication.script_limit = SCRIPT_LIMIT;
    config.replication.early_start = if shape & 8 != 0 { 60 } else { 256 << 10 };
    config.load_balance.statement_level_load_balance = shape & 16 != 0;
    config.pool.connection_cache = shape & 32 == 0;
    config.pool.pool_size = usize::from(shape & 64 != 0);
    // Main's weight is small, so that reads go to readers.
    config.nodes[0].backend_weight = if shape & 128 != 0 { 1.0 } else { 0.0 };
    config
}

fn catalogue(version: u64, config: &Config) -> Result<Catalogue, String> {
    static ROWS: OnceLock<Vec<crate::cluster::control::Rows>> = OnceLock::new();
    let rows = ROWS.get_or_init(|| crate::sim::catalogue::catalogue(crate::sim::workload::TABLES, false));
    let lists = (&config.load_balance.read_only_function_list[..], &config.load_balance.write_function_list[..]);
    Catalogue::from_rows(version, rows, lists.0, lists.1)
}

impl World {
    /// A cluster that is up, and no client.
    pub fn new(shape: u8, trace: bool) -> World {
        let net = Rc::new(RefCell::new(State::default()));
        let spill = || Ok(Box::<MemorySpill>::default() as Box<dyn Spill>);
        let core = Core::new(Net(net.clone()), (0..NODES).map(node_address).collect(), Box::new(spill));
        let up = Membership { epoch: 1, main: NodeId(0), status: vec![NodeStatus::Up; NODES] };
        let config = config(shape);
        let env = Env {
            gated: config.cluster.backend_clustering_mode == Mode::SnapshotIsolation,
            config: Arc::new(config),
            membership: View::new(up),
            sequencer: Arc::new(Sequencer::new(NODES, 64, 0)),
            shard: 0,
            verdicts: VerdictCache::new(100).into(),
            catalogues: RefCell::new(HashMap::new()),
            catalogue_versions: Arc::default(),
            welcomes: RefCell::default(),
            recorder: Recorder::default().into(),
            pool_passwd: None,
            mock_secret: [0; 32],
            clients: Arc::default(),
            scram_verifiers: false,
            can_prepare: true,
            slots: None,
            board: Arc::new(crate::cluster::board::Board::new(NODES, 1)),
            draining: std::cell::Cell::new(false),
        };
        World {
            net,
            core,
            env,
            session: None,
            id: SessionId { slot: 0, generation: 0 },
            client: id(0),
            model: Model::new(true),
            speaker: Speaker::default(),
            backlog: BytesMut::new(),
            questions: VecDeque::new(),
            watermarks: [0; NODES],
            pids: 100,
            honest: true,
            trace: trace.then(Vec::new),
        }
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    /// A session is there.
    pub fn is_live(&self) -> bool {
        self.session.is_some()
    }

    /// Nodes tell lies from here on: what rows say proves nothing any more.
    pub fn dishonest(&mut self) {
        self.honest = false;
        self.model.honest = false;
    }

    /// A client connects.
    pub fn accept(&mut self) {
        self.client = self.net.borrow_mut().open(None, Life::Open);
        self.core.own(self.client, Owner::Client(self.id));
        self.core.current = self.id;
        self.model = Model::new(self.honest);
        self.backlog.clear();
        let mut cx = Cx { env: &self.env, io: &mut self.core };
        self.session = Some(Box::new(Session::new(self.client, Peer::Unix, (1, 1), &mut cx)));
    }

    /// The session takes an event; then everything that must hold is looked at.
    pub fn tell(&mut self, event: Event) -> Check {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        self.note(|| format!("{event:?}"));
        self.core.current = self.id;
        session.event(event, &mut Cx { env: &self.env, io: &mut self.core });
        let summary = self.trace.is_some().then(|| session.summary());
        self.note(|| format!("    {}", summary.unwrap_or_default()));
        let (over, held) = (session.is_over(), session.held());
        if over {
            self.core.backends.forget(self.id);
            self.id.generation += 1;
        } else {
            self.session = Some(session);
        }
        for deferred in std::mem::take(&mut self.core.deferred) {
            if let Deferred::Ask { token, question, session } = deferred {
                if session.generation == self.id.generation || !over {
                    self.questions.push_back((token, question));
                }
            }
        }
        let (wrong, heard, life) = {
            let mut net = self.net.borrow_mut();
            let life = net.conns[self.client.index as usize].life;
            (net.wrong.take(), net.heard.split(), life)
        };
        if !heard.is_empty() {
            self.note(|| format!("    told {}", heard.escape_ascii()));
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        self.model.received(&heard)?;
        if life == Life::Shut {
            self.model.closed()?;
        }
        let bounds = [
            ("bytes of messages wait", held.inbox, inbox_high(HIGH_WATER) + 2 * CHUNK),
            ("bytes of script are in memory", held.script, SCRIPT_LIMIT as usize),
            ("statements are prepared", held.statements, 3),
            ("SETs are remembered", held.settings, REPLAY_MAX),
            ("appliers are in hand", held.appliers, NODES - 1),
        ];
        match bounds.into_iter().find(|(_, n, most)| n > most) {
            Some((what, n, most)) => Err(format!("{n} {what}; at most {most} may")),
            None => Ok(()),
        }
    }

    /// Some of what the client has to send arrives. False: nothing can.
    pub fn client_sends(&mut self, most: usize) -> Result<bool, String> {
        let receives = {
            let net = self.net.borrow();
            let c = &net.conns[self.client.index as usize];
            c.life == Life::Open && !c.paused
        };
        let n = self.backlog.len().min(most).min(CHUNK);
        if !receives || n == 0 || self.session.is_none() {
            return Ok(false);
        }
        let bytes = self.backlog.split_to(n).freeze();
        self.model.sent(&bytes);
        self.tell(Event::Client(bytes))?;
        Ok(true)
    }

    /// The client's end of the connection is gone.
    pub fn client_leaves(&mut self) -> Check {
        self.backlog.clear();
        {
            let mut net = self.net.borrow_mut();
            let c = &mut net.conns[self.client.index as usize];
            if c.life != Life::Open {
                return Ok(());
            }
            c.life = Life::Gone;
        }
        self.core.own(self.client, Owner::Nobody);
        self.tell(Event::ClientGone)
    }

    /// What is queued on a connection leaves. False: nothing was.
    pub fn carry(&mut self, index: usize) -> Result<bool, String> {
        let drained = {
            let mut net = self.net.borrow_mut();
            let c = &mut net.conns[index];
            if c.outward.is_empty() || c.life == Life::Gone {
                return Ok(false);
            }
            let bytes = c.outward.split();
            if let Some(backend) = &mut c.backend {
                backend.receive(&bytes)?;
            }
            std::mem::take(&mut c.was_high) && c.life == Life::Open
        };
        if drained {
            match self.core.owner(id(index)) {
                Owner::Client(_) => self.tell(Event::ClientDrained)?,
                Owner::Server(_) => self.tell(Event::ServerDrained)?,
                _ => {}
            }
        }
        Ok(true)
    }

    /// A connection to a node stands.
    pub fn connected(&mut self, index: usize) -> Check {
        {
            let mut net = self.net.borrow_mut();
            let c = &mut net.conns[index];
            if c.life != Life::Connecting {
                return Ok(());
            }
            c.life = Life::Open;
        }
        match self.core.owner(id(index)) {
            Owner::Server(_) => {
                self.pids += 1;
                self.net.borrow_mut().conns[index].backend = Some(Backend::new(self.pids));
                self.tell(Event::Connected(id(index)))
            }
            Owner::Cancel(_, bytes) => {
                self.core.driver.send(id(index), bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Messages of a backend arrive; of the last one only a part, if `cut` says so. False: there is nothing.
    pub fn deliver(&mut self, index: usize, messages: usize, cut: Option<usize>) -> Result<bool, String> {
        let bytes = {
            let mut net = self.net.borrow_mut();
            let c = &mut net.conns[index];
            let Some(backend) = c.backend.as_mut().filter(|_| c.life == Life::Open && !c.paused) else {
                return Ok(false);
            };
            let mut bytes = BytesMut::new();
            for _ in 0..messages {
                let Some(next) = backend.answers.pop_front() else { break };
                bytes.extend_from_slice(&next[c.cut.min(next.len())..]);
                c.cut = 0;
            }
            if let Some((cut, next)) = cut.zip(backend.answers.front()) {
                let to = (c.cut + cut).min(next.len());
                bytes.extend_from_slice(&next[c.cut..to]);
                c.cut = to;
            }
            bytes.freeze()
        };
        if bytes.is_empty() {
            return Ok(false);
        }
        self.received(index, bytes)?;
        Ok(true)
    }

    /// Bytes of a node arrive.
    pub fn received(&mut self, index: usize, bytes: Bytes) -> Check {
        match self.core.owner(id(index)) {
            Owner::Server(_) => self.tell(Event::Server(id(index), bytes))?,
            Owner::Pooled(key) => self.core.drop_pooled(&key, id(index)),
            Owner::Idle(_) => crate::session::io::Io::abort(&mut self.core, id(index)),
            _ => {}
        }
        Ok(())
    }

    /// A connection to a node breaks, or is refused.
    pub fn lose(&mut self, index: usize) -> Check {
        {
            let mut net = self.net.borrow_mut();
            let c = &mut net.conns[index];
            if c.node.is_none() || !matches!(c.life, Life::Open | Life::Connecting) {
                return Ok(());
            }
            c.life = Life::Gone;
            c.backend = None;
        }
        let conn = id(index);
        let owner = self.core.owner(conn);
        self.core.own(conn, Owner::Nobody);
        self.core.backends.gone(conn);
        match owner {
            Owner::Server(_) => self.tell(Event::ServerGone(conn, "lost".into())),
            Owner::Cancel(..) => self.tell(Event::CancelDone),
            Owner::Pooled(key) => {
                self.core.drop_pooled(&key, conn);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The shard confirms a membership without this node, and with another main if it was that.
    pub fn confirm(&mut self, node: usize) -> Check {
        let before = self.env.membership.load();
        let Ok(next) = before.without(NodeId(u8::try_from(node).unwrap_or(0))) else { return Ok(()) };
        if self.env.membership.is_held() || !self.env.membership.confirm(&next) {
            return Ok(());
        }
        let main_lost = next.main != before.main;
        self.note(|| format!("confirm without {node}"));
        self.core.drop_pools(|key| !next.is_up(key.node) || key.node == next.main);
        self.core.drop_backends(|key| !next.is_up(key.node) || (key.reader && key.node == next.main));
        if main_lost {
            self.env.catalogue_versions.raise_all();
        }
        self.tell(Event::Confirm { main_lost })
    }

    /// All shards have confirmed it.
    pub fn go(&mut self) -> Check {
        if !self.env.membership.is_held() {
            return Ok(());
        }
        let membership = self.env.membership.load();
        for node in membership.nodes().filter(|n| !membership.is_up(*n)) {
            self.env.sequencer.release(node);
        }
        self.env.membership.go(membership.epoch, self.env.sequencer.newest());
        self.tell(Event::Go)
    }

    /// The control plane answers its oldest question: truly if `how` is 0.
    pub fn answer(&mut self, how: u8) -> Check {
        let Some((token, question)) = self.questions.pop_front() else { return Ok(()) };
        self.note(|| format!("answering {question:?} with {how}"));
        let answer = match question {
            Question::Role { .. } => Answer::Role(match how % 8 {
                7 => Err("main is away".into()),
                6 => Ok(None),
                5 => Ok(Some(Role { secret: Secret::None, can_login: false, valid_until_passed: true })),
                _ => Ok(Some(Role { secret: Secret::Plain("pw".into()), can_login: true, valid_until_passed: false })),
            }),
            Question::Catalogue { database } => {
                let name: Arc<str> = Arc::from(database.as_str());
                let version = self.env.catalogue_versions.of(&name).current();
                let read = match how % 4 {
                    3 => Err("main is away".to_owned()),
                    _ => catalogue(version, &self.env.config),
                };
                Answer::Catalogue(read.map(|c| {
                    self.env.catalogues.borrow_mut().insert(name, Arc::new(c));
                }))
            }
            Question::BackendGone { pid, .. } => {
                if how % 4 != 3 {
                    self.end_backend(pid)?;
                }
                Answer::Gone(how % 4 != 3)
            }
            // There is no slot in this world.
            Question::Resolve { .. } => return Ok(()),
            Question::Slot { .. } | Question::NoSlot { .. } => Answer::Slot(Err("there is none".into())),
            Question::Image { .. } => Answer::Image(Err(crate::image::Refusal::Lost("there is none".into()))),
            Question::Terminate { pid, .. } => return self.end_backend(pid),
            Question::Forget { .. } => {
                self.core.drop_pools(|_| true);
                self.core.drop_backends(|_| true);
                self.env.welcomes.borrow_mut().forget();
                return Ok(());
            }
            Question::Blocks { .. } => Answer::Blocks(how % 2 == 1),
            Question::Probe { .. } => Answer::Probe(match how % 4 {
                0 => Probe::Works,
                1 => Probe::WaitsForLock,
                2 => Probe::Gone,
                _ => Probe::Unreachable("away".into()),
            }),
            Question::Prepared { .. } | Question::Fate { .. } => Answer::Fate(match how % 4 {
                0 => Fate::Committed,
                1 => Fate::Aborted,
                2 => Fate::Nothing,
                _ => Fate::Unknown,
            }),
            Question::Detach { node, .. } => {
                let last = self.env.membership.load().without(node).is_err();
                let out = !self.env.membership.load().is_up(node);
                if out || (how % 4 != 3 && !last) {
                    // One change of the membership after the other, as the control plane makes them.
                    self.go()?;
                    self.confirm(usize::from(node.0))?;
                    self.go()?;
                    Answer::Detached(Ok(()))
                } else {
                    Answer::Detached(Err("it is the last one".into()))
                }
            }
            Question::Stands { node } => {
                let membership = self.env.membership.load();
                let standing = if !membership.is_up(node) {
                    Standing::Out
                } else if how % 4 == 1 && membership.without(node).is_ok() && !self.env.membership.is_held() {
                    self.confirm(usize::from(node.0))?;
                    Standing::Out
                } else if how % 4 == 2 {
                    Standing::Stays("it is the last one".into())
                } else {
                    Standing::Stands
                };
                Answer::Stands(standing)
            }
        };
        self.tell(Event::Answer(token, answer))
    }

    fn end_backend(&mut self, pid: u32) -> Check {
        let found = {
            let net = self.net.borrow();
            net.conns.iter().position(|c| c.backend.as_ref().is_some_and(|b| b.pid == pid))
        };
        found.map_or(Ok(()), |index| self.lose(index))
    }

    /// Watermarks that have moved are told to a session that waits for them. False: none has.
    fn commits_moved(&mut self) -> Result<bool, String> {
        let mut moved = self.env.sequencer.is_due(0);
        for (i, seen) in self.watermarks.iter_mut().enumerate() {
            let now = self.env.sequencer.watermark(NodeId(u8::try_from(i).unwrap_or(0)));
            moved |= now != *seen;
            *seen = now;
        }
        if !moved || std::mem::take(&mut self.core.watchers).is_empty() {
            return Ok(false);
        }
        self.tell(Event::Watermarks)?;
        Ok(true)
    }

    /// A timer goes off, if one does by then.
    pub fn timer(&mut self, until: Time) -> Result<bool, String> {
        let Some(at) = self.core.next_timer().filter(|at| *at <= until) else { return Ok(false) };
        {
            let mut net = self.net.borrow_mut();
            net.now = net.now.max(at);
        }
        if let Some((session, kind)) = self.core.due() {
            if session == self.id {
                self.tell(Event::Timer(kind))?;
            }
        }
        Ok(true)
    }

    /// Number of connections there have been.
    pub fn conns(&self) -> usize {
        self.net.borrow().conns.len()
    }

    fn turns(&mut self) -> Result<bool, String> {
        let turns = self.core.backends.take_turns();
        for id in &turns {
            if *id == self.id {
                self.tell(Event::Turn)?;
            }
        }
        Ok(!turns.is_empty())
    }

    /// One thing that is due happens, whichever the byte chooses. False: nothing is due.
    pub fn step(&mut self, pick: usize) -> Result<bool, String> {
        if self.commits_moved()? || self.turns()? {
            return Ok(true);
        }
        let conns = self.conns();
        for k in 0..conns {
            let i = (k + pick) % conns;
            if self.carry(i)? {
                return Ok(true);
            }
            let (life, cancel, ended) = {
                let net = self.net.borrow();
                let c = &net.conns[i];
                let ended = c.backend.as_ref().is_some_and(|b| (b.ended || b.dies) && b.answers.is_empty());
                (c.life, matches!(self.core.owner(id(i)), Owner::Cancel(..)), ended)
            };
            match life {
                Life::Connecting => {
                    self.connected(i)?;
                    return Ok(true);
                }
                Life::Open if cancel || ended => {
                    self.lose(i)?;
                    return Ok(true);
                }
                Life::Open if self.deliver(i, usize::MAX, None)? => return Ok(true),
                _ => {}
            }
        }
        if self.client_sends(CHUNK)? {
            return Ok(true);
        }
        if !self.questions.is_empty() {
            self.answer(0)?;
            return Ok(true);
        }
        if self.env.membership.is_held() {
            self.go()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Everything goes its way until nothing more is due.
    pub fn settle(&mut self) -> Check {
        let until = self.core.driver.now().after(PATIENCE);
        for _ in 0..20_000 {
            if !self.step(0)? && !self.timer(until)? {
                return Ok(());
            }
        }
        Err(format!("no rest: {:?}", self.session.as_ref().map(|s| s.summary())))
    }

    /// The end: everything owed is answered, and when all have left nothing is left.
    pub fn finish(&mut self) -> Check {
        self.settle()?;
        if let Some(session) = self.session.as_ref().filter(|_| self.honest) {
            if let Some(what) = self.model.owes() {
                return Err(format!("{what}: {}", session.summary()));
            }
        }
        self.client_leaves()?;
        self.settle()?;
        for round in 0..200 {
            if self.session.is_none() {
                return self.left_over();
            }
            let until = Time(u64::MAX);
            self.timer(until)?;
            self.settle()?;
            if round == 100 {
                for i in 0..self.conns() {
                    self.lose(i)?;
                }
            }
        }
        Err(format!("a session without a client does not end: {:?}", self.session.as_ref().map(|s| s.summary())))
    }

    fn left_over(&mut self) -> Check {
        self.settle()?;
        let owned = self.core.owned() - self.core.pooled() - self.core.backends.idle();
        let left = [
            ("clients are counted", self.env.clients.load(std::sync::atomic::Ordering::Relaxed)),
            ("connections are owned beside the pools'", owned),
            ("sessions wait for a backend", self.core.backends.waiting()),
        ];
        if let Some((what, n)) = left.into_iter().find(|(_, n)| *n > 0) {
            return Err(format!("left over: {n} {what}"));
        }
        let (newest, membership) = (self.env.sequencer.newest(), self.env.membership.load());
        let behind = membership.nodes().find(|n| self.env.sequencer.watermark(*n) < newest);
        behind.map_or(Ok(()), |n| Err(format!("node {n} has not acknowledged every commit up to {newest}")))
    }

    /// The connection that a byte of the input means, among those to nodes that stand.
    pub fn pick(&self, code: &mut Bytecode<'_>) -> Option<usize> {
        let net = self.net.borrow();
        let all: Vec<usize> = net
            .conns
            .iter()
            .enumerate()
            .filter(|(_, c)| c.node.is_some() && matches!(c.life, Life::Open | Life::Connecting))
            .map(|(i, _)| i)
            .collect();
        let pick = usize::from(code.byte());
        (!all.is_empty()).then(|| all[pick % all.len()])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(trace) = self.trace.take().filter(|_| std::thread::panicking()) else { return };
        for line in &trace[trace.len().saturating_sub(80)..] {
            eprintln!("{line}");
        }
    }
}
