//! The vocabulary: statements of every kind about the tables of `schema.sql`, whose answers are the same on every server.
//!
//! Left out for good: what names a server (pids, ports, addresses, OIDs), transaction ids, the clock, random values,
//! sequences (each node counts for itself, says the README), plans and the order of rows without ORDER BY after updates.

use super::topics::{self, on};
use crate::support::random::Random;

/// A number that is a key of some row, or of none.
fn key(r: &mut Random) -> usize {
    r.between(1, 9)
}

fn read(r: &mut Random) -> String {
    let k = key(r);
    let fixed = [
        "SELECT 1",
        "SELECT",
        "SELECT FROM t",
        "SELECT id, a, b, c FROM t ORDER BY id",
        "SELECT count(*), sum(a) FROM t",
        "SELECT * FROM tv ORDER BY id",
        "SELECT t.id, u.k FROM t LEFT JOIN u ON u.t_id = t.id ORDER BY 1, 2",
        "VALUES (1, 'a'), (2, NULL)",
        "SELECT x, y FROM nokey ORDER BY x, y",
        "SELECT * FROM m ORDER BY id",
        "SELECT mood, arr[1] FROM m ORDER BY id",
        "SELECT count(*) FROM log",
        "SELECT true, NULL, 1::int2, 2::int8, 1.50::numeric, 0.1::float4, 'x'::text, 'y'::char(3), 'z'::varchar",
        "SELECT '2020-02-29'::date, '10:11'::time, '1 day 02:03'::interval, '2001-02-03 04:05:06+00'::timestamptz",
        "SELECT '{1,NULL,3}'::int[], '{\"b\":1,\"a\":[true]}'::jsonb, '\\x00ff'::bytea, 'ok'::mood, '192.168.0.1/24'::cidr",
        "SELECT ROW(1, 'a'), '[1,5)'::int4range, B'101', '(1,2)'::point",
        "SELECT g, g * g FROM generate_series(1, 20) g",
        "SELECT 'it''s' || E'\\n' || $$dollar;quoted$$ AS \"Odd name\"",
        "TABLE d ORDER BY id",
        "WITH w AS (SELECT id FROM t WHERE a > 15) SELECT count(*) FROM w",
        "SELECT * FROM t WHERE false",
        "SELECT add(1, 2), add(NULL, 1)",
        "SELECT 1 AS x UNION SELECT 2 ORDER BY x",
        "(SELECT 1)",
        "SELECT exists(SELECT FROM t WHERE id = 3)",
        "SELECT max(length(b)) FROM t",
        "SELECT repeat('long ', 3000)",
        "SELECT current_user, session_user, current_database(), current_schema",
        "SELECT pg_typeof(1), to_regclass('t') IS NULL",
        "SELECT relname, relkind FROM pg_class WHERE relname IN ('t', 'u', 'tv') ORDER BY 1",
        "SELECT a FROM t WHERE id = 2 FOR UPDATE",
        "SELECT id FROM t ORDER BY id FOR SHARE",
    ];
    match r.below(fixed.len() + 4) {
        0 => format!("SELECT a, b FROM t WHERE id = {k}"),
        1 => format!("SELECT b FROM t WHERE id = {k} FOR UPDATE NOWAIT"),
        2 => format!("SELECT {k} + id FROM t ORDER BY id LIMIT 2"),
        3 => format!("SELECT note('n{k}')"),
        n => fixed[n - 4].to_owned(),
    }
}

