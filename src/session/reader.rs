//! The session's backends for reads: which node serves, opening it, bringing the session's SETs to it, losing it.
//!
//! At most one reader is in use at a time. With `statement_level_load_balance` the others are parked: they owe nothing,
//! so all they can say is that they are gone.

use bytes::{Bytes, BytesMut};

use super::io::{Cx, Question};
use super::link::{Link, Login};
use super::lost::Gone;
use super::owed::{Asked, Own, Whose};
use super::recycle::Had;
use super::transaction::{Target, Tx};
use super::{Request, Session};
use crate::sequencer::NodeId;
use crate::shard::driver::ConnId;
use crate::sql::class::{Class, classify};
use crate::wire::{PgError, back, front};

/// The session's backend for reads.
#[derive(Debug, Default)]
pub(super) enum Reader {
    /// None yet.
    #[default]
    None,
    /// Logging in.
    Opening(Box<Link>),
    /// Serves.
    Ready(Box<Link>),
    /// The lane serves: main was chosen, or the reader could not be opened. Chosen anew when the membership changes,
    /// and with `statement_level_load_balance` for each statement.
    Lane,
}

/// Whether the session's reader can serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReaderIs {
    /// It can.
    Ready,
    /// It is being opened.
    Coming,
    /// The lane serves.
    None,
}

impl Session {
    /// The reader for the next statement, opened if need be, with the session's SETs.
    pub(super) fn reader_is(&mut self, cx: &mut Cx<'_>) -> ReaderIs {
        if cx.env.config.load_balance.statement_level_load_balance {
            self.choose_anew(cx);
        }
        match &self.reader {
            Reader::Lane => {
                // Once it can go there the choice has been made use of.
                self.chosen = self.chosen.filter(|_| self.lane.as_ref().is_none_or(|l| !l.is_ready()));
                return ReaderIs::None;
            }
            Reader::Opening(_) => return ReaderIs::Coming,
            Reader::None => {
                let node = self.chosen.take().or_else(|| pick_node(cx));
                let Some(node) = node.filter(|n| *n != Self::main_node(cx)) else {
                    self.reader = Reader::Lane;
                    return ReaderIs::None;
                };
                match self.have_backend(node, Target::Reader, cx) {
                    Had::Ready(link) => self.reader = Reader::Ready(Box::new(link)),
                    Had::Opening(link) => {
                        self.reader = Reader::Opening(Box::new(link));
                        return ReaderIs::Coming;
                    }
                    Had::None => {
                        self.reader = Reader::Lane;
                        return ReaderIs::None;
                    }
                }
            }
            Reader::Ready(_) => {}
        }
        self.replay_settings(cx);
        // The choice stands until the statement goes there.
        self.chosen = self.link_ref(Target::Reader).filter(|l| l.owed.prepares()).map(|l| l.node);
        if self.chosen.is_some() { ReaderIs::Coming } else { ReaderIs::Ready }
    }

    /// Chooses a node for this statement, once, and takes its reader from those that are parked.
    fn choose_anew(&mut self, cx: &mut Cx<'_>) {
        // What a reader still owes it must be in use for.
        let busy = match &self.reader {
            Reader::Opening(_) => true,
            Reader::Ready(l) => !l.owed.is_empty(),
            Reader::None | Reader::Lane => false,
        };
        if self.chosen.is_some() || busy {
            return;
        }
        let Some(node) = pick_node(cx) else { return };
        match std::mem::take(&mut self.reader) {
            Reader::Ready(l) if l.node == node => return self.reader = Reader::Ready(l),
            Reader::Ready(l) => {
                // Held back since the client does not read, it would stay so: only links in use are let go on again.
                cx.io.resume(l.conn);
                self.parked.push(l);
            }
            _ => {}
        }
        if let Some(at) = self.parked.iter().position(|l| l.node == node) {
            self.reader = Reader::Ready(self.parked.swap_remove(at));
        }
        self.chosen = Some(node);
    }

