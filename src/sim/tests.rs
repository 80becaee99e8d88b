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
fn runs_with_images_and_two_phase_commit_hold() {
    let options = Options { images: Some(true), ..Options::default() };
    let mut reached = std::collections::BTreeMap::new();
    for seed in 1000..1040 {
        let report = run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed}: {}", f.what));
        for (what, n) in report.counted {
            *reached.entry(what).or_insert(0) += n;
        }
    }
    assert!(reached["images"] > 100 && reached["image slots lost"] > 0, "{reached:?}");
    // SERIALIZABLE ones are prepared too.
    assert!(reached["transactions prepared"] > reached["images"], "{reached:?}");
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

#[test]
fn seeds_that_once_failed_hold() {
    let usual = Options::default();
    let native = Options { mode: Some(Mode::NativeReplication), ..usual };
    let snapshot = Options { mode: Some(Mode::SnapshotIsolation), ..usual };
    let views = Options {
        favour: Some(Kind::Stall),
        faults: 30,
        nodes_stay: true,
        only: Some(Only::Views),
        transactions: 40,
        mode: Some(Mode::SnapshotIsolation),
        ..usual
    };
    let lag =
        Options { favour: Some(Kind::Lag), only: Some(Only::Views), mode: Some(Mode::SnapshotIsolation), ..usual };
    let failed = [
        (720_553, lag, "BEGIN failed when main was lost, although no server had been asked anything"),
        (
            731_174,
            Options { favour: Some(Kind::Crash), ..snapshot },
            "main was lost, then the replica that had committed: acknowledged, and no node that is up had it",
        ),
        (
            731_432,
            Options { favour: Some(Kind::Lose), ..snapshot },
            "an applier that had applied did not notice that it was given up",
        ),
        (
            731_127,
            Options { favour: Some(Kind::Lose), ..native },
            "words of a backend that was lost earlier kept the next one from being ended",
        ),
        (
            740_749,
            Options { favour: Some(Kind::Lose), ..snapshot },
            "a reader was lost in the middle of a batch, whose rest was run twice",
        ),
        (501_499, native, "an applier opened early applied all before SET CONSTRAINTS was answered: a deadlock"),
        (500_268, native, "what a reader was about to confirm was forgotten when main was lost"),
        (
            610_361,
            Options { favour: Some(Kind::Stall), ..snapshot },
            "a block's first conflict ran a later batch again",
        ),
        (
            60_078,
            Options { favour: Some(Kind::Crash), images: Some(true), ..usual },
            "main crashed behind COMMIT PREPARED, the last node: what was prepared stayed so",
        ),
        (600_069, snapshot, "a batch that a reader ran again prepared a statement that the reader had"),
        (902_583, snapshot, "main was lost between a conflict that was not told and its ReadyForQuery"),
        (200_101, views, "a session that was over opened a reader"),
    ];
    for (seed, options, why) in failed {
        run_seed(seed, &options).unwrap_or_else(|f| panic!("seed {seed} ({why}): {}", f.what));
    }
}

/// A planted bug, and with how many seeds it must be found.
struct Bound {
    bug: Planted,
    /// Several times what it takes on average: a seed means another run whenever the code changes.
    most: u64,
    /// A kind of fault without which the bug does nothing: the runs have more of it, so that the test is quick.
    favour: Option<Kind>,
    /// Many faults, and none that takes a node away with what the bug has done to it.
    rough: bool,
    /// Where it is seen.
    only: Option<Only>,
    /// In which mode; `None`: in both.
    mode: Option<Mode>,
    /// Whether there are images. Without, runs take less time.
    images: Option<bool>,
    /// The first seed: one that finds it in a short run. When the code has changed so that it no longer does, those that
    /// follow find it as well, only later; `how_many_seeds_each_planted_bug_needs` tells another.
    from: u64,
}

const fn bound(bug: Planted, most: u64, favour: Option<Kind>) -> Bound {
    Bound { bug, most, favour, rough: false, only: None, mode: None, images: Some(false), from: 0 }
}

/// One of the gate or of what goes with it: seen where all lists are read at once beside writers, in `snapshot_isolation`.
const fn isolation(bug: Planted, most: u64, favour: Kind) -> Bound {
    let seen = bound(bug, most, Some(favour));
    Bound { rough: true, only: Some(Only::Views), mode: Some(Mode::SnapshotIsolation), ..seen }
}

/// One of images.
const fn image(bug: Planted, most: u64, favour: Option<Kind>) -> Bound {
    Bound { images: Some(true), ..bound(bug, most, favour) }
}

