//! The client's prepared statements and portals, as the protocol names them.
//!
//! The session is their one owner: links only know which version of a name they hold. A statement is prepared on a
//! link when it is first needed there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::sql::cache::Verdict;

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
}

/// A portal: a statement with its values.
#[derive(Clone, Debug)]
pub struct Portal {
    /// The statement.
    pub statement: Arc<Prepared>,
    /// The client's Bind behind its names.
    pub bind: Bytes,
    /// Its write was already noted when it was suspended.
    pub noted: bool,
}

/// What has been sent and not been answered yet: an error skips it.
#[derive(Debug)]
enum Unconfirmed {
    /// Parse of a named statement, and what had the name before (the server will refuse it then).
    Parsed(Arc<str>, Option<Arc<Prepared>>),
    /// Close of a named statement.
    Closed(Arc<str>, Arc<Prepared>),
}

impl Unconfirmed {
    fn name(&self) -> &Arc<str> {
        match self {
            Unconfirmed::Parsed(name, _) | Unconfirmed::Closed(name, _) => name,
        }
    }
}

/// Names in use. Bounded by `prepared_statements`.
#[derive(Debug, Default)]
pub struct Registry {
    statements: HashMap<Arc<str>, Arc<Prepared>>,
    /// In the order of their messages.
    unconfirmed: VecDeque<Unconfirmed>,
    unnamed: Option<Arc<Prepared>>,
    portals: HashMap<Arc<str>, Portal>,
    next: u64,
}

impl Registry {
    /// A version number for a new statement.
    pub fn next_version(&mut self) -> u64 {
        self.next += 1;
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
            self.unnamed = Some(statement);
            return;
        }
        let name: Arc<str> = Arc::from(name);
        let before = self.statements.insert(name.clone(), statement);
        if !confirmed {
            self.unconfirmed.push_back(Unconfirmed::Parsed(name, before));
        }
    }

    /// The server has answered the oldest unanswered Parse or Close of a named statement.
    pub fn confirm(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// After an error: of the oldest so many that were not answered, what was parsed does not exist, and what was closed
    /// still does. A client that pipelines may have sent others behind the next Sync.
    pub fn drop_unconfirmed(&mut self, count: usize) {
        let failed: Vec<Unconfirmed> = self.unconfirmed.drain(..count.min(self.unconfirmed.len())).collect();
        for one in failed.into_iter().rev() {
            let (name, before) = match one {
                Unconfirmed::Parsed(name, before) => (name, before),
                Unconfirmed::Closed(name, statement) => (name, Some(statement)),
            };
            if self.unconfirmed.iter().any(|u| *u.name() == name) {
                continue;
            }
            match before {
                Some(statement) => self.statements.insert(name, statement),
                None => self.statements.remove(&name),
            };
        }
    }

    /// Close of a named statement has been sent. False: there is none of this name.
    pub fn close(&mut self, name: &str) -> bool {
        let Some((name, statement)) = self.statements.remove_entry(name) else { return false };
        self.unconfirmed.push_back(Unconfirmed::Closed(name, statement));
        true
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

    /// Bind.
    pub fn insert_portal(&mut self, name: &str, portal: Portal) {
        self.portals.insert(Arc::from(name), portal);
    }

    /// Close of a portal.
    pub fn remove_portal(&mut self, name: &str) {
        self.portals.remove(name);
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
        Arc::new(Prepared { version, raw, sql, types: Arc::from([]), verdict: verdicts.judge("", true, "d", None) })
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
        r.drop_unconfirmed(usize::MAX);
        let version = |n: &str| r.statement(n).map(|p| p.version);
        assert_eq!((version("a"), version("b"), version("c")), (Some(1), Some(2), None));
    }

    #[test]
    fn a_parse_that_fails_leaves_what_had_its_name_and_what_was_parsed_behind_the_next_sync() {
        let mut r = Registry::default();
        r.insert("a", statement(1), true);
        r.insert("a", statement(2), false);
        r.insert("b", statement(3), false);
        r.drop_unconfirmed(1);
        let version = |n: &str| r.statement(n).map(|p| p.version);
        assert_eq!((version("a"), version("b")), (Some(1), Some(3)));
    }
}
