//! What a client may be told: a model of owed replies that knows nothing of how the session keeps them.
//!
//! It reads both streams of the client as PostgreSQL's protocol chapter has them: every message of the client asks for
//! what its type says, replies come in the order of the requests, an error skips to the next Sync, and nothing comes
//! that was not asked for.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;

use super::backend::{answered_token, tokens};
use crate::wire::error::ErrorFields;
use crate::wire::front::{Bind, Parse, read_execute, read_target};
use crate::wire::{read_u32, split_cstr, version};

/// A message of the client's, by what it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Query,
    Parse,
    Bind,
    DescribeStatement,
    DescribePortal,
    Execute,
    Close,
    Flush,
    /// Flush with a body, which is an error.
    FlushMore,
    Sync,
    Function,
    CopyData,
    CopyEnd,
    Terminate,
    /// No message that there is.
    Bad,
}

/// How far the reply to the oldest request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Start,
    /// RowDescription (ParameterDescription for a Describe) has come.
    Described,
    /// Rows of an Execute have come.
    Rows,
    /// A statement of a Query is complete; the call has returned.
    Complete,
    /// CopyInResponse has come; `data`: and the client has sent some.
    CopyIn {
        data: bool,
    },
    /// The client's COPY data has ended, or the server's.
    CopyEnd,
    CopyOut,
    Failed,
}

#[derive(Debug)]
struct Ask {
    kind: Kind,
    /// Numbers that its reply may name.
    tokens: Vec<u32>,
}

/// The model.
#[derive(Debug)]
pub struct Model {
    /// The client's bytes before its StartupMessage is complete.
    startup: Option<BytesMut>,
    /// Single bytes that answer SSLRequest and GSSENCRequest.
    refusals: usize,
    /// ReadyForQuery has come for the first time.
    admitted: bool,
    input: BytesMut,
    /// The client's stream cannot be cut into messages any more.
    broken: bool,
    queue: VecDeque<Ask>,
    stage: Stage,
    /// An error was told, and no Sync has come since.
    skipping: bool,
    /// Syncs that stood among COPY data which failed: whether they were before or behind the failure only the server
    /// knows, so each may be answered or not.
    maybe: usize,
    statements: HashMap<String, Vec<u32>>,
    portals: HashMap<String, Vec<u32>>,
    output: BytesMut,
    /// A FATAL error has been told.
    last_words: bool,
    /// Nodes have told no lies, so numbers must be right.
    pub honest: bool,
    /// Replies so far, by type.
    pub told: usize,
}

type Check = Result<(), String>;

impl Model {
    /// A client that has connected.
    pub fn new(honest: bool) -> Model {
        Model {
            startup: Some(BytesMut::new()),
            refusals: 0,
            admitted: false,
            input: BytesMut::new(),
            broken: false,
            queue: VecDeque::new(),
            stage: Stage::Start,
            skipping: false,
            maybe: 0,
            statements: HashMap::new(),
            portals: HashMap::new(),
            output: BytesMut::new(),
            last_words: false,
            honest,
            told: 0,
        }
    }

    /// Bytes that the client has sent.
    pub fn sent(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if let Some(startup) = &mut self.startup {
            startup.extend_from_slice(bytes);
            loop {
                let Some(length) = read_u32(startup).map(|n| n as usize) else { return };
                if !(8..=10_000).contains(&length) || startup.len() < length {
                    return;
                }
                let packet = startup.split_to(length);
                match read_u32(&packet[4..]) {
                    Some(version::SSL | version::GSSENC) => self.refusals += 1,
                    _ => break,
                }
            }
            rest = &[];
            self.input.extend_from_slice(&self.startup.take().unwrap_or_default());
        }
        self.input.extend_from_slice(rest);
        while !self.broken {
            let Some(length) = self.input.get(1..5).and_then(read_u32).map(|n| n as usize) else { return };
            let small = matches!(self.input[0], b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f');
            let limit = match self.input[0] {
                // It is passed on as it comes; what is no part of a COPY is ignored (`PostgresMain`).
                b'd' if self.admitted => crate::wire::frame::COPY_DATA_MAX,
                _ if small => 10_000,
                _ => super::MESSAGE_MAX,
            };
            if length < 4 || length > limit {
                self.broken = true;
                return;
            }
            if self.input.len() <= length {
                return;
            }
            let frame = self.input.split_to(length + 1);
            self.asked(frame[0], &frame[5..]);
        }
    }

    /// PREPARE makes names too: whatever stands in the text may be what they mean.
    fn prepared_by_sql(&mut self, text: &[u8]) {
        let lower = String::from_utf8_lossy(text).to_lowercase();
        let words: Vec<&str> =
            lower.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "prepare") {
            self.statements.entry(pair[1].to_owned()).or_default().extend(tokens(text));
        }
    }

