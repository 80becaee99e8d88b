//! The table of connections: what the driver knows of each, and in which state it is.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use bytes::{Buf, Bytes};
use glommio::net::TcpStream;

use crate::shard::driver::{ConnId, Time};

/// Where a connection is in its life. The shard knows it while it is `Connecting { closing: false }` or `Open`; from
/// every other state on its id is dead: actions do nothing and no event names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Not in use.
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
    /// Over; its task closes the socket and frees the slot.
    Dying,
}

/// One connection, or the room for one.
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) life: Life,
    /// Also used for Unix-domain sockets, see `sys`.
    pub(super) stream: Option<TcpStream>,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
    /// The shard wants to receive.
    pub(super) receive_wanted: bool,
    /// The turn of the last receive, how many there were in it, and the turn in which the task was last put off.
    pub(super) receive_turn: u64,
    pub(super) receives: u32,
    pub(super) parked_turn: u64,
    /// The peer has closed its side while we flush.
    pub(super) peer_closed: bool,
    /// The kernel takes no more: the task waits until it does.
    pub(super) blocked: bool,
    /// Chunks that the kernel has not taken, in order; the first may have been taken in part.
    pub(super) queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    pub(super) queued: usize,
    /// `queued` has been above the high-water mark and not below the low one since.
    pub(super) above_high: bool,
    /// Sending has failed; what the peer sent before may still be read.
    pub(super) send_error: Option<io::Error>,
    /// When patience with the present state ends.
    pub(super) deadline: Option<Time>,
    /// In the list of slots that the next turn looks at.
    pub(super) dirty: bool,
    /// The next turn wakes the task.
    pub(super) attention: bool,
}

impl Slot {
    fn vacant() -> Slot {
        Slot {
            generation: 0,
            life: Life::Free,
            stream: None,
            waker: None,
            receive_wanted: false,
            receive_turn: 0,
            receives: 0,
            parked_turn: 0,
            peer_closed: false,
            blocked: false,
            queue: VecDeque::new(),
            queued: 0,
            above_high: false,
            send_error: None,
            deadline: None,
            dirty: false,
            attention: false,
        }
    }

    /// The kernel has taken this many bytes.
    pub(super) fn taken(&mut self, count: usize) {
        self.queued = self.queued.saturating_sub(count);
        advance(&mut self.queue, count);
    }

    /// Forgets what is queued.
    pub(super) fn unqueue(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.blocked = false;
    }
}

/// Takes the first bytes out of a queue.
pub(super) fn advance(queue: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = queue.front_mut() {
        if first.len() > count {
            return first.advance(count);
        }
        count -= first.len();
        queue.pop_front();
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

    /// Takes a free slot, if there is one.
    pub(super) fn insert(&mut self, life: Life, stream: Option<TcpStream>) -> Result<usize, Option<TcpStream>> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.slots.len() < self.connections_max => {
                self.slots.push(Slot::vacant());
                self.slots.len() - 1
            }
            None => return Err(stream),
        };
        let slot = &mut self.slots[index];
        slot.life = life;
        slot.stream = stream;
        slot.receive_wanted = true;
        Ok(index)
    }

    /// Closes the socket and frees the slot; called by its task, at its end.
    pub(super) fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let generation = slot.generation.wrapping_add(1);
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
        let known = matches!(slot.life, Life::Open | Life::Connecting { closing: false });
        (known && slot.generation == conn.generation).then_some(conn.index as usize)
    }

    pub(super) fn id(&self, index: usize) -> ConnId {
        ConnId { index: index as u32, generation: self.slots[index].generation }
    }

    /// An id for a connection that failed before it had a slot.
    pub(super) fn phantom(&mut self) -> ConnId {
        self.phantoms = self.phantoms.wrapping_add(1);
        ConnId { index: u32::MAX, generation: self.phantoms }
    }

    /// Nothing is left to be sent on any of them, and none is being connected.
    pub(super) fn settled(&self) -> bool {
        self.slots.iter().all(|slot| match slot.life {
            Life::Free | Life::Lingering | Life::Dying => true,
            Life::Connecting { .. } => false,
            Life::Open | Life::Flushing => slot.queue.is_empty() || slot.send_error.is_some(),
        })
    }

    /// Slots that are not free, by number.
    pub(super) fn in_use(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|index| self.slots[*index].life != Life::Free).collect()
    }

    /// How many of them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_leaves_the_queue_across_chunks() {
        let mut slot = Slot::vacant();
        slot.queue.extend([Bytes::from_static(b"abc"), Bytes::from_static(b"defg"), Bytes::from_static(b"h")]);
        slot.queued = 8;
        slot.taken(5);
        assert_eq!((slot.queued, &slot.queue[0][..]), (3, &b"fg"[..]));
        slot.taken(2);
        assert_eq!((slot.queued, &slot.queue[0][..], slot.queue.len()), (1, &b"h"[..], 1));
        slot.taken(1);
        assert!(slot.queued == 0 && slot.queue.is_empty());
    }
}
