//! What a statement is, by its leading keywords. Decided by the lexer alone; once per shape.

use super::lexer::{Kind, Lexer, Token, folded};

/// An isolation level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// READ UNCOMMITTED, which PostgreSQL runs as READ COMMITTED.
    ReadUncommitted,
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

/// Modes of a BEGIN; `None`: not stated.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxModes {
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// READ ONLY (true) or READ WRITE.
    pub read_only: Option<bool>,
    /// DEFERRABLE or NOT DEFERRABLE.
    pub deferrable: Option<bool>,
}

/// What DISCARD discards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiscardWhat {
    /// ALL.
    All,
    /// PLANS.
    Plans,
    /// TEMP.
    Temp,
    /// SEQUENCES.
    Sequences,
}

/// What a statement is. Names are folded as PostgreSQL folds identifiers.
#[allow(missing_docs)] // each is the SQL command of its name
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    Begin(TxModes),
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    PrepareTransaction,
    CommitPrepared,
    RollbackPrepared,
    /// SELECT, VALUES, TABLE, WITH without a data-modifying part.
    Select {
        for_update: bool,
        into: bool,
    },
    Insert,
    Update,
    Delete,
    Merge,
    /// WITH and a data-modifying statement somewhere.
    WithDml,
    CopyFrom {
        stdin: bool,
    },
    CopyTo {
        stdout: bool,
    },
    Truncate,
    Lock,
    Set {
        local: bool,
        name: String,
    },
    Reset(String),
    Show,
    /// Its modes; none for SET TRANSACTION SNAPSHOT.
    SetTransaction(TxModes),
    SetSessionCharacteristics,
    SetConstraints,
    Discard(DiscardWhat),
    Prepare(String),
    Execute(String),
    Deallocate(Option<String>),
    Declare,
    Fetch,
    Move,
    ClosePortal,
    Listen,
    Unlisten,
    Notify,
    Explain {
        analyze: bool,
        inner: Box<Class>,
    },
    /// EXPLAIN (PGLOCKSTEP), which the proxy answers.
    ExplainPglockstep,
    /// SHOW of what the proxy knows.
    ShowProxy(super::show::Shown),
    Call,
    Do,
    /// PostgreSQL refuses it in a transaction block.
    NonTransactional,
    DropDatabase(String),
    /// CREATE TEMP TABLE and kin.
    CreateTemp,
    Ddl,
    Analyze,
    Checkpoint,
    Load,
    Cluster,
    Empty,
    /// Nothing that is known here.
    Other,
}

impl Class {
    /// BEGIN, COMMIT or ROLLBACK of a whole block.
    #[must_use]
    pub fn is_block_control(&self) -> bool {
        matches!(self, Class::Begin(_) | Class::Commit { .. } | Class::Rollback { .. })
    }
}

/// The tokens of a statement, with helpers for looking at keywords.
struct Words<'a> {
    sql: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Words<'a> {
    fn new(sql: &'a str, std_strings: bool) -> Words<'a> {
        let mut tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
        // A Parse may end in semicolons; a simple query's statements have been cut at them.
        while tokens.last().is_some_and(|t| t.is_char(b';')) {
            tokens.pop();
        }
        Words { sql, tokens }
    }

    fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is(self.sql, keyword))
    }

    fn is_char(&self, at: usize, c: u8) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is_char(c))
    }

    fn any(&self, at: usize, keywords: &[&str]) -> bool {
        keywords.iter().any(|k| self.is(at, k))
    }

    fn has(&self, keyword: &str) -> bool {
        self.tokens.iter().any(|t| t.is(self.sql, keyword))
    }

    fn pair(&self, first: &str, second: &[&str]) -> bool {
        (0..self.tokens.len()).any(|i| self.is(i, first) && self.any(i + 1, second))
    }

    fn name(&self, at: usize) -> Option<String> {
        folded(self.tokens.get(at)?, self.sql)
    }
}

/// What the statement is.
#[must_use]
pub fn classify(sql: &str, std_strings: bool) -> Class {
    let w = Words::new(sql, std_strings);
    if w.tokens.iter().any(|t| t.kind == Kind::Unterminated) {
        return Class::Other;
    }
    class_at(&w, 0)
}

