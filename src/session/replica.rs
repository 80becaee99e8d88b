//! One replica's part in a transaction: an applier is found or opened, is sent the script, answers, commits.
//!
//! The same replicas serve while the transaction still runs (early start, [`super::early`]) and while it commits
//! ([`super::commit`]); [`Step`] says how far each is. What a report means for the transaction as a whole is decided
//! in those two.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Session;
use super::applier::{Applier, Doing, Report};
use super::commit::{Commit, Work};
use super::io::{Cx, PoolKey, Question, TimerKind};
use super::settings::Settings;
use super::startup::LinkFor;
use super::transaction::{Target, Tx};
use crate::script::Script;
use crate::script::check::Difference;
use crate::sequencer::NodeId;
use crate::shard::driver::{ConnId, Time};
use crate::sim::planted::{Planted, is};
use crate::wire::PgError;
use crate::wire::error::ErrorFields;

/// Pause before a replica that could not be reached is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// How far one replica is.
#[derive(Debug)]
pub(super) enum Step {
    /// A backend is being opened, or will be by a timer.
    Opening,
    /// Settings are being taken over.
    Settings,
    /// It is sent the script of a transaction that still runs. `level`: its watermark when that began.
    Early { level: u64 },
    /// Something was wrong while the transaction still ran: it begins anew at COMMIT.
    Later,
    /// The script is being applied. `owed`: a commit up to `need` had not been acknowledged when it was sent.
    Applying { owed: bool },
    /// What was applied is being rolled back, to be applied again.
    RollingBack,
    /// Waits until the replica has acknowledged all of `need`, then applies again.
    Owed,
    /// The old backend must be seen gone before another applies again.
    Going { token: u64 },
    /// Applied as on main.
    Applied,
    /// It differs, whatever it had acknowledged.
    Differs(Difference),
    /// COMMIT (or the statement) is under way.
    Committing,
    /// It has acknowledged.
    Done,
    /// It is being declared stale.
    Leaving { token: u64 },
    /// It is durably out.
    Out,
}

/// One replica.
#[derive(Debug)]
pub(super) struct Replica {
    pub node: NodeId,
    pub applier: Option<Box<Applier>>,
    pub step: Step,
    /// How often it was sent the script.
    tries: u32,
    /// How often its backend was lost or spoke nonsense.
    losses: u32,
    /// When it was first found unreachable.
    unreachable: Option<Time>,
    /// When it was last sent something that it must answer.
    pub sent: Time,
    /// The control plane has been asked why it does not answer.
    pub asked: Option<u64>,
}

impl Replica {
    pub fn new(node: NodeId, now: Time) -> Replica {
        Replica {
            node,
            applier: None,
            step: Step::Opening,
            tries: 0,
            losses: 0,
            unreachable: None,
            sent: now,
            asked: None,
        }
    }
}

/// The script that replicas are sent: the committing transaction's, or the open one's.
fn script<'a>(commit: &'a Option<Box<Commit>>, tx: &'a Tx) -> Option<&'a Script> {
    match (commit, tx) {
        (Some(c), _) => c.script(),
        (None, Tx::Open(open)) => Some(&open.script),
        _ => None,
    }
}

impl Session {
    /// The replica whose applier has this connection.
    pub(super) fn replica_at(&self, conn: ConnId) -> Option<usize> {
        self.replicas.iter().position(|r| r.applier.as_ref().is_some_and(|a| a.link.conn == conn))
    }

    /// Finds or opens a backend for replica `i`.
    pub(super) fn open_applier(&mut self, i: usize, cx: &mut Cx<'_>) {
        let node = self.replicas[i].node;
        let image = self.commit.as_ref().is_some_and(|c| c.image);
        let user = if image { Arc::from(cx.env.config.apply_login().0) } else { self.user.clone() };
        let key = PoolKey { node, database: self.database.clone(), user };
        let settings = self.applier_settings();
        self.replicas[i].step = Step::Opening;
        self.replicas[i].sent = cx.io.now();
        if let Some(applier) = cx.io.take_applier(&key, &settings) {
            self.replicas[i].applier = Some(applier);
            return self.applier_ready(i, cx);
        }
        let login = if image { LinkFor::Image } else { LinkFor::Scripts };
        let link = self.open_link(node, Target::Reader, login, cx);
        self.replicas[i].applier = Some(Box::new(Applier::new(link, key)));
    }

    /// What an applier has in force: the client's; an image brings its own along.
    fn applier_settings(&self) -> Arc<Settings> {
        if self.commit.as_ref().is_some_and(|c| c.image) { Arc::default() } else { self.settings.clone() }
    }

