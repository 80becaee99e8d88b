//! COMMIT: apply everywhere, commit on main, commit on the replicas, then tell the client (design, sections 1.3, 1.4).
//!
//! One [`Commit`] exists while a session's transaction is being committed. Its rules, each with what breaks without it:
//!
//! - The script is applied on every replica before main commits: main's locks are held while replicas take theirs.
//! - A difference proves nothing if, when the script was *sent*, the replica had not acknowledged every commit up to
//!   `need`: roll back, wait for exactly those, apply once more (hazard 56).
//! - COMMIT goes to main when main has acknowledged all of `need`, to a replica when that replica has (hazard 77).
//! - An applier lost before COMMIT was sent to main is replaced, its backend first seen gone (hazard 35); lost after,
//!   its node is stale: its locks are free, others may have gone past, with equal counts (hazard 55).
//! - From the moment COMMIT is sent to main nothing but main's answer decides.

use std::time::Duration;

use bytes::Bytes;

use super::Session;
use super::applier::{Applier, Doing, Report};
use super::io::{Cx, Fate, PoolKey, Question, TimerKind};
use super::owed::Own;
use super::transaction::{Open, Target};
use crate::config::OnDivergence;
use crate::script::check::Difference;
use crate::script::{Entry, Script};
use crate::sequencer::{Csn, NodeId};
use crate::shard::driver::{ConnId, Time};
use crate::telemetry::{Phase as Measured, StatementClass};
use crate::wire::PgError;

/// Pause before a replica that could not be reached is tried again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// What the client is told when the transaction is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// COMMIT stood in a simple query.
    SimpleCommit { chain: bool },
    /// The implicit transaction of a simple query ends.
    SimpleEnd,
    /// COMMIT was executed by the extended protocol.
    ExecuteCommit { chain: bool },
    /// The implicit transaction of an extended batch ends at its Sync.
    SyncEnd,
}

/// What the replicas are to do.
#[derive(Debug)]
pub enum Work {
    /// Apply the script, later COMMIT.
    Script(Script),
    /// Run a statement that must not stand in a transaction block; main has done it (design, section 1.7).
    Statement(Bytes),
}

/// How far one replica is.
#[derive(Debug)]
enum Step {
    /// A backend is being opened, or will be by a timer.
    Opening,
    /// Settings are being taken over.
    Settings,
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

#[derive(Debug)]
struct Replica {
    node: NodeId,
    applier: Option<Box<Applier>>,
    step: Step,
    tries: u32,
    /// When it was first found unreachable.
    unreachable: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// SET CONSTRAINTS ALL IMMEDIATE on main.
    Constraints,
    /// The replicas apply.
    Apply,
    /// Main must acknowledge what this commit may rest on.
    Need,
    /// COMMIT is under way on main.
    Main,
    /// Main did not answer; its backend must be seen gone.
    MainGoing { token: u64 },
    /// Main did not answer; its transaction's fate has been asked for.
    MainFate { token: u64 },
    /// Replicas commit.
    Replicas,
}

/// A commit in progress.
#[derive(Debug)]
pub struct Commit {
    after: After,
    work: Work,
    need: u64,
    xid: u64,
    ddl: bool,
    constraints: bool,
    csn: Option<Csn>,
    phase: Phase,
    replicas: Vec<Replica>,
    started: Time,
    phase_started: Time,
    /// The client is told that nobody knows (main vanished for good after COMMIT was sent).
    unknown: bool,
    lasting: Vec<Entry>,
}

impl Commit {
    fn script(&self) -> &[Entry] {
        match &self.work {
            Work::Script(s) => s.entries(),
            Work::Statement(_) => &[],
        }
    }

    /// COMMIT has been sent to main and nothing is known of its end yet, or main has committed.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        !matches!(self.phase, Phase::Constraints | Phase::Apply | Phase::Need)
    }

    /// The connection is one of this commit's appliers.
    #[must_use]
    pub fn owns(&self, conn: ConnId) -> bool {
        self.position(conn).is_some()
    }

