//! psql and pgbench as people and scripts use them, with either server.

use std::path::PathBuf;
use std::process::Command;

use super::compare::Compared;

/// What does not need a file of its own. `PSQL_DIR` is a directory to write to.
const EVERYDAY: &str = r#"
\set ON_ERROR_STOP 0
\set VERBOSITY verbose
\set SHOW_CONTEXT always
\pset null (null)
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE fruit (id int PRIMARY KEY, name text NOT NULL, mood mood, price numeric(8, 2) DEFAULT 1, seen date);
COMMENT ON TABLE fruit IS 'of the season';
CREATE VIEW cheap AS SELECT id, name FROM fruit WHERE price < 5;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
\copy fruit (id, name, mood) FROM PROGRAM 'seq 1 50 | sed "s/.*/&\tfruit &\tok/"'
\copy (SELECT id, name, mood FROM fruit ORDER BY id LIMIT 3) TO STDOUT CSV HEADER
\copy fruit TO 'PSQL_DIR/fruit.bin' (FORMAT binary)
CREATE TABLE fruit2 (LIKE fruit INCLUDING ALL);
\copy fruit2 FROM 'PSQL_DIR/fruit.bin' (FORMAT binary)
SELECT count(*), min(name), max(mood) FROM fruit2;
\copy fruit FROM STDIN
1	again
\.
COPY fruit (id, name) FROM STDIN;
100	by hand
101	\N
\.
SELECT id, name, mood, price, seen, twice(id) FROM fruit WHERE id < 3 \gdesc
SELECT $1 + 1 \gdesc
INSERT INTO fruit (id, name) VALUES (200, 'x') RETURNING id, mood \gdesc
SELECT 1 / 0 AS q \gdesc
SELECT nothing FROM fruit \gdesc
SELECT max(id) AS top, 'it''s' AS word FROM fruit \gset seen_
\echo :seen_top :'seen_word'
SELECT format('CREATE TABLE made_%s (a int PRIMARY KEY)', g) FROM generate_series(1, 3) g \gexec
SELECT relname FROM pg_class WHERE relname LIKE 'made%' AND relkind = 'r' ORDER BY 1;
SELECT id, name FROM fruit WHERE id = 7 \gx
SELECT id % 2 AS odd, mood, count(*) FROM fruit GROUP BY 1, 2 ORDER BY 1 \crosstabview odd mood count
\set FETCH_COUNT 7
SELECT id FROM fruit WHERE id < 20 ORDER BY id;
SELECT 10 / (15 - id) FROM fruit WHERE id < 20 ORDER BY id;
UPDATE fruit SET price = 2 WHERE id < 10 RETURNING id;
BEGIN;
SELECT count(*) FROM cheap;
COMMIT;
\unset FETCH_COUNT
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO fruit (id, name) VALUES (300, 'kept');
INSERT INTO fruit (id, name) VALUES (300, 'twice');
SELECT 1 / 0;
INSERT INTO fruit (id, name) VALUES (301, 'kept too');
COMMIT;
\set ON_ERROR_ROLLBACK off
SELECT id, name FROM fruit WHERE id >= 300 ORDER BY id;
\set AUTOCOMMIT off
INSERT INTO fruit (id, name) VALUES (400, 'lost');
ROLLBACK;
INSERT INTO fruit (id, name) VALUES (401, 'committed');
COMMIT;
SELECT count(*) FROM fruit WHERE id >= 400;
COMMIT;
\set AUTOCOMMIT on
BEGIN; INSERT INTO fruit (id, name) VALUES (500, 'a'); SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; INSERT INTO fruit (id, name) VALUES (501, 'b'); COMMIT;
SELECT 1 AS one\; SELECT 2 AS two\; SELECT 1 / 0\; SELECT 3;
\errverbose
SELECT 'a' AS a, 'b' AS b \; VALUES (1, 2), (3, NULL);
BEGIN READ ONLY;
SELECT count(*) FROM fruit;
SELECT pg_try_advisory_xact_lock(1);
DECLARE c CURSOR FOR SELECT id FROM fruit ORDER BY id;
FETCH 2 FROM c;
INSERT INTO fruit VALUES (1);
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT count(*) FROM fruit;
DECLARE c SCROLL CURSOR FOR SELECT id FROM fruit ORDER BY id;
FETCH LAST FROM c;
FETCH PRIOR FROM c;
SAVEPOINT a;
DELETE FROM fruit;
ROLLBACK TO a;
CREATE TABLE no (a int);
ROLLBACK TO a;
COPY fruit FROM STDIN;
ROLLBACK;
PREPARE p (int) AS SELECT name FROM fruit WHERE id = $1;
EXECUTE p(5);
EXPLAIN (COSTS OFF) EXECUTE p(5);
PREPARE w AS INSERT INTO fruit (id, name) VALUES ($1, $2) RETURNING *;
EXECUTE w(600, 'prepared');
DEALLOCATE ALL;
EXECUTE p(5);
\d fruit
\d+ cheap
\dT+ mood
\df+ twice
\dt+ fruit
\dp fruit
\l+ nowhere
\sf twice
\dconfig work_mem
\encoding LATIN1
SELECT 'fertig' AS "größe";
\encoding UTF8
DO $$ BEGIN RAISE NOTICE 'noted %', 1; RAISE WARNING 'warned' USING DETAIL = 'd', HINT = 'h'; RAISE EXCEPTION USING ERRCODE = 'P0042', MESSAGE = 'own'; END $$;
\set QUIET on
LISTEN news;
NOTIFY news, 'heard';
SELECT 'asks' AS it;
SET work_mem = '5MB';
SHOW work_mem;
\c
SHOW work_mem;
DROP TABLE fruit2 CASCADE;
"#;

