//! What follows from each completion and each deadline: the transitions of connections and listeners.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;

use super::slots::{Life, Own, Receive};
use super::sys::{Completion, Rest};
use super::tag::Tag;
use super::{Accept, RingDriver};
use crate::shard::driver::{Driver, Event, Peer};
use crate::shard::limits::{ACCEPT_RETRY, BROKEN_MAX, FLUSH_MAX, LINGER_MAX};
use crate::shard::listen::{Listener, tcp_peer};

impl RingDriver {
    /// Takes one completion.
    pub(super) fn completed(&mut self, completion: Completion, events: &mut Vec<Event>) {
        match completion {
            Completion::Accepted { listener, socket, more } => self.accepted(listener as usize, socket, more, events),
            Completion::Received { at, bytes, more } => self.received(at, bytes, more, events),
            Completion::Sent { at, taken, rest } => self.sent(at, taken, rest, events),
            Completion::Connected { at, result } => self.connected(at, result, events),
            Completion::Cancelled { at, result } => self.cancelled(at, &result),
            Completion::Rung { more } => self.bell_watched = more,
            Completion::Stopped { listener } => self.stopped(listener as usize),
        }
    }

    fn accepted(&mut self, position: usize, socket: io::Result<OwnedFd>, more: bool, events: &mut Vec<Event>) {
        let Some(door) = self.doors.get_mut(position).and_then(Option::as_mut) else { return };
        if !door.open {
            // A client that was accepted meanwhile is closed with `socket`.
            if !more {
                self.doors[position] = None;
            }
            return;
        }
        if !more {
            door.accept = match (door.accept, socket.as_ref().map_err(io::Error::raw_os_error)) {
                (Accept::Stopping | Accept::Cancelling, _) => Accept::Full,
                // A client that gave up while it waited says nothing about the next.
                (_, Ok(_) | Err(Some(libc::ECONNABORTED | libc::EINTR))) => Accept::Wanted,
                // EMFILE, ENFILE, ENOBUFS, ENOMEM; whatever else may come must not spin either.
                (_, Err(_)) => Accept::Retry(self.now.after(ACCEPT_RETRY)),
            };
        }
        let Ok(socket) = socket else { return };
        let peer = match &door.listener {
            Listener::Unix(_) => Peer::Unix,
            Listener::Tcp(_) => match tcp_peer(socket.as_fd()) {
                Ok(peer) => peer,
                // Gone already.
                Err(_) => return,
            },
        };
        if door.held.is_empty() && self.slots.may_admit() {
            let Ok(index) = self.slots.admit(Own::of(socket)) else { return };
            self.touch(index);
            events.push(Event::Accepted { conn: self.slots.id(index), peer });
            return;
        }
        door.held.push_back((socket, peer));
        door.accept = match door.accept {
            Accept::Armed => Accept::Stopping,
            Accept::Wanted | Accept::Retry(_) => Accept::Full,
            Accept::Full | Accept::Stopping | Accept::Cancelling => door.accept,
        };
    }

    /// The cancellation of an accept has completed. If the accept has not, the cancellation may have missed it: once
    /// more, with the next turn.
    fn stopped(&mut self, position: usize) {
        if let Some(door) = self.doors.get_mut(position).and_then(Option::as_mut) {
            if door.accept == Accept::Cancelling {
                door.accept = Accept::Stopping;
            }
        }
    }

    fn received(&mut self, at: Tag, bytes: io::Result<Bytes>, more: bool, events: &mut Vec<Event>) {
        let Some(index) = self.slots.of(at) else { return };
        let slot = &mut self.slots[index];
        if !more {
            slot.own.receive = Receive::Idle;
            slot.own.operations -= 1;
        }
        match bytes {
            Ok(bytes) if !bytes.is_empty() => {
                if slot.life == Life::Open {
                    events.push(Event::Received { conn: self.slots.id(index), bytes });
                }
            }
            Ok(_) => return self.receiving_ended(index, None, events),
            // Cancelled, all buffers filled in this turn, or a signal: armed again if wanted.
            Err(error) if transient(&error) => {}
            Err(error) => return self.receiving_ended(index, Some(error), events),
        }
        if !more {
            self.settle(index);
        }
    }

    /// The peer has closed (`error` is `None`) or the connection broke.
    fn receiving_ended(&mut self, index: usize, error: Option<io::Error>, events: &mut Vec<Event>) {
        let slot = &mut self.slots[index];
        match slot.life {
            Life::Open => {
                let error = slot.send_error.take().or(error);
                self.lost(index, error, events);
            }
            // A peer that has only closed its own side still reads what is being flushed.
            Life::Flushing if error.is_none() => {
                slot.peer_closed = true;
                slot.receive_wanted = false;
            }
            Life::Flushing | Life::Lingering => self.die(index, false),
            Life::Free | Life::Connecting { .. } | Life::Dying => self.settle(index),
        }
    }

    fn sent(&mut self, at: Tag, taken: io::Result<usize>, rest: Rest, events: &mut Vec<Event>) {
        let Some(index) = self.slots.of(at) else { return };
        let slot = &mut self.slots[index];
        slot.own.sending = false;
        slot.own.operations -= 1;
        let count = *taken.as_ref().unwrap_or(&0);
        self.ring.put_back(rest, count, &mut slot.queue);
        slot.queued = slot.queued.saturating_sub(count);
        if slot.life == Life::Dying {
            slot.queue.clear();
            return self.settle(index);
        }
        match taken {
            Err(error) if !transient(&error) => self.sending_failed(index, error, events),
            Ok(_) | Err(_) => {
                if slot.life == Life::Flushing && slot.flushed() {
                    return self.linger(index);
                }
                if slot.above_high && slot.queued < Self::LOW_WATER {
                    slot.above_high = false;
                    if slot.life == Life::Open {
                        events.push(Event::Drained { conn: self.slots.id(index) });
                    }
                }
                if self.slots[index].queue.is_empty() {
                    self.slots[index].slim();
                } else {
                    self.touch(index);
                }
            }
        }
    }

