//! Transactions that change the catalogue and then write: what they write is judged by the catalogue as they see it, so
//! that defaults, triggers and functions of their own making leave the same rows on all nodes.

mod support;

use pglockstep::wire::error::ErrorFields;
use support::raw::{Raw, message};
use support::sql::{connect, run};
use support::{Options, Sandbox};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, v float8, note text);
    INSERT INTO plain SELECT g, g, 'n' FROM generate_series(1, 20) g;
    CREATE TABLE log (i int, at text);
    CREATE DOMAIN lucky AS float8;
    CREATE TABLE dom (id int PRIMARY KEY, v lucky);
    CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM log'";

/// What a transaction does to the catalogue, and what it then writes: each node would compute that in its own way.
const CASES: &[(&str, &[&str])] = &[
    (
        "ALTER TABLE plain ALTER v SET DEFAULT random()",
        &["INSERT INTO plain (id) VALUES (100)", "INSERT INTO plain (id, note) VALUES (101, 'x'), (102, 'y')"],
    ),
    (
        "ALTER TABLE plain ADD c text; ALTER TABLE plain ALTER c SET DEFAULT clock_timestamp()::text",
        &["INSERT INTO plain (id, v) VALUES (103, 0)"],
    ),
    (
        "CREATE TABLE made (id serial PRIMARY KEY, u uuid DEFAULT gen_random_uuid(), x int, at timestamptz DEFAULT clock_timestamp())",
        &[
            "INSERT INTO made (x) VALUES (1), (2)",
            "INSERT INTO made (x) SELECT id FROM plain ORDER BY random() LIMIT 5",
            "UPDATE made SET u = gen_random_uuid() WHERE x = 1",
            "INSERT INTO made DEFAULT VALUES",
            "DELETE FROM made WHERE id IN (SELECT id FROM made ORDER BY random() LIMIT 2)",
        ],
    ),
    ("ALTER DOMAIN lucky SET DEFAULT random()", &["INSERT INTO dom (id) VALUES (1)"]),
    (
        "CREATE OR REPLACE FUNCTION reads() RETURNS bigint LANGUAGE sql VOLATILE AS 'INSERT INTO log VALUES (7) RETURNING i::bigint'",
        &["SELECT reads()"],
    ),
    ("DO 'BEGIN ALTER TABLE plain ALTER v SET DEFAULT random(); END'", &["INSERT INTO plain (id) VALUES (104)"]),
    (
        "CREATE TABLE kept AS SELECT 1 AS a; ALTER TABLE kept ADD b float8; ALTER TABLE kept ALTER b SET DEFAULT random()",
        &["INSERT INTO kept (a) VALUES (2)", "INSERT INTO kept SELECT a FROM kept"],
    ),
];

fn start(mode: &str, more: &str) -> Sandbox {
    let config = format!("[cluster]\nbackend_clustering_mode = \"{mode}\"\n{more}");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", SCHEMA]);
    sandbox
}

fn made_by_its_own_hand(mode: &str) {
    for (how, extended) in [("simple", false), ("extended", true)] {
        let sandbox = start(mode, "");
        run(async {
            let c = connect(&sandbox).await;
            for (ddl, writes) in CASES {
                for end in ["ROLLBACK", "COMMIT"] {
                    c.batch_execute("BEGIN").await.unwrap();
                    c.batch_execute(ddl).await.unwrap_or_else(|e| panic!("{how}: {ddl}: {e:?}"));
                    for write in *writes {
                        let done = match extended {
                            true => c.query(*write, &[]).await.map(drop),
                            false => c.simple_query(write).await.map(drop),
                        };
                        done.unwrap_or_else(|e| panic!("{how}: {write}: {e:?}"));
                    }
                    c.batch_execute(end).await.unwrap_or_else(|e| panic!("{how}: {ddl}: {e:?}"));
                }
            }
        });
        sandbox.assert_sound("postgres");
    }
}

