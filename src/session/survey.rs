//! What an extended batch holds, looked at before its first message goes: which backend can serve all of it, whether it
//! writes, and whether it may need a block of its own.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::io::Cx;
use super::leave::stays_spread;
use super::registry::Prepared;
use super::route::{Given, Plan};
use super::tokens::{shown, waits};
use super::transaction::Reads;
use crate::sequencer::RowHash;
use crate::sql::cache::Verdict;
use crate::sql::class::{Class, DiscardWhat, TxModes};
use crate::sql::proof::{Form, Rows};
use crate::wire::FIRST_OWN_OID;
use crate::wire::frame::Frame;
use crate::wire::front::{Bind, Parse, read_execute, read_target};

/// What lies between here and the next Sync.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) complete: bool,
    pub(super) executes: usize,
    /// Something but BEGIN, COMMIT and ROLLBACK is parsed, bound or described: the server may refuse it, which ends
    /// the block that it stands in.
    pub(super) touches: bool,
    pub(super) writes: bool,
    pub(super) control: bool,
    pub(super) read: bool,
    /// The last statement that it executes is SHOW.
    pub(super) shows: bool,
    pub(super) everywhere: Option<Bytes>,
    /// The last statement that was parsed or bound must not stand in a block.
    parses_alone: bool,
    /// One that it executes is DISCARD ALL: main alone does it, outside any block.
    discards: bool,
    plain_messages: bool,
    /// How many Binds stand in it, and whether the last is of a SELECT, VALUES or TABLE.
    binds: (usize, bool),
    /// BindComplete comes after its read's snapshot: there is one Bind, and it is of such a statement.
    pub(super) by_bind: bool,
    /// The last statement that it executes writes one row by its key, or explicit values.
    pub(super) keyed: bool,
    /// The row that its read looks at, if it is one alone.
    pub(super) row: Option<RowHash>,
    /// Something of it cannot stand in a READ ONLY block on a replica.
    pub(super) leaves: bool,
    /// Something of it reads or writes rows, perhaps.
    pub(super) waits: bool,
    /// It may stand in a block that may write and reads on a replica: nothing but reads, none of which is fetched in parts or
    /// later.
    pub(super) stays_spread: bool,
    /// A Flush stands in it: the client waits for what comes before.
    flushes: bool,
    /// Modes of the BEGIN that the batch begins with.
    pub(super) begin: Option<TxModes>,
}

/// A statement of the batch, or one that was prepared before.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) verdict: Arc<Verdict>,
    sql: Bytes,
    types: Arc<[u32]>,
    own_types: bool,
    rows: Option<Arc<Rows>>,
}

fn stands_alone(class: &Class) -> bool {
    matches!(class, Class::NonTransactional | Class::DropDatabase(_)) || discards(class)
}

fn discards(class: &Class) -> bool {
    *class == Class::Discard(DiscardWhat::All)
}

/// A parameter is of a type that is not built in: its OID is main's, and may be another type's elsewhere.
pub(super) fn has_own_types(types: &[u32]) -> bool {
    types.iter().any(|&oid| oid >= FIRST_OWN_OID)
}

/// May stand in a READ ONLY block on a replica, which may refuse it.
fn stays(known: &Known) -> bool {
    let v = &known.verdict;
    (v.fits_read_only() && !known.own_types) || v.class.is_block_control() || v.is_refused_read_only()
}

/// May stand in a block that may write and reads on a replica.
fn may_stay_spread(known: &Known) -> bool {
    stays_spread(&known.verdict, known.own_types) || known.verdict.class.is_block_control()
}

impl Survey {
    /// As far as it has come, it is a statement that must not stand in a block (VACUUM, DISCARD ALL), and nobody waits for
    /// its answer yet: with its Sync it is run alone, with another statement before that it is refused.
    pub(super) fn may_stand_alone(&self) -> bool {
        let prepares = self.executes == 0 && self.parses_alone;
        let ends = self.complete || self.flushes || !self.plain_messages;
        !ends && (prepares || (self.executes == 1 && (self.everywhere.is_some() || self.discards)))
    }

    /// One statement that is not BEGIN, COMMIT or ROLLBACK, and nothing else.
    pub(super) fn is_alone(&self) -> bool {
        self.complete && self.plain_messages && self.executes == 1 && !self.control && self.begin.is_none()
    }

    /// A block on a replica that reads so may begin with it, or go on there.
    pub(super) fn may_begin_as(&self, reads: Reads) -> bool {
        match reads {
            Reads::AsItIs | Reads::Cut => self.read,
            Reads::Singly => self.stays_spread && self.executes <= 1,
            Reads::Twin | Reads::Bereft => self.stays_spread && self.touches,
        }
    }

    /// Nothing but COMMIT or ROLLBACK stands in it.
    pub(super) fn ends_block(&self) -> bool {
        !self.touches && self.executes <= usize::from(self.control)
    }

    /// A transaction begins with the batch, or what goes to every node.
    pub(super) fn may_begin(&self) -> bool {
        let more = !self.complete || self.executes > 1;
        more || self.writes || self.control || self.begin.is_some() || self.everywhere.is_some()
    }
}

