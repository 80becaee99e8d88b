//! Drivers as programs use them: tokio-postgres here, psycopg 3 from tests/python.

mod support;

use bytes::Bytes;
use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use pglockstep::sandbox::client::{Client as Plain, Target};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Options, Sandbox};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, IsolationLevel, NoTls, SimpleQueryMessage};

/// For everything that one driver does here.
const PATIENCE: Duration = Duration::from_secs(100);

/// A connection through the proxy, and what comes in on it unasked.
async fn connect(target: &Target) -> (Client, UnboundedReceiver<AsyncMessage>) {
    let (client, mut connection) = target.config("postgres").connect(NoTls).await.unwrap();
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            let _nobody_may_listen = sender.send(message);
        }
    });
    (client, receiver)
}

#[test]
fn tokio_postgres_does_its_everyday_work() {
    let sandbox = Sandbox::start(Options::default());
    let proxy = sandbox.summary.proxy();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        let (mut client, mut unasked) = connect(&proxy).await;
        client
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n bigint NOT NULL DEFAULT 0);
                 CREATE TABLE log (line text)",
            )
            .await
            .unwrap();
        prepared_statements(&client).await;
        transactions(&mut client).await;
        portals(&mut client).await;
        errors(&mut client).await;
        copy(&client).await;
        pipelining(&client).await;
        notices_and_notifications(&client, &mut unasked, &proxy).await;
        cancel(&client).await;
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("the work does not end") });
    let rows = "SELECT count(*) || ' ' || sum(id) || ' ' || sum(n) FROM t";
    let found = sandbox.on_nodes("postgres", rows);
    assert_eq!(found[0], found[1]);
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_nothing_in_transaction();
}

async fn prepared_statements(client: &Client) {
    let insert = client.prepare("INSERT INTO t (id, name) VALUES ($1, $2) RETURNING id").await.unwrap();
    for id in 1..=20 {
        let row = client.query_one(&insert, &[&id, &format!("name {id}")]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), id);
    }
    let select = client.prepare("SELECT name, n FROM t WHERE id = $1").await.unwrap();
    assert_eq!(select.params().len(), 1);
    assert_eq!(select.columns()[0].name(), "name");
    let row = client.query_one(&select, &[&7]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), ("name 7".into(), 0));
    let update = client.prepare("UPDATE t SET n = n + $1 WHERE id < $2").await.unwrap();
    assert_eq!(client.execute(&update, &[&5i64, &4]).await.unwrap(), 3);
    assert_eq!(client.execute(&update, &[&5i64, &-4]).await.unwrap(), 0);
    assert!(client.query_opt(&select, &[&1000]).await.unwrap().is_none());
    // Dropped statements are closed by the driver behind the next request.
    drop((insert, select, update));
    assert_eq!(client.query("SELECT id FROM t WHERE n = 5", &[]).await.unwrap().len(), 3);
    let texts = client.simple_query("SELECT 1 AS a; SELECT 'x', NULL; UPDATE t SET n = n WHERE id = 1").await.unwrap();
    let commands = texts.iter().filter(|m| matches!(m, SimpleQueryMessage::CommandComplete(1))).count();
    assert_eq!(commands, 3);
}

async fn transactions(client: &mut Client) {
    let mut outer = client.transaction().await.unwrap();
    outer.execute("UPDATE t SET n = 100 WHERE id = 1", &[]).await.unwrap();
    let inner = outer.savepoint("one").await.unwrap();
    inner.execute("UPDATE t SET n = 200 WHERE id = 1", &[]).await.unwrap();
    inner.rollback().await.unwrap();
    let inner = outer.transaction().await.unwrap();
    inner.execute("UPDATE t SET n = 300 WHERE id = 2", &[]).await.unwrap();
    inner.commit().await.unwrap();
    outer.commit().await.unwrap();
    drop(client.transaction().await.unwrap()); // rolls back
    let lost = client.transaction().await.unwrap();
    lost.execute("DELETE FROM t", &[]).await.unwrap();
    lost.rollback().await.unwrap();
    let read = client.build_transaction().read_only(true).isolation_level(IsolationLevel::RepeatableRead);
    let read = read.start().await.unwrap();
    let row = read.query_one("SELECT sum(n)::bigint, count(*) FROM t WHERE id < 3", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (400, 2));
    drop(read);
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 20);
}

