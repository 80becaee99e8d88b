//! A backend on a replica that applies scripts.
//!
//! The machine knows one replica and one packet at a time: settings, apply, commit, roll back. Whether to repeat, to
//! wait or to give up is [`super::commit`]'s.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use super::io::{Io, PoolKey};
use super::link::{Link, Login};
use crate::script::check::{Checker, Difference, Progress};
use crate::script::feed::Feed;
use crate::script::packet::{PacketWriter, Prepared};
use crate::script::{Entry, Script};
use crate::session::settings::Settings;
use crate::wire::error::ErrorFields;
use crate::wire::{PgError, TxStatus, front};

/// The BEGIN of every script: rechecks take rows away and never add one only at READ COMMITTED (design, section 1.3).
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// What the backend is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// Connecting and logging in.
    Login,
    /// Nothing, outside a transaction.
    Idle,
    /// Taking settings over.
    Settings,
    /// Applying a script.
    Applying,
    /// Being sent a script; the packet has no end yet.
    Feeding,
    /// The script is applied, its transaction is open.
    Applied,
    /// COMMIT is under way.
    Committing,
    /// ROLLBACK is under way.
    RollingBack,
    /// A statement that must not stand in a transaction block is under way.
    Running,
}

/// What has happened.
#[derive(Debug)]
pub enum Report {
    /// Ready for a script.
    LoggedIn,
    /// The node refused the login.
    LoginFailed(PgError),
    /// Settings are in force, or why not.
    SettingsDone(Result<(), ErrorFields>),
    /// The script is applied; or how the replica differed.
    Applied(Option<Difference>),
    /// COMMIT was answered: done, or what was answered instead.
    Committed(Result<(), String>),
    /// ROLLBACK was answered.
    RolledBack,
    /// The statement outside a transaction was answered.
    Ran(Result<(), ErrorFields>),
    /// The server ends the connection, and says why.
    Farewell(String),
    /// The backend no longer makes sense; close it.
    Violation,
}

/// A backend on a replica.
#[derive(Debug)]
pub struct Applier {
    /// The connection.
    pub link: Link,
    /// Its pool.
    pub key: PoolKey,
    /// What it is doing.
    pub doing: Doing,
    /// [`Settings::id`] of what is in force; `None`: unknown.
    pub settings: Option<u64>,
    wanted: u64,
    /// Custom settings that its backend has heard of: they are NULL there no more.
    custom: BTreeSet<String>,
    prepared: Prepared,
    checker: Checker,
    error: Option<ErrorFields>,
    tag: String,
    feed: Feed,
    /// The script grows no more: when all of it has been sent, the packet ends, with SET CONSTRAINTS if so.
    complete: Option<bool>,
}

impl Applier {
    /// From a link whose connection has just been begun.
    #[must_use]
    pub fn new(link: Link, key: PoolKey) -> Applier {
        Applier {
            link,
            key,
            doing: Doing::Login,
            settings: Some(0),
            wanted: 0,
            custom: BTreeSet::new(),
            prepared: Prepared::default(),
            checker: Checker::default(),
            error: None,
            tag: String::new(),
            feed: Feed::default(),
            complete: None,
        }
    }

    /// Puts settings in force. Ends in [`Report::SettingsDone`].
    pub fn take_settings(&mut self, settings: &Settings, io: &mut dyn Io) {
        self.doing = Doing::Settings;
        self.wanted = settings.id();
        self.hears_of(settings.custom());
        self.settings = None;
        // What was parsed under other settings may mean something else now ('01/02/2024' under another DateStyle).
        self.prepared.forget();
        let mut out = BytesMut::new();
        front::query(&mut out, &settings.statement());
        io.send(self.link.conn, out.freeze());
    }

    /// It can serve a session with these settings: what it has heard of, main has too.
    #[must_use]
    pub fn fits(&self, settings: &Settings) -> bool {
        self.custom.is_empty() || {
            let known: BTreeSet<&str> = settings.custom().collect();
            self.custom.iter().all(|n| known.contains(n.as_str()))
        }
    }

