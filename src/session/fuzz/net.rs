//! The operating system of one shard, as far as a session needs one: every byte waits until the input says that it
//! moves on.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::backend::Backend;
use crate::shard::driver::{Address, ConnId, Doorbell, Driver, Event, Time};

/// Small, so that a few messages reach it.
pub const HIGH_WATER: usize = 2048;
const LOW_WATER: usize = 512;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// The shard has asked for it.
    Connecting,
    /// It stands.
    Open,
    /// The shard has given it up.
    Shut,
    /// The shard has been told that it is gone.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    /// The node at the far end; `None`: it is the client's.
    pub node: Option<usize>,
    pub life: Life,
    /// The shard does not receive.
    pub paused: bool,
    /// Queued by the shard, and not yet taken.
    pub outward: BytesMut,
    pub was_high: bool,
    /// What answers at the far end, once the connection stands.
    pub backend: Option<Backend>,
    /// Bytes of the first answer that have been delivered.
    pub cut: usize,
}

/// All of them. Slots are not used again: what is sent on an old one shows.
#[derive(Debug, Default)]
pub struct State {
    pub conns: Vec<Conn>,
    pub now: Time,
    /// What the client was sent since somebody looked.
    pub heard: BytesMut,
    /// What the session must not have done.
    pub wrong: Option<String>,
    seed: u64,
}

impl State {
    pub fn open(&mut self, node: Option<usize>, life: Life) -> ConnId {
        self.conns.push(Conn {
            node,
            life,
            paused: false,
            outward: BytesMut::new(),
            was_high: false,
            backend: None,
            cut: 0,
        });
        id(self.conns.len() - 1)
    }

    fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }
}

/// The id of a connection.
pub fn id(index: usize) -> ConnId {
    ConnId { index: u32::try_from(index).unwrap_or(u32::MAX), generation: 0 }
}

/// The shard's end.
pub struct Net(pub Rc<RefCell<State>>);

struct Bell;

impl Doorbell for Bell {
    fn ring(&self) {}
}

impl Driver for Net {
    const HIGH_WATER: usize = HIGH_WATER;
    const LOW_WATER: usize = LOW_WATER;

    fn connect(&mut self, to: &Address) -> ConnId {
        let Address::Unix(path) = to else { unreachable!("nodes have paths here") };
        let node = path.to_str().and_then(|p| p.parse().ok()).unwrap_or(0);
        self.0.borrow_mut().open(Some(node), Life::Connecting)
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        let c = &mut state.conns[conn.index as usize];
        match c.life {
            Life::Open => {
                if c.node.is_none() {
                    state.heard.extend_from_slice(&bytes);
                }
                c.outward.extend_from_slice(&bytes);
                c.was_high |= c.outward.len() > HIGH_WATER;
            }
            life => {
                let what = format!("{} sent on a connection that is {life:?}: {conn:?}", bytes.escape_ascii());
                state.wrong(what);
            }
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.0.borrow().conns[conn.index as usize].outward.len()
    }

    fn pause(&mut self, conn: ConnId) {
        self.0.borrow_mut().conns[conn.index as usize].paused = true;
    }

    fn resume(&mut self, conn: ConnId) {
        self.0.borrow_mut().conns[conn.index as usize].paused = false;
    }

    fn close(&mut self, conn: ConnId) {
        let mut state = self.0.borrow_mut();
        let c = &mut state.conns[conn.index as usize];
        if c.life != Life::Gone {
            c.life = Life::Shut;
        }
    }

    fn abort(&mut self, conn: ConnId) {
        self.close(conn);
    }

    fn stop_listening(&mut self) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn now(&self) -> Time {
        self.0.borrow().now
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::new(Bell)
    }

    fn random(&mut self, out: &mut [u8]) {
        let mut state = self.0.borrow_mut();
        for byte in out {
            state.seed = state.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.seed.to_be_bytes()[0];
        }
    }

    fn wait(&mut self, _until: Option<Time>, _events: &mut Vec<Event>) -> std::io::Result<()> {
        Ok(())
    }
}
