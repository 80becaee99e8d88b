use super::*;
use proptest::prelude::*;
use std::sync::Arc;

#[test]
fn a_watermark_stops_at_what_is_missing() {
    let s = Sequencer::new(2, 8, 0);
    let (a, b) = (s.open_commit().unwrap(), s.open_commit().unwrap());
    s.acknowledge(NodeId(0), b);
    assert_eq!((s.watermark(NodeId(0)), s.newest()), (0, 2));
    s.acknowledge(NodeId(0), a);
    assert_eq!((s.watermark(NodeId(0)), s.watermark(NodeId(1))), (2, 0));
    s.release(NodeId(1));
    assert_eq!(s.watermark(NodeId(1)), u64::MAX);
}

#[test]
fn the_window_is_full_until_the_slowest_node_has_acknowledged() {
    let s = Sequencer::new(1, 4, 0);
    let first: Vec<Csn> = (0..4).map(|_| s.open_commit().unwrap()).collect();
    assert_eq!(s.open_commit(), Err(WindowFull));
    s.abort(first[0]);
    assert!(s.open_commit().is_ok());
}

#[test]
fn threads_that_acknowledge_out_of_order_leave_nothing_behind() {
    let s = Arc::new(Sequencer::new(1, 1024, 0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let csn = loop {
                        match s.open_commit() {
                            Ok(c) => break c,
                            Err(WindowFull) => std::thread::yield_now(),
                        }
                    };
                    s.acknowledge(NodeId(0), csn);
                }
            });
        }
    });
    assert_eq!(s.watermark(NodeId(0)), 80_000);
}

#[test]
fn only_shards_that_wait_when_a_watermark_moves_are_rung_and_only_once() {
    let s = Sequencer::new(2, 4, 0);
    s.watch(0);
    s.watch(3);
    assert_eq!(s.waiters_to_ring(1), 0, "nothing has moved");
    let (a, b) = (s.open_commit().unwrap(), s.open_commit().unwrap());
    s.acknowledge(NodeId(0), b);
    assert_eq!(s.waiters_to_ring(1), 0, "a number before it is missing");
    s.acknowledge(NodeId(0), a);
    assert_eq!(s.waiters_to_ring(0), 0b1000);
    assert!(s.is_due(0) && !s.is_due(0), "a shard's own bit is its own to take");
    assert_eq!(s.waiters_to_ring(1), 0);
    s.watch(2);
    s.release(NodeId(1));
    assert_eq!(s.waiters_to_ring(0), 0b100);
}

/// The waiter's look after its flag and the mover's look at the flags: one of them sees the other.
#[test]
fn no_move_of_a_watermark_is_missed_by_a_shard_that_waits() {
    for _ in 0..2_000 {
        let s = Sequencer::new(1, 4, 0);
        let csn = s.open_commit().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                s.watch(5);
                s.watermark(NodeId(0)) == 1
            });
            s.acknowledge(NodeId(0), csn);
            let rung = s.waiters_to_ring(0) == 0b10_0000;
            let saw = waiter.join().unwrap();
            assert!(rung || saw);
        });
    }
}

proptest! {
    #[test]
    fn a_watermark_is_the_longest_prefix_whatever_the_order(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
        let s = Sequencer::new(1, 64, 0);
        let csns: Vec<Csn> = (0..40).map(|_| s.open_commit().unwrap()).collect();
        let mut done = std::collections::BTreeSet::new();
        for n in order {
            s.acknowledge(NodeId(0), csns[usize::try_from(n).unwrap() - 1]);
            done.insert(n);
            let prefix = (1..=40).take_while(|k| done.contains(k)).count() as u64;
            prop_assert_eq!(s.watermark(NodeId(0)), prefix);
        }
    }
}

mod passes {
    use super::*;

    fn sequencer() -> Arc<Sequencer> {
        Arc::new(Sequencer::new(2, 8, 0))
    }

    fn is_in<G>(entry: Entry<G>) -> G {
        match entry {
            Entry::In(pass) => pass,
            Entry::Wait(_) => panic!("it waits"),
        }
    }

    fn waits<G>(entry: Entry<G>) -> Waiting<G> {
        match entry {
            Entry::In(_) => panic!("it is in"),
            Entry::Wait(waiting) => waiting,
        }
    }

    #[test]
    fn each_class_is_concurrent_with_itself_and_excludes_the_other() {
        let s = sequencer();
        let (a, b) = (is_in(s.enter_commit(0).unwrap()), is_in(s.enter_commit(1).unwrap()));
        assert_eq!(s.look().open(), 2);
        let snapshot = waits(s.enter_snapshot(2).unwrap());
        drop(a);
        let snapshot = snapshot.poll().unwrap_err();
        assert_eq!(s.waiters_to_ring(0), 0);
        drop(b);
        assert_eq!(s.waiters_to_ring(0), 0b100);
        let snapshot = snapshot.poll().unwrap();
        assert!(s.look().is_quiet());
        let _second = is_in(s.enter_snapshot(0).unwrap());
        let _commit = waits(s.enter_commit(0).unwrap());
        drop(snapshot);
    }

