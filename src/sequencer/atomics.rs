//! The sequencer's atomics, in one place so that its tests can put loom's in theirs.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Counters of rows that commits under way write: 32 KiB. With a few dozen rows marked at a time one read in a hundred meets
/// another row's mark.
pub(super) const SLOTS: usize = 4096;
