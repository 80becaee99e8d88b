//! The world that a seed makes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;

use super::witness::Witness;
use super::{Largest, SimShard, World};
use crate::cluster::control::{ControlHandle, ShardHandle};
use crate::cluster::images::Slots;
use crate::cluster::membership::{Membership, NodeStatus, SharedMembership, View};
use crate::config::{BusyReads, Config, Mode, TransactionReads, UnsafeStatements};
use crate::script::Spill;
use crate::script::store::MemorySpill;
use crate::sequencer::{NodeId, Sequencer};
use crate::session::catalogue::Versions;
use crate::session::io::Env;
use crate::shard::Shard;
use crate::shard::core::Core;
use crate::shard::driver::Driver;
use crate::sim::catalogue;
use crate::sim::check::gate::GateWatch;
use crate::sim::client::Client;
use crate::sim::control::{SimControl, SimNode};
use crate::sim::decoder::SimDecoder;
use crate::sim::driver::{Port, SimDriver, node_address};
use crate::sim::faults::Faults;
use crate::sim::node::{Node, NodeConfig};
use crate::sim::run::Options;
use crate::sim::schedule::{Random, Trace, readable};
use crate::sim::workload::maker::{Mix, Only};
use crate::sim::workload::tracked::AUDITED;
use crate::sim::workload::{SCHEMA, Sees, TABLES, first_rows};
use crate::sql::cache::VerdictCache;
use crate::telemetry::Recorder;
use crate::wire::front;

/// Commits that may be under way, in one run or another.
const WINDOWS: [usize; 3] = [2, 8, 256];
/// Messages that may wait for a shard: few, so that it is full at times.
const INBOX: usize = 4;
/// How often a script may be applied again, in one run or another.
const APPLY_RETRIES: [u32; 2] = [8, 60];
/// Bytes of a script that may be in memory, in one run or another.
const SCRIPT_LIMITS: [u64; 2] = [300, 64 << 20];
/// Makes the mode a choice of its own: with another one forced, a seed's run is the same otherwise.
const MODE_SEED: u64 = 0x736e_6170;
/// Makes where reads go in `snapshot_isolation` a choice of its own too.
const READS_SEED: u64 = 0x7265_6164;
/// Makes it a choice of its own whether there are images.
const IMAGE_SEED: u64 = 0x696d_6167;
/// In so many of a hundred runs there are.
const IMAGES: usize = 30;
/// Simulated time at which a run begins: late enough for every clock's skew.
const START_US: i64 = 5_000_000;

impl World {
    /// The world that this seed makes.
    ///
    /// # Errors
    /// The schema or the configuration is not understood: a mistake of the simulator's own.
    pub fn new(seed: u64, options: &Options) -> Result<World, String> {
        let mut random = Random::new(seed);
        let isolates = Random::new(seed ^ MODE_SEED).percent(50);
        let by_seed = if isolates { Mode::SnapshotIsolation } else { Mode::NativeReplication };
        let mode = options.mode.unwrap_or(by_seed);
        let mut config = config(mode, &mut Random::new(seed ^ READS_SEED), &mut random)?;
        let mut of_images = Random::new(seed ^ IMAGE_SEED);
        let images = of_images.percent(IMAGES);
        let images = options.images.unwrap_or(images);
        if images {
            // Nothing may go by its text that leaves other rows elsewhere.
            config.replication.unsafe_statements = UnsafeStatements::Refuse;
        }
        let config = Arc::new(config);
        let slots = images.then(Arc::<Slots>::default);
        let nodes = (0..config.nodes.len()).map(|i| node(i, images, &mut random)).collect::<Result<Vec<_>, _>>()?;
        let count = 1 + random.below(3);
        let sequencer = Arc::new(Sequencer::new(nodes.len(), WINDOWS[random.below(3)], 0));
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
        let shared = Shared {
            config,
            membership,
            sequencer,
            versions: Arc::default(),
            logged_in: Arc::default(),
            spilled: Arc::default(),
            slots: slots.clone(),
        };
        let make = |(number, port)| shared.shard(number, port, nodes.len(), &handle, &handles);
        let shards = ports.into_iter().enumerate().map(make).collect();
        let Shared { config, membership, sequencer, spilled, .. } = shared;
        let known = if images {
            catalogue::whole(&nodes[0].node)
        } else {
            catalogue::catalogue(TABLES, options.only == Some(Only::Rows))
        };
        let decoder = SimDecoder::new(slots, &config, of_images);
        let control =
            SimControl::new(queue, handles, membership.clone(), sequencer.clone(), known, nodes.len(), decoder);
        let clients = 1 + random.below(options.clients.max(1));
        let each = 1 + random.below(options.transactions.max(1));
        let usual = if mode == Mode::SnapshotIsolation { Sees::Snapshot } else { Sees::Statement };
        let mut mix = Mix::new(options.ranges, options.only, &mut random);
        mix.images = images;
        let clients: Vec<Client> = (0..clients).map(|i| Client::new(i, each, mix, usual, random.split())).collect();
        let faults = Faults::new(options, &mut random);
        Ok(World {
            now_us: START_US,
            trace: Trace::new(options.trace),
            shards,
            nodes,
            checked: vec![0; clients.len()],
            steps: 0,
            began: vec![0; clients.len()],
            spans: vec![Vec::new(); clients.len()],
            witness: Witness::default(),
            clients,
            control,
            membership,
            faults,
            links: BTreeMap::new(),
            config,
            sequencer,
            spilled,
            largest: Largest::default(),
            gate: GateWatch::default(),
            whole: [100, 80, 30][random.below(3)],
            may_have_moved: true,
            gaps: [0, 20, 100][random.below(3)],
            late: [0, 5, 50][random.below(3)],
            acts: Vec::new(),
            random,
        })
    }
}

