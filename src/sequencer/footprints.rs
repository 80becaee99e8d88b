//! Which rows the commits under way write: a read on a replica that names one row need not mind the others.
//!
//! A table of counters, each for the rows whose hash falls on it, and one for commits that cannot say which rows they
//! write. Each is a small window word: how often it was marked, above how many marks there are now. A commit marks those of
//! its rows when its window has opened, before COMMIT is sent anywhere, and takes the marks back when the window closes.
//! Bounded: the table has its size for good, and a [`Footprint`] of more than [`ROWS_MAX`] rows is one of all rows.
//!
//! A *keyed read* is a seqlock's reader of two of the words: its row's and that of all rows. The epoch must be the same,
//! too: the node was in force.
//!
//! **Why the answer is one that main could have given.** Say that neither word has changed between the two looks and no
//! mark was there. Then no commit that writes the row was between main and the last node at any time in between: of those
//! commits, all that main had at the first look every node had, and none came to main up to the second. So at every moment
//! between the looks the row, or its absence, was the same on all nodes, whatever the replica's snapshot lacked of other
//! rows; and the read depends on nothing else. It counts as main's own read at any of these moments, which for main's
//! order of commits needs nothing: it is later than all that its client, or anybody that had told its client, has seen
//! before the first look, and what anybody does after the answer is later than it.
//!
//! Two rows on one counter make a read run again that need not; never the other way round. To be taken in, a read would
//! have to last exactly a multiple of 2^48 marks of its counter.
//!
//! **Memory order** as of the window word ([`super::window`]): marking and the second look each have a sequentially
//! consistent fence, between the words and the message that goes out, or between the one that has come and the words.

use super::atomics::{AtomicU64, Ordering, SLOTS, fence};

/// Rows that a commit is marked by. More would cost the commit more than they spare reads.
pub const ROWS_MAX: usize = 32;

const MARKED: u64 = 1 << 16;
const OPEN: u64 = MARKED - 1;

/// Hash of a row: its database, table and primary key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowHash(pub u64);

/// The rows that a transaction writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Footprint {
    rows: Vec<RowHash>,
    all: bool,
}

impl Footprint {
    /// One that cannot say which rows.
    #[must_use]
    pub fn all() -> Footprint {
        Footprint { rows: Vec::new(), all: true }
    }

    /// It writes this row, too; `None`: nobody can say which.
    pub fn add(&mut self, row: Option<RowHash>) {
        match row {
            _ if self.all => {}
            Some(row) if self.rows.contains(&row) => {}
            Some(row) if self.rows.len() < ROWS_MAX => self.rows.push(row),
            _ => *self = Footprint::all(),
        }
    }

    /// Nobody can say which rows.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.all
    }
}

/// What one look at the counters of a row has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowLook {
    pub(super) row: RowHash,
    pub(super) epoch: u64,
    mine: u64,
    all: u64,
}

impl RowLook {
    /// No commit that writes the row is under way.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        (self.mine | self.all) & OPEN == 0
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Footprints {
    all: AtomicU64,
    slots: Box<[AtomicU64]>,
}

impl Footprints {
    pub(super) fn new() -> Footprints {
        Footprints { all: AtomicU64::new(0), slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn slot(&self, row: RowHash) -> &AtomicU64 {
        // SLOTS is far below 2^32: each number of it is as likely as the next.
        &self.slots[(((row.0 >> 32) * SLOTS as u64) >> 32) as usize]
    }

    /// COMMIT is about to be sent to main.
    pub(super) fn mark(&self, footprint: &Footprint) {
        let up = |word: &AtomicU64| word.fetch_add(MARKED + 1, Ordering::AcqRel);
        footprint.rows.iter().for_each(|row| {
            up(self.slot(*row));
        });
        if footprint.all {
            up(&self.all);
        }
        fence(Ordering::SeqCst);
    }

    /// All nodes have it, or main has refused it.
    pub(super) fn unmark(&self, footprint: &Footprint) {
        let down = |word: &AtomicU64| {
            let before = word.fetch_sub(1, Ordering::AcqRel);
            debug_assert!(before & OPEN != 0, "taken back once for each time that it was marked");
        };
        footprint.rows.iter().for_each(|row| down(self.slot(*row)));
        if footprint.all {
            down(&self.all);
        }
    }

    pub(super) fn look(&self, row: RowHash, epoch: u64) -> RowLook {
        RowLook { row, epoch, mine: self.slot(row).load(Ordering::Acquire), all: self.all.load(Ordering::Acquire) }
    }
}
