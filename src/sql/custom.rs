//! Custom settings: names with a dot that no extension has declared (`SET app.tenant = 'x'`).
//!
//! A server makes such a placeholder when it first hears of the name, and keeps it for good: after RESET, DISCARD ALL and
//! even ROLLBACK it reads as an empty string, where it was NULL (`current_setting('app.tenant', true)`). Nothing lists
//! them (GUC_NO_SHOW_ALL in guc.c), so whoever wants to know must know the names.

use super::class::Class;

/// Names that a statement may make known to its server, lower-case. `sets`: a function stands in it that sets settings
/// by name. Rather too many than too few: whatever looks like such a name counts then.
#[must_use]
pub fn names(sql: &[u8], bind: &[u8], class: &Class, sets: bool) -> Vec<String> {
    match class {
        Class::Set { name, .. } | Class::Reset(name) if name.contains('.') => vec![name.clone()],
        // What the block holds is a string to the lexer.
        Class::Do if !mentions(sql, b"set_config") && !mentions(sql, b"set ") => Vec::new(),
        Class::Do => found_in(sql).collect(),
        _ if sets && mentions(sql, b"set_config") => found_in(sql).chain(found_in(bind)).collect(),
        _ => Vec::new(),
    }
}

/// Whatever looks like a name with a dot.
pub fn found_in(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    // Values beyond this are no names.
    let text = &text[..text.len().min(64 * 1024)];
    let words = text.split(|&b| !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.') || b >= 0x80));
    words.filter(|w| is_name(w)).filter_map(|w| Some(std::str::from_utf8(w).ok()?.to_lowercase()))
}

/// `valid_custom_variable_name` in guc.c.
fn is_name(word: &[u8]) -> bool {
    let starts = |p: &[u8]| p.first().is_some_and(|&b| b.is_ascii_alphabetic() || b == b'_' || b >= 0x80);
    word.contains(&b'.') && word.len() < 256 && word.split(|&b| b == b'.').all(starts)
}

fn mentions(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_may_be_set_and_nowhere_else() {
        let of = |sql: &str, bind: &str, class: &Class| names(sql.as_bytes(), bind.as_bytes(), class, true);
        let select = Class::Select { into: false, for_update: false };
        let set = Class::Set { local: true, name: "app.tenant".into() };
        assert_eq!(of("set local App.Tenant to 1", "", &set), ["app.tenant"]);
        assert_eq!(of("reset work_mem", "", &Class::Reset("work_mem".into())), [""; 0]);
        assert_eq!(of("select set_config('App.x', '1.5', false)", "", &select), ["app.x"]);
        assert_eq!(of("select set_config($1, $2, false)", "\0\0\0\x05app.y\0\0\0\x01z", &select), ["app.y"]);
        assert_eq!(of("select a.b from a", "", &select), [""; 0]);
        assert_eq!(of("do $$ begin perform SET_CONFIG('a.b.c', '', true); end $$", "", &Class::Do), ["a.b.c"]);
        assert!(of("do $$ begin update a.b ; end $$", "", &Class::Do).is_empty());
    }
}
