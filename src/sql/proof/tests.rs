//! Verdicts on hand-made catalogues; tests/proof.rs has those on a real server's.

use super::*;
use crate::sql::class::classify;
use proptest::prelude::*;

type Rows = Vec<Vec<Option<String>>>;

/// Main's answers, made by hand. OIDs of users' objects begin at 20000.
struct Answers([Rows; 8]);

const FUNCTIONS: usize = 1;
const OPERATORS: usize = 2;
const RELATIONS: usize = 3;
const TYPES: usize = 4;
const HOOKS: usize = 5;
const USES: usize = 6;

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|c| Some((*c).to_owned())).collect()
}

impl Answers {
    /// Some built-ins, a table `t` (20000) with a row type, and an immutable function `f` (20100).
    fn new() -> Answers {
        let mut a = Answers([const { Vec::new() }; 8]);
        a.0[0] = vec![
            row(&["f", "lower count row_to_json regexp_replace"]),
            row(&["o", "= <> < <= > >= ~~ !~~ ~~* !~~* ~ !~ + - * / ||"]),
            row(&["r", "pg_class tables"]),
            row(&["t", "int4 text inet oid"]),
        ];
        a.0[7] = vec![row(&["f"])];
        a.add(FUNCTIONS, &["1598", "pg_catalog", "random", "v", "f", "", "701", ""])
            .add(FUNCTIONS, &["1574", "pg_catalog", "nextval", "v", "t", "2205", "20", ""])
            .add(FUNCTIONS, &["1299", "pg_catalog", "now", "s", "f", "", "1184", ""])
            .add(FUNCTIONS, &["20100", "public", "f", "i", "t", "23", "23", ""])
            .add(RELATIONS, &["20000", "t", "r", "f", "23 25"])
            .add(TYPES, &["20001", "t", "f", "0 0", "20000"])
            .add(TYPES, &["26", "oid", "t", "0 0", "0"]);
        a
    }

    fn add(&mut self, query: usize, cells: &[&str]) -> &mut Answers {
        self.0[query].push(row(cells));
        self
    }

    fn catalogue(&self) -> Catalogue {
        Catalogue::from_rows(7, &self.0, &[], &[]).unwrap()
    }

    fn judge(&self, sql: &str) -> Effect {
        judge(sql, &self.catalogue())
    }
}

fn judge(sql: &str, catalogue: &Catalogue) -> Effect {
    effect(sql, true, &classify(sql, true), catalogue)
}

#[test]
fn a_read_is_proved_only_if_every_name_in_it_is_known_and_harmless() {
    let mut a = Answers::new();
    for (sql, expected) in [
        ("select a + 1 from t where lower(b) = $1", Effect::Read),
        ("select now(), f(1)", Effect::Read),
        ("select random() from t", Effect::MainOnly),
        ("select relname from pg_class", Effect::MainOnly),
        ("select 1::oid", Effect::MainOnly),
        ("select nextval('s')", Effect::Unknown),
        ("select g(1)", Effect::Unknown),
        ("select 1 from u", Effect::Unknown),
        ("select 1 @@@ 2", Effect::Unknown),
        ("select 'x'::v", Effect::Unknown),
    ] {
        assert_eq!(a.judge(sql), expected, "{sql}");
        assert_eq!(judge(sql, &Catalogue::default()), Effect::Unknown, "{sql}");
    }
    a.add(FUNCTIONS, &["20101", "other", "f", "v", "f", "25", "23", ""]);
    assert_eq!(a.judge("select f(1)"), Effect::Unknown, "another schema's function of that name is volatile");
}

#[test]
fn aggregates_are_judged_by_their_support_functions() {
    let mut a = Answers::new();
    a.add(FUNCTIONS, &["20102", "public", "step", "v", "f", "23 23", "23", ""])
        .add(FUNCTIONS, &["20103", "public", "good", "i", "t", "23", "23", "20100"])
        .add(FUNCTIONS, &["20104", "public", "bad", "i", "t", "23", "23", "20100 20102"]);
    assert_eq!(a.judge("select good(a) from t"), Effect::Read);
    assert_eq!(a.judge("select bad(a) from t"), Effect::Unknown);
}

