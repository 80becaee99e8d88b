//! tokio-postgres: binary values of many types, types of the database's own, pipelined futures, portals, COPY.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::types::{FromSql, Kind, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage};

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE spot AS (x int, y text);
    CREATE DOMAIN small AS int CHECK (VALUE < 100);
    CREATE TABLE t (id int PRIMARY KEY, mood mood, moods mood[], n small, at timestamptz, r int4range, f float8, b bytea, j jsonb);
    CREATE TABLE plain (id int PRIMARY KEY, n int); INSERT INTO plain SELECT g, g FROM generate_series(1, 9) g";

/// What the driver sees at `url`.
pub fn run(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(Duration::from_secs(60), everything(url)).await };
    runtime.block_on(work).expect("the work does not end").unwrap()
}

async fn connect(url: &str) -> Result<(Client, UnboundedReceiver<AsyncMessage>), Error> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            let _nobody_may_listen = sender.send(message);
        }
    });
    Ok((client, receiver))
}

async fn everything(url: &str) -> Result<String, Error> {
    let (mut client, unasked) = connect(url).await?;
    let mut out = String::new();
    client.batch_execute(SCHEMA).await?;
    types(&client, &mut out).await?;
    transactions(&mut client, &mut out).await?;
    pipelined(&client, &mut out).await?;
    copies(&client, &mut out).await?;
    read_only(&mut client, &mut out).await?;
    unasked_for(url, &client, unasked, &mut out).await?;
    Ok(out)
}

fn failed(error: &Error) -> String {
    let e = error.as_db_error().unwrap_or_else(|| panic!("not the server's own error: {error:?}"));
    format!("{} {} {:?} {:?} {:?}", e.code().code(), e.message(), e.detail(), e.hint(), e.position())
}

/// A type, without its OID.
fn kind(ty: &Type) -> String {
    match ty.kind() {
        Kind::Array(element) => format!("{} of {}", ty.name(), kind(element)),
        Kind::Domain(base) => format!("{} on {}", ty.name(), kind(base)),
        Kind::Range(element) => format!("{} from {}", ty.name(), kind(element)),
        Kind::Composite(fields) => {
            format!("{} {:?}", ty.name(), fields.iter().map(|f| kind(f.type_())).collect::<Vec<_>>())
        }
        other => format!("{} {other:?}", ty.name()),
    }
}

/// An enum's value, in whatever type the driver has learnt that it is.
#[derive(Debug, PartialEq)]
struct Mood(String);

impl ToSql for Mood {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }
    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Mood(String::from_utf8(raw.to_vec())?))
    }
    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }
}

async fn types(client: &Client, out: &mut String) -> Result<(), Error> {
    let insert = client
        .prepare("INSERT INTO t (id, mood, moods, at, f, b) VALUES ($1, $2, $3, $4, $5, $6) RETURNING mood, moods")
        .await?;
    let kinds: Vec<String> = insert.params().iter().map(kind).collect();
    writeln!(out, "parameters: {kinds:?}").unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    for id in 0..4 {
        let mood = Mood(if id % 2 == 0 { "sad" } else { "ok" }.into());
        let moods = vec![Mood("ok".into()), Mood("sad".into())];
        let bytes: &[u8] = &[0, 255];
        let row = client.query_one(&insert, &[&id, &mood, &moods, &at, &f64::MIN_POSITIVE, &bytes]).await?;
        writeln!(out, "made: {:?} {:?}", row.get::<_, Mood>(0), row.get::<_, Vec<Mood>>(1)).unwrap();
    }
    let found = client
        .query("SELECT id, mood, moods, at, f, b FROM t WHERE mood = $1 ORDER BY id", &[&Mood("ok".into())])
        .await?;
    for row in found {
        writeln!(
            out,
            "{:?}",
            (
                row.get::<_, i32>(0),
                row.get::<_, Mood>(1),
                row.get::<_, Vec<Mood>>(2),
                row.get::<_, SystemTime>(3),
                row.get::<_, f64>(4),
                row.get::<_, Vec<u8>>(5)
            )
        )
        .unwrap();
    }
    let statement = client.prepare("SELECT mood, moods, n, r, j, ROW(id, mood)::text FROM t WHERE id = $1").await?;
    let columns: Vec<String> =
        statement.columns().iter().map(|c| format!("{} {}", c.name(), kind(c.type_()))).collect();
    writeln!(out, "columns: {columns:?}").unwrap();
    for bad in [Mood("glad".into()), Mood(String::new())] {
        let error = client.execute("UPDATE t SET mood = $1 WHERE id = 1", &[&bad]).await.unwrap_err();
        writeln!(out, "bad: {}", failed(&error)).unwrap();
    }
    let error = client.execute("UPDATE t SET n = $1::int WHERE id = 1", &[&100i32]).await.unwrap_err();
    writeln!(out, "domain: {}", failed(&error)).unwrap();
    Ok(())
}

