//! Messages that a client sends: what the proxy says to nodes, and how it reads clients.

use bytes::{BufMut, BytesMut};

use super::back::message;
use super::{read_u16, read_u32, split_cstr};

/// StartupMessage of protocol 3.0.
pub fn startup<'a>(out: &mut BytesMut, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let at = out.len();
    out.put_u32(0);
    out.put_u32(super::version::V3_0);
    for (name, value) in parameters {
        cstr(out, name);
        cstr(out, value);
    }
    out.put_u8(0);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX); // parameters came from a packet of 10,000 bytes
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// CancelRequest.
pub fn cancel(out: &mut BytesMut, pid: u32, secret: &[u8]) {
    out.put_u32(u32::try_from(12 + secret.len()).unwrap_or(u32::MAX)); // a secret has at most 256 bytes
    out.put_u32(super::version::CANCEL);
    out.put_u32(pid);
    out.put_slice(secret);
}

fn cstr(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|&c| c != 0));
    out.put_u8(0);
}

/// Query.
pub fn query(out: &mut BytesMut, sql: &[u8]) {
    message(out, b'Q', |b| {
        b.put_slice(sql);
        b.put_u8(0);
    });
}

/// Parse, with parameter types by OID (0: the server decides).
pub fn parse(out: &mut BytesMut, name: &str, sql: &[u8], types: &[u32]) {
    message(out, b'P', |b| {
        cstr(b, name);
        b.put_slice(sql);
        b.put_u8(0);
        b.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX)); // from a message that had a 16-bit count
        for &t in types {
            b.put_u32(t);
        }
    });
}

/// Bind with the part behind the names (formats, values, result formats) as it is.
pub fn bind_raw(out: &mut BytesMut, portal: &str, statement: &str, rest: &[u8]) {
    message(out, b'B', |b| {
        cstr(b, portal);
        cstr(b, statement);
        b.put_slice(rest);
    });
}

/// The part of a Bind behind its names for a statement without parameters, results as text.
pub const BIND_NOTHING: &[u8] = &[0, 0, 0, 0, 0, 0];
/// The same with all results in binary.
pub const BIND_NOTHING_BINARY: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 1];

/// Execute; `rows` 0 means all.
pub fn execute(out: &mut BytesMut, portal: &str, rows: u32) {
    message(out, b'E', |b| {
        cstr(b, portal);
        b.put_u32(rows);
    });
}

/// Describe of a statement (`S`) or portal (`P`).
pub fn describe(out: &mut BytesMut, kind: u8, name: &str) {
    message(out, b'D', |b| {
        b.put_u8(kind);
        cstr(b, name);
    });
}

/// Close of a statement (`S`) or portal (`P`).
pub fn close(out: &mut BytesMut, kind: u8, name: &str) {
    message(out, b'C', |b| {
        b.put_u8(kind);
        cstr(b, name);
    });
}

/// Sync.
pub const SYNC: &[u8] = b"S\0\0\0\x04";
/// Flush.
pub const FLUSH: &[u8] = b"H\0\0\0\x04";
/// Terminate.
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// CopyFail, without a word why.
pub const COPY_FAIL: &[u8] = b"f\0\0\0\x05\0";
/// CopyDone.
pub const COPY_DONE: &[u8] = b"c\0\0\0\x04";

/// A client's Parse.
#[derive(Debug)]
pub struct Parse<'a> {
    /// Statement name; empty for the unnamed one.
    pub name: &'a str,
    /// The statement, in the client's encoding.
    pub sql: &'a [u8],
    /// Parameter types by OID.
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    /// `None`: not a Parse message, or a name that is not UTF-8.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Option<Parse<'a>> {
        let (name, rest) = split_cstr(body)?;
        let (sql, rest) = split_cstr(rest)?;
        let n = usize::from(read_u16(rest)?);
        let list = rest.get(2..)?;
        if list.len() != n * 4 {
            return None;
        }
        let types = list.chunks_exact(4).filter_map(read_u32).collect();
        Some(Parse { name: std::str::from_utf8(name).ok()?, sql, types })
    }
}

