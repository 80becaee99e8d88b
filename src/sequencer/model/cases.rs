//! Each thread plays a shard: it does its part, asks whether it is due, rings the others, and sleeps until it is rung
//! itself. A ring that is lost is a deadlock, which loom reports. Who is in the gate touches plain memory that the other
//! class touches too: loom reports what is not ordered.

macro_rules! once_more {
    ($($file:literal $name:ident)*) => {
        $(#[path = $file]
        #[allow(clippy::duplicate_mod, dead_code, reason = "the point of these tests, which do not call everything")]
        mod $name;)*
    };
}
once_more! { "../commits.rs" commits "../gate.rs" gate "../passes.rs" passes "../token.rs" token "../window.rs" window "../footprints.rs" footprints }

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread::{JoinHandle, Thread, current, park, spawn};

use super::{MORE, atomics};
use crate::sequencer::SHARDS_MAX;
use commits::{NodeId, Sequencer};
use footprints::{Footprint, RowHash};
use passes::{CommitPass, Entry, Pass, SnapshotPass, Waiting};
use token::Epoch;

/// A shard's eventfd: a write is remembered until the sleeper has seen it.
#[derive(Default)]
struct Eventfd {
    written: AtomicBool,
    /// Not loom's: loom switches threads at its own operations only, so each use is one step with the one before it.
    sleeper: Mutex<Option<Thread>>,
}

impl Eventfd {
    fn write(&self) {
        self.written.swap(true, Ordering::AcqRel);
        if let Some(sleeper) = self.sleeper.lock().unwrap().take() {
            sleeper.unpark();
        }
    }

    fn sleep(&self) {
        while !self.written.swap(false, Ordering::AcqRel) {
            *self.sleeper.lock().unwrap() = Some(current());
            park();
        }
    }
}

const NODE: NodeId = NodeId(0);

struct World {
    sequencer: Arc<Sequencer>,
    eventfds: Vec<Eventfd>,
    /// One per shard. Written by its commits, read by everybody's snapshots.
    rows: Vec<UnsafeCell<u64>>,
}

// SAFETY: loom checks each access to the rows.
unsafe impl Sync for World {}
unsafe impl Send for World {}

