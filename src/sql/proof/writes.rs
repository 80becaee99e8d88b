//! How a write reaches the replicas (design, section 3): as the statement that it is, or as the rows that it made.
//!
//! A *keyed* statement does the same wherever it runs: it names one row of a plain table by literals or parameters for
//! its whole primary key, or inserts explicit values, and everything that it computes is immutable. Main's lock on that
//! row, and the count, see to the rest.
//!
//! Any other write of a plain table is sent to main with its rows asked for (RETURNING), and replicas get these: inserted
//! rows with all their values, changed ones with the columns that were set, deleted ones by key. So what serial columns,
//! random(), clocks, physical order or another snapshot made of the statement is main's doing alone.
//!
//! Everything else that writes rows goes by the transaction's image in main's WAL: tables with triggers or rules,
//! statements that call functions of which nobody knows what they write, keys that change. Not so what no image tells of,
//! or no replica could find: statements of PostgreSQL's own functions alone (sequences, large objects), TRUNCATE, changes
//! of tables without a replica identity; these go as they are.
//!
//! What is decided here holds for all statements of one shape: the text of a literal does not matter, only that there is
//! one. RETURNING stands last in all three statements, so what is asked for is appended to the text.

mod judged;

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::catalogue::Catalogue;
use super::keys::Keyed;
use super::tables::{Column, Default, Sequence, Table};
use super::tokens::Tokens;
use crate::sql::reason::Reason;

pub use judged::Judged;
pub(super) use judged::judged;

/// How a write reaches the replicas.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Form {
    /// Nothing is proved: as the statement that it is.
    #[default]
    AsItIs,
    /// One row by its key, or explicit values.
    Keyed,
    /// By the rows that main tells of.
    Rows(Arc<Rows>),
    /// By what main's WAL says of the transaction; why nothing less serves.
    Image(Reason),
}

/// What is done with a row that main has told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Inserted (or, behind ON CONFLICT DO UPDATE, made to be so).
    Insert,
    /// Changed.
    Update,
    /// Deleted.
    Delete,
}

/// A write of a plain table, whose rows main is asked for.
#[derive(Debug)]
pub struct Rows {
    /// Behind the statement's last word: what asks for them.
    pub returning: String,
    /// The client asks for rows itself: what is asked for follows in the same list.
    pub returns: bool,
    /// Columns that are asked for.
    pub columns: usize,
    /// In binary some of them carry what is each node's own.
    pub text_only: bool,
    /// The text of some of them depends on `extra_float_digits`.
    pub floats: bool,
    /// Some may be intervals, whose text means one thing in one `IntervalStyle` and another in another.
    pub intervals: bool,
    /// What replicas do with each row. Its parameters are the columns asked for, in order.
    pub statement: Bytes,
    /// For many inserted rows: COPY FROM STDIN of the columns asked for.
    pub copy: Option<Bytes>,
    /// What it does.
    pub change: Change,
    /// Sequences that inserted values came from.
    pub sequences: Vec<Follow>,
    /// Which of the columns asked for are the key, and of what table; `None`: nobody can say which rows it writes.
    pub row: Option<(Keyed, Vec<usize>)>,
    /// Nobody reads rows of this table by their key alone.
    pub unread: bool,
    /// Roles that may read what is asked for and do on a replica what becomes of it; any other's would be refused.
    pub roles: Arc<std::collections::HashSet<String>>,
}

/// A sequence that replicas take along with what main has inserted.
#[derive(PartialEq, Debug)]
pub struct Follow {
    /// Which of the columns asked for.
    pub column: usize,
    /// It counts downwards: the least value is the last one.
    pub down: bool,
    /// Takes the sequence up to its parameter (bigint).
    pub statement: Bytes,
}

/// Numbers that a sequence is taken along by one statement, at most.
const FOLLOWED_MAX: u32 = 100_000;

impl Follow {
    fn new(column: usize, sequence: &Sequence) -> Follow {
        let Sequence { name, increment, start } = sequence;
        Follow { column, down: *increment < 0, statement: follow(name, *increment, *start) }
    }
}

