//! The world: shards, nodes, clients, the control plane, and what could happen next to each of them.
//!
//! [`World::step`] lists everything that could happen, in a fixed order, and lets the seed choose one. Nothing else
//! moves, and time passes only when that is chosen, or when nothing else is left.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::BytesMut;

use super::client::{Client, State};
use super::control::{SimControl, SimNode, catalogue};
use super::driver::{End, Far, Life, Port, SimDriver, node_address};
use super::faults::{Fault, Faults};
use super::node::{BackendId, Gone, Node, NodeConfig, Step};
use super::run::Options;
use super::schedule::{Random, Trace, readable};
use super::workload::{SCHEMA, TABLES, first_rows};
use crate::cluster::control::{ControlHandle, ShardHandle};
use crate::cluster::membership::{Membership, NodeStatus, SharedMembership};
use crate::config::Config;
use crate::sequencer::{NodeId, Sequencer};
use crate::session::catalogue::Versions;
use crate::session::io::Env;
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::driver::{Driver, Time};
use crate::sql::cache::VerdictCache;
use crate::telemetry::Recorder;
use crate::wire::front;

/// Commits that may be under way.
const WINDOW: usize = 256;
/// Messages that may wait for a shard.
const INBOX: usize = 256;
/// Simulated time at which a run begins: late enough for every clock's skew.
const START_US: i64 = 5_000_000;

/// Something that could happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Turn(usize),
    Deliver(usize, u32),
    Carry(usize, u32),
    Connect(usize, u32),
    Ended(usize, u32),
    Node(usize, Step),
    Answer(usize),
    Client(usize),
    Health(usize),
    Fault,
    Time,
}

/// One shard and the world's end of its driver.
pub(super) struct SimShard {
    pub shard: Shard<SimDriver>,
    pub port: Rc<RefCell<Port>>,
    until: Option<Time>,
}

/// Everything.
pub struct World {
    pub(super) now_us: i64,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) shards: Vec<SimShard>,
    pub(super) nodes: Vec<SimNode>,
    pub(super) clients: Vec<Client>,
    pub(super) control: SimControl,
    pub(super) membership: Arc<SharedMembership>,
    pub(super) faults: Faults,
    /// Records of each client that have been checked.
    pub(super) checked: Vec<usize>,
    /// Which connection a backend serves.
    pub(super) links: BTreeMap<(usize, BackendId), (usize, u32)>,
    /// Most bytes that a shard has had queued on one connection.
    pub(super) largest_queue: usize,
    /// How unevenly bytes are cut: percent of deliveries that are whole.
    whole: usize,
    late: usize,
    acts: Vec<Act>,
}

