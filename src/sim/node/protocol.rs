//! A backend's main loop: start-up, messages, errors, COPY data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::portal::{in_failed_transaction, row_description};
use super::server::Wait;
use super::session::{Block, Session};
use super::settings::reported_names;
use super::value::{Res, Type, Value, unknown};
use crate::wire::front::{Bind, Parse, StartupPacket, read_execute, read_target};
use crate::wire::{PgError, STARTUP_PACKET_MAX, Severity, TxStatus, back, read_u16, read_u32};

/// Messages beyond this are refused (a real server takes 1 GiB).
pub const MESSAGE_MAX: u32 = 64 * 1024 * 1024;

/// Why the loop ends without a word to the client.
pub const GONE: &str = "08006";

/// What a Bind says behind its names.
pub struct Bound {
    pub values: Vec<Value>,
    pub results: Vec<u16>,
}

fn malformed(what: &str) -> PgError {
    PgError::error("08P01", format!("invalid {what} message"))
}

fn take_u16(b: &mut &[u8]) -> Res<u16> {
    let n = read_u16(b).ok_or_else(|| malformed("Bind"))?;
    b.advance(2);
    Ok(n)
}

/// Reads a Bind's formats and values.
pub fn read_bind(mut rest: &[u8], name: &str, types: &[Type]) -> Res<Bound> {
    let b = &mut rest;
    let count = take_u16(b)?;
    let formats = (0..count).map(|_| take_u16(b)).collect::<Res<Vec<_>>>()?;
    let given = usize::from(take_u16(b)?);
    if given != types.len() {
        let e = format!(
            "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {}",
            types.len()
        );
        return Err(PgError::error("08P01", e));
    }
    let mut values = Vec::new();
    for (i, ty) in types.iter().enumerate() {
        let length = read_u32(b).ok_or_else(|| malformed("Bind"))?;
        b.advance(4);
        if length == u32::MAX {
            values.push(Value::Null);
            continue;
        }
        let bytes = b.get(..length as usize).ok_or_else(|| malformed("Bind"))?;
        let format = if formats.len() == 1 { formats[0] } else { formats.get(i).copied().unwrap_or(0) };
        values.push(if format == 1 {
            Value::from_binary(*ty, bytes)?
        } else {
            let text = std::str::from_utf8(bytes).map_err(|_| PgError::error("22021", "invalid byte sequence"))?;
            Value::parse(*ty, text)?
        });
        b.advance(length as usize);
    }
    let count = take_u16(b)?;
    let results = (0..count).map(|_| take_u16(b)).collect::<Res<Vec<_>>>()?;
    Ok(Bound { values, results })
}

impl Session {
    /// The backend's whole life.
    pub async fn run(mut self) {
        match self.serve().await {
            Err(e) if e.sqlstate != GONE => self.send_error(&e),
            _ => {}
        }
        self.abort();
    }

    /// Waits for a whole message. `None`: the client is gone. `idle`: outside of any statement, where a cancel means
    /// nothing; within one it is noticed later.
    pub async fn read(&self, startup: bool, idle: bool) -> Res<Option<(u8, Bytes)>> {
        let mut cancel = !idle && self.me().cancel;
        self.me().cancel = false;
        self.pause(Wait::Message { startup, idle }).await;
        cancel |= std::mem::take(&mut self.me().cancel);
        self.interrupts()?;
        let mut me = self.me();
        me.cancel = cancel && !idle;
        if !me.has_message(startup) {
            debug_assert!(me.gone.is_some(), "woken without a message");
            return Ok(None);
        }
        let header = if startup { 4 } else { 5 };
        let tag = if startup { 0 } else { me.input[0] };
        let length = read_u32(&me.input[header - 4..]).unwrap_or(0);
        let limit = if startup { u32::try_from(STARTUP_PACKET_MAX).unwrap_or(u32::MAX) } else { MESSAGE_MAX };
        if length < 4 || length > limit {
            return Err(PgError::fatal("08P01", "invalid message length"));
        }
        let mut message = me.input.split_to(length as usize + header - 4);
        message.advance(header);
        Ok(Some((tag, message.freeze())))
    }

    async fn serve(&mut self) -> Res<()> {
        if !self.login().await? {
            return Ok(());
        }
        let mut reported: Vec<String> = self.reported();
        let mut skipping = false;
        self.ready(&mut reported);
        loop {
            self.me().state = match self.block {
                Block::Open => "idle in transaction",
                Block::Failed => "idle in transaction (aborted)",
                _ => "idle",
            };
            let Some((tag, body)) = self.read(false, true).await? else { return Ok(()) };
            self.me().state = "active";
            if skipping && tag != b'S' && tag != b'X' {
                continue;
            }
            let result = match tag {
                b'X' => return Ok(()),
                b'Q' => match text(body.strip_suffix(b"\0").unwrap_or(&body)) {
                    Ok(sql) => self.simple_query(sql).await,
                    Err(e) => Err(e),
                },
                b'S' => {
                    skipping = false;
                    self.finish().await
                }
                b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.extended(tag, &body).await,
                // COPY data behind an error.
                b'c' | b'd' | b'f' => Ok(()),
                other => Err(PgError::fatal("08P01", format!("invalid frontend message type {other}"))),
            };
            if let Err(e) = result {
                if e.severity == Severity::Fatal {
                    return Err(e);
                }
                self.send_error(&e);
                self.fail();
                skipping = !matches!(tag, b'Q' | b'S');
            }
            if matches!(tag, b'Q' | b'S') {
                self.ready(&mut reported);
            }
        }
    }

