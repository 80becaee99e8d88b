//! What clients can ask and say about commits: `SHOW pglockstep.snapshot`, `SHOW pglockstep.last_commit` and
//! `SET pglockstep.min_csn`, so that one service can hand "read at or after this" to another.
//!
//! To the servers these are custom settings like any other. Just before a SHOW goes to one, the proxy sets what it will
//! show, so that the answer is the server's own in every protocol and format. The first Parse or Describe of such a SHOW
//! sets it too: a server describes only what it knows (`GetPGVariableResultDesc` in guc.c).
//!
//! - The *snapshot's token* is exact where the snapshot is a cut on a replica. On main, whose snapshots wait for nobody,
//!   it names no earlier commit than the newest that the transaction can have seen: who reads at or after it sees all
//!   that this transaction has. In a block on main the first such SHOW takes the block's snapshot.
//! - *`min_csn`* holds back what reads or writes rows until every node has that commit, for `min_csn_timeout` at most. What
//!   the session's value is only the server knows (SET LOCAL, ROLLBACK, `set_config()`), so it is asked, once after each
//!   statement that may have changed it. A client that never names it costs a look at one flag.

use bytes::{BufMut, BytesMut};

use super::io::{Cx, TimerKind};
use super::owed::Own;
use super::snapshot::TINY;
use super::transaction::Target;
use super::{Request, Session};
use crate::sequencer::SnapshotToken;
use crate::shard::driver::Time;
use crate::sql::class::{Class, Isolation};
use crate::sql::lexer::{self, Kind, Lexer, identifiers};
use crate::wire::error::ErrorFields;
use crate::wire::front::BIND_NOTHING;
use crate::wire::{PgError, TxStatus};

/// Names of ours begin with it.
const PREFIX: &str = "pglockstep.";
/// The one that is set by clients.
const MIN_CSN: &str = "pglockstep.min_csn";

/// What the server is asked for it. NULL: it has never heard of the name.
const ASK: &str = "SELECT pg_catalog.current_setting('pglockstep.min_csn', true)";

/// What a SHOW asks the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// The transaction's snapshot, as EPOCH/CSN.
    Snapshot,
    /// The number of the session's newest commit; 0: it has made none.
    LastCommit,
}

impl Shown {
    /// What sets it on a server, and the name under which a link keeps that prepared.
    fn statement(self) -> (&'static str, &'static str) {
        match self {
            Shown::Snapshot => ("_pgls_ts", "SELECT pg_catalog.set_config('pglockstep.snapshot', $1, false)"),
            Shown::LastCommit => ("_pgls_tc", "SELECT pg_catalog.set_config('pglockstep.last_commit', $1, false)"),
        }
    }
}

/// What a statement of class SHOW asks the proxy, if that.
pub(super) fn shown(sql: &[u8], class: &Class) -> Option<Shown> {
    if *class != Class::Show || !mentions(sql) {
        return None;
    }
    let words = identifiers(std::str::from_utf8(sql).ok()?, true);
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "pglockstep", "snapshot"] => Some(Shown::Snapshot),
        [_, "pglockstep", "last_commit"] => Some(Shown::LastCommit),
        _ => None,
    }
}

/// Something of ours stands in it, perhaps.
pub(super) fn mentions(sql: &[u8]) -> bool {
    lexer::mentions(sql, "pglockstep", 4096)
}

/// A custom setting of the proxy's own: no node needs it to compute the same.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Why a SET of one of ours is refused before a server sees it. A value that is no plain literal is judged when it is in
/// force.
pub(super) fn refuses_set(sql: &[u8], name: &str) -> Option<PgError> {
    if !is_ours(name) {
        return None;
    }
    if name != MIN_CSN {
        let known = ["pglockstep.snapshot", "pglockstep.last_commit"].contains(&name);
        let e = if known {
            PgError::error("55P02", format!("parameter \"{name}\" cannot be changed"))
        } else {
            PgError::error("42704", format!("unrecognized configuration parameter \"{name}\""))
        };
        return Some(e.hint(format!(
            "A session can set \"{MIN_CSN}\" and show \"pglockstep.snapshot\" and \"pglockstep.last_commit\"."
        )));
    }
    let text = std::str::from_utf8(sql).ok()?;
    let value = literal(text)?;
    parse(&value).err().map(|()| invalid(&value))
}

