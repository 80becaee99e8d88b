//! The table of connections: what the driver knows of each, and in which state it is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use socket2::SockAddr;

use super::tag::{GENERATION_BITS, Operation, Tag};
use crate::shard::driver::{ConnId, Time};

/// Where a connection is in its life.
///
/// ```text
///  Free ─► Connecting ─► Open ─► Flushing ─► Lingering ─► Dying ─► Free
///               └──────────┴─────────┴─────────────────────▲
/// ```
/// The shard knows the connection while it is `Connecting { closing: false }` or `Open`; from every other state on its
/// id is dead: actions do nothing and no event names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Not in use; in the free list.
    Free,
    /// The connect has not completed. `closing`: the shard has closed it already, what it queued is to be sent.
    Connecting { closing: bool },
    /// In use by the shard.
    Open,
    /// Closed by the shard; what is queued is still being sent, what is received is thrown away.
    Flushing,
    /// Everything is sent and our side is shut down; waits for the peer to close. Closing the socket with bytes that
    /// came in unread would make the kernel reset the connection, and the peer could lose our last words.
    Lingering,
    /// Waits for the last operation to complete; then the socket is closed.
    Dying,
}

/// The multishot receive of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    Idle,
    Armed,
    /// A cancellation has been queued; the receive has not completed yet.
    Cancelling,
}

/// One connection, or the room for one.
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) life: Life,
    /// Open as long as an operation names it.
    pub(super) socket: Option<OwnedFd>,
    /// Where to connect to, until the connect is queued.
    pub(super) address: Option<SockAddr>,
    pub(super) receive: Receive,
    /// The shard wants to receive.
    pub(super) receive_wanted: bool,
    /// The peer has closed its side while we flush.
    pub(super) peer_closed: bool,
    /// A send is in flight.
    pub(super) sending: bool,
    /// A cancellation is in flight.
    pub(super) cancelling: bool,
    /// How often this dying slot's operations were cancelled.
    pub(super) cancellations: u32,
    /// Operations in flight that name this slot.
    pub(super) operations: u32,
    /// Chunks that are not in flight, in order.
    pub(super) queue: VecDeque<Bytes>,
    /// Bytes in `queue` and in flight that the kernel has not taken.
    pub(super) queued: usize,
    /// `queued` has been above the high-water mark and not below the low one since.
    pub(super) above_high: bool,
    /// Sending has failed; what the peer sent before may still be read.
    pub(super) send_error: Option<io::Error>,
    /// When patience with the present state ends.
    pub(super) deadline: Option<Time>,
    /// In the list of slots that the next turn looks at.
    pub(super) dirty: bool,
}

impl Slot {
    fn vacant() -> Slot {
        Slot {
            generation: 0,
            life: Life::Free,
            socket: None,
            address: None,
            receive: Receive::Idle,
            receive_wanted: false,
            peer_closed: false,
            sending: false,
            cancelling: false,
            cancellations: 0,
            operations: 0,
            queue: VecDeque::new(),
            queued: 0,
            above_high: false,
            send_error: None,
            deadline: None,
            dirty: false,
        }
    }

    pub(super) fn tag(&self, index: usize, operation: Operation) -> Tag {
        Tag { operation, generation: self.generation, index: index as u32 }
    }

    /// Nothing is left to be sent.
    pub(super) fn flushed(&self) -> bool {
        self.queue.is_empty() && !self.sending
    }
}

/// All connections of a driver.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Released since the last [`Self::recycle`]: the shard has not been through the events that name them yet.
    released: Vec<u32>,
    connections_max: usize,
    /// Generations of ids that never had a slot.
    phantoms: u32,
}

impl Slots {
    pub(super) fn new(connections_max: usize) -> Slots {
        // The last index is the phantoms'.
        let connections_max = connections_max.min(u32::MAX as usize);
        Slots { slots: Vec::new(), free: Vec::new(), released: Vec::new(), connections_max, phantoms: 0 }
    }

    /// Puts a socket into a free slot; gives it back if there is none.
    pub(super) fn insert(&mut self, socket: OwnedFd, life: Life) -> Result<usize, OwnedFd> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.slots.len() < self.connections_max => {
                self.slots.push(Slot::vacant());
                self.slots.len() - 1
            }
            None => return Err(socket),
        };
        let slot = &mut self.slots[index];
        slot.socket = Some(socket);
        slot.life = life;
        slot.receive_wanted = true;
        Ok(index)
    }

    /// Closes the socket and frees the slot. Only when no operation names it.
    pub(super) fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        debug_assert_eq!(slot.operations, 0, "a slot is freed only when the kernel has forgotten it");
        let generation = (slot.generation + 1) & ((1 << GENERATION_BITS) - 1);
        // The queue's memory goes with the connection; `dirty` stays true to the list.
        *slot = Slot { generation, dirty: slot.dirty, ..Slot::vacant() };
        self.released.push(index as u32);
    }

    /// All events have been taken: slots that were released meanwhile may be used again. Any earlier, the shard would
    /// find the slot's new connection where it looks up who owned the old one.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.released);
    }

    /// The slot of a connection that the shard may still act on.
    pub(super) fn find(&self, conn: ConnId) -> Option<usize> {
        let slot = self.slots.get(conn.index as usize)?;
        let known = match slot.life {
            Life::Open | Life::Connecting { closing: false } => true,
            Life::Connecting { closing: true } | Life::Free | Life::Flushing | Life::Lingering | Life::Dying => false,
        };
        (known && slot.generation == conn.generation).then_some(conn.index as usize)
    }

    /// The slot that a completion belongs to.
    pub(super) fn of(&self, tag: Tag) -> Option<usize> {
        let slot = self.slots.get(tag.index as usize)?;
        let ours = slot.generation == tag.generation && slot.life != Life::Free;
        debug_assert!(ours, "a completion after its slot was freed: {tag:?}");
        ours.then_some(tag.index as usize)
    }

    pub(super) fn id(&self, index: usize) -> ConnId {
        ConnId { index: index as u32, generation: self.slots[index].generation }
    }

    /// An id for a connection that failed before it had a slot.
    pub(super) fn phantom(&mut self) -> ConnId {
        self.phantoms = self.phantoms.wrapping_add(1);
        ConnId { index: u32::MAX, generation: self.phantoms }
    }

    /// Slots in use.
    /// Nothing is left to be sent on any of them, and none is being connected.
    pub(super) fn settled(&self) -> bool {
        self.slots.iter().all(|slot| match slot.life {
            Life::Free | Life::Lingering | Life::Dying => true,
            Life::Connecting { .. } => false,
            Life::Open | Life::Flushing => slot.flushed() || slot.send_error.is_some(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.released.len()
    }
}

impl std::ops::Index<usize> for Slots {
    type Output = Slot;
    fn index(&self, index: usize) -> &Slot {
        &self.slots[index]
    }
}

impl std::ops::IndexMut<usize> for Slots {
    fn index_mut(&mut self, index: usize) -> &mut Slot {
        &mut self.slots[index]
    }
}
