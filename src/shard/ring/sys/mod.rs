//! The io_uring and all memory that the kernel reads or writes on its behalf. All `unsafe` of the driver is here.
//!
//! What makes it sound, once for the whole module: whatever a submission points to is owned by [`Ring`] itself, from
//! before the push until the completion has been taken out of the queue.
//! - Receives point to nothing but the group of [`buffers`].
//! - A send's bytes, its `iovec`s and `msghdr`, or a connect's address, lie in [`Ring::flights`] under the slot's index
//!   and are given back by the completion. One slot has at most one of these in flight; this is asserted.
//! - A ring that is dropped cancels everything and waits for the completions; what the kernel then still has after
//!   [`DROP_WAIT`] is leaked on purpose.
//!
//! A `RawFd` that is stale costs an error or a wrong connection, never memory; the driver keeps descriptors open until
//! their operations have completed, because a queued submission names its file by number.

mod buffers;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

use super::tag::{Operation, Tag};
use buffers::{GROUP, ReceiveBuffers};

/// Submissions that fit between two system calls; a fuller turn makes another call.
const SUBMISSIONS: u32 = 1024;
/// Completions that fit before the kernel keeps the rest in a list of its own (slower, nothing is lost).
const COMPLETIONS: u32 = 8 * SUBMISSIONS;
/// Chunks that leave in one send operation; the kernel copies 16 bytes of description for each.
const CHUNKS_MAX: usize = 64;
/// Bytes after which a send takes no further chunk: `queued` falls and `Drained` comes in steps of this size at most.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Descriptions of sends that are kept for reuse, 1.6 KiB each.
const GATHERS_KEPT_MAX: usize = 64;
/// How long a dropped ring waits for the kernel to give everything back.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// One slot's memory that the kernel may read.
enum Flight {
    None,
    /// Bytes of a plain send.
    One(Bytes),
    /// Bytes of a gathering send.
    Many(Box<Gather>),
    /// Where a connect goes.
    Address(#[allow(dead_code, reason = "kept alive for the kernel")] Box<SockAddr>),
}

/// A send of many chunks. Boxed and not moved while in flight: the header points to the vectors.
struct Gather {
    chunks: Vec<Bytes>,
    vectors: [libc::iovec; CHUNKS_MAX],
    header: libc::msghdr,
}

/// What the kernel has done. `more`: the operation goes on and will report again.
pub(super) enum Completion {
    Accepted {
        listener: u32,
        socket: io::Result<OwnedFd>,
        more: bool,
    },
    /// No bytes: the peer has closed its side.
    Received {
        at: Tag,
        bytes: io::Result<Bytes>,
        more: bool,
    },
    /// How many bytes the kernel took; `rest` goes to [`Ring::put_back`].
    Sent {
        at: Tag,
        taken: io::Result<usize>,
        rest: Rest,
    },
    Connected {
        at: Tag,
        result: io::Result<()>,
    },
    Cancelled {
        at: Tag,
        result: io::Result<()>,
    },
    Rung {
        more: bool,
    },
    /// A listener's accept was cancelled, or could not be.
    Stopped {
        listener: u32,
    },
}

/// Chunks of a send that have not, or not wholly, been taken, in order.
pub(super) struct Rest(Flight);

/// Settings of a [`Ring`].
pub(super) struct Setup {
    pub(super) receive_buffers: u16,
    /// Bytes.
    pub(super) receive_buffer_size: usize,
}

/// An io_uring of one thread.
pub(super) struct Ring {
    /// `None` only in `drop`.
    io: Option<IoUring>,
    /// `None` only in `drop`.
    buffers: Option<ReceiveBuffers>,
    /// By slot.
    flights: Vec<Flight>,
    #[allow(clippy::vec_box, reason = "a gather points into itself and must not move")]
    gathers: Vec<Box<Gather>>,
    /// Submissions that did not fit. Bounded by the slots: each has at most one operation of each kind in flight.
    backlog: VecDeque<squeue::Entry>,
    /// Operations that have been pushed and have not sent their last completion.
    in_flight: usize,
    /// System calls made.
    enters: u64,
    /// SINGLE_ISSUER: the kernel refuses every other thread.
    _not_send: PhantomData<*const ()>,
}

/// Creates the io_uring with the flags this driver needs; the creating thread is the only one that may use it.
pub(super) fn setup() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_cqsize(COMPLETIONS)
        .setup_clamp()
        .dontfork()
        .build(SUBMISSIONS)
}

