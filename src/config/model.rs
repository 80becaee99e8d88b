//! The configuration's tables as Rust structs. Touches nothing.
//!
//! Names are Pgpool-II's wherever a parameter means the same there. Defaults live in the `Default` implementations
//! and nowhere else; ranges and texts live in [`super::reference`], and a test keeps the two in step.

use super::parse::Source;
use super::secret::Password;
use super::units;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Most nodes that one cluster may have. A node set is a 16-bit mask on the hot path.
pub const NODES_MAX: usize = 16;

/// Everything a `pglockstep.toml` says. `Config::default()` has every default and no nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub cluster: Cluster,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub shards: Shards,
    #[serde(default)]
    pub authentication: Authentication,
    #[serde(default)]
    pub apply: Apply,
    #[serde(default)]
    pub load_balance: LoadBalance,
    #[serde(default)]
    pub replication: Replication,
    #[serde(default)]
    pub pool: Pool,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub health_check: HealthCheck,
    #[serde(default)]
    pub logging: Logging,
    /// `[[node]]`, sorted by id after loading, so that `nodes[i].id == i`. 1 to [`NODES_MAX`] of them.
    #[serde(rename = "node")]
    pub nodes: Vec<Node>,
    /// The file and the lines that it came from; empty when it was made in memory.
    #[serde(skip)]
    pub source: Source,
}

/// `[cluster]`: what this set of servers is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// What logs and the nodes' application_name call it. 1 to 63 bytes.
    #[serde(default = "default_cluster_name")]
    pub name: String,
    /// How the nodes are kept identical. Pgpool-II: `backend_clustering_mode`. Required.
    pub backend_clustering_mode: Mode,
    /// Directory of the state file, the lock file and spill files. Must be on a local file system.
    #[serde(default = "default_work_dir")]
    pub work_dir: PathBuf,
}

fn default_cluster_name() -> String {
    "pglockstep".to_string()
}

fn default_work_dir() -> PathBuf {
    PathBuf::from("/var/lib/pglockstep")
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            name: default_cluster_name(),
            backend_clustering_mode: Mode::NativeReplication,
            work_dir: default_work_dir(),
        }
    }
}

/// `[listen]`: where clients and administrators connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Host names or addresses; `*` is all interfaces. Pgpool-II: `listen_addresses`.
    pub listen_addresses: Vec<String>,
    /// TCP port for clients. Pgpool-II: `port`.
    pub port: u16,
    /// Directories for Unix sockets `.s.PGSQL.<port>`; empty: none. Pgpool-II: `unix_socket_directories`.
    pub unix_socket_directories: Vec<PathBuf>,
    /// TCP port for the PCP administration protocol. Pgpool-II: `pcp_port`.
    pub pcp_port: u16,
    /// Connections that may wait to be accepted, per shard. Pgpool-II: `listen_backlog_multiplier` (a factor there).
    pub listen_backlog: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            listen_addresses: vec!["localhost".to_string()],
            port: 9999,
            unix_socket_directories: Vec::new(),
            pcp_port: 9898,
            listen_backlog: 1024,
        }
    }
}

/// `[shards]`: the event loops.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shards {
    /// Number of event loops; 0 is one per core.
    pub count: usize,
    /// Bind each event loop to a core of its own.
    pub pin: bool,
    /// What carries out socket operations.
    pub io_driver: IoDriver,
    /// Receive buffers that each shard hands to the kernel. A power of two (io_uring's buffer ring wants one).
    pub receive_buffers: usize,
    /// Bytes in one receive buffer.
    #[serde(with = "units::bytes")]
    pub receive_buffer_size: u64,
}

impl Default for Shards {
    fn default() -> Self {
        Shards { count: 0, pin: true, io_driver: IoDriver::Auto, receive_buffers: 64, receive_buffer_size: 64 << 10 }
    }
}

/// `[[node]]`: one PostgreSQL server. Pgpool-II numbers the names instead (`backend_hostname0`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its number, from 0 without gaps. Required.
    pub id: u8,
    /// Host name, address, or the directory of a Unix socket. Pgpool-II: `backend_hostname`. Required.
    pub backend_hostname: String,
    /// Pgpool-II: `backend_port`.
    #[serde(default = "default_backend_port")]
    pub backend_port: u16,
    /// Share of the reads relative to the other nodes; 0: none. Pgpool-II: `backend_weight`.
    #[serde(default = "default_backend_weight")]
    pub backend_weight: f64,
    /// The server's data directory, for recovery's commands; empty: not known. Pgpool-II: `backend_data_directory`.
    #[serde(default)]
    pub backend_data_directory: String,
    /// Pgpool-II: `backend_flag`.
    #[serde(default)]
    pub backend_flag: BackendFlag,
}

