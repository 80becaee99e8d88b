//! The gate: two classes, each concurrent with itself, excluding the other. Nobody blocks in it: who asks gets in at
//! once or gets a place, and looks again when its shard is rung.
//!
//! One word holds everything:
//!
//! ```text
//! bits 48..64        32..48   16..32              0..16
//! generation         active   waiting snapshots   waiting commits
//! ```
//!
//! The generation counts phases; its parity says whose phase it is (even: snapshots, odd: commits).
//!
//! | what happens | when | what becomes of the word |
//! |---|---|---|
//! | X arrives | nobody is in | X takes the gate; the generation gets X's parity |
//! | | X's phase, and nobody waits | active + 1 |
//! | | else | waiting X + 1; its place is the next generation of X's parity |
//! | the last one leaves | the other class waits | generation + 1, all that wait of it are active |
//! | | only its own class waits | generation + 2, all that wait are active |
//! | one gives its place up | not admitted | waiting - 1, and nothing else |
//! | | admitted | it leaves like anybody else |
//!
//! **Whose place is which generation.** The generation moves only when nobody is in. So it reaches the place of
//! everybody who waits (the phase before it at most lies in between), and cannot move beyond it before that one has
//! left, even if it has not looked yet. "Admitted" is therefore plain equality, however long a shard does not look, and
//! the generation's width does not matter.
//!
//! **Why no arrival joins once somebody waits.** At thousands of commits per second there is always one in the gate:
//! were arrivals to join, the phase would never end and a snapshot would wait for ever. So the present phase only
//! shrinks from the moment on at which somebody waits, and whoever waits is admitted after at most the present phase
//! and one phase of the other class. Somebody of the phase's own class waits without the other class only after the
//! latter's places were all given up. It is then not let in at once, since the generation would move while people are
//! in, and a place that has been admitted and not looked at could not be told from one that has not; and for the same
//! reason as above later arrivals do not join past it. It waits no longer than it would have had to.
//!
//! **Doorbells.** Each class has a word with a bit for each shard that has places that wait. Parking sets the bit and
//! then looks at the gate; a hand-over changes the gate and then takes all bits of that class. Both touch the bits by
//! read-modify-write, so one comes first: if parking does, the hand-over finds the bit and the shard is rung; if the
//! hand-over does, parking reads what it wrote, and its look at the gate sees the hand-over. A hand-over that is late
//! with taking the bits may take one that was set for a later one: that shard is rung, and parks again.
//!
//! **Memory order.** Every change of the gate is a compare-exchange with acquire and release, so all changes form one
//! chain: whoever is in sees everything that was done in earlier phases, by all that left.

use crossbeam::utils::CachePadded;

use super::atomics::{AtomicU64, Ordering};
use crate::sim::planted::{Planted, is};

/// Who wants to enter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Takes a snapshot on a replica.
    Snapshot,
    /// Has a commit window open.
    Commit,
}

impl Class {
    fn other(self) -> Class {
        match self {
            Class::Snapshot => Class::Commit,
            Class::Commit => Class::Snapshot,
        }
    }
}

/// As many are in the gate, or wait at it, as it can count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many transactions are at the gate")]
pub struct GateFull;

/// Who is at the gate, in one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occupancy {
    /// Whose phase it is, or was last if nobody is in.
    pub phase: Class,
    /// How many are in, those included that wait and have not looked since they were admitted.
    pub inside: u16,
    /// Snapshots that wait.
    pub snapshots: u16,
    /// Commits that wait.
    pub commits: u16,
}

/// Most of a class that are in, or wait.
const MOST: u64 = u16::MAX as u64;
const ACTIVE: u32 = 32;
const GENERATION: u32 = 48;

