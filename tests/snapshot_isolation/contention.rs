//! Many writers of one row, and statements that write what they read.

use super::cluster::{Cluster, PROTOCOLS, code, patiently, words};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Each client counts the same row up by single statements and first statements of blocks, and hears of no conflict.
pub async fn hot_row(cluster: &Cluster, clients: usize, each: usize) {
    let setup = cluster.session(PROTOCOLS[0]).await;
    setup.all(&["CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL)", "INSERT INTO hot VALUES (1, 0)"]).await;
    setup.all(&["CREATE TABLE hot_log (id serial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())"]).await;
    let mut tasks = Vec::new();
    for client in 0..clients {
        let protocol = PROTOCOLS[client % PROTOCOLS.len()];
        let session = cluster.session(protocol).await;
        tasks.push(tokio::task::spawn_local(async move {
            for i in 0..each {
                // The second names no key; the third is the first of a block, at REPEATABLE READ.
                let update = ["UPDATE hot SET n = n + 1 WHERE id = 1", "UPDATE hot SET n = n + 1"][(client + i) % 2];
                let block = ["BEGIN", update, "INSERT INTO hot_log DEFAULT VALUES", "COMMIT"];
                let statements = if (client + i) % 3 == 0 { &block[..] } else { &block[1..2] };
                for sql in statements {
                    let done = session.run(sql).await;
                    done.unwrap_or_else(|e| panic!("client {client}, {protocol:?}, number {i}, {sql}: {}", words(&e)));
                }
            }
        }));
    }
    for task in tasks {
        patiently("a client of the hot row", task).await.unwrap();
    }
}

/// While commits follow one another: reads in the gate that fail, and that turn out to write.
pub async fn reads_that_end_otherwise(cluster: &Cluster, reads: usize) {
    let setup = cluster.session(PROTOCOLS[0]).await;
    setup
        .all(&[
            "CREATE TABLE counted (id int PRIMARY KEY, n int NOT NULL)",
            "INSERT INTO counted VALUES (1, 0)",
            "CREATE FUNCTION count_up() RETURNS int LANGUAGE sql AS 'UPDATE counted SET n = n + 1 RETURNING n'",
        ])
        .await;
    let stop = Rc::new(Cell::new(false));
    let writers = [1, 2].map(|id| (id, stop.clone()));
    let mut tasks = Vec::new();
    for (id, stop) in writers {
        let session = cluster.session(PROTOCOLS[0]).await;
        tasks.push(tokio::task::spawn_local(async move {
            while !stop.get() {
                session.all(&[&format!("UPDATE register SET v = v + 1 WHERE id = {id}")]).await;
            }
        }));
    }
    let mut counted = 0;
    for protocol in PROTOCOLS {
        let session = cluster.session(protocol).await;
        for i in 0..reads {
            let e = session.run("SELECT 1 / (v * 0) FROM register").await.unwrap_err();
            assert_eq!(code(&e), "22012", "{protocol:?}");
            // Another session and another text each time: what a reader has refuted goes to main at once, and so does what
            // such a session reads from then on.
            let session = cluster.session(protocol).await;
            counted += 1;
            let sql = format!("SELECT count_up()::bigint AS c{i}_{counted}");
            let told = session.numbers(&sql).await;
            let value = told.unwrap_or_else(|e| panic!("{protocol:?}, {i}: {}", words(&e)))[0][0];
            assert_eq!(value, counted, "{protocol:?}: run twice, or not at all");
            for node in 0..3 {
                let there = cluster.on_node(node).await.numbers("SELECT n::bigint FROM counted").await.unwrap()[0][0];
                assert_eq!(there, counted, "{protocol:?}, {i}: not on node {node}");
            }
        }
    }
    stop.set(true);
    for task in tasks {
        patiently("a writer", task).await.unwrap();
    }
}

fn pgbench(cluster: &Cluster, protocol: &str, script: &str, transactions: usize) -> Child {
    let file = cluster.sandbox.dir().join(format!("{}.sql", script.split(' ').next().unwrap()));
    std::fs::write(&file, format!("{script};\n")).unwrap();
    let mut command = cluster.sandbox.program("pgbench");
    command.args(["-n", "-c", "1", "--max-tries", "1000", "-M", protocol, "-t", &transactions.to_string(), "-f"]);
    command.arg(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// One pgbench counts a row up while another writes into a log what it reads there. Returns the log of each node, sorted.
fn logs(cluster: &Cluster, protocol: &str, transactions: usize) -> Vec<String> {
    cluster.sandbox.psql_ok(&[
        "-q",
        "-c",
        "SET client_min_messages = warning; DROP TABLE IF EXISTS t, log; CREATE TABLE t (i int); \
         CREATE TABLE log (i int); INSERT INTO t VALUES (0)",
    ]);
    let scripts = ["UPDATE t SET i = i + 1", "INSERT INTO log SELECT i FROM t"];
    let running = scripts.map(|s| pgbench(cluster, protocol, s, transactions));
    let end = Instant::now() + Duration::from_secs(60);
    for mut child in running {
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                let _gone = child.kill().and_then(|()| child.wait());
                panic!("pgbench does not end; {protocol}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let all = format!("actually processed: {transactions}/{transactions}");
        assert!(output.status.success() && told.contains(&all), "{protocol}: {told}\n{}", cluster.sandbox.log());
    }
    let count = cluster.sandbox.on_nodes("postgres", "SELECT i FROM t");
    assert_eq!(count, vec![transactions.to_string(); 3]);
    written(cluster)
}

fn written(cluster: &Cluster) -> Vec<String> {
    cluster.sandbox.on_nodes("postgres", "SELECT string_agg(i::text, ' ' ORDER BY i) FROM log")
}

/// That the nodes have the same log, in all of pgbench's modes.
pub fn logs_are_equal(cluster: &Cluster, transactions: usize) {
    let equal = |logs: &[String]| logs.windows(2).all(|w| w[0] == w[1]);
    for protocol in ["simple", "extended", "prepared"] {
        let logs = logs(cluster, protocol, transactions);
        assert!(equal(&logs), "{protocol}: the logs differ:\n{}", logs.join("\n"));
        let values: BTreeSet<&str> = logs[0].split(' ').collect();
        println!("{protocol}: {} lines, {} values", logs[0].split(' ').count(), values.len());
        assert!(values.len() > 1, "{protocol}: one was done before the other had begun");
    }
    cluster.sandbox.connect_node(2, "postgres").rows("UPDATE log SET i = i + 1").unwrap();
    assert!(!equal(&written(cluster)), "a difference would not be seen");
    cluster.sandbox.psql_ok(&["-q", "-c", "DROP TABLE t, log"]);
}