    fn asked(&mut self, tag: u8, body: &[u8]) {
        if matches!(tag, b'Q' | b'P') {
            self.prepared_by_sql(body);
        }
        let (kind, tokens) = match tag {
            // Passwords are no requests.
            b'p' if !self.admitted => return,
            b'Q' => (Kind::Query, tokens(body)),
            b'P' => {
                if let Some(p) = Parse::read(body) {
                    self.statements.entry(p.name.to_owned()).or_default().extend(tokens(p.sql));
                }
                (Kind::Parse, tokens(body))
            }
            b'B' => {
                let mut found = Vec::new();
                if let Some(b) = Bind::read(body) {
                    found = self.statements.get(b.statement).cloned().unwrap_or_default();
                    self.portals.entry(b.portal.to_owned()).or_default().extend(found.iter());
                }
                (Kind::Bind, found)
            }
            b'D' => match read_target(body) {
                Some((b'S', name)) => (Kind::DescribeStatement, self.statements.get(name).cloned().unwrap_or_default()),
                Some((_, name)) => (Kind::DescribePortal, self.portals.get(name).cloned().unwrap_or_default()),
                None => (Kind::DescribePortal, Vec::new()),
            },
            b'E' => {
                let name = read_execute(body).map_or("", |(name, _)| name);
                (Kind::Execute, self.portals.get(name).cloned().unwrap_or_default())
            }
            b'C' => (Kind::Close, Vec::new()),
            b'H' if body.is_empty() => (Kind::Flush, Vec::new()),
            b'H' => (Kind::FlushMore, Vec::new()),
            b'S' => (Kind::Sync, Vec::new()),
            b'F' => (Kind::Function, Vec::new()),
            b'd' => (Kind::CopyData, Vec::new()),
            b'c' | b'f' => (Kind::CopyEnd, Vec::new()),
            b'X' => (Kind::Terminate, Vec::new()),
            _ => (Kind::Bad, Vec::new()),
        };
        self.queue.push_back(Ask { kind, tokens });
    }

    /// Passes over what asks for nothing where it stands.
    fn pass(&mut self) {
        if let Stage::CopyIn { data } = &mut self.stage {
            while let Some(next) = self.queue.get(1) {
                match next.kind {
                    Kind::CopyData => *data = true,
                    Kind::Sync => self.maybe += usize::from(*data),
                    Kind::Flush | Kind::FlushMore => {}
                    Kind::CopyEnd => {
                        self.queue.remove(1);
                        return self.stage = Stage::CopyEnd;
                    }
                    _ => return,
                }
                self.queue.remove(1);
            }
            return;
        }
        while let Some(head) = self.queue.front() {
            match head.kind {
                Kind::Flush | Kind::CopyData | Kind::CopyEnd => {}
                Kind::Sync => return self.skipping = false,
                Kind::Terminate | Kind::Bad => return,
                _ if self.skipping => {}
                _ => return,
            }
            self.queue.pop_front();
        }
    }

    fn done(&mut self) {
        self.queue.pop_front();
        self.stage = Stage::Start;
    }

    /// Bytes that the session has sent to the client.
    pub fn received(&mut self, bytes: &[u8]) -> Check {
        self.output.extend_from_slice(bytes);
        loop {
            if !self.admitted && self.refusals > 0 && self.output.first() == Some(&b'N') {
                self.refusals -= 1;
                let _ = self.output.split_to(1);
                continue;
            }
            let Some(length) = self.output.get(1..5).and_then(read_u32).map(|n| n as usize) else { return Ok(()) };
            if length < 4 {
                return Err(format!("no message: {}", self.output.escape_ascii()));
            }
            if self.output.len() <= length {
                return Ok(());
            }
            let message = self.output.split_to(length + 1);
            self.told += 1;
            self.told(&message)?;
        }
    }

