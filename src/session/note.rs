//! What the completion of a client's request means for its session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::function::Call;
use super::prepared::Preparing;
use super::proofs::Proof;
use super::registry::Prepared;
use crate::script::Statement;
use crate::sql::cache::Verdict;
use crate::sql::class::TxModes;
use crate::sql::literals::{Now, time_literals, timestamp};
use crate::sql::proof::Rows;

/// Taken when main (or a reader) has completed the request.
#[derive(Debug, Default)]
pub enum Note {
    /// Nothing to remember.
    #[default]
    Nothing,
    /// A write: becomes an entry of the script.
    Write(Box<PendingWrite>),
    /// SAVEPOINT name.
    Savepoint(String),
    /// ROLLBACK TO name.
    RollbackTo(String),
    /// RELEASE name.
    Release(String),
    /// A SET, RESET or the like: follows the session to its readers, and into the script if it stands in one.
    Setting(Box<PendingSetting>),
    /// The transaction on this link has ended without a COMMIT of the proxy's (ROLLBACK, COMMIT of a failed one,
    /// the end of a READ ONLY transaction). `chain`: AND CHAIN was asked for.
    Ended { chain: bool },
    /// DISCARD ALL, DEALLOCATE and the like: prepared statements are gone.
    Forgets(Forgets),
    /// Parse or Close of one of the client's named statements.
    Named,
    /// Parse of the unnamed statement.
    Unnamed,
    /// PREPARE: it is one of the session's statements as soon as its parameter types are known.
    PreparedBySql(Box<Preparing>),
    /// Parse of a name that is taken has succeeded: something that only the server saw had deallocated it.
    Replaced(Arc<str>, Arc<Prepared>),
    /// Describe of a statement that main is asked for more columns than the client knows of.
    Described(Arc<Rows>),
    /// The client's portal is there.
    Bound,
    /// A temporary object was made: it lives on main alone. Its name, lower-case, if that is plain.
    Temporary(Option<String>),
    /// BEGIN in a batch that is a transaction already: that is the client's from here on, with these modes.
    Begun(TxModes),
    /// SET TRANSACTION: AND CHAIN keeps these modes too (`SaveTransactionCharacteristics` in xact.c).
    Modes(TxModes),
    /// A FunctionCall: becomes an entry of the script.
    Call(Box<Call>),
    /// ReadyForQuery that the client sees, in the session's own words.
    Ready,
    /// ReadyForQuery at the end of an implicit transaction: commit or roll back now.
    ImplicitEnd,
}

impl Note {
    /// A write whose rows main was asked for.
    #[must_use]
    pub fn asks(&self) -> bool {
        matches!(self, Note::Write(p) if p.asked.is_some())
    }
}

/// What a DISCARD or DEALLOCATE takes away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forgets {
    /// DISCARD ALL: settings, prepared statements, temporary tables.
    All,
    /// DEALLOCATE ALL.
    Statements,
    /// DEALLOCATE name.
    Statement(String),
    /// DISCARD TEMP.
    Temporary,
}

/// A write that main is working on.
#[derive(Debug)]
pub struct PendingWrite {
    /// As a replica would get it; its expectation is filled in at completion.
    pub statement: Statement,
    /// Where in the statement's bind the transaction's time is to be written.
    pub moments: Vec<usize>,
    /// Time functions stand in the text: they become literals when the transaction's time is known.
    pub time: bool,
    /// The command tag carries a count of rows, and none means that nothing was done.
    pub counted: bool,
    /// What it did cannot be told from its tag: an entry only if the transaction has an id afterwards.
    pub opaque: bool,
    /// Main is asked for these columns besides, which are taken out of what the client is told.
    pub asked: Option<Arc<Rows>>,
    /// By a statement that EXECUTE names: its own text stays as it is.
    pub executes: bool,
    /// They become its entries; otherwise it is one as a statement.
    pub by_rows: bool,
    /// They come in binary.
    pub binary: bool,
    /// What its form rests on; `None`: nothing is proved of it.
    pub proof: Option<Proof>,
    /// Hashes of the rows that it writes; `None`: nobody can say which.
    pub rows: Option<Vec<u64>>,
    /// The transaction goes by its image from here on, by this verdict.
    pub image: Option<Arc<Verdict>>,
    /// It may write large objects.
    pub large_objects: bool,
    /// Other nodes may get other rows, and the client is warned of it: why.
    pub warning: Option<String>,
    /// A COPY FROM STDIN: its entry is in the script since its data began to come.
    pub copy: bool,
    /// Already an entry (its portal was suspended once); shared by all requests that execute the portal.
    pub noted: Arc<Noted>,
    /// Number of the portal of a query that may write as its rows are fetched, and so is done only in part while it is
    /// suspended.
    pub stepwise: Option<u64>,
}

/// A portal's write is an entry of the script.
#[derive(Debug, Default)]
pub struct Noted(AtomicBool);

impl Noted {
    /// It is.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl PendingWrite {
    /// One that becomes an entry as the statement that it is.
    #[must_use]
    pub fn new(statement: Statement) -> PendingWrite {
        PendingWrite {
            statement,
            moments: Vec::new(),
            time: false,
            counted: false,
            opaque: false,
            asked: None,
            executes: false,
            by_rows: false,
            binary: false,
            proof: None,
            rows: None,
            image: None,
            large_objects: false,
            warning: None,
            copy: false,
            noted: Arc::default(),
            stepwise: None,
        }
    }

    /// Puts the transaction's time where its time functions stood.
    pub fn at_time(&mut self, now: Now, std_strings: bool) {
        if !self.moments.is_empty() {
            let text = timestamp(now.micros);
            let mut bind = self.statement.bind.memory().to_vec();
            for at in std::mem::take(&mut self.moments) {
                if let Some(place) = bind.get_mut(at..at + text.len()) {
                    place.copy_from_slice(text.as_bytes());
                }
            }
            self.statement.bind = Bytes::from(bind).into();
        }
        if std::mem::take(&mut self.time) {
            if let Some(sql) = time_replaced(self.statement.sql.memory(), now, std_strings) {
                self.statement.sql = sql.into();
                self.statement.keep = false;
            }
            if let Some(p) = &mut self.statement.prepare {
                p.sql = time_replaced(p.sql.memory(), now, std_strings).map_or_else(|| p.sql.clone(), Into::into);
            }
        }
    }
}

/// The text with literals in place of its time functions; `None`: it has none. They are ASCII in every client encoding;
/// bytes that are no UTF-8 pass as one character each.
fn time_replaced(sql: &[u8], now: Now, std_strings: bool) -> Option<Bytes> {
    let utf8 = std::str::from_utf8(sql);
    let text = utf8.map_or_else(|_| sql.iter().map(|&b| char::from(b)).collect(), str::to_owned);
    let replaced = time_literals(&text, std_strings, &now)?;
    let bytes = match utf8 {
        Ok(_) => replaced.into_bytes(),
        Err(_) => replaced.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect(),
    };
    Some(Bytes::from(bytes))
}

/// A SET that the server is working on.
#[derive(Debug)]
pub struct PendingSetting {
    /// The text, in the client's encoding.
    pub statement: Statement,
    /// Name of the parameter, lower-case; empty if it is not one (SET ROLE by its own syntax, SET TIME ZONE).
    pub name: String,
    /// SET LOCAL and SET TRANSACTION: gone with the transaction.
    pub local: bool,
}

/// Text of a statement in a frame, without the terminating NUL.
#[must_use]
pub fn without_nul(body: &Bytes) -> Bytes {
    let end = memchr::memchr(0, body).unwrap_or(body.len());
    body.slice(..end)
}
