//! A server's message as a line of text, without what differs between two servers that do the same.
//!
//! The whole list of what is not compared:
//!
//! - OIDs of objects that a user made (from 16384 on): tables in RowDescription, types in RowDescription and
//!   ParameterDescription. Every server counts its own; it is compared that both are such.
//! - The process id of a notification, and BackendKeyData.
//! - File, line and routine of errors and notices: where in its source a server (or the proxy) raised it.
//! - Positions of errors, until multi-statement strings are parsed as a whole (`topics::POSITIONS`).

use super::message::quote;
use super::topics;

/// FirstNormalObjectId in access/transam.h.
const FIRST_USER_OID: u32 = 16_384;

/// The message as a line.
pub fn line(tag: u8, body: &[u8]) -> String {
    let name = char::from(tag);
    let text = match tag {
        b'T' => columns(body),
        b't' => parameters(body),
        b'D' => row(body),
        b'E' | b'N' => Some(fields(body)),
        b'A' => body.get(4..).map(quote),
        b'Z' | b'I' | b'C' | b'1' | b'2' | b'3' | b'n' | b's' | b'S' | b'G' | b'H' | b'W' | b'd' | b'c' | b'V' => None,
        _ => None,
    };
    let text = text.unwrap_or_else(|| match body.strip_suffix(&[0]) {
        Some(text) if tag == b'C' => quote(text),
        _ if body.is_empty() => String::new(),
        _ => quote(body),
    });
    format!("{name} {text}").trim_end().to_owned()
}

/// Severity, SQLSTATE and message of an error, for telling kinds of errors apart.
pub fn field(body: &[u8], code: u8) -> Option<String> {
    let mut parts = body.split(|b| *b == 0).filter(|f| !f.is_empty());
    parts.find(|f| f[0] == code).map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
}

fn fields(body: &[u8]) -> String {
    let shown: &[u8] = if topics::on(topics::POSITIONS) { b"VCMDHPpqWstcdn" } else { b"VCMDHpqWstcdn" };
    let of = |code: u8| field(body, code).map(|text| format!("{}={}", char::from(code), quote(text.as_bytes())));
    shown.iter().filter_map(|code| of(*code)).collect::<Vec<_>>().join(" ")
}

/// Reads a body from its start.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}

fn oid(oid: u32) -> String {
    if oid >= FIRST_USER_OID { "user".into() } else { oid.to_string() }
}

fn columns(body: &[u8]) -> Option<String> {
    let mut b = Body(body);
    let mut text = Vec::new();
    for _ in 0..b.u16()? {
        let name = quote(b.cstr()?);
        let (table, number, kind) = (oid(b.u32()?), b.u16()?, oid(b.u32()?));
        let (length, modifier, format) = (b.u16()?, b.u32()?, b.u16()?);
        text.push(format!("{name}:{table}.{number}:{kind}/{length}/{modifier}/{format}"));
    }
    b.0.is_empty().then(|| text.join(" "))
}

fn parameters(body: &[u8]) -> Option<String> {
    let mut b = Body(body);
    let types: Option<Vec<String>> = (0..b.u16()?).map(|_| b.u32().map(oid)).collect();
    types.map(|t| t.join(" "))
}

fn row(body: &[u8]) -> Option<String> {
    let mut b = Body(body);
    let mut text = Vec::new();
    for _ in 0..b.u16()? {
        let length = b.u32()?;
        text.push(if length == u32::MAX { "null".to_owned() } else { quote(b.take(length as usize)?) });
    }
    b.0.is_empty().then(|| text.join(" "))
}
