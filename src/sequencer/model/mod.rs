//! The sequencer's own files, compiled twice more against loom's atomics, with every interleaving of small cases tried.
//!
//! Twice, since loom 0.7 leaves something out. To find where another order of threads matters it remembers the last
//! access to each atomic: a thread that loads and then exchanges, as every loop of exchanges does, hides behind its own
//! load that another thread's load came before, and "the other thread looks later" is not tried.
//!
//! - [`late`]: loads as they are. They may see old values, so the orderings asked for are put to the test.
//! - [`whole`]: loads and stores that are exchanges for loom. They see the newest value, and every order of accesses is
//!   tried. (Stores, too, since loom orders a plain store and an exchange that did not see it in either way.)

#[path = "."]
mod late {
    mod atomics {
        pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

        pub(super) const SLOTS: usize = 2;
    }
    const MORE: usize = 0;
    mod cases;
}

#[path = "."]
mod whole {
    mod atomics {
        pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};

        pub(super) const SLOTS: usize = 2;

        #[derive(Debug)]
        pub(super) struct AtomicU64(loom::sync::atomic::AtomicU64);

        impl AtomicU64 {
            pub(in super::super) fn new(to: u64) -> AtomicU64 {
                AtomicU64(loom::sync::atomic::AtomicU64::new(to))
            }

            pub(in super::super) fn load(&self, order: Ordering) -> u64 {
                self.0.fetch_or(0, order)
            }

            pub(in super::super) fn store(&self, to: u64, order: Ordering) {
                self.0.swap(to, order);
            }
        }

        impl std::ops::Deref for AtomicU64 {
            type Target = loom::sync::atomic::AtomicU64;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    }
    const MORE: usize = 1;
    #[allow(clippy::duplicate_mod, reason = "the point of these tests")]
    mod cases;
}
