"""What a service on asyncpg does: a pool, binary types, portals, COPY, notifications, time-outs.

Prints what it sees; the same run on a direct connection must print the same. Usage: asyncpg_app.py URL
"""

import asyncio
import datetime
import decimal
import io
import json
import sys
import uuid

import asyncpg


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def caught(error):
    show("caught", (type(error).__name__, getattr(error, "sqlstate", None), getattr(error, "message", None),
                    getattr(error, "detail", None), getattr(error, "hint", None), getattr(error, "constraint_name", None)))


async def init(conn):
    await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def schema(pool):
    async with pool.acquire() as conn:
        await conn.execute("""
            CREATE TYPE ap_state AS ENUM ('new', 'paid', 'sent');
            CREATE TYPE ap_address AS (street text, number int);
            CREATE TABLE ap_customers (id bigint PRIMARY KEY, name text NOT NULL, address ap_address);
            CREATE TABLE ap_orders (id uuid PRIMARY KEY, customer bigint REFERENCES ap_customers, state ap_state NOT NULL DEFAULT 'new',
                                    placed timestamptz, price numeric(10, 2) CHECK (price >= 0), tags text[], extra jsonb,
                                    history ap_state[], during tstzrange);
            CREATE INDEX ON ap_orders (customer);
        """)
        show("status", await conn.execute("INSERT INTO ap_customers VALUES ($1, $2, $3)", 1, "Ärmel", ("Lane", 7)))
        show("status", await conn.executemany("INSERT INTO ap_customers (id, name) VALUES ($1, $2)", [(n, f"c{n}") for n in range(2, 200)]))
        show("customers", await conn.fetchval("SELECT count(*) FROM ap_customers"))


async def types(pool):
    when = datetime.datetime(2024, 2, 29, 1, 2, 3, 456789, tzinfo=datetime.timezone.utc)
    async with pool.acquire() as conn:
        order = await conn.fetchrow(
            "INSERT INTO ap_orders VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *", uuid.UUID(int=1), 1, "paid", when,
            decimal.Decimal("12.50"), ["a", None], {"k": [1, "ü"]}, ["new", "paid"], asyncpg.Range(when, None))
        show("inserted", dict(order))
        show("found", dict(await conn.fetchrow("SELECT * FROM ap_orders WHERE id = $1", uuid.UUID(int=1))))
        show("address", await conn.fetchval("SELECT address FROM ap_customers WHERE id = 1"))
        show("by state", await conn.fetch("SELECT price FROM ap_orders WHERE state = $1 AND history @> $2", "paid", ["new"]))
        show("any", [r[0] for r in await conn.fetch("SELECT id FROM ap_customers WHERE id = ANY($1::bigint[]) ORDER BY 1", [1, 5, 7, 999])])
        row = await conn.fetchrow("SELECT $1::int2, $2::float8, $3::date, $4::interval, $5::inet, $6::bytea, $7::bool, $8::bit(3), $9::point",
                                  -5, 1.25, datetime.date(2000, 1, 1), datetime.timedelta(hours=-1), "10.0.0.1", b"\0\1", True,
                                  asyncpg.BitString("101"), (1, 2))
        show("built in", tuple(row))
        for args in ((1, "two"), ("x",), ()):
            try:
                await conn.fetch("SELECT $1::int", *args)
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as e:
                caught(e)


