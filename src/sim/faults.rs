//! What goes wrong: backends terminated, connections cut, nodes that crash or hang, main among them, clients that cancel
//! or vanish.
//!
//! One node always stays that nothing has happened to: what the last one loses nobody can bring back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::control::SimNode;
use super::driver::{Conn, End, Far, Life};
use super::node::{BackendId, BackendInfo, Gone, Step};
use super::run::Options;
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
    /// The same, and the backend learns nothing of it.
    Lose(usize, u32),
    /// Nothing of the connection gets through until then, while others' bytes do (simulated microseconds).
    Lag(usize, u32, i64),
    /// A backend's process gets no processor until then (simulated microseconds).
    Stall(usize, BackendId, i64),
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

/// Kinds that are chosen by weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An applier is terminated.
    Applier,
    /// Another backend is.
    Backend,
    /// [`Fault::Cut`].
    Cut,
    /// [`Fault::Crash`], [`Fault::Restart`].
    Crash,
    /// [`Fault::Hang`].
    Hang,
    /// [`Fault::Slow`].
    Slow,
    /// [`Fault::Cancel`].
    Cancel,
    /// [`Fault::Vanish`].
    Vanish,
    /// [`Fault::Tamper`].
    Tamper,
    /// [`Fault::Lose`].
    Lose,
    /// [`Fault::Lag`].
    Lag,
    /// [`Fault::Stall`].
    Stall,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Kind, String> {
        let found = Kind::ALL.iter().find(|k| k.word() == word);
        let known = || Kind::ALL.map(|k| k.word()).join(", ");
        found.copied().ok_or_else(|| format!("unknown kind of fault; known are {}", known()))
    }
}

