//! What the driver and its tasks share: turns, and what a connection's task does in one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::buffer::ReceiveBuffer;
use super::slots::{Life, Own, Slots};
use crate::shard::driver::{DriverOptions, Event, Peer, Time};

/// How often one connection may receive in one turn. More than once, because only an attempt that finds nothing makes
/// glommio wait for more; after a receive that did not fill its buffer that attempt costs no system call.
const RECEIVES_PER_TURN: u32 = 2;

/// Shared by the driver and its tasks, all on one thread. Never borrowed across an await or a call of glommio's that
/// may run a task.
pub(super) type Shared = Rc<RefCell<State>>;

/// Everything but the executor.
pub(super) struct State {
    pub(super) slots: Slots,
    /// To be reported by the wait that is under way, or the next.
    pub(super) events: Vec<Event>,
    /// Slots that the next turn looks at; each at most once.
    dirty: VecDeque<u32>,
    /// Tasks that go on with the next turn.
    parked: Vec<Waker>,
    /// The wait that is under way.
    pub(super) waiting: Option<Waker>,
    /// The wait that is under way, or the next, ends at once.
    pub(super) restless: bool,
    /// Counts the calls of [`crate::shard::driver::Driver::wait`].
    pub(super) turn: u64,
    /// Bytes received in this turn, and how many it may be.
    received: usize,
    receive_max: usize,
    buffer: ReceiveBuffer,
    started: Instant,
    /// Tasks that have not ended.
    pub(super) tasks: usize,
    /// Accept tasks that have not ended.
    pub(super) doors: usize,
    /// No new clients.
    pub(super) stopping: bool,
    /// The driver is being dropped.
    pub(super) ending: bool,
}

impl State {
    pub(super) fn new(options: &DriverOptions, receive_buffer_size: usize) -> State {
        State {
            slots: Slots::new(options.connections_max, options.clients_max),
            events: Vec::new(),
            dirty: VecDeque::new(),
            parked: Vec::new(),
            waiting: None,
            restless: false,
            turn: 0,
            received: 0,
            receive_max: options.receive_buffers.max(1).saturating_mul(receive_buffer_size),
            buffer: ReceiveBuffer::new(receive_buffer_size),
            started: Instant::now(),
            tasks: 0,
            doors: 0,
            stopping: false,
            ending: false,
        }
    }

    pub(super) fn clock(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    /// Ends the wait that is under way as soon as the tasks that can run have run.
    pub(super) fn stir(&mut self) {
        self.restless = true;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Reports an event.
    pub(super) fn report(&mut self, event: Event) {
        self.events.push(event);
        self.stir();
    }

    /// A new turn: sends what the shard has queued, and gathers the tasks that have something to do.
    pub(super) fn begin_turn(&mut self) {
        self.slots.recycle();
        self.turn += 1;
        self.received = 0;
        // What is touched meanwhile is the next turn's.
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else { break };
            let index = index as usize;
            self.slots[index].dirty = false;
            self.flush(index);
            let slot = &mut self.slots[index];
            if std::mem::take(&mut slot.own.attention) {
                self.parked.extend(slot.own.waker.clone());
            }
        }
    }

    /// Wakes the tasks that go on with this turn.
    pub(super) fn wake_parked(&mut self) {
        self.parked.drain(..).for_each(Waker::wake);
    }

    /// Has a task go on with the next turn.
    pub(super) fn park(&mut self, waker: &Waker) {
        self.parked.push(waker.clone());
    }

    /// Has the next turn look at a slot.
    pub(super) fn touch(&mut self, index: usize, attention: bool) {
        let slot = &mut self.slots[index];
        slot.own.attention |= attention;
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push_back(index as u32);
        }
    }

    /// A client has to wait for a slot. Not when it will be closed all the same.
    pub(super) fn has_no_slot(&self) -> bool {
        !self.slots.may_admit() && !self.stopping && !self.ending
    }