    /// The link of one of this commit's appliers.
    pub fn link_mut(&mut self, conn: ConnId) -> Option<&mut super::link::Link> {
        let i = self.position(conn)?;
        self.replicas[i].applier.as_mut().map(|a| &mut a.link)
    }

    fn position(&self, conn: ConnId) -> Option<usize> {
        self.replicas.iter().position(|r| r.applier.as_ref().is_some_and(|a| a.link.conn == conn))
    }
}

impl Session {
    /// The transaction on the lane ends well. `open` has not failed.
    pub(super) fn start_commit(&mut self, open: Box<Open>, after: After, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        let lasting = open.lasting_settings().cloned().collect();
        let writes = open.has_writes();
        let constraints = writes && self.deferrable_constraints(cx);
        let mut commit = Commit {
            after,
            need: open.need,
            xid: open.xid().unwrap_or(0),
            ddl: open.ddl,
            constraints,
            work: Work::Script(open.script),
            csn: None,
            phase: Phase::Apply,
            replicas: Vec::new(),
            started: now,
            phase_started: now,
            unknown: false,
            lasting,
        };
        if !writes {
            // Nothing for the replicas: main's own COMMIT, and no number.
            commit.phase = Phase::Main;
            self.commit = Some(Box::new(commit));
            self.send_own(Target::Lane, ("_pgls_c", "COMMIT"), Own::Commit, cx);
            self.sync_own(Target::Lane, Own::Commit, cx);
            return;
        }
        if constraints {
            commit.phase = Phase::Constraints;
            self.commit = Some(Box::new(commit));
            self.send_own(Target::Lane, ("_pgls_d", "SET CONSTRAINTS ALL IMMEDIATE"), Own::Constraints, cx);
            self.sync_own(Target::Lane, Own::Constraints, cx);
            return;
        }
        self.commit = Some(Box::new(commit));
        self.start_apply(cx);
    }

    /// Main has done a statement that must not stand in a transaction block; now the replicas.
    pub(super) fn start_everywhere(&mut self, sql: Bytes, after: After, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        self.commit = Some(Box::new(Commit {
            after,
            need: 0,
            xid: 0,
            ddl: true,
            constraints: false,
            work: Work::Statement(sql),
            csn: None,
            phase: Phase::Replicas,
            replicas: Vec::new(),
            started: now,
            phase_started: now,
            unknown: false,
            lasting: Vec::new(),
        }));
        self.version.raise();
        self.start_apply(cx);
    }

    /// SET CONSTRAINTS ALL IMMEDIATE has been answered on main.
    pub(super) fn constraints_checked(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        match error {
            Some(raw) => self.refuse_commit(raw, cx),
            None => self.start_apply(cx),
        }
    }

    fn start_apply(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        if commit.phase == Phase::Constraints {
            commit.phase = Phase::Apply;
        }
        cx.io.watch_commits();
        let nodes: Vec<NodeId> = cx.env.membership.load().replicas().collect();
        for node in nodes {
            let replica = Replica { node, applier: None, step: Step::Opening, tries: 0, unreachable: None };
            if let Some(commit) = &mut self.commit {
                commit.replicas.push(replica);
                let i = commit.replicas.len() - 1;
                self.open_applier(i, cx);
            }
        }
        self.advance_commit(cx);
    }

    /// Finds or opens a backend for replica `i`.
    fn open_applier(&mut self, i: usize, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let node = commit.replicas[i].node;
        let key = PoolKey { node, database: self.database.clone(), user: self.user.clone() };
        commit.replicas[i].step = Step::Opening;
        if let Some(applier) = cx.io.take_applier(&key, self.settings.id()) {
            commit.replicas[i].applier = Some(applier);
            return self.applier_ready(i, cx);
        }
        let link = self.open_link(node, Target::Reader, true, cx);
        if let Some(commit) = &mut self.commit {
            commit.replicas[i].applier = Some(Box::new(Applier::new(link, key)));
        }
    }