impl World {
    /// The world that this seed makes.
    ///
    /// # Errors
    /// The schema or the configuration is not understood: a mistake of the simulator's own.
    pub fn new(seed: u64, options: &Options) -> Result<World, String> {
        let mut random = Random::new(seed);
        let config = Arc::new(config(&mut random)?);
        let nodes = (0..config.nodes.len()).map(|i| node(i, &mut random)).collect::<Result<Vec<_>, _>>()?;
        let count = 1 + random.below(3);
        let sequencer = Arc::new(Sequencer::new(nodes.len(), WINDOW, 0));
        let up = Membership { epoch: 1, main: NodeId(0), status: vec![NodeStatus::Up; nodes.len()] };
        let membership = Arc::new(SharedMembership::new(up));
        let ports: Vec<_> = (0..count).map(|_| Rc::new(RefCell::new(Port::new(random.split())))).collect();
        let handles: Vec<ShardHandle> = ports
            .iter()
            .map(|p| ShardHandle {
                inbox: Arc::new(crossbeam::queue::ArrayQueue::new(INBOX)),
                doorbell: SimDriver::new(p.clone()).doorbell(),
            })
            .collect();
        let (handle, queue) = ControlHandle::with_queue();
        let (versions, logged_in) = (Arc::new(Versions::default()), Arc::new(AtomicUsize::new(0)));
        let shards = ports.into_iter().enumerate().map(|(number, port)| {
            let addresses = (0..nodes.len()).map(node_address).collect();
            let core = Core::new(SimDriver::new(port.clone()), addresses, std::env::temp_dir());
            let env = Env {
                config: config.clone(),
                membership: membership.clone(),
                sequencer: sequencer.clone(),
                verdicts: VerdictCache::new(100).into(),
                catalogues: RefCell::new(HashMap::new()),
                catalogue_versions: versions.clone(),
                recorder: Recorder::default().into(),
                pool_passwd: None,
                mock_secret: [0; 32],
                clients: logged_in.clone(),
                scram_verifiers: false,
                can_prepare: false,
                draining: std::cell::Cell::new(false),
            };
            SimShard { shard: Shard::new(number, core, env, handle.clone(), handles.clone()), port, until: None }
        });
        let shards = shards.collect();
        let control =
            SimControl::new(queue, handles, membership.clone(), sequencer.clone(), catalogue(TABLES), nodes.len());
        let clients = 1 + random.below(options.clients.max(1));
        let each = 1 + random.below(options.transactions.max(1));
        let modes = (options.ranges, random.percent(50));
        let clients: Vec<Client> = (0..clients).map(|i| Client::new(i, each, modes, random.split())).collect();
        let faults = Faults::new(options.faults, &mut random);
        Ok(World {
            now_us: START_US,
            trace: Trace::new(options.trace),
            shards,
            nodes,
            checked: vec![0; clients.len()],
            clients,
            control,
            membership,
            faults,
            links: BTreeMap::new(),
            largest_queue: 0,
            whole: [100, 80, 30][random.below(3)],
            late: [0, 5, 50][random.below(3)],
            acts: Vec::new(),
            random,
        })
    }

    /// All clients have done what they had to.
    #[must_use]
    pub fn clients_done(&self) -> bool {
        self.clients.iter().all(|c| c.state == State::Done)
    }

