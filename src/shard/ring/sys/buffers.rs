//! The buffers that the kernel receives into, and the ring through which it is told of them.
//!
//! Every slot of the ring holds one `BytesMut`. A receive that fills the first n bytes of one hands these out as
//! `Bytes` without a copy; the rest of the buffer goes back to the kernel at once, under the same slot, as long as it
//! is worth a receive ([`REMAINDER_MIN`]), and a new buffer takes its place otherwise. So
//! - the kernel always has every slot again once its completions have been taken, whatever the sessions keep: an
//!   empty ring (ENOBUFS) lasts no longer than one turn;
//! - there is about one allocation per `size` bytes received, and not one per message;
//! - a `Bytes` that a session keeps holds its whole buffer (`size` bytes) in memory, together with its neighbours in
//!   it, which may belong to other connections. What is to be kept for long is worth copying. The number of buffers
//!   held in this way is bounded by what sessions hold (they stop receiving by `pause`), not here.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::{Bytes, BytesMut};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// What is left of a buffer is given to the kernel again if it is at least this long, in bytes. Shorter, it would cut
/// a bulk transfer into small receives.
const REMAINDER_MIN: usize = 4096;

/// The kernel wants the ring of buffers at the start of a page (io_uring_register_buf_ring(3)).
const PAGE: usize = 4096;

/// The only group of buffers that a driver registers.
pub(super) const GROUP: u16 = 0;

/// The receive buffers of one driver.
pub(super) struct ReceiveBuffers {
    /// Shared with the kernel, `entries` long; the tail lies in the reserved field of the first entry.
    ring: NonNull<BufRingEntry>,
    layout: Layout,
    /// A power of two.
    entries: u16,
    /// Counts the buffers given to the kernel, wrapping; the kernel sees it through the ring's tail.
    tail: u16,
    /// Length of a new buffer in bytes.
    size: usize,
    /// By buffer id. All of `buffers[id]` belongs to the kernel, from `provide` to the completion that names `id`.
    buffers: Vec<BytesMut>,
    /// How often memory was allocated for a buffer.
    allocations: u64,
}

impl ReceiveBuffers {
    /// Allocates `count` buffers of `size` bytes and registers them.
    ///
    /// # Errors
    /// EINVAL: the kernel knows no buffer rings (before 5.19). ENOMEM: RLIMIT_MEMLOCK, or no memory.
    pub(super) fn register(io: &IoUring, count: u16, size: usize) -> io::Result<ReceiveBuffers> {
        let entries = count.max(1).next_power_of_two();
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is not zero, for entries >= 1.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(ring) = NonNull::new(memory.cast::<BufRingEntry>()) else { handle_alloc_error(layout) };
        // Owned from here on: an error below frees the ring's memory.
        let mut this = ReceiveBuffers {
            ring,
            layout,
            entries,
            tail: 0,
            size,
            buffers: (0..entries).map(|_| BytesMut::zeroed(size)).collect(),
            allocations: u64::from(entries),
        };
        // SAFETY: `ring` points to `entries` entries, page-aligned. It stays valid until `Ring` is dropped, which
        // closes the io_uring before it drops or leaks this value.
        unsafe { io.submitter().register_buf_ring_with_flags(ring.as_ptr() as u64, entries, GROUP, 0)? };
        for id in 0..entries {
            this.provide(id);
        }
        this.publish();
        Ok(this)
    }

    /// Takes the `length` bytes that the kernel has received into buffer `id`, and provides the slot again. The
    /// caller has a completion in hand that names `id`: the buffer is no longer the kernel's.
    pub(super) fn take(&mut self, id: u16, length: usize) -> Bytes {
        let Some(buffer) = self.buffers.get_mut(usize::from(id)) else { return Bytes::new() };
        // The kernel never reports more than it was given; were it to, a short read is better than a panic.
        let bytes = buffer.split_to(length.min(buffer.len())).freeze();
        if buffer.len() < REMAINDER_MIN.min(self.size) {
            *buffer = BytesMut::zeroed(self.size);
            self.allocations += 1;
        }
        self.provide(id);
        self.publish();
        bytes
    }

    /// How many buffers were allocated so far, the first `count` included.
    pub(super) fn allocations(&self) -> u64 {
        self.allocations
    }

    /// Writes the entry of buffer `id` at the tail; the kernel sees it after [`Self::publish`].
    fn provide(&mut self, id: u16) {
        let buffer = &mut self.buffers[usize::from(id)];
        let (address, length) = (buffer.as_mut_ptr() as u64, u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        let position = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `position` < `entries`, so the entry lies in the ring. There are as many buffers as entries and a
        // buffer is provided only when the kernel has consumed it, so this entry is not one that the kernel may still
        // read. `buffer` stays in `self.buffers`, untouched, until the kernel's completion; if that never comes (see
        // `Ring::drop`), the buffers are leaked.
        let entry = unsafe { &mut *self.ring.as_ptr().add(position) };
        entry.set_addr(address);
        entry.set_len(length);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes the entries written so far the kernel's.
    fn publish(&mut self) {
        // SAFETY: `ring` is the first entry of a registered ring, zeroed at allocation, so its reserved field is the
        // tail: two bytes, aligned to two, alive as long as `self`. Only this thread writes it; the kernel reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `register`. The io_uring that read it has been closed (`Ring::drop`),
        // or registration failed.
        unsafe { dealloc(self.ring.as_ptr().cast(), self.layout) };
    }
}
