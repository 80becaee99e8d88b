//! Password exchanges, towards clients and towards nodes, as pure state machines.
//!
//! What it is for: bytes of one authentication message go in, the bytes of the answer come out. Whoever owns the
//! socket frames messages, keeps time-outs and fetches secrets; this part decides. It has no clock, no randomness
//! (nonces and salts are arguments), no sockets, and touches no other part of the crate.
//!
//! ```text
//! client ──'p' bodies──► ClientAuth ──► Done { credentials } ──► NodeAuth ◄──'R' bodies── node
//!                            ▲
//!                     Role { secret }   from pg_authid of main, or PoolPasswd
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `client.rs` | [`ClientAuth`]: PostgreSQL's side of the exchange, towards a client |
//! | `node.rs` | [`NodeAuth`]: libpq's side of the exchange, towards a node |
//! | `error.rs` | [`AuthError`]: what a refused client is told, and what only the log is told |
//! | `secret.rs` | [`Secret`], [`Role`], [`Credentials`]: what a password is checked against, what a login leaves |
//! | `pool_passwd.rs` | [`PoolPasswd`]: the file of the same name |
//! | `scram.rs` | [`ScramVerifier`] and the arithmetic of SCRAM-SHA-256 |
//! | `scram_server.rs`, `scram_client.rs` | the two ends of a SCRAM exchange |
//! | `md5.rs` | PostgreSQL's md5 method |
//!
//! The point of it all: a client that proves itself by SCRAM reveals its ClientKey to whoever holds the StoredKey, and
//! with the ClientKey one can log in to every node that has the same verifier. So no password is stored anywhere.
//!
//! Secrets never show in `Debug` output; comparisons of secrets take constant time.

mod client;
mod error;
mod md5;
mod node;
mod pool_passwd;
mod scram;
mod scram_client;
mod scram_server;
mod secret;
#[cfg(test)]
mod tests;

pub use client::{ClientAuth, MAX_PASSWORD_MESSAGE_LEN, MAX_SASL_MESSAGE_LEN, Method, Step};
pub use error::AuthError;
pub use md5::{md5_hash, md5_response};
pub use node::{MAX_AUTH_REQUEST_LEN, NodeAuth, NodeAuthError, NodeStep};
pub use pool_passwd::{MAX_POOL_PASSWD_LINE_LEN, MAX_POOL_PASSWD_TOKEN_LEN, PoolPasswd, PoolPasswdError};
pub use pool_passwd::{PoolPasswdProblem, parse_pool_passwd_line};
pub use scram::{DEFAULT_ITERATIONS, MAX_PLAIN_CHECK_ITERATIONS, RAW_NONCE_LEN, SCRAM_SHA_256, ScramVerifier};
pub use scram::{VerifierError, saslprep};
pub use scram_client::{ScramClient, ScramClientError};
pub use scram_server::{ScramServer, ScramServerError, ScramServerStep};
pub use secret::{Credentials, Role, Secret, SecretError};