fn default_backend_port() -> u16 {
    5432
}

fn default_backend_weight() -> f64 {
    1.0
}

impl Default for Node {
    fn default() -> Self {
        Node {
            id: 0,
            backend_hostname: "localhost".to_string(),
            backend_port: default_backend_port(),
            backend_weight: default_backend_weight(),
            backend_data_directory: String::new(),
            backend_flag: BackendFlag::default(),
        }
    }
}

/// `[authentication]`: how clients prove who they are, and who looks their secrets up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authentication {
    /// The method that clients are asked for. Pgpool-II: the method column of `pool_hba.conf`.
    pub client_auth: ClientAuth,
    /// Role that reads `pg_authid` on main; empty: `apply_user`. See [`Config::auth_login`].
    pub auth_user: String,
    pub auth_password: Password,
    /// Database in which `auth_user` looks secrets up.
    pub auth_database: String,
    /// File of `user:secret` lines used instead of `pg_authid`; empty: none. In the file, a relative path starts at the
    /// configuration file's directory; here it is complete. Pgpool-II: `pool_passwd`.
    pub pool_passwd: PathBuf,
    /// A client must have proved itself within this time. Pgpool-II: `authentication_timeout`; bare numbers are seconds.
    #[serde(with = "units::seconds")]
    pub authentication_timeout: Duration,
    /// Most SCRAM iterations that the proxy computes for anyone: the server names the number, and it costs us CPU.
    pub scram_max_iterations: u32,
}

impl Default for Authentication {
    fn default() -> Self {
        Authentication {
            client_auth: ClientAuth::ScramSha256,
            auth_user: String::new(),
            auth_password: Password::default(),
            auth_database: "postgres".to_string(),
            pool_passwd: PathBuf::new(),
            authentication_timeout: Duration::from_secs(60),
            scram_max_iterations: 100_000,
        }
    }
}

/// `[apply]`: the superuser that makes a replica's rows follow main's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// Superuser on every node, made by `pglockstep setup`, never handed to a client.
    pub apply_user: String,
    pub apply_password: Password,
    /// PostgreSQL's `deadlock_timeout` in appliers: they give way fast and apply again. Bare numbers are milliseconds.
    #[serde(with = "units::milliseconds")]
    pub deadlock_timeout: Duration,
}

impl Default for Apply {
    fn default() -> Self {
        Apply {
            apply_user: "pglockstep".to_string(),
            apply_password: Password::default(),
            deadlock_timeout: Duration::from_millis(20),
        }
    }
}

/// `[load_balance]`: which statements may be answered by a node other than main.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadBalance {
    /// Send proved reads to any node that is up, by weight. Pgpool-II: `load_balance_mode`.
    pub load_balance_mode: bool,
    /// Choose the node anew for each statement, not once per session. Pgpool-II: `statement_level_load_balance`.
    pub statement_level_load_balance: bool,
    /// `snapshot_isolation`: what a read does whose snapshot on a replica cannot be used since a commit was under way.
    pub busy_reads: BusyReads,
    /// `snapshot_isolation`: where transactions that are not READ ONLY read.
    pub transaction_reads: TransactionReads,
    /// Functions that write nothing, whatever the catalogue says: `name` or `schema.name`, no patterns.
    /// Pgpool-II: `read_only_function_list`.
    pub read_only_function_list: Vec<String>,
    /// Functions that write, whatever the catalogue says. Excludes the other list. Pgpool-II: `write_function_list`.
    pub write_function_list: Vec<String>,
}

impl Default for LoadBalance {
    fn default() -> Self {
        LoadBalance {
            load_balance_mode: true,
            statement_level_load_balance: false,
            busy_reads: BusyReads::Main,
            transaction_reads: TransactionReads::Main,
            read_only_function_list: Vec::new(),
            write_function_list: Vec::new(),
        }
    }
}

