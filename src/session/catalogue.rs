//! Versions of the databases' catalogues: raised before a COMMIT with DDL is sent, by whichever session sends it. And how a
//! session comes by a catalogue of the version that it must have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Session;
use super::io::{Cx, Question};
use crate::cluster::per_database::PerDatabase;

/// One counter per database of the process.
#[derive(Debug, Default)]
pub struct Versions(PerDatabase<Counter>);

/// Begins at 1.
#[derive(Debug)]
struct Counter(AtomicU64);

impl Default for Counter {
    fn default() -> Counter {
        Counter(AtomicU64::new(1))
    }
}

/// The counter of one database.
#[derive(Clone, Debug)]
pub struct Version(Arc<Counter>);

impl Version {
    /// The version that a catalogue must have to prove anything.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.0.0.load(Ordering::Acquire)
    }

    /// The catalogue is about to change.
    pub fn raise(&self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Versions {
    /// All catalogues are others: another node is main, with OIDs of its own.
    pub fn raise_all(&self) {
        self.0.for_each(|counter| Version(counter.clone()).raise());
    }

    /// The counter of a database; begins at 1.
    #[must_use]
    pub fn of(&self, database: &str) -> Version {
        Version(self.0.of(database))
    }
}

impl Session {
    /// The whole catalogue check of a transaction that wrote: is any constraint deferrable?
    pub(super) fn deferrable_constraints(&self, cx: &Cx<'_>) -> bool {
        let catalogues = cx.env.catalogues.borrow();
        // Unknown counts as yes: the cost is one statement, the other way is a COMMIT that waits inside the window.
        catalogues
            .get(&self.database)
            .is_none_or(|c| c.has_deferrable_constraints || c.version < self.version.current())
    }

    /// The catalogue is fresh (or cannot be had): statements can be judged. Otherwise it is asked for, and the client's
    /// messages wait for the answer: judged without it, every read would count as a write.
    pub(super) fn has_catalogue(&mut self, cx: &mut Cx<'_>) -> bool {
        let current = self.version.current();
        let fresh = cx.env.catalogues.borrow().get(&self.database).is_some_and(|c| c.version >= current);
        if fresh || self.catalogue_missing == Some(current) {
            return true;
        }
        if self.catalogue_asked.is_none() {
            let token = cx.io.ask(Question::Catalogue { database: self.database.to_string() });
            self.catalogue_asked = Some((token, current));
        }
        false
    }
}
