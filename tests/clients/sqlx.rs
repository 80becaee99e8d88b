//! sqlx: its pool, its statement cache, nested transactions, streams, COPY, its listener and its advisory locks.

use std::fmt::Write;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgAdvisoryLock, PgListener, PgPool, PgPoolOptions};
use sqlx::{Acquire, Column, Connection, Error, Executor, Row, Statement, TypeInfo};

/// What the driver sees at `url`.
pub fn run(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(Duration::from_secs(60), everything(url)).await };
    runtime.block_on(work).expect("the work does not end").unwrap()
}

async fn everything(url: &str) -> Result<String, Error> {
    // More statements than it keeps: the oldest are closed. SSL is what it prefers, and is answered N.
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    let options = options.statement_cache_capacity(10).application_name("sqlx").options([("statement_timeout", "30s")]);
    let pool = PgPoolOptions::new().max_connections(4).test_before_acquire(true).connect_with(options).await?;
    let mut out = String::new();
    schema(&pool, &mut out).await?;
    queries(&pool, &mut out).await?;
    transactions(&pool, &mut out).await?;
    copies(&pool, &mut out).await?;
    listener(&pool, &mut out).await?;
    pooled(&pool, &mut out).await?;
    pool.close().await;
    Ok(out)
}

fn failed(error: &Error) -> String {
    match error.as_database_error().map(|e| e.downcast_ref::<sqlx::postgres::PgDatabaseError>()) {
        Some(e) => format!("{} {} {:?} {:?} {:?}", e.code(), e.message(), e.detail(), e.constraint(), e.table()),
        None => format!("{error:?}"),
    }
}

async fn schema(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let done = pool.execute("CREATE TYPE kind AS ENUM ('big', 'small'); CREATE TYPE pair AS (a int, b kind);
        CREATE TABLE thing (id bigint PRIMARY KEY, name text UNIQUE, kind kind, kinds kind[], score float8, tags text[], raw bytea, p pair);
        INSERT INTO thing (id, name) SELECT g, 'thing ' || g FROM generate_series(1, 100) g").await?;
    writeln!(out, "made: {}", done.rows_affected()).unwrap();
    Ok(())
}

async fn queries(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let mut conn = pool.acquire().await?;
    for n in 0..30i64 {
        // Each text is another statement.
        let row = sqlx::query(&format!("SELECT name, {n} AS n FROM thing WHERE id = $1"))
            .bind(n)
            .fetch_optional(&mut *conn)
            .await?;
        writeln!(out, "{n}: {:?}", row.map(|r| (r.get::<String, _>(0), r.get::<i32, _>("n")))).unwrap();
    }
    let updated = sqlx::query("UPDATE thing SET score = $2, tags = $3, raw = $4 WHERE id <= $1")
        .bind(5i64)
        .bind(1.5f64)
        .bind(vec!["a", "b"])
        .bind(vec![0u8, 255])
        .execute(&mut *conn)
        .await?;
    writeln!(out, "updated: {}", updated.rows_affected()).unwrap();
    type Found = (i64, Option<f64>, Option<Vec<String>>, Option<Vec<u8>>);
    let found: Vec<Found> =
        sqlx::query_as("SELECT id, score, tags, raw FROM thing WHERE id BETWEEN $1 AND 7 ORDER BY id")
            .bind(4i64)
            .fetch_all(&mut *conn)
            .await?;
    writeln!(out, "found: {found:?}").unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM thing WHERE id = ANY($1)")
        .bind(vec![1i64, 2, 3, 400])
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    writeln!(out, "count: {count}").unwrap();
    let described = conn.describe("SELECT id, kind, kinds, p, tags FROM thing WHERE kind = $1").await?;
    let columns: Vec<String> =
        described.columns().iter().map(|c| format!("{} {}", c.name(), c.type_info().name())).collect();
    writeln!(out, "described: {columns:?} {:?} {:?}", described.nullable(0), described.nullable(1)).unwrap();
    let prepared = conn.prepare("SELECT name FROM thing WHERE id = $1 AND kinds IS NULL").await?;
    writeln!(out, "prepared: {:?}", prepared.columns().len()).unwrap();
    let mut stream = sqlx::query("SELECT id FROM thing ORDER BY id").fetch(&mut *conn);
    let mut sum = 0i64;
    while let Some(row) = stream.try_next().await? {
        sum += row.get::<i64, _>(0);
        if sum > 100 {
            break; // the rest is read before the next statement
        }
    }
    drop(stream);
    writeln!(out, "sum: {sum}").unwrap();
    let mut several = sqlx::raw_sql(
        "SELECT 1; UPDATE thing SET score = 2 WHERE id = 9; SELECT name FROM thing WHERE id = 9; SELECT 1/0; SELECT 2",
    )
    .fetch_many(&mut *conn);
    while let Some(result) = several.next().await {
        let said = result.map_or_else(
            |e| failed(&e),
            |r| match r {
                sqlx::Either::Left(done) => format!("{} rows", done.rows_affected()),
                sqlx::Either::Right(row) => format!("{} columns", row.len()),
            },
        );
        writeln!(out, "several: {said}").unwrap();
    }
    Ok(())
}

async fn transactions(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let mut outer = pool.begin().await?;
    sqlx::query("UPDATE thing SET kind = $1::kind, kinds = $2::text[]::kind[] WHERE id = 1")
        .bind("big")
        .bind(vec!["small", "big"])
        .execute(&mut *outer)
        .await?;
    let mut inner = outer.begin().await?;
    let error =
        sqlx::query("INSERT INTO thing (id, name) VALUES (101, 'thing 1')").execute(&mut *inner).await.unwrap_err();
    writeln!(out, "inner: {}", failed(&error)).unwrap();
    inner.rollback().await?;
    {
        let mut dropped = outer.begin().await?;
        sqlx::query("DELETE FROM thing WHERE id > 50").execute(&mut *dropped).await?;
    }
    let row = sqlx::query("SELECT kind::text, kinds::text[], count(*) OVER () FROM thing WHERE id = 1")
        .fetch_one(&mut *outer)
        .await?;
    writeln!(out, "outer: {:?}", (row.get::<String, _>(0), row.get::<Vec<String>, _>(1), row.get::<i64, _>(2)))
        .unwrap();
    outer.commit().await?;
    drop(pool.begin().await?); // rolled back when the connection is next used
    let mut read = pool.begin_with("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
    for statement in [
        "SELECT count(*) FROM thing",
        "SELECT count(*) FROM thing WHERE kind = 'big'",
        "SELECT count(*) FROM pg_type WHERE typname = 'kind'",
        "SELECT 1::bigint FROM pg_advisory_xact_lock(5)",
    ] {
        let said = sqlx::query_scalar::<_, i64>(statement).fetch_one(&mut *read).await;
        writeln!(out, "{statement}: {:?}", said.map_err(|e| failed(&e))).unwrap();
    }
    read.rollback().await?;
    let mut conn = pool.acquire().await?;
    let done: Result<i64, Error> = conn
        .transaction(|tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM thing").execute(&mut **tx).await?;
                sqlx::query_scalar("SELECT 1 / count(*) FROM thing").fetch_one(&mut **tx).await
            })
        })
        .await;
    writeln!(out, "undone: {}", failed(&done.unwrap_err())).unwrap();
    Ok(())
}

