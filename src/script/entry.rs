//! Entries of a script, and the script itself: savepoints, bounds, the spill file.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Digest;
use super::store::{Spill, Stored};

/// COPY data is kept in pieces of about this many bytes: large enough that their number does not matter, small enough
/// to be read back from a spill file one at a time.
const COPY_CHUNK: usize = 64 * 1024;

/// What main answered, and so what a replica must answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Only success: main's rows are its own affair (SET, a SELECT of a function that writes).
    Success,
    /// The same command tag, count included. Of the rows nothing is known: they hold what is each node's own (OIDs).
    Tag(Box<[u8]>),
    /// The same command tag, count included, and the same rows if it returned any.
    Same { tag: Box<[u8]>, rows: Digest },
}

/// A statement, as a replica gets it.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text, in the client's encoding.
    pub sql: Stored,
    /// Parameter types by OID, as the client's Parse had them.
    pub types: Arc<[u32]>,
    /// The client's Bind behind its names: formats, values, result formats.
    pub bind: Stored,
    /// What the text executes by SQL under the name [`super::EXECUTED_NAME`].
    pub prepare: Option<Box<Prepare>>,
    /// Worth keeping prepared: the text comes again with other values (and is shared, not this script's own).
    pub keep: bool,
    /// What main answered.
    pub expect: Expect,
}

impl Statement {
    /// Bytes that a replica is sent of it, about.
    #[must_use]
    pub fn length(&self) -> usize {
        self.sql.len() + self.bind.len() + self.prepare.as_ref().map_or(0, |p| p.sql.len())
    }
}

/// A prepared statement of the client's that an entry executes by SQL: replicas have none of that name.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// The statement, in the client's encoding.
    pub sql: Stored,
    /// Parameter types by OID; 0: left to the server.
    pub types: Arc<[u32]>,
}

/// The data of a COPY FROM STDIN: the client's CopyData messages, headers included, cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct CopyData {
    chunks: Vec<Stored>,
    tail: BytesMut,
    complete: bool,
}

impl CopyData {
    /// Chunk by number; `None`: not there yet, or none.
    #[must_use]
    pub fn chunk(&self, number: usize) -> Option<&Stored> {
        self.chunks.get(number)
    }

    /// No chunk will be added.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// One thing that a transaction did.
///
/// A statement is the client's own (time functions as literals), or one that a row which main has told of was made into
/// ([`crate::session::rows`]); [`super::feed`] and [`super::check`] are the only places that tell variants apart.
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

    fn statement_mut(&mut self) -> &mut Statement {
        match self {
            Entry::Statement(s) | Entry::Setting(s) | Entry::Copy { statement: s, .. } => s,
        }
    }

    /// Bytes that the entry keeps in memory, about.
    fn size(&self) -> usize {
        let s = self.statement();
        let data = match self {
            Entry::Copy { data, .. } => {
                data.chunks.iter().map(|c| size_of::<Stored>() + c.resident()).sum::<usize>() + data.tail.len()
            }
            _ => 0,
        };
        let text = if s.keep { 0 } else { s.sql.resident() };
        let prepare = s.prepare.as_ref().map_or(0, |p| size_of::<Prepare>() + p.sql.resident());
        size_of::<Entry>() + text + prepare + s.bind.resident() + data
    }
}

/// What a transaction has done so far.
///
/// Invariants: every mark's length is at most `entries.len()`, and marks are in the order of their savepoints;
/// `resident` is the sum of the entries' sizes; what would exceed the limit of memory is in `spill`.
#[derive(Debug, Default)]
pub struct Script {
    entries: Vec<Entry>,
    marks: Vec<(String, usize)>,
    /// Bytes in memory, about.
    resident: usize,
    /// All bytes that replicas will be sent, about.
    written: u64,
    /// Entries from this number on were taken back at some time; see [`Self::taken_back_to`].
    taken_back_to: Option<usize>,
    spill: Option<Box<dyn Spill>>,
}

/// Where bytes beyond the limit go, and the limit.
pub struct Room<'a> {
    /// `script_limit`, bytes.
    pub limit: usize,
    /// Makes the script's spill file.
    pub spill: &'a mut dyn FnMut() -> io::Result<Box<dyn Spill>>,
}

