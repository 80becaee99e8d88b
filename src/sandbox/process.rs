//! Child processes of the sandbox: who they run as, how they end with it, and which ports are free for them.
//!
//! Touches the operating system only. Nothing here knows PostgreSQL but for the rule that it refuses to run as root.

use super::Result;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, getgid, getppid, getuid, kill_process, set_parent_process_death_signal};

/// How often a wait looks again.
pub const POLL: Duration = Duration::from_millis(20);

/// The account that server processes run under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Whether that is another account than ours: then files are given to it, and its processes change to it.
    pub foreign: bool,
}

impl Account {
    /// Our own account, or when we are root an unprivileged one: `postgres`, else `nobody`.
    pub fn for_servers() -> Result<Account> {
        let uid = getuid().as_raw();
        if uid != 0 {
            return Ok(Account { uid, gid: getgid().as_raw(), foreign: false });
        }
        let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| format!("cannot read /etc/passwd: {e}"))?;
        ["postgres", "nobody"].iter().find_map(|name| account_in(&passwd, name)).ok_or_else(|| {
            "PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody to run it as"
                .into()
        })
    }

    /// Gives `path` to this account.
    pub fn own(&self, path: &Path) -> Result<()> {
        if self.foreign {
            std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
                .map_err(|e| format!("cannot give {} to uid {}: {e}", path.display(), self.uid))?;
        }
        Ok(())
    }

    /// Checks that this account may pass through `dir` and every directory above it.
    pub fn can_reach(&self, dir: &Path) -> Result<()> {
        if !self.foreign {
            return Ok(());
        }
        for part in dir.ancestors().filter(|p| !p.as_os_str().is_empty()) {
            let meta = std::fs::metadata(part).map_err(|e| format!("cannot look at {}: {e}", part.display()))?;
            let bit = match (meta.uid() == self.uid, meta.gid() == self.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            if meta.mode() & bit == 0 {
                return Err(format!(
                    "the servers run as uid {} (PostgreSQL refuses root), which may not pass through {}: \
                     choose another directory with --dir or TMPDIR",
                    self.uid,
                    part.display()
                )
                .into());
            }
        }
        Ok(())
    }
}

fn account_in(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(Account { uid, gid, foreign: true })
    })
}

/// A command without the `PG...` variables of our environment: a stray PGPORT or PGOPTIONS is not for our children.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
}

/// Lets `command` run under `account`; the standard library drops the supplementary groups when it leaves root.
pub fn run_as(command: &mut Command, account: &Account) {
    if account.foreign {
        command.gid(account.gid).uid(account.uid);
    }
}

/// Makes the child of `command` receive `signal` when the calling *thread* ends, however that happens, and puts it in a
/// process group of its own, so that Ctrl-C in a terminal reaches only us and the order of stopping stays ours.
///
/// Linux ties the death signal to the thread that forked (prctl(2), PR_SET_PDEATHSIG): spawn from a thread that lives
/// as long as the child should.
pub fn tie_to_us(command: &mut Command, signal: Signal) {
    let us = rustix::process::getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(signal))?;
        // We may have died between fork and the call above; then nobody would send the signal any more.
        if getppid() != Some(us) {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe work is allowed. It makes two plain
    // system calls (prctl, getppid) on a copied pid and builds an error from a number: no allocation, no lock.
    unsafe { command.pre_exec(tie) };
}

/// Sends `signal` to process `pid`; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone_is_fine = kill_process(pid, signal);
    }
}

/// Whether `pid` is a live process (not a zombie) whose working directory is `dir`. PostgreSQL's postmaster changes to
/// its data directory, so this tells it from a later process that happens to have the same number.
pub fn lives_in(pid: u32, dir: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)
}

/// Waits up to `limit` for `child` to end.
pub fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// The lowest and one past the highest port that [`free_ports`] hands out: below Linux's default range for outgoing
/// connections (32768..60999), so that no such connection takes a port between our look and the server's bind.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What [`free_ports`] has handed out: names that the system gives to one socket at a time, ours until we end.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// `count` different TCP ports on 127.0.0.1 that nobody listens on now, and that nobody else is handed out by this
/// function, in any process, before this one ends: servers bind theirs seconds after they were chosen. A process that
/// chooses its ports otherwise may still come first: a caller must be ready for a failing bind.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let width = u32::from(PORTS.end - PORTS.start);
    let start = random_u32()? % width;
    let mut found = Vec::with_capacity(count);
    for step in 0..width {
        if found.len() == count {
            break;
        }
        let offset = (start + step) % width;
        let port = PORTS.start + offset as u16; // offset < width, which fits u16
        let Some(reserved) = reserve(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.push((port, reserved));
        }
    }
    if found.len() < count {
        return Err(format!("found only {} of {count} free ports in {PORTS:?}", found.len()).into());
    }
    let (ports, reserved): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner).extend(reserved);
    Ok(ports)
}

/// An abstract Unix socket (unix(7): it leaves no file, and its name is free again when its owner is gone) that stands
/// for a port; `None` if another has it.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("pglockstep port {port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

/// Whether nobody listens on `host`:`port`; the error says what the system said.
pub fn port_is_free(host: &str, port: u16) -> Result<()> {
    match TcpListener::bind((host, port)) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("cannot listen on {host}:{port}: {e}").into()),
    }
}

fn random_u32() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers: {e}"))?;
    Ok(u32::from_ne_bytes(bytes))
}

/// A password of 32 hexadecimal digits (128 random bits).
pub fn random_password() -> Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Counts the requests to stop: SIGINT, SIGTERM and SIGHUP.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Starts to count. The signals no longer end this process by themselves.
    pub fn install() -> Result<Interrupt> {
        use tokio::signal::unix::{SignalKind, signal};
        let counter = Interrupt::default();
        let shared = counter.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut int, mut term, mut hup) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async move {
                loop {
                    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
                    shared.fetch_add(1, Ordering::Relaxed);
                }
            })
        })?;
        Ok(counter)
    }

    /// How many requests to stop have come.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once a request to stop has come: long work calls this between its steps.
    pub fn check(&self) -> Result<()> {
        if self.count() == 0 { Ok(()) } else { Err("interrupted".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_exact_name_and_never_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:7:8::/:\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        assert_eq!(account_in(passwd, "postgres"), Some(Account { uid: 101, gid: 104, foreign: true }));
        assert_eq!(account_in(passwd, "root"), None);
        assert_eq!(account_in(passwd, "nobody"), None);
    }

    #[test]
    fn free_ports_are_different_and_can_be_bound() {
        let ports = free_ports(5).unwrap();
        let mut unique = ports.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 5);
        assert!(ports.iter().all(|port| port_is_free("127.0.0.1", *port).is_ok()));
        assert!(ports.iter().all(|port| reserve(*port).is_none()), "two that choose at once can be given the same");
    }

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let pid = std::thread::spawn(|| {
            let mut sleep = command("sleep");
            tie_to_us(sleep.arg("600"), Signal::KILL);
            sleep.spawn().map(|child| child.id())
        })
        .join()
        .unwrap()
        .unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            assert!(Instant::now() < end, "process {pid} has outlived the thread");
            std::thread::sleep(POLL);
        }
    }
}
