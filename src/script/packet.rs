//! A script as one packet of extended-protocol messages, and the list of answers that the packet must get.
//!
//! Everything goes by the extended protocol without a Sync in between: an error anywhere skips the rest, so a script
//! is applied whole or not at all, and the server answers in one flush.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::check::Answer;
use crate::wire::front;

/// Statements kept prepared on one applier; beyond it the oldest go.
pub const PREPARED_MAX: usize = 500;

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

/// Writes packets for one applier.
pub struct PacketWriter<'a> {
    /// What the server knows already.
    pub prepared: &'a mut Prepared,
    /// Answers that will come, in order.
    pub answers: &'a mut VecDeque<Answer>,
    /// Bytes to send, in order. COPY data is not copied.
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
        let mut name = String::new();
        if keep {
            let (number, parse, evicted) = self.prepared.name(sql, types);
            name = format!("s{number}");
            if let Some(old) = evicted {
                front::close(&mut self.buffer, b'S', &format!("s{old}"));
                self.answers.push_back(Answer::Closed);
            }
            if parse {
                front::parse(&mut self.buffer, &name, sql, types);
                self.answers.push_back(Answer::Parsed { name: number, index });
            }
        } else {
            front::parse(&mut self.buffer, "", sql, types);
            self.answers.push_back(Answer::Parsed { name: 0, index });
        }
        front::bind_raw(&mut self.buffer, "", &name, bind);
        front::execute(&mut self.buffer, "", 0);
        self.answers.push_back(Answer::Bound { index });
        self.answers.push_back(Answer::Executed { index });
    }

    /// What the statement that follows executes by SQL.
    pub fn prepare(&mut self, sql: &Bytes, types: &Arc<[u32]>, index: usize) {
        front::close(&mut self.buffer, b'S', EXECUTED_NAME);
        front::parse(&mut self.buffer, EXECUTED_NAME, sql, types);
        self.answers.push_back(Answer::Closed);
        self.answers.push_back(Answer::Parsed { name: 0, index: Some(index) });
    }

    /// Some of a COPY's data: whole CopyData messages, cut anywhere.
    pub fn copy_data(&mut self, bytes: Bytes) {
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
