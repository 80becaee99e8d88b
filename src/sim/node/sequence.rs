//! Sequences: outside of transactions, and logged 32 values ahead (SEQ_LOG_VALS in sequence.c), so that a crash may
//! skip values and never gives one out twice that a durable transaction has used.

use super::txn::Lsn;

const LOGGED_AHEAD: i64 = 32;

/// A sequence that counts from 1.
#[derive(Clone, Debug)]
pub struct Sequence {
    last: i64,
    /// Values that may be given out before the next log record.
    log_count: i64,
    /// Log records that are not known to be flushed: where, and the last value that they restore. The first is the
    /// newest flushed one.
    records: Vec<(Lsn, i64)>,
}

impl Sequence {
    /// As CREATE SEQUENCE makes it; `at` is its log record.
    pub fn new(at: Lsn) -> Sequence {
        Sequence { last: 0, log_count: 0, records: vec![(at, 0)] }
    }

    /// The last value that was given out; 0: none was.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The next value would be logged.
    pub fn will_log(&self) -> bool {
        self.log_count < 1
    }

    /// nextval(). `log` writes a log record.
    pub fn next(&mut self, log: impl FnOnce() -> Lsn) -> i64 {
        self.last += 1;
        if self.will_log() {
            self.records.push((log(), self.last + LOGGED_AHEAD));
            self.log_count = LOGGED_AHEAD;
        } else {
            self.log_count -= 1;
        }
        self.last
    }

    /// Back to the newest record that is on disk.
    pub fn crash(&mut self, flushed: Lsn) {
        let newest = self.records.iter().rfind(|(at, _)| *at <= flushed).or(self.records.first()).copied();
        self.records = newest.into_iter().collect();
        self.last = newest.map_or(0, |(_, last)| last);
        self.log_count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_crash_a_sequence_skips_values_and_repeats_none_that_was_durable() {
        let mut s = Sequence::new(1);
        assert_eq!(s.next(|| 2), 1);
        assert_eq!(s.next(|| 3), 2);
        s.crash(2);
        assert_eq!(s.next(|| 4), 34);
        s.crash(3);
        assert_eq!(s.next(|| 5), 34, "the record of the second life was not on disk");
    }
}
