//! What a shard asks of the operating system, and nothing more.
//!
//! The trait is completion-shaped: calls queue work, [`Driver::wait`] submits all of it at once and hands back what
//! has happened. A shard owns exactly one driver and is the only one to call it; the only thing that crosses threads
//! is the [`Doorbell`]. `ring` is io_uring, `glommio` an executor over it for older kernels; `sim` (the simulator's)
//! implements the same trait without a socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::listen::Listener;
use super::unavailable::Unavailable;

/// One connection of one driver. The generation makes a stale id harmless: an action on a connection that is gone
/// does nothing, an event never names one that was closed by the shard. A slot whose [`Event::Closed`] has been handed
/// out is used again only after the next call of [`Driver::wait`], when the shard has been through the events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// Slot in the driver's table; dense, reused.
    pub index: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// Nanoseconds on the driver's own monotonic clock. Sessions never ask a clock; they are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `d` later; saturates.
    #[must_use]
    pub fn after(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it was not.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// TCP, resolved beforehand: a driver never looks up names.
    Tcp(SocketAddr),
    /// A Unix-domain socket (`/dir/.s.PGSQL.port`).
    Unix(PathBuf),
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A client on the Unix-domain socket.
    Unix,
}

/// What has happened. Bytes come as they were cut by the network: no event is aligned with a protocol message.
#[derive(Debug)]
pub enum Event {
    /// A client was accepted on one of this shard's listeners. Receiving has been armed.
    Accepted { conn: ConnId, peer: Peer },
    /// A [`Driver::connect`] succeeded. Receiving has been armed.
    Connected { conn: ConnId },
    /// Bytes arrived; never empty. They live in the buffer that the kernel filled: forwarding them copies nothing.
    Received { conn: ConnId, bytes: Bytes },
    /// The bytes queued to send on this connection, which had exceeded [`Driver::HIGH_WATER`], are below
    /// [`Driver::LOW_WATER`] again.
    Drained { conn: ConnId },
    /// The connection is gone: the peer closed it (`error` is `None`), it broke, or a connect failed. The last event
    /// of this connection; its id is dead from here on. Not reported for what the shard closed or aborted itself.
    Closed { conn: ConnId, error: Option<std::io::Error> },
    /// The doorbell was rung: look at the inbox.
    Woken,
}

/// Wakes a shard from another thread. Cheap when the shard is already awake.
pub trait Doorbell: Send + Sync {
    /// Makes the shard's current or next [`Driver::wait`] return with [`Event::Woken`], at least once after this call.
    fn ring(&self);
}

/// The operating system, as a shard sees it.
pub trait Driver {
    /// Bytes queued on one connection above which its source should be paused.
    const HIGH_WATER: usize = 256 * 1024;
    /// Bytes queued below which [`Event::Drained`] is reported.
    const LOW_WATER: usize = 64 * 1024;

    /// Begins to connect. Ends in [`Event::Connected`] or [`Event::Closed`].
    fn connect(&mut self, to: &Address) -> ConnId;

    /// Queues bytes behind what is queued already; they leave in order, many chunks in one operation.
    fn send(&mut self, conn: ConnId, bytes: Bytes);

    /// Bytes queued and not yet taken by the kernel.
    fn queued(&self, conn: ConnId) -> usize;

    /// Stops receiving (back-pressure). What the kernel had filled already may still be reported.
    fn pause(&mut self, conn: ConnId);

    /// Receives again.
    fn resume(&mut self, conn: ConnId);

    /// Closes once everything queued has been sent (at most a few seconds are given to a peer that does not read).
    fn close(&mut self, conn: ConnId);

    /// Closes at once; queued bytes are dropped.
    fn abort(&mut self, conn: ConnId);

    /// No new clients from here on; clients that the kernel has completed already are refused by the closed socket.
    fn stop_listening(&mut self);

    /// Nothing is queued to be sent, and no connect is under way.
    fn is_settled(&self) -> bool;

    /// The clock, as of the last [`Driver::wait`].
    fn now(&self) -> Time;

    /// Wakes this shard from other threads.
    fn doorbell(&self) -> Arc<dyn Doorbell>;

    /// Fills `out` with unpredictable bytes (cancel keys, salts, nonces).
    fn random(&mut self, out: &mut [u8]);

    /// Submits everything queued and waits until something has happened or `until` has come (`None`: for ever).
    /// Appends to `events`; may append nothing.
    ///
    /// # Errors
    /// Only what makes this driver unusable as a whole; a broken connection is an event.
    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> std::io::Result<()>;
}

/// What a driver over real sockets is made of.
#[derive(Debug)]
pub struct DriverOptions {
    /// Bound and listening; they become this driver's. One of its own per shard, see [`super::listen::listen_tcp`].
    pub listeners: Vec<Listener>,
    /// Buffers that may be filled in one turn; at most 32,768. Together with `receive_buffer_size` this bounds what
    /// one turn receives. `ring` has them all the time, and rounds up to a power of two.
    pub receive_buffers: usize,
    /// Bytes of one buffer; at least 4,096.
    pub receive_buffer_size: usize,
    /// Clients and servers together, those included that are being closed.
    pub connections_max: usize,
    /// Clients among them: however many come at once, servers can still be connected to. Clients beyond wait, without
    /// a word, until one before them is gone: let it exceed the sessions' own limit, which is announced properly.
    pub clients_max: usize,
}

impl Default for DriverOptions {
    /// 64 buffers of 64 KiB: 4 MiB per shard, as much as a second-level cache can be asked to hold.
    fn default() -> DriverOptions {
        DriverOptions {
            listeners: Vec::new(),
            receive_buffers: 64,
            receive_buffer_size: 64 * 1024,
            connections_max: 16_384,
            clients_max: 8_192,
        }
    }
}

/// A driver over the sockets of this machine. Opened, used and dropped on the shard's own thread.
pub trait SocketDriver: Driver + Sized {
    /// Sets it up; clients are accepted from the first wait on.
    ///
    /// # Errors
    /// Why it cannot run here.
    fn open(options: DriverOptions) -> Result<Self, Unavailable>;

    /// Whether it can run on this machine; if so, the words that say what was found.
    ///
    /// # Errors
    /// The cause, and what to do about it.
    fn probe() -> Result<String, Unavailable>;
}
