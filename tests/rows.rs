//! The same rows on every node, whatever the statement: what serial columns, random values, clocks, physical order and
//! other snapshots would make another thing of on each node reaches the replicas by its rows.
//!
//! Nodes are made unlike first in what users cannot see: physical order, OIDs, transaction ids, sequence caches.

mod support;

use support::sql::{connect, eight_clients, is_conflict, run, with_number};
use support::{Options, Sandbox};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

const SCHEMA: &str = "
    CREATE EXTENSION IF NOT EXISTS pgcrypto;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE orders (id serial PRIMARY KEY, code uuid NOT NULL DEFAULT gen_random_uuid(), n int,
        made timestamptz NOT NULL DEFAULT clock_timestamp(), doubled int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, feels mood DEFAULT 'ok',
        luck float8 DEFAULT random());
    CREATE TABLE pairs (a int, b text, v numeric, note text, PRIMARY KEY (a, b));
    CREATE TABLE log (i int, at timestamptz DEFAULT now(), x float8 DEFAULT random());
    CREATE TABLE parts (k int, d date, v float8 DEFAULT random(), PRIMARY KEY (k, d)) PARTITION BY RANGE (d);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
    CREATE TABLE \"Odd \"\"Name\" (\"A b\" serial PRIMARY KEY, \"select\" text DEFAULT gen_random_uuid()::text);
    CREATE TABLE source (g int PRIMARY KEY, t text);
    INSERT INTO source SELECT g, 't' || g FROM generate_series(1, 200) g;
    INSERT INTO pairs SELECT g, 'b' || g, g, NULL FROM generate_series(1, 100) g";

/// What every node would do in its own way, a statement each. `$1` is a number.
const STATEMENTS: &[&str] = &[
    "INSERT INTO orders (n) VALUES ($1)",
    "INSERT INTO orders (n) VALUES ($1), ($1 + 1) RETURNING id, n, doubled",
    "INSERT INTO orders (n) SELECT g + $1 FROM source ORDER BY random() LIMIT 10",
    "INSERT INTO orders (n) SELECT g + $1 FROM source",
    "INSERT INTO orders AS o (id, n) VALUES (nextval('orders_id_seq'), $1) RETURNING o.id",
    "INSERT INTO people (name) SELECT t FROM source TABLESAMPLE BERNOULLI (20) WHERE g > $1 RETURNING *",
    "INSERT INTO people (id, name) OVERRIDING SYSTEM VALUE VALUES (-1 - $1::int, E'tab\\tand \\\\ back') ON CONFLICT DO NOTHING",
    "UPDATE people SET luck = random(), feels = 'happy' WHERE id IN (SELECT id FROM people ORDER BY random() LIMIT 5) AND $1 > 0",
    "DELETE FROM people WHERE ctid IN (SELECT ctid FROM people WHERE id > 0 ORDER BY random() LIMIT 2) AND $1 > 0",
    "UPDATE pairs SET v = v + random(), note = clock_timestamp()::text WHERE a % 3 = $1::int % 3",
    "UPDATE pairs p SET note = s.t FROM source s WHERE s.g = p.a AND p.a > $1 RETURNING p.a, s.t, p.note",
    "DELETE FROM pairs WHERE v > 1000000 + $1",
    "INSERT INTO pairs SELECT g, 'b' || g, $1, 'new' FROM source ON CONFLICT (a, b) DO UPDATE SET v = pairs.v + random() RETURNING a",
    "INSERT INTO pairs VALUES (1, 'b1', 0, 'x'), (500 + $1, 'y', 0, 'y') ON CONFLICT DO NOTHING RETURNING *",
    "INSERT INTO log (i) VALUES ($1)",
    "INSERT INTO log SELECT g, statement_timestamp(), random() FROM source WHERE g < 3 + $1",
    "INSERT INTO parts (k, d) SELECT g + 1000 * $1, '2020-06-01'::date + g FROM source ON CONFLICT DO NOTHING",
    "UPDATE parts SET v = random() WHERE k % 2 = $1::int % 2",
    "DELETE FROM parts WHERE v < 0.1 AND k > $1",
    "INSERT INTO \"Odd \"\"Name\" DEFAULT VALUES",
    "INSERT INTO \"Odd \"\"Name\" (\"select\") VALUES (gen_random_uuid()::text || $1::int) RETURNING \"A b\"",
];

