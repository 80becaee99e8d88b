//! Who rests on whom, as one observer can tell.

use std::collections::{BTreeMap, BTreeSet};

use super::{FIRST, History, Level, Promise, Read, Transaction};

/// Whose reads are looked at together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// All.
    Whole,
    /// One node's.
    Node(usize),
    /// One read alone, by transaction and number: nobody knows where it was made.
    Alone(usize, usize),
}

/// A moment in the history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Point {
    /// A transaction: its snapshot, if it has one, and its commit.
    Transaction(usize),
    /// A statement's snapshot, by transaction and number in it.
    Statement(usize, usize),
    /// Somebody was told of an end.
    Told(u64),
}

/// Why one moment comes before another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Why {
    /// The second appended behind the first.
    WriteWrite(i64),
    /// The second read what the first appended.
    WriteRead(i64),
    /// The first did not see what the second appended.
    ReadWrite(i64),
    /// Of one transaction, or of one session.
    Order,
    /// The second began when the end of the first was known.
    Time,
}

/// The graph that a view gives.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub points: Vec<Point>,
    numbers: BTreeMap<Point, usize>,
    /// Of each point.
    pub edges: Vec<BTreeSet<(usize, Why)>>,
}

impl Graph {
    fn number(&mut self, point: Point) -> usize {
        if let Some(n) = self.numbers.get(&point) {
            return *n;
        }
        let n = self.points.len();
        self.points.push(point);
        self.edges.push(BTreeSet::new());
        self.numbers.insert(point, n);
        n
    }

    fn edge(&mut self, from: Point, to: Point, why: Why) {
        let (from, to) = (self.number(from), self.number(to));
        if from != to {
            self.edges[from].insert((to, why));
        }
    }
}

impl History {
    pub(super) fn views(&self, promise: Promise) -> Vec<View> {
        let Promise::EachNode { main } = promise else { return vec![View::Whole] };
        // Main's is needed even if nobody read there: writers order each other.
        let mut nodes = BTreeSet::from([main]);
        let mut alone = Vec::new();
        for (t, transaction) in self.transactions.iter().enumerate() {
            for (i, read) in transaction.reads.iter().enumerate() {
                match read.place {
                    Some(n) => drop(nodes.insert(n)),
                    None => alone.push(View::Alone(t, i)),
                }
            }
        }
        nodes.into_iter().map(View::Node).chain(alone).collect()
    }

    /// The graph of what this view can tell.
    pub(super) fn graph(&self, view: View) -> Graph {
        let numbers: BTreeMap<i64, usize> = self.transactions.iter().enumerate().map(|(i, t)| (t.id, i)).collect();
        let mut graph = Graph::default();
        for (k, list) in &self.lists {
            for pair in list.windows(2).filter(|p| p[0] != FIRST) {
                if let (Some(a), Some(b)) = (numbers.get(&pair[0]), numbers.get(&pair[1])) {
                    graph.edge(Point::Transaction(*a), Point::Transaction(*b), Why::WriteWrite(*k));
                }
            }
        }
        let mut times = Vec::new();
        let mut sessions: BTreeMap<(usize, usize), Point> = BTreeMap::new();
        for (number, t) in self.transactions.iter().enumerate() {
            let mut first = None;
            for (i, read) in t.reads.iter().enumerate() {
                let seen = view.has(number, i, read);
                if seen || t.is_writer() {
                    let point = if seen && t.level == Level::Statement {
                        Point::Statement(number, read.statement)
                    } else {
                        Point::Transaction(number)
                    };
                    if let (true, Point::Statement(..)) = (seen, point) {
                        graph.edge(first.map_or(point, |(_, last)| last), point, Why::Order);
                        first = Some((first.map_or(point, |(first, _)| first), point));
                    }
                    self.read_edges(&mut graph, &numbers, (t, read), point, seen);
                }
            }
            let whole = Point::Transaction(number);
            let in_view = t.is_writer() || t.reads.iter().enumerate().any(|(i, r)| view.has(number, i, r));
            if in_view {
                if let Some((_, last)) = first {
                    graph.edge(last, whole, Why::Order);
                }
                let first = first.map_or(whole, |(first, _)| first);
                if let Some(session) = t.session.filter(|_| view == View::Whole)
                    && let Some(before) = sessions.insert(session, whole)
                {
                    graph.edge(before, first, Why::Order);
                }
                times.push((t, first, whole));
            }
        }
        time_edges(&mut graph, &times);
        graph
    }

    /// Whose version was read, and who made the next.
    fn read_edges(
        &self,
        graph: &mut Graph,
        numbers: &BTreeMap<i64, usize>,
        (t, read): (&Transaction, &Read),
        point: Point,
        seen: bool,
    ) {
        let others = |list: &[i64]| list.iter().copied().filter(|id| *id != t.id).collect::<Vec<_>>();
        let version = others(&read.entries);
        if let Some(writer) = version.last().and_then(|id| numbers.get(id)) {
            graph.edge(Point::Transaction(*writer), point, Why::WriteRead(read.list));
        }
        let list = self.lists.get(&read.list).map_or(&[][..], Vec::as_slice);
        let next = others(list).get(version.len()).and_then(|id| numbers.get(id)).copied();
        if let Some(next) = next.filter(|_| seen) {
            graph.edge(point, Point::Transaction(next), Why::ReadWrite(read.list));
        }
    }
}

/// Who began when whose end was known: by way of a chain of those ends, so that there are few edges.
fn time_edges(graph: &mut Graph, times: &[(&Transaction, Point, Point)]) {
    let ends: BTreeSet<u64> = times.iter().filter_map(|(t, ..)| t.ended).collect();
    for (a, b) in ends.iter().zip(ends.iter().skip(1)) {
        graph.edge(Point::Told(*a), Point::Told(*b), Why::Time);
    }
    for (t, first, whole) in times {
        if let Some(end) = t.ended {
            graph.edge(*whole, Point::Told(end), Why::Time);
        }
        if let Some(before) = ends.range(..t.began).next_back() {
            graph.edge(Point::Told(*before), *first, Why::Time);
        }
    }
}

impl View {
    fn has(self, transaction: usize, number: usize, read: &Read) -> bool {
        match self {
            View::Whole => true,
            View::Node(n) => read.place == Some(n),
            View::Alone(t, i) => (t, i) == (transaction, number),
        }
    }
}

impl Transaction {
    fn is_writer(&self) -> bool {
        self.committed && !self.appends.is_empty()
    }
}
