//! PostgreSQL servers for the sandbox: finding the programs, making clusters, starting and stopping them.
//!
//! One cluster is made by `initdb` and copied for the other nodes: that is quicker, and all nodes then have the same
//! roles with the same SCRAM verifiers. They share a system identifier too, which nothing in pglockstep relies on.
//!
//! A server is our direct child: its pid is known, and it ends with us even when we are killed hard.

use super::Result;
use super::process::{self, Account, Interrupt, Signal};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The superuser that `initdb` makes.
pub const SUPERUSER: &str = "postgres";
/// Connections that each server takes.
pub const MAX_CONNECTIONS: u32 = 400;
/// Time for a server to start, crash recovery included.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a fast shutdown (SIGINT) before an immediate one (SIGQUIT).
const FAST_STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for an immediate shutdown before SIGKILL.
const IMMEDIATE_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A directory with PostgreSQL's server programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub bin: PathBuf,
    /// Major version, such as 15.
    pub major: u32,
}

impl Programs {
    /// The newest installation found through PATH, `pg_config --bindir` and Debian's /usr/lib/postgresql/*/bin.
    pub fn find() -> Result<Programs> {
        let found = candidates().into_iter().filter_map(|bin| {
            let complete = ["initdb", "postgres", "pgbench", "psql"].iter().all(|p| bin.join(p).exists());
            let major = if complete { major_version(&bin)? } else { return None };
            Some(Programs { bin, major })
        });
        found.max_by_key(|programs| programs.major).ok_or_else(|| {
            "no PostgreSQL server programs (initdb, postgres, psql, pgbench) in PATH, in `pg_config --bindir` or in \
             /usr/lib/postgresql/*/bin; on Debian: apt-get install postgresql postgresql-contrib (or: make deps)"
                .into()
        })
    }