#[test]
fn what_views_policies_checks_and_defaults_use_is_theirs_through_any_number_of_steps() {
    let mut a = Answers::new();
    a.add(RELATIONS, &["20010", "v1", "v", "f", "23"])
        .add(RELATIONS, &["20011", "v2", "v", "f", "23"])
        .add(RELATIONS, &["20012", "v3", "v", "f", "23"])
        .add(RELATIONS, &["20013", "guarded", "r", "t", "23"])
        .add(USES, &["r", "20010", "relid 20011"])
        .add(USES, &["r", "20011", "relid 20012"]);
    assert_eq!(a.judge("select * from v1"), Effect::Read);
    assert_eq!(a.judge("select * from guarded"), Effect::MainOnly);
    a.add(USES, &["r", "20012", "varattno -1"]);
    assert_eq!(a.judge("select * from v1"), Effect::MainOnly);
    a.add(USES, &["r", "20012", "funcid 1574"]);
    assert_eq!(a.judge("select * from v1"), Effect::Unknown);
    assert_eq!(a.judge("select v1 from t"), Effect::Unknown, "a doubtful name counts wherever it stands");
    a.add(USES, &["r", "20013", "opnos (o 96 20200"]);
    assert_eq!(a.judge("select * from guarded"), Effect::Unknown, "an operator that is not in the catalogue");
    a.add(USES, &["f", "20100", "funcid 1574"]);
    assert_eq!(a.judge("select f()"), Effect::Unknown);
}

#[test]
fn a_type_is_as_doubtful_as_what_its_casts_checks_and_parts_call() {
    let mut a = Answers::new();
    a.add(FUNCTIONS, &["20110", "public", "checks", "v", "t", "23", "16", ""])
        .add(FUNCTIONS, &["20111", "public", "takes", "i", "t", "20030", "23", ""])
        .add(FUNCTIONS, &["20112", "public", "gives", "i", "t", "23", "20030", ""])
        .add(TYPES, &["20030", "d", "t", "23 0", "0"])
        .add(TYPES, &["20031", "_d", "t", "0 20030", "0"])
        .add(RELATIONS, &["20032", "ds", "r", "f", "20031"]);
    let judged = |a: &Answers| {
        ["select 1::d", "select '{1}'::d[]", "select * from ds", "select takes(1)", "select gives(1)"]
            .map(|sql| a.judge(sql))
    };
    use Effect::{MainOnly, Read, Unknown};
    assert_eq!(judged(&a), [MainOnly, MainOnly, MainOnly, Read, MainOnly]);
    a.add(USES, &["t", "20030", "funcid 20110"]);
    assert_eq!(judged(&a), [Unknown; 5]);
    assert_eq!(a.judge("select 1"), Read);
    // A cast between built-in types may stand anywhere.
    a.add(HOOKS, &["23", "20110"]);
    assert_eq!(a.judge("select 1"), Unknown);
}

#[test]
fn a_volatile_operator_that_comparisons_use_leaves_nothing_proved() {
    let mut a = Answers::new();
    a.add(FUNCTIONS, &["20120", "public", "eq", "v", "f", "23 25", "16", ""])
        .add(OPERATORS, &["20220", "===", "20120", "23", "25"]);
    assert_eq!(a.judge("select a === b from t"), Effect::Unknown);
    assert_eq!(a.judge("select a in (1) from t"), Effect::Read);
    a.add(OPERATORS, &["20221", "=", "20120", "23", "25"]);
    assert_eq!(a.judge("select a in (1) from t"), Effect::Unknown);
}

#[test]
fn the_lists_override_the_catalogue_by_name_or_by_schema_and_name() {
    let mut a = Answers::new();
    a.add(FUNCTIONS, &["20130", "s", "g", "v", "f", "", "23", ""]);
    let judged = |read: &[&str], write: &[&str], sql: &str| {
        let own = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        judge(sql, &Catalogue::from_rows(7, &a.0, &own(read), &own(write)).unwrap())
    };
    assert_eq!(judged(&[], &[], "select g()"), Effect::Unknown);
    assert_eq!(judged(&["G"], &[], "select g()"), Effect::Read);
    assert_eq!(judged(&["s.g"], &[], "select g()"), Effect::Read);
    assert_eq!(judged(&["other.g"], &[], "select g()"), Effect::Unknown);
    assert_eq!(judged(&[], &["f"], "select f(1)"), Effect::Unknown);
}

#[test]
fn whole_rows_stay_on_main_unless_they_become_text_or_a_count() {
    let a = Answers::new();
    for (sql, expected) in [
        ("select row_to_json(t), count(t.*), t is null, t::text, t.a from t", Effect::Read),
        ("select t from t", Effect::MainOnly),
        ("select x, row_to_json(x) from t as x", Effect::MainOnly),
        ("select (t).a from t", Effect::MainOnly),
        ("select lower(t.*) from t", Effect::MainOnly),
        ("with x as (select a as x from t) select x from x", Effect::Read),
        ("select null::t", Effect::MainOnly),
    ] {
        assert_eq!(a.judge(sql), expected, "{sql}");
    }
}

