//! Runs of the whole proxy.

use super::run::{Options, run_seed};

#[test]
fn a_hundred_seeds_hold_and_each_replays_exactly() {
    let options = Options::default();
    for seed in 0..100 {
        let first = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}: {}", f.what));
        let second = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}, again: {}", f.what));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} does not replay");
    }
}