#[test]
fn what_a_transaction_makes_of_its_own_tables_is_the_same_on_all_nodes_in_native_replication() {
    made_by_its_own_hand("native_replication");
}

#[test]
fn what_a_transaction_makes_of_its_own_tables_is_the_same_on_all_nodes_in_snapshot_isolation() {
    made_by_its_own_hand("snapshot_isolation");
}

/// A statement that was prepared before is another one after the change, and again when that is taken back.
#[test]
fn prepared_statements_follow_what_the_transaction_changes_and_takes_back() {
    let sandbox = start("snapshot_isolation", "");
    run(async {
        let mut c = connect(&sandbox).await;
        let insert = c.prepare("INSERT INTO plain (id) VALUES ($1)").await.unwrap();
        c.execute(&insert, &[&200]).await.unwrap();
        let t = c.transaction().await.unwrap();
        t.execute(&insert, &[&201]).await.unwrap();
        t.batch_execute("SAVEPOINT a; ALTER TABLE plain ALTER v SET DEFAULT random()").await.unwrap();
        t.execute(&insert, &[&202]).await.unwrap();
        t.batch_execute("ROLLBACK TO a").await.unwrap();
        t.execute(&insert, &[&203]).await.unwrap();
        t.batch_execute("ALTER TABLE plain ALTER v SET DEFAULT random() * 2").await.unwrap();
        t.execute(&insert, &[&204]).await.unwrap();
        t.rollback().await.unwrap();
        c.execute(&insert, &[&205]).await.unwrap();
        c.batch_execute("PREPARE p (int) AS INSERT INTO plain (id) VALUES ($1)").await.unwrap();
        c.batch_execute("BEGIN; ALTER TABLE plain ALTER v SET DEFAULT random(); EXECUTE p (206); COMMIT")
            .await
            .unwrap();
        c.execute(&insert, &[&207]).await.unwrap();
        c.batch_execute("EXECUTE p (208)").await.unwrap();
    });
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM plain WHERE id > 204"), ["4", "4", "4"]);
    sandbox.assert_sound("postgres");
}

/// All in one batch of the extended protocol: nobody has been answered when the next message comes.
#[test]
fn a_pipelined_write_waits_for_the_change_before_it() {
    let sandbox = start("native_replication", "");
    let change = "ALTER TABLE plain ALTER v SET DEFAULT random()";
    let back = "ALTER TABLE plain ALTER v DROP DEFAULT";
    let by_function = "SELECT alters()";
    let cases: [(&[&str], usize); 4] = [
        (
            &[
                "BEGIN",
                change,
                "INSERT INTO plain (id) VALUES (300)",
                "INSERT INTO plain (id) VALUES (301) RETURNING v",
                "COMMIT",
            ],
            1,
        ),
        (&[back, change, "INSERT INTO plain (id) VALUES (302)"], 0),
        (
            &[
                "BEGIN",
                "SAVEPOINT a",
                back,
                "INSERT INTO plain (id) VALUES (303)",
                "ROLLBACK TO a",
                "INSERT INTO plain (id) VALUES (304)",
                "COMMIT",
            ],
            0,
        ),
        (
            &[
                "BEGIN",
                back,
                "INSERT INTO plain (id) VALUES (305)",
                by_function,
                "INSERT INTO plain (id) VALUES (306)",
                "COMMIT",
            ],
            1,
        ),
    ];
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE FUNCTION alters() RETURNS int LANGUAGE plpgsql VOLATILE AS
         'BEGIN ALTER TABLE plain ALTER v SET DEFAULT random(); RETURN 1; END'",
    ]);
    for (statements, wanted) in cases {
        let mut raw = Raw::login(&sandbox.summary.proxy(), "postgres");
        let mut all = Vec::new();
        for sql in statements {
            all.extend(message(b'P', format!("\0{sql}\0\0\0").as_bytes()));
            all.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
            all.extend(message(b'D', b"P\0"));
            all.extend(message(b'E', b"\0\0\0\0\0"));
        }
        all.extend(message(b'S', b""));
        raw.write(&all);
        let (mut rows, mut complete) = (0, 0);
        loop {
            match raw.message().unwrap() {
                (b'D', _) => rows += 1,
                (b'C', _) => complete += 1,
                (b'E', body) => panic!("{statements:?}: {:?}", ErrorFields::parse(&body)),
                (b'Z', status) => break assert_eq!(status, b"I"),
                _ => {}
            }
        }
        assert_eq!((rows, complete), (wanted, statements.len()), "{statements:?}");
        sandbox.assert_sound("postgres");
    }
    run(async {
        let c = connect(&sandbox).await;
        // In one string, too.
        c.batch_execute("BEGIN; CREATE TABLE s (id serial, r float8 DEFAULT random(), x int); INSERT INTO s (x) VALUES (1), (2); COMMIT")
            .await
            .unwrap();
        c.batch_execute("BEGIN; ALTER TABLE log ADD r float8; ALTER TABLE log ALTER r SET DEFAULT random(); COMMIT; INSERT INTO log (i) VALUES (1)")
            .await
            .unwrap();
        c.batch_execute(
            "CREATE TABLE s2 (id serial, r float8 DEFAULT random(), x int); INSERT INTO s2 (x) VALUES (1), (2)",
        )
        .await
        .unwrap();
    });
    sandbox.assert_sound("postgres");
}

