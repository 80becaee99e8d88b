//! The control plane of a simulation: the same questions, answered from the nodes' models, late as the scheduler likes.
//!
//! What the real one does by SQL on connections of its own is read off the model here: a node that hangs answers
//! nothing until the limit has passed, one that is down refuses. Membership and sequencer are the real ones.

use std::sync::Arc;

use super::node::txn::Fate as XactFate;
use super::node::{BackendInfo, Node};
use crate::cluster::control::{
    ControlQueue, Reply, Request, RoleRow, Rows, ShardHandle, ShardMessage, Ticket, ToControl,
};
use crate::cluster::membership::SharedMembership;
use crate::sequencer::{NodeId, Sequencer};
use crate::session::io::{Fate, Probe};

/// How long a lost backend may take to be gone (as in the real control plane).
const GONE_WITHIN_US: i64 = 20_000_000;
/// How long a connection to a node that does not answer is waited for.
const TIMEOUT_US: i64 = 10_000_000;
/// Time between health checks of one node.
const HEALTH_PERIOD_US: i64 = 3_000_000;
/// Failed checks after which a node is lost.
const HEALTH_RETRIES: u32 = 1;

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
}

impl SimNode {
    fn answers(&self) -> bool {
        self.node.is_up() && !self.hung
    }

    /// The backend with this process id.
    #[must_use]
    pub fn backend(&self, pid: u32) -> Option<BackendInfo> {
        self.node.backends().into_iter().find(|b| b.pid == pid)
    }
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    request: Request,
    asked_us: i64,
    not_before_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Health {
    next_us: i64,
    failures: u32,
    restarts: u32,
}

/// The control plane.
pub struct SimControl {
    queue: ControlQueue,
    shards: Vec<ShardHandle>,
    membership: Arc<SharedMembership>,
    sequencer: Arc<Sequencer>,
    pending: Vec<Pending>,
    health: Vec<Health>,
    catalogue: Vec<Rows>,
    /// Nodes that were taken out, with the reasons.
    pub detached: Vec<(usize, String)>,
}

impl SimControl {
    /// One that has been asked nothing.
    #[must_use]
    pub fn new(
        queue: ControlQueue,
        shards: Vec<ShardHandle>,
        membership: Arc<SharedMembership>,
        sequencer: Arc<Sequencer>,
        catalogue: Vec<Rows>,
        nodes: usize,
    ) -> SimControl {
        let health = vec![Health { next_us: HEALTH_PERIOD_US, failures: 0, restarts: 0 }; nodes];
        SimControl {
            queue,
            shards,
            membership,
            sequencer,
            pending: Vec::new(),
            health,
            catalogue,
            detached: Vec::new(),
        }
    }

    /// Takes what shards have asked since. `delay`: how long each answer takes at least.
    pub fn collect(&mut self, now_us: i64, mut delay: impl FnMut(&Request) -> i64) {
        while let Some(message) = self.queue.next_message() {
            match message {
                ToControl::Ask(ticket, request) => {
                    let not_before_us = now_us + delay(&request);
                    self.pending.push(Pending { ticket, request, asked_us: now_us, not_before_us });
                }
                ToControl::Forget(databases) => {
                    for database in databases {
                        for shard in &self.shards {
                            let _ = shard.inbox.push(ShardMessage::ForgetDatabase { database: database.clone() });
                            shard.doorbell.ring();
                        }
                    }
                }
                ToControl::ShardDone => {}
            }
        }
    }

    /// Nothing is asked.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Questions that could be answered now, by their place.
    pub fn ready<'a>(&'a self, now_us: i64, nodes: &'a [SimNode]) -> impl Iterator<Item = usize> + 'a {
        let ready =
            move |p: &Pending| p.not_before_us <= now_us && Self::possible_at(p, nodes).is_some_and(|t| t <= now_us);
        self.pending.iter().enumerate().filter(move |(_, p)| ready(p)).map(|(i, _)| i)
    }

    /// When the question can be answered; `None`: something must happen first.
    fn possible_at(p: &Pending, nodes: &[SimNode]) -> Option<i64> {
        let late = |node: &NodeId| {
            let n = &nodes[usize::from(node.0)];
            if n.node.is_up() && n.hung { p.asked_us + TIMEOUT_US } else { p.not_before_us }
        };
        match &p.request {
            Request::BackendGone { node, pid } => {
                let n = &nodes[usize::from(node.0)];
                if n.answers() && n.backend(*pid).is_some() {
                    return Some(p.asked_us + GONE_WITHIN_US);
                }
                Some(late(node))
            }
            Request::Blocks { node, .. } | Request::Probe { node, .. } | Request::TerminateBackend { node, .. } => {
                Some(late(node))
            }
            _ => Some(p.not_before_us),
        }
    }

    /// When time alone will bring the next answer or health check.
    #[must_use]
    pub fn next_wakeup(&self, now_us: i64, nodes: &[SimNode]) -> Option<i64> {
        let times = self.pending.iter().filter_map(|p| Some(Self::possible_at(p, nodes)?.max(p.not_before_us)));
        times.filter(|t| *t > now_us).min()
    }

    /// When the next health check is due.
    #[must_use]
    pub fn next_health(&self) -> i64 {
        self.health.iter().map(|h| h.next_us).min().unwrap_or(i64::MAX)
    }