    /// The backend of replica `i` is idle: settings first, then the work.
    fn applier_ready(&mut self, i: usize, cx: &mut Cx<'_>) {
        let settings = self.settings.clone();
        let Some(commit) = &mut self.commit else { return };
        let (constraints, need) = (commit.constraints, commit.need);
        let Replica { applier: Some(applier), step, node, .. } = &mut commit.replicas[i] else { return };
        if applier.settings != Some(settings.id()) {
            *step = Step::Settings;
            applier.take_settings(&settings, cx.io);
            return;
        }
        match &commit.work {
            Work::Script(script) => {
                let owed = cx.env.sequencer.watermark(*node) < need;
                *step = Step::Applying { owed };
                applier.apply(script, constraints, cx.io);
            }
            Work::Statement(sql) => {
                *step = Step::Committing;
                applier.run(sql, cx.io);
            }
        }
    }

    /// Bytes on one of the commit's appliers.
    pub(super) fn applier_received(&mut self, conn: ConnId, bytes: Bytes, cx: &mut Cx<'_>) {
        let mut reports = Vec::new();
        {
            let Some(commit) = &mut self.commit else { return };
            let Some(i) = commit.position(conn) else { return };
            let script = match &commit.work {
                Work::Script(s) => s.entries(),
                Work::Statement(_) => &[],
            };
            if let Some(applier) = &mut commit.replicas[i].applier {
                applier.received(bytes, script, cx.io, &mut reports);
            }
        }
        for report in reports {
            let Some(i) = self.commit.as_ref().and_then(|c| c.position(conn)) else { return };
            self.applier_report(i, report, cx);
        }
        self.advance_commit(cx);
    }

    fn applier_report(&mut self, i: usize, report: Report, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let replica = &mut commit.replicas[i];
        match report {
            Report::LoggedIn => {
                replica.unreachable = None;
                self.applier_ready(i, cx);
            }
            Report::LoginFailed(e) => self.applier_unreachable(i, &e.message, cx),
            Report::SettingsDone(Ok(())) => self.applier_ready(i, cx),
            Report::SettingsDone(Err(e)) => {
                // Main has these settings, so the replica must know them; it differs.
                replica.step = Step::Differs(Difference::Error { index: None, error: e });
            }
            Report::Applied(None) => replica.step = Step::Applied,
            Report::Applied(Some(d)) => self.applier_differs(i, d, cx),
            Report::RolledBack => {
                replica.step = Step::Owed;
                self.retry_owed(cx);
            }
            Report::Committed(Ok(())) => {
                let node = replica.node;
                replica.step = Step::Done;
                if let Some(csn) = commit.csn {
                    cx.env.sequencer.acknowledge(node, csn);
                }
                self.give_applier_back(i, cx);
            }
            Report::Committed(Err(answer)) => {
                self.detach_replica(i, format!("COMMIT was answered with {answer}"), cx);
            }
            Report::Ran(Ok(())) => {
                replica.step = Step::Done;
                self.give_applier_back(i, cx);
            }
            Report::Ran(Err(e)) => {
                let sql = match &commit.work {
                    Work::Statement(s) => String::from_utf8_lossy(s).into_owned(),
                    Work::Script(_) => String::new(),
                };
                self.detach_replica(i, format!("{}: {} ({sql})", e.sqlstate, e.message), cx);
            }
            Report::Violation => {
                if let Some(a) = self.commit.as_mut().and_then(|c| c.replicas[i].applier.as_ref()) {
                    cx.io.abort(a.link.conn);
                }
                self.applier_lost(i, "protocol violation", cx);
            }
        }
    }

    fn give_applier_back(&mut self, i: usize, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let Some(mut applier) = commit.replicas[i].applier.take() else { return };
        if !commit.lasting.is_empty() {
            applier.forget_settings();
        }
        let key = applier.key.clone();
        cx.io.give_applier(&key, applier);
    }