/// A client's Bind: names, and the rest as it is.
#[derive(Debug)]
pub struct Bind<'a> {
    /// Portal name; empty for the unnamed one.
    pub portal: &'a str,
    /// Statement name.
    pub statement: &'a str,
    /// Formats, values, result formats.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// `None`: not a Bind message.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Option<Bind<'a>> {
        let (portal, rest) = split_cstr(body)?;
        let (statement, rest) = split_cstr(rest)?;
        Some(Bind { portal: std::str::from_utf8(portal).ok()?, statement: std::str::from_utf8(statement).ok()?, rest })
    }
}

/// A client's Describe or Close: kind (`S` or `P`) and name.
#[must_use]
pub fn read_target(body: &[u8]) -> Option<(u8, &str)> {
    let (&kind, rest) = body.split_first()?;
    let (name, rest) = split_cstr(rest)?;
    (matches!(kind, b'S' | b'P') && rest.is_empty()).then_some(())?;
    Some((kind, std::str::from_utf8(name).ok()?))
}

/// A client's Execute: portal and row limit.
#[must_use]
pub fn read_execute(body: &[u8]) -> Option<(&str, u32)> {
    let (portal, rest) = split_cstr(body)?;
    let rows = u32::from_be_bytes(rest.try_into().ok()?);
    Some((std::str::from_utf8(portal).ok()?, rows))
}

/// The first packet of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartupPacket {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    GssEnc,
    /// CancelRequest.
    Cancel { pid: u32, secret: Vec<u8> },
    /// StartupMessage: minor version asked for, and the parameters.
    Startup { minor: u32, parameters: Vec<(String, String)> },
    /// A protocol that is not spoken here.
    Unsupported { major: u32, minor: u32 },
}

impl StartupPacket {
    /// Reads the packet's body (behind its length). `None`: malformed.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<StartupPacket> {
        let code = read_u32(body)?;
        let rest = &body[4..];
        match code {
            super::version::SSL => Some(StartupPacket::Ssl),
            super::version::GSSENC => Some(StartupPacket::GssEnc),
            super::version::CANCEL => {
                let pid = read_u32(rest)?;
                Some(StartupPacket::Cancel { pid, secret: rest.get(4..)?.to_vec() })
            }
            code if code >> 16 == 3 => Self::parameters(code & 0xffff, rest),
            code => Some(StartupPacket::Unsupported { major: code >> 16, minor: code & 0xffff }),
        }
    }

    fn parameters(minor: u32, mut rest: &[u8]) -> Option<StartupPacket> {
        let mut parameters = Vec::new();
        loop {
            let (name, after) = split_cstr(rest)?;
            if name.is_empty() {
                // The list's own terminator must be the packet's last byte (ProcessStartupPacket in postmaster.c).
                return after.is_empty().then_some(StartupPacket::Startup { minor, parameters });
            }
            let (value, after) = split_cstr(after)?;
            rest = after;
            parameters.push((String::from_utf8(name.to_vec()).ok()?, String::from_utf8(value.to_vec()).ok()?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_message_reads_back_as_it_was_written() {
        let mut b = BytesMut::new();
        startup(&mut b, [("user", "u"), ("database", "d")]);
        assert_eq!(read_u32(&b).unwrap() as usize, b.len());
        let StartupPacket::Startup { minor: 0, parameters } = StartupPacket::read(&b[4..]).unwrap() else { panic!() };
        assert_eq!(parameters, [("user".into(), "u".into()), ("database".into(), "d".into())]);
    }

    #[test]
    fn a_parse_with_a_lying_parameter_count_is_malformed() {
        assert!(Parse::read(b"n\0select 1\0\0\x02\0\0\0\x17").is_none());
        assert_eq!(Parse::read(b"n\0select 1\0\0\x01\0\0\0\x17").unwrap().types, [23]);
    }

    #[test]
    fn bytes_behind_a_message_make_it_malformed() {
        assert_eq!(read_target(b"Sname\0"), Some((b'S', "name")));
        assert_eq!((read_target(b"Sname\0x"), read_target(b"Xname\0")), (None, None));
        assert_eq!(read_execute(b"p\0\0\0\0\x07"), Some(("p", 7)));
        assert_eq!((read_execute(b"p\0\0\0\0\x07x"), read_execute(b"p\0\0\0\0")), (None, None));
    }

    #[test]
    fn bytes_behind_the_startup_parameters_are_malformed() {
        assert!(StartupPacket::read(b"\0\x03\0\0user\0u\0\0x").is_none());
        assert!(StartupPacket::read(b"\0\x03\0\0user\0u\0").is_none());
    }
}
