//! How the session would treat a statement, in words: what `EXPLAIN (PGLOCKSTEP)` answers.
//!
//! Nothing is decided here. What the statement is comes from its verdict, what would be done with it from the plan that
//! running it would follow ([`Plan`]), and why from the proofs and from the checks that keep it from something cheaper.

use std::fmt::Write as _;

use bytes::Bytes;

use super::Session;
use super::io::Cx;
use super::note::{Note, PendingWrite};
use super::reader::Reader;
use super::route::{Given, Plan};
use super::transaction::{Reads, Target, Tx};
use crate::config::BusyReads;
use crate::sql::cache::{Reasons, Verdict};
use crate::sql::class::Class;
use crate::sql::prepare::executed;
use crate::sql::proof::Form;
use crate::sql::reason::Reason;
use crate::wire::PgError;

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Treatment {
    /// One of: read, session, block control, write, everywhere, refused, explain.
    verdict: &'static str,
    /// Of a write: statement, keyed statement (both perhaps with literals), rows, image, opaque statement.
    form: Option<&'static str>,
    /// What is to be said, under names as EXPLAIN has them.
    facts: Vec<(&'static str, String)>,
    /// Why it is nothing cheaper.
    reasons: Vec<(&'static str, String)>,
    /// What to change.
    advice: Vec<String>,
}

const ANY_NODE: &str = "any node";
const MAIN: &str = "main";

impl Treatment {
    fn new(verdict: &'static str, runs_on: impl Into<String>, replicas: &str) -> Treatment {
        let facts = vec![("Runs On", runs_on.into()), ("Replicas", replicas.to_owned())];
        Treatment { verdict, facts, ..Treatment::default() }
    }

    fn fact(mut self, name: &'static str, text: impl Into<String>) -> Treatment {
        self.facts.push((name, text.into()));
        self
    }

    fn because(mut self, name: &'static str, text: impl ToString, advice: Option<String>) -> Treatment {
        self.reasons.push((name, text.to_string()));
        self.advise(advice)
    }

    fn because_of(self, name: &'static str, reason: Option<Reason>) -> Treatment {
        match reason {
            Some(reason) if self.form == Some("image") && reason.is_of_triggers() => self.because(name, &reason, None),
            Some(reason) => self.because(name, &reason, reason.advice()),
            None => self,
        }
    }

    fn advise(mut self, advice: Option<String>) -> Treatment {
        self.advice.extend(advice.filter(|a| !self.advice.contains(a)));
        self
    }

    fn of_error(e: &PgError) -> Treatment {
        let mut t = Treatment::new("refused", "no node", "hear nothing of it");
        t = t.fact("SQLSTATE", e.sqlstate).because("Refused", &e.message, e.hint.clone());
        match &e.detail {
            Some(detail) => t.because("Detail", detail, None),
            None => t,
        }
    }

    /// One line for each fact, indented as EXPLAIN's are.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut verdict = self.verdict.to_owned();
        verdict[..1].make_ascii_uppercase();
        let head = self.form.map_or(verdict.clone(), |form| format!("{verdict} by {form}"));
        let facts = self.facts.iter().chain(&self.reasons).map(|(name, text)| format!("  {name}: {text}"));
        let label = match (self.verdict, self.form) {
            ("refused", _) => "Instead",
            ("read", _) | ("write", Some("rows" | "image")) => "Cheaper",
            _ => "Better",
        };
        let advice = self.advice.iter().map(|text| format!("  {label}: {text}"));
        std::iter::once(head).chain(facts).chain(advice).collect()
    }

    /// The same for programs: one object, in a list as EXPLAIN (FORMAT JSON) gives it.
    pub(super) fn json(&self) -> String {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let list = |items: Vec<String>| match items.is_empty() {
            true => "[]".to_owned(),
            false => format!("[\n        {}\n      ]", items.join(",\n        ")),
        };
        let mut out = String::from("[\n  {\n    \"PGLOCKSTEP\": {\n");
        let _ = writeln!(out, "      \"Verdict\": {},", string(self.verdict));
        let _ = writeln!(out, "      \"Form\": {},", self.form.map_or("null".to_owned(), string));
        for (name, text) in &self.facts {
            let _ = writeln!(out, "      {}: {},", string(name), string(text));
        }
        let reason =
            |(name, text): &(&str, String)| format!("{{\"Kind\": {}, \"Reason\": {}}}", string(name), string(text));
        let _ = writeln!(out, "      \"Reasons\": {},", list(self.reasons.iter().map(reason).collect()));
        let _ = writeln!(out, "      \"Advice\": {}", list(self.advice.iter().map(|a| string(a)).collect()));
        out.push_str("    }\n  }\n]");
        out
    }
}

impl Session {
    /// How this statement would be treated now. `types`, `extended`: as its own Parse would say.
    ///
    /// # Errors
    /// It names a prepared statement that there is not.
    pub(super) fn treatment(
        &self,
        sql: &Bytes,
        types: &[u32],
        extended: bool,
        cx: &Cx<'_>,
    ) -> Result<Treatment, PgError> {
        let verdict = self.judge(sql, cx);
        let rows = self.rows_of(sql, &verdict);
        let bind = Bytes::from_static(crate::wire::front::BIND_NOTHING);
        let given = Given { sql: sql.clone(), types: types.into(), bind, extended, rows };
        let plan = self.plan(&given, &verdict, cx);
        // What EXECUTE does is what its statement does.
        let (text, of) = match self.executed_by(sql, &verdict.class) {
            Some((sql, of)) => (sql, self.known(&of, cx).verdict),
            None => (sql.clone(), verdict.clone()),
        };
        let why = self.reasons(&text, &of, cx);
        let treatment = match plan {
            Plan::Answer => Treatment::new("explain", "no node: pglockstep answers it", "hear nothing of it"),
            Plan::Refused(e) if e.sqlstate == "26000" => return Err(e),
            Plan::Refused(e) => {
                let t = Treatment::of_error(&e);
                // What no image can be had for is refused for what its proof says.
                if matches!(of.form(), Form::Image(_)) { self.why_unproved(t, &text, &of, why, false) } else { t }
            }
            Plan::Begin(modes) => {
                let on = self.where_block_runs(&modes, cx);
                let reads = modes.read_only == Some(true);
                let hear = if reads { "hear nothing of it" } else { "hear of the block at COMMIT, if it has written" };
                Treatment::new("block control", on, hear)
            }
            Plan::Commit { .. } => {
                let does = "first apply what the transaction wrote, then commit after main";
                Treatment::new("block control", "main, or the replica that the block reads on", does)
            }
            Plan::Rollback { .. } => {
                Treatment::new("block control", "main, or the replica that the block reads on", "hear nothing of it")
            }
            Plan::Everywhere => {
                let why = "PostgreSQL refuses it in a transaction block";
                Treatment::new("everywhere", "main, outside any transaction", "run it after main")
                    .fact("Note", "a replica on which it fails becomes stale")
                    .because("Not in a Transaction", why, None)
            }
            Plan::Plain(note) => self.plain(note, &verdict, &of, why, cx),
            Plan::Write(pending, _) => self.write(&pending, &text, &of, why, cx),
        };
        let seen = "judged as this transaction sees it, with what it has changed itself";
        Ok(if self.has_changed_catalogue() { treatment.fact("Catalogue", seen) } else { treatment })
    }

    /// The prepared statement that an EXECUTE names.
    fn executed_by(&self, sql: &Bytes, class: &Class) -> Option<(Bytes, std::sync::Arc<super::registry::Prepared>)> {
        if !matches!(class, Class::Execute(_)) {
            return None;
        }
        let name = executed(std::str::from_utf8(sql).ok()?, self.std_strings)?.name;
        let statement = self.registry.statement(&name)?;
        Some((statement.sql.clone(), statement.clone()))
    }

    fn reasons(&self, sql: &[u8], verdict: &Verdict, cx: &Cx<'_>) -> Reasons {
        let text = String::from_utf8_lossy(sql);
        verdict.reasons(&text, self.catalogue_for(&text, cx).as_deref())
    }

    pub(super) fn in_clients_block(&self) -> bool {
        match &self.tx {
            Tx::Idle => false,
            Tx::Begun(_) => true,
            Tx::Open(o) => !o.implicit,
        }
    }

    /// Where a block of these modes begins.
    fn where_block_runs(&self, modes: &crate::sql::class::TxModes, cx: &Cx<'_>) -> String {
        match self.block_reads(modes, cx) {
            Some(Reads::Twin) => "a replica for reads, main from the first statement on that is no read".into(),
            Some(_) => "a replica, as long as it does nothing but proven reads".into(),
            None => "main".into(),
        }
    }

    /// Where a read runs, and why not on any node.
    fn where_read_runs(&self, cx: &Cx<'_>) -> (String, Option<(String, Option<String>)>) {
        let main = |why: &str, advice: Option<&str>| (MAIN.into(), Some((why.into(), advice.map(Into::into))));
        match &self.tx {
            Tx::Open(o) if o.on == Target::Reader => ("the replica that this block reads on".into(), None),
            Tx::Open(o) if !o.implicit => main(
                "this block runs there",
                Some("BEGIN READ ONLY, or read outside the block; transaction_reads = \"spread\" reads in any block."),
            ),
            Tx::Begun(modes) if self.block_reads(modes, cx).is_some() => ("a replica".into(), None),
            // What the proxy has opened around the EXPLAIN says nothing of the statement alone.
            Tx::Idle | Tx::Open(_) if self.kept_on_main(cx).is_none() => {
                let busy = cx.env.gated && cx.env.config.load_balance.busy_reads == BusyReads::Main;
                let on = match &self.reader {
                    // Chosen by weight when the session read for the first time.
                    Reader::Lane => format!("{ANY_NODE} (this session's is main, by weight)"),
                    _ if busy => format!("{ANY_NODE} (main while a commit is under way)"),
                    _ => ANY_NODE.into(),
                };
                (on, None)
            }
            _ => match self.kept_on_main(cx) {
                Some(why) => (MAIN.into(), Some((why.to_string(), why.advice().map(Into::into)))),
                None => main("a block that may write begins there", Some("BEGIN READ ONLY.")),
            },
        }
    }

    /// What one server runs and no replica hears of.
    fn plain(&self, note: Note, verdict: &Verdict, of: &Verdict, why: Reasons, cx: &Cx<'_>) -> Treatment {
        let nothing = "hear nothing of it";
        if verdict.is_read() || (matches!(verdict.class, Class::Execute(_)) && of.is_read()) {
            let (on, because) = match verdict.class {
                Class::Execute(_) => (
                    MAIN.into(),
                    Some(("EXECUTE runs there".into(), Some("Use the protocol's own prepared statements.".into()))),
                ),
                _ => self.where_read_runs(cx),
            };
            let t = Treatment::new("read", on, nothing);
            return match because {
                Some((why, advice)) => t.because("On Main", why, advice),
                None => t,
            };
        }
        let reads = matches!(verdict.class, Class::Select { .. } | Class::CopyTo { .. } | Class::Explain { .. })
            || matches!(verdict.class, Class::Execute(_));
        if reads {
            return Treatment::new("read", MAIN, nothing).because_of("On Main", why.not_read);
        }
        match note {
            Note::Setting(_) => Treatment::new("session", MAIN, "get it with the transactions and reads that follow"),
            Note::Write(_) => Treatment::new("session", MAIN, "get it too, at COMMIT"),
            Note::Temporary(_) => Treatment::new("session", MAIN, nothing)
                .fact("Note", "temporary tables live on main alone; reads stay there until DISCARD ALL"),
            Note::Savepoint(_) | Note::RollbackTo(_) | Note::Release(_) => Treatment::new(
                "session",
                "where the block runs",
                "hear nothing of it: what was rolled back is not in the script",
            ),
            _ => match verdict.class {
                Class::Insert
                | Class::Update
                | Class::Delete
                | Class::Merge
                | Class::Truncate
                | Class::CopyFrom { .. }
                | Class::Ddl => Treatment::new("session", MAIN, nothing)
                    .fact("Note", "it writes a temporary table, which lives on main alone"),
                _ => Treatment::new("session", MAIN, nothing),
            },
        }
    }

    /// What the replicas must do too.
    fn write(&self, p: &PendingWrite, sql: &[u8], of: &Verdict, why: Reasons, cx: &Cx<'_>) -> Treatment {
        let (keyed, time) = (matches!(of.form(), Form::Keyed), of.has_time());
        let mut t = self.form(p, keyed, time);
        if let Some(why) = &p.warning {
            t = t.fact("Warning", format!("the client gets one: {why}"));
        }
        let text = !(p.image.is_some() || p.by_rows);
        if time && text && !p.opaque {
            t = t.fact("Literals", "now() and the like become main's transaction time");
        }
        let alone = !self.in_clients_block() && self.modes_of_keyed(cx).isolation.is_some();
        if keyed && alone {
            t = t.fact("Isolation", "READ COMMITTED where it stands alone, so that no conflict (40001) ends it");
        }
        if p.by_rows && matches!(of.form(), Form::Rows(r) if r.returns) {
            t = t.fact("Row Limit", "fetched with one, it does not go by its rows");
        }
        t = match of.class {
            _ if !text || (keyed && !p.opaque) => t,
            Class::Truncate => t,
            Class::Ddl | Class::Analyze | Class::Cluster => {
                t.fact("Not Compared", "what each node fills new columns or tables with; the command tag is")
            }
            _ if p.opaque => t.fact("Not Compared", "what each node stores"),
            _ => t.fact("Not Compared", "the values that each node stores; tag and row count are"),
        };
        if p.opaque {
            t = t.fact("Afterwards", "the session's reads stay on main");
        }
        t = self.why_unproved(t, sql, of, why, p.by_rows);
        let could = matches!(of.form(), Form::Image(_)) && cx.env.slots.is_none();
        t.advise(could.then(|| {
            "With images = true, on servers that are set up for it, it goes by its image, the same on every node."
                .to_owned()
        }))
    }

    /// The form that the plan has.
    fn form(&self, p: &PendingWrite, keyed: bool, time: bool) -> Treatment {
        let main = "main, in a transaction";
        let (on, hear, form) = match () {
            () if p.by_rows => ("main, with RETURNING for the rows that it makes", "get those rows at COMMIT", "rows"),
            () if p.image.is_some() => (
                "main, in a transaction that COMMIT prepares",
                "get at COMMIT what main's WAL tells of the whole transaction",
                "image",
            ),
            () if p.opaque => {
                (main, "run it again at COMMIT, if main's transaction has written by then", "opaque statement")
            }
            () if keyed && time => (main, "run it at COMMIT", "keyed statement with literals"),
            () if keyed => (main, "run it at COMMIT", "keyed statement"),
            () if time => (main, "run it at COMMIT", "statement with literals"),
            () => (main, "run it at COMMIT", "statement"),
        };
        Treatment { form: Some(form), ..Treatment::new("write", on, hear) }
    }

    /// Why it goes in no cheaper form, as its proofs say.
    fn why_unproved(&self, t: Treatment, sql: &[u8], of: &Verdict, why: Reasons, by_rows: bool) -> Treatment {
        match of.class {
            Class::Select { .. } | Class::CopyTo { .. } => t.because_of("Not a Read", why.not_read),
            Class::Insert | Class::Update | Class::Delete | Class::Merge => self.why_no_rows(t, sql, of, why, by_rows),
            Class::CopyFrom { .. } => t.because_of("Not as a Statement", why.not_rows),
            Class::WithDml | Class::Call | Class::Do | Class::Explain { .. } | Class::Other => {
                t.because_of("Opaque", why.not_rows)
            }
            _ => t,
        }
    }

    /// Why an INSERT, UPDATE, DELETE or MERGE is not keyed, and does not go by its rows.
    fn why_no_rows(&self, t: Treatment, sql: &[u8], of: &Verdict, why: Reasons, by_rows: bool) -> Treatment {
        if matches!(of.form(), Form::Keyed) {
            return t;
        }
        if why.not_keyed.is_some() && why.not_keyed == why.not_rows {
            return t.because_of("Neither Keyed nor by Rows", why.not_rows);
        }
        let t = match why.not_keyed {
            // For rows that is all there is to gain; anything else has a nearer goal.
            Some(reason) => t.because("Not Keyed", &reason, reason.advice_for_write().filter(|_| by_rows)),
            None => t,
        };
        match self.rows_for(sql, of) {
            _ if by_rows => t,
            Err(Some(no)) => t.because("Not by Rows", no, Some(no.advice().to_owned())),
            Err(None) => t.because_of("Not by Rows", why.not_rows),
            Ok(_) => {
                t.because("Not by Rows", "this transaction has changed the catalogue", Some("COMMIT first.".into()))
            }
        }
    }
}
