//! `pglockstep sandbox` and `pglockstep demo`: real PostgreSQL servers with the proxy in front, made by one command.
//!
//! The embedded default: README, tests and benchmarks use it. May touch everything, as a person could: it makes
//! clusters with initdb, runs `setup` on them, writes a configuration, and starts `pglockstep run` as a child process.

pub mod client;
pub mod compare;
pub mod demo;
pub mod process;
mod progress;
pub mod running;
pub mod servers;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

use process::Interrupt;
use running::{Event, Sandbox};

pub use demo::demo;

/// Errors here are for a person to read; no caller tells them apart.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Nodes where `--nodes` is not given.
pub const DEFAULT_NODES: usize = 3;
/// How many nodes pglockstep works with.
pub const NODES: std::ops::RangeInclusive<usize> = 1..=16;

/// How the nodes are kept identical (`backend_clustering_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SandboxMode {
    NativeReplication,
    SnapshotIsolation,
}

impl SandboxMode {
    /// The name in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            SandboxMode::NativeReplication => "native_replication",
            SandboxMode::SnapshotIsolation => "snapshot_isolation",
        }
    }
}

/// Which driver the shards use (`io_driver`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SandboxDriver {
    Auto,
    Ring,
    Glommio,
}

impl SandboxDriver {
    /// The name in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            SandboxDriver::Auto => "auto",
            SandboxDriver::Ring => "ring",
            SandboxDriver::Glommio => "glommio",
        }
    }
}

/// The command line of `pglockstep sandbox`.
#[derive(Clone, Debug, clap::Args)]
pub struct SandboxArgs {
    /// Number of PostgreSQL servers, 1 to 16 [default: 3, or what --dir holds]
    #[arg(long)]
    pub nodes: Option<usize>,
    /// How the nodes are kept identical
    #[arg(long, value_enum, default_value = "snapshot_isolation")]
    pub mode: SandboxMode,
    /// Where the proxy listens, HOST:PORT
    #[arg(long, default_value = "127.0.0.1:9999")]
    pub listen: String,
    /// Port of node 0; node N has this port plus N [default: free ports]
    #[arg(long, value_name = "BASE")]
    pub node_port: Option<u16>,
    /// Port for pcp commands
    #[arg(long, default_value_t = 9898)]
    pub pcp_port: u16,
    /// Number of shards [default: one per core]
    #[arg(long)]
    pub shards: Option<usize>,
    /// Driver of the shards' event loops
    #[arg(long, value_enum, default_value = "auto")]
    pub io_driver: SandboxDriver,
    /// Directory for servers, configuration and logs, kept at the end [default: a temporary one, removed at the end]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Configuration file whose keys are laid over the sandbox's own
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SandboxArgs {
    /// A sandbox whose proxy listens on `port` of the loopback address; everything else by default.
    pub fn on_port(port: u16, pcp_port: u16) -> SandboxArgs {
        SandboxArgs {
            nodes: None,
            mode: SandboxMode::NativeReplication,
            listen: format!("127.0.0.1:{port}"),
            node_port: None,
            pcp_port,
            shards: None,
            io_driver: SandboxDriver::Auto,
            dir: None,
            config: None,
        }
    }
}

/// Runs a sandbox until SIGINT, SIGTERM or SIGHUP.
pub fn run(args: SandboxArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut sandbox = match Sandbox::start(&args, &interrupt) {
        Ok(sandbox) => sandbox,
        Err(_) if interrupt.count() > 0 => return Ok(()),
        Err(error) => return Err(error),
    };
    say(&sandbox.description());
    while interrupt.count() == 0 {
        std::thread::sleep(Duration::from_millis(100));
        for event in sandbox.look() {
            match event {
                Event::ProxyEnded(how) => eprintln!(
                    "pglockstep: the proxy has ended ({how}); the servers stay. Again by hand: {}",
                    sandbox.run_command()
                ),
                Event::ServerEnded(id, how) => eprintln!("pglockstep: the server of node {id} has ended ({how})"),
            }
        }
    }
    sandbox.stop();
    Ok(())
}

/// Prints to standard output; a reader that has gone is no reason to stop.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _reader_may_have_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}
