//! The doorbell's own file, compiled once more against loom's atomics, with every interleaving tried.

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}
#[path = "bell.rs"]
#[allow(clippy::duplicate_mod, reason = "the point of this test")]
mod bell;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};

/// The eventfd and its poll: a write is remembered until the sleeper has seen it.
struct Eventfd {
    written: Mutex<bool>,
    changed: Condvar,
}

impl Eventfd {
    fn write(&self) {
        *self.written.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut written = self.written.lock().unwrap();
        while !*written {
            written = self.changed.wait(written).unwrap();
        }
        *written = false;
    }
}

#[test]
fn no_interleaving_loses_a_ring() {
    // Three switches of threads where none is due explore what matters in seconds; without a bound it takes minutes.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let bell = Arc::new(bell::Bell::new());
        let eventfd = Arc::new(Eventfd { written: Mutex::new(false), changed: Condvar::new() });
        let messages = Arc::new(AtomicUsize::new(0));
        let ringers: Vec<_> = (0..2)
            .map(|_| {
                let (bell, eventfd, messages) = (Arc::clone(&bell), Arc::clone(&eventfd), Arc::clone(&messages));
                loom::thread::spawn(move || {
                    messages.fetch_add(1, Ordering::Relaxed);
                    bell.ring(|| eventfd.write());
                })
            })
            .collect();
        // A shard that sleeps for ever on a lost ring is a deadlock, which loom reports.
        while messages.load(Ordering::Relaxed) < 2 {
            if bell.fall_asleep() {
                eventfd.sleep();
            }
            bell.awake();
        }
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}
