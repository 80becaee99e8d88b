//! One connection to a node: login, framing, what it has prepared, what it owes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::io::{Io, Question};
use super::owed::OwedQueue;
use super::server::Passing;
use crate::auth::{Credentials, NodeAuth, NodeStep};
use crate::sequencer::NodeId;
use crate::shard::driver::ConnId;
use crate::wire::error::ErrorFields;
use crate::wire::frame::{BackendFramer, Piece};
use crate::wire::{PgError, TxStatus, front, read_u32};

/// How far the connection is.
#[derive(Debug)]
enum State {
    /// TCP is being set up; then this start-up packet is sent.
    Connecting { startup: Bytes, auth: NodeAuth },
    /// Passwords are exchanged.
    LoggingIn { auth: NodeAuth },
    /// AuthenticationOk has come; parameters follow up to the first ReadyForQuery.
    Starting,
    /// Ready for queries.
    Ready,
}

/// How a login goes.
#[derive(Debug)]
pub enum Login {
    /// More will come.
    More,
    /// Ready for queries.
    Ready,
    /// The server refused; its ErrorResponse as it came.
    Refused { raw: Bytes, fields: ErrorFields },
    /// The login cannot be done from here.
    Failed(PgError),
}

/// Something that was prepared a moment ago.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fresh {
    /// A statement of the proxy's own.
    Own(&'static str),
    /// A named statement of the client's.
    Named(Arc<str>),
    /// A named statement is closed.
    Closed(Arc<str>),
    /// The unnamed statement.
    Unnamed,
}

/// A connection to a node.
#[derive(Debug)]
pub struct Link {
    /// The node.
    pub node: NodeId,
    /// The driver's connection.
    pub conn: ConnId,
    /// The backend's process id; 0 before it is known.
    pub pid: u32,
    /// The backend's cancel key.
    pub secret: Bytes,
    /// Cuts the server's stream.
    pub framer: BackendFramer,
    /// What the server owes.
    pub owed: OwedQueue,
    /// State of the server's transaction, as its last ReadyForQuery told.
    pub status: TxStatus,
    /// ParameterStatus as told last, in the order of the login.
    pub parameters: Vec<(String, String)>,
    /// Which version of each of the client's named statements it has prepared.
    pub statements: HashMap<Arc<str>, u64>,
    /// Which version the unnamed statement has.
    pub unnamed: Option<u64>,
    /// Named statements that it may have besides: the client closed them where another link served it, or an error left
    /// open whether they were prepared or closed. They are closed before such a name is used again.
    pub leftover: Vec<Arc<str>>,
    /// Own statements that it has prepared, by name.
    pub own: Vec<&'static str>,
    /// What is being prepared, and in which unit (of messages up to a ReadyForQuery): after an error nobody knows which
    /// of it is there.
    pub fresh: Vec<(u64, Fresh)>,
    /// Units that were sent whole, and that were answered.
    pub units_sent: u64,
    units_done: u64,
    /// Something was sent since the last Sync, Query or Flush: replies may sit in the server's buffer.
    pub unflushed: bool,
    /// Extended messages were sent since the last Sync.
    pub unsynced: bool,
    /// How many of the session's SETs it has been brought.
    pub replayed: usize,
    /// Its default isolation level is READ COMMITTED; `None`: it has not been asked.
    pub read_committed: Option<bool>,
    /// In `snapshot_isolation` it has been asked for its default isolation level, which may not have changed since.
    pub default_asked: bool,
    /// Where the rest of a message goes of which a part has come.
    pub(super) passing: Passing,
    /// A row that is the session's, or of which the client is told a part.
    pub(super) own_row: BytesMut,
    /// The error that it has answered a statement of the session's own with, until that is complete.
    pub(super) own_error: Option<Bytes>,
    /// The tag, likewise.
    pub(super) own_tag: String,
    /// It has said what no server says: no other client gets it.
    pub lies: bool,
    state: State,
}

impl Link {
    /// A connection that the driver has begun to make. `parameters` are those of the StartupMessage.
    #[must_use]
    pub fn new(
        node: NodeId,
        conn: ConnId,
        user: &str,
        parameters: &[(&str, &str)],
        credentials: Credentials,
        nonce: [u8; 18],
        limits: (usize, u32),
    ) -> Link {
        let mut startup = BytesMut::new();
        front::startup(&mut startup, parameters.iter().copied());
        let auth = NodeAuth::new(user, credentials, nonce, limits.1);
        Link {
            node,
            conn,
            pid: 0,
            secret: Bytes::new(),
            framer: BackendFramer::new(limits.0),
            owed: OwedQueue::default(),
            status: TxStatus::Idle,
            parameters: Vec::new(),
            statements: HashMap::new(),
            unnamed: None,
            leftover: Vec::new(),
            own: Vec::new(),
            fresh: Vec::new(),
            units_sent: 0,
            units_done: 0,
            unflushed: false,
            unsynced: false,
            replayed: 0,
            read_committed: None,
            default_asked: false,
            passing: Passing::Drop,
            own_row: BytesMut::new(),
            own_error: None,
            own_tag: String::new(),
            lies: false,
            state: State::Connecting { startup: startup.freeze(), auth },
        }
    }