fn start(mode: &str) -> Sandbox {
    let config = format!("[cluster]\nbackend_clustering_mode = \"{mode}\"\n");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    // Other OIDs, transaction ids and physical order on each node.
    for node in 0..3 {
        let c = sandbox.connect_node(node, "postgres");
        for i in 0..=node {
            c.rows(&format!("CREATE TABLE junk_{i} (a int); DROP TABLE junk_{i}")).unwrap();
        }
    }
    sandbox.psql_ok(&["-q", "-c", SCHEMA]);
    for node in 1..3 {
        let order = if node == 1 { "a DESC" } else { "md5(b)" };
        let c = sandbox.connect_node(node, "postgres");
        c.rows(&format!(
            "CREATE TEMP TABLE p AS SELECT * FROM pairs; DELETE FROM pairs; INSERT INTO pairs SELECT * FROM p ORDER BY {order}"
        ))
        .unwrap();
    }
    sandbox
}

fn every_kind(mode: &str) {
    let sandbox = start(mode);
    run(async {
        let c = connect(&sandbox).await;
        for statement in STATEMENTS {
            // A parameter's type is what the statement makes of it: here always int.
            let typed = statement.replace("$1::int", "$1").replace("$1", "$1::int");
            for n in 1..4 {
                let text = with_number(statement, n);
                c.simple_query(&text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
                let n = i32::try_from(n).unwrap();
                if typed.contains("$1") {
                    let s = c.prepare(&typed).await.unwrap_or_else(|e| panic!("{typed}: {e:?}"));
                    assert_eq!(s.params().len(), 1);
                    let rows = c.query(&s, &[&n]).await.unwrap_or_else(|e| panic!("{typed}: {e:?}"));
                    assert_eq!(s.columns().is_empty(), !typed.contains("RETURNING"), "{typed}");
                    assert!(rows.iter().all(|r| r.len() == s.columns().len()), "{typed}");
                }
            }
        }
        // By SQL: what EXECUTE returns is what the client has prepared.
        c.batch_execute("PREPARE p (int) AS INSERT INTO orders (n) VALUES ($1) RETURNING n").await.unwrap();
        let told = c.simple_query("EXECUTE p (77)").await.unwrap();
        assert!(told.iter().any(
            |m| matches!(m, tokio_postgres::SimpleQueryMessage::Row(r) if r.len() == 1 && r.get(0) == Some("77"))
        ));
        // What is taken back reaches nobody.
        c.batch_execute(
            "BEGIN; SAVEPOINT a; INSERT INTO orders (n) SELECT g FROM source; ROLLBACK TO a;
             INSERT INTO orders (n) VALUES (1234); COMMIT",
        )
        .await
        .unwrap();
    });
    sandbox.assert_sound("postgres");
    // A replica's sequence is where the rows that it was sent are, or beyond: whoever becomes main gives out none twice.
    let behind = "SELECT (SELECT last_value FROM orders_id_seq) >= (SELECT max(id) FROM orders)
        AND (SELECT last_value FROM people_id_seq) >= (SELECT max(id) FROM people)";
    assert_eq!(sandbox.on_nodes("postgres", behind), ["t", "t", "t"]);
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
        let sandbox = start(mode);
        let text = |client: usize, i: usize| {
            let statement = STATEMENTS[(client * 7 + i * 5) % STATEMENTS.len()];
            let text = with_number(statement, (i % 9 + 1) as u64);
            if i % 4 == 0 { format!("BEGIN; {text}; INSERT INTO log (i) VALUES (0); COMMIT") } else { text }
        };
        eight_clients(&sandbox, text, is_conflict);
        sandbox.assert_sound("postgres");
    }
}

/// The run that Pgpool-II's snapshot_isolation exists for.
#[test]
fn a_counter_that_is_copied_while_it_counts_leaves_the_same_log_on_all_nodes() {
    for mode in ["native_replication", "snapshot_isolation"] {
        let sandbox = start(mode);
        sandbox.psql_ok(&["-q", "-c", "CREATE TABLE t (i int); INSERT INTO t VALUES (0); CREATE TABLE copied (i int)"]);
        std::thread::scope(|scope| {
            for text in ["UPDATE t SET i = i + 1", "INSERT INTO copied SELECT i FROM t"] {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    run(async {
                        let c = connect(sandbox).await;
                        for _ in 0..100 {
                            match c.batch_execute(text).await {
                                Err(e) if !is_conflict(&e) => panic!("{mode}: {text}: {e:?}"),
                                _ => {}
                            }
                        }
                    });
                });
            }
        });
        sandbox.assert_sound("postgres");
    }
}

