//! The default driver: one io_uring per shard.
//!
//! A turn is one call of [`Driver::wait`], and one system call: what the shard queued since the last turn (sends,
//! connects, changes of mind about receiving) is collected in a list of slots to look at, turned into submissions,
//! and handed over by the call that also waits. Multishot accepts and receives need no submission per event; bytes are
//! received into provided buffers and go on from there without a copy.
//!
//! | file | what it is for |
//! |---|---|
//! | `mod` | the driver: what the shard calls |
//! | `progress` | what follows from each completion and each deadline |
//! | `slots` | what this driver keeps of each connection |
//! | `sys` | the io_uring and the memory that the kernel sees; all `unsafe` |
//! | `tag` | the 64 bits that name an operation |
//! | `doorbell` | waking a shard that sleeps |
//! | `probe` | can it run here, and why not |

mod doorbell;
mod probe;
mod progress;
mod slots;
mod sys;
mod tag;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::driver::{Address, ConnId, Doorbell, Driver, DriverOptions, Event, Peer, SocketDriver, Time};
use super::listen::{self, Listener};
use super::unavailable::{self, Unavailable};
use doorbell::RingDoorbell;
use slots::{Life, Own, Receive, Slots};
use sys::{Ring, Setup};
use tag::{Operation, Tag};

/// Cancellations of a dying connection's operations before its socket is shut down as well. Not at once, because a
/// shutdown looks like an orderly end to the peer of a connection that is to be reset.
const CANCELLATIONS_MAX: u32 = 2;

/// What a driver has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingCounters {
    /// Calls of io_uring_enter.
    pub system_calls: u64,
    /// Receive buffers allocated, those of the start included.
    pub buffers_allocated: u64,
    /// Slots in use now, those included that are being closed.
    pub connections: usize,
    /// Listeners that accept.
    pub listeners: usize,
}

/// A listener and its multishot accept.
struct Door {
    listener: Listener,
    accept: Accept,
    /// The shard takes clients; false once listening has been stopped.
    open: bool,
    /// Clients that the kernel has handed over although no slot is free. As many as one turn can accept: the accept is
    /// cancelled with the first, and the others wait in the listener's own queue.
    held: VecDeque<(OwnedFd, Peer)>,
}

impl Door {
    fn new(listener: Listener) -> Door {
        Door { listener, accept: Accept::Wanted, open: true, held: VecDeque::new() }
    }
}

/// The multishot accept of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accept {
    /// To be queued by the next turn.
    Wanted,
    Armed,
    /// Out of descriptors or the like: wanted again from this time on.
    Retry(Time),
    /// No slot is free: wanted again once all that are held have one.
    Full,
    /// No slot is free, or the listener is shut down; the next turn cancels the accept.
    Stopping,
    /// The cancellation is in flight; a listener that is shut down is closed when the accept has completed.
    Cancelling,
}

/// The io_uring driver of one shard. To be created, used and dropped on the shard's own thread (and therefore not
/// `Send`): the kernel takes submissions from no other.
///
/// What it leaves to the shard: a time limit for connects (the kernel's own is minutes; `abort` ends one), the bound
/// on queued bytes (`queued`, [`Event::Drained`]), and the discarding of events that were handed out in the same turn
/// for a connection that the shard closes while it works through them. While a connection is paused, nobody listens to
/// it: that its peer has gone shows after `resume`, or when a send fails.
pub struct RingDriver {
    /// First, because it is dropped first: it names the sockets below by number until it is gone.
    ring: Ring,
    slots: Slots,
    /// Slots that the next turn looks at; each at most once.
    dirty: Vec<u32>,
    doors: Vec<Option<Door>>,
    doorbell: Arc<RingDoorbell>,
    /// The doorbell's poll is in the ring.
    bell_watched: bool,
    /// Events to be reported by the next wait.
    ready: Vec<Event>,
    started: Instant,
    now: Time,
}

impl RingDriver {
    /// Sets the ring up and registers its buffers; clients are accepted from the first wait on.
    ///
    /// # Errors
    /// Why the ring cannot run here.
    pub fn new(options: DriverOptions) -> Result<RingDriver, Unavailable> {
        let io = sys::setup().map_err(|error| unavailable::explain(probe::RING, "io_uring_setup", error))?;
        let setup = Setup {
            receive_buffers: u16::try_from(options.receive_buffers.min(1 << 15)).unwrap_or(1 << 15),
            receive_buffer_size: options.receive_buffer_size.clamp(4096, u32::MAX as usize),
        };
        let ring = Ring::new(io, &setup)
            .map_err(|error| unavailable::explain(probe::RING, "registering receive buffers", error))?;
        let doorbell = RingDoorbell::new().map_err(|error| unavailable::explain(probe::RING, "eventfd", error))?;
        for listener in &options.listeners {
            listener.blocking().map_err(|error| unavailable::explain(probe::RING, "preparing a listener", error))?;
        }
        let doors = options.listeners.into_iter().map(|listener| Some(Door::new(listener)));
        Ok(RingDriver {
            ring,
            slots: Slots::new(options.connections_max, options.clients_max),
            dirty: Vec::new(),
            doors: doors.collect(),
            doorbell: Arc::new(doorbell),
            bell_watched: false,
            ready: Vec::new(),
            started: Instant::now(),
            now: Time::default(),
        })
    }

