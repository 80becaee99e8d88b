//! The `run` command: from a configuration to running shards, and back to nothing.
//!
//! Order matters: the configuration is checked and the work directory locked before any port is bound; nodes are
//! looked at before any client is let in; at the end shards drain first and the control plane goes last.

use std::fs::Permissions;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

use super::Shard;
use super::choice::{Chosen, choose};
use super::core::{Core, node_address};
use super::driver::{DriverOptions, SocketDriver};
use super::glommio::GlommioDriver;
use super::listen::{Listener, listen_tcp};
use super::reload;
use super::ring::RingDriver;
use super::spill::spill_files;
use crate::auth::{PoolPasswd, Role, Secret};
use crate::cluster::board::Board;
use crate::cluster::control::{
    Control, ControlConfig, ControlHandle, Live, Login, NodeAddress, Reread, RoleRow, ShardHandle, ShardMessage,
    Startup,
};
use crate::cluster::images::Slots;
use crate::cluster::lock::WorkDirLock;
use crate::cluster::membership::{Membership, SharedMembership, View};
use crate::config::{Config, LogLevel, Mode};
use crate::sequencer::Sequencer;
use crate::session::catalogue::Versions;
use crate::session::io::Env;
use crate::sql::cache::VerdictCache;
use crate::sql::proof::Catalogue;
use crate::telemetry::Recorder;

/// Changes what is logged, after a reload.
pub type LogThreshold = Arc<dyn Fn(LogLevel) + Send + Sync>;

/// What the commands come back with.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Messages that may wait for a shard before the control plane must wait itself.
const INBOX: usize = 4096;
/// Commits that may be between their number and their last acknowledgement.
const COMMIT_WINDOW: usize = 1 << 16;

