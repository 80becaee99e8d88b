//! The control plane's part in losing a node: probes, the durable word, the hand-over of all shards.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::board::Reach;
use super::control::{Plane, ShardMessage, Standing};
use super::handover::Handover;
use super::membership::{Membership, NodeStatus};
use super::nodes::{connect, incarnation, sqlstate};
use super::watch::{Finding, Probed, Watch};
use crate::sequencer::{Epoch, NodeId};

/// How often it is looked whether a reload has switched health checks on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of one node's health.
#[derive(Debug)]
pub(super) struct Probes {
    watch: Watch,
    /// When the last probe that the node answered was begun.
    good: Option<Instant>,
}

impl Probes {
    /// Nothing but the incarnation that was found at the start.
    pub(super) fn new(incarnation: Option<String>) -> Probes {
        Probes { watch: Watch::new(incarnation), good: None }
    }
}

impl Plane {
    /// One node's health: a new connection and a query each period.
    pub(super) async fn health(self: Arc<Self>, at: usize) {
        let node = NodeId(u8::try_from(at).unwrap_or(u8::MAX));
        loop {
            let period = self.live().health_check_period;
            if period.is_zero() {
                // Switched off; a reload may switch it on.
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            tokio::time::sleep(period).await;
            if matches!(self.settle(node).await, Standing::Out) {
                // Whoever asks is told whether it answers.
                let outcome = self.probe(at).await;
                tracing::debug!(%node, ?outcome, "a node that is out was probed");
            }
        }
    }

    /// Probes the node until it is known whether it stands; one that does not is taken out. Whoever asks while a probe
    /// is under way shares what the next one finds.
    pub(super) async fn settle(self: &Arc<Self>, node: NodeId) -> Standing {
        let asked = Instant::now();
        let at = usize::from(node.0);
        let Some(probes) = self.probes.get(at) else { return Standing::Out };
        let mut probes = probes.lock().await;
        loop {
            if !self.membership.load().is_up(node) {
                return Standing::Out;
            }
            if probes.good.is_some_and(|t| t >= asked) {
                return Standing::Stands;
            }
            let begun = Instant::now();
            let outcome = self.probe(at).await;
            if let Probed::Refuses(error) = &outcome {
                tracing::warn!(%node, error, "the health check is refused, but the node is there");
            }
            match probes.watch.probed(outcome, self.live().health_check_max_retries) {
                Finding::Stands => probes.good = Some(begun),
                Finding::Again(error) => {
                    tracing::warn!(%node, error, "health check failed");
                    tokio::time::sleep(self.live().health_check_retry_delay).await;
                }
                Finding::Lost(why) => {
                    let Err(e) = self.detach(node, &why).await else { return Standing::Out };
                    tracing::error!(%node, why, error = %e, "node is lost and cannot be taken out");
                    return Standing::Stays(why);
                }
            }
        }
    }

    async fn probe(&self, at: usize) -> Probed {
        let (c, nodes) = (self.live(), &self.config.nodes);
        let limit = if c.health_check_timeout.is_zero() { c.connect_timeout } else { c.health_check_timeout };
        let probe = async {
            let conn = connect(&nodes[at], &c.health_check, &c.health_check_database, limit).await?;
            incarnation(&conn).await
        };
        let outcome = match tokio::time::timeout(limit, probe).await {
            Ok(Ok(incarnation)) => Probed::Answers(incarnation),
            Ok(Err(e)) => match sqlstate(&e) {
                // Cannot connect now, shutting down, crashed; connection and system errors.
                None | Some("57P03" | "57P01" | "57P02") => Probed::Fails(e),
                Some(code) if code.starts_with("08") || code.starts_with("58") => Probed::Fails(e),
                Some(_) => Probed::Refuses(e),
            },
            Err(_) => Probed::Fails(format!("no answer within {limit:?}")),
        };
        let reach = match &outcome {
            Probed::Answers(_) => Reach::Answers,
            Probed::Fails(_) => Reach::Fails,
            Probed::Refuses(_) => Reach::Unknown,
        };
        self.config.board.probed(at, reach);
        outcome
    }

    /// The incarnation in which the node was taken in.
    pub(super) async fn first_incarnation(&self, node: NodeId) -> Option<String> {
        let probes = self.probes.get(usize::from(node.0))?.lock().await;
        probes.watch.incarnation().map(str::to_owned)
    }

    /// Takes a node out: durably first, then every shard confirms, then it is in force. If it was main, the lowest of
    /// those that stay is from then on. One node at a time.
    ///
    /// # Errors
    /// It is the last node, or the state file cannot be written: it stays.
    pub(super) async fn detach(self: &Arc<Self>, node: NodeId, reason: &str) -> Result<(), String> {
        let mut state = self.state.lock().await;
        let now = self.membership.load();
        if !now.is_up(node) {
            return Ok(());
        }
        let running = {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            (0..self.shards.len()).filter(|s| !ended.contains(s)).collect::<Vec<_>>()
        };
        let handover = Handover::new(&now, node, running.iter().copied())?;
        let next = handover.next.clone();
        let mut wanted = state.clone();
        wanted.epoch = next.epoch;
        wanted.main = next.main.0;
        let entry = &mut wanted.nodes[usize::from(node.0)];
        entry.status = NodeStatus::Stale;
        reason.clone_into(&mut entry.reason);
        wanted.save(&self.config.work_dir).map_err(|e| e.to_string())?;
        *state = wanted;
        *self.handover.lock().unwrap_or_else(PoisonError::into_inner) = Some(handover);
        for shard in running {
            self.tell(shard, ShardMessage::Confirm { next: next.clone() }).await;
        }
        while !self.is_confirmed() {
            self.confirmed.notified().await;
        }
        self.config.board.changed(usize::from(node.0), reason);
        self.membership.store(Membership::clone(&next));
        self.sequencer.set_epoch(Epoch(next.epoch));
        self.sequencer.release(node);
        let epoch = next.epoch;
        tracing::error!(%node, epoch, main = %next.main, reason, "node taken out; it is stale until it is brought back");
        if next.main != now.main {
            tracing::warn!(main = %next.main, epoch, "another node is main");
            self.renew_decoders();
        }
        for shard in 0..self.shards.len() {
            self.tell(shard, ShardMessage::Go { epoch }).await;
        }
        self.forget_connections(node).await;
        Ok(())
    }

    fn is_confirmed(&self) -> bool {
        let handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        handover.as_ref().is_none_or(Handover::is_complete)
    }

    /// A shard has confirmed a membership.
    pub(super) fn shard_confirmed(&self, shard: usize, epoch: u64) {
        let mut handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        handover.iter_mut().for_each(|h| h.confirmed(shard, epoch));
        self.confirmed.notify_one();
    }

    /// A shard has ended: nobody waits for it.
    pub(super) fn shard_ended(&self, shard: usize) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
        let mut handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        handover.iter_mut().for_each(|h| h.ended(shard));
        self.confirmed.notify_one();
    }

    /// Connections that were kept open to a node that is out.
    async fn forget_connections(&self, node: NodeId) {
        if let Some(kept) = self.kept.get(usize::from(node.0)) {
            *kept.lock().await = None;
        }
        *self.auth.lock().await = None;
    }
}
