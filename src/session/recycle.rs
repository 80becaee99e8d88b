//! Backends outlive their sessions: how one is had, and how it is given back.
//!
//! A session that has ended leaves its backends idle: they run `reset_query_list` and wait for the next client of the
//! same role, database and start-up parameters ([`LaneKey`]). Only one that owes nothing and has no transaction open is
//! given back; any other is closed.
//!
//! What main tells a client at its login is the same for all of one kind until something changes it, so it is kept
//! ([`Welcomes`]): the next client is let in without a backend, and gets one on main when it asks for something that only
//! main can do. A client that only reads has a backend on the node that it reads from, and no other.

use std::collections::HashMap;
use std::mem::Discriminant;
use std::sync::Arc;

use bytes::BytesMut;

use super::io::{Backend, Cx, LaneKey, TimerKind};
use super::link::{Link, parameter};
use super::owed::Own;
use super::transaction::Target;
use super::{Session, Stage};
use crate::auth::Credentials;
use crate::sequencer::NodeId;
use crate::shard::driver::ConnId;
use crate::wire::{PgError, front};

/// A backend that has not reset itself in this time is closed.
const RESET_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Kinds of clients whose login is remembered; beyond it all are forgotten.
const WELCOMES_MAX: usize = 1000;

/// Whoever logs in with a password can log in elsewhere too, who does so with keys perhaps not: they are different kinds.
type Kind = (Arc<str>, Arc<str>, Arc<[(String, String)]>, Discriminant<Credentials>);

/// ParameterStatus messages of a login, by database, role and start-up parameters.
#[derive(Debug, Default)]
pub struct Welcomes {
    known: HashMap<Kind, Arc<[(String, String)]>>,
}

impl Welcomes {
    fn of(&self, key: &LaneKey, by: &Credentials) -> Option<Arc<[(String, String)]>> {
        self.known.get(&kind(key, by)).cloned()
    }

    fn remember(&mut self, key: &LaneKey, by: &Credentials, parameters: &[(String, String)]) {
        if self.known.len() >= WELCOMES_MAX {
            self.known.clear();
        }
        self.known.insert(kind(key, by), Arc::from(parameters));
    }

    /// Something has changed that a login would show.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

fn kind(key: &LaneKey, by: &Credentials) -> Kind {
    (key.database.clone(), key.user.clone(), key.startup.clone(), std::mem::discriminant(by))
}

/// A backend that resets itself.
#[derive(Debug)]
pub struct Resetting {
    link: Box<Link>,
    /// ReadyForQuery messages still to come.
    answers: usize,
}

/// How a session's need for a backend was met.
#[derive(Debug)]
pub(super) enum Had {
    /// It can be used, once it has answered what it owes.
    Ready(Link),
    /// It logs in.
    Opening(Link),
    /// Not now.
    None,
}

impl Session {
    fn backend_key(&self, node: NodeId, target: Target) -> LaneKey {
        LaneKey {
            node,
            database: self.database.clone(),
            user: self.user.clone(),
            startup: self.startup.clone(),
            reader: target == Target::Reader,
        }
    }

    /// A backend for this session, idle or new. For a lane the session queues if there can be none.
    pub(super) fn have_backend(&mut self, node: NodeId, target: Target, cx: &mut Cx<'_>) -> Had {
        let key = self.backend_key(node, target);
        match cx.io.take_backend(&key, &cx.env.pool_limits(), target == Target::Lane) {
            Backend::Idle(link, idle) => {
                self.queued = None;
                self.stale = idle >= cx.env.config.pool.server_check_delay;
                Had::Ready(*link)
            }
            Backend::Opening(conn) => {
                self.queued = None;
                Had::Opening(self.new_link(conn, node, target, super::startup::LinkFor::Client, cx))
            }
            Backend::None => {
                if target == Target::Lane && self.queued.is_none() {
                    self.queued = Some(cx.io.now());
                    cx.io.arm(cx.env.config.pool.queue_timeout, TimerKind::Queue);
                }
                Had::None
            }
        }
    }

    /// `queue_timeout` has passed.
    pub(super) fn queue_timer(&mut self, cx: &mut Cx<'_>) {
        let Some(since) = self.queued else { return };
        let limit = cx.env.config.pool.queue_timeout;
        let waited = cx.io.now().since(since);
        if waited < limit {
            return cx.io.arm(limit.saturating_sub(waited), TimerKind::Queue);
        }
        let e = PgError::fatal("53300", "sorry, too many backends already").detail(format!(
            "All pool_size = {} backends were in use for queue_timeout.",
            cx.env.config.pool.pool_size
        ));
        self.fatal(&e, cx);
    }

    /// It is this session's turn to have a lane.
    pub(super) fn turn_came(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, Stage::Over) {
            return cx.io.leave_queue();
        }
        match self.stage {
            Stage::Lane if self.lane.is_none() => {
                self.open_lane(cx);
                self.pump(cx);
            }
            Stage::Ready => {
                self.has_lane(cx);
                self.pump_requests(cx);
            }
            _ => cx.io.leave_queue(),
        }
    }