impl Kind {
    /// In the order of their numbers.
    pub const ALL: [Kind; KINDS] = [
        Kind::Applier,
        Kind::Backend,
        Kind::Cut,
        Kind::Crash,
        Kind::Hang,
        Kind::Slow,
        Kind::Cancel,
        Kind::Vanish,
        Kind::Tamper,
        Kind::Lose,
        Kind::Lag,
        Kind::Stall,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A connection lags, and a backend stalls, for at most this long.
const LAG_MAX_US: i64 = 20_000;

/// What appliers are called.
pub(super) const APPLIER: &str = "pglockstep applier";

/// How many there are.
const KINDS: usize = Kind::Stall as usize + 1;

/// What they are called in reports: with a number of times, 0 too.
const NAMES: [&str; 13] = [
    "applier terminated",
    "backend terminated",
    "connection cut",
    "node crashed",
    "node restarted",
    "node hung",
    "node slow",
    "client cancelled",
    "client vanished",
    "rows deleted on a replica",
    "connection lost unnoticed",
    "connection lags",
    "backend stalls",
];

/// How much goes wrong in a run.
#[derive(Debug)]
pub struct Faults {
    /// In how many of a thousand steps one is possible.
    pub rate: usize,
    left: usize,
    weights: [usize; KINDS],
    /// Nodes that something has happened to.
    pub struck: BTreeSet<usize>,
    /// The node whose rows are no longer main's.
    pub tampered: Option<usize>,
    /// How many of each kind have happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// As the options want it. One kind may be favoured: it happens more often than all others together, and never not.
    #[must_use]
    pub fn new(options: &Options, random: &mut Random) -> Faults {
        let most = options.faults;
        let mut weights = [0; KINDS];
        // Each run has kinds of its own: some that never happen, some that often do.
        weights.iter_mut().for_each(|w| *w = [0, 1, 4][random.below(3)]);
        let (mut rate, mut left) = ([5, 20, 60][random.below(3)], random.below(most + 1));
        if options.nodes_stay {
            (weights[Kind::Crash as usize], weights[Kind::Hang as usize]) = (0, 0);
        }
        if let Some(kind) = options.favour {
            weights[kind as usize] = 4 * KINDS;
            (rate, left) = (rate.max(20), left.max(most / 2));
        }
        let counts = NAMES.map(|name| (name, 0)).into();
        Faults { rate, left, weights, struck: BTreeSet::new(), tampered: None, counts }
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
            Fault::Lose(..) => "connection lost unnoticed",
            Fault::Lag(..) => "connection lags",
            Fault::Stall(..) => "backend stalls",
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
        let kind = self.random.weighted(&self.faults.weights)?;
        let n = self.random.below(self.nodes.len());
        let n = if matches!(kind, 3 | 4) && self.isolates() { self.choose_lost(n)? } else { n };
        // While something is prepared, main is missed most.
        let prepared = matches!(kind, 1 | 3 | 4) && !self.main().node.prepared().is_empty();
        let n = if prepared && self.random.percent(60) { self.main_number() } else { n };
        match kind {
            0 | 1 => self.choose_backend(n, kind == 0),
            2 | 9 => {
                let (s, i) = self.choose_connection()?;
                Some(if kind == 2 { Fault::Cut(s, i) } else { Fault::Lose(s, i) })
            }
            10 => {
                let aimed = match self.random.below(4) {
                    0 | 1 => self.choose_applied(n),
                    2 => self.choose_torn(),
                    _ => None,
                };
                let (s, i) = aimed.or_else(|| self.choose_connection())?;
                Some(Fault::Lag(s, i, self.now_us + self.random.between(500, LAG_MAX_US)))
            }
            11 => self.choose_stalled(n),
            3 if !self.nodes[n].node.is_up() => Some(Fault::Restart(n)),
            3 if !self.nodes[n].hung && self.may_lose(n) => Some(Fault::Crash(n)),
            4 if self.nodes[n].node.is_up() && !self.nodes[n].hung && self.may_lose(n) && self.random.percent(30) => {
                Some(Fault::Hang(n))
            }
            5 => Some(Fault::Slow(n, [10, 30, 100][self.random.below(3)])),
            8 if self.may_tamper(n) && self.random.percent(30) => Some(Fault::Tamper(n)),
            6 | 7 => {
                let c = self.random.below(self.clients.len());
                let busy = self.clients[c].state.is_at_work() && self.clients[c].conn.is_some();
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

    fn choose_backend(&mut self, n: usize, applier: bool) -> Option<Fault> {
        let backends = self.nodes[n].node.backends();
        let all: Vec<_> = backends.iter().filter(|b| (b.application_name == APPLIER) == applier).collect();
        let busy: Vec<_> = all.iter().copied().filter(|b| b.state != "idle").collect();
        let found = self.rather(busy, all);
        let b = found.get(self.random.below(found.len()))?;
        Some(Fault::Terminate(n, b.id, if applier { "applier terminated" } else { "backend terminated" }))
    }

    /// The node that crashes or hangs. Main is missed most, and while a commit is between it and the others.
    fn choose_lost(&mut self, n: usize) -> Option<usize> {
        let main = self.random.percent(50);
        if self.sequencer.look().is_quiet() {
            return self.random.percent(30).then_some(n);
        }
        Some(if main { self.main_number() } else { n })
    }

    /// The connection of an applier that has done its script and waits for COMMIT: what lags there lets a commit overtake
    /// another.
    fn choose_applied(&mut self, n: usize) -> Option<(usize, u32)> {
        let backends = self.nodes[n].node.backends();
        let waits = |b: &&BackendInfo| b.application_name == APPLIER && b.state == "idle in transaction";
        let all: Vec<_> = backends.iter().filter(waits).filter_map(|b| self.links.get(&(n, b.id))).copied().collect();
        all.get(self.random.below(all.len())).copied()
    }

    /// A backend that has something to do: mostly one that has answered a part of what it was sent at once.
    fn choose_stalled(&mut self, n: usize) -> Option<Fault> {
        let steps = self.nodes[n].runnable(self.now_us);
        let ready = |b: &BackendInfo| steps.iter().any(|s| matches!(s, Step::Backend(id, _) if *id == b.id));
        let all: Vec<_> = self.nodes[n].node.backends().into_iter().filter(ready).collect();
        let midway: Vec<_> = all.iter().filter(|b| b.midway && b.application_name != APPLIER).cloned().collect();
        let found = if self.random.percent(70) { midway } else { all };
        let b = found.get(self.random.below(found.len()))?;
        Some(Fault::Stall(n, b.id, self.now_us + self.random.between(500, LAG_MAX_US)))
    }

    /// A connection to a node of which a part of what it was sent has arrived: what one unit of messages says in its
    /// beginning may be old when its end arrives.
    fn choose_torn(&mut self) -> Option<(usize, u32)> {
        let mut all = Vec::new();
        for (s, shard) in self.shards.iter().enumerate() {
            let port = shard.port.borrow();
            let torn = |c: &Conn| c.life == Life::Open && c.torn && matches!(c.far, Far::Node(..)) && c.end.is_none();
            all.extend(port.conns().iter().enumerate().filter(|(_, c)| torn(c)).map(|(i, _)| (s, i)));
        }
        let (s, i) = all.get(self.random.below(all.len())).copied()?;
        Some((s, u32::try_from(i).unwrap_or(u32::MAX)))
    }

    /// A connection between a shard and a node.
    fn choose_connection(&mut self) -> Option<(usize, u32)> {
        let s = self.random.below(self.shards.len());
        let port = self.shards[s].port.clone();
        let port = port.borrow();
        let open = |c: &Conn| c.life == Life::Open && matches!(c.far, Far::Node(..)) && c.end.is_none();
        let all: Vec<_> = port.conns().iter().enumerate().filter(|(_, c)| open(c)).collect();
        let busy: Vec<_> = all.iter().copied().filter(|(_, c)| !c.inward.is_empty() || !c.outward.is_empty()).collect();
        let found = self.rather(busy, all);
        let (i, _) = found.get(self.random.below(found.len()))?;
        Some((s, u32::try_from(*i).unwrap_or(u32::MAX)))
    }

    /// Half the time only those that are in the middle of something, if there are any: what is idle is lost without
    /// much effect.
    fn rather<T>(&mut self, busy: Vec<T>, all: Vec<T>) -> Vec<T> {
        if busy.is_empty() || self.random.percent(50) { all } else { busy }
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
            Fault::Cut(s, i) => {
                let noticed = if self.random.percent(50) { Gone::AtRead } else { Gone::AtWrite };
                self.cut_connection(s, i, noticed);
            }
            Fault::Lose(s, i) => self.cut_connection(s, i, Gone::Never),
            Fault::Lag(s, i, until) => self.shards[s].port.borrow_mut().conn(i).lags_until = until,
            Fault::Stall(n, b, until) => drop(self.nodes[n].stalled.insert(b, until)),
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

    /// Of what was on its way to the backend a part still arrives, and is worked off.
    fn cut_connection(&mut self, s: usize, i: u32, noticed: Gone) {
        let far = self.shards[s].port.borrow_mut().conn(i).far;
        self.break_inward(s, i);
        if let Far::Node(n, Some(b)) = far {
            let mut port = self.shards[s].port.borrow_mut();
            let outward = &mut port.conn(i).outward;
            let arrives = outward.split_to(self.random.below(outward.len() + 1));
            drop(port);
            self.nodes[n].node.receive(b, &arrives);
            self.faults.struck.insert(n);
            self.links.remove(&(n, b));
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
        for s in &self.shards {
            s.port.borrow_mut().end_lags();
        }
        for n in 0..self.nodes.len() {
            self.nodes[n].pace = 100;
            self.nodes[n].stalled.clear();
            self.relieve_node(n);
        }
    }
}
