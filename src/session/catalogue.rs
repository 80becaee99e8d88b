//! Versions of the databases' catalogues: raised before a COMMIT with DDL is sent, by whichever session sends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
