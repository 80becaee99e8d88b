//! From a request to messages, and to what each of them must be answered with.
//!
//! By which messages a statement is run (values in its text or as parameters, in text or binary; named or not; with
//! Describe, Flush, a portal with a row limit; COPY data at once or when it is asked for) is chosen here, anew each time.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::names::{Key, Names, Types, Way};
use crate::sim::schedule::Random;
use crate::sim::workload::{Copy, CopyEnd, How, Request, Statement};
use crate::wire::{back, front};

/// What one message must be answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    /// Query: each statement's answer, then ReadyForQuery.
    Query,
    /// ParseComplete of a named statement.
    ParseNamed(String),
    /// ParseComplete of the unnamed statement.
    ParseUnnamed(u64, Key),
    /// BindComplete.
    Bind,
    /// ParameterDescription with so many; what follows is [`Expect::Fields`].
    Parameters(usize),
    /// RowDescription with so many columns, or NoData.
    Fields(usize),
    /// Rows of the request's statement, at most so many if that is not 0; `last`: no other Execute of it follows.
    Execute { at: usize, limit: u32, last: bool, binary: bool },
    /// CloseComplete of a portal.
    ClosePortal,
    /// CloseComplete of a statement.
    CloseStatement(String),
    /// ReadyForQuery.
    Sync,
}

/// A request as it is said.
#[derive(Debug, Default)]
pub(super) struct Speech {
    /// What leaves at once.
    pub(super) out: BytesMut,
    /// What it must be answered with, in order.
    pub(super) expects: VecDeque<Expect>,
    /// COPY data that leaves when the server asks for it, statement by statement.
    pub(super) held: VecDeque<Vec<BytesMut>>,
    /// No Sync stands in front of the held data: the one behind it is owed even if the data is not wanted.
    pub(super) sync_owed: bool,
}

/// What surrounds a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Nothing is sent behind it before it is answered.
    pub(super) alone: bool,
    /// It stands in a block that was begun before.
    pub(super) in_block: bool,
    /// What [`crate::sim::workload::Arg::Kept`] stands for.
    pub(super) kept: Option<i64>,
}

/// Chooses messages.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) names: Names,
    random: Random,
    units: u64,
    portals: u64,
    /// This client likes parameters, or does not.
    fond: usize,
    /// How many Flushes it sends, in percent of where one may stand.
    flushes: usize,
}

impl Speaker {
    pub(super) fn new(flushes: usize, mut random: Random) -> Speaker {
        let fond = [20, 70, 100][random.below(3)];
        Speaker { names: Names::default(), random, units: 0, portals: 0, fond, flushes }
    }

    pub(super) fn say(&mut self, request: &Request, place: Place) -> Speech {
        let mut speech = Speech::default();
        match request.how {
            How::Simple => self.query(request, place, &mut speech),
            How::Extended => {
                for (at, s) in request.statements.iter().enumerate() {
                    let alone = place.alone && request.statements.len() == 1;
                    if let Some(copy) = &s.copy {
                        self.copy(at, s, copy, alone, &mut speech);
                    } else {
                        self.statement(at, s, Place { in_block: place.in_block && alone, ..place }, &mut speech);
                    }
                }
                if speech.held.is_empty() {
                    self.sync(&mut speech);
                }
            }
        }
        speech
    }

    fn sync(&mut self, speech: &mut Speech) {
        self.units += 1;
        speech.out.put_slice(front::SYNC);
        speech.expects.push_back(Expect::Sync);
    }

    fn query(&mut self, request: &Request, place: Place, speech: &mut Speech) {
        self.names.unnamed_goes();
        self.units += 1;
        let all: Vec<String> = request.statements.iter().map(|s| s.literal(place.kept)).collect();
        front::query(&mut speech.out, all.join("; ").as_bytes());
        speech.expects.push_back(Expect::Query);
        let eager = !place.alone || self.random.percent(30);
        for copy in request.statements.iter().filter_map(|s| s.copy.as_ref()) {
            let pieces = self.data(copy);
            if eager {
                pieces.iter().for_each(|p| speech.out.put_slice(p));
            } else {
                speech.held.push_back(pieces);
            }
        }
    }