    /// Custom settings that it is told of, or that a script may set.
    pub fn hears_of<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.custom.extend(names.into_iter().map(str::to_owned));
    }

    /// Sends the whole script, as far as there is room; [`Self::feed`] sends the rest. Ends in [`Report::Applied`].
    ///
    /// # Errors
    /// The script's spill file cannot be read.
    pub fn apply(&mut self, script: &Script, constraints: bool, io: &mut dyn Io) -> std::io::Result<()> {
        self.complete = Some(constraints);
        self.write(script, true, io)
    }

    /// Begins a script that is still growing.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_early(&mut self, script: &Script, io: &mut dyn Io) -> std::io::Result<()> {
        self.complete = None;
        self.write(script, true, io)
    }

    /// The script of [`Self::apply_early`] grows no more. Ends in [`Report::Applied`].
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_rest(&mut self, script: &Script, constraints: bool, io: &mut dyn Io) -> std::io::Result<()> {
        self.complete = Some(constraints);
        self.feed(script, io)
    }

    /// Sends more of the script, if there is any and the connection has room.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn feed(&mut self, script: &Script, io: &mut dyn Io) -> std::io::Result<()> {
        if self.doing == Doing::Feeding { self.write(script, false, io) } else { Ok(()) }
    }

    fn write(&mut self, script: &Script, begin: bool, io: &mut dyn Io) -> std::io::Result<()> {
        let conn = self.link.conn;
        if begin {
            self.doing = Doing::Feeding;
            self.feed = Feed::default();
        } else if io.queued(conn) > io.queue_high() {
            return Ok(());
        }
        // After an error the server skips everything up to Sync: nothing more need be sent.
        let skip = self.checker.has_difference();
        let mut w = PacketWriter::new(&mut self.prepared, &mut self.checker.answers);
        if begin {
            w.own(BEGIN);
        }
        if skip && self.complete.is_some() {
            self.feed.break_off(script, &mut w);
        }
        let mut more = !skip;
        while more {
            more = self.feed.next(script, &mut w)?;
            if w.written() > io.queue_high() {
                break;
            }
        }
        if let Some(constraints) = self.complete.filter(|_| skip || self.feed.is_level(script)) {
            self.doing = Doing::Applying;
            if constraints && !skip {
                w.own("SET CONSTRAINTS ALL IMMEDIATE");
            }
            w.sync();
        }
        for b in w.finish() {
            io.send(conn, b);
        }
        Ok(())
    }

    /// Number of entries of which the server has been sent anything.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.feed.begun()
    }

    /// COMMIT. Ends in [`Report::Committed`].
    pub fn commit(&mut self, io: &mut dyn Io) {
        self.doing = Doing::Committing;
        self.own_packet("COMMIT", io);
    }

    /// ROLLBACK. Ends in [`Report::RolledBack`].
    pub fn rollback(&mut self, io: &mut dyn Io) {
        self.doing = Doing::RollingBack;
        self.own_packet("ROLLBACK", io);
    }

    fn own_packet(&mut self, sql: &'static str, io: &mut dyn Io) {
        let mut w = PacketWriter::new(&mut self.prepared, &mut self.checker.answers);
        w.own(sql);
        w.sync();
        for b in w.finish() {
            io.send(self.link.conn, b);
        }
    }

    /// A statement outside a transaction. Ends in [`Report::Ran`].
    pub fn run(&mut self, sql: &[u8], io: &mut dyn Io) {
        self.doing = Doing::Running;
        let mut out = BytesMut::new();
        front::query(&mut out, sql);
        io.send(self.link.conn, out.freeze());
    }

    /// The script left settings behind that nobody has noted: they are asked for anew before the next one.
    pub fn forget_settings(&mut self) {
        self.settings = None;
    }

    /// Bytes of the server. `script` is what is being applied (empty if nothing is).
    pub fn received(&mut self, chunk: Bytes, script: &[Entry], io: &mut dyn Io, reports: &mut Vec<Report>) {
        self.link.framer.push(chunk);
        loop {
            match self.link.framer.next_piece() {
                Ok(Some(piece)) => {
                    let report = match self.doing {
                        Doing::Login => self.login(&piece, io),
                        Doing::Settings | Doing::Running => self.simple(&piece),
                        _ => self.packet(&piece, script),
                    };
                    reports.extend(report);
                }
                Ok(None) => return,
                Err(_) => return reports.push(Report::Violation),
            }
        }
    }

    fn login(&mut self, piece: &crate::wire::frame::Piece, io: &mut dyn Io) -> Option<Report> {
        let mut reply = Vec::new();
        let login = self.link.login(piece, &mut reply);
        for b in reply {
            io.send(self.link.conn, b);
        }
        match login {
            Login::More => None,
            Login::Ready => {
                self.doing = Doing::Idle;
                Some(Report::LoggedIn)
            }
            Login::Refused { fields, .. } => {
                // Class 28, invalid authorization, is told apart from a node that cannot be reached.
                let state = if fields.sqlstate.starts_with("28") { "28000" } else { "08006" };
                let mut e = PgError::error(state, fields.message);
                e.detail = Some(format!("SQLSTATE of the node: {}", fields.sqlstate));
                Some(Report::LoginFailed(e))
            }
            Login::Failed(e) => Some(Report::LoginFailed(e)),
        }
    }

    /// Settings and statements outside a transaction go by the simple protocol.
    fn simple(&mut self, piece: &crate::wire::frame::Piece) -> Option<Report> {
        let bytes = self.link.framer.bytes(piece);
        match piece.tag {
            b'E' => {
                let fields = ErrorFields::parse(&bytes[5..]);
                self.error.get_or_insert(fields);
                None
            }
            b'Z' => {
                let doing = std::mem::replace(&mut self.doing, Doing::Idle);
                let result = self.error.take().map_or(Ok(()), Err);
                if doing == Doing::Running {
                    return Some(Report::Ran(result));
                }
                if result.is_ok() {
                    self.settings = Some(self.wanted);
                }
                Some(Report::SettingsDone(result))
            }
            _ => None,
        }
    }

    fn packet(&mut self, piece: &crate::wire::frame::Piece, script: &[Entry]) -> Option<Report> {
        let bytes = self.link.framer.bytes(piece);
        if piece.tag == b'C' && matches!(self.doing, Doing::Committing | Doing::RollingBack) {
            crate::wire::back::tag(&bytes[5..]).clone_into(&mut self.tag);
        }
        if piece.tag == b'E' && self.checker.answers.is_empty() {
            return Some(Report::Farewell(ErrorFields::parse(&bytes[5..]).message));
        }
        match self.checker.message(script, piece.tag, bytes, piece.last) {
            Progress::More => None,
            Progress::Violation => Some(Report::Violation),
            Progress::Done(status) => Some(self.answered(status)),
        }
    }

    fn answered(&mut self, status: TxStatus) -> Report {
        self.link.status = status;
        for name in self.checker.take_unparsed() {
            self.prepared.remove(name);
        }
        let difference = self.checker.take_difference();
        match self.doing {
            Doing::Applying => {
                self.complete = None;
                if difference.as_ref().is_some_and(Difference::is_stale_plan) {
                    self.prepared.forget();
                }
                self.doing = Doing::Applied;
                Report::Applied(difference)
            }
            Doing::Committing => {
                self.doing = Doing::Idle;
                if self.tag == "COMMIT" && status == TxStatus::Idle {
                    return Report::Committed(Ok(()));
                }
                Report::Committed(Err(difference.map_or_else(|| self.tag.clone(), |d| d.to_string())))
            }
            Doing::RollingBack if status == TxStatus::Idle => {
                self.doing = Doing::Idle;
                Report::RolledBack
            }
            _ => Report::Violation,
        }
    }
}