    fn replay_settings(&mut self, cx: &mut Cx<'_>) {
        while let Reader::Ready(link) = &mut self.reader {
            let Some(sql) = self.replay.get(link.replayed) else { break };
            link.replayed += 1;
            link.read_committed = None;
            link.default_asked &= !super::snapshot::concerns_default(sql);
            let mut out = BytesMut::new();
            front::query(&mut out, sql);
            self.forward(Target::Reader, out.freeze(), Asked::Query, Whose::Own(Own::Replay), cx);
        }
        self.ask_reader_default(cx);
    }

    /// Messages of the reader's login.
    pub(super) fn reader_login(&mut self, cx: &mut Cx<'_>) {
        loop {
            let Reader::Opening(link) = &mut self.reader else { return };
            let piece = match link.framer.next_piece() {
                Ok(Some(p)) => p,
                Ok(None) => return,
                Err(e) => return self.reader_failed(&e.to_string(), cx),
            };
            let mut reply = Vec::new();
            let login = link.login(&piece, &mut reply);
            let conn = link.conn;
            for b in reply {
                cx.io.send(conn, b);
            }
            match login {
                Login::More => {}
                Login::Ready => {
                    if let Reader::Opening(link) = std::mem::take(&mut self.reader) {
                        self.chosen = Some(link.node);
                        self.reader = Reader::Ready(link);
                    }
                    return self.pump_requests(cx);
                }
                Login::Refused { fields, .. } => return self.reader_failed(&fields.message, cx),
                Login::Failed(e) => return self.reader_failed(&e.message, cx),
            }
        }
    }

    /// The reader could not be opened: the lane serves.
    pub(super) fn reader_failed(&mut self, why: &str, cx: &mut Cx<'_>) {
        if let Reader::Opening(l) | Reader::Ready(l) = std::mem::replace(&mut self.reader, Reader::Lane) {
            tracing::warn!(node = %l.node, why, "no reader; main serves this session's reads");
            self.chosen = Some(Self::main_node(cx));
            cx.io.abort(l.conn);
        }
        self.pump_requests(cx);
    }

    /// The reader was lost.
    pub(super) fn reader_gone(&mut self, why: &str, cx: &mut Cx<'_>) {
        // The next read chooses anew: a backend that an administrator has ended says nothing about its node, and where the
        // node is gone the attempt to open another fails.
        let Reader::Ready(link) = std::mem::take(&mut self.reader) else { return };
        tracing::warn!(node = %link.node, why, "a reader was lost");
        self.chosen = None;
        cx.io.ask(Question::Stands { node: link.node });
        link.end_backend(cx.io);
        self.forget_look();
        if self.after_rollback.is_some() && self.tx.target() == Some(Target::Reader) {
            // It was being ended, and had nothing to commit.
            self.tx = Tx::Idle;
            return self.rolled_back(cx);
        }
        let moves = self.tx.open().is_some_and(|o| o.only_reads()) && self.may_leave();
        // What the batch has bound there main has not.
        let bound = self.batch.goes_to_reader() && self.registry.has_servers_portals();
        if moves && !bound && !link.owed.owes_client() {
            self.batch.moves();
            self.leave_reader(cx);
            return self.pump_requests(cx);
        }
        if self.retry.is_some() && (self.in_cut() || moves || self.tx.target() != Some(Target::Reader)) {
            // Nothing of the answer has left.
            self.out.drop_held();
            self.registry.drop_all_unconfirmed();
            return self.run_elsewhere(cx);
        }
        if !link.owed.owes_client() && self.tx.target() != Some(Target::Reader) {
            // It was being prepared at most: what waits for it chooses anew.
            return self.pump_requests(cx);
        }
        self.lose_reader(*link, why, cx);
    }