    /// Nothing more can be sent. What the peer sent before it went (a server says why it ends) can often still be
    /// received, so the connection is reported as closed only when receiving ends as well; at once if it is paused.
    fn sending_failed(&mut self, index: usize, error: io::Error, events: &mut Vec<Event>) {
        let slot = &mut self.slots[index];
        slot.queue.clear();
        slot.queued = 0;
        if slot.life != Life::Open {
            return self.die(index, false);
        }
        if !slot.receive_wanted {
            return self.lost(index, Some(error), events);
        }
        slot.send_error = Some(error);
        self.set_deadline(index, BROKEN_MAX);
    }

    fn connected(&mut self, at: Tag, result: io::Result<()>, events: &mut Vec<Event>) {
        let Some(index) = self.slots.of(at) else { return };
        let conn = self.slots.id(index);
        let slot = &mut self.slots[index];
        slot.own.operations -= 1;
        match (slot.life, result) {
            (Life::Connecting { closing: false }, Ok(())) => {
                slot.life = Life::Open;
                events.push(Event::Connected { conn });
                self.touch(index);
            }
            (Life::Connecting { closing: false }, Err(error)) => self.lost(index, Some(error), events),
            (Life::Connecting { closing: true }, Ok(())) => {
                slot.life = Life::Flushing;
                if slot.flushed() { self.linger(index) } else { self.touch(index) }
            }
            (Life::Connecting { closing: true }, Err(_)) => self.die(index, false),
            (Life::Free | Life::Open | Life::Flushing | Life::Lingering | Life::Dying, _) => self.settle(index),
        }
    }

    fn cancelled(&mut self, at: Tag, result: &io::Result<()>) {
        let Some(index) = self.slots.of(at) else { return };
        let slot = &mut self.slots[index];
        slot.own.cancelling = false;
        slot.own.operations -= 1;
        if result.is_err() && slot.own.receive == Receive::Cancelling {
            // Not found: the receive has just ended, and its completion follows, or it was between two of the
            // kernel's lists, and the next turn cancels it again.
            slot.own.receive = Receive::Armed;
        }
        self.settle(index);
    }

    /// After an operation has completed: frees a dying slot that has no other, looks at any other slot again.
    fn settle(&mut self, index: usize) {
        let slot = &self.slots[index];
        if slot.life == Life::Dying && slot.own.operations == 0 {
            self.slots.release(index);
        } else {
            self.touch(index);
        }
    }

    /// The connection is gone through no action of the shard.
    fn lost(&mut self, index: usize, error: Option<io::Error>, events: &mut Vec<Event>) {
        events.push(Event::Closed { conn: self.slots.id(index), error });
        let reset = self.slots[index].queued > 0;
        self.die(index, reset);
    }

    /// Closes as soon as no operation is left. `reset`: the peer shall see that something is missing, and the kernel
    /// forgets what it has not delivered.
    pub(super) fn die(&mut self, index: usize, reset: bool) {
        let slot = &mut self.slots[index];
        slot.life = Life::Dying;
        slot.own.address = None;
        slot.queue.clear();
        slot.queued = 0;
        if let (true, Some(socket)) = (reset, &slot.own.socket) {
            // Without it the connection is closed in the ordinary way: nothing depends on it.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
        self.settle(index);
    }

    /// The shard has closed a connection.
    pub(super) fn begin_close(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.receive_wanted = true;
        match slot.life {
            Life::Connecting { .. } if slot.queue.is_empty() => return self.die(index, false),
            Life::Connecting { .. } => slot.life = Life::Connecting { closing: true },
            _ if slot.send_error.is_some() => return self.die(index, false),
            _ if slot.flushed() => return self.linger(index),
            _ => slot.life = Life::Flushing,
        }
        self.touch(index);
        self.set_deadline(index, FLUSH_MAX);
    }

    /// Everything has been sent: says so to the peer and waits for it to close, too.
    fn linger(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let shut = slot.own.socket.as_ref().map(|socket| SockRef::from(socket).shutdown(Shutdown::Write));
        if slot.peer_closed || !matches!(shut, Some(Ok(()))) {
            return self.die(index, false);
        }
        slot.life = Life::Lingering;
        self.touch(index);
        self.set_deadline(index, LINGER_MAX);
    }

    fn set_deadline(&mut self, index: usize, patience: Duration) {
        self.slots.set_deadline(index, self.now.after(patience));
    }

    /// Ends the patience with slots whose time has come.
    pub(super) fn expire(&mut self, events: &mut Vec<Event>) {
        while let Some(index) = self.slots.next_expired(self.now) {
            let slot = &mut self.slots[index];
            match slot.life {
                Life::Connecting { closing: true } | Life::Flushing => self.die(index, true),
                Life::Lingering => self.die(index, false),
                Life::Open => {
                    if let Some(error) = slot.send_error.take() {
                        self.lost(index, Some(error), events);
                    }
                }
                Life::Free | Life::Connecting { closing: false } | Life::Dying => {}
            }
        }
    }
}

/// Errors that pass: the operation is to be tried again.
fn transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN))
}
