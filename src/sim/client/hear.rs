//! What the client is told, held against what it has asked, message by message.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use super::speak::{Expect, Speech};
use super::{Client, ListRead, State};
use crate::session::transaction::Columns;
use crate::sim::workload::{ACCOUNTS, BALANCE, CopyEnd, FEW, LIST, Read, Request, Statement};
use crate::wire::back;
use crate::wire::error::ErrorFields;

/// SQLSTATEs that a transaction may end with, whatever the proxy does.
const EXPECTED: &[&str] = &["40001", "40P01", "23505", "23503", "57014", "57P01", "25P02", "08007", "55P03", "57P03"];

/// Answers to one request.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) request: Request,
    /// What each message is answered with.
    expects: VecDeque<Expect>,
    /// COPY data for when it is asked for.
    held: VecDeque<Vec<BytesMut>>,
    sync_owed: bool,
    /// It commits something.
    commits: bool,
    /// Of a Query: the statement whose answer is coming.
    at: usize,
    /// Its RowDescription has come.
    described: bool,
    /// It has asked for COPY data.
    copying: bool,
    /// Rows that the running Execute (or statement of a Query) has returned.
    fetched: u32,
    /// First columns of the rows of the running statement.
    rows: Vec<i64>,
    /// An error has come since the last ReadyForQuery.
    unit_failed: bool,
    pub(super) failed: bool,
    /// The outcome of this request's own COMMIT cannot be known.
    pub(super) unknown: bool,
}

impl Awaited {
    pub(super) fn new(request: Request, speech: &Speech, commits: bool) -> Awaited {
        Awaited {
            request,
            expects: speech.expects.clone(),
            held: speech.held.clone(),
            sync_owed: speech.sync_owed,
            commits,
            at: 0,
            described: false,
            copying: false,
            fetched: 0,
            rows: Vec::new(),
            unit_failed: false,
            failed: false,
            unknown: false,
        }
    }

    /// All its data has been sent, and with it what commits.
    pub(super) fn commits_now(&self) -> bool {
        self.commits && self.held.is_empty()
    }

    /// The statement whose rows and tag are coming, whether its rows come in binary, and how many may come.
    fn running(&self) -> Option<(&Statement, bool, u32)> {
        if self.unit_failed {
            return None;
        }
        match self.expects.front()? {
            Expect::Query => self.request.statements.get(self.at).map(|s| (s, false, 0)),
            Expect::Execute { at, limit, binary, .. } => Some((&self.request.statements[*at], *binary, *limit)),
            _ => None,
        }
    }

    /// Rows may come: they were described where they must be.
    fn may_return(&self) -> bool {
        let is_query = self.expects.front() == Some(&Expect::Query);
        self.running().is_some_and(|(s, _, _)| s.columns > 0 && (self.described || !is_query))
    }
}

impl Client {
    pub(super) fn is_wrong(&mut self, what: impl Into<String>) {
        let now = self.flights.front().and_then(|f| f.awaited.front()).map(|a| {
            let texts: Vec<&str> = a.request.statements.iter().map(|s| s.sql.as_str()).collect();
            format!("{:?} of {texts:?}, statement {}", a.expects.front(), a.at)
        });
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
        let mut body = &message[5..];
        match message[0] {
            b'K' => self.key = Some((body.get_u32(), body.get_u32())),
            b'R' | b'S' | b'N' => {}
            b'E' => self.error(&ErrorFields::parse(body)),
            b'Z' => self.ready(body.first().copied().unwrap_or(0)),
            b'D' => self.row(message),
            b'C' => self.tag(back::tag(body)),
            b'G' => self.copy_begins(body),
            tag => {
                if !self.fits(tag, body) {
                    self.is_wrong(format!("message {:?} was not asked for", char::from(tag)));
                }
            }
        }
    }

    fn front(&mut self) -> Option<&mut Awaited> {
        self.flights.front_mut().and_then(|f| f.awaited.front_mut())
    }

