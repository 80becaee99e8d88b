//! The table of connections that the socket drivers share: what is known of each, in which state it is, and when
//! patience with it ends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;

use bytes::{Buf, Bytes};

use super::driver::{ConnId, Time};
use super::limits::QUEUE_KEPT;

/// A slot's generation counts up to here and begins again. A slot is used again only when nothing in the kernel names its
/// last use any more, so two generations are never mixed up there; the bound matters only to a session that would hold on
/// to a dead id for 16 million uses of one slot.
pub(super) const GENERATION_BITS: u32 = 24;

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
    /// Over: the socket is closed, and the slot freed, when nothing names it any more.
    Dying,
}

/// What a driver keeps of each connection for itself.
pub(super) trait Own: Default {
    /// Bytes that are no longer in the queue are still on their way to the kernel.
    fn is_sending(&self) -> bool;
}

/// One connection, or the room for one.
pub(super) struct Slot<T> {
    pub(super) generation: u32,
    pub(super) life: Life,
    /// The shard wants to receive.
    pub(super) receive_wanted: bool,
    /// The peer has closed its side while we flush.
    pub(super) peer_closed: bool,
    /// Chunks that the kernel has not taken and that are not in flight, in order.
    pub(super) queue: VecDeque<Bytes>,
    /// Bytes in `queue` and in flight that the kernel has not taken.
    pub(super) queued: usize,
    /// `queued` has been above the high-water mark and not below the low one since.
    pub(super) above_high: bool,
    /// Sending has failed; what the peer sent before may still be read.
    pub(super) send_error: Option<io::Error>,
    /// When patience with the present state ends.
    deadline: Option<Time>,
    /// In the list of slots that the next turn looks at.
    pub(super) dirty: bool,
    /// A client's connection, as opposed to one that the shard has made.
    accepted: bool,
    pub(super) own: T,
}

impl<T: Own> Slot<T> {
    fn vacant(generation: u32) -> Slot<T> {
        Slot {
            generation,
            life: Life::Free,
            receive_wanted: false,
            peer_closed: false,
            queue: VecDeque::new(),
            queued: 0,
            above_high: false,
            send_error: None,
            deadline: None,
            dirty: false,
            accepted: false,
            own: T::default(),
        }
    }

    /// Nothing is left to be sent.
    pub(super) fn flushed(&self) -> bool {
        self.queue.is_empty() && !self.own.is_sending()
    }

    /// The kernel has taken this many bytes out of the queue.
    pub(super) fn taken(&mut self, count: usize) {
        self.queued = self.queued.saturating_sub(count);
        advance(&mut self.queue, count);
        self.slim();
    }

