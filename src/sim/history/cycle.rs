//! The search for cycles that no order of snapshots and commits explains.

use std::collections::VecDeque;

use super::graph::{Graph, Point, View, Why};
use super::{Anomaly, History, Kind};

/// One edge of a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hop {
    from: usize,
    why: Why,
    to: usize,
}

/// A point, and whether an rw edge may follow: not behind another.
type State = usize;

const fn state(point: usize, rw_may_follow: bool) -> State {
    2 * point + rw_may_follow as usize
}

impl Graph {
    fn next(&self, at: State, with_rw: bool) -> impl Iterator<Item = (State, Hop)> + '_ {
        let (from, rw_may_follow) = (at / 2, at % 2 == 1);
        self.edges[from].iter().filter_map(move |(to, why)| {
            let hop = Hop { from, why: *why, to: *to };
            match why {
                Why::ReadWrite(_) => (with_rw && rw_may_follow).then_some((state(*to, false), hop)),
                _ => Some((state(*to, true), hop)),
            }
        })
    }

    /// A shortest cycle in which no two rw edges follow each other (none at all unless `with_rw`).
    pub(super) fn forbidden_cycle(&self, with_rw: bool) -> Option<Vec<Hop>> {
        let left = self.on_cycles(with_rw);
        left.iter().filter_map(|s| self.cycle_through(*s, with_rw)).min_by_key(Vec::len)
    }

    /// States that are left when those that nothing leads to have been taken away again and again.
    fn on_cycles(&self, with_rw: bool) -> Vec<State> {
        let all = 2 * self.points.len();
        let mut into = vec![0usize; all];
        for s in 0..all {
            self.next(s, with_rw).for_each(|(to, _)| into[to] += 1);
        }
        let mut free: Vec<State> = (0..all).filter(|s| into[*s] == 0).collect();
        while let Some(s) = free.pop() {
            for (to, _) in self.next(s, with_rw) {
                into[to] -= 1;
                if into[to] == 0 {
                    free.push(to);
                }
            }
        }
        (0..all).filter(|s| into[*s] > 0).collect()
    }

    fn cycle_through(&self, start: State, with_rw: bool) -> Option<Vec<Hop>> {
        let mut came: Vec<Option<(State, Hop)>> = vec![None; 2 * self.points.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(s) = queue.pop_front() {
            for (to, hop) in self.next(s, with_rw) {
                if came[to].is_some() {
                    continue;
                }
                came[to] = Some((s, hop));
                if to == start {
                    return Some(unwind(start, &came));
                }
                queue.push_back(to);
            }
        }
        None
    }
}

fn unwind(start: State, came: &[Option<(State, Hop)>]) -> Vec<Hop> {
    let mut hops = Vec::new();
    let mut at = start;
    while let Some((before, hop)) = came[at] {
        hops.push(hop);
        at = before;
        if at == start {
            break;
        }
    }
    hops.reverse();
    hops
}

impl History {
    /// What the cycle is called, and how it goes.
    pub(super) fn named(&self, graph: &Graph, cycle: &[Hop], view: View) -> Anomaly {
        let rw = cycle.iter().filter(|h| matches!(h.why, Why::ReadWrite(_))).count();
        let kind = match rw {
            0 if cycle.iter().all(|h| matches!(h.why, Why::WriteWrite(_))) => Kind::G0,
            0 => Kind::G1c,
            1 => Kind::GSingle,
            _ => Kind::GNonadjacent,
        };
        let mut what: Vec<String> = cycle.iter().filter_map(|h| self.told(graph, *h)).collect();
        if let View::Node(n) = view {
            what.push(format!("(reads on node {n})"));
        }
        Anomaly { kind, what: what.join("; ") }
    }

    fn told(&self, graph: &Graph, hop: Hop) -> Option<String> {
        let name = |p: usize| match graph.points[p] {
            Point::Transaction(t) => format!("{}", self.transactions[t].id),
            Point::Statement(t, i) => format!("read {i} of {}", self.transactions[t].id),
            Point::Told(at) => format!("step {at}"),
        };
        let (from, to) = (name(hop.from), name(hop.to));
        let is_told = |p: usize| matches!(graph.points[p], Point::Told(_));
        Some(match hop.why {
            Why::WriteWrite(k) => format!("{to} appended behind {from} to list {k}"),
            Why::WriteRead(k) => format!("{to} saw {from} in list {k}"),
            Why::ReadWrite(k) => format!("{from} did not see {to} in list {k}"),
            Why::Order => format!("{from} came before {to}"),
            Why::Time if is_told(hop.from) && is_told(hop.to) => return None,
            Why::Time if is_told(hop.to) => format!("{from} was over at {to}"),
            Why::Time => format!("{to} began after {from}"),
        })
    }
}