    /// What main tells clients of this kind, if the session may be let in without asking it.
    pub(super) fn known_welcome(&self, cx: &Cx<'_>) -> Option<Arc<[(String, String)]>> {
        let key = self.backend_key(Self::main_node(cx), Target::Lane);
        cx.env.config.pool.connection_cache.then(|| cx.env.welcomes.borrow().of(&key, &self.credentials)).flatten()
    }

    /// The lane has logged in.
    pub(super) fn remember_welcome(&self, cx: &Cx<'_>) {
        if let Some(lane) = &self.lane {
            let key = self.backend_key(lane.node, Target::Lane);
            cx.env.welcomes.borrow_mut().remember(&key, &self.credentials, &lane.parameters);
        }
    }

    /// The session needs this backend no more: the next client may have it, once it has forgotten this one.
    pub(super) fn give_back(&mut self, mut link: Box<Link>, cx: &mut Cx<'_>) {
        let pool = &cx.env.config.pool;
        let quiet = self.cancels == 0 && link.is_ready() && link.owed.is_empty() && !link.unsynced && link.is_idle();
        // A custom setting that was made stays known to the backend for good (see `sql::custom`).
        let quiet = quiet && !self.made_custom && !link.lies;
        if !pool.connection_cache || pool.max_pool == 0 || cx.env.draining.get() || !quiet {
            return self.close_link(&link, cx);
        }
        let mut out = BytesMut::new();
        for sql in &pool.reset_query_list {
            front::query(&mut out, sql.as_bytes());
        }
        link.forget_client();
        let answers = pool.reset_query_list.len();
        if answers == 0 {
            return cx.io.park_backend(link, &cx.env.pool_limits());
        }
        cx.io.send(link.conn, out.freeze());
        if self.resetting.is_empty() {
            cx.io.arm(RESET_TIMEOUT, TimerKind::Reset);
        }
        self.resetting.push(Resetting { link, answers });
    }

    /// Bytes of a backend that resets itself. False: the connection is none of them.
    pub(super) fn reset_received(&mut self, conn: ConnId, bytes: &bytes::Bytes, cx: &mut Cx<'_>) -> bool {
        let Some(at) = self.resetting.iter().position(|r| r.link.conn == conn) else { return false };
        let r = &mut self.resetting[at];
        r.link.framer.push(bytes.clone());
        let mut failed = false;
        loop {
            match r.link.framer.next_piece() {
                Ok(Some(piece)) => match piece.tag {
                    b'Z' => r.answers = r.answers.saturating_sub(1),
                    b'E' => failed = true,
                    b'S' => {
                        let raw = r.link.framer.bytes(&piece).get(5..).and_then(parameter);
                        raw.into_iter().for_each(|(name, value)| r.link.set_parameter(&name, &value));
                    }
                    _ => {}
                },
                Ok(None) => break,
                Err(_) => failed = true,
            }
            if failed {
                break;
            }
        }
        if failed {
            let r = self.resetting.swap_remove(at);
            tracing::warn!(node = %r.link.node, "a backend could not run reset_query_list and is closed");
            cx.io.abort(r.link.conn);
        } else if r.answers == 0 {
            let r = self.resetting.swap_remove(at);
            cx.io.park_backend(r.link, &cx.env.pool_limits());
        }
        true
    }

    /// A backend that was resetting itself is gone. False: the connection is none of them.
    pub(super) fn reset_gone(&mut self, conn: ConnId) -> bool {
        let before = self.resetting.len();
        self.resetting.retain(|r| r.link.conn != conn);
        self.resetting.len() < before
    }

    /// Backends that have not reset themselves in time.
    pub(super) fn reset_timer(&mut self, cx: &mut Cx<'_>) {
        for r in std::mem::take(&mut self.resetting) {
            tracing::warn!(node = %r.link.node, "a backend did not run reset_query_list in time and is closed");
            cx.io.abort(r.link.conn);
        }
    }

    /// A lane that has served before is this session's. One that was idle for long is asked for a sign of life first.
    pub(super) fn take_over_lane(&mut self, link: Link, cx: &mut Cx<'_>) {
        self.lane = Some(link);
        self.snapshots.stale = true;
        if std::mem::take(&mut self.stale) {
            self.sync_own(Target::Lane, Own::Check, cx);
        }
    }

    /// It lives.
    pub(super) fn lane_lives(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, Stage::Lane | Stage::Ready) {
            self.lane_ready(cx);
        }
    }

    /// It does not: the session has another one. False: the lane that is gone had served this session already.
    pub(super) fn lane_was_dead(&mut self, link: &Link, cx: &mut Cx<'_>) -> bool {
        let dead = link.owed.is_checked();
        if dead && matches!(self.stage, Stage::Lane) {
            self.open_lane(cx);
        } else if dead {
            self.pump_requests(cx);
        }
        dead
    }
}