    /// What it has done so far.
    pub fn counters(&self) -> RingCounters {
        RingCounters {
            system_calls: self.ring.enters(),
            buffers_allocated: self.ring.allocations(),
            connections: self.slots.len(),
            listeners: self.doors.iter().flatten().count(),
        }
    }

    pub(in crate::shard) fn clock(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    /// Has the next turn look at a slot.
    fn touch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index as u32);
        }
    }

    /// Turns everything that the shard and the completions asked for into submissions.
    fn submit_all(&mut self) {
        for position in 0..self.doors.len() {
            self.submit_accept(position);
        }
        if !self.bell_watched {
            self.bell_watched = true;
            self.ring.watch(Tag { operation: Operation::Bell, generation: 0, index: 0 }, self.doorbell.eventfd());
        }
        while let Some(index) = self.dirty.pop() {
            let index = index as usize;
            self.slots[index].dirty = false;
            self.submit(index);
        }
    }

    fn submit_accept(&mut self, position: usize) {
        let Some(door) = &mut self.doors[position] else { return };
        let accept = Tag { operation: Operation::Accept, generation: 0, index: position as u32 };
        match door.accept {
            Accept::Retry(time) if time > self.now => {}
            Accept::Wanted | Accept::Retry(_) => {
                door.accept = Accept::Armed;
                self.ring.accept(accept, door.listener.as_fd());
            }
            Accept::Stopping => {
                door.accept = Accept::Cancelling;
                self.ring.cancel(Tag { operation: Operation::Stop, ..accept }, accept);
            }
            Accept::Armed | Accept::Full | Accept::Cancelling => {}
        }
    }

    /// Lets clients in that had to wait for a slot.
    fn admit_held(&mut self) {
        for place in &mut self.doors {
            let Some(door) = place else { continue };
            while self.slots.may_admit() {
                let Some((socket, peer)) = door.held.pop_front() else {
                    if door.accept == Accept::Full {
                        door.accept = Accept::Wanted;
                    }
                    break;
                };
                let Ok(index) = self.slots.admit(Own::of(socket)) else { break };
                self.slots[index].dirty = true;
                self.dirty.push(index as u32);
                self.ready.push(Event::Accepted { conn: self.slots.id(index), peer });
            }
        }
    }

    /// Queues what one slot's state asks for.
    fn submit(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(socket) = &slot.own.socket else { return };
        let fd = socket.as_fd();
        match slot.life {
            Life::Free => return,
            Life::Connecting { .. } => {
                if let Some(address) = slot.own.address.take() {
                    slot.own.operations += 1;
                    self.ring.connect(slot.tag(index, Operation::Connect), fd, address);
                }
                return;
            }
            Life::Dying => {
                if slot.own.operations > 0 && !slot.own.cancelling {
                    if slot.own.cancellations >= CANCELLATIONS_MAX {
                        // They missed an operation (it can happen once, in the moment when the kernel moves it between
                        // its lists). No operation outlives a shutdown in both directions.
                        let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Both);
                    }
                    slot.own.cancelling = true;
                    slot.own.cancellations += 1;
                    slot.own.operations += 1;
                    self.ring.cancel_all(slot.tag(index, Operation::Cancel), fd);
                }
                return;
            }
            Life::Open | Life::Flushing | Life::Lingering => {}
        }
        if !slot.own.sending && !slot.queue.is_empty() && slot.send_error.is_none() {
            slot.own.sending = true;
            slot.own.operations += 1;
            let tag = slot.tag(index, Operation::Send);
            self.ring.send(tag, fd, &mut slot.queue);
        }
        let tag = slot.tag(index, Operation::Receive);
        match (slot.own.receive, slot.receive_wanted) {
            (Receive::Idle, true) => {
                slot.own.receive = Receive::Armed;
                slot.own.operations += 1;
                self.ring.receive(tag, fd);
            }
            (Receive::Armed, false) if !slot.own.cancelling => {
                slot.own.receive = Receive::Cancelling;
                slot.own.cancelling = true;
                slot.own.operations += 1;
                self.ring.cancel(slot.tag(index, Operation::Cancel), tag);
            }
            (Receive::Idle, false) | (Receive::Armed, _) | (Receive::Cancelling, _) => {}
        }
    }

    /// A socket for `to`, in a slot; the connect is queued by the next turn.
    fn begin_connect(&mut self, to: &Address) -> io::Result<ConnId> {
        let (socket, address) = match to {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
                listen::tune_tcp(SockRef::from(&socket))?;
                (socket, SockAddr::from(*address))
            }
            Address::Unix(path) => (Socket::new(Domain::UNIX, Type::STREAM, None)?, SockAddr::unix(path)?),
        };
        let life = Life::Connecting { closing: false };
        let index = self
            .slots
            .insert(life, Own::of(OwnedFd::from(socket)))
            .map_err(|_| io::Error::new(io::ErrorKind::QuotaExceeded, "the shard's connections_max is reached"))?;
        self.slots[index].own.address = Some(address);
        self.touch(index);
        Ok(self.slots.id(index))
    }

    /// How long the wait may sleep: until `until`, a deadline, or a listener's next attempt.
    fn patience(&self, until: Option<Time>) -> Option<Duration> {
        let retries = self.doors.iter().flatten().filter_map(|door| match door.accept {
            Accept::Retry(time) => Some(time),
            Accept::Wanted | Accept::Armed | Accept::Full | Accept::Stopping | Accept::Cancelling => None,
        });
        let deadline = self.slots.first_deadline();
        let first = retries.chain(deadline).chain(until).min()?;
        Some(first.since(self.clock()))
    }
}

