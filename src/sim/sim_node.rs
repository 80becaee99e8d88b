//! A node's place in a simulation.

use std::collections::BTreeMap;

use super::node::{BackendId, BackendInfo, Node, Step};

/// A node with what only the simulation knows of it.
pub struct SimNode {
    /// The model.
    pub node: Node,
    /// It hangs.
    pub hung: bool,
    /// How often it has been started anew.
    pub restarts: u32,
    /// Its steps happen this seldom (percent of the turns in which one could be chosen); 100: no fault.
    pub pace: usize,
    /// Processes that get no processor until then (simulated microseconds).
    pub stalled: BTreeMap<BackendId, i64>,
}

impl SimNode {
    /// What can happen on it now.
    #[must_use]
    pub fn runnable(&self, now_us: i64) -> Vec<Step> {
        let mut steps = self.node.runnable(now_us);
        let stalls = |s: &Step| matches!(s, Step::Backend(b, _) if self.stalled.get(b).is_some_and(|t| *t > now_us));
        steps.retain(|s| !stalls(s));
        steps
    }

    /// When time alone will make something possible on it.
    #[must_use]
    pub fn next_wakeup(&self, now_us: i64) -> Option<i64> {
        let ends = self.stalled.values().copied().filter(|t| *t > now_us);
        ends.chain(self.node.next_wakeup(now_us)).min()
    }

    pub(super) fn answers(&self) -> bool {
        self.node.is_up() && !self.hung
    }

    /// The backend with this process id.
    #[must_use]
    pub fn backend(&self, pid: u32) -> Option<BackendInfo> {
        self.node.backends().into_iter().find(|b| b.pid == pid)
    }
}
