//! The end-to-end harness: the program as a person runs it, and the nodes behind it, asked directly.

#![allow(dead_code)] // every test file uses another part of it

pub mod cases;
pub mod random;
pub mod raw;
pub mod relay;
pub mod sql;

use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::compare::compare_nodes;
use pglockstep::sandbox::process::{Signal, free_ports, signal, tie_to_us, wait_for};
use pglockstep::sandbox::running::Summary;
use pglockstep::sandbox::servers::{Programs, tail};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Time for a whole sandbox to be ready, on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// The environment variable that names the driver of the proxies' event loops: `make test` runs the tests with each.
const IO_DRIVER: &str = "PGLOCKSTEP_TEST_IO_DRIVER";
/// Time for a sandbox or a proxy to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What a test asks for beyond three nodes and the defaults.
#[derive(Default)]
pub struct Options {
    /// Number of nodes; 3 if zero.
    pub nodes: usize,
    /// TOML that is laid over the sandbox's configuration.
    pub config: String,
    /// Further arguments for `pglockstep sandbox`.
    pub arguments: Vec<String>,
}

/// A running `pglockstep sandbox`; dropping it stops everything, and so does the end of the thread that started it (a
/// test run that is killed leaves no servers): do not share one between tests.
pub struct Sandbox {
    child: Child,
    /// A proxy that a test has started itself.
    proxy: Option<Child>,
    pub summary: Summary,
    programs: Programs,
    directory: tempfile::TempDir,
}

impl Sandbox {
    /// Starts a sandbox on free ports and waits for its `ready`.
    pub fn start(options: Options) -> Sandbox {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let ports = free_ports(2).unwrap();
        let nodes = if options.nodes == 0 { 3 } else { options.nodes };
        let mut command = Command::new(env!("CARGO_BIN_EXE_pglockstep"));
        command.arg("sandbox").args(["--nodes", &nodes.to_string(), "--listen", &format!("127.0.0.1:{}", ports[0])]);
        // What most tests were written for; their own configuration says so where it is another.
        command.args(["--mode", "native_replication"]);
        command.args(["--pcp-port", &ports[1].to_string()]).arg("--dir").arg(directory.path().join("sandbox"));
        if !options.config.is_empty() {
            let file = directory.path().join("over.toml");
            std::fs::write(&file, &options.config).unwrap();
            command.arg("--config").arg(file);
        }
        if let Ok(driver) = std::env::var(IO_DRIVER) {
            command.args(["--io-driver", &driver]);
        }
        command.args(&options.arguments).stdout(Stdio::piped());
        tie_to_us(&mut command, Signal::TERM);
        let mut child = command.spawn().unwrap();
        wait_for_ready(&mut child);
        let summary = Summary::read(&directory.path().join("sandbox")).unwrap();
        Sandbox { child, proxy: None, summary, programs: Programs::find().unwrap(), directory }
    }

    /// The sandbox's directory.
    pub fn dir(&self) -> PathBuf {
        self.directory.path().join("sandbox")
    }

