//! Verdicts: what is known of a statement, found once per shape and kept.
//!
//! A verdict rests on the catalogue version it was found under. Under a newer one its class stands (that is lexical) and
//! its proof is made again. Without a fresh catalogue nothing is proved.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::class::{Class, classify, is_positioned, uses_time_at_once};
use super::lexer::identifiers;
use super::literals::{has_moment, time_calls, time_parameter};
use super::proof::{Catalogue, Effect, Form, Judged, RowKey, effect, finding, judged, row_read};
use super::reason::Reason;
use super::shape::{Parameterised, ShapeHash, TIMESTAMPTZ, append_time, parameterise, parameters, shape_hash};
use crate::wire::FIRST_OWN_OID;

/// What is known of all statements of one shape.
#[derive(Debug)]
pub struct Verdict {
    /// What it is, by its keywords.
    pub class: Class,
    effect: Effect,
    /// Catalogue version of its proof; 0: there was none.
    version: u64,
    /// Whose catalogue that was.
    view: u64,
    std_strings: bool,
    /// Time functions stand in it.
    time: bool,
    /// A string that means a moment ('now') stands in it.
    moment: bool,
    large_objects: bool,
    /// It names its row by a cursor.
    positioned: bool,
    /// No READ ONLY transaction takes it.
    refused_read_only: bool,
    /// Permanent relations whose names stand in it.
    relations: Vec<String>,
    /// A write whose literals may be parameters.
    parameterised: Option<Parameterised>,
    /// It may leave something in its session that lives in the backend alone.
    leaves_state: bool,
    /// A write with parameters of the client's, its time functions replaced by one more; and how many there are.
    timed: Option<(Bytes, usize)>,
    /// How a write reaches the replicas.
    form: Form,
    /// It calls pg_notify(), or main has refused to prepare a transaction of it: no image of it can be had.
    unpreparable: AtomicBool,
    /// The rows that a keyed write names, or the one that a read looks at; `None`: nobody can say which.
    rows: Option<Vec<RowKey>>,
}

/// A text longer than this, in bytes, goes to replicas as it is: its literals as parameters would be a copy of it, for
/// the sake of a parse that is the least of its cost.
const TEXT_AS_IT_IS: usize = 256 * 1024;

/// A write, as replicas will get it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaForm {
    /// The text.
    pub sql: Bytes,
    /// Parameter types by OID.
    pub types: Arc<[u32]>,
    /// The Bind behind its names.
    pub bind: Bytes,
    /// Worth keeping prepared.
    pub keep: bool,
    /// Where in `bind` the transaction's time is to be written ([`super::literals::timestamp`]'s 29 bytes).
    pub moments: Vec<usize>,
    /// Time functions are left in the text: they become literals when the time is known.
    pub time: bool,
}

/// Why a verdict is what it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reasons {
    /// Why it is no read that any node may serve.
    pub not_read: Option<Reason>,
    /// Why a write does not go as a keyed statement.
    pub not_keyed: Option<Reason>,
    /// Why it does not go by its rows.
    pub not_rows: Option<Reason>,
}

impl Verdict {
    /// The reasons that the verdict's proofs gave, which are made again for them. `catalogue`: the one that the verdict
    /// rests on.
    #[must_use]
    pub fn reasons(&self, sql: &str, catalogue: Option<&Catalogue>) -> Reasons {
        let Some(catalogue) = catalogue else {
            let none = || Some(Reason::NoCatalogue);
            return Reasons { not_read: none(), not_keyed: none(), not_rows: none() };
        };
        if self.version == 0 {
            return Reasons { not_read: Some(Reason::Refuted), ..Reasons::default() };
        }
        let not_read = finding(sql, self.std_strings, &self.class, catalogue).reason;
        let judged = judged(sql, self.std_strings, &self.class, catalogue, self.time);
        Reasons { not_read, not_keyed: judged.not_keyed, not_rows: judged.not_rows }
    }

    /// Time functions stand in it whose values are main's on all nodes.
    #[must_use]
    pub fn has_time(&self) -> bool {
        self.time
    }

