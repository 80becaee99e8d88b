//! `EXPLAIN (PGLOCKSTEP ...) statement`: its options, and where the statement stands.
//!
//! A server's grammar takes any option name, and ExplainQuery (explain.c) refuses this one only when the statement is
//! executed. So such a text can be parsed, described and bound by a server as it is, and never run there.

use std::ops::Range;

use super::class::{Class, classify};
use super::lexer::{Kind, Lexer, Token, folded};
use super::shape::parameters;

/// An EXPLAIN that asks the proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// FORMAT JSON.
    pub json: bool,
    /// Where the statement stands that is to be explained, to the end of the text.
    pub inner: Range<usize>,
    /// What a server may parse in its place, if EXPLAIN of such a statement is no SQL (DDL, CALL, SET): the same answer
    /// and as many parameters, and as harmless.
    pub stand_in: Option<String>,
}

/// Why an EXPLAIN that asks the proxy is not answered. Displayed as PostgreSQL words it where it has the same error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// With ANALYZE: nothing is executed.
    Analyze,
    /// FORMAT XML or YAML.
    Format(String),
    /// A value that FORMAT does not have.
    UnknownFormat(String),
    /// An option that does not exist.
    Option(String),
    /// A value that is no Boolean.
    Boolean(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Analyze => f.write_str("EXPLAIN options PGLOCKSTEP and ANALYZE cannot be used together"),
            Refusal::Format(format) => {
                write!(f, "EXPLAIN option PGLOCKSTEP does not support FORMAT {}", format.to_uppercase())
            }
            Refusal::UnknownFormat(format) => {
                write!(f, "unrecognized value for EXPLAIN option \"format\": \"{format}\"")
            }
            Refusal::Option(name) => write!(f, "unrecognized EXPLAIN option \"{name}\""),
            Refusal::Boolean(name) => write!(f, "{name} requires a Boolean value"),
        }
    }
}

/// One option: its name, folded, its value, and the tokens of both.
struct Choice {
    name: String,
    value: Option<String>,
    tokens: Range<usize>,
}

impl Choice {
    /// As defGetBoolean (define.c) reads it; `None`: it is none.
    fn boolean(&self) -> Option<bool> {
        match self.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "on" | "1") => Some(true),
            Some("false" | "off" | "0") => Some(false),
            Some(_) => None,
        }
    }
}

/// The list of options, and the token behind it; `None`: there is none that could be read.
fn choices(sql: &str, tokens: &[Token]) -> Option<(Vec<Choice>, usize)> {
    if !(tokens.first()?.is(sql, "explain") && tokens.get(1)?.is_char(b'(')) {
        return None;
    }
    let mut all = Vec::new();
    let mut at = 2;
    loop {
        let name = folded(tokens.get(at)?, sql)?;
        let from = at;
        at += 1;
        let mut value = None;
        if !matches!(tokens.get(at)?.kind, Kind::Punctuation(_)) {
            let t = tokens[at];
            value = Some(match t.kind {
                Kind::Word | Kind::Quoted => folded(&t, sql)?,
                Kind::String => t.text(sql).trim_matches('\'').to_owned(),
                Kind::Integer | Kind::Number => t.text(sql).to_owned(),
                _ => return None,
            });
            at += 1;
        }
        all.push(Choice { name, value, tokens: from..at });
        at += 1;
        match tokens.get(at - 1)?.kind {
            Kind::Punctuation(b',') => {}
            Kind::Punctuation(b')') => return Some((all, at)),
            _ => return None,
        }
    }
}

fn tokens(sql: &str, std_strings: bool) -> Vec<Token> {
    Lexer::new(sql, std_strings).collect()
}

/// The last one of this name, which counts.
fn last<'a>(all: &'a [Choice], name: &str) -> Option<&'a Choice> {
    all.iter().rev().find(|c| c.name == name)
}