/// The value of `SET name = value`, if it is one word, number or string, and not DEFAULT.
pub(super) fn literal(sql: &str) -> Option<String> {
    let tokens: Vec<_> = Lexer::new(sql, true).collect();
    let is_sign = |t: &crate::sql::lexer::Token| t.text(sql) == "=" || t.text(sql).eq_ignore_ascii_case("to");
    let at = tokens.iter().position(is_sign)?;
    let value: Vec<_> = tokens[at + 1..].iter().filter(|t| t.text(sql) != ";").collect();
    let text: String = value.iter().map(|t| t.text(sql)).collect();
    match value[..] {
        [t] if t.text(sql).eq_ignore_ascii_case("default") => None,
        [t] if t.kind == Kind::Quoted => None,
        [_] if text.starts_with('\'') => Some(text.trim_matches('\'').to_owned()),
        [_] => Some(text),
        // A sign.
        [_, _] if text.starts_with(['-', '+']) => Some(text),
        _ => None,
    }
}

/// A CSN, alone or in a token; 0: none.
fn parse(value: &str) -> Result<u64, ()> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(0);
    }
    if let Ok(token) = value.parse::<SnapshotToken>() {
        return Ok(token.csn);
    }
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().ok_or(())
}

fn invalid(value: &str) -> PgError {
    PgError::error("22023", format!("invalid value for parameter \"{MIN_CSN}\": \"{value}\""))
        .hint("It is a commit sequence number as SHOW pglockstep.last_commit gives it, or a token as SHOW pglockstep.snapshot does.")
}

/// Reads or writes rows, perhaps: has to wait for `min_csn`.
pub(super) fn waits(class: &Class) -> bool {
    !(class.is_block_control()
        || matches!(
            class,
            Class::Set { .. }
                | Class::Reset(_)
                | Class::Show
                | Class::Discard(_)
                | Class::Deallocate(_)
                | Class::Prepare(_)
                | Class::SetTransaction(_)
                | Class::Savepoint(_)
                | Class::RollbackTo(_)
                | Class::Release(_)
                | Class::SetSessionCharacteristics
                | Class::ClosePortal
                | Class::Listen
                | Class::Unlisten
                | Class::ExplainPglockstep
                | Class::ShowProxy(_)
                | Class::Empty
        ))
}

/// The session's `min_csn`.
#[derive(Debug, Default)]
pub(super) struct MinCsn {
    /// The session has named it.
    pub(super) heard: bool,
    /// The server has to be asked.
    unknown: bool,
    asked: bool,
    /// It was asked in a block, which may take back what it said.
    in_block: bool,
    csn: u64,
    /// What it is instead of a number.
    invalid: Option<String>,
    /// The question has failed: so has the statement that waits for the answer.
    refused: Option<PgError>,
    /// The error that the batch is about to be told.
    pub(super) fails: Option<PgError>,
    /// A statement waits.
    since: Option<Time>,
    armed: bool,
    cancelled: bool,
}

impl MinCsn {
    /// The client cancels its statement. False: none waits here.
    pub(super) fn cancel(&mut self) -> bool {
        self.cancelled = self.since.is_some();
        self.cancelled
    }
}

/// Whether a statement may go on.
#[derive(Debug)]
pub(super) enum Holds {
    Yes,
    /// Not yet.
    Waits,
    /// It fails.
    Never(PgError),
}

