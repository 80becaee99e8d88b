//! Could one PostgreSQL have produced this? A recorded history of list appends and reads, held against what each
//! transaction's isolation level promises.
//!
//! The idea is Elle's (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations",
//! VLDB 2020): a list that is only appended to tells the order of its versions, and with that who rests on whom. From
//! it [`graph`] builds Adya's direct serialization graph ("Weak Consistency", MIT 1999): `ww` from one version's writer
//! to the next one's, `wr` from a version's writer to who read it, `rw` from who read a version to the writer of the
//! next. [`cycle`] looks for what no order of snapshots and commits explains.
//!
//! **The rule.** Let c(T) be the moment at which T commits and s(T) that of its snapshot. An edge X → Y of the kinds
//! ww, wr, program order or real time says c(X) < s(Y) where Y is REPEATABLE READ (PostgreSQL refuses a write over
//! what its snapshot does not see), c(X) < c(Y) where it is not; rw from U to T says s(U) < c(T). So along a cycle
//! in which every rw edge follows an edge of another kind, c would be smaller than itself: one server never shows it.
//! With two rw edges in a row nothing follows: that is write skew, which snapshot isolation allows. This is Cerone and
//! Gotsman's form of snapshot isolation ("Analysing Snapshot Isolation", PODC 2016). Adya's names of what is forbidden:
//!
//! | found | name |
//! |---|---|
//! | only ww | G0, dirty write |
//! | an entry that was never committed is read | G1a, aborted read |
//! | a part of what a transaction appended is read | G1b, intermediate read |
//! | ww, wr (program order, real time) | G1c |
//! | one rw besides | G-single, read skew |
//! | several rw, no two in a row | G-nonadjacent, the long fork among them |
//! | any, all of SERIALIZABLE transactions | G2, write skew among them |
//!
//! **Mixed levels** (Adya's "mixing correct": each transaction counts with the edges that its own level obliges to): a
//! REPEATABLE READ transaction is one snapshot. Of a READ COMMITTED one each *statement* is: its reads are nodes of
//! their own, in the order in which they were made, and only its writes are the transaction's. So a read that cannot be
//! repeated is legal, and one that goes back in time is not. What failed has read from snapshots all the same: it is
//! held to the rules as one that only reads. A transaction whose end is unknown counts as committed if something of it
//! is in the final state.
//!
//! **Real time** (Crooks et al., "Seeing is Believing", PODC 2017, call it strong session and strict snapshot
//! isolation): one that began after another's end was known sees what that one had written or read. One client's
//! transactions are ordered by the same rule. Those that were sent at once, without waiting for answers, are ordered by their
//! session, under [`Promise::OneServer`].
//!
//! **Nodes.** [`Promise::OneServer`] holds all reads to one order of commits. In `native_replication` reads on other
//! nodes are those nodes' own: two commits that do not rest on each other may become visible in different orders on
//! two nodes. [`Promise::EachNode`] therefore looks at each node's reads alone, together with what the writers' own
//! work on main says about their order (what rests on another commits after it everywhere), but not with what they did
//! *not* see there.

mod cycle;
mod direct;
mod graph;
mod serializable;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

/// What a transaction's reads are promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// READ COMMITTED: each statement has a snapshot.
    Statement,
    /// REPEATABLE READ: all statements have one snapshot.
    Snapshot,
    /// SERIALIZABLE: the same, and those of this level stand in some order.
    Serializable,
}

/// A list as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// Which.
    pub list: i64,
    /// Who had appended to it, in order.
    pub entries: Vec<i64>,
    /// The node that answered; `None`: not known.
    pub place: Option<usize>,
    /// Which of the transaction's statements read it: reads with one number are one statement's.
    pub statement: usize,
}

/// What is known of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// What its entries carry. [`FIRST`] is nobody's.
    pub id: i64,
    /// Its level.
    pub level: Level,
    /// It has committed.
    pub committed: bool,
    /// It began after this moment.
    pub began: u64,
    /// Its end was known at this moment; `None`: nobody was told.
    pub ended: Option<u64>,
    /// The connection, if it is known that what is sent on it is done in order.
    pub session: Option<(usize, usize)>,
    /// In order.
    pub reads: Vec<Read>,
    /// The list of each of its appends, in order.
    pub appends: Vec<i64>,
}

/// Who appended what was there before any transaction.
pub const FIRST: i64 = 0;

/// What is promised across nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Nobody can tell that there is more than one server.
    OneServer,
    /// Each node is a server of its own. Transactions that write run on this one.
    EachNode {
        /// The node.
        main: usize,
    },
}

/// Everything that has happened, and what it led to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// Who has appended to each list, in order, when all is over.
    pub lists: BTreeMap<i64, Vec<i64>>,
    /// Those of one session in the order in which they were sent; otherwise in any order.
    pub transactions: Vec<Transaction>,
}

/// Names of what must not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What was acknowledged is not there, or what failed is.
    Lost,
    /// Dirty write.
    G0,
    /// Aborted read.
    G1a,
    /// Intermediate read.
    G1b,
    /// A cycle without anti-dependency.
    G1c,
    /// A cycle with one anti-dependency.
    GSingle,
    /// A cycle with several anti-dependencies, no two in a row.
    GNonadjacent,
    /// A cycle of SERIALIZABLE transactions.
    G2,
    /// A read that is no version of its list.
    NoVersion,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// Its name.
    pub kind: Kind,
    /// Who, and why.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

impl History {
    /// Looks for everything that the promise excludes.
    ///
    /// # Errors
    /// The first anomaly that was found.
    pub fn check(&self, promise: Promise) -> Result<(), Anomaly> {
        self.check_entries()?;
        self.check_serializable()?;
        for view in self.views(promise) {
            let graph = self.graph(view);
            // What needs no anti-dependency is named first: it is worse.
            for with_rw in [false, true] {
                if let Some(cycle) = graph.forbidden_cycle(with_rw) {
                    return Err(self.named(&graph, &cycle, view));
                }
            }
        }
        Ok(())
    }
}
