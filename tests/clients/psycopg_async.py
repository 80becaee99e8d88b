"""psycopg 3's asynchronous connections, its pipeline mode, type adaptation and server-side cursors.

Prints what it sees; the same run on a direct connection must print the same. Usage: psycopg_async.py URL
"""

import asyncio
import datetime
import enum
import sys
from decimal import Decimal

import psycopg
from psycopg import errors
from psycopg.rows import class_row, dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Int4Multirange
from psycopg.types.range import Range


class Mood(enum.Enum):
    sad = 1
    ok = 2


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def caught(error):
    d = error.diag
    show("caught", (error.sqlstate, d.severity_nonlocalized, d.message_primary, d.message_detail, d.message_hint,
                    d.statement_position, d.constraint_name, d.table_name))


async def schema(conn):
    await conn.execute("""
        CREATE TYPE pa_mood AS ENUM ('sad', 'ok');
        CREATE TYPE pa_point AS (x int, y numeric);
        CREATE DOMAIN pa_positive AS int CHECK (value > 0);
        CREATE TABLE pa_people (id int PRIMARY KEY, mood pa_mood, at pa_point, age pa_positive, moods pa_mood[], spans int4multirange);
    """)
    await conn.commit()
    info = await EnumInfo.fetch(conn, "pa_mood")
    register_enum(info, conn, Mood)
    composite = await CompositeInfo.fetch(conn, "pa_point")
    register_composite(composite, conn)
    await conn.commit()
    return composite


async def types(conn, composite):
    at = composite.python_type(3, Decimal("4.50"))
    for n, (binary, mood) in enumerate([(False, Mood.sad), (True, Mood.ok)]):
        b = "%b" if binary else "%t"
        row = (n, mood, at, n + 1, [Mood.sad, Mood.ok], Int4Multirange([Range(1, 3), Range(7, None)]))
        await conn.execute(f"INSERT INTO pa_people VALUES ({b}, {b}, {b}, {b}, {b}, %t)", row)
    await conn.commit()
    for binary in (False, True):
        for factory in (dict_row, namedtuple_row):
            cur = conn.cursor(binary=binary, row_factory=factory)
            await cur.execute("SELECT id, mood, at, age, moods, spans FROM pa_people ORDER BY id")
            show(f"people, binary {binary}", await cur.fetchall())
    values = [
        datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4), datetime.timedelta(days=-3, seconds=7, microseconds=11),
        datetime.datetime(1999, 12, 31, 23, 59, 59, 999999), 2**40, Decimal("NaN"), float("inf"), True, None, b"\x00\x01",
        [[1, 2], [3, None]], ["a", None, 'q"'], Jsonb({"k": [1.5, "ü"]}), Range(1, 10), "ümlaut",
    ]
    for binary in (False, True):
        cur = conn.cursor(binary=binary)
        seen = []
        for value in values:
            try:
                await cur.execute("SELECT %s", [value])
                seen.append((await cur.fetchone())[0])
            except psycopg.Error as e:
                seen.append(e.sqlstate)
                await conn.rollback()
        show(f"values, binary {binary}", seen)
    await conn.rollback()


async def pipelines(conn):
    await conn.execute("CREATE TABLE pa_log (id int PRIMARY KEY, what text)")
    await conn.commit()
    async with conn.pipeline() as p:
        async with conn.transaction():
            cur = conn.cursor()
            await cur.executemany("INSERT INTO pa_log VALUES (%s, %s)", [(n, f"line {n}") for n in range(300)])
            counted = await conn.execute("SELECT count(*) FROM pa_log")
        await p.sync()
        show("counted", await counted.fetchone())
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO pa_log VALUES (1000, 'first')")
                await conn.execute("INSERT INTO pa_log VALUES (1, 'twice')")
                await conn.execute("INSERT INTO pa_log VALUES (1001, 'never')")
                await p.sync()
        except errors.UniqueViolation as e:
            caught(e)
        async with conn.transaction():
            await conn.execute("INSERT INTO pa_log VALUES (2000, 'outer')")
            try:
                async with conn.transaction():
                    await conn.execute("INSERT INTO pa_log VALUES (2001, 'inner')")
                    await (await conn.execute("SELECT 1/0")).fetchone()
            except errors.DivisionByZero as e:
                caught(e)
            await conn.execute("INSERT INTO pa_log VALUES (2002, 'outer again')")
    cur = await conn.execute("SELECT id FROM pa_log WHERE id >= 1000 ORDER BY id")
    show("kept", await cur.fetchall())
    await conn.commit()
    await conn.set_autocommit(True)
    async with conn.pipeline() as p:
        made = [await conn.execute("UPDATE pa_log SET what = %s WHERE id = %s RETURNING id, what", [str(n), n]) for n in range(20)]
        reads = [await conn.execute("SELECT what FROM pa_log WHERE id = %s", [n]) for n in range(30)]
        await p.sync()
        show("made", [await cur.fetchone() for cur in made])
        show("read", [await cur.fetchone() for cur in reads])
    try:
        async with conn.pipeline():
            await conn.execute("INSERT INTO pa_log VALUES (3000, 'lost')")
            await conn.execute("INSERT INTO pa_log VALUES ('x', 'bad')")
            await conn.execute("INSERT INTO pa_log VALUES (3001, 'never')")
    except psycopg.Error as e:
        caught(e)
    cur = await conn.execute("SELECT id FROM pa_log WHERE id >= 3000")
    show("an implicit transaction's", await cur.fetchall())
    async with conn.pipeline():
        cur = conn.cursor()
        await cur.executemany("UPDATE pa_log SET what = %s WHERE id = %s RETURNING id", [("r", 4), ("s", 5)], returning=True)
        seen = []
        while True:
            seen.append(await cur.fetchall())
            if not cur.nextset():
                break
        show("executemany returning", seen)
    await conn.set_autocommit(False)


