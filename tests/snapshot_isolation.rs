//! `snapshot_isolation`: reads on all nodes see one history, and transactions get what snapshot isolation promises.
//!
//! Between the proxy and the nodes are relays (`support/relay.rs`) that let nodes commit at different times. Whoever
//! reads is told by a row that differs on purpose which node has answered: a check in which the replicas answered
//! nothing would prove nothing.
//!
//! Each check that looks for an anomaly is also run where there must be one: in `native_replication`, and in
//! `snapshot_isolation` with the gate switched off. There it must be found.

mod support;

mod snapshot_isolation {
    pub mod bank;
    pub mod cluster;
    pub mod conflicts;
    pub mod contention;
    pub mod held;
    pub mod keyed;
    pub mod levels;
    pub mod registers;
    pub mod spread;
    pub mod waiting;
}

use snapshot_isolation::bank::{self, AUDITS, Audit, Books};
use snapshot_isolation::cluster::{Cluster, Mode, PROTOCOLS, Protocol, run};
use snapshot_isolation::conflicts::{
    Second, count_up_twice, nobody_reads_what_is_not_committed, read_skew, write_skew,
};
use snapshot_isolation::held::{Answers, between, overtaken};
use snapshot_isolation::registers::{Plan, Reading, Seen, work};
use snapshot_isolation::{contention, keyed, levels, spread, waiting};
use std::time::Duration;

/// How long an anomaly is looked for where there must be none.
const LOOK: Duration = Duration::from_secs(4);
/// How long one may take to be found where there must be one, and how long enough answers of each node may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How many milliseconds the nodes' commits are apart where replicas must come to answer something between them, and
/// where something must be found.
const APART: usize = 10;
const FAR_APART: usize = 30;
/// Readings that replicas answer.
const SPREAD: [Reading; 2] = [Reading::Single, Reading::ReadOnly];
/// The same where nobody is kept between two commits.
const WORKED: [Reading; 3] = [Reading::Single, Reading::ReadOnly, Reading::Committed];

#[test]
fn readers_on_all_nodes_see_one_history() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "");
    run(async {
        for reading in SPREAD {
            let (seen, answered) = between(&cluster, reading, 20).await;
            println!("{reading:?} between two nodes' commits: {answered} answered, {}", seen.summary());
            seen.assert_sound();
            assert!(reading != Reading::Single || answered == 20, "a single read has waited for a commit");
        }
        for answers in [Answers::Between, Answers::After] {
            let seen = overtaken(&cluster, answers).await;
            println!("overtaken, answered {answers:?}: {}", seen.summary());
            seen.assert_sound();
        }
        cluster.stagger(APART);
        let readings =
            [Reading::Single, Reading::ReadOnly, Reading::ReadOnlyByDefault, Reading::Block, Reading::Committed];
        let enough = |seen: &Seen, elapsed| {
            let answered = WORKED.iter().all(|&r| seen.least(r, 0..3) >= 50) && seen.commits >= 50;
            seen.fork.is_some() || seen.went_back.is_some() || elapsed > LIMIT || (answered && elapsed > LOOK)
        };
        let seen = work(&cluster, Plan::of(&readings), enough).await;
        println!("{}", seen.summary());
        seen.assert_sound();
        let answered = WORKED.map(|r| seen.least(r, 0..3));
        assert!(answered.iter().all(|&n| n >= 20), "a node has answered hardly anything: {}", seen.summary());
    });
    cluster.assert_in_order();
}

#[test]
fn reads_of_one_row_mind_only_the_commits_that_write_it() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "");
    run(keyed::work(&cluster));
    cluster.assert_in_order();
}

