//! The servers of a run: a plain one, and three nodes behind the proxy.

use crate::support::{Options, Sandbox};
use pglockstep::sandbox::SandboxArgs;
use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::process::{Interrupt, free_ports};
use pglockstep::sandbox::running::Sandbox as Servers;

/// The database of all cases.
pub const DATABASE: &str = "postgres";
/// Objects that every case finds.
const SCHEMA: &str = include_str!("schema.sql");
/// Rows that every case finds.
const ROWS: &str = include_str!("rows.sql");
/// A function that tells all that a case may have changed.
const STATE: &str = include_str!("state.sql");

/// What a server holds: definitions, and rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub definitions: String,
    pub contents: String,
}

/// The servers.
pub struct World {
    _servers: Servers,
    pub sandbox: Sandbox,
    pub plain: Target,
    /// Direct connections: the plain server's, then the nodes'.
    watchers: Vec<Client>,
    fresh: Option<State>,
    log_seen: usize,
}

impl World {
    /// Starts all of them.
    pub fn start() -> World {
        let ports = free_ports(2).unwrap();
        let args = SandboxArgs { nodes: Some(1), ..SandboxArgs::on_port(ports[0], ports[1]) };
        let servers = Servers::start_servers(&args, &Interrupt::default()).unwrap();
        let plain = servers.summary().direct()[0].clone();
        let sandbox = Sandbox::start(Options::default());
        let all = std::iter::once(plain.clone()).chain(sandbox.nodes());
        let watchers: Vec<Client> = all.map(|t| Client::connect(&t, DATABASE).unwrap()).collect();
        for w in &watchers {
            // Nothing here is about durability, and a case makes many commits.
            w.rows("ALTER SYSTEM SET fsync = off").unwrap();
            w.rows("ALTER SYSTEM SET autovacuum = off").unwrap();
            w.rows("SELECT pg_reload_conf()").unwrap();
        }
        let mut world = World { _servers: servers, sandbox, plain, watchers, fresh: None, log_seen: 0 };
        for target in [world.plain.clone(), world.sandbox.summary.proxy()] {
            Client::connect(&target, DATABASE).unwrap().rows(STATE).unwrap();
        }
        world.reset().unwrap();
        let states = world.states().unwrap();
        assert!(states.windows(2).all(|p| p[0] == p[1]), "the servers differ before any case: {states:#?}");
        world.fresh = Some(states[0].clone());
        world
    }

    /// What each server holds: the plain one first.
    pub fn states(&self) -> Result<Vec<State>, String> {
        let read = |(i, w): (usize, &Client)| {
            let rows = w.rows("SELECT * FROM checks.state()").map_err(|e| format!("server {i}: {e}"))?;
            let column = |i: usize| rows[0][i].clone().unwrap_or_default();
            Ok(State { definitions: column(0), contents: column(1) })
        };
        self.watchers.iter().enumerate().map(read).collect()
    }

    /// Brings every server back to what a case begins with.
    pub fn reset(&self) -> Result<(), String> {
        let states = self.states()?;
        if let Some(fresh) = &self.fresh {
            if states.iter().all(|s| s == fresh) {
                return Ok(());
            }
        }
        let rows_only = self.fresh.as_ref().is_some_and(|f| states.iter().all(|s| s.definitions == f.definitions));
        for target in [&self.plain, &self.sandbox.summary.proxy()] {
            let client = Client::connect(target, DATABASE).map_err(|e| e.to_string())?;
            // A session that hangs may hold locks.
            client.rows("SET lock_timeout = '3s'").map_err(|e| e.to_string())?;
            if !rows_only {
                client.rows(SCHEMA).map_err(|e| e.to_string())?;
            }
            client.rows(ROWS).map_err(|e| e.to_string())?;
        }
        let states = self.states()?;
        match states.iter().position(|s| *s != states[0]) {
            Some(i) => Err(format!("after a reset server {i} differs:\n{:#?}\n{:#?}", states[0], states[i])),
            None => Ok(()),
        }
    }

    /// What the proxy's log says since the last call that it should never say.
    pub fn complaint(&mut self) -> Option<String> {
        let log = self.sandbox.whole_log();
        let new = log.get(self.log_seen..).unwrap_or_default();
        self.log_seen = log.len();
        let bad = [
            "panicked",
            "node is out",
            "would have reached the wrong request",
            "diverged",
            "protocol violation of a node",
        ];
        new.lines().find(|l| bad.iter().any(|b| l.contains(b))).map(str::to_owned)
    }
}