impl Session {
    /// Looks ahead to the next Sync.
    pub(super) fn survey(&mut self, cx: &mut Cx<'_>) -> Survey {
        let mut s = Survey { plain_messages: true, stays_spread: true, ..Survey::default() };
        let mut parsed: Vec<(String, Known)> = Vec::new();
        let mut bound: Vec<(String, Option<Known>)> = Vec::new();
        let frames: Vec<Frame> = self.inbox.iter().cloned().collect();
        for f in &frames {
            match f.tag {
                b'P' => {
                    if let Some(p) = Parse::read(f.body()) {
                        let verdict = self.judge(p.sql, cx);
                        let first = parsed.is_empty() && bound.is_empty() && s.executes == 0;
                        if let (true, Class::Begin(modes)) = (first, &verdict.class) {
                            s.begin = Some(modes.clone());
                        }
                        s.touches |= !verdict.class.is_block_control();
                        s.parses_alone = stands_alone(&verdict.class);
                        let (sql, own_types) = (f.raw.slice_ref(p.sql), has_own_types(&p.types));
                        let rows = self.rows_of(&sql, &verdict);
                        let known = Known { verdict, sql, types: Arc::from(p.types), own_types, rows };
                        s.leaves |= !stays(&known);
                        s.stays_spread &= may_stay_spread(&known);
                        parsed.push((p.name.to_owned(), known));
                    }
                }
                b'B' => {
                    let Some(b) = Bind::read(f.body()) else { continue };
                    let of = parsed.iter().rev().find(|(n, _)| n == b.statement).map(|(_, k)| k.clone());
                    let of = of.or_else(|| self.registry.statement(b.statement).map(|p| self.known(p, cx)));
                    s.touches |= of.as_ref().is_none_or(|k| !k.verdict.class.is_block_control());
                    s.leaves |= of.as_ref().is_some_and(|k| !stays(k));
                    s.stays_spread &= b.portal.is_empty() && of.as_ref().is_some_and(may_stay_spread);
                    s.waits |= of.as_ref().is_none_or(|k| waits(&k.verdict.class));
                    s.parses_alone = of.as_ref().is_some_and(|k| stands_alone(&k.verdict.class));
                    let selects = of.as_ref().is_some_and(|k| matches!(k.verdict.class, Class::Select { .. }));
                    s.binds = (s.binds.0 + 1, selects);
                    let read = |k: &Known| self.row_read(&k.verdict, &k.sql, &k.types, b.rest);
                    s.row = of.as_ref().and_then(read);
                    bound.push((b.portal.to_owned(), of));
                }
                b'E' => {
                    s.executes += 1;
                    let Some((portal, rows)) = read_execute(f.body()) else { continue };
                    s.stays_spread &= rows == 0;
                    let here = bound.iter().rev().find(|(n, _)| n == portal).and_then(|(_, v)| v.clone());
                    let of = here.or_else(|| self.registry.portal(portal).map(|p| self.known(&p.statement, cx)));
                    if let Some(Class::Begin(modes)) = of.as_ref().map(|k| &k.verdict.class).filter(|_| s.executes == 1)
                    {
                        s.begin = Some(modes.clone());
                    }
                    self.survey_execute(&mut s, of, cx);
                }
                b'S' => {
                    s.complete = true;
                    break;
                }
                b'D' => s.touches |= self.describe_touches(f, &parsed, &bound),
                b'H' => s.flushes = true,
                b'C' => {}
                _ => {
                    s.plain_messages = false;
                    break;
                }
            }
        }
        s.stays_spread &= s.complete && s.plain_messages && s.binds.0 == s.executes;
        s.read = s.complete && s.plain_messages && s.executes == 1 && s.read;
        s.by_bind = s.binds == (1, true);
        s.row = s.row.filter(|_| s.read && s.by_bind);
        s
    }

    /// Describe of something that was prepared before this batch and is not BEGIN, COMMIT or ROLLBACK, or of nothing.
    /// (What is described behind its own Parse or Bind has counted there.)
    fn describe_touches(&self, f: &Frame, parsed: &[(String, Known)], bound: &[(String, Option<Known>)]) -> bool {
        let Some((kind, name)) = read_target(f.body()) else { return true };
        let (here, of) = match kind {
            b'S' => (parsed.iter().any(|(n, _)| n == name), self.registry.statement(name)),
            _ => (bound.iter().any(|(n, _)| n == name), self.registry.portal(name).map(|p| &p.statement)),
        };
        !here && of.is_none_or(|p| !p.verdict.class.is_block_control())
    }

    /// A prepared statement, judged anew if the catalogue has moved since.
    pub(super) fn known(&self, p: &Prepared, cx: &Cx<'_>) -> Known {
        let verdict = if self.is_current(&p.verdict) { p.verdict.clone() } else { self.judge(&p.sql, cx) };
        Known {
            verdict,
            sql: p.sql.clone(),
            types: p.types.clone(),
            own_types: has_own_types(&p.types),
            rows: p.asked(),
        }
    }

    fn survey_execute(&self, s: &mut Survey, of: Option<Known>, cx: &Cx<'_>) {
        // A cursor's portal may be of a query that writes.
        let Some(Known { verdict, sql, own_types, rows, .. }) = of else {
            s.writes = true;
            s.waits = true;
            return;
        };
        s.waits |= waits(&verdict.class);
        s.keyed = matches!(verdict.form(), Form::Keyed);
        s.shows = verdict.class == Class::Show;
        let given = Given { sql: sql.clone(), types: Arc::from([]), bind: Bytes::new(), extended: true, rows };
        s.discards |= discards(&verdict.class);
        match self.plan(&given, &verdict, cx) {
            Plan::Begin(_) | Plan::Commit { .. } | Plan::Rollback { .. } => s.control = true,
            Plan::Everywhere => s.everywhere = Some(sql),
            Plan::Write(..) => s.writes = true,
            Plan::Plain(_) => s.read = verdict.is_read() && !own_types && shown(&sql, &verdict.class).is_none(),
            Plan::Refused(_) | Plan::Answer => {}
        }
    }
}