    fn new(sql: &str, std_strings: bool, catalogue: Option<&Catalogue>) -> Verdict {
        let class = classify(sql, std_strings);
        let time = !time_calls(sql, std_strings).is_empty() && uses_time_at_once(sql, std_strings, &class);
        let writes = matches!(class, Class::Insert | Class::Update | Class::Delete | Class::Merge | Class::WithDml);
        let timed = (time && writes)
            .then(|| {
                let n = parameters(sql, std_strings);
                time_parameter(sql, std_strings, n + 1).map(|text| (Bytes::from(text), n))
            })
            .flatten();
        let proved = |c| judged(sql, std_strings, &class, c, time);
        let Judged { form, rows, .. } =
            catalogue.map_or_else(|| Judged { form: unproved(&class), ..Judged::default() }, proved);
        let effect = catalogue.map_or(Effect::Unknown, |c| effect(sql, std_strings, &class, c));
        let read = catalogue.filter(|_| effect == Effect::Read).and_then(|c| row_read(sql, std_strings, &class, c));
        Verdict {
            rows: read.map_or(rows, |row| Some(vec![row])),
            version: catalogue.map_or(0, |c| c.version),
            view: catalogue.map_or(0, |c| c.view),
            form,
            effect,
            positioned: is_positioned(sql, std_strings),
            refused_read_only: refused_read_only(sql, std_strings, &class),
            relations: catalogue.map_or_else(Vec::new, |c| c.relations_among(identifiers(sql, std_strings))),
            std_strings,
            time,
            moment: has_moment(sql, std_strings),
            large_objects: names_large_objects(sql, std_strings),
            parameterised: parameterise(sql, std_strings, &class),
            leaves_state: leaves_state(sql, std_strings, &class),
            timed,
            // What functions do inside shows when main refuses.
            unpreparable: AtomicBool::new(identifiers(sql, std_strings).iter().any(|n| n == "pg_notify")),
            class,
        }
    }

    /// What is known of one statement, not kept: for a session's own view of the catalogue.
    #[must_use]
    pub fn of(sql: &str, std_strings: bool, catalogue: &Catalogue) -> Arc<Verdict> {
        Arc::new(Verdict::new(sql, std_strings, Some(catalogue)))
    }

    /// The catalogue version that its proof rests on; 0: there was no catalogue.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of the transaction's own look at the catalogue on which its proof rests; 0: it rests on what is committed.
    #[must_use]
    pub fn view(&self) -> u64 {
        self.view
    }

    /// How a write reaches the replicas.
    #[must_use]
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Main has refused to prepare a transaction of it since the catalogue was read.
    #[must_use]
    pub fn is_unpreparable(&self) -> bool {
        self.unpreparable.load(Ordering::Relaxed)
    }

    /// Main has just refused that.
    pub fn set_unpreparable(&self) {
        self.unpreparable.store(true, Ordering::Relaxed);
    }

    /// Hashes of the rows that a keyed write names, or of the one that a read looks at. `types` and `bind` as a client's Parse
    /// and Bind have them. `None`: nobody can say which.
    #[must_use]
    pub fn rows_named(&self, database: &str, sql: &str, types: &[u32], bind: &[u8]) -> Option<Vec<u64>> {
        let row = |r: &RowKey| r.row(database, sql, self.std_strings, types, bind);
        self.rows.as_ref()?.iter().map(row).collect()
    }

    /// It may leave something in its session that lives on in its backend alone: a listener, a cursor, a lock.
    #[must_use]
    pub fn leaves_state(&self) -> bool {
        self.leaves_state
    }

