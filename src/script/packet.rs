//! A script as one packet of extended-protocol messages, and the list of answers that the packet must get.
//!
//! Everything goes by the extended protocol without a Sync in between: an error anywhere skips the rest, so a script
//! is applied whole or not at all, and the server answers in one flush.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::check::Answer;
use super::entry::{Script, Statement};
use super::store::Stored;
use crate::wire::front;

/// Statements kept prepared on one applier; beyond it the oldest go.
pub const PREPARED_MAX: usize = 500;

/// Texts longer than this, in bytes, are not kept prepared: parsing them is the least of their cost, and
/// [`PREPARED_MAX`] of them would be without a bound.
pub const PREPARED_TEXT_MAX: usize = 16 * 1024;

/// Name of the prepared statement that an entry executes by SQL; the next such entry takes its place.
pub const EXECUTED_NAME: &str = "_pgls_executed";

/// Statements that an applier has prepared. Keyed by the whole text and the types: a hash would not be proof enough.
#[derive(Debug, Default)]
pub struct Prepared {
    names: HashMap<(Bytes, Arc<[u32]>), u32>,
    order: VecDeque<(Bytes, Arc<[u32]>)>,
    next: u32,
}

impl Prepared {
    /// Forgets all (after DISCARD, or when settings that a parse depends on have changed).
    /// The names are not used again, so what the server still holds does no harm.
    pub fn forget(&mut self) {
        self.names.clear();
        self.order.clear();
    }

    /// Name of the statement, and whether it must be parsed first; `evicted` is closed in the same packet.
    fn name(&mut self, sql: &Bytes, types: &Arc<[u32]>) -> (u32, bool, Option<u32>) {
        let key = (sql.clone(), types.clone());
        if let Some(&n) = self.names.get(&key) {
            return (n, false, None);
        }
        let evicted = if self.order.len() >= PREPARED_MAX {
            self.order.pop_front().and_then(|old| self.names.remove(&old))
        } else {
            None
        };
        self.next += 1;
        self.names.insert(key.clone(), self.next);
        self.order.push_back(key);
        (self.next, true, evicted)
    }

    /// A parse was not answered well: the statement is not there.
    pub fn remove(&mut self, name: u32) {
        self.names.retain(|_, n| *n != name);
        let names = &self.names;
        self.order.retain(|k| names.contains_key(k));
    }
}

/// What is larger than this, in bytes, is written in pieces of this size.
pub const PIECE: usize = 64 * 1024;

static ZEROS: [u8; PIECE] = [0; PIECE];

fn statement_name(number: u32) -> String {
    if number == 0 { String::new() } else { format!("s{number}") }
}

/// Which of a statement's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    /// The text of what it executes by SQL.
    Prepare,
    /// Its text.
    Text,
    /// Its Bind.
    Bind,
}

impl Stands {
    fn of(self, s: &Statement) -> Option<&Stored> {
        match self {
            Stands::Prepare => s.prepare.as_ref().map(|p| &p.sql),
            Stands::Text => Some(&s.sql),
            Stands::Bind => Some(&s.bind),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    /// Bytes of the proxy's own: headers, names, whole small messages.
    Own(Bytes),
    /// Bytes of the statement, in memory or in the spill file: `at` is what has been written of them, `after` how many
    /// bytes of the same message stand behind them.
    Kept { what: Stands, at: usize, after: usize },
}

/// A statement that is written in pieces: messages in order, some of their bytes still where the script keeps them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parts(VecDeque<Part>);

impl Parts {
    /// Everything has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn own(&mut self, bytes: BytesMut) {
        if !bytes.is_empty() {
            self.0.push_back(Part::Own(bytes.freeze()));
        }
    }

    fn parse(&mut self, name: &str, what: Stands, text: usize, types: &[u32]) {
        let after = 1 + 2 + 4 * types.len();
        let mut head = header(b'P', name.len() + 1 + text + after);
        head.put_slice(name.as_bytes());
        head.put_u8(0);
        self.own(head);
        self.0.push_back(Part::Kept { what, at: 0, after });
        let mut tail = BytesMut::with_capacity(after);
        tail.put_u8(0);
        tail.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX)); // from a message that had a 16-bit count
        types.iter().for_each(|t| tail.put_u32(*t));
        self.own(tail);
    }

    fn bind(&mut self, statement: &str, bind: usize) {
        let mut head = header(b'B', 1 + statement.len() + 1 + bind);
        head.put_u8(0);
        head.put_slice(statement.as_bytes());
        head.put_u8(0);
        self.own(head);
        self.0.push_back(Part::Kept { what: Stands::Bind, at: 0, after: 0 });
    }
}

fn header(tag: u8, body: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(tag);
    out.put_u32(u32::try_from(body + 4).unwrap_or(u32::MAX)); // no client's message was longer
    out
}

/// Writes packets for one applier.
pub struct PacketWriter<'a> {
    /// What the server knows already.
    pub prepared: &'a mut Prepared,
    /// Answers that will come, in order.
    pub answers: &'a mut VecDeque<Answer>,
    /// Bytes to send, in order. What is large is not copied.
    pub out: Vec<Bytes>,
    buffer: BytesMut,
}

impl<'a> PacketWriter<'a> {
    /// Begins a packet.
    pub fn new(prepared: &'a mut Prepared, answers: &'a mut VecDeque<Answer>) -> Self {
        PacketWriter { prepared, answers, out: Vec::new(), buffer: BytesMut::with_capacity(1024) }
    }

    /// A statement of the proxy's own (BEGIN, COMMIT, SET), kept prepared.
    pub fn own(&mut self, sql: &'static str) {
        let types: Arc<[u32]> = Arc::from([]);
        self.statement(&Bytes::from_static(sql.as_bytes()), &types, front::BIND_NOTHING, true, None);
    }

