//! `SHOW POOL_NODES` says at every moment what is so, by both protocols, with Pgpool-II's columns; `SHOW pglockstep.nodes`
//! says more.

mod support;

use std::collections::HashMap;

use pglockstep::sandbox::process::{Signal, signal};
use support::sql::{connect, run};
use support::{Options, Sandbox};
use tokio_postgres::SimpleQueryMessage;

type Nodes = Vec<HashMap<String, String>>;

/// By the simple protocol.
fn shown(sandbox: &Sandbox, sql: &str) -> Nodes {
    run(async {
        let c = connect(sandbox).await;
        rows(&c.simple_query(sql).await.unwrap())
    })
}

fn rows(messages: &[SimpleQueryMessage]) -> Nodes {
    let row = |m: &SimpleQueryMessage| match m {
        SimpleQueryMessage::Row(r) => {
            let names = r.columns().iter().enumerate();
            Some(names.map(|(i, c)| (c.name().to_owned(), r.get(i).unwrap().to_owned())).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

fn column(nodes: &Nodes, name: &str) -> Vec<String> {
    nodes.iter().map(|n| n[name].clone()).collect()
}

/// Until it is so; health checks come in their own time.
fn wait_for(sandbox: &Sandbox, name: &str, wanted: [&str; 3]) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while column(&shown(sandbox, "SHOW pool_nodes"), name) != wanted {
        assert!(std::time::Instant::now() < end, "{name} is never {wanted:?}:\n{}", sandbox.log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

const HEALTH: &str = "[health_check]\nhealth_check_period = \"1s\"\nhealth_check_timeout = \"3s\"\n\
    health_check_max_retries = 1\nhealth_check_retry_delay = \"200ms\"\n";

#[test]
fn it_has_pgpools_columns_by_both_protocols_and_in_every_state() {
    let weights = "[[node]]\nid = 0\nbackend_weight = 2\n[[node]]\nid = 1\nbackend_weight = 1\n[[node]]\nid = 2\nbackend_weight = 1\n";
    let sandbox = Sandbox::start(Options { config: format!("{HEALTH}{weights}"), ..Options::default() });
    let text = sandbox.psql_ok(&["-A", "-c", "show POOL_NODES"]);
    let expected = "node_id|hostname|port|status|pg_status|lb_weight|role|pg_role|select_cnt|load_balance_node|\
        replication_delay|replication_state|replication_sync_state|last_status_change";
    assert_eq!(text.lines().next(), Some(expected));
    assert_eq!(text.lines().last(), Some("(3 rows)"));
    // Each client reads from one node.
    let nodes = shown(&sandbox, "SHOW pool_nodes");
    assert_eq!(column(&nodes, "load_balance_node").iter().filter(|v| *v == "true").count(), 1);
    assert_eq!(column(&nodes, "lb_weight"), ["0.500000", "0.250000", "0.250000"]);
    assert_eq!(column(&nodes, "role"), ["main", "replica", "replica"]);
    assert_eq!(column(&nodes, "pg_role"), column(&nodes, "role"));
    assert_eq!((column(&nodes, "status"), column(&nodes, "pg_status")), (vec!["up".into(); 3], vec!["up".into(); 3]));
    let ports: Vec<String> = sandbox.nodes().iter().map(|n| n.port.to_string()).collect();
    assert_eq!(column(&nodes, "port"), ports);
    run(async {
        let mut c = connect(&sandbox).await;
        let s = c.prepare("SHOW pool_nodes").await.unwrap();
        assert_eq!((s.params().len(), s.columns().len(), s.columns()[8].name()), (0, 14, "select_cnt"));
        let rows = c.query(&s, &[]).await.unwrap();
        let ids: Vec<&str> = rows.iter().map(|r| r.get("node_id")).collect();
        assert_eq!(ids, ["0", "1", "2"]);
        let own = c.query("SHOW pglockstep.nodes", &[]).await.unwrap();
        assert_eq!(own.iter().map(|r| r.get::<_, &str>("status")).collect::<Vec<_>>(), ["up"; 3]);
        assert!(own[0].get::<_, &str>("epoch").parse::<u64>().unwrap() > 0);
        // In a block, which it leaves as it is; two rows at a time; beside other statements; not in a failed block.
        let t = c.transaction().await.unwrap();
        let portal = t.bind(&s, &[]).await.unwrap();
        let parts = [t.query_portal(&portal, 2).await.unwrap().len(), t.query_portal(&portal, 2).await.unwrap().len()];
        assert_eq!(parts, [2, 1]);
        t.batch_execute("CREATE TABLE t (a int PRIMARY KEY); SHOW pool_nodes; INSERT INTO t VALUES (1)").await.unwrap();
        t.commit().await.unwrap();
        for sql in ["BEGIN; SELECT 1/0", "SHOW pool_nodes"] {
            let e = c.batch_execute(sql).await.unwrap_err();
            assert!(matches!(e.code().unwrap().code(), "22012" | "25P02"), "{sql}: {e:?}");
        }
        assert_eq!(c.query(&s, &[]).await.unwrap_err().code().unwrap().code(), "25P02");
        c.batch_execute("ROLLBACK").await.unwrap();
        // What a server would say of a parameter that does not exist.
        let e = c.batch_execute("SHOW pool_nodes_").await.unwrap_err();
        assert_eq!(e.code().unwrap().code(), "42704");
    });
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["1"; 3]);
    // SELECTs of clients are counted where they were sent, and nothing else is.
    let before = column(&shown(&sandbox, "SHOW pool_nodes"), "select_cnt");
    run(async {
        let c = connect(&sandbox).await;
        let reads = rows(&c.simple_query("SHOW pool_nodes").await.unwrap());
        let node = column(&reads, "load_balance_node").iter().position(|v| v == "true").unwrap();
        for _ in 0..5 {
            c.simple_query("SELECT a FROM t").await.unwrap();
            c.query("SELECT a FROM t WHERE a = $1", &[&1]).await.unwrap();
            c.batch_execute("UPDATE t SET a = a; SHOW work_mem").await.unwrap();
        }
        let after = column(&rows(&c.simple_query("SHOW pool_nodes").await.unwrap()), "select_cnt");
        for (i, (after, before)) in after.iter().zip(&before).enumerate() {
            let sent = after.parse::<u64>().unwrap() - before.parse::<u64>().unwrap();
            assert_eq!(sent, if i == node { 10 } else { 0 }, "node {i}, reads from {node}");
        }
    });
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn it_tells_of_lost_nodes_and_of_the_new_main() {
    let sandbox = Sandbox::start(Options { config: HEALTH.into(), ..Options::default() });
    let first = shown(&sandbox, "SHOW pglockstep.nodes");
    signal(sandbox.summary.nodes[2].pid, Signal::INT);
    wait_for(&sandbox, "status", ["up", "up", "down"]);
    wait_for(&sandbox, "pg_status", ["up", "up", "down"]);
    signal(sandbox.summary.nodes[0].pid, Signal::INT);
    wait_for(&sandbox, "status", ["down", "up", "down"]);
    let nodes = shown(&sandbox, "SHOW pool_nodes");
    assert_eq!(column(&nodes, "role"), ["replica", "main", "replica"]);
    assert_eq!(column(&nodes, "load_balance_node"), ["false", "true", "false"]);
    let own = shown(&sandbox, "SHOW pglockstep.nodes");
    assert_eq!(column(&own, "status"), ["stale", "up", "stale"]);
    let epoch = |nodes: &Nodes| nodes[0]["epoch"].parse::<u64>().unwrap();
    assert_eq!(epoch(&own), epoch(&first) + 2);
    let reasons = column(&own, "reason");
    assert!(!reasons[0].is_empty() && reasons[1].is_empty() && !reasons[2].is_empty(), "{reasons:?}");
    assert!(own[2]["last_change"] >= first[2]["last_change"]);
}
