"""What an application on SQLAlchemy 2 does, with psycopg 3 and with asyncpg: schema, ORM, unit of work, reflection, pool.

Prints what it sees; the same run on a direct connection must print the same. Usage: sqlalchemy_app.py URL
"""

import asyncio
import datetime
import enum
import sys
from typing import Optional

import sqlalchemy as sa
from sqlalchemy import exc, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload


class Base(DeclarativeBase):
    metadata = sa.MetaData(schema="shop")


class Kind(enum.Enum):
    book = "book"
    tool = "tool"


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    items: Mapped[list["Item"]] = relationship(back_populates="author", cascade="all, delete-orphan", order_by="Item.id")


class Item(Base):
    __tablename__ = "item"
    __table_args__ = (sa.CheckConstraint("price >= 0", name="item_price"), sa.Index("item_title", sa.text("lower(title)")))
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey(Author.id, ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.Text, comment="as printed")
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind, name="kind"))
    price: Mapped[Optional[float]] = mapped_column(sa.Numeric(8, 2))
    tags: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), server_default="{}")
    data: Mapped[dict] = mapped_column(JSONB, default=dict)
    made: Mapped[Optional[datetime.datetime]] = mapped_column(sa.DateTime(timezone=True))
    version: Mapped[int] = mapped_column(default=1)
    author: Mapped[Author] = relationship(back_populates="items")
    __mapper_args__ = {"version_id_col": version}


class Label(Base):
    # What fails uses a key of its own making: a sequence that a failed statement moved on main, replicas do not know.
    __tablename__ = "label"
    name: Mapped[str] = mapped_column(primary_key=True)
    colour: Mapped[Optional[str]] = mapped_column(sa.String(10))


def show(what, value):
    print(f"{what}: {value!r}", flush=True)


def caught(error):
    """Without the driver's own words: those name its classes."""
    cause = getattr(error, "orig", None)
    diag = getattr(cause, "diag", None)
    show("caught", (type(error).__name__, getattr(cause, "sqlstate", None), diag and (diag.message_primary, diag.message_detail)))


def fill(engine):
    with Session(engine) as session:
        authors = [Author(name=f"author {n}") for n in range(5)]
        for author in authors:
            author.items = [Item(title=f"{author.name}, {n}", kind=Kind.book if n % 2 else Kind.tool, price=n, tags=[str(n)],
                                 data={"n": n}) for n in range(60)]
        session.add_all(authors)
        session.commit()
        show("authors", [(a.id, a.name, [i.id for i in a.items][:3]) for a in session.scalars(select(Author).order_by(Author.id))])
        made = session.scalars(sa.insert(Author).returning(Author, sort_by_parameter_order=True), [{"name": f"bulk {n}"} for n in range(1100)])
        show("bulk", [(a.id, a.name) for a in made][::250])
        session.execute(sa.update(Item), [{"id": n, "price": 5, "version": 1} for n in range(1, 50)])
        session.commit()


def work(engine):
    with Session(engine) as session, session.begin():
        author = session.get_one(Author, 1) if hasattr(session, "get_one") else session.get(Author, 1)
        author.items[0].title = "changed"
        author.items[1].data = {"deep": {"er": [1, None]}}
        del author.items[2]
        author.items.append(Item(title="appended", kind=Kind.tool, made=datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)))
        session.flush()
        show("flushed", [(i.id, i.title, i.version) for i in author.items][:2] + [author.items[-1].id])
    with Session(engine) as session:
        with session.begin():
            session.add_all([Author(name="outer"), Label(name="outer")])
            session.flush()
            try:
                with session.begin_nested():
                    session.execute(sa.insert(Label).values(name="inner"))
                    session.execute(sa.insert(Label).values(name="outer"))
            except exc.IntegrityError as e:
                caught(e)
            try:
                with session.begin_nested():
                    session.add(Label(name="too long", colour="x" * 11))
            except exc.DataError as e:
                caught(e)
            try:
                with session.begin_nested():
                    session.execute(sa.insert(Item).values(id=1, author_id=1, title="x", kind=Kind.book, data={}))
            except exc.IntegrityError as e:
                caught(e)
        show("outer", session.scalars(select(Author.name).where(Author.name == "outer")).all() + session.scalars(select(Label.name)).all())
        session.rollback()
        # Optimistic locking: somebody else was faster, which the row count tells.
        item = session.get(Item, 4)
        with engine.begin() as other:
            other.execute(sa.update(Item).where(Item.id == 4).values(version=Item.version + 1))
        item.title = "too late"
        try:
            session.commit()
        except Exception as e:
            show("stale", type(e).__name__)
        session.rollback()
    with Session(engine) as session, session.begin():
        statement = insert(Author).values([{"name": "outer"}, {"name": "new"}])
        upsert = statement.on_conflict_do_update(index_elements=[Author.name], set_={"name": statement.excluded.name + "!"}).returning(Author.name)
        show("upsert", sorted(session.scalars(upsert)))
        nothing = insert(Label).values(name="outer").on_conflict_do_nothing().returning(Label.name)
        show("nothing", list(session.scalars(nothing)))
        locked = session.scalars(select(Item).where(Item.id < 4).order_by(Item.id).with_for_update(skip_locked=True, of=Item))
        show("locked", [i.id for i in locked])
        deleted = session.execute(sa.delete(Item).where(Item.price > 50).returning(Item.id))
        show("deleted", sorted(deleted.scalars())[:5])
        show("updated", session.execute(sa.update(Item).where(Item.kind == Kind.tool).values(price=Item.price + 1)).rowcount)


