//! Runs of the whole proxy, as it is and with planted bugs.

use super::planted::{Planted, plant};
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

/// The first seed that finds the bug, and what it says.
fn found_after(bug: Planted, most: u64) -> Option<(u64, String)> {
    let options = Options::default();
    plant(Some(bug));
    let found = (0..most).find_map(|seed| run_seed(seed, &options).err().map(|f| (seed + 1, f.what)));
    plant(None);
    found
}

const ALL: [Planted; 10] = [
    Planted::ApplyAfterMain,
    Planted::BelieveAtOnce,
    Planted::BelieveNever,
    Planted::ApplyTwice,
    Planted::CommitWithoutNeed,
    Planted::AnswerEarly,
    Planted::PoolTooEarly,
    Planted::ResendAnswered,
    Planted::NeighboursReply,
    Planted::ReplaceAfterMain,
];

#[test]
#[ignore = "a measurement: how many seeds each planted bug needs"]
fn how_many_seeds_each_planted_bug_needs() {
    for bug in ALL {
        let begun = std::time::Instant::now();
        let found = found_after(bug, 400);
        println!("{bug:?} {:?} {:?}", begun.elapsed(), found);
    }
}