impl Ring {
    pub(super) fn new(io: IoUring, setup: &Setup) -> io::Result<Ring> {
        let buffers = ReceiveBuffers::register(&io, setup.receive_buffers, setup.receive_buffer_size)?;
        Ok(Ring {
            io: Some(io),
            buffers: Some(buffers),
            flights: Vec::new(),
            gathers: Vec::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            enters: 0,
            _not_send: PhantomData,
        })
    }

    /// Accepts clients until cancelled, refused or out of descriptors.
    pub(super) fn accept(&mut self, tag: Tag, listener: BorrowedFd<'_>) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: points to no memory.
        unsafe { self.push(tag, entry) };
    }

    /// Receives until cancelled, closed, or out of buffers.
    pub(super) fn receive(&mut self, tag: Tag, socket: BorrowedFd<'_>) {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        // SAFETY: points to no memory but the registered buffers.
        unsafe { self.push(tag, entry) };
    }

    /// Reports whenever the eventfd is written.
    pub(super) fn watch(&mut self, tag: Tag, eventfd: BorrowedFd<'_>) {
        let entry = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // SAFETY: points to no memory.
        unsafe { self.push(tag, entry) };
    }

    /// Connects; the address is kept until the completion.
    pub(super) fn connect(&mut self, tag: Tag, socket: BorrowedFd<'_>, to: SockAddr) {
        let address = Box::new(to);
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
        *self.flight(tag.index) = Flight::Address(address);
        // SAFETY: the address lies in `flights` until the completion.
        unsafe { self.push(tag, entry) };
    }

    /// Sends from the front of `queue`, as many chunks as fit one operation; what was taken is kept until the
    /// completion. Does nothing for an empty queue.
    pub(super) fn send(&mut self, tag: Tag, socket: BorrowedFd<'_>, queue: &mut VecDeque<Bytes>) {
        let fd = Fd(socket.as_raw_fd());
        let Some(first) = queue.pop_front() else { return };
        if queue.is_empty() || first.len() >= SEND_BYTES_MAX {
            // A send of more than 4 GiB is cut here and continued by the caller as a short one.
            let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(fd, first.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build();
            *self.flight(tag.index) = Flight::One(first);
            // SAFETY: the bytes lie in `flights` until the completion.
            unsafe { self.push(tag, entry) };
            return;
        }
        let mut gather = self.gathers.pop().unwrap_or_else(Gather::new);
        gather.fill(first, queue);
        let entry = opcode::SendMsg::new(fd, &gather.header).flags(libc::MSG_NOSIGNAL as u32).build();
        *self.flight(tag.index) = Flight::Many(gather);
        // SAFETY: header, vectors and bytes lie in `flights`, in their own box, until the completion.
        unsafe { self.push(tag, entry) };
    }

    /// Cancels the operation that was submitted with `target`; `tag` names the cancellation's own completion.
    pub(super) fn cancel(&mut self, tag: Tag, target: Tag) {
        let entry = opcode::AsyncCancel::new(target.pack()).build();
        // SAFETY: points to no memory.
        unsafe { self.push(tag, entry) };
    }

    /// Cancels every operation on a socket.
    pub(super) fn cancel_all(&mut self, tag: Tag, socket: BorrowedFd<'_>) {
        let builder = CancelBuilder::fd(Fd(socket.as_raw_fd())).all();
        // SAFETY: points to no memory.
        unsafe { self.push(tag, opcode::AsyncCancel2::new(builder).build()) };
    }

    /// Submits what was pushed and waits for a completion: not at all if there is one, `timeout` at most. One system
    /// call, and another one for each [`SUBMISSIONS`] operations of a very full turn.
    pub(super) fn enter(&mut self, mut timeout: Option<Duration>) -> io::Result<()> {
        self.advance_backlog();
        while !self.backlog.is_empty() {
            self.enters += 1;
            if !passable(self.io.as_ref().expect("present until drop").submit())? {
                // The kernel wants completions taken first: do not sleep on what is left.
                timeout = Some(Duration::ZERO);
                break;
            }
            self.advance_backlog();
        }
        self.enters += 1;
        let submitter = self.io.as_ref().expect("present until drop").submitter();
        let result = match timeout {
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
            None => submitter.submit_and_wait(1),
        };
        passable(result).map(drop)
    }

    /// The next thing that has happened, oldest first.
    pub(super) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.io.as_mut().expect("present until drop").completion().next()?;
            let more = cqueue::more(entry.flags());
            if !more {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            // Bits that are not ours cannot come; there would be nothing to attribute them to.
            let Some(tag) = Tag::unpack(entry.user_data()) else { continue };
            return Some(self.completion(tag, &entry, more));
        }
    }

