//! One client: a small state machine that speaks the protocol and holds every answer against what it asked.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use super::schedule::Random;
use super::workload::{ACCOUNTS, BALANCE, How, Maker, Plan, Read, Request, Statement};
use crate::session::transaction::Columns;
use crate::wire::error::ErrorFields;
use crate::wire::{back, front};

/// SQLSTATEs that a transaction may end with, whatever the proxy does.
const EXPECTED: &[&str] = &["40001", "40P01", "23505", "23503", "57014", "57P01", "25P02", "08007", "55P03", "57P03"];

/// What is known of a transaction's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The client was told that it is committed.
    Acknowledged,
    /// It is not, and will not be.
    Failed,
    /// The client does not know.
    Unknown,
}

/// A transaction that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was meant.
    pub plan: Plan,
    /// How it ended.
    pub outcome: Outcome,
    /// Lists that were read.
    pub lists: Vec<ListRead>,
}

/// A list as it was read.
#[derive(Clone, Debug)]
pub struct ListRead {
    /// Which.
    pub list: i64,
    /// The transactions that had appended to it, in order.
    pub entries: Vec<i64>,
    /// The statement's number.
    pub token: i64,
}

/// How far the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not connected.
    Away,
    /// The first ReadyForQuery is awaited.
    Starting,
    /// It may send something.
    Idle,
    /// Answers are awaited.
    Waiting,
    /// It has done everything.
    Done,
}

/// Answers to one request.
#[derive(Debug)]
struct Awaited {
    request: Request,
    /// Statements whose tag has come.
    answered: usize,
    failed: bool,
    /// The outcome of this request's own COMMIT cannot be known.
    unknown: bool,
    rows: Vec<i64>,
}

/// One client.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// How far it is.
    pub state: State,
    /// Its connection: shard and slot.
    pub conn: Option<(usize, u32)>,
    /// Pid and secret for a CancelRequest.
    pub key: Option<(u32, u32)>,
    /// Bytes for the proxy.
    pub out: BytesMut,
    /// Transactions that have ended.
    pub records: Vec<Record>,
    /// Transactions to come.
    pub left: usize,
    /// What was not as it must be.
    pub wrong: Option<String>,
    maker: Maker,
    input: BytesMut,
    awaited: VecDeque<Awaited>,
    current: Option<Plan>,
    sent: usize,
    /// A COMMIT is under way, or what commits by itself.
    commit_sent: bool,
    acknowledged: bool,
    kept: Option<String>,
    lists: Vec<ListRead>,
}

impl Client {
    /// A client that has this many transactions to do; `modes` are the maker's.
    #[must_use]
    pub fn new(number: usize, left: usize, modes: (bool, bool), random: Random) -> Client {
        Client {
            number,
            state: State::Away,
            conn: None,
            key: None,
            out: BytesMut::new(),
            records: Vec::new(),
            left,
            wrong: None,
            maker: Maker::new(number, modes.0, modes.1, random),
            input: BytesMut::new(),
            awaited: VecDeque::new(),
            current: None,
            sent: 0,
            commit_sent: false,
            acknowledged: false,
            kept: None,
            lists: Vec::new(),
        }
    }