    fn reported(&self) -> Vec<String> {
        reported_names().map(|name| self.show(name).unwrap_or_default()).collect()
    }

    /// ReadyForQuery; before it, settings that have changed.
    fn ready(&mut self, reported: &mut Vec<String>) {
        let now = self.reported();
        for ((name, now), last) in reported_names().zip(&now).zip(&*reported) {
            if now != last {
                self.report(name, now);
            }
        }
        *reported = now;
        self.me().application_name = self.settings.get("application_name").unwrap_or_default();
        self.send(&back::ready(match self.block {
            Block::None | Block::Single | Block::Implicit => TxStatus::Idle,
            Block::Open => TxStatus::InBlock,
            Block::Failed => TxStatus::Failed,
        }));
        let mut me = self.me();
        me.flush();
        me.midway = false;
    }

    fn report(&self, name: &str, value: &str) {
        let mut out = BytesMut::new();
        back::message(&mut out, b'S', |b| {
            for part in [name, value] {
                b.put_slice(part.as_bytes());
                b.put_u8(0);
            }
        });
        self.send(&out);
    }

    /// False: it was a cancel request, or the client has gone.
    async fn login(&mut self) -> Res<bool> {
        let Some((_, body)) = self.read(true, true).await? else { return Ok(false) };
        match StartupPacket::read(&body) {
            Some(StartupPacket::Cancel { pid, secret }) => {
                if let Some(secret) = read_u32(&secret) {
                    self.server().cancel(pid, secret);
                }
                Ok(false)
            }
            Some(StartupPacket::Startup { minor: 0, parameters }) => {
                self.logged_in(parameters).map_err(|e| PgError { severity: Severity::Fatal, ..e })?;
                Ok(true)
            }
            _ => Err(PgError::fatal("0A000", "the simulated node does not know this start-up packet")),
        }
    }

    /// Nobody is asked for a password.
    fn logged_in(&mut self, parameters: Vec<(String, String)>) -> Res<()> {
        for (name, value) in parameters {
            match name.as_str() {
                "user" => self.me().user = value,
                "database" => {}
                "options" => {
                    for (name, value) in options(&value)? {
                        self.settings.at_login(name, value)?;
                    }
                }
                name => self.settings.at_login(name, &value)?,
            }
        }
        self.send(back::AUTHENTICATION_OK);
        for (name, value) in reported_names().zip(self.reported()) {
            self.report(name, &value);
        }
        let mut me = self.me();
        let mut out = BytesMut::new();
        back::backend_key_data(&mut out, me.pid, me.secret);
        me.send(&out);
        Ok(())
    }

    async fn extended(&mut self, tag: u8, body: &[u8]) -> Res<()> {
        match tag {
            b'P' => {
                let p = Parse::read(body).ok_or_else(|| malformed("Parse"))?;
                self.parse_message(p.name, text(p.sql)?, p.types).await
            }
            b'B' => {
                let b = Bind::read(body).ok_or_else(|| malformed("Bind"))?;
                self.bind_message(b.portal, b.statement, b.rest).await
            }
            b'E' => {
                let (portal, rows) = read_execute(body).ok_or_else(|| malformed("Execute"))?;
                self.execute_message(portal, rows).await
            }
            b'D' => {
                let (kind, name) = read_target(body).ok_or_else(|| malformed("Describe"))?;
                self.describe(kind, name)
            }
            b'C' => {
                let (kind, name) = read_target(body).ok_or_else(|| malformed("Close"))?;
                if kind == b'S' {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.send(back::CLOSE_COMPLETE);
                Ok(())
            }
            _ => {
                self.me().flush();
                Ok(())
            }
        }
    }

    fn describe(&mut self, kind: u8, name: &str) -> Res<()> {
        self.start();
        let (fields, formats, returns) = if kind == b'S' {
            let statement = self.statement(name)?;
            if self.block == Block::Failed && statement.returns {
                return Err(in_failed_transaction());
            }
            let mut out = BytesMut::new();
            back::message(&mut out, b't', |b| {
                b.put_u16(u16::try_from(statement.params.len()).unwrap_or(u16::MAX)); // Parse's count had 16 bits
                statement.params.iter().for_each(|t| b.put_u32(t.oid()));
            });
            self.send(&out);
            let formats = vec![0; statement.fields.len()];
            (statement.fields, formats, statement.returns)
        } else {
            let missing = || PgError::error("34000", format!("portal \"{name}\" does not exist"));
            let portal = self.portals.get(name).ok_or_else(missing)?;
            (portal.planned.fields.clone(), portal.formats.clone(), portal.planned.returns())
        };
        if returns {
            self.send(&row_description(&fields, &formats));
        } else {
            self.send(back::NO_DATA);
        }
        Ok(())
    }
}

/// Text in UTF-8.
pub fn text(bytes: &[u8]) -> Res<&str> {
    std::str::from_utf8(bytes).map_err(|_| PgError::error("22021", "invalid byte sequence for encoding \"UTF8\""))
}

/// `-c name=value` of the start-up packet. Values with spaces or backslashes are refused.
fn options(text: &str) -> Res<Vec<(&str, &str)>> {
    let wrong = || unknown(format!("the options {text}"));
    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
    words
        .chunks(2)
        .map(|w| if let ["-c", pair] = w { pair.split_once('=').ok_or_else(wrong) } else { Err(wrong()) })
        .collect()
}
