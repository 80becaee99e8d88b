//! What users are told of nodes besides the membership: since when, why, whether they answer, how many SELECTs they got.
//!
//! Written by the control plane and by shards, read by whoever asks; nothing is decided by it. SELECTs are counted in a
//! line of each shard's own, so that no two cores write to one.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::utils::CachePadded;

use crate::sequencer::NodeId;

/// Whether the node answered when it was probed last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It has not been probed, or has refused the probe.
    Unknown,
    /// It did.
    Answers,
    /// It did not.
    Fails,
}

#[derive(Debug, Default)]
struct Told {
    /// Seconds since 1970, UTC.
    changed: AtomicI64,
    reach: AtomicU8,
    /// Locked by whoever asks and by the control plane, for as long as a pointer is copied.
    reason: Mutex<Arc<str>>,
}

/// All nodes'.
#[derive(Debug)]
pub struct Board {
    nodes: Box<[Told]>,
    /// By shard, by node.
    selects: Box<[CachePadded<Box<[AtomicU64]>>]>,
}

impl Board {
    /// Of nodes whose statuses have just been found.
    #[must_use]
    pub fn new(nodes: usize, shards: usize) -> Board {
        let line = || CachePadded::new((0..nodes).map(|_| AtomicU64::new(0)).collect());
        let board = Board {
            nodes: (0..nodes).map(|_| Told::default()).collect(),
            selects: (0..shards.max(1)).map(|_| line()).collect(),
        };
        (0..nodes).for_each(|n| board.changed(n, ""));
        board
    }

    /// The node has another status since now. `reason`: why it is not up.
    pub fn changed(&self, node: usize, reason: &str) {
        let Some(told) = self.nodes.get(node) else { return };
        told.changed.store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
        *told.reason.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(reason);
    }

    /// What a probe has come to.
    pub fn probed(&self, node: usize, reach: Reach) {
        self.nodes.get(node).into_iter().for_each(|n| n.reach.store(reach as u8, Ordering::Relaxed));
    }

    /// What the last probe came to.
    #[must_use]
    pub fn reach(&self, node: NodeId) -> Reach {
        match self.told(node).map(|n| n.reach.load(Ordering::Relaxed)) {
            Some(1) => Reach::Answers,
            Some(2) => Reach::Fails,
            _ => Reach::Unknown,
        }
    }

    /// When the status changed last, in the local time zone: `YYYY-MM-DD HH:MM:SS`.
    #[must_use]
    pub fn last_change(&self, node: NodeId) -> String {
        let seconds = self.told(node).map_or(0, |n| n.changed.load(Ordering::Relaxed));
        let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// Why the node is not up; empty if it is, or nobody knows.
    #[must_use]
    pub fn reason(&self, node: NodeId) -> Arc<str> {
        self.told(node).map_or_else(Arc::default, |n| n.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// A client's SELECT is sent to the node.
    pub fn count_select(&self, shard: usize, node: NodeId) {
        if let Some(n) = self.selects.get(shard).and_then(|line| line.get(usize::from(node.0))) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// SELECTs that have been sent to the node since the start.
    #[must_use]
    pub fn selects(&self, node: NodeId) -> u64 {
        self.selects.iter().filter_map(|l| l.get(usize::from(node.0))).map(|n| n.load(Ordering::Relaxed)).sum()
    }

    fn told(&self, node: NodeId) -> Option<&Told> {
        self.nodes.get(usize::from(node.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_and_unknown_ones_have_nothing() {
        let board = Board::new(2, 2);
        board.count_select(0, NodeId(1));
        board.count_select(1, NodeId(1));
        board.count_select(7, NodeId(1));
        board.changed(1, "it burns");
        board.probed(1, Reach::Fails);
        board.probed(9, Reach::Fails);
        assert_eq!((board.selects(NodeId(0)), board.selects(NodeId(1)), board.selects(NodeId(9))), (0, 2, 0));
        assert_eq!(
            (&*board.reason(NodeId(0)), &*board.reason(NodeId(1)), &*board.reason(NodeId(9))),
            ("", "it burns", "")
        );
        assert_eq!((board.reach(NodeId(0)), board.reach(NodeId(1))), (Reach::Unknown, Reach::Fails));
        let at = board.last_change(NodeId(0));
        assert_eq!((at.len(), &at[..2], &at[10..11]), (19, "20", " "));
    }
}