/// A value of the gate word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn generation(self) -> u16 {
        (self.0 >> GENERATION) as u16
    }

    fn active(self) -> u64 {
        self.0 >> ACTIVE & MOST
    }

    fn waiting(self, class: Class) -> u64 {
        self.0 >> shift(class) & MOST
    }

    fn phase(self) -> Class {
        if self.generation() % 2 == 0 { Class::Snapshot } else { Class::Commit }
    }

    /// The generation wraps; nothing is above it.
    fn after(self, generations: u64) -> Word {
        Word(self.0.wrapping_add(generations << GENERATION))
    }

    /// The word, and the arrival's place in it, once one of this class has arrived.
    fn arrive(self, class: Class) -> Result<(Word, Place), GateFull> {
        let own = self.phase() == class;
        let in_at = |word: Word| (word, Place { class, generation: word.generation() });
        if self.active() == 0 {
            let word = if own { self } else { self.after(1) };
            return Ok(in_at(Word(word.0 + (1 << ACTIVE))));
        }
        let waits = self.waiting(Class::Snapshot) + self.waiting(Class::Commit) > 0;
        if own && (!waits || is(Planted::ArrivalsJoin)) {
            return if self.active() < MOST { Ok(in_at(Word(self.0 + (1 << ACTIVE)))) } else { Err(GateFull) };
        }
        if self.waiting(class) == MOST {
            return Err(GateFull);
        }
        let generation = self.generation().wrapping_add(if own { 2 } else { 1 });
        Ok((Word(self.0 + (1 << shift(class))), Place { class, generation }))
    }

    /// The word once this place is left or given up, and the class to which the gate is handed by that.
    fn leave(self, place: Place) -> (Word, Option<Class>) {
        if self.generation() != place.generation {
            debug_assert!(self.waiting(place.class) > 0, "a place is counted until it is left");
            return (Word(self.0 - (1 << shift(place.class))), None);
        }
        debug_assert!(self.active() > 0 && self.phase() == place.class, "a place is counted until it is left");
        let word = Word(self.0 - (1 << ACTIVE));
        let (own, other) = (place.class, place.class.other());
        let (next, generations) = match (word.active(), word.waiting(other), word.waiting(own)) {
            (0, 1.., _) => (other, 1),
            (0, 0, 1..) => (own, 2),
            _ => return (word, None),
        };
        let admitted = word.waiting(next);
        (Word(word.0 - (admitted << shift(next)) + (admitted << ACTIVE)).after(generations), Some(next))
    }
}

fn shift(class: Class) -> u32 {
    match class {
        Class::Snapshot => 16,
        Class::Commit => 0,
    }
}

/// Somebody in the gate or waiting at it. Whoever has one must leave it, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    class: Class,
    generation: u16,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gate {
    word: CachePadded<AtomicU64>,
    parked: CachePadded<[AtomicU64; 2]>,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate {
            word: CachePadded::new(AtomicU64::new(0)),
            parked: CachePadded::new([AtomicU64::new(0), AtomicU64::new(0)]),
        }
    }

    /// One of this class arrives. [`Self::is_in`] says whether its place is inside already.
    ///
    /// # Errors
    /// [`GateFull`]: it has no place.
    pub(super) fn arrive(&self, class: Class) -> Result<Place, GateFull> {
        let mut now = Word(self.word.load(Ordering::Acquire));
        loop {
            let (next, place) = now.arrive(class)?;
            match self.change(now, next) {
                Ok(()) => return Ok(place),
                Err(seen) => now = seen,
            }
        }
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let word = Word(self.word.load(Ordering::Acquire));
        let [inside, snapshots, commits] =
            [word.active(), word.waiting(Class::Snapshot), word.waiting(Class::Commit)].map(|n| n as u16);
        Occupancy { phase: word.phase(), inside, snapshots, commits }
    }

    /// The place is inside.
    pub(super) fn is_in(&self, place: Place) -> bool {
        Word(self.word.load(Ordering::Acquire)).generation() == place.generation
    }

    /// Has the shard rung when the place may be inside. True: it is already.
    pub(super) fn park(&self, place: Place, shard: u32) -> bool {
        let (bits, bit) = (&self.parked[place.class as usize], 1 << shard);
        if self.is_in(place) {
            return true;
        }
        // A bit that is seen here and has been taken nevertheless was taken by a hand-over whose ring has not reached
        // this shard yet: after the ring it looks again.
        if bits.load(Ordering::Relaxed) & bit != 0 {
            return false;
        }
        bits.fetch_or(bit, Ordering::AcqRel);
        self.is_in(place)
    }

    /// Leaves the gate, or gives the place up if it is not inside. Returns the shards that must be rung.
    #[must_use]
    pub(super) fn leave(&self, place: Place) -> u64 {
        let mut now = Word(self.word.load(Ordering::Acquire));
        loop {
            let (next, handed) = now.leave(place);
            match self.change(now, next) {
                Ok(()) => return handed.map_or(0, |class| self.parked[class as usize].swap(0, Ordering::AcqRel)),
                Err(seen) => now = seen,
            }
        }
    }

    fn change(&self, from: Word, to: Word) -> Result<(), Word> {
        self.word.compare_exchange_weak(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(Word)
    }
}