/// The same is asked for, and the same becomes of it. Who may do so is another matter: a replica judges that itself.
impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        let Rows { returning, returns, columns, text_only, floats, intervals, .. } = self;
        let Rows { statement, copy, change, sequences, .. } = self;
        (returning, returns, columns, text_only) == (&other.returning, &other.returns, &other.columns, &other.text_only)
            && (floats, intervals) == (&other.floats, &other.intervals)
            && (statement, copy, change) == (&other.statement, &other.copy, &other.change)
            && sequences == &other.sequences
    }
}

/// What takes a sequence (its name with its schema, quoted where need be) up to its parameter, a bigint: by as many calls
/// of nextval() as are missing. It needs no more privileges than main's own call did (setval() does), and where the role
/// has none (GENERATED AS IDENTITY asks for none) the sequence stays.
#[must_use]
pub fn follow(name: &str, increment: i64, start: i64) -> Bytes {
    let regclass = format!("'{}'::pg_catalog.regclass", name.replace('\'', "''"));
    let statement = format!(
        "SELECT CASE WHEN pg_catalog.has_sequence_privilege({regclass}, 'USAGE') THEN (SELECT \
         pg_catalog.count(pg_catalog.nextval({regclass})) FROM (SELECT FROM pg_catalog.generate_series(\
         COALESCE(pg_catalog.pg_sequence_last_value({regclass}) OPERATOR(pg_catalog.+) ({increment})::pg_catalog.int8, \
         ({start})::pg_catalog.int8), $1, ({increment})::pg_catalog.int8) LIMIT {FOLLOWED_MAX}) missing) END"
    );
    Bytes::from(statement)
}

impl Rows {
    /// The statement as main gets it.
    #[must_use]
    pub fn asked(&self, sql: &[u8], end: usize) -> Bytes {
        let mut out = Vec::with_capacity(end + self.returning.len());
        out.extend_from_slice(&sql[..end]);
        out.extend_from_slice(self.returning.as_bytes());
        Bytes::from(out)
    }
}

/// Behind ON CONFLICT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Conflict {
    Nothing,
    Update,
}

/// Where a statement's parts stand, by token.
#[derive(Debug)]
pub(super) struct Write {
    schema: Option<String>,
    table: String,
    /// What its columns may be qualified by.
    alias: String,
    change: Change,
    /// INSERT: the columns that are named; `None`: all, in order.
    named: Option<Vec<String>>,
    /// INSERT: number of rows of its VALUES; 0: it has none, or a subquery.
    values: usize,
    conflict: Option<Conflict>,
    /// UPDATE: columns that are set; `None`: they could not be told.
    set: Option<Vec<String>>,
    /// Token behind WHERE, and the end of the condition.
    condition: Option<(usize, usize)>,
    /// Another table takes part (FROM, USING).
    joins: bool,
    returns: bool,
    /// INSERT: a column that is named may get its default all the same, or its sequence's next number.
    draws: bool,
}

/// `[schema .] name`, and the token behind it.
pub(super) fn name(t: &Tokens<'_>, at: usize) -> Option<(Option<String>, String, usize)> {
    let first = t.plain_name(at)?;
    if t.is_char(at + 1, b'.') {
        return Some((Some(first), t.plain_name(at + 2)?, at + 3));
    }
    Some((None, first, at + 1))
}