impl Session {
    /// What the SHOW will show is set on the server, in front of it.
    pub(super) fn sets_shown(&mut self, shown: Shown, extended: bool, cx: &mut Cx<'_>) -> Holds {
        if self.tx.open().is_some_and(|o| o.failed) {
            return Holds::Yes;
        }
        let target = self.tx.target().unwrap_or(if extended { self.target() } else { Target::Lane });
        if shown == Shown::Snapshot {
            match self.has_token(cx) {
                Holds::Yes => {}
                other => return other,
            }
        }
        let value = match shown {
            Shown::Snapshot => self.token(cx).to_string(),
            Shown::LastCommit => self.last_commit.to_string(),
        };
        self.set_shown(target, shown, &value, cx);
        Holds::Yes
    }

    /// The server describes what it has heard of.
    pub(super) fn defines_shown(&mut self, target: Target, sql: &[u8], class: &Class, cx: &mut Cx<'_>) {
        if let Some(shown) = shown(sql, class).filter(|_| self.tx.open().is_none_or(|o| !o.failed)) {
            self.set_shown(target, shown, "", cx);
        }
    }

    fn set_shown(&mut self, target: Target, shown: Shown, value: &str, cx: &mut Cx<'_>) {
        let mut bind = BytesMut::new();
        bind.put_u16(0);
        bind.put_u16(1);
        bind.put_u32(u32::try_from(value.len()).unwrap_or(0)); // two numbers at most
        bind.put_slice(value.as_bytes());
        bind.put_u16(0);
        let portal = if matches!(self.request, Request::Simple(_)) { "" } else { "_pgls" };
        self.send_own_in(target, shown.statement(), Own::Token, portal, &bind, cx);
    }

    /// The block on main has its snapshot, or there is none.
    fn has_token(&mut self, cx: &mut Cx<'_>) -> Holds {
        if let Some(e) = self.min_csn.refused.take() {
            return Holds::Never(e);
        }
        let Some(open) = self.tx.open_mut().filter(|o| o.on == Target::Lane && !o.implicit) else {
            return Holds::Yes;
        };
        if open.token.is_some() {
            return Holds::Yes;
        }
        if !std::mem::replace(&mut open.token_asked, true) {
            let portal = if matches!(self.request, Request::Simple(_)) { "" } else { "_pgls" };
            self.send_own_in(Target::Lane, ("_pgls_s", TINY), Own::Seen, portal, BIND_NOTHING, cx);
            self.sync_own(Target::Lane, Own::Seen, cx);
        }
        Holds::Waits
    }

    /// What the session has asked the server in front of a client's statement has been answered. If it failed (the client
    /// has cancelled what it waits for), so has the statement.
    pub(super) fn question_answered(&mut self, own: Own, error: Option<&[u8]>, cx: &mut Cx<'_>) {
        self.min_csn.asked &= own != Own::MinCsn;
        self.min_csn.refused = error.map(|raw| {
            let fields = ErrorFields::parse(raw.get(5..).unwrap_or_default());
            PgError::error(if fields.sqlstate == "57014" { "57014" } else { "XX000" }, fields.message)
        });
        if let Some(open) = self.tx.open_mut().filter(|_| own == Own::Seen && error.is_none()) {
            let token = SnapshotToken { epoch: cx.env.sequencer.epoch(), csn: cx.env.sequencer.newest() };
            open.token = Some(token);
            open.need = open.need.max(token.csn);
        }
        self.pump_requests(cx);
    }

    fn token(&self, cx: &Cx<'_>) -> SnapshotToken {
        let now = || SnapshotToken { epoch: cx.env.sequencer.epoch(), csn: cx.env.sequencer.newest() };
        let Some(open) = self.tx.open() else { return now() };
        let one = match open.modes.isolation {
            Some(level) => matches!(level, Isolation::RepeatableRead | Isolation::Serializable),
            // The reader's blocks have one.
            None => open.on == Target::Reader || self.default_has_one_snapshot(),
        };
        match open.token {
            Some(token) if one => token,
            _ => now(),
        }
    }

