//! The atomics of the doorbell, in one place so that its test can put loom's in theirs.

pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