    /// The reader owed something of which a part may have left, or had what main has not of the open block.
    fn lose_reader(&mut self, link: Link, why: &str, cx: &mut Cx<'_>) {
        if self.torn {
            // In the middle of a message nothing can be told.
            let e = PgError::fatal("57P01", "terminating connection: the node that served a read is gone");
            return self.fatal(&e.detail(why.to_owned()), cx);
        }
        self.rows.take();
        self.row_entries = super::rows::Told::default();
        self.retry = None;
        self.cut_taken();
        if link.owed.ends_block() && self.ends_without_reader(cx) {
            return;
        }
        let open = match std::mem::take(&mut self.tx) {
            Tx::Open(open) if open.on == Target::Reader => Some(open),
            other => {
                self.tx = other;
                None
            }
        };
        self.registry.drop_servers_portals();
        self.lose_requests(Some(link), open, Gone::Reader, cx);
        self.pump(cx);
    }

    /// COMMIT or ROLLBACK of a block that did nothing but read has nothing left to do.
    fn ends_without_reader(&mut self, cx: &mut Cx<'_>) -> bool {
        let Request::Simple(s) = &self.request else { return false };
        let class = classify(&String::from_utf8_lossy(&s.text[s.steps[s.next].clone()]), self.std_strings);
        let (Class::Commit { chain } | Class::Rollback { chain }) = class else { return false };
        let failed = self.tx.open().is_some_and(|o| o.failed);
        let committed = matches!(class, Class::Commit { .. }) && !failed;
        self.transaction_ended(chain);
        self.out.push(back::command_complete(if committed { "COMMIT" } else { "ROLLBACK" }));
        if let Request::Simple(s) = &mut self.request {
            s.next += 1;
        }
        self.run_steps(cx);
        true
    }

    /// Readers whose node is no longer up are given up before anything of them could be delivered.
    pub(super) fn check_reader_node(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.reader, Reader::Lane) {
            self.reader = Reader::None;
        }
        let membership = cx.env.membership.load();
        self.chosen = self.chosen.filter(|n| membership.is_up(*n));
        let (stay, out) = std::mem::take(&mut self.parked).into_iter().partition(|l| membership.is_up(l.node));
        self.parked = stay;
        for l in out {
            cx.io.abort(l.conn);
        }
        let conn = match &self.reader {
            Reader::Ready(l) | Reader::Opening(l) if !membership.is_up(l.node) => l.conn,
            _ => return,
        };
        cx.io.abort(conn);
        self.server_gone(conn, "its node is out", cx);
    }

    /// A parked reader that says anything but notices is of no use any more. False: the connection is none of them.
    pub(super) fn parked_received(&mut self, conn: ConnId, bytes: &Bytes, cx: &mut Cx<'_>) -> bool {
        let Some(at) = self.parked.iter().position(|l| l.conn == conn) else { return false };
        if !matches!(bytes.first(), Some(b'N' | b'S')) {
            cx.io.abort(conn);
            self.parked.swap_remove(at);
            return true;
        }
        let framer = &mut self.parked[at].framer;
        framer.push(bytes.clone());
        while matches!(framer.next_piece(), Ok(Some(_))) {}
        true
    }

    /// All readers, in use and parked, owing nothing.
    pub(super) fn close_readers(&mut self, cx: &mut Cx<'_>) {
        let mut all = std::mem::take(&mut self.parked);
        match std::mem::take(&mut self.reader) {
            Reader::Ready(l) | Reader::Opening(l) => all.push(l),
            Reader::None | Reader::Lane => {}
        }
        for l in all {
            self.give_back(l, cx);
        }
    }
}

/// A node by weight, among those that are up.
pub(super) fn pick_node(cx: &mut Cx<'_>) -> Option<NodeId> {
    let membership = cx.env.membership.load();
    let weights = || {
        let nodes = cx.env.config.nodes.iter().map(|n| (NodeId(n.id), n.backend_weight));
        nodes.filter(|(id, w)| membership.is_up(*id) && *w > 0.0)
    };
    let total: f64 = weights().map(|(_, w)| w).sum();
    let mut random = [0u8; 4];
    cx.io.random(&mut random);
    let mut at = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX) * total;
    for (id, w) in weights() {
        at -= w;
        if at <= 0.0 {
            return Some(id);
        }
    }
    // Rounding left a little over.
    weights().next_back().map(|(id, _)| id)
}
