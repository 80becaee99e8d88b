//! What passes between a node and its driver.

use super::lock::Tag;
use super::sql::Strength;
use super::txn::Xid;

/// What a node is like.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its number; only for whoever reads a trace.
    pub id: u8,
    /// Its clock minus simulated time.
    pub clock_skew_us: i64,
    /// At least so long after COMMIT its record is on disk.
    pub flush_us: i64,
    /// At least so long after that it is visible to others, and answered.
    pub visible_us: i64,
    /// So long after it an asynchronous commit is on disk.
    pub log_writer_us: i64,
    /// 0: scans return rows in the order of insertion; else in an order of this node's own.
    pub physical_order_seed: u64,
    /// Its first transaction id: nodes differ in them.
    pub first_xid: Xid,
    /// So long does who waits for a lock wait before it looks for a deadlock.
    pub deadlock_timeout_us: i64,
    /// Transactions can be prepared (max_prepared_transactions), and what they change can be decoded (wal_level).
    pub logical: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        NodeConfig {
            id: 0,
            clock_skew_us: 0,
            flush_us: 0,
            visible_us: 0,
            log_writer_us: 200_000,
            physical_order_seed: 0,
            first_xid: 700,
            deadlock_timeout_us: 1_000_000,
            logical: false,
        }
    }
}

/// One backend of one node. Never used again, not even after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendId(pub u32);

/// Something that a node can do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A backend goes on.
    Backend(BackendId, Why),
    /// The log writer flushes asynchronous commits.
    LogWriter,
}

/// Why a backend can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It has been started, or gave way.
    Turn,
    /// A message has arrived whole.
    Message,
    /// Its client is gone and everything that came from it has been read.
    ClientGone,
    /// The lock that it waited for has been granted.
    Granted,
    /// Time to look for a deadlock.
    Timer,
    /// It was terminated or cancelled while it waited.
    Interrupt,
    /// Its commit becomes durable.
    Flush,
    /// Its durable commit becomes visible, and is answered.
    Visible,
}

/// When a backend whose client is gone finds out. All of it happens on a real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// Only when it has read and done all that had arrived.
    AtRead,
    /// When it next sends something, if that is earlier.
    AtWrite,
    /// Not at all: packets are lost, and keepalive would take hours. Only pg_terminate_backend() ends it.
    Never,
}

/// What a backend has sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// Bytes, in order.
    pub bytes: Vec<u8>,
    /// These were the last: the connection is closed. The backend's number means nothing from here on.
    pub closed: bool,
}

/// A backend, for checkers.
#[derive(Clone, Debug)]
pub struct BackendInfo {
    /// Its number.
    pub id: BackendId,
    /// Its process id.
    pub pid: u32,
    /// application_name.
    pub application_name: String,
    /// As pg_stat_activity has it: `idle`, `active`, `idle in transaction`, `idle in transaction (aborted)`.
    pub state: &'static str,
    /// Of the answer to what was sent up to a Sync or Query a part has left it.
    pub midway: bool,
    /// Its transaction's id, if it has one.
    pub xid: Option<Xid>,
    /// What it waits for.
    pub waits_for: Option<Tag>,
    /// What it holds.
    pub locks: Vec<(Tag, Strength)>,
}