    /// The backend of replica `i` is idle: settings first, then the work.
    fn applier_ready(&mut self, i: usize, cx: &mut Cx<'_>) {
        let settings = self.applier_settings();
        let r = &mut self.replicas[i];
        if self.commit.as_ref().is_some_and(|c| c.checks_constraints()) {
            // It was opened early. Nothing is applied before main holds all locks: main may wait for one here, and who has
            // it would wait for this applier.
            r.step = Step::Later;
            if let Some(a) = r.applier.take() {
                let key = a.key.clone();
                cx.io.give_applier(&key, a);
            }
            return;
        }
        let Some(applier) = &mut r.applier else { return };
        r.sent = cx.io.now();
        if applier.settings != Some(settings.id()) {
            r.step = Step::Settings;
            return applier.take_settings(&settings, cx.io);
        }
        let level = cx.env.sequencer.watermark(r.node);
        let written = match (&self.commit, &self.tx) {
            (Some(c), _) => match &c.work {
                Work::Script(script) => {
                    r.step = Step::Applying { owed: level < c.need };
                    applier.apply(script, c.constraints, cx.io)
                }
                Work::Statement(sql) => {
                    r.step = Step::Committing;
                    applier.run(sql, cx.io);
                    Ok(())
                }
            },
            (None, Tx::Open(open)) => {
                r.step = Step::Early { level };
                applier.apply_early(&open.script, cx.io)
            }
            (None, _) => Ok(()),
        };
        self.script_read(written, cx);
    }

    /// A replica that is being sent a script early is sent the rest now that it commits.
    pub(super) fn applier_rest(&mut self, i: usize, level: u64, cx: &mut Cx<'_>) {
        let r = &mut self.replicas[i];
        let (Some(applier), Some(c)) = (&mut r.applier, &self.commit) else { return };
        let Some(script) = c.script() else { return };
        r.step = Step::Applying { owed: level < c.need };
        r.sent = cx.io.now();
        let written = applier.apply_rest(script, c.constraints, cx.io);
        self.script_read(written, cx);
    }

    /// Sends more of the script to every replica that has room for it.
    pub(super) fn feed_replicas(&mut self, cx: &mut Cx<'_>) {
        let mut written = Ok(());
        if let Some(script) = script(&self.commit, &self.tx) {
            for r in &mut self.replicas {
                if let Some(a) = r.applier.as_mut().filter(|a| a.doing == Doing::Feeding) {
                    r.sent = cx.io.now();
                    written = written.and(a.feed(script, cx.io));
                }
            }
        }
        self.script_read(written, cx);
    }

    /// The script could not be read back: the transaction ends where that is still possible.
    fn script_read(&mut self, result: std::io::Result<()>, cx: &mut Cx<'_>) {
        let Err(e) = result else { return };
        tracing::error!(error = %e, "spill file cannot be read");
        let e = PgError::error("58030", "could not read the transaction's spill file").detail(e.to_string());
        match &self.commit {
            Some(c) if !c.is_decided() => self.refuse_commit(e.encode(), cx),
            Some(_) => {}
            None => self.fatal(&PgError { severity: crate::wire::Severity::Fatal, ..e }, cx),
        }
    }

    /// Bytes on one of the appliers.
    pub(super) fn applier_received(&mut self, i: usize, bytes: Bytes, cx: &mut Cx<'_>) {
        let mut reports = Vec::new();
        let conn = {
            let entries = script(&self.commit, &self.tx).map_or(&[][..], Script::entries);
            let Some(applier) = &mut self.replicas[i].applier else { return };
            applier.received(bytes, entries, cx.io, &mut reports);
            applier.link.conn
        };
        for report in reports {
            // It may have been given back; what it says then is no longer this commit's.
            let Some(i) = self.replica_at(conn) else { break };
            self.applier_report(i, report, cx);
        }
        self.advance_commit(cx);
    }

