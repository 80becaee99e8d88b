//! What a session holds while it waits at the gate or is in it. Dropped on whatever path, it leaves.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::SHARDS_MAX;
use super::commits::Sequencer;
use super::footprints::Footprint;
use super::gate::{Class, GateFull, Place};
use super::token::SnapshotToken;
use crate::sim::planted::{Planted, is};

/// A place at the gate, inside or not. Leaves it when dropped.
pub struct Seat {
    sequencer: Arc<Sequencer>,
    place: Place,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sequencer.ring_later(self.sequencer.gate.leave(self.place));
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// In the gate for a snapshot: no commit window is open while this lives. Dropping it leaves.
#[derive(Debug)]
pub struct SnapshotPass {
    seat: Seat,
    token: SnapshotToken,
}

impl SnapshotPass {
    /// The cut that a snapshot taken now is, on every node: no commit is open, so it holds all that have a number.
    #[must_use]
    pub fn token(&self) -> SnapshotToken {
        self.token
    }

    /// The sequencer whose gate this is.
    #[must_use]
    pub fn sequencer(&self) -> &Arc<Sequencer> {
        &self.seat.sequencer
    }
}

/// In the gate for a commit, with a commit window open: nobody takes a snapshot on a replica while this lives. Dropping
/// it closes the window and then leaves.
#[derive(Debug)]
pub struct CommitPass {
    seat: Seat,
    marked: Option<Footprint>,
}

impl CommitPass {
    /// The rows that it writes: reads of others need not mind it. Before COMMIT is sent, and once.
    pub fn mark(&mut self, footprint: Footprint) {
        if self.marked.is_none() {
            self.seat.sequencer.footprints.mark(&footprint);
            self.marked = Some(footprint);
        }
    }

    fn unmark(&mut self) {
        let marked = self.marked.take();
        marked.into_iter().for_each(|m| self.seat.sequencer.footprints.unmark(&m));
    }

    /// Main has answered. The marks stay: nodes are still to commit.
    pub fn main_has_answered(&mut self) {
        if is(Planted::RowsTooEarly) {
            self.unmark();
        }
    }

    /// The sequencer whose gate this is.
    #[must_use]
    pub fn sequencer(&self) -> &Arc<Sequencer> {
        &self.seat.sequencer
    }
}

impl Drop for CommitPass {
    // The seat is dropped after this: whoever is let in finds no window open.
    fn drop(&mut self) {
        self.unmark();
        self.seat.sequencer.window.close();
    }
}

mod sealed {
    pub trait Made {
        const CLASS: super::Class;
        fn made(seat: super::Seat) -> Self;
    }
}

/// [`SnapshotPass`] and [`CommitPass`].
pub trait Pass: sealed::Made {}

impl Pass for SnapshotPass {}
impl sealed::Made for SnapshotPass {
    const CLASS: Class = Class::Snapshot;

    fn made(seat: Seat) -> SnapshotPass {
        let token = SnapshotToken { epoch: seat.sequencer.epoch(), csn: seat.sequencer.newest() };
        SnapshotPass { seat, token }
    }
}

impl Pass for CommitPass {}
impl sealed::Made for CommitPass {
    const CLASS: Class = Class::Commit;

    fn made(seat: Seat) -> CommitPass {
        seat.sequencer.window.open();
        CommitPass { seat, marked: None }
    }
}

/// The answer to one that wants to enter.
#[derive(Debug)]
#[must_use = "dropping it leaves the gate"]
pub enum Entry<G> {
    /// It is in.
    In(G),
    /// It waits for its turn.
    Wait(Waiting<G>),
}

/// A place in front of the gate. Dropping it gives it up. It may have been admitted without knowing it yet, and keeps
/// the other class out then: so its shard polls it soon after it has been rung.
#[must_use = "dropping it gives the place up"]
pub struct Waiting<G> {
    seat: Seat,
    shard: u32,
    pass: PhantomData<fn() -> G>,
}

impl<G: Pass> Waiting<G> {
    /// In, if it is its turn. Otherwise its shard is rung when it may be, and polls then.
    ///
    /// # Errors
    /// The place, as before: it is not its turn yet.
    pub fn poll(self) -> Result<G, Waiting<G>> {
        if self.seat.sequencer.gate.park(self.seat.place, self.shard) { Ok(G::made(self.seat)) } else { Err(self) }
    }
}

impl<G> Waiting<G> {
    /// Its turn has come, and [`Waiting::poll`] would say so.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.seat.sequencer.gate.is_in(self.seat.place)
    }
}

impl<G> fmt::Debug for Waiting<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("place", &self.seat.place).field("shard", &self.shard).finish()
    }
}

impl Sequencer {
    /// Enters the gate to take a snapshot on a replica.
    ///
    /// The place that one gets otherwise is parked already: `shard` is among [`Self::waiters_to_ring`] once it may be
    /// inside.
    ///
    /// # Errors
    /// [`GateFull`]: more than 65,535 of its class are at the gate.
    pub fn enter_snapshot(self: &Arc<Self>, shard: usize) -> Result<Entry<SnapshotPass>, GateFull> {
        self.enter(shard)
    }

    /// Enters the gate to commit, and opens a commit window. The commit takes its number when it is in:
    /// [`Self::open_commit`]. Otherwise as [`Self::enter_snapshot`].
    ///
    /// # Errors
    /// [`GateFull`]: more than 65,535 of its class are at the gate.
    pub fn enter_commit(self: &Arc<Self>, shard: usize) -> Result<Entry<CommitPass>, GateFull> {
        self.enter(shard)
    }

    fn enter<G: Pass>(self: &Arc<Self>, shard: usize) -> Result<Entry<G>, GateFull> {
        let seat = Seat { place: self.gate.arrive(G::CLASS)?, sequencer: Arc::clone(self) };
        let waiting = Waiting { seat, shard: (shard % SHARDS_MAX) as u32, pass: PhantomData };
        Ok(waiting.poll().map_or_else(Entry::Wait, Entry::In))
    }
}
