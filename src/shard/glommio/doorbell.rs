//! The driver's doorbell: a [`Bell`] and a pair of sockets whose far end a task reads.
//!
//! Not a waker of glommio's: waking from another thread makes the two count references to one task, and what is left of
//! a task at its end depends on who counts last. A byte on a socket is like any other reason to wake, and costs the
//! same write as the executor's own eventfd would.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use socket2::SockRef;

use crate::shard::driver::Doorbell;
use crate::shard::wake::Bell;

/// Shared by the shard's driver and everybody who wakes it. Outlives the driver; ringing is then without effect.
pub(super) struct GlommioDoorbell {
    pub(super) bell: Bell,
    line: UnixStream,
}

impl GlommioDoorbell {
    /// The doorbell, and the end of its line that becomes readable when it has been rung while the shard slept.
    pub(super) fn new() -> io::Result<(GlommioDoorbell, OwnedFd)> {
        let (line, end) = UnixStream::pair()?;
        Ok((GlommioDoorbell { bell: Bell::new(), line }, end.into()))
    }

    /// Ends the line.
    pub(super) fn hang_up(&self) {
        // Fails only if it has been done already.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
    }
}

impl Doorbell for GlommioDoorbell {
    fn ring(&self) {
        self.bell.ring(|| {
            // A line that is full has bytes for the shard to wake up to; one that is cut has no shard.
            let _ = SockRef::from(&self.line).send_with_flags(&[1], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        });
    }
}
