//! The lexer and all that rests on it: tokens lie in the text and in order, statements too, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pglockstep::sql::class::{classify, written_relation};
use pglockstep::sql::lexer::{Lexer, identifiers, split};
use pglockstep::sql::literals::{Now, time_literals};
use pglockstep::sql::role::plain_password;
use pglockstep::sql::shape::{parameterise, shape_hash};

fuzz_target!(|input: (bool, &str)| {
    let (std_strings, sql) = input;
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
});
