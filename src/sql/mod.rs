//! SQL as far as the proxy must understand it: tokens, statement classes, shapes, read proofs, time literals.
//!
//! Pure: no I/O, and nothing of the rest of the crate. On the hot path only the lexer runs ([`shape`]); everything else
//! is done once per statement shape and kept in [`cache`].
//!
//! What is not proved is a write. A proof needs two witnesses: sqlparser must read the text as one query, and every
//! single token of it must be harmless by the catalogue ([`proof`]).

pub mod cache;
pub mod class;
pub mod custom;
pub mod explain;
pub mod lexer;
pub mod literals;
pub mod prepare;
pub mod proof;
pub mod reason;
pub mod role;
pub mod shape;
pub mod show;