fn write(r: &mut Random) -> String {
    let (k, v) = (key(r), r.between(0, 99));
    match r.below(28) {
        0..=2 => format!("INSERT INTO t VALUES ({}, {v}, 'new')", k + 5),
        3 => format!("INSERT INTO t (id) VALUES ({}), ({}) RETURNING id, c", k + 5, k + 15),
        4 => format!("INSERT INTO t VALUES ({k}, {v}) ON CONFLICT (id) DO UPDATE SET a = t.a + excluded.a RETURNING *"),
        5 => format!("INSERT INTO t VALUES ({k}, {v}) ON CONFLICT DO NOTHING"),
        6..=8 => format!("UPDATE t SET a = {v} WHERE id = {k}"),
        9 => format!("UPDATE t SET a = a + 1, b = b || '!' WHERE id <= {k} RETURNING id, a, b"),
        10 => "UPDATE t SET c = c + 1".into(),
        11 => format!("DELETE FROM u WHERE v = {k}"),
        12 => format!("DELETE FROM t WHERE id = {k} RETURNING id"),
        13 => format!("INSERT INTO u VALUES ('k{k}', {v}, {k})"),
        14 => format!("INSERT INTO nokey VALUES ({k}, 'text {v}')"),
        15 => format!("DELETE FROM nokey WHERE x = {k}"),
        16 => "INSERT INTO nokey SELECT id, b FROM t ORDER BY id".into(),
        17 => "UPDATE d SET n = 4 - n".into(),
        18 => format!("INSERT INTO d VALUES ({}, {k})", k + 3),
        19 => {
            format!("UPDATE m SET mood = 'happy', arr = arr || {v}, j = '[{v}]' WHERE id = {k} RETURNING mood, arr, j")
        }
        20 => format!("INSERT INTO m (id, f, bytes) VALUES ({}, {v}.25, '\\x{v:02}')", k + 2),
        21 => format!("WITH gone AS (DELETE FROM nokey WHERE x = {k} RETURNING *) SELECT count(*) FROM gone"),
        22 => {
            format!("WITH w AS (INSERT INTO nokey VALUES ({k}, 'w') RETURNING x) INSERT INTO log SELECT 'w', x FROM w")
        }
        23 => format!(
            "MERGE INTO t USING (VALUES ({k}, {v})) s(i, n) ON t.id = s.i WHEN MATCHED THEN UPDATE SET a = s.n WHEN NOT MATCHED THEN INSERT VALUES (s.i, s.n)"
        ),
        24 => format!("SELECT put({k}, 'put {v}')"),
        25 => format!("CALL take({k})"),
        26 => format!("DO $$ BEGIN INSERT INTO nokey VALUES ({k}, 'do'); RAISE NOTICE 'done {v}'; END $$"),
        _ => "TRUNCATE log".into(),
    }
}

fn error(r: &mut Random) -> String {
    r.pick(&[
        "SELECT 1/0",
        "SELECT id / (id - 3) FROM t ORDER BY id",
        "SELECT * FROM nowhere",
        "SELECT nothing FROM t",
        "SELECT nofunction(1)",
        "SELECT 'x'::int",
        "SELECT a FROM t GROUP BY b",
        "INSERT INTO t VALUES (1, 1)",
        "INSERT INTO u VALUES ('neg', -1)",
        "INSERT INTO u VALUES ('fk', 1, 99)",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO u (k) VALUES ('null')",
        "INSERT INTO m (id, mood) VALUES (7, 'angry')",
        "SELECT boom('here')",
        "DO $$ BEGIN PERFORM boom('deep'); END $$",
        "DO $$ BEGIN INSERT INTO nokey VALUES (66, 'lost'); PERFORM 1/0; END $$",
        "UPDATE t SET id = 1 WHERE id = 2",
        "INSERT INTO t SELECT 40, 1/(id-1) FROM t",
        "CREATE TABLE t (a int)",
        "DROP TABLE nowhere",
        "ALTER TABLE t ADD COLUMN a int",
        "SET nosuch.thing",
        "SET work_mem = 'much'",
        "SHOW nothing_like_it",
        "RELEASE nosavepoint",
        "ROLLBACK TO nosavepoint",
        "FETCH 1 FROM nocursor",
        "CLOSE nocursor",
        "SELECT * FROM t FOR UPDATE OF nobody",
        "EXPLAIN SELECT * FROM nowhere",
        "COPY nowhere TO STDOUT",
        "COPY nowhere FROM STDIN",
        "COPY (SELECT 1/(id-2) FROM t ORDER BY id) TO STDOUT",
        "LOCK TABLE nowhere",
        "CALL nothing()",
        "VACUUM nowhere",
        "INSERT INTO tv VALUES (1, 2, 3)",
        "SELECT $1",
        "SELECT 'a' 'b' c d",
        "SELEC 1",
        "SELECT 'unterminated",
        "SELECT \"unterminated",
        "SELECT /* unterminated",
        "INSERT INTO t VALUES (1",
        "SELECT (1",
        "BEGIN NONSENSE",
        "COMMIT NONSENSE",
        "CREATE NOTHING",
        "SELECT 1;;SELECT 1/0",
    ])
    .to_string()
}

