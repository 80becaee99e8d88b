//! Versions of the databases' catalogues: raised before a COMMIT with DDL is sent, by whichever session sends it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter per database of the process. The map is locked only when a session begins, to find its database's
/// counter; looking and raising are atomic.
#[derive(Debug, Default)]
pub struct Versions {
    databases: RwLock<HashMap<Arc<str>, Arc<AtomicU64>>>,
}

/// The counter of one database.
#[derive(Clone, Debug)]
pub struct Version(Arc<AtomicU64>);

impl Version {
    /// The version that a catalogue must have to prove anything.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The catalogue is about to change.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Versions {
    /// All catalogues are others: another node is main, with OIDs of its own.
    pub fn raise_all(&self) {
        let databases = self.databases.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        databases.values().for_each(|v| Version(v.clone()).raise());
    }

    /// The counter of a database; begins at 1.
    #[must_use]
    pub fn of(&self, database: &Arc<str>) -> Version {
        // A poisoned lock means that a thread died between two map operations, neither of which can leave it broken.
        if let Some(v) = self.databases.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(database) {
            return Version(v.clone());
        }
        let mut map = self.databases.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Version(map.entry(database.clone()).or_insert_with(|| Arc::new(AtomicU64::new(1))).clone())
    }
}