#[test]
fn where_current_of_and_cursors_reach_the_row_that_main_had() {
    let sandbox = start("native_replication");
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM pairs ORDER BY random() FOR UPDATE; FETCH 7 FROM c;
         UPDATE pairs SET v = -1, note = 'here' WHERE CURRENT OF c; MOVE 3 IN c;
         DELETE FROM pairs WHERE CURRENT OF c; COMMIT",
    ]);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM pairs WHERE note = 'here'"), ["1", "1", "1"]);
    run(async {
        let mut c = connect(&sandbox).await;
        let t = c.transaction().await.unwrap();
        t.batch_execute("DECLARE c CURSOR FOR SELECT a FROM pairs FOR UPDATE; FETCH 5 FROM c").await.unwrap();
        let row = t.query_one("UPDATE pairs SET v = 0.5 WHERE CURRENT OF c RETURNING a, v::float8", &[]).await.unwrap();
        assert_eq!((row.len(), row.get::<_, f64>(1)), (2, 0.5));
        t.commit().await.unwrap();
        // A key that changes cannot be followed, and is refused with what to do instead.
        let e = c
            .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT a FROM pairs FOR UPDATE; FETCH 1 FROM c; UPDATE pairs SET a = 900 WHERE CURRENT OF c")
            .await
            .unwrap_err();
        assert_eq!(e.code().unwrap().code(), "0A000");
        c.batch_execute("ROLLBACK").await.unwrap();
    });
    sandbox.assert_sound("postgres");
}

#[test]
fn a_role_that_may_insert_and_not_read_goes_on_inserting() {
    let sandbox = start("native_replication");
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE ROLE writer LOGIN PASSWORD 'secret'; GRANT INSERT ON log, orders TO writer; GRANT USAGE ON SEQUENCE orders_id_seq TO writer",
    ]);
    let mut command = sandbox.program("psql");
    command.env("PGUSER", "writer").env("PGPASSWORD", "secret");
    let told = command.args(["-X", "-q", "-c", "INSERT INTO log VALUES (7, 'epoch', 1)"]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut command = sandbox.program("psql");
    command.env("PGUSER", "writer").env("PGPASSWORD", "secret");
    let told = command.args(["-X", "-q", "-c", "UPDATE log SET i = 8"]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("permission denied"));
    // It may read all and write each column, and still not insert without naming them.
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "REVOKE INSERT ON log FROM writer; GRANT SELECT, INSERT (i, at, x) ON log TO writer",
    ]);
    let mut command = sandbox.program("psql");
    command.env("PGUSER", "writer").env("PGPASSWORD", "secret");
    let told = command.args(["-X", "-q", "-c", "INSERT INTO log (i, at, x) SELECT 9, 'epoch', 2"]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    sandbox.assert_sound("postgres");
}

#[test]
fn many_rows_cost_no_more_memory_than_the_script_may_take() {
    let config = "[replication]\nscript_limit = \"8MB\"\nearly_start = \"64kB\"\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE many (id serial PRIMARY KEY, r float8 DEFAULT random(), v int)"]);
    sandbox.psql_ok(&["-q", "-c", "INSERT INTO many (v) SELECT g FROM generate_series(1, 300000) g"]);
    sandbox.psql_ok(&["-q", "-c", "UPDATE many SET r = random() WHERE v % 10 = 0"]);
    sandbox.psql_ok(&["-q", "-c", "DELETE FROM many WHERE r < 0.05"]);
    sandbox.assert_sound("postgres");
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.proxy_pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 400 * 1024, "{kib} KiB at the peak");
}

/// What main is asked about its tables must not wait for their locks: everybody would wait for whoever has altered one.
#[test]
fn an_open_transaction_that_has_altered_a_table_holds_up_nobody_else() {
    let sandbox = start("snapshot_isolation");
    run(async {
        let (a, b) = (connect(&sandbox).await, connect(&sandbox).await);
        a.batch_execute("BEGIN; ALTER TABLE parts ADD COLUMN z int; ALTER TABLE pairs ADD COLUMN z int DEFAULT 7")
            .await
            .unwrap();
        let others = async {
            b.batch_execute("CREATE TABLE other (a serial PRIMARY KEY, b uuid DEFAULT gen_random_uuid())")
                .await
                .unwrap();
            b.batch_execute("INSERT INTO other DEFAULT VALUES; INSERT INTO orders (n) VALUES (1)").await.unwrap();
            b.query("SELECT a FROM other", &[]).await.unwrap().len()
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), others).await;
        assert_eq!(found.expect("others wait for the table's lock"), 1);
        a.batch_execute("INSERT INTO pairs (a, b) VALUES (700, 'z'); COMMIT").await.unwrap();
        a.batch_execute("INSERT INTO pairs (a, b) SELECT 701, 'z'").await.unwrap();
    });
    sandbox.assert_sound("postgres");
}