/// `[replication]`: how a transaction reaches the replicas, and what happens when they disagree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replication {
    /// Who is right when nodes differ. Pgpool-II: `replication_stop_on_mismatch`, `failover_if_affected_tuples_mismatch`.
    pub on_divergence: OnDivergence,
    /// Bytes of one transaction's script in memory, above which it spills to `work_dir`.
    #[serde(with = "units::bytes")]
    pub script_limit: u64,
    /// Bytes of script from which replicas start before COMMIT.
    #[serde(with = "units::bytes")]
    pub early_start: u64,
    /// How often a replica may apply one script again after 40001, 40P01, 55P03, 57014 or a lost applier.
    pub apply_retries: u32,
    /// A replica that has not applied a script within this time is taken out.
    #[serde(with = "units::milliseconds")]
    pub replica_timeout: Duration,
    /// A node that has not answered COMMIT within this time is taken out.
    #[serde(with = "units::milliseconds")]
    pub commit_timeout: Duration,
    /// How long a committing transaction may wait on a replica for one that was applied early and is not committing,
    /// before the latter is rolled back there.
    #[serde(with = "units::milliseconds")]
    pub right_of_way: Duration,
    /// `snapshot_isolation`: how often a single statement that failed with 40001 is run again before the client is told.
    pub conflict_retries: u32,
    /// How long a session's statements wait for the commit that its `pglockstep.min_csn` names.
    #[serde(with = "units::milliseconds")]
    pub min_csn_timeout: Duration,
    /// What cannot be run by its text on every node, and is not known by its rows, goes by its image in main's WAL.
    pub images: bool,
    /// How long a session waits for a slot, or for one image.
    #[serde(with = "units::milliseconds")]
    pub image_timeout: Duration,
    /// Bytes of one transaction's image, as the server tells it, in the control plane's memory.
    #[serde(with = "units::bytes")]
    pub image_limit: u64,
    /// Bytes of WAL that a slot may keep back.
    #[serde(with = "units::bytes")]
    pub image_wal_limit: u64,
    /// What happens to statements that need an image where there can be none.
    pub unsafe_statements: UnsafeStatements,
    /// What to do with COMMIT inside a procedure or DO block.
    pub commit_in_procedure: CommitInProcedure,
}

impl Default for Replication {
    fn default() -> Self {
        Replication {
            on_divergence: OnDivergence::Vote,
            script_limit: 64 << 20,
            early_start: 256 << 10,
            apply_retries: 60,
            replica_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(30),
            right_of_way: Duration::from_millis(50),
            conflict_retries: 100,
            min_csn_timeout: Duration::from_secs(10),
            images: true,
            image_timeout: Duration::from_secs(10),
            image_limit: 256 << 20,
            image_wal_limit: 4 << 30,
            unsafe_statements: UnsafeStatements::Allow,
            commit_in_procedure: CommitInProcedure::Refuse,
        }
    }
}

/// `[pool]`: backends that outlive the client they were opened for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// A client's backends serve the next client of the same role, database and start-up parameters.
    pub connection_cache: bool,
    /// Idle backends that a shard keeps, in all.
    pub max_pool: usize,
    /// Of each role, database, node and start-up parameters, this many are kept idle beyond `connection_life_time`.
    pub min_pool: usize,
    /// Backends of one role, database and node that a shard opens for clients; 0: no bound.
    pub pool_size: usize,
    /// How long a client waits for a backend when `pool_size` is reached.
    #[serde(with = "units::seconds")]
    pub queue_timeout: Duration,
    /// How long an idle backend is kept; 0: for ever. Pgpool-II: `connection_life_time`; bare numbers are seconds.
    #[serde(with = "units::seconds")]
    pub connection_life_time: Duration,
    /// A backend that was idle for longer is asked for a sign of life before a client gets it.
    #[serde(with = "units::seconds")]
    pub server_check_delay: Duration,
    /// What a backend runs between two clients. Pgpool-II: `reset_query_list`.
    pub reset_query_list: Vec<String>,
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            connection_cache: true,
            max_pool: 64,
            min_pool: 0,
            pool_size: 0,
            queue_timeout: Duration::from_secs(30),
            connection_life_time: Duration::from_secs(300),
            server_check_delay: Duration::from_secs(30),
            reset_query_list: vec!["DISCARD ALL".into()],
        }
    }
}

/// `[limits]`: the bounds of everything that a client can make grow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most clients at once, over all shards. Pgpool-II: `num_init_children`.
    pub num_init_children: usize,
    /// Bytes of one protocol message that has to be held in memory whole.
    #[serde(with = "units::bytes")]
    pub max_message_size: u64,
    /// Close a client that sent nothing for this long; 0: never. Pgpool-II: `client_idle_limit`; bare numbers are seconds.
    #[serde(with = "units::seconds")]
    pub client_idle_limit: Duration,
    /// Bound on connecting and logging in to a node. Pgpool-II: `connect_timeout`; bare numbers are milliseconds.
    #[serde(with = "units::milliseconds")]
    pub connect_timeout: Duration,
    /// After SIGTERM, open transactions have this long to end.
    #[serde(with = "units::milliseconds")]
    pub drain_timeout: Duration,
    /// Statement shapes whose verdict is remembered, per shard.
    pub statement_cache: usize,
    /// Named prepared statements, per session.
    pub prepared_statements: usize,
    /// Connections that have not logged in yet, per shard.
    pub starting_clients: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            num_init_children: 1000,
            max_message_size: 256 << 20,
            client_idle_limit: Duration::ZERO,
            connect_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            statement_cache: 1000,
            prepared_statements: 10_000,
            starting_clients: 200,
        }
    }
}

