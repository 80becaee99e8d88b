//! Who is up, who is main, and what the proxy knows of nodes: membership, its durable file, the control plane.
//!
//! Talks to shards by messages and by the membership only, never through sessions' state. Control-plane SQL runs on a
//! tokio thread of its own (tokio-postgres); nothing here is on a client's path but the questions that it asks.
//!
//! | file | what it is for |
//! |---|---|
//! | `membership` | the immutable set (epoch, main, status of each node), swapped atomically |
//! | `handover` | from one membership to the next: every shard confirms, then all go |
//! | `watch` | when a node is lost |
//! | `state` | the file that outlives the process |
//! | `lock` | one proxy per work directory |
//! | `nodes` | SQL on nodes: roles, catalogues, backends, probes |
//! | `detach` | the thread's part in losing a node: probes, the durable word, the hand-over |
//! | `control` | the thread: what it is told, start and stop, signals |
//! | `decoder` | the thread's part in images: a slot per database that needs one, on main |
//! | `images` | what comes out of a slot, until somebody takes it |
//! | `walsender` | a replication connection |
//! | `per_database` | something small of each database, for all threads |
//! | `answers` | the questions of shards, and their answers |

mod answers;
pub mod board;
pub mod control;
mod decoder;
mod detach;
pub mod handover;
pub mod images;
pub mod lock;
pub mod membership;
pub mod nodes;
pub mod per_database;
pub mod state;
mod walsender;
pub mod watch;