    /// Lists what could happen.
    fn list(&mut self) {
        let mut acts = std::mem::take(&mut self.acts);
        acts.clear();
        let now = self.now();
        for (s, shard) in self.shards.iter().enumerate() {
            let port = shard.port.borrow();
            if port.is_due() || shard.until.is_some_and(|t| t <= now) {
                acts.push(Act::Turn(s));
            }
            for (i, c) in port.conns().iter().enumerate() {
                let i = u32::try_from(i).unwrap_or(u32::MAX);
                match c.life {
                    Life::Free => continue,
                    Life::Connecting => {
                        acts.push(Act::Connect(s, i));
                        continue;
                    }
                    Life::Open if !c.inward.is_empty() => {
                        if !c.paused {
                            acts.push(Act::Deliver(s, i));
                        }
                    }
                    Life::Open if c.end.is_some() => acts.push(Act::Ended(s, i)),
                    Life::Open => {}
                    Life::Closing if c.outward.is_empty() || c.end.is_some() => acts.push(Act::Ended(s, i)),
                    Life::Closing => {}
                    Life::Aborted => acts.push(Act::Ended(s, i)),
                }
                if !c.outward.is_empty() && c.end.is_none() && c.life != Life::Aborted {
                    acts.push(Act::Carry(s, i));
                }
            }
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let slow = node.pace < 100 && !self.random.percent(node.pace);
            if !slow {
                acts.extend(node.node.runnable(self.now_us).into_iter().map(|step| Act::Node(n, step)));
            }
        }
        acts.extend(self.control.ready(self.now_us, &self.nodes).map(Act::Answer));
        acts.extend(self.control.health_due(self.now_us).map(Act::Health));
        acts.extend(self.clients.iter().filter(|c| c.can_act()).map(|c| Act::Client(c.number)));
        if self.faults.is_possible() && self.random.below(1000) < self.faults.rate {
            acts.push(Act::Fault);
        }
        self.acts = acts;
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.now_us).unwrap_or(0).saturating_mul(1000))
    }

    /// Lets one thing happen. False: nothing can, and no time will change that.
    pub fn step(&mut self) -> bool {
        self.list();
        let acts = std::mem::take(&mut self.acts);
        let act = match acts.len() {
            0 => Act::Time,
            _ if self.random.below(1000) < 20 => Act::Time,
            n => acts[self.random.below(n)],
        };
        let possible = acts.len();
        self.acts = acts;
        self.trace.numbers(&[u64::try_from(self.now_us).unwrap_or(0), possible as u64]);
        match act {
            Act::Turn(s) => self.turn(s),
            Act::Deliver(s, i) => self.deliver(s, i),
            Act::Carry(s, i) => self.carry(s, i),
            Act::Connect(s, i) => self.connect(s, i),
            Act::Ended(s, i) => self.conn_ended(s, i),
            Act::Node(n, step) => self.node_step(n, step),
            Act::Answer(at) => {
                let told = self.control.answer(at, &mut self.nodes);
                self.trace.hash(told.as_bytes());
                self.trace.line(self.now_us, || format!("control   {told} [1 of {possible}]"));
            }
            Act::Client(c) => self.client_acts(c),
            Act::Health(n) => self.control.check_health(n, self.now_us, &self.nodes),
            Act::Fault => self.fault(),
            Act::Time => return self.pass(possible == 0),
        }
        true
    }

    /// Time passes: a little, or until the next thing can happen.
    fn pass(&mut self, idle: bool) -> bool {
        if !idle {
            self.now_us += self.random.between(1, 500);
            return true;
        }
        let nodes = self.nodes.iter().filter_map(|n| n.node.next_wakeup(self.now_us));
        // A slow node's steps are possible at any time.
        let slow = self.nodes.iter().any(|n| n.pace < 100 && !n.node.runnable(self.now_us).is_empty());
        let timers =
            self.shards.iter().filter_map(|s| s.until).map(|t| i64::try_from(t.0.div_ceil(1000)).unwrap_or(i64::MAX));
        let control = self.control.next_wakeup(self.now_us, &self.nodes);
        let slow = slow.then_some(self.now_us + 200);
        let next = nodes.chain(timers).chain(control).chain(slow).chain(Some(self.control.next_health())).min();
        let Some(next) = next else { return false };
        self.now_us = self.now_us.max(next);
        self.trace.line(self.now_us, || "time      passes: nothing else is possible".into());
        true
    }

    fn turn(&mut self, s: usize) {
        let now = self.now();
        let shard = &mut self.shards[s];
        shard.port.borrow_mut().now = now;
        if let Ok(until) = shard.shard.turn(shard.until) {
            shard.until = until;
        }
        let queued = shard.port.borrow().conns().iter().map(|c| c.outward.len()).max();
        self.largest_queue = self.largest_queue.max(queued.unwrap_or(0));
        self.trace.line(self.now_us, || format!("shard {s}   takes its turn"));
        let late = self.late;
        let random = &mut self.random;
        let delay = |_: &_| if random.percent(late) { random.between(1, 200_000) } else { random.between(0, 300) };
        self.control.collect(self.now_us, delay);
    }

    fn cut(&mut self, length: usize) -> usize {
        if self.random.percent(self.whole) { length } else { 1 + self.random.below(length) }
    }

    fn deliver(&mut self, s: usize, i: u32) {
        let length = self.shards[s].port.borrow_mut().conn(i).inward.len();
        let n = self.cut(length);
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = port.deliver(i, n);
        let far = port.conn(i).far;
        self.trace.hash(&bytes);
        self.trace.line(self.now_us, || format!("{} -> shard {s} #{i}: {}", name(far), readable(&bytes)));
    }

    fn carry(&mut self, s: usize, i: u32) {
        let length = self.shards[s].port.borrow_mut().conn(i).outward.len();
        let n = self.cut(length);
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = port.carry(i, n);
        let far = port.conn(i).far;
        drop(port);
        self.trace.hash(&bytes);
        self.trace.line(self.now_us, || format!("shard {s} #{i} -> {}: {}", name(far), readable(&bytes)));
        self.arrives(far, &bytes);
    }

    fn arrives(&mut self, far: Far, bytes: &BytesMut) {
        match far {
            Far::Client(c) => self.clients[c].receive(bytes),
            Far::Node(n, Some(b)) => self.nodes[n].node.receive(b, bytes),
            Far::Node(_, None) | Far::Canceller => {}
        }
    }

    fn connect(&mut self, s: usize, i: u32) {
        let mut port = self.shards[s].port.borrow_mut();
        let Far::Node(n, _) = port.conn(i).far else { return };
        match self.nodes[n].node.connect() {
            Some(backend) => {
                port.connected(i, backend);
                self.links.insert((n, backend), (s, i));
                self.trace.line(self.now_us, || format!("node {n}    accepts #{i} of shard {s} as {backend:?}"));
            }
            None => port.closed(i, End::Broken),
        }
    }

    /// One side has ended the connection, and everything that was on its way to the other has arrived (or is lost).
    fn conn_ended(&mut self, s: usize, i: u32) {
        let (life, far, end) = {
            let mut port = self.shards[s].port.borrow_mut();
            let c = port.conn(i);
            (c.life, c.far, c.end)
        };
        self.trace.line(self.now_us, || format!("{} x shard {s} #{i}: {life:?} {end:?}", name(far)));
        if life == Life::Aborted && end.is_none() {
            // What the kernel had taken may still get through.
            let length = self.shards[s].port.borrow_mut().conn(i).outward.len();
            let n = self.random.below(length + 1);
            let bytes = self.shards[s].port.borrow_mut().conn(i).outward.split_to(n);
            self.arrives(far, &bytes);
        }
        {
            let mut port = self.shards[s].port.borrow_mut();
            match end {
                Some(end) if life == Life::Open => port.closed(i, end),
                _ => port.release(i),
            }
        }
        match far {
            Far::Client(c) if self.clients[c].conn == Some((s, i)) => self.clients[c].gone(),
            Far::Node(n, Some(b)) if self.links.remove(&(n, b)).is_some() => {
                let noticed = if self.random.percent(50) { Gone::AtRead } else { Gone::AtWrite };
                self.nodes[n].node.client_gone(b, noticed);
            }
            _ => {}
        }
    }

    fn node_step(&mut self, n: usize, step: Step) {
        self.nodes[n].node.step(step, self.now_us);
        self.trace.line(self.now_us, || format!("node {n}    {step:?}"));
        let Step::Backend(id, _) = step else { return };
        let output = self.nodes[n].node.take_output(id);
        let Some((s, i)) = self.links.get(&(n, id)).copied() else { return };
        let mut port = self.shards[s].port.borrow_mut();
        let c = port.conn(i);
        c.inward.extend_from_slice(&output.bytes);
        if output.closed {
            c.end = Some(End::Closed);
            self.links.remove(&(n, id));
        }
    }

    fn client_acts(&mut self, number: usize) {
        let shards = self.shards.len();
        let client = &mut self.clients[number];
        if client.state == State::Away {
            let s = self.random.below(shards);
            let i = self.shards[s].port.borrow_mut().accept(Far::Client(number));
            client.connected((s, i));
        } else {
            client.act();
        }
        self.trace.line(self.now_us, || format!("client {number}  goes on with {}", client.doing()));
        self.client_sends(number);
    }

    /// What the client has written is on its way.
    pub(super) fn client_sends(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some((s, i)) = client.conn else { return };
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = client.out.split();
        port.conn(i).inward.extend_from_slice(&bytes);
    }

    fn fault(&mut self) {
        let fault = self.choose_fault();
        if let Some(fault) = fault {
            self.trace.line(self.now_us, || format!("fault     {fault:?}"));
            self.faults.count(&fault);
            self.inflict(fault);
        }
    }

    /// Clients whose answers made them write send it.
    pub fn after_step(&mut self) {
        for c in 0..self.clients.len() {
            if !self.clients[c].out.is_empty() {
                self.client_sends(c);
            }
        }
    }

    /// Nothing is under way: no session, no question, no connection that moves.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let conns = |s: &SimShard| {
            s.port.borrow().conns().iter().all(|c| match c.life {
                Life::Free => true,
                Life::Open => c.inward.is_empty() && c.outward.is_empty() && c.end.is_none(),
                _ => false,
            })
        };
        self.clients_done()
            && self.control.is_idle()
            && self.shards.iter().all(|s| !s.port.borrow().is_due() && s.shard.summaries().is_empty() && conns(s))
            && self
                .nodes
                .iter()
                .all(|n| n.node.runnable(self.now_us).is_empty() && n.node.next_wakeup(self.now_us).is_none())
    }

    /// A fault that ends by itself.
    pub(super) fn relieve(&mut self, fault: &Fault) {
        if let Fault::Restart(n) = fault {
            self.nodes[*n].node.restart(self.now_us);
        }
    }
}