#[test]
fn the_total_is_the_same_for_everybody_who_adds_it_up() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "");
    cluster.stagger(APART);
    run(async {
        let enough = |books: &Books, elapsed| {
            let spread = [Audit::Single, Audit::ReadOnly, Audit::ReadOnlyByDefault];
            let answered = spread.iter().all(|&a| books.least(a, 0..3) >= 20) && books.transfers >= 50;
            !books.wrong.is_empty() || elapsed > LIMIT || (answered && elapsed > LOOK)
        };
        let books = bank::work(&cluster, &AUDITS, enough).await;
        println!("{}", books.summary());
        assert!(books.wrong.is_empty(), "{:?}", books.wrong);
        assert!(books.transfers > 0 && books.least(Audit::ReadOnly, 0..3) > 0, "{}", books.summary());
    });
    cluster.assert_in_order();
    let totals = cluster.sandbox.on_nodes("postgres", "SELECT sum(n) FROM account");
    assert_eq!(totals, vec![bank::TOTAL.to_string(); 3]);
}

/// `busy_reads = "wait"`: what cannot have its snapshot at once gets it on a replica all the same. Main has no weight, so
/// that whatever it answers it was given by mistake.
#[test]
fn reads_that_wait_see_one_history_on_the_replicas() {
    let config =
        "busy_reads = \"wait\"\nread_only_function_list = [\"count_up\"]\n[[node]]\nid = 0\nbackend_weight = 0\n";
    let cluster = Cluster::start(Mode::SnapshotIsolation, config);
    // What the network cuts into two is not known to be a read: main has it.
    let on_replicas = |seen: &Seen| {
        let (main, all) =
            seen.answers.iter().fold((0, 0), |(m, a), ((_, node), n)| (m + if *node == 0 { *n } else { 0 }, a + n));
        main * 50 < all
    };
    run(async {
        for reading in SPREAD {
            let (seen, answered) = between(&cluster, reading, 4).await;
            println!("{reading:?} between two nodes' commits: {answered} answered, {}", seen.summary());
            seen.assert_sound();
            assert!(answered == 0 && on_replicas(&seen), "{reading:?} has not waited: {}", seen.summary());
        }
        let seen = overtaken(&cluster, Answers::After).await;
        println!("overtaken: {}", seen.summary());
        seen.assert_sound();
        assert!(on_replicas(&seen), "{}", seen.summary());
        cluster.stagger(APART);
        let enough = |seen: &Seen, elapsed| {
            let answered = SPREAD.iter().all(|&r| seen.least(r, 1..3) >= 50) && seen.commits >= 50;
            seen.fork.is_some() || seen.went_back.is_some() || elapsed > LIMIT || (answered && elapsed > LOOK)
        };
        let seen = work(&cluster, Plan::of(&SPREAD), enough).await;
        println!("{}", seen.summary());
        seen.assert_sound();
        assert!(on_replicas(&seen) && seen.commits >= 20, "{}", seen.summary());
        let books = |books: &Books, elapsed| !books.wrong.is_empty() || elapsed > LOOK;
        let books = bank::work(&cluster, &[Audit::Single], books).await;
        assert!(books.wrong.is_empty(), "{:?}", books.wrong);
        contention::reads_that_end_otherwise(&cluster, 20).await;
    });
    cluster.assert_in_order();
}

/// The anomalies that nodes which commit at different times show to these readings.
fn the_checks_find_forks_and_the_past(cluster: &Cluster) {
    run(async {
        for reading in SPREAD {
            let (seen, answered) = between(cluster, reading, 40).await;
            println!("{reading:?} between two nodes' commits: {answered} answered, {}", seen.summary());
            println!("  {:?}\n  {:?}", seen.fork, seen.went_back);
            assert!(seen.fork.is_some() && seen.went_back.is_some(), "{reading:?}: {}", seen.summary());
        }
        for answers in [Answers::Between, Answers::After] {
            let seen = overtaken(cluster, answers).await;
            println!("overtaken, answered {answers:?}: {}\n  {:?}", seen.summary(), seen.fork);
            assert!(seen.fork.is_some(), "{answers:?}: {}", seen.summary());
        }
        cluster.stagger(FAR_APART);
        for reading in WORKED {
            let both = |seen: &Seen, elapsed| elapsed > LIMIT || (seen.fork.is_some() && seen.went_back.is_some());
            let seen = work(cluster, Plan { readers: 9, ..Plan::of(&[reading]) }, both).await;
            println!("{reading:?}: {}\n  {:?}\n  {:?}", seen.summary(), seen.fork, seen.went_back);
            assert!(seen.fork.is_some() && seen.went_back.is_some(), "{reading:?}: {}", seen.summary());
        }
    });
    cluster.hurry();
}