fn class_at(w: &Words<'_>, at: usize) -> Class {
    let Some(first) = w.tokens.get(at) else { return Class::Empty };
    if first.is_char(b'(') {
        return select(w);
    }
    if first.kind != Kind::Word {
        return Class::Other;
    }
    match first.text(w.sql).to_ascii_lowercase().as_str() {
        "begin" | "start" => begin(w, at),
        "commit" if w.is(at + 1, "prepared") => Class::CommitPrepared,
        "commit" | "end" => ending(w, at).map_or(Class::Other, |chain| Class::Commit { chain }),
        "rollback" if w.is(at + 1, "prepared") => Class::RollbackPrepared,
        "rollback" | "abort" => rollback(w, at),
        "savepoint" => w.name(at + 1).map_or(Class::Other, Class::Savepoint),
        "release" => w.name(at + 1 + usize::from(w.is(at + 1, "savepoint"))).map_or(Class::Other, Class::Release),
        "select" | "values" | "table" => select(w),
        "with" if dml_words(w) => Class::WithDml,
        "with" => select(w),
        "insert" => Class::Insert,
        "update" => Class::Update,
        "delete" => Class::Delete,
        "merge" => Class::Merge,
        "copy" => copy(w, at),
        "truncate" => Class::Truncate,
        "lock" => Class::Lock,
        "set" => set(w, at),
        "reset" => Class::Reset(w.name(at + 1).unwrap_or_default()),
        "show" => super::show::shown(w.sql, &w.tokens[at..]).map_or(Class::Show, Class::ShowProxy),
        "discard" => discard(w, at),
        "prepare" if w.is(at + 1, "transaction") => Class::PrepareTransaction,
        "prepare" => w.name(at + 1).map_or(Class::Other, Class::Prepare),
        "execute" => w.name(at + 1).map_or(Class::Other, Class::Execute),
        "deallocate" => deallocate(w, at),
        "declare" => Class::Declare,
        "fetch" => Class::Fetch,
        "move" => Class::Move,
        "close" => Class::ClosePortal,
        "listen" => Class::Listen,
        "unlisten" => Class::Unlisten,
        "notify" => Class::Notify,
        "explain" => explain(w, at),
        "call" => Class::Call,
        "do" => Class::Do,
        "analyze" | "analyse" => Class::Analyze,
        "checkpoint" => Class::Checkpoint,
        "load" => Class::Load,
        "vacuum" => Class::NonTransactional,
        "cluster" if w.tokens.len() <= at + 1 => Class::NonTransactional,
        "cluster" => Class::Cluster,
        "create" | "alter" | "drop" | "reindex" => ddl(w, at),
        "comment" | "grant" | "revoke" | "refresh" | "security" | "import" | "reassign" => Class::Ddl,
        _ => Class::Other,
    }
}

fn dml_words(w: &Words<'_>) -> bool {
    ["insert", "update", "delete", "merge"].iter().any(|k| w.has(k)) && !only_locks(w)
}

/// The only UPDATE is that of FOR UPDATE.
fn only_locks(w: &Words<'_>) -> bool {
    let locks = |i: usize| w.is(i, "update") && i > 0 && (w.is(i - 1, "for") || w.is(i - 1, "key"));
    !["insert", "delete", "merge"].iter().any(|k| w.has(k))
        && (0..w.tokens.len()).all(|i| !w.is(i, "update") || locks(i))
}

/// A DECLARE makes a cursor that outlives its transaction.
#[must_use]
pub fn holds_cursor(sql: &str, std_strings: bool) -> bool {
    let w = Words::new(sql, std_strings);
    let query = (0..w.tokens.len()).find(|i| w.is(*i, "for")).unwrap_or(w.tokens.len());
    (1..query).any(|i| w.is(i, "hold") && w.is(i - 1, "with"))
}

fn select(w: &Words<'_>) -> Class {
    if w.pair("into", &["temp", "temporary"]) {
        return Class::CreateTemp;
    }
    Class::Select { for_update: w.pair("for", &["update", "share", "no", "key"]), into: w.has("into") }
}

