//! The password in CREATE and ALTER ROLE, USER and GROUP.

use std::ops::Range;

use super::lexer::{Kind, Lexer, Token};

/// Where the statement's plain password stands, quotes included, and what it is. `None`: there is none, it is NULL or
/// hashed already (`get_password_type` in crypt.c), or it is written in a form that is not read here (E'' with
/// backslashes, U&'').
#[must_use]
pub fn plain_password(sql: &str, std_strings: bool) -> Option<(Range<usize>, String)> {
    let tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
    let is = |at: usize, words: &[&str]| tokens.get(at).is_some_and(|t| words.iter().any(|w| t.is(sql, w)));
    if !is(0, &["create", "alter"]) || !is(1, &["role", "user", "group"]) || is(2, &["mapping"]) {
        return None;
    }
    let at = (2..tokens.len()).find(|&i| is(i, &["password"]))? + 1;
    let literal = tokens.get(at).filter(|t| matches!(t.kind, Kind::String | Kind::OtherString))?;
    let text = literal.text(sql);
    let password = match (literal.kind, text.as_bytes()) {
        (Kind::String, _) => text.get(1..text.len() - 1)?.replace("''", "'"),
        (_, [b'e' | b'E', b'\'', ..]) if !text.contains('\\') => text.get(2..text.len() - 1)?.replace("''", "'"),
        (_, [b'$', ..]) => {
            let tag = text[1..].find('$')? + 2;
            text.get(tag..text.len() - tag)?.to_owned()
        }
        _ => return None,
    };
    let hashed = password.starts_with("SCRAM-SHA-256$")
        || (password.len() == 35
            && password.starts_with("md5")
            && password[3..].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    (!hashed && !password.is_empty()).then_some((literal.start..literal.end, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(sql: &str) -> Option<String> {
        let (range, password) = plain_password(sql, true)?;
        assert!(sql[range].contains(&password.replace('\'', "''")));
        Some(password)
    }

    #[test]
    fn plain_passwords_are_found_in_every_form_of_string_and_others_are_left_alone() {
        for (sql, found) in [
            ("CREATE ROLE a LOGIN PASSWORD 'x''y'", Some("x'y")),
            ("alter user \"password\" with encrypted password 'p' valid until '2030-01-01'", Some("p")),
            ("CREATE USER a PASSWORD E'p'", Some("p")),
            ("CREATE USER a PASSWORD $x$p$x$", Some("p")),
            ("CREATE USER a PASSWORD E'\\x41'", None),
            ("CREATE ROLE a PASSWORD NULL", None),
            ("CREATE ROLE a PASSWORD ''", None),
            ("CREATE ROLE a PASSWORD 'SCRAM-SHA-256$4096:x$y:z'", None),
            ("CREATE ROLE a PASSWORD 'md5e5c7045b5cf578feb27a8aa6ffc0fcc6'", None),
            ("CREATE USER MAPPING FOR a SERVER s OPTIONS (password 'p')", None),
            ("CREATE TABLE password (a text DEFAULT 'p')", None),
            ("ALTER ROLE a SET search_path = 'p'", None),
        ] {
            assert_eq!(password(sql).as_deref(), found, "{sql}");
        }
    }
}