/// The tokens are those of an EXPLAIN with option PGLOCKSTEP, which is not switched off.
pub(super) fn asks(sql: &str, tokens: &[Token]) -> bool {
    let read = choices(sql, tokens);
    read.is_some_and(|(all, _)| last(&all, "pglockstep").is_some_and(|c| c.boolean() != Some(false)))
}

/// An EXPLAIN that asks the proxy; `None`: it is something else.
#[must_use]
pub fn explained(sql: &str, std_strings: bool) -> Option<Result<Explained, Refusal>> {
    let tokens = tokens(sql, std_strings);
    let (all, behind) = choices(sql, &tokens)?;
    if !asks(sql, &tokens) {
        return None;
    }
    let json = match options(&all) {
        Ok(json) => json,
        Err(refusal) => return Some(Err(refusal)),
    };
    let inner = tokens.get(behind).map_or(sql.len(), |t| t.start)..sql.len();
    let class = classify(&sql[inner.clone()], std_strings);
    // ExplainableStmt in gram.y, but for what never has parameters.
    let has_plan = matches!(
        class,
        Class::Select { .. }
            | Class::Insert
            | Class::Update
            | Class::Delete
            | Class::Merge
            | Class::WithDml
            | Class::Execute(_)
    );
    let stand_in = (!has_plan).then(|| {
        let list: Vec<String> = (1..=parameters(sql, std_strings)).map(|n| format!("${n}")).collect();
        let format = if json { ", FORMAT JSON" } else { "" };
        format!("EXPLAIN (PGLOCKSTEP{format}) SELECT {}", list.join(", "))
    });
    Some(Ok(Explained { json, inner, stand_in }))
}

/// The format is JSON.
fn options(all: &[Choice]) -> Result<bool, Refusal> {
    const BOOLEAN: [&str; 12] = [
        "pglockstep",
        "analyze",
        "analyse",
        "verbose",
        "costs",
        "settings",
        "generic_plan",
        "buffers",
        "wal",
        "timing",
        "summary",
        "memory",
    ];
    let mut json = false;
    for c in all {
        match (c.name.as_str(), c.value.as_deref().map(str::to_ascii_lowercase).as_deref()) {
            ("format", Some("json")) => json = true,
            ("format", Some("text")) => json = false,
            ("format", Some(format @ ("xml" | "yaml"))) => return Err(Refusal::Format(format.to_owned())),
            ("format", other) => return Err(Refusal::UnknownFormat(other.unwrap_or_default().to_owned())),
            ("serialize", _) => {}
            (name, _) if !BOOLEAN.contains(&name) => return Err(Refusal::Option(c.name.clone())),
            _ if c.boolean().is_none() => return Err(Refusal::Boolean(c.name.clone())),
            _ => {}
        }
    }
    let analyze = ["analyze", "analyse"].iter().filter_map(|n| last(all, n)).any(|c| c.boolean() == Some(true));
    if analyze { Err(Refusal::Analyze) } else { Ok(json) }
}

