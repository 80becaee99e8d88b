//! Numbers for commits, and for each node the number up to which it has acknowledged all of them.
//!
//! A commit takes its [`Csn`] just before COMMIT is sent to main. Nodes acknowledge in any order; the *watermark* of a
//! node is the largest number up to which nothing is missing. It is kept by a ring of slots per node: acknowledging
//! writes the number into its slot, then everybody who finds the next slot filled helps the watermark along.
//!
//! Memory order: a slot is written with Release and read with Acquire, and the watermark moves by a compare-exchange
//! that is both, so whoever sees watermark w also sees everything done before each commit up to w was acknowledged.

use std::fmt;
use std::num::NonZeroU64;

use crossbeam::utils::CachePadded;

use super::SHARDS_MAX;
use super::atomics::{AtomicBool, AtomicU64, Ordering, fence};
use super::footprints::{Footprints, RowHash, RowLook};
use super::gate::{Gate, Occupancy};
use super::token::Epoch;
use super::window::{Look, Window};

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
    newest: CachePadded<AtomicU64>,
    nodes: Vec<Acknowledged>,
    /// One bit per shard that sleeps while it waits for a watermark.
    waiting: AtomicU64,
    /// Shards that a watermark's move or a hand-over of the gate concerns, until somebody rings them.
    due: CachePadded<AtomicU64>,
    capacity: u64,
    pub(super) gate: Gate,
    pub(super) window: CachePadded<Window>,
    pub(super) footprints: Footprints,
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
            newest: CachePadded::new(AtomicU64::new(start)),
            nodes: (0..nodes).map(|_| node()).collect(),
            waiting: AtomicU64::new(0),
            due: CachePadded::new(AtomicU64::new(0)),
            capacity: window as u64,
            gate: Gate::new(),
            window: CachePadded::new(Window::new()),
            footprints: Footprints::new(),
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
            if newest.saturating_sub(slowest) >= self.capacity {
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

    /// Every node that is not out has acknowledged all commits up to this number, and it has been handed out.
    #[must_use]
    pub fn have_all(&self, csn: u64) -> bool {
        csn <= self.newest() && (0..self.nodes.len()).all(|i| self.watermark_at(i) >= csn)
    }

    /// The node has acknowledged this commit (or has no part in it).
    pub fn acknowledge(&self, node: NodeId, csn: Csn) {
        let Some(n) = self.nodes.get(usize::from(node.0)) else { return };
        n.slots[self.slot(csn.get())].store(csn.get(), Ordering::Release);
        // With the one in `moved`: either whoever moves the watermark to the number before finds this slot filled, or
        // this thread finds the watermark there.
        fence(Ordering::SeqCst);
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
        self.waiting.fetch_or(bit(shard), Ordering::AcqRel);
        // With the one in `moved`: either the look that follows sees the watermark, or the mover sees the flag.
        fence(Ordering::SeqCst);
    }

    /// Shards other than `me` that must be woken, since a watermark has moved or the gate was handed over while they
    /// waited; each is named once. Every shard calls this once per loop turn, after all that it does in the turn, and
    /// rings those. Its own bit stays for [`Self::is_due`], or for another shard, which then rings it.
    #[must_use]
    pub fn waiters_to_ring(&self, me: usize) -> u64 {
        if self.due.load(Ordering::Acquire) & !bit(me) == 0 {
            return 0;
        }
        self.due.fetch_and(bit(me), Ordering::AcqRel) & !bit(me)
    }

    /// A watermark has moved, or the gate was handed over, since this shard said last that it waits: it must look at
    /// everything that waits once more before it sleeps. Asked between its last look and its sleep. True once.
    ///
    /// A shard that another one has rung looks in any case: whoever rang it has taken the bit.
    #[must_use]
    pub fn is_due(&self, me: usize) -> bool {
        self.due.load(Ordering::Acquire) & bit(me) != 0 && self.due.fetch_and(!bit(me), Ordering::AcqRel) & bit(me) != 0
    }

    /// These shards are due.
    pub(super) fn ring_later(&self, shards: u64) {
        if shards != 0 {
            self.due.fetch_or(shards, Ordering::AcqRel);
        }
    }

    /// A watermark has moved: whoever waits is due.
    fn moved(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Acquire) != 0 {
            self.ring_later(self.waiting.swap(0, Ordering::AcqRel));
        }
    }

    /// The membership in force, as [`Self::set_epoch`] has said.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.window.epoch()
    }

    /// A new membership is in force; every look noted before no longer holds. To be called after the membership can be
    /// read, so that whoever notes the new epoch chooses its node from it, and before a commit window is closed that
    /// counts a node of the old one as out. An older epoch changes nothing.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.window.set_epoch(epoch);
    }

    /// Epoch and commit windows, in one look.
    #[must_use]
    pub fn look(&self) -> Look {
        self.window.look()
    }

    /// Who is at the gate.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        self.gate.occupancy()
    }

    /// Epoch, and commits under way that write this row.
    #[must_use]
    pub fn look_at(&self, row: RowHash) -> RowLook {
        self.footprints.look(row, self.window.epoch_bits())
    }

    /// No commit that writes the row was under way at that look, none has come since, and the epoch is the same.
    #[must_use]
    pub fn still_at(&self, look: RowLook) -> bool {
        fence(Ordering::SeqCst);
        look.is_quiet() && self.look_at(look.row) == look
    }

    /// No commit window was open at that look, none has been opened since, and the epoch is the same.
    #[must_use]
    pub fn still(&self, look: Look) -> bool {
        self.window.still(look)
    }

    fn slot(&self, csn: u64) -> usize {
        // The remainder is below the window, which came from a usize.
        usize::try_from(csn & (self.capacity - 1)).unwrap_or(0)
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

fn bit(shard: usize) -> u64 {
    1 << (shard % SHARDS_MAX)
}