    /// A proven read: any up node may serve it.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.effect == Effect::Read
    }

    /// Proven to change no rows: whichever server runs it, no other need hear of it.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.effect != Effect::Unknown
    }

    /// May stand in a READ ONLY transaction on a replica, which has not main's catalogue OIDs, sequences and locks.
    #[must_use]
    pub fn fits_read_only(&self) -> bool {
        let control = matches!(
            self.class,
            Class::Savepoint(_)
                | Class::RollbackTo(_)
                | Class::Release(_)
                | Class::Show
                | Class::Fetch
                | Class::Move
                | Class::ClosePortal
                | Class::Deallocate(_)
                | Class::ExplainPglockstep
                | Class::ShowProxy(_)
                | Class::Empty
        );
        let harmless_set =
            matches!(&self.class, Class::Set { name, .. } | Class::Reset(name) if is_harmless_setting(name));
        self.is_read() || control || harmless_set
    }

    /// Every server refuses it in a READ ONLY transaction, before it has done anything (ExecCheckXactReadOnly in
    /// execMain.c, PreventCommandIfReadOnly in utility.c; there are no temporary tables on a replica).
    #[must_use]
    pub fn is_refused_read_only(&self) -> bool {
        self.refused_read_only
    }

    /// WHERE CURRENT OF.
    #[must_use]
    pub fn is_positioned(&self) -> bool {
        self.positioned
    }

    /// There is, or for all that is known may be, a permanent relation of this name, which stands in the statement.
    #[must_use]
    pub fn hides_permanent(&self, name: &str) -> bool {
        self.version == 0 || self.relations.iter().any(|r| r == name)
    }

    /// It names a function of large objects.
    #[must_use]
    pub fn names_large_objects(&self) -> bool {
        self.large_objects
    }

    /// A string that means a moment stands in it: its replicas would take it for a moment of their own.
    #[must_use]
    pub fn has_moment(&self) -> bool {
        self.moment
    }

    /// The statement as replicas will get it. `extended`: types and bind are the client's.
    #[must_use]
    pub fn replica_form(&self, sql: &Bytes, types: &Arc<[u32]>, bind: &Bytes, extended: bool) -> ReplicaForm {
        let form = if extended { self.with_time_parameter(types, bind) } else { self.with_parameters(sql) };
        form.unwrap_or_else(|| ReplicaForm {
            sql: sql.clone(),
            types: portable(types),
            bind: bind.clone(),
            keep: extended && !self.time,
            moments: Vec::new(),
            time: self.time,
        })
    }

    fn with_parameters(&self, sql: &Bytes) -> Option<ReplicaForm> {
        let p = self.parameterised.as_ref()?;
        if sql.len() > TEXT_AS_IT_IS && !self.time && !has_moment(std::str::from_utf8(sql).ok()?, self.std_strings) {
            return None;
        }
        // Values must be the client's bytes; text in another encoding goes as it is.
        let (bind, moments) = p.bind(std::str::from_utf8(sql).ok()?, self.std_strings)?;
        let (sql, types, bind) = (p.sql.clone(), p.types.clone(), bind.freeze());
        Some(ReplicaForm { sql, types, bind, keep: true, moments, time: false })
    }

    fn with_time_parameter(&self, types: &Arc<[u32]>, bind: &Bytes) -> Option<ReplicaForm> {
        let (sql, n) = self.timed.as_ref()?;
        let (bind, moments) = append_time(bind, *n)?;
        let mut all = portable(types).to_vec();
        all.resize(*n, 0);
        all.push(TIMESTAMPTZ);
        Some(ReplicaForm {
            sql: sql.clone(),
            types: Arc::from(all),
            bind: bind.freeze(),
            keep: true,
            moments,
            time: false,
        })
    }
}

/// Without a catalogue.
fn unproved(class: &Class) -> Form {
    match class {
        Class::Insert | Class::Update | Class::Delete | Class::Merge | Class::WithDml | Class::Do | Class::Call => {
            Form::Image(Reason::NoCatalogue)
        }
        _ => Form::AsItIs,
    }
}

/// REINDEX and CLUSTER are allowed there, as they change no rows.
fn refused_read_only(sql: &str, std_strings: bool, class: &Class) -> bool {
    match class {
        Class::Insert | Class::Update | Class::Delete | Class::Merge | Class::Truncate => true,
        Class::CopyFrom { .. } | Class::CreateTemp => true,
        Class::Ddl => identifiers(sql, std_strings).first().is_some_and(|word| word != "reindex"),
        _ => false,
    }
}

/// Parameter types as every node knows them. Where a client names a type that is not built in, by the OID that main
/// has for it, the other nodes find the type by themselves, as main does for a parameter without one.
#[must_use]
pub fn portable(types: &Arc<[u32]>) -> Arc<[u32]> {
    if types.iter().all(|&oid| oid < FIRST_OWN_OID) {
        return types.clone();
    }
    types.iter().map(|&oid| if oid < FIRST_OWN_OID { oid } else { 0 }).collect()
}

