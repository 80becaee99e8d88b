//! The world: shards, nodes, clients, the control plane, and what could happen next to each of them.
//!
//! | part | what it is for |
//! |---|---|
//! | `build` | the world that a seed makes: configuration, nodes with the workload's tables |
//! | `acts` | what could happen next, and the choice among it |
//! | `network` | bytes and connections on their way |
//! | `witness` | which node has answered what |
//!
//! [`World::step`] lists everything that could happen, in a fixed order, and lets the seed choose one. Nothing else
//! moves, and time passes only when that is chosen, or when nothing else is left.

mod acts;
mod build;
mod network;
mod witness;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::check::gate::GateWatch;
use super::client::{Client, State};
use super::control::{SimControl, SimNode};
use super::driver::{Life, Port, SimDriver};
use super::faults::Faults;
use super::node::BackendId;
use super::schedule::{Random, Trace};
use crate::cluster::membership::SharedMembership;
use crate::config::{Config, Mode};
use crate::sequencer::Sequencer;
use crate::shard::Shard;
use crate::shard::driver::Time;
use acts::Act;
use witness::Witness;

/// One shard and the world's end of its driver.
pub(super) struct SimShard {
    pub shard: Shard<SimDriver>,
    pub port: Rc<RefCell<Port>>,
    until: Option<Time>,
}

/// The most of everything that has a bound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Largest {
    /// Bytes queued on one connection.
    pub queue: usize,
    /// Bytes that one turn of a shard was given.
    pub turn: usize,
    /// Bytes of messages of one client that wait.
    pub inbox: usize,
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
    /// Steps so far: the order of everything.
    pub(super) steps: u64,
    /// The step with which each client's current transaction began.
    pub(super) began: Vec<u64>,
    /// First and last step of each client's transactions that have ended.
    pub(super) spans: Vec<Vec<(u64, u64)>>,
    pub(super) witness: Witness,
    /// Which connection a backend serves.
    pub(super) links: BTreeMap<(usize, BackendId), (usize, u32)>,
    pub(super) config: Arc<Config>,
    pub(super) sequencer: Arc<Sequencer>,
    /// Scripts that went on in a spill file.
    pub(super) spilled: Arc<AtomicU64>,
    pub(super) largest: Largest,
    pub(super) gate: GateWatch,
    /// How unevenly bytes are cut: percent of deliveries that are whole.
    whole: usize,
    /// The last step was one in which sessions, or the gate, could change, or time passed.
    pub(super) may_have_moved: bool,
    /// In so many of a hundred cases the rest of what was cut comes later.
    gaps: usize,
    late: usize,
    acts: Vec<Act>,
}

impl World {
    /// All clients have done what they had to.
    #[must_use]
    pub fn clients_done(&self) -> bool {
        self.clients.iter().all(|c| c.state == State::Done)
    }

    /// `snapshot_isolation`: no client can tell which node has answered.
    pub(super) fn isolates(&self) -> bool {
        self.config.cluster.backend_clustering_mode == Mode::SnapshotIsolation
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.now_us).unwrap_or(0).saturating_mul(1000))
    }

    /// Clients whose answers made them write send it.
    pub fn after_step(&mut self) {
        self.relieve_the_last();
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
}