async fn transactions(client: &mut Client, out: &mut String) -> Result<(), Error> {
    let mut outer = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    outer.execute("UPDATE t SET n = 1 WHERE id = 0", &[]).await?;
    let inner = outer.transaction().await?;
    let error = inner.execute("INSERT INTO t (id) VALUES (1)", &[]).await.unwrap_err();
    writeln!(out, "inner: {}", failed(&error)).unwrap();
    inner.rollback().await?;
    let portal = outer.bind("SELECT id FROM t ORDER BY id", &[]).await?;
    for size in [1, 2, 0] {
        let ids: Vec<i32> = outer.query_portal(&portal, size).await?.iter().map(|r| r.get(0)).collect();
        writeln!(out, "portal: {ids:?}").unwrap();
        outer.execute("UPDATE t SET n = n + 1 WHERE id = 0", &[]).await?;
    }
    let rows = outer.query("SELECT id, n::int FROM t WHERE n IS NOT NULL", &[]).await?;
    let seen: Vec<(i32, i32)> = rows.iter().map(|r: &Row| (r.get(0), r.get(1))).collect();
    outer.commit().await?;
    writeln!(out, "kept: {seen:?}").unwrap();
    Ok(())
}

async fn pipelined(client: &Client, out: &mut String) -> Result<(), Error> {
    let update = client.prepare("UPDATE t SET f = f + $1 WHERE id = $2").await?;
    let select = client.prepare("SELECT id FROM t WHERE id = $1").await?;
    let writes = join_all((0..50).map(|n| {
        let update = &update;
        async move { client.execute(update, &[&1f64, &(n % 5)]).await.unwrap() }
    }));
    let reads = join_all((0..50).map(|n| {
        let select = &select;
        async move { client.query_opt(select, &[&(n % 6)]).await.unwrap().map(|r| r.get::<_, i32>(0)) }
    }));
    let errors = join_all((0..5).map(|_| client.execute("SELECT 1/0", &[])));
    let texts = client
        .simple_query("BEGIN; UPDATE t SET n = 50 WHERE id = 2; SELECT n FROM t WHERE id = 2; COMMIT; SELECT 'behind'");
    let (writes, reads, errors, texts) = tokio::join!(writes, reads, errors, texts);
    let errors: Vec<String> = errors.iter().map(|e| failed(e.as_ref().unwrap_err())).collect();
    writeln!(out, "pipelined: {writes:?}\n{reads:?}\n{errors:?}").unwrap();
    for message in texts? {
        match message {
            SimpleQueryMessage::Row(row) => writeln!(out, "text: {:?}", row.get(0)).unwrap(),
            SimpleQueryMessage::CommandComplete(n) => writeln!(out, "complete: {n}").unwrap(),
            _ => {}
        }
    }
    Ok(())
}

async fn copies(client: &Client, out: &mut String) -> Result<(), Error> {
    let sink = client.copy_in("COPY t (id, mood, moods) FROM STDIN").await?;
    pin_mut!(sink);
    for id in 100..200 {
        sink.send(Bytes::from(format!("{id}\tok\t{{sad,ok}}\n"))).await?;
    }
    writeln!(out, "copied: {}", sink.finish().await?).unwrap();
    let rows = client
        .copy_out("COPY (SELECT id, mood, moods FROM t WHERE id > 197 ORDER BY id) TO STDOUT (FORMAT csv)")
        .await?;
    let lines: Vec<Bytes> = rows.try_collect().await?;
    writeln!(out, "out: {lines:?}").unwrap();
    let sink = client.copy_in("COPY t (id, mood) FROM STDIN").await?;
    pin_mut!(sink);
    sink.send(Bytes::from("500\tglad\n")).await?;
    writeln!(out, "bad: {}", failed(&sink.finish().await.unwrap_err())).unwrap();
    Ok(())
}