fn insert(t: &Tokens<'_>) -> Option<Write> {
    if !t.is(0, "insert") || !t.is(1, "into") {
        return None;
    }
    let (schema, table, mut at) = name(t, 2)?;
    let mut alias = table.clone();
    if t.is(at, "as") {
        alias = t.plain_name(at + 1)?;
        at += 2;
    }
    let mut named = None;
    if t.is_char(at, b'(') && !t.any(at + 1, &["select", "with", "values", "table"]) && !t.is_char(at + 1, b'(') {
        let close = t.closing(at)?;
        named = Some(list(t, at + 1, close)?);
        at = close + 1;
    }
    if t.is(at, "overriding") {
        at += 3;
    }
    let returning = t.at_top("returning", at);
    let end = returning.unwrap_or(t.len());
    let mut values = 0;
    let mut conflict = None;
    if t.is(at, "values") {
        at += 1;
        while t.is_char(at, b'(') {
            values += 1;
            at = t.closing(at)? + 1;
            if !t.is_char(at, b',') {
                break;
            }
            at += 1;
        }
    }
    if let Some(on) = (at..end).find(|&i| t.is(i, "on") && t.is(i + 1, "conflict") && t.depth(i) == 0) {
        let does = (on..end).find(|&i| t.is(i, "do") && t.depth(i) == 0)?;
        conflict = Some(if t.is(does + 1, "nothing") { Conflict::Nothing } else { Conflict::Update });
        // Anything else behind VALUES is no part of them that is known here.
        values = if at == on { values } else { 0 };
    } else if at != end {
        values = 0;
    }
    let returns = returning.is_some();
    let (change, set, condition, joins) = (Change::Insert, None, None, false);
    let draws = t.has("default") || t.has("nextval") || (named.is_none() && values == 0);
    Some(Write { draws, schema, table, alias, change, named, values, conflict, set, condition, joins, returns })
}

fn update(t: &Tokens<'_>) -> Option<Write> {
    if !t.is(0, "update") {
        return None;
    }
    let (schema, table, alias, at) = target(t, 1, "set")?;
    let returning = t.at_top("returning", at);
    let end = returning.unwrap_or(t.len());
    let condition = t.at_top("where", at).filter(|w| *w < end).map(|w| (w + 1, end));
    let assigned = condition.map_or(end, |(w, _)| w - 1);
    // Of IS DISTINCT FROM too: no harm.
    let from = t.at_top("from", at).filter(|f| *f < assigned);
    let set = assignments(t, at + 1, from.unwrap_or(assigned));
    let (joins, returns) = (from.is_some(), returning.is_some());
    let (change, named, values, conflict) = (Change::Update, None, 0, None);
    Some(Write { draws: false, schema, table, alias, change, named, values, conflict, set, condition, joins, returns })
}

fn delete(t: &Tokens<'_>) -> Option<Write> {
    if !t.is(0, "delete") || !t.is(1, "from") {
        return None;
    }
    let (schema, table, alias, at) = target(t, 2, "where")?;
    let returning = t.at_top("returning", at);
    let end = returning.unwrap_or(t.len());
    let condition = t.at_top("where", at).filter(|w| *w < end).map(|w| (w + 1, end));
    let joins = t.at_top("using", at).is_some();
    let (change, named, values, conflict, set) = (Change::Delete, None, 0, None, None);
    let returns = returning.is_some();
    Some(Write { draws: false, schema, table, alias, change, named, values, conflict, set, condition, joins, returns })
}

/// `[ONLY] name [*] [[AS] alias]` in front of this keyword (or RETURNING, USING, the end).
fn target(t: &Tokens<'_>, at: usize, keyword: &str) -> Option<(Option<String>, String, String, usize)> {
    let at = at + usize::from(t.is(at, "only"));
    let (schema, table, mut at) = name(t, at)?;
    at += usize::from(t.is_operator(at, "*"));
    let mut alias = table.clone();
    if t.is(at, "as") {
        alias = t.plain_name(at + 1)?;
        at += 2;
    } else if at < t.len() && !t.any(at, &[keyword, "returning", "using", "set", "where"]) {
        alias = t.plain_name(at)?;
        at += 1;
    }
    let fits = t.is(at, keyword) || (keyword == "where" && (at == t.len() || t.any(at, &["returning", "using"])));
    fits.then_some((schema, table, alias, at))
}

/// Names with commas between.
fn list(t: &Tokens<'_>, from: usize, to: usize) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = from;
    while at < to {
        names.push(t.plain_name(at)?);
        at += 1;
        if at < to {
            // A part of a column (`c[1]`, `c.f`) is none of these.
            if !t.is_char(at, b',') {
                return None;
            }
            at += 1;
        }
    }
    Some(names)
}

