//! What the session sends to its links: messages of the client, and statements of its own.

use bytes::{Bytes, BytesMut};

use super::io::Cx;
use super::owed::{Asked, Own, Whose};
use super::transaction::Target;
use super::{AfterRollback, Session, link};
use crate::wire::front;

impl Session {
    /// Nothing is owed by any link.
    pub(super) fn barriers(&mut self, cx: &mut Cx<'_>) -> bool {
        self.barrier(Target::Lane, cx) & self.barrier(Target::Reader, cx)
    }

    /// Nothing is owed by that link. If something is and sits in the server's buffer, it is asked to flush.
    pub(super) fn barrier(&mut self, target: Target, cx: &mut Cx<'_>) -> bool {
        let Some(link) = self.link(target) else { return true };
        if link.owed.is_empty() {
            return true;
        }
        if link.unflushed {
            link.unflushed = false;
            let conn = link.conn;
            cx.io.send(conn, Bytes::from_static(front::FLUSH));
        }
        false
    }

    /// Sends a message of the client's (or one made for it) and notes what it will be answered with.
    pub(super) fn forward(&mut self, target: Target, bytes: Bytes, asked: Asked, whose: Whose, cx: &mut Cx<'_>) {
        if matches!(whose, Whose::Client(_)) {
            self.served_by = Some(target);
        }
        let Some(link) = self.link(target) else { return };
        link.owed.push(asked, whose);
        let flushes = matches!(asked, Asked::Query | Asked::Sync | Asked::Function);
        link.units_sent += u64::from(flushes);
        link.unflushed = !flushes;
        link.unsynced = !flushes;
        let conn = link.conn;
        cx.io.send(conn, bytes);
    }

    /// A statement of the proxy's own, kept prepared under a name that begins with `_pgls_`.
    pub(super) fn send_own(
        &mut self,
        target: Target,
        statement: (&'static str, &'static str),
        own: Own,
        cx: &mut Cx<'_>,
    ) {
        self.send_own_in(target, statement, own, "", front::BIND_NOTHING, cx);
    }

    /// The same in a named portal, where the client's unnamed one must live on, and with a result format.
    pub(super) fn send_own_in(
        &mut self,
        target: Target,
        (name, sql): (&'static str, &'static str),
        own: Own,
        portal: &str,
        bind: &[u8],
        cx: &mut Cx<'_>,
    ) {
        let Some(link) = self.link(target) else { return };
        let mut out = BytesMut::new();
        if !link.own.contains(&name) {
            link.own.push(name);
            link.prepares(link::Fresh::Own(name));
            // Closed first: after an error nobody knows whether an earlier Parse of it was done.
            front::close(&mut out, b'S', name);
            link.owed.push(Asked::Close, Whose::Own(Own::Tidy));
            front::parse(&mut out, name, sql.as_bytes(), &[]);
            link.owed.push(Asked::Parse, Whose::Own(own));
        }
        front::bind_raw(&mut out, portal, name, bind);
        front::execute(&mut out, portal, 0);
        link.owed.push(Asked::Bind, Whose::Own(own));
        link.owed.push(Asked::Execute, Whose::Own(own));
        if !portal.is_empty() {
            front::close(&mut out, b'P', portal);
            link.owed.push(Asked::Close, Whose::Own(Own::Tidy));
        }
        link.unflushed = true;
        link.unsynced = true;
        let conn = link.conn;
        cx.io.send(conn, out.freeze());
    }

    /// Sync behind own statements.
    pub(super) fn sync_own(&mut self, target: Target, own: Own, cx: &mut Cx<'_>) {
        self.forward(target, Bytes::from_static(front::SYNC), Asked::Sync, Whose::Own(own), cx);
    }

    /// ROLLBACK of the transaction on its link, in the proxy's own name.
    pub(super) fn roll_back_lane(&mut self, after: AfterRollback, cx: &mut Cx<'_>) {
        let target = self.tx.target().unwrap_or(Target::Lane);
        self.after_rollback = Some(after);
        self.send_own(target, ("_pgls_r", "ROLLBACK"), Own::Rollback, cx);
        self.sync_own(target, Own::Rollback, cx);
    }
}