#[test]
fn with_the_gate_switched_off_the_checks_find_forks_and_the_past() {
    let cluster = Cluster::start(Mode::GateOff, "");
    the_checks_find_forks_and_the_past(&cluster);
    cluster.assert_in_order();
}

#[test]
fn in_native_replication_the_checks_find_everything_that_they_look_for() {
    let cluster = Cluster::start(Mode::NativeReplication, "");
    the_checks_find_forks_and_the_past(&cluster);
    cluster.stagger(APART);
    run(async {
        // At READ COMMITTED.
        let skewed = [Audit::ReadOnlyByDefault, Audit::Block];
        let found =
            |books: &Books, elapsed| elapsed > LIMIT || skewed.iter().all(|audit| books.wrong.contains_key(audit));
        let books = bank::work(&cluster, &AUDITS, found).await;
        println!("{}\n  {:?}", books.summary(), books.wrong);
        assert!(skewed.iter().all(|audit| books.wrong.contains_key(audit)), "{:?}", books.wrong);
        cluster.hurry();
        for second in [Second::AfterTheFirstCommitted, Second::BeforeTheFirstCommitted] {
            assert_eq!(count_up_twice(&cluster, Protocol::Simple, second).await, (Ok(()), "1".into()), "a lost update");
        }
        assert_eq!(read_skew(&cluster, Protocol::Simple, "BEGIN").await, ["0", "1"]);
        levels::nothing_stated(&cluster, Mode::NativeReplication).await;
    });
    cluster.assert_in_order();
}

/// `transaction_reads = "spread"`, and main has no weight: transactions that may write read on the replicas first.
const SPREAD_BLOCKS: &str = "transaction_reads = \"spread\"\n[[node]]\nid = 0\nbackend_weight = 0\n";

#[test]
fn transactions_that_may_write_read_on_replicas_until_they_do() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, SPREAD_BLOCKS);
    cluster.sandbox.psql_ok(&["-q", "-c", "SELECT lo_from_bytea(4242, 'abc')"]);
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"] {
        spread::calls_a_function(&cluster, begin);
    }
    run(async {
        let (seen, answered) = between(&cluster, Reading::Block, 4).await;
        println!("between two nodes' commits: {answered} answered, {}", seen.summary());
        seen.assert_sound();
        assert_eq!(answered, 0, "a replica's snapshot lies between two commits");
        for protocol in PROTOCOLS {
            for replica in [1, 2] {
                spread::goes_on_on_main(&cluster, protocol, replica, spread::Why::ToWrite).await;
                spread::goes_on_on_main(&cluster, protocol, replica, spread::Why::Lost).await;
                spread::goes_on_on_main(&cluster, protocol, replica, spread::Why::LostInTheMiddle).await;
            }
            spread::fails_and_ends(&cluster, protocol).await;
        }
        cluster.stagger(APART);
        let readings = [Reading::Single, Reading::ReadOnly, Reading::Block];
        let enough = |seen: &Seen, elapsed| {
            let answered = seen.least(Reading::Block, 1..3) >= 50 && seen.commits >= 50;
            seen.fork.is_some() || seen.went_back.is_some() || elapsed > LIMIT || (answered && elapsed > LOOK)
        };
        let seen = work(&cluster, Plan::of(&readings), enough).await;
        println!("{}", seen.summary());
        seen.assert_sound();
        assert!(seen.least(Reading::Block, 1..3) >= 20, "a replica has answered hardly anything: {}", seen.summary());
        let enough = |books: &Books, elapsed| !books.wrong.is_empty() || elapsed > LOOK;
        let books = bank::work(&cluster, &AUDITS, enough).await;
        println!("{}", books.summary());
        assert!(books.wrong.is_empty() && books.transfers > 0, "{:?}", books.wrong);
    });
    cluster.assert_in_order();
}

