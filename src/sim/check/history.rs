//! The recorded history, as [`crate::sim::history`] looks at it.

use std::collections::{BTreeMap, BTreeSet};

use super::int;
use crate::sim::client::{Client, Outcome, Record};
use crate::sim::history::{History, Level, Promise, Read, Transaction};
use crate::sim::workload::Effect;
use crate::sim::world::World;

impl World {
    /// What clients were shown is what servers of their own could have shown them.
    pub(super) fn check_history(&self) -> Result<(), String> {
        let main = self.main_number();
        let mut lists: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for row in self.nodes[main].node.rows("items") {
            let list = lists.entry(int(row.first())).or_default();
            if int(row.get(1)) != i64::try_from(list.len()).unwrap_or(-1) {
                return Err(format!("an append was lost: {row:?}"));
            }
            list.push(int(row.get(2)));
        }
        let there: BTreeSet<(i64, i64)> =
            self.nodes[main].node.rows("marker").iter().map(|r| (int(r.first()), int(r.get(1)))).collect();
        let mut transactions = Vec::new();
        for client in &self.clients {
            for (record, span) in client.records.iter().zip(&self.spans[client.number]) {
                transactions.push(self.transaction(client, record, *span, &there, &lists));
            }
        }
        let promise = if self.isolates() { Promise::OneServer } else { Promise::EachNode { main } };
        History { lists, transactions }.check(promise).map_err(|a| a.to_string())
    }

    fn transaction(
        &self,
        client: &Client,
        record: &Record,
        (began, ended): (u64, u64),
        there: &BTreeSet<(i64, i64)>,
        lists: &BTreeMap<i64, Vec<i64>>,
    ) -> Transaction {
        let number = i64::try_from(client.number).unwrap_or(-1);
        let effects = || record.plan.effects.iter();
        let is_there = || effects().any(|e| matches!(e, Effect::Marker(n) if there.contains(&(number, *n))));
        let committed = match record.outcome {
            Outcome::Acknowledged => true,
            Outcome::Failed => false,
            Outcome::Unknown => is_there(),
        };
        // Whoever has read how long a list is has seen as much of it; of what is not there, something that nobody has made.
        let seen = |r: &crate::sim::client::ListRead| match r.length.and_then(|n| usize::try_from(n).ok()) {
            None => r.entries.clone(),
            Some(n) => {
                let all = lists.get(&r.list).into_iter().flatten().copied();
                all.chain(std::iter::repeat(i64::MAX)).take(n + 1).collect()
            }
        };
        let read = |r: &crate::sim::client::ListRead| Read {
            list: r.list,
            entries: seen(r),
            place: self.witness.place(r.token),
            statement: record.tokens.iter().position(|t| *t == r.token).unwrap_or(0),
        };
        Transaction {
            id: record.plan.id,
            level: match record.snapshot {
                _ if record.plan.is_serializable() => Level::Serializable,
                true => Level::Snapshot,
                false => Level::Statement,
            },
            committed,
            began,
            ended: (record.outcome != Outcome::Unknown).then_some(ended),
            session: Some((client.number, record.connection)),
            reads: record.lists.iter().map(read).collect(),
            appends: effects().filter_map(|e| if let Effect::Append(k) = e { Some(*k) } else { None }).collect(),
        }
    }
}