    /// Messages that say no more than that something is done, or what it will look like.
    fn fits(&mut self, tag: u8, body: &[u8]) -> bool {
        let Some(a) = self.flights.front_mut().and_then(|f| f.awaited.front_mut()) else { return false };
        let Some(expect) = a.expects.front().filter(|_| !a.unit_failed).cloned() else { return false };
        let count = body.get(..2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        match (tag, &expect) {
            (b'1', Expect::ParseNamed(name)) => self.speaker.names.parsed(name, true),
            (b'1', Expect::ParseUnnamed(at, key)) => self.speaker.names.unnamed_parsed(*at, key.clone()),
            (b'2', Expect::Bind) | (b'3', Expect::ClosePortal) => {}
            (b'3', Expect::CloseStatement(name)) => self.speaker.names.closed(name, true),
            (b't', Expect::Parameters(n)) if *n == count => {}
            (b'T', Expect::Fields(n)) if *n == count && count > 0 => {}
            (b'n', Expect::Fields(0)) => {}
            (b'T', Expect::Query) => {
                let right = a.running().is_some_and(|(s, _, _)| s.columns == count) && !a.described;
                a.described = true;
                return right && count > 0;
            }
            (b's', Expect::Execute { limit, last: false, .. }) if *limit == a.fetched => a.fetched = 0,
            _ => return false,
        }
        if let Some(a) = self.front() {
            a.expects.pop_front();
        }
        true
    }

    fn row(&mut self, message: &[u8]) {
        let Some(a) = self.front() else { return self.is_wrong("a row that was not asked for") };
        let Some((s, binary, limit)) = a.running().filter(|_| a.may_return()) else {
            return self.is_wrong("a row behind the last answer");
        };
        let (token, read, width) = (s.token, s.read, s.columns);
        let number = |v: &[u8]| match (binary, v.len()) {
            (true, 4) => v.try_into().ok().map(|b| i64::from(i32::from_be_bytes(b))),
            (true, 8) => v.try_into().ok().map(i64::from_be_bytes),
            (true, _) => None,
            (false, _) => std::str::from_utf8(v).ok().and_then(|t| t.parse().ok()),
        };
        let columns: Vec<Option<i64>> =
            Columns::new(message).into_iter().flatten().map(|c| c.and_then(number)).collect();
        if columns.last().copied().flatten() != Some(token) || columns.len() != width {
            return self.is_wrong(format!("a row {columns:?} of another statement"));
        }
        let first = columns[0].unwrap_or(i64::MIN);
        a.fetched += 1;
        a.rows.push(first);
        if limit > 0 && a.fetched > limit {
            return self.is_wrong("more rows than were asked for");
        }
        match read {
            Read::Total if first != ACCOUNTS * BALANCE => self.is_wrong(format!("the bank's total is {first}")),
            Read::Keep => {
                if let Some(f) = self.flights.front_mut() {
                    f.kept = Some(first);
                }
            }
            _ => {}
        }
    }

    fn copy_begins(&mut self, body: &[u8]) {
        let wants = |a: &&mut Awaited| !a.copying && a.running().is_some_and(|(s, _, _)| s.copy.is_some());
        let Some(a) = self.flights.front_mut().and_then(|f| f.awaited.front_mut()).filter(wants) else {
            return self.is_wrong("COPY data is wanted, and nobody copies");
        };
        a.copying = true;
        a.sync_owed = false;
        if let Some(pieces) = a.held.pop_front() {
            self.pieces.extend(pieces);
            self.state = State::Copying;
        }
        if body.first() != Some(&0) {
            self.is_wrong("COPY data is wanted in binary");
        }
    }

    fn tag(&mut self, tag: &str) {
        let Some(a) = self.front() else { return self.is_wrong(format!("tag {tag} was not asked for")) };
        let Some((s, _, limit)) = a.running() else {
            return self.is_wrong(format!("tag {tag} behind the last answer"));
        };
        let (expected, read, token, last) = (s.tag, s.read, s.token, a.expects.front().is_some_and(is_last));
        let word = tag.split(' ').next().unwrap_or_default();
        let rolled_back = expected == "COMMIT" && word == "ROLLBACK";
        if word != expected && !rolled_back {
            return self.is_wrong(format!("tag {tag}"));
        }
        // A portal of a SELECT counts what this Execute has fetched, any other all it has returned.
        let count = if expected == "SELECT" { u64::from(a.fetched) } else { a.rows.len() as u64 };
        let counts = s.columns > 0 && back::tag_count(tag) != Some(count);
        let described = s.columns == 0 || a.described || a.expects.front() != Some(&Expect::Query);
        let copied = s
            .copy
            .as_ref()
            .is_none_or(|c| a.copying && c.end == CopyEnd::Done && back::tag_count(tag) == Some(c.lines.len() as u64));
        let suspended = limit > 0 && a.fetched == limit;
        if counts || !described || !copied || suspended || (!last && expected != "SELECT") {
            let fetched = a.fetched;
            return self.is_wrong(format!("tag {tag} behind {fetched} rows"));
        }
        a.fetched = 0;
        if a.expects.front() == Some(&Expect::Query) {
            a.at += 1;
        } else {
            a.expects.pop_front();
        }
        a.failed |= rolled_back;
        if !last {
            return;
        }
        (a.copying, a.described) = (false, false);
        let rows = std::mem::take(&mut a.rows);
        if let Some(f) = self.flights.front_mut() {
            f.acknowledged |= word == "COMMIT";
        }
        self.has_read(read, token, rows);
    }

    /// A statement's rows are complete.
    fn has_read(&mut self, read: Read, token: i64, rows: Vec<i64>) {
        let sum = rows.iter().sum::<i64>();
        let Some(f) = self.flights.front_mut() else { return };
        // Of one row: other commits may be under way.
        let of_one = matches!(read, Read::Length(_));
        if token > 0 {
            f.tokens.push(token);
            f.of_one.extend(of_one.then_some(token));
        }
        match read {
            Read::List(list) => f.lists.push(ListRead { list, entries: rows, length: None, token }),
            Read::Lists => f.lists.extend((1..=FEW).map(|list| {
                let entries = rows.iter().filter(|n| *n / LIST == list).map(|n| n % LIST).collect();
                ListRead { list, entries, length: None, token }
            })),
            Read::Length(list) => {
                f.lists.push(ListRead { list, entries: Vec::new(), length: rows.first().copied(), token })
            }
            Read::Account(k) => f.accounts.push((k, sum)),
            Read::Balance(k) | Read::Entries(k) => f.ledgers.push((k, sum)),
            Read::Accounts if rows.len() as i64 != ACCOUNTS || sum != ACCOUNTS * BALANCE => {
                self.is_wrong(format!("the accounts have {rows:?}"));
            }
            _ => {}
        }
    }

    fn error(&mut self, e: &ErrorFields) {
        let code = e.sqlstate.as_str();
        let of_its_own = self.front().is_some_and(|a| {
            let malformed = |s: &Statement| s.copy.as_ref().is_some_and(|c| c.end == CopyEnd::Malformed);
            // A portal whose Bind was skipped is not there.
            (code == "22P04" && a.running().is_some_and(|(s, _, _)| malformed(s))) || (code == "34000" && a.failed)
        });
        // A savepoint that an earlier error has swallowed, in what was sent at once.
        let of_its_own = of_its_own || (code == "3B001" && self.flights.front().is_some_and(|f| f.plan.early));
        if !EXPECTED.contains(&code) && !of_its_own {
            return self.is_wrong(format!("{} {}: {}", e.severity, e.sqlstate, e.message));
        }
        if e.severity == "FATAL" {
            return;
        }
        let Some(a) = self.flights.front_mut().and_then(|f| f.awaited.front_mut()) else {
            return self.is_wrong(format!("an error that was not asked for: {}", e.message));
        };
        if a.unit_failed {
            return self.is_wrong(format!("a second error for one request: {}", e.message));
        }
        (a.unit_failed, a.failed) = (true, true);
        a.unknown = code == "08007";
        (a.copying, a.described, a.fetched) = (false, false, 0);
        a.rows.clear();
        a.held.clear();
        // What stands between here and the next Sync is skipped.
        while let Some(expect) = a.expects.front().filter(|e| !matches!(e, Expect::Query | Expect::Sync)) {
            match expect {
                Expect::ParseNamed(name) => self.speaker.names.parsed(name, false),
                Expect::CloseStatement(name) => self.speaker.names.closed(name, false),
                _ => {}
            }
            a.expects.pop_front();
        }
        if std::mem::take(&mut a.sync_owed) {
            self.out.extend_from_slice(crate::wire::front::SYNC);
        }
        // It may go on with its data all the same: a server that has failed does not look at it.
        if self.state == State::Copying && self.random.percent(50) {
            let sync = self.pieces.pop_back().filter(|p| p.first() == Some(&b'S'));
            self.pieces.clear();
            self.out.extend(sync.into_iter().flatten());
            self.state = State::Waiting;
        }
    }

    fn ready(&mut self, status: u8) {
        if self.state == State::Starting {
            self.state = State::Idle;
            return;
        }
        let Some(a) = self.front() else { return self.is_wrong("ReadyForQuery was not asked for") };
        let complete = match a.expects.front() {
            Some(Expect::Query) => a.unit_failed || a.at == a.request.statements.len(),
            Some(Expect::Sync) => true,
            _ => false,
        };
        if !complete {
            return self.is_wrong("ReadyForQuery before the last answer");
        }
        a.expects.pop_front();
        a.unit_failed = false;
        if !a.expects.is_empty() {
            return;
        }
        let done = self.flights.front_mut().and_then(|f| f.awaited.pop_front());
        if let Some(a) = done {
            self.answered(&a, status);
        }
    }
}

/// The statement's answer ends with this message's.
fn is_last(expect: &Expect) -> bool {
    !matches!(expect, Expect::Execute { last: false, .. })
}