#[test]
fn conflicts_end_as_snapshot_isolation_has_it() {
    the_conflicts(&Cluster::start(Mode::SnapshotIsolation, ""));
}

#[test]
fn conflicts_end_alike_where_transactions_read_on_replicas_first() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, SPREAD_BLOCKS);
    the_conflicts(&cluster);
    run(async {
        levels::nothing_stated(&cluster, Mode::SnapshotIsolation).await;
        levels::stated(&cluster, Protocol::Simple).await;
        levels::set_by_the_session(&cluster, Protocol::Unnamed).await;
    });
    cluster.assert_in_order();
}

fn the_conflicts(cluster: &Cluster) {
    run(async {
        for protocol in PROTOCOLS {
            for second in [Second::AfterTheFirstCommitted, Second::BeforeTheFirstCommitted] {
                let ends = count_up_twice(cluster, protocol, second).await;
                assert_eq!(ends, (Err("40001".into()), "1".into()), "{second:?}, {protocol:?}");
            }
            let ends = count_up_twice(cluster, protocol, Second::BeforeTheFirstRolledBack).await;
            assert_eq!(ends, (Ok(()), "1".into()), "{protocol:?}");
            assert_eq!(write_skew(cluster, protocol, "BEGIN").await, [Ok(()), Ok(())], "{protocol:?}");
            let ends = write_skew(cluster, protocol, "BEGIN ISOLATION LEVEL SERIALIZABLE").await;
            let refused = ends.iter().filter(|end| **end == Err("40001".into())).count();
            assert_eq!((refused, ends.iter().filter(|end| end.is_ok()).count()), (1, 1), "{protocol:?}: {ends:?}");
            for begin in ["BEGIN", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"] {
                // Often enough that each node is asked, as good as certainly.
                for _ in 0..8 {
                    assert_eq!(read_skew(cluster, protocol, begin).await, ["0", "0"], "{begin}, {protocol:?}");
                }
            }
        }
        nobody_reads_what_is_not_committed(cluster).await;
    });
    cluster.assert_in_order();
}

#[test]
fn transactions_run_at_the_level_that_was_asked_for_and_else_at_repeatable_read() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "");
    run(async {
        levels::nothing_stated(&cluster, Mode::SnapshotIsolation).await;
        for protocol in [Protocol::Simple, Protocol::Unnamed] {
            levels::stated(&cluster, protocol).await;
            levels::set_by_the_session(&cluster, protocol).await;
            levels::set_from_outside(&cluster, protocol).await;
            levels::forgotten_with_the_client(&cluster, protocol).await;
        }
    });
    cluster.assert_in_order();
}

#[test]
fn a_hot_row_is_counted_up_without_an_error_and_what_is_read_is_logged_alike() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "");
    run(contention::hot_row(&cluster, 8, 30));
    assert_eq!(cluster.sandbox.on_nodes("postgres", "SELECT n FROM hot"), ["240"; 3]);
    cluster.stagger(APART);
    contention::logs_are_equal(&cluster, 60);
    cluster.assert_in_order();
}

#[test]
fn readers_keep_no_commit_back_and_writers_no_reader() {
    let cluster = Cluster::start(Mode::SnapshotIsolation, "[[node]]\nid = 0\nbackend_weight = 0\n");
    run(async {
        waiting::an_open_snapshot_keeps_no_commit_back(&cluster).await;
        waiting::an_open_write_keeps_nobody_back(&cluster).await;
        waiting::a_long_read_keeps_no_commit_back(&cluster).await;
    });
    cluster.assert_in_order();
}

#[test]
fn a_replica_that_hangs_in_the_middle_of_commits_is_left() {
    let config = "[replication]\nreplica_timeout = '1s'\ncommit_timeout = '1s'\n[health_check]\n\
                  health_check_period = '1s'\nhealth_check_timeout = '2s'\nhealth_check_max_retries = 0\n";
    let cluster = Cluster::start(Mode::SnapshotIsolation, config);
    cluster.stagger(APART);
    run(waiting::a_replica_that_hangs_is_left(&cluster));
}
