//! A backend's main loop: start-up, messages, errors, COPY data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::portal::{in_failed_transaction, row_description};
use super::server::{Client, Shared, Wait};
use super::session::{Block, Session};
use super::settings::{REPORTED, Settings};
use super::value::{Res, Type, Value, unknown};
use crate::wire::front::{Bind, Parse, StartupPacket, read_execute, read_target};
use crate::wire::{PgError, STARTUP_PACKET_MAX, Severity, back, read_u16, read_u32};

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
    /// A backend that has just been started.
    pub fn new(server: Shared, id: u32) -> Session {
        Session {
            server,
            id,
            settings: Settings::default(),
            tx: None,
            block: Block::None,
            statements: std::collections::BTreeMap::new(),
            portals: std::collections::BTreeMap::new(),
            currval: std::collections::BTreeMap::new(),
            sleep_us: 0,
            events: Vec::new(),
        }
    }

    /// Queues a message.
    pub fn send(&self, bytes: &[u8]) {
        self.me().send(bytes);
    }

    /// A WARNING. As every message of elog.c it is flushed at once, with what stands before it.
    pub fn warn(&self, sqlstate: &'static str, message: &str) {
        self.notice(Severity::Warning, sqlstate, message);
    }

    /// A message that is no error.
    pub fn notice(&self, severity: Severity, sqlstate: &'static str, message: &str) {
        let e = PgError { severity, ..PgError::error(sqlstate, message) };
        self.send_error(&e);
    }

    fn send_error(&self, e: &PgError) {
        let mut me = self.me();
        me.send(&e.encode());
        me.flush();
    }

    /// The backend's whole life.
    pub async fn run(mut self) {
        match self.serve().await {
            Err(e) if e.sqlstate != GONE => self.send_error(&e),
            _ => {}
        }
        self.abort();
        let owner = self.owner();
        let mut s = self.server();
        s.locks.release_from(owner, super::lock::SESSION);
        s.locks.forget(owner);
    }

    /// Waits for a whole message. `None`: the client is gone.
    pub async fn read(&self, startup: bool, idle: bool) -> Res<Option<(u8, Bytes)>> {
        if idle {
            self.me().cancel = false;
        }
        self.pause(Wait::Message { startup, idle }).await;
        self.interrupts()?;
        let mut me = self.me();
        if !me.has_message(startup) {
            debug_assert!(me.client != Client::Here, "woken without a message");
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
        let mut reported: Vec<Option<String>> = REPORTED.iter().map(|(n, _)| self.show(n)).collect();
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

    /// ReadyForQuery; before it, settings that have changed.
    fn ready(&mut self, reported: &mut [Option<String>]) {
        for ((name, _), last) in REPORTED.iter().zip(reported) {
            let now = self.show(name);
            if now != *last {
                self.report(name, now.as_deref().unwrap_or_default());
                *last = now;
            }
        }
        if let Some(name) = self.settings.get("application_name") {
            self.me().application_name = name;
        }
        self.send(&back::ready(self.status()));
        self.me().flush();
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
        loop {
            let Some((_, body)) = self.read(true, true).await? else { return Ok(false) };
            let packet = StartupPacket::read(&body);
            match packet.ok_or_else(|| PgError::fatal("08P01", "invalid startup packet layout"))? {
                StartupPacket::Ssl | StartupPacket::GssEnc => {
                    self.send(b"N");
                    self.me().flush();
                }
                StartupPacket::Cancel { pid, secret } => {
                    if let Some(secret) = read_u32(&secret) {
                        self.server().cancel(pid, secret);
                    }
                    return Ok(false);
                }
                StartupPacket::Unsupported { major, minor } => {
                    let e = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
                    return Err(PgError::fatal("0A000", e));
                }
                StartupPacket::Startup { minor, parameters } => {
                    if minor > 0 {
                        self.send(&back::negotiate_protocol_version(0, &[]));
                    }
                    self.logged_in(&parameters).map_err(|e| PgError { severity: Severity::Fatal, ..e })?;
                    return Ok(true);
                }
            }
        }
    }

    fn logged_in(&mut self, parameters: &[(String, String)]) -> Res<()> {
        let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let user = get("user").unwrap_or_default();
        let (roles, own) = {
            let s = self.look();
            (s.config.roles.clone(), s.config.settings.clone())
        };
        if !roles.iter().any(|(r, _)| *r == user) {
            return Err(PgError::error("28000", format!("role \"{user}\" does not exist")));
        }
        for (name, value) in &own {
            self.settings.at_login(name, value, false)?;
        }
        for (name, value) in parameters {
            match name.as_str() {
                "user" | "database" => {}
                "replication" => return Err(unknown("replication connections")),
                "options" => {
                    for (name, value) in options(value)? {
                        self.settings.at_login(&name, &value, true)?;
                    }
                }
                name if name.starts_with("_pq_.") => {}
                name => self.settings.at_login(name, value, true)?,
            }
        }
        let (pid, secret) = {
            let mut me = self.me();
            me.database = get("database").unwrap_or_else(|| user.clone());
            me.user = user;
            (me.pid, me.secret)
        };
        self.send(back::AUTHENTICATION_OK);
        for (name, _) in REPORTED {
            self.report(name, &self.show(name).unwrap_or_default());
        }
        let mut out = BytesMut::new();
        back::backend_key_data(&mut out, pid, secret);
        self.send(&out);
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
        self.start()?;
        let (fields, formats) = if kind == b'S' {
            let statement = self.statement(name)?;
            if self.block == Block::Failed && !statement.fields.is_empty() {
                return Err(in_failed_transaction());
            }
            let mut out = BytesMut::new();
            back::message(&mut out, b't', |b| {
                b.put_u16(u16::try_from(statement.params.len()).unwrap_or(u16::MAX)); // Parse's count had 16 bits
                statement.params.iter().for_each(|t| b.put_u32(t.oid()));
            });
            self.send(&out);
            let formats = vec![0; statement.fields.len()];
            (statement.fields, formats)
        } else {
            let missing = || PgError::error("34000", format!("portal \"{name}\" does not exist"));
            let portal = self.portals.get(name).ok_or_else(missing)?;
            (portal.planned.fields.clone(), portal.formats.clone())
        };
        if fields.is_empty() {
            self.send(back::NO_DATA);
        } else {
            self.send(&row_description(&fields, &formats));
        }
        Ok(())
    }
}

/// Text in UTF-8.
pub fn text(bytes: &[u8]) -> Res<&str> {
    std::str::from_utf8(bytes).map_err(|_| PgError::error("22021", "invalid byte sequence for encoding \"UTF8\""))
}

/// `-c name=value` of the start-up packet (pg_split_opts in postinit.c: a backslash escapes a space).
fn options(text: &str) -> Res<Vec<(String, String)>> {
    let mut words: Vec<String> = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, words.last_mut()) {
            ('\\', Some(w)) => w.extend(chars.next()),
            (c, Some(w)) if !c.is_whitespace() => w.push(c),
            _ => words.push(String::new()),
        }
    }
    let mut pairs = Vec::new();
    let mut words = words.into_iter().filter(|w| !w.is_empty());
    while let Some(w) = words.next() {
        let setting = if w == "-c" {
            words.next()
        } else {
            w.strip_prefix("--").or_else(|| w.strip_prefix("-c")).map(str::to_owned)
        };
        let pair = setting.as_deref().and_then(|s| s.split_once('='));
        let (name, value) = pair.ok_or_else(|| unknown(format!("the option {w}")))?;
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(pairs)
}