/// Columns that a SET list sets.
fn assignments(t: &Tokens<'_>, from: usize, to: usize) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = from;
    while at < to {
        if t.is_char(at, b'(') {
            let close = t.closing(at)?;
            names.extend(list(t, at + 1, close)?);
        } else {
            names.push(t.plain_name(at)?);
        }
        // Up to the next comma outside of parentheses and brackets.
        let mut depth = 0usize;
        while at < to {
            match t.char_at(at) {
                Some(b'(' | b'[') => depth += 1,
                Some(b')' | b']') => depth = depth.checked_sub(1)?,
                Some(b',') if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        at += 1;
    }
    Some(names)
}

impl Write {
    /// It does the same wherever it runs.
    ///
    /// # Errors
    /// The first thing that is not proved.
    fn is_keyed(&self, table: &Table, t: &Tokens<'_>, catalogue: &Catalogue, time: bool) -> Result<(), Reason> {
        t.is_fixed_write(catalogue, time)?;
        match self.change {
            Change::Insert if self.values == 0 => Err(Reason::NoValues),
            Change::Insert if self.conflict.is_some() && self.values > 1 => Err(Reason::SeveralRows),
            Change::Insert => self.gives_all(table, t),
            Change::Update | Change::Delete if self.joins => Err(Reason::Joins),
            Change::Update | Change::Delete if table.key.is_empty() => Err(Reason::NoKey(self.table.clone())),
            Change::Update | Change::Delete => {
                let (from, to) = self.condition.ok_or(Reason::NoCondition)?;
                names_key(&self.alias, table, t, from, to).map(drop)
            }
        }
    }

    /// No column is left to a default that varies.
    fn gives_all(&self, table: &Table, t: &Tokens<'_>) -> Result<(), Reason> {
        let given = |c: &str| self.named.as_ref().is_some_and(|n| n.iter().any(|name| name == c));
        let mut varies = table.columns.iter().filter(|c| !c.generated && c.default != Default::Fixed).peekable();
        if varies.peek().is_some() && t.has("default") {
            return Err(Reason::DefaultWord);
        }
        match varies.find(|c| !given(&c.name)) {
            None => Ok(()),
            Some(c) => Err(Reason::Default(c.name.clone(), c.why())),
        }
    }

    /// It is an INSERT.
    pub(super) fn inserts(&self) -> bool {
        self.change == Change::Insert
    }

    /// Tokens that are the key's values, for each row that a keyed write names. `None`: it may write another.
    pub(super) fn rows_named(&self, table: &Table, t: &Tokens<'_>) -> Option<Vec<Vec<usize>>> {
        match self.change {
            Change::Insert if self.conflict == Some(Conflict::Update) => None,
            Change::Insert => self.rows_given(table, t),
            Change::Update | Change::Delete => {
                let is_key = |name: &String| table.key.iter().any(|k| table.columns[*k].name == *name);
                if self.change == Change::Update && self.set.as_ref().is_none_or(|set| set.iter().any(is_key)) {
                    return None;
                }
                let (from, to) = self.condition?;
                Some(vec![names_key(&self.alias, table, t, from, to).ok()?])
            }
        }
    }

    /// The same of an INSERT's VALUES.
    fn rows_given(&self, table: &Table, t: &Tokens<'_>) -> Option<Vec<Vec<usize>>> {
        let place = |k: &usize| {
            let column = &table.columns[*k].name;
            self.named.as_ref().map_or(Some(*k), |n| n.iter().position(|name| name == column))
        };
        let places = table.key.iter().map(place).collect::<Option<Vec<usize>>>()?;
        let mut at = t.at_top("values", 0)? + 1;
        let mut rows = Vec::new();
        for _ in 0..self.values {
            let close = t.closing(at)?;
            // Where each value begins, and behind the last.
            let commas = (at + 1..close).filter(|i| t.is_char(*i, b',') && t.depth(*i) == t.depth(at) + 1);
            let mut starts: Vec<usize> = std::iter::once(at + 1).chain(commas.map(|i| i + 1)).collect();
            starts.push(close + 1);
            let single = |p: &usize| {
                let (start, next) = (*starts.get(*p)?, *starts.get(p + 1)?);
                (next == start + 2 && t.is_literal(start)).then_some(start)
            };
            rows.push(places.iter().map(single).collect::<Option<Vec<usize>>>()?);
            at = close + 2;
        }
        Some(rows)
    }

    /// Tokens that are the key's values in the condition of a query.
    pub(super) fn looks_at(table: &Table, alias: String, t: &Tokens<'_>, from: usize, to: usize) -> Option<Vec<usize>> {
        names_key(&alias, table, t, from, to).ok()
    }

    /// Who may. What is set by an UPDATE the role has been seen to set on main.
    fn roles(&self, table: &Table) -> std::collections::HashSet<String> {
        let inserts = self.change == Change::Insert;
        let may = |role: &&String| {
            (!inserts || table.inserters.contains(*role))
                && (!(inserts && self.conflict == Some(Conflict::Update)) || table.updaters.contains(*role))
        };
        table.readers.iter().filter(may).cloned().collect()
    }

    /// What main is asked for, and what replicas do with it.
    ///
    /// # Errors
    /// Why rows do not serve.
    fn rows(&self, table: &Table) -> Result<Rows, Reason> {
        let is_key = |c: &str| table.key.iter().any(|k| table.columns[*k].name == c);
        let given: Vec<usize> = (0..table.columns.len()).filter(|i| !table.columns[*i].generated).collect();
        let named = |c: &str| self.named.as_ref().is_some_and(|n| n.iter().any(|name| name == c));
        // What is named and given a value has no default evaluated.
        let takes_default = |c: &Column| self.draws || !named(&c.name);
        let asked: Vec<usize> = match self.change {
            Change::Insert => match table.columns.iter().find(|c| c.default == Default::Unknown && takes_default(c)) {
                Some(c) => return Err(Reason::DoubtfulDefault(c.name.clone(), c.why())),
                None => given.clone(),
            },
            Change::Delete => table.key.clone(),
            Change::Update => {
                let set = match &self.set {
                    Some(names) => names.iter().map(|n| table.columns.iter().position(|c| c.name == *n)).collect(),
                    None => Some(given.clone()),
                };
                let mut set: Vec<usize> = set.ok_or(Reason::Parts)?;
                set.retain(|i| !table.columns[*i].generated);
                set.sort_unstable();
                set.dedup();
                let column = |i: &usize| &table.columns[*i];
                if set.is_empty() {
                    return Err(Reason::NothingToAsk);
                }
                if let Some(c) = set.iter().map(column).find(|c| is_key(&c.name)) {
                    return Err(Reason::KeyChanges(c.name.clone()));
                }
                if let Some(c) = set.iter().map(column).find(|c| c.always) {
                    return Err(Reason::Always(c.name.clone()));
                }
                set.into_iter().chain(table.key.iter().copied()).collect()
            }
        };
        let by_key = self.change != Change::Insert || self.conflict == Some(Conflict::Update);
        if by_key && table.key.is_empty() {
            return Err(Reason::NoKey(self.table.clone()));
        }
        if asked.is_empty() {
            return Err(Reason::NothingToAsk);
        }
        let names: Vec<String> = asked.iter().map(|i| quoted(&table.columns[*i].name)).collect();
        let mut returning = String::from(if self.returns { ", " } else { " RETURNING " });
        for (n, name) in names.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let _ = write!(returning, "{comma}{}.{name}", quoted(&self.alias));
        }
        let target = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
        let (mut statement, mut copy) = (String::new(), None);
        let equal = |from: usize, columns: &[String], between: &str| {
            let each = columns.iter().enumerate().map(|(i, c)| format!("{c} = ${}", from + i));
            each.collect::<Vec<_>>().join(between)
        };
        let values = names.len() - if self.change == Change::Update { table.key.len() } else { 0 };
        match self.change {
            Change::Insert => {
                let list = names.join(", ");
                let parameters: Vec<String> = (1..=names.len()).map(|i| format!("${i}")).collect();
                let _ = write!(
                    statement,
                    "INSERT INTO {target} ({list}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    parameters.join(", ")
                );
                if self.conflict == Some(Conflict::Update) {
                    let key: Vec<String> = table.key.iter().map(|k| quoted(&table.columns[*k].name)).collect();
                    let set: Vec<String> = names.iter().map(|n| format!("{n} = EXCLUDED.{n}")).collect();
                    let _ = write!(statement, " ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), set.join(", "));
                    if let Some(i) = asked.iter().find(|i| table.columns[**i].always) {
                        return Err(Reason::Always(table.columns[*i].name.clone()));
                    }
                } else {
                    copy = Some(Bytes::from(format!("COPY {target} ({list}) FROM STDIN")));
                }
            }
            Change::Update => {
                let (set, key) = names.split_at(values);
                let _ = write!(
                    statement,
                    "UPDATE {target} SET {} WHERE {}",
                    equal(1, set, ", "),
                    equal(values + 1, key, " AND ")
                );
            }
            Change::Delete => {
                let _ = write!(statement, "DELETE FROM {target} WHERE {}", equal(1, &names, " AND "));
            }
        }
        let follows = |(at, i): (usize, &usize)| {
            let column = &table.columns[*i];
            let draws = self.change == Change::Insert && takes_default(column);
            column.sequence.as_ref().filter(|_| draws).map(|s| Follow::new(at, s))
        };
        let sequences = asked.iter().enumerate().filter_map(follows).collect();
        let acted = table.acted && self.change != Change::Insert;
        let keyed = Keyed::of(table).filter(|_| !acted && self.conflict != Some(Conflict::Update));
        // Behind the columns that are set, too, if there are any.
        let places = table.key.iter().map(|k| asked.iter().rposition(|i| i == k)).collect::<Option<Vec<usize>>>();
        Ok(Rows {
            row: keyed.zip(places),
            unread: !acted && Keyed::of(table).is_none(),
            sequences,
            returning,
            returns: self.returns,
            columns: names.len(),
            text_only: asked.iter().any(|i| table.columns[*i].carries_oids),
            floats: asked.iter().any(|i| table.columns[*i].floats),
            intervals: asked.iter().any(|i| table.columns[*i].intervals),
            statement: Bytes::from(statement),
            copy,
            change: self.change,
            roles: Arc::new(self.roles(table)),
        })
    }
}

/// The condition names each column of the key by equality with a literal or a parameter, and whatever else it says only takes
/// rows away. The tokens that are these values, in the key's order.
fn names_key(alias: &str, table: &Table, t: &Tokens<'_>, from: usize, to: usize) -> Result<Vec<usize>, Reason> {
    const WORDS: [&str; 4] = ["or", "between", "case", "current"];
    if let Some(word) = (from..to).find_map(|i| WORDS.iter().find(|w| t.is(i, w))) {
        return Err(Reason::Condition((*word).to_owned()));
    }
    let mut found = vec![None; table.key.len()];
    let mut start = from;
    for i in from..=to {
        if i < to && !(t.is(i, "and") && t.depth(i) == 0) {
            continue;
        }
        if let Some((column, literal)) = equality(alias, t, start, i) {
            let place = table.key.iter().position(|k| table.columns[*k].name == column);
            place.into_iter().for_each(|p| found[p] = Some(literal));
        }
        start = i + 1;
    }
    let missing = table.key.iter().zip(&found).filter(|(_, found)| found.is_none());
    let missing: Vec<String> = missing.map(|(k, _)| table.columns[*k].name.clone()).collect();
    if missing.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(Reason::KeyNotNamed(missing)) }
}

/// `[alias .] column = literal`, in either order: the column, and the literal's token.
fn equality(alias: &str, t: &Tokens<'_>, from: usize, to: usize) -> Option<(String, usize)> {
    let column = |from: usize, to: usize| match to.checked_sub(from)? {
        1 => t.plain_name(from),
        3 if t.is_char(from + 1, b'.') && t.plain_name(from)? == alias => t.plain_name(from + 2),
        _ => None,
    };
    if to >= from + 3 && t.is_operator(to - 2, "=") && t.is_literal(to - 1) {
        return Some((column(from, to - 2)?, to - 1));
    }
    if to >= from + 3 && t.is_literal(from) && t.is_operator(from + 1, "=") {
        return Some((column(from + 2, to)?, from));
    }
    None
}

/// An identifier as it is written in any case.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
