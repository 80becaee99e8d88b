//! The driver's doorbell: a [`Bell`] and the eventfd that ends the ring's wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::shard::driver::Doorbell;
use crate::shard::wake::Bell;

/// Shared by the shard's driver and everybody who wakes it. Outlives the driver; ringing is then without effect.
pub(super) struct RingDoorbell {
    pub(super) bell: Bell,
    /// Watched by a multishot poll, which reports each write. It is never read: its count would need 2^64 wake-ups to
    /// fill, and the poll is edge-triggered.
    eventfd: OwnedFd,
}

impl RingDoorbell {
    pub(super) fn new() -> io::Result<RingDoorbell> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(RingDoorbell { bell: Bell::new(), eventfd })
    }

    pub(super) fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl Doorbell for RingDoorbell {
    fn ring(&self) {
        self.bell.ring(|| {
            // Cannot fail: the descriptor is ours and open, its count far from full.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        });
    }
}
