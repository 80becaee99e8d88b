//! pglockstep: one port in front of several independent PostgreSQL servers that it keeps identical.
//!
//! The house, room by room. Dependencies point one way, from the top of this list to its bottom:
//!
//! ```text
//! bytes in ─► wire (frames) ─► session (states, owed replies, script) ─► actions: send, connect, arm timer, close
//!                                │            │
//!                               sql         sequencer (commit order)          the driver carries actions out
//! ```
//!
//! | part | what it is for | what it may touch |
//! |---|---|---|
//! | [`wire`] | PostgreSQL's protocol 3.0: frames, builders, error fields | nothing |
//! | [`sql`] | lexing, statement classes, read proofs, forms of writes, time literals | nothing |
//! | [`auth`] | password exchanges towards clients and nodes, as pure state machines | nothing |
//! | [`sequencer`] | commit sequence numbers and each node's watermark; the gate, the window word, snapshot tokens | nothing |
//! | [`image`] | a transaction's rows from main's WAL, and what replicas do with them | wire, sql |
//! | [`script`] | what a transaction did to rows, and how a replica is told | wire, sql |
//! | [`session`] | one client connection: every state it can be in | wire, sql, script, auth, sequencer, config, telemetry; the membership, and the driver's names for connections and time |
//! | [`shard`] | the event loops: sockets, pools, timers; drives sessions | all of the above |
//! | [`cluster`] | membership, state file, control plane | config; talks to shards by messages |
//! | [`config`], [`telemetry`] | what is configured, what is measured | nothing |
//! | [`sim`] | the simulator: the real shards in simulated time, on simulated nodes | all of the above |
//! | [`admin`], [`sandbox`] | the commands a person types | all |
//! | `fuzz` | what the fuzz targets run (tests and fuzzing only) | wire, sql, auth |
//!
//! Everything from `wire` to `session` is sans-I/O: bytes and events in, actions out. Sockets live in `shard` alone,
//! so that unit tests, fuzzing and simulation run the very code that serves clients.

pub mod admin;
pub mod auth;
pub mod cluster;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod image;
pub mod sandbox;
pub mod script;
pub mod sequencer;
pub mod session;
pub mod shard;
pub mod sim;
pub mod sql;
pub mod telemetry;
pub mod wire;
