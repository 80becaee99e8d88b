//! The simulator: the proxy's own session, sequencer and membership code in one thread, in simulated time, on
//! simulated PostgreSQL nodes, where one number (the seed) replays a run exactly.
//!
//! [`node`] is the simulated PostgreSQL. Nothing here reads a clock, a socket or a random number: whoever drives a
//! run decides what happens next, and when.

pub mod node;