    fn copy(&mut self, at: usize, s: &Statement, copy: &Copy, alone: bool, speech: &mut Speech) {
        self.statement(at, s, Place { alone, in_block: false, kept: None }, speech);
        let mut pieces = self.data(copy);
        if !alone || self.random.percent(30) {
            pieces.iter().for_each(|p| speech.out.put_slice(p));
            return;
        }
        // A Sync that stands in front of the data is lost on a server that copies (the usual thing: libpq does so).
        if self.random.percent(50) {
            self.sync(speech);
        } else {
            speech.out.put_slice(front::FLUSH);
            speech.expects.push_back(Expect::Sync);
            self.units += 1;
            speech.sync_owed = true;
        }
        pieces.push(BytesMut::from(front::SYNC));
        speech.held.push_back(pieces);
    }

    /// COPY's messages, cut anywhere.
    fn data(&mut self, copy: &Copy) -> Vec<BytesMut> {
        let all = copy.lines.concat();
        let mut rest = all.as_bytes();
        let mut pieces = Vec::new();
        let piece = |tag, bytes: &[u8]| {
            let mut out = BytesMut::new();
            back::message(&mut out, tag, |b| b.put_slice(bytes));
            out
        };
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + self.random.below(rest.len()));
            pieces.push(piece(b'd', now));
            rest = later;
            if copy.end == CopyEnd::Fail && self.random.percent(30) {
                break;
            }
        }
        pieces.push(if copy.end == CopyEnd::Fail { piece(b'f', b"changed my mind\0") } else { piece(b'c', b"") });
        pieces
    }

    fn maybe_flush(&mut self, may: bool, speech: &mut Speech) {
        if self.random.percent(self.flushes) && may {
            speech.out.put_slice(front::FLUSH);
        }
    }

    fn statement(&mut self, at: usize, s: &Statement, place: Place, speech: &mut Speech) {
        // A Flush may ask for its answer before the proxy knows that it stands alone, and so may be run outside a block.
        let flushes = s.tag != "DISCARD";
        let with_parameters = s.values.is_empty() || self.random.percent(self.fond);
        let types = match self.random.below(4) {
            0 if with_parameters && !s.values.is_empty() => Types::Int4,
            1 if with_parameters && !s.values.is_empty() => Types::Int8,
            _ => Types::Open,
        };
        let text = if with_parameters { s.sql.clone() } else { s.literal(place.kept) };
        let values: Vec<i64> =
            if with_parameters { s.values.iter().map(|v| v.number(place.kept)).collect() } else { Vec::new() };
        let key = (text, types);
        let name = self.prepare(&key, values.len(), with_parameters, speech);
        self.maybe_flush(flushes, speech);
        if self.random.percent(25) {
            back::message(&mut speech.out, b'D', |b| target(b, b'S', &name));
            speech.expects.push_back(Expect::Parameters(values.len()));
            speech.expects.push_back(Expect::Fields(s.columns));
            self.maybe_flush(flushes, speech);
        }
        // Without types a parameter in the target list is text; a literal is int4.
        let binary =
            s.binary && s.columns > 0 && (values.is_empty() || types != Types::Open) && self.random.percent(30);
        // A write's portal cannot be run again when its last row was fetched.
        let can_stop = s.tag == "SELECT" || s.rows.is_some_and(|n| n > 1);
        let limited = can_stop && self.random.percent(25);
        let portal = if limited && (place.in_block || self.random.percent(60)) || self.random.percent(10) {
            self.portals += 1;
            format!("p{}", self.portals)
        } else {
            String::new()
        };
        let rest = self.bind(&values, types, binary);
        front::bind_raw(&mut speech.out, &portal, &name, &rest);
        speech.expects.push_back(Expect::Bind);
        if self.random.percent(25) {
            back::message(&mut speech.out, b'D', |b| target(b, b'P', &portal));
            speech.expects.push_back(Expect::Fields(s.columns));
            self.maybe_flush(flushes, speech);
        }
        let limits = if limited { self.limits(s.rows) } else { Vec::new() };
        for limit in limits {
            front::execute(&mut speech.out, &portal, limit);
            speech.expects.push_back(Expect::Execute { at, limit, last: false, binary });
            if !portal.is_empty() && place.in_block && self.random.percent(40) {
                self.sync(speech);
            }
            self.maybe_flush(flushes, speech);
        }
        front::execute(&mut speech.out, &portal, 0);
        speech.expects.push_back(Expect::Execute { at, limit: 0, last: true, binary });
        if s.copy.is_some() {
            return;
        }
        self.maybe_flush(flushes, speech);
        if !portal.is_empty() && self.random.percent(50) {
            front::close(&mut speech.out, b'P', &portal);
            speech.expects.push_back(Expect::ClosePortal);
        }
        if self.random.percent(6) && self.names.is_present(&name) {
            self.names.closing(&name);
            front::close(&mut speech.out, b'S', &name);
            speech.expects.push_back(Expect::CloseStatement(name));
        }
    }

    /// The statement's name; Parse in front, if it is not there already.
    fn prepare(&mut self, key: &Key, values: usize, may_be_named: bool, speech: &mut Speech) -> String {
        let types = if key.1 == Types::Open { Vec::new() } else { vec![key.1.oid(); values] };
        if may_be_named && self.random.percent(50) {
            match self.names.way(key, self.units) {
                Way::There(name) => return name,
                Way::New(name) => {
                    front::parse(&mut speech.out, &name, key.0.as_bytes(), &types);
                    speech.expects.push_back(Expect::ParseNamed(name.clone()));
                    return name;
                }
                Way::Unclear => {}
            }
        }
        if !(self.names.unnamed_is(key) && self.random.percent(70)) {
            let at = self.names.unnamed_goes();
            front::parse(&mut speech.out, "", key.0.as_bytes(), &types);
            speech.expects.push_back(Expect::ParseUnnamed(at, key.clone()));
        }
        String::new()
    }

    /// A Bind behind its names.
    fn bind(&mut self, values: &[i64], types: Types, binary_results: bool) -> BytesMut {
        let mut rest = BytesMut::new();
        let formats: Vec<u16> = match self.random.below(4) {
            _ if types == Types::Open => Vec::new(),
            0 => vec![1],
            1 => values.iter().map(|_| u16::from(self.random.percent(50))).collect(),
            _ => Vec::new(),
        };
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX); // a statement has a dozen
        rest.put_u16(count(formats.len()));
        formats.iter().for_each(|f| rest.put_u16(*f));
        rest.put_u16(count(values.len()));
        for (i, value) in values.iter().enumerate() {
            let format = if formats.len() == 1 { formats[0] } else { formats.get(i).copied().unwrap_or(0) };
            let bytes = if format == 1 { types.binary(*value) } else { value.to_string().into_bytes() };
            rest.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)); // a number has at most 20 digits
            rest.put_slice(&bytes);
        }
        rest.put_u16(u16::from(binary_results));
        if binary_results {
            rest.put_u16(1);
        }
        rest
    }

    /// Row limits of all Executes of a portal but the last. Where the number of rows is known, some are left for that.
    fn limits(&mut self, rows: Option<u32>) -> Vec<u32> {
        let mut left = rows.unwrap_or(5);
        let mut all = Vec::new();
        while left > 1 && all.len() < 3 {
            let most = usize::try_from(left - 1).unwrap_or(1).min(3);
            let limit = 1 + u32::try_from(self.random.below(most)).unwrap_or(0);
            left -= limit;
            all.push(limit);
            if self.random.percent(30) {
                break;
            }
        }
        all
    }
}

fn target(b: &mut BytesMut, kind: u8, name: &str) {
    b.put_u8(kind);
    b.put_slice(name.as_bytes());
    b.put_u8(0);
}
