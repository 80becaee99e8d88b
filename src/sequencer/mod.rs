//! The commit order: numbers for commits and each node's watermark, the gate between commits and snapshots on
//! replicas, and the window word that lets a read prove afterwards that no commit was in its way.
//!
//! Lock-free: atomics only; no mutex, no allocation and no system call on any path. Knows neither sockets nor SQL.
//!
//! | part | what it is for |
//! |---|---|
//! | `commits` | [`Csn`]s and watermarks; which shards must be woken |
//! | `gate` | snapshots and commits exclude each other, each concurrent with itself |
//! | `window` | epoch, windows opened and windows open, in one look |
//! | `footprints` | which rows the commits under way write |
//! | `passes` | what a session holds while it is in the gate or waits at it |
//! | `token` | epochs and snapshot tokens |
//!
//! A commit: [`Sequencer::enter_commit`] (a window is open from here on), [`Sequencer::open_commit`], COMMIT to the
//! nodes, [`Sequencer::acknowledge`] for each, drop the pass. A snapshot on a replica: [`Sequencer::enter_snapshot`],
//! take it, drop the pass. A read without the gate: [`Sequencer::look`], choose the node, send, and at the reply that
//! proves the snapshot taken [`Sequencer::still`]; of a read of one row [`Sequencer::look_at`] and
//! [`Sequencer::still_at`], against which commits mark their rows ([`CommitPass::mark`]).
//!
//! A shard's loop, before it sleeps: poll every [`Waiting`] and, after [`Sequencer::watch`], look at the watermarks;
//! again as long as that did something or [`Sequencer::is_due`]; then ring [`Sequencer::waiters_to_ring`].

mod atomics;
mod commits;
mod footprints;
mod gate;
#[cfg(test)]
mod model;
mod passes;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
mod token;
mod window;

pub use commits::{Csn, NodeId, Sequencer, WindowFull};
pub use footprints::{Footprint, ROWS_MAX, RowHash, RowLook};
pub use gate::{Class, GateFull, Occupancy};
pub use passes::{CommitPass, Entry, Pass, SnapshotPass, Waiting};
pub use token::{Epoch, SnapshotToken, TokenError};
pub use window::Look;

/// Shards that may wait; their flags fit one word.
pub const SHARDS_MAX: usize = 64;
