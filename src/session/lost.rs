//! The lane is lost: with its backend alone, or with main (design, section 5; hazards 32 to 34, 49 to 51, 73).
//!
//! A broken lane says nothing about main, so the session waits in [`Limbo`] until the control plane has probed. If main
//! stands, the session ends with the server's own farewell. If it is lost, the shard confirms a membership with another
//! main, and each session is in one of these states:
//!
//! | what the session was doing | what becomes of it |
//! |---|---|
//! | committing, COMMIT sent to main | finished on the survivors when all shards have confirmed, and acknowledged |
//! | committing, COMMIT not sent, or nothing but PREPARE | rolled back everywhere, 40001 |
//! | a simple query of which nothing has been answered, no block open | run again |
//! | any other statement | 40001 |
//! | a block open, nothing under way | the next statement, or COMMIT, gets 40001; a block that had failed stays failed |
//! | nothing | nothing |
//!
//! The connection stays and gets a lane on the new main with its next request; its SETs are brought there, and its
//! prepared statements when they are used. A session that has state of its own on main, or that ran something of which
//! nobody knows whether it has left any, ends with 57P01.

use bytes::Bytes;

use super::batch::LostBatch;
use super::commit::After;
use super::io::{Cx, Question};
use super::link::Link;
use super::note::{Note, without_nul};
use super::owed::{Asked, Own, Whose};
use super::recycle::Had;
use super::transaction::{Open, Target, Tx};
use super::{Request, Session, Stage};
use crate::cluster::control::Standing;
use crate::sim::planted::{Planted, is};
use crate::sql::class::{Class, TxModes, classify};
use crate::sql::lexer::split;
use crate::wire::error::ErrorFields;
use crate::wire::frame::{Frame, HEADER};
use crate::wire::front::{Bind, Parse, read_execute};
use crate::wire::{PgError, back};

/// The lane's connection is gone, and nobody knows yet whether main is.
#[derive(Debug)]
pub(super) struct Limbo {
    /// What was owed on it.
    link: Link,
    /// Of the question.
    token: u64,
    why: String,
    /// A commit that was under way, and is rolled back already.
    after: Option<After>,
}

/// What was lost, and with it a transaction or an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// Main.
    Main,
    /// The backend that served a read.
    Reader,
}

/// The client's transaction block was lost.
#[derive(Debug)]
pub(super) struct Lost {
    gone: Gone,
    /// How it was begun.
    modes: TxModes,
    /// The client has been told of an error in it.
    failed: bool,
}

impl Gone {
    fn error(self) -> PgError {
        let what = match self {
            Gone::Main => "main was lost, and another node has taken its place",
            Gone::Reader => "the backend that served it was lost",
        };
        PgError::error("40001", format!("could not go on with the transaction: {what}"))
            .hint("Nothing of the transaction has happened. Run it again.")
    }
}

