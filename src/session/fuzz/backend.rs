//! A backend as far as a session can tell: it follows the protocol as PostgreSQL does, and computes nothing.
//!
//! Every answer to a statement names the number that stands in the statement's text ([`token`]), so that whoever reads
//! it can tell which request it belongs to.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use crate::session::transaction::INFO;
use crate::sql::lexer::split;
use crate::wire::back::{self, message};
use crate::wire::frame::{Frame, FrontendFramer, HEADER};
use crate::wire::front::{Bind, Parse, read_execute, read_target};
use crate::wire::{PgError, TxStatus, front, read_u32, split_cstr};

/// What stands in front of the number in a statement's text.
const TOKEN: &str = "tok";
/// A statement with this in it fails.
pub const FAILS: &str = "boom";

/// The numbers in a text.
pub fn tokens(text: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(text);
    let number = |rest: &str| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).take(9).collect();
        digits.parse().ok()
    };
    text.split(TOKEN).skip(1).filter_map(number).collect()
}

fn token(sql: &str) -> Option<u32> {
    tokens(sql.as_bytes()).first().copied()
}

/// What a statement comes to.
enum Outcome {
    Tag(String),
    Rows(Vec<Bytes>, String),
    CopyIn,
    CopyOut,
    Empty,
    Error(PgError),
}

/// A portal: its statement, and whether it has been run.
#[derive(Clone, Debug)]
struct Portal {
    sql: String,
    suspended: bool,
}

/// A backend.
#[derive(Debug)]
pub struct Backend {
    startup: Option<BytesMut>,
    framer: FrontendFramer,
    status: TxStatus,
    serializable: bool,
    /// The block is READ ONLY.
    read_only: bool,
    statements: HashMap<String, String>,
    portals: HashMap<String, Portal>,
    /// An error was told, and no Sync has come since.
    skipping: bool,
    /// COPY FROM STDIN, by the extended protocol or not, and the rest of the string.
    copying: Option<(bool, VecDeque<String>)>,
    written: VecDeque<Bytes>,
    /// What has been flushed, message by message.
    pub answers: VecDeque<Bytes>,
    /// SQLSTATE with which the next statement fails.
    pub fails: Option<&'static str>,
    /// Its process id, which is its secret too.
    pub pid: u32,
    /// It was told to end.
    pub ended: bool,
    /// It ends by itself when what it has said is read, and hears nothing any more.
    pub dies: bool,
    /// It has said what it should not: whoever believed it may be wrong about what it is doing.
    pub lied: bool,
    settings: usize,
}

fn built(tag: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    message(&mut out, tag, body);
    out.freeze()
}

fn row(columns: &[Option<&[u8]>]) -> Bytes {
    built(b'D', |b| {
        b.put_u16(u16::try_from(columns.len()).unwrap_or(0));
        for c in columns {
            b.put_i32(c.map_or(-1, |c| i32::try_from(c.len()).unwrap_or(0)));
            b.put_slice(c.unwrap_or_default());
        }
    })
}

fn description(sql: &str) -> Bytes {
    built(b'T', |b| {
        b.put_u16(1);
        b.put_slice(format!("{TOKEN}{}\0", token(sql).unwrap_or(0)).as_bytes());
        b.put_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0]);
    })
}

fn copy_response(tag: u8) -> Bytes {
    built(tag, |b| b.put_slice(&[0, 0, 1, 0, 0]))
}

fn words(sql: &str) -> Vec<String> {
    sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
        .take(4)
        .map(str::to_ascii_uppercase)
        .collect()
}

/// The statement returns rows.
fn returns(sql: &str) -> bool {
    let words = words(sql);
    let first = words.first().map_or("", String::as_str);
    matches!(first, "SELECT" | "FETCH" | "EXECUTE" | "SHOW") || sql.contains("RETURNING")
}

/// A READ ONLY block refuses it (`PreventCommandIfReadOnly` in utility.c).
fn writes(first: &str, sql: &str) -> bool {
    matches!(first, "INSERT" | "UPDATE" | "DELETE" | "CREATE" | "ALTER") || (first == "COPY" && sql.contains("STDIN"))
}

impl Backend {
    /// One that has been connected to.
    pub fn new(pid: u32) -> Backend {
        Backend {
            startup: Some(BytesMut::new()),
            framer: FrontendFramer::new(usize::MAX),
            status: TxStatus::Idle,
            serializable: false,
            read_only: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            copying: None,
            written: VecDeque::new(),
            answers: VecDeque::new(),
            fails: None,
            pid,
            ended: false,
            dies: false,
            lied: false,
            settings: 0,
        }
    }

    fn write(&mut self, message: Bytes) {
        self.written.push_back(message);
    }

    fn flush(&mut self) {
        self.answers.append(&mut self.written);
    }

