//! The session as a state machine: arbitrary interleavings of what its client, its nodes and the control plane say,
//! held against a model of owed replies. What the bytes mean stands in `src/session/fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| pglockstep::session::fuzz::run(input));
