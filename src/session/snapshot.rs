//! `snapshot_isolation`: which snapshot a read gets, so that no client can tell which node answered (design, section 2).
//!
//! Main's own snapshots need nothing: main's commit order is the order. On a replica there are two ways.
//!
//! - A *single read* is optimistic. The window word is looked at before it is sent and once more when the first reply is
//!   here that only comes after its snapshot was taken ([`proves`]). No window was open and none was opened in between:
//!   the snapshot holds exactly the commits that every node has, and the answer is delivered. Otherwise nothing of it
//!   is, and main runs it again. While a window is open a read goes to main at once. With `busy_reads = "wait"` such
//!   reads get a cut instead: a READ ONLY transaction of their own on the replica.
//!   A read that names one row by its primary key minds only the commits that write that row, or cannot say which rows
//!   they write ([`crate::sequencer::Footprint`]).
//! - A *READ ONLY block* at REPEATABLE READ gets a cut: BEGIN and a tiny statement, whose snapshot is the block's, are
//!   sent inside the gate, which is left as soon as that statement is answered. The Flush behind it sees to it that the
//!   answer does not wait in the server's buffer for the client's own statement (hazard 26).
//!
//! READ ONLY blocks at READ COMMITTED are made of single reads, other ones at that level and SERIALIZABLE ones run on main.
//!
//! **Levels.** Who states no level gets REPEATABLE READ: [`DEFAULT`] makes that the backend's own default, unless the
//! role, the database, the client's start-up packet or a SET has said another. So `SHOW` tells the truth, a BEGIN
//! without a level means what the session says, and a SET, RESET or DISCARD of the client's works as on a server that was
//! configured so. It is sent again whenever the session may have changed its default.

use bytes::Bytes;

use super::held::AtGate;
use super::io::{Cx, TimerKind};
use super::owed::{Asked, Own};
use super::transaction::{Reads, Target, Tx};
use super::{Session, Stage};
use crate::config::{BusyReads, Mode};
use crate::sequencer::{self, Entry, GateFull, RowHash, RowLook, SnapshotPass, SnapshotToken, Waiting};
use crate::shard::driver::Time;
use crate::sim::planted::{Planted, is};
use crate::sql::class::{Isolation, TxModes};
use crate::wire::front;

/// Sees to the backend's default level and tells it. A server whose own default is a stricter one keeps that. Where the
/// setting came from is looked up only if it matters: pg_settings reads all settings.
pub const DEFAULT: &str = "SELECT CASE WHEN pg_catalog.current_setting('default_transaction_isolation') \
    OPERATOR(pg_catalog.=) ANY (ARRAY['read committed', 'read uncommitted']) AND EXISTS (SELECT FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) 'default_transaction_isolation' AND source OPERATOR(pg_catalog.=) \
    ANY (ARRAY['default', 'configuration file', 'command line', 'environment variable'])) \
    THEN pg_catalog.set_config('default_transaction_isolation', 'repeatable read', false) \
    ELSE pg_catalog.current_setting('default_transaction_isolation') END";

/// The tiny statement. It needs a snapshot, as every SELECT does (`analyze_requires_snapshot` in analyze.c), and nothing
/// else: no relation, so no lock that it could wait for.
pub(super) const TINY: &str = "SELECT";

/// What a session keeps about its snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// What a single read on a replica rests on, until its snapshot is proved.
    look: Option<Taken>,
    cut: Cut,
    /// The session's default level, as its backends told last.
    default: Option<Isolation>,
    /// The lane has to be asked anew.
    pub(super) stale: bool,
}

/// How far a cut is.
#[derive(Debug, Default)]
enum Cut {
    #[default]
    None,
    /// The gate is another's.
    Waiting(Waiting<SnapshotPass>, Time),
    /// In the gate.
    In(SnapshotPass, Time),
}

/// What a read on a replica rests on.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// No commit was under way.
    Window(sequencer::Look),
    /// None that writes the one row that it looks at.
    Row(RowLook),
}

impl Look {
    fn take(row: Option<RowHash>, cx: &Cx<'_>) -> Look {
        match row {
            Some(row) => Look::Row(cx.env.sequencer.look_at(row)),
            None => Look::Window(cx.env.sequencer.look()),
        }
    }

    fn is_quiet(self) -> bool {
        match self {
            Look::Window(look) => look.is_quiet(),
            Look::Row(look) => look.is_quiet(),
        }
    }

