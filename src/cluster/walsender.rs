//! A replication connection to a node, on which a logical slot is read: what the released tokio-postgres cannot do.
//!
//! Protocol chapters "Streaming Replication Protocol" and "Logical Streaming Replication Protocol".

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::nodes::{Login, NodeAddress};
use crate::auth::{Credentials, NodeAuth, NodeStep};
use crate::wire::error::ErrorFields;
use crate::wire::frame::HEADER;
use crate::wire::{front, read_u32};

/// Longest message that is read: a row's text is below 1 GiB (MaxAllocSize).
const MESSAGE_MAX: usize = 1 << 30;
/// SCRAM rounds that are computed for apply_user's password.
const ITERATIONS_MAX: u32 = 1_000_000;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What comes out of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// A line of the output plugin.
    Line(Bytes),
    /// Nothing was to be told up to some place; `reply`: the server wants to hear from us at once.
    KeepAlive {
        /// It does.
        reply: bool,
    },
}

/// A logical replication connection.
pub struct WalSender {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    /// Up to where everything has been read.
    at: u64,
}

impl WalSender {
    /// Connects and logs in, within `timeout`. `options`: libpq's.
    ///
    /// # Errors
    /// Why not, in one line.
    pub async fn connect(
        node: &NodeAddress,
        login: &Login,
        database: &str,
        options: &str,
        timeout: Duration,
    ) -> Result<WalSender, String> {
        let connecting = async {
            let stream: Box<dyn Stream> = if node.host.starts_with('/') {
                let path = format!("{}/.s.PGSQL.{}", node.host, node.port);
                Box::new(UnixStream::connect(path).await.map_err(|e| e.to_string())?)
            } else {
                let tcp = TcpStream::connect((node.host.as_str(), node.port)).await.map_err(|e| e.to_string())?;
                tcp.set_nodelay(true).map_err(|e| e.to_string())?;
                Box::new(tcp)
            };
            let mut sender = WalSender { stream, buffer: BytesMut::with_capacity(64 * 1024), at: 0 };
            sender.log_in(login, database, options).await?;
            Ok(sender)
        };
        tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
    }

    async fn log_in(&mut self, login: &Login, database: &str, options: &str) -> Result<(), String> {
        let mut out = BytesMut::new();
        let parameters = [
            ("user", login.user.as_str()),
            ("database", database),
            ("replication", "database"),
            ("application_name", "pglockstep decoder"),
            ("options", options),
        ];
        front::startup(&mut out, parameters);
        self.send(&out).await?;
        let credentials = match login.password.as_str() {
            "" => Credentials::None,
            password => Credentials::Plain(password.into()),
        };
        let mut nonce = [0u8; 18];
        getrandom::fill(&mut nonce).map_err(|e| e.to_string())?;
        let mut auth = NodeAuth::new(&login.user, credentials, nonce, ITERATIONS_MAX);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'R' => {
                    if let NodeStep::Reply(reply) = auth.on_request(&body).map_err(|e| e.to_string())? {
                        self.send(&reply).await?;
                    }
                }
                b'Z' => return Ok(()),
                b'E' => return Err(described(&body)),
                _ => {}
            }
        }
    }

    /// Makes a temporary two-phase slot of `test_decoding`. That waits for every transaction that is writing now, however
    /// long it takes.
    ///
    /// # Errors
    /// The server refuses, or is gone.
    pub async fn create_slot(&mut self, name: &str) -> Result<(), String> {
        // The syntax of version 14, which later ones read too.
        let sql = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT TWO_PHASE");
        self.query(&sql).await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'Z' => return Ok(()),
                b'E' => return Err(described(&body)),
                _ => {}
            }
        }
    }

    /// Begins to read it.
    ///
    /// # Errors
    /// As [`Self::create_slot`].
    pub async fn start(&mut self, name: &str) -> Result<(), String> {
        let sql = format!(
            "START_REPLICATION SLOT {name} LOGICAL 0/0 (\"include-xids\" 'on', \"skip-empty-xacts\" 'off', \
             \"include-timestamp\" 'off')"
        );
        self.query(&sql).await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'W' => return Ok(()),
                b'E' => return Err(described(&body)),
                _ => {}
            }
        }
    }

    /// What comes next.
    ///
    /// # Errors
    /// The connection is lost, or the server has ended it.
    pub async fn next(&mut self) -> Result<Decoded, String> {
        loop {
            let (tag, mut body) = self.message().await?;
            match (tag, body.first()) {
                // XLogData: where it begins, where the WAL ends, the server's clock.
                (b'd', Some(b'w')) if body.len() >= 25 => {
                    body.advance(1);
                    self.at = self.at.max(body.get_u64());
                    body.advance(16);
                    return Ok(Decoded::Line(body));
                }
                (b'd', Some(b'k')) if body.len() >= 18 => {
                    body.advance(1);
                    self.at = self.at.max(body.get_u64());
                    body.advance(8);
                    return Ok(Decoded::KeepAlive { reply: body.get_u8() == 1 });
                }
                (b'E', _) => return Err(described(&body)),
                (b'N' | b'S', _) => {}
                _ => return Err("the server has ended the stream".into()),
            }
        }
    }

    /// Tells the server that everything so far has been read, so that it need not keep that WAL.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn confirm(&mut self) -> Result<(), String> {
        let mut out = BytesMut::with_capacity(HEADER + 34);
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(b'r');
        out.put_u64(self.at);
        out.put_u64(self.at);
        out.put_u64(self.at);
        // Our clock, which no server looks at; and no answer is wanted.
        out.put_u64(0);
        out.put_u8(0);
        self.send(&out).await
    }

    async fn query(&mut self, sql: &str) -> Result<(), String> {
        let mut out = BytesMut::new();
        front::query(&mut out, sql.as_bytes());
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|e| e.to_string())
    }

    /// The next message: its tag and body. Nothing is lost if this is dropped before it is done.
    async fn message(&mut self) -> Result<(u8, Bytes), String> {
        loop {
            if let (Some(&tag), Some(length)) = (self.buffer.first(), self.buffer.get(1..).and_then(read_u32)) {
                let whole = 1 + length as usize;
                if !(HEADER..MESSAGE_MAX).contains(&whole) {
                    return Err(format!("a message of {whole} bytes"));
                }
                if self.buffer.len() >= whole {
                    return Ok((tag, self.buffer.split_to(whole).freeze().slice(HEADER..)));
                }
                self.buffer.reserve(whole - self.buffer.len());
            }
            self.buffer.reserve(16 * 1024);
            let read = self.stream.read_buf(&mut self.buffer).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err("the server has closed the connection".into());
            }
        }
    }
}

fn described(body: &[u8]) -> String {
    let fields = ErrorFields::parse(body);
    format!("{} ({})", fields.message, fields.sqlstate)
}
