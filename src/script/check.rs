//! A replica's answers, held against main's.

use std::collections::VecDeque;

use super::entry::{Entry, Expect};
use super::{Digest, RowHasher};
use crate::wire::TxStatus;
use crate::wire::error::ErrorFields;

/// One answer that a packet must get. `index` names the script's entry; `None` is a statement of the proxy's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// CloseComplete.
    Closed,
    /// ParseComplete; `name` is the statement's number, 0 for the unnamed one.
    Parsed { name: u32, index: Option<usize> },
    /// BindComplete.
    Bound { index: Option<usize> },
    /// Rows, then CommandComplete (or EmptyQueryResponse).
    Executed { index: Option<usize> },
    /// ReadyForQuery.
    Ready,
}

/// How a replica differed from main.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// It refused what main had done.
    Error { index: Option<usize>, error: ErrorFields },
    /// Another command tag (another count).
    Tag { index: usize, main: String, replica: String },
    /// The same count, other rows in RETURNING.
    Rows { index: usize },
}

impl Difference {
    /// The entry at which it showed; `None`: at a statement of the proxy's own.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        match self {
            Difference::Error { index, .. } => *index,
            Difference::Tag { index, .. } | Difference::Rows { index } => Some(*index),
        }
    }

    /// Proves nothing about the rows: serialization failure, deadlock, lock not available, cancelled; or the server's
    /// cached plan no longer fits (0A000 after DDL), which a fresh parse mends.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Difference::Error { error, .. } => {
                matches!(error.sqlstate.as_str(), "40001" | "40P01" | "55P03" | "57014") || self.is_stale_plan()
            }
            _ => false,
        }
    }

    /// "cached plan must not change result type" (`RevalidateCachedQuery` in plancache.c), or a parameter of a type that
    /// was dropped and made anew since the statement was prepared.
    #[must_use]
    pub fn is_stale_plan(&self) -> bool {
        matches!(self, Difference::Error { error, .. }
            if (error.sqlstate == "0A000" && error.message.starts_with("cached plan"))
                || (error.sqlstate == "XX000" && error.message.starts_with("cache lookup failed for type")))
    }

    /// The replica lacks something that says nothing about the rows: disk, memory, connections (class 53), or the
    /// server's own trouble (58, XX001, XX002). Such a node is out, whoever is in the majority. XX000 is not among
    /// them: it is what functions say by `elog`, and "cache lookup failed for type", where nodes differ in an OID.
    #[must_use]
    pub fn is_node_trouble(&self) -> bool {
        let trouble = |s: &str| s.starts_with("53") || s.starts_with("58") || matches!(s, "XX001" | "XX002");
        matches!(self, Difference::Error { error, .. } if trouble(&error.sqlstate))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::Error { error, .. } => write!(f, "error {}: {}", error.sqlstate, error.message),
            Difference::Tag { main, replica, .. } => write!(f, "\"{replica}\" where main answered \"{main}\""),
            Difference::Rows { .. } => f.write_str("other rows in RETURNING"),
        }
    }
}

/// What one message means for the packet as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More will come.
    More,
    /// ReadyForQuery: the packet is answered.
    Done(TxStatus),
    /// Not the protocol: the applier is of no use any more.
    Violation,
}

/// Follows the answers to one packet.
#[derive(Debug, Default)]
pub struct Checker {
    /// Answers still to come.
    pub answers: VecDeque<Answer>,
    rows: RowHasher,
    difference: Option<Difference>,
    /// Number of a statement whose Parse failed or was skipped.
    unparsed: Vec<u32>,
}

impl Checker {
    /// The first difference seen in this packet; begins anew.
    pub fn take_difference(&mut self) -> Option<Difference> {
        self.difference.take()
    }

    /// A difference has been seen in this packet.
    #[must_use]
    pub fn has_difference(&self) -> bool {
        self.difference.is_some()
    }

