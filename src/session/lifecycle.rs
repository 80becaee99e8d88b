//! How requests end, and how sessions do: ReadyForQuery, cancel, idle limits, draining, the last words.

use bytes::Bytes;

use super::io::{Cx, TimerKind};
use super::link::Link;
use super::transaction::{Target, Tx};
use super::{Request, Session, Stage};
use crate::telemetry::{Phase, StatementClass};
use crate::wire::{PgError, TxStatus, back, front};

impl Session {
    /// ReadyForQuery: the only place that sends one. What was asked has been answered.
    pub(super) fn ready(&mut self, cx: &mut Cx<'_>) {
        self.conflict_over();
        if self.retry.take().is_some() {
            // Nothing was executed.
            self.out.release();
        }
        self.forget_look();
        let earlier = self.registry.answering() < self.tx_since;
        let status = if earlier { TxStatus::Idle } else { self.status() };
        self.registry.batch_answered(status == TxStatus::Idle);
        self.tell_parameters();
        self.out.push(back::ready(status));
        if let (Some(began), Some(by)) = (self.began.take(), self.served_by.take()) {
            let class = if by == Target::Reader { StatementClass::Read } else { StatementClass::Main };
            cx.env.recorder.borrow_mut().record(class, Phase::Total, cx.io.now().since(began));
        }
    }

    /// ParameterStatus of what has changed since the client was told last (`ReportChangedGUCOptions` in guc.c, which goes
    /// by name).
    fn tell_parameters(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        for (name, value) in changed.into_values() {
            match self.told.iter_mut().find(|(n, _)| *n == name) {
                Some((_, told)) if *told == value => continue,
                Some((_, told)) => told.clone_from(&value),
                None => self.told.push((name.clone(), value.clone())),
            }
            self.out.push(back::parameter_status(&name, &value));
        }
    }

    /// `client_idle_limit`: as PostgreSQL's idle_session_timeout, and inside a transaction block too.
    pub(super) fn idle_timer(&mut self, cx: &mut Cx<'_>) {
        let limit = cx.env.config.limits.client_idle_limit;
        if limit.is_zero() || matches!(self.stage, Stage::Over) {
            return;
        }
        let silent = cx.io.now().since(self.heard);
        if silent < limit || !self.is_quiet() {
            let rest = limit.saturating_sub(silent).max(std::time::Duration::from_secs(1));
            return cx.io.arm(rest, TimerKind::Idle);
        }
        let e = PgError::fatal("57P05", "terminating connection due to idle-session timeout")
            .detail("client_idle_limit has passed.");
        self.fatal(&e, cx);
    }

