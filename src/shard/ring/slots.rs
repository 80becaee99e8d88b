//! What the ring keeps of each connection: its socket, and the operations that name it.

use std::os::fd::OwnedFd;

use socket2::SockAddr;

use super::tag::{Operation, Tag};
use crate::shard::slots;

pub(super) use slots::Life;

/// The multishot receive of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Receive {
    #[default]
    Idle,
    Armed,
    /// A cancellation has been queued; the receive has not completed yet.
    Cancelling,
}

/// See the module.
#[derive(Default)]
pub(super) struct Own {
    /// Open as long as an operation names it.
    pub(super) socket: Option<OwnedFd>,
    /// Where to connect to, until the connect is queued.
    pub(super) address: Option<SockAddr>,
    pub(super) receive: Receive,
    /// A send is in flight.
    pub(super) sending: bool,
    /// A cancellation is in flight.
    pub(super) cancelling: bool,
    /// How often this dying slot's operations were cancelled.
    pub(super) cancellations: u32,
    /// Operations in flight that name this slot.
    pub(super) operations: u32,
}

impl Own {
    pub(super) fn of(socket: OwnedFd) -> Own {
        Own { socket: Some(socket), ..Own::default() }
    }
}

impl slots::Own for Own {
    fn is_sending(&self) -> bool {
        self.sending
    }
}

pub(super) type Slot = slots::Slot<Own>;
pub(super) type Slots = slots::Slots<Own>;

impl Slot {
    pub(super) fn tag(&self, index: usize, operation: Operation) -> Tag {
        Tag { operation, generation: self.generation, index: index as u32 }
    }
}

impl Slots {
    /// The slot that a completion belongs to.
    pub(super) fn of(&self, tag: Tag) -> Option<usize> {
        let found = self.in_use_as(tag.index, tag.generation);
        debug_assert!(found.is_some(), "a completion after its slot was freed: {tag:?}");
        found
    }
}