fn begin(w: &Words<'_>, at: usize) -> Class {
    let mut i = at + 1;
    if w.is(at, "start") {
        if !w.is(i, "transaction") {
            return Class::Other;
        }
        i += 1;
    } else if w.any(i, &["work", "transaction"]) {
        i += 1;
    }
    modes(w, i).map_or(Class::Other, Class::Begin)
}

/// Transaction modes from there to the end; `None`: something else stands there.
fn modes(w: &Words<'_>, from: usize) -> Option<TxModes> {
    let mut i = from;
    let mut modes = TxModes::default();
    while i < w.tokens.len() {
        if w.tokens[i].is_char(b',') {
            i += 1;
        } else if w.is(i, "isolation") && w.is(i + 1, "level") {
            let (level, used) = match () {
                () if w.is(i + 2, "serializable") => (Isolation::Serializable, 3),
                () if w.is(i + 2, "repeatable") && w.is(i + 3, "read") => (Isolation::RepeatableRead, 4),
                () if w.is(i + 2, "read") && w.is(i + 3, "committed") => (Isolation::ReadCommitted, 4),
                () if w.is(i + 2, "read") && w.is(i + 3, "uncommitted") => (Isolation::ReadUncommitted, 4),
                () => return None,
            };
            modes.isolation = Some(level);
            i += used;
        } else if w.is(i, "read") && w.any(i + 1, &["only", "write"]) {
            modes.read_only = Some(w.is(i + 1, "only"));
            i += 2;
        } else if w.is(i, "deferrable") {
            modes.deferrable = Some(true);
            i += 1;
        } else if w.is(i, "not") && w.is(i + 1, "deferrable") {
            modes.deferrable = Some(false);
            i += 2;
        } else {
            return None;
        }
    }
    Some(modes)
}

/// What follows COMMIT or ROLLBACK: `Some(chain)`, or `None` if it is no such thing.
fn ending(w: &Words<'_>, at: usize) -> Option<bool> {
    let mut i = at + 1;
    if w.any(i, &["work", "transaction"]) {
        i += 1;
    }
    if i == w.tokens.len() {
        return Some(false);
    }
    if !w.is(i, "and") {
        return None;
    }
    let no = usize::from(w.is(i + 1, "no"));
    (w.is(i + 1 + no, "chain") && i + 2 + no == w.tokens.len()).then_some(no == 0)
}

fn rollback(w: &Words<'_>, at: usize) -> Class {
    let i = at + 1 + usize::from(w.any(at + 1, &["work", "transaction"]));
    if w.is(i, "to") {
        let i = i + 1 + usize::from(w.is(i + 1, "savepoint"));
        return w.name(i).map_or(Class::Other, Class::RollbackTo);
    }
    ending(w, at).map_or(Class::Other, |chain| Class::Rollback { chain })
}

fn copy(w: &Words<'_>, at: usize) -> Class {
    let mut depth = 0;
    for i in at + 1..w.tokens.len() {
        match w.tokens[i].kind {
            Kind::Punctuation(b'(') => depth += 1,
            Kind::Punctuation(b')') => depth -= 1,
            _ if depth > 0 => {}
            _ if w.is(i, "from") => return Class::CopyFrom { stdin: w.is(i + 1, "stdin") },
            _ if w.is(i, "to") => return Class::CopyTo { stdout: w.is(i + 1, "stdout") },
            _ => {}
        }
    }
    Class::Other
}

fn set(w: &Words<'_>, at: usize) -> Class {
    let mut i = at + 1;
    let mut local = false;
    if w.is(i, "constraints") {
        return Class::SetConstraints;
    }
    if w.is(i, "transaction") {
        return Class::SetTransaction(modes(w, i + 1).unwrap_or_default());
    }
    if w.is(i, "session") && w.is(i + 1, "characteristics") {
        return Class::SetSessionCharacteristics;
    }
    if w.any(i, &["local", "session"]) && !w.is(i + 1, "to") {
        local = w.is(i, "local");
        if !(w.is(i, "session") && w.is(i + 1, "authorization")) {
            i += 1;
        }
    }
    let name = match () {
        () if w.is(i, "time") && w.is(i + 1, "zone") => "timezone".to_owned(),
        () if w.is(i, "session") && w.is(i + 1, "authorization") => "session_authorization".to_owned(),
        () if w.is(i, "names") => "client_encoding".to_owned(),
        () => {
            let mut name = w.name(i).unwrap_or_default();
            while w.tokens.get(i + 1).is_some_and(|t| t.is_char(b'.')) {
                name.push('.');
                name.push_str(&w.name(i + 2).unwrap_or_default());
                i += 2;
            }
            name
        }
    };
    Class::Set { local, name: name.to_lowercase() }
}

