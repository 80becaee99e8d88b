//! What means the same on this node in fewer words: it has no inheritance, no identity columns, no operators of users, and
//! one statement of the proxy's own that its language is too small for.

use sqlparser::tokenizer::Token;

use super::functions::FOLLOW;

/// The same tokens without ONLY, OVERRIDING SYSTEM VALUE, and OPERATOR() around an operator.
pub fn tokens(tokens: Vec<Token>) -> Vec<Token> {
    let is = |at: usize, word: &str| match tokens.get(at) {
        Some(Token::Word(w)) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    };
    let mut out = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is(at, "only") && at > 0 && (is(at - 1, "update") || is(at - 1, "from")) {
            at += 1;
        } else if is(at, "overriding") && is(at + 1, "system") && is(at + 2, "value") {
            at += 3;
        } else if is(at, "operator")
            && tokens.get(at + 1) == Some(&Token::LParen)
            && is(at + 2, "pg_catalog")
            && tokens.get(at + 5) == Some(&Token::RParen)
        {
            out.push(tokens[at + 4].clone());
            at += 6;
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}

/// What [`crate::sql::proof::follow`] has made, as a call of a function of this node's own.
pub fn follows(text: &str) -> Option<String> {
    let name = text.strip_prefix("SELECT CASE WHEN pg_catalog.has_sequence_privilege('")?.split('\'').next()?;
    let made = crate::sql::proof::follow(name, 1, 1);
    let plain = name.strip_prefix("public.").unwrap_or(name);
    (text.as_bytes() == &made[..]).then(|| format!("SELECT \"{FOLLOW}\"('{plain}', $1) AS \"case\""))
}