    /// The replica's answer is not main's.
    fn applier_differs(&mut self, i: usize, difference: Difference, cx: &mut Cx<'_>) {
        let retries = cx.env.config.replication.apply_retries;
        let Some(commit) = &mut self.commit else { return };
        let replica = &mut commit.replicas[i];
        let owed = matches!(replica.step, Step::Applying { owed: true });
        replica.tries += 1;
        tracing::debug!(node = %replica.node, %difference, owed, tries = replica.tries, "script did not apply as on main");
        if (owed || difference.is_transient()) && replica.tries <= retries {
            cx.env.recorder.borrow_mut().counters.retries += 1;
            replica.step = Step::RollingBack;
            if let Some(a) = &mut replica.applier {
                a.rollback(cx.io);
            }
            return;
        }
        replica.step = Step::Differs(difference);
    }

    /// Replicas that waited for others' commits and have them now apply again.
    fn retry_owed(&mut self, cx: &mut Cx<'_>) {
        let n = self.commit.as_ref().map_or(0, |c| c.replicas.len());
        for i in 0..n {
            let Some(commit) = &self.commit else { return };
            let r = &commit.replicas[i];
            if matches!(r.step, Step::Owed) && cx.env.sequencer.watermark(r.node) >= commit.need {
                self.applier_ready(i, cx);
            }
        }
    }

    /// A replica could not be reached or refused the login: tried again for `replica_timeout`, then it is out.
    fn applier_unreachable(&mut self, i: usize, why: &str, cx: &mut Cx<'_>) {
        let limit = cx.env.config.replication.replica_timeout;
        let now = cx.io.now();
        let Some(commit) = &mut self.commit else { return };
        let replica = &mut commit.replicas[i];
        if let Some(a) = replica.applier.take() {
            cx.io.abort(a.link.conn);
        }
        let since = *replica.unreachable.get_or_insert(now);
        if now.since(since) >= limit {
            return self.detach_replica(i, format!("no backend could be opened: {why}"), cx);
        }
        let node = replica.node;
        replica.step = Step::Opening;
        cx.io.arm(RECONNECT_AFTER, TimerKind::Replica(node));
    }

    /// Time to try a replica again.
    pub(super) fn replica_timer(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        let Some(commit) = &self.commit else { return };
        let again = commit
            .replicas
            .iter()
            .position(|r| r.node == node && r.applier.is_none() && matches!(r.step, Step::Opening));
        if let Some(i) = again {
            self.open_applier(i, cx);
            self.advance_commit(cx);
        }
    }

    /// An applier's connection has broken.
    pub(super) fn applier_closed(&mut self, conn: ConnId, why: &str, cx: &mut Cx<'_>) {
        if let Some(i) = self.commit.as_ref().and_then(|c| c.position(conn)) {
            self.applier_lost(i, why, cx);
            self.advance_commit(cx);
        }
    }

    fn applier_lost(&mut self, i: usize, why: &str, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let decided = commit.is_decided();
        let replica = &mut commit.replicas[i];
        let Some(applier) = replica.applier.take() else { return };
        match &replica.step {
            Step::Opening => {
                replica.applier = Some(applier);
                self.applier_unreachable(i, why, cx);
            }
            Step::Done | Step::Out | Step::Leaving { .. } => {}
            _ if decided => {
                let what = format!("its backend was lost after COMMIT had been sent to main ({why})");
                self.detach_replica(i, what, cx);
            }
            _ => {
                let (node, pid) = (applier.link.node, applier.link.pid);
                let token = cx.io.ask(Question::BackendGone { node, pid });
                replica.step = Step::Going { token };
            }
        }
    }

    /// The node is out: durably, before the client hears of this commit.
    fn detach_replica(&mut self, i: usize, reason: String, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let replica = &mut commit.replicas[i];
        tracing::error!(node = %replica.node, %reason, "node is out");
        if let Some(a) = replica.applier.take() {
            self_discard(&a, cx);
        }
        let token = cx.io.ask(Question::Detach { node: replica.node, reason });
        replica.step = Step::Leaving { token };
    }