impl World {
    /// The gate needs no nodes, and each watermark makes many more interleavings.
    fn new(nodes: usize, shards: usize) -> Arc<World> {
        Arc::new(World {
            sequencer: Arc::new(Sequencer::new(nodes, 2, 0)),
            eventfds: (0..shards).map(|_| Eventfd::default()).collect(),
            rows: (0..shards).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn ring(&self, me: usize) {
        let due = self.sequencer.waiters_to_ring(me);
        self.eventfds.iter().enumerate().filter(|(i, _)| due & 1 << i != 0).for_each(|(_, e)| e.write());
    }

    /// The end of a shard's turn.
    fn sleep(&self, me: usize) {
        let due = self.sequencer.is_due(me);
        self.ring(me);
        if !due {
            self.eventfds[me].sleep();
        }
    }

    /// Looks before it sleeps, as a shard may at any time.
    fn poll_and_wait<G: Pass>(&self, me: usize, waiting: Waiting<G>) -> G {
        waiting.poll().unwrap_or_else(|waiting| self.wait(me, waiting))
    }

    /// Looks only when there was a ring.
    fn wait<G: Pass>(&self, me: usize, mut waiting: Waiting<G>) -> G {
        loop {
            self.sleep(me);
            waiting = match waiting.poll() {
                Ok(pass) => return pass,
                Err(waiting) => waiting,
            };
        }
    }

    fn entered<G: Pass>(&self, me: usize, entry: Entry<G>) -> G {
        match entry {
            Entry::In(pass) => pass,
            Entry::Wait(waiting) => self.wait(me, waiting),
        }
    }

    /// A whole commit inside the gate.
    fn commit(&self, me: usize, pass: CommitPass) {
        let csn = self.sequencer.open_commit().unwrap();
        // SAFETY: only this shard writes it, and only here.
        self.rows[me].with_mut(|row| unsafe { *row = csn.get() });
        drop(pass);
        self.ring(me);
    }

    /// A whole snapshot inside the gate: it finds every commit that has a number, and no window open.
    fn snapshot(&self, me: usize, pass: SnapshotPass) {
        assert!(self.sequencer.look().is_quiet());
        // SAFETY: commits, which write them, are kept out.
        let newest = self.rows.iter().map(|row| row.with(|row| unsafe { *row })).max();
        assert_eq!(newest, Some(pass.token().csn));
        drop(pass);
        self.ring(me);
    }

    fn enter_and_commit(&self, me: usize) {
        let pass = self.entered(me, self.sequencer.enter_commit(me).unwrap());
        self.commit(me, pass);
    }

    fn enter_and_snapshot(&self, me: usize) {
        let pass = self.entered(me, self.sequencer.enter_snapshot(me).unwrap());
        self.snapshot(me, pass);
    }

    /// Nobody is in, nobody waits, no window is open.
    fn is_at_rest(&self) {
        assert!(self.sequencer.look().is_quiet());
        assert!(matches!(self.sequencer.enter_snapshot(0), Ok(Entry::In(_))));
        assert!(matches!(self.sequencer.enter_commit(0), Ok(Entry::In(_))));
    }
}

/// Every interleaving with at most so many switches of threads where none is due (where loads are exchanges, there are
/// fewer values to try, and one switch more), or as many as LOOM_MAX_PREEMPTIONS says. The bounds are such that each case
/// takes seconds.
fn every_interleaving(preemptions: impl Into<Option<usize>>, case: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(preemptions.into().map(|bound| bound + MORE));
    let tried = Arc::new(AtomicUsize::new(0));
    let count = tried.clone();
    model.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        case();
    });
    println!("{} interleavings", tried.load(Ordering::Relaxed));
}

fn thread(world: &Arc<World>, run: impl FnOnce(&World) + 'static) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || run(&world))
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn waits<G>(entry: Entry<G>) -> Waiting<G> {
    match entry {
        Entry::In(_) => panic!("it is in"),
        Entry::Wait(waiting) => waiting,
    }
}

fn is_in<G>(entry: Entry<G>) -> G {
    match entry {
        Entry::In(pass) => pass,
        Entry::Wait(_) => panic!("it waits"),
    }
}

#[test]
fn a_commit_and_a_snapshot() {
    every_interleaving(4, || {
        let world = World::new(0, 2);
        let threads = [thread(&world, |w| w.enter_and_commit(0)), thread(&world, |w| w.enter_and_snapshot(1))];
        join(threads);
        world.is_at_rest();
    });
}

#[test]
fn two_commits_and_a_snapshot() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let commits = [0, 1].map(|me| thread(&world, move |w| w.enter_and_commit(me)));
        world.enter_and_snapshot(2);
        join(commits);
        world.is_at_rest();
    });
}

#[test]
fn two_snapshots_and_a_commit() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let snapshots = [0, 1].map(|me| thread(&world, move |w| w.enter_and_snapshot(me)));
        world.enter_and_commit(2);
        join(snapshots);
        world.is_at_rest();
    });
}

#[test]
fn both_classes_again_and_again() {
    every_interleaving(2, || {
        let world = World::new(0, 2);
        let snapshots = thread(&world, |w| (0..2).for_each(|_| w.enter_and_snapshot(1)));
        (0..2).for_each(|_| world.enter_and_commit(0));
        join([snapshots]);
        world.is_at_rest();
    });
}

/// A hand-over changes the gate and takes the bits later. Meanwhile the snapshot that it admitted is in, a commit waits
/// behind that, and another snapshot of the same shard behind the commit: its bit is taken too early.
#[test]
fn a_late_hand_over_takes_no_ring_from_a_later_one() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let first = is_in(world.sequencer.enter_commit(0).unwrap());
        let snapshot = waits(world.sequencer.enter_snapshot(1).unwrap());
        let commit = waits(world.sequencer.enter_commit(2).unwrap());
        let late = thread(&world, move |w| {
            drop(first);
            w.ring(0);
        });
        let commit = thread(&world, move |w| {
            let pass = w.wait(2, commit);
            w.commit(2, pass);
        });
        let pass = world.poll_and_wait(1, snapshot);
        let second = world.sequencer.enter_snapshot(1).unwrap();
        drop(pass);
        let second = world.entered(1, second);
        drop(second);
        world.ring(1);
        join([late, commit]);
        world.is_at_rest();
    });
}

