//! Start-up packets of whatever kind, and pool_passwd's parser. What must hold stands in `src/fuzz.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| pglockstep::fuzz::startup(input));
