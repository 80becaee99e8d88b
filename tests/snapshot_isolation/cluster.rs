//! Three nodes behind relays, the proxy in one of three modes, and clients that speak either protocol.

use crate::support::relay::{Delays, Relays, Trap};
use crate::support::{Options, Sandbox};
use pglockstep::sandbox::process::Signal;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::process::Command;
use std::time::Duration;
use tokio_postgres::{Error, NoTls, SimpleQueryMessage, Statement};

/// Nobody waits longer than this for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The environment variable that makes the proxy let commits and snapshots pass each other: for tests only.
const GATE: &str = "PGLOCKSTEP_TEST_GATE";
/// Each read chooses its node, so that one session sees them all.
const CONFIG: &str = "[load_balance]\nstatement_level_load_balance = true\n";
/// `node` holds each node's number: written past the proxy, it tells who has answered.
const TABLES: &str = "
    CREATE TABLE register (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO register VALUES (1, 0), (2, 0);
    CREATE TABLE account (id int PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO account SELECT i, 100 FROM generate_series(0, 9) i;
    CREATE TABLE node (id bigint PRIMARY KEY)";

/// What a check is run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    SnapshotIsolation,
    /// The same with its gate switched off. What the checks find here, they would find in a proxy whose gate leaks.
    GateOff,
    NativeReplication,
}

/// A sandbox whose proxy reaches the nodes through relays.
pub struct Cluster {
    pub sandbox: Sandbox,
    pub relays: Relays,
}

impl Cluster {
    /// Starts all of it. `config` is laid over the sandbox's and this file's own.
    pub fn start(mode: Mode, config: &str) -> Cluster {
        let options = Options { config: format!("{CONFIG}{config}"), ..Options::default() };
        let mut sandbox = Sandbox::start(options);
        sandbox.psql_ok(&["-q", "-c", TABLES]);
        let ports: Vec<u16> = sandbox.summary.nodes.iter().map(|n| n.port).collect();
        for id in 0..ports.len() {
            sandbox.connect_node(id, "postgres").rows(&format!("INSERT INTO node VALUES ({id})")).unwrap();
        }
        let relays = Relays::start(&ports);
        sandbox.stop_proxy(Signal::TERM);
        let path = sandbox.dir().join("pglockstep.toml");
        let mut table: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let name = if mode == Mode::NativeReplication { "native_replication" } else { "snapshot_isolation" };
        table["cluster"]["backend_clustering_mode"] = name.into();
        for (node, relay) in table["node"].as_array_mut().unwrap().iter_mut().zip(&relays.nodes) {
            node["backend_port"] = i64::from(relay.port).into();
        }
        std::fs::write(&path, table.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pglockstep"));
        if mode == Mode::GateOff {
            command.env(GATE, "off");
        }
        sandbox.start_proxy_as(command);
        Cluster { sandbox, relays }
    }

    /// Makes the nodes commit at different times, up to so many milliseconds apart: the moments between are what the
    /// checks look into.
    pub fn stagger(&self, apart: usize) {
        let replica = Delays { commit: (0, apart), request: (0, 1), reply: (0, 1) };
        // Main's answer to COMMIT takes a while: readers see there what its writer does not know of yet.
        self.relays.nodes[0].delay(Delays { commit: (0, 1), request: (0, 0), reply: (0, 2) });
        self.relays.nodes[1..].iter().for_each(|r| r.delay(replica));
    }

    /// No delays any more, and nothing kept.
    pub fn hurry(&self) {
        self.relays.nodes.iter().for_each(|r| {
            r.delay(Delays::default());
            [r.commits(), r.reads(), r.answers()].into_iter().for_each(Trap::release);
        });
    }

    /// A client of the proxy.
    pub async fn session(&self, protocol: Protocol) -> Session {
        Session::connect(&self.sandbox.url("postgres"), protocol).await
    }

    /// A connection to one node, past the proxy and the relays.
    pub async fn on_node(&self, id: usize) -> Session {
        Session::connect(&self.sandbox.nodes()[id].url("postgres"), Protocol::Simple).await
    }

    /// Fails unless the nodes hold the same, and nothing is open on them.
    pub fn assert_in_order(&self) {
        self.hurry();
        self.sandbox.assert_nothing_in_transaction();
        for id in 0..self.relays.nodes.len() {
            self.sandbox.connect_node(id, "postgres").rows("DELETE FROM node").unwrap();
        }
        self.sandbox.assert_nodes_equal("postgres");
        let log = self.sandbox.whole_log();
        assert!(!log.contains("node is out"), "a node was lost:\n{}", self.sandbox.log());
    }
}

/// Runs clients on this thread.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// How a client sends its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Simple,
    /// Extended: Parse, Bind, Execute and Sync in one packet, with the unnamed statement.
    Unnamed,
    /// Extended: parsed once, under a name.
    Prepared,
}

pub const PROTOCOLS: [Protocol; 3] = [Protocol::Simple, Protocol::Unnamed, Protocol::Prepared];

/// One client.
pub struct Session {
    pub client: tokio_postgres::Client,
    protocol: Protocol,
    prepared: RefCell<HashMap<String, Statement>>,
}

impl Session {
    /// Logs in.
    pub async fn connect(url: &str, protocol: Protocol) -> Session {
        let (client, connection) = patiently("logging in", tokio_postgres::connect(url, NoTls)).await.unwrap();
        tokio::spawn(connection);
        Session { client, protocol, prepared: RefCell::default() }
    }

    /// Runs a statement and returns its rows as text; several only in the simple protocol, which has the rows of all.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Error> {
        patiently(sql, async {
            match self.protocol {
                Protocol::Simple => {
                    let messages = self.client.simple_query(sql).await?;
                    let rows = messages.iter().filter_map(|m| match m {
                        SimpleQueryMessage::Row(row) => {
                            Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
                        }
                        _ => None,
                    });
                    Ok(rows.collect())
                }
                Protocol::Unnamed => Ok(texts(&self.client.query_typed(sql, &[]).await?)),
                Protocol::Prepared => {
                    let known = self.prepared.borrow().get(sql).cloned();
                    let statement = match known {
                        Some(statement) => statement,
                        None => {
                            let statement = self.client.prepare(sql).await?;
                            self.prepared.borrow_mut().insert(sql.to_owned(), statement.clone());
                            statement
                        }
                    };
                    Ok(texts(&self.client.query(&statement, &[]).await?))
                }
            }
        })
        .await
    }

    /// The same for rows of whole numbers.
    pub async fn numbers(&self, sql: &str) -> Result<Vec<Vec<i64>>, Error> {
        let number = |text: &String| text.parse().unwrap_or_else(|e| panic!("{sql} gave {text:?}: {e}"));
        Ok(self.rows(sql).await?.iter().map(|row| row.iter().map(number).collect()).collect())
    }

    /// The first value.
    pub async fn value(&self, sql: &str) -> Result<String, Error> {
        let row = self.rows(sql).await?.into_iter().next().unwrap_or_else(|| panic!("{sql} gave no row"));
        Ok(row.into_iter().next().unwrap())
    }

    /// Runs a statement for what it does.
    pub async fn run(&self, sql: &str) -> Result<(), Error> {
        self.rows(sql).await.map(drop)
    }

    /// Runs statements one after the other, which must succeed.
    pub async fn all(&self, statements: &[&str]) {
        for sql in statements {
            self.run(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", words(&e)));
        }
    }

    /// Waits until a statement gives this value.
    pub async fn wait_for(&self, sql: &str, wanted: &str) {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.value(sql).await.unwrap();
            if found == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{sql} gives {found} and not {wanted}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The checks read bigint and text.
fn texts(rows: &[tokio_postgres::Row]) -> Vec<Vec<String>> {
    let text = |row: &tokio_postgres::Row, i| match row.try_get::<_, i64>(i) {
        Ok(number) => number.to_string(),
        Err(_) => row.get(i),
    };
    rows.iter().map(|row| (0..row.len()).map(|i| text(row, i)).collect()).collect()
}

/// What comes within [`PATIENCE`].
pub async fn patiently<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("no answer within {PATIENCE:?}: {what}"),
    }
}

/// Its SQLSTATE, or what else it says.
pub fn code(error: &Error) -> String {
    error.code().map_or_else(|| error.to_string(), |c| c.code().to_owned())
}

/// SQLSTATE and message.
pub fn words(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{} {}", e.code().code(), e.message()))
}
