//! The client's prepared statements and portals, as the protocol names them.
//!
//! The session is their one owner: links only know which version of a name they hold. A statement is prepared on a
//! link when it is first needed there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::note::Noted;
use super::rows::Asks;
use crate::sql::cache::Verdict;
use crate::sql::proof::Rows;

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// Distinguishes statements that had the same name one after the other.
    pub version: u64,
    /// The client's Parse message, as it came.
    pub raw: Bytes,
    /// The text, in the client's encoding.
    pub sql: Bytes,
    /// Parameter types by OID.
    pub types: Arc<[u32]>,
    /// What the statement is.
    pub verdict: Arc<Verdict>,
    /// Main is asked for its rows.
    pub asks: Option<Asks>,
}

/// In a link's version of a statement: it has the text that asks for rows, and not the client's own.
const ASKING: u64 = 1 << 63;

impl Prepared {
    /// How links tell the statement, as main gets it by the protocol.
    #[must_use]
    pub fn asking_version(&self) -> u64 {
        if self.asks.is_some() { self.version | ASKING } else { self.version }
    }

    /// The rows that main is asked for.
    #[must_use]
    pub fn asked(&self) -> Option<Arc<Rows>> {
        self.asks.as_ref().map(|a| a.rows.clone())
    }
}

/// A portal: a statement with its values.
#[derive(Clone, Debug)]
pub struct Portal {
    /// The statement.
    pub statement: Arc<Prepared>,
    /// The client's Bind behind its names.
    pub bind: Bytes,
    /// Number of the batch in which it was bound.
    batch: u64,
    /// Distinguishes portals that had the same name one after the other.
    pub id: u64,
    /// What is known of its write, once it has been executed.
    pub noted: Option<Arc<Noted>>,
    /// What `EXPLAIN (PGLOCKSTEP)` has answered.
    pub answered: Option<super::explain::Answered>,
}

/// What has been sent and not been answered yet: an error skips it.
#[derive(Debug)]
enum Unconfirmed {
    /// Parse of a named statement, and what had the name before (the server will refuse it then).
    Parsed(Arc<str>, Option<Arc<Prepared>>),
    /// Parse of the unnamed statement, and what that was before.
    Unnamed(Option<Arc<Prepared>>),
    /// Close of a named statement.
    Closed(Arc<str>, Arc<Prepared>),
}

/// Names in use. Bounded by `prepared_statements`.
#[derive(Debug, Default)]
pub struct Registry {
    statements: HashMap<Arc<str>, Arc<Prepared>>,
    /// In the order of their messages, each with the number of its batch.
    unconfirmed: VecDeque<(u64, Unconfirmed)>,
    unnamed: Option<Arc<Prepared>>,
    portals: HashMap<Arc<str>, Portal>,
    /// Portals whose Bind has not been answered yet, in the order of their Bind messages.
    unbound: VecDeque<(u64, Arc<str>)>,
    /// Syncs and Queries that the client has sent, and those that were answered.
    batches: (u64, u64),
    next: u64,
}

impl Registry {
    /// A version number for a new statement.
    pub fn next_version(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The last one that was given out.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.next
    }

