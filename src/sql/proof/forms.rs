//! Statements that wrap a query: EXPLAIN, COPY ... TO STDOUT, DECLARE CURSOR. Taken apart by our own lexer.

use std::ops::Range;

use super::Effect;
use super::tokens::Tokens;

/// What is wrapped.
pub(super) enum Inner {
    /// A query, at this place in the text; the wrapping alone has an effect of `at_least`.
    Query { range: Range<usize>, at_least: Effect },
    /// A table, by its name without schema.
    Table(String),
}

/// EXPLAIN [VERBOSE] or (options), without ANALYZE.
pub(super) fn explain(t: &Tokens<'_>) -> Option<Inner> {
    let mut at = 1;
    if t.is_char(at, b'(') && !t.any(at + 1, &["select", "values", "table", "with"]) && !t.is_char(at + 1, b'(') {
        let end = t.closing(at)?;
        // "analyze" in quotes is the option too.
        if (at..end).any(|i| t.is_quoted(i) || t.any(i, &["analyze", "analyse"])) {
            return None;
        }
        at = end + 1;
    } else if t.is(at, "verbose") {
        at += 1;
    }
    Some(Inner::Query { range: t.from(at)?, at_least: Effect::Read })
}

/// COPY (query) TO STDOUT, COPY table [(columns)] TO STDOUT; options can only change how it looks.
pub(super) fn copy(t: &Tokens<'_>) -> Option<Inner> {
    let to_stdout = |at: usize| t.is(at, "to") && t.is(at + 1, "stdout");
    if t.is_char(1, b'(') {
        let end = t.closing(1)?;
        return to_stdout(end + 1).then(|| Inner::Query { range: t.between(1, end), at_least: Effect::Read });
    }
    let mut at = 1;
    let mut name = t.plain_name(at)?;
    while t.is_char(at + 1, b'.') {
        at += 2;
        name = t.plain_name(at)?;
    }
    at += 1;
    if t.is_char(at, b'(') {
        at = t.closing(at)? + 1;
    }
    to_stdout(at).then_some(Inner::Table(name))
}

/// DECLARE name [options] CURSOR [WITH or WITHOUT HOLD] FOR query.
pub(super) fn declare(t: &Tokens<'_>) -> Option<Inner> {
    let mut at = 2;
    while t.any(at, &["binary", "asensitive", "insensitive", "no", "scroll"]) {
        at += 1;
    }
    if !t.is(at, "cursor") {
        return None;
    }
    at += 1;
    // It outlives its transaction, and is fetched from where the session's other statements run.
    let hold = t.is(at, "with");
    if t.any(at, &["with", "without"]) && t.is(at + 1, "hold") {
        at += 2;
    }
    let at_least = if hold { Effect::MainOnly } else { Effect::Read };
    t.is(at, "for").then_some(Inner::Query { range: t.from(at + 1)?, at_least })
}
