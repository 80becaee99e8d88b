//! A table with a trigger that writes down each change in another table, with a number and a time that are each node's own:
//! run on two nodes, a statement leaves different rows, so its transaction must go by its image.

use std::collections::BTreeMap;

use super::maker::Maker;
use super::{Effect, FEW, Statement};
use crate::sim::client::{Outcome, Record};
use crate::sim::node::Node;
use crate::sim::node::value::{Row, Value};

/// The tables, first rows, and the trigger, which those do not fire yet.
pub const AUDITED: &[&str] = &[
    "CREATE SEQUENCE audit_id",
    "CREATE TABLE audit (id bigint PRIMARY KEY DEFAULT nextval('audit_id'), tracked int, was bigint, becomes bigint, \
     at timestamptz)",
    "CREATE TABLE tracked (id int PRIMARY KEY, n bigint NOT NULL)",
    "INSERT INTO tracked VALUES (1, 0), (2, 0), (3, 0)",
    "CREATE TRIGGER audits AFTER INSERT OR UPDATE OR DELETE ON tracked FOR EACH ROW EXECUTE FUNCTION audit()",
];

/// Their names.
pub const AUDITED_TABLES: &[&str] = &["tracked", "audit"];

/// Rows that transactions insert have numbers from here on: this, and the transaction's own number.
const NEW: i64 = 1_000_000;

impl Maker {
    /// One of the first rows is raised.
    pub(super) fn touch(&mut self, effects: &mut Vec<Effect>) -> Statement {
        let (k, by) = (self.few(), self.random.between(1, 9));
        effects.push(Effect::Tracked(k, by));
        self.write("UPDATE tracked SET n = n + $1 WHERE id = $2", "UPDATE", &[by, k])
    }

    /// Some are, and perhaps a row of its own is inserted, and raised, and moved.
    pub(super) fn tracked(&mut self, effects: &mut Vec<Effect>) -> Vec<Statement> {
        let mut all: Vec<Statement> = (0..self.random.between(1, 3)).map(|_| self.touch(effects)).collect();
        if self.random.percent(30) {
            let id = NEW + self.client * 1000 + self.next;
            let (first, by) = (self.random.between(1, 9), self.random.between(1, 9));
            effects.push(Effect::Tracked(id, first + by));
            all.push(self.write("INSERT INTO tracked VALUES ($1, $2)", "INSERT", &[id, first]));
            all.push(self.write("UPDATE tracked SET n = n + $1 WHERE id = $2", "UPDATE", &[by, id]));
        }
        if self.random.percent(30) {
            all.extend(self.keys());
        }
        all
    }
}

fn int(v: Option<&Value>) -> Option<i64> {
    if let Some(Value::Int(n)) = v { Some(*n) } else { None }
}

/// Each row is as high as what was acknowledged, and at most what was not refused; what the trigger wrote down of it leads
/// from its first value to its last, step by step.
///
/// # Errors
/// What does not hold.
pub fn check<'a>(node: &Node, records: impl Iterator<Item = (usize, &'a Record)>) -> Result<(), String> {
    let mut bounds: BTreeMap<i64, (i64, i64)> = (1..=FEW).map(|k| (k, (0, 0))).collect();
    for (_, record) in records {
        for effect in &record.plan.effects {
            let Effect::Tracked(k, by) = effect else { continue };
            let (sure, perhaps) = bounds.entry(*k).or_default();
            match record.outcome {
                Outcome::Acknowledged => *sure += by,
                Outcome::Unknown => *perhaps += by,
                Outcome::Failed => {}
            }
        }
    }
    let mut changes: BTreeMap<(Option<i64>, Option<i64>), Row> = BTreeMap::new();
    for row in node.rows("audit") {
        if changes.insert((int(row.get(1)), int(row.get(2))), row.clone()).is_some() {
            return Err(format!("two changes from one value: {row:?}"));
        }
    }
    let rows: BTreeMap<i64, i64> =
        node.rows("tracked").iter().filter_map(|r| Some((int(r.first())?, int(r.get(1))?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    for (k, (sure, perhaps)) in bounds {
        let n = rows.get(&k).copied();
        if n.unwrap_or(0) < sure || n.unwrap_or(0) > sure + perhaps {
            return Err(format!("row {k} of tracked has {n:?}: {sure} acknowledged, {perhaps} unknown"));
        }
        let mut at = (k <= FEW).then_some(0);
        while let Some(row) = changes.remove(&(Some(k), at)) {
            at = int(row.get(3));
        }
        if at != n {
            return Err(format!("row {k} of tracked has {n:?}, what was written down leads to {at:?}"));
        }
    }
    match changes.into_values().next() {
        Some(row) => Err(format!("a change that does not fit the others: {row:?}")),
        None => Ok(()),
    }
}
