//! Conflicting transactions of every kind at once, with backends terminated, statements cancelled and clients that
//! vanish: afterwards the nodes are identical, and what was acknowledged is there.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Options, Sandbox};
use tokio_postgres::{Client, NoTls};

/// How long the clients work.
const WORK: Duration = Duration::from_secs(8);
/// Clients at the same time.
const CLIENTS: u64 = 12;
/// Rows that they fight over.
const ROWS: u64 = 8;

/// Numbers that look random and can be had again (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const TABLES: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE done (client int, n int, PRIMARY KEY (client, n));
    CREATE TABLE slot (id int PRIMARY KEY, owner int UNIQUE);
    CREATE TABLE parent (id int PRIMARY KEY, v int NOT NULL DEFAULT 0);
    CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO account SELECT n, 1000 FROM generate_series(0, 7) n;
    INSERT INTO parent SELECT n FROM generate_series(0, 7) n;
    INSERT INTO counter SELECT n, 0 FROM generate_series(0, 7) n;
    CREATE TABLE log (at timestamptz NOT NULL DEFAULT 'epoch', client int, what text)";

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// One transaction; `Ok(true)`: COMMIT was answered.
async fn transaction(client: &Client, id: u64, n: i32, r: &mut Random) -> Result<bool, tokio_postgres::Error> {
    let level = ["", " ISOLATION LEVEL REPEATABLE READ", " ISOLATION LEVEL SERIALIZABLE"][r.below(8).min(2) as usize];
    let me = id as i32;
    client.batch_execute(&format!("BEGIN{level}")).await?;
    client.execute("INSERT INTO done VALUES ($1, $2)", &[&me, &n]).await?;
    for _ in 0..=r.below(3) {
        let (a, b) = (r.below(ROWS) as i32, r.below(ROWS) as i32);
        match r.below(9) {
            0 | 1 => {
                let amount = r.below(50) as i64;
                let take = "UPDATE account SET balance = balance - $2 WHERE id = $1";
                client.execute(take, &[&a, &amount]).await?;
                client.execute("UPDATE account SET balance = balance + $2 WHERE id = $1", &[&b, &amount]).await?;
            }
            2 => drop(client.simple_query(&format!("UPDATE counter SET n = n * 2 + 1 WHERE id = {a}")).await?),
            3 => {
                let insert = format!("INSERT INTO slot VALUES ({a}, {b}) ON CONFLICT (id) DO UPDATE SET owner = {b}");
                let savepoint = format!("SAVEPOINT s; {insert}");
                if client.batch_execute(&savepoint).await.is_err() {
                    client.batch_execute("ROLLBACK TO s").await?;
                }
            }
            4 => drop(client.execute("DELETE FROM slot WHERE id = $1", &[&a]).await?),
            5 => {
                // Moves keys: the row may be gone, or there twice.
                let sql = format!("SAVEPOINT k; UPDATE slot SET id = {b} WHERE id = {a}");
                if client.batch_execute(&sql).await.is_err() {
                    client.batch_execute("ROLLBACK TO k").await?;
                }
            }
            6 => {
                let sql = format!("INSERT INTO child VALUES ({}, {a})", id as i32 * 100_000 + n * 10 + b);
                if client.batch_execute(&format!("SAVEPOINT c; {sql}")).await.is_err() {
                    client.batch_execute("ROLLBACK TO c").await?;
                }
                client.batch_execute(&format!("UPDATE parent SET v = v + 1 WHERE id = {b}")).await?;
            }
            7 => {
                let sql = format!("INSERT INTO log VALUES (now(), {id}, 'it''s {n}'), (current_timestamp, {id}, NULL)");
                client.batch_execute(&sql).await?;
            }
            _ => {
                let rows = client.query("SELECT id FROM account WHERE id >= $1 FOR UPDATE", &[&6i32]).await?;
                assert_eq!(rows.len(), 2);
                client.execute("UPDATE account SET balance = balance WHERE id = ANY($1)", &[&vec![6, 7]]).await?;
            }
        }
    }
    if r.below(6) == 0 {
        client.batch_execute("ROLLBACK").await?;
        return Ok(false);
    }
    client.batch_execute("COMMIT").await?;
    Ok(true)
}

