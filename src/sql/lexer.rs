//! PostgreSQL's lexical structure, as far as the proxy needs it: where tokens begin and end.
//!
//! Source: `src/backend/parser/scan.l` and the chapter "Lexical Structure". Nothing is allocated; ends of strings and
//! comments are found by memchr. What cannot be followed (an unterminated string) is a token of its own kind, and the
//! statement around it proves nothing.

use std::ops::Range;

use memchr::{memchr, memmem};

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Identifier or keyword, as written.
    Word,
    /// "Quoted identifier".
    Quoted,
    /// Digits only.
    Integer,
    /// Any other number.
    Number,
    /// '...' in which no backslash matters.
    String,
    /// E'...', B'...', X'...', U&'...', $tag$...$tag$.
    OtherString,
    /// $1.
    Parameter,
    /// Operator characters.
    Operator,
    /// One of ( ) [ ] , ; : . and the like.
    Punctuation(u8),
    /// A string or comment without an end; the rest of the text.
    Unterminated,
}

/// A token: its kind and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

impl Token {
    /// Its text.
    #[must_use]
    pub fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.start..self.end]
    }

    /// A word equal to this keyword (given in lower case).
    #[must_use]
    pub fn is(&self, sql: &str, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(keyword)
    }

    /// This punctuation.
    #[must_use]
    pub fn is_char(&self, c: u8) -> bool {
        self.kind == Kind::Punctuation(c)
    }
}

/// Walks over a text; blanks and comments are skipped.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    std_strings: bool,
}

impl<'a> Lexer<'a> {
    /// `std_strings`: standard_conforming_strings of the session.
    #[must_use]
    pub fn new(sql: &'a str, std_strings: bool) -> Lexer<'a> {
        Lexer { sql: sql.as_bytes(), at: 0, std_strings }
    }

    fn rest(&self) -> &'a [u8] {
        &self.sql[self.at..]
    }

    /// Skips blanks and comments. False: a comment has no end.
    fn skip_blank(&mut self) -> bool {
        loop {
            let rest = self.rest();
            match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => self.at += 1,
                [b'-', b'-', ..] => {
                    self.at = memchr::memchr2(b'\n', b'\r', rest).map_or(self.sql.len(), |n| self.at + n);
                }
                [b'/', b'*', ..] => match comment_end(rest) {
                    Some(n) => self.at += n,
                    None => return false,
                },
                _ => return true,
            }
        }
    }

    fn take(&mut self, kind: Kind, length: Option<usize>) -> Token {
        let start = self.at;
        let (kind, end) = match length {
            Some(n) => (kind, start + n),
            None => (Kind::Unterminated, self.sql.len()),
        };
        self.at = end;
        Token { kind, start, end }
    }

    fn word(&mut self, rest: &[u8]) -> Token {
        match rest {
            [b'e' | b'E', b'\'', ..] => {
                let n = quoted_end(&rest[1..], b'\'', true).map(|n| n + 1);
                return self.take(Kind::OtherString, n);
            }
            [b'b' | b'B' | b'x' | b'X' | b'n' | b'N', b'\'', ..] => {
                let n = quoted_end(&rest[1..], b'\'', !self.std_strings).map(|n| n + 1);
                return self.take(Kind::OtherString, n);
            }
            [b'u' | b'U', b'&', b'\'', ..] => {
                let n = quoted_end(&rest[2..], b'\'', false).map(|n| n + 2);
                return self.take(Kind::OtherString, n);
            }
            [b'u' | b'U', b'&', b'"', ..] => {
                let n = quoted_end(&rest[2..], b'"', false).map(|n| n + 2);
                return self.take(Kind::Quoted, n);
            }
            _ => {}
        }
        let n = rest.iter().position(|&c| !(is_word_start(c) || c.is_ascii_digit() || c == b'$'));
        self.take(Kind::Word, Some(n.unwrap_or(rest.len())))
    }
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || c == b'_' || c >= 0x80
}

fn is_operator(c: u8) -> bool {
    matches!(
        c,
        b'+' | b'-'
            | b'*'
            | b'/'
            | b'<'
            | b'>'
            | b'='
            | b'~'
            | b'!'
            | b'@'
            | b'#'
            | b'%'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
    )
}

