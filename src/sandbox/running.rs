//! A sandbox that runs: made by [`Sandbox::start`], ended by [`Sandbox::stop`] or by being dropped.
//!
//! What lies in its directory: `nodeN` (data directories), `nodeN.log`, `pglockstep.toml`, `pglockstep.log`,
//! `setup.log`, `work` (the proxy's own), `sandbox.json` (tells it all), `sandbox.lock` (one sandbox per directory).

use super::client::{Client, Target};
use super::process::{self, Account, Interrupt, Signal};
use super::progress::Progress;
use super::servers::{self, Programs, SUPERUSER, Server, tail, write_private};
use super::settings::{self, APPLY_USER, CLIENTS};
use super::{DEFAULT_NODES, NODES, Result, SandboxArgs};
use crate::admin::setup::{self, Login, SetupArgs, SetupNode};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Time for the proxy to answer its first query.
const PROXY_START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the proxy to drain after SIGTERM, before a second one; the proxy's own bound is `drain_timeout`.
const PROXY_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the proxy to end after the second SIGTERM, before SIGKILL.
const PROXY_STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// `sandbox.json`: all that a script needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub host: String,
    pub port: u16,
    /// The proxy's pid.
    pub pid: u32,
    pub user: String,
    pub password: String,
    pub pcp_port: u16,
    pub nodes: Vec<SummaryNode>,
}

/// One node in `sandbox.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryNode {
    pub id: u8,
    pub port: u16,
    /// The postmaster's pid.
    pub pid: u32,
    pub data_directory: PathBuf,
}

impl Summary {
    /// Reads `DIR/sandbox.json`.
    pub fn read(dir: &Path) -> Result<Summary> {
        let path = dir.join("sandbox.json");
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()).into())
    }

    fn write(&self, dir: &Path) -> Result<()> {
        write_private(&dir.join("sandbox.json"), &format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    /// The proxy.
    pub fn proxy(&self) -> Target {
        let (host, user, password) = (self.host.clone(), self.user.clone(), self.password.clone());
        Target { host, port: self.port, user, password }
    }

    /// The nodes themselves, past the proxy.
    pub fn direct(&self) -> Vec<Target> {
        let (user, password) = (&self.user, &self.password);
        let target = |port| Target { host: "127.0.0.1".into(), port, user: user.clone(), password: password.clone() };
        self.nodes.iter().map(|node| target(node.port)).collect()
    }
}

/// What has happened to a part that should be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    ProxyEnded(String),
    ServerEnded(u8, String),
}

/// Servers and proxy. Must stay on the thread that started it: its processes end with that thread.
pub struct Sandbox {
    programs: Programs,
    servers: Vec<Server>,
    proxy: Option<Child>,
    summary: Summary,
    dir: PathBuf,
    // Dropped last: the directory goes, or the lock is released, when nothing runs there any more.
    _lock: File,
    _temporary: Option<tempfile::TempDir>,
}

impl Sandbox {
    /// Makes, or finds in `--dir`, the clusters; starts them, prepares them, starts the proxy and waits for it.
    pub fn start(args: &SandboxArgs, interrupt: &Interrupt) -> Result<Sandbox> {
        let mut sandbox = Sandbox::start_servers(args, interrupt)?;
        sandbox.start_proxy(interrupt)?;
        Ok(sandbox)
    }

    /// The first half of [`Sandbox::start`]: everything but the proxy.
    pub fn start_servers(args: &SandboxArgs, interrupt: &Interrupt) -> Result<Sandbox> {
        // What can be refused is refused before anything is made.
        let listen = settings::effective(&draft(args)?)?;
        process::port_is_free(&listen.host, listen.port).map_err(|e| format!("{e}; choose another --listen"))?;
        let programs = Programs::find()?;
        let account = Account::for_servers()?;
        let (dir, temporary) = directory(args.dir.as_deref())?;
        account.can_reach(&dir)?;
        let lock = lock(&dir)?;
        let previous = clear_or_previous(&dir)?;
        let nodes = node_count(args.nodes, previous.as_ref())?;
        let ports = node_ports(args.node_port, nodes, previous.as_ref())?;
        let password = previous.as_ref().map_or_else(process::random_password, |p| Ok(p.password.clone()))?;
        let apply_password = previous_apply_password(&dir).map_or_else(process::random_password, Ok)?;
        let data: Vec<PathBuf> = (0..nodes).map(|id| dir.join(format!("node{id}"))).collect();
        if previous.is_none() {
            let major = programs.major;
            let _shown = Progress::start(format!("making {nodes} PostgreSQL {major} clusters in {}", dir.display()));
            servers::make_clusters(&programs, &account, &data, &password, interrupt)?;
        }
        let names: Vec<String> = data.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let config = configuration(args, &ports, &dir, &names, &apply_password)?;
        create_dir(&dir.join("work"))?;
        write_private(&dir.join("pglockstep.toml"), &config_text(&config)?)?;
        let servers =
            (0u8..).zip(ports.iter().zip(data)).map(|(id, (port, data))| Server::new(id, *port, data)).collect();
        let (host, port, pcp_port) = (listen.host, listen.port, listen.pcp_port);
        let summary = Summary { host, port, pid: 0, user: SUPERUSER.into(), password, pcp_port, nodes: Vec::new() };
        let mut sandbox = Sandbox { programs, servers, proxy: None, summary, dir, _lock: lock, _temporary: temporary };
        sandbox.write_summary()?;
        sandbox.run_servers(&account, interrupt)?;
        sandbox.set_up(&config)?;
        sandbox.write_summary()?;
        Ok(sandbox)
    }

