//! What must hold: all along ([`World::check_step`]), and when everything is quiet ([`World::check_end`]).

use std::collections::{BTreeMap, BTreeSet};

use super::client::{Client, Outcome, Record, State};
use super::node::value::Value;
use super::workload::{ACCOUNTS, BALANCE, Effect, FEW, TABLES};
use super::world::World;
use crate::sequencer::NodeId;

/// Bytes that may be queued on one connection: what makes a session pause, and a packet beyond it.
const QUEUE_MAX: usize = 2 * crate::session::QUEUE_HIGH;

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
        let up = self.membership.load();
        for c in 0..self.clients.len() {
            let records = &self.clients[c].records;
            if records.len() == self.checked[c] {
                continue;
            }
            self.checked[c] = records.len();
            let Some(Record { plan, outcome: Outcome::Acknowledged, .. }) = records.last() else { continue };
            let Some(Effect::Marker(m)) = plan.effects.first() else { continue };
            let row = vec![Value::Int(i64::try_from(c).unwrap_or(-1)), Value::Int(*m)];
            for (n, node) in self.nodes.iter().enumerate() {
                let is_up = up.is_up(NodeId(u8::try_from(n).unwrap_or(u8::MAX)));
                if is_up && !node.node.rows("marker").contains(&row) {
                    return Err(format!("client {c} was told that {m} is committed, and node {n} does not have it"));
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
        for &n in up.iter().filter(|n| **n > 0 && self.faults.tampered != Some(**n)) {
            for table in TABLES {
                let (main, other) = (self.nodes[0].node.rows(table), self.nodes[n].node.rows(table));
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
                if b.state != "idle" || !b.locks.is_empty() || b.xid.is_some() {
                    return Err(format!("left over on node {n}: {b:?}"));
                }
            }
        }
        for (s, shard) in self.shards.iter().enumerate() {
            if !shard.shard.core().watchers.is_empty() {
                return Err(format!("left over: somebody on shard {s} waits for watermarks"));
            }
        }
        if self.largest_queue > QUEUE_MAX {
            return Err(format!("{} bytes were queued on one connection", self.largest_queue));
        }
        self.check_markers()?;
        self.check_counters()?;
        self.check_lists()
    }

    fn records(&self) -> impl Iterator<Item = (&Client, &Record)> {
        self.clients.iter().flat_map(|c| c.records.iter().map(move |r| (c, r)))
    }

    /// Acknowledged commits are there, failed ones are not; the bank has what it had.
    fn check_markers(&self) -> Result<(), String> {
        let there: BTreeSet<(i64, i64)> =
            self.nodes[0].node.rows("marker").iter().map(|r| (int(r.first()), int(r.get(1)))).collect();
        for (client, record) in self.records() {
            for effect in &record.plan.effects {
                let Effect::Marker(n) = effect else { continue };
                let is = there.contains(&(i64::try_from(client.number).unwrap_or(-1), *n));
                match record.outcome {
                    Outcome::Acknowledged if !is => {
                        return Err(format!("lost: acknowledged commit {n} of client {}", client.number));
                    }
                    Outcome::Failed if is => {
                        return Err(format!("transaction {n} of client {} failed and is there", client.number));
                    }
                    _ => {}
                }
            }
        }
        let total: i64 = self.nodes[0].node.rows("accounts").iter().map(|r| int(r.get(1))).sum();
        if total != ACCOUNTS * BALANCE {
            return Err(format!("the bank's total is {total}"));
        }
        Ok(())
    }

    /// A counter is as high as what was acknowledged, and at most what was not refused.
    fn check_counters(&self) -> Result<(), String> {
        for row in self.nodes[0].node.rows("counters") {
            let (k, n) = (int(row.first()), int(row.get(1)));
            let (mut sure, mut perhaps) = (0, 0);
            for (_, record) in self.records() {
                let times = record.plan.effects.iter().filter(|e| **e == Effect::Counter(k)).count();
                let times = i64::try_from(times).unwrap_or(0);
                match record.outcome {
                    Outcome::Acknowledged => sure += times,
                    Outcome::Unknown => perhaps += times,
                    Outcome::Failed => {}
                }
            }
            if n < sure || n > sure + perhaps {
                return Err(format!("counter {k} is {n}: {sure} acknowledged, {perhaps} unknown"));
            }
        }
        Ok(())
    }

    /// Lists: nothing lost, nothing read that was never committed, snapshots whole.
    fn check_lists(&self) -> Result<(), String> {
        let mut lists: BTreeMap<i64, Vec<i64>> = (1..=FEW).map(|k| (k, Vec::new())).collect();
        for row in self.nodes[0].node.rows("items") {
            let list = lists.entry(int(row.first())).or_default();
            list.push(int(row.get(2)));
            if int(row.get(1)) != i64::try_from(list.len()).unwrap_or(-1) {
                return Err(format!("an append was lost: {row:?}"));
            }
        }
        let ended: BTreeMap<i64, &Record> = self.records().map(|(_, r)| (r.plan.id, r)).collect();
        for (k, list) in &lists {
            for tx in list {
                if ended.get(tx).is_some_and(|r| r.outcome == Outcome::Failed) {
                    return Err(format!("list {k} has an entry of {tx}, which failed"));
                }
            }
        }
        for (_, record) in self.records() {
            let mine = record.plan.id;
            let mut seen: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
            for (k, read) in &record.lists {
                let whole = &lists[k];
                let others: Vec<i64> = read.iter().copied().filter(|tx| *tx != mine).collect();
                let prefix: Vec<i64> = whole.iter().copied().filter(|tx| *tx != mine).take(others.len()).collect();
                if others != prefix {
                    return Err(format!("{mine} read {read:?} of list {k}, which is {whole:?}"));
                }
                let whole_of = |list: &[i64], tx: i64| list.iter().filter(|t| **t == tx).count();
                if let Some(tx) = others.iter().find(|tx| whole_of(read, **tx) != whole_of(whole, **tx)) {
                    return Err(format!("{mine} read a part of {tx} in list {k}: {read:?} of {whole:?}"));
                }
                let now: BTreeSet<i64> = others.into_iter().collect();
                if record.plan.snapshot && seen.get(k).is_some_and(|before| *before != now) {
                    return Err(format!("{mine} read list {k} twice in one snapshot, and differently"));
                }
                seen.insert(*k, now);
            }
            if record.plan.snapshot {
                // Whoever sees a transaction sees what it had read.
                for tx in seen.values().flatten() {
                    for (k, read) in ended.get(tx).iter().flat_map(|r| &r.lists) {
                        let unseen = |t: &&i64| **t != *tx && **t != mine;
                        let Some(now) = seen.get(k) else { continue };
                        if let Some(t) = read.iter().filter(unseen).find(|t| !now.contains(t)) {
                            return Err(format!("{mine} saw {tx} and not {t} in list {k}, on which that rests"));
                        }
                    }
                }
                for (a, in_a) in &seen {
                    for (b, in_b) in &seen {
                        if let Some(tx) = in_a.iter().find(|tx| lists[b].contains(tx) && !in_b.contains(tx)) {
                            return Err(format!("{mine} saw {tx} in list {a} and not in list {b}, in one snapshot"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