    /// Answers one question; says what, for the trace.
    pub fn answer(&mut self, at: usize, nodes: &mut [SimNode]) -> String {
        let Pending { ticket, request, .. } = self.pending.remove(at);
        let said = format!("{request:?}");
        let reply = match request {
            Request::Role { .. } => Reply::Role(Ok(Some(RoleRow { password: None, can_login: true, expired: false }))),
            Request::Catalogue { database } => Reply::Catalogue { database, rows: Ok(self.catalogue.clone()) },
            Request::BackendGone { node, pid } => {
                let n = &nodes[usize::from(node.0)];
                Reply::BackendGone(n.answers() && n.backend(pid).is_none())
            }
            Request::Blocks { node, pid } => Reply::Blocks(blocks(&nodes[usize::from(node.0)], pid)),
            Request::Probe { node, pid } => {
                let n = &nodes[usize::from(node.0)];
                Reply::Probe(match n.backend(pid) {
                    _ if !n.answers() => Probe::Unreachable("no answer".into()),
                    None => Probe::Gone,
                    Some(b) if b.waits_for.is_some() => Probe::WaitsForLock,
                    Some(_) => Probe::Works,
                })
            }
            Request::Prepared { .. } => Reply::Prepared(Fate::Nothing),
            Request::TerminateBackend { node, pid } => {
                let n = &mut nodes[usize::from(node.0)];
                if let Some(b) = n.backend(pid).filter(|_| n.answers()) {
                    n.node.terminate(b.id);
                }
                Reply::Terminated
            }
            Request::XactStatus { node, xid, .. } => {
                let n = &nodes[usize::from(node.0)];
                let fate = n.node.fate(xid).filter(|_| n.answers());
                Reply::XactStatus(fate.map(|f| {
                    let word = match f {
                        XactFate::InProgress => "in progress",
                        XactFate::Committed => "committed",
                        XactFate::Aborted => "aborted",
                    };
                    word.to_owned()
                }))
            }
            Request::Detach { node, reason } => Reply::Detached(self.detach(node, &reason)),
        };
        let told = format!("{said} -> {}", brief(&reply));
        let shard = &self.shards[ticket.shard];
        // The inbox is far larger than the number of questions that can be open.
        let full = shard.inbox.push(ShardMessage::Reply { token: ticket.token, reply });
        debug_assert!(full.is_ok(), "a shard's inbox is full");
        shard.doorbell.ring();
        told
    }

    fn detach(&mut self, node: NodeId, reason: &str) -> Result<(), String> {
        let now = self.membership.load();
        if !now.is_up(node) {
            return Ok(());
        }
        self.membership.store(now.without(node)?);
        self.sequencer.release(node);
        self.detached.push((usize::from(node.0), reason.to_owned()));
        self.shards.iter().for_each(|s| s.doorbell.ring());
        Ok(())
    }

    /// The node whose health check is due.
    #[must_use]
    pub fn health_due(&self, now_us: i64) -> Option<usize> {
        self.health.iter().position(|h| h.next_us <= now_us)
    }

    /// Looks at a node's health.
    pub fn check_health(&mut self, at: usize, now_us: i64, nodes: &[SimNode]) {
        let h = &mut self.health[at];
        h.next_us = now_us + HEALTH_PERIOD_US;
        let node = NodeId(u8::try_from(at).unwrap_or(u8::MAX));
        if !self.membership.load().is_up(node) {
            return;
        }
        let n = &nodes[at];
        if n.answers() {
            h.failures = 0;
            if h.restarts != n.restarts {
                let _ = self.detach(node, "it has restarted");
            }
            return;
        }
        h.failures += 1;
        if h.failures > HEALTH_RETRIES {
            let _ = self.detach(node, "health check failed");
        }
    }
}

/// As pg_blocking_pids() would say: another backend waits for something that this one holds.
fn blocks(n: &SimNode, pid: u32) -> bool {
    let Some(me) = n.backend(pid).filter(|_| n.answers()) else { return false };
    let all = n.node.backends();
    let waits = all.iter().filter(|b| b.pid != pid).filter_map(|b| b.waits_for);
    waits.into_iter().any(|tag| me.locks.iter().any(|(held, _)| *held == tag))
}

fn brief(reply: &Reply) -> String {
    match reply {
        Reply::Role(_) => "role".into(),
        Reply::Catalogue { .. } => "catalogue".into(),
        other => format!("{other:?}"),
    }
}

/// What main would answer to the catalogue's queries: plain tables of built-in types, one deferrable constraint.
#[must_use]
pub fn catalogue(tables: &[&str]) -> Vec<Rows> {
    let row = |cells: &[&str]| cells.iter().map(|c| Some((*c).to_owned())).collect::<Vec<_>>();
    let builtins = vec![
        row(&["f", "count sum max min int4pl int4mi int8pl lower length"]),
        row(&["o", "= <> < <= > >= ~~ !~~ ~~* !~~* ~ !~ + - * / ||"]),
        row(&["r", "pg_class"]),
        row(&["t", "int4 int8 text bool integer bigint numeric"]),
    ];
    let relations = tables.iter().enumerate().map(|(i, t)| row(&[&(20_000 + i).to_string(), t, "r", "f", "20 23 25"]));
    vec![builtins, vec![], vec![], relations.collect(), vec![], vec![], vec![], vec![row(&["t"])]]
}