    fn applier_report(&mut self, i: usize, report: Report, cx: &mut Cx<'_>) {
        let early = self.commit.is_none();
        match report {
            Report::LoggedIn => {
                self.replicas[i].unreachable = None;
                self.applier_ready(i, cx);
            }
            Report::SettingsDone(Ok(())) => self.applier_ready(i, cx),
            _ if early => self.drop_early(i, cx),
            Report::LoginFailed(e) if e.sqlstate == "28000" => self.login_refused(i, &e, cx),
            Report::LoginFailed(e) => self.applier_unreachable(i, &e.message, cx),
            Report::SettingsDone(Err(e)) => {
                // Main has these settings, so the replica must know them; it differs.
                self.replicas[i].step = Step::Differs(Difference::Error { index: None, error: e });
            }
            Report::Applied(None) => self.replicas[i].step = Step::Applied,
            Report::Applied(Some(d)) => self.applier_differs(i, d, cx),
            Report::RolledBack => {
                self.replicas[i].step = Step::Owed;
                self.retry_owed(cx);
            }
            Report::Committed(Ok(())) => self.replica_committed(i, cx),
            Report::Committed(Err(answer)) => {
                self.detach_replica(i, format!("COMMIT was answered with {answer}"), cx);
            }
            Report::Ran(Ok(())) => {
                self.replicas[i].step = Step::Done;
                self.give_applier_back(i, cx);
            }
            Report::Ran(Err(e)) => self.statement_failed(i, &e, cx),
            Report::Farewell(why) => self.applier_useless(i, &why, cx),
            Report::Violation => self.applier_useless(i, "protocol violation", cx),
        }
    }

    /// The node does not let the client's role in, which main did: its password or pg_hba.conf is another there. No
    /// reason to give up the node; the transaction cannot be, or not without it.
    fn login_refused(&mut self, i: usize, e: &PgError, cx: &mut Cx<'_>) {
        let node = self.replicas[i].node;
        if self.commit.as_ref().is_some_and(|c| c.is_decided()) {
            return self.detach_replica(i, format!("it refused the login of {}: {}", self.user, e.message), cx);
        }
        let e = PgError::error(
            "28000",
            format!("could not commit: node {node} refused the login of role \"{}\"", self.user),
        )
        .detail(e.message.clone())
        .hint("Run \"pglockstep setup\" to give the role one password verifier on all nodes, and compare pg_hba.conf.");
        self.refuse_commit(e.encode(), cx);
    }

    fn applier_useless(&mut self, i: usize, why: &str, cx: &mut Cx<'_>) {
        if let Some(a) = &self.replicas[i].applier {
            cx.io.abort(a.link.conn);
        }
        self.applier_lost(i, why, cx);
    }

    fn replica_committed(&mut self, i: usize, cx: &mut Cx<'_>) {
        let r = &mut self.replicas[i];
        r.step = Step::Done;
        if let Some(csn) = self.commit.as_ref().and_then(|c| c.csn) {
            cx.env.sequencer.acknowledge(r.node, csn);
        }
        self.give_applier_back(i, cx);
    }

    /// A statement that main has done outside any transaction failed on a replica.
    fn statement_failed(&mut self, i: usize, e: &ErrorFields, cx: &mut Cx<'_>) {
        let sql = match self.commit.as_ref().map(|c| &c.work) {
            Some(Work::Statement(s)) => String::from_utf8_lossy(s).into_owned(),
            _ => String::new(),
        };
        self.detach_replica(i, format!("{}: {} ({sql})", e.sqlstate, e.message), cx);
    }

    fn give_applier_back(&mut self, i: usize, cx: &mut Cx<'_>) {
        let Some(mut applier) = self.replicas[i].applier.take() else { return };
        // An image sets nothing that outlives it.
        if self.commit.as_ref().is_none_or(|c| !c.image) {
            if self.commit.as_ref().is_some_and(|c| c.changes_settings()) {
                applier.forget_settings();
            }
            applier.hears_of(self.custom.iter().map(String::as_str));
        }
        let key = applier.key.clone();
        cx.io.give_applier(&key, applier);
    }

    /// The replica's answer is not main's.
    fn applier_differs(&mut self, i: usize, difference: Difference, cx: &mut Cx<'_>) {
        let retries = cx.env.config.replication.apply_retries;
        let r = &mut self.replicas[i];
        let owed = matches!(r.step, Step::Applying { owed: true }) && !is(Planted::BelieveAtOnce);
        r.tries += 1;
        tracing::debug!(node = %r.node, %difference, owed, tries = r.tries, "script did not apply as on main");
        let again = (owed || difference.is_transient()) && r.tries <= retries;
        if again || is(Planted::BelieveNever) {
            cx.env.recorder.borrow_mut().counters.retries += 1;
            r.step = Step::RollingBack;
            r.sent = cx.io.now();
            if let Some(a) = &mut r.applier {
                a.rollback(cx.io);
            }
            return;
        }
        r.step = Step::Differs(difference);
    }

    /// Replicas that waited for others' commits and have them now apply again.
    pub(super) fn retry_owed(&mut self, cx: &mut Cx<'_>) {
        for i in 0..self.replicas.len() {
            let Some(need) = self.commit.as_ref().map(|c| c.need) else { return };
            let Some(r) = self.replicas.get(i) else { return };
            if !matches!(r.step, Step::Owed) {
                continue;
            }
            if cx.env.sequencer.watermark(r.node) < need {
                cx.io.watch_commits();
            } else {
                self.applier_ready(i, cx);
            }
        }
    }

