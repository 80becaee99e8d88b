"""What a psycopg 3 program does every day. Prints what it sees; the same run on a direct connection must print the same.

Usage: psycopg_basics.py URL
"""

import datetime
import sys
import threading
import time
import uuid

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def caught(what, error):
    show(what, (error.sqlstate, error.diag.severity_nonlocalized, error.diag.message_primary, error.diag.constraint_name))


def connection(url):
    with psycopg.connect(url, application_name="basics") as conn:
        show("status", (conn.info.transaction_status.name, conn.info.parameter_status("server_encoding")))
        show("application", conn.execute("SHOW application_name").fetchone())
        show("version", conn.info.server_version == int(conn.execute("SHOW server_version_num").fetchone()[0]))
        conn.execute("DROP TABLE IF EXISTS fruit, notes CASCADE")
        conn.execute("CREATE TABLE fruit (id int PRIMARY KEY, name text NOT NULL, price numeric(8, 2), seen timestamptz, "
                     "extra jsonb, raw bytea, tags text[])")
    show("closed", conn.closed)


def parameters(conn):
    when = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc)
    row = (1, "äpfel 'quoted' \\", "1.50", when, Jsonb({"a": [1, None, "x"]}), b"\0\xff\\x", ["a", "b,c", None])
    conn.execute("INSERT INTO fruit VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
    for binary in (False, True):
        cur = conn.cursor(binary=binary, row_factory=dict_row)
        found = cur.execute("SELECT * FROM fruit WHERE id = %(id)s AND seen = %(seen)s", {"id": 1, "seen": when}).fetchone()
        show(f"row, binary {binary}", {**found, "seen": found["seen"].astimezone(datetime.timezone.utc)})
        show("columns", [(c.name, c.type_code) for c in cur.description])
    show("uuid", conn.execute("SELECT %s::uuid", [uuid.UUID(int=7)]).fetchone())
    show("composed", conn.execute(sql.SQL("SELECT {} FROM {}").format(sql.Identifier("name"), sql.Identifier("fruit"))).fetchall())
    conn.commit()


def many(conn):
    cur = conn.cursor()
    cur.executemany("INSERT INTO fruit (id, name) VALUES (%s, %s)", [(n, f"fruit {n}") for n in range(10, 500)])
    show("executemany", cur.rowcount)
    cur.executemany("UPDATE fruit SET name = %s WHERE id = %s RETURNING id, name", [("x", 10), ("y", 11)], returning=True)
    results = []
    while True:
        results.append(cur.fetchall())
        if not cur.nextset():
            break
    show("executemany returning", results)
    conn.commit()


def server_side_cursors(conn):
    with conn.cursor(name="walk") as cur:
        cur.itersize = 100
        cur.execute("SELECT id FROM fruit ORDER BY id")
        show("first", [row[0] for row in cur.fetchmany(3)])
        show("rest", sum(1 for _ in cur))
    with conn.cursor(name="scroll", scrollable=True) as cur:
        cur.execute("SELECT id FROM fruit ORDER BY id")
        cur.scroll(5)
        one = cur.fetchone()
        cur.scroll(-3)
        show("scrolled", (one, cur.fetchone()))
    conn.commit()
    with conn.cursor(name="held", withhold=True) as cur:
        cur.execute("SELECT id FROM fruit ORDER BY id")
        conn.commit()
        show("held", cur.fetchmany(2))
    conn.commit()


def pipeline(conn):
    with conn.pipeline() as p:
        conn.execute("INSERT INTO fruit (id, name) VALUES (1000, 'piped')")
        one = conn.execute("SELECT count(*) FROM fruit WHERE id = 1000")
        two = conn.execute("UPDATE fruit SET name = 'pipes' WHERE id = 1000 RETURNING name")
        p.sync()
        show("pipelined", (one.fetchone(), two.fetchone()))
    conn.commit()
    try:
        with conn.pipeline():
            conn.execute("INSERT INTO fruit (id, name) VALUES (1001, 'lost')")
            conn.execute("INSERT INTO fruit (id, name) VALUES (1000, 'twice')")
            conn.execute("INSERT INTO fruit (id, name) VALUES (1002, 'never')")
    except errors.UniqueViolation as e:
        caught("error in a pipeline", e)
    conn.rollback()
    with conn.transaction(), conn.pipeline():
        for n in range(2000, 2100):
            conn.execute("INSERT INTO fruit (id, name) VALUES (%s, 'bulk')", [n])
    conn.autocommit = True
    with conn.pipeline():
        for n in range(2100, 2120):
            conn.execute("INSERT INTO fruit (id, name) VALUES (%s, 'auto')", [n])
    show("in all", conn.execute("SELECT count(*), sum(id) FROM fruit").fetchone())
    conn.autocommit = False


def copy(conn):
    cur = conn.cursor()
    with cur.copy("COPY fruit (id, name) FROM STDIN") as c:
        for n in range(5000, 6000):
            c.write_row((n, f"line\n{n}\t\\"))
    show("copied in", cur.rowcount)
    with cur.copy("COPY fruit (id, name) FROM STDIN (FORMAT binary)") as c:
        c.set_types(["int4", "text"])
        c.write_row((6000, "binary"))
    conn.commit()
    with cur.copy("COPY (SELECT id, name FROM fruit WHERE id >= 5998 ORDER BY id) TO STDOUT") as c:
        show("copied out", list(c.rows()))
    conn.commit()
    try:
        with cur.copy("COPY fruit (id, name) FROM STDIN") as c:
            c.write_row((7000, "good"))
            c.write_row((6000, "again"))
    except errors.UniqueViolation as e:
        caught("error in COPY", e)
    conn.rollback()
    try:
        with cur.copy("COPY fruit (id, name) FROM STDIN") as c:
            c.write_row((7000, "good"))
            raise ZeroDivisionError
    except (ZeroDivisionError, errors.QueryCanceled):
        show("COPY given up", conn.info.transaction_status.name)
    conn.rollback()


def transactions(conn):
    with conn.transaction():
        conn.execute("INSERT INTO fruit (id, name) VALUES (8000, 'outer')")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO fruit (id, name) VALUES (8001, 'inner')")
                conn.execute("INSERT INTO fruit (id, name) VALUES (8000, 'again')")
        except errors.UniqueViolation as e:
            caught("inner", e)
        with conn.transaction("named"):
            conn.execute("INSERT INTO fruit (id, name) VALUES (8002, 'named')")
        with conn.transaction():
            conn.execute("INSERT INTO fruit (id, name) VALUES (8003, 'given up')")
            raise psycopg.Rollback
    show("kept", conn.execute("SELECT id FROM fruit WHERE id BETWEEN 8000 AND 8099 ORDER BY 1").fetchall())
    conn.commit()
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM fruit")
    show("after a forced rollback", conn.execute("SELECT count(*) FROM fruit").fetchone())
    conn.commit()
    conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    show("isolation", conn.execute("SHOW transaction_isolation").fetchone())
    conn.rollback()
    conn.isolation_level, conn.read_only = None, True
    try:
        conn.execute("DELETE FROM fruit")
    except errors.ReadOnlySqlTransaction as e:
        show("read only", e.sqlstate)
    conn.rollback()
    conn.read_only = None


def autocommit(url):
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
        conn.execute("INSERT INTO notes (note) VALUES ('a'), ('b')")
        show("autocommitted", conn.info.transaction_status.name)
        conn.execute("VACUUM notes")
        with conn.transaction():
            conn.execute("UPDATE notes SET note = 'c' WHERE id = 1")
        show("notes", conn.execute("SELECT id, note FROM notes ORDER BY id").fetchall())


def prepared(conn):
    conn.prepare_threshold = 5
    for n in range(12):
        # Changes form after the fifth time; the sixth and later go by name.
        show("prepared", conn.execute("SELECT name FROM fruit WHERE id = %s", [10 + n % 3]).fetchone())
        conn.execute("UPDATE fruit SET price = coalesce(price, 0) + %s WHERE id = %s", [1, 10])
    names = conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '\\_pg3\\_%'").fetchone()
    show("names", names)
    conn.commit()
    # Results of another shape under the same text: the driver must learn of it.
    for change in ("ADD COLUMN more int", "DROP COLUMN more"):
        conn.execute("SELECT * FROM fruit WHERE id = 10", prepare=True)
        conn.commit()
        conn.execute(f"ALTER TABLE fruit {change}")
        conn.commit()
        try:
            show("columns now", len(conn.execute("SELECT * FROM fruit WHERE id = 10", prepare=True).description))
        except errors.FeatureNotSupported as e:
            show("plan changed", e.diag.message_primary)
        conn.rollback()
        conn.execute("DEALLOCATE ALL")
        conn.commit()
    show("price", conn.execute("SELECT price FROM fruit WHERE id = 10", prepare=True).fetchone())
    conn.commit()


def error_handling(conn):
    for statement in ("SELECT 1/0", "SELEC 1", "SELECT * FROM nowhere", "INSERT INTO fruit (id, name) VALUES (10, NULL)",
                      "INSERT INTO fruit (id, name) VALUES (10, 'x')", "SELECT 'x'::int"):
        try:
            conn.execute(statement)
        except psycopg.Error as e:
            caught(statement, e)
        show("state", conn.info.transaction_status.name)
        try:
            conn.execute("SELECT 1")
        except errors.InFailedSqlTransaction as e:
            show("then", e.diag.message_primary)
        conn.rollback()
    heard = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity, diag.message_primary)))
    conn.execute("DROP TABLE IF EXISTS nowhere")
    conn.rollback()
    show("notices", heard)


def cancel_and_notify(url):
    with psycopg.connect(url, autocommit=True) as conn, psycopg.connect(url, autocommit=True) as other:
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        started = time.monotonic()
        try:
            conn.execute("SELECT pg_sleep(60)")
        except errors.QueryCanceled as e:
            caught("cancelled", e)
        show("soon", time.monotonic() - started < 10)
        timer.join()
    with psycopg.connect(url, autocommit=True) as conn, psycopg.connect(url, autocommit=True) as other:
        conn.execute("LISTEN news")
        other.execute("NOTIFY news, 'hello'")
        note = next(conn.notifies())
        show("heard", (note.channel, note.payload))


def main(url):
    connection(url)
    with psycopg.connect(url) as conn:
        for part in (parameters, many, server_side_cursors, pipeline, copy, transactions, prepared, error_handling):
            print(f"-- {part.__name__}")
            part(conn)
            show("between parts", conn.info.transaction_status.name)
    autocommit(url)
    cancel_and_notify(url)


if __name__ == "__main__":
    main(sys.argv[1])
