//! The control plane of a simulation: the same questions, answered from the nodes' models, late as the scheduler likes.
//!
//! What the real one does by SQL on connections of its own is read off the model here: a node that hangs answers
//! nothing until the limit has passed, one that is down refuses. Membership and sequencer are the real ones, and so is
//! what decides: when a node is lost ([`Watch`]) and when all shards have confirmed that ([`Handover`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::decoder::SimDecoder;
use super::node::twophase::Finished;
use super::node::txn::Fate as XactFate;
pub use super::sim_node::SimNode;
use crate::cluster::control::{
    ControlQueue, Reply, Request, RoleRow, Rows, ShardHandle, ShardMessage, Standing, Ticket, ToControl,
};
use crate::cluster::handover::Handover;
use crate::cluster::membership::{Membership, SharedMembership};
use crate::cluster::nodes::{GONE_WITHIN, TERMINATE_AFTER};
use crate::cluster::watch::{Finding, Probed, Watch};
use crate::sequencer::{Epoch, NodeId, Sequencer};
use crate::session::io::{Fate, Probe};

/// How long a connection to a node that does not answer is waited for.
pub(super) const TIMEOUT_US: i64 = 10_000_000;
/// Time between health checks of one node.
const HEALTH_PERIOD_US: i64 = 3_000_000;
/// Failed checks that are forgiven.
const HEALTH_RETRIES: u32 = 1;
/// Time between two tries to end what is prepared.
const RESOLVE_AGAIN_US: i64 = 200_000;
/// Time between a failed check and its retry.
const RETRY_DELAY_US: i64 = 1_000_000;

/// A question that is not answered yet.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    request: Request,
    asked_us: i64,
    not_before_us: i64,
    /// The backend that is to be gone has been terminated.
    terminated: bool,
}

