//! How bytes leave, and how connections end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use glommio::net::TcpStream;
use socket2::SockRef;

use super::GlommioDriver;
use super::slots::Life;
use super::state::{State, transient};
use super::sys;
use crate::shard::driver::{Driver, Event, Time};
use crate::shard::limits::{BROKEN_MAX, FLUSH_MAX, LINGER_MAX};

/// Chunks that leave with one system call.
const CHUNKS_MAX: usize = 64;
/// Bytes after which a system call takes no further chunk.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Bytes that one connection may send in one turn: others want to be served, too.
const SEND_TURN_MAX: usize = 1024 * 1024;

impl State {
    /// Hands what is queued to the kernel, as far as it takes it now; the rest is the task's.
    pub(super) fn flush(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !matches!(slot.life, Life::Open | Life::Flushing) || slot.own.blocked {
            return;
        }
        let Some(stream) = &slot.own.stream else { return };
        let (mut sent, mut failed) = (0, None);
        while !slot.queue.is_empty() && sent < SEND_TURN_MAX {
            match send_some(stream, &slot.queue) {
                Ok(count) => {
                    sent += count;
                    slot.queued = slot.queued.saturating_sub(count);
                    crate::shard::slots::advance(&mut slot.queue, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (slot.own.blocked, slot.own.attention) = (true, true);
                    break;
                }
                Err(error) if transient(&error) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match failed {
            Some(error) => self.sending_failed(index, error),
            None => self.sent(index),
        }
    }

    /// Some of what was queued has left.
    fn sent(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.life == Life::Flushing && slot.queue.is_empty() {
            return self.linger(index);
        }
        slot.slim();
        let drained = slot.above_high && slot.queued < GlommioDriver::LOW_WATER;
        if drained {
            slot.above_high = false;
        }
        // More than a turn's share: others first.
        let more = !slot.queue.is_empty() && !slot.own.blocked;
        if drained && slot.life == Life::Open {
            let conn = self.slots.id(index);
            self.report(Event::Drained { conn });
        }
        if more {
            self.touch(index, false);
            self.stir();
        }
    }

    /// Nothing more can be sent. What the peer sent before it went (a server says why it ends) can often still be
    /// received, so the connection is reported as closed only when receiving ends as well; at once if it is paused.
    pub(super) fn sending_failed(&mut self, index: usize, error: io::Error) {
        let slot = &mut self.slots[index];
        slot.unqueue();
        if slot.life != Life::Open {
            return self.die(index, false);
        }
        if !slot.receive_wanted {
            return self.lost(index, Some(error));
        }
        slot.send_error = Some(error);
        self.set_deadline(index, BROKEN_MAX);
    }

    /// The peer has closed (`error` is `None`) or the connection broke.
    pub(super) fn receiving_ended(&mut self, index: usize, error: Option<io::Error>) {
        let slot = &mut self.slots[index];
        match slot.life {
            Life::Open => {
                let error = slot.send_error.take().or(error);
                self.lost(index, error);
            }
            // A peer that has only closed its own side still reads what is being flushed.
            Life::Flushing if error.is_none() => {
                slot.peer_closed = true;
                slot.receive_wanted = false;
            }
            Life::Flushing | Life::Lingering => self.die(index, false),
            Life::Free | Life::Connecting { .. } | Life::Dying => {}
        }
    }

    /// The connection is gone through no action of the shard.
    pub(super) fn lost(&mut self, index: usize, error: Option<io::Error>) {
        let conn = self.slots.id(index);
        self.report(Event::Closed { conn, error });
        let reset = self.slots[index].queued > 0;
        self.die(index, reset);
    }

    /// Over: the task closes the socket. `reset`: the peer shall see that something is missing, and the kernel forgets
    /// what it has not delivered.
    pub(super) fn die(&mut self, index: usize, reset: bool) {
        let slot = &mut self.slots[index];
        slot.life = Life::Dying;
        slot.unqueue();
        if let (true, Some(stream)) = (reset, &slot.own.stream) {
            // Without it the connection is closed in the ordinary way: nothing depends on it.
            let _ = SockRef::from(&sys::fd(stream)).set_linger(Some(Duration::ZERO));
        }
        self.touch(index, true);
    }

    /// The shard has closed a connection.
    pub(super) fn begin_close(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.receive_wanted = true;
        match slot.life {
            Life::Connecting { .. } if slot.queue.is_empty() => return self.die(index, false),
            Life::Connecting { .. } => slot.life = Life::Connecting { closing: true },
            _ if slot.send_error.is_some() => return self.die(index, false),
            _ if slot.queue.is_empty() => return self.linger(index),
            _ => slot.life = Life::Flushing,
        }
        self.touch(index, true);
        self.set_deadline(index, FLUSH_MAX);
    }

    /// Everything has been sent: says so to the peer and waits for it to close, too.
    fn linger(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let shut = slot.own.stream.as_ref().map(|stream| SockRef::from(&sys::fd(stream)).shutdown(Shutdown::Write));
        if slot.peer_closed || !matches!(shut, Some(Ok(()))) {
            return self.die(index, false);
        }
        slot.life = Life::Lingering;
        self.touch(index, true);
        self.set_deadline(index, LINGER_MAX);
    }

    fn set_deadline(&mut self, index: usize, patience: Duration) {
        let deadline = self.clock().after(patience);
        self.slots.set_deadline(index, deadline);
    }

    /// Ends the patience with slots whose time has come.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some(index) = self.slots.next_expired(now) {
            let slot = &mut self.slots[index];
            match slot.life {
                Life::Connecting { closing: true } | Life::Flushing => self.die(index, true),
                Life::Lingering => self.die(index, false),
                Life::Open => {
                    if let Some(error) = slot.send_error.take() {
                        self.lost(index, Some(error));
                    }
                }
                Life::Free | Life::Connecting { closing: false } | Life::Dying => {}
            }
        }
    }
}

/// One system call for many chunks.
fn send_some(stream: &TcpStream, queue: &VecDeque<Bytes>) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let fd = sys::fd(stream);
    let socket = SockRef::from(&fd);
    if let (Some(only), 1) = (queue.front(), queue.len()) {
        return socket.send_with_flags(only, flags);
    }
    let mut slices = [IoSlice::new(&[]); CHUNKS_MAX];
    let (mut count, mut bytes) = (0, 0);
    for chunk in queue.iter().take(CHUNKS_MAX) {
        if bytes >= SEND_BYTES_MAX {
            break;
        }
        slices[count] = IoSlice::new(chunk);
        count += 1;
        bytes += chunk.len();
    }
    socket.send_vectored_with_flags(&slices[..count], flags)
}
