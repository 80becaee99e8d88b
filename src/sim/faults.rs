//! What goes wrong: backends terminated, connections cut, nodes that crash or hang, main among them, clients that cancel
//! or vanish.
//!
//! One node always stays that nothing has happened to: what the last one loses nobody can bring back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::client::State;
use super::control::SimNode;
use super::driver::{End, Far, Life};
use super::node::{BackendId, Gone};
use super::schedule::Random;
use super::world::World;
use crate::sequencer::NodeId;
use crate::wire::front;

/// One fault.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A backend on a node is terminated by an administrator.
    Terminate(usize, BackendId, &'static str),
    /// The connection between the proxy and a backend breaks.
    Cut(usize, u32),
    /// A node crashes.
    Crash(usize),
    /// A node that has crashed comes up again.
    Restart(usize),
    /// A node hangs.
    Hang(usize),
    /// A node becomes slow, or normal again.
    Slow(usize, usize),
    /// Rows of a replica are deleted behind the proxy's back.
    Tamper(usize),
    /// A client cancels what it does.
    Cancel(usize),
    /// A client vanishes.
    Vanish(usize),
}

/// How much goes wrong in a run.
#[derive(Debug)]
pub struct Faults {
    /// In how many of a thousand steps one is possible.
    pub rate: usize,
    left: usize,
    weights: [usize; 9],
    /// Nodes that something has happened to.
    pub struck: BTreeSet<usize>,
    /// The node whose rows are no longer main's.
    pub tampered: Option<usize>,
    /// How many of each kind have happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// At most so many.
    #[must_use]
    pub fn new(most: usize, random: &mut Random) -> Faults {
        let mut weights = [0; 9];
        // Each run has kinds of its own: some that never happen, some that often do.
        weights.iter_mut().for_each(|w| *w = [0, 1, 4][random.below(3)]);
        Faults {
            rate: [5, 20, 60][random.below(3)],
            left: random.below(most + 1),
            weights,
            struck: BTreeSet::new(),
            tampered: None,
            counts: BTreeMap::new(),
        }
    }

    /// Some may still happen.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.left > 0 && self.weights.iter().any(|w| *w > 0)
    }

    /// No more.
    pub fn stop(&mut self) {
        self.left = 0;
    }

    /// Counts one.
    pub fn count(&mut self, fault: &Fault) {
        self.left = self.left.saturating_sub(1);
        let kind = match fault {
            Fault::Terminate(_, _, who) => who,
            Fault::Cut(..) => "connection cut",
            Fault::Crash(_) => "node crashed",
            Fault::Restart(_) => "node restarted",
            Fault::Hang(_) => "node hung",
            Fault::Slow(..) => "node slow",
            Fault::Tamper(_) => "rows deleted on a replica",
            Fault::Cancel(_) => "client cancelled",
            Fault::Vanish(_) => "client vanished",
        };
        *self.counts.entry(kind).or_default() += 1;
    }
}

impl World {
    /// One of the faults that are possible now, by the run's weights.
    pub(super) fn choose_fault(&mut self) -> Option<Fault> {
        let total: usize = self.faults.weights.iter().sum();
        let mut at = self.random.below(total);
        let kind = self.faults.weights.iter().position(|w| {
            let here = at < *w;
            at = at.saturating_sub(*w);
            here
        })?;
        let n = self.random.below(self.nodes.len());
        match kind {
            0 | 1 => {
                let applier = kind == 0;
                let backends = self.nodes[n].node.backends();
                let found: Vec<_> =
                    backends.iter().filter(|b| (b.application_name == "pglockstep applier") == applier).collect();
                let b = found.get(self.random.below(found.len()))?;
                Some(Fault::Terminate(n, b.id, if applier { "applier terminated" } else { "backend terminated" }))
            }
            2 => {
                let s = self.random.below(self.shards.len());
                let port = self.shards[s].port.borrow();
                let conns = port.conns().iter().enumerate();
                let open =
                    |c: &super::driver::Conn| c.life == Life::Open && matches!(c.far, Far::Node(..)) && c.end.is_none();
                let found: Vec<usize> = conns.filter(|(_, c)| open(c)).map(|(i, _)| i).collect();
                drop(port);
                let i = *found.get(self.random.below(found.len()))?;
                Some(Fault::Cut(s, u32::try_from(i).unwrap_or(u32::MAX)))
            }
            3 if !self.nodes[n].node.is_up() => Some(Fault::Restart(n)),
            3 if !self.nodes[n].hung && self.may_lose(n) => Some(Fault::Crash(n)),
            4 if self.nodes[n].node.is_up() && !self.nodes[n].hung && self.may_lose(n) && self.random.percent(30) => {
                Some(Fault::Hang(n))
            }
            5 => Some(Fault::Slow(n, [10, 30, 100][self.random.below(3)])),
            8 if self.may_tamper(n) && self.random.percent(30) => Some(Fault::Tamper(n)),
            6 | 7 => {
                let c = self.random.below(self.clients.len());
                let busy =
                    matches!(self.clients[c].state, State::Waiting | State::Idle) && self.clients[c].conn.is_some();
                let cancels = kind == 6 && self.clients[c].key.is_some();
                if !busy {
                    return None;
                }
                if cancels { Some(Fault::Cancel(c)) } else { (kind == 7).then_some(Fault::Vanish(c)) }
            }
            _ => None,
        }
    }