/// Length of a nested block comment that begins here.
fn comment_end(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (1, 2);
    loop {
        at += memchr::memchr2(b'*', b'/', &rest[at..])?;
        match rest.get(at..at + 2) {
            Some(b"*/") => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            Some(b"/*") => {
                depth += 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// Length of a quoted token that begins here with its quote; a doubled quote is part of it.
fn quoted_end(rest: &[u8], quote: u8, backslashes: bool) -> Option<usize> {
    let mut at = 1;
    loop {
        if backslashes {
            at += memchr::memchr2(quote, b'\\', rest.get(at..)?)?;
            if rest[at] == b'\\' {
                at += 2;
                continue;
            }
        } else {
            at += memchr(quote, rest.get(at..)?)?;
        }
        if rest.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
}

/// Length of a dollar-quoted string that begins here; `None` in the outer option: it is none.
fn dollar_end(rest: &[u8]) -> Option<Option<usize>> {
    let tag = rest[1..].iter().position(|&c| c == b'$')? + 2;
    let name = &rest[1..tag - 1];
    let fits = name.iter().enumerate().all(|(i, &c)| is_word_start(c) || (i > 0 && c.is_ascii_digit()));
    if !fits {
        return None;
    }
    Some(memmem::find(&rest[tag..], &rest[..tag]).map(|n| n + 2 * tag))
}

fn number(rest: &[u8]) -> (Kind, usize) {
    let digits = |at: usize| rest[at..].iter().position(|c| !c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
    let mut end = digits(0);
    let mut kind = Kind::Integer;
    if rest.get(end) == Some(&b'.') && rest.get(end + 1) != Some(&b'.') {
        kind = Kind::Number;
        end = digits(end + 1);
    }
    if matches!(rest.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
        if rest.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            kind = Kind::Number;
            end = digits(end + 1 + sign);
        }
    }
    // 0x1F, 1_000 (PostgreSQL 16) and junk such as 123abc: one token that is no plain integer.
    if rest.get(end).is_some_and(|&c| is_word_start(c)) {
        kind = Kind::Number;
        end =
            rest[end..].iter().position(|&c| !(is_word_start(c) || c.is_ascii_digit())).map_or(rest.len(), |n| end + n);
    }
    (kind, end)
}

fn operator(rest: &[u8]) -> usize {
    let n = rest.iter().position(|&c| !is_operator(c)).unwrap_or(rest.len());
    // A comment ends an operator.
    let comment = (1..n).find(|&i| matches!(rest.get(i..i + 2), Some(b"--" | b"/*")));
    let n = comment.unwrap_or(n);
    // + and - at the end belong to what follows, unless the operator has a character that SQL's own have not.
    let special =
        rest[..n].iter().any(|c| matches!(c, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%'));
    let mut end = n;
    while !special && end > 1 && matches!(rest[end - 1], b'+' | b'-') {
        end -= 1;
    }
    end
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if !self.skip_blank() {
            return Some(self.take(Kind::Unterminated, None));
        }
        let rest = self.rest();
        let &first = rest.first()?;
        Some(match first {
            b'\'' => {
                let n = quoted_end(rest, b'\'', !self.std_strings);
                self.take(if self.std_strings { Kind::String } else { Kind::OtherString }, n)
            }
            b'"' => self.take(Kind::Quoted, quoted_end(rest, b'"', false)),
            b'$' if rest.get(1).is_some_and(u8::is_ascii_digit) => {
                let n = rest[1..].iter().position(|c| !c.is_ascii_digit()).map_or(rest.len(), |n| n + 1);
                self.take(Kind::Parameter, Some(n))
            }
            b'$' => match dollar_end(rest) {
                Some(n) => self.take(Kind::OtherString, n),
                None => self.take(Kind::Punctuation(b'$'), Some(1)),
            },
            c if is_word_start(c) => self.word(rest),
            c if c.is_ascii_digit() || (c == b'.' && rest.get(1).is_some_and(u8::is_ascii_digit)) => {
                let (kind, n) = number(rest);
                self.take(kind, Some(n))
            }
            c if is_operator(c) => self.take(Kind::Operator, Some(operator(rest))),
            c => self.take(Kind::Punctuation(c), Some(1)),
        })
    }
}

/// What a simple query's string consists of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SplitResult {
    /// The statements, without their semicolons; empty ones are left out.
    pub statements: Vec<Range<usize>>,
}

/// Cuts a string into statements. Semicolons inside parentheses (CREATE RULE) and inside the body of a function
/// (`BEGIN ATOMIC` ... `END`) separate nothing.
#[must_use]
pub fn split(sql: &str, std_strings: bool) -> SplitResult {
    let mut out = SplitResult::default();
    let (mut from, mut last, mut depth, mut body, mut previous_begin) = (None, 0, 0i32, 0i32, false);
    for t in Lexer::new(sql, std_strings) {
        if t.is_char(b';') && depth <= 0 && body == 0 {
            if let Some(start) = from.take() {
                out.statements.push(start..last);
            }
            depth = 0;
            previous_begin = false;
            continue;
        }
        from.get_or_insert(t.start);
        last = t.end;
        match t.kind {
            Kind::Punctuation(b'(') => depth += 1,
            Kind::Punctuation(b')') => depth -= 1,
            Kind::Word if previous_begin && t.is(sql, "atomic") => body = 1,
            Kind::Word if body > 0 && t.is(sql, "case") => body += 1,
            Kind::Word if body > 0 && t.is(sql, "end") => body -= 1,
            _ => {}
        }
        previous_begin = t.is(sql, "begin");
    }
    if let Some(start) = from {
        out.statements.push(start..last);
    }
    out
}

/// The same for text in whatever encoding the client has: where it is no UTF-8, each byte counts as one character. That
/// cuts where the server cuts, which knows bytes beyond ASCII as letters only (`ident_start` in scan.l).
#[must_use]
pub fn split_bytes(sql: &[u8], std_strings: bool) -> SplitResult {
    if let Ok(text) = std::str::from_utf8(sql) {
        return split(text, std_strings);
    }
    let text: String = sql.iter().map(|&b| char::from(b)).collect();
    let mut out = split(&text, std_strings);
    let (mut at, mut byte) = (0, 0);
    let mut place = |to: usize| {
        byte += text[at..to].chars().count();
        at = to;
        byte
    };
    for range in &mut out.statements {
        *range = place(range.start)..place(range.end);
    }
    out
}

/// All identifiers of a text, folded as PostgreSQL folds them.
#[must_use]
pub fn identifiers(sql: &str, std_strings: bool) -> Vec<String> {
    Lexer::new(sql, std_strings).filter_map(|t| folded(&t, sql)).collect()
}

/// The identifier that a token stands for: lower case unless quoted.
#[must_use]
pub fn folded(t: &Token, sql: &str) -> Option<String> {
    match t.kind {
        Kind::Word => Some(t.text(sql).to_lowercase()),
        Kind::Quoted => {
            let text = t.text(sql);
            Some(text.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\""))
        }
        _ => None,
    }
}

/// The word stands somewhere in the first `limit` bytes, in whatever case, in a comment too: a look that is cheaper than
/// lexing.
#[must_use]
pub fn mentions(text: &[u8], word: &str, limit: usize) -> bool {
    let text = &text[..text.len().min(limit)];
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(sql: &str) -> Vec<&str> {
        Lexer::new(sql, true).map(|t| t.text(sql)).collect()
    }

    fn statements(sql: &str) -> Vec<&str> {
        split(sql, true).statements.into_iter().map(|r| &sql[r]).collect()
    }

    #[test]
    fn text_in_another_encoding_is_cut_at_its_own_bytes() {
        let sql = b"INSERT INTO t VALUES ('caf\xe9;'); SELECT \xe9 ;\xff";
        let cut: Vec<&[u8]> = split_bytes(sql, true).statements.into_iter().map(|r| &sql[r]).collect();
        let expected: [&[u8]; 3] = [b"INSERT INTO t VALUES ('caf\xe9;')", b"SELECT \xe9", b"\xff"];
        assert_eq!(cut, expected);
        assert_eq!(split_bytes("SELECT 'é'; b".as_bytes(), true), split("SELECT 'é'; b", true));
    }

    #[test]
    fn tokens_are_those_of_postgresql() {
        assert_eq!(
            texts("select a.b,$1::int /* x /* y */ z */ from \"T\"\"x\" -- e\n where c=-1"),
            ["select", "a", ".", "b", ",", "$1", ":", ":", "int", "from", "\"T\"\"x\"", "where", "c", "=", "-", "1"]
        );
        assert_eq!(
            texts("E'a\\'b' 'c''d' $q$ ; ' $q$ 1.5e-3 .5 1..2"),
            ["E'a\\'b'", "'c''d'", "$q$ ; ' $q$", "1.5e-3", ".5", "1", ".", ".2"]
        );
        assert_eq!(texts("a@-b a<-b"), ["a", "@-", "b", "a", "<", "-", "b"]);
        assert_eq!(Lexer::new("select 'x", true).last().unwrap().kind, Kind::Unterminated);
        assert_eq!(Lexer::new("'a\\' ", true).count(), 1);
        assert_eq!(Lexer::new("'a\\' ", false).last().unwrap().kind, Kind::Unterminated);
    }

    #[test]
    fn a_string_is_cut_at_the_semicolons_that_separate_statements() {
        assert_eq!(
            statements(" select 1 ;; select ';' ; -- ; \n select $$;$$;"),
            ["select 1", "select ';'", "select $$;$$"]
        );
        assert_eq!(statements("create rule r as on insert to t do (delete from a; delete from b); select 1").len(), 2);
        let body =
            "create function f() returns int begin atomic select case when true then 1 end; select 2; end; select 3";
        assert_eq!(statements(body).len(), 2);
        assert_eq!(statements("  -- nothing\n ").len(), 0);
        assert_eq!(statements("begin; select 1; end"), ["begin", "select 1", "end"]);
    }

    proptest! {
        #[test]
        fn whatever_the_text_tokens_are_in_order_and_within_it(sql in "\\PC{0,60}", std in any::<bool>()) {
            let mut at = 0;
            for t in Lexer::new(&sql, std) {
                prop_assert!(t.start >= at && t.end > t.start && t.end <= sql.len());
                prop_assert!(sql.is_char_boundary(t.start) && sql.is_char_boundary(t.end));
                at = t.end;
            }
            let _ = split(&sql, std);
        }

        #[test]
        fn quotes_and_comments_in_any_order_do_not_confuse_it(sql in "['\"$/*\\-a;eE\\\\ \n]{0,40}", std in any::<bool>()) {
            let n = Lexer::new(&sql, std).count();
            prop_assert!(n <= sql.len());
        }
    }
}
