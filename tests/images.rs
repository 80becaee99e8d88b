//! Statements of which nobody can say beforehand what they write: triggers, rules, cascades, functions, MERGE, queues. What
//! main did reaches the replicas by its WAL, so nodes whose clocks, sequences and physical order differ end up equal.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pglockstep::sandbox::compare::compare_nodes;
use pglockstep::sandbox::process::{Signal, signal};
use support::sql::{connect, eight_clients, is_conflict, run, with_number};
use support::{Options, Sandbox};
use tokio_postgres::NoTls;

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"', 'a b');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TYPE pair AS (a int, \"b C\" text);
    CREATE TABLE audit (id serial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), what text, old jsonb,
        luck float8 DEFAULT random());
    CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (what, old) VALUES (tg_op, to_jsonb(coalesce(new, old))); RETURN coalesce(new, old); END $$;
    CREATE TABLE accounts (id serial PRIMARY KEY, v int, at timestamptz DEFAULT now());
    CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TABLE docs (id int PRIMARY KEY, body text, n int, updated_at timestamptz);
    ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
    CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
    CREATE TRIGGER t BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION touched();
    CREATE TABLE parents (id int PRIMARY KEY, name text);
    CREATE TABLE children (id serial PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TRIGGER c AFTER DELETE OR UPDATE ON children FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TABLE ruled (id serial PRIMARY KEY, v int);
    CREATE TABLE copies (id serial PRIMARY KEY, v int, at timestamptz DEFAULT clock_timestamp());
    CREATE RULE r AS ON INSERT TO ruled DO ALSO INSERT INTO copies (v) VALUES (NEW.v);
    CREATE VIEW shown AS SELECT id, n FROM docs;
    CREATE FUNCTION shown_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO docs VALUES (NEW.id, 'by view ' || random(), NEW.n) ON CONFLICT (id) DO UPDATE SET n = docs.n + 1;
        RETURN NEW; END $$;
    CREATE TRIGGER v INSTEAD OF INSERT ON shown FOR EACH ROW EXECUTE FUNCTION shown_insert();
    CREATE VIEW simple AS SELECT id, v FROM accounts WHERE v > 0;
    CREATE TABLE guarded (id serial PRIMARY KEY, owner name DEFAULT current_user, v int, luck float8 DEFAULT random());
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON guarded USING (owner = current_user);
    CREATE TABLE queue (id serial PRIMARY KEY, state text DEFAULT 'new', by float8);
    INSERT INTO queue (state) SELECT 'new' FROM generate_series(1, 500);
    CREATE TABLE parts (k int, r text, x text, PRIMARY KEY (k, r)) PARTITION BY LIST (r);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
    CREATE TABLE parts_b (x text, junk int, k int NOT NULL, r text NOT NULL, PRIMARY KEY (k, r));
    ALTER TABLE parts_b DROP junk; ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES IN ('b');
    CREATE TABLE swapped (id int PRIMARY KEY, u int UNIQUE);
    CREATE TABLE deferred (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED,
        p int REFERENCES deferred DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE kinds (id serial PRIMARY KEY, a int[], tt text[], j json, b bytea, tz timestamptz, f float8, n numeric(20, 5),
        m mood, d positive, c pair, r int4range, ch char(5), ch1 \"char\", bi bit(4), vb varbit, iv interval, x xml,
        bo bool, o oid, rec pair[], pt point, mon money);
    CREATE TRIGGER k AFTER INSERT ON kinds FOR EACH STATEMENT EXECUTE FUNCTION audited();
    CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED,
        u text DEFAULT gen_random_uuid());
    CREATE TRIGGER m AFTER UPDATE ON made FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TABLE full_rows (a int, b text, j json); ALTER TABLE full_rows REPLICA IDENTITY FULL;
    CREATE TRIGGER f AFTER UPDATE ON full_rows FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TABLE emptied (id int PRIMARY KEY);
    CREATE TRIGGER e AFTER TRUNCATE ON emptied FOR EACH STATEMENT EXECUTE FUNCTION audited();
    CREATE SCHEMA \"Odd S\"; CREATE TABLE \"Odd S\".\"Ta\"\"b: x\" (\"Id [a]\" serial PRIMARY KEY, \"new-tuple\" mood, \"a\"\"b\" text);
    CREATE TRIGGER o AFTER INSERT ON \"Odd S\".\"Ta\"\"b: x\" FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE FUNCTION place(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO accounts (v) SELECT (random() * 100)::int FROM generate_series(1, n); RETURN nextval('copies_id_seq'); END $$;
    CREATE FUNCTION looks(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN n; END $$;
    CREATE PROCEDURE settle(n int) LANGUAGE plpgsql AS $$ BEGIN
        UPDATE accounts SET v = v + (random() * 10)::int WHERE id % 7 = n % 7; DELETE FROM audit WHERE luck < 0.01; END $$";

/// What stands in the tables before anything else: DDL takes its whole transaction by its text.
const DATA: &str = "
    INSERT INTO docs SELECT g, repeat(md5(g::text), 200), 0 FROM generate_series(1, 20) g;
    INSERT INTO parents SELECT g, 'p' || g FROM generate_series(1, 200) g;
    INSERT INTO children (parent) SELECT g % 200 + 1 FROM generate_series(1, 600) g;
    INSERT INTO parts SELECT g, CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 60) g;
    INSERT INTO swapped SELECT g, g FROM generate_series(1, 10) g;
    INSERT INTO deferred SELECT g, g FROM generate_series(1, 10) g;
    INSERT INTO full_rows SELECT g % 3, NULL, '{\"a\" :  1}' FROM generate_series(1, 9) g";

/// A statement each; `$1` is a number.
const STATEMENTS: &[&str] = &[
    "INSERT INTO accounts (v) VALUES ($1), ($1 + 1) RETURNING id",
    "UPDATE accounts SET v = v + 1 WHERE id % 5 = $1::int % 5",
    "DELETE FROM accounts WHERE v > 90 + $1",
    "UPDATE docs SET n = n + $1 WHERE id = 1 + $1",
    "UPDATE docs SET body = 'now ' || random() WHERE id % 4 = $1::int % 4",
    "DELETE FROM parents WHERE id = 10 + $1",
    "UPDATE parents SET id = id + 10000 WHERE id = 30 + $1",
    "INSERT INTO ruled (v) VALUES ($1)",
    "INSERT INTO shown VALUES ($1::int % 30, $1)",
    "UPDATE simple SET v = v + 1 WHERE id = $1",
    "MERGE INTO docs USING (SELECT g FROM generate_series($1::int, $1::int + 3) g) s ON docs.id = s.g WHEN MATCHED THEN UPDATE SET n = 5 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.g, 1)",
    "WITH d AS (DELETE FROM copies WHERE id % 3 = $1::int % 3 RETURNING v) INSERT INTO queue (state) SELECT 'of ' || v FROM d",
    "WITH d AS (DELETE FROM queue WHERE id = $1 RETURNING id) INSERT INTO copies (v) SELECT id FROM d",
    "UPDATE queue SET state = 'done', by = random() WHERE id IN (SELECT id FROM queue WHERE state = 'new' AND id > $1 FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id",
    "INSERT INTO docs SELECT g, 'x' || random(), 1 FROM generate_series($1::int + 15, $1::int + 40) g ON CONFLICT (id) DO UPDATE SET n = docs.n + 1, body = excluded.body",
    "UPDATE parts SET r = CASE r WHEN 'a' THEN 'b' ELSE 'a' END, x = 'moved' WHERE k % 6 = $1::int % 6",
    "UPDATE swapped SET id = -id WHERE id % 3 = $1::int % 3",
    "UPDATE deferred SET u = 11 - u, p = 1 + $1::int % 10",
    "INSERT INTO kinds (a, j, b, tz, f, n, m, d, c, ch, ch1, bi, iv, x, o, rec, mon) VALUES ('{1,NULL,3}', '{\"a\" :  1, \"a\":2}', '\\x00ff27', clock_timestamp(), random(), $1::int + 0.5, 'it''s \"ok\"', 1 + $1::int, row(1, 'a\"b,(c'), 'ab', '''', '1010', '1 mon -3 days', '<a/>', 4000000000, array[row(1, NULL)::pair], -5.25)",
    "INSERT INTO kinds (tt, r, vb, bo, pt, f, tz) VALUES (array['a\"b', 'null', NULL, 'c,d', ''], '[1,2)', '101', $1::int > 2, '(1,2)', 'NaN', 'infinity')",
    "INSERT INTO made (a) SELECT g FROM generate_series(1, 50) g WHERE g > $1",
    "UPDATE made SET a = a + 1 WHERE id % 4 = $1::int % 4",
    "UPDATE made SET id = DEFAULT WHERE id = $1",
    "UPDATE full_rows SET b = coalesce(b, '') || $1::int WHERE ctid = (SELECT min(ctid) FROM full_rows)",
    "INSERT INTO \"Odd S\".\"Ta\"\"b: x\" (\"new-tuple\", \"a\"\"b\") VALUES ('a b', E'tab\\tand \\\\ new-tuple: back''' || $1::int)",
    "SELECT place($1::int)",
    "SELECT looks($1::int)",
    "CALL settle($1::int)",
    "EXPLAIN ANALYZE UPDATE docs SET n = n + 1 WHERE id = 1 + $1::int",
];

/// What takes no parameters, or is more than one statement.
const BLOCKS: &[&str] = &[
    "DO $$ BEGIN FOR i IN 1..3 LOOP INSERT INTO accounts (v) VALUES (nextval('audit_id_seq')); END LOOP; END $$",
    "BEGIN; INSERT INTO accounts (v) VALUES (1); SAVEPOINT a; SELECT place(3); ROLLBACK TO a; UPDATE queue SET state = 'x' WHERE id = 3; COMMIT",
    "BEGIN; UPDATE swapped SET u = 1000 WHERE id = 5; UPDATE swapped SET u = -5 WHERE id = 5; SELECT place(2); COMMIT",
    "BEGIN; SELECT place(1); TRUNCATE full_rows; INSERT INTO full_rows SELECT 1, 'x', '{}' FROM generate_series(1, 40); COMMIT",
    "BEGIN; SELECT place(1); ROLLBACK",
    "COPY accounts (v) FROM PROGRAM 'seq 1 60'",
    "TRUNCATE emptied",
    "BEGIN; SELECT place(1); TRUNCATE swapped; SELECT place(1); COMMIT",
    "BEGIN; TRUNCATE swapped; INSERT INTO swapped VALUES (1, 1); TRUNCATE emptied; COMMIT",
];

fn start(config: &str, images: bool) -> Sandbox {
    let sandbox = Sandbox::start(Options { config: config.to_owned(), ..Options::default() });
    for node in 0..3 {
        let c = sandbox.connect_node(node, "postgres");
        for i in 0..=node {
            c.rows(&format!("CREATE TABLE junk_{i} (a int); DROP TABLE junk_{i}")).unwrap();
        }
    }
    sandbox.psql_ok(&["-q", "-c", SCHEMA]);
    if images {
        sandbox.psql_ok(&["-q", "-c", DATA]);
    }
    for node in 1..3 {
        let order = if node == 1 { "id DESC" } else { "md5(id::text)" };
        let c = sandbox.connect_node(node, "postgres");
        for table in ["queue", "docs", "swapped"] {
            c.rows(&format!(
                "SET session_replication_role = replica; CREATE TEMP TABLE p AS SELECT * FROM {table};
                 DELETE FROM {table}; INSERT INTO {table} SELECT * FROM p ORDER BY {order}; DROP TABLE p"
            ))
            .unwrap();
        }
    }
    sandbox
}

fn in_mode(mode: &str) -> Sandbox {
    let replication = "[replication]\nimages = true\nunsafe_statements = \"refuse\"\n";
    start(&format!("[cluster]\nbackend_clustering_mode = \"{mode}\"\n{replication}"), true)
}

/// What asks the nodes has a runtime of its own.
fn aside(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
}

fn every_kind(mode: &str) {
    let sandbox = in_mode(mode);
    run(async {
        let c = connect(&sandbox).await;
        for statement in STATEMENTS {
            let typed = statement.replace("$1::int", "$1").replace("$1", "$1::int");
            for n in 1..4 {
                let text = with_number(statement, n);
                c.simple_query(&text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
                if !statement.starts_with("EXPLAIN") && !statement.starts_with("CALL") {
                    let s = c.prepare(&typed).await.unwrap_or_else(|e| panic!("{typed}: {e:?}"));
                    let n = i32::try_from(n).unwrap() + 3;
                    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                        if s.params().is_empty() { &[] } else { &[&n] };
                    c.query(&s, parameters).await.unwrap_or_else(|e| panic!("{typed}: {e:?}"));
                }
            }
            aside(|| sandbox.assert_nodes_equal("postgres"));
        }
        for text in BLOCKS {
            c.simple_query(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
            aside(|| sandbox.assert_nodes_equal("postgres"));
        }
        c.batch_execute("PREPARE p (int) AS INSERT INTO accounts (v) VALUES ($1); EXECUTE p (77)").await.unwrap();
    });
    sandbox.assert_sound("postgres");
    // Whoever becomes main gives out no number twice.
    let behind = "SELECT (SELECT last_value FROM audit_id_seq) >= (SELECT max(id) FROM audit)
        AND (SELECT last_value FROM accounts_id_seq) >= (SELECT max(id) FROM accounts)";
    assert_eq!(sandbox.on_nodes("postgres", behind), ["t", "t", "t"]);
    assert!(sandbox.whole_log().contains("image slot made"));
}

#[test]
fn every_kind_of_statement_makes_the_same_rows_on_all_nodes_in_native_replication() {
    every_kind("native_replication");
}

#[test]
fn every_kind_of_statement_makes_the_same_rows_on_all_nodes_in_snapshot_isolation() {
    every_kind("snapshot_isolation");
}

#[test]
fn eight_clients_at_once_make_the_same_rows_on_all_nodes() {
    for mode in ["native_replication", "snapshot_isolation"] {
        let sandbox = in_mode(mode);
        let text = |client: usize, i: usize| {
            let statement = STATEMENTS[(client * 7 + i * 5) % STATEMENTS.len()];
            let text = with_number(statement, (i % 9 + 1) as u64);
            match i % 8 {
                0 => format!("BEGIN; {text}; INSERT INTO accounts (v) VALUES (0); COMMIT"),
                3 => BLOCKS[(client + i) % BLOCKS.len()].to_owned(),
                _ => text,
            }
        };
        eight_clients(&sandbox, text, |e| is_conflict(e) || e.code().is_some_and(|c| c.code() == "23505"));
        sandbox.assert_sound("postgres");
    }
}

/// Main keeps WAL for whoever reads it, which must have a bound.
#[test]
fn a_slot_that_keeps_back_too_much_wal_is_given_up_and_made_anew() {
    let sandbox = start("[replication]\nimages = true\nimage_wal_limit = \"1MB\"\n", true);
    run(async {
        let c = connect(&sandbox).await;
        let bulk = "CREATE TABLE bulk AS SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 20000) g";
        c.batch_execute(bulk).await.unwrap();
        sandbox.wait_for_log("more than image_wal_limit");
        let write = "UPDATE ruled SET v = v + 1 WHERE id = 1";
        // The transaction that meets the loss is told to try again.
        while let Err(e) = c.batch_execute(write).await {
            assert!(is_conflict(&e), "{e:?}");
        }
    });
    sandbox.assert_sound("postgres");
}

const WRITES_BY_FUNCTION: &str = "CREATE TABLE w (a int PRIMARY KEY);
    CREATE FUNCTION puts(a int) RETURNS int LANGUAGE sql AS 'INSERT INTO w VALUES (a) RETURNING a'";

/// A block that writes, and then needs an image.
fn block(c: &pglockstep::sandbox::client::Client) -> Result<(), String> {
    for sql in ["BEGIN", "INSERT INTO w VALUES (1)", "SELECT puts(2)", "COMMIT"] {
        c.rows(sql).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The slot of a new database is begun when its catalogue is read, and waits for somebody's open transaction. If the block
/// wrote meanwhile, the slot would wait for it, too, and be of no use to it.
#[test]
fn a_block_that_begins_to_write_while_a_slot_is_made_waits_for_it() {
    let sandbox = start("[replication]\nunsafe_statements = \"refuse\"\n", false);
    let mut done = 0;
    for i in 0..5 {
        let database = format!("fresh_{i}");
        sandbox.psql_ok(&["-q", "-c", &format!("CREATE DATABASE {database}")]);
        let holds = sandbox.connect_node(0, &database);
        holds.rows("BEGIN; SELECT txid_current()").unwrap();
        let c = sandbox.connect(&database);
        c.rows(WRITES_BY_FUNCTION).unwrap();
        let told = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(300));
                holds.rows("ROLLBACK").unwrap();
            });
            block(&c)
        });
        match told {
            Ok(()) => done += 1,
            // On a busy machine it may take longer than a moment.
            Err(e) => assert!(e.contains("main's WAL is not read for this database yet"), "{e}"),
        }
        sandbox.assert_nodes_equal(&database);
    }
    assert!(done > 0, "no block waited:\n{}", sandbox.log());
    assert!(!sandbox.whole_log().contains("replicas run its statements"));
}