async def cursors(conn):
    async with conn.cursor(name="walk", row_factory=dict_row) as cur:
        cur.itersize = 50
        await cur.execute("SELECT id, what FROM pa_log WHERE id < %s ORDER BY id", [250])
        show("walked", sum([row["id"] async for row in cur]))
    async with conn.cursor(name="scroll", scrollable=True, binary=True) as cur:
        await cur.execute("SELECT id FROM pa_log ORDER BY id")
        await cur.scroll(10)
        one = await cur.fetchone()
        await cur.scroll(-5)
        show("scrolled", (one, await cur.fetchmany(2)))
        try:
            await cur.scroll(-50, mode="absolute")
        except psycopg.Error as e:
            caught(e)
    await conn.rollback()
    await conn.set_read_only(True)
    async with conn.cursor(name="read_only") as cur:
        await cur.execute("SELECT id FROM pa_log ORDER BY id")
        show("read only", await cur.fetchmany(3))
    cur = await conn.execute("SELECT count(*) FROM pa_people")
    show("then", await cur.fetchone())
    for statement in ("INSERT INTO pa_log VALUES (9999, 'no')", "CREATE TABLE pa_no (a int)", "SELECT set_config('a.b', '1', true)",
                      "PREPARE pa AS SELECT 1"):
        try:
            async with conn.transaction():
                await conn.execute(statement)
                show("allowed", statement)
        except psycopg.Error as e:
            caught(e)
    await conn.commit()
    await conn.set_read_only(None)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    cur = await conn.execute("SELECT current_setting('transaction_isolation'), (SELECT count(*) FROM pa_log)")
    show("repeatable read", await cur.fetchone())
    await conn.commit()
    await conn.set_isolation_level(None)


async def copies(conn):
    cur = conn.cursor()
    async with cur.copy("COPY pa_log (id, what) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        for n in range(10000, 10500):
            await copy.write_row((n, f"b{n}" if n % 3 else None))
    show("copied", (cur.rowcount, cur.statusmessage))
    async with cur.copy("COPY (SELECT id, what FROM pa_log WHERE id >= 10490 ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        show("copied out", [row async for row in copy.rows()])
    async with cur.copy("COPY (SELECT * FROM pa_log ORDER BY id LIMIT 3) TO STDOUT WITH CSV HEADER") as copy:
        show("csv", b"".join([bytes(block) async for block in copy]))
    await conn.commit()
    try:
        async with cur.copy("COPY pa_log FROM STDIN") as copy:
            await copy.write("77777\ta\tb\tc\n")
    except psycopg.Error as e:
        caught(e)
    await conn.rollback()


async def cancelled(conn):
    task = asyncio.create_task(conn.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(conn.cancel)
    try:
        await task
    except errors.QueryCanceled as e:
        caught(e)
    show("status", conn.info.transaction_status.name)
    await conn.rollback()
    await conn.execute("SET statement_timeout = '200ms'")
    await conn.commit()
    try:
        await conn.execute("SELECT pg_sleep(60)")
    except errors.QueryCanceled as e:
        caught(e)
    await conn.rollback()
    await conn.execute("RESET statement_timeout")
    await conn.commit()


async def notifications(url, conn):
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
        await listener.execute("LISTEN pa_news")
        await conn.execute("NOTIFY pa_news, 'rolled back'")
        await conn.rollback()
        for n in range(3):
            await conn.execute("SELECT pg_notify('pa_news', %s)", [f"n{n}"])
        await conn.execute("NOTIFY pa_news, 'last'")
        await conn.commit()
        heard = []
        async for note in listener.notifies():
            heard.append((note.channel, note.payload))
            if note.payload == "last":
                break
        show("heard", heard)
        await listener.execute("UNLISTEN *")


async def conflict(url):
    """Two serializable transactions of which one must fail, and a lock that is not waited for."""
    async with await psycopg.AsyncConnection.connect(url) as a, await psycopg.AsyncConnection.connect(url) as b:
        for conn in (a, b):
            await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await conn.execute("SELECT * FROM pa_log WHERE id = 1")
        await a.execute("UPDATE pa_log SET what = 'a' WHERE id = 1")
        try:
            await b.execute("SELECT * FROM pa_log WHERE id = 1 FOR UPDATE NOWAIT")
        except errors.LockNotAvailable as e:
            caught(e)
        await b.rollback()
        await b.execute("SELECT * FROM pa_log WHERE id = 2")
        await a.commit()
        try:
            await b.execute("UPDATE pa_log SET what = 'b' WHERE id = 1")
        except errors.SerializationFailure as e:
            caught(e)
        await b.rollback()


async def client_cursors(url):
    """Parameters bound by the client: the simple protocol, several statements at once."""
    async with await psycopg.AsyncConnection.connect(url, cursor_factory=psycopg.AsyncClientCursor) as conn:
        cur = await conn.execute("SELECT %s, %s; UPDATE pa_log SET what = %s WHERE id = %s; SELECT what FROM pa_log WHERE id = 8",
                                 [1, "it's", "client", 8])
        seen = []
        while True:
            seen.append((cur.statusmessage, await cur.fetchall() if cur.description else None))
            if not cur.nextset():
                break
        show("several", seen)
        await conn.commit()


async def main(url):
    async with await psycopg.AsyncConnection.connect(url, application_name="async") as conn:
        composite = await schema(conn)
        await types(conn, composite)
        for part in (pipelines, cursors, copies, cancelled):
            print(f"-- {part.__name__}")
            await part(conn)
            show("between parts", conn.info.transaction_status.name)
        await notifications(url, conn)
    await conflict(url)
    await client_cursors(url)


asyncio.run(main(sys.argv[1]))