    fn ready(&mut self) {
        self.write(back::ready(self.status));
        self.flush();
    }

    /// Bytes of the session. Err: what a backend must never be sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.dies {
            return Ok(());
        }
        let mut bytes = Bytes::copy_from_slice(bytes);
        if let Some(startup) = &mut self.startup {
            startup.extend_from_slice(&bytes);
            let Some(length) = read_u32(startup).map(|n| n as usize).filter(|n| startup.len() >= *n) else {
                return Ok(());
            };
            bytes = startup.split_off(length).freeze();
            self.startup = None;
            self.welcome();
        }
        if !bytes.is_empty() {
            self.framer.push(bytes);
        }
        loop {
            match self.framer.next_frame() {
                Ok(Some(frame)) if self.ended => return Err(format!("{:?} behind Terminate", char::from(frame.tag))),
                Ok(Some(frame)) => self.frame(&frame)?,
                Ok(None) => return Ok(()),
                Err(e) => return Err(format!("a backend cannot read what it was sent: {e}")),
            }
        }
    }

    fn welcome(&mut self) {
        self.write(Bytes::from_static(back::AUTHENTICATION_OK));
        for (name, value) in [
            ("server_version", "15.0"),
            ("standard_conforming_strings", "on"),
            ("client_encoding", "UTF8"),
            ("is_superuser", "off"),
        ] {
            self.write(back::parameter_status(name, value));
        }
        let mut key = BytesMut::new();
        back::backend_key_data(&mut key, self.pid, self.pid);
        self.write(key.freeze());
        self.ready();
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), String> {
        if let Some((extended, rest)) = self.copying.take() {
            match frame.tag {
                b'd' | b'S' | b'H' => self.copying = Some((extended, rest)),
                b'c' => {
                    self.write(back::command_complete("COPY 1"));
                    if !extended {
                        self.string(rest);
                    }
                }
                b'f' => {
                    self.error(&PgError::error("57014", "COPY from stdin failed"), extended);
                    if !extended {
                        self.ready();
                    }
                }
                b'X' if self.lied => {}
                tag => return Err(format!("message {:?} in COPY mode", char::from(tag))),
            }
            return Ok(());
        }
        match frame.tag {
            b'S' => {
                self.skipping = false;
                if self.status == TxStatus::Idle {
                    self.portals.clear();
                }
                self.ready();
            }
            b'X' => self.ended = true,
            _ if self.skipping => {}
            b'Q' => {
                let text = String::from_utf8_lossy(frame.body().strip_suffix(b"\0").unwrap_or_default()).into_owned();
                self.statements.remove("");
                let statements = split(&text, true).statements.into_iter().map(|r| text[r].to_owned()).collect();
                self.string(statements);
            }
            b'H' => self.flush(),
            b'd' | b'c' | b'f' => {}
            b'F' => self.function(frame),
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                if let Err(e) = self.extended(frame) {
                    self.error(&e, true);
                }
            }
            tag => return Err(format!("message {:?} reached a backend", char::from(tag))),
        }
        Ok(())
    }

    fn error(&mut self, e: &PgError, to_sync: bool) {
        self.skipping = to_sync;
        if self.status == TxStatus::InBlock {
            self.status = TxStatus::Failed;
        }
        // An error leaves at once (`send_message_to_frontend` in elog.c).
        self.write(e.encode());
        self.flush();
    }

    /// The statements of a Query that are left.
    fn string(&mut self, mut statements: VecDeque<String>) {
        if statements.is_empty() && self.written.is_empty() {
            self.write(Bytes::from_static(back::EMPTY_QUERY));
        }
        while let Some(sql) = statements.pop_front() {
            match self.run(&sql) {
                Outcome::Tag(tag) => self.write(back::command_complete(&tag)),
                Outcome::Rows(rows, tag) => {
                    self.write(description(&sql));
                    self.written.extend(rows);
                    self.write(back::command_complete(&tag));
                }
                Outcome::Empty => self.write(Bytes::from_static(back::EMPTY_QUERY)),
                Outcome::CopyIn => {
                    self.write(copy_response(b'G'));
                    self.flush();
                    self.copying = Some((false, statements));
                    return;
                }
                Outcome::CopyOut => self.copy_out(&sql),
                Outcome::Error(e) => {
                    self.error(&e, false);
                    break;
                }
            }
        }
        self.ready();
    }

    fn copy_out(&mut self, sql: &str) {
        self.write(copy_response(b'H'));
        let data = token(sql).unwrap_or(0).to_string();
        self.write(built(b'd', |b| b.put_slice(data.as_bytes())));
        self.write(built(b'c', |_| {}));
        self.write(back::command_complete("COPY 1"));
    }

    fn function(&mut self, frame: &Frame) {
        if self.status == TxStatus::Failed || self.fails.take().is_some() {
            self.error(&PgError::error("25P02", "a function fails"), false);
        } else {
            let oid = frame.body().get(..4).unwrap_or_default().to_vec();
            self.write(built(b'V', |b| {
                b.put_u32(4);
                b.put_slice(&oid);
            }));
        }
        self.ready();
    }

    fn extended(&mut self, frame: &Frame) -> Result<(), PgError> {
        let malformed = || PgError::error("08P01", "invalid message format");
        let no_portal = |name: &str| PgError::error("34000", format!("portal \"{name}\" does not exist"));
        let no_statement =
            |name: &str| PgError::error("26000", format!("prepared statement \"{name}\" does not exist"));
        match frame.tag {
            b'P' => {
                let p = Parse::read(frame.body()).ok_or_else(malformed)?;
                let sql = String::from_utf8_lossy(p.sql).into_owned();
                if split(&sql, true).statements.len() > 1 {
                    let mut e = PgError::error("42601", "cannot insert multiple commands into a prepared statement");
                    e.routine = Some("exec_parse_message");
                    return Err(e);
                }
                if sql.contains(FAILS) || sql.contains("pglockstep_refused") {
                    return Err(self.fails_with("42601", &sql));
                }
                if !p.name.is_empty() && self.statements.contains_key(p.name) {
                    return Err(PgError::error("42P05", "prepared statement already exists"));
                }
                self.statements.insert(p.name.to_owned(), sql);
                self.write(Bytes::from_static(back::PARSE_COMPLETE));
            }
            b'B' => {
                let b = Bind::read(frame.body()).ok_or_else(malformed)?;
                let sql = self.statements.get(b.statement).cloned().ok_or_else(|| no_statement(b.statement))?;
                if !b.portal.is_empty() && self.portals.contains_key(b.portal) {
                    return Err(PgError::error("42P03", "cursor already exists"));
                }
                self.portals.insert(b.portal.to_owned(), Portal { sql, suspended: false });
                self.write(Bytes::from_static(back::BIND_COMPLETE));
            }
            b'D' => {
                let (kind, name) = read_target(frame.body()).ok_or_else(malformed)?;
                let sql = if kind == b'S' {
                    self.write(Bytes::from_static(back::NO_PARAMETERS));
                    self.statements.get(name).cloned().ok_or_else(|| no_statement(name))
                } else {
                    self.portals.get(name).map(|p| p.sql.clone()).ok_or_else(|| no_portal(name))
                };
                let sql = sql.inspect_err(|_| {
                    if kind == b'S' {
                        self.written.pop_back();
                    }
                })?;
                let what = if returns(&sql) { description(&sql) } else { Bytes::from_static(back::NO_DATA) };
                self.write(what);
            }
            b'C' => {
                let (kind, name) = read_target(frame.body()).ok_or_else(malformed)?;
                if kind == b'S' {
                    self.statements.remove(name);
                } else {
                    self.portals.remove(name);
                }
                self.write(built(b'3', |_| {}));
            }
            _ => {
                let (name, limit) = read_execute(frame.body()).ok_or_else(malformed)?;
                let portal = self.portals.get(name).cloned().ok_or_else(|| no_portal(name))?;
                match self.run(&portal.sql) {
                    Outcome::Tag(tag) => self.write(back::command_complete(&tag)),
                    Outcome::Rows(rows, tag) => {
                        self.written.extend(rows);
                        if limit == 1 && !portal.suspended {
                            self.portals.entry(name.to_owned()).and_modify(|p| p.suspended = true);
                            self.write(built(b's', |_| {}));
                        } else {
                            self.write(back::command_complete(&tag));
                        }
                    }
                    Outcome::Empty => self.write(Bytes::from_static(back::EMPTY_QUERY)),
                    Outcome::CopyIn => {
                        self.write(copy_response(b'G'));
                        self.flush();
                        self.copying = Some((true, VecDeque::new()));
                    }
                    Outcome::CopyOut => self.copy_out(&portal.sql),
                    Outcome::Error(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn fails_with(&self, sqlstate: &'static str, sql: &str) -> PgError {
        let number = token(sql).map_or_else(String::new, |n| format!(" {TOKEN}{n}"));
        PgError::error(sqlstate, format!("{FAILS}{number}"))
    }

    fn run(&mut self, sql: &str) -> Outcome {
        let words = words(sql);
        let word = |i: usize| words.get(i).map_or("", String::as_str);
        let (first, second) = (word(0), word(1));
        let ends = matches!(first, "COMMIT" | "ROLLBACK" | "END" | "ABORT");
        if self.status == TxStatus::Failed && !ends {
            return Outcome::Error(PgError::error("25P02", "current transaction is aborted"));
        }
        if let Some(sqlstate) = self.fails.take() {
            return Outcome::Error(self.fails_with(sqlstate, sql));
        }
        if sql.contains(FAILS) || sql.contains("pglockstep_refused") {
            return Outcome::Error(self.fails_with("42601", sql));
        }
        if sql == INFO {
            let level: &[u8] = if self.serializable { b"serializable" } else { b"read committed" };
            let columns = [Some(&77u64.to_be_bytes()[..]), Some(&5i64.to_be_bytes()), Some(level)];
            return Outcome::Rows(vec![row(&columns)], "SELECT 1".into());
        }
        if sql.contains("txid_current_if_assigned") {
            return Outcome::Rows(vec![row(&[Some(&77u64.to_be_bytes()), Some(&[0])])], "SELECT 1".into());
        }
        if sql.contains("quote_literal(name)") {
            let rows = (0..self.settings.min(1)).map(|_| row(&[Some(b"'datestyle','ISO'")])).collect();
            return Outcome::Rows(rows, "SELECT 1".into());
        }
        if self.read_only && self.status == TxStatus::InBlock && writes(first, sql) {
            return Outcome::Error(self.fails_with("25006", sql));
        }
        match first {
            "BEGIN" | "START" => {
                self.status = TxStatus::InBlock;
                self.serializable = sql.to_ascii_uppercase().contains("SERIALIZABLE");
                self.read_only = sql.to_ascii_uppercase().contains("READ ONLY");
                Outcome::Tag("BEGIN".into())
            }
            "ROLLBACK" if second == "TO" => {
                self.status = TxStatus::InBlock;
                Outcome::Tag("ROLLBACK".into())
            }
            _ if ends => {
                let undone = self.status == TxStatus::Failed || !matches!(first, "COMMIT" | "END");
                if second != "PREPARED" {
                    self.status = TxStatus::Idle;
                    self.portals.clear();
                }
                Outcome::Tag(if undone { "ROLLBACK" } else { "COMMIT" }.into())
            }
            "PREPARE" if second == "TRANSACTION" => {
                self.status = TxStatus::Idle;
                Outcome::Tag("PREPARE TRANSACTION".into())
            }
            "COPY" if sql.contains("STDIN") => Outcome::CopyIn,
            "COPY" => Outcome::CopyOut,
            "DISCARD" => {
                self.statements.clear();
                self.settings = 0;
                Outcome::Tag("DISCARD ALL".into())
            }
            "DEALLOCATE" if second == "ALL" => {
                self.statements.clear();
                Outcome::Tag("DEALLOCATE ALL".into())
            }
            "SET" => {
                self.settings += 1;
                Outcome::Tag("SET".into())
            }
            "" => Outcome::Empty,
            "PREPARE" => {
                let name = second.to_ascii_lowercase();
                if self.statements.contains_key(&name) {
                    return Outcome::Error(PgError::error("42P05", "prepared statement already exists"));
                }
                self.statements.insert(name, format!("SELECT /*{TOKEN}{}*/", token(sql).unwrap_or(0)));
                Outcome::Tag("PREPARE".into())
            }
            _ => {
                let number = token(sql).unwrap_or(0).to_string();
                let verb = if returns(sql) && first == "FETCH" { "FETCH" } else { first };
                let tag = match verb {
                    "INSERT" => "INSERT 0 1".into(),
                    "SELECT" | "UPDATE" | "DELETE" | "FETCH" => format!("{verb} 1"),
                    "EXECUTE" => "SELECT 1".into(),
                    other => other.to_owned(),
                };
                if returns(sql) {
                    return Outcome::Rows(vec![row(&[Some(number.as_bytes())])], tag);
                }
                Outcome::Tag(tag)
            }
        }
    }
}

/// Number in a row, the name of a column, or an error of [`Backend`]'s; `None`: it carries none.
pub fn answered_token(raw: &[u8]) -> Option<u32> {
    let body = raw.get(HEADER..)?;
    match raw[0] {
        b'D' => std::str::from_utf8(body.get(6..)?).ok()?.parse().ok(),
        b'd' => std::str::from_utf8(body).ok()?.parse().ok(),
        b'T' => {
            let (name, _) = split_cstr(body.get(2..)?)?;
            tokens(name).first().copied()
        }
        b'E' => tokens(body).first().copied(),
        _ => None,
    }
}

/// A CopyData message of a client's.
pub fn copy_data(out: &mut BytesMut, data: &[u8]) {
    message(out, b'd', |b| b.put_slice(data));
}

/// A FunctionCall of a client's without arguments.
pub fn function_call(out: &mut BytesMut, oid: u32) {
    message(out, b'F', |b| {
        b.put_u32(oid);
        b.put_slice(&[0, 0, 0, 0, 0, 0]);
    });
}

/// A Bind of a client's.
pub fn bind(out: &mut BytesMut, portal: &str, statement: &str, rest: &[u8]) {
    front::bind_raw(out, portal, statement, rest);
}
