//! The window word: which membership is in force and whether a commit is under way somewhere, by one atomic look.
//!
//! ```text
//! bits 32..64        16..32                    0..16
//! windows opened     epoch, its low 16 bits    windows open now
//! ```
//!
//! A read on a replica is a seqlock's reader: it notes the word before it is sent, and looks again when the first reply
//! is here that proves its snapshot taken. The same word with no window open means that no commit was visible on one
//! node and not yet on another while the snapshot was taken, and that the node was in force. The count of windows
//! opened is at the top, where it wraps without touching the rest: to be taken in, a read would have to last exactly a
//! multiple of 2^32 commits, in one epoch.
//!
//! **Memory order.** What connects a window to a reply that saw its commit are messages through a server, of which the
//! language knows nothing. So both sides have a sequentially consistent fence: opening between the word and whatever
//! is sent afterwards, the second look between the reply and the word. The first precedes the second in time, hence in
//! the fences' single order, and the look sees the window.

use super::atomics::{AtomicU64, Ordering, fence};
use super::token::Epoch;
use crate::sim::planted::{Planted, is};

const OPENED: u32 = 32;
const EPOCH: u32 = 16;
const LOW: u64 = 0xffff;

/// What one look at the window word has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look(u64);

impl Look {
    /// No commit window is open: all nodes that are up have the same commits.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.0 & LOW == 0
    }

    /// Commit windows that are open.
    #[must_use]
    pub fn open(self) -> u16 {
        (self.0 & LOW) as u16
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Window {
    word: AtomicU64,
    /// The whole epoch. The word follows it.
    epoch: AtomicU64,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { word: AtomicU64::new(0), epoch: AtomicU64::new(0) }
    }

    /// A commit is about to be sent to main. At most 65,535 are open at a time: the gate lets no more commits in.
    pub(super) fn open(&self) {
        let before = self.word.fetch_add((1 << OPENED) + 1, Ordering::AcqRel);
        debug_assert!(before & LOW != LOW, "the gate counts no further");
        fence(Ordering::SeqCst);
    }

    /// All nodes have it, or main has refused it.
    pub(super) fn close(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & LOW != 0, "closed once for each time that it was opened");
    }

    pub(super) fn look(&self) -> Look {
        Look(self.word.load(Ordering::Acquire))
    }

    pub(super) fn still(&self, look: Look) -> bool {
        fence(Ordering::SeqCst);
        look.is_quiet() && self.look() == look
    }

    /// The low bits of the epoch in force, in the word itself.
    pub(super) fn epoch_bits(&self) -> u64 {
        self.word.load(Ordering::Acquire) >> EPOCH & LOW
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Epochs only rise; several threads may set them at once.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::AcqRel);
        if is(Planted::EpochApart) {
            return;
        }
        let mut now = self.word.load(Ordering::Acquire);
        loop {
            // Read after the word: if another thread has changed the word to a newer epoch since, the exchange fails.
            let newest = self.epoch.load(Ordering::Acquire) & LOW;
            let next = now & !(LOW << EPOCH) | newest << EPOCH;
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(seen) => now = seen,
            }
        }
        fence(Ordering::SeqCst);
    }
}
