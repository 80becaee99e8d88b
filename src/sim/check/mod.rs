//! What must hold: all along ([`World::check_step`]), and when everything is quiet ([`World::check_end`]).

mod bounds;
pub(super) mod gate;
mod history;
mod ledger;

use std::collections::BTreeSet;

use super::client::{Client, Outcome, Record, State};
use super::node::value::Value;
use super::workload::tracked::AUDITED_TABLES;
use super::workload::{Effect, TABLES};
use super::world::World;
use crate::sequencer::NodeId;

fn int(v: Option<&Value>) -> i64 {
    match v {
        Some(Value::Int(n)) => *n,
        _ => i64::MIN,
    }
}

impl World {
    /// After each step.
    pub(super) fn check_step(&mut self) -> Result<(), String> {
        if let Some(wrong) = self.clients.iter().find_map(|c| c.wrong.as_ref()) {
            return Err(wrong.clone());
        }
        if self.may_have_moved {
            self.check_bounds()?;
            self.check_gate()?;
        }
        let up = self.membership.load();
        for c in 0..self.clients.len() {
            let records = &self.clients[c].records;
            if records.len() == self.checked[c] {
                continue;
            }
            let from = std::mem::replace(&mut self.checked[c], records.len());
            for record in &records[from..] {
                self.spans[c].push((self.began[c], self.steps));
                if let Some(token) = record.tokens.iter().find(|t| self.witness.is_late(**t)) {
                    return Err(format!("client {c} was shown rows of a node that was out (statement {token})"));
                }
                if let Some(token) =
                    record.tokens.iter().find(|t| self.witness.is_overtaken(**t) && !record.of_one.contains(t))
                {
                    return Err(format!(
                        "client {c} was shown rows of a replica's snapshot that a commit had overtaken (statement {token})"
                    ));
                }
                let Record { plan, outcome: Outcome::Acknowledged, .. } = record else { continue };
                let Some(Effect::Marker(m)) = plan.effects.first() else { continue };
                let row = vec![Value::Int(i64::try_from(c).unwrap_or(-1)), Value::Int(*m)];
                for (n, node) in self.nodes.iter().enumerate() {
                    let is_up = up.is_up(NodeId(u8::try_from(n).unwrap_or(u8::MAX)));
                    if is_up && !node.node.rows("marker").contains(&row) {
                        return Err(format!(
                            "client {c} was told that {m} is committed, and node {n} does not have it"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// A node is taken out only if something has happened to it, and differs only if its rows were deleted.
    fn check_detached(&self) -> Result<(), String> {
        for (n, reason) in &self.control.detached {
            let differs = reason.contains("diverged") || reason.contains("COMMIT was answered");
            if !self.faults.struck.contains(n) || (differs && self.faults.tampered != Some(*n)) {
                return Err(format!("node {n} was taken out for nothing: {reason}"));
            }
        }
        let judged: u64 = self.shards.iter().map(|s| s.shard.counters().divergences).sum();
        if judged > 0 && self.faults.tampered.is_none() {
            return Err("a difference was seen where there is none".into());
        }
        Ok(())
    }

    /// What everybody is doing, for a run that is stuck.
    pub(super) fn summary(&self) -> String {
        let mut out = Vec::new();
        for c in self.clients.iter().filter(|c| c.state != State::Done) {
            out.push(format!("client {} {:?} {} on {:?}", c.number, c.state, c.doing(), c.conn));
        }
        for (s, shard) in self.shards.iter().enumerate() {
            out.extend(shard.shard.summaries().into_iter().map(|l| format!("shard {s}: {l}")));
        }
        for (n, node) in self.nodes.iter().enumerate() {
            for b in node.node.backends().iter().filter(|b| b.state != "idle") {
                out.push(format!("node {n} {}: {} waits for {:?}", b.id.0, b.state, b.waits_for));
            }
        }
        out.join("\n")
    }

    /// When everything is quiet.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let membership = self.membership.load();
        let up: Vec<usize> =
            (0..self.nodes.len()).filter(|i| membership.is_up(NodeId(u8::try_from(*i).unwrap_or(u8::MAX)))).collect();
        self.check_detached()?;
        for &n in up.iter().filter(|n| **n != self.main_number() && self.faults.tampered != Some(**n)) {
            for table in TABLES.iter().chain(AUDITED_TABLES) {
                let (main, other) = (self.main().node.rows(table), self.nodes[n].node.rows(table));
                if main != other {
                    let main: BTreeSet<String> = main.iter().map(|r| format!("{r:?}")).collect();
                    let other: BTreeSet<String> = other.iter().map(|r| format!("{r:?}")).collect();
                    return Err(format!(
                        "node {n} differs in {table}: main alone has {:?}, it alone has {:?}",
                        main.difference(&other).collect::<Vec<_>>(),
                        other.difference(&main).collect::<Vec<_>>()
                    ));
                }
            }
        }
        for &n in &up {
            for b in self.nodes[n].node.backends() {
                // One whose client vanished before it had said who it is goes after authentication_timeout.
                if !matches!(b.state, "idle" | "starting") || !b.locks.is_empty() || b.xid.is_some() {
                    return Err(format!("left over on node {n}: {b:?}"));
                }
            }
        }
        for &n in &up {
            let prepared = self.nodes[n].node.prepared();
            if !prepared.is_empty() {
                return Err(format!("left prepared on node {n}: {prepared:?}"));
            }
        }
        self.check_left_over()?;
        self.check_markers()?;
        self.check_counters()?;
        super::workload::check_sums(&self.main().node, self.records().map(|(c, r)| (c.number, r)))?;
        super::workload::tracked::check(&self.main().node, self.records().map(|(c, r)| (c.number, r)))?;
        self.check_history()
    }

    fn records(&self) -> impl Iterator<Item = (&Client, &Record)> {
        self.clients.iter().flat_map(|c| c.records.iter().map(move |r| (c, r)))
    }
}
