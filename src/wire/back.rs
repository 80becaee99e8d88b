//! Messages that a server sends: what the proxy says to clients in its own name.

use bytes::{BufMut, Bytes, BytesMut};

use super::TxStatus;

/// Appends a message: tag, length (filled in afterwards), body.
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    body(out);
    // Bodies are built from bounded parts (max_message_size is below 2 GiB), so the length fits.
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// AuthenticationOk.
pub const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
/// ParseComplete.
pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
/// BindComplete.
pub const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
/// CloseComplete.
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
/// PortalSuspended.
pub const PORTAL_SUSPENDED: &[u8] = b"s\0\0\0\x04";
/// NoData.
pub const NO_DATA: &[u8] = b"n\0\0\0\x04";
/// ParameterDescription of a statement without parameters.
pub const NO_PARAMETERS: &[u8] = b"t\0\0\0\x06\0\0";
/// EmptyQueryResponse.
pub const EMPTY_QUERY: &[u8] = b"I\0\0\0\x04";

/// ReadyForQuery.
#[must_use]
pub fn ready(status: TxStatus) -> Bytes {
    Bytes::from_static(match status {
        TxStatus::Idle => b"Z\0\0\0\x05I",
        TxStatus::InBlock => b"Z\0\0\0\x05T",
        TxStatus::Failed => b"Z\0\0\0\x05E",
    })
}

/// CommandComplete.
#[must_use]
pub fn command_complete(tag: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(tag.len() + 6);
    message(&mut out, b'C', |b| {
        b.put_slice(tag.as_bytes());
        b.put_u8(0);
    });
    out.freeze()
}

/// BackendKeyData with a 4-byte secret (protocol 3.0).
pub fn backend_key_data(out: &mut BytesMut, pid: u32, secret: u32) {
    message(out, b'K', |b| {
        b.put_u32(pid);
        b.put_u32(secret);
    });
}

/// ParameterStatus.
#[must_use]
pub fn parameter_status(name: &str, value: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + value.len() + 7);
    message(&mut out, b'S', |b| {
        for text in [name, value] {
            b.extend_from_slice(text.as_bytes());
            b.extend_from_slice(b"\0");
        }
    });
    out.freeze()
}

/// NegotiateProtocolVersion: the newest version spoken here, and the `_pq_.` options not understood.
///
/// The documentation speaks of a minor version; every server sends the major one with it (SendNegotiateProtocolVersion
/// in backend_startup.c), and libpq takes anything below 3.0 for a downgrade that it refuses.
#[must_use]
pub fn negotiate_protocol_version(minor: u32, unknown: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    message(&mut out, b'v', |b| {
        b.put_u32(super::version::V3_0 | minor);
        b.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX)); // a start-up packet holds 10,000 bytes at most
        for name in unknown {
            b.put_slice(name.as_bytes());
            b.put_u8(0);
        }
    });
    out.freeze()
}

/// The command tag in a CommandComplete's body.
#[must_use]
pub fn tag(body: &[u8]) -> &str {
    let text = body.split(|&b| b == 0).next().unwrap_or_default();
    std::str::from_utf8(text).unwrap_or_default()
}

/// The row count at the end of a command tag; `None` for tags without one.
#[must_use]
pub fn tag_count(tag: &str) -> Option<u64> {
    let last = tag.rsplit(' ').next()?;
    last.as_bytes().first()?.is_ascii_digit().then(|| last.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_command_tags() {
        assert_eq!(tag_count("INSERT 0 5"), Some(5));
        assert_eq!(tag_count("UPDATE 0"), Some(0));
        assert_eq!(tag_count("BEGIN"), None);
        assert_eq!(tag_count("CREATE TABLE"), None);
        assert_eq!(tag(b"COPY 100\0"), "COPY 100");
    }
}
