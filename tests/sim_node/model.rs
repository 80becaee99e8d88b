//! Sessions on the simulated node.

use std::collections::BTreeMap;

use pglockstep::sim::node::{BackendId, Gone, Node, NodeConfig, Step};

use super::play;

/// One node, made for one script.
pub struct Sessions {
    node: Node,
    now_us: i64,
    backends: BTreeMap<String, BackendId>,
    /// 0: whoever could go on first goes on first, as on an idle machine; else this decides.
    order: u64,
    /// Who can go on, in the order since when.
    ready: Vec<BackendId>,
}

impl Sessions {
    /// `seed` 0: rows lie in the order of insertion.
    pub fn new(seed: u64) -> Sessions {
        let config = NodeConfig {
            physical_order_seed: seed,
            deadlock_timeout_us: 500_000,
            flush_us: 100,
            visible_us: 10,
            logical: true,
            ..NodeConfig::default()
        };
        Sessions { node: Node::new(config), now_us: 0, backends: BTreeMap::new(), order: 0, ready: Vec::new() }
    }

    /// Another order of what can happen at the same time.
    pub fn in_order(order: u64) -> Sessions {
        Sessions { order, ..Sessions::new(0) }
    }

    /// Everything that can happen without time passing.
    fn rest(&mut self) {
        for _ in 0..100_000 {
            let steps = self.node.runnable(self.now_us);
            if steps.is_empty() {
                return;
            }
            let who = |s: &Step| if let Step::Backend(id, _) = s { *id } else { BackendId(0) };
            self.ready.retain(|id| steps.iter().any(|s| who(s) == *id));
            for s in &steps {
                if !self.ready.contains(&who(s)) {
                    self.ready.push(who(s));
                }
            }
            let first = self.ready.remove(0);
            let mut step = *steps.iter().find(|s| who(s) == first).expect("who is ready has a step");
            if self.order != 0 {
                self.order = self.order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                step = steps[usize::try_from(self.order >> 33).unwrap() % steps.len()];
            }
            self.node.step(step, self.now_us);
        }
        panic!("the node does not come to rest");
    }
}

impl play::Sessions for Sessions {
    fn open(&mut self, name: &str) {
        let id = self.node.connect().expect("it is up");
        self.backends.insert(name.to_owned(), id);
    }

    fn send(&mut self, name: &str, bytes: &[u8], _awaited: usize) {
        // In small pieces: the node must not care how the network cuts.
        for piece in bytes.chunks(7) {
            self.node.receive(self.backends[name], piece);
        }
    }

    fn settle(&mut self) {
        self.now_us += 1000;
        self.rest();
        // Commits take a moment; whatever only needs a processor is done before.
        while let Some(next) = self.node.next_wakeup(self.now_us).filter(|t| *t <= self.now_us + 1000) {
            self.now_us = next;
            self.rest();
        }
    }

    fn received(&mut self, name: &str) -> (Vec<u8>, bool) {
        let output = self.node.take_output(self.backends[name]);
        (output.bytes, output.closed)
    }

    fn gone(&mut self, name: &str) {
        self.node.client_gone(self.backends[name], Gone::AtRead);
    }

    fn terminate(&mut self, name: &str) {
        self.node.terminate(self.backends[name]);
    }

    fn cancel(&mut self, name: &str) {
        self.node.cancel(self.backends[name]);
    }

    fn tick(&mut self) {
        let end = self.now_us + 600_000;
        while let Some(next) = self.node.next_wakeup(self.now_us).filter(|t| *t <= end) {
            self.now_us = next;
            self.rest();
        }
        self.now_us = end;
    }
}