    #[test]
    fn no_arrival_joins_a_phase_once_the_other_class_waits() {
        let s = sequencer();
        let first = is_in(s.enter_commit(0).unwrap());
        let snapshot = waits(s.enter_snapshot(1).unwrap());
        let second = waits(s.enter_commit(2).unwrap());
        drop(first);
        assert_eq!(s.waiters_to_ring(0), 0b010, "only shards of the class that is admitted");
        let second = second.poll().unwrap_err();
        drop(snapshot.poll().unwrap());
        assert_eq!(s.waiters_to_ring(0), 0b100);
        assert!(second.poll().is_ok());
    }

    #[test]
    fn a_place_is_given_up_before_and_after_it_was_admitted() {
        let s = sequencer();
        let commit = is_in(s.enter_commit(0).unwrap());
        drop(waits(s.enter_snapshot(1).unwrap()));
        let other = is_in(s.enter_commit(2).unwrap());
        let admitted = waits(s.enter_snapshot(1).unwrap());
        let behind = waits(s.enter_commit(2).unwrap());
        drop((commit, other));
        let behind = behind.poll().unwrap_err();
        drop(admitted);
        assert!(behind.poll().is_ok());
    }

    #[test]
    fn who_waits_behind_places_that_were_given_up_comes_next_and_is_not_overtaken() {
        let s = sequencer();
        let commit = is_in(s.enter_commit(0).unwrap());
        let snapshot = waits(s.enter_snapshot(1).unwrap());
        let behind = waits(s.enter_commit(2).unwrap());
        drop(snapshot);
        let late = waits(s.enter_commit(3).unwrap());
        drop(commit);
        assert_eq!(s.waiters_to_ring(0), 0b1100);
        assert_eq!(s.look().open(), 0, "a window is opened by the pass");
        let passes = (behind.poll().unwrap(), late.poll().unwrap());
        assert_eq!(s.look().open(), 2);
        drop(passes);
        let _ = is_in(s.enter_snapshot(0).unwrap());
    }

    #[test]
    fn a_panic_leaves_the_gate() {
        let s = sequencer();
        let inside = s.clone();
        let panicked = std::thread::spawn(move || {
            let _pass = is_in(inside.enter_commit(0).unwrap());
            panic!("a session's bug");
        });
        assert!(panicked.join().is_err());
        assert!(s.look().is_quiet());
        let _pass = is_in(s.enter_snapshot(0).unwrap());
    }

    #[test]
    fn a_token_names_epoch_and_newest_commit() {
        let s = sequencer();
        s.set_epoch(Epoch(12));
        let commit = is_in(s.enter_commit(0).unwrap());
        let snapshot = waits(s.enter_snapshot(0).unwrap());
        s.open_commit().unwrap();
        drop(commit);
        let token = snapshot.poll().unwrap().token();
        assert_eq!(token, SnapshotToken { epoch: Epoch(12), csn: 1 });
    }

    #[test]
    fn a_full_gate_refuses() {
        let s = sequencer();
        let commit = is_in(s.enter_commit(0).unwrap());
        let snapshots: Vec<_> = (0..65_535).map(|_| waits(s.enter_snapshot(0).unwrap())).collect();
        assert!(matches!(s.enter_snapshot(0), Err(GateFull)));
        drop(commit);
        let inside: Vec<SnapshotPass> = snapshots.into_iter().map(|w| w.poll().unwrap()).collect();
        assert!(matches!(s.enter_snapshot(0), Err(GateFull)));
        drop(inside);
        let _ = is_in(s.enter_commit(0).unwrap());
    }

    #[test]
    fn what_sessions_hold_can_be_sent_and_shown() {
        fn holds<T: Send + std::fmt::Debug>() {}
        holds::<Entry<SnapshotPass>>();
        holds::<Entry<CommitPass>>();
    }
}

mod windows {
    use super::*;
    use crate::sim::planted::{Planted, plant};

    #[test]
    fn a_look_holds_until_a_window_is_opened_even_if_it_is_closed_again() {
        let s = Arc::new(Sequencer::new(1, 4, 0));
        let look = s.look();
        assert!(s.still(look));
        let Ok(Entry::In(pass)) = s.enter_commit(0) else { panic!("nobody is in") };
        let busy = s.look();
        assert!(!s.still(look) && !s.still(busy) && !busy.is_quiet());
        drop(pass);
        assert!(!s.still(look) && !s.still(busy) && s.still(s.look()));
    }