    fn holds(self, cx: &Cx<'_>) -> bool {
        match self {
            Look::Window(look) => cx.env.sequencer.still(look),
            Look::Row(look) => cx.env.sequencer.still_at(look),
        }
    }
}

/// That, as it was before the read was sent.
#[derive(Clone, Copy, Debug)]
struct Taken {
    look: Look,
    /// BindComplete proves the snapshot.
    by_bind: bool,
}

/// Does this reply come after the snapshot was taken? `by_bind`: the batch has one Bind, of a SELECT, VALUES or TABLE,
/// whose snapshot is taken there (`PortalStart` in pquery.c); COPY and EXPLAIN take theirs in Execute (hazard 25).
/// RowDescription of a Query is sent from the running portal; that of a Describe tells nothing.
fn proves(asked: Asked, tag: u8, by_bind: bool) -> bool {
    match (asked, tag) {
        (_, b'E') => true,
        (Asked::Parse, b'1') => is(Planted::LookAtParse),
        (Asked::Bind, b'2') => by_bind,
        (Asked::Query, b'T' | b'D' | b'C' | b'I' | b'H' | b'd') => true,
        (Asked::Execute, b'D' | b'C' | b'I' | b's' | b'H' | b'd') => true,
        _ => false,
    }
}

impl Session {
    /// `snapshot_isolation`.
    pub(super) fn isolates(cx: &Cx<'_>) -> bool {
        cx.env.config.cluster.backend_clustering_mode == Mode::SnapshotIsolation
    }

    /// How a single read reads on a replica. `None`: main does it, since a commit is under way. `shows`: it is SHOW.
    /// `again`: a snapshot on a replica could not be used.
    /// `row`: it looks at this one alone.
    pub(super) fn single_read(shows: bool, again: bool, row: Option<RowHash>, cx: &Cx<'_>) -> Option<Reads> {
        // SHOW needs none, and would tell of the cut's own level.
        let waits = cx.env.config.load_balance.busy_reads == BusyReads::Wait && !shows;
        let quiet = || !cx.env.gated || Look::take(row, cx).is_quiet();
        match (again || !quiet(), waits) {
            (false, _) => Some(Reads::Singly),
            (true, true) => Some(Reads::Cut),
            (true, false) => None,
        }
    }

    /// A single read goes to main since a commit is between main and the last node.
    pub(super) fn count_busy(cx: &Cx<'_>) {
        cx.env.recorder.borrow_mut().counters.reads_busy += 1;
    }

    /// The transaction around a single read is given up on the reader: main runs the read.
    pub(super) fn give_up_cut(&mut self, cx: &mut Cx<'_>) {
        if !self.in_cut() {
            return;
        }
        self.tx = Tx::Idle;
        if self.link_ref(Target::Reader).is_some() {
            self.send_own(Target::Reader, ("_pgls_r", "ROLLBACK"), Own::Leave, cx);
            self.sync_own(Target::Reader, Own::Leave, cx);
        }
    }

    /// A single read is being answered from a cut.
    pub(super) fn in_cut(&self) -> bool {
        self.tx.open().is_some_and(|o| o.implicit && o.on == Target::Reader)
    }

    /// A single read is about to be sent to the reader.
    pub(super) fn note_look(&mut self, by_bind: bool, row: Option<RowHash>, cx: &Cx<'_>) {
        self.snapshots.look = cx.env.gated.then(|| Taken { look: Look::take(row, cx), by_bind });
    }

    /// A reply of the reader: does it show that the read's snapshot cannot be used? Then nothing of the answer may leave.
    pub(super) fn is_overtaken(&mut self, tag: u8, cx: &Cx<'_>) -> bool {
        let Some(taken) = self.snapshots.look else { return false };
        let Some(asked) = self.link_ref(Target::Reader).and_then(|l| l.owed.head()).map(|h| h.asked) else {
            return false;
        };
        if !proves(asked, tag, taken.by_bind) {
            return false;
        }
        self.snapshots.look = None;
        let holds = taken.look.holds(cx);
        let counters = &mut cx.env.recorder.borrow_mut().counters;
        if holds {
            counters.reads_at_once += 1;
        } else {
            counters.reads_again += 1;
        }
        !holds
    }

    /// The read will not be answered by the reader.
    pub(super) fn forget_look(&mut self) {
        self.snapshots.look = None;
    }

