//! What a transaction has done to rows, and what a replica is told of it.
//!
//! A [`Script`] is written while the client's transaction runs on main: each completed write adds an [`Entry`] with
//! what main answered ([`Expect`]); ROLLBACK TO takes entries back. At COMMIT [`packet`] turns it into one packet of
//! protocol messages, and [`check`] holds the replica's answers against main's.
//!
//! May touch `wire`; knows no session and no socket.

pub mod check;
pub mod digest;
pub mod entry;
pub mod packet;

pub use digest::{Digest, RowHasher};
pub use entry::{CopyData, Entry, Expect, Script, ScriptFull, Statement};