async def transactions(pool):
    async with pool.acquire() as conn:
        async with conn.transaction():
            await conn.execute("UPDATE ap_customers SET name = 'one' WHERE id = 1")
            try:
                async with conn.transaction():
                    await conn.execute("UPDATE ap_customers SET name = 'two' WHERE id = 2")
                    await conn.execute("INSERT INTO ap_orders (id, customer) VALUES ($1, $2)", uuid.UUID(int=2), 4711)
            except asyncpg.ForeignKeyViolationError as e:
                caught(e)
            try:
                async with conn.transaction():
                    await conn.execute("INSERT INTO ap_orders (id, customer, price) VALUES ($1, 1, -1)", uuid.UUID(int=3))
            except asyncpg.CheckViolationError as e:
                caught(e)
            await conn.execute("INSERT INTO ap_orders (id, customer, price) VALUES ($1, 1, 1)", uuid.UUID(int=4))
        show("kept", await conn.fetch("SELECT id, name FROM ap_customers WHERE id < 3 ORDER BY id"))
        try:
            async with conn.transaction():
                await conn.execute("DELETE FROM ap_orders")
                raise KeyError
        except KeyError:
            show("orders", await conn.fetchval("SELECT count(*) FROM ap_orders"))
        for options in ({"isolation": "serializable"}, {"isolation": "repeatable_read", "readonly": True}, {"readonly": True},
                        {"isolation": "serializable", "readonly": True, "deferrable": True}):
            async with conn.transaction(**options):
                show(str(options), tuple(await conn.fetchrow(
                    "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), count(*) FROM ap_orders")))
            try:
                async with conn.transaction(**options):
                    show("read", await conn.fetchval("SELECT count(*) FROM ap_orders"))
                    await conn.execute("UPDATE ap_customers SET name = 'x' WHERE id = $1", 1)
                    show("updated", True)
                    raise KeyError
            except asyncpg.ReadOnlySQLTransactionError as e:
                caught(e)
            except KeyError:
                pass


async def read_only(pool, url):
    """A fresh connection asks for types in the middle of a READ ONLY block, where the catalogue must be asked."""
    conn = await asyncpg.connect(url, server_settings={"jit": "off"})
    try:
        async with conn.transaction(readonly=True):
            show("count", await conn.fetchval("SELECT count(*) FROM ap_customers"))
            show("states", await conn.fetch("SELECT state, history FROM ap_orders ORDER BY id"))
            show("address", await conn.fetchval("SELECT address FROM ap_customers WHERE id = $1", 1))
            show("lock", await conn.fetchval("SELECT pg_try_advisory_xact_lock(1)"))
            async with conn.transaction():
                show("walk", [r["id"] async for r in conn.cursor("SELECT id FROM ap_customers ORDER BY id LIMIT 4")])
    except asyncpg.PostgresError as e:
        caught(e)
    finally:
        await conn.close()


async def cursors(pool):
    async with pool.acquire() as conn:
        async with conn.transaction():
            show("walked", [r["id"] async for r in conn.cursor("SELECT id FROM ap_customers WHERE id < $1 ORDER BY id", 120, prefetch=7)][::10])
            cursor = await conn.cursor("SELECT id FROM ap_customers ORDER BY id")
            show("fetched", await cursor.fetch(3))
            show("forward", await cursor.forward(10))
            show("row", await cursor.fetchrow())
            statement = await conn.prepare("SELECT name FROM ap_customers WHERE id = $1")
            show("attributes", [a.name for a in statement.get_attributes()] + [p.name for p in statement.get_parameters()])
            cursor = await statement.cursor(5)
            show("by statement", await cursor.fetch(10))
        try:
            async for _ in conn.cursor("SELECT 1"):
                pass
        except asyncpg.NoActiveSQLTransactionError as e:
            show("no transaction", type(e).__name__)


async def statements(pool):
    async with pool.acquire() as conn:
        for n in range(150):
            # More than asyncpg keeps prepared: it closes the oldest.
            await conn.fetchval(f"SELECT {n} + count(*) FROM ap_customers WHERE id = $1", n)
        statement = await conn.prepare("SELECT * FROM ap_customers WHERE id = $1")
        show("before", dict(await statement.fetchrow(2)))
        await conn.fetchrow("SELECT * FROM ap_customers WHERE id = 2")
        await conn.execute("ALTER TABLE ap_customers ADD COLUMN vip bool DEFAULT false")
        try:
            show("after", dict(await statement.fetchrow(2)))
        except asyncpg.PostgresError as e:
            caught(e)
        show("again", dict(await conn.fetchrow("SELECT * FROM ap_customers WHERE id = 2")))
        try:
            await conn.prepare("SELECT nothing FROM ap_customers")
        except asyncpg.PostgresError as e:
            caught(e)
        show("script", await conn.execute("CREATE TABLE ap_scratch (a int); INSERT INTO ap_scratch VALUES (1), (2); DELETE FROM ap_scratch WHERE a = 1"))
        try:
            await conn.executemany("INSERT INTO ap_customers (id, name) VALUES ($1, $2)", [(500, "a"), (501, "b"), (1, "dup"), (502, "c")])
        except asyncpg.UniqueViolationError as e:
            caught(e)
        show("all or nothing", await conn.fetchval("SELECT count(*) FROM ap_customers WHERE id >= 500"))
        show("explain", await conn.fetchval("EXPLAIN (COSTS OFF) SELECT 1"))