/// DDL that commits while a write waits for its table's lock (hazard 18), and DDL that has nothing to do with it.
#[test]
fn a_write_is_judged_by_the_table_that_it_has_found() {
    let sandbox = start("snapshot_isolation");
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE waits (a int PRIMARY KEY, b text)"]);
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE numbered (a serial PRIMARY KEY, b text)"]);
    let cases = [
        // Keyed, and keyed still.
        ("ALTER TABLE waits ADD COLUMN c int DEFAULT 7", "INSERT INTO waits (a, b) VALUES (1, 'x')", true),
        // The default would be each node's own.
        (
            "ALTER TABLE waits ADD COLUMN d int DEFAULT random() * 1000000",
            "INSERT INTO waits (a, b) VALUES (2, 'x')",
            false,
        ),
        // By its rows: the new column was not asked for.
        ("ALTER TABLE numbered ADD COLUMN c float8 DEFAULT random()", "INSERT INTO numbered (b) VALUES ('x')", false),
        ("CREATE INDEX ON numbered (b)", "INSERT INTO numbered (b) VALUES ('y')", true),
    ];
    run(async {
        let (a, b) = (connect(&sandbox).await, connect(&sandbox).await);
        let (main, connection) = sandbox.nodes()[0].config("postgres").connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        for (ddl, write, holds) in cases {
            a.batch_execute("DELETE FROM waits; DELETE FROM numbered").await.unwrap();
            b.batch_execute(&format!("BEGIN; {ddl}")).await.unwrap();
            let (written, ()) = tokio::join!(a.batch_execute(write), async {
                let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'";
                while main.query(waits, &[]).await.unwrap().is_empty() {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                b.batch_execute("COMMIT").await.unwrap();
            });
            match written {
                Ok(()) => assert!(holds, "{ddl}: {write}"),
                Err(e) => {
                    assert!(!holds, "{ddl}: {write}: {e:?}");
                    assert_eq!(e.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{e:?}");
                    a.batch_execute(write).await.unwrap();
                }
            }
        }
        // Another table's DDL is no reason to fail.
        a.batch_execute("BEGIN; INSERT INTO numbered (b) VALUES ('z'); UPDATE waits SET b = 'z' WHERE a = 2")
            .await
            .unwrap();
        b.batch_execute("CREATE TABLE another (a int); CREATE ROLE somebody; DROP TABLE another").await.unwrap();
        a.batch_execute("COMMIT").await.unwrap();
    });
    sandbox.assert_sound("postgres");
}

/// Numbers that print inexactly are not told in text, wherever the setting comes from: a SET just before, in a block, taken
/// back; `set_config()`, in a function or a trigger too; the start-up packet; the role, the database, main's own file.
#[test]
fn floats_are_the_same_whatever_extra_float_digits_is() {
    let sandbox = start("snapshot_isolation");
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE TABLE floats (x float8, at point, i int DEFAULT random() * 1000);
         CREATE TABLE triggered (a int);
         CREATE FUNCTION lower_digits() RETURNS text LANGUAGE plpgsql AS
         $$ BEGIN RETURN set_config('extra_float_' || 'digits', '0', false); END $$;
         CREATE FUNCTION in_trigger() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM lower_digits(); RETURN NEW; END $$;
         CREATE TRIGGER t BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION in_trigger();
         CREATE ROLE low LOGIN SUPERUSER PASSWORD 'secret'; ALTER ROLE low SET extra_float_digits = 0",
    ]);
    sandbox.psql_ok(&["-q", "-c", "CREATE DATABASE lowdb"]);
    let insert = "INSERT INTO floats SELECT 0.1::float8 + 0.2::float8, point(0.1::float8 + 0.2::float8, 1), 1";
    let before = [
        "SET extra_float_digits = 0",
        "SELECT set_config('extra_float_digits', '-5', false)",
        "SET extra_float_digits TO DEFAULT",
        "SELECT lower_digits()",
        "INSERT INTO triggered VALUES (1)",
        "DO 'BEGIN PERFORM lower_digits(); END'",
        "SELECT 1",
    ];
    run(async {
        for before in before {
            let options = if before == "SELECT 1" { "-c extra_float_digits=0" } else { "" };
            for (begin, end) in [("", ""), ("BEGIN", "COMMIT"), ("BEGIN", "ROLLBACK")] {
                let mut config: tokio_postgres::Config = sandbox.url("postgres").parse().unwrap();
                let (client, connection) = config.options(options).connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                for sql in
                    [begin, before, insert, insert, end, insert, "SET extra_float_digits = 3", insert, insert, insert]
                {
                    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                }
                client.execute(insert, &[]).await.unwrap();
            }
        }
        let c = connect(&sandbox).await;
        let prepared = c.prepare(insert).await.unwrap();
        for block in [
            &["BEGIN", "SET LOCAL extra_float_digits = 0", "=", "COMMIT", "="][..],
            &[
                "BEGIN",
                "=",
                "SAVEPOINT a",
                "SET LOCAL extra_float_digits = 0",
                "=",
                "ROLLBACK TO a",
                "=",
                "COMMIT",
                "=",
            ],
            &["SET extra_float_digits = 0", "BEGIN", "SET LOCAL extra_float_digits = 2", "=", "ROLLBACK", "="],
            &["BEGIN", "RESET extra_float_digits", "SAVEPOINT a", "=", "SELECT lower_digits()", "=", "ROLLBACK", "="],
            &["RESET ALL", "=", "SELECT lower_digits()", "=", "DISCARD ALL", "BEGIN", "SELECT 1", "=", "COMMIT"],
        ] {
            for sql in block {
                if *sql == "=" {
                    c.batch_execute(insert).await.unwrap();
                    if !block.contains(&"DISCARD ALL") {
                        c.execute(&prepared, &[]).await.unwrap();
                    }
                } else {
                    c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                }
            }
        }
        // From the role, and from the database: told to nobody.
        sandbox.psql_ok(&["-q", "-c", "ALTER DATABASE lowdb SET extra_float_digits = 0"]);
        sandbox.psql_ok(&[
            "-q",
            "-d",
            "lowdb",
            "-c",
            "CREATE TABLE floats (x float8, at point, i int DEFAULT random() * 1000)",
        ]);
        for (user, database) in [("low", "postgres"), ("", "lowdb")] {
            let mut config: tokio_postgres::Config = sandbox.url(database).parse().unwrap();
            if !user.is_empty() {
                config.user(user).password("secret");
            }
            for _ in 0..2 {
                let (client, connection) = config.connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                client.batch_execute(insert).await.unwrap();
                client.execute(insert, &[]).await.unwrap();
                client
                    .batch_execute(&format!("BEGIN; {insert}; SET extra_float_digits = 1; {insert}; COMMIT"))
                    .await
                    .unwrap();
            }
        }
    });
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_nodes_equal("lowdb");
}