#[test]
fn names_that_a_server_might_read_otherwise_prove_nothing() {
    let a = Answers::new();
    let long = format!("select 1 as {}", "a".repeat(64));
    for sql in
        [long.as_str(), "select 1 as \u{c9}", "select U&\"t\" from t", "select '\u{fffd}'", "select * from pg_temp_3.t"]
    {
        assert_eq!(a.judge(sql), Effect::Unknown, "{sql}");
    }
    let class = classify("select 'a\\'", false);
    assert_eq!(effect("select 'a\\\\' from t", false, &class, &a.catalogue()), Effect::Unknown);
    assert_eq!(a.judge("select 1 as \u{e9}"), Effect::Read);
}

#[test]
fn statements_too_long_or_too_deep_are_opaque_and_those_at_the_limit_fit_a_small_stack() {
    let judged = std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(|| {
            let catalogue = Answers::new().catalogue();
            // Each part has one token of those that are counted, but for the last one.
            let chains =
                [" + 1", " or true", " union select 1", " is null", " collate x", " at time zone 'x'", "::int4"];
            let at_limit = chains.map(|part| {
                let n = if part == "::int4" { 499 } else { 999 };
                judge(&format!("select 1{}", part.repeat(n)), &catalogue)
            });
            let deep = ["(", "select (", "not ", "- ", "case when true then "]
                .map(|part| judge(&format!("select {}1", part.repeat(3000)), &catalogue));
            let long = chains.map(|part| judge(&format!("select 1{}", part.repeat(100_000)), &catalogue));
            let list = judge(&format!("select a from t where a in (1{})", ", 2".repeat(2000)), &catalogue);
            (at_limit, deep, long, list)
        })
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(judged, ([Effect::Read; 7], [Effect::Unknown; 5], [Effect::Unknown; 7], Effect::Read));
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused_with_their_place() {
    let mut a = Answers::new();
    assert!(Catalogue::from_rows(1, &[], &[], &[]).unwrap_err().contains("0 answers to 8 queries"));
    a.add(FUNCTIONS, &["x", "public", "g", "v", "f", "", "", ""]);
    let error = Catalogue::from_rows(1, &a.0, &[], &[]).unwrap_err();
    assert_eq!(error, "catalogue: functions, row 4: column 0 is \"x\", which is no OID");
}

#[test]
fn every_operator_and_function_of_the_catalogue_queries_is_qualified() {
    use crate::sql::lexer::{Kind, Lexer};
    // What the grammar itself knows, and table aliases or kinds of rows.
    const KEYWORDS: [&str; 12] =
        ["exists", "coalesce", "operator", "any", "and", "from", "or", "on", "lateral", "as", "where", "array"];
    for sql in Catalogue::QUERIES {
        let tokens: Vec<_> = Lexer::new(sql, true).collect();
        for (i, t) in tokens.iter().enumerate() {
            let behind_dot = i > 0 && tokens[i - 1].is_char(b'.');
            let call = t.kind == Kind::Word && tokens.get(i + 1).is_some_and(|n| n.is_char(b'('));
            let keyword = KEYWORDS.iter().any(|k| t.is(sql, k));
            assert!(t.kind != Kind::Operator || behind_dot, "{} in {sql}", t.text(sql));
            assert!(!call || behind_dot || keyword, "{} in {sql}", t.text(sql));
            for operator_word in ["in", "like", "using", "between", "nullif"] {
                assert!(!t.is(sql, operator_word), "{operator_word} in {sql}");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_text_there_is_a_verdict(sql in "(select|with|table|copy|explain|declare)? ?\\PC{0,80}") {
        let catalogue = Answers::new().catalogue();
        let _verdict = judge(&sql, &catalogue);
    }

    #[test]
    fn a_volatile_call_is_seen_wherever_it_stands(
        before in "[a-z0-9 ,.()+'\"-]{0,30}", after in "[a-z0-9 ,.()+'\"-]{0,30}"
    ) {
        // If our lexer sees the call outside strings and comments, no text around it makes a read of it.
        let sql = format!("select {before} nextval('s') {after}");
        let calls = crate::sql::lexer::Lexer::new(&sql, true).any(|t| t.is(&sql, "nextval"));
        prop_assert!(!calls || judge(&sql, &Answers::new().catalogue()) == Effect::Unknown);
    }
}
