//! What a transaction has done to rows, and what a replica is told of it.
//!
//! A [`Script`] is written while the client's transaction runs on main: each completed write adds an [`Entry`] with
//! what main answered ([`Expect`]); ROLLBACK TO takes entries back. [`feed`] turns it into protocol messages for one
//! replica, as far as that one takes them ([`packet`] writes them), and [`check`] holds the replica's answers against
//! main's. [`store`] is where its bytes are kept.
//!
//! May touch `wire`; knows no session and no socket.

pub mod check;
pub mod digest;
pub mod entry;
pub mod feed;
pub mod packet;
pub mod store;

pub use digest::{Digest, RowHasher};
pub use entry::{CopyData, Entry, Expect, Prepare, Script, Statement};
pub use packet::EXECUTED_NAME;
pub use store::{Spill, Stored};
