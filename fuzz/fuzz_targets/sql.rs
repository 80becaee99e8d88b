//! The lexer and all that rests on it. What must hold stands in `src/fuzz.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| pglockstep::fuzz::sql(input));
