//! What the fuzz targets of `fuzz/` run, but for the session's ([`crate::session::fuzz`]): everything that parses bytes
//! from outside. Inputs that found something, and small ones that together reach all that was reached, are kept in
//! `fuzz/seeds` and run with the unit tests.

use bytes::Bytes;

use crate::auth::PoolPasswd;
use crate::sql::class::{classify, written_relation};
use crate::sql::lexer::{Lexer, identifiers, split};
use crate::sql::literals::{Now, time_literals};
use crate::sql::role::plain_password;
use crate::sql::shape::{parameterise, shape_hash};
use crate::wire::error::ErrorFields;
use crate::wire::fault::fault;
use crate::wire::frame::{BackendFramer, FrontendFramer};
use crate::wire::front::{Bind, Parse, StartupPacket, read_execute, read_target};

/// Largest message of the framers.
const MESSAGE_MAX: usize = 1 << 16;

/// A client's stream, cut anywhere (the first byte says how): what comes out must not depend on the cuts, and no
/// message's reader panics.
///
/// # Panics
/// It does.
pub fn frontend(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else { return };
    assert_eq!(frames(stream, stream.len()), frames(stream, usize::from(cut)));
}

fn frames(stream: &[u8], cut: usize) -> Vec<Bytes> {
    let mut framer = FrontendFramer::new(MESSAGE_MAX);
    let mut out = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        framer.push(Bytes::copy_from_slice(piece));
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    read(frame.body());
                    out.push(frame.raw);
                }
                Ok(None) => break,
                Err(_) => return out,
            }
        }
    }
    out
}

/// What can be read has no fault; what has none can be read, or has a name that is not UTF-8.
fn read(body: &[u8]) {
    let sound = |tag| fault(tag, body).is_none();
    let text = std::str::from_utf8(body).is_ok();
    let parse = Parse::read(body).is_some();
    assert!(!parse || sound(b'P'));
    assert!(!sound(b'B') || Bind::read(body).is_some() || !text);
    for (tag, is_read) in [
        (b'P', parse),
        (b'D', read_target(body).is_some()),
        (b'C', read_target(body).is_some()),
        (b'E', read_execute(body).is_some()),
    ] {
        assert!(is_read == sound(tag) || !text, "{} {body:?}", char::from(tag));
    }
}

/// A server's stream, cut anywhere (the first byte says how): the pieces put together are the stream, and errors are
/// read without a panic.
///
/// # Panics
/// They are not.
pub fn backend(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else { return };
    let mut framer = BackendFramer::new(MESSAGE_MAX);
    let mut out = Vec::new();
    'all: for piece in stream.chunks(usize::from(cut).max(1)) {
        framer.push(Bytes::copy_from_slice(piece));
        loop {
            match framer.next_piece() {
                Ok(Some(piece)) => {
                    let bytes = framer.bytes(&piece);
                    out.extend_from_slice(bytes);
                    if piece.first && piece.tag == b'E' {
                        let _ = ErrorFields::parse(bytes.get(5..).unwrap_or_default());
                    }
                }
                Ok(None) => break,
                Err(_) => break 'all,
            }
        }
    }
    assert!(stream.starts_with(&out));
}

/// Start-up packets of whatever kind, and pool_passwd's parser.
pub fn startup(input: &[u8]) {
    let _ = StartupPacket::read(input);
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = PoolPasswd::parse(text);
    }
}

/// The lexer and all that rests on it: tokens lie in the text and in order, statements too, and nothing panics. The
/// first byte says whether backslashes are escapes.
///
/// # Panics
/// They do not.
pub fn sql(input: &[u8]) {
    let Some((&how, text)) = input.split_first() else { return };
    let (std_strings, sql) = (how & 1 == 1, String::from_utf8_lossy(text));
    let sql = &*sql;
    let mut at = 0;
    for t in Lexer::new(sql, std_strings) {
        assert!(at <= t.start && t.start < t.end && t.end <= sql.len());
        at = t.end;
        let _ = t.text(sql);
    }
    for range in split(sql, std_strings).statements {
        let statement = &sql[range];
        let class = classify(statement, std_strings);
        if let Some(p) = parameterise(statement, std_strings, &class) {
            assert!(p.bind(statement, std_strings).is_some());
        }
        let _ = (written_relation(statement, std_strings), plain_password(statement, std_strings));
        let _ = (shape_hash(statement, std_strings), time_literals(statement, std_strings, &Now { micros: 1 }));
    }
    let _ = identifiers(sql, std_strings);
}

/// Every input that is kept for a target, with its path: those with names, and in `covering` the smallest that
/// together reach what the fuzzer has reached (`-set_cover_merge=1`).
#[cfg(test)]
pub(crate) fn kept(target: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let list = |folder: &std::path::Path| {
        let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        files.map(|f| f.unwrap().path()).collect::<Vec<_>>()
    };
    let covering = folder.join("covering");
    let mut paths = list(&folder);
    if covering.exists() {
        paths.retain(|p| *p != covering);
        paths.append(&mut list(&covering));
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    proptest! {
        /// Bytes of which most bodies are nearly messages.
        #[test]
        fn what_can_be_read_has_no_fault(
            body in vec(select(vec![0u8, 0, 0, 0, 0, 1, 2, 4, b'S', b'P', b'x', 0xff]), 0..24)
        ) {
            read(&body);
        }
    }

    #[test]
    fn kept_inputs_of_the_parsers_hold() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 4] = [("frontend", frontend), ("backend", backend), ("startup", startup), ("sql", sql)];
        for (target, run) in targets {
            let kept = kept(target);
            assert!(!kept.is_empty(), "the kept inputs of {target} are missing");
            for (path, input) in kept {
                if std::panic::catch_unwind(|| run(&input)).is_err() {
                    panic!("{}", path.display());
                }
            }
        }
    }
}
