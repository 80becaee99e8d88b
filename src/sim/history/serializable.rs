//! SERIALIZABLE transactions stand in some order: no cycle of what they rest on, whatever its edges.
//!
//! Only edges from one of them to another count: what others do in between promises nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Point, View};
use super::{Anomaly, History, Kind, Level};

impl History {
    /// # Errors
    /// A cycle.
    pub(super) fn check_serializable(&self) -> Result<(), Anomaly> {
        let is_one = |p: &Point| match p {
            Point::Transaction(t) => {
                let t = &self.transactions[*t];
                t.level == Level::Serializable && t.committed
            }
            _ => false,
        };
        if !self.transactions.iter().any(|t| t.level == Level::Serializable) {
            return Ok(());
        }
        // All of them run on main.
        let graph = self.graph(View::Whole);
        let mut edges: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (from, list) in graph.edges.iter().enumerate().filter(|(from, _)| is_one(&graph.points[*from])) {
            let list = list.iter().map(|(to, _)| *to).filter(|to| is_one(&graph.points[*to]));
            edges.insert(from, list.collect());
        }
        // Whoever rests on nobody that is left stands last: taken away until nobody is.
        loop {
            let last: Vec<usize> = edges
                .iter()
                .filter(|(_, to)| !to.iter().any(|t| edges.contains_key(t)))
                .map(|(from, _)| *from)
                .collect();
            if last.is_empty() {
                break;
            }
            edges.retain(|from, _| !last.contains(from));
        }
        if edges.is_empty() {
            return Ok(());
        }
        let name = |n: &usize| match graph.points[*n] {
            Point::Transaction(t) => self.transactions[t].id,
            _ => 0,
        };
        let ids: Vec<i64> = edges.keys().map(name).collect();
        Err(Anomaly { kind: Kind::G2, what: format!("among these SERIALIZABLE transactions is a cycle: {ids:?}") })
    }
}