async fn copies(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let mut conn = pool.acquire().await?;
    let mut sink = conn.copy_in_raw("COPY thing (id, name, kind) FROM STDIN").await?;
    for n in 1000..1300 {
        sink.send(format!("{n}\tcopied {n}\tsmall\n").into_bytes()).await?;
    }
    writeln!(out, "copied: {}", sink.finish().await?).unwrap();
    let mut sink = conn.copy_in_raw("COPY thing (id, name) FROM STDIN").await?;
    sink.send(&b"5000\tgiven up\n"[..]).await?;
    sink.abort("changed my mind").await?;
    let copied =
        conn.copy_out_raw("COPY (SELECT id, name, kind FROM thing WHERE id >= 1298 ORDER BY id) TO STDOUT").await?;
    let parts: Vec<bytes::Bytes> = copied.try_collect().await?;
    writeln!(out, "out: {:?}", String::from_utf8_lossy(&parts.concat())).unwrap();
    Ok(())
}

async fn listener(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all(["one", "two"]).await?;
    pool.execute("NOTIFY one, 'first'").await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind("two").bind("second").execute(pool).await?;
    for _ in 0..2 {
        let n = listener.recv().await?;
        writeln!(out, "heard: {} {}", n.channel(), n.payload()).unwrap();
    }
    let lock = PgAdvisoryLock::new("sqlx");
    let held = lock.acquire(pool.acquire().await?).await?;
    let other = lock.try_acquire(pool.acquire().await?).await?;
    writeln!(out, "lock: {}", other.is_left()).unwrap();
    drop(other);
    held.release_now().await?;
    Ok(())
}

async fn pooled(pool: &PgPool, out: &mut String) -> Result<(), Error> {
    let updates = (0..20i64).map(|n| async move {
        let mut tx = pool.begin().await?;
        sqlx::query("UPDATE thing SET score = coalesce(score, 0) + 1 WHERE id = $1")
            .bind(10 + n % 4)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    });
    for done in futures_util::future::join_all(updates).await {
        done?;
    }
    let scores: Vec<(i64, f64)> =
        sqlx::query_as("SELECT id, score FROM thing WHERE id BETWEEN 10 AND 13 ORDER BY id").fetch_all(pool).await?;
    writeln!(out, "scores: {scores:?}").unwrap();
    let mut conn = pool.acquire().await?;
    conn.execute("SET statement_timeout = 100").await?;
    let error = sqlx::query("SELECT pg_sleep(60)").execute(&mut *conn).await.unwrap_err();
    writeln!(out, "timed out: {}", failed(&error)).unwrap();
    Ok(())
}