/// Somebody's open transaction keeps the slot from being made.
#[test]
fn without_a_slot_the_policy_decides_about_a_block_that_has_begun_to_write() {
    for policy in ["refuse", "allow"] {
        let sandbox = start(&format!("[replication]\nunsafe_statements = \"{policy}\"\n"), false);
        sandbox.psql_ok(&["-q", "-c", "CREATE DATABASE fresh"]);
        let holds = sandbox.connect_node(0, "fresh");
        holds.rows("BEGIN; SELECT txid_current()").unwrap();
        let c = sandbox.connect("fresh");
        c.rows(WRITES_BY_FUNCTION).unwrap();
        let told = block(&c);
        holds.rows("ROLLBACK").unwrap();
        let rows = if policy == "refuse" {
            let e = told.unwrap_err();
            assert!(e.contains("main's WAL is not read for this database yet"), "{e}");
            c.rows("ROLLBACK").unwrap();
            "0"
        } else {
            told.unwrap();
            "2"
        };
        assert_eq!(sandbox.on_nodes("fresh", "SELECT count(*) FROM w"), [rows; 3]);
        sandbox.assert_sound("fresh");
    }
}

#[test]
fn row_security_decides_on_main_and_replicas_get_what_came_of_it() {
    let sandbox = in_mode("snapshot_isolation");
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE ROLE app LOGIN PASSWORD 'secret'; GRANT ALL ON guarded TO app; GRANT ALL ON SEQUENCE guarded_id_seq TO app",
    ]);
    sandbox.psql_ok(&["-q", "-c", "INSERT INTO guarded (owner, v) VALUES ('postgres', 1)"]);
    let app = |sql: &str| {
        let mut command = sandbox.program("psql");
        command.env("PGUSER", "app").env("PGPASSWORD", "secret").args(["-X", "-q", "-At", "-c", sql]);
        let told = command.output().unwrap();
        assert!(told.status.success(), "{sql}: {}", String::from_utf8_lossy(&told.stderr));
    };
    app(
        "INSERT INTO guarded (v) VALUES (1), (2); UPDATE guarded SET v = v + 10, luck = random(); DELETE FROM guarded WHERE v = 12",
    );
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(v::text, ',' ORDER BY v) FROM guarded"), ["1,11"; 3]);
    sandbox.assert_sound("postgres");
}

