//! The simulated operating system of one shard: connections are pairs of byte queues that the world moves.
//!
//! The shard's end is [`SimDriver`], the world's end [`Port`]. What the world stages is what the shard's next
//! [`Driver::wait`] hands out. Slots follow the trait's contract: one whose end has been handed out is used again only
//! after the wait that follows.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};

use super::node::BackendId;
use super::schedule::Random;
use crate::shard::driver::{Address, ConnId, Doorbell, Driver, Event, Peer, Time};

/// Who is at the far end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Far {
    /// A client of the workload.
    Client(usize),
    /// Somebody who sends a CancelRequest.
    Canceller,
    /// A node; the backend once the connection stands.
    Node(usize, Option<BackendId>),
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// The slot is free, or about to be.
    Free,
    /// The shard has asked for it.
    Connecting,
    /// It stands.
    Open,
    /// The shard has closed it; what is queued still leaves.
    Closing,
    /// The shard has cut it off; the far end does not know yet.
    Aborted,
}

/// How the far end's sending has ended, behind what is still on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In order.
    Closed,
    /// The connection broke.
    Broken,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    generation: u32,
    /// How far it is.
    pub life: Life,
    /// Who is at the far end.
    pub far: Far,
    /// On its way to the shard.
    pub inward: BytesMut,
    /// Queued by the shard.
    pub outward: BytesMut,
    /// The far end sends no more.
    pub end: Option<End>,
    /// The shard does not receive.
    pub paused: bool,
    /// Of what the shard had queued a part has arrived, and more waits.
    pub torn: bool,
    /// Until then (simulated microseconds) nothing of it gets through, while other connections' bytes do.
    pub lags_until: i64,
    /// Until then nothing of what the shard has queued does.
    pub rest_until: i64,
    was_high: bool,
}

/// The world's end of a shard's driver.
#[derive(Debug)]
pub struct Port {
    conns: Vec<Conn>,
    free: Vec<u32>,
    cooling: Vec<u32>,
    ended: Vec<u32>,
    staged: Vec<Event>,
    /// The simulated time.
    pub now: Time,
    random: Random,
    bell: Arc<Bell>,
    /// Clients may still come.
    pub listening: bool,
    /// Bytes that wait for the shard's next turn.
    pub staged_bytes: usize,
    /// How often a client, and a node, was not received from since too much was queued.
    pub held_back: [u64; 2],
}