fn transaction(r: &mut Random) -> String {
    let fixed = [
        "BEGIN",
        "BEGIN",
        "BEGIN",
        "BEGIN",
        "START TRANSACTION",
        "BEGIN READ ONLY",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
        "COMMIT",
        "COMMIT",
        "COMMIT",
        "END",
        "COMMIT WORK",
        "ROLLBACK",
        "ROLLBACK",
        "ABORT",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "COMMIT AND NO CHAIN",
        "SAVEPOINT a",
        "SAVEPOINT a",
        "SAVEPOINT b",
        "ROLLBACK TO a",
        "ROLLBACK TO a",
        "ROLLBACK TO SAVEPOINT b",
        "RELEASE a",
        "RELEASE SAVEPOINT b",
        "SET TRANSACTION READ ONLY",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "SHOW transaction_read_only",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SET CONSTRAINTS ALL DEFERRED",
        "LOCK TABLE t",
        "LOCK TABLE d IN SHARE MODE",
    ];
    r.pick(&fixed).to_string()
}

fn setting(r: &mut Random) -> String {
    r.pick(&[
        "SET application_name = 'differential'",
        "SET application_name = 'other'",
        "SHOW application_name",
        "SET DateStyle = 'SQL, DMY'",
        "SET LOCAL DateStyle = 'German'",
        "SHOW DateStyle",
        "RESET DateStyle",
        "SET TimeZone = 'Asia/Tokyo'",
        "SET TIME ZONE 'UTC'",
        "SHOW TimeZone",
        "SET LOCAL TIME ZONE 'Europe/Paris'",
        "SET IntervalStyle = 'iso_8601'",
        "SET bytea_output = 'escape'",
        "SET extra_float_digits = 0",
        "SET search_path = other, public",
        "SET LOCAL search_path = nowhere",
        "RESET search_path",
        "SHOW search_path",
        "SET client_min_messages = 'warning'",
        "SET client_min_messages = 'debug1'",
        "RESET client_min_messages",
        "SET standard_conforming_strings = off",
        "RESET standard_conforming_strings",
        "SET app.tenant = '7'",
        "SET LOCAL app.tenant = '8'",
        "SHOW app.tenant",
        "SELECT current_setting('app.tenant', true)",
        "SELECT set_config('app.tenant', '9', false)",
        "SELECT set_config('application_name', 'by function', true)",
        "RESET ALL",
        "SET ROLE NONE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SET ROLE nobody_here",
        "SET default_transaction_read_only = on",
        "SET default_transaction_isolation = 'repeatable read'",
        "RESET default_transaction_read_only",
        "SET client_encoding = 'LATIN1'",
        "SET client_encoding = 'UTF8'",
        "SHOW client_encoding",
        "SET NAMES 'SQL_ASCII'",
        "SHOW standard_conforming_strings",
        "SELECT '\\x41'::bytea",
        "SELECT 'a\\\\b'",
        "SHOW is_superuser",
        "SHOW server_encoding",
        "SET work_mem = '1MB'",
        "SHOW work_mem",
    ])
    .to_string()
}

