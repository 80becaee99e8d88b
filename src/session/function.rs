//! FunctionCall: calls of functions by OID, which clients use for large objects (libpq's `lo_` functions, JDBC's
//! LargeObject).
//!
//! Main is sent the message as it came. Of what it does replicas must hear: large objects are rows, and descriptors are
//! numbered per transaction in the order of their opening, so every call that moves one is an entry: the same
//! function by SQL, with the same values. The number of a new object is main's choice: there the entry names it.
//! Which OIDs PostgreSQL's own functions have never changes (pg_proc.dat).
//!
//! Any other function is refused: what it does to rows cannot be told from its number. `SELECT` does the same and can
//! be judged.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::io::Cx;
use super::note::Note;
use super::owed::{Asked, Whose};
use super::transaction::{Target, Tx};
use super::{Request, Session};
use crate::script::{Entry, Expect, RowHasher, Statement};
use crate::wire::frame::{Frame, HEADER};
use crate::wire::{PgError, read_u32};

const OID: u32 = 26;
const BYTEA: u32 = 17;
const INT4: u32 = 23;
const INT8: u32 = 20;

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Does {
    /// It moves a descriptor, or reads.
    Moves,
    /// It writes rows.
    Writes,
    /// It makes an object, whose number it returns; the entry is this statement with that number first and the
    /// arguments behind the first.
    Makes,
}

/// A function of large objects: its OID, what it does, the statement that does it on a replica, and the types of the
/// statement's parameters.
struct Known(u32, Does, &'static str, &'static [u32]);

/// What loread returned is of no interest on a replica, how far it went is.
const FUNCTIONS: [Known; 16] = [
    Known(952, Does::Moves, "SELECT pg_catalog.lo_open($1, $2)", &[OID, INT4]),
    Known(953, Does::Moves, "SELECT pg_catalog.lo_close($1)", &[INT4]),
    Known(954, Does::Moves, "SELECT pg_catalog.octet_length(pg_catalog.loread($1, $2))", &[INT4, INT4]),
    Known(955, Does::Writes, "SELECT pg_catalog.lowrite($1, $2)", &[INT4, BYTEA]),
    Known(956, Does::Moves, "SELECT pg_catalog.lo_lseek($1, $2, $3)", &[INT4, INT4, INT4]),
    Known(3170, Does::Moves, "SELECT pg_catalog.lo_lseek64($1, $2, $3)", &[INT4, INT8, INT4]),
    Known(958, Does::Moves, "SELECT pg_catalog.lo_tell($1)", &[INT4]),
    Known(3171, Does::Moves, "SELECT pg_catalog.lo_tell64($1)", &[INT4]),
    Known(957, Does::Makes, "SELECT pg_catalog.lo_create($1)", &[OID]),
    Known(715, Does::Makes, "SELECT pg_catalog.lo_create($1)", &[OID]),
    Known(3457, Does::Makes, "SELECT pg_catalog.lo_from_bytea($1, $2)", &[OID, BYTEA]),
    Known(964, Does::Writes, "SELECT pg_catalog.lo_unlink($1)", &[OID]),
    Known(1004, Does::Writes, "SELECT pg_catalog.lo_truncate($1, $2)", &[INT4, INT4]),
    Known(3172, Does::Writes, "SELECT pg_catalog.lo_truncate64($1, $2)", &[INT4, INT8]),
    Known(3460, Does::Writes, "SELECT pg_catalog.lo_put($1, $2, $3)", &[OID, INT8, BYTEA]),
    Known(3458, Does::Moves, "SELECT pg_catalog.octet_length(pg_catalog.lo_get($1))", &[OID]),
];

/// A call that main is working on.
#[derive(Debug)]
pub struct Call {
    makes: bool,
    /// The function's result must be the replica's too.
    same: bool,
    sql: &'static str,
    types: &'static [u32],
    /// The message's body behind the function's OID: formats, arguments, the result's format.
    body: Bytes,
    /// What main has returned.
    result: Option<Bytes>,
}

impl Call {
    /// The entry for replicas. `None`: main has returned nothing that could be one.
    fn entry(&self) -> Option<Statement> {
        let split = self.body.len().checked_sub(2)?;
        let (arguments, format) = (&self.body[..split], &self.body[split..]);
        let mut bind = BytesMut::with_capacity(self.body.len() + 16);
        if self.makes {
            self.with_result(arguments, format, &mut bind)?;
        } else {
            bind.put_slice(arguments);
        }
        bind.put_u16(1);
        bind.put_slice(format);
        let expect = match &self.result {
            Some(value) if self.same => {
                let mut hasher = RowHasher::default();
                hasher.part(&row_of(value)?, true);
                Expect::Same { tag: b"SELECT 1".as_slice().into(), rows: hasher.take() }
            }
            _ => Expect::Success,
        };
        let sql = Bytes::from_static(self.sql.as_bytes()).into();
        let (types, bind) = (Arc::from(self.types), bind.freeze().into());
        Some(Statement { sql, types, bind, prepare: None, keep: true, expect })
    }