    /// The control plane has answered a question of the commit. False: it was not the commit's.
    pub(super) fn commit_answer(&mut self, token: u64, answer: &super::io::Answer, cx: &mut Cx<'_>) -> bool {
        use super::io::Answer;
        let Some(commit) = &mut self.commit else { return false };
        match (commit.phase, answer) {
            (Phase::MainGoing { token: t }, Answer::Gone(gone)) if t == token => {
                let node = cx.env.membership.load().main;
                if *gone {
                    let q = Question::Fate { node, database: self.database.to_string(), xid: commit.xid };
                    let token = cx.io.ask(q);
                    commit.phase = Phase::MainFate { token };
                } else {
                    self.main_fate(Fate::Unknown, cx);
                }
                return true;
            }
            (Phase::MainFate { token: t }, Answer::Fate(fate)) if t == token => {
                self.main_fate(*fate, cx);
                return true;
            }
            _ => {}
        }
        let mine = |r: &Replica| matches!(r.step, Step::Going { token: t } | Step::Leaving { token: t } if t == token);
        let Some(i) = commit.replicas.iter().position(mine) else { return false };
        match answer {
            Answer::Gone(true) => self.open_applier(i, cx),
            Answer::Gone(false) => self.detach_replica(i, "a lost backend could not be seen gone".into(), cx),
            Answer::Detached(Ok(())) => commit.replicas[i].step = Step::Out,
            Answer::Detached(Err(why)) => {
                let e = PgError::error("40001", "could not commit: a node differs and cannot be given up")
                    .detail(why.clone());
                if commit.is_decided() {
                    // Main has committed; the node stays listed, and verify will find it.
                    commit.replicas[i].step = Step::Out;
                } else {
                    self.refuse_commit(e.encode(), cx);
                }
            }
            _ => return false,
        }
        self.advance_commit(cx);
        true
    }

    /// The membership has changed: replicas that are no longer up are out.
    pub(super) fn commit_membership(&mut self, cx: &mut Cx<'_>) {
        let membership = cx.env.membership.load();
        let Some(commit) = &mut self.commit else { return };
        for r in &mut commit.replicas {
            if !membership.is_up(r.node) && !matches!(r.step, Step::Done) {
                if let Some(a) = r.applier.take() {
                    cx.io.abort(a.link.conn);
                }
                r.step = Step::Out;
            }
        }
        self.advance_commit(cx);
    }

    /// Watermarks have moved, or something has been answered: whatever can go on goes on.
    pub(super) fn advance_commit(&mut self, cx: &mut Cx<'_>) {
        self.retry_owed(cx);
        let Some(commit) = &mut self.commit else { return };
        match commit.phase {
            Phase::Apply => {
                let settled = |r: &Replica| matches!(r.step, Step::Applied | Step::Differs(_) | Step::Out);
                if !commit.replicas.iter().all(settled) {
                    return;
                }
                if commit.replicas.iter().any(|r| matches!(r.step, Step::Differs(_))) {
                    return self.judge_differences(cx);
                }
                self.measure(Measured::Apply, cx);
                if let Some(commit) = &mut self.commit {
                    commit.phase = Phase::Need;
                }
                self.advance_commit(cx);
            }
            Phase::Need => self.commit_on_main(cx),
            Phase::Replicas => self.commit_on_replicas(cx),
            Phase::Constraints | Phase::Main | Phase::MainGoing { .. } | Phase::MainFate { .. } => {}
        }
    }

