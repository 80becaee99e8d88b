//! What the final tables must add up to.

use std::collections::BTreeSet;

use super::int;
use crate::sim::client::Outcome;
use crate::sim::workload::{ACCOUNTS, BALANCE, Effect};
use crate::sim::world::World;

impl World {
    /// Acknowledged commits are there, failed ones are not; the bank has what it had.
    pub(super) fn check_markers(&self) -> Result<(), String> {
        let there: BTreeSet<(i64, i64)> =
            self.main().node.rows("marker").iter().map(|r| (int(r.first()), int(r.get(1)))).collect();
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
        let total: i64 = self.main().node.rows("accounts").iter().map(|r| int(r.get(1))).sum();
        if total != ACCOUNTS * BALANCE {
            return Err(format!("the bank's total is {total}"));
        }
        Ok(())
    }

    /// A counter is as high as what was acknowledged, and at most what was not refused.
    pub(super) fn check_counters(&self) -> Result<(), String> {
        for row in self.main().node.rows("counters") {
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
}
