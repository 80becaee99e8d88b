//! The servers of all cases: three nodes that differ in what no user can see, and the proxy in front of them.

use super::script::Setting;
use crate::support::{Options, Sandbox};
use pglockstep::sandbox::client::Client;
use pglockstep::sandbox::process::Signal;
use std::fmt::Write as _;

/// The database of all cases.
pub const DATABASE: &str = "postgres";

/// What the proxy's log may never say.
const BAD: &[&str] = &[
    "panicked",
    "node is out",
    "would have reached the wrong request",
    "diverged",
    "protocol violation of a node",
    "a node differs",
];

/// What each node has of its own: settings, of which clients are promised to see main's only, or none.
const UNLIKE: [&[&str]; 3] = [
    &["timezone = 'Europe/Berlin'"],
    &["timezone = 'America/New_York'", "enable_seqscan = off", "enable_hashjoin = off"],
    &["timezone = 'Asia/Kolkata'", "enable_indexscan = off", "enable_bitmapscan = off", "enable_sort = off"],
];

/// Writes every table's rows in another order, as nobody sees it.
const SHUFFLE: &str = "DO $shuffle$ DECLARE r record; cols text; zone text; BEGIN
    SELECT reset_val INTO zone FROM pg_settings WHERE name = 'TimeZone';
    SET LOCAL session_replication_role = replica;
    FOR r IN SELECT oid, relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        SELECT string_agg(quote_ident(attname), ', ') INTO cols FROM pg_attribute
            WHERE attrelid = r.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('CREATE TEMP TABLE shuffled ON COMMIT DROP AS SELECT * FROM %I', r.relname);
        EXECUTE format('DELETE FROM %I', r.relname);
        EXECUTE format('INSERT INTO %I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM shuffled ORDER BY md5(shuffled::text || ''%s'')',
            r.relname, cols, cols, zone);
        DROP TABLE shuffled;
        IF zone LIKE 'America%' THEN EXECUTE format('ANALYZE %I', r.relname); END IF;
    END LOOP; END $shuffle$";

/// For those who only look at a node.
const WATCH: &str =
    "SET enable_seqscan = on; SET enable_hashjoin = on; SET enable_indexscan = on; SET enable_bitmapscan = on;
    SET enable_sort = on; SET TimeZone = 'UTC'";

/// The servers.
pub struct World {
    pub sandbox: Sandbox,
    setting: Setting,
    superuser: Option<Client>,
    pub nodes: Vec<Client>,
    log_seen: usize,
}

impl World {
    pub fn start() -> World {
        let config = "[replication]\nimages = false\nunsafe_statements = \"refuse\"\n";
        let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
        for (node, settings) in UNLIKE.iter().enumerate() {
            let c = sandbox.connect_node(node, DATABASE);
            for setting in ["fsync = off", "jit = off", "deadlock_timeout = '50ms'"].iter().chain(*settings) {
                c.rows(&format!("ALTER SYSTEM SET {setting}")).unwrap();
            }
            c.rows("SELECT pg_reload_conf()").unwrap();
            // Other OIDs and transaction ids.
            for i in 0..=node * 3 {
                c.rows(&format!("CREATE TABLE junk_{i} (a int); DROP TABLE junk_{i}")).unwrap();
            }
        }
        let nodes: Vec<Client> = (0..3).map(|n| sandbox.connect_node(n, DATABASE)).collect();
        for node in &nodes {
            node.rows(WATCH).unwrap();
        }
        let mut world = World { sandbox, setting: Setting::default(), superuser: None, nodes, log_seen: 0 };
        world.superuser().rows("CREATE ROLE app LOGIN PASSWORD 'app'").unwrap();
        world
    }

    /// Brings the proxy into this configuration.
    pub fn set(&mut self, setting: Setting) {
        if self.setting == setting {
            return;
        }
        self.setting = setting;
        let file = self.sandbox.dir().join("pglockstep.toml");
        let mut config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let mut put = |table: &str, key: &str, value: toml::Value| {
            let table = config.entry(table).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().unwrap().insert(key.into(), value);
        };
        put("cluster", "backend_clustering_mode", setting.mode().into());
        put("replication", "images", setting.images.into());
        std::fs::write(&file, config.to_string()).unwrap();
        self.superuser = None;
        self.sandbox.restart_proxy(Signal::TERM);
    }

    /// A connection through the proxy.
    pub fn superuser(&mut self) -> &Client {
        self.superuser.get_or_insert_with(|| self.sandbox.connect(DATABASE))
    }

    /// How a client logs in through the proxy.
    pub fn login(&self, plain_role: bool) -> tokio_postgres::Config {
        let mut config: tokio_postgres::Config = self.sandbox.url(DATABASE).parse().unwrap();
        if plain_role {
            config.user("app").password("app");
        }
        config
    }

    /// Nothing is left of the case before.
    pub fn clean(&mut self) {
        let clean = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO public";
        if self.superuser().rows(clean).is_err() {
            self.superuser = None;
            self.superuser().rows(clean).unwrap();
        }
    }

    /// Gives the replicas' tables another physical order, and one of them statistics.
    pub fn make_unlike(&self) {
        std::thread::scope(|scope| {
            for node in &self.nodes[1..] {
                scope.spawn(|| node.rows(SHUFFLE).unwrap());
            }
        });
    }

    /// Asks each node the same at the same time.
    pub fn on_all<T: Send>(&self, ask: impl Fn(&Client) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let all: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| ask(node))).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    /// What the log says since the last call that it should never say.
    pub fn complaints(&mut self) -> Vec<String> {
        let log = self.sandbox.whole_log();
        let new = log.get(self.log_seen..).unwrap_or_default();
        let found = new.lines().filter(|l| BAD.iter().any(|b| l.contains(b))).map(str::to_owned).collect();
        self.log_seen = log.len();
        found
    }

    /// What the nodes' backends do, for a person.
    pub fn activity(&self) -> String {
        let mut text = String::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let sql = "SELECT concat_ws(' | ', pid, usename, state, wait_event_type, wait_event, pg_blocking_pids(pid)::text, query)
                FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'";
            let prepared = "SELECT 'prepared ' || gid FROM pg_prepared_xacts";
            for sql in [sql, prepared] {
                for row in node.rows(sql).unwrap_or_default() {
                    let _ = writeln!(text, "node {n}: {}", row[0].clone().unwrap_or_default());
                }
            }
        }
        text
    }

    /// After a failure: the proxy is started anew, and the nodes are equal, since there is nothing on them.
    pub fn repair(&mut self) {
        self.superuser = None;
        self.sandbox.stop_proxy(Signal::KILL);
        for node in &self.nodes {
            node.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
                .unwrap();
            while node.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()").unwrap() != "0" {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            for row in node.rows("SELECT gid FROM pg_prepared_xacts").unwrap() {
                node.rows(&format!("ROLLBACK PREPARED '{}'", row[0].as_deref().unwrap_or_default())).unwrap();
            }
            node.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO public")
                .unwrap();
        }
        let work = self.sandbox.dir().join("work");
        let _may_not_be_there = std::fs::remove_file(work.join("pglockstep.state"));
        self.sandbox.start_proxy();
        self.log_seen = self.sandbox.whole_log().len();
    }
}