/// By class, or by a function's name. What other functions do inside is not looked at here.
fn leaves_state(sql: &str, std_strings: bool, class: &Class) -> bool {
    let named = |n: &String| {
        let lock = n.strip_prefix("pg_try_advisory_lock").or_else(|| n.strip_prefix("pg_advisory_lock"));
        lock.is_some() || matches!(n.as_str(), "set_config" | "dblink_connect" | "lo_open" | "setseed")
    };
    let runs = *class != Class::ExplainPglockstep;
    matches!(class, Class::Listen | Class::Declare | Class::Load)
        || (runs && identifiers(sql, std_strings).iter().any(named))
}

/// By their names.
fn names_large_objects(sql: &str, std_strings: bool) -> bool {
    identifiers(sql, std_strings).iter().any(|n| n.starts_with("lo_") || n == "lowrite")
}

/// Settings that change how values are printed or how a query is planned, and nothing that a read could do.
fn is_harmless_setting(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "application_name",
        "bytea_output",
        "client_encoding",
        "client_min_messages",
        "datestyle",
        "extra_float_digits",
        "intervalstyle",
        "jit",
        "lc_numeric",
        "lc_time",
        "timezone",
        "work_mem",
    ];
    NAMES.contains(&name) || name.starts_with("enable_")
}

/// Hash of a shape in a database.
type Key = u128;

#[derive(Debug)]
struct Kept {
    verdict: Arc<Verdict>,
    /// Catalogue version of its proof; 0: there was none.
    version: u64,
}

/// Verdicts of one shard, by shape and database.
///
/// Bound: two generations of at most `limit` shapes; when the young one is full it becomes the old one and the old one
/// is dropped, so shapes in use stay.
#[derive(Debug)]
pub struct VerdictCache {
    young: HashMap<Key, Kept>,
    old: HashMap<Key, Kept>,
    /// Shapes of strings that a server has parsed to their end; the same two generations.
    parsed: [HashSet<ShapeHash>; 2],
    limit: usize,
}

impl VerdictCache {
    /// Keeps `limit` shapes for certain, up to twice as many; the same for strings of several statements.
    #[must_use]
    pub fn new(limit: usize) -> VerdictCache {
        let (young, old, parsed) = Default::default();
        VerdictCache { young, old, parsed, limit: limit.max(1) }
    }

    /// What is known of the statement.
    pub fn judge(
        &mut self,
        sql: &str,
        std_strings: bool,
        database: &str,
        catalogue: Option<&Catalogue>,
    ) -> Arc<Verdict> {
        let key = key(shape_hash(sql, std_strings), database);
        let version = catalogue.map_or(0, |c| c.version);
        // Without a catalogue nothing is proved, whatever an older one has said.
        let stands = |k: &Kept| match catalogue {
            Some(_) => k.version >= version,
            None => matches!(k.version, 0 | u64::MAX),
        };
        if let Some(k) = self.young.get(&key).filter(|k| stands(k)) {
            return k.verdict.clone();
        }
        let kept = match self.old.remove(&key).filter(stands) {
            Some(k) => k,
            None => Kept { verdict: Arc::new(Verdict::new(sql, std_strings, catalogue)), version },
        };
        let verdict = kept.verdict.clone();
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, kept);
        verdict
    }

    /// A server has parsed a string of this shape to its end. (With backslashes in strings the shape does not tell.)
    pub fn is_parsed(&mut self, sql: &str, std_strings: bool) -> bool {
        let shape = shape_hash(sql, std_strings);
        if std_strings && self.parsed[1].contains(&shape) {
            self.remember(shape);
        }
        self.parsed[0].contains(&shape)
    }

    /// A server has parsed this string to its end.
    pub fn remember_parsed(&mut self, sql: &str, std_strings: bool) {
        if std_strings {
            self.remember(shape_hash(sql, std_strings));
        }
    }

    fn remember(&mut self, shape: ShapeHash) {
        if self.parsed[0].len() >= self.limit {
            self.parsed.swap(0, 1);
            self.parsed[0].clear();
        }
        self.parsed[0].insert(shape);
    }

    /// A server has refused to run it as a read: it is none, whatever was proved.
    pub fn refute(&mut self, sql: &str, std_strings: bool, database: &str) {
        let key = key(shape_hash(sql, std_strings), database);
        let form = Form::Image(Reason::Refuted);
        let verdict = Arc::new(Verdict { form, ..Verdict::new(sql, std_strings, None) });
        self.young.insert(key, Kept { verdict, version: u64::MAX });
    }
}

