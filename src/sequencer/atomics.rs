//! The sequencer's atomics, in one place so that its tests can put loom's in theirs.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