/// What all shards share.
#[derive(Clone)]
struct Shared {
    config: Arc<Config>,
    membership: Arc<SharedMembership>,
    sequencer: Arc<Sequencer>,
    versions: Arc<Versions>,
    clients: Arc<AtomicUsize>,
    can_prepare: bool,
    board: Arc<Board>,
    slots: Option<Arc<Slots>>,
    scram_verifiers: bool,
    pool_passwd: Option<PoolPasswd>,
    mock_secret: [u8; 32],
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// What kept it from starting, with what to do about it.
pub fn run(config: Config, path: &Path, log_level: LogThreshold) -> Result<()> {
    let choice = choose(config.shards.io_driver)?;
    tracing::info!(driver = choice.driver.name(), "io driver chosen: {choice}");
    std::fs::create_dir_all(&config.cluster.work_dir).map_err(|e| {
        let dir = config.cluster.work_dir.display();
        format!("cannot make work_dir {dir}: {e}; give it to this user, or set [cluster] work_dir to another directory")
    })?;
    let _lock = WorkDirLock::take(&config.cluster.work_dir)?;
    let pool_passwd = read_pool_passwd(&config)?;
    let count = match config.shards.count {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let listeners = bind_all(&config, count)?;
    let sequencer = Arc::new(Sequencer::new(config.nodes.len(), COMMIT_WINDOW, first_csn()));
    let mut control = control_config(&config, count, reread(path, &config, log_level));
    let (membership, startup) = Control::startup(&control, &sequencer)?;
    control.can_image = startup.can_image() && config.replication.images;
    if config.replication.images && !control.can_image {
        tracing::warn!(
            "images = true has no effect: every node needs PostgreSQL 14 or later, wal_level = logical, and \
             max_prepared_transactions, max_replication_slots and max_wal_senders above 0; set these and restart the nodes \
             and pglockstep. Until then unsafe_statements decides about transactions that need an image"
        );
    }
    let slots = control.can_image.then(|| control.slots.clone());
    let board = control.board.clone();
    let mut mock_secret = [0u8; 32];
    getrandom::fill(&mut mock_secret)?;
    let shared = Shared {
        config: Arc::new(config),
        membership,
        sequencer,
        versions: Arc::new(Versions::default()),
        clients: Arc::new(AtomicUsize::new(0)),
        can_prepare: startup.can_prepare(),
        board,
        slots,
        scram_verifiers: startup.scram_verifiers(),
        pool_passwd,
        mock_secret,
    };
    let served = match choice.driver {
        Chosen::Ring => serve::<RingDriver>(&shared, listeners, control, startup),
        Chosen::Glommio => serve::<GlommioDriver>(&shared, listeners, control, startup),
    };
    for dir in &shared.config.listen.unix_socket_directories {
        // Not there is as good as removed.
        let _ = std::fs::remove_file(socket_path(dir, shared.config.listen.port));
    }
    served
}

/// Starts the shards, then the control plane, then waits for the shards' end.
fn serve<D: SocketDriver>(
    shared: &Shared,
    listeners: Vec<Vec<Listener>>,
    control: ControlConfig,
    startup: Startup,
) -> Result<()> {
    let count = listeners.len();
    let (handles_out, handles_in) = std::sync::mpsc::channel();
    let mut starters = Vec::new();
    let mut threads = Vec::new();
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (start, started) = std::sync::mpsc::channel::<(ControlHandle, Vec<ShardHandle>)>();
        starters.push(start);
        let (shared, handles) = (shared.clone(), handles_out.clone());
        let thread = std::thread::Builder::new().name(format!("shard-{number}"));
        threads.push(thread.spawn(move || shard_thread::<D>(number, &shared, listeners, &handles, &started))?);
    }
    drop(handles_out);
    let mut handles: Vec<Option<ShardHandle>> = (0..count).map(|_| None).collect();
    for _ in 0..count {
        match handles_in.recv() {
            Ok(Ok((number, handle))) => handles[number] = Some(handle),
            Ok(Err(e)) => return Err(e),
            Err(_) => return Err("a shard ended before it had begun".into()),
        }
    }
    let handles: Vec<ShardHandle> = handles.into_iter().flatten().collect();
    let control =
        Control::start(control, startup, shared.membership.clone(), shared.sequencer.clone(), handles.clone())?;
    for start in starters {
        // A shard that is gone already has reported why.
        let _ = start.send((control.handle(), handles.clone()));
    }
    tracing::info!(port = shared.config.listen.port, shards = count, "ready for connections");
    let mut merged = Recorder::default();
    let mut failed = None;
    for thread in threads {
        match thread.join() {
            Ok(Ok(recorder)) => merged.merge(&recorder),
            Ok(Err(e)) => failed = Some(e),
            Err(_) => failed = Some("a shard has panicked".into()),
        }
    }
    merged.dump();
    control.stop();
    match failed {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

type HandleSender = std::sync::mpsc::Sender<Result<(usize, ShardHandle)>>;

fn shard_thread<D: SocketDriver>(
    number: usize,
    shared: &Shared,
    listeners: Vec<Listener>,
    handles: &HandleSender,
    started: &std::sync::mpsc::Receiver<(ControlHandle, Vec<ShardHandle>)>,
) -> Result<Recorder> {
    if shared.config.shards.pin {
        pin(number);
    }
    let made = make_core::<D>(shared, listeners);
    let core = match made {
        Ok(core) => core,
        Err(e) => {
            let text = e.to_string();
            let _ = handles.send(Err(e));
            return Err(text.into());
        }
    };
    let handle =
        ShardHandle { inbox: Arc::new(crossbeam::queue::ArrayQueue::new(INBOX)), doorbell: core.driver.doorbell() };
    let _ = handles.send(Ok((number, handle)));
    let Ok((control, peers)) = started.recv() else { return Ok(Recorder::default()) };
    let config = &shared.config;
    let env = Env {
        config: config.clone(),
        membership: View::new(Membership::clone(&shared.membership.load())),
        sequencer: shared.sequencer.clone(),
        shard: number,
        gated: gated(config),
        verdicts: VerdictCache::new(config.limits.statement_cache).into(),
        catalogues: std::cell::RefCell::default(),
        catalogue_versions: shared.versions.clone(),
        welcomes: std::cell::RefCell::default(),
        recorder: Recorder::default().into(),
        pool_passwd: shared.pool_passwd.clone(),
        mock_secret: shared.mock_secret,
        clients: shared.clients.clone(),
        can_prepare: shared.can_prepare,
        slots: shared.slots.clone(),
        board: shared.board.clone(),
        scram_verifiers: shared.scram_verifiers,
        draining: std::cell::Cell::new(false),
    };
    let mut end = End { number, control: control.clone(), peers: peers.clone(), orderly: false };
    let mut shard = Shard::new(number, core, env, control, peers);
    let ran = shard.run().map_err(|error| format!("shard {number}: {error}"));
    end.orderly = ran.is_ok();
    drop(end);
    ran?;
    Ok(shard.recorder())
}

/// Reads and commits keep to the gate. `PGLOCKSTEP_TEST_GATE=off` leaves it out, for tests that must find what it prevents.
fn gated(config: &Config) -> bool {
    let off = std::env::var_os("PGLOCKSTEP_TEST_GATE").is_some_and(|v| v == "off");
    if off {
        tracing::error!("PGLOCKSTEP_TEST_GATE=off: clients may see what they must not; this is for tests only");
    }
    config.cluster.backend_clustering_mode == Mode::SnapshotIsolation && !off
}

/// Announces a shard's end. One that fails or panics stops the others: a proxy with a part missing would leave a
/// share of its clients waiting for no visible reason, and only the whole process has an exit status.
struct End {
    number: usize,
    control: ControlHandle,
    peers: Vec<ShardHandle>,
    orderly: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.orderly {
            tracing::error!(shard = self.number, "the shard has failed: the others are stopped, too");
            for (_, peer) in self.peers.iter().enumerate().filter(|(number, _)| *number != self.number) {
                if peer.inbox.push(ShardMessage::Stop).is_err() {
                    tracing::error!("an inbox is full; SIGTERM stops what is left");
                }
                peer.doorbell.ring();
            }
        }
        self.control.shard_done(self.number);
    }
}

fn make_core<D: SocketDriver>(shared: &Shared, listeners: Vec<Listener>) -> Result<Core<D>> {
    let config = &shared.config;
    let nodes: Vec<_> = config.nodes.iter().map(|n| node_address(&n.backend_hostname, n.backend_port)).collect();
    // A client has a lane, a reader and, while it commits, an applier per replica. Beside them are those that have yet to
    // log in, and those whose places they have taken.
    let limits = &config.limits;
    let clients_max = limits.num_init_children + 2 * limits.starting_clients + 32;
    let connections_max = clients_max + limits.num_init_children * (2 + nodes.len()) + 32;
    let driver = D::open(DriverOptions {
        listeners,
        receive_buffers: config.shards.receive_buffers,
        receive_buffer_size: usize::try_from(config.shards.receive_buffer_size).unwrap_or(64 * 1024),
        connections_max,
        clients_max,
    })?;
    Ok(Core::new(driver, nodes, spill_files(config.cluster.work_dir.clone())))
}

/// One listener per address and shard: the kernel spreads clients over them (SO_REUSEPORT).
fn bind_all(config: &Config, count: usize) -> Result<Vec<Vec<Listener>>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let port = config.listen.port;
    for name in &config.listen.listen_addresses {
        if name == "*" {
            addresses.push(SocketAddr::from(([0, 0, 0, 0], port)));
            addresses.push(SocketAddr::from(([0u16; 8], port)));
            continue;
        }
        let found = (name.as_str(), port).to_socket_addrs();
        let found = found.map_err(|e| config.source.error("listen.listen_addresses", format!("\"{name}\": {e}")))?;
        addresses.extend(found);
    }
    addresses.sort_unstable();
    addresses.dedup();
    check_port_free(&addresses)?;
    let backlog = i32::try_from(config.listen.listen_backlog).unwrap_or(i32::MAX);
    let mut all = Vec::new();
    for number in 0..count {
        let mut listeners = Vec::new();
        for a in &addresses {
            match listen_tcp(*a, backlog) {
                Ok(l) => listeners.push(Listener::Tcp(l)),
                // "localhost" and "*" mean IPv6 too, also on a host without it: the other addresses do.
                Err(e) if addresses.len() > 1 && a.is_ipv6() && e.kind() != std::io::ErrorKind::AddrInUse => {
                    if number == 0 {
                        tracing::warn!(address = %a, error = %e, "not listening there");
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        if number == 0 {
            for dir in &config.listen.unix_socket_directories {
                listeners.push(Listener::Unix(listen_unix(dir, port)?));
            }
        }
        all.push(listeners);
    }
    Ok(all)
}

/// SO_REUSEPORT would let a second proxy of the same user share the port without a word (hazard 44).
fn check_port_free(addresses: &[SocketAddr]) -> Result<()> {
    for a in addresses {
        // A family that this host does not have is bind_all's affair.
        let Ok(socket) = socket2::Socket::new(socket2::Domain::for_address(*a), socket2::Type::STREAM, None) else {
            continue;
        };
        if a.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        if let Err(e) = socket.bind(&(*a).into()) {
            if e.kind() == std::io::ErrorKind::AddrInUse {
                return Err(format!(
                    "port {} on {} is taken by another process: choose another [listen] port, or stop it",
                    a.port(),
                    a.ip()
                )
                .into());
            }
        }
    }
    Ok(())
}

/// A Unix socket in `dir`, open to every local user as PostgreSQL's is: passwords decide.
fn listen_unix(dir: &Path, port: u16) -> Result<UnixListener> {
    let path = socket_path(dir, port);
    let failed = |e: std::io::Error| format!("cannot make the Unix socket {}: {e}", path.display());
    if UnixStream::connect(&path).is_ok() {
        return Err(format!(
            "another process listens on {}: choose another [listen] port or unix_socket_directories, or stop it",
            path.display()
        )
        .into());
    }
    // Nobody answers: a left-over of a process that was killed.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e).into()),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

fn socket_path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

fn pin(number: usize) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut set = rustix::thread::CpuSet::new();
    set.set(number % cores);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(shard = number, error = %e, "cannot pin the shard to a core");
    }
}

/// Microseconds since 1970: as long as the clock is not set back and fewer than a million commits per second are made, a
/// restart goes on with higher numbers than were ever told to a client (`SHOW pglockstep.last_commit`).
fn first_csn() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}

pub(super) fn read_pool_passwd(config: &Config) -> Result<Option<PoolPasswd>> {
    let path = &config.authentication.pool_passwd;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("pool_passwd {}: {e}", path.display()))?;
    let passwd = PoolPasswd::parse(&text).map_err(|e| format!("pool_passwd {}: {e}", path.display()))?;
    for p in passwd.problems() {
        tracing::warn!(file = %path.display(), problem = %p, "pool_passwd");
    }
    Ok(Some(passwd))
}

/// What SIGHUP does.
fn reread(path: &Path, config: &Config, log_level: LogThreshold) -> Reread {
    let (path, running) = (path.to_owned(), ArcSwap::from_pointee(config.clone()));
    Reread(Arc::new(move || {
        let new = Arc::new(reload::reread(&path, &running.load())?);
        running.store(new.config.clone());
        log_level(new.config.logging.log_min_messages);
        Some((live(&new.config), new))
    }))
}

fn control_config(config: &Config, shards: usize, reread: Reread) -> ControlConfig {
    let nodes =
        config.nodes.iter().map(|n| NodeAddress { host: n.backend_hostname.clone(), port: n.backend_port }).collect();
    ControlConfig {
        cluster: config.cluster.name.clone(),
        work_dir: config.cluster.work_dir.clone(),
        nodes,
        apply: login(config.apply_login()),
        auth: login(config.auth_login()),
        auth_database: config.authentication.auth_database.clone(),
        live: live(config),
        reread,
        can_image: false,
        slots: Arc::default(),
        board: Arc::new(Board::new(config.nodes.len(), shards)),
        catalogue_queries: Catalogue::QUERIES,
    }
}

fn login((user, password): (&str, &crate::config::Password)) -> Login {
    Login { user: user.to_owned(), password: password.expose().to_owned() }
}

fn live(config: &Config) -> Live {
    Live {
        health_check: login(config.health_check_login()),
        health_check_database: config.health_check.health_check_database.clone(),
        health_check_period: config.health_check.health_check_period,
        health_check_timeout: config.health_check.health_check_timeout,
        health_check_max_retries: config.health_check.health_check_max_retries,
        health_check_retry_delay: config.health_check.health_check_retry_delay,
        connect_timeout: config.limits.connect_timeout,
        drain_timeout: config.limits.drain_timeout,
        image_timeout: config.replication.image_timeout,
        image_limit: config.replication.image_limit,
        image_wal_limit: config.replication.image_wal_limit,
    }
}

/// pg_authid's row as the password exchange wants it.
pub(super) fn role_from_row(row: RoleRow) -> std::result::Result<Role, String> {
    let secret = Secret::parse_shadow(row.password.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
    Ok(Role { secret, can_login: row.can_login, valid_until_passed: row.expired })
}

/// The catalogue queries' rows, with the configured function lists.
pub(super) fn catalogue_from_rows(
    version: u64,
    rows: &[Vec<Vec<Option<String>>>],
    config: &Config,
) -> std::result::Result<Catalogue, String> {
    let lists = (&config.load_balance.read_only_function_list[..], &config.load_balance.write_function_list[..]);
    Catalogue::from_rows(version, rows, lists.0, lists.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::driver::Doorbell;

    struct Bell;

    impl Doorbell for Bell {
        fn ring(&self) {}
    }

    #[test]
    fn a_shard_that_panics_stops_the_others_and_is_counted_as_ended() {
        let handle = || ShardHandle { inbox: Arc::new(crossbeam::queue::ArrayQueue::new(4)), doorbell: Arc::new(Bell) };
        let peers = vec![handle(), handle(), handle()];
        let ended = |orderly: bool| {
            let (control, mut queue) = ControlHandle::with_queue();
            let end = End { number: 1, control, peers: peers.clone(), orderly };
            let thread = std::thread::spawn(move || {
                let _end = end;
                assert!(orderly, "the panic of this test");
            });
            assert_eq!(thread.join().is_ok(), orderly);
            assert!(queue.next_message().is_some() && queue.next_message().is_none());
            peers.iter().map(|peer| peer.inbox.pop().is_some()).collect::<Vec<_>>()
        };
        assert_eq!(ended(true), [false, false, false]);
        assert_eq!(ended(false), [true, false, true]);
    }
}
