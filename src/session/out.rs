//! What goes to the client, gathered over one event.
//!
//! Runs of relayed messages stay one slice of the chunk they came in with; own messages stand between them. While a
//! hold is on, everything is kept back: it can still be dropped and the request run elsewhere.

use std::ops::Range;

use bytes::Bytes;

use super::held::QUEUE_KEPT;
use crate::wire::frame::Place;

/// Gathers the client's bytes.
#[derive(Debug, Default)]
pub struct ClientOut {
    ready: Vec<Bytes>,
    held: Vec<Bytes>,
    holding: bool,
    spoken: bool,
    run: Option<Range<usize>>,
}

impl ClientOut {
    /// Relays a piece of `chunk`.
    pub fn relay(&mut self, chunk: &Bytes, place: &Place) {
        match place {
            Place::Chunk(r) => match &mut self.run {
                Some(run) if run.end == r.start => run.end = r.end,
                _ => {
                    self.end_run(chunk);
                    self.run = Some(r.clone());
                }
            },
            Place::Carried(b) => {
                self.end_run(chunk);
                self.push(b.clone());
            }
        }
    }

    /// Ends the current run; must be called before anything else is pushed and before the chunk is given up.
    pub fn end_run(&mut self, chunk: &Bytes) {
        if let Some(run) = self.run.take() {
            self.push(chunk.slice(run));
        }
    }

    /// Adds bytes of the proxy's own.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.run.is_none(), "a run was left open");
        if bytes.is_empty() {
            return;
        }
        if self.holding {
            self.held.push(bytes);
        } else {
            self.spoken = true;
            self.ready.push(bytes);
        }
    }

    /// A new request: nothing of its answer has left.
    pub fn begin(&mut self) {
        self.spoken = false;
    }

    /// Something has left since the request began.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.spoken || self.run.is_some()
    }

    /// From here on everything is kept back.
    pub fn hold(&mut self) {
        self.holding = true;
    }

    /// A hold is on.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// Lets go what was kept back.
    pub fn release(&mut self) {
        self.holding = false;
        self.spoken |= !self.held.is_empty();
        self.ready.append(&mut self.held);
    }

    /// Drops what was kept back.
    pub fn drop_held(&mut self) {
        self.holding = false;
        self.held.clear();
    }

    /// Gives up the room that a burst has taken. What may leave has been taken.
    pub fn slim(&mut self) {
        for list in [&mut self.ready, &mut self.held] {
            if list.is_empty() && list.capacity() > QUEUE_KEPT {
                *list = Vec::new();
            }
        }
    }

    /// What may leave now.
    pub fn take(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.ready.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_messages_leave_as_one_slice() {
        let chunk = Bytes::from_static(b"aabbXXcc");
        let mut out = ClientOut::default();
        out.relay(&chunk, &Place::Chunk(0..2));
        out.relay(&chunk, &Place::Chunk(2..4));
        out.relay(&chunk, &Place::Chunk(6..8));
        out.end_run(&chunk);
        assert_eq!(out.take().collect::<Vec<_>>(), [Bytes::from_static(b"aabb"), Bytes::from_static(b"cc")]);
    }

    #[test]
    fn what_is_held_can_still_be_dropped() {
        let mut out = ClientOut::default();
        out.push(Bytes::from_static(b"1"));
        out.hold();
        out.push(Bytes::from_static(b"2"));
        out.drop_held();
        out.push(Bytes::from_static(b"3"));
        assert_eq!(out.take().collect::<Vec<_>>(), [Bytes::from_static(b"1"), Bytes::from_static(b"3")]);
    }
}