    fn run_servers(&mut self, account: &Account, interrupt: &Interrupt) -> Result<()> {
        let _shown = Progress::start(format!("starting {} servers", self.servers.len()));
        for server in &mut self.servers {
            server.spawn(&self.programs, account)?;
        }
        self.servers.iter_mut().try_for_each(|server| server.wait_ready(interrupt))
    }

    fn set_up(&self, config: &toml::Table) -> Result<()> {
        let text = |table: &str, key: &str| {
            let value = config.get(table).and_then(|t| t.get(key)).and_then(toml::Value::as_str).unwrap_or_default();
            value.to_owned()
        };
        let login = |table: &str, user: &str, password: &str| {
            let user = text(table, user);
            (!user.is_empty() && user != SUPERUSER).then(|| Login { user, password: text(table, password) })
        };
        let nodes = self.servers.iter();
        let apply = login("apply", "apply_user", "apply_password")
            .ok_or_else(|| format!("apply.apply_user must be a role of its own, such as {APPLY_USER}"))?;
        let other = |login: &Login| login.user != apply.user;
        let args = SetupArgs {
            nodes: nodes.map(|s| SetupNode { id: s.id, host: "127.0.0.1".into(), port: s.port }).collect(),
            superuser: SUPERUSER.into(),
            superuser_password: self.summary.password.clone(),
            database: "postgres".into(),
            auth: login("authentication", "auth_user", "auth_password").filter(other),
            health_check: login("health_check", "health_check_user", "health_check_password").filter(other),
            apply,
            clients: CLIENTS,
            dry_run: false,
        };
        let log = self.dir.join("setup.log");
        setup::run_to(args, &mut File::create(&log)?).map_err(|e| format!("setup of the nodes failed: {e}").into())
    }

    /// Starts `pglockstep run` and waits until a query through it is answered.
    pub fn start_proxy(&mut self, interrupt: &Interrupt) -> Result<()> {
        let _shown = Progress::start("starting the proxy");
        let log_path = self.proxy_log();
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = process::command(std::env::current_exe()?);
        command.arg("run").arg("-c").arg(self.config_file());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process::tie_to_us(&mut command, Signal::TERM);
        let child = command.spawn().map_err(|e| format!("cannot start the proxy: {e}"))?;
        self.summary.pid = child.id();
        let child = self.proxy.insert(child);
        let end = Instant::now() + PROXY_START_TIMEOUT;
        loop {
            interrupt.check()?;
            if let Some(status) = child.try_wait()? {
                self.proxy = None;
                return Err(format!("the proxy ended at once ({status}):\n{}", tail(&log_path)).into());
            }
            let answer = Client::connect(&self.summary.proxy(), "postgres").and_then(|client| client.value("SELECT 1"));
            match answer {
                Ok(_) => break,
                Err(error) if Instant::now() > end => {
                    let log = tail(&log_path);
                    let limit = PROXY_START_TIMEOUT;
                    return Err(format!("the proxy does not answer within {limit:?}: {error}\n{log}").into());
                }
                Err(_) => std::thread::sleep(process::POLL),
            }
        }
        self.write_summary()
    }

    /// Looks after the children: what has ended since the last call, each once.
    pub fn look(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(Ok(Some(status))) = self.proxy.as_mut().map(Child::try_wait) {
            self.proxy = None;
            events.push(Event::ProxyEnded(status.to_string()));
        }
        let ended = self.servers.iter_mut().filter_map(|s| s.has_ended().map(|how| Event::ServerEnded(s.id, how)));
        events.extend(ended);
        events
    }

    /// Stops the proxy, then the servers. Takes a bounded time and may be called again.
    pub fn stop(&mut self) {
        let _shown = Progress::start("stopping");
        if let Some(mut proxy) = self.proxy.take() {
            for (signal, limit) in [
                (Signal::TERM, PROXY_DRAIN_TIMEOUT),
                (Signal::TERM, PROXY_STOP_TIMEOUT),
                (Signal::KILL, PROXY_STOP_TIMEOUT),
            ] {
                process::signal(proxy.id(), signal);
                if !matches!(process::wait_for(&mut proxy, limit), Ok(None)) {
                    break;
                }
            }
        }
        servers::stop_all(&mut self.servers);
        self.servers.clear();
    }