fn cursor(r: &mut Random) -> String {
    let mut list = vec![
        "DECLARE c1 CURSOR FOR SELECT id, b FROM t ORDER BY id",
        "DECLARE c1 SCROLL CURSOR FOR SELECT id FROM t ORDER BY id",
        "DECLARE c2 CURSOR WITH HOLD FOR SELECT id, a FROM t ORDER BY id",
        "DECLARE c2 BINARY CURSOR FOR SELECT 1::int4, 'x'",
        "FETCH c1",
        "FETCH 2 FROM c1",
        "FETCH ALL FROM c1",
        "FETCH PRIOR FROM c1",
        "FETCH BACKWARD 2 FROM c1",
        "FETCH FIRST FROM c1",
        "FETCH ABSOLUTE 2 FROM c1",
        "FETCH 0 FROM c1",
        "MOVE 1 FROM c1",
        "MOVE ALL IN c1",
        "FETCH 2 FROM c2",
        "FETCH ALL c2",
        "CLOSE c1",
        "CLOSE c2",
        "CLOSE ALL",
        "SELECT name, is_holdable, is_scrollable FROM pg_cursors WHERE name IN ('c1', 'c2') ORDER BY 1",
    ];
    if on(topics::CURRENT_OF) {
        list.extend(["UPDATE t SET a = 0 WHERE CURRENT OF c1", "DELETE FROM nokey WHERE CURRENT OF c1"]);
    }
    r.pick(&list).to_string()
}

fn session(r: &mut Random) -> String {
    r.pick(&[
        "LISTEN news",
        "LISTEN other",
        "UNLISTEN news",
        "UNLISTEN *",
        "NOTIFY news",
        "NOTIFY news, 'payload'",
        "NOTIFY other, 'x'",
        "SELECT pg_notify('news', 'by function')",
        "SELECT pg_listening_channels() ORDER BY 1",
        "SELECT pg_try_advisory_lock(5)",
        "SELECT pg_advisory_unlock(5)",
        "SELECT pg_advisory_xact_lock(6)",
        "SELECT pg_advisory_unlock_all()",
        "DISCARD ALL",
        "DISCARD PLANS",
        "DISCARD TEMP",
        "DISCARD SEQUENCES",
        "CREATE TEMP TABLE tmp (x int PRIMARY KEY, y text)",
        "CREATE TEMP TABLE tmp2 ON COMMIT DROP AS SELECT 1 AS x",
        "CREATE TEMP TABLE tmp3 (x int) ON COMMIT DELETE ROWS",
        "INSERT INTO tmp VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO tmp3 VALUES (3)",
        "SELECT * FROM tmp ORDER BY x",
        "SELECT count(*) FROM tmp3",
        "SELECT * FROM tmp2",
        "UPDATE tmp SET y = 'c' WHERE x = 1",
        "DELETE FROM tmp",
        "DROP TABLE tmp",
        "SELECT x INTO TEMP tmp FROM nokey",
        "TRUNCATE tmp",
        "CREATE TEMP VIEW tmpv AS SELECT 1 AS one",
        "SELECT * FROM tmpv",
        "ALTER TABLE tmp ADD z int DEFAULT 5",
    ])
    .to_string()
}

fn prepared(r: &mut Random) -> String {
    r.pick(&[
        "PREPARE q1 AS SELECT id, a FROM t WHERE id = $1",
        "PREPARE q1 (int) AS SELECT $1 + 1",
        "PREPARE q2 AS INSERT INTO nokey VALUES ($1, 'q2')",
        "EXECUTE q1 (1)",
        "EXECUTE q1 (2)",
        "EXECUTE q1",
        "EXECUTE q2 (8)",
        "EXECUTE s1",
        "EXECUTE s2 (3)",
        "DEALLOCATE q1",
        "DEALLOCATE PREPARE q2",
        "DEALLOCATE s1",
        "DEALLOCATE ALL",
        "EXPLAIN (COSTS OFF) EXECUTE q2 (1)",
        "CREATE TABLE made AS EXECUTE q1 (1)",
        "SELECT name, parameter_types::text FROM pg_prepared_statements WHERE name !~ '^_pgls' ORDER BY name",
    ])
    .to_string()
}