    /// The node is up, for the proxy and in fact, and has never been anything else.
    fn is_sound(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let is_up = self.membership.load().is_up(NodeId(u8::try_from(n).unwrap_or(u8::MAX)));
        is_up && node.node.is_up() && !node.hung && node.restarts == 0
    }

    /// Nothing can take the place of the last node that is up: if it hangs or is down, somebody sees to it.
    pub(super) fn relieve_the_last(&mut self) {
        let membership = self.membership.load();
        let up = membership.nodes().filter(|n| membership.is_up(*n)).map(|n| usize::from(n.0));
        let up: Vec<usize> = up.collect();
        if up.iter().any(|n| self.nodes[*n].node.is_up() && !self.nodes[*n].hung) {
            return;
        }
        for n in up {
            self.relieve_node(n);
        }
    }

    fn relieve_node(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if std::mem::take(&mut node.hung) {
            node.node.unhang();
        }
        if !node.node.is_up() {
            node.node.restart(self.now_us);
            node.restarts += 1;
        }
    }

    /// Another one stays. A node whose rows were deleted must never become main.
    fn may_lose(&self, n: usize) -> bool {
        let stays = (0..self.nodes.len()).any(|m| m != n && self.is_sound(m));
        stays && (self.faults.tampered.is_none() || n != self.main_number())
    }

    /// It is a replica, and will stay one.
    fn may_tamper(&self, n: usize) -> bool {
        let main = self.main_number();
        self.faults.tampered.is_none() && n != main && self.nodes[n].node.is_up() && self.is_sound(main)
    }

    /// The node that is main.
    pub(super) fn main_number(&self) -> usize {
        usize::from(self.membership.load().main.0)
    }

    /// The same.
    pub(super) fn main(&self) -> &SimNode {
        &self.nodes[self.main_number()]
    }

    /// Lets it happen.
    pub(super) fn inflict(&mut self, fault: Fault) {
        if let Fault::Terminate(n, ..) | Fault::Crash(n) | Fault::Hang(n) | Fault::Tamper(n) = fault {
            self.faults.struck.insert(n);
        }
        match fault {
            Fault::Terminate(n, backend, _) => self.nodes[n].node.terminate(backend),
            Fault::Tamper(n) => {
                self.faults.tampered = Some(n);
                let Some(b) = self.nodes[n].node.connect() else { return };
                let mut out = BytesMut::new();
                front::startup(&mut out, [("user", "postgres"), ("database", "d")]);
                front::query(&mut out, b"DELETE FROM counters");
                out.extend_from_slice(front::TERMINATE);
                self.nodes[n].node.receive(b, &out);
            }
            Fault::Cut(s, i) => self.cut_connection(s, i),
            Fault::Crash(n) => {
                self.nodes[n].node.crash();
                let cut: Vec<(BackendId, (usize, u32))> =
                    self.links.range((n, BackendId(0))..(n + 1, BackendId(0))).map(|((_, b), at)| (*b, *at)).collect();
                for (b, (s, i)) in cut {
                    self.links.remove(&(n, b));
                    self.break_inward(s, i);
                }
            }
            Fault::Restart(n) => {
                self.nodes[n].node.restart(self.now_us);
                self.nodes[n].restarts += 1;
            }
            Fault::Hang(n) => {
                self.nodes[n].node.hang();
                self.nodes[n].hung = true;
            }
            Fault::Slow(n, pace) => self.nodes[n].pace = pace,
            Fault::Cancel(c) => {
                let Some((pid, secret)) = self.clients[c].key else { return };
                let s = self.random.below(self.shards.len());
                let mut out = BytesMut::new();
                front::cancel(&mut out, pid, &secret.to_be_bytes());
                let mut port = self.shards[s].port.borrow_mut();
                let i = port.accept(Far::Canceller);
                port.conn(i).inward.extend_from_slice(&out);
            }
            Fault::Vanish(c) => {
                let Some((s, i)) = self.clients[c].conn else { return };
                self.clients[c].gone();
                self.break_inward(s, i);
            }
        }
    }

    fn cut_connection(&mut self, s: usize, i: u32) {
        let far = self.shards[s].port.borrow_mut().conn(i).far;
        self.break_inward(s, i);
        if let Far::Node(n, Some(b)) = far {
            self.faults.struck.insert(n);
            self.links.remove(&(n, b));
            let noticed = if self.random.percent(50) { Gone::AtRead } else { Gone::AtWrite };
            self.nodes[n].node.client_gone(b, noticed);
        }
    }

    /// The far end is gone; of what it had sent only a part arrives.
    fn break_inward(&mut self, s: usize, i: u32) {
        let mut port = self.shards[s].port.borrow_mut();
        let c = port.conn(i);
        let keep = self.random.below(c.inward.len() + 1);
        c.inward.truncate(keep);
        c.end = Some(if self.random.percent(50) { End::Broken } else { End::Closed });
    }

    /// No more faults: nodes that are slow, hang or are down are so no longer.
    pub(super) fn end_faults(&mut self) {
        self.faults.stop();
        for n in 0..self.nodes.len() {
            self.nodes[n].pace = 100;
            self.relieve_node(n);
        }
    }
}
