//! Entries of a script, and the script itself: savepoints, bounds.

use std::sync::Arc;

use bytes::Bytes;

use super::Digest;

/// What main answered, and so what a replica must answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Only success: main's rows are its own affair (SET, a SELECT of a function that writes).
    Success,
    /// The same command tag, count included, and the same rows if it returned any.
    Same { tag: Box<[u8]>, rows: Digest },
}

/// A statement, as a replica gets it.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text, in the client's encoding.
    pub sql: Bytes,
    /// Parameter types by OID, as the client's Parse had them.
    pub types: Arc<[u32]>,
    /// The client's Bind behind its names: formats, values, result formats.
    pub bind: Bytes,
    /// Worth keeping prepared: the text comes again with other values.
    pub keep: bool,
    /// What main answered.
    pub expect: Expect,
}

/// The data of a COPY FROM STDIN, as the client's CopyData messages came, headers included.
#[derive(Clone, Debug, Default)]
pub struct CopyData {
    /// Whole messages.
    pub messages: Vec<Bytes>,
}

/// One thing that a transaction did.
///
/// This forms are the statement as it was (time functions as literals) and COPY data; rows and images are
/// further variants of this enum, and [`super::packet`] and [`super::check`] are the only places that tell them apart.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Run the statement.
    Statement(Statement),
    /// Run a COPY FROM STDIN with this data.
    Copy { statement: Statement, data: CopyData },
    /// A SET of this transaction, in force for what follows.
    Setting(Statement),
}

impl Entry {
    /// The statement behind the entry.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        match self {
            Entry::Statement(s) | Entry::Setting(s) | Entry::Copy { statement: s, .. } => s,
        }
    }

    /// Bytes that the entry keeps, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let s = self.statement();
        let data = match self {
            Entry::Copy { data, .. } => data.messages.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        size_of::<Entry>() + s.sql.len() + s.bind.len() + data
    }
}

/// The script would exceed its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the transaction's writes exceed script_limit ({limit} bytes)")]
pub struct ScriptFull {
    /// `script_limit`, bytes.
    pub limit: usize,
}

/// What a transaction has done so far.
///
/// Invariants: every mark's length is at most `entries.len()`, and marks are in the order of their savepoints;
/// `bytes` is the sum of the entries' sizes.
#[derive(Clone, Debug, Default)]
pub struct Script {
    entries: Vec<Entry>,
    marks: Vec<(String, usize)>,
    bytes: usize,
    /// An entry that is no setting was added and may have been taken back; see [`Script::is_empty`].
    generation: u64,
}

impl Script {
    /// Adds what main has completed.
    ///
    /// # Errors
    /// [`ScriptFull`]: the entry is not added; the transaction cannot be replicated and must end.
    pub fn add(&mut self, entry: Entry, limit: usize) -> Result<(), ScriptFull> {
        let size = entry.size();
        if self.bytes + size > limit {
            return Err(ScriptFull { limit });
        }
        self.bytes += size;
        self.entries.push(entry);
        Ok(())
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self, name: &str) {
        self.marks.push((name.to_owned(), self.entries.len()));
    }

    /// ROLLBACK TO: takes back what came after the newest savepoint of that name; the savepoint itself stays.
    /// True if entries were taken back.
    pub fn rollback_to(&mut self, name: &str) -> bool {
        let Some(at) = self.marks.iter().rposition(|(n, _)| n == name) else { return false };
        self.marks.truncate(at + 1);
        let keep = self.marks[at].1;
        let taken = self.entries.len() > keep;
        if taken {
            self.bytes -= self.entries[keep..].iter().map(Entry::size).sum::<usize>();
            self.entries.truncate(keep);
            self.generation += 1;
        }
        taken
    }

    /// RELEASE: the newest savepoint of that name and those after it are folded into what surrounds them.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.marks.iter().rposition(|(n, _)| n == name) {
            self.marks.truncate(at);
        }
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Nothing that a replica would have to do: no entry but settings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|e| matches!(e, Entry::Setting(_)))
    }

    /// Bytes kept, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts how often entries were taken back: what has been streamed early is valid for one generation only.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sql: &'static str) -> Entry {
        let sql = Bytes::from_static(sql.as_bytes());
        Entry::Statement(Statement {
            sql,
            types: Arc::from([]),
            bind: Bytes::new(),
            keep: false,
            expect: Expect::Success,
        })
    }

    fn texts(s: &Script) -> Vec<&str> {
        s.entries().iter().map(|e| std::str::from_utf8(&e.statement().sql).unwrap()).collect()
    }

    #[test]
    fn rollback_to_takes_back_what_came_after_the_newest_savepoint_of_that_name() {
        let mut s = Script::default();
        s.add(entry("a"), 10_000).unwrap();
        s.savepoint("x");
        s.add(entry("b"), 10_000).unwrap();
        s.savepoint("x");
        s.add(entry("c"), 10_000).unwrap();
        assert!(s.rollback_to("x"));
        assert_eq!(texts(&s), ["a", "b"]);
        assert!(!s.rollback_to("x"));
        s.release("x");
        assert!(s.rollback_to("x"));
        assert_eq!(texts(&s), ["a"]);
        assert_eq!(s.bytes(), s.entries()[0].size());
    }

    #[test]
    fn a_script_over_its_bound_is_refused_and_stays_as_it_was() {
        let mut s = Script::default();
        s.add(entry("a"), 1000).unwrap();
        let before = s.bytes();
        assert!(s.add(entry("b"), before).is_err());
        assert_eq!((s.bytes(), s.entries().len()), (before, 1));
    }
}
