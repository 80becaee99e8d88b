//! A client that speaks the protocol byte by byte, so that it can also speak it wrongly.

use pglockstep::auth::{Credentials, NodeAuth, NodeStep};
use pglockstep::sandbox::client::Target;
use pglockstep::wire::error::ErrorFields;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Protocol 3.0 as a start-up packet has it.
pub const V3_0: u32 = 3 << 16;
/// How long a message may be in coming; longer than anything that the tests make the proxy wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gigabyte takes its time to be parsed and stored on all nodes (`tests/large_memory.rs`).
fn patience() -> Duration {
    let megabytes = std::env::var("PGLOCKSTEP_TEST_LARGE_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(0u64);
    PATIENCE + Duration::from_secs(megabytes / 5)
}

/// One connection. Dropping it closes the socket without a Terminate, as a client does that vanishes.
pub struct Raw {
    pub socket: TcpStream,
    /// Process id and secret of BackendKeyData.
    pub key: (u32, u32),
}

/// A message of the server: type and body.
pub type Message = (u8, Vec<u8>);

impl Raw {
    /// A TCP connection on which nothing was said.
    pub fn open(target: &Target) -> Raw {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).unwrap();
        socket.set_read_timeout(Some(patience())).unwrap();
        Raw { socket, key: (0, 0) }
    }

    /// Logs in with the target's password, by whatever method it is asked for, and waits for ReadyForQuery.
    pub fn login(target: &Target, database: &str) -> Raw {
        let (raw, end) = Raw::try_login(target, database);
        end.unwrap_or_else(|e| panic!("login of {}: {} {}", target.user, e.sqlstate, e.message));
        raw
    }

    /// The same; the error is what the login was refused with.
    pub fn try_login(target: &Target, database: &str) -> (Raw, Result<(), ErrorFields>) {
        let mut raw = Raw::open(target);
        raw.write(&startup(&[("user", &target.user), ("database", database)], V3_0));
        let plain = Credentials::Plain(target.password.as_str().into());
        let mut auth = NodeAuth::new(&target.user, plain, *b"18 bytes of nonces", 100_000);
        loop {
            match raw.message() {
                Some((b'R', body)) => {
                    if let NodeStep::Reply(bytes) = auth.on_request(&body).unwrap() {
                        raw.write(&bytes);
                    }
                }
                Some((b'K', body)) => {
                    let number = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
                    raw.key = (number(0), number(4));
                }
                Some((b'Z', _)) => return (raw, Ok(())),
                Some((b'E', body)) => return (raw, Err(ErrorFields::parse(&body))),
                Some(_) => {}
                None => panic!("the connection was closed without an error"),
            }
        }
    }

    /// Sends bytes as they are. A connection that the other side has closed already is for the reader to find out.
    pub fn write(&mut self, bytes: &[u8]) {
        let _closed_is_seen_when_reading = self.socket.write_all(bytes);
    }

    /// Sends a message.
    pub fn send(&mut self, tag: u8, body: &[u8]) {
        self.write(&message(tag, body));
    }

    /// Sends a simple query.
    pub fn query(&mut self, sql: &str) {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat());
    }

    /// The next message; `None` if the connection was closed.
    pub fn message(&mut self) -> Option<Message> {
        let header = self.bytes(5)?;
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        Some((header[0], self.bytes(length - 4).expect("a message was cut short")))
    }

    /// `count` bytes; `None` if the connection was closed before the first.
    pub fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        match self.socket.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(e) => panic!("no answer within {PATIENCE:?}: {e}"),
        }
    }

    /// Reads on to a message of this type and returns its body.
    pub fn until(&mut self, tag: u8) -> Vec<u8> {
        loop {
            match self.message() {
                Some((found, body)) if found == tag => return body,
                Some((b'E', body)) => panic!("unexpected error: {:?}", ErrorFields::parse(&body)),
                Some(_) => {}
                None => panic!("the connection was closed before message {}", tag.escape_ascii()),
            }
        }
    }

    /// Runs a simple query, which must succeed, up to its ReadyForQuery.
    pub fn run(&mut self, sql: &str) {
        self.query(sql);
        self.until(b'Z');
    }

    /// The first error from here on, and whether the connection was closed behind it. `None`: closed without a word.
    pub fn refusal(&mut self) -> (Option<ErrorFields>, bool) {
        let mut error = None;
        loop {
            match self.message() {
                Some((b'E', body)) => error = error.or(Some(ErrorFields::parse(&body))),
                Some((b'Z', _)) if error.is_some() => return (error, false),
                Some(_) => {}
                None => return (error, true),
            }
        }
    }
}

/// A message: type, length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// A start-up packet.
pub fn startup(parameters: &[(&str, &str)], protocol: u32) -> Vec<u8> {
    let mut body = protocol.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    packet(&body)
}

/// A packet without a type, as at the start of a connection: length, body.
pub fn packet(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}