    /// A READ ONLY block of these modes may get a cut on a replica.
    pub(super) fn cuts(&self, modes: &TxModes) -> bool {
        // A default that nobody has told yet is told before a reader is used.
        modes.isolation.or(self.snapshots.default).is_none_or(|level| level == Isolation::RepeatableRead)
    }

    /// Each read of a READ ONLY block of these modes has a snapshot of its own.
    pub(super) fn reads_singly(&self, modes: &TxModes) -> bool {
        let level = modes.isolation.or(self.snapshots.default.filter(|_| !self.snapshots.stale));
        level.is_some_and(|level| matches!(level, Isolation::ReadCommitted | Isolation::ReadUncommitted))
    }

    /// The session is in the gate, or goes there. False: it must wait until [`Self::gate_moved`] says so.
    pub(super) fn has_gate(&mut self, cx: &mut Cx<'_>) -> bool {
        if !cx.env.gated || is(Planted::NoGate) {
            return true;
        }
        let now = cx.io.now();
        let (entry, since) = match std::mem::take(&mut self.snapshots.cut) {
            Cut::In(pass, since) => {
                self.snapshots.cut = Cut::In(pass, since);
                return true;
            }
            Cut::Waiting(place, since) => (place.poll().map_or_else(Entry::Wait, Entry::In), since),
            Cut::None => match cx.env.sequencer.enter_snapshot(cx.env.shard) {
                Ok(entry) => (entry, now),
                Err(GateFull) => {
                    cx.io.watch_commits();
                    return false;
                }
            },
        };
        match entry {
            Entry::In(pass) => {
                let waited = now.since(since);
                cx.env.recorder.borrow_mut().gate(crate::telemetry::Gate::Snapshot, waited);
                self.snapshots.cut = Cut::In(pass, now);
                true
            }
            Entry::Wait(place) => {
                self.snapshots.cut = Cut::Waiting(place, since);
                cx.io.watch_commits();
                false
            }
        }
    }

    /// The block begins on the reader, in the gate.
    pub(super) fn take_cut(&mut self, cx: &mut Cx<'_>) {
        self.send_own(Target::Reader, ("_pgls_s", TINY), Own::Cut, cx);
        let Some(link) = self.link(Target::Reader) else { return };
        link.unflushed = false;
        let conn = link.conn;
        cx.io.send(conn, Bytes::from_static(front::FLUSH));
        cx.io.arm(cx.env.config.replication.commit_timeout, TimerKind::Cut);
    }

    pub(super) fn cut_at_gate(&self) -> AtGate {
        match &self.snapshots.cut {
            Cut::None => AtGate::Outside,
            Cut::Waiting(place, since) => AtGate::of(place, *since),
            Cut::In(_, since) => AtGate::Inside(*since),
        }
    }

    /// A tiny statement has not been answered, by the reader or by main.
    pub(super) fn owes_cut(&self) -> bool {
        let owes = |t| self.link_ref(t).is_some_and(|l| l.owed.takes_cut());
        owes(Target::Reader) || owes(Target::Lane)
    }

    /// The tiny statement is answered, or will not be: the gate is left.
    pub(super) fn cut_taken(&mut self) -> Option<SnapshotToken> {
        match std::mem::take(&mut self.snapshots.cut) {
            Cut::In(pass, _) => Some(pass.token()),
            Cut::None | Cut::Waiting(..) => None,
        }
    }

