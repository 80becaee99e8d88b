//! The doorbell's own file, compiled once more against loom's atomics, with every interleaving tried.

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}
#[path = "bell.rs"]
mod bell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn no_interleaving_loses_a_ring() {
    loom::model(|| {
        let bell = Arc::new((bell::Bell::new(), loom::sync::Notify::new()));
        let messages = Arc::new(AtomicUsize::new(0));
        let ringers: Vec<_> = (0..2)
            .map(|_| {
                let (bell, messages) = (Arc::clone(&bell), Arc::clone(&messages));
                loom::thread::spawn(move || {
                    messages.fetch_add(1, Ordering::Relaxed);
                    bell.0.ring(|| bell.1.notify());
                })
            })
            .collect();
        // A shard that sleeps for ever on a lost ring is a deadlock, which loom reports.
        while messages.load(Ordering::Relaxed) < 2 {
            if bell.0.fall_asleep() {
                bell.1.wait();
            }
            bell.0.awake();
        }
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}