def queries(engine):
    with Session(engine) as session:
        statement = select(Author.name, sa.func.count(Item.id), sa.func.sum(Item.price)).join(Author.items).group_by(Author.name).order_by(Author.name)
        show("grouped", session.execute(statement).all())
        ranked = select(Item.id, sa.func.row_number().over(partition_by=Item.author_id, order_by=Item.id).label("r")).cte()
        show("window", session.execute(select(ranked).where(ranked.c.r <= 2).order_by(ranked.c.id)).all())
        show("json", session.scalars(select(Item.id).where(Item.data["n"].astext.cast(sa.Integer) == 7).order_by(Item.id)).all())
        show("array", session.scalars(select(Item.id).where(Item.tags.contains(["8"])).order_by(Item.id)).all())
        loaded = session.scalars(select(Author).options(selectinload(Author.items)).where(Author.id <= 3).order_by(Author.id))
        show("selectin", [(a.name, len(a.items)) for a in loaded])
        streamed = session.scalars(select(Item).order_by(Item.id).execution_options(yield_per=100))
        show("streamed", sum(item.id for item in streamed))
        show("partitions", [len(p) for p in session.scalars(select(Item.id).order_by(Item.id).execution_options(yield_per=100)).partitions()])


def isolation(engine):
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as conn:
            show(level, conn.execute(text("SELECT current_setting('transaction_isolation'), count(*) FROM shop.author")).one())
            conn.execute(sa.update(Author).where(Author.id == 2).values(name=level))
            conn.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM shop.item"))
    with engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True) as conn:
        show("read only", conn.scalar(text("SELECT count(*) FROM shop.item")))
        show("tables", sorted(sa.inspect(conn).get_table_names(schema="shop")))
        try:
            conn.execute(sa.delete(Item))
        except exc.DBAPIError as e:
            caught(e)


def reflection(engine):
    inspector = sa.inspect(engine)
    show("tables", sorted(inspector.get_table_names(schema="shop")))
    for table in ("author", "item"):
        show("columns", [(c["name"], str(c["type"]), c["nullable"], c["default"], c.get("identity"), c["comment"]) for c in inspector.get_columns(table, "shop")])
        show("key", inspector.get_pk_constraint(table, "shop"))
        show("foreign keys", inspector.get_foreign_keys(table, "shop"))
        show("indexes", sorted((i["name"], i["column_names"], i["unique"]) for i in inspector.get_indexes(table, "shop")))
        show("checks", [(c["name"], c["sqltext"]) for c in inspector.get_check_constraints(table, "shop")])
    show("enums", inspector.get_enums(schema="shop"))
    show("sequences", inspector.get_sequence_names(schema="shop"))
    reflected = sa.Table("item", sa.MetaData(), schema="shop", autoload_with=engine)
    show("reflected", [repr(c.type) for c in reflected.columns])


def pool(engine):
    """A connection that is lost while it is idle is found by pre_ping."""
    with engine.connect() as conn:
        pid = conn.scalar(text("SELECT pg_backend_pid()"))
    other = sa.create_engine(engine.url)
    with other.begin() as conn:
        conn.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    other.dispose()
    with engine.connect() as conn:
        show("after a lost connection", conn.scalar(text("SELECT 1")))
    with engine.connect() as conn:
        conn.execute(text("SET search_path = shop"))
        conn.rollback()
    with engine.connect() as conn:
        show("search_path", conn.scalar(text("SHOW search_path")))
    held = [engine.connect() for _ in range(4)]
    show("side by side", [c.scalar(select(sa.func.count()).select_from(Author)) for c in held])
    for conn in held:
        conn.close()


async def asynchronous(url):
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), pool_pre_ping=True)
    async with AsyncSession(engine) as session:
        session.add(Author(name="async", items=[Item(title=f"async {n}", kind=Kind.book) for n in range(30)]))
        await session.commit()
        found = (await session.scalars(select(Author).options(selectinload(Author.items)).where(Author.name == "async"))).one()
        show("async", [(i.title, i.kind, i.version) for i in found.items][:2])
        await session.rollback()
        stream = await session.stream_scalars(select(Item.id).order_by(Item.id).execution_options(yield_per=100))
        show("streamed", sum([i async for i in stream]))
        try:
            async with session.begin_nested():
                await session.execute(sa.insert(Label).values(name="outer"))
        except exc.IntegrityError as e:
            caught(e)
        show("count", await session.scalar(select(sa.func.count()).select_from(Author)))
        await session.commit()
    async with engine.connect() as conn:
        conn = await conn.execution_options(postgresql_readonly=True)
        show("read only", (await conn.execute(select(Item.kind, sa.func.count()).group_by(Item.kind).order_by(Item.kind))).all())
    async with engine.begin() as conn:
        show("tables", await conn.run_sync(lambda c: sorted(sa.inspect(c).get_table_names(schema="shop"))))
    await engine.dispose()


def main(url):
    url = sa.make_url(url)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=2)
    with engine.begin() as conn:
        conn.execute(sa.schema.CreateSchema("shop"))
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    for part in (fill, work, queries, isolation, reflection, pool):
        print(f"-- {part.__name__}")
        part(engine)
    print("-- asynchronous")
    asyncio.run(asynchronous(url))
    with engine.begin() as conn:
        conn.execute(text("CREATE VIEW shop.priced AS SELECT id FROM shop.item WHERE price IS NOT NULL"))
        conn.execute(text("ALTER TABLE shop.item RENAME COLUMN title TO name"))
        conn.execute(text("ALTER TABLE shop.item ALTER COLUMN name TYPE varchar(100)"))
    with engine.connect() as conn:
        show("renamed", conn.execute(text("SELECT name FROM shop.item WHERE id IN (SELECT id FROM shop.priced) ORDER BY id LIMIT 2")).all())
    engine.dispose()


main(sys.argv[1])
