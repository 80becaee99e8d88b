//! Verdicts on hand-made catalogues; tests/proof.rs has those on a real server's.

use super::*;
use crate::sql::class::classify;
use proptest::prelude::*;

type Rows = Vec<Vec<Option<String>>>;

/// Main's answers, made by hand. OIDs of users' objects begin at 20000.
struct Answers([Rows; 10]);

const FUNCTIONS: usize = 1;
const OPERATORS: usize = 2;
const RELATIONS: usize = 3;
const TYPES: usize = 4;
const HOOKS: usize = 5;
const USES: usize = 6;
const TABLES: usize = 8;
const COLUMNS: usize = 9;

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|c| Some((*c).to_owned())).collect()
}

impl Answers {
    /// Some built-ins, a table `t` (20000) with a row type, and an immutable function `f` (20100).
    fn new() -> Answers {
        let mut a = Answers([const { Vec::new() }; 10]);
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

    /// Tables `plain` (id by default from a sequence, a, b, c with a random default; key id), `pair` (x, y; key both),
    /// `bare` (v; no key), and `fires` with a trigger.
    fn with_tables() -> Answers {
        let mut a = Answers::new();
        a.0[0][0] = row(&["f", "lower int4pl abs max"]);
        for (oid, name, plain) in
            [("21000", "plain", "t"), ("21001", "pair", "t"), ("21002", "bare", "t"), ("21003", "fires", "f")]
        {
            a.add(RELATIONS, &[oid, name, "r", "f", "23 25"])
                .add(TABLES, &[oid, "public", name, plain, "app\nother", "app", "app"]);
        }
        let id = ["21000", "id", "20", "f", "", "1", "t", "f", "1574", "public.plain_id_seq", "1", "1", "f"];
        a.add(COLUMNS, &id)
            .add(COLUMNS, &["21000", "a", "23", "f", "", "", "t", "f", "177"])
            .add(COLUMNS, &["21000", "b", "25", "f", "", "", "f"])
            .add(COLUMNS, &["21000", "c", "701", "f", "", "", "t", "f", "1598"])
            .add(COLUMNS, &["21001", "x", "23", "f", "", "1", "f"])
            .add(COLUMNS, &["21001", "y", "23", "f", "", "2", "f"])
            .add(COLUMNS, &["21001", "v", "23", "f", "", "", "f"])
            .add(COLUMNS, &["21002", "v", "23", "f", "", "", "f"])
            .add(COLUMNS, &["21003", "id", "23", "f", "", "1", "f"]);
        a
    }

    fn form(&self, sql: &str) -> Form {
        form(sql, true, &classify(sql, true), &self.catalogue(), true)
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
    assert!(Catalogue::from_rows(1, &[], &[], &[]).unwrap_err().contains("0 answers to 10 queries"));
    a.add(FUNCTIONS, &["x", "public", "g", "v", "f", "", "", ""]);
    let error = Catalogue::from_rows(1, &a.0, &[], &[]).unwrap_err();
    assert_eq!(error, "catalogue: functions, row 4: column 0 is \"x\", which is no OID");
}

#[test]
fn every_operator_and_function_of_the_catalogue_queries_is_qualified() {
    use crate::sql::lexer::{Kind, Lexer};
    // What the grammar itself knows, and table aliases or kinds of rows.
    const KEYWORDS: [&str; 13] =
        ["exists", "join", "coalesce", "operator", "any", "and", "from", "or", "on", "lateral", "as", "where", "array"];
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

#[test]
fn a_write_is_keyed_only_if_it_names_its_row_by_the_whole_key_and_computes_the_same_everywhere() {
    let a = Answers::with_tables();
    for sql in [
        "update plain set a = a + 1 where id = 5",
        "update plain as p set a = lower(b)::int where p.id = $1 and b = 'x'",
        "delete from pair where y = 2 and 1 = x",
        "delete from public.pair where x = $1 and y = $2 returning v",
        "insert into pair values (1, 2, 3), (4, 5, 6)",
        "insert into pair (x, y) values ($1, $2) on conflict (x, y) do update set v = pair.v + excluded.v",
        "insert into plain (id, c, b) values (1, 0.5, 'x')",
        "update plain set b = 'x', a = 3 where id = 9 returning *",
        "insert into bare values (now())",
    ] {
        assert!(matches!(a.form(sql), Form::Keyed), "{sql}: {:?}", a.form(sql));
    }
    for sql in [
        "update plain set a = 1",
        "update plain set a = 1 where id = 5 or a = 3",
        "update plain set a = 1 where id in (5, 6)",
        "update plain set a = 1 where id between 1 and a = 5",
        "update plain set a = 1 where id = 5::float8",
        "update plain set a = 1 where id = a",
        "update plain set c = random() where id = 5",
        "update plain set a = (select max(v) from bare) where id = 5",
        "update plain set a = bare.v from bare where id = 5",
        "delete from pair where x = 1",
        "insert into plain (b) values ('x')",
        "insert into plain (id, b, c) values (default, 'x', 1)",
        "insert into pair values (1, 2, 3), (4, 5, 6) on conflict do nothing",
        "insert into pair select v, v, v from bare",
        "update plain set a = 1 where current of c",
        "delete from plain using bare where id = 5",
    ] {
        assert!(matches!(a.form(sql), Form::Rows(_)), "{sql}: {:?}", a.form(sql));
    }
    for sql in [
        "update fires set id = 1 where id = 2",
        "update pair set x = x + 1",
        "insert into bare select g(1)",
        "insert into bare select setval('s', 1)",
        "insert into bare with d as (delete from pair returning x) select x from d",
        "update nowhere set a = 1 where id = 5",
        "insert into pg_class values (1)",
        "merge into plain using bare on id = v when matched then delete",
        "explain analyze update plain set a = 1 where id = 5",
        "with d as (delete from pair returning x) select x from d",
        "do $$ begin end $$",
        "call p()",
        "copy fires from stdin",
        "copy plain (a) from stdin",
        "copy (delete from pair returning x) to stdout",
        "truncate fires",
        "truncate plain, fires restart identity",
        "truncate plain cascade",
        "truncate nowhere",
    ] {
        assert!(matches!(a.form(sql), Form::Image(_)), "{sql}: {:?}", a.form(sql));
    }
    for sql in [
        "update bare set v = v + 1",
        "delete from bare",
        "copy pair from stdin",
        "select setval('s', 1)",
        "select 1 for update",
        "select 1 for no key update",
        "truncate plain",
        "truncate table only public.plain, pair * restart identity",
        "create table x (a int)",
    ] {
        assert!(matches!(a.form(sql), Form::AsItIs), "{sql}: {:?}", a.form(sql));
    }
}

/// Nobody knows what a user's function in a default does; a value that is given leaves it uncalled.
#[test]
fn a_doubtful_default_stands_only_against_inserts_that_take_it() {
    let mut a = Answers::with_tables();
    a.add(FUNCTIONS, &["20130", "public", "g", "v", "f", "", "23", ""]);
    a.add(COLUMNS, &["21002", "w", "23", "f", "", "", "t", "f", "20130"]);
    for (sql, rows) in [
        ("insert into bare (v, w) select 1, 2", true),
        ("insert into bare (v) select 1", false),
        ("insert into bare select 1, 2", false),
        ("insert into bare values (random())", false),
        ("insert into bare (v, w) values (random(), default)", false),
    ] {
        assert_eq!(matches!(a.form(sql), Form::Rows(_)), rows, "{sql}: {:?}", a.form(sql));
        assert_eq!(matches!(a.form(sql), Form::Image(_)), !rows, "{sql}: {:?}", a.form(sql));
    }
}

#[test]
fn what_main_is_asked_for_is_what_replicas_need() {
    let a = Answers::with_tables();
    let rows = |sql: &str| match a.form(sql) {
        Form::Rows(r) => r,
        other => panic!("{sql}: {other:?}"),
    };
    let text = |b: &bytes::Bytes| String::from_utf8(b.to_vec()).unwrap();
    let r = rows("insert into plain (b) select 'x' returning id");
    assert_eq!(r.returning, ", \"plain\".\"id\", \"plain\".\"a\", \"plain\".\"b\", \"plain\".\"c\"");
    let inserted = "INSERT INTO \"public\".\"plain\" (\"id\", \"a\", \"b\", \"c\") OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4)";
    assert_eq!((text(&r.statement).as_str(), r.columns, r.returns, r.sequences.len()), (inserted, 4, true, 1));
    assert!(r.copy.is_some() && r.roles.contains("app") && !r.roles.contains("other"));
    let r = rows("update plain p set (a, b) = (1, 'x'), c = random() where a > 3");
    assert_eq!(r.returning, " RETURNING \"p\".\"a\", \"p\".\"b\", \"p\".\"c\", \"p\".\"id\"");
    assert_eq!(
        text(&r.statement),
        "UPDATE \"public\".\"plain\" SET \"a\" = $1, \"b\" = $2, \"c\" = $3 WHERE \"id\" = $4"
    );
    let r = rows("delete from pair where x > 3");
    assert_eq!(text(&r.statement), "DELETE FROM \"public\".\"pair\" WHERE \"x\" = $1 AND \"y\" = $2");
    assert_eq!(
        r.asked(b"delete from pair where x > 3 ; -- end", 28),
        "delete from pair where x > 3 RETURNING \"pair\".\"x\", \"pair\".\"y\""
    );
    let r = rows("insert into pair select v, v, 1 from bare on conflict (x, y) do update set v = 2");
    assert!(text(&r.statement).ends_with("ON CONFLICT (\"x\", \"y\") DO UPDATE SET \"x\" = EXCLUDED.\"x\", \"y\" = EXCLUDED.\"y\", \"v\" = EXCLUDED.\"v\""));
    assert!(r.copy.is_none());
    let r = rows("insert into plain (id, b) values (7, 'x')");
    assert!(r.sequences.is_empty(), "the client gave the number");
}

#[test]
fn a_name_that_stands_in_two_schemas_or_is_a_temporary_table_means_no_table_for_certain() {
    let mut a = Answers::with_tables();
    let temporary = a.catalogue().with_temporary(std::iter::once("pair".to_owned()).collect());
    let sql = "delete from pair where x = 1 and y = 2";
    assert!(matches!(form(sql, true, &Class::Delete, &temporary, false), Form::Image(_)));
    a.add(TABLES, &["21009", "other", "pair", "t", "", "", ""]).add(COLUMNS, &["21009", "x", "23", "f", "", "1", "f"]);
    assert!(matches!(a.form(sql), Form::Image(_)));
    assert!(matches!(a.form("delete from public.pair where x = 1 and y = 2"), Form::Keyed));
    a.add(TABLES, &["21010", "other", "plain", "f", "", "", ""]);
    assert!(matches!(a.form("delete from plain where id = 1"), Form::Image(_)), "it may be a view");
    assert!(matches!(a.form("delete from other.pair where x = 1"), Form::Keyed));
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

#[test]
fn a_proof_that_fails_names_the_first_part_that_decides() {
    let mut a = Answers::with_tables();
    a.add(FUNCTIONS, &["20101", "public", "writes", "v", "f", "", "23", ""])
        .add(RELATIONS, &["20010", "v1", "v", "f", "23"])
        .add(RELATIONS, &["20011", "v2", "v", "f", "23"])
        .add(RELATIONS, &["20013", "guarded", "r", "t", "23"])
        .add(USES, &["r", "20010", "relid 20011"])
        .add(USES, &["r", "20011", "funcid 20101"]);
    let long = format!("select 1{}", " + 1".repeat(2000));
    for (sql, said) in [
        ("select a from t", None),
        ("select random()", Some("function random() gives each server's own answer")),
        ("select random(), writes(), nextval('s')", Some("function writes() is VOLATILE: it may write")),
        ("select nextval('s')", Some("function nextval() writes, or runs what it is given")),
        ("select * from v1", Some("relation v1 uses function writes(), which is VOLATILE: it may write")),
        ("select * from guarded", Some("relation guarded has row security: what is seen depends on who asks")),
        (
            "select relname from pg_class",
            Some("relation pg_class belongs to the system catalogue, which each node has its own of"),
        ),
        ("select 1 from nowhere", Some("relation nowhere is not in the catalogue")),
        ("select g(1)", Some("function g() is not in the catalogue")),
        ("select xmin from t", Some("xmin is each node's own")),
        ("select a from t for update", Some("it locks rows")),
        ("select a into u from t", Some("no proof is made for this kind of statement")),
        ("select t from t", Some("a whole row is a result: the OID of its type is each node's own")),
        ("explain select random()", Some("function random() gives each server's own answer")),
        (
            "copy pg_class to stdout",
            Some("relation pg_class belongs to the system catalogue, which each node has its own of"),
        ),
        ("select 'x", Some("a string or comment in it has no end")),
        (&long, Some("it has more than 1000 operators and conjunctions")),
        ("select * from json_table('[]', '$' columns (x int path '$'))", Some("this part is not known: JsonTable")),
    ] {
        let found = finding(sql, true, &classify(sql, true), &a.catalogue());
        assert_eq!(found.reason.map(|r| r.to_string()).as_deref(), said, "{sql}");
        assert_eq!(found.effect == Effect::Read, said.is_none(), "{sql}");
    }
    let sql = "select a a a from t";
    let found = finding(sql, true, &classify(sql, true), &a.catalogue());
    assert!(matches!(found.reason, Some(Reason::Parser(_))), "{found:?}");
}

#[test]
fn a_write_says_why_it_goes_in_no_cheaper_form() {
    let mut a = Answers::with_tables();
    a.add(RELATIONS, &["21004", "audited", "r", "f", "23"])
        .add(TABLES, &["21004", "public", "audited", "f", "app", "app", "app", "f", "f", "f", "t audit_trg\ns"])
        .add(FUNCTIONS, &["20101", "public", "writes", "v", "f", "", "23", ""])
        .add(RELATIONS, &["21005", "doubt", "r", "f", "23"])
        .add(TABLES, &["21005", "public", "doubt", "t", "app", "app", "app"])
        .add(COLUMNS, &["21005", "v", "23", "f", "", "", "t", "f", "20101"]);
    let catalogue = a.catalogue();
    for (sql, not_keyed, not_rows) in [
        ("update plain set a = 1 where id = 5", None, None),
        ("update plain set a = 1 where a = 5", Some("WHERE does not name primary key id = value"), None),
        ("delete from pair where x = 1", Some("WHERE does not name primary key y = value"), None),
        ("delete from pair", Some("it has no WHERE: it names no row"), None),
        ("delete from pair where x = 1 and y = 2 or v = 3", Some("OR stands in its WHERE"), None),
        ("update plain set c = random() where id = 5", Some("function random() gives each server's own answer"), None),
        ("update plain set b = 'now' where id = 5", Some("a string in it means a moment ('now', 'today')"), None),
        (
            "insert into plain (b) values (1)",
            Some("column id takes its default from sequence public.plain_id_seq"),
            None,
        ),
        ("insert into plain (id, b) values (1, 'x')", Some("column c has a default that calls random()"), None),
        (
            "insert into plain (id, b, c) values (1, 'x', default)",
            Some("DEFAULT stands for a value, and a column's default differs between nodes"),
            None,
        ),
        (
            "insert into pair select 1, 2, 3",
            Some("SELECT stands in it: what a query finds may differ between nodes"),
            None,
        ),
        ("delete from plain using bare where id = 5", Some("another table takes part"), None),
        ("update bare set v = 1", Some("table bare has no primary key"), Some("table bare has no primary key")),
        (
            "update pair set x = 3 where y = 1",
            Some("WHERE does not name primary key x = value"),
            Some("column x of the primary key is set"),
        ),
        (
            "insert into bare values (writes())",
            Some("function writes() is VOLATILE: it may write"),
            Some("function writes() is VOLATILE: it may write"),
        ),
        (
            "insert into doubt default values",
            Some("its rows are not given by VALUES"),
            Some("column v has a default that calls writes(), and it is not known what that writes"),
        ),
        (
            "update audited set v = 1 where id = 1",
            None,
            Some("table audited has trigger audit_trg and has row security"),
        ),
        ("update fires set id = 1 where id = 2", None, Some("table fires is no plain table")),
        (
            "update nowhere set a = 1",
            None,
            Some("table nowhere is not in the catalogue, or the name stands in several schemas"),
        ),
        (
            "merge into plain using bare on id = v when matched then delete",
            None,
            Some("MERGE chooses what it does row by row"),
        ),
        ("with d as (delete from pair returning v) select v from d", None, Some("WITH has a part that writes")),
        ("do $$ begin end $$", None, Some("nobody knows what a DO block writes")),
        ("select writes()", None, Some("writes may write")),
        ("copy plain (a) from stdin", None, Some("column id takes its default from sequence public.plain_id_seq")),
        ("explain analyze update plain set a = 1 where id = 5", None, Some("EXPLAIN ANALYZE stands in front of it")),
    ] {
        let j = judged(sql, true, &classify(sql, true), &catalogue, true);
        let text = |r: &Option<Reason>| r.as_ref().map(ToString::to_string);
        assert_eq!((text(&j.not_keyed).as_deref(), text(&j.not_rows).as_deref()), (not_keyed, not_rows), "{sql}");
        // A reason for each form that stands before the one that was found, and for no other.
        match j.form {
            Form::Keyed => assert!(not_keyed.is_none() && not_rows.is_none(), "{sql}"),
            Form::Rows(_) => assert!(not_keyed.is_some() && not_rows.is_none(), "{sql}"),
            Form::AsItIs | Form::Image(_) => assert!(not_rows.is_some(), "{sql}"),
        }
    }
}

#[test]
fn a_read_of_one_row_names_it_and_looks_at_no_other() {
    let mut a = Answers::with_tables();
    let (whole, acted) = (["f", "f", "f", "", "t", "f"], ["f", "f", "f", "", "t", "t"]);
    for (oid, name, more) in [("22000", "one", whole), ("22001", "parent", acted), ("22002", "texts", whole)] {
        let key = if name == "texts" { "25" } else { "23" };
        a.add(RELATIONS, &[oid, name, "r", "f", "23"])
            .add(TABLES, &[&[oid, "public", name, "t", "app", "app", "app"][..], &more].concat())
            .add(COLUMNS, &[oid, "id", key, "f", "", "1", "f"])
            .add(COLUMNS, &[oid, "v", "23", "f", "", "", "f"]);
    }
    a.add(FUNCTIONS, &["20200", "public", "peeks", "s", "t", "23 23", "23", ""])
        .add(OPERATORS, &["20201", "###", "20200", "23", "23"])
        .add(FUNCTIONS, &["20202", "public", "peek", "s", "t", "22001", "23", ""]);
    let catalogue = a.catalogue();
    let read = |sql: &str| row_read(sql, true, &classify(sql, true), &catalogue);
    for sql in [
        "select v from one where id = 1",
        "SELECT o.*, lower('x') FROM public.one AS o WHERE v > 3 AND 1 = o.id ORDER BY v LIMIT 1",
        "select max(v) from one where id = $1 having max(v) > 0",
        "select v from parent where id = 1",
    ] {
        assert!(read(sql).is_some(), "{sql}");
    }
    for sql in [
        "select v from one",
        "select v from one where id = 1 or v = 2",
        "select v from one where id in (1)",
        "select v from one where id = 1 for update",
        "select v from one where id = 1 union select 2",
        "select v from one where id = 1 and v = (select max(v) from one)",
        "select v from one where id = 1 and exists (table one)",
        "select v from one a(v, id) where id = 1",
        "select v from one, parent where one.id = 1",
        "select v from one join parent using (id) where id = 1",
        "select v from one where id = 1 and peeks(1, 2) = 3",
        "select v ### 1 from one where id = 1",
        "select one.peek from one where id = 1",
        "select now() from one where id = 1",
        "select v from texts where id = '1'",
        // Partitions, and what is none for certain.
        "select a from plain where id = 1",
        "select v from nowhere where id = 1",
        "with x as (select 1) select v from one where id = 1",
    ] {
        assert!(read(sql).is_none(), "{sql}");
    }
    let written = |sql: &str| judged(sql, true, &classify(sql, true), &catalogue, true).rows.map(|r| r.len());
    for (sql, rows) in [
        ("update one set v = 3 where id = 1", Some(1)),
        ("insert into one values (1, 2), (3, 4), ($1, 6)", Some(3)),
        ("insert into one (v, id) values (1 + 1, 2)", Some(1)),
        ("insert into one values (1, 2) on conflict do nothing", Some(1)),
        ("insert into parent values (1, 2)", Some(1)),
        // Nobody reads these by their key alone.
        ("insert into texts values ('x', 2)", Some(0)),
        ("insert into bare values (3)", Some(0)),
        // Others may be written.
        ("update one set id = 3 where id = 1", None),
        ("insert into one values (1 + 1, 2)", None),
        ("insert into one values (1, 2) on conflict (id) do update set v = 3", None),
        ("update parent set v = 3 where id = 1", None),
        ("delete from parent where id = 1", None),
    ] {
        assert_eq!(written(sql), rows, "{sql}");
    }
    assert!(matches!(a.form("update one set v = v ### 1 where id = 1"), Form::Rows(_)));
}
