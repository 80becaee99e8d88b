//! Something small of each database, shared by all shards and the control plane.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// One `T` per database of the process, an atomic. The map is locked only to find it, once per session.
#[derive(Debug, Default)]
pub struct PerDatabase<T>(RwLock<HashMap<Arc<str>, Arc<T>>>);

// A poisoned lock means that a thread died between two map operations, neither of which can leave it broken.
impl<T: Default> PerDatabase<T> {
    /// The database's.
    #[must_use]
    pub fn of(&self, database: &str) -> Arc<T> {
        if let Some(t) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(database) {
            return t.clone();
        }
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.entry(Arc::from(database)).or_default().clone()
    }

    /// All that there are.
    pub fn for_each(&self, visit: impl FnMut(&Arc<T>)) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().for_each(visit);
    }
}