fn discard(w: &Words<'_>, at: usize) -> Class {
    match () {
        () if w.is(at + 1, "all") => Class::Discard(DiscardWhat::All),
        () if w.is(at + 1, "plans") => Class::Discard(DiscardWhat::Plans),
        () if w.any(at + 1, &["temp", "temporary"]) => Class::Discard(DiscardWhat::Temp),
        () if w.is(at + 1, "sequences") => Class::Discard(DiscardWhat::Sequences),
        () => Class::Other,
    }
}

fn deallocate(w: &Words<'_>, at: usize) -> Class {
    let i = at + 1 + usize::from(w.is(at + 1, "prepare"));
    if w.is(i, "all") {
        return Class::Deallocate(None);
    }
    w.name(i).map_or(Class::Other, |n| Class::Deallocate(Some(n)))
}

fn explain(w: &Words<'_>, at: usize) -> Class {
    if at == 0 && super::explain::asks(w.sql, &w.tokens) {
        return Class::ExplainPglockstep;
    }
    let mut i = at + 1;
    let mut analyze = false;
    if w.tokens.get(i).is_some_and(|t| t.is_char(b'(')) {
        while i < w.tokens.len() && !w.tokens[i].is_char(b')') {
            // Whatever its value: ANALYZE off is rare, and an EXPLAIN on main costs nothing.
            analyze |= w.any(i, &["analyze", "analyse"]);
            i += 1;
        }
        i += 1;
    } else {
        while w.any(i, &["analyze", "analyse", "verbose"]) {
            analyze |= !w.is(i, "verbose");
            i += 1;
        }
    }
    // EXPLAIN of an EXPLAIN is none (ExplainableStmt in gram.y), and a text of nothing else would never end.
    let inner = if w.is(i, "explain") { Class::Other } else { class_at(w, i) };
    Class::Explain { analyze, inner: Box::new(inner) }
}

fn ddl(w: &Words<'_>, at: usize) -> Class {
    let drop = w.is(at, "drop");
    if drop && w.is(at + 1, "database") {
        let i = at + 2 + if w.is(at + 2, "if") { 2 } else { 0 };
        return w.name(i).map_or(Class::NonTransactional, Class::DropDatabase);
    }
    let concurrently = w.tokens.iter().take(at + 6).any(|t| t.is(w.sql, "concurrently"));
    let system =
        w.is(at, "reindex") && w.tokens.iter().take(at + 8).any(|t| t.is(w.sql, "database") || t.is(w.sql, "system"));
    if (concurrently && !w.is(at, "refresh"))
        || system
        || w.any(at + 1, &["database", "tablespace", "subscription", "system"]) && !alter_in_block(w, at)
    {
        return Class::NonTransactional;
    }
    if w.is(at, "create") && is_temporary(w, at) {
        return Class::CreateTemp;
    }
    Class::Ddl
}

/// ALTER DATABASE (but for SET TABLESPACE), ALTER TABLESPACE and ALTER SUBSCRIPTION may stand in a block.
fn alter_in_block(w: &Words<'_>, at: usize) -> bool {
    w.is(at, "alter")
        && (w.is(at + 1, "database") && !w.pair("set", &["tablespace"])
            || w.is(at + 1, "tablespace")
            || w.is(at + 1, "subscription") && !w.has("refresh") && !w.has("publication"))
}