/// `[health_check]`: how a silent node is noticed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// Time between checks; 0: none. Pgpool-II: `health_check_period`; bare numbers are seconds.
    #[serde(with = "units::seconds")]
    pub health_check_period: Duration,
    /// A check that takes longer has failed; 0: no bound of its own. Pgpool-II: `health_check_timeout`; bare: seconds.
    #[serde(with = "units::seconds")]
    pub health_check_timeout: Duration,
    /// Empty: `apply_user`. See [`Config::health_check_login`]. Pgpool-II: `health_check_user`.
    pub health_check_user: String,
    /// Pgpool-II: `health_check_password`.
    pub health_check_password: Password,
    /// Pgpool-II: `health_check_database`.
    pub health_check_database: String,
    /// Failures in a row that are forgiven. Pgpool-II: `health_check_max_retries`.
    pub health_check_max_retries: u32,
    /// Time between a failed check and its retry. Pgpool-II: `health_check_retry_delay`; bare numbers are seconds.
    #[serde(with = "units::seconds")]
    pub health_check_retry_delay: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            health_check_period: Duration::from_secs(5),
            health_check_timeout: Duration::from_secs(20),
            health_check_user: String::new(),
            health_check_password: Password::default(),
            health_check_database: "postgres".to_string(),
            health_check_max_retries: 0,
            health_check_retry_delay: Duration::from_secs(1),
        }
    }
}

/// `[logging]`: what is written to standard error.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// Least severity that is logged. Pgpool-II: `log_min_messages`.
    pub log_min_messages: LogLevel,
    /// Pgpool-II: `log_connections`.
    pub log_connections: bool,
    /// Pgpool-II: `log_disconnections`.
    pub log_disconnections: bool,
}

/// `backend_clustering_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    NativeReplication,
    SnapshotIsolation,
}

/// `io_driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoDriver {
    Auto,
    Ring,
    Glommio,
}

/// `backend_flag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackendFlag {
    #[default]
    AllowToFailover,
    DisallowToFailover,
    AlwaysPrimary,
}

/// `client_auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    Md5,
    Password,
    Trust,
}

/// `busy_reads`: where a read goes that cannot have a snapshot on a replica at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusyReads {
    /// To main, whose own snapshots need nothing.
    Main,
    /// To the replica, in the gate.
    Wait,
}

/// `transaction_reads`: where transactions that are not READ ONLY read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransactionReads {
    /// On main.
    Main,
    /// On a reader until their first write.
    Spread,
}

/// `on_divergence`: what happens to a node whose result differs from main's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    /// If a majority agrees with main, the odd node becomes stale and the transaction goes on; else as `Refuse`.
    Vote,
    /// The transaction is rolled back everywhere with 40001, and no node leaves.
    Refuse,
    /// Main is right: the odd node becomes stale.
    Main,
}

/// `unsafe_statements`: statements that may leave other rows on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsafeStatements {
    /// An error.
    Refuse,
    /// Run as they are, with a warning.
    Warn,
    /// Run as they are.
    Allow,
}

/// `commit_in_procedure`: transaction control inside CALL and DO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitInProcedure {
    /// An error, before anything is committed.
    Refuse,
    /// It runs when all open write transactions have ended.
    Drain,
}

/// `log_min_messages`, in rising severity. PostgreSQL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Debug5,
    Debug4,
    Debug3,
    Debug2,
    Debug1,
    #[default]
    Info,
    Notice,
    Warning,
    Error,
    Log,
    Fatal,
    Panic,
}

impl Config {
    /// The login that reads clients' secrets: `auth_user`, or `apply_user` when that is empty.
    pub fn auth_login(&self) -> (&str, &Password) {
        let own = &self.authentication;
        if own.auth_user.is_empty() { self.apply_login() } else { (&own.auth_user, &own.auth_password) }
    }

    /// The login that applies scripts.
    pub fn apply_login(&self) -> (&str, &Password) {
        (&self.apply.apply_user, &self.apply.apply_password)
    }

    /// The login of health checks: `health_check_user`, or `apply_user` when that is empty.
    pub fn health_check_login(&self) -> (&str, &Password) {
        let own = &self.health_check;
        if own.health_check_user.is_empty() {
            self.apply_login()
        } else {
            (&own.health_check_user, &own.health_check_password)
        }
    }
}