    /// `on_divergence`.
    fn judge_differences(&mut self, cx: &mut Cx<'_>) {
        cx.env.recorder.borrow_mut().counters.divergences += 1;
        let Some(commit) = &self.commit else { return };
        let up = 1 + commit.replicas.iter().filter(|r| !matches!(r.step, Step::Out)).count();
        let mut odd = Vec::new();
        for (i, r) in commit.replicas.iter().enumerate() {
            if let Step::Differs(d) = &r.step {
                odd.push((i, r.node, d.clone()));
            }
        }
        let agree = up - odd.len();
        let trouble = odd.iter().all(|(_, _, d)| d.is_node_trouble());
        let go_on = trouble
            || match cx.env.config.replication.on_divergence {
                OnDivergence::Main => true,
                OnDivergence::Vote => agree * 2 > up,
                OnDivergence::Refuse => false,
            };
        let statement = |d: &Difference| {
            let text = d.index().and_then(|k| commit.script().get(k)).map(|e| e.statement().sql.clone());
            text.map_or_else(|| "(the proxy's own)".to_owned(), |t| String::from_utf8_lossy(&t).into_owned())
        };
        let told: Vec<String> =
            odd.iter().map(|(_, n, d)| format!("node {n}: {d}; statement: {}", statement(d))).collect();
        if go_on {
            for ((i, _, _), why) in odd.into_iter().zip(told) {
                self.detach_replica(i, format!("it diverged from main: {why}"), cx);
            }
            return;
        }
        let e = PgError::error("40001", "could not commit: the transaction has another effect on another node")
            .detail(told.join("\n"))
            .hint("Nothing was changed on any node. Run \"pglockstep verify\" to see whether nodes differ.");
        tracing::error!(detail = e.detail.as_deref().unwrap_or(""), "transaction refused");
        self.refuse_commit(e.encode(), cx);
    }

    fn commit_on_main(&mut self, cx: &mut Cx<'_>) {
        let membership = cx.env.membership.load();
        let Some(commit) = &mut self.commit else { return };
        if cx.env.sequencer.watermark(membership.main) < commit.need {
            return;
        }
        if commit.ddl {
            self.version.raise();
        }
        // A full window opens again when others are acknowledged; this session is told then.
        let Ok(csn) = cx.env.sequencer.open_commit() else { return };
        commit.csn = Some(csn);
        commit.phase = Phase::Main;
        commit.phase_started = cx.io.now();
        // Nodes that are not in this commit have nothing to acknowledge.
        for node in membership.nodes() {
            let part = node == membership.main
                || commit.replicas.iter().any(|r| r.node == node && matches!(r.step, Step::Applied));
            if !part {
                cx.env.sequencer.acknowledge(node, csn);
            }
        }
        self.send_own(Target::Lane, ("_pgls_c", "COMMIT"), Own::Commit, cx);
        self.sync_own(Target::Lane, Own::Commit, cx);
    }

    /// Main has answered COMMIT: with an error, or with a tag.
    pub(super) fn main_committed(&mut self, error: Option<Bytes>, tag: &str, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        if let Some(raw) = error {
            if let Some(csn) = commit.csn.take() {
                cx.env.sequencer.abort(csn);
            }
            return self.refuse_commit(raw, cx);
        }
        if tag != "COMMIT" {
            // COMMIT of a failed transaction answers ROLLBACK; the session sends none for those.
            if let Some(csn) = commit.csn.take() {
                cx.env.sequencer.abort(csn);
            }
            let e = PgError::error("40001", format!("main answered COMMIT with {tag}"));
            return self.refuse_commit(e.encode(), cx);
        }
        if let Some(csn) = commit.csn {
            cx.env.sequencer.acknowledge(cx.env.membership.load().main, csn);
        }
        commit.phase = Phase::Replicas;
        self.measure(Measured::Main, cx);
        self.commit_on_replicas(cx);
    }

    fn commit_on_replicas(&mut self, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        for r in &mut commit.replicas {
            if matches!(r.step, Step::Applied) && cx.env.sequencer.watermark(r.node) >= commit.need {
                r.step = Step::Committing;
                if let Some(a) = &mut r.applier {
                    a.commit(cx.io);
                }
            }
        }
        if commit.replicas.iter().all(|r| matches!(r.step, Step::Done | Step::Out)) {
            self.finish_commit(cx);
        }
    }

    /// The lane broke while COMMIT was under way.
    pub(super) fn main_lost(&mut self, pid: u32, cx: &mut Cx<'_>) {
        let node = cx.env.membership.load().main;
        let Some(commit) = &mut self.commit else { return };
        match commit.phase {
            Phase::Main if commit.csn.is_some() => {
                let token = cx.io.ask(Question::BackendGone { node, pid });
                commit.phase = Phase::MainGoing { token };
            }
            Phase::Replicas | Phase::MainGoing { .. } | Phase::MainFate { .. } => {}
            _ => self.drop_commit(cx),
        }
    }

