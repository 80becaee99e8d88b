//! One seed, from nothing to the checks; and what is known when it fails.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::faults::Kind;
use super::workload::maker::Only;
use super::world::World;
use crate::config::Mode;

/// Steps after which a run counts as stuck: so many, and so many more for each of its transactions. Three times what
/// the longest of those took that hold.
const STEPS_MAX: usize = 15_000;
const STEPS_MAX_EACH: usize = 400;
/// Simulated microseconds after which it does.
const TIME_MAX_US: i64 = 1_000_000_000;

/// How large a run may be. The seed chooses up to these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Most clients.
    pub clients: usize,
    /// Most transactions per client.
    pub transactions: usize,
    /// Most faults.
    pub faults: usize,
    /// Statements that name rows by a range: the proxy replicates them by their text so far, which is not enough when
    /// rows come into the range meanwhile.
    pub ranges: bool,
    /// The clustering mode; `None`: the seed chooses.
    pub mode: Option<Mode>,
    /// Only a part of the workload.
    pub only: Option<Only>,
    /// Transactions go by images and two-phase commit where they need it; `None`: the seed chooses.
    pub images: Option<bool>,
    /// A kind of fault that happens more often than the others.
    pub favour: Option<Kind>,
    /// No node crashes or hangs.
    pub nodes_stay: bool,
    /// Record lines.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clients: 6,
            transactions: 10,
            faults: 8,
            ranges: false,
            mode: None,
            only: None,
            images: None,
            favour: None,
            nodes_stay: false,
            trace: false,
        }
    }
}

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// Simulated time.
    pub time_us: i64,
    /// Transactions by outcome: acknowledged, failed, unknown.
    pub outcomes: [u64; 3],
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What the proxy counted.
    pub counted: BTreeMap<&'static str, u64>,
    /// The trace, if lines were wanted.
    pub lines: Vec<String>,
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was not as it must be.
    pub what: String,
    /// The run.
    pub report: Report,
}

/// Runs one seed.
///
/// # Errors
/// What was found.
pub fn run_seed(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let mut report = Report::default();
    let mut world = match World::new(seed, options) {
        Ok(world) => world,
        Err(what) => return Err(Box::new(Failure { what, report })),
    };
    let begun_us = world.now_us;
    let most = STEPS_MAX + STEPS_MAX_EACH * world.clients.iter().map(|c| c.left).sum::<usize>();
    let found = play(&mut world, &mut report, most as u64);
    report.trace_hash = world.trace.value();
    report.time_us = world.now_us - begun_us;
    report.faults = world.faults.counts.clone();
    report.counted = counted(&world);
    for record in world.clients.iter().flat_map(|c| &c.records) {
        report.outcomes[record.outcome as usize] += 1;
    }
    report.lines = world.trace.into_lines();
    match found {
        Ok(()) => Ok(report),
        Err(what) => Err(Box::new(Failure { what, report })),
    }
}

fn counted(world: &World) -> BTreeMap<&'static str, u64> {
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    for shard in &world.shards {
        let c = shard.shard.counters();
        let held_back = shard.port.borrow().held_back;
        let of_shard = [
            ("commits", c.commits),
            ("scripts applied again", c.retries),
            ("differences", c.divergences),
            ("early starts", c.early_starts),
            ("reads at once", c.reads_at_once),
            ("reads run again", c.reads_again),
            ("reads sent to main", c.reads_busy),
            ("reads in the gate", c.reads_in_gate),
            ("blocks that went to main", c.blocks_moved),
            ("statements run again", c.conflicts),
            ("clients held back", held_back[0]),
            ("nodes held back", held_back[1]),
        ];
        for (name, n) in of_shard {
            *all.entry(name).or_default() += n;
        }
    }
    all.insert("scripts spilled", world.spilled.load(Ordering::Relaxed));
    all.insert("nodes detached", world.control.detached.len() as u64);
    for (name, n) in ["image slots made", "image slots lost", "images"].into_iter().zip(world.control.decoder.counts) {
        all.insert(name, n);
    }
    all.insert("transactions prepared", world.nodes.iter().map(|n| n.node.prepares()).sum());
    all
}

fn play(world: &mut World, report: &mut Report, most: u64) -> Result<(), String> {
    let end = world.now_us + TIME_MAX_US;
    loop {
        if world.clients_done() {
            world.end_faults();
            if world.is_quiet() {
                break;
            }
        }
        report.steps += 1;
        if !world.step() || report.steps > most || world.now_us > end {
            return Err(format!("stuck: {}", world.summary()));
        }
        world.after_step();
        world.check_step()?;
    }
    world.check_end()
}