    fn completion(&mut self, at: Tag, entry: &cqueue::Entry, more: bool) -> Completion {
        let result = result(entry);
        match at.operation {
            Operation::Accept => {
                // SAFETY: a successful accept returns a descriptor that nobody else owns, and returns it once.
                let socket = result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                Completion::Accepted { listener: at.index, socket, more }
            }
            Operation::Receive => {
                let length = *result.as_ref().unwrap_or(&0);
                // A buffer that is named was consumed, whatever the result.
                let taken = cqueue::buffer_select(entry.flags())
                    .map(|id| self.buffers.as_mut().expect("present until drop").take(id, length));
                Completion::Received { at, bytes: result.map(|_| taken.unwrap_or_default()), more }
            }
            Operation::Send => {
                let flight = mem::replace(&mut self.flights[at.index as usize], Flight::None);
                Completion::Sent { at, taken: result, rest: Rest(flight) }
            }
            Operation::Connect => {
                self.flights[at.index as usize] = Flight::None;
                Completion::Connected { at, result: result.map(drop) }
            }
            Operation::Cancel => Completion::Cancelled { at, result: result.map(drop) },
            Operation::Bell => Completion::Rung { more },
            Operation::Stop => Completion::Stopped { listener: at.index },
        }
    }

    /// Puts the chunks of a send that the kernel did not take back to the front of `queue`.
    pub(super) fn put_back(&mut self, rest: Rest, taken: usize, queue: &mut VecDeque<Bytes>) {
        match rest.0 {
            Flight::None | Flight::Address(_) => {}
            Flight::One(mut chunk) => {
                if taken < chunk.len() {
                    chunk.advance(taken);
                    queue.push_front(chunk);
                }
            }
            Flight::Many(mut gather) => {
                gather.put_back(taken, queue);
                if self.gathers.len() < GATHERS_KEPT_MAX {
                    self.gathers.push(gather);
                }
            }
        }
    }

    /// Buffers allocated so far for receiving.
    pub(super) fn allocations(&self) -> u64 {
        self.buffers.as_ref().map_or(0, ReceiveBuffers::allocations)
    }

    /// System calls of this ring so far.
    pub(super) fn enters(&self) -> u64 {
        self.enters
    }

