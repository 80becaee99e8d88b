//! How patient drivers are with peers and with the machine.

use std::time::Duration;

/// How long a peer may take to read what was queued when the shard closed the connection.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How long a peer may take to close its side after ours is shut down.
pub(super) const LINGER_MAX: Duration = Duration::from_secs(1);
/// After a failed send: how long the last bytes of the peer may take.
pub(super) const BROKEN_MAX: Duration = Duration::from_secs(5);
/// Between attempts to accept when the process or the machine is out of descriptors or memory.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Places that the empty queue of a connection keeps: after a burst the connection may be idle for ever.
pub(super) const QUEUE_KEPT: usize = 64;