fn is_temporary(w: &Words<'_>, at: usize) -> bool {
    let i = at + 1 + if w.is(at + 1, "or") { 2 } else { 0 };
    let i = i + usize::from(w.any(i, &["global", "local"]));
    w.any(i, &["temp", "temporary"]) || w.tokens.iter().take(at + 8).any(|t| t.is(w.sql, "pg_temp"))
}

/// A statement of this class that fills rows uses time functions at once; one that defines something (a default, a view,
/// a function) keeps them, and they must stay as they are.
#[must_use]
pub fn uses_time_at_once(sql: &str, std_strings: bool, class: &Class) -> bool {
    match class {
        Class::Ddl => {
            let w = Words::new(sql, std_strings);
            let fills = |i: usize| w.any(i, &["select", "with", "values", "table", "execute"]) || w.is_char(i, b'(');
            let table = w.is(0, "create") && (w.is(1, "table") || w.is(1, "unlogged"));
            table && (0..w.tokens.len()).any(|i| w.is(i, "as") && fills(i + 1)) && !w.has("generated")
        }
        Class::NonTransactional | Class::CreateTemp | Class::DropDatabase(_) => false,
        _ => true,
    }
}

/// UPDATE or DELETE ... WHERE CURRENT OF a cursor.
#[must_use]
pub fn is_positioned(sql: &str, std_strings: bool) -> bool {
    Words::new(sql, std_strings).pair("current", &["of"])
}

/// The statement makes a relation of the name that [`written_relation`] gives (an index is made on one).
#[must_use]
pub fn creates_relation(sql: &str, std_strings: bool) -> bool {
    let w = Words::new(sql, std_strings);
    w.is(0, "create") && !w.has("index")
}

