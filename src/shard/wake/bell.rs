//! The agreement between a shard that falls asleep and threads that wake it: who must write the eventfd, and when.
//!
//! Two flags. `rung` says that there is a reason to look at the inbox; `asleep` says that only the eventfd can tell
//! the shard so.
//!
//! ```text
//! ringing thread                    shard
//!   R1  rung   = true                 S1  asleep = true
//!   R2  fence                         S2  fence
//!   R3  asleep? then write eventfd    S3  rung? then do not sleep
//! ```
//!
//! The fences are sequentially consistent, so one of them comes first in their single order. If R2 precedes S2, S3
//! sees R1 and the shard stays awake. If S2 precedes R2, R3 sees S1 and writes the eventfd, whose pending poll ends
//! the sleep. There is no third case, so no ring is lost. A ringing thread takes the sleeper's flag away with a swap:
//! of several that ring at once, one pays for the system call. (Those others then depend on that one thread to get to
//! its write; it has nothing to do in between.) A write that comes too late ends some later sleep early: harmless.
//!
//! Both flags change by read-modify-write only, so the changes of each form one chain. For `rung` it matters to the
//! program: the shard's swap in [`Bell::awake`] synchronises with *every* thread that rang before it, not just the
//! last, and sees each message that was queued before its ring. For `asleep` it matters to the proof: with plain
//! stores loom tries orders of changes that the language excludes, and reports a ring that cannot be lost.
//!
//! The atomics are the parent module's, so that the test can run this very file under loom.

use super::atomics::{AtomicBool, Ordering, fence};

pub(in crate::shard) struct Bell {
    rung: AtomicBool,
    asleep: AtomicBool,
}

impl Bell {
    pub(in crate::shard) fn new() -> Bell {
        Bell { rung: AtomicBool::new(false), asleep: AtomicBool::new(false) }
    }

    /// Any thread: there is news. `wake` ends the shard's sleep; it is called only when that may be needed.
    pub(in crate::shard) fn ring(&self, wake: impl FnOnce()) {
        self.rung.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        // The first, plain look keeps the cache line shared while the shard is awake.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            wake();
        }
    }

    /// The shard, before it waits: from here on it has to be woken. False if it must not sleep because the bell has
    /// been rung already.
    pub(in crate::shard) fn fall_asleep(&self) -> bool {
        self.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        !self.rung.load(Ordering::Relaxed)
    }

    /// The shard, after it has waited: it needs no waking now. True if the bell was rung since the last call.
    pub(in crate::shard) fn awake(&self) -> bool {
        self.asleep.swap(false, Ordering::AcqRel);
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }
}