fn key(shape: ShapeHash, database: &str) -> Key {
    let mut h = DefaultHasher::new();
    h.write(database.as_bytes());
    shape ^ (u128::from(h.finish()) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(sql: &'static str) -> ReplicaForm {
        let v = Verdict::new(sql, true, None);
        v.replica_form(&Bytes::from_static(sql.as_bytes()), &Arc::from([]), &Bytes::from_static(&[0; 6]), false)
    }

    #[test]
    fn statements_of_one_shape_share_one_verdict_and_shapes_in_use_stay() {
        let mut cache = VerdictCache::new(2);
        let first = cache.judge("update t set a = 1", true, "d", None);
        assert!(Arc::ptr_eq(&first, &cache.judge("update t set a = 2", true, "d", None)));
        assert!(!Arc::ptr_eq(&first, &cache.judge("update t set a = 2", true, "other", None)));
        for i in 0..20 {
            cache.judge(&format!("select c{i} from t"), true, "d", None);
            assert!(Arc::ptr_eq(&first, &cache.judge("update t set a = 3", true, "d", None)));
        }
        assert!(cache.young.len() + cache.old.len() <= 4);
    }

    #[test]
    fn nothing_is_proved_without_a_catalogue_or_after_a_server_has_refuted_it() {
        let mut cache = VerdictCache::new(8);
        let mut catalogue = Catalogue::default();
        catalogue.version = 5;
        assert_eq!(cache.judge("select 1", true, "d", Some(&catalogue)).version(), 5);
        assert_eq!(cache.judge("select 1", true, "d", None).version(), 0);
        assert!(!cache.judge("select 1", true, "d", None).is_read());
        cache.refute("select f()", true, "d");
        assert!(!cache.judge("select f()", true, "d", None).is_read());
    }

    #[test]
    fn a_simple_write_becomes_a_statement_with_parameters() {
        let f = form("update t set a = a + 5 where id = 7");
        assert_eq!((&f.sql[..], f.keep, f.time), (&b"update t set a = a + $1 where id = $2"[..], true, false));
        let f = form("insert into t select now()");
        assert_eq!((f.keep, f.time, f.moments.len()), (false, true, 0));
    }

    #[test]
    fn what_a_read_only_transaction_refuses_everywhere_is_known_by_its_kind() {
        for sql in
            ["insert into t values (1)", "create table t (a int)", "copy t from stdin", "comment on table t is ''"]
        {
            assert!(Verdict::new(sql, true, None).is_refused_read_only(), "{sql}");
        }
        for sql in ["select f()", "reindex table t", "lock table t", "listen x", "select 1 for update", "call p()"] {
            assert!(!Verdict::new(sql, true, None).is_refused_read_only(), "{sql}");
        }
    }

    #[test]
    fn replicas_find_types_by_themselves_that_are_not_built_in() {
        let (bind, types): (_, Arc<[u32]>) = (Bytes::from_static(&[0; 6]), Arc::from([23, 16_384, 16_383, 70_000]));
        for sql in ["insert into t values ($1, $2, $3, $4)", "insert into t values ($1, $2, $3, $4, now())"] {
            let v = Verdict::new(sql, true, None);
            let f = v.replica_form(&Bytes::from_static(sql.as_bytes()), &types, &bind, true);
            assert_eq!(f.types[..4], [23, 0, 16_383, 0], "{sql}");
        }
        let built_in: Arc<[u32]> = Arc::from([23, 25]);
        assert!(Arc::ptr_eq(&portable(&built_in), &built_in));
    }

    #[test]
    fn time_in_a_write_with_the_clients_parameters_is_one_more_parameter() {
        let sql = Bytes::from_static(b"insert into t values ($1, now())");
        let v = Verdict::new("insert into t values ($1, now())", true, None);
        let bind = Bytes::from_static(&[0, 0, 0, 1, 0, 0, 0, 1, b'5', 0, 0]);
        let f = v.replica_form(&sql, &Arc::from([]), &bind, true);
        assert_eq!(&f.sql[..], b"insert into t values ($1, ($2))");
        assert_eq!((&f.types[..], f.moments.len(), f.keep), (&[0, TIMESTAMPTZ][..], 1, true));
    }
}
