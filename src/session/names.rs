//! The client's prepared statements and the backends: which of them knows which, and under what name it is brought there.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::io::Cx;
use super::link::Fresh;
use super::owed::{Asked, Own, Whose};
use super::registry::Prepared;
use super::transaction::Target;
use crate::wire::front;

impl Session {
    /// Prepares the statement where it is needed and not yet known; on main with the text that asks for its rows.
    pub(super) fn prepare_on(&mut self, target: Target, name: &str, statement: &Prepared, cx: &mut Cx<'_>) {
        match &statement.asks {
            Some(asks) if target == Target::Lane => {
                self.prepare_as(target, name, statement.asking_version(), &asks.raw, cx);
            }
            _ => self.prepare_as(target, name, statement.version, &statement.raw, cx),
        }
    }

    /// The same for SQL that names it: with the client's own text.
    pub(super) fn prepare_as_given(&mut self, name: &str, statement: &Prepared, cx: &mut Cx<'_>) {
        self.prepare_as(Target::Lane, name, statement.version, &statement.raw, cx);
    }

    fn prepare_as(&mut self, target: Target, name: &str, version: u64, raw: &Bytes, cx: &mut Cx<'_>) {
        let Some(l) = self.link(target) else { return };
        let known = if name.is_empty() { l.unnamed } else { l.statements.get(name).copied() };
        if known == Some(version) {
            return;
        }
        if name.is_empty() {
            l.unnamed = Some(version);
            l.prepares(Fresh::Unnamed);
        } else {
            let key: Arc<str> = Arc::from(name);
            l.statements.insert(key.clone(), version);
            l.prepares(Fresh::Named(key));
            let mut out = BytesMut::new();
            front::close(&mut out, b'S', name);
            self.forward(target, out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
        self.forward(target, raw.clone(), Asked::Parse, Whose::Own(Own::Prepare), cx);
    }

    /// Closes what the link may have under names that the client may use anew.
    pub(super) fn close_leftovers(&mut self, target: Target, cx: &mut Cx<'_>) {
        let Some(l) = self.link(target) else { return };
        for name in std::mem::take(&mut l.leftover) {
            let Some(l) = self.link(target).filter(|l| !l.statements.contains_key(&name)) else { continue };
            let mut out = BytesMut::new();
            front::close(&mut out, b'S', &name);
            l.prepares(Fresh::Closed(name));
            self.forward(target, out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
    }

    /// The client has closed the statement: other links than this one still have it.
    pub(super) fn disown(&mut self, but: Option<Target>, name: &str) {
        for target in [Target::Lane, Target::Reader].into_iter().filter(|t| Some(*t) != but) {
            if let Some(l) = self.link(target) {
                l.disown(name);
            }
        }
        self.parked.iter_mut().for_each(|l| l.disown(name));
    }

    /// The client asks for an unnamed portal that it has not made: it must not find one of the proxy's own (a BEGIN's).
    pub(super) fn forget_own_portal(&mut self, name: &str, cx: &mut Cx<'_>) {
        if name.is_empty() {
            let mut out = BytesMut::new();
            front::close(&mut out, b'P', "");
            self.forward(self.target(), out.freeze(), Asked::Close, Whose::Own(Own::Tidy), cx);
        }
    }
}