    /// A statement that may change `min_csn` has been sent.
    pub(super) fn min_csn_may_change(&mut self) {
        self.min_csn.heard = true;
        self.min_csn.unknown = true;
    }

    /// May what reads or writes rows go on?
    pub(super) fn min_csn_holds(&mut self, cx: &mut Cx<'_>) -> Holds {
        if self.status() == TxStatus::Failed {
            return Holds::Yes;
        }
        if let Some(e) = self.min_csn.refused.take() {
            return Holds::Never(e);
        }
        let block = self.tx.open().is_some();
        if self.min_csn.in_block && !block {
            (self.min_csn.in_block, self.min_csn.unknown) = (false, true);
        }
        if self.min_csn.unknown {
            return self.ask_min_csn(cx);
        }
        if let Some(value) = &self.min_csn.invalid {
            return Holds::Never(invalid(value));
        }
        let csn = self.min_csn.csn;
        if csn == 0 || cx.env.sequencer.have_all(csn) {
            self.min_csn.since = None;
            return Holds::Yes;
        }
        if std::mem::take(&mut self.min_csn.cancelled) {
            self.min_csn.since = None;
            return Holds::Never(PgError::error("57014", "canceling statement due to user request"));
        }
        let (now, limit) = (cx.io.now(), cx.env.config.replication.min_csn_timeout);
        let waited = now.since(*self.min_csn.since.get_or_insert(now));
        if waited >= limit {
            self.min_csn.since = None;
            let newest = cx.env.sequencer.newest();
            let e = PgError::error("57014", format!("canceling statement: commit {csn} is not on all nodes"))
                .detail(format!(
                    "{MIN_CSN} asks for it, and {} ms (min_csn_timeout) have passed. The newest commit is {newest}.",
                    limit.as_millis()
                ))
                .hint(format!("SET {MIN_CSN} to a commit that there is, or RESET it."));
            return Holds::Never(e);
        }
        // Whoever waits says so before it looks a last time.
        cx.io.watch_commits();
        if cx.env.sequencer.have_all(csn) {
            self.min_csn.since = None;
            return Holds::Yes;
        }
        if !std::mem::replace(&mut self.min_csn.armed, true) {
            cx.io.arm(limit.saturating_sub(waited), TimerKind::MinCsn);
        }
        Holds::Waits
    }

    fn ask_min_csn(&mut self, cx: &mut Cx<'_>) -> Holds {
        if self.min_csn.asked {
            return Holds::Waits;
        }
        let target = self.tx.target().unwrap_or(Target::Lane);
        if (target == Target::Lane && !self.has_lane(cx)) || !self.barrier(target, cx) {
            return Holds::Waits;
        }
        self.min_csn.asked = true;
        self.min_csn.in_block = self.tx.open().is_some();
        self.send_own(target, ("_pgls_tm", ASK), Own::MinCsn, cx);
        self.sync_own(target, Own::MinCsn, cx);
        Holds::Waits
    }

    /// A value has come: NULL where the name is not known any more.
    pub(super) fn min_csn_told(&mut self, value: Option<&[u8]>) {
        let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        let parsed = parse(&text);
        self.min_csn.unknown = false;
        self.min_csn.csn = parsed.unwrap_or(0);
        self.min_csn.invalid = parsed.is_err().then_some(text);
    }

    /// The lane is another: the question may have gone with it.
    pub(super) fn min_csn_unasked(&mut self) {
        (self.min_csn.asked, self.min_csn.refused) = (false, None);
        self.min_csn.unknown |= self.min_csn.heard;
    }

    /// A watermark has moved, or the time is up.
    pub(super) fn min_csn_moved(&mut self, timer: bool, cx: &mut Cx<'_>) {
        self.min_csn.armed &= !timer;
        if self.min_csn.since.is_some() {
            self.pump_requests(cx);
        }
    }
}