/// Every kind of statement behind a read in a READ ONLY block. What was prepared before runs on a replica, until the block
/// needs main; at REPEATABLE READ it cannot go there any more, so what needs main is not tried.
async fn read_only(client: &mut Client, out: &mut String) -> Result<(), Error> {
    let everywhere = [
        "SELECT n::text FROM plain WHERE id = 4",
        "INSERT INTO plain VALUES (1000)",
        "CREATE TABLE no (a int)",
        "SELECT 1/0",
        "SET LOCAL work_mem = '5MB'",
        "SHOW transaction_read_only",
        "SAVEPOINT s",
        "DECLARE c CURSOR FOR SELECT id FROM plain",
    ];
    let on_main = [
        "SELECT mood::text FROM t WHERE id = 1",
        "SELECT relname::text FROM pg_class WHERE relname = 'plain'",
        "SELECT set_config('my.thing', 'x', true)",
        "SELECT pg_try_advisory_xact_lock(7)::text",
        "SELECT nextval('nowhere')::text",
        "PREPARE p AS SELECT 1",
        "LOCK TABLE plain IN ACCESS SHARE MODE",
        "SELECT id::text FROM plain WHERE id = 1 FOR UPDATE",
        "SET LOCAL search_path = pg_catalog",
        "NOTIFY nobody",
    ];
    let count = client.prepare("SELECT count(*) FROM plain").await?;
    for (isolation, statements) in [
        (None, [&everywhere[..], &on_main].concat()),
        (Some(IsolationLevel::ReadCommitted), on_main.to_vec()),
        (Some(IsolationLevel::RepeatableRead), everywhere.to_vec()),
    ] {
        for second in statements {
            let block = client.build_transaction().read_only(true);
            let block = if let Some(level) = isolation { block.isolation_level(level) } else { block };
            let block = block.start().await?;
            let before: i64 = block.query_one(&count, &[]).await?.get(0);
            let seen = match block.query(second, &[]).await {
                Ok(rows) => format!("{:?}", rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>()),
                Err(error) => failed(&error),
            };
            let after = block.query_one(&count, &[]).await;
            let after = after.map_or_else(|e| failed(&e), |row| row.get::<_, i64>(0).to_string());
            block.commit().await?;
            writeln!(out, "read only {before}, {second}: {seen}, then {after}").unwrap();
        }
    }
    client.batch_execute("DEALLOCATE ALL").await
}

async fn unasked_for(
    url: &str,
    client: &Client,
    mut unasked: UnboundedReceiver<AsyncMessage>,
    out: &mut String,
) -> Result<(), Error> {
    let (other, _unasked) = connect(url).await?;
    client.batch_execute("LISTEN news; DROP TABLE IF EXISTS nowhere").await?;
    other.batch_execute("BEGIN; NOTIFY news, 'lost'; ROLLBACK; NOTIFY news, 'one'; NOTIFY news, 'two'").await?;
    let mut heard = Vec::new();
    while heard.len() < 3 {
        match unasked.recv().await.expect("the connection stands") {
            AsyncMessage::Notice(n) => heard.push(format!("{} {}", n.severity(), n.message())),
            AsyncMessage::Notification(n) => heard.push(format!("{} {}", n.channel(), n.payload())),
            _ => {}
        }
    }
    writeln!(out, "heard: {heard:?}").unwrap();
    let token = client.cancel_token();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        token.cancel_query(NoTls).await
    };
    let (slept, cancelled) = tokio::join!(client.execute("SELECT pg_sleep(60)", &[]), cancel);
    cancelled?;
    writeln!(out, "cancelled: {}", failed(&slept.unwrap_err())).unwrap();
    Ok(())
}
