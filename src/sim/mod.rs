//! The simulator: the proxy's own session, sequencer and membership code in one thread, in simulated time, on
//! simulated PostgreSQL nodes, where one number (the seed) replays a run exactly.
//!
//! | part | what it is for |
//! |---|---|
//! | [`node`] | the simulated PostgreSQL |
//! | [`driver`] | a shard's operating system: queues of bytes |
//! | [`control`], [`decoder`], [`catalogue`] | the control plane's answers; images; what it says of the catalogue |
//! | [`world`], [`schedule`] | what could happen next, and which of it does |
//! | [`workload`], [`client`] | what clients ask, and what they must be answered |
//! | [`faults`] | what goes wrong |
//! | `check` | what must hold |
//! | [`history`] | what one server could have answered: cycles in what transactions read and wrote |
//! | [`run`] | one seed from beginning to end |
//! | `planted` | bugs that tests switch on |
//!
//! What it cannot show, and why:
//! - what lies outside of sessions, shards, sequencer and membership: the ring driver, TLS, passwords, the control
//!   plane's SQL, the state file (it is held against real servers by the end-to-end tests);
//! - a killed proxy: there is no journal yet that the next one could read;
//! - a client's cancel that reaches main when COMMIT is there already: main's answer decides, whatever it is. That no
//!   cancel is sent then saves the client an error, and the nodes nothing.
//!
//! Nothing here reads a clock, a socket or a random number: the seed decides what happens next, and when.

pub mod catalogue;
mod check;
pub mod client;
pub mod control;
pub mod decoder;
pub mod driver;
pub mod faults;
pub mod history;
pub mod node;
pub(crate) mod planted;
pub mod run;
pub mod schedule;
mod sim_node;
#[cfg(test)]
mod tests;
pub mod workload;
pub mod world;
