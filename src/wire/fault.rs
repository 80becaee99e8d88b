//! What is wrong with a message that cannot be read: in the words of the server that would have read it.
//!
//! The order of the checks is that of postgres.c and fastpath.c, the words are those of pqformat.c.

use super::{PgError, read_u16, read_u32, split_cstr};

/// What a server finds first in it; `None`: it could read it.
#[must_use]
pub fn fault(tag: u8, body: &[u8]) -> Option<PgError> {
    let found = match tag {
        b'Q' => string(body),
        b'P' => parse(body),
        b'B' => bind(body),
        b'D' | b'C' => target(tag, body),
        b'E' => string(body).and_then(|rest| int(rest, 4)).map(|(_, rest)| rest),
        b'F' => call(body),
        _ => Ok(body),
    };
    let text = match found {
        Err(text) => text,
        Ok([]) => return None,
        // `pq_getmsgend`.
        Ok(_) => "invalid message format".into(),
    };
    Some(PgError::error("08P01", text))
}

type Read<T> = Result<T, String>;

/// `pq_getmsgstring`.
fn string(body: &[u8]) -> Read<&[u8]> {
    split_cstr(body).map(|(_, rest)| rest).ok_or_else(|| "invalid string in message".into())
}

/// `pq_getmsgbytes`.
fn bytes(body: &[u8], count: usize) -> Read<&[u8]> {
    body.get(count..).ok_or_else(|| "insufficient data left in message".into())
}

/// `pq_getmsgint`.
fn int(body: &[u8], size: usize) -> Read<(u32, &[u8])> {
    let rest = bytes(body, size)?;
    let value = if size == 2 { read_u16(body).map(u32::from) } else { read_u32(body) };
    Ok((value.unwrap_or(0), rest))
}

/// A count, and so many integers of this size.
fn list(body: &[u8], size: usize) -> Read<(u32, &[u8])> {
    let (count, mut rest) = int(body, 2)?;
    for _ in 0..count {
        rest = bytes(rest, size)?;
    }
    Ok((count, rest))
}

/// Values, each with its length before it.
fn values(body: &[u8], count: u32) -> Read<&[u8]> {
    let mut rest = body;
    for _ in 0..count {
        let (length, after) = int(rest, 4)?;
        // -1: null.
        rest = if length == u32::MAX { after } else { bytes(after, length as usize)? };
    }
    Ok(rest)
}

fn parse(body: &[u8]) -> Read<&[u8]> {
    let rest = string(string(body)?)?;
    list(rest, 4).map(|(_, rest)| rest)
}

fn bind(body: &[u8]) -> Read<&[u8]> {
    let rest = string(string(body)?)?;
    let (formats, rest) = list(rest, 2)?;
    let (parameters, rest) = int(rest, 2)?;
    if formats > 1 && formats != parameters {
        return Err(format!("bind message has {formats} parameter formats but {parameters} parameters"));
    }
    list(values(rest, parameters)?, 2).map(|(_, rest)| rest)
}

fn target(tag: u8, body: &[u8]) -> Read<&[u8]> {
    let Some((kind, rest)) = body.split_first() else { return Err("no data left in message".into()) };
    let rest = string(rest)?;
    if rest.is_empty() && !matches!(kind, b'S' | b'P') {
        let what = if tag == b'D' { "DESCRIBE" } else { "CLOSE" };
        return Err(format!("invalid {what} message subtype {kind}"));
    }
    Ok(rest)
}

fn call(body: &[u8]) -> Read<&[u8]> {
    let (_, rest) = int(body, 4)?;
    let (formats, rest) = list(rest, 2)?;
    let (arguments, rest) = int(rest, 2)?;
    if formats > 1 && formats != arguments {
        return Err(format!("function call message contains {formats} argument formats but {arguments} arguments"));
    }
    bytes(values(rest, arguments)?, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_the_servers_own_words() {
        let cases: [(u8, &[u8], &str); 12] = [
            (b'Q', b"no terminator", "invalid string in message"),
            (b'Q', b"one\0more", "invalid message format"),
            (b'P', b"s\0SELECT 1\0\0", "insufficient data left in message"),
            (b'P', b"s\0SELECT 1\0\0\x01\0\0", "insufficient data left in message"),
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01", "bind message has 2 parameter formats but 1 parameters"),
            (b'B', b"\0\0\0\0\0\x01\0\0\0\x05abc", "insufficient data left in message"),
            (b'D', b"", "no data left in message"),
            (b'D', b"Xs\0", "invalid DESCRIBE message subtype 88"),
            (b'C', b"Xs\0", "invalid CLOSE message subtype 88"),
            (b'E', b"p\0\0\0", "insufficient data left in message"),
            (b'S', b"x", "invalid message format"),
            (b'F', b"\0\0", "insufficient data left in message"),
        ];
        for (tag, body, text) in cases {
            let e = fault(tag, body).expect(text);
            assert_eq!((e.sqlstate, e.message.as_str()), ("08P01", text), "{} {body:?}", char::from(tag));
        }
        let sound: [(u8, &[u8]); 6] = [
            (b'Q', b"SELECT 1\0"),
            (b'P', b"\0SELECT 1\0\0\x01\0\0\0\x17"),
            (b'B', b"\0\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\0"),
            (b'D', b"Sname\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'F', b"\0\0\0\x01\0\0\0\x01\0\0\0\x02ab\0\0"),
        ];
        for (tag, body) in sound {
            assert!(fault(tag, body).is_none(), "{} {body:?}", char::from(tag));
        }
    }
}
