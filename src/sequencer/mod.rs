//! The commit order: numbers for commits, and for each node the number up to which it has acknowledged all of them.
//!
//! Lock-free: atomics only; no mutex, no allocation and no system call on any path. Knows neither sockets nor SQL.
//!
//! A commit takes its [`Csn`] just before COMMIT is sent to main. Nodes acknowledge in any order; the *watermark* of a
//! node is the largest number up to which nothing is missing. It is kept by a ring of slots per node: acknowledging
//! writes the number into its slot, then everybody who finds the next slot filled helps the watermark along.
//!
//! Memory order: a slot is written with Release and read with Acquire, and the watermark moves by a compare-exchange
//! that is both, so whoever sees watermark w also sees everything done before each commit up to w was acknowledged.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A node of the cluster: 0 to 15.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u8);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Commit sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Csn(NonZeroU64);

impl Csn {
    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// As many commits are between their number and their last acknowledgement as the window holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many commits are under way")]
pub struct WindowFull;

/// Shards that may wait; their flags fit one word.
pub const SHARDS_MAX: usize = 64;

/// What one node has acknowledged.
#[derive(Debug)]
struct Acknowledged {
    /// Slot `csn % window` holds `csn` once it is acknowledged.
    slots: Box<[AtomicU64]>,
    watermark: AtomicU64,
    /// The node is out: it counts as having everything.
    released: AtomicBool,
}

/// The process's commit order.
#[derive(Debug)]
pub struct Sequencer {
    newest: AtomicU64,
    nodes: Vec<Acknowledged>,
    /// One bit per shard that sleeps while it waits for a watermark.
    waiting: AtomicU64,
    /// Those of them that a watermark's move concerns, until somebody rings them.
    due: AtomicU64,
    window: u64,
}

impl Sequencer {
    /// For `nodes` nodes and at most `window` commits under way; the first commit has number `start` + 1.
    ///
    /// # Panics
    /// If `window` is no power of two: a constant of the program, not an input.
    #[must_use]
    pub fn new(nodes: usize, window: usize, start: u64) -> Sequencer {
        assert!(window.is_power_of_two(), "the window is a constant of the program");
        let node = || Acknowledged {
            slots: (0..window).map(|_| AtomicU64::new(0)).collect(),
            watermark: AtomicU64::new(start),
            released: AtomicBool::new(false),
        };
        Sequencer {
            newest: AtomicU64::new(start),
            nodes: (0..nodes).map(|_| node()).collect(),
            waiting: AtomicU64::new(0),
            due: AtomicU64::new(0),
            window: window as u64,
        }
    }

    /// The next number, taken just before COMMIT is sent to main.
    ///
    /// # Errors
    /// [`WindowFull`]: wait until the slowest watermark has moved.
    pub fn open_commit(&self) -> Result<Csn, WindowFull> {
        let mut newest = self.newest.load(Ordering::Acquire);
        loop {
            let slowest = (0..self.nodes.len()).map(|i| self.watermark_at(i)).min().unwrap_or(newest);
            if newest.saturating_sub(slowest) >= self.window {
                return Err(WindowFull);
            }
            match self.newest.compare_exchange_weak(newest, newest + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return NonZeroU64::new(newest + 1).map(Csn).ok_or(WindowFull),
                Err(seen) => newest = seen,
            }
        }
    }

    /// The newest number handed out. What a transaction reads together with an answer of main is its `need`: every
    /// commit that had been sent to main before that answer has a number up to it.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The node has acknowledged this commit (or has no part in it).
    pub fn acknowledge(&self, node: NodeId, csn: Csn) {
        let Some(n) = self.nodes.get(usize::from(node.0)) else { return };
        n.slots[self.slot(csn.get())].store(csn.get(), Ordering::Release);
        self.advance(n);
    }

    /// Main has refused it: nobody has anything to acknowledge.
    pub fn abort(&self, csn: Csn) {
        for i in 0..self.nodes.len() {
            self.acknowledge(NodeId(u8::try_from(i).unwrap_or(u8::MAX)), csn);
        }
    }

    /// The number up to which the node has acknowledged every commit.
    #[must_use]
    pub fn watermark(&self, node: NodeId) -> u64 {
        self.watermark_at(usize::from(node.0))
    }

    fn watermark_at(&self, at: usize) -> u64 {
        match self.nodes.get(at) {
            Some(n) if !n.released.load(Ordering::Acquire) => n.watermark.load(Ordering::Acquire),
            _ => u64::MAX,
        }
    }

    /// The node is out: it counts as having everything from now on.
    pub fn release(&self, node: NodeId) {
        if let Some(n) = self.nodes.get(usize::from(node.0)) {
            n.released.store(true, Ordering::Release);
            self.moved();
        }
    }

    /// This shard is about to sleep while it waits for a watermark. It must look at the watermarks once more after
    /// this call and before it sleeps.
    pub fn watch(&self, shard: usize) {
        self.waiting.fetch_or(1 << (shard % SHARDS_MAX), Ordering::SeqCst);
    }

    /// Shards other than `me` that must be woken, since a watermark has moved while they waited; each is named once.
    /// Called once per loop turn, after all acknowledgements of the turn. `me` is awake and looks by itself.
    #[must_use]
    pub fn waiters_to_ring(&self, me: usize) -> u64 {
        if self.due.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.due.swap(0, Ordering::AcqRel) & !(1 << (me % SHARDS_MAX))
    }

    /// A watermark has moved: whoever waits is due.
    ///
    /// SeqCst on both sides: either the waiter's second look sees the watermark, or this look sees its flag.
    fn moved(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            let waiting = self.waiting.swap(0, Ordering::SeqCst);
            self.due.fetch_or(waiting, Ordering::AcqRel);
        }
    }

    fn slot(&self, csn: u64) -> usize {
        // The remainder is below the window, which came from a usize.
        usize::try_from(csn & (self.window - 1)).unwrap_or(0)
    }

    fn advance(&self, n: &Acknowledged) {
        loop {
            let w = n.watermark.load(Ordering::Acquire);
            if n.slots[self.slot(w + 1)].load(Ordering::Acquire) != w + 1 {
                return;
            }
            // Whoever loses the race finds the next slot itself.
            if n.watermark.compare_exchange(w, w + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.moved();
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