impl Script {
    /// Adds what main has completed.
    ///
    /// # Errors
    /// The spill file cannot be written: the transaction cannot be replicated and must end.
    pub fn add(&mut self, mut entry: Entry, room: &mut Room<'_>) -> io::Result<()> {
        let keep = entry.statement().keep;
        let s = entry.statement_mut();
        self.written += (s.sql.resident() + s.bind.resident()) as u64;
        if !keep {
            self.store(&mut s.sql, room)?;
        }
        self.store(&mut s.bind, room)?;
        if let Some(p) = &mut s.prepare {
            self.written += p.sql.resident() as u64;
            self.store(&mut p.sql, room)?;
        }
        self.resident += entry.size();
        self.entries.push(entry);
        Ok(())
    }

    /// A COPY FROM STDIN has begun on main; its data follows.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn copy_begin(&mut self, statement: Statement, room: &mut Room<'_>) -> io::Result<()> {
        self.add(Entry::Copy { statement, data: CopyData::default() }, room)
    }

    /// A CopyData message, header included, of the COPY that has begun.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn copy_data(&mut self, message: &[u8], room: &mut Room<'_>) -> io::Result<()> {
        let Some(Entry::Copy { data, .. }) = self.entries.last_mut() else { return Ok(()) };
        data.tail.extend_from_slice(message);
        self.written += message.len() as u64;
        self.resident += message.len();
        if data.tail.len() < COPY_CHUNK { Ok(()) } else { self.copy_chunk(room) }
    }

    /// Main has completed the COPY.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn copy_end(&mut self, expect: Expect, room: &mut Room<'_>) -> io::Result<()> {
        self.copy_chunk(room)?;
        if let Some(Entry::Copy { statement, data }) = self.entries.last_mut() {
            statement.expect = expect;
            data.complete = true;
        }
        Ok(())
    }

    fn copy_chunk(&mut self, room: &mut Room<'_>) -> io::Result<()> {
        let Some(Entry::Copy { data, .. }) = self.entries.last_mut() else { return Ok(()) };
        if data.tail.is_empty() {
            return Ok(());
        }
        let mut chunk = Stored::Memory(data.tail.split().freeze());
        self.resident -= chunk.resident();
        self.store(&mut chunk, room)?;
        self.resident += size_of::<Stored>() + chunk.resident();
        if let Some(Entry::Copy { data, .. }) = self.entries.last_mut() {
            data.chunks.push(chunk);
        }
        Ok(())
    }

    /// Puts bytes into the spill file if they would exceed the limit.
    fn store(&mut self, stored: &mut Stored, room: &mut Room<'_>) -> io::Result<()> {
        let Stored::Memory(bytes) = &*stored else { return Ok(()) };
        if bytes.is_empty() || self.resident + bytes.len() <= room.limit {
            return Ok(());
        }
        let spill = match &mut self.spill {
            Some(s) => s,
            None => self.spill.insert((room.spill)()?),
        };
        *stored = Stored::Spilled { at: spill.append(bytes)?, length: bytes.len() };
        Ok(())
    }

    /// The bytes themselves.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn load(&self, stored: &Stored) -> io::Result<Bytes> {
        match (stored, &self.spill) {
            (Stored::Memory(b), _) => Ok(b.clone()),
            (Stored::Spilled { at, length }, Some(spill)) => spill.read(*at, *length),
            (Stored::Spilled { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// At most `limit` of the bytes, from `from` on.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn load_part(&self, stored: &Stored, from: usize, limit: usize) -> io::Result<Bytes> {
        let n = stored.len().saturating_sub(from).min(limit);
        match (stored, &self.spill) {
            (Stored::Memory(b), _) => Ok(b.slice(from..from + n)),
            (Stored::Spilled { at, .. }, Some(spill)) => spill.read(*at + from as u64, n),
            (Stored::Spilled { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        }
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
        self.resident -= self.entries[keep..].iter().map(Entry::size).sum::<usize>();
        self.entries.truncate(keep);
        if taken {
            self.taken_back_to = Some(self.taken_back_to.map_or(keep, |n| n.min(keep)));
        }
        taken
    }

    /// The lowest number of entries that ROLLBACK TO has left since [`Self::watch_taken_back`]: whoever was sent more
    /// holds what is no longer part of the script.
    #[must_use]
    pub fn taken_back_to(&self) -> Option<usize> {
        self.taken_back_to
    }

    /// From here on, [`Self::taken_back_to`] counts.
    pub fn watch_taken_back(&mut self) {
        self.taken_back_to = None;
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

    /// Bytes that were written to it so far, in memory or not, taken back or not.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Those of them that can be spilled: all but the entries' own size, and what is being gathered of a COPY.
    #[must_use]
    pub fn payload(&self) -> usize {
        let gathered = match self.entries.last() {
            Some(Entry::Copy { data, .. }) => data.tail.len(),
            _ => 0,
        };
        self.resident.saturating_sub(self.entries.len() * size_of::<Entry>() + gathered)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::store::MemorySpill;
    use super::*;

    pub fn entry(sql: &'static str) -> Entry {
        let sql = Bytes::from_static(sql.as_bytes()).into();
        let (types, bind) = (Arc::from([]), Bytes::from_static(&[0; 6]).into());
        Entry::Statement(Statement { sql, types, bind, prepare: None, keep: false, expect: Expect::Success })
    }

    pub fn make_spill() -> io::Result<Box<dyn Spill>> {
        Ok(Box::new(MemorySpill::default()))
    }

    fn texts(s: &Script) -> Vec<String> {
        let text = |e: &Entry| String::from_utf8(s.load(&e.statement().sql).unwrap().to_vec()).unwrap();
        s.entries().iter().map(text).collect()
    }

    #[test]
    fn rollback_to_takes_back_what_came_after_the_newest_savepoint_of_that_name() {
        let mut s = Script::default();
        let room = &mut Room { limit: 10_000, spill: &mut make_spill };
        s.add(entry("a"), room).unwrap();
        s.savepoint("x");
        s.add(entry("b"), room).unwrap();
        s.savepoint("x");
        s.add(entry("c"), room).unwrap();
        assert!(s.rollback_to("x"));
        assert_eq!(texts(&s), ["a", "b"]);
        assert!(!s.rollback_to("x"));
        s.release("x");
        assert!(s.rollback_to("x"));
        assert_eq!(texts(&s), ["a"]);
        assert_eq!(s.resident(), s.entries()[0].size());
    }

    #[test]
    fn what_exceeds_the_limit_is_spilled_and_reads_back_the_same() {
        let mut s = Script::default();
        let room = &mut Room { limit: 300_000, spill: &mut make_spill };
        s.add(entry("first"), room).unwrap();
        let Entry::Statement(copy) = entry("copy t from stdin") else { unreachable!() };
        s.copy_begin(copy, room).unwrap();
        let mut all = Vec::new();
        for i in 0..50_000u32 {
            let message = [b"d\0\0\0\x08".as_slice(), &i.to_be_bytes()].concat();
            s.copy_data(&message, room).unwrap();
            all.extend(message);
        }
        s.copy_end(Expect::Success, room).unwrap();
        s.add(entry("last"), room).unwrap();
        assert!(s.resident() < 310_000 && s.written() > 450_000, "{} {}", s.resident(), s.written());
        let Entry::Copy { data, .. } = &s.entries()[1] else { panic!("not a copy") };
        assert!(matches!(data.chunk(6), Some(Stored::Spilled { .. })) && data.is_complete());
        let read: Vec<u8> = (0..).map_while(|i| data.chunk(i)).flat_map(|c| s.load(c).unwrap().to_vec()).collect();
        assert!(read == all);
        assert_eq!(texts(&s), ["first", "copy t from stdin", "last"]);
    }

    #[test]
    fn a_spill_file_that_cannot_be_made_is_an_error_and_the_entry_is_not_added() {
        let mut s = Script::default();
        let room = &mut Room { limit: 1, spill: &mut || Err(io::ErrorKind::StorageFull.into()) };
        assert!(s.add(entry("a"), room).is_err());
        assert_eq!((s.entries().len(), s.resident()), (0, 0));
    }
}