    fn told(&mut self, raw: &[u8]) -> Check {
        let (tag, body) = (raw[0], &raw[5..]);
        self.pass();
        let wrong = |m: &Model, why: &str| {
            let asks: Vec<_> = m.queue.iter().take(5).map(|a| a.kind).collect();
            Err(format!(
                "{why}: {:?} {}; asked {asks:?}, {:?}, skipping {}",
                char::from(tag),
                body.escape_ascii(),
                m.stage,
                m.skipping
            ))
        };
        if self.last_words {
            return wrong(self, "a message behind the last words");
        }
        let fields = ErrorFields::parse(if matches!(tag, b'E' | b'N') { body } else { &[] });
        let fatal = matches!(fields.severity.as_str(), "FATAL" | "PANIC");
        if tag == b'E' && fatal {
            self.last_words = true;
            return Ok(());
        }
        if !self.admitted {
            return match tag {
                b'R' | b'S' | b'K' | b'v' | b'N' => Ok(()),
                b'Z' if self.startup.is_none() => {
                    self.admitted = true;
                    Ok(())
                }
                b'E' => Ok(()),
                _ => wrong(self, "not part of a login"),
            };
        }
        match tag {
            b'N' | b'A' => return Ok(()),
            b'S' => {
                let two = split_cstr(body).and_then(|(_, rest)| split_cstr(rest)).is_some_and(|(_, r)| r.is_empty());
                return if two { Ok(()) } else { wrong(self, "no ParameterStatus") };
            }
            b'Z' if !matches!(body, b"I" | b"T" | b"E") => return wrong(self, "no ReadyForQuery"),
            _ => {}
        }
        let Some(head) = self.queue.front() else {
            if tag == b'Z' && self.maybe > 0 {
                self.maybe -= 1;
                return Ok(());
            }
            return wrong(self, "not asked for");
        };
        if self.honest {
            let named = answered_token(raw);
            let must = matches!(tag, b'D' | b'T' | b'd');
            if named.is_some_and(|n| !head.tokens.contains(&n)) || (must && named.is_none()) {
                return wrong(self, "an answer to another request");
            }
        }
        if tag == b'E' {
            return self.error().or_else(|why| wrong(self, why));
        }
        let next = step(head.kind, self.stage, tag);
        match next {
            Some(Some(stage)) => self.stage = stage,
            Some(None) => self.done(),
            None if tag == b'Z' && self.maybe > 0 => self.maybe -= 1,
            None => return wrong(self, "not what was asked for"),
        }
        Ok(())
    }

    fn error(&mut self) -> Result<(), &'static str> {
        let Some(kind) = self.queue.front().map(|a| a.kind) else { return Err("an error for nothing") };
        if self.stage == Stage::Failed {
            return Err("a second error for one request");
        }
        match kind {
            Kind::Query | Kind::Function | Kind::Sync => self.stage = Stage::Failed,
            Kind::Terminate => return Err("an error behind Terminate"),
            _ => {
                self.done();
                self.skipping = true;
            }
        }
        Ok(())
    }

    /// The session has closed the client's connection.
    pub fn closed(&self) -> Check {
        let parting = self.queue.iter().any(|a| a.kind == Kind::Terminate);
        if !self.admitted || self.last_words || parting || !self.output.is_empty() {
            return Ok(());
        }
        Err("the client's connection was closed without a word".into())
    }

    /// Everything has come to rest: what is still owed? COPY data that the client has not ended is owed by the client.
    pub fn owes(&mut self) -> Option<String> {
        self.pass();
        if !self.admitted || self.last_words || self.queue.iter().any(|a| a.kind == Kind::Terminate) {
            return None;
        }
        if self.broken {
            return Some("a stream that cannot be followed is not told of".into());
        }
        if matches!(self.stage, Stage::CopyIn { .. }) {
            return None;
        }
        let mut asks = self.queue.iter().take_while(|a| a.kind != Kind::Terminate && a.kind != Kind::Bad);
        let owed = asks.find(|a| matches!(a.kind, Kind::Query | Kind::Sync | Kind::Function))?;
        Some(format!("{:?} is not answered ({:?})", owed.kind, self.stage))
    }
}

/// What a message means for the reply that is under way: `None`, it is no part of it; `Some(None)`, the end of it.
fn step(kind: Kind, stage: Stage, tag: u8) -> Option<Option<Stage>> {
    use Stage::*;
    Some(match (kind, stage, tag) {
        (Kind::Query, Start | Complete, b'T') => Some(Described),
        (Kind::Query, Described, b'D') => Some(Described),
        (Kind::Query, Start | Complete | Described, b'C') | (Kind::Query, Start | Complete, b'I') => Some(Complete),
        (Kind::Query, Start | Complete, b'G') | (Kind::Execute, Start, b'G') => Some(CopyIn { data: false }),
        (Kind::Query, Start | Complete, b'H') | (Kind::Execute, Start, b'H') => Some(CopyOut),
        (Kind::Query | Kind::Execute, CopyOut, b'd') => Some(CopyOut),
        (Kind::Query | Kind::Execute, CopyOut, b'c') => Some(CopyEnd),
        (Kind::Query, CopyEnd, b'C') => Some(Complete),
        (Kind::Query | Kind::Function, Complete | Failed, b'Z') => None,
        (Kind::Sync, Start | Failed, b'Z') => None,
        (Kind::Function, Start, b'V') => Some(Complete),
        (Kind::Parse, Start, b'1') | (Kind::Bind, Start, b'2') | (Kind::Close, Start, b'3') => None,
        (Kind::DescribeStatement, Start, b't') => Some(Described),
        (Kind::DescribeStatement, Described, b'T' | b'n') | (Kind::DescribePortal, Start, b'T' | b'n') => None,
        (Kind::Execute, Start | Rows, b'D') => Some(Rows),
        (Kind::Execute, Start | Rows | CopyEnd, b'C') | (Kind::Execute, Start, b'I') => None,
        (Kind::Execute, Start | Rows, b's') => None,
        _ => return Option::None,
    })
}