#[test]
fn no_arrival_overtakes_one_of_the_other_class_that_waits() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let been = Arc::new(AtomicBool::new(false));
        let first = is_in(world.sequencer.enter_commit(0).unwrap());
        let snapshot = waits(world.sequencer.enter_snapshot(1).unwrap());
        let arrival = {
            let been = been.clone();
            thread(&world, move |w| {
                let pass = w.entered(2, w.sequencer.enter_commit(2).unwrap());
                assert!(been.load(Ordering::Relaxed), "the snapshot waited before this one came");
                w.commit(2, pass);
            })
        };
        let snapshot = thread(&world, move |w| {
            let pass = w.wait(1, snapshot);
            been.store(true, Ordering::Relaxed);
            w.snapshot(1, pass);
        });
        drop(first);
        world.ring(0);
        join([arrival, snapshot]);
        world.is_at_rest();
    });
}

/// Two sessions that go on without end: the snapshot's shard gets its turn nevertheless. Without fairness one of the
/// two is always in, which loom reports as too many branches.
#[test]
fn commits_without_end_do_not_starve_a_snapshot() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let served = Arc::new(AtomicBool::new(false));
        let mut pass = is_in(world.sequencer.enter_commit(0).unwrap());
        let snapshot = waits(world.sequencer.enter_snapshot(1).unwrap());
        let snapshot = {
            let served = served.clone();
            thread(&world, move |w| {
                let pass = w.wait(1, snapshot);
                served.store(true, Ordering::Relaxed);
                w.snapshot(1, pass);
            })
        };
        // The next session of this shard always arrives before the last one leaves.
        let mut commits = 0;
        while !served.load(Ordering::Relaxed) {
            let next = world.sequencer.enter_commit(0).unwrap();
            drop(pass);
            pass = world.entered(0, next);
            commits += 1;
            assert!(commits <= 2, "the snapshot is passed by");
        }
        drop(pass);
        world.ring(0);
        join([snapshot]);
    });
}

/// The commit leaves, the snapshot gives up, and a commit behind it waits: whatever comes first, nobody is left over.
#[test]
fn giving_up_while_being_admitted() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let first = is_in(world.sequencer.enter_commit(0).unwrap());
        let gives_up = waits(world.sequencer.enter_snapshot(1).unwrap());
        let behind = waits(world.sequencer.enter_commit(2).unwrap());
        let gives_up = thread(&world, move |w| {
            drop(gives_up);
            w.ring(1);
        });
        let behind = thread(&world, move |w| {
            let pass = w.wait(2, behind);
            w.commit(2, pass);
        });
        drop(first);
        world.ring(0);
        join([gives_up, behind]);
        world.is_at_rest();
    });
}

/// The same with a commit that arrives while all that happens.
#[test]
fn giving_up_while_being_admitted_and_while_another_arrives() {
    every_interleaving(2, || {
        let world = World::new(0, 3);
        let first = is_in(world.sequencer.enter_commit(0).unwrap());
        let gives_up = waits(world.sequencer.enter_snapshot(1).unwrap());
        let gives_up = thread(&world, move |w| {
            let polled = gives_up.poll();
            drop(polled);
            w.ring(1);
        });
        let arrival = thread(&world, |w| w.enter_and_commit(2));
        drop(first);
        world.ring(0);
        join([gives_up, arrival]);
        world.is_at_rest();
    });
}

#[test]
fn no_move_of_a_watermark_is_missed() {
    every_interleaving(4, || {
        let world = World::new(1, 2);
        let csns = [(); 2].map(|()| world.sequencer.open_commit().unwrap());
        let acknowledges = thread(&world, move |w| {
            csns.into_iter().for_each(|csn| w.sequencer.acknowledge(NODE, csn));
            w.ring(0);
        });
        world.sequencer.watch(1);
        while world.sequencer.watermark(NODE) < 2 {
            world.sleep(1);
            world.sequencer.watch(1);
        }
        join([acknowledges]);
    });
}

