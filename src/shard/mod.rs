//! The event loops. Each shard is one pinned thread with its own driver, listener, sessions and pools.
pub mod driver;
pub mod ring;
