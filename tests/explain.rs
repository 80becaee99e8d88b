//! `EXPLAIN (PGLOCKSTEP)`: what it says of all kinds of statements, by both protocols, and that it runs nothing.

mod support;

use pglockstep::wire::error::ErrorFields;
use support::raw::{Message, Raw};
use support::{Options, Sandbox};

const SCHEMA: &str = "
CREATE TABLE plain (id serial PRIMARY KEY, a int, b text);
CREATE TABLE pair (x int, y int, v int, PRIMARY KEY (x, y));
CREATE TABLE bare (v int);
CREATE TABLE audited (id int PRIMARY KEY, v int);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER audit_trg AFTER INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TRIGGER part_trg BEFORE INSERT ON parts_1 FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TABLE ident (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, u uuid DEFAULT gen_random_uuid());
CREATE VIEW shown AS SELECT * FROM pair;
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE VIEW through AS SELECT f(x) FROM pair;
CREATE PROCEDURE p(int) LANGUAGE plpgsql AS 'BEGIN END';
CREATE SCHEMA other;
CREATE TABLE other.bare (v int)";

/// A statement; lines that its explanation has, the first one first.
const CASES: &[(&str, &[&str])] = &[
    ("select a from plain where id = 1", &["Read", "Runs On: any node", "Replicas: hear nothing of it"]),
    ("select f(1)", &["Write by opaque statement", "Not a Read: function f() is VOLATILE: it may write"]),
    (
        "select * from through",
        &[
            "Write by opaque statement",
            "Not a Read: relation through uses function f(), which is VOLATILE: it may write",
        ],
    ),
    ("select random()", &["Read", "Runs On: main", "On Main: function random() gives each server's own answer"]),
    ("select * from pair for update", &["Read", "Runs On: main", "On Main: it locks rows"]),
    ("select (now()::text collate \"C\") from pair", &["Read", "Runs On: any node"]),
    ("update plain set a = a + 1 where id = 5", &["Write by keyed statement", "Replicas: run it at COMMIT"]),
    (
        "update plain set b = now() where id = 5",
        &["Write by keyed statement with literals", "Literals: now() and the like become main's transaction time"],
    ),
    (
        "insert into plain (a) values (2)",
        &[
            "Write by rows",
            "Replicas: get those rows at COMMIT",
            "Not Keyed: column id takes its default from sequence public.plain_id_seq",
            "Cheaper: Give id a value in the statement.",
        ],
    ),
    ("insert into ident (u) values (null)", &["Write by rows", "Not Keyed: column id is an identity column"]),
    (
        "insert into pair values (1, 2, (random() * 9)::int)",
        &[
            "Write by rows",
            "Not Keyed: function random() gives each server's own answer",
            "Cheaper: Compute random() first, and write the value.",
        ],
    ),
    (
        "delete from pair where x = 1",
        &[
            "Write by rows",
            "Not Keyed: WHERE does not name primary key y = value",
            "Cheaper: Name y by = with a literal or a parameter.",
        ],
    ),
    (
        "update audited set v = 1 where id = 1",
        &[
            "Write by statement",
            "Not by Rows: table audited has trigger audit_trg",
            "Not Compared: the values that each node stores; tag and row count are",
        ],
    ),
    (
        "insert into parts values (1)",
        &["Write by statement", "Not by Rows: table parts has trigger part_trg on partition parts_1"],
    ),
    (
        "insert into shown values (1, 2, 3)",
        &[
            "Write by statement",
            "Not by Rows: table shown is a view",
            "Better: Write the table itself, and not the view.",
        ],
    ),
    ("update pair set x = x + 1", &["Write by statement", "Not by Rows: column x of the primary key is set"]),
    (
        "delete from public.bare",
        &[
            "Write by statement",
            "Neither Keyed nor by Rows: table bare has no primary key",
            "Better: Give bare a primary key.",
        ],
    ),
    (
        "insert into bare values (1)",
        &[
            "Write by statement",
            "Not by Rows: table bare is not in the catalogue, or the name stands in several schemas",
            "Better: Write the schema in front of bare.",
        ],
    ),
    (
        "with d as (delete from pair returning v) select * from d",
        &["Write by opaque statement", "Opaque: WITH has a part that writes"],
    ),
    ("call p(1)", &["Write by opaque statement", "Opaque: nobody knows what a procedure writes"]),
    (
        "do $$ begin delete from pair; end $$",
        &["Write by opaque statement", "Opaque: nobody knows what a DO block writes"],
    ),
    ("create table made (a int)", &["Write by statement", "Runs On: main, in a transaction"]),
    ("truncate pair", &["Write by statement"]),
    ("copy pair from stdin", &["Write by statement", "Replicas: run it at COMMIT"]),
    ("copy pair to stdout", &["Read", "Runs On: any node"]),
    ("vacuum pair", &["Everywhere", "Runs On: main, outside any transaction", "Replicas: run it after main"]),
    ("create temp table tt (a int)", &["Session", "Runs On: main"]),
    ("set work_mem = '10MB'", &["Session"]),
    ("begin", &["Block control", "Runs On: main"]),
    ("begin read only", &["Block control", "Runs On: a replica, as long as it does nothing but proven reads"]),
    ("commit", &["Block control"]),
    (
        "prepare transaction 'x'",
        &[
            "Refused",
            "SQLSTATE: 0A000",
            "Refused: two-phase commit by the client is not supported",
            "Instead: pglockstep commits on all nodes by itself; use COMMIT.",
        ],
    ),
    (
        "explain select random()",
        &["Read", "Runs On: main", "On Main: function random() gives each server's own answer"],
    ),
    (
        "explain analyze delete from pair",
        &["Write by opaque statement", "Opaque: EXPLAIN ANALYZE stands in front of it"],
    ),
    ("explain (pglockstep) delete from pair", &["Explain", "Runs On: no node: pglockstep answers it"]),
];