/// Main's own file says how numbers and intervals are printed, and the others' does not.
#[test]
fn what_mains_file_says_of_printing_reaches_nobodys_rows() {
    let sandbox = start("snapshot_isolation");
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE printed (id serial PRIMARY KEY, x float8, i interval)"]);
    let main = sandbox.connect_node(0, "postgres");
    for setting in ["extra_float_digits = 0", "IntervalStyle = sql_standard"] {
        main.rows(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    main.rows("SELECT pg_reload_conf()").unwrap();
    sandbox.wait_on_node(0, "SHOW extra_float_digits", "0");
    let insert = "INSERT INTO printed (x, i) SELECT 0.1::float8 + 0.2::float8, -make_interval(days => 1, hours => 2)";
    for _ in 0..3 {
        sandbox.psql_ok(&["-q", "-c", insert]);
        sandbox.psql_ok(&["-q", "-c", &format!("BEGIN; {insert}; SET LOCAL extra_float_digits = 1; {insert}; COMMIT")]);
        sandbox.psql_ok(&["-q", "-c", &format!("SET extra_float_digits = 3; SET IntervalStyle = postgres; {insert}")]);
    }
    sandbox.assert_nodes_equal("postgres");
}

/// The OID of a table or type is each node's own. What a client fetches in binary holds main's.
#[test]
fn oids_that_a_client_fetches_in_binary_are_not_what_replicas_get() {
    let sandbox = start("native_replication");
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE DOMAIN relation AS regclass; CREATE TABLE named (id int PRIMARY KEY, r regclass, t regtype[], d relation)",
    ]);
    run(async {
        let c = connect(&sandbox).await;
        let insert = "INSERT INTO named SELECT $1, 'source', '{mood}', 'pairs' RETURNING *";
        c.query(insert, &[&1]).await.unwrap();
        c.query(insert, &[&2]).await.unwrap();
        c.query("UPDATE named SET r = 'pairs' WHERE id > $1 RETURNING *", &[&1]).await.unwrap();
    });
    sandbox.assert_sound("postgres");
}
