//! Runs of the whole proxy, as it is and with planted bugs.

use super::faults::Kind;
use super::planted::{Planted, plant};
use super::run::{Options, run_seed};
use super::workload::maker::Only;
use crate::config::Mode;

#[test]
fn fifty_seeds_hold_and_each_replays_exactly() {
    let options = Options::default();
    let mut reached = std::collections::BTreeMap::new();
    for seed in 0..50 {
        let first = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}: {}", f.what));
        let second = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}, again: {}", f.what));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} does not replay");
        for (what, n) in first.counted {
            *reached.entry(what).or_insert(0) += n;
        }
    }
    // What has a bound is of no use where it is never reached.
    for what in ["nodes held back", "scripts spilled", "early starts", "scripts applied again"] {
        assert!(reached[what] > 0, "no {what} in any run: {reached:?}");
    }
}

#[test]
fn backends_that_never_learn_that_their_client_is_gone_hold_nobody_up() {
    // Not yet held: the last node that is left was to be given up since it lost its applier behind COMMIT.
    let options = Options { favour: Some(Kind::Lose), faults: 12, nodes_stay: true, ..Options::default() };
    let mut lost = 0;
    for seed in 0..30 {
        let report = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}: {}", f.what));
        lost += report.faults["connection lost unnoticed"];
    }
    assert!(lost > 30, "only {lost} connections were lost");
}

/// A planted bug, and with how many seeds it must be found.
struct Bound {
    bug: Planted,
    /// Twice the most that it took from one of several starting points, or more.
    most: u64,
    /// A kind of fault without which the bug does nothing: the runs have more of it, so that the test is quick.
    favour: Option<Kind>,
    /// Many faults, and none that takes a node away with what the bug has done to it.
    rough: bool,
    /// Where it is seen.
    only: Option<Only>,
    /// In which mode; `None`: in both.
    mode: Option<Mode>,
    /// The first seed: one from which it does not take long.
    from: u64,
}

const fn bound(bug: Planted, most: u64, favour: Option<Kind>) -> Bound {
    Bound { bug, most, favour, rough: false, only: None, mode: None, from: 0 }
}

/// One of the gate or of what goes with it: seen where all lists are read at once beside writers, in `snapshot_isolation`.
const fn isolation(bug: Planted, most: u64, favour: Kind) -> Bound {
    let seen = bound(bug, most, Some(favour));
    Bound { rough: true, only: Some(Only::Views), mode: Some(Mode::SnapshotIsolation), ..seen }
}

/// Not among them: [`Planted::LookAtParse`]. Parse and what proves a snapshot are mostly answered together, so a commit has
/// hardly any time between the two; it takes too many seeds for a test so far.
const BOUNDS: [Bound; 19] = [
    // First: it takes longest.
    Bound { rough: true, from: 100_000, ..bound(Planted::PoolTooEarly, 500, Some(Kind::Backend)) },
    bound(Planted::ApplyAfterMain, 50, None),
    bound(Planted::BelieveAtOnce, 100, None),
    bound(Planted::BelieveNever, 100, None),
    bound(Planted::ApplyTwice, 100, None),
    bound(Planted::AnswerEarly, 20, None),
    bound(Planted::NeighboursReply, 40, None),
    bound(Planted::ReplaceAfterMain, 100, Some(Kind::Applier)),
    Bound { rough: true, only: Some(Only::Lists), ..bound(Planted::CommitWithoutNeed, 400, Some(Kind::Lag)) },
    Bound { rough: true, only: Some(Only::Reads), ..bound(Planted::ResendAnswered, 400, Some(Kind::Cut)) },
    isolation(Planted::WindowTooLate, 400, Kind::Lag),
    isolation(Planted::WindowTooEarly, 400, Kind::Lag),
    isolation(Planted::WindowToFirst, 400, Kind::Lag),
    isolation(Planted::NoGate, 400, Kind::Lag),
    isolation(Planted::ArrivalsJoin, 400, Kind::Lag),
    isolation(Planted::DeafToRings, 400, Kind::Lag),
    Bound { rough: false, ..isolation(Planted::NewMainAtOnce, 400, Kind::Crash) },
    Bound { rough: false, ..isolation(Planted::AckBeforeAll, 400, Kind::Crash) },
    Bound { rough: false, ..isolation(Planted::ForgetSent, 400, Kind::Crash) },
];

impl Bound {
    /// How many seeds it took from this one on, and what was found.
    fn found_after(&self, first: u64, most: u64) -> Option<(u64, String)> {
        let (usual, favour) = (Options::default(), self.favour);
        let faults = if self.rough { 30 } else { usual.faults };
        let options = Options {
            favour,
            faults,
            nodes_stay: self.rough,
            only: self.only,
            mode: self.mode,
            transactions: if self.only.is_some() { 40 } else { usual.transactions },
            ..usual
        };
        plant(Some(self.bug));
        let run = |n| run_seed(first + n, &options).err().map(|f| (n + 1, f.what));
        let found = (0..most).find_map(run);
        plant(None);
        found
    }
}

/// Runs something for each on both halves of the machine: a planted bug is one thread's own.
fn for_each_bound(f: impl Fn(&Bound) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(b) = BOUNDS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    f(b);
                }
            });
        }
    });
}

#[test]
fn planted_bugs_are_found() {
    for_each_bound(|b| {
        assert!(b.found_after(b.from, b.most).is_some(), "{:?} was not found with {} seeds", b.bug, b.most);
    });
}

#[test]
#[ignore = "a measurement: how many seeds each planted bug needs"]
fn how_many_seeds_each_planted_bug_needs() {
    const FIRST: [u64; 5] = [0, 100_000, 200_000, 300_000, 400_000];
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    let (most, starts) = (number("MOST").unwrap_or(2000) as u64, number("STARTS").unwrap_or(FIRST.len()));
    // PLANTED=NAME,NAME: only these. MOST=N: at most so many. STARTS=N: from so many places.
    let only = std::env::var("PLANTED").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|n| !n.is_empty()).collect();
    for_each_bound(|b| {
        if !only.is_empty() && !only.contains(&format!("{:?}", b.bug).as_str()) {
            return;
        }
        let mut found: Vec<_> = FIRST.iter().take(starts).map(|first| b.found_after(*first, most)).collect();
        found.sort_by_key(|f| f.as_ref().map_or(u64::MAX, |(n, _)| *n));
        let needed: Vec<String> = found.iter().map(|f| f.as_ref().map_or("-".into(), |(n, _)| n.to_string())).collect();
        let what = found.first().and_then(|f| f.as_ref()).map_or("", |(_, what)| what.lines().next().unwrap_or(""));
        println!(
            "{:<18} median {:>5} of [{}]: {what}",
            format!("{:?}", b.bug),
            needed[needed.len() / 2],
            needed.join(", ")
        );
    });
}