    /// TCP stands: the start-up packet to send.
    pub fn connected(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, State::Starting) {
            State::Connecting { startup, auth } => {
                self.state = State::LoggingIn { auth };
                Some(startup)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Ready for queries.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Nothing is prepared any more.
    pub fn forget_all(&mut self) {
        self.own.clear();
        self.fresh.clear();
        self.statements.clear();
        self.leftover.clear();
        self.unnamed = None;
    }

    /// The client has closed the statement elsewhere.
    pub fn disown(&mut self, name: &str) {
        self.leftover.extend(self.statements.remove_entry(name).map(|(name, _)| name));
    }

    /// The client has closed all of them elsewhere.
    pub fn disown_all(&mut self) {
        self.leftover.extend(self.statements.drain().map(|(name, _)| name));
    }

    /// An error has skipped an unknown part of what was sent: what was prepared since the last ReadyForQuery counts as
    /// missing, and what was closed as there, until it is closed (again).
    pub fn forget_fresh(&mut self) {
        for (_, f) in self.fresh.drain(..) {
            match f {
                Fresh::Own(name) => self.own.retain(|n| *n != name),
                Fresh::Named(name) => {
                    self.statements.remove(&name);
                    self.leftover.push(name);
                }
                Fresh::Closed(name) => self.leftover.push(name),
                Fresh::Unnamed => self.unnamed = None,
            }
        }
    }

    /// No transaction is open, as far as the server has told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.status == TxStatus::Idle
    }

    /// Has the backend ended by the control plane: its connection is lost or may be, and it would not know.
    pub fn end_backend(&self, io: &mut dyn Io) {
        if self.pid != 0 {
            io.ask(Question::Terminate { node: self.node, pid: self.pid });
        }
    }

    /// The client that it served is forgotten: nothing is prepared any more.
    pub fn forget_client(&mut self) {
        self.forget_all();
        self.replayed = 0;
        self.read_committed = None;
        self.default_asked = false;
        self.own_error = None;
        self.own_tag.clear();
        (self.units_sent, self.units_done) = (0, 0);
    }

    /// A ParameterStatus.
    pub fn set_parameter(&mut self, name: &str, value: &str) {
        match self.parameters.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => value.clone_into(v),
            None => self.parameters.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Something is prepared in the unit that is being sent.
    pub fn prepares(&mut self, what: Fresh) {
        self.fresh.push((self.units_sent, what));
    }

    /// ReadyForQuery: what was prepared in its unit is there. The client may have sent others behind it.
    pub fn unit_done(&mut self) {
        self.units_done += 1;
        let done = self.units_done;
        self.fresh.retain(|(unit, _)| *unit >= done);
    }

    /// The server's word for a parameter, as it told last.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A message of the login. `reply` takes what must be sent.
    pub fn login(&mut self, piece: &Piece, reply: &mut Vec<Bytes>) -> Login {
        let raw = self.framer.bytes(piece);
        let Some(body) = raw.get(5..) else { return Login::Failed(violation("a login message without a body")) };
        match piece.tag {
            b'R' => {
                let State::LoggingIn { auth } = &mut self.state else {
                    return Login::Failed(violation("an authentication request out of turn"));
                };
                match auth.on_request(body) {
                    Ok(NodeStep::Reply(bytes)) => reply.push(Bytes::from(bytes)),
                    Ok(NodeStep::Wait) => {}
                    Ok(NodeStep::Ok) => self.state = State::Starting,
                    Err(e) => return Login::Failed(PgError::fatal(e.sqlstate(), e.to_string())),
                }
                Login::More
            }
            b'E' => {
                let fields = ErrorFields::parse(body);
                // Every error during a login is one (`errstart` in elog.c, as nothing could catch it).
                if matches!(fields.severity.as_str(), "FATAL" | "PANIC") {
                    Login::Refused { raw: Bytes::copy_from_slice(raw), fields }
                } else {
                    Login::Failed(violation(&format!("an {} during login", fields.severity)))
                }
            }
            b'S' => {
                if let Some(pair) = parameter(body) {
                    self.parameters.push(pair);
                }
                Login::More
            }
            b'K' => {
                self.pid = read_u32(body).unwrap_or(0);
                self.secret = Bytes::copy_from_slice(body.get(4..).unwrap_or_default());
                Login::More
            }
            b'Z' if matches!(self.state, State::Starting) => {
                self.state = State::Ready;
                Login::Ready
            }
            b'N' | b'v' => Login::More,
            tag => Login::Failed(violation(&format!("message '{}' during login", char::from(tag)))),
        }
    }
}

/// Name and value of a ParameterStatus.
#[must_use]
pub fn parameter(body: &[u8]) -> Option<(String, String)> {
    let (name, rest) = crate::wire::split_cstr(body)?;
    let (value, _) = crate::wire::split_cstr(rest)?;
    Some((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()))
}

/// The server does not speak the protocol as it should.
#[must_use]
pub fn violation(what: &str) -> PgError {
    PgError::fatal("08P01", format!("protocol violation of a node: {what}"))
}
