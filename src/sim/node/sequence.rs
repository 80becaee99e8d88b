//! Sequences: outside of transactions, and logged 32 values ahead (SEQ_LOG_VALS in sequence.c), so that a crash may
//! skip values and never gives one out twice that a durable transaction has used.

use super::txn::Lsn;
use super::value::Res;
use crate::wire::PgError;

const LOGGED_AHEAD: i64 = 32;

/// A sequence's state.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub name: String,
    pub start: i64,
    pub increment: i64,
    pub last: i64,
    pub called: bool,
    /// Values that may be given out before the next log record.
    log_count: i64,
    /// Log records that are not known to be flushed: where, and the state that they restore. The first is the newest
    /// flushed one.
    records: Vec<(Lsn, i64, bool)>,
}

impl Sequence {
    /// As CREATE SEQUENCE makes it; `at` is its log record.
    pub fn new(name: String, start: i64, increment: i64, at: Lsn) -> Sequence {
        Sequence { name, start, increment, last: start, called: false, log_count: 0, records: vec![(at, start, false)] }
    }

    /// The next value would be logged.
    pub fn will_log(&self) -> bool {
        self.log_count < 1 || !self.called
    }

    /// nextval(). `log` writes a log record.
    pub fn next(&mut self, log: impl FnOnce() -> Lsn) -> Res<i64> {
        let value = if self.called { self.last.checked_add(self.increment) } else { Some(self.last) };
        let value = value.filter(|v| *v != i64::MAX || self.increment < 0).ok_or_else(|| {
            PgError::error("2200H", format!("nextval: reached maximum value of sequence \"{}\"", self.name))
        })?;
        if self.will_log() {
            let ahead = value.saturating_add(self.increment.saturating_mul(LOGGED_AHEAD));
            self.records.push((log(), ahead, true));
            self.log_count = LOGGED_AHEAD;
        } else {
            self.log_count -= 1;
        }
        self.last = value;
        self.called = true;
        Ok(value)
    }

    /// setval(), and TRUNCATE ... RESTART IDENTITY.
    pub fn set(&mut self, value: i64, called: bool, at: Lsn) {
        self.last = value;
        self.called = called;
        self.log_count = 0;
        self.records.push((at, value, called));
    }

    /// Back to the newest record that is on disk.
    pub fn crash(&mut self, flushed: Lsn) {
        let base = self.records[0];
        self.records.retain(|(at, _, _)| *at <= flushed);
        let (at, last, called) = self.records.last().copied().unwrap_or(base);
        self.records = vec![(at, last, called)];
        self.last = last;
        self.called = called;
        self.log_count = 0;
    }

    /// Records before the newest flushed one are not needed.
    pub fn flushed(&mut self, flushed: Lsn) {
        while self.records.len() > 1 && self.records[1].0 <= flushed {
            self.records.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_crash_a_sequence_skips_values_and_repeats_none_that_was_durable() {
        let mut s = Sequence::new("s".into(), 1, 1, 1);
        assert_eq!(s.next(|| 2).unwrap(), 1);
        assert_eq!(s.next(|| 3).unwrap(), 2);
        s.crash(2);
        assert_eq!(s.next(|| 4).unwrap(), 34);
        s.crash(3);
        assert_eq!(s.next(|| 5).unwrap(), 34, "the record of the second life was not on disk");
    }
}
