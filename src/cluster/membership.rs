//! The membership: an immutable set, swapped atomically. Its epoch is one atomic look.
//!
//! [`SharedMembership`] is what the control plane has put in force; [`View`] is what one shard has confirmed of it, and
//! the only thing that sessions look at. Between the two lies the hand-over of [`super::handover`].

use std::cell::{Cell, RefCell};
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

    /// The next membership, without one node. If that is main, the lowest of those that stay takes its place.
    ///
    /// # Errors
    /// Why the node cannot be taken out; the last one never is.
    pub fn without(&self, node: NodeId) -> Result<Membership, String> {
        if !self.is_up(node) {
            return Err(format!("node {node} is not up"));
        }
        let mut next = self.clone();
        next.epoch += 1;
        next.status[usize::from(node.0)] = NodeStatus::Stale;
        let Some(lowest) = next.nodes().find(|n| next.is_up(*n)) else {
            return Err(format!("node {node} is the last one that is up"));
        };
        if node == self.main {
            next.main = lowest;
        }
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

/// The membership as one shard has confirmed it.
///
/// From the moment a shard has confirmed a membership it relays nothing of the nodes that are not in it. Until all
/// shards have, it is *held*: nothing is finished, acknowledged or begun in it (hazards 40, 73).
#[derive(Debug)]
pub struct View {
    current: RefCell<Arc<Membership>>,
    held: Cell<bool>,
    /// The main before this one is lost.
    main_lost: Cell<bool>,
    inherited: Cell<u64>,
}

impl View {
    /// Begins with one that is in force.
    #[must_use]
    pub fn new(first: Membership) -> View {
        View {
            current: RefCell::new(Arc::new(first)),
            held: Cell::new(false),
            main_lost: Cell::new(false),
            inherited: Cell::new(0),
        }
    }

    /// The newest membership that the shard has confirmed.
    #[must_use]
    pub fn load(&self) -> Arc<Membership> {
        self.current.borrow().clone()
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.current.borrow().epoch
    }

    /// Other shards have yet to confirm it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.get()
    }

    /// The shard confirms the next one. False: it is none that follows.
    pub fn confirm(&self, next: &Membership) -> bool {
        if next.epoch <= self.epoch() {
            return false;
        }
        // A copy of its own: the count of an Arc that all shards share would be one more line between their cores.
        let before = self.current.replace(Arc::new(next.clone()));
        self.main_lost.set(self.main_lost.get() || before.main != next.main);
        self.held.set(true);
        true
    }

    /// All shards have confirmed this epoch. `newest`: the newest commit that has a number. False: it is not the one that
    /// is held.
    pub fn go(&self, epoch: u64, newest: u64) -> bool {
        let goes = self.held.get() && epoch == self.epoch() && self.held.replace(false);
        if goes && self.main_lost.take() {
            self.inherited.set(newest);
        }
        goes
    }

    /// Every commit that a lost main was sent, and may have shown to somebody, has a number up to this one. Before the
    /// present main has all of them, a read there could go back in time.
    #[must_use]
    pub fn inherited(&self) -> u64 {
        self.inherited.get()
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
        let shared = SharedMembership::new(m);
        shared.store(next);
        assert_eq!((shared.epoch(), shared.load().is_up(NodeId(2))), (8, false));
    }

    #[test]
    fn the_lowest_replica_takes_the_place_of_main_and_the_last_node_never_goes() {
        let mut status = vec![NodeStatus::Up; 4];
        status[1] = NodeStatus::Stale;
        let m = Membership { epoch: 7, main: NodeId(0), status };
        let next = m.without(NodeId(0)).unwrap();
        assert_eq!((next.epoch, next.main, next.is_up(NodeId(0))), (8, NodeId(2), false));
        let last = next.without(NodeId(2)).unwrap();
        assert_eq!((last.main, last.up()), (NodeId(3), 1));
        assert!(last.without(NodeId(3)).is_err());
    }

    #[test]
    fn a_view_is_held_from_the_confirmation_to_the_word_of_all() {
        let m = Membership { epoch: 7, main: NodeId(0), status: vec![NodeStatus::Up; 3] };
        let next = m.without(NodeId(0)).unwrap();
        let view = View::new(m.clone());
        assert!(!view.is_held() && !view.confirm(&m));
        assert!(view.confirm(&next) && view.is_held() && view.load().main == NodeId(1));
        assert!(!view.confirm(&next) && !view.go(7, 5) && view.is_held());
        assert!(view.go(8, 5) && !view.is_held() && !view.go(8, 6));
        assert_eq!(view.inherited(), 5, "main has changed");
        let next = next.without(NodeId(2)).unwrap();
        assert!(view.confirm(&next) && view.go(9, 7));
        assert_eq!(view.inherited(), 5, "a replica's loss inherits nothing");
    }
}