/// With nothing in it that differs from node to node, so that its text serves as well.
const IMAGELESS: &str = "
    CREATE TABLE told (n int);
    CREATE FUNCTION plain(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO told SELECT n; RETURN 1; END $$;
    CREATE FUNCTION tells() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM plain(1); PERFORM pg_notify('c', 'x'); END $$;
    CREATE FUNCTION tolled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM plain(7); RETURN NEW; END $$;
    CREATE TABLE keyless (a int); CREATE TRIGGER k AFTER UPDATE ON keyless FOR EACH ROW EXECUTE FUNCTION tolled();
    CREATE UNLOGGED TABLE fleeting (a int);
    CREATE FUNCTION flee() RETURNS void LANGUAGE sql AS 'INSERT INTO fleeting VALUES (1)'";

const WITHOUT_IMAGE: &[&str] = &[
    "UPDATE keyless SET a = a + 1",
    "SELECT flee()",
    "SELECT tells()",
    "BEGIN; SELECT plain(1); NOTIFY c; COMMIT",
    "BEGIN; SELECT lo_create(4711); SELECT plain(1); COMMIT",
    "BEGIN; CREATE TEMP TABLE mine (a int); SELECT plain(1); COMMIT",
    "BEGIN; SELECT plain(1); SELECT count(*) FROM mine; COMMIT",
    "BEGIN; SELECT plain(1); DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
];

#[test]
fn what_no_image_can_tell_is_refused_and_leaves_nothing_behind() {
    let sandbox = in_mode("native_replication");
    sandbox.psql_ok(&["-q", "-c", IMAGELESS, "-c", "INSERT INTO keyless VALUES (1)"]);
    run(async {
        let c = connect(&sandbox).await;
        // A temporary table between two statements that may do anything is not their doing.
        let between = [
            "BEGIN; SELECT plain(1); CREATE TEMP TABLE mine (a int); SELECT plain(1); COMMIT",
            "BEGIN; CREATE TEMP TABLE mine (a int); SELECT plain(1); DROP TABLE mine; SELECT plain(1); COMMIT",
        ];
        for text in WITHOUT_IMAGE.iter().chain(&between) {
            // What is refused leaves no temporary table behind, either.
            let text = text.replace("count(*) FROM mine", "set_config('a.b', 'c', false); LISTEN c");
            let e = c.batch_execute(&text).await.expect_err(&text);
            assert_eq!(e.code().map(tokio_postgres::error::SqlState::code), Some("0A000"), "{text}: {e:?}");
            c.batch_execute("ROLLBACK").await.unwrap();
        }
        // The session is as good as before.
        c.batch_execute("SELECT place(2)").await.unwrap();
    });
    sandbox.assert_sound("postgres");
}

#[test]
fn what_no_image_can_tell_goes_by_its_text_where_that_is_allowed() {
    for (mode, policy) in [("native_replication", "allow"), ("snapshot_isolation", "warn")] {
        let config = format!(
            "[cluster]\nbackend_clustering_mode = \"{mode}\"\n[replication]\nunsafe_statements = \"{policy}\"\n"
        );
        let sandbox = start(&config, true);
        sandbox.psql_ok(&["-q", "-c", IMAGELESS, "-c", "INSERT INTO keyless VALUES (1)"]);
        run(async {
            for text in WITHOUT_IMAGE {
                let c = connect(&sandbox).await;
                c.batch_execute("CREATE TEMP TABLE mine (a int)").await.unwrap();
                let text = text.replace("CREATE TEMP TABLE mine (a int)", "TABLE mine");
                let mut told = c.batch_execute(&text).await;
                if text.contains("tells") {
                    // Nobody knows what it does before main refuses to prepare it; that is kept in mind.
                    let e = told.expect_err(&text);
                    assert!(is_conflict(&e) && e.as_db_error().unwrap().detail().unwrap().contains("NOTIFY"), "{e:?}");
                    told = c.batch_execute(&text).await;
                }
                told.unwrap_or_else(|e| panic!("{text}: {e:?}"));
                // What can be had of the same session goes by its image.
                c.batch_execute("UPDATE ruled SET v = 1 WHERE id = 1").await.unwrap();
            }
        });
        sandbox.assert_sound("postgres");
        assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(n::text, '' ORDER BY n) FROM told"), ["1111117"; 3]);
        let told = sandbox.psql(&["-c", "UPDATE keyless SET a = a + 1"]).stderr;
        assert_eq!(String::from_utf8_lossy(&told).contains("WARNING"), policy == "warn");
        let log = sandbox.whole_log();
        assert!(log.contains("replicas run its statements"), "{log}");
    }
}

#[test]
fn where_no_image_can_be_had_the_policy_decides() {
    for (policy, code) in [("refuse", Some("0A000")), ("allow", None), ("warn", None)] {
        let sandbox = start(&format!("[replication]\nimages = false\nunsafe_statements = \"{policy}\"\n"), false);
        run(async {
            let c = connect(&sandbox).await;
            // With nothing that differs from node to node in it.
            for text in [
                "UPDATE ruled SET v = 1 WHERE id = 1",
                "SELECT looks(1)",
                "DO $$ BEGIN DELETE FROM swapped WHERE id = 3; END $$",
            ] {
                let told = c.batch_execute(text).await;
                let told = told.err().and_then(|e| e.code().map(|c| c.code().to_owned()));
                assert_eq!(told.as_deref(), code, "{policy}: {text}");
            }
            let s = c.execute("DELETE FROM swapped WHERE -id = -4 AND looks(1) = $1", &[&1]).await;
            assert_eq!(s.err().and_then(|e| e.code().map(|c| c.code().to_owned())).as_deref(), code, "{policy}");
        });
        assert!(!sandbox.whole_log().contains("image slot made"));
        sandbox.assert_sound("postgres");
    }
}

/// Main has prepared a transaction of which no image comes, and its backend is ended before it has rolled that back.
#[test]
fn what_is_prepared_is_rolled_back_although_its_backend_is_gone() {
    let config = "[replication]\nimages = true\nunsafe_statements = \"refuse\"\nimage_timeout = \"1s\"\n";
    let sandbox = start(config, true);
    let c = sandbox.connect("postgres");
    c.rows("SELECT place(1)").unwrap();
    c.rows("BEGIN; INSERT INTO accounts (v) VALUES (4711)").unwrap();
    let main = sandbox.connect_node(0, "postgres");
    let pid = |sql: &str| main.value(sql).unwrap().parse::<u32>().unwrap();
    let backend = pid("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'");
    let reader = pid("SELECT active_pid FROM pg_replication_slots");
    signal(reader, Signal::STOP);
    let committing = std::thread::spawn(move || c.rows("COMMIT").map(drop));
    sandbox.wait_on_node(0, "SELECT count(*) FROM pg_prepared_xacts", "1");
    sandbox.wait_on_node(0, &format!("SELECT state FROM pg_stat_activity WHERE pid = {backend}"), "idle");
    signal(backend, Signal::STOP);
    sandbox.wait_for_log("no image");
    // It is ended before it has read ROLLBACK PREPARED.
    main.rows(&format!("SELECT pg_terminate_backend({backend})")).unwrap();
    signal(backend, Signal::CONT);
    signal(reader, Signal::CONT);
    assert!(committing.join().unwrap().is_err());
    sandbox.wait_on_node(0, "SELECT count(*) FROM pg_prepared_xacts", "0");
    let c = sandbox.connect("postgres");
    c.rows("INSERT INTO accounts (v) VALUES (4712)").unwrap();
    assert_eq!(
        sandbox.on_nodes("postgres", "SELECT string_agg(v::text, ' ') FROM accounts WHERE v > 1000"),
        ["4712"; 3]
    );
    sandbox.assert_sound("postgres");
}

/// Some of the transactions are prepared on main and not committed there when it is lost.
fn main_is_killed(mode: &str) {
    let health = "[health_check]\nhealth_check_period = \"1s\"\nhealth_check_timeout = \"3s\"\n\
        health_check_max_retries = 1\nhealth_check_retry_delay = \"200ms\"\n";
    let sandbox = start(
        &format!(
            "[cluster]\nbackend_clustering_mode = \"{mode}\"\n[replication]\nimages = true\nunsafe_statements = \"refuse\"\n{health}"
        ),
        true,
    );
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = |client: u64| {
        run(async {
            let mut c = connect(&sandbox).await;
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let v = 1_000_000 * (client + 1) + n;
                // A session that has run a function of which nobody knows what it leaves behind ends with main.
                let (text, ends) = match (n % 2, client % 2) {
                    (0, 0) => (format!("INSERT INTO accounts (v) VALUES ({v})"), false),
                    (_, 0) => (
                        format!(
                            "BEGIN; INSERT INTO accounts (v) VALUES ({v}); INSERT INTO ruled (v) VALUES (1); COMMIT"
                        ),
                        false,
                    ),
                    (0, _) => (format!("BEGIN; INSERT INTO accounts (v) VALUES ({v}); SELECT place(1); COMMIT"), true),
                    _ => (format!("DO $$ BEGIN INSERT INTO accounts (v) VALUES ({v}); END $$"), true),
                };
                match c.batch_execute(&text).await {
                    Ok(()) => acknowledged.push(v.to_string()),
                    Err(e) if is_conflict(&e) && !ends => c.batch_execute("ROLLBACK").await.unwrap(),
                    Err(e)
                        if ends
                            && (e.is_closed() || is_conflict(&e) || e.code().is_some_and(|c| c.code() == "57P01")) =>
                    {
                        c = connect(&sandbox).await;
                    }
                    Err(e) => panic!("{text}: {e:?}"),
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        })
    };
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                scope.spawn({
                    let work = &work;
                    move || work(client)
                })
            })
            .collect();
        let wait_for = |n| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while done.load(Ordering::Relaxed) < n {
                assert!(std::time::Instant::now() < end, "nothing goes on:\n{}", sandbox.log());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        wait_for(200);
        signal(sandbox.summary.nodes[0].pid, Signal::KILL);
        sandbox.wait_for_log("another node is main");
        wait_for(done.load(Ordering::Relaxed) + 200);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    let survivors = &sandbox.nodes()[1..];
    let comparison = compare_nodes(survivors, "postgres").unwrap();
    assert!(comparison.is_equal(), "the nodes differ:\n{}", comparison.to_text());
    for node in 1..3 {
        let c = sandbox.connect_node(node, "postgres");
        let rows = c.rows("SELECT v FROM accounts").unwrap();
        let there: BTreeSet<String> = rows.into_iter().filter_map(|mut r| r.pop().flatten()).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|v| !there.contains(*v)).collect();
        assert!(lost.is_empty(), "acknowledged, and not on node {node}: {lost:?}");
        assert_eq!(c.value("SELECT count(*) FROM pg_prepared_xacts").unwrap(), "0");
    }
}

