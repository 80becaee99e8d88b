//! Bytes on their way between shards, clients and nodes, cut where the seed wants it; connections that begin and end.

use bytes::BytesMut;

use super::World;
use crate::sequencer::NodeId;
use crate::sim::driver::{End, Far, Life};
use crate::sim::faults::APPLIER;
use crate::sim::node::{BackendInfo, Gone, Step};
use crate::sim::schedule::readable;
use crate::wire::front;

/// The rest of what a reader was sent in part comes at most so much later, if it does not come next.
const GAP_MAX_US: i64 = 10_000;

impl World {
    pub(super) fn cut(&mut self, length: usize) -> usize {
        if self.random.percent(self.whole) { length } else { 1 + self.random.below(length) }
    }

    pub(super) fn deliver(&mut self, s: usize, i: u32) {
        let length = self.shards[s].port.borrow_mut().conn(i).inward.len();
        let n = self.cut(length);
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = port.deliver(i, n);
        let far = port.conn(i).far;
        self.trace.hash(&bytes);
        self.trace.line(self.now_us, || format!("{} -> shard {s} #{i}: {}", name(far), readable(&bytes)));
    }

    pub(super) fn carry(&mut self, s: usize, i: u32) {
        let (length, flush) = {
            let mut port = self.shards[s].port.borrow_mut();
            let outward = &port.conn(i).outward;
            (outward.len(), outward.windows(front::FLUSH.len()).position(|w| w == front::FLUSH))
        };
        // What is flushed is meant to arrive before the rest.
        let n = match flush {
            Some(at) if self.random.percent(100 - self.whole) => at + front::FLUSH.len(),
            _ => self.cut(length),
        };
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = port.carry(i, n);
        let far = port.conn(i).far;
        if n < length && self.is_reader(far) && self.random.percent(self.gaps) {
            port.conn(i).rest_until = self.now_us + self.random.between(1, GAP_MAX_US);
        }
        drop(port);
        self.trace.hash(&bytes);
        self.trace.line(self.now_us, || format!("shard {s} #{i} -> {}: {}", name(far), readable(&bytes)));
        self.arrives(far, &bytes);
    }

    /// It serves reads on a replica.
    fn is_reader(&self, far: Far) -> bool {
        let Far::Node(n, Some(b)) = far else { return false };
        let applier = |i: &BackendInfo| i.id == b && i.application_name == APPLIER;
        n != self.main_number() && !self.nodes[n].node.backends().iter().any(applier)
    }

    pub(super) fn arrives(&mut self, far: Far, bytes: &BytesMut) {
        match far {
            Far::Client(c) => self.clients[c].receive(bytes),
            Far::Node(n, Some(b)) => self.nodes[n].node.receive(b, bytes),
            Far::Node(_, None) | Far::Canceller => {}
        }
    }

    pub(super) fn connect(&mut self, s: usize, i: u32) {
        let mut port = self.shards[s].port.borrow_mut();
        let Far::Node(n, _) = port.conn(i).far else { return };
        match self.nodes[n].node.connect() {
            Some(backend) => {
                port.connected(i, backend);
                self.links.insert((n, backend), (s, i));
                self.trace.line(self.now_us, || format!("node {n}    accepts #{i} of shard {s} as {backend:?}"));
            }
            None => port.closed(i, End::Broken),
        }
    }

    /// One side has ended the connection, and everything that was on its way to the other has arrived (or is lost).
    pub(super) fn conn_ended(&mut self, s: usize, i: u32) {
        let (life, far, end) = {
            let mut port = self.shards[s].port.borrow_mut();
            let c = port.conn(i);
            (c.life, c.far, c.end)
        };
        self.trace.line(self.now_us, || format!("{} x shard {s} #{i}: {life:?} {end:?}", name(far)));
        if life == Life::Aborted && end.is_none() {
            // What the kernel had taken may still get through.
            let length = self.shards[s].port.borrow_mut().conn(i).outward.len();
            let n = self.random.below(length + 1);
            let bytes = self.shards[s].port.borrow_mut().conn(i).outward.split_to(n);
            self.arrives(far, &bytes);
        }
        {
            let mut port = self.shards[s].port.borrow_mut();
            match end {
                Some(end) if life == Life::Open => port.closed(i, end),
                _ => port.release(i),
            }
        }
        match far {
            Far::Client(c) if self.clients[c].conn == Some((s, i)) => self.clients[c].gone(),
            Far::Node(n, Some(b)) if self.links.remove(&(n, b)).is_some() => {
                let noticed = if self.random.percent(50) { Gone::AtRead } else { Gone::AtWrite };
                self.nodes[n].node.client_gone(b, noticed);
            }
            _ => {}
        }
    }

    pub(super) fn node_step(&mut self, n: usize, step: Step) {
        let backend = if let Step::Backend(id, _) = step { Some(id) } else { None };
        let snapshots = |world: &World| backend.map_or(0, |id| world.nodes[n].node.snapshots(id));
        let before = snapshots(self);
        self.nodes[n].node.step(step, self.now_us);
        self.trace.line(self.now_us, || format!("node {n}    {step:?}"));
        let Some(id) = backend else { return };
        if snapshots(self) > before {
            // Main's snapshots are free, and in native_replication all are.
            let free = !self.isolates() || n == self.main_number();
            self.witness.looked(n, id, free || self.sequencer.look().is_quiet());
        }
        let output = self.nodes[n].node.take_output(id);
        let is_up = self.membership.load().is_up(NodeId(u8::try_from(n).unwrap_or(u8::MAX)));
        self.witness.sent(n, id, &output.bytes, output.closed, is_up);
        let Some((s, i)) = self.links.get(&(n, id)).copied() else { return };
        let mut port = self.shards[s].port.borrow_mut();
        let c = port.conn(i);
        c.inward.extend_from_slice(&output.bytes);
        if output.closed {
            c.end = Some(End::Closed);
            self.links.remove(&(n, id));
        }
    }
}

/// Who is at the far end, for traces.
fn name(far: Far) -> String {
    match far {
        Far::Client(c) => format!("client {c}"),
        Far::Canceller => "canceller".into(),
        Far::Node(n, b) => format!("node {n} {}", b.map_or(0, |b| b.0)),
    }
}