#[test]
fn numbers_are_taken_once_and_acknowledged_in_any_order() {
    every_interleaving(3, || {
        let world = World::new(1, 3);
        let threads = [0, 1].map(|_| {
            thread(&world, |w| {
                let csn = w.sequencer.open_commit().unwrap();
                assert!(w.sequencer.newest() >= csn.get() && w.sequencer.watermark(NODE) < csn.get());
                w.sequencer.acknowledge(NODE, csn);
            })
        });
        join(threads);
        assert_eq!((world.sequencer.newest(), world.sequencer.watermark(NODE)), (2, 2));
    });
}

/// What two nodes show, without any order of its own: the order must come from the window.
struct Nodes([AtomicU64; 2]);

impl Nodes {
    fn new() -> Arc<Nodes> {
        Arc::new(Nodes([AtomicU64::new(0), AtomicU64::new(0)]))
    }

    fn set(&self, node: usize, to: u64) {
        self.0[node].store(to, Ordering::Relaxed);
    }

    fn get(&self, node: usize) -> u64 {
        self.0[node].load(Ordering::Relaxed)
    }
}

#[test]
fn a_look_that_holds_saw_no_commit_on_one_node_only() {
    every_interleaving(None, || {
        let (world, nodes) = (World::new(0, 1), Nodes::new());
        let committed = nodes.clone();
        let commit = thread(&world, move |w| {
            let pass = is_in(w.sequencer.enter_commit(0).unwrap());
            (0..2).for_each(|node| committed.set(node, 1));
            drop(pass);
        });
        let look = world.sequencer.look();
        let seen = [1, 0].map(|node| nodes.get(node));
        if world.sequencer.still(look) {
            assert_eq!(seen[0], seen[1]);
        }
        join([commit]);
    });
}

/// Rows 0 and 1 have counters of their own.
#[test]
fn a_look_at_a_row_that_holds_saw_no_commit_of_it_on_one_node_only_whatever_else_is_under_way() {
    const ROWS: [RowHash; 2] = [RowHash(0), RowHash(u64::MAX)];
    for footprint in [Some(ROWS[0]), Some(ROWS[1]), None] {
        every_interleaving(None, move || {
            let (world, nodes) = (World::new(0, 1), Nodes::new());
            let committed = nodes.clone();
            let commit = thread(&world, move |w| {
                let mut pass = is_in(w.sequencer.enter_commit(0).unwrap());
                let mut writes = Footprint::default();
                writes.add(footprint);
                pass.mark(writes);
                (0..2).for_each(|node| committed.set(node, 1));
                drop(pass);
            });
            let look = world.sequencer.look_at(ROWS[0]);
            let seen = [1, 0].map(|node| nodes.get(node));
            let holds = world.sequencer.still_at(look);
            if footprint == Some(ROWS[1]) {
                assert!(holds, "another row's commit");
            } else if holds {
                assert_eq!(seen[0], seen[1]);
            }
            join([commit]);
        });
    }
}

#[test]
fn a_look_that_holds_saw_no_node_that_was_out() {
    every_interleaving(None, || {
        let (world, nodes) = (World::new(0, 1), Nodes::new());
        let main = Arc::new(AtomicU64::new(1));
        let detach = {
            let (nodes, main) = (nodes.clone(), main.clone());
            thread(&world, move |w| {
                main.store(0, Ordering::Release);
                w.sequencer.set_epoch(Epoch(1));
                nodes.set(1, 99);
            })
        };
        let look = world.sequencer.look();
        let node = usize::try_from(main.load(Ordering::Acquire)).unwrap();
        let seen = nodes.get(node);
        if world.sequencer.still(look) {
            assert_eq!(seen, 0);
        }
        join([detach]);
    });
}

#[test]
fn no_look_is_torn_by_epochs_that_change_while_windows_do() {
    every_interleaving(2, || {
        let world = World::new(0, 1);
        let start = world.sequencer.look();
        let commits = thread(&world, |w| drop(is_in(w.sequencer.enter_commit(0).unwrap())));
        let epochs = [1, 2].map(|epoch| thread(&world, move |w| w.sequencer.set_epoch(Epoch(epoch))));
        assert!(world.sequencer.look().open() <= 1);
        join(epochs);
        join([commits]);
        let end = world.sequencer.look();
        assert!(end.is_quiet() && end != start && world.sequencer.epoch() == Epoch(2));
        world.sequencer.set_epoch(Epoch(2));
        assert!(world.sequencer.still(end), "the word had the newest epoch already");
    });
}