/// In microseconds. What does not fit is far beyond the end of any run.
fn us(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[derive(Clone, Debug)]
struct Health {
    next_us: i64,
    watch: Watch,
}

/// A node that is to be taken out, and who waits for that.
#[derive(Debug)]
struct Leaving {
    node: NodeId,
    reason: String,
    /// `true`: it asked whether the node stands.
    asked: Option<(Ticket, bool)>,
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
    handover: Option<Handover>,
    /// Nodes that leave, one after the other; the first one is being handed over.
    leaving: VecDeque<Leaving>,
    /// Nodes that were taken out, with the reasons.
    pub detached: Vec<(usize, String)>,
    /// For each shard: what its inbox has no room for yet.
    outbox: Vec<RefCell<VecDeque<ShardMessage>>>,
    /// Images.
    pub(super) decoder: SimDecoder,
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
        decoder: SimDecoder,
    ) -> SimControl {
        let watch = Watch::new(Some("0".into()));
        let health = vec![Health { next_us: HEALTH_PERIOD_US, watch }; nodes];
        let outbox = shards.iter().map(|_| RefCell::default()).collect();
        SimControl {
            queue,
            shards,
            membership,
            sequencer,
            pending: Vec::new(),
            health,
            catalogue,
            handover: None,
            leaving: VecDeque::new(),
            detached: Vec::new(),
            outbox,
            decoder,
        }
    }

    /// Takes what shards have asked since. `delay`: how long each answer takes at least.
    pub fn collect(&mut self, now_us: i64, mut delay: impl FnMut(&Request) -> i64) {
        // A shard's turn has made room.
        (0..self.shards.len()).for_each(|shard| self.push(shard));
        while let Some(message) = self.queue.next_message() {
            match message {
                ToControl::Ask(ticket, request) => {
                    self.decoder.asked(&request);
                    let not_before_us = now_us + delay(&request);
                    self.pending.push(Pending { ticket, request, asked_us: now_us, not_before_us, terminated: false });
                }
                ToControl::Forget(databases) => {
                    for database in databases {
                        for shard in 0..self.shards.len() {
                            self.tell(shard, ShardMessage::ForgetDatabase { database: database.clone() });
                        }
                    }
                }
                ToControl::Confirmed { shard, epoch } => {
                    self.handover.iter_mut().for_each(|h| h.confirmed(shard, epoch));
                    self.go_on();
                }
                ToControl::ShardDone { shard } => {
                    self.handover.iter_mut().for_each(|h| h.ended(shard));
                    self.go_on();
                }
            }
        }
    }

    /// What the slot tells is read.
    pub fn read_slot(&mut self, now_us: i64, nodes: &mut [SimNode]) {
        self.decoder.read(usize::from(self.membership.load().main.0), now_us, nodes);
    }

    /// Nothing is asked.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.leaving.is_empty() && self.outbox.iter().all(|o| o.borrow().is_empty())
    }

    /// Questions that could be answered now, by their place.
    pub fn ready<'a>(&'a self, now_us: i64, nodes: &'a [SimNode]) -> impl Iterator<Item = usize> + 'a {
        let ready =
            move |p: &Pending| p.not_before_us <= now_us && self.possible_at(p, nodes).is_some_and(|t| t <= now_us);
        self.pending.iter().enumerate().filter(move |(_, p)| ready(p)).map(|(i, _)| i)
    }

    /// When the question can be answered; `None`: something must happen first.
    fn possible_at(&self, p: &Pending, nodes: &[SimNode]) -> Option<i64> {
        let late = |node: &NodeId| {
            let n = &nodes[usize::from(node.0)];
            if n.node.is_up() && n.hung { p.asked_us + TIMEOUT_US } else { p.not_before_us }
        };
        match &p.request {
            Request::Resolve { node, .. } if self.membership.load().main != *node => Some(p.not_before_us),
            Request::BackendGone { node, pid } | Request::Resolve { node, pid, .. } => {
                let n = &nodes[usize::from(node.0)];
                if n.answers() && n.backend(*pid).is_some() {
                    return Some(p.asked_us + us(if p.terminated { GONE_WITHIN } else { TERMINATE_AFTER }));
                }
                Some(late(node))
            }
            Request::Blocks { node, .. }
            | Request::Probe { node, .. }
            | Request::TerminateBackend { node, .. }
            | Request::Stands { node } => Some(late(node)),
            Request::Prepared { .. } => Some(late(&self.membership.load().main)),
            Request::Slot { .. } | Request::Image { .. } if self.decoder.can_answer(&p.request) => {
                Some(p.not_before_us)
            }
            Request::Slot { moment, .. } => Some(p.asked_us + self.decoder.patience(*moment)),
            Request::Image { .. } => Some(p.asked_us + self.decoder.patience(false)),
            _ => Some(p.not_before_us),
        }
    }

    /// When time alone will bring the next answer or health check.
    #[must_use]
    pub fn next_wakeup(&self, now_us: i64, nodes: &[SimNode]) -> Option<i64> {
        let times = self.pending.iter().filter_map(|p| Some(self.possible_at(p, nodes)?.max(p.not_before_us)));
        times.filter(|t| *t > now_us).min()
    }

    /// When the next health check is due.
    #[must_use]
    pub fn next_health(&self) -> i64 {
        self.health.iter().map(|h| h.next_us).min().unwrap_or(i64::MAX)
    }

    /// Answers one question; says what, for the trace.
    pub fn answer(&mut self, at: usize, now_us: i64, nodes: &mut [SimNode]) -> String {
        let of_backend = match self.pending[at].request {
            Request::BackendGone { node, pid } => Some((node, pid)),
            Request::Resolve { node, pid, .. } if self.membership.load().main == node => Some((node, pid)),
            _ => None,
        };
        if let Some((node, pid)) = of_backend.filter(|_| !self.pending[at].terminated) {
            let n = &mut nodes[usize::from(node.0)];
            if let Some(b) = n.backend(pid).filter(|_| n.answers()) {
                n.node.terminate(b.id);
                self.pending[at].terminated = true;
                return format!("node {node}: backend {pid} is not gone by itself: terminated");
            }
        }
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
            Request::Prepared { ref gid, commit, .. } => {
                let n = &mut nodes[usize::from(self.membership.load().main.0)];
                let finished = if n.answers() { n.node.finish_prepared(gid, commit) } else { Finished::Busy };
                Reply::Prepared(match finished {
                    Finished::Nothing => Fate::Nothing,
                    Finished::Busy => Fate::Unknown,
                    Finished::Done if commit => Fate::Committed,
                    Finished::Done => Fate::Aborted,
                })
            }
            Request::Resolve { node, pid, ref gid, commit, .. } => {
                let n = &mut nodes[usize::from(node.0)];
                let is_main = self.membership.load().main == node;
                let asks = n.answers() && n.backend(pid).is_none();
                if is_main && (!asks || n.node.finish_prepared(gid, commit) == Finished::Busy) {
                    let asked_us = now_us + RESOLVE_AGAIN_US;
                    let again = Pending { ticket, request, asked_us, not_before_us: asked_us, terminated: false };
                    self.pending.push(again);
                    return format!("{said}: once more");
                }
                Reply::Terminated
            }
            Request::NoSlot { .. } => Reply::Slot(Ok(())),
            Request::Slot { .. } => Reply::Slot(self.decoder.slot()),
            Request::Image { ref gid, xid, .. } => {
                let main = usize::from(self.membership.load().main.0);
                Reply::Image(self.decoder.image(gid, xid, &nodes[main]))
            }
            Request::TerminateBackend { node, pid } => {
                let n = &mut nodes[usize::from(node.0)];
                if let Some(b) = n.backend(pid).filter(|_| n.answers()) {
                    n.node.terminate(b.id);
                }
                Reply::Terminated
            }
            Request::XactStatus { node, xid, .. } => {
                let n = &nodes[usize::from(node.0)];
                // One that has restarted gives ids out again.
                let same = n.restarts == 0;
                let fate = n.node.fate(xid).filter(|_| n.answers() && same);
                Reply::XactStatus(fate.map(|f| {
                    let word = match f {
                        XactFate::InProgress => "in progress",
                        XactFate::Committed => "committed",
                        XactFate::Aborted => "aborted",
                    };
                    word.to_owned()
                }))
            }
            Request::Detach { node, reason } => {
                self.leave(Leaving { node, reason, asked: Some((ticket, false)) });
                return said;
            }
            Request::Stands { node } => return self.stands(ticket, node, now_us, nodes),
        };
        let told = format!("{said} -> {}", brief(&reply));
        self.reply(ticket, reply);
        told
    }

    fn reply(&self, ticket: Ticket, reply: Reply) {
        self.tell(ticket.shard, ShardMessage::Reply { token: ticket.token, reply });
    }

    /// What finds the shard's inbox full waits until there is room, as with the real control plane.
    fn tell(&self, shard: usize, message: ShardMessage) {
        self.outbox[shard].borrow_mut().push_back(message);
        self.push(shard);
    }

    fn push(&self, shard: usize) {
        let (to, mut outbox) = (&self.shards[shard], self.outbox[shard].borrow_mut());
        while let Some(message) = outbox.pop_front() {
            to.doorbell.ring();
            if let Err(message) = to.inbox.push(message) {
                return outbox.push_front(message);
            }
        }
    }

    /// A probe that somebody has asked for.
    fn stands(&mut self, ticket: Ticket, node: NodeId, now_us: i64, nodes: &[SimNode]) -> String {
        if !self.membership.load().is_up(node) {
            self.reply(ticket, Reply::Stands(Standing::Out));
            return format!("node {node} is out");
        }
        let finding = self.probe(node, nodes);
        let told = format!("node {node} is probed: {finding:?}");
        match finding {
            Finding::Stands => self.reply(ticket, Reply::Stands(Standing::Stands)),
            Finding::Again(_) => {
                let not_before_us = now_us + RETRY_DELAY_US;
                let request = Request::Stands { node };
                let asked_us = not_before_us;
                self.pending.push(Pending { ticket, request, asked_us, not_before_us, terminated: false });
            }
            Finding::Lost(reason) => self.leave(Leaving { node, reason, asked: Some((ticket, true)) }),
        }
        told
    }

    fn probe(&mut self, node: NodeId, nodes: &[SimNode]) -> Finding {
        let n = &nodes[usize::from(node.0)];
        let outcome =
            if n.answers() { Probed::Answers(Some(n.restarts.to_string())) } else { Probed::Fails("no answer".into()) };
        self.health[usize::from(node.0)].watch.probed(outcome, HEALTH_RETRIES)
    }

    /// A node is to be taken out.
    fn leave(&mut self, leaving: Leaving) {
        self.leaving.push_back(leaving);
        self.go_on();
    }

    /// The hand-over that is under way ends if all have confirmed, and the next one begins.
    fn go_on(&mut self) {
        if self.handover.as_ref().is_some_and(Handover::is_complete) {
            self.end_handover();
        }
        while self.handover.is_none() {
            let Some(first) = self.leaving.front() else { return };
            let now = self.membership.load();
            if !now.is_up(first.node) {
                self.left(Ok(()));
                continue;
            }
            match Handover::new(&now, first.node, 0..self.shards.len()) {
                Ok(handover) => {
                    for shard in 0..self.shards.len() {
                        self.tell(shard, ShardMessage::Confirm { next: handover.next.clone() });
                    }
                    self.handover = Some(handover);
                }
                Err(why) => self.left(Err(why)),
            }
        }
    }

    fn end_handover(&mut self) {
        let Some(handover) = self.handover.take() else { return };
        let reason = self.leaving.front().map_or_else(String::new, |l| l.reason.clone());
        self.membership.store(Membership::clone(&handover.next));
        self.sequencer.set_epoch(Epoch(handover.next.epoch));
        self.sequencer.release(handover.lost);
        self.detached.push((usize::from(handover.lost.0), reason));
        for shard in 0..self.shards.len() {
            self.tell(shard, ShardMessage::Go { epoch: handover.next.epoch });
        }
        self.left(Ok(()));
    }

    /// Whoever asked for the first one hears of it.
    fn left(&mut self, result: Result<(), String>) {
        let Some(Leaving { asked, .. }) = self.leaving.pop_front() else { return };
        let Some((ticket, stands)) = asked else { return };
        let reply = match (stands, result) {
            (false, result) => Reply::Detached(result),
            (true, Ok(())) => Reply::Stands(Standing::Out),
            (true, Err(why)) => Reply::Stands(Standing::Stays(why)),
        };
        self.reply(ticket, reply);
    }

    /// The node whose health check is due.
    #[must_use]
    pub fn health_due(&self, now_us: i64) -> Option<usize> {
        self.health.iter().position(|h| h.next_us <= now_us)
    }

    /// Looks at a node's health.
    pub fn check_health(&mut self, at: usize, now_us: i64, nodes: &[SimNode]) {
        self.health[at].next_us = now_us + HEALTH_PERIOD_US;
        let node = NodeId(u8::try_from(at).unwrap_or(u8::MAX));
        if !self.membership.load().is_up(node) || self.leaving.iter().any(|l| l.node == node) {
            return;
        }
        if let Finding::Lost(reason) = self.probe(node, nodes) {
            self.leave(Leaving { node, reason, asked: None });
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
        Reply::Image(Ok(steps)) => format!("{} steps", steps.len()),
        other => format!("{other:?}"),
    }
}