#[test]
fn a_main_that_is_killed_while_images_are_taken_costs_nothing_that_was_acknowledged() {
    for mode in ["native_replication", "snapshot_isolation"] {
        main_is_killed(mode);
    }
}

#[test]
fn a_slot_that_is_lost_costs_an_error_that_says_try_again_and_no_more() {
    let sandbox = in_mode("snapshot_isolation");
    run(async {
        let c = connect(&sandbox).await;
        c.batch_execute("SELECT place(1)").await.unwrap();
        for round in 0..3 {
            aside(|| {
                let main = sandbox.connect_node(0, "postgres");
                main.rows("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").unwrap();
            });
            let mut tries = 0;
            while let Err(e) = c.batch_execute("INSERT INTO accounts (v) VALUES (5)").await {
                assert!(is_conflict(&e), "{round}: {e:?}");
                tries += 1;
                assert!(tries < 20, "{round}: {e:?}");
            }
        }
    });
    sandbox.assert_sound("postgres");
}

/// What a slot is being read of cannot be dropped, as a server sees it.
#[test]
fn a_database_whose_images_are_read_can_be_dropped() {
    let sandbox = in_mode("native_replication");
    for round in 0..3 {
        sandbox.psql_ok(&["-q", "-c", "CREATE DATABASE other"]);
        run(async {
            let (c, connection) = tokio_postgres::connect(&sandbox.url("other"), NoTls).await.unwrap();
            let task = tokio::spawn(connection);
            c.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await.unwrap();
            c.batch_execute("DO $$ BEGIN INSERT INTO t VALUES ((random() * 100000)::int); END $$").await.unwrap();
            drop(c);
            task.await.unwrap().unwrap();
        });
        assert_eq!(sandbox.on_nodes("other", "SELECT count(DISTINCT a) FROM t"), ["1", "1", "1"], "{round}");
        sandbox.assert_nodes_equal("other");
        sandbox.psql_ok(&["-q", "-c", "DROP DATABASE other"]);
    }
    sandbox.assert_sound("postgres");
}

/// A function that makes a table goes by its text, and the transaction with it: images do not tell of that. In the
/// backend that has just done DDL a transaction without any goes by its image all the same.
#[test]
fn ddl_inside_functions_is_seen_and_that_of_earlier_transactions_is_not_taken_for_it() {
    let sandbox = in_mode("native_replication");
    run(async {
        let c = connect(&sandbox).await;
        for i in 0..10 {
            let text = format!(
                "DO $$ BEGIN EXECUTE 'CREATE TABLE made_{i} (a int PRIMARY KEY)'; INSERT INTO made_{i} VALUES (1); END $$"
            );
            c.batch_execute(&text).await.unwrap();
            c.batch_execute("SELECT place(1)").await.unwrap();
        }
    });
    assert_eq!(sandbox.on_nodes("postgres", "SELECT a FROM made_7"), ["1", "1", "1"]);
    sandbox.assert_sound("postgres");
}