/// Most forms show only where no image can be had.
fn sandbox(mode: &str) -> (Sandbox, Raw) {
    sandbox_with(mode, "[replication]\nimages = false\n")
}

fn sandbox_with(mode: &str, config: &str) -> (Sandbox, Raw) {
    let config = format!("[cluster]\nbackend_clustering_mode = \"{mode}\"\n{config}");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", SCHEMA]);
    let raw = Raw::login(&sandbox.summary.proxy(), "postgres");
    (sandbox, raw)
}

/// All messages up to ReadyForQuery, which is the last.
fn replies(raw: &mut Raw) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let m = raw.message().expect("the connection was closed");
        // What a server reports by itself depends on what has gone before.
        let (ready, reported) = (m.0 == b'Z', matches!(m.0, b'S' | b'N'));
        all.extend((!reported).then_some(m));
        if ready {
            return all;
        }
    }
}

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|m| char::from(m.0)).collect()
}

fn lines(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|m| m.0 == b'D');
    rows.map(|(_, body)| String::from_utf8(body[6..].to_vec()).unwrap()).collect()
}

fn error(messages: &[Message]) -> ErrorFields {
    let found = messages.iter().find(|m| m.0 == b'E');
    ErrorFields::parse(&found.unwrap_or_else(|| panic!("no error: {}", tags(messages))).1)
}

/// The error's position in the client's text; empty if it has none.
fn place(messages: &[Message]) -> String {
    let found = messages.iter().find(|m| m.0 == b'E').unwrap();
    let field = found.1.split(|b| *b == 0).find(|f| f.first() == Some(&b'P'));
    field.map_or_else(String::new, |f| String::from_utf8_lossy(&f[1..]).into_owned())
}

fn simple(raw: &mut Raw, sql: &str) -> Vec<Message> {
    raw.query(sql);
    replies(raw)
}

