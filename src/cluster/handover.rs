//! From one membership to the next: every shard confirms, then all go (design, section 5; hazards 40, 73).
//!
//! Sans-I/O: the control plane and the simulator's both drive this. In this order: the next membership is durable;
//! every shard is sent it and confirms it from its loop, never behind a lock or a gate, and relays nothing of the lost
//! node from then on; when all have confirmed, it is in force, and only then anything is finished, acknowledged or
//! begun in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::membership::Membership;
use crate::sequencer::NodeId;

/// A hand-over that is under way. One at a time.
#[derive(Debug)]
pub struct Handover {
    /// The membership that shards are to confirm.
    pub next: Arc<Membership>,
    /// The node that is not in it any more.
    pub lost: NodeId,
    waiting: BTreeSet<usize>,
}

impl Handover {
    /// Away from `lost`; `shards` are the numbers of those that must confirm.
    ///
    /// # Errors
    /// Why the node cannot be taken out.
    pub fn new(now: &Membership, lost: NodeId, shards: impl Iterator<Item = usize>) -> Result<Handover, String> {
        Ok(Handover { next: Arc::new(now.without(lost)?), lost, waiting: shards.collect() })
    }

    /// A shard has confirmed this epoch.
    pub fn confirmed(&mut self, shard: usize, epoch: u64) {
        if epoch == self.next.epoch {
            self.waiting.remove(&shard);
        }
    }

    /// A shard has ended: it relays nothing any more.
    pub fn ended(&mut self, shard: usize) {
        self.waiting.remove(&shard);
    }

    /// All have confirmed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::membership::NodeStatus;

    #[test]
    fn a_handover_is_complete_when_every_shard_has_confirmed_this_very_epoch_or_ended() {
        let now = Membership { epoch: 3, main: NodeId(0), status: vec![NodeStatus::Up; 3] };
        let mut h = Handover::new(&now, NodeId(0), 0..3).unwrap();
        h.confirmed(0, 4);
        h.confirmed(1, 3);
        h.ended(2);
        assert!(!h.is_complete());
        h.confirmed(1, 4);
        assert!(h.is_complete() && h.next.main == NodeId(1));
    }
}
