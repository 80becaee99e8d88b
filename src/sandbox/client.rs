//! A small blocking SQL client for the sandbox, its demo and the tests: one connection, text results.
//!
//! The control plane uses tokio-postgres as it is; here a person's steps follow each other, so each call blocks.

use super::Result;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A row in text form; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Where and as whom to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
}

impl Target {
    /// A connection URI for `database`, as psql takes it. The sandbox's passwords need no escaping.
    pub fn url(&self, database: &str) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("postgresql://{}:{}@{host}:{}/{database}", self.user, self.password, self.port)
    }

    /// The same as a configuration of tokio-postgres.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).user(&self.user).password(&self.password).dbname(database);
        config.connect_timeout(CONNECT_TIMEOUT).application_name("pglockstep sandbox");
        config
    }
}

/// One open connection.
pub struct Client {
    // Declared (and so dropped) first: the connection's task lives in the runtime.
    client: tokio_postgres::Client,
    runtime: Runtime,
}

impl Client {
    /// Logs in to `database`.
    pub fn connect(target: &Target, database: &str) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = target.config(database);
        let client = runtime.block_on(async {
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls));
            let (client, connection) = attempt
                .await
                .map_err(|_| format!("{}:{} did not answer within {CONNECT_TIMEOUT:?}", target.host, target.port))?
                .map_err(|e| format!("cannot log in to {}:{}: {}", target.host, target.port, describe(&e)))?;
            tokio::spawn(connection);
            Ok::<_, super::Error>(client)
        })?;
        Ok(Client { client, runtime })
    }

    /// Runs `sql` by the simple query protocol and returns the rows of all its results.
    pub fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        let messages = self
            .runtime
            .block_on(self.client.simple_query(sql))
            .map_err(|e| format!("{} (statement: {sql})", describe(&e)))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row, or an error if there is none or it is NULL.
    pub fn value(&self, sql: &str) -> Result<String> {
        let first = self.rows(sql)?.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        first.ok_or_else(|| format!("no value came from: {sql}").into())
    }

    /// The asynchronous client and its runtime, for what the simple protocol cannot show.
    pub fn parts(&mut self) -> (&mut tokio_postgres::Client, &Runtime) {
        (&mut self.client, &self.runtime)
    }
}

/// What went wrong, with severity and SQLSTATE if the server said so.
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {} (SQLSTATE {})", db.severity(), db.message(), db.code().code()),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}