/// One client's work. Returns what was acknowledged.
async fn work(url: String, id: u64, stop: Arc<AtomicBool>, failures: Arc<AtomicU64>) -> Vec<i32> {
    let mut r = Random(id * 7919);
    let mut acknowledged = Vec::new();
    let mut client = None;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(c) = &client else {
            client = connect(&url).await;
            continue;
        };
        n += 1;
        let ended = match r.below(40) {
            // The client vanishes in the middle.
            0 => {
                let cut = Duration::from_millis(r.below(4));
                let _ = tokio::time::timeout(cut, transaction(c, id, n, &mut r)).await;
                client = None;
                continue;
            }
            // Its running statement is cancelled.
            1 => {
                let token = c.cancel_token();
                let wait = Duration::from_millis(r.below(5));
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = token.cancel_query(NoTls).await;
                });
                transaction(c, id, n, &mut r).await
            }
            // Outside a transaction block.
            2..=9 => {
                let sql = format!("UPDATE counter SET n = n + 1 WHERE id = {}", r.below(ROWS));
                c.batch_execute(&sql).await.map(|()| false)
            }
            _ => transaction(c, id, n, &mut r).await,
        };
        match ended {
            Ok(true) => acknowledged.push(n),
            Ok(false) => {}
            Err(e) => {
                failures.fetch_add(1, Ordering::Relaxed);
                if c.is_closed() {
                    client = None;
                    continue;
                }
                assert!(e.as_db_error().is_some(), "{e:?}");
                if c.batch_execute("ROLLBACK").await.is_err() {
                    client = None;
                }
            }
        }
    }
    acknowledged
}

/// Ends a random applier now and then; sometimes a client's backend on main.
async fn terminate(urls: Vec<String>, stop: Arc<AtomicBool>) -> u64 {
    let mut r = Random(1);
    let mut ended = 0;
    let mut nodes = Vec::new();
    for u in &urls {
        nodes.push(connect(u).await.expect("nodes stay"));
    }
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let on_main = r.below(10) == 0;
        let (node, whose) =
            if on_main { (0, "pglockstep stress") } else { (1 + r.below(2) as usize, "pglockstep applier") };
        // An applier that waits for a lock has applied nothing whole yet. One that is lost after COMMIT was sent to main
        // makes its node stale, as designed.
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                   WHERE application_name = $1 AND ($2 OR wait_event_type = 'Lock') ORDER BY random() LIMIT 1) x";
        if let Ok(row) = nodes[node].query_one(sql, &[&whose, &on_main]).await {
            ended += u64::try_from(row.get::<_, i64>(0)).unwrap();
        }
    }
    ended
}

#[test]
fn whatever_clients_do_to_each_other_the_nodes_stay_identical() {
    let sandbox = Sandbox::start(Options::default());
    sandbox.psql_ok(&["-q", "-c", TABLES]);
    // Clients deadlock with each other all the time, as they would on one server.
    let options = "application_name=pglockstep%20stress&options=-c%20deadlock_timeout%3D20ms";
    let url = format!("{}?{options}", sandbox.url("postgres"));
    let nodes: Vec<String> = sandbox.nodes().iter().map(|n| n.url("postgres")).collect();
    let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (acknowledged, ended) = runtime.block_on(async {
        let clients: Vec<_> =
            (1..=CLIENTS).map(|id| tokio::spawn(work(url.clone(), id, stop.clone(), failures.clone()))).collect();
        let terminator = tokio::spawn(terminate(nodes, stop.clone()));
        tokio::time::sleep(WORK).await;
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for (c, id) in clients.into_iter().zip(1..) {
            let all = tokio::time::timeout(Duration::from_secs(60), c).await.expect("a client hangs").unwrap();
            acknowledged.extend(all.into_iter().map(|n| (id, n)));
        }
        (acknowledged, terminator.await.unwrap())
    });
    let failed = failures.load(Ordering::Relaxed);
    eprintln!("{} commits acknowledged, {failed} errors, {ended} backends terminated", acknowledged.len());
    sandbox.assert_nothing_in_transaction();
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_no_node_lost();
    let there: std::collections::HashSet<String> = sandbox
        .connect("postgres")
        .rows("SELECT client || '/' || n FROM done")
        .unwrap()
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect();
    let missing: Vec<_> = acknowledged.iter().filter(|(c, n)| !there.contains(&format!("{c}/{n}"))).collect();
    assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT sum(balance) FROM account"), ["8000"; 3]);
    assert!(acknowledged.len() > 100, "only {} commits", acknowledged.len());
}