/// Rings into the world.
#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Doorbell for Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Port {
    /// No connection lags any more.
    pub fn end_lags(&mut self) {
        self.conns.iter_mut().for_each(|c| (c.lags_until, c.rest_until) = (0, 0));
    }

    /// When the next connection that lags does so no longer.
    pub fn next_lag(&self, now_us: i64) -> Option<i64> {
        let used = self.conns.iter().filter(|c| c.life != Life::Free);
        used.flat_map(|c| [c.lags_until, c.rest_until]).filter(|t| *t > now_us).min()
    }

    /// A port without connections.
    #[must_use]
    pub fn new(random: Random) -> Port {
        Port {
            conns: Vec::new(),
            free: Vec::new(),
            cooling: Vec::new(),
            ended: Vec::new(),
            staged: Vec::new(),
            now: Time(0),
            random,
            bell: Arc::default(),
            listening: true,
            staged_bytes: 0,
            held_back: [0; 2],
        }
    }

    fn open(&mut self, far: Far, life: Life) -> u32 {
        let fresh = |generation| Conn {
            generation,
            life,
            far,
            inward: BytesMut::new(),
            outward: BytesMut::new(),
            end: None,
            paused: false,
            torn: false,
            lags_until: 0,
            rest_until: 0,
            was_high: false,
        };
        if let Some(index) = self.free.pop() {
            let slot = &mut self.conns[index as usize];
            *slot = fresh(slot.generation.wrapping_add(1));
            return index;
        }
        self.conns.push(fresh(0));
        u32::try_from(self.conns.len() - 1).unwrap_or(u32::MAX) // a run has a few dozen
    }

    fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.conns[index as usize].generation }
    }

    fn find(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(conn.index as usize).filter(|c| c.generation == conn.generation && c.life != Life::Free)
    }

    /// All slots.
    #[must_use]
    pub fn conns(&self) -> &[Conn] {
        &self.conns
    }

    /// One slot.
    pub fn conn(&mut self, index: u32) -> &mut Conn {
        &mut self.conns[index as usize]
    }

    /// Somebody connects to the proxy.
    pub fn accept(&mut self, far: Far) -> u32 {
        let index = self.open(far, Life::Open);
        let conn = self.id(index);
        self.staged.push(Event::Accepted { conn, peer: Peer::Unix });
        index
    }

    /// A connection to a node stands.
    pub fn connected(&mut self, index: u32, backend: BackendId) {
        let conn = self.id(index);
        let c = &mut self.conns[index as usize];
        c.life = Life::Open;
        if let Far::Node(_, b) = &mut c.far {
            *b = Some(backend);
        }
        self.staged.push(Event::Connected { conn });
    }

    /// Some of what is on its way arrives.
    pub fn deliver(&mut self, index: u32, bytes: usize) -> Bytes {
        let conn = self.id(index);
        let bytes = self.conns[index as usize].inward.split_to(bytes).freeze();
        self.staged_bytes += bytes.len();
        self.staged.push(Event::Received { conn, bytes: bytes.clone() });
        bytes
    }

    /// The shard learns that the connection is gone.
    pub fn closed(&mut self, index: u32, end: End) {
        let conn = self.id(index);
        let error = (end == End::Broken).then(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        self.staged.push(Event::Closed { conn, error });
        self.release(index);
    }

    /// The slot is free after the next wait.
    pub fn release(&mut self, index: u32) {
        self.conns[index as usize].life = Life::Free;
        self.ended.push(index);
    }

    /// Takes some of what the shard has queued.
    pub fn carry(&mut self, index: u32, bytes: usize) -> BytesMut {
        let conn = self.id(index);
        let c = &mut self.conns[index as usize];
        let taken = c.outward.split_to(bytes);
        c.torn = !c.outward.is_empty();
        if c.was_high && c.outward.len() < SimDriver::LOW_WATER {
            c.was_high = false;
            if c.life == Life::Open {
                self.staged.push(Event::Drained { conn });
            }
        }
        taken
    }

    /// The shard has something to do.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.staged.is_empty() || self.bell.0.load(Ordering::Relaxed)
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct SimDriver(Rc<RefCell<Port>>);

impl SimDriver {
    /// Over this port.
    #[must_use]
    pub fn new(port: Rc<RefCell<Port>>) -> SimDriver {
        SimDriver(port)
    }
}

/// A node's address, as the driver reads it.
#[must_use]
pub fn node_address(node: usize) -> Address {
    Address::Unix(node.to_string().into())
}

impl Driver for SimDriver {
    /// Small, so that runs of small messages reach it.
    const HIGH_WATER: usize = 128;
    const LOW_WATER: usize = 32;

    /// The world moves bytes on by itself; no shard is stopped before it has come to rest.
    fn is_settled(&self) -> bool {
        true
    }

    fn connect(&mut self, to: &Address) -> ConnId {
        let Address::Unix(path) = to else { unreachable!("nodes of a simulation have paths") };
        let node = path.to_str().and_then(|p| p.parse().ok()).unwrap_or(0);
        let mut port = self.0.borrow_mut();
        let index = port.open(Far::Node(node, None), Life::Connecting);
        port.id(index)
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        if let Some(c) = self.0.borrow_mut().find(conn).filter(|c| matches!(c.life, Life::Connecting | Life::Open)) {
            c.outward.extend_from_slice(&bytes);
            c.was_high |= c.outward.len() > Self::HIGH_WATER;
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.0.borrow_mut().find(conn).map_or(0, |c| c.outward.len())
    }

    fn pause(&mut self, conn: ConnId) {
        let mut port = self.0.borrow_mut();
        let Some(c) = port.find(conn) else { return };
        c.paused = true;
        let is_node = matches!(c.far, Far::Node(..));
        port.held_back[usize::from(is_node)] += 1;
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(c) = self.0.borrow_mut().find(conn) {
            c.paused = false;
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(c) = self.0.borrow_mut().find(conn) {
            match c.life {
                Life::Connecting => c.life = Life::Aborted,
                Life::Open => c.life = Life::Closing,
                Life::Free | Life::Closing | Life::Aborted => {}
            }
        }
    }

    fn abort(&mut self, conn: ConnId) {
        if let Some(c) = self.0.borrow_mut().find(conn) {
            c.life = Life::Aborted;
        }
    }

    fn stop_listening(&mut self) {
        self.0.borrow_mut().listening = false;
    }

    fn now(&self) -> Time {
        self.0.borrow().now
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        self.0.borrow().bell.clone()
    }

    fn random(&mut self, out: &mut [u8]) {
        let mut port = self.0.borrow_mut();
        for part in out.chunks_mut(8) {
            let bytes = port.random.next_u64().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }

    fn wait(&mut self, _until: Option<Time>, events: &mut Vec<Event>) -> std::io::Result<()> {
        let mut port = self.0.borrow_mut();
        let port = &mut *port;
        port.free.append(&mut port.cooling);
        std::mem::swap(&mut port.cooling, &mut port.ended);
        events.append(&mut port.staged);
        if port.bell.0.swap(false, Ordering::Relaxed) {
            events.push(Event::Woken);
        }
        Ok(())
    }
}
