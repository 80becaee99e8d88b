//! The membership: an immutable set, swapped atomically. Its epoch is one atomic look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::sequencer::NodeId;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Identical with main, and written to.
    Up,
    /// Could not be reached at the start.
    Down,
    /// It lacks commits, or differs: it must be brought back before it is used again.
    Stale,
    /// Being brought back.
    Recovering,
}

impl std::fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NodeStatus::Up => "up",
            NodeStatus::Down => "down",
            NodeStatus::Stale => "stale",
            NodeStatus::Recovering => "recovering",
        })
    }
}

/// Who is up and who is main.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Counts memberships, over restarts too.
    pub epoch: u64,
    /// The node on which transactions run.
    pub main: NodeId,
    /// By node id.
    pub status: Vec<NodeStatus>,
}

impl Membership {
    /// The node is up.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.status.get(usize::from(node.0)) == Some(&NodeStatus::Up)
    }

    /// All configured nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.status.len()).filter_map(|i| u8::try_from(i).ok().map(NodeId))
    }

    /// Every up node but main.
    pub fn replicas(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes().filter(|n| *n != self.main && self.is_up(*n))
    }

    /// Number of up nodes.
    #[must_use]
    pub fn up(&self) -> usize {
        self.nodes().filter(|n| self.is_up(*n)).count()
    }

    /// The next membership, without one node. Main never goes this way, so at least main stays.
    ///
    /// # Errors
    /// Why the node cannot be taken out.
    pub fn without(&self, node: NodeId) -> Result<Membership, String> {
        if node == self.main {
            return Err(format!("node {node} is main; failover of main is not built yet"));
        }
        if !self.is_up(node) {
            return Err(format!("node {node} is not up"));
        }
        let mut next = self.clone();
        next.epoch += 1;
        next.status[usize::from(node.0)] = NodeStatus::Stale;
        Ok(next)
    }
}

/// The membership in force.
#[derive(Debug)]
pub struct SharedMembership {
    current: ArcSwap<Membership>,
    epoch: AtomicU64,
}

impl SharedMembership {
    /// Begins with one.
    #[must_use]
    pub fn new(first: Membership) -> SharedMembership {
        SharedMembership { epoch: AtomicU64::new(first.epoch), current: ArcSwap::from_pointee(first) }
    }

    /// The membership in force.
    #[must_use]
    pub fn load(&self) -> Arc<Membership> {
        self.current.load_full()
    }

    /// Its epoch, by one look.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Puts another in force. It must be durable already.
    pub fn store(&self, next: Membership) {
        let epoch = next.epoch;
        self.current.store(Arc::new(next));
        self.epoch.store(epoch, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_replica_out_makes_a_new_epoch_and_main_stays() {
        let m = Membership { epoch: 7, main: NodeId(0), status: vec![NodeStatus::Up; 3] };
        let next = m.without(NodeId(2)).unwrap();
        assert_eq!((next.epoch, next.up()), (8, 2));
        assert_eq!(next.replicas().collect::<Vec<_>>(), [NodeId(1)]);
        assert!(next.without(NodeId(2)).is_err());
        assert!(next.without(NodeId(0)).is_err());
        let shared = SharedMembership::new(m);
        shared.store(next);
        assert_eq!((shared.epoch(), shared.load().is_up(NodeId(2))), (8, false));
    }
}