    /// An accepted client gets a slot; closed at once if there is none.
    pub(super) fn admit(&mut self, stream: TcpStream, peer: Peer) -> Option<usize> {
        let index = self.slots.admit(Own { stream: Some(stream), ..Own::default() }).ok()?;
        let conn = self.slots.id(index);
        self.report(Event::Accepted { conn, peer });
        Some(index)
    }

    /// What came of a connect.
    pub(super) fn connected(&mut self, index: usize, result: io::Result<TcpStream>) {
        let slot = &mut self.slots[index];
        match (slot.life, result) {
            (Life::Connecting { closing: false }, Ok(stream)) => {
                slot.life = Life::Open;
                slot.own.stream = Some(stream);
                let conn = self.slots.id(index);
                self.report(Event::Connected { conn });
                self.flush(index);
            }
            (Life::Connecting { closing: true }, Ok(stream)) => {
                slot.life = Life::Flushing;
                slot.own.stream = Some(stream);
                self.flush(index);
            }
            (Life::Connecting { closing: false }, Err(error)) => self.lost(index, Some(error)),
            (_, _) => self.die(index, false),
        }
    }

    /// One step of a connection's task; ready when the connection is over.
    pub(super) fn drive(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        self.listen(index, cx);
        self.unblock(index, cx);
        self.receive(index, cx);
        if self.slots[index].life == Life::Dying { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Remembers whom to wake.
    pub(super) fn listen(&mut self, index: usize, cx: &Context<'_>) {
        let slot = &mut self.slots[index];
        if !slot.own.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.own.waker = Some(cx.waker().clone());
        }
    }

    /// Tries to send again when glommio says that the kernel takes more.
    fn unblock(&mut self, index: usize, cx: &mut Context<'_>) {
        while self.slots[index].own.blocked {
            let slot = &mut self.slots[index];
            let (Some(stream), Some(first)) = (&mut slot.own.stream, slot.queue.front()) else {
                slot.own.blocked = false;
                return;
            };
            match Pin::new(stream).poll_write(cx, first) {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) => {
                    slot.own.blocked = false;
                    slot.taken(count);
                    self.flush(index);
                }
                Poll::Ready(Err(error)) if transient(&error) => {}
                Poll::Ready(Err(error)) => {
                    slot.own.blocked = false;
                    self.sending_failed(index, error);
                }
            }
        }
    }

    fn receive(&mut self, index: usize, cx: &mut Context<'_>) {
        loop {
            let slot = &mut self.slots[index];
            let discard = match slot.life {
                Life::Open => false,
                Life::Flushing | Life::Lingering => true,
                Life::Free | Life::Connecting { .. } | Life::Dying => return,
            };
            let (true, Some(stream)) = (slot.receive_wanted, &mut slot.own.stream) else { return };
            if slot.own.receive_turn != self.turn {
                (slot.own.receive_turn, slot.own.receives) = (self.turn, 0);
            }
            if slot.own.receives >= RECEIVES_PER_TURN || self.received >= self.receive_max {
                return self.put_off(index, cx);
            }
            slot.own.receives += 1;
            match Pin::new(stream).poll_read(cx, self.buffer.room()) {
                Poll::Pending => {
                    slot.own.receives -= 1;
                    return;
                }
                Poll::Ready(Ok(0)) => return self.receiving_ended(index, None),
                Poll::Ready(Ok(count)) => {
                    self.received += count;
                    let bytes = self.buffer.take(count);
                    if !discard {
                        let conn = self.slots.id(index);
                        self.report(Event::Received { conn, bytes });
                    }
                }
                Poll::Ready(Err(error)) if transient(&error) => {}
                Poll::Ready(Err(error)) => return self.receiving_ended(index, Some(error)),
            }
        }
    }

    /// The connection has received its share of this turn: it goes on with the next, which comes at once.
    fn put_off(&mut self, index: usize, cx: &Context<'_>) {
        let slot = &mut self.slots[index];
        if slot.own.parked_turn != self.turn {
            slot.own.parked_turn = self.turn;
            self.parked.push(cx.waker().clone());
            self.stir();
        }
    }
}

/// Errors that pass: the operation is to be tried again.
pub(super) fn transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
