//! Errors and notices as clients see them: severity, SQLSTATE, message, detail, hint.

use bytes::{BufMut, Bytes, BytesMut};

/// Severity of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The statement failed, the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    /// A warning in a NoticeResponse.
    Warning,
    /// A notice in a NoticeResponse.
    Notice,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// An error of the proxy's own, in PostgreSQL's terms. SQLSTATEs: appendix "PostgreSQL Error Codes".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PgError {
    /// How bad it is.
    pub severity: Severity,
    /// Five characters.
    pub sqlstate: &'static str,
    /// One sentence, lower-case, no full stop: PostgreSQL's style guide.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The function that reported it: PostgreSQL's own errors have one, the proxy's do not (the simulated node's do
    /// where somebody looks at it).
    pub routine: Option<&'static str>,
}

impl PgError {
    /// An ERROR.
    #[must_use]
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        PgError {
            severity: Severity::Error,
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            routine: None,
        }
    }

    /// A FATAL error: the connection ends after it.
    #[must_use]
    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        PgError { severity: Severity::Fatal, ..PgError::error(sqlstate, message) }
    }

    /// Adds a DETAIL.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = Some(text.into());
        self
    }

    /// Adds a HINT.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// As an ErrorResponse, or as a NoticeResponse if the severity says so.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let notice = matches!(self.severity, Severity::Warning | Severity::Notice);
        let mut out = BytesMut::with_capacity(64 + self.message.len());
        super::back::message(&mut out, if notice { b'N' } else { b'E' }, |b| {
            let mut field = |code: u8, text: &str| {
                b.put_u8(code);
                // A field ends at its NUL: one inside would break the message.
                b.extend(text.bytes().filter(|&c| c != 0));
                b.put_u8(0);
            };
            field(b'S', self.severity.text());
            field(b'V', self.severity.text());
            field(b'C', self.sqlstate);
            field(b'M', &self.message);
            if let Some(d) = &self.detail {
                field(b'D', d);
            }
            if let Some(h) = &self.hint {
                field(b'H', h);
            }
            if let Some(r) = self.routine {
                field(b'R', r);
            }
            b.put_u8(0);
        });
        out.freeze()
    }
}

/// The fields of a server's ErrorResponse that the proxy looks at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ErrorFields {
    /// Not localised (`V`, 9.6 and later).
    pub severity: String,
    /// `C`.
    pub sqlstate: String,
    /// `M`.
    pub message: String,
    /// `D`.
    pub detail: String,
    /// `R`: the function of the server's that reported it; never localised.
    pub routine: String,
}

impl ErrorFields {
    /// Reads the body of an ErrorResponse or NoticeResponse; unknown fields are skipped, as the protocol asks.
    #[must_use]
    pub fn parse(mut body: &[u8]) -> ErrorFields {
        let mut f = ErrorFields::default();
        while let Some((&code, rest)) = body.split_first() {
            if code == 0 {
                break;
            }
            let Some((text, rest)) = super::split_cstr(rest) else { break };
            body = rest;
            let slot = match code {
                b'V' => &mut f.severity,
                b'C' => &mut f.sqlstate,
                b'M' => &mut f.message,
                b'D' => &mut f.detail,
                b'R' => &mut f.routine,
                _ => continue,
            };
            *slot = String::from_utf8_lossy(text).into_owned();
        }
        f
    }
}

/// An ErrorResponse (or NoticeResponse) whose position (`P`, characters from 1) lies that many characters further on;
/// `None` if it has none.
#[must_use]
pub fn with_position_moved(message: &[u8], characters: usize) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(message.len() + 8);
    out.put_slice(message.get(..5)?);
    let (mut body, mut moved) = (&message[5..], false);
    while let Some((&code, rest)) = body.split_first().filter(|(code, _)| **code != 0) {
        let (text, rest) = super::split_cstr(rest)?;
        body = rest;
        out.put_u8(code);
        match std::str::from_utf8(text).ok().and_then(|t| t.parse::<usize>().ok()).filter(|_| code == b'P') {
            Some(at) => {
                moved = true;
                out.put_slice(at.saturating_add(characters).to_string().as_bytes());
            }
            None => out.put_slice(text),
        }
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = u32::try_from(out.len() - 1).ok()?;
    out[1..5].copy_from_slice(&length.to_be_bytes());
    moved.then(|| out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_back_as_it_was_written() {
        let e = PgError::fatal("53300", "sorry, too many clients already").detail("d\0x").hint("h");
        let raw = e.encode();
        assert_eq!(raw[0], b'E');
        assert_eq!(super::super::read_u32(&raw[1..]).unwrap() as usize + 1, raw.len());
        let f = ErrorFields::parse(&raw[5..]);
        assert_eq!((f.severity.as_str(), f.sqlstate.as_str(), f.detail.as_str()), ("FATAL", "53300", "dx"));
        assert_eq!(f.message, "sorry, too many clients already");
    }

    #[test]
    fn a_position_is_moved_and_nothing_else_changes() {
        let raw = b"E\0\0\0\x15C42601\0P9\0Mx\0Ry\0\0";
        let moved = with_position_moved(raw, 95).unwrap();
        assert_eq!(&moved[..], b"E\0\0\0\x17C42601\0P104\0Mx\0Ry\0\0");
        assert_eq!(with_position_moved(b"E\0\0\0\x0cC42601\0\0", 95), None);
    }
}