    /// A statement: text, parameter types, the Bind behind its names; `index` names its entry in a difference.
    pub fn statement(&mut self, sql: &Bytes, types: &Arc<[u32]>, bind: &[u8], keep: bool, index: Option<usize>) {
        let kept = if keep { self.keep(sql, types) } else { None };
        let (number, parse) = kept.unwrap_or((0, true));
        let name = statement_name(number);
        if parse {
            front::parse(&mut self.buffer, &name, sql, types);
            self.answers.push_back(Answer::Parsed { name: number, index });
        }
        front::bind_raw(&mut self.buffer, "", &name, bind);
        front::execute(&mut self.buffer, "", 0);
        self.answers.push_back(Answer::Bound { index });
        self.answers.push_back(Answer::Executed { index });
    }

    /// Number of a statement that is kept prepared, and whether it must be parsed first; one that is too many is closed.
    /// `None`: it is too long to be kept.
    fn keep(&mut self, sql: &Bytes, types: &Arc<[u32]>) -> Option<(u32, bool)> {
        if sql.len() > PREPARED_TEXT_MAX {
            return None;
        }
        let (number, parse, evicted) = self.prepared.name(sql, types);
        if let Some(old) = evicted {
            front::close(&mut self.buffer, b'S', &statement_name(old));
            self.answers.push_back(Answer::Closed);
        }
        Some((number, parse))
    }

    /// A statement that is not to be written at once: what it consists of, in order.
    pub fn large(&mut self, s: &Statement, index: usize) -> Parts {
        let mut parts = Parts::default();
        let some = Some(index);
        if let Some(p) = &s.prepare {
            front::close(&mut self.buffer, b'S', EXECUTED_NAME);
            self.answers.extend([Answer::Closed, Answer::Parsed { name: 0, index: some }]);
            parts.own(self.buffer.split());
            parts.parse(EXECUTED_NAME, Stands::Prepare, p.sql.len(), &p.types);
        }
        let kept = match &s.sql {
            Stored::Memory(sql) if s.keep => self.keep(sql, &s.types),
            _ => None,
        };
        let (number, parse) = kept.unwrap_or((0, true));
        let name = statement_name(number);
        parts.own(self.buffer.split());
        if parse {
            self.answers.push_back(Answer::Parsed { name: number, index: some });
            parts.parse(&name, Stands::Text, s.sql.len(), &s.types);
        }
        self.answers.extend([Answer::Bound { index: some }, Answer::Executed { index: some }]);
        parts.bind(&name, s.bind.len());
        let mut out = BytesMut::new();
        front::execute(&mut out, "", 0);
        parts.own(out);
        parts
    }

    /// The next part of [`Self::large`], or a piece of it. False: there is none.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn part(&mut self, parts: &mut Parts, s: &Statement, script: &Script) -> io::Result<bool> {
        let Some(part) = parts.0.front_mut() else { return Ok(false) };
        let bytes = match part {
            Part::Own(bytes) => std::mem::take(bytes),
            Part::Kept { what, at, .. } => {
                let stored = what.of(s);
                let bytes = stored.map_or(Ok(Bytes::new()), |stored| script.load_part(stored, *at, PIECE))?;
                *at += bytes.len();
                if stored.is_some_and(|stored| *at < stored.len()) {
                    self.raw(bytes);
                    return Ok(true);
                }
                bytes
            }
        };
        self.raw(bytes);
        let done = parts.0.pop_front();
        if matches!(done, Some(Part::Kept { after: 1.., .. })) {
            // The end of the same message: a statement is broken off in front of a message, or in front of kept bytes.
            if let Some(Part::Own(rest)) = parts.0.pop_front() {
                self.raw(rest);
            }
        }
        Ok(!parts.0.is_empty())
    }

    /// The rest of the message that stands cut off, as zeros: to a server that skips all messages up to Sync their
    /// contents mean nothing, but their lengths do.
    pub fn fill_up(&mut self, parts: &Parts, s: &Statement) {
        let Some(Part::Kept { what, at, after }) = parts.0.front() else { return };
        let mut missing = what.of(s).map_or(0, Stored::len) - at + after;
        while missing > 0 {
            let n = missing.min(ZEROS.len());
            self.raw(Bytes::from_static(&ZEROS[..n]));
            missing -= n;
        }
    }

    /// What the statement that follows executes by SQL.
    pub fn prepare(&mut self, sql: &Bytes, types: &Arc<[u32]>, index: usize) {
        front::close(&mut self.buffer, b'S', EXECUTED_NAME);
        front::parse(&mut self.buffer, EXECUTED_NAME, sql, types);
        self.answers.push_back(Answer::Closed);
        self.answers.push_back(Answer::Parsed { name: 0, index: Some(index) });
    }

    /// Bytes of messages, cut anywhere; they are not copied.
    pub fn raw(&mut self, bytes: Bytes) {
        self.flush_buffer();
        self.out.push(bytes);
    }

    /// The end of the data.
    pub fn copy_end(&mut self) {
        self.buffer.extend_from_slice(front::COPY_DONE);
    }

    /// The data ends here, and the COPY with it.
    pub fn copy_fail(&mut self) {
        self.buffer.extend_from_slice(front::COPY_FAIL);
    }

    /// Ends the packet so that the server answers.
    pub fn sync(&mut self) {
        self.buffer.extend_from_slice(front::SYNC);
        self.answers.push_back(Answer::Ready);
    }

    fn flush_buffer(&mut self) {
        if !self.buffer.is_empty() {
            self.out.push(self.buffer.split().freeze());
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.buffer.len() + self.out.iter().map(Bytes::len).sum::<usize>()
    }

    /// The bytes of the packet so far.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        self.flush_buffer();
        self.out
    }
}