/// What all shards of a process share.
struct Shared {
    config: Arc<Config>,
    membership: Arc<SharedMembership>,
    sequencer: Arc<Sequencer>,
    versions: Arc<Versions>,
    logged_in: Arc<AtomicUsize>,
    spilled: Arc<AtomicU64>,
    slots: Option<Arc<Slots>>,
}

impl Shared {
    fn shard(
        &self,
        number: usize,
        port: Rc<RefCell<Port>>,
        nodes: usize,
        control: &ControlHandle,
        all: &[ShardHandle],
    ) -> SimShard {
        let addresses = (0..nodes).map(node_address).collect();
        let spilled = self.spilled.clone();
        let make_spill = move || {
            spilled.fetch_add(1, Ordering::Relaxed);
            Ok(Box::<MemorySpill>::default() as Box<dyn Spill>)
        };
        let core = Core::new(SimDriver::new(port.clone()), addresses, Box::new(make_spill));
        let env = Env {
            config: self.config.clone(),
            membership: View::new(Membership::clone(&self.membership.load())),
            sequencer: self.sequencer.clone(),
            shard: number,
            gated: self.config.cluster.backend_clustering_mode == Mode::SnapshotIsolation,
            verdicts: VerdictCache::new(100).into(),
            catalogues: RefCell::new(HashMap::new()),
            catalogue_versions: self.versions.clone(),
            welcomes: RefCell::default(),
            recorder: Recorder::default().into(),
            pool_passwd: None,
            mock_secret: [0; 32],
            clients: self.logged_in.clone(),
            scram_verifiers: false,
            can_prepare: self.slots.is_some(),
            slots: self.slots.clone(),
            board: Arc::new(crate::cluster::board::Board::new(self.config.nodes.len(), 1)),
            draining: std::cell::Cell::new(false),
        };
        SimShard { shard: Shard::new(number, core, env, control.clone(), all.to_vec()), port, until: None }
    }
}

/// `reads` chooses only where reads go.
fn config(mode: Mode, reads: &mut Random, random: &mut Random) -> Result<Config, String> {
    let early = random.percent(30);
    let word = match mode {
        Mode::NativeReplication => "native_replication",
        Mode::SnapshotIsolation => "snapshot_isolation",
    };
    let mut text = format!(
        "[cluster]\nname = \"sim\"\nwork_dir = \"/\"\nbackend_clustering_mode = \"{word}\"\n\
         [authentication]\nclient_auth = \"trust\"\n"
    );
    for i in 0..3 {
        text.push_str(&format!("[[node]]\nid = {i}\nbackend_hostname = \"node{i}\"\n"));
    }
    let mut config = Config::parse(&text, std::path::Path::new("sim")).map_err(|e| e.to_string())?;
    if early {
        // Smaller than a file may say: every second transaction starts early.
        config.replication.early_start = 60;
    }
    config.replication.apply_retries = APPLY_RETRIES[random.below(2)];
    // Each backend is asked for a sign of life; few are kept; clients wait for one.
    if random.percent(30) {
        config.pool.server_check_delay = Duration::ZERO;
    }
    config.load_balance.statement_level_load_balance = random.percent(30);
    if mode == Mode::SnapshotIsolation {
        if reads.percent(40) {
            config.load_balance.busy_reads = BusyReads::Wait;
        }
        if reads.percent(40) {
            config.load_balance.transaction_reads = TransactionReads::Spread;
        }
    }
    // Reads are for the others, or for all.
    config.nodes[0].backend_weight = [0.0, 1.0][random.below(2)];
    config.pool.max_pool = [1, 64][random.below(2)];
    config.pool.pool_size = [0, 0, 3][random.below(3)];
    config.replication.script_limit = SCRIPT_LIMITS[random.below(2)];
    Ok(config)
}

/// A node with the workload's tables.
fn node(i: usize, images: bool, random: &mut Random) -> Result<SimNode, String> {
    let id = u8::try_from(i).unwrap_or(u8::MAX);
    let config = NodeConfig {
        id,
        clock_skew_us: random.between(-1_000_000, 1_000_000),
        flush_us: random.between(0, 2000),
        visible_us: random.between(0, 200),
        physical_order_seed: random.next_u64(),
        first_xid: 700 + 1000 * u64::from(id),
        logical: images,
        ..NodeConfig::default()
    };
    let mut node = Node::new(config);
    let b = node.connect().ok_or("a new node is down")?;
    let mut out = BytesMut::new();
    front::startup(&mut out, [("user", "postgres"), ("database", "d")]);
    let more = if images { AUDITED } else { &[] };
    let more = more.iter().map(|s| (*s).to_owned());
    for sql in SCHEMA.iter().map(|s| (*s).to_owned()).chain(first_rows()).chain(more) {
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
    Ok(SimNode { node, hung: false, restarts: 0, pace: 100, stalled: BTreeMap::new() })
}