pub(super) fn is_aborted() -> PgError {
    PgError::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

impl Session {
    /// The lane's connection has ended.
    pub(super) fn lane_gone(&mut self, why: &str, cx: &mut Cx<'_>) {
        let Some(link) = self.lane.take() else { return };
        self.min_csn_unasked();
        self.digits_unknown();
        if self.lane_was_dead(&link, cx) {
            return;
        }
        let token = cx.io.ask(Question::Stands { node: link.node });
        let mut after = None;
        if let Some(c) = &self.commit {
            if c.outlives_main() {
                // Finished by its own means; the client hears of it when that is done, and not of the lane.
                self.farewell = None;
                return self.main_lost(&link, cx);
            }
            after = Some(c.after());
            self.drop_commit(cx);
        }
        if self.farewell.is_none() {
            // It may never learn that its client is gone, and would keep its locks.
            link.end_backend(cx.io);
        }
        if matches!(self.stage, Stage::Over) {
            return;
        }
        if matches!(self.stage, Stage::Catalogue) {
            self.stage = Stage::Lane;
        }
        self.limbo = Some(Box::new(Limbo { link, token, why: why.to_owned(), after }));
    }

    /// What a server says before it ends a connection is kept until it is known whether the node is lost. True: it was
    /// such a message.
    pub(super) fn is_farewell(&mut self, target: Target, tag: u8, message: &[u8]) -> bool {
        let fields = match tag {
            b'E' | b'N' => ErrorFields::parse(message.get(5..).unwrap_or_default()),
            _ => return false,
        };
        let is = match tag {
            b'E' => matches!(fields.severity.as_str(), "FATAL" | "PANIC"),
            // An immediate stop and a crash are told as warnings (`quickdie` in postgres.c).
            _ => fields.severity == "WARNING" && matches!(fields.sqlstate.as_str(), "57P01" | "57P02"),
        };
        if is && target == Target::Lane {
            self.farewell = Some(Bytes::copy_from_slice(message));
        }
        is
    }

    /// The control plane has probed main. False: the answer is to another question.
    pub(super) fn lane_probed(&mut self, token: u64, standing: &Standing, cx: &mut Cx<'_>) -> bool {
        if self.limbo.as_ref().is_none_or(|l| l.token != token) {
            return false;
        }
        // A node that is out was left when its shard confirmed that.
        if let (Standing::Stands | Standing::Stays(_), Some(limbo)) = (standing, self.limbo.take()) {
            self.backend_lost(&limbo, cx);
        }
        true
    }

    /// Main stands (or nothing can take its place): the session ends as it would on a single server.
    fn backend_lost(&mut self, limbo: &Limbo, cx: &mut Cx<'_>) {
        if let Some(words) = self.farewell.take().filter(|_| !self.torn) {
            self.out.drop_held();
            let ends = words.first() == Some(&b'E');
            self.out.push(words);
            if ends {
                return self.end(cx);
            }
        }
        let (state, what) = if limbo.link.is_ready() {
            ("57P01", "terminating connection: the session's backend on main is gone")
        } else {
            ("57P03", "main cannot be reached")
        };
        self.fatal(&PgError::fatal(state, what).detail(limbo.why.clone()), cx);
    }

    /// The shard confirms another membership; nothing is relayed any more of nodes that are not in it.
    pub(super) fn confirmed(&mut self, main_lost: bool, cx: &mut Cx<'_>) {
        if main_lost {
            self.lose_main(cx);
        }
        self.check_reader_node(cx);
        self.commit_membership(cx);
    }

    /// All shards have confirmed the membership.
    pub(super) fn go(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.stage, Stage::Lane) && self.lane.is_none() && self.limbo.is_none() {
            self.open_lane(cx);
        }
        self.promoted(cx);
        self.advance_commit(cx);
        self.pump_requests(cx);
    }

    /// The session's state may live on main alone, or nobody knows.
    fn is_bound(&self) -> bool {
        self.bound || self.temporary
    }

    /// The session goes on after a commit during which its lane was lost: on another lane, if nothing else was lost.
    pub(super) fn goes_on_without_lane(&mut self, cx: &mut Cx<'_>) {
        if self.is_bound() {
            return self.fatal(&bound_to_main(), cx);
        }
        self.forget_lane();
    }

    /// What was kept about the lane's backend.
    fn forget_lane(&mut self) {
        self.farewell = None;
        // Rows of an answer that will not be completed are no part of the next one's digest.
        self.rows.take();
        self.row_entries = super::rows::Told::default();
        self.settings_rows.clear();
        self.settings_dirty = true;
        self.min_csn_unasked();
        self.digits_unknown();
        self.steps_wait = false;
        self.everywhere = None;
        self.preparing = None;
        self.told_types.clear();
    }

    fn lose_main(&mut self, cx: &mut Cx<'_>) {
        let limbo = self.limbo.take();
        let (link, after) = match (self.lane.take(), limbo) {
            (Some(link), _) => {
                cx.io.abort(link.conn);
                (Some(link), None)
            }
            (None, Some(limbo)) => (Some(limbo.link), limbo.after),
            (None, None) => (None, None),
        };
        match self.stage {
            Stage::Lane | Stage::Catalogue => self.stage = Stage::Lane,
            Stage::Ready | Stage::Over => self.lose_lane(link, after, cx),
            Stage::Startup(_) | Stage::Secret { .. } | Stage::Password(_) => {}
        }
    }

    fn lose_lane(&mut self, link: Option<Link>, after: Option<After>, cx: &mut Cx<'_>) {
        if self.commit.as_mut().is_some_and(|c| c.lose_main()) {
            return;
        }
        let after = after.or_else(|| self.commit.as_ref().map(|c| c.after()));
        self.drop_commit(cx);
        self.undo_answered(true, cx);
        if matches!(self.stage, Stage::Over) {
            return;
        }
        if self.is_bound() {
            return self.fatal(&bound_to_main(), cx);
        }
        self.forget_lane();
        if let Some(after) = after {
            return self.commit_failed(after, Gone::Main.error().encode(), cx);
        }
        let on_reader = self.tx.target() == Some(Target::Reader);
        if self.after_rollback.is_some() && !on_reader {
            self.tx = Tx::Idle;
            return self.rolled_back(cx);
        }
        if on_reader {
            self.lose_twin();
            return;
        }
        let open = match std::mem::take(&mut self.tx) {
            Tx::Open(open) => Some(open),
            other => {
                self.tx = other;
                None
            }
        };
        self.drop_replicas(cx);
        self.registry.drop_servers_portals();
        self.lose_requests(link, open, Gone::Main, cx);
    }

    /// What the connection was at work on is run again, or answered with an error. `open`: the transaction that was on it.
    pub(super) fn lose_requests(&mut self, link: Option<Link>, open: Option<Box<Open>>, gone: Gone, cx: &mut Cx<'_>) {
        // The error that it met was not told: it is run again all the same.
        if self.will_run_again() && self.run_again() {
            return;
        }
        self.conflict_over();
        let mut link = link;
        let owes = link.as_ref().is_some_and(|l| l.owed.owes_client());
        if owes && self.torn {
            // In the middle of a message nothing can be told.
            return self.fatal(&bound_to_main(), cx);
        }
        // A BEGIN whose turn to be answered has not come makes it the client's: what was sent behind it counts on that.
        let begins = link.as_ref().is_some_and(|l| l.owed.begins_block());
        let explicit = open.as_ref().filter(|o| !o.implicit || begins);
        let failed = open.as_ref().is_some_and(|o| o.failed);
        if let Some(o) = explicit {
            self.lost = Some(Lost { gone, modes: o.modes.clone(), failed });
        }
        let reads = self.link_ref(Target::Reader).is_some_and(|l| !l.owed.is_empty());
        match &self.request {
            // It waits for a reader, or for a lane, and no block that it stands in was lost.
            Request::Simple(s) if (s.waits() && open.is_none()) || reads => {}
            Request::Simple(s) => {
                // In a block that is lost it is answered as whatever comes after that: ROLLBACK ends it.
                let frame = (!self.out.has_spoken()).then(|| s.frame());
                let told = s.has_failed();
                self.lose_query(frame, told, gone, failed, cx);
            }
            Request::None | Request::Function | Request::ImplicitEnd | Request::ExecuteEnd => {
                let implicit = open.is_some() && self.lost.is_none();
                if let Some(link) = &mut link {
                    self.lose_batches(link, implicit && !failed, failed, gone, cx);
                }
                let of = if gone == Gone::Reader { Target::Reader } else { Target::Lane };
                match self.batch.lose(of, open.is_some()) {
                    LostBatch::GoesOn => {}
                    LostBatch::Fails => {
                        let error = self.lost_error(gone, failed);
                        self.out.push(error);
                    }
                    LostBatch::FailsLater => self.batch.untold = Some(self.lost_error(gone, failed)),
                }
            }
        }
    }

    /// `told`: its error has reached the client, and only ReadyForQuery is missing.
    fn lose_query(&mut self, again: Option<Frame>, told: bool, gone: Gone, failed: bool, cx: &mut Cx<'_>) {
        self.request = Request::None;
        self.out.drop_held();
        if let Some(frame) = again {
            self.registry.batch_repeated();
            self.inbox_bytes += frame.raw.len();
            return self.inbox.push_front(frame);
        }
        if !told {
            let error = self.lost_error(gone, failed);
            self.out.push(error);
        }
        self.ready(cx);
    }

    /// `failed`: the block had failed before.
    fn lost_error(&mut self, gone: Gone, failed: bool) -> Bytes {
        if let Some(lost) = &mut self.lost {
            lost.failed = true;
        }
        if failed { is_aborted() } else { gone.error() }.encode()
    }

    /// A Query or FunctionCall behind an error in a batch, which the server ignores: it reads on to Sync, whatever comes
    /// (`ignore_till_sync` in postgres.c). False: the batch's error has not been told; it is treated as any other.
    pub(super) fn skips_request(&mut self, cx: &mut Cx<'_>) -> bool {
        if !self.batch.skips() {
            return false;
        }
        let Some(error) = self.batch.untold.take() else { return true };
        self.batch = super::batch::Batch::default();
        if self.lost.is_some() {
            return false;
        }
        self.out.push(error);
        self.registry.batch_ends();
        self.ready(cx);
        true
    }

    /// Batches whose Sync was sent: one error and one ReadyForQuery each, as a server answers when it fails. Those of which
    /// main has heard nothing (BEGIN; COMMIT that waits for its turn) are answered, and what there is of the batch that is
    /// under way: it goes on.
    fn lose_batches(&mut self, link: &mut Link, implicit: bool, failed: bool, gone: Gone, cx: &mut Cx<'_>) {
        let (mut owes, mut told, mut local) = (false, failed, Vec::new());
        while let Some(owed) = link.owed.pop() {
            let note = match owed.whose {
                Whose::Own(_) => continue,
                // The block that it begins is lost: what comes next is told.
                Whose::Local(bytes, Note::Begun(_)) if owed.asked != Asked::Sync => {
                    local.push((bytes, Note::Nothing));
                    continue;
                }
                Whose::Local(bytes, note @ (Note::Nothing | Note::Named | Note::Unnamed | Note::Bound))
                    if owed.asked != Asked::Sync =>
                {
                    local.push((bytes, note));
                    continue;
                }
                Whose::Client(note) | Whose::Local(_, note) => note,
            };
            owes |= owed.asked != Asked::Sync && !owed.failed;
            if !matches!(owed.asked, Asked::Sync | Asked::Function) {
                continue;
            }
            let ends = matches!(note, Note::ImplicitEnd) && implicit && !owed.failed;
            if !owes && !ends {
                self.answer_locally(&mut local, cx);
            } else {
                local.clear();
                self.registry.drop_unconfirmed();
                let e = if told { is_aborted() } else { gone.error() };
                self.out.push(e.encode());
                told = true;
                if let Some(lost) = &mut self.lost {
                    lost.failed = true;
                }
            }
            owes = false;
            if matches!(self.request, Request::ImplicitEnd | Request::Function) {
                self.request = Request::None;
            }
            self.ready(cx);
        }
        if owes {
            self.registry.drop_unconfirmed();
        } else {
            self.answer_locally(&mut local, cx);
        }
        self.batch.owes |= owes;
    }

    /// Answers of the proxy's own, behind which nothing of a server's has to come any more.
    fn answer_locally(&mut self, answers: &mut Vec<(Bytes, Note)>, cx: &mut Cx<'_>) {
        for (bytes, note) in answers.drain(..) {
            self.out.push(bytes);
            self.take_note(Target::Lane, note, &[], cx);
        }
    }

    /// A message of a client whose transaction block was lost. `None`: it is treated as any other.
    pub(super) fn lost_frame(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> Option<bool> {
        let lost = self.lost.as_ref()?;
        let (modes, failed, gone) = (lost.modes.clone(), lost.failed, lost.gone);
        let alone = matches!(frame.tag, b'Q' | b'F');
        let class = match frame.tag {
            b'F' => Class::Empty,
            b'Q' => self.first_class(&without_nul(&frame.raw.slice(HEADER..))),
            b'P' | b'B' | b'D' | b'E' | b'C' if !self.batch.skips() => match self.first_executed() {
                Some(class) => class,
                None if self.broken.is_none() => return Some(false),
                None => Class::Empty,
            },
            _ => return None,
        };
        if matches!(class, Class::Rollback { .. }) {
            // A block of which no server has heard: that is ended here.
            self.lost = None;
            self.tx = Tx::Begun(modes);
            return None;
        }
        let ends = matches!(class, Class::Commit { .. });
        if ends && failed && !alone {
            // Executed, it ends the block and says ROLLBACK.
            self.tx = Tx::Begun(modes);
            return None;
        }
        if ends {
            self.lost = None;
        }
        if alone && ends && failed {
            self.out.push(back::command_complete("ROLLBACK"));
        } else {
            self.out.push(if failed { is_aborted() } else { gone.error() }.encode());
        }
        if let Some(lost) = &mut self.lost {
            lost.failed = true;
        }
        if alone {
            self.registry.batch_ends();
            self.ready(cx);
        } else {
            self.batch_failed();
        }
        Some(true)
    }

    /// Class of the first statement of a simple query.
    fn first_class(&self, text: &Bytes) -> Class {
        let lossy = String::from_utf8_lossy(text);
        let first = split(&lossy, self.std_strings).statements.into_iter().next();
        classify(first.and_then(|r| lossy.get(r)).unwrap_or_default(), self.std_strings)
    }

    /// Class of the first statement that the batch executes; `Empty` if it executes none. `None`: not known yet.
    fn first_executed(&self) -> Option<Class> {
        let (mut parsed, mut bound) = (Vec::new(), Vec::new());
        for f in &self.inbox {
            match f.tag {
                b'P' => {
                    if let Some(p) = Parse::read(f.body()) {
                        let text = String::from_utf8_lossy(p.sql);
                        parsed.push((p.name.to_owned(), classify(&text, self.std_strings)));
                    }
                }
                b'B' => {
                    if let Some(b) = Bind::read(f.body()) {
                        let here = parsed.iter().rev().find(|(n, _)| n == b.statement).map(|(_, c)| c.clone());
                        let class = here.or_else(|| Some(self.registry.statement(b.statement)?.verdict.class.clone()));
                        bound.push((b.portal.to_owned(), class));
                    }
                }
                b'E' => {
                    let portal = read_execute(f.body()).map_or("", |(p, _)| p);
                    let here = bound.iter().rev().find(|(n, _)| n == portal).and_then(|(_, c)| c.clone());
                    let before = || Some(self.registry.portal(portal)?.statement.verdict.class.clone());
                    return Some(here.or_else(before).unwrap_or(Class::Empty));
                }
                // A Query or FunctionCall without a Sync before it ends the batch too.
                b'S' | b'H' | b'Q' | b'F' => return Some(Class::Empty),
                _ => {}
            }
        }
        None
    }

    /// Main has every commit that a main before it was sent: until then it is not as far as what somebody may have been
    /// shown there.
    fn main_has_all(&self, cx: &mut Cx<'_>) -> bool {
        let has = cx.env.sequencer.watermark(Self::main_node(cx)) >= cx.env.membership.inherited();
        if !has && !is(Planted::NewMainAtOnce) {
            cx.io.watch_commits();
            return false;
        }
        true
    }

    /// Watermarks have moved: main may be as far as it must be.
    pub(super) fn main_caught_up(&mut self, cx: &mut Cx<'_>) {
        if self.commit.is_none() && matches!(self.stage, Stage::Ready) {
            self.pump_requests(cx);
        }
    }

    /// The lane can be used. If there is none, one is opened on main.
    pub(super) fn has_lane(&mut self, cx: &mut Cx<'_>) -> bool {
        if !matches!(self.stage, Stage::Ready) {
            return true;
        }
        if self.lane.is_none() && self.limbo.is_none() && !cx.env.membership.is_held() {
            match self.have_backend(Self::main_node(cx), Target::Lane, cx) {
                Had::Ready(link) => {
                    self.take_over_lane(link, cx);
                    if self.lane_is_usable() {
                        self.lane_welcomes(cx);
                    }
                }
                Had::Opening(link) => self.lane = Some(link),
                Had::None => {}
            }
        }
        self.lane_is_usable() && self.main_has_all(cx)
    }

    /// The lane has logged in, and has been brought the session's SETs.
    pub(super) fn lane_is_usable(&self) -> bool {
        self.lane.as_ref().is_some_and(|l| l.is_ready() && !l.owed.prepares())
    }

    /// A lane has logged in (or been taken over) while the session was at work already.
    pub(super) fn lane_reopened(&mut self, cx: &mut Cx<'_>) {
        self.lane_welcomes(cx);
        self.pump_requests(cx);
    }

    /// It is brought the session's SETs; the client is told where it differs from what the client was told at its login.
    fn lane_welcomes(&mut self, cx: &mut Cx<'_>) {
        self.settings_dirty = true;
        self.digits_unknown();
        if let (Some(told), Some(lane)) = (self.welcome.take(), &self.lane) {
            for (name, value) in lane.parameters.iter().filter(|p| !told.contains(p)) {
                self.out.push(back::parameter_status(name, value));
            }
        } else {
            tracing::info!(user = %self.user, main = %Self::main_node(cx), "session goes on");
        }
        for sql in self.replay.clone() {
            let mut out = bytes::BytesMut::new();
            crate::wire::front::query(&mut out, &sql);
            self.forward(Target::Lane, out.freeze(), Asked::Query, Whose::Own(Own::Replay), cx);
        }
    }

    /// A SET of the session has been answered on its new lane.
    pub(super) fn lane_replayed(&mut self, error: Option<Bytes>, cx: &mut Cx<'_>) {
        let Some(raw) = error else { return self.pump_requests(cx) };
        let e = PgError::fatal("57P01", "terminating connection: the new main refused a setting of the session")
            .detail(ErrorFields::parse(raw.get(5..).unwrap_or_default()).message);
        self.fatal(&e, cx);
    }
}

fn bound_to_main() -> PgError {
    PgError::fatal("57P01", "terminating connection: main was lost, and with it state of this session")
        .detail("Temporary tables, session advisory locks, held cursors, LISTEN and what functions may have set live on main alone.")
}