    #[test]
    fn a_look_does_not_outlive_its_epoch() {
        let s = Sequencer::new(1, 4, 0);
        s.set_epoch(Epoch(65_536 + 7));
        let look = s.look();
        s.set_epoch(Epoch(6));
        assert!(s.still(look) && s.epoch() == Epoch(65_543), "an older one changes nothing");
        s.set_epoch(Epoch(65_536 + 8));
        assert!(!s.still(look) && s.look().is_quiet());
        plant(Some(Planted::EpochApart));
        let look = s.look();
        s.set_epoch(Epoch(65_536 + 9));
        let outlives = s.still(look);
        plant(None);
        assert!(outlives, "the bug does nothing");
    }
}

mod rows {
    use super::*;

    /// Rows on counters of their own.
    fn row(n: u64) -> RowHash {
        RowHash(n << 55)
    }

    fn commit(s: &Arc<Sequencer>, rows: &[Option<u64>]) -> CommitPass {
        let Ok(Entry::In(mut pass)) = s.enter_commit(0) else { panic!("nobody is in") };
        let mut footprint = Footprint::default();
        rows.iter().for_each(|r| footprint.add(r.map(row)));
        pass.mark(footprint);
        pass
    }

    #[test]
    fn a_look_at_a_row_minds_the_commits_that_write_it_and_no_others() {
        let s = Arc::new(Sequencer::new(1, 4, 0));
        let look = s.look_at(row(1));
        let other = commit(&s, &[Some(2), Some(3)]);
        assert!(s.still_at(look) && !s.look().is_quiet());
        let mine = commit(&s, &[Some(3), Some(1), Some(1)]);
        assert!(!s.still_at(look) && !s.look_at(row(1)).is_quiet());
        drop(mine);
        assert!(!s.still_at(look) && s.look_at(row(1)).is_quiet(), "it was there in between");
        assert!(!s.look_at(row(3)).is_quiet());
        let look = s.look_at(row(1));
        let all = commit(&s, &[Some(2), None]);
        assert!(!s.still_at(look));
        drop((other, all));
        assert!([1, 2, 3].iter().all(|n| s.look_at(row(*n)).is_quiet()));
        let look = s.look_at(row(1));
        s.set_epoch(Epoch(1));
        assert!(!s.still_at(look));
    }

    #[test]
    fn too_many_rows_are_all_rows() {
        let mut footprint = Footprint::default();
        (0..ROWS_MAX as u64).for_each(|n| footprint.add(Some(RowHash(n))));
        footprint.add(Some(RowHash(0)));
        assert!(!footprint.is_all());
        footprint.add(Some(RowHash(99)));
        assert_eq!(footprint, Footprint::all());
    }

    proptest! {
        #[test]
        fn counters_say_what_a_list_of_commits_does(acts in proptest::collection::vec((0..8u64, 0..3u64, any::<bool>()), 1..60)) {
            let s = Arc::new(Sequencer::new(1, 64, 0));
            let mut open: Vec<(CommitPass, Vec<Option<u64>>)> = Vec::new();
            let mut looks: Vec<(u64, RowLook, bool)> = Vec::new();
            for (row_at, extra, ends) in acts {
                if ends && !open.is_empty() {
                    open.remove(0);
                } else {
                    let rows = match extra { 0 => vec![None], 1 => vec![Some(row_at)], _ => vec![Some(row_at), Some(7 - row_at)] };
                    looks.iter_mut().for_each(|(n, _, holds)| *holds &= !rows.iter().any(|r| r.is_none_or(|r| r == *n)));
                    open.push((commit(&s, &rows), rows));
                }
                for (_, look, holds) in &looks {
                    prop_assert_eq!(s.still_at(*look), *holds);
                }
                let quiet = |n: u64| !open.iter().any(|(_, rows)| rows.iter().any(|r| r.is_none_or(|r| r == n)));
                looks.extend((0..8).map(|n| (n, s.look_at(row(n)), quiet(n))));
                looks.truncate(200);
            }
        }
    }
}

#[test]
fn tokens_are_read_as_they_are_written() {
    let token = SnapshotToken { epoch: Epoch(12), csn: 3456 };
    assert_eq!((token.to_string().as_str(), "12/3456".parse()), ("12/3456", Ok(token)));
    for (text, error) in [
        ("", TokenError::Form),
        ("12", TokenError::Form),
        ("/1", TokenError::Epoch),
        ("+1/1", TokenError::Epoch),
        ("1/", TokenError::Csn),
        ("1/2/3", TokenError::Csn),
        ("1/18446744073709551616", TokenError::Csn),
    ] {
        assert_eq!(text.parse::<SnapshotToken>(), Err(error), "{text}");
    }
}