/// Who is at the far end, for traces.
fn name(far: Far) -> String {
    match far {
        Far::Client(c) => format!("client {c}"),
        Far::Canceller => "canceller".into(),
        Far::Node(n, b) => format!("node {n} {}", b.map_or(0, |b| b.0)),
    }
}

fn config(random: &mut Random) -> Result<Config, String> {
    let early = random.percent(30);
    let mut text = String::from(
        "[cluster]\nname = \"sim\"\nwork_dir = \"/\"\nbackend_clustering_mode = \"native_replication\"\n[authentication]\nclient_auth = \"trust\"\n",
    );
    for i in 0..3 {
        text.push_str(&format!("[[node]]\nid = {i}\nbackend_hostname = \"node{i}\"\n"));
    }
    let mut config = Config::parse(&text, std::path::Path::new("sim")).map_err(|e| e.to_string())?;
    if early {
        // Smaller than a file may say: every second transaction starts early.
        config.replication.early_start = 60;
    }
    Ok(config)
}

/// A node with the workload's tables.
fn node(i: usize, random: &mut Random) -> Result<SimNode, String> {
    let id = u8::try_from(i).unwrap_or(u8::MAX);
    let config = NodeConfig {
        id,
        clock_skew_us: random.between(-1_000_000, 1_000_000),
        flush_us: random.between(0, 2000),
        visible_us: random.between(0, 200),
        physical_order_seed: random.next_u64(),
        first_xid: 700 + 1000 * u64::from(id),
        ..NodeConfig::default()
    };
    let mut node = Node::new(config);
    let b = node.connect().ok_or("a new node is down")?;
    let mut out = BytesMut::new();
    front::startup(&mut out, [("user", "postgres"), ("database", "d")]);
    for sql in SCHEMA.iter().map(|s| (*s).to_owned()).chain(first_rows()) {
        front::query(&mut out, sql.as_bytes());
    }
    out.extend_from_slice(front::TERMINATE);
    node.receive(b, &out);
    let mut now = 2_000_000;
    loop {
        match node.runnable(now).first().copied() {
            Some(step) => node.step(step, now),
            None => match node.next_wakeup(now) {
                Some(t) => now = t,
                None => break,
            },
        }
    }
    let told = node.take_output(b);
    if let Some(at) = told.bytes.windows(2).position(|w| w == b"VE") {
        return Err(format!("the schema is refused: {}", readable(&told.bytes[at..])));
    }
    Ok(SimNode { node, hung: false, restarts: 0, pace: 100 })
}