fn parse(raw: &mut Raw, name: &str, sql: &str) {
    raw.send(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
}

/// Bind of so many NULLs, the result in this format.
fn bind(raw: &mut Raw, portal: &str, name: &str, parameters: usize, format: u8) {
    let nulls = b"\xff\xff\xff\xff".repeat(parameters);
    let count = [0, u8::try_from(parameters).unwrap()];
    raw.send(
        b'B',
        &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0", &count, &nulls, &[0, 1, 0, format]].concat(),
    );
}

fn execute(raw: &mut Raw, portal: &str, rows: u32) {
    raw.send(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat());
}

/// Parse, Describe of the statement, Bind, Describe of the portal, Execute, Sync.
fn extended(raw: &mut Raw, sql: &str, parameters: usize) -> Vec<Message> {
    parse(raw, "", sql);
    raw.send(b'D', b"S\0");
    bind(raw, "", "", parameters, 1);
    raw.send(b'D', b"P\0");
    execute(raw, "", 0);
    raw.send(b'S', b"");
    replies(raw)
}

fn explain(sql: &str) -> String {
    format!("EXPLAIN (PGLOCKSTEP) {sql}")
}

#[test]
fn it_says_the_same_by_both_protocols_and_runs_nothing() {
    for mode in ["snapshot_isolation", "native_replication"] {
        let (sandbox, mut raw) = sandbox(mode);
        raw.run("INSERT INTO pair VALUES (1, 1, 1)");
        let state = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) || ' ' || (SELECT count(*) FROM pg_class) || \
                     (SELECT last_value FROM plain_id_seq) FROM pg_stat_xact_user_tables, pair";
        let before = sandbox.on_nodes("postgres", state);
        for (sql, expected) in CASES {
            let told = simple(&mut raw, &explain(sql));
            let text = lines(&told);
            assert_eq!(tags(&told), format!("T{}CZ", "D".repeat(text.len())), "{sql}");
            assert_eq!(told.last().unwrap().1, b"I", "{sql}");
            let trimmed: Vec<&str> = text.iter().map(|l| l.trim_start()).collect();
            assert_eq!(trimmed[0], expected[0], "{sql}: {text:#?}");
            for line in &expected[1..] {
                let reads = line.starts_with("Runs On: any node");
                let found = trimmed.iter().any(|l| l == line || (reads && l.starts_with(line)));
                assert!(found, "{mode} {sql}: no line {line:?} in {text:#?}");
            }
            let by_extended = extended(&mut raw, &explain(sql), 0);
            assert_eq!(lines(&by_extended), text, "{mode} {sql}");
            assert_eq!(tags(&by_extended), format!("1tT2T{}CZ", "D".repeat(text.len())), "{sql}");
            let described: Vec<&Message> = by_extended.iter().filter(|m| m.0 == b'T').collect();
            assert_eq!(described[0], &told[0], "{sql}: by Describe of the statement as by the simple protocol");
            let complete = |all: &[Message]| all[all.len() - 2].1.clone();
            assert_eq!((complete(&told), complete(&by_extended)), (b"EXPLAIN\0".to_vec(), b"EXPLAIN\0".to_vec()));
        }
        assert_eq!(sandbox.on_nodes("postgres", state), before, "something was executed");
        sandbox.assert_nothing_in_transaction();
        sandbox.assert_nodes_equal("postgres");
    }
}

#[test]
fn json_is_one_row_for_programs() {
    let (_sandbox, mut raw) = sandbox("snapshot_isolation");
    let sql = "explain (format json, pglockstep on) insert into plain (b) values ('\"x\"')";
    for told in [simple(&mut raw, sql), extended(&mut raw, sql, 0)] {
        let description = &told.iter().find(|m| m.0 == b'T').unwrap().1;
        assert_eq!(description[2..13], *b"QUERY PLAN\0");
        assert_eq!(description[19..23], 114u32.to_be_bytes());
        let rows = lines(&told);
        assert_eq!(rows.len(), 1);
        let json: serde_json::Value = serde_json::from_str(&rows[0]).unwrap();
        let ours = &json[0]["PGLOCKSTEP"];
        assert_eq!((&ours["Verdict"], &ours["Form"]), (&"write".into(), &"rows".into()));
        assert_eq!(ours["Reasons"][0]["Kind"], "Not Keyed");
        assert_eq!(ours["Reasons"][0]["Reason"], "column id takes its default from sequence public.plain_id_seq");
        assert_eq!(ours["Advice"][0], "Give id a value in the statement.");
    }
    let told = simple(&mut raw, "explain (pglockstep, format json) begin");
    let json: serde_json::Value = serde_json::from_str(&lines(&told)[0]).unwrap();
    assert_eq!(json[0]["PGLOCKSTEP"]["Form"], serde_json::Value::Null);
    assert_eq!(json[0]["PGLOCKSTEP"]["Reasons"], serde_json::json!([]));
}