async fn portals(client: &mut Client) {
    let transaction = client.transaction().await.unwrap();
    transaction.execute("UPDATE t SET n = n + 1 WHERE id = 11", &[]).await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 7).await.unwrap();
        seen.push(rows.len());
        if rows.len() < 7 {
            break;
        }
    }
    assert_eq!(seen, [7, 7, 6]);
    // Two at a time, with a write between.
    let one = transaction.bind("SELECT id FROM t WHERE id <= $1 ORDER BY id", &[&10]).await.unwrap();
    let two = transaction.bind("SELECT id FROM t WHERE id > $1 ORDER BY id", &[&10]).await.unwrap();
    assert_eq!(transaction.query_portal(&one, 4).await.unwrap().len(), 4);
    assert_eq!(transaction.query_portal(&two, 4).await.unwrap()[0].get::<_, i32>(0), 11);
    transaction.execute("UPDATE t SET n = n + 1 WHERE id = 12", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&one, 0).await.unwrap().len(), 6);
    assert_eq!(transaction.query_portal(&two, 0).await.unwrap().len(), 6);
    transaction.commit().await.unwrap();
}

async fn errors(client: &mut Client) {
    for (statement, code) in [
        ("SELECT 1/0", "22012"),
        ("SELEC", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("INSERT INTO t VALUES (1, 'again')", "23505"),
        ("INSERT INTO t VALUES (1000, NULL)", "23502"),
    ] {
        let error = client.execute(statement, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), code, "{statement}");
        let error = client.batch_execute(&format!("INSERT INTO log VALUES ('lost'); {statement}")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), code, "{statement}");
        let transaction = client.transaction().await.unwrap();
        transaction.execute("INSERT INTO log VALUES ('lost too')", &[]).await.unwrap();
        let error = transaction.execute(statement, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), code, "{statement} in a transaction");
        let error = transaction.query("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
        // COMMIT of a failed transaction rolls back, and says so by its tag alone.
        transaction.commit().await.unwrap();
    }
    assert_eq!(client.query("SELECT * FROM log", &[]).await.unwrap().len(), 0);
}