    /// A replica could not be reached or refused the login: tried again for `replica_timeout`, then it is out.
    fn applier_unreachable(&mut self, i: usize, why: &str, cx: &mut Cx<'_>) {
        let limit = cx.env.config.replication.replica_timeout;
        let now = cx.io.now();
        let r = &mut self.replicas[i];
        if let Some(a) = r.applier.take() {
            cx.io.abort(a.link.conn);
        }
        let since = *r.unreachable.get_or_insert(now);
        if now.since(since) >= limit {
            return self.detach_replica(i, format!("no backend could be opened: {why}"), cx);
        }
        r.step = Step::Opening;
        cx.io.arm(RECONNECT_AFTER, TimerKind::Replica(r.node));
    }

    /// Time to try a replica again.
    pub(super) fn replica_timer(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        let waits = |r: &Replica| r.node == node && r.applier.is_none() && matches!(r.step, Step::Opening);
        if let Some(i) = self.replicas.iter().position(waits).filter(|_| self.commit.is_some()) {
            self.open_applier(i, cx);
            self.advance_commit(cx);
        }
    }

    /// The applier's connection has broken.
    pub(super) fn applier_lost(&mut self, i: usize, why: &str, cx: &mut Cx<'_>) {
        let Some(decided) = self.commit.as_ref().map(|c| c.is_decided()) else {
            self.replicas[i].applier.iter().for_each(|a| a.link.end_backend(cx.io));
            return self.drop_early(i, cx);
        };
        let r = &mut self.replicas[i];
        let Some(applier) = r.applier.take() else { return };
        cx.io.ask(Question::Stands { node: r.node });
        match &r.step {
            Step::Opening => {
                r.applier = Some(applier);
                self.applier_unreachable(i, why, cx);
            }
            Step::Done | Step::Out | Step::Leaving { .. } => {}
            _ if decided && !is(Planted::ReplaceAfterMain) => {
                applier.link.end_backend(cx.io);
                let what = format!("its backend was lost after COMMIT had been sent to main ({why})");
                self.detach_replica(i, what, cx);
            }
            _ if is(Planted::ApplyTwice) => self.open_applier(i, cx),
            _ if r.losses >= cx.env.config.replication.apply_retries => {
                let e = PgError::error("40001", format!("could not commit: node {} loses its backends", r.node))
                    .detail(format!("The script was sent {} times; the last time: {why}.", r.losses + 1));
                applier.link.end_backend(cx.io);
                self.refuse_commit(e.encode(), cx);
            }
            _ => {
                r.losses += 1;
                let (node, pid) = (applier.link.node, applier.link.pid);
                let token = cx.io.ask(Question::BackendGone { node, pid });
                r.step = Step::Going { token };
                self.commit.iter_mut().for_each(|c| c.apply_again());
            }
        }
    }

    /// The node is out: durably, before the client hears of this commit.
    pub(super) fn detach_replica(&mut self, i: usize, reason: String, cx: &mut Cx<'_>) {
        let r = &mut self.replicas[i];
        tracing::error!(node = %r.node, %reason, "node is out");
        if let Some(a) = r.applier.take() {
            discard(&a, cx);
        }
        let token = cx.io.ask(Question::Detach { node: r.node, reason });
        r.step = Step::Leaving { token };
    }

    /// All appliers of a transaction that will not happen, or not with them: what they have applied goes at once.
    pub(super) fn drop_replicas(&mut self, cx: &mut Cx<'_>) {
        for r in std::mem::take(&mut self.replicas) {
            match r.applier {
                Some(a) if a.doing == Doing::Idle => {
                    let key = a.key.clone();
                    cx.io.give_applier(&key, a);
                }
                Some(mut a) if a.doing == Doing::Applied && is(Planted::PoolTooEarly) => {
                    a.rollback(cx.io);
                    let key = a.key.clone();
                    cx.io.give_applier(&key, a);
                }
                Some(a) => discard(&a, cx),
                None => {}
            }
        }
    }
}

/// A backend whose transaction did not end in an answered COMMIT or ROLLBACK is closed, never reused. It may not notice:
/// since it is busy, since it waits for a lock, or since its connection was lost on the way. So it is ended by the control
/// plane too.
pub(super) fn discard(applier: &Applier, cx: &mut Cx<'_>) {
    cx.io.abort(applier.link.conn);
    if applier.doing != Doing::Idle {
        applier.link.end_backend(cx.io);
    }
}