    /// A URL of `database` through the proxy, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.summary.proxy().url(database)
    }

    /// A connection through the proxy, as the superuser.
    pub fn connect(&self, database: &str) -> Client {
        Client::connect(&self.summary.proxy(), database).unwrap()
    }

    /// The nodes, past the proxy, as the superuser.
    pub fn nodes(&self) -> Vec<Target> {
        self.summary.direct()
    }

    /// A direct connection to one node.
    pub fn connect_node(&self, id: usize, database: &str) -> Client {
        Client::connect(&self.nodes()[id], database).unwrap()
    }

    /// The first value that `sql` gives on each node.
    pub fn on_nodes(&self, database: &str, sql: &str) -> Vec<String> {
        (0..self.summary.nodes.len()).map(|id| self.connect_node(id, database).value(sql).unwrap()).collect()
    }

    /// Fails with a table of the differences unless all nodes hold the same, and anything at all.
    pub fn assert_nodes_equal(&self, database: &str) {
        let comparison = compare_nodes(&self.nodes(), database).unwrap();
        assert!(comparison.is_equal(), "the nodes differ in {database}:\n{}", comparison.to_text());
        assert!(!comparison.tables.is_empty(), "there is no table in {database}");
    }

    /// Fails if the proxy has given a node up, by a session or by a health check.
    pub fn assert_no_node_lost(&self) {
        let log = self.whole_log();
        assert!(!log.contains("node is out") && !log.contains("node taken out"), "a node was lost:\n{log}");
    }

    /// What must be so behind any work: the same on all nodes, nothing left open or prepared, no node given up.
    pub fn assert_sound(&self, database: &str) {
        self.assert_nodes_equal(database);
        self.assert_nothing_in_transaction();
        self.assert_no_node_lost();
        let prepared = self.on_nodes("postgres", "SELECT count(*) FROM pg_prepared_xacts");
        assert!(prepared.iter().all(|n| n == "0"), "left prepared: {prepared:?}");
    }

    /// Fails if a backend of the proxy is left inside a transaction on any node, after a moment's grace.
    pub fn assert_nothing_in_transaction(&self) {
        self.assert_none_left("state LIKE 'idle in transaction%'");
    }

    /// Fails if a client's statement runs, or its transaction is open, on any node, after a moment's grace.
    pub fn assert_nothing_runs(&self) {
        self.assert_none_left("backend_type = 'client backend' AND state <> 'idle'");
    }

    /// Fails if other backends fulfil this condition on pg_stat_activity on any node, after a moment's grace.
    fn assert_none_left(&self, condition: &str) {
        let sql = format!(
            "SELECT coalesce(string_agg(concat_ws(' ', pid, state, query), '; '), '') FROM pg_stat_activity \
             WHERE {condition} AND pid <> pg_backend_pid()"
        );
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.on_nodes("postgres", &sql);
            if left.iter().all(String::is_empty) {
                return;
            }
            assert!(Instant::now() < end, "a backend stays: {left:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `sql` gives `wanted` on a node.
    pub fn wait_on_node(&self, id: usize, sql: &str, wanted: &str) {
        let (client, end) = (self.connect_node(id, "postgres"), Instant::now() + Duration::from_secs(20));
        loop {
            let found = client.value(sql).unwrap();
            if found == wanted {
                return;
            }
            assert!(Instant::now() < end, "{sql} on node {id} gives {found} and not {wanted}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The whole of the proxy's log.
    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(self.dir().join("pglockstep.log")).unwrap()
    }

    /// Waits until the proxy's log holds this text.
    pub fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.whole_log().contains(text) {
            assert!(Instant::now() < end, "the log does not say {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `pglockstep run` by hand with this configuration, while the sandbox's own proxy may be there: what it says on
    /// standard error, and its exit status.
    pub fn run_by_hand(&self, config: &std::path::Path) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pglockstep"));
        let output = command.arg("run").arg("-c").arg(config).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The end of the proxy's log.
    pub fn log(&self) -> String {
        tail(&self.dir().join("pglockstep.log"))
    }

    /// A command that runs one of PostgreSQL's programs through the proxy.
    pub fn program(&self, program: &str) -> Command {
        let mut command = self.programs.command(program);
        command.env("PGHOST", &self.summary.host).env("PGPORT", self.summary.port.to_string());
        command.env("PGUSER", &self.summary.user).env("PGPASSWORD", &self.summary.password);
        command.env("PGDATABASE", "postgres").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Runs psql without a startup file and returns what it did, whatever that was.
    pub fn psql(&self, arguments: &[&str]) -> Output {
        self.program("psql").arg("-X").args(arguments).output().unwrap()
    }

    /// Runs psql, which must succeed and say nothing on stderr, and returns its output.
    pub fn psql_ok(&self, arguments: &[&str]) -> String {
        let output = self.psql(&[&["-v", "ON_ERROR_STOP=1"], arguments].concat());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "psql {arguments:?}: {complaint}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs pgbench, which must succeed with no failed transaction, and returns its output.
    pub fn pgbench(&self, arguments: &[&str]) -> String {
        let output = self.program("pgbench").args(arguments).output().unwrap();
        let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let words = ["ERROR", "WARNING", "aborted"];
        let bad = !output.status.success() || words.iter().any(|w| complaint.contains(w));
        assert!(!bad, "pgbench {arguments:?}: {text}{complaint}\n{}", self.log());
        text.into_owned()
    }

    /// The pid of the proxy that runs now.
    pub fn proxy_pid(&self) -> u32 {
        self.proxy.as_ref().map_or(self.summary.pid, Child::id)
    }

    /// Ends the proxy with `how`, and starts it again as a person would; returns when it answers.
    pub fn restart_proxy(&mut self, how: Signal) {
        self.stop_proxy(how);
        self.start_proxy();
    }

    /// Ends the proxy with `how` and waits until it is gone.
    pub fn stop_proxy(&mut self, how: Signal) {
        signal(self.proxy_pid(), how);
        match self.proxy.take() {
            Some(mut child) => assert!(wait_for(&mut child, STOP_TIMEOUT).unwrap().is_some(), "the proxy stays"),
            None => {
                // The sandbox's child: the sandbox collects it.
                let end = Instant::now() + STOP_TIMEOUT;
                while std::path::Path::new(&format!("/proc/{}", self.summary.pid)).exists() {
                    assert!(Instant::now() < end, "the proxy stays");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// Waits until the proxy has ended, and returns its exit status; that of the sandbox's own child it cannot know.
    pub fn wait_for_proxy(&mut self) -> Option<i32> {
        let mut child = self.proxy.take().expect("the proxy was started by the test");
        wait_for(&mut child, STOP_TIMEOUT).unwrap().expect("the proxy stays").code()
    }

    /// Starts the proxy by hand and waits until it answers.
    pub fn start_proxy(&mut self) {
        self.start_proxy_as(Command::new(env!("CARGO_BIN_EXE_pglockstep")));
    }

    /// The same with a command that becomes the program.
    pub fn start_proxy_as(&mut self, mut command: Command) {
        let log = std::fs::File::options().append(true).create(true).open(self.dir().join("pglockstep.log")).unwrap();
        command.arg("run").arg("-c").arg(self.dir().join("pglockstep.toml")).stdin(Stdio::null());
        tie_to_us(&mut command, Signal::TERM);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let child = self.proxy.insert(child);
        let end = Instant::now() + READY_TIMEOUT;
        while Client::connect(&self.summary.proxy(), "postgres").and_then(|c| c.value("SELECT 1")).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "the proxy does not answer ({ended:?})");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            signal(proxy.id(), Signal::TERM);
            if !matches!(wait_for(&mut proxy, Duration::from_secs(5)), Ok(Some(_))) {
                let _gone = proxy.kill().and_then(|()| proxy.wait());
            }
        }
        if std::thread::panicking() {
            eprintln!("the proxy's log ends:\n{}", self.log());
        }
        signal(self.child.id(), Signal::TERM);
        if !matches!(wait_for(&mut self.child, STOP_TIMEOUT), Ok(Some(_))) {
            let _gone = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

/// Reads the sandbox's standard output up to its `ready` line.
fn wait_for_ready(child: &mut Child) {
    let output = child.stdout.take().expect("standard output is piped");
    let (sender, receiver) = mpsc::channel();
    // Reads on to the end, so that the sandbox never writes into a closed pipe.
    std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(|l| drop(sender.send(l))));
    let end = Instant::now() + READY_TIMEOUT;
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with("ready") => return,
            Ok(_) => {}
            Err(error) => {
                let _gone = child.kill().and_then(|()| child.wait());
                panic!("the sandbox did not become ready: {error}; its words are on stderr above");
            }
        }
    }
}
