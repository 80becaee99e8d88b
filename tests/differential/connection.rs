//! A connection that is read without blocking for long, and what came of it as lines.

use super::normal;
use super::owed::Owed;
use crate::support::raw::{V3_0, startup};
use pglockstep::auth::{Credentials, NodeAuth, NodeStep};
use pglockstep::sandbox::client::Target;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Silence after which a burst that should have been answered is taken for answered: the model of what is owed may be
/// wrong, and a server that owes nothing says nothing.
pub const SILENCE: Duration = Duration::from_millis(150);
/// A connection that says nothing for so long although it should hangs.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// Bound of one message.
const MESSAGE_MAX: usize = 1 << 26;

/// A connection.
pub struct Connection {
    socket: TcpStream,
    unread: Vec<u8>,
    owed: Owed,
    /// What came since the login, without notifications.
    pub lines: Vec<String>,
    /// Notifications: when they come depends on another connection.
    pub notifications: Vec<String>,
    /// ParameterStatus messages of the login.
    pub parameters: Vec<String>,
    pub closed: bool,
    /// Notifications stand among the other lines: there is no other connection that could send them.
    pub alone: bool,
}

enum Got {
    Message(u8, Vec<u8>),
    Silence,
    Closed,
}

impl Connection {
    /// Logs in.
    pub fn login(target: &Target, database: &str, alone: bool) -> Result<Connection, String> {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut c = Connection {
            socket,
            unread: Vec::new(),
            owed: Owed::default(),
            lines: Vec::new(),
            notifications: Vec::new(),
            parameters: Vec::new(),
            closed: false,
            alone,
        };
        c.write(&startup(&[("user", &target.user), ("database", database)], V3_0));
        let plain = Credentials::Plain(target.password.as_str().into());
        let mut auth = NodeAuth::new(&target.user, plain, *b"18 bytes of nonces", 100_000);
        loop {
            match c.next(PATIENCE) {
                Got::Message(b'R', body) => {
                    if let NodeStep::Reply(bytes) = auth.on_request(&body).map_err(|e| e.to_string())? {
                        c.write(&bytes);
                    }
                }
                Got::Message(b'S', body) => c.parameters.push(normal::line(b'S', &body)),
                Got::Message(b'Z', _) => break,
                Got::Message(b'E', body) => return Err(normal::line(b'E', &body)),
                Got::Message(..) => {}
                Got::Silence => return Err("the login hangs".into()),
                Got::Closed => return Err("the login was cut off".into()),
            }
        }
        c.parameters.sort();
        Ok(c)
    }

    /// Sends bytes; that the other side has closed is found out when reading.
    pub fn write(&mut self, bytes: &[u8]) {
        let _closed_is_seen_when_reading = self.socket.write_all(bytes);
    }

    /// Notes what was sent.
    pub fn sent(&mut self, tag: Option<u8>) {
        self.owed.sent(tag);
    }

    /// Reads until everything is answered, and at least up to `count` lines; false: it hangs.
    pub fn settle(&mut self, count: usize, patience: Duration) -> bool {
        while !self.closed {
            let enough = self.lines.len() >= count;
            if enough && self.owed.is_quiet() {
                return true;
            }
            match self.next(if enough { SILENCE } else { patience }) {
                Got::Message(tag, body) => {
                    self.owed.received(tag);
                    self.note(tag, &body);
                }
                Got::Silence => return enough,
                Got::Closed => {
                    self.closed = true;
                    self.lines.push("closed".into());
                }
            }
        }
        true
    }

    /// Takes what has come without being waited for.
    pub fn note(&mut self, tag: u8, body: &[u8]) {
        let line = normal::line(tag, body);
        if tag == b'A' && !self.alone { self.notifications.push(line) } else { self.lines.push(line) }
    }

    fn next(&mut self, patience: Duration) -> Got {
        let end = Instant::now() + patience;
        loop {
            if let Some(header) = self.unread.get(..5) {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                assert!((4..MESSAGE_MAX).contains(&length), "not a message: {:?}", &self.unread[..5]);
                if self.unread.len() > length {
                    let message = self.unread[5..=length].to_vec();
                    let tag = self.unread[0];
                    self.unread.drain(..=length);
                    return Got::Message(tag, message);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Got::Silence;
            }
            self.socket.set_read_timeout(Some(left)).expect("a socket takes a timeout");
            let mut chunk = [0; 65_536];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Got::Closed,
                Ok(n) => self.unread.extend(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Got::Silence,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Got::Closed,
            }
        }
    }
}