async fn copy(client: &Client) {
    let sink = client.copy_in("COPY t (id, name) FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for id in 1000..3000 {
        sink.send(Bytes::from(format!("{id}\tcopied {id}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 2000);
    let out = client.copy_out("COPY (SELECT id FROM t WHERE id >= 1000 ORDER BY id) TO STDOUT").await.unwrap();
    let lines: Vec<Bytes> = out.try_collect().await.unwrap();
    assert_eq!((lines.len(), &lines[1999][..]), (2000, &b"2999\n"[..]));

    let sink = client.copy_in("COPY t (id, name) FROM STDIN").await.unwrap();
    pin_mut!(sink);
    sink.send(Bytes::from("5000\tgood\nbad\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap_err().code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
    // Given up by dropping: the driver sends CopyFail.
    let sink = client.copy_in::<_, Bytes>("COPY t (id, name) FROM STDIN").await.unwrap();
    drop(sink);
    // Not read to its end.
    let out = client.copy_out("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 5000)) TO STDOUT").await.unwrap();
    assert!(Box::pin(out).next().await.unwrap().is_ok());
    assert_eq!(client.query("SELECT 1 FROM t WHERE id >= 5000", &[]).await.unwrap().len(), 0);
}

async fn pipelining(client: &Client) {
    let update = client.prepare("UPDATE t SET n = n + 1 WHERE id = $1").await.unwrap();
    let select = client.prepare("SELECT name FROM t WHERE id = $1").await.unwrap();
    let writes = join_all((1000..1200).map(|id| {
        let update = &update;
        async move { client.execute(update, &[&id]).await.unwrap() }
    }));
    let reads = join_all((1000..1200).map(|id| {
        let select = &select;
        async move { client.query_one(select, &[&id]).await.unwrap().get::<_, String>(0) }
    }));
    let errors = join_all((0..20).map(|_| client.execute("SELECT 1/0", &[])));
    let (writes, reads, errors) = tokio::join!(writes, reads, errors);
    assert_eq!(writes.iter().sum::<u64>(), 200);
    for (id, name) in (1000..).zip(reads) {
        assert_eq!(name, format!("copied {id}"));
    }
    assert!(errors.into_iter().all(|e| e.unwrap_err().code() == Some(&SqlState::DIVISION_BY_ZERO)));
    let row = client.query_one("SELECT sum(n)::bigint FROM t WHERE id BETWEEN 1000 AND 1199", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 200);
}

async fn notices_and_notifications(client: &Client, unasked: &mut UnboundedReceiver<AsyncMessage>, proxy: &Target) {
    let (other, _unasked) = connect(proxy).await;
    client.batch_execute("DROP TABLE IF EXISTS nowhere; LISTEN news").await.unwrap();
    other.batch_execute("BEGIN; NOTIFY news, 'hello'; COMMIT").await.unwrap();
    other.execute("SELECT pg_notify('news', 'world')", &[]).await.unwrap();
    let (mut notices, mut news) = (Vec::new(), Vec::new());
    while news.len() < 2 {
        let message = tokio::time::timeout(Duration::from_secs(10), unasked.recv()).await.expect("no news");
        match message.unwrap() {
            AsyncMessage::Notice(notice) => notices.push(notice.message().to_owned()),
            AsyncMessage::Notification(n) => news.push(n.payload().to_owned()),
            _ => {}
        }
    }
    assert_eq!(notices, ["table \"nowhere\" does not exist, skipping"]);
    assert_eq!(news, ["hello", "world"]);
}

async fn cancel(client: &Client) {
    let token = client.cancel_token();
    let sleep = client.execute("SELECT pg_sleep(60)", &[]);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

/// Where Debian's python3-psycopg (or psycopg of any other origin) is not installed, `make deps` installs it.
fn python(script: &str) -> Command {
    let found = Command::new("/usr/bin/python3").args(["-c", "import psycopg"]).stderr(Stdio::null()).status();
    assert!(found.is_ok_and(|s| s.success()), "/usr/bin/python3 cannot import psycopg: run make deps");
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).args(["/usr/bin/python3", "-B"]);
    command.arg(format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR")));
    command
}

#[test]
fn psycopg_sees_through_the_proxy_what_it_sees_without() {
    let sandbox = Sandbox::start(Options::default());
    // A database that only one node has: the direct run must not make the nodes differ.
    let node = &sandbox.nodes()[2];
    Plain::connect(node, "postgres").unwrap().rows("CREATE DATABASE direct").unwrap();
    let run = |url: String| {
        let output = python("psycopg_basics.py").arg(&url).output().unwrap();
        let (seen, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{url}: {complaint}\n{seen}\n{}", sandbox.log());
        seen.into_owned()
    };
    let (direct, proxied) = (run(node.url("direct")), run(sandbox.url("postgres")));
    for (direct, proxied) in direct.lines().zip(proxied.lines()) {
        assert_eq!(direct, proxied);
    }
    assert_eq!(direct.lines().count(), proxied.lines().count());
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn every_kind_of_statement_is_answered_as_a_server_alone_answers_it() {
    let sandbox = Sandbox::start(Options::default());
    let node = &sandbox.nodes()[2];
    Plain::connect(node, "postgres").unwrap().rows("CREATE DATABASE direct").unwrap();
    let (proxy, server) = (sandbox.url("postgres"), node.url("direct"));
    let output = python("differential.py").args([&proxy, &server]).output().unwrap();
    let (seen, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{seen}{complaint}\n{}", sandbox.log());
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_nothing_in_transaction();
    sandbox.assert_no_node_lost();
}