    /// Parameters with main's result in place of the first argument.
    fn with_result(&self, arguments: &[u8], format: &[u8], bind: &mut BytesMut) -> Option<()> {
        let result = self.result.as_ref()?;
        let u16_at = |at: usize| Some(u16::from_be_bytes(arguments.get(at..at + 2)?.try_into().ok()?));
        let formats = usize::from(u16_at(0)?);
        let values = 2 + 2 * formats;
        let count = usize::from(u16_at(values)?);
        let format_of = |i: usize| match formats {
            0 => Some(0),
            1 => u16_at(2),
            _ => u16_at(2 + 2 * i),
        };
        bind.put_u16(u16::try_from(self.types.len()).ok()?);
        bind.put_slice(format);
        for i in 1..self.types.len() {
            bind.put_u16(format_of(i)?);
        }
        bind.put_u16(u16::try_from(self.types.len()).ok()?);
        bind.put_u32(u32::try_from(result.len()).ok()?);
        bind.put_slice(result);
        if self.types.len() > 1 && count == self.types.len() {
            let first = read_u32(arguments.get(values + 2..)?)?;
            let skip = if first == u32::MAX { 0 } else { first as usize };
            bind.put_slice(arguments.get(values + 6 + skip..)?);
        }
        Some(())
    }
}

/// A DataRow with this one value.
fn row_of(value: &[u8]) -> Option<BytesMut> {
    let mut row = BytesMut::with_capacity(value.len() + 11);
    row.put_u8(b'D');
    row.put_u32(u32::try_from(value.len() + 10).ok()?);
    row.put_u16(1);
    row.put_u32(u32::try_from(value.len()).ok()?);
    row.put_slice(value);
    Some(row)
}

impl Session {
    /// A FunctionCall. False: it must wait until all earlier replies are there.
    pub(super) fn function_call(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        // Only main can do it.
        if self.tx.target() == Some(Target::Reader) && self.may_leave() && self.barriers(cx) {
            self.leave_reader(cx);
        }
        let on_reader = self.tx.target() == Some(Target::Reader);
        if !(self.barrier(Target::Lane, cx) & self.barrier(Target::Reader, cx)) || !(on_reader || self.has_lane(cx)) {
            return false;
        }
        let body = frame.raw.slice(HEADER..);
        let Some(oid) = read_u32(&body) else { return self.malformed_request(frame, cx) };
        let known = FUNCTIONS.iter().find(|k| k.0 == oid);
        let Some(Known(_, does, sql, types)) = known.filter(|_| !on_reader) else {
            let e = PgError::error("0A000", format!("a FunctionCall of the function with OID {oid} is not replicated"))
                .hint("Call the function with SELECT.");
            self.out.push(e.encode());
            self.fail_transaction(cx);
            self.registry.batch_ends();
            self.batch.interrupt();
            self.ready(cx);
            return true;
        };
        self.began = Some(cx.io.now());
        self.enter_block(cx);
        self.registry.batch_ends();
        self.batch.interrupt();
        if *does != Does::Moves {
            self.ask_info(false, cx);
            self.tx.open_mut().into_iter().for_each(|o| o.large_objects = true);
        }
        let (makes, same) = (*does == Does::Makes, !matches!(oid, 954 | 3458));
        let body = Bytes::copy_from_slice(&body[4..]);
        let call = Call { makes, same, sql, types, body, result: None };
        self.request = Request::Function;
        self.forward(Target::Lane, frame.raw.clone(), Asked::Function, Whose::Client(Note::Call(Box::new(call))), cx);
        true
    }

    /// FunctionCallResponse.
    pub(super) fn function_result(&mut self, message: &[u8]) {
        let Some(Whose::Client(Note::Call(call))) =
            self.link(Target::Lane).and_then(|l| l.owed.head_mut()).map(|h| &mut h.whose)
        else {
            return;
        };
        let value = read_u32(message.get(5..).unwrap_or_default()).filter(|n| *n != u32::MAX);
        call.result = value.filter(|_| call.same).map(|_| Bytes::copy_from_slice(&message[9..]));
    }

    /// ReadyForQuery behind it.
    pub(super) fn function_done(&mut self, call: &Call, cx: &mut Cx<'_>) {
        let failed = self.tx.open().is_none_or(|o| o.failed);
        if let Some(statement) = call.entry().filter(|_| !failed) {
            let added = self.with_script(cx, |open, room| open.script.add(Entry::Statement(statement), room));
            self.script_written(added, cx);
        }
        if matches!(&self.tx, Tx::Open(o) if o.implicit) {
            self.request = Request::ImplicitEnd;
            return self.implicit_end(cx);
        }
        self.request = Request::None;
        self.ready(cx);
    }
}