async def copies(pool):
    async with pool.acquire() as conn:
        rows = [(n, f"copied {n}", ("Street", n), n % 2 == 0) for n in range(1000, 1500)]
        show("copied", await conn.copy_records_to_table("ap_customers", records=rows, columns=["id", "name", "address", "vip"]))
        show("csv", await conn.copy_to_table("ap_customers", source=io.BytesIO(b"id,name\n2000,x\n2001,y\n"), columns=["id", "name"], format="csv", header=True))
        out = io.BytesIO()
        show("out", await conn.copy_from_query("SELECT id, name, address FROM ap_customers WHERE id > $1 ORDER BY id", 1497, output=out))
        show("text", out.getvalue())
        out = io.BytesIO()
        show("out", await conn.copy_from_table("ap_scratch", output=out, format="csv"))
        show("text", out.getvalue())
        try:
            await conn.copy_to_table("ap_customers", source=io.BytesIO(b"3000\tx\nnonsense\ty\n"), columns=["id", "name"])
        except asyncpg.PostgresError as e:
            caught(e)
        show("rows", await conn.fetchval("SELECT count(*) FROM ap_customers"))


async def time_outs(pool):
    async with pool.acquire() as conn:
        for statement in ("SELECT pg_sleep(30)", "UPDATE ap_customers SET name = pg_sleep(30)::text WHERE id = 1"):
            try:
                await conn.execute(statement, timeout=0.4)
            except asyncio.TimeoutError:
                show("timed out", await conn.fetchval("SELECT 1"))
        task = asyncio.create_task(conn.fetch("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.3)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            show("cancelled", await conn.fetchval("SELECT name FROM ap_customers WHERE id = 1"))


async def notifications(pool):
    heard = asyncio.Queue()
    async with pool.acquire() as conn, pool.acquire() as other:
        listener = lambda c, pid, channel, payload: heard.put_nowait((channel, payload))
        await conn.add_listener("ap_news", listener)
        await other.execute("NOTIFY ap_news, 'one'")
        async with other.transaction():
            await other.execute("SELECT pg_notify('ap_news', $1)", "two")
        show("heard", [await asyncio.wait_for(heard.get(), 20) for _ in range(2)])
        await conn.remove_listener("ap_news", listener)
        notices = []
        heed = lambda c, message: notices.append(message.message)
        conn.add_log_listener(heed)
        await conn.execute("DROP TABLE IF EXISTS ap_nowhere")
        await asyncio.sleep(0)
        conn.remove_log_listener(heed)
        show("notices", notices)


async def pooling(pool):
    """What one user of a connection leaves behind, the next must not see."""
    for _ in range(3):
        async with pool.acquire() as conn:
            show("settings", tuple(await conn.fetchrow("SELECT current_setting('work_mem'), current_setting('search_path'), current_setting('my.thing', true)")))
            await conn.execute("SET work_mem = '7MB'; SET search_path = pg_catalog, public; SET my.thing = 'left'")
            await conn.fetchval("SELECT pg_advisory_lock(17)")
    async def worker(n):
        async with pool.acquire() as conn:
            async with conn.transaction():
                await conn.execute("UPDATE ap_customers SET name = name || '!' WHERE id = $1", 100 + n)
                return await conn.fetchval("SELECT name FROM ap_customers WHERE id = $1", 100 + n)
    show("workers", await asyncio.gather(*(worker(n) for n in range(12))))


async def main(url):
    async with asyncpg.create_pool(url, min_size=1, max_size=4, init=init, server_settings={"jit": "off"}) as pool:
        await schema(pool)
        for part in (types, transactions, cursors, statements, copies, time_outs, notifications, pooling):
            print(f"-- {part.__name__}")
            await part(pool)
        print("-- read only")
        await read_only(pool, url)


asyncio.run(main(sys.argv[1]))
