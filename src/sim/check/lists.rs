//! Lists that transactions append to and read: nothing lost, nothing read that was never committed.

use std::collections::{BTreeMap, BTreeSet};

use super::int;
use crate::sim::client::{Outcome, Record};
use crate::sim::workload::FEW;
use crate::sim::world::World;

impl World {
    /// Lists: nothing lost, nothing read that was never committed, snapshots whole.
    pub(super) fn check_lists(&self) -> Result<(), String> {
        let mut lists: BTreeMap<i64, Vec<i64>> = (1..=FEW).map(|k| (k, Vec::new())).collect();
        for row in self.main().node.rows("items") {
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
