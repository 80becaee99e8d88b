//! What the glommio driver keeps of each connection: its stream, and how to wake its task.

use std::task::Waker;

use glommio::net::TcpStream;

use crate::shard::slots;

pub(super) use slots::Life;

/// See the module.
#[derive(Default)]
pub(super) struct Own {
    /// Also used for Unix-domain sockets, see `sys`.
    pub(super) stream: Option<TcpStream>,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
    /// The turn of the last receive, how many there were in it, and the turn in which the task was last put off.
    pub(super) receive_turn: u64,
    pub(super) receives: u32,
    pub(super) parked_turn: u64,
    /// The kernel takes no more: the task waits until it does.
    pub(super) blocked: bool,
    /// The next turn wakes the task.
    pub(super) attention: bool,
}

impl slots::Own for Own {
    /// What the kernel has not taken stays in the queue.
    fn is_sending(&self) -> bool {
        false
    }
}

pub(super) type Slot = slots::Slot<Own>;
pub(super) type Slots = slots::Slots<Own>;

impl Slot {
    /// Forgets what is queued.
    pub(super) fn unqueue(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.own.blocked = false;
    }
}