    /// The statement of that name.
    #[must_use]
    pub fn statement(&self, name: &str) -> Option<&Arc<Prepared>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.statements.get(name) }
    }

    /// Adds a statement. Unless `confirmed`, it exists for good once its Parse has been answered ([`Self::confirm`]).
    pub fn insert(&mut self, name: &str, statement: Arc<Prepared>, confirmed: bool) {
        if name.is_empty() {
            let before = self.unnamed.replace(statement);
            if !confirmed {
                self.unconfirmed.push_back((self.batches.0, Unconfirmed::Unnamed(before)));
            }
            return;
        }
        let name: Arc<str> = Arc::from(name);
        let before = self.statements.insert(name.clone(), statement);
        if !confirmed {
            self.unconfirmed.push_back((self.batches.0, Unconfirmed::Parsed(name, before)));
        }
    }

    /// The server has answered the oldest unanswered Parse or Close of a named statement.
    pub fn confirm(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// The server has answered the oldest unanswered Bind.
    pub fn confirm_portal(&mut self) {
        self.unbound.pop_front();
    }

    /// After an error: statements whose Parse and portals whose Bind was not answered do not exist, statements whose
    /// Close was not still do. Batches behind the one that failed may have been sent already: they are not skipped.
    pub fn drop_unconfirmed(&mut self) {
        self.drop_skipped(self.batches.1, false);
    }

    /// The same when nothing that is under way will be answered: in the batches behind it neither.
    pub fn drop_all_unconfirmed(&mut self) {
        self.drop_skipped(u64::MAX, false);
    }

    /// The same after an error of a Parse of the unnamed statement, which drops the old one before it can fail
    /// (`exec_parse_message` in postgres.c).
    pub fn drop_unnamed_too(&mut self) {
        self.drop_skipped(self.batches.1, true);
    }

    fn drop_skipped(&mut self, failed: u64, unnamed_too: bool) {
        let skipped = self.unbound.iter().take_while(|(batch, _)| *batch <= failed).count();
        for (batch, name) in self.unbound.drain(..skipped) {
            if self.portals.get(&name).is_some_and(|p| p.batch == batch) {
                self.portals.remove(&name);
            }
        }
        let skipped = self.unconfirmed.iter().take_while(|(batch, _)| *batch <= failed).count();
        let mut unnamed = None;
        let skipped: Vec<_> = self.unconfirmed.drain(..skipped).collect();
        for (_, last) in skipped.into_iter().rev() {
            match last {
                Unconfirmed::Unnamed(before) => unnamed = Some(before.filter(|_| !unnamed_too)),
                Unconfirmed::Parsed(name, before) => self.set_back(name, before),
                Unconfirmed::Closed(name, statement) => self.set_back(name, Some(statement)),
            }
        }
        let Some(unnamed) = unnamed else { return };
        let later = self.unconfirmed.iter_mut().find_map(|(_, u)| match u {
            Unconfirmed::Unnamed(before) => Some(before),
            _ => None,
        });
        *later.unwrap_or(&mut self.unnamed) = unnamed;
    }

    /// A name means again what it meant, unless it was used once more behind the batch that failed.
    fn set_back(&mut self, name: Arc<str>, before: Option<Arc<Prepared>>) {
        let used = |u: &Unconfirmed| matches!(u, Unconfirmed::Parsed(n, _) | Unconfirmed::Closed(n, _) if *n == name);
        if self.unconfirmed.iter().any(|(_, u)| used(u)) {
            return;
        }
        match before {
            Some(statement) => self.statements.insert(name, statement),
            None => self.statements.remove(&name),
        };
    }

    /// Close of a named statement has been sent. False: there is none of this name.
    pub fn close(&mut self, name: &str) -> bool {
        let Some((name, statement)) = self.statements.remove_entry(name) else { return false };
        self.unconfirmed.push_back((self.batches.0, Unconfirmed::Closed(name, statement)));
        true
    }

    /// All statements that have names.
    #[must_use]
    pub fn named(&self) -> Vec<(Arc<str>, Arc<Prepared>)> {
        self.statements.iter().map(|(n, s)| (n.clone(), s.clone())).collect()
    }

    /// Number of named statements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.statements.len()
    }

    /// No named statement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// DEALLOCATE, or Close of one that no server has.
    pub fn remove(&mut self, name: &str) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.statements.remove(name);
        }
    }

    /// DEALLOCATE ALL, DISCARD ALL.
    pub fn clear(&mut self) {
        self.statements.clear();
        self.unnamed = None;
    }

    /// A simple Query drops the unnamed statement and portal (`exec_simple_query` in postgres.c).
    pub fn drop_unnamed(&mut self) {
        self.unnamed = None;
        self.portals.remove("");
    }

    /// The portal of that name.
    #[must_use]
    pub fn portal(&self, name: &str) -> Option<&Portal> {
        self.portals.get(name)
    }

    /// The same, to mark it.
    pub fn portal_mut(&mut self, name: &str) -> Option<&mut Portal> {
        self.portals.get_mut(name)
    }

    /// Bind. The portal exists for good once that has been answered ([`Self::confirm_portal`]).
    pub fn insert_portal(&mut self, name: &str, statement: Arc<Prepared>, bind: Bytes) {
        let name: Arc<str> = Arc::from(name);
        self.unbound.push_back((self.batches.0, name.clone()));
        let id = self.next_version();
        self.portals.insert(name, Portal { statement, bind, batch: self.batches.0, id, noted: None, answered: None });
    }

    /// A Sync or a Query of the client's.
    pub fn batch_ends(&mut self) {
        self.batches.0 += 1;
    }

    /// Number of the batch that the client is sending.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.batches.0
    }

    /// Number of the oldest batch that is not answered.
    #[must_use]
    pub fn answering(&self) -> u64 {
        self.batches.1
    }

    /// A batch that had ended is run once more.
    pub fn batch_repeated(&mut self) {
        self.batches.0 -= 1;
    }

    /// It was answered. `idle`: outside a transaction block, so that the portals bound before it are gone.
    pub fn batch_answered(&mut self, idle: bool) {
        self.batches.1 += 1;
        let answered = self.batches.1;
        if idle {
            self.portals.retain(|_, p| p.batch >= answered);
        }
    }

    /// Close of a portal.
    pub fn remove_portal(&mut self, name: &str) {
        self.portals.remove(name);
    }

    /// Portals that a server had are gone with it; those of BEGIN, COMMIT and ROLLBACK no server has.
    pub fn drop_servers_portals(&mut self) {
        self.portals.retain(|_, p| p.statement.verdict.class.is_block_control());
    }

    /// A server has a portal of the client's.
    #[must_use]
    pub fn has_servers_portals(&self) -> bool {
        self.portals.values().any(|p| !p.statement.verdict.class.is_block_control())
    }

    /// Portals end with their transaction.
    pub fn drop_portals(&mut self) {
        self.portals.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(version: u64) -> Arc<Prepared> {
        let mut verdicts = crate::sql::cache::VerdictCache::new(1);
        let (raw, sql) = (Bytes::new(), Bytes::new());
        Arc::new(Prepared {
            version,
            raw,
            sql,
            types: Arc::from([]),
            verdict: verdicts.judge("", true, "d", None),
            asks: None,
        })
    }

    #[test]
    fn an_error_takes_back_what_was_parsed_and_closed_behind_it_and_nothing_before() {
        let mut r = Registry::default();
        r.insert("a", statement(1), true);
        r.insert("b", statement(2), false);
        r.confirm();
        assert!(r.close("a"));
        r.insert("a", statement(3), false);
        r.insert("c", statement(4), false);
        r.drop_all_unconfirmed();
        let version = |n: &str| r.statement(n).map(|p| p.version);
        assert_eq!((version("a"), version("b"), version("c")), (Some(1), Some(2), None));
    }

    #[test]
    fn a_parse_that_fails_leaves_what_had_its_name() {
        let mut r = Registry::default();
        r.insert("a", statement(1), true);
        r.insert("a", statement(2), false);
        r.drop_unconfirmed();
        assert_eq!(r.statement("a").map(|p| p.version), Some(1));
    }

    #[test]
    fn an_error_takes_nothing_back_of_the_batches_behind_it() {
        let mut r = Registry::default();
        r.insert("", statement(1), true);
        r.insert("", statement(2), false);
        r.insert_portal("p", statement(2), Bytes::new());
        r.batch_ends();
        r.insert("", statement(3), false);
        r.insert("n", statement(4), false);
        r.insert_portal("p", statement(3), Bytes::new());
        r.batch_ends();
        r.drop_unconfirmed();
        r.batch_answered(true);
        let version = |r: &Registry, n: &str| r.statement(n).map(|p| p.version);
        assert_eq!((version(&r, ""), version(&r, "n")), (Some(3), Some(4)));
        assert_eq!(r.portal("p").map(|p| p.statement.version), Some(3));
        r.drop_unconfirmed();
        assert_eq!((version(&r, ""), version(&r, "n")), (Some(1), None));
        assert!(r.portal("p").is_none());
    }

    #[test]
    fn portals_end_with_the_answer_outside_a_block_to_the_batch_that_bound_them() {
        let mut r = Registry::default();
        r.insert_portal("old", statement(1), Bytes::new());
        r.batch_ends();
        r.insert_portal("new", statement(1), Bytes::new());
        r.batch_answered(true);
        assert!(r.portal("old").is_none() && r.portal("new").is_some());
    }
}