/// What no rows can carry is refused where the configuration says so, with the reason, and by its text otherwise.
#[test]
fn what_only_an_image_could_carry_is_refused_in_a_transaction_that_has_changed_the_catalogue() {
    let sandbox = start("native_replication", "[replication]\nunsafe_statements = \"refuse\"\n");
    run(async {
        let c = connect(&sandbox).await;
        c.batch_execute(
            "CREATE FUNCTION noise() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := random(); RETURN NEW; END'",
        )
        .await
        .unwrap();
        let trigger = "CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION noise()";
        let volatile = "CREATE FUNCTION vol() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT random()'; ALTER TABLE plain ALTER v SET DEFAULT vol()";
        for (ddl, reason) in [(trigger, "has trigger t"), (volatile, "column v")] {
            c.batch_execute(&format!("BEGIN; {ddl}")).await.unwrap();
            let told = c.simple_query("EXPLAIN (PGLOCKSTEP) INSERT INTO plain (id) VALUES (400)").await.unwrap();
            let rows = told.iter().filter_map(|m| match m {
                SimpleQueryMessage::Row(r) => r.get(0).map(str::to_owned),
                _ => None,
            });
            let text = rows.collect::<Vec<_>>().join("\n");
            assert!(text.contains(reason), "{text}");
            let e = c.batch_execute("INSERT INTO plain (id) VALUES (400)").await.unwrap_err();
            let e = e.as_db_error().unwrap();
            assert_eq!(e.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{e:?}");
            assert!(e.detail().is_some_and(|d| d.contains(reason)), "{e:?}");
            c.batch_execute("ROLLBACK").await.unwrap();
        }
        // A migration as they are written goes through.
        c.batch_execute(
            "BEGIN; CREATE TABLE m (id serial PRIMARY KEY, name text NOT NULL DEFAULT 'n', made timestamptz DEFAULT now());
             INSERT INTO m (name) VALUES ('a'), ('b'); ALTER TABLE m ADD plain int REFERENCES plain;
             UPDATE m SET plain = 1; CREATE INDEX ON m (name); DELETE FROM m WHERE name = 'a';
             INSERT INTO m (name, plain) SELECT 'c', id FROM plain WHERE id < 5; COMMIT",
        )
        .await
        .unwrap();
    });
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM m"), ["5", "5", "5"]);
    sandbox.assert_sound("postgres");
}

/// pg_restore --single-transaction: tables, their rows by COPY, positions of sequences, all behind one BEGIN.
#[test]
fn a_restore_in_a_single_transaction_goes_on_working() {
    for unsafe_statements in ["allow", "refuse"] {
        let sandbox =
            start("snapshot_isolation", &format!("[replication]\nunsafe_statements = \"{unsafe_statements}\"\n"));
        sandbox.psql_ok(&["-q", "-c", "CREATE DATABASE source"]);
        sandbox.psql_ok(&[
            "-q",
            "-d",
            "source",
            "-c",
            "CREATE TABLE a (id serial PRIMARY KEY, r float8 DEFAULT random(), at timestamptz DEFAULT clock_timestamp());
             INSERT INTO a (r) SELECT random() FROM generate_series(1, 500);
             CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE, u uuid DEFAULT gen_random_uuid(), d int GENERATED ALWAYS AS (a * 2) STORED);
             INSERT INTO b (a) SELECT id FROM a; CREATE VIEW v AS SELECT r, u FROM a JOIN b ON a.id = b.a;
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.r := random(); RETURN NEW; END';
             CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()",
        ]);
        let dir = sandbox.dir();
        for (format, name) in [("--format=custom", "custom.dump"), ("--inserts", "inserts.sql")] {
            let file = dir.join(name);
            let mut dump = sandbox.program("pg_dump");
            let told = dump.arg(format).arg("-f").arg(&file).arg("source").output().unwrap();
            assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
            let target = format!("target_{}", name.split('.').next().unwrap());
            sandbox.psql_ok(&["-q", "-c", &format!("CREATE DATABASE {target}")]);
            let mut command = if name.ends_with("sql") {
                let mut c = sandbox.program("psql");
                c.args(["-X", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1", "-d", &target, "-f"]).arg(&file);
                c
            } else {
                let mut c = sandbox.program("pg_restore");
                c.args(["--single-transaction", "--exit-on-error", "-d", &target]).arg(&file);
                c
            };
            let told = command.output().unwrap();
            assert!(told.status.success(), "{unsafe_statements}: {}", String::from_utf8_lossy(&told.stderr));
            sandbox.assert_nodes_equal(&target);
            assert_eq!(sandbox.on_nodes(&target, "SELECT count(*) FROM v"), ["500", "500", "500"]);
        }
        sandbox.assert_sound("postgres");
    }
}

/// DDL of others that commits meanwhile: the transaction goes on where it does not matter.
#[test]
fn others_ddl_is_no_reason_to_fail_where_the_tables_are_not_the_same() {
    for mode in ["native_replication", "snapshot_isolation"] {
        let sandbox = start(mode, "");
        run(async {
            let (a, b) = (connect(&sandbox).await, connect(&sandbox).await);
            a.batch_execute("BEGIN; ALTER TABLE dom ADD x int; INSERT INTO plain (id) VALUES (500)").await.unwrap();
            b.batch_execute("CREATE TABLE elsewhere (a int)").await.unwrap();
            a.batch_execute("INSERT INTO plain (id) VALUES (501); INSERT INTO log SELECT 1, random()::text; COMMIT")
                .await
                .unwrap();
            // A table that it has changed in the meantime.
            b.batch_execute("ALTER TABLE plain ALTER note SET DEFAULT 'fixed'").await.unwrap();
            a.batch_execute("BEGIN; SELECT 1 FROM plain; CREATE TABLE third (a int)").await.unwrap();
            b.batch_execute("ALTER TABLE log ADD z float8; ALTER TABLE log ALTER z SET DEFAULT random()")
                .await
                .unwrap();
            let done = a.batch_execute("INSERT INTO log (i) VALUES (9); COMMIT").await;
            if let Err(e) = done {
                assert_eq!(e.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{e:?}");
                a.batch_execute("ROLLBACK").await.unwrap();
            }
        });
        sandbox.assert_sound("postgres");
    }
}