/// psql 16 and later.
const BIND: &str = r#"
CREATE TABLE bound (id int PRIMARY KEY, name text);
INSERT INTO bound VALUES ($1, $2) \bind 1 'one' \g
INSERT INTO bound VALUES ($1, $2) RETURNING * \bind 2 'two' \g
SELECT name FROM bound WHERE id = $1 \bind 2 \g
SELECT $1::int / $2 \bind 1 0 \g
SELECT count(*) FROM bound \bind \g
"#;

/// psql with this script in a file, which names `directory` as `PSQL_DIR`.
fn script(compared: &Compared, url: &str, sql: &str, directory: &str) -> Command {
    let file = scratch(compared).join("script.sql");
    std::fs::write(&file, sql.replace("PSQL_DIR", directory)).unwrap();
    let mut command = compared.sandbox.program("psql");
    command.args(["-X", "-d", url, "-f"]).arg(file);
    command
}

/// A directory that every user may write to: a server run by root's tests is another user's.
pub fn scratch(compared: &Compared) -> PathBuf {
    let directory = compared.sandbox.dir().join("scratch");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// What psql said, to both of its outputs, without what names a connection.
fn transcript(compared: &Compared, mut command: Command) -> String {
    let output = command.output().unwrap();
    let both = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(output.status.success(), "psql: {}\n{}", both[1], compared.sandbox.log());
    let text = both.join("\n-- standard error --\n");
    // What the proxy answers itself comes from no line of PostgreSQL's source; NOTIFY tells the pid of its sender.
    let words = text.lines().filter(|l| !l.starts_with("LOCATION:")).map(|line| {
        match line.split_once(" received from server process with PID ") {
            Some((before, _)) => before.to_owned(),
            None => line.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join("\n")
}

/// Meta-commands, cursors of its own (FETCH_COUNT), savepoints of its own (ON_ERROR_ROLLBACK), errors in full.
pub fn everyday(compared: &Compared) {
    let directory = scratch(compared).to_str().unwrap().to_owned();
    compared.client("psql", &mut |url| {
        let mut command = script(compared, url, EVERYDAY, &directory);
        command.arg("-e");
        transcript(compared, command)
    });
    let version = compared.sandbox.psql_ok(&["-V"]);
    let major: u32 = version.split_whitespace().nth(2).and_then(|v| v.split('.').next()?.parse().ok()).unwrap();
    if major >= 16 {
        compared.client("psql_bind", &mut |url| transcript(compared, script(compared, url, BIND, &directory)));
    } else {
        println!("psql {major} has no \\bind: it is not tried");
    }
}

/// `\lo_import`, `\lo_export`: libpq calls functions by their numbers.
pub fn large_objects(compared: &Compared) {
    let directory = scratch(compared);
    let content: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(directory.join("in.bin"), &content).unwrap();
    let sql = "
        \\lo_import 'PSQL_DIR/in.bin' 'a comment'
        SELECT obj_description(:LASTOID, 'pg_largeobject'), length(lo_get(:LASTOID)), md5(lo_get(:LASTOID));
        \\lo_export :LASTOID 'PSQL_DIR/out.bin'
        CREATE TABLE objects (what text PRIMARY KEY, loid oid);
        INSERT INTO objects VALUES ('imported', :LASTOID);
        BEGIN;
        \\lo_import 'PSQL_DIR/in.bin'
        ROLLBACK;
        \\lo_import 'PSQL_DIR/in.bin'
        \\lo_unlink :LASTOID
        \\lo_import '/nowhere/at.all'
        \\lo_unlink 1
        SELECT lo_put(loid, 10, 'changed') FROM objects;
        SELECT count(*), sum(length(data)), count(DISTINCT loid) FROM pg_largeobject;
        SELECT md5(lo_get(loid)) FROM objects;
        DELETE FROM objects;";
    let directory = directory.to_str().unwrap().to_owned();
    compared.client("objects", &mut |url| {
        let said = transcript(compared, script(compared, url, sql, &directory));
        assert_eq!(std::fs::read(format!("{directory}/out.bin")).unwrap(), content, "{said}");
        // Each server numbers objects by itself.
        let number = |line: &str| match line.split_once(' ') {
            Some((what, _)) if what.starts_with("lo_") => what.to_owned(),
            _ => line.to_owned(),
        };
        said.lines().map(number).collect::<Vec<_>>().join("\n")
    });
    let objects = "SELECT count(*) || md5(string_agg(loid || ' ' || pageno || ' ' || md5(data), ',' ORDER BY loid, pageno)) FROM pg_largeobject";
    let found = compared.sandbox.on_nodes("objects", objects);
    assert!(found.iter().all(|f| *f == found[0]) && !found[0].starts_with('0'), "{found:?}");
}

/// libpq's pipeline mode: many statements before the first answer is read, with several Syncs and in blocks.
pub fn pipelines_of_pgbench(compared: &Compared) {
    let directory = scratch(compared);
    let pipeline = "\\set id random(1, 200)\n\\startpipeline\nBEGIN;\nUPDATE account SET n = n + :client_id + 1 WHERE id = :id;\n\
        SELECT n FROM account WHERE id = :id;\nINSERT INTO history (id, client, account) VALUES (:client_id * 100000 + :n, :client_id, :id);\n\
        END;\nSELECT count(*) FROM account WHERE id = :id;\nUPDATE account SET m = m + 1 WHERE id = :id;\n\\endpipeline\n\\set n :n + 1\n";
    let file = directory.join("pipeline.sql");
    std::fs::write(&file, pipeline).unwrap();
    compared.client("pgbench", &mut |url| {
        let psql = |sql: &str| {
            let mut command = compared.sandbox.program("psql");
            command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
            transcript(compared, command)
        };
        psql("CREATE TABLE account (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, m int NOT NULL DEFAULT 0); \
              CREATE TABLE history (id int PRIMARY KEY, client int, account int); INSERT INTO account SELECT generate_series(1, 200)");
        let mut said = String::new();
        for (mode, offset) in [("extended", "0"), ("prepared", "50000")] {
            let mut command = compared.sandbox.program("pgbench");
            command.args(["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "60", "--random-seed=7", "-D"]);
            command.arg(format!("n={offset}")).arg("-f").arg(&file).arg(url);
            let report = compared.text("pgbench", &command.output().unwrap());
            let counted = |l: &&str| l.contains("processed") || l.contains("failed");
            said += &report.lines().filter(counted).collect::<Vec<_>>().join("\n");
            said += "\n";
        }
        said + &psql("SELECT * FROM account ORDER BY id") + &psql("SELECT * FROM history ORDER BY id")
    });
}