    /// Statements whose Parse did not happen; begins anew.
    pub fn take_unparsed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.unparsed)
    }

    /// A message (or part of a row) of the replica. `first` and `last` as in [`crate::wire::frame::Piece`].
    pub fn message(&mut self, script: &[Entry], tag: u8, bytes: &[u8], last: bool) -> Progress {
        if matches!(tag, b'S' | b'A' | b'N') {
            return Progress::More;
        }
        let Some(&head) = self.answers.front() else { return Progress::Violation };
        match (head, tag) {
            (Answer::Ready, b'Z') => {
                self.answers.pop_front();
                match bytes.get(5).and_then(|&b| TxStatus::from_byte(b)) {
                    Some(status) => Progress::Done(status),
                    None => Progress::Violation,
                }
            }
            (_, b'E') => self.error(head, &bytes[5..]),
            (Answer::Closed, b'3') | (Answer::Parsed { .. }, b'1') | (Answer::Bound { .. }, b'2') => self.next(),
            (Answer::Executed { .. }, b'D') => {
                self.rows.part(bytes, last);
                Progress::More
            }
            // COPY in either direction; what COPY TO STDOUT shows is main's own affair.
            (Answer::Executed { .. }, b'G' | b'H' | b'd' | b'c') => Progress::More,
            (Answer::Executed { index }, b'C' | b'I') => {
                let rows = self.rows.take();
                self.compare(script, index, crate::wire::back::tag(&bytes[5..]), rows);
                self.next()
            }
            _ => Progress::Violation,
        }
    }

    fn next(&mut self) -> Progress {
        self.answers.pop_front();
        Progress::More
    }

    fn error(&mut self, head: Answer, body: &[u8]) -> Progress {
        let index = match head {
            Answer::Parsed { index, .. } | Answer::Bound { index } | Answer::Executed { index } => index,
            Answer::Closed | Answer::Ready => None,
        };
        self.rows.take();
        if self.difference.is_none() {
            self.difference = Some(Difference::Error { index, error: ErrorFields::parse(body) });
        }
        while let Some(&a) = self.answers.front() {
            if a == Answer::Ready {
                break;
            }
            if let Answer::Parsed { name, .. } = a {
                self.unparsed.push(name);
            }
            self.answers.pop_front();
        }
        Progress::More
    }

    fn compare(&mut self, script: &[Entry], index: Option<usize>, tag: &str, rows: Digest) {
        let Some(index) = index else { return };
        let (main, main_rows) = match script.get(index).map(|e| &e.statement().expect) {
            Some(Expect::Same { tag, rows }) => (tag, Some(rows)),
            Some(Expect::Tag(tag)) => (tag, None),
            Some(Expect::Success) | None => return,
        };
        if self.difference.is_some() {
            return;
        }
        if tag.as_bytes() != &main[..] {
            let main = String::from_utf8_lossy(main).into_owned();
            self.difference = Some(Difference::Tag { index, main, replica: tag.to_owned() });
        } else if main_rows.is_some_and(|main| *main != rows) {
            self.difference = Some(Difference::Rows { index });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::entry::{Room, tests::make_spill};
    use crate::script::feed::Feed;
    use crate::script::packet::{PacketWriter, Prepared};
    use crate::script::{Script, Statement};
    use crate::wire::{PgError, back};
    use bytes::Bytes;
    use std::sync::Arc;

    fn script() -> Script {
        let mut s = Script::default();
        let expect = Expect::Same { tag: Box::from(&b"UPDATE 1"[..]), rows: Digest::default() };
        let sql = Bytes::from_static(b"update t set a = 1").into();
        let bind = Bytes::from_static(&[0; 6]).into();
        let entry = Statement { sql, types: Arc::from([]), bind, prepare: None, keep: true, expect };
        s.add(Entry::Statement(entry), &mut Room { limit: 10_000, spill: &mut make_spill }).unwrap();
        s
    }

    fn sent(prepared: &mut Prepared, checker: &mut Checker, script: &Script) {
        let mut w = PacketWriter::new(prepared, &mut checker.answers);
        w.own("BEGIN");
        assert!(Feed::default().next(script, &mut w).unwrap());
        w.sync();
        assert!(!w.finish().is_empty());
    }

    fn feed(checker: &mut Checker, script: &Script, messages: &[&[u8]]) -> Progress {
        let mut p = Progress::More;
        for m in messages {
            p = checker.message(script.entries(), m[0], m, true);
        }
        p
    }

    #[test]
    fn another_count_is_a_difference_and_the_second_time_nothing_is_parsed() {
        let (script, mut prepared, mut c) = (script(), Prepared::default(), Checker::default());
        sent(&mut prepared, &mut c, &script);
        let (begin, one, zero) =
            (back::command_complete("BEGIN"), back::command_complete("UPDATE 1"), back::command_complete("UPDATE 0"));
        let parsed: &[&[u8]] = &[b"1\0\0\0\x04", b"2\0\0\0\x04", &begin, b"1\0\0\0\x04", b"2\0\0\0\x04", &one];
        feed(&mut c, &script, parsed);
        assert_eq!(feed(&mut c, &script, &[b"Z\0\0\0\x05T"]), Progress::Done(TxStatus::InBlock));
        assert_eq!(c.take_difference(), None);
        sent(&mut prepared, &mut c, &script);
        feed(&mut c, &script, &[b"2\0\0\0\x04", &begin, b"2\0\0\0\x04", &zero, b"Z\0\0\0\x05T"]);
        assert!(matches!(c.take_difference(), Some(Difference::Tag { index: 0, .. })));
    }

    #[test]
    fn an_error_skips_to_ready_and_names_the_entry() {
        let (script, mut prepared, mut c) = (script(), Prepared::default(), Checker::default());
        sent(&mut prepared, &mut c, &script);
        let begin = back::command_complete("BEGIN");
        let error = PgError::error("40P01", "deadlock detected").encode();
        feed(&mut c, &script, &[b"1\0\0\0\x04", b"2\0\0\0\x04", &begin, &error]);
        assert_eq!(feed(&mut c, &script, &[b"Z\0\0\0\x05E"]), Progress::Done(TxStatus::Failed));
        let d = c.take_difference().unwrap();
        assert!(d.is_transient() && d.index() == Some(0));
        assert_eq!(c.take_unparsed(), [2]);
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_a_violation() {
        let (script, mut c) = (script(), Checker::default());
        assert_eq!(feed(&mut c, &script, &[b"C\0\0\0\x0dUPDATE 1\0"]), Progress::Violation);
    }
}