    /// Gives up the room that a burst has taken, once the queue is empty: the connection may be idle from now on.
    pub(super) fn slim(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
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
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Released since the last [`Self::recycle`]: the shard has not been through the events that name them yet.
    released: Vec<u32>,
    connections_max: usize,
    clients_max: usize,
    /// Slots of clients.
    clients: usize,
    /// Generations of ids that never had a slot.
    phantoms: u32,
    /// When a slot's patience may end: time, slot, generation. Outdated entries are skipped.
    deadlines: BinaryHeap<Reverse<(Time, u32, u32)>>,
}

impl<T: Own> Slots<T> {
    pub(super) fn new(connections_max: usize, clients_max: usize) -> Slots<T> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
            released: Vec::new(),
            // The last index is the phantoms'.
            connections_max: connections_max.min(u32::MAX as usize),
            clients_max,
            clients: 0,
            phantoms: 0,
            deadlines: BinaryHeap::new(),
        }
    }

    /// Takes a free slot; gives the driver's part back if there is none.
    pub(super) fn insert(&mut self, life: Life, own: T) -> Result<usize, T> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.slots.len() < self.connections_max => {
                self.slots.push(Slot::vacant(0));
                self.slots.len() - 1
            }
            None => return Err(own),
        };
        let slot = &mut self.slots[index];
        slot.life = life;
        slot.own = own;
        slot.receive_wanted = true;
        Ok(index)
    }

    /// Whether one more client may have a slot.
    pub(super) fn may_admit(&self) -> bool {
        let room = !self.free.is_empty() || self.slots.len() < self.connections_max;
        room && self.clients < self.clients_max
    }

    /// Takes a free slot for a client; gives the driver's part back unless [`Self::may_admit`].
    pub(super) fn admit(&mut self, own: T) -> Result<usize, T> {
        if !self.may_admit() {
            return Err(own);
        }
        let index = self.insert(Life::Open, own)?;
        self.slots[index].accepted = true;
        self.clients += 1;
        Ok(index)
    }

    /// Drops the driver's part and frees the slot. Only when nothing in the kernel names it.
    pub(super) fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let generation = (slot.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.clients -= usize::from(slot.accepted);
        // The queue's memory goes with the connection; `dirty` stays true to the list.
        *slot = Slot { dirty: slot.dirty, ..Slot::vacant(generation) };
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

    /// The slot in use with this index and generation.
    pub(super) fn in_use_as(&self, index: u32, generation: u32) -> Option<usize> {
        let slot = self.slots.get(index as usize)?;
        (slot.generation == generation && slot.life != Life::Free).then_some(index as usize)
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
            Life::Open | Life::Flushing => slot.flushed() || slot.send_error.is_some(),
        })
    }

    /// Slots that are not free, by number.
    pub(super) fn in_use(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|index| self.slots[*index].life != Life::Free)
    }

    /// How many of them.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.released.len()
    }

    /// Patience with the slot's present state ends then.
    pub(super) fn set_deadline(&mut self, index: usize, deadline: Time) {
        let slot = &mut self.slots[index];
        slot.deadline = Some(deadline);
        self.deadlines.push(Reverse((deadline, index as u32, slot.generation)));
    }

    /// When patience with some connection may end.
    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.deadlines.peek().map(|Reverse((time, ..))| *time)
    }

    /// A slot whose time has come. It is told of once.
    pub(super) fn next_expired(&mut self, now: Time) -> Option<usize> {
        while let Some(&Reverse((deadline, index, generation))) = self.deadlines.peek() {
            if deadline > now {
                return None;
            }
            self.deadlines.pop();
            let slot = &self.slots[index as usize];
            if slot.generation == generation && slot.deadline == Some(deadline) {
                return Some(index as usize);
            }
        }
        None
    }
}

impl<T> std::ops::Index<usize> for Slots<T> {
    type Output = Slot<T>;
    fn index(&self, index: usize) -> &Slot<T> {
        &self.slots[index]
    }
}

impl<T> std::ops::IndexMut<usize> for Slots<T> {
    fn index_mut(&mut self, index: usize) -> &mut Slot<T> {
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Nothing;

    impl Own for Nothing {
        fn is_sending(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_the_kernel_takes_leaves_the_queue_across_chunks() {
        let mut slot = Slot::<Nothing>::vacant(0);
        slot.queue.extend([Bytes::from_static(b"abc"), Bytes::from_static(b"defg"), Bytes::from_static(b"h")]);
        slot.queued = 8;
        slot.taken(5);
        assert_eq!((slot.queued, &slot.queue[0][..]), (3, &b"fg"[..]));
        slot.taken(2);
        assert_eq!((slot.queued, &slot.queue[0][..], slot.queue.len()), (1, &b"h"[..], 1));
        slot.taken(1);
        assert!(slot.queued == 0 && slot.queue.is_empty());
    }

    #[test]
    fn a_released_slot_is_used_again_only_behind_the_events_that_name_it() {
        let mut slots = Slots::new(1, 1);
        let first = slots.insert(Life::Open, Nothing).expect("there is room for one");
        let id = slots.id(first);
        assert_eq!(slots.insert(Life::Open, Nothing), Err(Nothing));
        slots.release(first);
        assert_eq!((slots.len(), slots.find(id)), (0, None));
        assert_eq!(slots.insert(Life::Open, Nothing), Err(Nothing));
        slots.recycle();
        let again = slots.insert(Life::Open, Nothing).expect("it is free again");
        assert_eq!((again, slots.find(id)), (first, None));
    }

    #[test]
    fn a_deadline_is_the_last_that_was_set_and_ends_with_its_connection() {
        let mut slots = Slots::new(2, 2);
        let at = |ms| Time::default().after(Duration::from_millis(ms));
        let [a, b] = [0, 1].map(|_| slots.insert(Life::Open, Nothing).expect("there is room for two"));
        slots.set_deadline(a, at(1));
        slots.set_deadline(b, at(2));
        slots.set_deadline(b, at(4));
        slots.release(a);
        assert_eq!((slots.first_deadline(), slots.next_expired(at(3))), (Some(at(1)), None));
        assert_eq!((slots.next_expired(at(4)), slots.next_expired(at(9))), (Some(b), None));
    }
}