/// The relation that a statement writes, creates, alters or drops, without its schema; `None` if that is not plain.
#[must_use]
pub fn written_relation(sql: &str, std_strings: bool) -> Option<String> {
    let w = Words::new(sql, std_strings);
    let mut i = 0;
    let skip: &[&str] = &[
        "insert",
        "into",
        "update",
        "delete",
        "from",
        "only",
        "truncate",
        "table",
        "copy",
        "create",
        "alter",
        "drop",
        "temp",
        "temporary",
        "local",
        "global",
        "unlogged",
        "if",
        "not",
        "exists",
        "view",
        "sequence",
        "merge",
        "or",
        "replace",
        "analyze",
        "index",
        "unique",
        "on",
    ];
    while w.any(i, skip) {
        i += 1;
    }
    if w.is(0, "create") && (w.has("index")) {
        // CREATE INDEX name ON table.
        i = (0..w.tokens.len()).find(|&k| w.is(k, "on"))? + 1;
    }
    let mut name = w.name(i)?;
    while w.tokens.get(i + 1).is_some_and(|t| t.is_char(b'.')) {
        name = w.name(i + 2)?;
        i += 2;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(sql: &str) -> Class {
        classify(sql, true)
    }

    #[test]
    fn transaction_control_is_recognised_with_its_modes() {
        assert_eq!(c("BEGIN"), Class::Begin(TxModes::default()));
        assert_eq!(c("BEGIN;"), Class::Begin(TxModes::default()));
        assert_eq!(c("COMMIT ; ;"), Class::Commit { chain: false });
        assert_eq!(c(";"), Class::Empty);
        let modes = TxModes { isolation: Some(Isolation::RepeatableRead), read_only: Some(true), deferrable: None };
        assert_eq!(c("start transaction isolation level repeatable read, read only"), Class::Begin(modes));
        assert_eq!(c("begin foo"), Class::Other);
        assert_eq!(c("END"), Class::Commit { chain: false });
        assert_eq!(c("commit and chain"), Class::Commit { chain: true });
        assert_eq!(c("rollback work and no chain"), Class::Rollback { chain: false });
        assert_eq!(c("rollback to savepoint \"S\""), Class::RollbackTo("S".into()));
        assert_eq!(c("release s"), Class::Release("s".into()));
        assert_eq!(c("commit prepared 'x'"), Class::CommitPrepared);
    }

    #[test]
    fn reads_and_writes_are_told_apart_by_their_words() {
        assert_eq!(c("/* hint */ (select 1)"), Class::Select { for_update: false, into: false });
        assert_eq!(c("select * from t for no key update"), Class::Select { for_update: true, into: false });
        assert_eq!(c("with x as (delete from t returning *) select * from x"), Class::WithDml);
        assert_eq!(
            c("with x as (select 1) select * from x for update"),
            Class::Select { for_update: true, into: false }
        );
        assert_eq!(c("copy t (a, b) from stdin with (freeze on)"), Class::CopyFrom { stdin: true });
        assert_eq!(c("copy (select 1 from t) to stdout"), Class::CopyTo { stdout: true });
        assert_eq!(
            c(&"explain analyze ".repeat(100_000)),
            Class::Explain { analyze: true, inner: Box::new(Class::Other) }
        );
        assert_eq!(
            c("explain (analyze, buffers) insert into t values (1)"),
            Class::Explain { analyze: true, inner: Box::new(Class::Insert) }
        );
        assert_eq!(c("select 'unterminated"), Class::Other);
    }

    #[test]
    fn what_postgresql_refuses_in_a_block_is_known() {
        for sql in [
            "vacuum analyze t",
            "create database d",
            "alter system set x = 1",
            "create index concurrently i on t(a)",
            "reindex table concurrently t",
            "create tablespace s location '/x'",
            "cluster",
            "reindex database d",
        ] {
            assert_eq!(c(sql), Class::NonTransactional, "{sql}");
        }
        assert_eq!(c("drop database if exists D"), Class::DropDatabase("d".into()));
        for sql in ["alter database d set x = 1", "create index i on t(a)", "create table t(a int)", "drop table t"] {
            assert_eq!(c(sql), Class::Ddl, "{sql}");
        }
        assert_eq!(c("create temp table t(a int)"), Class::CreateTemp);
        assert_eq!(c("select 1 into temp t"), Class::CreateTemp);
        assert_eq!(c("create or replace temporary view v as select 1"), Class::CreateTemp);
    }

    #[test]
    fn a_definition_keeps_its_time_functions_and_what_fills_rows_uses_them() {
        let at_once = |sql: &str| uses_time_at_once(sql, true, &c(sql));
        for sql in [
            "insert into t values (now())",
            "create table t as select now()",
            "create unlogged table t as (select now())",
            "select f(now())",
            "select now() into t",
        ] {
            assert!(at_once(sql), "{sql}");
        }
        for sql in [
            "create table t (a timestamptz default now())",
            "alter table t alter a set default now()",
            "create view v as select now()",
            "create function f() returns timestamptz begin atomic select now(); end",
            "create table t (a date generated always as (current_date) stored)",
            "create index i on t (a) where a > now()",
        ] {
            assert!(!at_once(sql), "{sql}");
        }
    }

    #[test]
    fn a_cursor_with_hold_is_told_from_others() {
        assert!(holds_cursor("declare c scroll cursor with hold for select 1", true));
        assert!(!holds_cursor("declare c cursor without hold for select 1 for update", true));
        assert!(!holds_cursor("declare c cursor for select 1 as with, hold", true));
    }

    #[test]
    fn settings_are_named() {
        assert_eq!(c("set local Search_Path to x"), Class::Set { local: true, name: "search_path".into() });
        assert_eq!(c("set session authorization u"), Class::Set { local: false, name: "session_authorization".into() });
        assert_eq!(c("set app.tenant = '1'"), Class::Set { local: false, name: "app.tenant".into() });
        assert_eq!(c("set time zone 'UTC'"), Class::Set { local: false, name: "timezone".into() });
        assert_eq!(
            c("set transaction read only"),
            Class::SetTransaction(TxModes { read_only: Some(true), ..TxModes::default() })
        );
    }

    #[test]
    fn the_written_relation_is_found() {
        for sql in [
            "insert into s.T (a) values (1)",
            "update only t set a = 1",
            "delete from t where x",
            "truncate table t",
            "copy t from stdin",
            "create temp table if not exists t(a int)",
            "drop table if exists t",
            "create unique index on t (a)",
        ] {
            assert_eq!(written_relation(sql, true).as_deref(), Some("t"), "{sql}");
        }
    }
}