/// Not among them: [`Planted::LookAtParse`], since a server answers Parse and what proves a snapshot together unless its buffer
/// is full in between; and [`Planted::EpochApart`], since a shard gives up its readers of a node before any commit is
/// acknowledged without that node, so the epoch in the window word is a second lock on the same door. Unit tests find both
/// (`session::snapshot`, `sequencer`).
const BOUNDS: [Bound; 25] = [
    // First: this one is seen by a run that is stuck, which takes longest.
    bound(Planted::BelieveNever, 400, None).from(84),
    Bound { rough: true, ..bound(Planted::PoolTooEarly, 500, Some(Kind::Backend)).from(8) },
    bound(Planted::ApplyAfterMain, 200, None).from(42),
    bound(Planted::BelieveAtOnce, 400, None).from(72),
    bound(Planted::ApplyTwice, 400, None).from(106),
    bound(Planted::AnswerEarly, 20, None),
    bound(Planted::NeighboursReply, 40, None),
    bound(Planted::ReplaceAfterMain, 100, Some(Kind::Applier)).from(1),
    Bound { rough: true, only: Some(Only::Lists), ..bound(Planted::CommitWithoutNeed, 400, Some(Kind::Lag)).from(12) },
    Bound { rough: true, only: Some(Only::Reads), ..bound(Planted::ResendAnswered, 400, Some(Kind::Cut)).from(31) },
    isolation(Planted::WindowTooLate, 400, Kind::Lag).from(64),
    isolation(Planted::WindowTooEarly, 400, Kind::Lag).from(7),
    isolation(Planted::WindowToFirst, 400, Kind::Lag).from(3),
    Bound { only: Some(Only::Rows), ..isolation(Planted::RowsTooEarly, 400, Kind::Lag) },
    Bound { only: Some(Only::Rows), ..isolation(Planted::LastRowsOnly, 400, Kind::Lag) },
    isolation(Planted::NoGate, 400, Kind::Lag).from(1),
    isolation(Planted::ArrivalsJoin, 400, Kind::Lag).from(41),
    isolation(Planted::DeafToRings, 400, Kind::Lag).from(5),
    Bound { only: Some(Only::Lists), ..isolation(Planted::TwinOutside, 200, Kind::Lag).from(100_024) },
    Bound { rough: false, ..isolation(Planted::NewMainAtOnce, 400, Kind::Crash).from(5) },
    Bound { rough: false, ..isolation(Planted::AckBeforeAll, 400, Kind::Crash).from(57) },
    Bound { rough: false, ..isolation(Planted::ForgetSent, 400, Kind::Crash).from(5_230) },
    image(Planted::ImageReversed, 40, None),
    image(Planted::ImageAfterMain, 200, None),
    image(Planted::LeavePrepared, 100, Some(Kind::Backend)),
];

/// How a bug was found.
struct Found {
    /// With so many seeds.
    seeds: u64,
    /// The last of them, and how many steps its run took.
    seed: u64,
    steps: u64,
    what: String,
}

impl Bound {
    const fn from(self, from: u64) -> Bound {
        Bound { from, ..self }
    }

    /// Runs with the bug planted, from this seed on.
    fn find(&self, first: u64, most: u64) -> Option<Found> {
        let usual = Options::default();
        let options = Options {
            favour: self.favour,
            faults: if self.rough { 30 } else { usual.faults },
            nodes_stay: self.rough,
            only: self.only,
            mode: self.mode,
            images: self.images,
            transactions: if self.only.is_some() { 40 } else { usual.transactions },
            ..usual
        };
        plant(Some(self.bug));
        let run = |n| {
            let f = run_seed(first + n, &options).err()?;
            Some(Found { seeds: n + 1, seed: first + n, steps: f.report.steps, what: f.what })
        };
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
        let found = b.find(b.from, b.most);
        // With --nocapture: who needs a new start.
        println!("{:?}: {:?} seeds", b.bug, found.as_ref().map(|f| f.seeds));
        assert!(found.is_some(), "{:?} was not found with {} seeds", b.bug, b.most);
    });
}

#[test]
#[ignore = "a measurement: how many seeds each planted bug needs"]
fn how_many_seeds_each_planted_bug_needs() {
    const FIRST: [u64; 5] = [0, 100_000, 200_000, 300_000, 400_000];
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    let (most, starts) = (number("MOST").unwrap_or(2000) as u64, number("STARTS").unwrap_or(FIRST.len()));
    let later = number("FROM").unwrap_or(0) as u64;
    // PLANTED=NAME,NAME: only these. MOST=N: at most so many. STARTS=N: from so many places. FROM=N: all of them so much later.
    let only = std::env::var("PLANTED").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|n| !n.is_empty()).collect();
    for_each_bound(|b| {
        if !only.is_empty() && !only.contains(&format!("{:?}", b.bug).as_str()) {
            return;
        }
        let found: Vec<_> = FIRST.iter().take(starts).map(|first| b.find(*first + later, most)).collect();
        let needed: Vec<String> =
            found.iter().map(|f| f.as_ref().map_or("-".into(), |f| f.seeds.to_string())).collect();
        let shortest = found.iter().flatten().min_by_key(|f| f.steps);
        let shortest = shortest.map_or(String::new(), |f| {
            format!("{} steps of seed {}: {}", f.steps, f.seed, f.what.lines().next().unwrap_or(""))
        });
        println!("{:<18} [{}]; {shortest}", format!("{:?}", b.bug), needed.join(", "));
    });
}

/// Commits say which rows they write, and reads of one row mind only those.
#[test]
fn reads_of_one_row_beside_commits_of_others_hold() {
    let usual = Options::default();
    let options = Options { only: Some(Only::Rows), mode: Some(Mode::SnapshotIsolation), transactions: 40, ..usual };
    let lag = Options { favour: Some(Kind::Lag), faults: 30, nodes_stay: true, ..options };
    for seed in 0..40 {
        for options in [&options, &lag] {
            run_seed(seed, options).unwrap_or_else(|f| panic!("seed {seed}: {}", f.what));
        }
    }
}
