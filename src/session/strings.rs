//! Strings of several statements: what PostgreSQL does with the whole string although the session runs its parts.
//!
//! PostgreSQL parses the whole string before it runs the first statement (`pg_parse_query` in `exec_simple_query`,
//! postgres.c), so a syntax error in the last one means that none has run. The session sends the statements one by
//! one, so it has the server parse the string first: a Parse message of several commands is parsed to its end and then
//! refused by `exec_parse_message` itself, which the error's routine field tells apart from a syntax error; a
//! syntax error is then the client's, position included. That costs a round trip once per shape of string, and in an
//! open block a savepoint, since the refusal would end it.
//!
//! Errors of single statements name positions in the text that the server was sent; the client means its own string.

use bytes::{Bytes, BytesMut};

use super::io::Cx;
use super::owed::{Asked, Own, Whose};
use super::simple::Simple;
use super::transaction::{Target, Tx, modes_statement};
use super::{Request, Session};
use crate::sql::class::TxModes;
use crate::wire::error::{ErrorFields, with_position_moved};
use crate::wire::front;

/// Where the server goes back to when it has parsed a string in an open block.
const SAVEPOINT: &[u8] = b"SAVEPOINT _pgls_string";
const BACK: &[u8] = b"ROLLBACK TO SAVEPOINT _pgls_string; RELEASE SAVEPOINT _pgls_string";
/// The routine of PostgreSQL's that refuses a Parse message of several commands.
const REFUSES_SEVERAL: &str = "exec_parse_message";

/// How far the whole string's syntax has been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Syntax {
    /// It is known to be right, or is a single statement, whose syntax is looked at when it is run.
    #[default]
    Known,
    /// The server has been asked; in an open block, behind a savepoint.
    Asked { savepoint: bool },
}

impl Session {
    /// The string has several statements, and nobody knows whether all of them can be parsed: the server is asked.
    /// True: its answer is awaited.
    pub(super) fn ask_syntax(&mut self, cx: &mut Cx<'_>) -> bool {
        let Request::Simple(s) = &self.request else { return false };
        if !s.is_several() || self.is_known_string(s, cx) {
            return false;
        }
        let target = self.tx.target().unwrap_or(Target::Lane);
        let savepoint = self.tx.open().is_some_and(|o| !o.failed);
        let mut parse = BytesMut::new();
        front::parse(&mut parse, "", s.text(), &[]);
        if savepoint {
            self.own_query(target, SAVEPOINT, cx);
        }
        if let Some(l) = self.link(target) {
            l.unnamed = None;
        }
        self.forward(target, parse.freeze(), Asked::Parse, Whose::Own(Own::Syntax), cx);
        self.sync_own(target, Own::Syntax, cx);
        if let Request::Simple(s) = &mut self.request {
            s.syntax = Syntax::Asked { savepoint };
        }
        true
    }

    fn own_query(&mut self, target: Target, sql: &[u8], cx: &mut Cx<'_>) {
        let mut out = BytesMut::new();
        front::query(&mut out, sql);
        self.forward(target, out.freeze(), Asked::Query, Whose::Own(Own::Tidy), cx);
    }

    fn is_known_string(&self, s: &Simple, cx: &Cx<'_>) -> bool {
        let text = std::str::from_utf8(s.text());
        text.is_ok_and(|t| cx.env.verdicts.borrow_mut().is_parsed(t, self.std_strings))
    }

    /// The server has parsed the whole string, or says why it cannot.
    pub(super) fn syntax_answered(&mut self, target: Target, error: Option<Bytes>, cx: &mut Cx<'_>) {
        let Request::Simple(s) = &mut self.request else { return };
        let Syntax::Asked { savepoint } = std::mem::take(&mut s.syntax) else { return };
        let wrong = error.filter(|raw| ErrorFields::parse(&raw[5..]).routine != REFUSES_SEVERAL);
        if let Some(raw) = wrong {
            // An error in an open block has ended it, as it should.
            match &mut self.tx {
                Tx::Open(o) => o.failed = true,
                Tx::Begun(_) => self.fail_transaction(cx),
                Tx::Idle => {}
            }
            self.out.push(raw);
            self.step_failed();
            return self.run_steps(cx);
        }
        if let Ok(text) = std::str::from_utf8(s.text()) {
            cx.env.verdicts.borrow_mut().remember_parsed(text, self.std_strings);
        }
        if savepoint {
            self.own_query(target, BACK, cx);
        }
        self.run_steps(cx);
    }

    /// An error of a single statement, with its position in the whole string.
    pub(super) fn with_clients_position(&self, error: &[u8]) -> Option<Bytes> {
        let Request::Simple(s) = &self.request else { return None };
        let before = s.before_step().filter(|b| !b.is_empty())?;
        let utf8 = self.settings.value("client_encoding").is_none_or(|e| e.eq_ignore_ascii_case("utf8"));
        let characters = if utf8 { String::from_utf8_lossy(before).chars().count() } else { before.len() };
        with_position_moved(error, characters)
    }

    /// BEGIN with modes behind other statements: the block is open already, and they are set as `BEGIN` would set them,
    /// with the server's word on whether it is too late for that.
    pub(super) fn set_modes(&mut self, modes: &TxModes, cx: &mut Cx<'_>) {
        self.send_own_in(Target::Lane, modes_statement(modes), Own::Modes, "_pgls", front::BIND_NOTHING, cx);
    }
}