    /// The gate has been handed over.
    pub(super) fn gate_moved(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.snapshots.cut, Cut::Waiting(..)) && self.has_gate(cx) {
            self.pump_requests(cx);
        }
    }

    /// After each event: nobody stays in the gate who has not sent what is answered there.
    pub(super) fn settle_gate(&mut self) {
        let over = matches!(self.stage, Stage::Over);
        let stays = match &self.snapshots.cut {
            Cut::None => return,
            Cut::Waiting(..) => !over,
            Cut::In(..) => self.owes_cut(),
        };
        if !stays {
            self.snapshots.cut = Cut::None;
        }
    }

    /// A node that does not answer the tiny statement keeps the gate from commits: it has had `commit_timeout`.
    pub(super) fn cut_timer(&mut self, cx: &mut Cx<'_>) {
        let Cut::In(_, since) = &self.snapshots.cut else { return };
        let (held, limit) = (cx.io.now().since(*since), cx.env.config.replication.commit_timeout);
        if held < limit {
            return cx.io.arm(limit.saturating_sub(held), TimerKind::Cut);
        }
        self.snapshots.cut = Cut::None;
        for target in [Target::Reader, Target::Lane] {
            let Some(conn) = self.link_ref(target).filter(|l| l.owed.takes_cut()).map(|l| l.conn) else { continue };
            cx.io.abort(conn);
            self.server_gone(conn, "it took no snapshot within commit_timeout", cx);
        }
    }

    /// Modes of the transaction around one keyed write outside a block. Nobody can see its snapshot, and at READ COMMITTED
    /// a hot row makes no conflicts (hazard 30); a session whose default is SERIALIZABLE keeps that.
    pub(super) fn modes_of_keyed(&self, cx: &Cx<'_>) -> TxModes {
        let lower =
            Self::isolates(cx) && self.snapshots.default != Some(Isolation::Serializable) && !self.snapshots.stale;
        TxModes { isolation: lower.then_some(Isolation::ReadCommitted), ..TxModes::default() }
    }

    /// The lane's default level, in front of what is sent next outside a transaction block.
    pub(super) fn see_to_default(&mut self, cx: &mut Cx<'_>) {
        if std::mem::take(&mut self.snapshots.stale) && Self::isolates(cx) {
            self.ask_default(Target::Lane, cx);
        }
    }

    /// The same of a reader, which has the session's SETs.
    pub(super) fn ask_reader_default(&mut self, cx: &mut Cx<'_>) {
        let asks = |l: &mut super::link::Link| !std::mem::replace(&mut l.default_asked, true);
        if Self::isolates(cx) && self.link(Target::Reader).is_some_and(asks) {
            self.ask_default(Target::Reader, cx);
        }
    }

    fn ask_default(&mut self, target: Target, cx: &mut Cx<'_>) {
        self.send_own(target, ("_pgls_l", DEFAULT), Own::Default, cx);
        self.sync_own(target, Own::Default, cx);
    }

    /// Blocks that name no level have one snapshot, as far as is known.
    pub(super) fn default_has_one_snapshot(&self) -> bool {
        !self.snapshots.stale
            && matches!(self.snapshots.default, Some(Isolation::RepeatableRead | Isolation::Serializable))
    }

    /// The answer to [`DEFAULT`].
    pub(super) fn default_told(&mut self, level: &[u8]) {
        self.snapshots.default = match level {
            b"read uncommitted" => Some(Isolation::ReadUncommitted),
            b"read committed" => Some(Isolation::ReadCommitted),
            b"serializable" => Some(Isolation::Serializable),
            _ => Some(Isolation::RepeatableRead),
        };
    }

    /// The session has run this SET, RESET or the like: it may have another default level from here on.
    pub(super) fn default_may_change(&mut self, sql: &[u8]) {
        self.snapshots.stale |= concerns_default(sql);
    }
}

/// A SET, RESET or SET SESSION CHARACTERISTICS that may change the default level.
pub(super) fn concerns_default(sql: &[u8]) -> bool {
    let text = String::from_utf8_lossy(sql).to_ascii_lowercase();
    ["isolation", "characteristics", "reset", "all", "default"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::planted::plant;

    /// Hazard 25: which replies come only after the statement's snapshot was taken.
    #[test]
    fn a_snapshot_is_proved_by_what_only_comes_after_it() {
        let told = |asked, by_bind| -> String {
            let tags = b"123CDEGHINSTVZcdnst".iter();
            tags.filter(|tag| proves(asked, **tag, by_bind)).map(|tag| char::from(*tag)).collect()
        };
        assert_eq!(told(Asked::Query, false), "CDEHITd");
        assert_eq!(told(Asked::Parse, true), "E");
        assert_eq!((told(Asked::Bind, true), told(Asked::Bind, false)), ("2E".into(), "E".into()), "COPY and EXPLAIN");
        assert_eq!((told(Asked::DescribeStatement, true), told(Asked::DescribePortal, true)), ("E".into(), "E".into()));
        assert_eq!(told(Asked::Execute, false), "CDEHIds");
        // The simulator hardly ever sees this one: between Parse and Bind a server flushes only what fills its buffer.
        plant(Some(Planted::LookAtParse));
        let planted = told(Asked::Parse, true);
        plant(None);
        assert_eq!(planted, "1E");
    }
}
