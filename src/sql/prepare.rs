//! PREPARE and EXECUTE by SQL: what is prepared, what is executed, with which arguments.

use std::ops::Range;

use super::lexer::{Kind, Lexer, Token, folded};

/// The statement that `PREPARE name [(types)] AS statement` prepares; `None`: it is no PREPARE.
#[must_use]
pub fn prepared_statement(sql: &str, std_strings: bool) -> Option<Range<usize>> {
    let mut tokens = Lexer::new(sql, std_strings);
    if !tokens.next()?.is(sql, "prepare") {
        return None;
    }
    folded(&tokens.next()?, sql)?;
    // "as" cannot be the name of a type: the first one behind the name ends the list of types.
    let start = tokens.find(|t| t.is(sql, "as"))?.end;
    Some(start..sql.len())
}

/// An EXECUTE inside a statement's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Name of the prepared statement, folded.
    pub name: String,
    /// Where the name stands.
    pub place: Range<usize>,
    /// The arguments are literals (or there are none): nothing is computed for them.
    pub literal: bool,
}

/// The EXECUTE of `EXECUTE name(...)`, `EXPLAIN ... EXECUTE name(...)` or `CREATE TABLE ... AS EXECUTE name(...)`.
#[must_use]
pub fn executed(sql: &str, std_strings: bool) -> Option<Executed> {
    let tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
    let first = tokens.first()?;
    let at = if first.is(sql, "execute") {
        0
    } else if first.is(sql, "explain") {
        tokens.iter().position(|t| t.is(sql, "execute"))?
    } else if first.is(sql, "create") {
        tokens.windows(2).position(|w| w[0].is(sql, "as") && w[1].is(sql, "execute"))? + 1
    } else {
        return None;
    };
    let name = tokens.get(at + 1)?;
    Some(Executed {
        name: folded(name, sql)?,
        place: name.start..name.end,
        literal: tokens[at + 2..].iter().all(|t| is_literal(t, sql)),
    })
}

/// Part of a list of literals.
fn is_literal(t: &Token, sql: &str) -> bool {
    match t.kind {
        Kind::Integer | Kind::Number | Kind::String | Kind::OtherString | Kind::Punctuation(b'(' | b')' | b',') => true,
        Kind::Operator => matches!(t.text(sql), "-" | "+"),
        Kind::Word => ["null", "true", "false"].iter().any(|w| t.is(sql, w)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prepared_statement_stands_behind_as() {
        let body = |sql: &'static str| prepared_statement(sql, true).map(|r| sql[r].trim());
        assert_eq!(body("PREPARE p AS SELECT 1 AS x"), Some("SELECT 1 AS x"));
        assert_eq!(
            body("prepare \"As\" (int, numeric(3, 2)) as insert into t values ($1)"),
            Some("insert into t values ($1)")
        );
        assert_eq!(body("EXECUTE p"), None);
    }

    #[test]
    fn an_execute_is_found_where_it_may_stand() {
        let e = |sql| executed(sql, true).map(|e| (e.name, e.literal));
        assert_eq!(e("EXECUTE P (1, 'a', -2.5, NULL)"), Some(("p".into(), true)));
        assert_eq!(e("EXPLAIN (ANALYZE) EXECUTE \"P\"(random())"), Some(("P".into(), false)));
        assert_eq!(e("CREATE TEMP TABLE x AS EXECUTE p"), Some(("p".into(), true)));
        assert_eq!(e("CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()"), None);
        assert_eq!(e("SELECT execute FROM t"), None);
    }
}