    /// What the current transaction is, for traces.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        self.current.as_ref().map_or("nothing", |p| p.kind)
    }

    /// A transaction is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// It can do something by itself.
    #[must_use]
    pub fn can_act(&self) -> bool {
        matches!(self.state, State::Away | State::Idle)
    }

    /// The connection stands: the start-up packet leaves.
    pub fn connected(&mut self, conn: (usize, u32)) {
        self.conn = Some(conn);
        self.state = State::Starting;
        front::startup(&mut self.out, [("user", "postgres"), ("database", "d")]);
    }

    /// Sends the next request.
    pub fn act(&mut self) {
        if self.current.is_none() {
            if self.left == 0 {
                self.out.extend_from_slice(front::TERMINATE);
                self.state = State::Done;
                return;
            }
            self.left -= 1;
            self.current = Some(self.maker.plan());
            self.sent = 0;
        }
        let Some(plan) = &self.current else { return };
        let (early, from) = (plan.early, self.sent);
        let to = if early { plan.requests.len() } else { from + 1 };
        let requests: Vec<Request> = plan.requests[from..to].to_vec();
        let explicit = plan.requests.first().is_some_and(|r| r.statements[0].tag == "BEGIN");
        self.sent = to;
        for request in requests {
            self.commit_sent |= !explicit || request.statements.iter().any(|s| s.tag == "COMMIT");
            self.send(request);
        }
    }

    fn send(&mut self, mut request: Request) {
        for s in &mut request.statements {
            if let Some(kept) = self.kept.as_ref().filter(|_| s.sql.contains("$n")) {
                s.sql = s.sql.replace("$n", kept);
            }
        }
        match request.how {
            How::Simple => {
                let all: Vec<&str> = request.statements.iter().map(|s| s.sql.as_str()).collect();
                front::query(&mut self.out, all.join("; ").as_bytes());
            }
            How::Extended => {
                for s in &request.statements {
                    front::parse(&mut self.out, "", s.sql.as_bytes(), &[]);
                    front::bind_raw(&mut self.out, "", "", front::BIND_NOTHING);
                    front::execute(&mut self.out, "", 0);
                }
                self.out.extend_from_slice(front::SYNC);
            }
        }
        self.awaited.push_back(Awaited { request, answered: 0, failed: false, unknown: false, rows: Vec::new() });
        self.state = State::Waiting;
    }

    fn is_wrong(&mut self, what: impl Into<String>) {
        let now = self
            .awaited
            .front()
            .map(|a| a.request.statements.get(a.answered).map_or("ReadyForQuery".to_owned(), |s| s.sql.clone()));
        let what = format!("client {}: {} (awaiting {now:?})", self.number, what.into());
        self.wrong.get_or_insert(what);
    }

    /// Bytes of the proxy.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.input.len() >= 5 {
            let length = u32::from_be_bytes([self.input[1], self.input[2], self.input[3], self.input[4]]) as usize + 1;
            if self.input.len() < length || self.wrong.is_some() {
                return;
            }
            let message = self.input.split_to(length);
            self.message(&message);
        }
    }

    fn message(&mut self, message: &[u8]) {
        let body = &message[5..];
        match message[0] {
            b'K' => {
                let mut b = body;
                self.key = Some((b.get_u32(), b.get_u32()));
            }
            b'R' | b'S' | b'N' => {}
            b'E' => self.error(&ErrorFields::parse(body)),
            b'Z' => self.ready(body.first().copied().unwrap_or(0)),
            tag if self.awaited.is_empty() => self.is_wrong(format!("message {:?} was not asked for", char::from(tag))),
            b'1' | b'2' | b'T' | b'n' | b't' => {}
            b'D' => self.row(message),
            b'C' => self.tag(back::tag(body)),
            tag => self.is_wrong(format!("unexpected message {:?}", char::from(tag))),
        }
    }

    fn awaited_statement(&self) -> Option<&Statement> {
        let a = self.awaited.front().filter(|a| !a.failed)?;
        a.request.statements.get(a.answered)
    }

    fn row(&mut self, message: &[u8]) {
        let Some(s) = self.awaited_statement() else { return self.is_wrong("a row behind the last answer") };
        let (token, read) = (s.token, s.read);
        let columns: Vec<String> = Columns::new(message)
            .into_iter()
            .flatten()
            .map(|c| c.map_or_else(String::new, |v| String::from_utf8_lossy(v).into_owned()))
            .collect();
        if columns.last().is_none_or(|c| *c != token.to_string()) {
            return self.is_wrong(format!("a row {columns:?} of another statement"));
        }
        let first = columns[0].parse::<i64>().unwrap_or(i64::MIN);
        match read {
            Read::Nothing => {}
            Read::Total if first != ACCOUNTS * BALANCE => self.is_wrong(format!("the bank's total is {first}")),
            Read::Total => {}
            Read::Keep => self.kept = Some(columns[0].clone()),
            Read::List(_) | Read::Accounts => {
                if let Some(a) = self.awaited.front_mut() {
                    a.rows.push(first);
                }
            }
        }
    }

    fn tag(&mut self, tag: &str) {
        let Some(s) = self.awaited_statement() else {
            return self.is_wrong(format!("tag {tag} behind the last answer"));
        };
        let (expected, read, token) = (s.tag, s.read, s.token);
        let word = tag.split(' ').next().unwrap_or_default();
        let rolled_back = expected == "COMMIT" && word == "ROLLBACK";
        if word != expected && !rolled_back {
            return self.is_wrong(format!("tag {tag}"));
        }
        self.acknowledged |= word == "COMMIT";
        if let Some(a) = self.awaited.front_mut() {
            a.answered += 1;
            a.failed |= rolled_back;
            let rows = std::mem::take(&mut a.rows);
            match read {
                Read::List(list) => self.lists.push(ListRead { list, entries: rows, token }),
                Read::Accounts if rows.len() as i64 != ACCOUNTS || rows.iter().sum::<i64>() != ACCOUNTS * BALANCE => {
                    self.is_wrong(format!("the accounts have {rows:?}"));
                }
                _ => {}
            }
        }
    }

    fn error(&mut self, e: &ErrorFields) {
        if !EXPECTED.contains(&e.sqlstate.as_str()) {
            return self.is_wrong(format!("{} {}: {}", e.severity, e.sqlstate, e.message));
        }
        if e.severity == "FATAL" {
            return;
        }
        match self.awaited.front_mut() {
            Some(a) if a.failed => self.is_wrong(format!("a second error for one request: {}", e.message)),
            Some(a) => {
                a.failed = true;
                a.unknown = e.sqlstate == "08007";
            }
            None => self.is_wrong(format!("an error that was not asked for: {}", e.message)),
        }
    }

    fn ready(&mut self, status: u8) {
        if self.state == State::Starting {
            self.state = State::Idle;
            return;
        }
        let Some(a) = self.awaited.pop_front() else { return self.is_wrong("ReadyForQuery was not asked for") };
        if !a.failed && a.answered < a.request.statements.len() {
            self.awaited.push_front(a);
            return self.is_wrong("ReadyForQuery before the last answer");
        }
        let Some(plan) = &self.current else { return self.is_wrong("ReadyForQuery without a transaction") };
        let explicit = plan.requests.first().is_some_and(|r| r.statements[0].tag == "BEGIN");
        let more = self.sent < plan.requests.len();
        if !self.awaited.is_empty() {
            return;
        }
        match status {
            b'I' if a.unknown => self.ended(Outcome::Unknown),
            b'I' if self.acknowledged || (!explicit && !a.failed) => self.ended(Outcome::Acknowledged),
            b'I' => self.ended(Outcome::Failed),
            b'E' if a.request.savepoint.is_some() => {
                let back = "ROLLBACK TO SAVEPOINT s".to_owned();
                let s = Statement { sql: back, tag: "ROLLBACK", token: 0, read: Read::Nothing };
                self.send(Request { statements: vec![s], how: How::Simple, savepoint: None });
            }
            b'E' => {
                let s = Statement { sql: "ROLLBACK".into(), tag: "ROLLBACK", token: 0, read: Read::Nothing };
                self.commit_sent = false;
                self.send(Request { statements: vec![s], how: How::Simple, savepoint: None });
            }
            b'T' if more => self.state = State::Idle,
            _ => self.is_wrong(format!("status {:?} at the end of a transaction", char::from(status))),
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        if let Some(plan) = self.current.take() {
            self.records.push(Record { plan, outcome, lists: std::mem::take(&mut self.lists) });
        }
        self.awaited.clear();
        self.commit_sent = false;
        self.acknowledged = false;
        self.kept = None;
        self.state = State::Idle;
    }

    /// The connection is gone, by whoever's doing. It will connect again if something is left to do.
    pub fn gone(&mut self) {
        self.conn = None;
        self.key = None;
        self.input.clear();
        self.out.clear();
        if self.state == State::Done {
            return;
        }
        let outcome = match (self.acknowledged, self.commit_sent) {
            (true, _) => Outcome::Acknowledged,
            (false, true) => Outcome::Unknown,
            (false, false) => Outcome::Failed,
        };
        self.ended(outcome);
        self.state = if self.left == 0 { State::Done } else { State::Away };
    }
}
