//! The first witness: every token of the text, by our own lexer, against everything that it could mean.

use std::collections::HashSet;
use std::ops::Range;

use super::catalogue::Catalogue;
use super::finding::Finding;
use super::{Effect, builtin};
use crate::sql::lexer::{Kind, Lexer, Token, folded};
use crate::sql::literals::has_moment;
use crate::sql::reason::{Kind as Is, Reason};

/// Tokens that a text may have to be proved: parsing costs some microseconds for each, and memory.
const TOKENS_MAX: usize = 5_000;
/// Tokens that may each make sqlparser's tree deeper by one, which no parser's limit stops; dropping the tree recurses.
const CHAIN_MAX: usize = 1_000;
/// NAMEDATALEN - 1: PostgreSQL cuts longer identifiers.
const IDENTIFIER_MAX: usize = 63;

/// A text's tokens and the identifiers among them.
pub(super) struct Tokens<'a> {
    sql: &'a str,
    tokens: Vec<Token>,
    names: Vec<Option<String>>,
    /// How many parentheses and brackets are open at each token.
    depths: Vec<u32>,
}

impl<'a> Tokens<'a> {
    /// # Errors
    /// It cannot be followed, is too long, or has names whose folding or cutting depends on the server.
    pub(super) fn new(sql: &'a str, std_strings: bool) -> Result<Tokens<'a>, Reason> {
        let mut tokens: Vec<Token> = Lexer::new(sql, std_strings).take(TOKENS_MAX + 2).collect();
        while tokens.last().is_some_and(|t| t.is_char(b';')) {
            tokens.pop();
        }
        if tokens.len() > TOKENS_MAX {
            return Err(Reason::TooLong(TOKENS_MAX));
        }
        if let Some(t) = tokens.iter().find(|t| !is_plain(t, sql)) {
            let unterminated = t.kind == Kind::Unterminated;
            return Err(if unterminated { Reason::Unterminated } else { Reason::Identifier(t.text(sql).to_owned()) });
        }
        let names = tokens.iter().map(|t| folded(t, sql)).collect();
        let mut depth = 0u32;
        let depths = tokens.iter().map(|t| match t.kind {
            Kind::Punctuation(b'(' | b'[') => {
                depth += 1;
                depth - 1
            }
            Kind::Punctuation(b')' | b']') => {
                depth = depth.saturating_sub(1);
                depth
            }
            _ => depth,
        });
        let depths = depths.collect();
        Ok(Tokens { sql, tokens, names, depths })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many parentheses and brackets are open there.
    pub(super) fn depth(&self, at: usize) -> u32 {
        self.depths.get(at).copied().unwrap_or(0)
    }

    /// The first such keyword from there on that stands in no parentheses.
    pub(super) fn at_top(&self, keyword: &str, from: usize) -> Option<usize> {
        (from..self.tokens.len()).find(|&i| self.depth(i) == 0 && self.is(i, keyword))
    }

    /// This keyword stands somewhere.
    pub(super) fn has(&self, keyword: &str) -> bool {
        (0..self.tokens.len()).any(|i| self.is(i, keyword))
    }

    /// The punctuation there.
    pub(super) fn char_at(&self, at: usize) -> Option<u8> {
        match self.tokens.get(at)?.kind {
            Kind::Punctuation(c) => Some(c),
            _ => None,
        }
    }

    /// This operator stands there.
    pub(super) fn is_operator(&self, at: usize, operator: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.kind == Kind::Operator && t.text(self.sql) == operator)
    }

    /// A literal or a parameter stands there.
    pub(super) fn is_literal(&self, at: usize) -> bool {
        use Kind::{Integer, Number, OtherString, Parameter, String};
        self.tokens.get(at).is_some_and(|t| matches!(t.kind, Integer | Number | String | OtherString | Parameter))
    }

    /// A write that computes the same on every node. `time`: its time functions will be literals.
    ///
    /// # Errors
    /// The first part that need not.
    pub(super) fn is_fixed_write(&self, catalogue: &Catalogue, time: bool) -> Result<(), Reason> {
        if has_moment(self.sql, true) {
            return Err(Reason::Moment);
        }
        let mut all = (0..self.len()).filter(|i| !self.is_write_word(*i));
        all.try_for_each(|i| self.is_fixed_at(i, catalogue, time))
    }

    /// Nothing from there on looks at other rows or differs between nodes.
    ///
    /// # Errors
    /// The first part that may.
    pub(super) fn is_fixed_from(&self, from: usize, catalogue: &Catalogue) -> Result<(), Reason> {
        (from..self.len()).try_for_each(|i| self.is_fixed_at(i, catalogue, false))
    }

    /// A write that changes nothing but the rows that it is about, and sequences.
    ///
    /// # Errors
    /// The first part of which nobody knows what it changes.
    pub(super) fn is_harmless_write(&self, catalogue: &Catalogue) -> Result<(), Reason> {
        let mut all = (0..self.len()).filter(|i| !self.is_write_word(*i));
        all.try_for_each(|i| self.is_harmless_at(i, catalogue))
    }

    /// A query that may write rows: it names a user's function of which nobody knows what it does, or a view that calls
    /// one, or has a word that writes. That word.
    pub(super) fn may_write(&self, catalogue: &Catalogue) -> Option<String> {
        let doubtful = |i: usize| {
            let name = self.names[i].as_deref();
            name.is_some_and(|n| catalogue.is_doubtful(n)) || self.any(i, &["insert", "update", "delete", "merge"])
        };
        let locks = |i: usize| i > 0 && self.is(i, "update") && self.any(i - 1, &["for", "key"]);
        let first = (0..self.len()).find(|&i| doubtful(i) && !locks(i))?;
        Some(self.tokens[first].text(self.sql).to_owned())
    }

    /// The words that make it an INSERT, UPDATE or DELETE.
    fn is_write_word(&self, i: usize) -> bool {
        match i {
            0 => self.any(0, &["insert", "update", "delete"]),
            1 => self.is(0, "insert") && self.is(1, "into"),
            _ => self.is(i, "update") && self.is(i - 1, "do"),
        }
    }

    fn is_fixed_at(&self, i: usize, catalogue: &Catalogue, time: bool) -> Result<(), Reason> {
        if self.any(i, &["select", "with", "table"]) {
            return Err(Reason::Subquery(self.tokens[i].text(self.sql).to_owned()));
        }
        if let Some(reason) = self.token_effect(i, catalogue, &HashSet::new()).reason {
            return Err(reason);
        }
        let text = self.tokens[i].text(self.sql);
        if self.tokens[i].kind == Kind::Operator && catalogue.looks_elsewhere(text) {
            return Err(Reason::Varies(text.to_owned()));
        }
        let Some(name) = self.names[i].as_deref() else { return Ok(()) };
        // A function as if it were a column.
        if i > 0 && self.is_char(i - 1, b'.') && catalogue.looks_elsewhere(name) {
            return Err(Reason::Varies(name.to_owned()));
        }
        let calls = self.is_char(i + 1, b'(');
        let fixed = if builtin::is_time_function(name) {
            time || !(calls || builtin::is_keyword_function(name))
        } else if calls {
            self.is_column_list(i) || catalogue.is_immutable(name) || self.is_syntax_at(i)
        } else {
            !builtin::is_keyword_function(name) || matches!(name, "array" | "row")
        };
        let varies = || Reason::Varies(format!("{name}{}", if calls { "()" } else { "" }));
        if fixed { Ok(()) } else { Err(varies()) }
    }

    /// The name of an INSERT's table (or its alias) stands there, with a list of columns behind it.
    fn is_column_list(&self, i: usize) -> bool {
        let source = |at| self.any(at, &["select", "values", "with", "table", "default", "overriding"]);
        self.is(0, "insert") && (2..=i).all(|at| !source(at) && !self.is_char(at, b'('))
    }

    /// A call of something that there is, or no call.
    fn is_known_call(&self, i: usize, catalogue: &Catalogue) -> bool {
        let Some(name) = self.names[i].as_deref().filter(|_| self.is_char(i + 1, b'(')) else { return true };
        const WORDS: [&str; 32] = [
            "select",
            "from",
            "as",
            "on",
            "using",
            "over",
            "filter",
            "group",
            "with",
            "lateral",
            "exists",
            "union",
            "except",
            "intersect",
            "distinct",
            "by",
            "limit",
            "offset",
            "having",
            "cube",
            "rollup",
            "sets",
            "returning",
            "only",
            "materialized",
            "between",
            "like",
            "ilike",
            "case",
            "cast",
            "trim",
            "similar",
        ];
        catalogue.call(name).is_some()
            || catalogue.type_name(name).is_some()
            || builtin::is_keyword_function(name)
            || self.is_syntax_at(i)
            || self.any(i, &WORDS)
            || self.is_column_list(i)
    }

    /// A word of the grammar in front of a parenthesis.
    fn is_syntax_at(&self, i: usize) -> bool {
        const WORDS: [&str; 19] = [
            "values", "in", "and", "or", "not", "set", "where", "conflict", "coalesce", "nullif", "greatest", "least",
            "row", "any", "all", "when", "then", "else", "default",
        ];
        self.any(i, &WORDS)
    }

    fn is_harmless_at(&self, i: usize, catalogue: &Catalogue) -> Result<(), Reason> {
        let name = self.names[i].as_deref();
        if name.is_some_and(builtin::is_harmless_generator) && self.is_char(i + 1, b'(') {
            return Ok(());
        }
        match self.token_effect(i, catalogue, &HashSet::new()) {
            Finding { effect: Effect::Unknown, reason } => Err(reason.unwrap_or(Reason::Parts)),
            _ if self.is_known_call(i, catalogue) => Ok(()),
            _ => Err(Reason::Call(name.unwrap_or_default().to_owned())),
        }
    }

    /// It begins as only a query can.
    pub(super) fn is_query(&self) -> bool {
        let first = self.tokens.iter().position(|t| !t.is_char(b'('));
        first.is_some_and(|at| self.any(at, &["select", "values", "table", "with"]))
    }

    /// # Errors
    /// It could overflow the stack.
    pub(super) fn fit_a_parser(&self) -> Result<(), Reason> {
        const WORDS: [&str; 18] = [
            "and",
            "or",
            "not",
            "is",
            "isnull",
            "notnull",
            "in",
            "like",
            "ilike",
            "similar",
            "between",
            "collate",
            "at",
            "union",
            "intersect",
            "except",
            "overlaps",
            "escape",
        ];
        let deepens = |i: usize| self.tokens[i].kind == Kind::Operator || self.is_char(i, b':') || self.any(i, &WORDS);
        let fits = (0..self.tokens.len()).filter(|i| deepens(*i)).count() <= CHAIN_MAX;
        if fits { Ok(()) } else { Err(Reason::TooDeep(CHAIN_MAX)) }
    }

    /// The text as sqlparser reads it: without semicolons at its end, and FOR NO KEY UPDATE and FOR KEY SHARE, which it
    /// does not know, as the stronger locks.
    pub(super) fn parser_text(&self) -> String {
        let mut text = self.tokens.last().map_or("", |t| &self.sql[..t.end]).to_owned();
        for i in (1..self.tokens.len()).filter(|i| self.is(i - 1, "for")) {
            let words = match () {
                () if self.is(i, "no") && self.is(i + 1, "key") && self.is(i + 2, "update") => i..=i + 1,
                () if self.is(i, "key") && self.is(i + 1, "share") => i..=i,
                () => continue,
            };
            let range = self.tokens[*words.start()].start..self.tokens[*words.end()].end;
            text.replace_range(range.clone(), &" ".repeat(range.len()));
        }
        text
    }

    /// What the tokens can do. `relations`: the names that the other witness found where relations stand.
    pub(super) fn effect(&self, catalogue: &Catalogue, relations: &HashSet<String>) -> Finding {
        if self.tokens.is_empty() {
            return Finding::unknown(Reason::Parts);
        }
        Finding::worst((0..self.tokens.len()).map(|i| self.token_effect(i, catalogue, relations)))
    }

    fn token_effect(&self, i: usize, catalogue: &Catalogue, relations: &HashSet<String>) -> Finding {
        let text = || self.tokens[i].text(self.sql).to_owned();
        match self.tokens[i].kind {
            Kind::Operator => self.operator(i, catalogue),
            Kind::Word | Kind::Quoted => {
                let Some(name) = &self.names[i] else { return Finding::unknown(Reason::Identifier(text())) };
                self.keyword(i).max(self.name(i, name, catalogue, relations))
            }
            Kind::Punctuation(b'(' | b')' | b'[' | b']' | b',' | b'.' | b':') => Finding::READ,
            // A semicolon between statements is here too.
            Kind::Punctuation(_) | Kind::Unterminated => Finding::unknown(Reason::Construct(text())),
            Kind::Integer | Kind::Number | Kind::String | Kind::OtherString | Kind::Parameter => Finding::READ,
        }
    }

    fn operator(&self, i: usize, catalogue: &Catalogue) -> Finding {
        let name = match self.tokens[i].text(self.sql) {
            // name => argument: PostgreSQL allows no operator of this name.
            "=>" => return Finding::READ,
            "!=" => "<>",
            name => name,
        };
        Finding::new(catalogue.operator(name), || {
            let cause = catalogue.cause(Is::Operator, name);
            Reason::Named { kind: Is::Operator, name: name.to_owned(), cause }
        })
    }

    /// What a word does as a keyword.
    fn keyword(&self, i: usize) -> Finding {
        let writes = || Finding::unknown(Reason::Word(self.tokens[i].text(self.sql).to_owned()));
        if self.any(i, &["insert", "delete", "merge", "into"]) {
            return writes();
        }
        let after_for = i > 0 && (self.is(i - 1, "for") || self.is(i - 1, "key"));
        if self.is(i, "update") {
            return if after_for { Finding::new(Effect::MainOnly, || Reason::RowLock) } else { writes() };
        }
        if self.is(i, "for") && self.any(i + 1, &["update", "share", "no", "key"]) {
            return Finding::new(Effect::MainOnly, || Reason::RowLock);
        }
        // A sample's seed is each server's own, and what it picks goes by physical order.
        let samples = self.is(i, "tablesample");
        if samples { Finding::new(Effect::MainOnly, || Reason::Sample) } else { Finding::READ }
    }

    /// What an identifier can do as a function, type, relation or column.
    fn name(&self, i: usize, name: &str, catalogue: &Catalogue, relations: &HashSet<String>) -> Finding {
        if name.starts_with("pg_temp") || name.starts_with("pg_toast") {
            return Finding::unknown(Reason::OwnSchema(name.to_owned()));
        }
        let mut found = Finding::READ;
        if builtin::is_node_word(name) || name == "information_schema" {
            found = Finding::new(Effect::MainOnly, || Reason::NodesOwn(name.to_owned()));
        }
        let of = |effect, kind| Finding::of_name(Some(effect), kind, name, catalogue);
        if self.is_char(i + 1, b'(') {
            found = found.max(of(catalogue.call(name).unwrap_or(Effect::Read), Is::Function));
        } else if i > 0 && self.is_char(i - 1, b'.') {
            // t.f is f(t) where t has no such column.
            found = found.max(of(catalogue.attribute(name), Is::Function));
        }
        if catalogue.is_user_type(name) || self.is_type_position(i) {
            found = found.max(of(catalogue.type_name(name).unwrap_or(Effect::Read), Is::Type));
        }
        // A doubtful relation counts wherever its name stands; any other where both witnesses see a relation.
        match catalogue.relation(name) {
            Some(e) if e == Effect::Unknown || relations.contains(name) => found.max(of(e, Is::Relation)),
            _ => found,
        }
    }

    /// A type is named here for certain: behind `::`, or in front of a string.
    fn is_type_position(&self, i: usize) -> bool {
        let mut from = i;
        while from >= 2 && self.is_char(from - 1, b'.') {
            from -= 2;
        }
        let cast = from > 0 && self.is_char(from - 1, b':');
        cast || self.tokens.get(i + 1).is_some_and(|t| matches!(t.kind, Kind::String | Kind::OtherString))
    }

    /// This keyword (in lower case) stands there.
    pub(super) fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is(self.sql, keyword))
    }

    /// One of these keywords stands there.
    pub(super) fn any(&self, at: usize, keywords: &[&str]) -> bool {
        keywords.iter().any(|k| self.is(at, k))
    }

    /// This punctuation stands there.
    pub(super) fn is_char(&self, at: usize, c: u8) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is_char(c))
    }

    /// A quoted identifier stands there.
    pub(super) fn is_quoted(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|t| t.kind == Kind::Quoted)
    }

    /// The identifier there, unless it means the session's own.
    pub(super) fn plain_name(&self, at: usize) -> Option<String> {
        self.names.get(at)?.clone().filter(|n| !n.starts_with("pg_temp"))
    }

    /// Where the parenthesis that opens there is closed.
    pub(super) fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in open..self.tokens.len() {
            match self.tokens[at].kind {
                Kind::Punctuation(b'(') => depth += 1,
                Kind::Punctuation(b')') => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    /// The text between two tokens.
    pub(super) fn between(&self, open: usize, close: usize) -> Range<usize> {
        self.tokens[open].end..self.tokens[close].start
    }

    /// The text from a token on.
    pub(super) fn from(&self, at: usize) -> Option<Range<usize>> {
        Some(self.tokens.get(at)?.start..self.tokens.last()?.end)
    }
}

/// The token means the same to every server: an identifier is neither cut nor folded by rules that depend on the
/// database's encoding, and has no Unicode escapes.
fn is_plain(token: &Token, sql: &str) -> bool {
    let text = token.text(sql);
    match token.kind {
        Kind::Unterminated => false,
        Kind::Word => text.len() <= IDENTIFIER_MAX && text.to_lowercase() == text.to_ascii_lowercase(),
        Kind::Quoted => text.starts_with('"') && text.len() <= IDENTIFIER_MAX,
        _ => true,
    }
}