    /// Nothing is under way for the client.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.request, Request::None)
            && self.limbo.is_none()
            && self.commit.is_none()
            && self.after_rollback.is_none()
            && self.inbox.is_empty()
            && [Target::Lane, Target::Reader].iter().all(|&t| self.link_ref(t).is_none_or(|l| l.owed.is_empty()))
    }

    /// Tells the client an error and ends the session. In the middle of a message nothing more can be told.
    pub(super) fn fatal(&mut self, error: &PgError, cx: &mut Cx<'_>) {
        self.out.drop_held();
        if !self.torn {
            self.out.push(error.encode());
        }
        self.flush(cx);
        self.end(cx);
    }

    /// Ends the session. A commit whose COMMIT has been sent to main is finished first.
    pub(super) fn end(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        self.flush(cx);
        self.stage = Stage::Over;
        if !self.client_gone {
            cx.io.close(self.client);
            self.client_gone = true;
        }
        // Nobody reads any more what servers were kept back for; the answer to a COMMIT is still needed.
        self.client_drained(cx);
        self.log_end(cx);
        if self.counted {
            cx.env.clients.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.close_readers(cx);
        self.limbo = None;
        if self.commit.as_ref().is_some_and(|c| c.is_decided()) {
            // What it says of COMMIT could be anything: main is asked.
            if let Some(conn) = self.lane.as_ref().filter(|l| l.lies).map(|l| l.conn) {
                cx.io.abort(conn);
                self.lane_gone("it broke the protocol", cx);
            }
            return;
        }
        self.drop_commit(cx);
        // What the lane has not answered it may never do.
        self.undo_answered(true, cx);
        self.drop_replicas(cx);
        if let Some(l) = self.lane.take() {
            self.give_back(Box::new(l), cx);
        }
    }

    /// After the last commit of a session that is over.
    pub(super) fn finish_over(&mut self, cx: &mut Cx<'_>) {
        if let Some(l) = self.lane.take() {
            self.give_back(Box::new(l), cx);
        }
    }

    pub(super) fn close_link(&self, link: &Link, cx: &mut Cx<'_>) {
        if link.owed.is_empty() && link.is_ready() {
            if !link.is_idle() {
                // It holds locks, and would go on to if this farewell should be lost.
                link.end_backend(cx.io);
            }
            cx.io.send(link.conn, Bytes::from_static(front::TERMINATE));
            cx.io.close(link.conn);
            return;
        }
        // Busy: it would go on with what it has (hazard 35); a server without a client should not. A cancel alone would be
        // lost on a backend that has not begun with the statement yet; when the proxy itself stops there may be nobody
        // left to end the backend.
        if link.is_ready() {
            cx.io.cancel(link.node, link.pid, &link.secret);
            link.end_backend(cx.io);
        }
        cx.io.abort(link.conn);
    }

    /// A CancelRequest named this session: its running statement ends, wherever it runs, but for a COMMIT.
    pub(super) fn cancel_running(&mut self, cx: &mut Cx<'_>) {
        if let Some(c) = &self.commit {
            if c.is_decided() {
                return;
            }
            let e = PgError::error("57014", "canceling statement due to user request");
            if !c.checks_constraints() {
                return self.refuse_commit(e.encode(), cx);
            }
        }
        if self.min_csn.cancel() {
            return self.pump_requests(cx);
        }
        for t in [Target::Lane, Target::Reader] {
            if let Some(l) = self.link_ref(t).filter(|l| !l.owed.is_empty()) {
                cx.io.cancel(l.node, l.pid, &l.secret);
                self.cancels += 1;
            }
        }
        if self.cancels > 0 {
            cx.io.arm(cx.env.config.limits.connect_timeout, TimerKind::Cancel);
        }
    }

    /// One line for the log: what the session is about.
    #[must_use]
    pub fn summary(&self) -> String {
        let owed = |t| self.link_ref(t).map(|l| (l.pid, l.owed.len(), l.owed.head().map(|h| h.asked)));
        format!(
            "user {} database {} stage {} transaction {:?} request {} commit {} replicas {:?} lane {:?} reader {:?} inbox {} cancels {} after_rollback {:?} steps_wait {} catalogue_asked {:?}",
            self.user,
            self.database,
            self.stage.name(),
            self.status(),
            self.request.name(),
            self.commit.as_ref().map_or_else(|| "none".to_owned(), |c| c.summary()),
            self.replicas.iter().map(|r| (r.node, &r.step, r.applier.as_ref().map(|a| a.doing))).collect::<Vec<_>>(),
            owed(Target::Lane),
            owed(Target::Reader),
            self.inbox.len(),
            self.cancels,
            self.after_rollback.is_some(),
            self.steps_wait,
            self.catalogue_asked,
        )
    }

    pub(super) fn drain_if_idle(&mut self, cx: &mut Cx<'_>) {
        if !self.draining || self.commit.is_some() || !matches!(self.tx, Tx::Idle) {
            return;
        }
        if self.is_quiet() {
            self.shut_down(cx);
        }
    }

    /// Ends the session, whatever it is doing, but for a commit that is decided.
    pub(super) fn shut_down(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.stage, Stage::Over) {
            self.fatal(&PgError::fatal("57P01", "terminating connection due to administrator command"), cx);
        }
    }
}