fn definition(r: &mut Random) -> String {
    r.pick(&[
        "CREATE TABLE x1 (id int PRIMARY KEY, a text)",
        "CREATE TABLE IF NOT EXISTS x1 (id int)",
        "DROP TABLE x1",
        "DROP TABLE IF EXISTS x1, nowhere",
        "INSERT INTO x1 VALUES (1, 'one')",
        "SELECT * FROM x1",
        "CREATE TABLE x2 AS SELECT id, a FROM t ORDER BY id",
        "SELECT id, b INTO x2 FROM t ORDER BY id",
        "CREATE INDEX ON t (a)",
        "CREATE INDEX ta ON t (a)",
        "DROP INDEX ta",
        "ALTER TABLE t ADD COLUMN e int DEFAULT 7",
        "ALTER TABLE t DROP COLUMN e",
        "ALTER TABLE t RENAME COLUMN b TO bb",
        "ALTER TABLE nokey ADD CHECK (x < 50)",
        "CREATE VIEW x3 AS SELECT 1 AS one",
        "CREATE OR REPLACE VIEW x3 AS SELECT 1 AS one, 2 AS two",
        "DROP VIEW x3",
        "CREATE OR REPLACE FUNCTION add(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2 + 100'",
        "COMMENT ON TABLE t IS 'commented'",
        "GRANT SELECT ON t TO PUBLIC",
        "CREATE SCHEMA other",
        "CREATE TABLE other.t (id int PRIMARY KEY, a int, b text, c numeric)",
        "DROP SCHEMA other CASCADE",
        "CREATE TYPE x4 AS (a int, b text)",
        "SELECT ROW(1, 'b')::x4",
        "ALTER TYPE mood ADD VALUE 'bored'",
        "CREATE DOMAIN x5 AS int CHECK (VALUE > 0)",
        "ANALYZE t",
        "CREATE MATERIALIZED VIEW x6 AS SELECT count(*) FROM t",
        "REFRESH MATERIALIZED VIEW x6",
        "SELECT * FROM x6",
        "CREATE UNLOGGED TABLE x7 (a int)",
    ])
    .to_string()
}

fn alone(r: &mut Random) -> String {
    r.pick(&[
        "VACUUM t",
        "CREATE INDEX CONCURRENTLY nx ON nokey (x)",
        "DROP INDEX CONCURRENTLY nx",
        "REINDEX INDEX CONCURRENTLY t_pkey",
    ])
    .to_string()
}

fn two_phase(r: &mut Random) -> String {
    r.pick(&["PREPARE TRANSACTION 'one'", "COMMIT PREPARED 'one'", "ROLLBACK PREPARED 'one'", "COMMIT PREPARED 'none'"])
        .to_string()
}

fn nothing(r: &mut Random) -> String {
    r.pick(&[
        "",
        " ",
        "-- only a comment\n",
        "/* nothing /* nested */ */",
        "\n\t",
        "SELECT 1 -- behind",
        "/* before */ SELECT 2",
    ])
    .to_string()
}

fn copy_out(r: &mut Random) -> String {
    r.pick(&[
        "COPY t TO STDOUT",
        "COPY (SELECT id, b FROM t ORDER BY id) TO STDOUT (FORMAT csv, HEADER)",
        "COPY (SELECT 1::int4) TO STDOUT (FORMAT binary)",
        "COPY (DELETE FROM nokey WHERE x = 2 RETURNING *) TO STDOUT",
    ])
    .to_string()
}

fn explain(r: &mut Random) -> String {
    r.pick(&[
        "EXPLAIN (COSTS OFF) SELECT 1",
        "EXPLAIN (COSTS OFF) INSERT INTO nokey VALUES (1)",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) INSERT INTO nokey VALUES (11, 'explained')",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT 1",
    ])
    .to_string()
}

