//! What must hold for loads and ledgers at the end.

use std::collections::BTreeMap;

use super::Effect;
use crate::sim::client::{Outcome, Record};
use crate::sim::node::Node;
use crate::sim::node::value::Value;

fn int(v: Option<&Value>) -> i64 {
    if let Some(Value::Int(n)) = v { *n } else { i64::MIN }
}

/// The rows of a load are all there or none of them is, as the transaction's outcome says; a ledger's balance is the
/// sum of its entries.
///
/// # Errors
/// What does not hold.
pub fn check<'a>(node: &Node, records: impl Iterator<Item = (usize, &'a Record)>) -> Result<(), String> {
    let mut loaded: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    for row in node.rows("loads") {
        *loaded.entry((int(row.first()), int(row.get(1)))).or_default() += 1;
    }
    for (client, record) in records {
        for effect in &record.plan.effects {
            let Effect::Load(n, rows) = effect else { continue };
            let is = loaded.remove(&(i64::try_from(client).unwrap_or(-1), *n)).unwrap_or(0);
            let right = match record.outcome {
                Outcome::Acknowledged => is == *rows,
                Outcome::Failed => is == 0,
                Outcome::Unknown => is == 0 || is == *rows,
            };
            if !right {
                return Err(format!("client {client}: {is} of {rows} rows of load {n}: {:?}", record.outcome));
            }
        }
    }
    if let Some(((client, n), rows)) = loaded.first_key_value() {
        return Err(format!("{rows} rows of client {client}'s load {n}, which nobody sent"));
    }
    let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
    for row in node.rows("entries") {
        *sums.entry(int(row.first())).or_default() += int(row.get(3));
    }
    for row in node.rows("ledgers") {
        let (ledger, balance) = (int(row.first()), int(row.get(1)));
        let sum = sums.get(&ledger).copied().unwrap_or(0);
        if balance != sum {
            return Err(format!("ledger {ledger} has {balance}, its entries add up to {sum}"));
        }
    }
    Ok(())
}
