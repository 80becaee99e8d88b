//! Waking a shard that sleeps: the agreement that drivers with real threads share.

mod atomics;
mod bell;
#[cfg(test)]
mod model;

pub(super) use bell::Bell;
