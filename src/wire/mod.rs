//! PostgreSQL's frontend/backend protocol 3.0 as bytes: framing, builders, error fields.
//!
//! Knows nobody: no session, no socket, no SQL. Sources: the "Frontend/Backend Protocol" chapter of PostgreSQL's
//! documentation (message formats, error and notice fields) and `src/include/libpq/pqcomm.h`.
//!
//! Framing on the relay path looks at headers only: a DataRow is forwarded from the buffer it came in with, and one
//! that is larger than a buffer passes through in parts.

pub mod back;
pub mod error;
pub mod fault;
pub mod frame;
pub mod front;

pub use error::{PgError, Severity};

/// Protocol versions as they stand in a start-up packet: major in the upper half, minor in the lower.
pub mod version {
    /// 3.0, spoken since PostgreSQL 7.4.
    pub const V3_0: u32 = 3 << 16;
    /// CancelRequest's code.
    pub const CANCEL: u32 = (1234 << 16) | 5678;
    /// SSLRequest's code.
    pub const SSL: u32 = (1234 << 16) | 5679;
    /// GSSENCRequest's code.
    pub const GSSENC: u32 = (1234 << 16) | 5680;
}

/// OIDs from here on are not PostgreSQL's own (FirstNormalObjectId in access/transam.h): each node gives out its own.
pub const FIRST_OWN_OID: u32 = 16_384;

/// A start-up packet may not be longer than this (`MAX_STARTUP_PACKET_LENGTH` in pqcomm.h).
pub const STARTUP_PACKET_MAX: usize = 10_000;

/// State of a backend's transaction as its ReadyForQuery tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxStatus {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    InBlock,
    /// `E`: in a transaction block that has failed.
    Failed,
}

impl TxStatus {
    /// From the byte of ReadyForQuery.
    #[must_use]
    pub fn from_byte(b: u8) -> Option<TxStatus> {
        match b {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::InBlock),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        }
    }

    /// The byte of ReadyForQuery.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            TxStatus::Idle => b'I',
            TxStatus::InBlock => b'T',
            TxStatus::Failed => b'E',
        }
    }
}

/// Reads a NUL-terminated string at the front of `body`; returns it and the rest.
#[must_use]
pub fn split_cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = memchr::memchr(0, body)?;
    Some((&body[..nul], &body[nul + 1..]))
}

/// Reads a big-endian 32-bit integer at the front of `body`.
#[must_use]
pub fn read_u32(body: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(body.get(..4)?.try_into().ok()?))
}

/// Reads a big-endian 16-bit integer at the front of `body`.
#[must_use]
pub fn read_u16(body: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(body.get(..2)?.try_into().ok()?))
}

/// A string as an SQL literal, whatever standard_conforming_strings says.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