    /// A command that runs one of the programs.
    pub fn command(&self, program: &str) -> Command {
        process::command(self.bin.join(program))
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Ok(output) = process::command("pg_config").arg("--bindir").stderr(Stdio::null()).output() {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        dirs.extend(entries.flatten().map(|entry| entry.path().join("bin")));
    }
    dirs
}

fn major_version(bin: &Path) -> Option<u32> {
    let output = process::command(bin.join("postgres")).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.14 (Debian ...)`, `... 18beta1`: the number that follows the name.
fn parse_major(version: &str) -> Option<u32> {
    let rest = version.split("(PostgreSQL) ").nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Makes `dirs.len()` identical clusters whose superuser has `password`.
pub fn make_clusters(
    programs: &Programs,
    account: &Account,
    dirs: &[PathBuf],
    password: &str,
    interrupt: &Interrupt,
) -> Result<()> {
    let Some((first, rest)) = dirs.split_first() else { return Ok(()) };
    let parent = first.parent().ok_or("a data directory needs a parent directory")?;
    let password_file = parent.join(".initdb-password");
    write_private(&password_file, password)?;
    account.own(&password_file)?;
    let made = initdb(programs, account, first, &password_file, interrupt);
    fs::remove_file(&password_file)?;
    made?;
    append(&first.join("postgresql.conf"), &server_settings())?;
    for dir in rest {
        interrupt.check()?;
        copy_tree(first, dir, account).map_err(|e| format!("cannot copy {}: {e}", first.display()))?;
    }
    Ok(())
}

fn initdb(programs: &Programs, account: &Account, dir: &Path, password: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut complaint = String::new();
    // C.UTF-8 is in every glibc since 2.35 and on Debian always; elsewhere C sorts the same way.
    for locale in ["C.UTF-8", "C"] {
        fs::create_dir_all(dir)?;
        account.own(dir)?;
        let mut command = programs.command("initdb");
        command.arg("-D").arg(dir).arg("--pwfile").arg(password).args(["-U", SUPERUSER, "--encoding=UTF8"]);
        command.args(["--auth=scram-sha-256", "--no-sync", "--no-instructions", &format!("--locale={locale}")]);
        command.env("LC_ALL", "C").current_dir(dir).stdin(Stdio::null());
        process::run_as(&mut command, account);
        process::tie_to_us(&mut command, Signal::KILL);
        let output = command.output().map_err(|e| format!("cannot run initdb: {e}"))?;
        interrupt.check()?;
        if output.status.success() {
            return Ok(());
        }
        complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        fs::remove_dir_all(dir)?;
    }
    Err(format!("initdb failed: {complaint}").into())
}

/// What the servers need beyond PostgreSQL's defaults. fsync stays on: a sandbox should cost what a server costs.
/// The port is in a file of its own because it may be another one at the next start.
fn server_settings() -> String {
    format!(
        "\n# The pglockstep sandbox.\n\
         listen_addresses = '127.0.0.1'\n\
         unix_socket_directories = ''\n\
         wal_level = logical\n\
         max_prepared_transactions = 100\n\
         max_connections = {MAX_CONNECTIONS}\n\
         log_line_prefix = '%m [%p] %q%u@%d '\n\
         include_if_exists = 'sandbox-port.conf'\n"
    )
}

fn append(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new().append(true).open(path)?.write_all(text.as_bytes())?;
    Ok(())
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

/// Copies a data directory, which holds files and directories only (no tablespaces in a fresh cluster).
fn copy_tree(from: &Path, to: &Path, account: &Account) -> Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o700))?;
    account.own(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, account)?;
        } else {
            fs::copy(entry.path(), &target)?;
            account.own(&target)?;
        }
    }
    Ok(())
}

/// One node's cluster. The server that runs on it is our child, or was started by hand after ours had ended.
#[derive(Debug)]
pub struct Server {
    pub id: u8,
    pub port: u16,
    pub data_directory: PathBuf,
    pub log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// A server that is not started yet. `data_directory` must be absolute and free of symbolic links.
    pub fn new(id: u8, port: u16, data_directory: PathBuf) -> Server {
        let log = data_directory.with_extension("log");
        Server { id, port, data_directory, log, child: None }
    }

    /// The postmaster's pid: the first line of postmaster.pid, if such a process lives.
    pub fn pid(&self) -> Option<u32> {
        let pid = self.pid_file_line(0)?.parse().ok()?;
        process::lives_in(pid, &self.data_directory).then_some(pid)
    }

    /// A line of postmaster.pid (src/include/utils/pidfile.h: 0 is the pid, 7 the status).
    fn pid_file_line(&self, line: usize) -> Option<String> {
        let text = fs::read_to_string(self.data_directory.join("postmaster.pid")).ok()?;
        text.lines().nth(line).map(|text| text.trim().to_owned())
    }

    /// Starts the server without waiting for it; the calling thread must live as long as the server should.
    pub fn spawn(&mut self, programs: &Programs, account: &Account) -> Result<()> {
        if let Some(pid) = self.pid() {
            return Err(
                format!("node {}: process {pid} runs on {} already", self.id, self.data_directory.display()).into()
            );
        }
        let port_file = self.data_directory.join("sandbox-port.conf");
        write_private(&port_file, &format!("port = {}\n", self.port))?;
        account.own(&port_file)?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = programs.command("postgres");
        command.arg("-D").arg(&self.data_directory).current_dir(&self.data_directory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process::run_as(&mut command, account);
        process::tie_to_us(&mut command, Signal::INT);
        let child = command.spawn().map_err(|e| format!("node {}: cannot start postgres: {e}", self.id))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the spawned server accepts connections.
    pub fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<()> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            interrupt.check()?;
            let child = self.child.as_mut().ok_or("the server has not been started")?;
            let pid = child.id();
            if let Some(status) = child.try_wait()? {
                return Err(format!("node {}: postgres ended at once ({status}):\n{}", self.id, tail(&self.log)).into());
            }
            let ours = self.pid_file_line(0) == Some(pid.to_string());
            if ours && self.pid_file_line(7).as_deref() == Some("ready") {
                return Ok(());
            }
            if Instant::now() > end {
                let log = tail(&self.log);
                return Err(format!("node {}: not ready within {START_TIMEOUT:?}:\n{log}", self.id).into());
            }
            std::thread::sleep(process::POLL);
        }
    }

    /// Whether our child has ended since the last call; says how, once.
    pub fn has_ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.to_string())
    }

    /// Sends `signal` to our child, or to the postmaster that the pid file names.
    fn signal(&mut self, signal: Signal) {
        // A child that has been waited for is skipped: its number may be another process's by now.
        let child = self.child.as_mut().and_then(|child| matches!(child.try_wait(), Ok(None)).then(|| child.id()));
        if let Some(pid) = child.or_else(|| self.pid()) {
            process::signal(pid, signal);
        }
    }

    /// Waits up to `limit` for the server to be gone, be it our child or not.
    fn wait_gone(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let child_gone = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if child_gone && self.pid().is_none() {
                self.child = None;
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(process::POLL);
        }
    }

    /// Kills the server's postmaster outright, as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_gone(IMMEDIATE_STOP_TIMEOUT);
    }
}

/// Stops all servers at once: fast, then immediate, then by SIGKILL, each step bounded.
pub fn stop_all(servers: &mut [Server]) {
    for (signal, limit) in [
        (Signal::INT, FAST_STOP_TIMEOUT),
        (Signal::QUIT, IMMEDIATE_STOP_TIMEOUT),
        (Signal::KILL, IMMEDIATE_STOP_TIMEOUT),
    ] {
        servers.iter_mut().for_each(|server| server.signal(signal));
        let end = Instant::now() + limit;
        let gone = |server: &mut Server| server.wait_gone(end.saturating_duration_since(Instant::now()));
        if servers.iter_mut().all(gone) {
            return;
        }
    }
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("something else\n"), None);
    }

    #[test]
    fn a_log_tail_is_its_last_lines_and_a_missing_log_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, (0..100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert!(tail(&log).starts_with("line 85\n") && tail(&log).ends_with("line 99"));
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