impl SocketDriver for RingDriver {
    fn open(options: DriverOptions) -> Result<RingDriver, Unavailable> {
        RingDriver::new(options)
    }

    fn probe() -> Result<String, Unavailable> {
        probe::probe()
    }
}

impl Driver for RingDriver {
    fn connect(&mut self, to: &Address) -> ConnId {
        self.begin_connect(to).unwrap_or_else(|error| {
            let conn = self.slots.phantom();
            self.ready.push(Event::Closed { conn, error: Some(error) });
            conn
        })
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(index) = self.slots.find(conn) else { return };
        let slot = &mut self.slots[index];
        if bytes.is_empty() || slot.send_error.is_some() {
            return;
        }
        slot.queued += bytes.len();
        slot.above_high |= slot.queued > Self::HIGH_WATER;
        slot.queue.push_back(bytes);
        self.touch(index);
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.slots.find(conn).map_or(0, |index| self.slots[index].queued)
    }

    fn pause(&mut self, conn: ConnId) {
        let Some(index) = self.slots.find(conn) else { return };
        self.slots[index].receive_wanted = false;
        self.touch(index);
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(index) = self.slots.find(conn) else { return };
        self.slots[index].receive_wanted = true;
        self.touch(index);
    }

    fn close(&mut self, conn: ConnId) {
        let Some(index) = self.slots.find(conn) else { return };
        self.begin_close(index);
    }

    /// A connection with bytes that were not sent is reset, so that the peer does not take what it has for the whole;
    /// any other is closed in the ordinary way.
    fn abort(&mut self, conn: ConnId) {
        let Some(index) = self.slots.find(conn) else { return };
        let reset = self.slots[index].queued > 0;
        self.die(index, reset);
    }

    fn stop_listening(&mut self) {
        for place in &mut self.doors {
            let Some(door) = place else { continue };
            door.open = false;
            door.held.clear();
            // At once; the kernel resets clients that nobody has accepted.
            let _ = SockRef::from(&door.listener).shutdown(std::net::Shutdown::Both);
            match door.accept {
                Accept::Wanted | Accept::Full | Accept::Retry(_) => *place = None,
                Accept::Armed => door.accept = Accept::Stopping,
                Accept::Stopping | Accept::Cancelling => {}
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.slots.settled()
    }

    fn now(&self) -> Time {
        self.now
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::clone(&self.doorbell) as Arc<dyn Doorbell>
    }

    fn random(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("getrandom(2) does not fail once the machine's pool has been initialised");
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> io::Result<()> {
        self.slots.recycle();
        self.admit_held();
        self.submit_all();
        let may_sleep = self.ready.is_empty() && self.doorbell.bell.fall_asleep();
        let timeout = if may_sleep { self.patience(until) } else { Some(Duration::ZERO) };
        let entered = self.ring.enter(timeout);
        let rung = self.doorbell.bell.awake();
        self.now = self.clock();
        if rung {
            events.push(Event::Woken);
        }
        events.append(&mut self.ready);
        while let Some(completion) = self.ring.next() {
            self.completed(completion, events);
        }
        self.expire(events);
        entered
    }
}
