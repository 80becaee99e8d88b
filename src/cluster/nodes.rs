//! SQL on nodes, in the control plane's name: every call has a timeout, every connection is its own.

use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How long a lost backend may take to be gone before its node counts as unreachable.
pub const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to go by itself: one that is alive has read the end of its connection by then.
pub const TERMINATE_AFTER: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Where a node listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAddress {
    /// Host name, address, or the directory of a Unix-domain socket.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A role to log in with.
#[derive(Clone)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password; may be empty.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// A role as pg_authid has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleRow {
    /// `rolpassword`.
    pub password: Option<String>,
    /// `rolcanlogin`.
    pub can_login: bool,
    /// `rolvaliduntil` has passed.
    pub expired: bool,
}

/// Rows of one query, as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// A connection that ends with this value.
pub struct Connection {
    /// To query by.
    pub client: Client,
    task: tokio::task::JoinHandle<()>,
    timeout: Duration,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects and logs in, within `timeout`.
///
/// # Errors
/// Why not, in one line.
pub async fn connect(
    node: &NodeAddress,
    login: &Login,
    database: &str,
    timeout: Duration,
) -> Result<Connection, String> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&node.host)
        .port(node.port)
        .user(&login.user)
        .dbname(database)
        .application_name("pglockstep control")
        .connect_timeout(timeout);
    if !login.password.is_empty() {
        config.password(&login.password);
    }
    let connected = tokio::time::timeout(timeout, config.connect(NoTls)).await;
    let (client, connection) =
        connected.map_err(|_| format!("no answer within {timeout:?}"))?.map_err(|e| describe(&e))?;
    let task = tokio::spawn(async move {
        // Its errors reach whoever queries.
        let _ = connection.await;
    });
    Ok(Connection { client, task, timeout })
}

/// One line for an error of tokio-postgres, whose Display hides the cause.
#[must_use]
pub fn describe(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        },
    }
}

impl Connection {
    /// Runs a query by the simple protocol.
    ///
    /// # Errors
    /// Why not, in one line.
    pub async fn rows(&self, sql: &str) -> Result<Rows, String> {
        let answer = tokio::time::timeout(self.timeout, self.client.simple_query(sql)).await;
        let messages = answer.map_err(|_| format!("no answer within {:?}", self.timeout))?.map_err(|e| describe(&e))?;
        let rows = messages.into_iter().filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first column of the first row.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn value(&self, sql: &str) -> Result<Option<String>, String> {
        Ok(self.rows(sql).await?.into_iter().next().and_then(|r| r.into_iter().next()).flatten())
    }
}

/// The role's secret and rights.
///
/// # Errors
/// Main could not be asked.
pub async fn role(c: &Connection, user: &str) -> Result<Option<RoleRow>, String> {
    let sql = format!(
        "SELECT rolpassword, rolcanlogin, coalesce(rolvaliduntil < now(), false) FROM pg_authid WHERE rolname = {}",
        crate::wire::literal(user)
    );
    let rows = c.rows(&sql).await?;
    let is = |v: &Option<String>| v.as_deref() == Some("t");
    Ok(rows.into_iter().next().map(|r| RoleRow {
        password: r.first().cloned().flatten(),
        can_login: r.get(1).is_some_and(is),
        expired: r.get(2).is_some_and(is),
    }))
}

/// Waits until a backend is gone, and ends it if it does not go by itself: where packets are lost, a server learns that
/// its client is gone only after hours (tcp_keepalives_idle), and the backend keeps its locks until then.
///
/// # Errors
/// The node could not be asked.
pub async fn backend_gone(c: &Connection, pid: u32) -> Result<bool, String> {
    let begun = tokio::time::Instant::now();
    // A process id may be given out again: another start is another backend.
    let look = format!("SELECT backend_start FROM pg_stat_activity WHERE pid = {pid}");
    let end = format!("SELECT pg_terminate_backend({pid})");
    let Some(started) = c.value(&look).await? else { return Ok(true) };
    let mut terminated = false;
    while c.value(&look).await?.as_ref() == Some(&started) {
        if begun.elapsed() >= GONE_WITHIN {
            return Ok(false);
        }
        if begun.elapsed() >= TERMINATE_AFTER && !terminated {
            c.value(&end).await?;
            terminated = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(true)
}

/// The node's incarnation: when its checkpointer was started. `None`: the role may not see it (pg_monitor may).
///
/// # Errors
/// The node could not be asked.
pub async fn incarnation(c: &Connection) -> Result<Option<String>, String> {
    c.value(&format!("SELECT ({INCARNATION})::text")).await
}

/// The same, as an expression of a query that says more.
pub const INCARNATION: &str =
    "SELECT backend_start::timestamptz AT TIME ZONE 'UTC' FROM pg_stat_activity WHERE backend_type = 'checkpointer'";

/// The SQLSTATE at the end of what [`describe`] has made, if the server said one.
#[must_use]
pub fn sqlstate(told: &str) -> Option<&str> {
    let (_, code) = told.strip_suffix(')')?.rsplit_once('(')?;
    (code.len() == 5 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// Whether the backend makes another one wait for a lock.
///
/// # Errors
/// The node could not be asked.
pub async fn blocks(c: &Connection, pid: u32) -> Result<bool, String> {
    let sql = format!(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND {pid} = ANY(pg_blocking_pids(pid)) LIMIT 1"
    );
    Ok(c.value(&sql).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlstate_is_read_off_the_end_of_an_error_only() {
        assert_eq!(sqlstate("the database system is starting up (57P03)"), Some("57P03"));
        assert_eq!(sqlstate("Connection refused (os error 111)"), None);
        assert_eq!(sqlstate("no answer within 20s"), None);
    }
}