#[test]
fn errors_in_the_statement_are_postgresqls_own_with_their_place() {
    let (sandbox, mut raw) = sandbox("snapshot_isolation");
    for (sql, state, position) in [
        ("EXPLAIN (PGLOCKSTEP) selct 1", "42601", "22"),
        ("EXPLAIN (PGLOCKSTEP, COSTS off) select 1 from nowhere", "42P01", "47"),
        ("EXPLAIN (PGLOCKSTEP) /* \u{e9} */ create tabel x ()", "42601", "37"),
        ("EXPLAIN (PGLOCKSTEP) select a frm plain where", "42601", "35"),
        ("EXPLAIN (PGLOCKSTEP, NONSENSE) select 1", "42601", ""),
        ("EXPLAIN (PGLOCKSTEP maybe) select 1", "42601", ""),
        ("EXPLAIN (PGLOCKSTEP, FORMAT csv) select 1", "22023", ""),
        ("EXPLAIN (PGLOCKSTEP, FORMAT xml) select 1", "0A000", ""),
        ("EXPLAIN (ANALYZE, PGLOCKSTEP) select 1", "0A000", ""),
        ("EXPLAIN (PGLOCKSTEP) execute nothing", "26000", ""),
    ] {
        for told in [simple(&mut raw, sql), extended(&mut raw, sql, 0)] {
            let e = error(&told);
            assert_eq!((e.sqlstate.as_str(), place(&told).as_str()), (state, position), "{sql}: {e:?}");
            assert_eq!(told.last().unwrap(), &(b'Z', b"I".to_vec()), "{sql}");
        }
        // In a string of several, its place is that in the string.
        if state == "42P01" {
            assert_eq!(place(&simple(&mut raw, &format!("select 1; {sql}"))), "57");
        }
        // A block fails by it, on the server too.
        raw.run("BEGIN");
        error(&simple(&mut raw, sql));
        let e = error(&simple(&mut raw, "select 1"));
        assert_eq!(e.sqlstate, "25P02", "{sql}");
        assert_eq!(error(&simple(&mut raw, &explain("rollback"))).sqlstate, "25P02", "{sql}");
        assert_eq!(error(&extended(&mut raw, &explain("select 1"), 0)).sqlstate, "25P02", "{sql}");
        assert_eq!(error(&extended(&mut raw, &explain("rollback"), 0)).sqlstate, "25P02", "{sql}");
        raw.run("ROLLBACK");
    }
    let hint = error(&simple(&mut raw, "EXPLAIN (ANALYZE, PGLOCKSTEP) delete from pair"));
    assert_eq!(hint.message, "EXPLAIN options PGLOCKSTEP and ANALYZE cannot be used together");
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn switched_off_it_is_postgresqls_explain() {
    let (_sandbox, mut raw) = sandbox("snapshot_isolation");
    let plain = lines(&simple(&mut raw, "EXPLAIN (COSTS off) SELECT a FROM plain"));
    let sql = "EXPLAIN (PGLOCKSTEP false, COSTS off) SELECT a FROM plain";
    assert_eq!(lines(&simple(&mut raw, sql)), plain);
    assert_eq!(lines(&extended(&mut raw, sql, 0)), plain);
    assert!(lines(&simple(&mut raw, "explain (pglockstep off) select 1"))[0].starts_with("Result"));
}

#[test]
fn it_tells_of_the_session_as_it_is() {
    // Main has no weight, so that the session's reads have another node.
    let (sandbox, mut raw) = sandbox_with("native_replication", "[[node]]\nid = 0\nbackend_weight = 0\n");
    let says = |raw: &mut Raw, sql: &str, line: &str| {
        let by_simple = lines(&simple(raw, &explain(sql)));
        for (text, how) in [(by_simple, "simple"), (lines(&extended(raw, &explain(sql), 0)), "extended")] {
            assert!(text.iter().any(|l| l.trim_start() == line), "{how} {sql}: no line {line:?} in {text:#?}");
        }
    };
    let read = "select v from pair";
    says(&mut raw, read, "Runs On: any node");
    raw.run("BEGIN; INSERT INTO pair VALUES (1, 1, 1)");
    says(&mut raw, read, "On Main: this block runs there");
    raw.run("CREATE TABLE new (a int)");
    says(&mut raw, "insert into plain (a) values (1)", "Write by rows");
    says(
        &mut raw,
        "insert into plain (a) values (1)",
        "Catalogue: judged as this transaction sees it, with what it has changed itself",
    );
    raw.run("CREATE RULE r AS ON INSERT TO plain DO ALSO NOTHING");
    says(&mut raw, "insert into plain (a) values (1)", "Not by Rows: table plain has rule r");
    raw.run("ROLLBACK");
    // In a block on a replica, which it leaves there.
    raw.run("BEGIN READ ONLY");
    raw.run(read);
    says(&mut raw, read, "Runs On: the replica that this block reads on");
    raw.run("COMMIT");
    raw.run("CREATE TABLE numbers (id serial PRIMARY KEY, x float8)");
    raw.run("SET extra_float_digits = 0");
    says(&mut raw, "insert into plain (a) values (1)", "Write by rows");
    says(
        &mut raw,
        "insert into numbers (x) values (1)",
        "Not by Rows: extra_float_digits is below 1: numbers do not print exactly",
    );
    raw.run("RESET extra_float_digits");
    // What it names was made by PREPARE.
    raw.run("PREPARE w (int) AS UPDATE plain SET a = 1 WHERE a = $1");
    says(&mut raw, "execute w (5)", "Not Keyed: WHERE does not name primary key id = value");
    // Catalogue changes of others are seen.
    sandbox.psql_ok(&["-q", "-c", "DROP TRIGGER audit_trg ON audited"]);
    says(&mut raw, "update audited set v = 1 where id = 1", "Write by keyed statement");
    raw.run("CREATE TEMP TABLE tt (a int)");
    says(&mut raw, read, "On Main: the session has made a temporary table");
    says(&mut raw, "insert into tt values (1)", "Note: it writes a temporary table, which lives on main alone");
    says(
        &mut raw,
        "insert into pair select a, a, a from tt",
        "Refused: a temporary table cannot be the source of a replicated write",
    );
}

#[test]
fn parameters_portals_names_and_strings_work_as_with_any_explain() {
    let (sandbox, mut raw) = sandbox("snapshot_isolation");
    // Parameters have the types that the statement gives them; by the simple protocol they need no values.
    let sql = explain("update plain set b = $1 where id = $2");
    let told = extended(&mut raw, &sql, 2);
    let types = &told.iter().find(|m| m.0 == b't').unwrap().1;
    assert_eq!(types[..], [&2u16.to_be_bytes()[..], &25u32.to_be_bytes(), &23u32.to_be_bytes()].concat());
    assert_eq!(lines(&told), lines(&simple(&mut raw, &sql)));
    assert_eq!(lines(&extended(&mut raw, &explain("call p($1)"), 1))[0], "Write by opaque statement");
    assert_eq!(error(&extended(&mut raw, &sql, 1)).sqlstate, "08P01");
    // A named statement, executed twice; its name is taken.
    let sql = explain("delete from pair where x = 1");
    parse(&mut raw, "mine", &sql);
    raw.send(b'S', b"");
    assert_eq!(tags(&replies(&mut raw)), "1Z");
    parse(&mut raw, "mine", &explain("vacuum"));
    raw.send(b'S', b"");
    assert_eq!(error(&replies(&mut raw)).sqlstate, "42P05");
    let all = lines(&simple(&mut raw, &sql));
    // In parts, in a block.
    raw.run("BEGIN");
    bind(&mut raw, "portal", "mine", 0, 0);
    execute(&mut raw, "portal", 2);
    execute(&mut raw, "portal", 1);
    raw.send(b'S', b"");
    let mut told = replies(&mut raw);
    assert_eq!(tags(&told), "2DDsDsZ");
    execute(&mut raw, "portal", 0);
    execute(&mut raw, "portal", 0);
    raw.send(b'S', b"");
    told.extend(replies(&mut raw));
    assert_eq!(tags(&told[7..]), format!("{}CCZ", "D".repeat(all.len() - 3)));
    assert_eq!(lines(&told), all);
    raw.run("COMMIT");
    // SQL that executes it executes nothing.
    raw.run("INSERT INTO pair VALUES (1, 1, 1)");
    assert_eq!(error(&simple(&mut raw, "EXECUTE mine")).sqlstate, "0A000");
    assert_eq!(error(&simple(&mut raw, "DO $$ BEGIN EXECUTE 'EXECUTE mine'; END $$")).sqlstate, "42601");
    raw.send(b'C', b"Smine\0");
    parse(&mut raw, "mine", "SELECT count(*) FROM pair");
    bind(&mut raw, "", "mine", 0, 0);
    execute(&mut raw, "", 0);
    raw.send(b'S', b"");
    assert_eq!(lines(&replies(&mut raw)), ["1"]);
    // In a string of several statements, which is one transaction.
    let told = simple(&mut raw, &format!("INSERT INTO pair VALUES (2, 2, 2); {sql}; SELECT 7; {sql}"));
    let n = "D".repeat(all.len());
    assert_eq!(tags(&told), format!("CT{n}CTDCT{n}CZ"));
    let told = simple(&mut raw, &format!("INSERT INTO pair VALUES (3, 3, 3); {sql}; SELECT 1 / 0; {sql}"));
    // The server describes the row before it fails, or (as the constant is folded) does not.
    assert!([format!("CT{n}CEZ"), format!("CT{n}CTEZ")].contains(&tags(&told)), "{}", tags(&told));
    // In one batch with others.
    parse(&mut raw, "", "INSERT INTO pair VALUES (4, 4, 4)");
    bind(&mut raw, "", "", 0, 0);
    execute(&mut raw, "", 0);
    parse(&mut raw, "", &sql);
    bind(&mut raw, "", "", 0, 0);
    execute(&mut raw, "", 0);
    raw.send(b'S', b"");
    assert_eq!(tags(&replies(&mut raw)), format!("12C12{n}CZ"));
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(x::text, ' ' ORDER BY x) FROM pair"), ["1 2 4"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn what_goes_by_its_image_says_so_and_what_is_refused_says_why() {
    let says = |raw: &mut Raw, sql: &str, expected: &[&str]| {
        for text in [lines(&simple(raw, &explain(sql))), lines(&extended(raw, &explain(sql), 0))] {
            for line in expected {
                assert!(text.iter().any(|l| l.trim_start() == *line), "{sql}: no line {line:?} in {text:#?}");
            }
        }
    };
    let trigger = "update audited set v = 1 where id = 1";
    let (_with, mut raw) = sandbox_with("snapshot_isolation", "[replication]\nimages = true\n");
    // As README shows it.
    let told = lines(&simple(&mut raw, &explain(trigger)));
    assert_eq!(
        told.iter().map(|l| l.trim_start()).collect::<Vec<_>>(),
        [
            "Write by image",
            "Runs On: main, in a transaction that COMMIT prepares",
            "Replicas: get at COMMIT what main's WAL tells of the whole transaction",
            "Not by Rows: table audited has trigger audit_trg",
        ]
    );
    says(&mut raw, "select f(1)", &["Write by image", "Not a Read: function f() is VOLATILE: it may write"]);
    says(&mut raw, "do $$ begin end $$", &["Write by image", "Opaque: nobody knows what a DO block writes"]);
    says(&mut raw, "insert into plain (a) values (2)", &["Write by rows"]);
    let (_without, mut raw) =
        sandbox_with("snapshot_isolation", "[replication]\nimages = false\nunsafe_statements = \"refuse\"\n");
    says(&mut raw, trigger, &["Refused", "SQLSTATE: 0A000", "Not by Rows: table audited has trigger audit_trg"]);
    says(&mut raw, "call p(1)", &["Refused", "Opaque: nobody knows what a procedure writes"]);
    says(&mut raw, "update plain set a = 1 where id = 1", &["Write by keyed statement"]);
    let (_warned, mut raw) =
        sandbox_with("snapshot_isolation", "[replication]\nimages = false\nunsafe_statements = \"warn\"\n");
    let why = "Not as a Statement: column id takes its default from sequence public.plain_id_seq";
    says(
        &mut raw,
        "copy plain (a) from stdin",
        &["Write by statement", why, "Better: Give id a value in the statement."],
    );
    let told = lines(&simple(&mut raw, &explain(trigger)));
    assert!(told.iter().any(|l| l.starts_with("  Warning: the client gets one: ")), "{told:#?}");
}
