//! The tables and keys themselves, in the order in which the reference and the default file show them.

use super::{Change, Default, Key, Kind, Table};
use crate::config::units::TimeUnit::{self, Milliseconds, Seconds};
use std::time::Duration;

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;

/// PostgreSQL's NAMEDATALEN is 64: names of roles and databases have at most 63 bytes.
const NAME: Kind = Kind::Text { min: 1, max: 63 };
const NAME_OR_EMPTY: Kind = Kind::Text { min: 0, max: 63 };
/// Linux's PATH_MAX with its closing zero.
const PATH: Kind = Kind::Text { min: 1, max: 4095 };
const PATH_OR_EMPTY: Kind = Kind::Text { min: 0, max: 4095 };
const PORT: Kind = Kind::Integer { min: 1, max: 65535 };

const fn time(bare: TimeUnit, min_ms: u64, max_s: u64, zero: Option<&'static str>) -> Kind {
    Kind::Duration { bare, min: Duration::from_millis(min_ms), max: Duration::from_secs(max_s), zero }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn key(name: &'static str, kind: Kind, value: &'static str, pgpool: &'static str, text: &'static str) -> Key {
    Key { name, kind, default: Default::Value(value), pgpool, change: Change::Restart, text }
}

/// One whose new value counts after a reload.
const fn reloaded(
    name: &'static str,
    kind: Kind,
    value: &'static str,
    pgpool: &'static str,
    text: &'static str,
) -> Key {
    Key { change: Change::Reload, ..key(name, kind, value, pgpool, text) }
}

const fn required(
    name: &'static str,
    kind: Kind,
    example: &'static str,
    pgpool: &'static str,
    text: &'static str,
) -> Key {
    Key { name, kind, default: Default::Required { example }, pgpool, change: Change::Restart, text }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Every table of the file.
pub const TABLES: &[Table] = &[
    Table { name: "cluster", repeated: false, text: "What this set of servers is.", keys: CLUSTER },
    Table { name: "listen", repeated: false, text: "Where clients and administrators connect.", keys: LISTEN },
    Table { name: "shards", repeated: false, text: "The event loops that serve the clients.", keys: SHARDS },
    Table {
        name: "authentication",
        repeated: false,
        text: "How clients prove who they are, and where the proxy finds what to compare that with.",
        keys: AUTHENTICATION,
    },
    Table {
        name: "apply",
        repeated: false,
        text: "The role by which the proxy looks after the nodes, and how a transaction is applied on the replicas.",
        keys: APPLY,
    },
    Table {
        name: "load_balance",
        repeated: false,
        text: "Which statements may be answered by a node other than main.",
        keys: LOAD_BALANCE,
    },
    Table {
        name: "replication",
        repeated: false,
        text: "How a transaction reaches the replicas, and what happens when a node disagrees or does not answer.",
        keys: REPLICATION,
    },
    Table { name: "pool", repeated: false, text: "Backends that outlive the client they were opened for.", keys: POOL },
    Table { name: "limits", repeated: false, text: "Bounds of everything that a client can make grow.", keys: LIMITS },
    Table { name: "health_check", repeated: false, text: "How a silent node is noticed.", keys: HEALTH_CHECK },
    Table { name: "logging", repeated: false, text: "What is written to standard error.", keys: LOGGING },
    Table {
        name: "node",
        repeated: true,
        text: "One PostgreSQL server; one such table per server, 1 to 16.",
        keys: NODE,
    },
];

const CLUSTER: &[Key] = &[
    key("name", NAME, r#""pglockstep""#, "", "What logs and the servers' application_name call this cluster."),
    required(
        "backend_clustering_mode",
        Kind::Choice(&["native_replication", "snapshot_isolation"]),
        r#""native_replication""#,
        "backend_clustering_mode",
        "How the nodes are kept identical. snapshot_isolation adds that no client can tell which node answered: all see one order of commits, and transactions without a stated level run at REPEATABLE READ.",
    ),
    key(
        "work_dir",
        PATH,
        r#""/var/lib/pglockstep""#,
        "work_dir",
        "Directory of the state file, the lock file and spill files. On a local file system, writable by the proxy alone.",
    ),
];

const LISTEN: &[Key] = &[
    key(
        "listen_addresses",
        Kind::TextList,
        r#"["localhost"]"#,
        "listen_addresses",
        "Host names or addresses to listen on; \"*\" is all of them. May be empty when there is a Unix socket directory.",
    ),
    key("port", PORT, "9999", "port", "TCP port for clients, and the number in the names of Unix sockets."),
    key(
        "unix_socket_directories",
        Kind::TextList,
        "[]",
        "unix_socket_directories",
        "Directories that get a Unix socket .s.PGSQL.<port>.",
    ),
    key("pcp_port", PORT, "9898", "pcp_port", "TCP port of the PCP administration protocol."),
    key(
        "listen_backlog",
        count(1, 65535),
        "1024",
        "listen_backlog_multiplier (a factor there)",
        "Connections that may wait in the kernel to be accepted, per shard. The kernel's net.core.somaxconn caps it.",
    ),
];

const SHARDS: &[Key] = &[
    key("count", count(0, 1024), "0", "", "Number of event loops, each a thread of its own; 0 is one per core."),
    key("pin", Kind::Bool, "true", "", "Bind each event loop to one core."),
    key(
        "io_driver",
        Kind::Choice(&["auto", "ring", "glommio"]),
        r#""auto""#,
        "",
        "What carries out socket operations. ring is io_uring used directly (Linux 6.1), glommio an executor over io_uring for older kernels (5.8), slower; auto takes the first of the two that this kernel allows, and logs which and why. `check` says it beforehand.",
    ),
    key(
        "receive_buffers",
        count(1, 32768),
        "64",
        "",
        "Receive buffers that each shard shares between all its connections. A power of two. With glommio: times receive_buffer_size, what a shard receives in one turn.",
    ),
    key("receive_buffer_size", size(4 * KB, 16 * MB), r#""64kB""#, "", "Size of one receive buffer."),
];

const AUTHENTICATION: &[Key] = &[
    key(
        "client_auth",
        Kind::Choice(&["scram-sha-256", "md5", "password", "trust"]),
        r#""scram-sha-256""#,
        "METHOD in pool_hba.conf",
        "How clients prove who they are. trust asks for nothing: for sandboxes only.",
    ),
    key(
        "auth_user",
        NAME_OR_EMPTY,
        r#""""#,
        "",
        "Role by which the proxy reads clients' secrets from pg_authid on the main node. Empty: apply_user.",
    ),
    key("auth_password", Kind::Secret, r#""""#, "", "Password of auth_user."),
    key("auth_database", NAME, r#""postgres""#, "", "Database that auth_user connects to."),
    key(
        "pool_passwd",
        PATH_OR_EMPTY,
        r#""""#,
        "pool_passwd",
        "File of user:secret lines, read instead of pg_authid. A relative path starts at this file's directory. Empty: none.",
    ),
    reloaded(
        "authentication_timeout",
        time(Seconds, 100, HOUR, None),
        r#""1min""#,
        "authentication_timeout",
        "A client that has not proved itself within this time is disconnected.",
    ),
    reloaded(
        "scram_max_iterations",
        count(4096, 10_000_000),
        "100000",
        "",
        "Most SCRAM iterations that the proxy computes. The other side names the number, and the proxy pays for it in CPU time.",
    ),
];

const APPLY: &[Key] = &[
    key(
        "apply_user",
        NAME,
        r#""pglockstep""#,
        "",
        "Superuser on every node, made by `pglockstep setup`: catalogues, locks, ending lost backends. No client ever gets one of its connections; what a transaction did is applied in the client's own role.",
    ),
    key("apply_password", Kind::Secret, r#""""#, "", "Password of apply_user."),
    key(
        "deadlock_timeout",
        time(Milliseconds, 1, HOUR, None),
        r#""20ms""#,
        "",
        "PostgreSQL's deadlock_timeout in the connections that apply transactions of superusers (nobody else may set it): they give way early and apply again.",
    ),
];

const LOAD_BALANCE: &[Key] = &[
    reloaded(
        "load_balance_mode",
        Kind::Bool,
        "true",
        "load_balance_mode",
        "Send proved reads outside transaction blocks, and READ ONLY transactions, to any node that is up, by backend_weight.",
    ),
    reloaded(
        "statement_level_load_balance",
        Kind::Bool,
        "false",
        "statement_level_load_balance",
        "Choose the node anew for each statement, and not once per client connection.",
    ),
    reloaded(
        "busy_reads",
        Kind::Choice(&["main", "wait"]),
        r#""main""#,
        "",
        "snapshot_isolation: where a single read goes while a commit is between main and the last node: to main, or (wait) to the replica as soon as there is none, in a READ ONLY transaction of its own.",
    ),
    key(
        "transaction_reads",
        Kind::Choice(&["main", "spread"]),
        r#""main""#,
        "",
        "snapshot_isolation: where transactions read that are not READ ONLY: on main, or (spread) on a reader until their first statement that is no read, from one snapshot. It takes a backend of main as well, and pays off where transactions read much before they write.",
    ),
    key(
        "read_only_function_list",
        Kind::TextList,
        "[]",
        "read_only_function_list (regular expressions there)",
        "Functions that are known to write nothing, as name or schema.name. Not together with write_function_list.",
    ),
    key(
        "write_function_list",
        Kind::TextList,
        "[]",
        "write_function_list (regular expressions there)",
        "Functions that are to count as writing, as name or schema.name. Not together with read_only_function_list.",
    ),
];

const REPLICATION: &[Key] = &[
    reloaded(
        "on_divergence",
        Kind::Choice(&["vote", "refuse", "main"]),
        r#""vote""#,
        "replication_stop_on_mismatch, failover_if_affected_tuples_mismatch",
        "When a node's result differs from main's: vote takes the node out if a majority agrees with main, and else refuses the transaction; refuse rolls back everywhere with SQLSTATE 40001; main takes the node out.",
    ),
    reloaded(
        "script_limit",
        size(KB, 64 * GB),
        r#""64MB""#,
        "",
        "What one transaction may keep in memory to be applied on replicas; the rest goes to a file in work_dir.",
    ),
    reloaded(
        "early_start",
        size(KB, 64 * GB),
        r#""256kB""#,
        "",
        "A transaction that has written more than this is sent to the replicas while its client is still at work.",
    ),
    reloaded(
        "apply_retries",
        count(0, 10_000),
        "60",
        "",
        "How often a replica may apply one transaction again after a deadlock or another error that passes.",
    ),
    reloaded(
        "replica_timeout",
        time(Milliseconds, 100, DAY, None),
        r#""30s""#,
        "",
        "A replica that has not applied a transaction in this time is probed, and taken out unless it is at work or waits for a lock.",
    ),
    reloaded(
        "commit_timeout",
        time(Milliseconds, 100, DAY, None),
        r#""30s""#,
        "",
        "A node that has not answered COMMIT in this time is probed, and taken out unless it is at work; never the last one.",
    ),
    reloaded(
        "right_of_way",
        time(Milliseconds, 1, MINUTE, None),
        r#""50ms""#,
        "",
        "How long a committing transaction may wait on a replica for one that was sent there early and is not committing, before the latter is rolled back there and applied later.",
    ),
    reloaded(
        "conflict_retries",
        count(0, 10_000),
        "100",
        "",
        "snapshot_isolation: how often a single statement outside a block that failed with 40001, and of whose answer nothing has been sent, is run again before its client is told.",
    ),
    key(
        "images",
        Kind::Bool,
        "true",
        "",
        "Transactions of statements whose rows nobody can tell beforehand (triggers, rules, functions that write, MERGE) reach replicas by what main's WAL says of them. Needs PostgreSQL 14, wal_level = logical, and max_prepared_transactions, max_replication_slots and max_wal_senders above 0 on all nodes; else unsafe_statements decides.",
    ),
    reloaded(
        "image_timeout",
        time(Milliseconds, 100, DAY, None),
        r#""10s""#,
        "",
        "How long a client waits for the replication slot that images need, or for one image, before its transaction ends with SQLSTATE 40001, or goes by its text where unsafe_statements allows that. A slot that is being made waits for all transactions that are writing.",
    ),
    reloaded(
        "image_limit",
        size(KB, 64 * GB),
        r#""256MB""#,
        "",
        "A transaction whose image is larger than this is refused.",
    ),
    reloaded(
        "image_wal_limit",
        size(MB, 1024 * GB),
        r#""4GB""#,
        "",
        "A replication slot that keeps back more of main's WAL than this is given up; transactions that need its images end with SQLSTATE 40001 until another one is made.",
    ),
    reloaded(
        "unsafe_statements",
        Kind::Choice(&["refuse", "warn", "allow"]),
        r#""allow""#,
        "",
        "Transactions that need an image where there can be none (with images = false: all of them; else those with NOTIFY, temporary tables, large objects, unlogged tables or changed rows of a table without replica identity in them): refuse is an error with SQLSTATE 0A000; warn and allow run their statements by their text on every node, which may leave other rows there.",
    ),
    reloaded(
        "min_csn_timeout",
        time(Milliseconds, 1, DAY, None),
        r#""10s""#,
        "",
        "How long a statement waits until every node has the commit that its session has named by SET pglockstep.min_csn; then it fails with SQLSTATE 57014.",
    ),
    reloaded(
        "commit_in_procedure",
        Kind::Choice(&["refuse", "drain"]),
        r#""refuse""#,
        "",
        "COMMIT inside a procedure or DO block: refuse is an error; drain runs it when all open write transactions have ended. drain is not built yet, and `run` refuses it.",
    ),
];

const POOL: &[Key] = &[
    reloaded(
        "connection_cache",
        Kind::Bool,
        "true",
        "connection_cache",
        "A client's backends serve the next client of the same role, database and start-up parameters.",
    ),
    reloaded(
        "max_pool",
        count(0, 100_000),
        "64",
        "max_pool",
        "Idle backends that a shard keeps, in all; the longest idle goes first.",
    ),
    reloaded(
        "min_pool",
        count(0, 100_000),
        "0",
        "",
        "Of each role, database, node and start-up parameters, this many are kept idle beyond connection_life_time.",
    ),
    reloaded(
        "pool_size",
        count(0, 100_000),
        "0",
        "",
        "Backends of one role, database and node that a shard opens for clients; 0 is no bound. Who comes when it is reached waits in the order of coming.",
    ),
    reloaded(
        "queue_timeout",
        time(Seconds, 100, DAY, None),
        r#""30s""#,
        "",
        "How long a client waits for a backend when pool_size is reached, before it is refused with 53300.",
    ),
    reloaded(
        "connection_life_time",
        time(Seconds, 1000, 30 * DAY, Some("for ever")),
        r#""5min""#,
        "connection_life_time",
        "How long an idle backend is kept.",
    ),
    reloaded(
        "server_check_delay",
        time(Seconds, 1000, DAY, Some("always ask")),
        r#""30s""#,
        "",
        "A backend that was idle for longer is asked for a sign of life before a client gets it.",
    ),
    reloaded(
        "reset_query_list",
        Kind::TextList,
        r#"["DISCARD ALL"]"#,
        "reset_query_list",
        "What a backend runs between two clients. ABORT is not needed: one with an open transaction is closed.",
    ),
];

const LIMITS: &[Key] = &[
    key(
        "num_init_children",
        count(1, 1_000_000),
        "1000",
        "num_init_children",
        "Most clients at the same time. One more is told \"sorry, too many clients already\".",
    ),
    reloaded(
        "max_message_size",
        size(64 * KB, GB),
        r#""256MB""#,
        "",
        "Longest protocol message that the proxy takes whole into memory. Rows pass through in pieces and are not bound by it.",
    ),
    reloaded(
        "client_idle_limit",
        time(Seconds, 1000, 365 * DAY, Some("no limit")),
        r#""0""#,
        "client_idle_limit",
        "A client that has sent nothing for this long is disconnected.",
    ),
    reloaded(
        "connect_timeout",
        time(Milliseconds, 1, HOUR, None),
        r#""10s""#,
        "connect_timeout",
        "Connecting and logging in to a node must not take longer.",
    ),
    reloaded(
        "drain_timeout",
        time(Milliseconds, 1, DAY, Some("at once")),
        r#""30s""#,
        "",
        "After SIGTERM, open transactions have this long to end.",
    ),
    key(
        "statement_cache",
        count(1, 1_000_000),
        "1000",
        "",
        "Statement shapes (texts without their literals) whose classification each shard remembers.",
    ),
    reloaded(
        "prepared_statements",
        count(1, 1_000_000),
        "10000",
        "",
        "Most prepared statements that one client may have at the same time.",
    ),
    reloaded(
        "starting_clients",
        count(1, 100_000),
        "200",
        "",
        "Most connections of one shard that have not logged in yet. A further one takes the place of the oldest that has not said who it is; if there is none it is refused.",
    ),
];

const HEALTH_CHECK: &[Key] = &[
    reloaded(
        "health_check_period",
        time(Seconds, 100, DAY, Some("no checks")),
        r#""5s""#,
        "health_check_period",
        "Time between two checks of a node.",
    ),
    reloaded(
        "health_check_timeout",
        time(Seconds, 100, HOUR, Some("no limit")),
        r#""20s""#,
        "health_check_timeout",
        "A check that takes longer has failed.",
    ),
    reloaded(
        "health_check_user",
        NAME_OR_EMPTY,
        r#""""#,
        "health_check_user",
        "Role that the check logs in as. Empty: apply_user. A restart after a crash is seen if it is in pg_monitor.",
    ),
    reloaded("health_check_password", Kind::Secret, r#""""#, "health_check_password", "Password of health_check_user."),
    reloaded(
        "health_check_database",
        NAME,
        r#""postgres""#,
        "health_check_database",
        "Database that the check connects to.",
    ),
    reloaded(
        "health_check_max_retries",
        count(0, 1000),
        "0",
        "health_check_max_retries",
        "How often a failed check is repeated before the node is taken out.",
    ),
    reloaded(
        "health_check_retry_delay",
        time(Seconds, 1, HOUR, Some("at once")),
        r#""1s""#,
        "health_check_retry_delay",
        "Time between a failed check and its repetition.",
    ),
];

const LOGGING: &[Key] = &[
    reloaded(
        "log_min_messages",
        Kind::Choice(&[
            "debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "error", "log", "fatal",
            "panic",
        ]),
        r#""info""#,
        "log_min_messages",
        "Least severity that is logged. The environment variable RUST_LOG, if set, overrides it.",
    ),
    reloaded("log_connections", Kind::Bool, "false", "log_connections", "Log each client that has logged in."),
    reloaded("log_disconnections", Kind::Bool, "false", "log_disconnections", "Log each client that leaves."),
];

const NODE: &[Key] = &[
    required(
        "id",
        count(0, 15),
        "0",
        "the number at the end of backend_hostname0",
        "The node's number: from 0, without gaps. Of the nodes that are up, the lowest is main.",
    ),
    required(
        "backend_hostname",
        PATH,
        r#""localhost""#,
        "backend_hostname0, ...",
        "Host name, address, or the directory of a Unix socket.",
    ),
    key("backend_port", PORT, "5432", "backend_port0, ...", "The server's port."),
    reloaded(
        "backend_weight",
        Kind::Weight,
        "1.0",
        "backend_weight0, ...",
        "The node's share of the reads, relative to the other nodes'. 0: none.",
    ),
    key(
        "backend_data_directory",
        PATH_OR_EMPTY,
        r#""""#,
        "backend_data_directory0, ...",
        "The server's data directory, for the commands that recover it. Empty: not known.",
    ),
    key(
        "backend_flag",
        Kind::Choice(&["ALLOW_TO_FAILOVER", "DISALLOW_TO_FAILOVER", "ALWAYS_PRIMARY"]),
        r#""ALLOW_TO_FAILOVER""#,
        "backend_flag0, ...",
        "Whether the node may be taken out. ALWAYS_PRIMARY is taken for compatibility and means the same as ALLOW_TO_FAILOVER here.",
    ),
];