    /// One line per node, then the line that begins with `ready`.
    pub fn description(&self) -> String {
        let line = |node: &SummaryNode| {
            let data = node.data_directory.display();
            format!("node {}: 127.0.0.1:{}, pid {}, {data}\n", node.id, node.port, node.pid)
        };
        let nodes: String = self.summary.nodes.iter().map(line).collect();
        format!("{nodes}ready: psql \"{}\"", self.summary.proxy().url("postgres"))
    }

    /// The command that starts the proxy by hand.
    pub fn run_command(&self) -> String {
        let program = std::env::current_exe().map_or_else(|_| "pglockstep".into(), |p| p.display().to_string());
        format!("{program} run -c {}", self.config_file().display())
    }

    /// What `sandbox.json` says.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// PostgreSQL's programs that this sandbox uses.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The proxy's log file.
    pub fn proxy_log(&self) -> PathBuf {
        self.dir.join("pglockstep.log")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("pglockstep.toml")
    }

    fn write_summary(&mut self) -> Result<()> {
        let node = |server: &Server| SummaryNode {
            id: server.id,
            port: server.port,
            pid: server.pid().unwrap_or(0),
            data_directory: server.data_directory.clone(),
        };
        self.summary.nodes = self.servers.iter().map(node).collect();
        self.summary.write(&self.dir)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.proxy.is_some() || !self.servers.is_empty() {
            self.stop();
        }
    }
}

fn configuration(args: &SandboxArgs, ports: &[u16], dir: &Path, data: &[String], apply: &str) -> Result<toml::Table> {
    let mut config = settings::own(args, ports, dir, data, apply)?;
    if let Some(path) = &args.config {
        settings::lay_over(&mut config, path)?;
    }
    Ok(config)
}

/// The configuration before there are ports and directories: it shows where the proxy will listen. It has as many nodes
/// as there can be, so that `--config` may speak of any of them.
fn draft(args: &SandboxArgs) -> Result<toml::Table> {
    let nodes = args.nodes.unwrap_or(*NODES.end()).min(*NODES.end());
    configuration(args, &vec![0; nodes], Path::new("/"), &vec![String::new(); nodes], "")
}

fn config_text(config: &toml::Table) -> Result<String> {
    let body = toml::to_string_pretty(config)?;
    Ok(format!(
        "# Written by pglockstep sandbox, and again at its every start. Keys of your own: --config FILE.\n{body}"
    ))
}

/// The sandbox's directory, absolute and without symbolic links, as servers' working directories are compared with it.
fn directory(wanted: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(dir) = wanted else {
        // Others must be able to pass through it: the servers may run under another account.
        let mode = Permissions::from_mode(0o755);
        let temporary = tempfile::Builder::new().prefix("pglockstep-sandbox-").permissions(mode).tempdir()?;
        return Ok((temporary.path().canonicalize()?, Some(temporary)));
    };
    create_dir(dir)?;
    Ok((dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?, None))
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()).into())
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("sandbox.lock");
    let held = fs::read_dir(dir)?.next().is_some() && !path.exists();
    if held {
        return Err(format!("{} holds something else than a sandbox; choose an empty directory", dir.display()).into());
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another sandbox runs in {}", dir.display()))?;
    Ok(file)
}

/// What an earlier sandbox left in `dir`. Without its summary its start was cut short: then the rest is removed.
fn clear_or_previous(dir: &Path) -> Result<Option<Summary>> {
    if dir.join("sandbox.json").exists() {
        return Summary::read(dir).map(Some);
    }
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("node") && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(None)
}

fn node_count(wanted: Option<usize>, previous: Option<&Summary>) -> Result<usize> {
    match (wanted, previous.map(|previous| previous.nodes.len())) {
        (Some(n), _) if !NODES.contains(&n) => {
            Err(format!("--nodes {n}: must be from {} to {}", NODES.start(), NODES.end()).into())
        }
        (Some(n), Some(found)) if n != found => {
            Err(format!("--nodes {n}: the sandbox in this directory was made with {found} nodes").into())
        }
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => Ok(DEFAULT_NODES),
    }
}

fn node_ports(base: Option<u16>, nodes: usize, previous: Option<&Summary>) -> Result<Vec<u16>> {
    let free = |port: &u16| process::port_is_free("127.0.0.1", *port);
    if let Some(base) = base {
        let ports: Option<Vec<u16>> = (0..nodes).map(|id| base.checked_add(u16::try_from(id).ok()?)).collect();
        let ports = ports.ok_or_else(|| format!("--node-port {base}: the last node's port would exceed 65535"))?;
        ports.iter().try_for_each(free).map_err(|e| format!("{e}; choose another --node-port"))?;
        return Ok(ports);
    }
    let kept: Option<Vec<u16>> = previous.map(|summary| summary.nodes.iter().map(|node| node.port).collect());
    match kept {
        Some(ports) if ports.iter().all(|port| free(port).is_ok()) => Ok(ports),
        _ => process::free_ports(nodes),
    }
}

fn previous_apply_password(dir: &Path) -> Option<String> {
    let config: toml::Table = fs::read_to_string(dir.join("pglockstep.toml")).ok()?.parse().ok()?;
    Some(config.get("apply")?.get("apply_password")?.as_str()?.to_owned())
}