    /// The empty place for a slot's memory.
    fn flight(&mut self, index: u32) -> &mut Flight {
        let index = index as usize;
        if self.flights.len() <= index {
            self.flights.resize_with(index + 1, || Flight::None);
        }
        let flight = &mut self.flights[index];
        // Soundness rests on this: replacing the memory of an operation that is in flight would free it under the
        // kernel. The driver's states exclude it.
        assert!(matches!(flight, Flight::None), "slot {index} has an operation in flight");
        flight
    }

    /// # Safety
    /// All memory that `entry` points to stays valid and in place until the completion with `tag` has been taken.
    unsafe fn push(&mut self, tag: Tag, entry: squeue::Entry) {
        self.in_flight += 1;
        self.backlog.push_back(entry.user_data(tag.pack()));
        self.advance_backlog();
    }

    /// Moves submissions from the backlog to the queue that the kernel sees, as far as they fit, in order.
    fn advance_backlog(&mut self) {
        let mut submission = self.io.as_mut().expect("present until drop").submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever put the entry into the backlog made the promise of `push`.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Cancels everything and takes completions until nothing is in flight. False if the kernel keeps something.
    fn quiesce(&mut self) -> bool {
        let tag = Tag { operation: Operation::Cancel, generation: 0, index: u32::MAX };
        let until = Instant::now() + DROP_WAIT;
        while self.in_flight > 0 {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            // SAFETY: points to no memory.
            unsafe { self.push(tag, cancel) };
            if self.enter(Some(Duration::from_millis(10))).is_err() {
                return false;
            }
            // Dropping a completion closes what was accepted and frees what was sent.
            while self.next().is_some() {}
            if Instant::now() > until {
                return false;
            }
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let quiet = self.quiesce();
        // Closed before its memory goes. (The order of the fields would do the same; this says so.)
        drop(self.io.take());
        if !quiet {
            // The kernel may still write to a buffer or read a send's bytes: their memory is given up for good.
            mem::forget(self.buffers.take());
            mem::forget(mem::take(&mut self.flights));
        }
    }
}

impl Gather {
    fn new() -> Box<Gather> {
        Box::new(Gather {
            chunks: Vec::with_capacity(CHUNKS_MAX),
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; CHUNKS_MAX],
            // SAFETY: a msghdr of zeroes is valid: no name, no vectors, no control data.
            header: unsafe { mem::zeroed() },
        })
    }

    /// Takes chunks and describes them.
    fn fill(&mut self, first: Bytes, queue: &mut VecDeque<Bytes>) {
        let mut bytes = first.len();
        self.chunks.push(first);
        while self.chunks.len() < CHUNKS_MAX && bytes < SEND_BYTES_MAX {
            let Some(chunk) = queue.pop_front() else { break };
            bytes += chunk.len();
            self.chunks.push(chunk);
        }
        for (vector, chunk) in self.vectors.iter_mut().zip(&self.chunks) {
            // The kernel only reads from a vector of a send.
            *vector = libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.chunks.len() as _;
    }

    /// Gives back what lies behind the first `taken` bytes; empty afterwards.
    fn put_back(&mut self, taken: usize, queue: &mut VecDeque<Bytes>) {
        let mut behind = self.chunks.iter().map(Bytes::len).sum::<usize>().saturating_sub(taken);
        // From the last chunk forwards, so that each goes in front of its successor.
        while let Some(mut chunk) = self.chunks.pop() {
            if behind == 0 {
                self.chunks.clear();
                return;
            }
            chunk.advance(chunk.len().saturating_sub(behind));
            behind -= chunk.len();
            queue.push_front(chunk);
        }
    }
}

/// Whether a call succeeded; false for what passes by itself: the time has come (ETIME), a signal (EINTR), completions
/// are to be taken first (EBUSY), no memory for the moment (EAGAIN). Submissions not taken stay in the queue.
fn passable(result: io::Result<usize>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(false),
            _ => Err(error),
        },
    }
}

/// The kernel's result: a count or a negative error number.
fn result(entry: &cqueue::Entry) -> io::Result<usize> {
    usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))
}
