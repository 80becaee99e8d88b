//! The image form (design, section 3): what a transaction did to rows, as main's WAL tells it, and as replicas are told.
//!
//! A statement that is neither keyed nor known by its rows (triggers, rules, cascades, functions that write, MERGE, views)
//! is not run a second time anywhere. At its COMMIT main prepares the transaction, a logical slot of `test_decoding`
//! tells every row that it changed, and replicas get these rows.
//!
//! - [`decode`]: a line of `test_decoding` as a [`decode::Line`];
//! - [`facts`]: what main's catalogue says of the tables that the transaction has written, asked while it is prepared;
//! - [`build`]: changes and facts as [`build::Step`]s, which become a script's entries.
//!
//! All of it is sans-I/O; the control plane reads the slot (`cluster::decoder`).
//!
//! What replicas are told runs as `apply_user`, a superuser, under `session_replication_role = replica`: no trigger, rule
//! or foreign key acts twice. Checks, generated columns and index expressions do run there, so tables are refused for
//! which these call functions that a role without superuser owns: it could become superuser on the replica by them.

pub mod build;
pub mod decode;
pub mod facts;

use crate::wire::PgError;

/// Why an image cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// What the transaction did cannot go by its image: what it is, and what to change.
    Unsupported {
        /// What stands against it.
        what: String,
        /// What to change.
        hint: &'static str,
    },
    /// It may well go the next time: the slot was lost, or did not tell of it in time.
    Lost(String),
}

impl Refusal {
    /// What the client is told.
    #[must_use]
    pub fn error(&self) -> PgError {
        match self {
            Refusal::Unsupported { what, hint } => PgError::error("0A000", format!("could not commit: {what}"))
                .detail("The transaction can reach the other nodes only by the rows that it changed.")
                .hint(*hint),
            Refusal::Lost(why) => {
                PgError::error("40001", "could not commit: the rows that the transaction changed could not be had")
                    .detail(why.clone())
                    .hint("Run the transaction again.")
            }
        }
    }
}

/// An identifier as it is written in any case, in the bytes of whatever encoding it has.
fn quoted(name: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &b in name {
        if b == b'"' {
            out.push(b'"');
        }
        out.push(b);
    }
    out.push(b'"');
}
