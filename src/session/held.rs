//! What a session keeps in memory, for whoever checks the bounds.

use bytes::Bytes;

use super::{INBOX_QUEUES, Session};
use crate::sequencer::Waiting;
use crate::shard::driver::Time;

/// Sizes. Each has a bound, whatever the client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Bytes of the client's messages that have not been looked at: [`INBOX_QUEUES`] queues, and what comes before the
    /// driver has stopped receiving.
    pub inbox: usize,
    /// Bytes of texts and values of the script in memory: `script_limit`. (Its entries themselves, a hundred bytes or
    /// two each, always stay in memory and are counted against the limit first; of a COPY one chunk is gathered.)
    pub script: usize,
    /// Entries of the script.
    pub entries: usize,
    /// Named prepared statements: `prepared_statements`.
    pub statements: usize,
    /// SETs remembered for readers: [`super::REPLAY_MAX`].
    pub settings: usize,
    /// Appliers in hand: at most one per replica.
    pub appliers: usize,
    /// The place at the gate of the snapshot that is being taken on a replica.
    pub cut: AtGate,
    /// That of the commit that is under way.
    pub commit: AtGate,
}

/// Where a session stands with the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AtGate {
    /// It has no place there.
    #[default]
    Outside,
    /// It waits, since then.
    Waits(Time),
    /// It has been admitted, and does not know yet.
    Admitted,
    /// It is in, since then.
    Inside(Time),
}

impl AtGate {
    /// Of one that waits.
    pub(super) fn of<G>(place: &Waiting<G>, since: Time) -> AtGate {
        if place.is_admitted() { AtGate::Admitted } else { AtGate::Waits(since) }
    }
}

impl Session {
    /// What it keeps in memory now.
    #[must_use]
    pub fn held(&self) -> Held {
        let open = self.tx.open().map(|o| &o.script);
        let script = self.commit.as_ref().and_then(|c| c.script()).or(open);
        Held {
            inbox: self.inbox_bytes,
            script: script.map_or(0, |s| s.payload()),
            entries: script.map_or(0, |s| s.entries().len()),
            statements: self.registry.len(),
            settings: self.replay.len(),
            cut: self.cut_at_gate(),
            commit: self.commit.as_ref().map_or(AtGate::Outside, |c| c.at_gate()),
            appliers: self.replicas.iter().filter(|r| r.applier.is_some()).count(),
        }
    }
}

/// Bytes of unread client messages above which the client is not received from.
#[must_use]
pub const fn inbox_high(queue_high: usize) -> usize {
    INBOX_QUEUES * queue_high
}

/// Places that an empty queue keeps; one with more is given up whole, so that not even a page of it stays.
pub const QUEUE_KEPT: usize = 64;

/// A slice of at least this many bytes is kept as it is; see [`kept`].
const KEPT_AS_IT_IS: usize = 32 * 1024;

/// Bytes that are to be kept for long. A slice of what the kernel received into would hold the whole buffer (64 KiB),
/// its neighbours' bytes included, so what is short is copied. What is long is not: it is most of its buffer, or has one
/// of its own, and may be a gigabyte.
#[must_use]
pub fn kept(slice: &Bytes) -> Bytes {
    if slice.len() < KEPT_AS_IT_IS { Bytes::copy_from_slice(slice) } else { slice.clone() }
}