/// A statement that can stand anywhere, alone or in a string of several. COPY FROM STDIN is the generator's.
pub fn statement(r: &mut Random) -> String {
    match r.below(100) {
        0..=21 => read(r),
        22..=43 => write(r),
        44..=52 => error(r),
        53..=68 => transaction(r),
        69..=75 => setting(r),
        76..=81 => cursor(r),
        82..=87 => session(r),
        88 if on(topics::SQL_PREPARE) => prepared(r),
        88..=93 => definition(r),
        94 if on(topics::TWO_PHASE) && r.percent(50) => two_phase(r),
        94 => alone(r),
        95 | 96 => nothing(r),
        97 | 98 => copy_out(r),
        _ => explain(r),
    }
}

/// Of statements for a string of several: nothing that a parser of the whole string would refuse, unless that is what
/// is tried.
pub fn parses(sql: &str) -> bool {
    let bad = [
        "SET nosuch.thing",
        "SELECT 'a' 'b' c d",
        "SELEC 1",
        "unterminated",
        "INSERT INTO t VALUES (1",
        "SELECT (1",
        "NONSENSE",
        "CREATE NOTHING",
    ];
    !bad.iter().any(|b| sql == *b || (sql.contains(b) && !sql.starts_with("INSERT INTO t VALUES (1,")))
}

/// A statement with parameters: text, types that a Parse may state, and the parameters as text.
pub struct Parametrised {
    pub sql: &'static str,
    pub types: &'static [u32],
    pub values: Vec<Option<String>>,
}

/// A statement with parameters.
pub fn parametrised(r: &mut Random) -> Parametrised {
    let (k, v) = (key(r).to_string(), r.between(0, 99).to_string());
    let some = |s: &str| Some(s.to_owned());
    type Entry = (&'static str, &'static [u32], Vec<Option<String>>);
    let list: [Entry; 18] = [
        ("SELECT a, b FROM t WHERE id = $1", &[23], vec![some(&k)]),
        ("SELECT $1::text", &[25], vec![some("text")]),
        ("SELECT $1 + $2", &[23, 23], vec![some(&k), some(&v)]),
        ("SELECT $1::int, $2::text, $3::bool", &[], vec![some(&k), None, some("t")]),
        ("INSERT INTO nokey VALUES ($1, $2)", &[23, 25], vec![some(&k), some("parameter")]),
        (
            "INSERT INTO t (id, a) VALUES ($1, $2) RETURNING id, a",
            &[23, 23],
            vec![Some((20 + v.len() * 7).to_string()), some(&v)],
        ),
        ("UPDATE t SET a = $2 WHERE id = $1", &[23, 23], vec![some(&k), some(&v)]),
        ("UPDATE t SET b = $1 WHERE id <= 3 RETURNING id", &[25], vec![some("it's")]),
        ("DELETE FROM u WHERE v = $1", &[23], vec![some(&k)]),
        (
            "INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
            &[23, 23],
            vec![some(&k), some(&v)],
        ),
        ("SELECT id FROM t WHERE id = ANY($1) ORDER BY id", &[1007], vec![some("{1,3,5}")]),
        ("SELECT 10 / $1", &[23], vec![some("0")]),
        ("SELECT $1::int", &[23], vec![some("nonsense")]),
        ("UPDATE m SET mood = $1 WHERE id = 1 RETURNING mood", &[], vec![some("sad")]),
        ("SELECT put($1, $2)", &[23, 25], vec![some(&k), some("by function")]),
        ("SELECT g FROM generate_series(1, $1) g", &[23], vec![some("7")]),
        ("INSERT INTO u VALUES ($1, $2, NULL)", &[25, 23], vec![Some(format!("p{v}")), some("-1")]),
        ("SELECT set_config('app.tenant', $1, false)", &[25], vec![some(&v)]),
    ];
    let at = r.below(list.len());
    let (sql, types, values) = list.into_iter().nth(at).expect("below its length");
    Parametrised { sql, types, values }
}