    fn main_fate(&mut self, fate: Fate, cx: &mut Cx<'_>) {
        let Some(commit) = &mut self.commit else { return };
        let main = cx.env.membership.load().main;
        match fate {
            Fate::Aborted => {
                if let Some(csn) = commit.csn.take() {
                    cx.env.sequencer.abort(csn);
                }
                let e = PgError::fatal("57P01", "the connection to main was lost before the transaction could commit");
                self.refuse_commit(e.encode(), cx);
            }
            Fate::Committed | Fate::Unknown => {
                if let Some(csn) = commit.csn {
                    cx.env.sequencer.acknowledge(main, csn);
                }
                commit.unknown = fate == Fate::Unknown;
                commit.phase = Phase::Replicas;
                self.commit_on_replicas(cx);
            }
        }
    }

    /// Nothing happens on any node; the client gets this error.
    pub(super) fn refuse_commit(&mut self, error: Bytes, cx: &mut Cx<'_>) {
        let Some(after) = self.commit.as_ref().map(|c| c.after) else { return };
        let at_main = self.commit.as_ref().is_some_and(|c| matches!(c.phase, Phase::Apply | Phase::Need));
        self.drop_commit(cx);
        if at_main && self.lane.is_some() {
            // The lane's transaction is still open: COMMIT was never sent.
            self.roll_back_lane(super::AfterRollback::Commit { after, error }, cx);
        } else {
            self.commit_failed(after, error, cx);
        }
    }

    /// Ends a commit that will not happen: what replicas have applied goes at once.
    pub(super) fn drop_commit(&mut self, cx: &mut Cx<'_>) {
        let Some(mut commit) = self.commit.take() else { return };
        if let Some(csn) = commit.csn.take() {
            cx.env.sequencer.abort(csn);
        }
        for r in &mut commit.replicas {
            if let Some(a) = r.applier.take() {
                match a.doing {
                    Doing::Idle => {
                        let key = a.key.clone();
                        cx.io.give_applier(&key, a);
                    }
                    _ => self_discard(&a, cx),
                }
            }
        }
    }

    fn finish_commit(&mut self, cx: &mut Cx<'_>) {
        self.measure(Measured::Commit, cx);
        let Some(commit) = self.commit.take() else { return };
        let total = cx.io.now().since(commit.started);
        let mut recorder = cx.env.recorder.borrow_mut();
        recorder.record(StatementClass::Commit, Measured::Total, total);
        if commit.csn.is_some() {
            recorder.counters.commits += 1;
        }
        drop(recorder);
        for entry in &commit.lasting {
            if let Entry::Setting(s) = entry {
                self.remember_setting(s.sql.clone());
            }
        }
        if commit.unknown {
            let e =
                PgError::error("08007", "main was lost while the transaction was committing; its outcome is unknown");
            return self.commit_failed(commit.after, e.encode(), cx);
        }
        self.commit_done(commit.after, cx);
    }

    fn measure(&mut self, phase: Measured, cx: &mut Cx<'_>) {
        let now = cx.io.now();
        if let Some(commit) = &mut self.commit {
            let took = now.since(commit.phase_started);
            commit.phase_started = now;
            cx.env.recorder.borrow_mut().record(StatementClass::Commit, phase, took);
        }
    }
}

/// A backend whose transaction did not end in an answered COMMIT or ROLLBACK is closed, never reused; one that is
/// busy or waits for a lock would not notice, so it is ended by the control plane too.
pub(super) fn self_discard(applier: &Applier, cx: &mut Cx<'_>) {
    cx.io.abort(applier.link.conn);
    if applier.link.pid != 0 && !matches!(applier.doing, Doing::Idle | Doing::Applied) {
        cx.io.ask(Question::Terminate { node: applier.link.node, pid: applier.link.pid });
    }
}