/// The text of an EXPLAIN whose option PGLOCKSTEP is switched off, as a server takes it: blanks stand in the option's
/// place, so that positions stay. `None`: it has no such option, or it is on.
#[must_use]
pub fn without_option(sql: &str, std_strings: bool) -> Option<String> {
    let tokens = tokens(sql, std_strings);
    let (all, behind) = choices(sql, &tokens)?;
    let ours = |c: &&Choice| c.name == "pglockstep";
    if !all.iter().any(|c| ours(&c)) || asks(sql, &tokens) {
        return None;
    }
    let mut text = sql.to_owned();
    let mut blank = |from: usize, to: usize| {
        let range = tokens[from].start..tokens[to - 1].end;
        text.replace_range(range.clone(), &" ".repeat(range.len()));
    };
    if all.iter().all(|c| ours(&c)) {
        blank(1, behind);
        return Some(text);
    }
    let others: Vec<&Choice> = all.iter().filter(|c| !ours(c)).collect();
    // With the comma behind it, or in front of it if no other follows.
    for c in all.iter().filter(ours) {
        if others.iter().any(|o| o.tokens.start > c.tokens.start) {
            blank(c.tokens.start, c.tokens.end + 1);
        } else {
            blank(c.tokens.start - 1, c.tokens.end);
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Option<Result<Explained, Refusal>> {
        explained(sql, true)
    }

    #[test]
    fn an_explain_with_the_option_is_ours_whatever_its_case_and_place() {
        for sql in [
            "EXPLAIN (PGLOCKSTEP) select 1",
            "explain (costs off, \"pglockstep\" on, verbose) select 1",
            "explain(PgLockStep 'TRUE')select 1",
            "/* x */ explain (pglockstep false, pglockstep 1, analyze off) select 1",
        ] {
            assert_eq!(classify(sql, true), Class::ExplainPglockstep, "{sql}");
            let e = read(sql).unwrap().unwrap();
            assert_eq!((&sql[e.inner], e.json, e.stand_in), ("select 1", false, None), "{sql}");
        }
        for sql in [
            "explain select pglockstep from t",
            "explain (costs) select pglockstep",
            "explain (pglockstep off) select 1",
            "explain (pglockstep,) select 1",
            "explain (pglockstep",
            "explain (select pglockstep) ",
            "select 1",
        ] {
            assert_ne!(classify(sql, true), Class::ExplainPglockstep, "{sql}");
            assert_eq!(read(sql), None, "{sql}");
        }
    }

    #[test]
    fn options_are_read_as_postgresql_reads_them() {
        for (options, said) in [
            ("pglockstep, analyze", "EXPLAIN options PGLOCKSTEP and ANALYZE cannot be used together"),
            ("analyze true, pglockstep, format json", "EXPLAIN options PGLOCKSTEP and ANALYZE cannot be used together"),
            ("pglockstep, format yaml", "EXPLAIN option PGLOCKSTEP does not support FORMAT YAML"),
            ("pglockstep, format csv", "unrecognized value for EXPLAIN option \"format\": \"csv\""),
            ("pglockstep, cost off", "unrecognized EXPLAIN option \"cost\""),
            ("pglockstep maybe", "pglockstep requires a Boolean value"),
        ] {
            let refusal = read(&format!("explain ({options}) select 1")).unwrap().unwrap_err();
            assert_eq!(refusal.to_string(), said, "{options}");
        }
        assert!(read("explain (pglockstep, format JSON) table t").unwrap().unwrap().json);
    }

    #[test]
    fn what_has_no_plan_has_a_stand_in_with_as_many_parameters() {
        let stand_in = |sql: &str| read(sql).unwrap().unwrap().stand_in;
        assert_eq!(stand_in("explain (pglockstep) insert into t values ($1)"), None);
        assert_eq!(
            stand_in("explain (pglockstep, format json) call p($1, $2)").as_deref(),
            Some("EXPLAIN (PGLOCKSTEP, FORMAT JSON) SELECT $1, $2")
        );
        assert_eq!(stand_in("explain (pglockstep) vacuum").as_deref(), Some("EXPLAIN (PGLOCKSTEP) SELECT "));
        assert_eq!(stand_in("explain (pglockstep) explain select 1").as_deref(), Some("EXPLAIN (PGLOCKSTEP) SELECT "));
    }

    #[test]
    fn switched_off_it_is_blanked_out() {
        let w = |sql: &str| without_option(sql, true);
        assert_eq!(w("explain (pglockstep off) select 1").unwrap(), "explain                  select 1");
        assert_eq!(
            w("explain (costs off, pglockstep 0) select 1").unwrap(),
            "explain (costs off              ) select 1"
        );
        assert_eq!(
            w("explain (pglockstep false, verbose) select 1").unwrap(),
            "explain (                  verbose) select 1"
        );
        assert_eq!(
            w("explain (pglockstep, pglockstep false, verbose, pglockstep false) select 1").unwrap(),
            "explain (                              verbose                  ) select 1"
        );
        assert_eq!(w("explain (pglockstep) select 1"), None);
        assert_eq!(w("explain (costs off) select 1"), None);
    }
}
