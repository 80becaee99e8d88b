//! The proxy inside the measuring process, in front of servers of its own: what `relay` and `reads` share.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pglockstep::sandbox::SandboxArgs;
use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::process::{Interrupt, Signal, free_ports, signal};
use pglockstep::sandbox::running::Sandbox;
use pglockstep::{config, shard};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Time for the proxy to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Servers, and the proxy that runs in this process.
pub struct Inside {
    pub sandbox: Sandbox,
    /// A client's way through the proxy.
    pub target: Target,
    /// The proxy's configuration, which it reads again on SIGHUP.
    pub file: PathBuf,
    directory: tempfile::TempDir,
}

impl Inside {
    /// Starts all of it as `change` wants it, measures, and ends the proxy as Ctrl-C would.
    pub fn run(
        change: impl FnOnce(SandboxArgs) -> SandboxArgs,
        measure: impl FnOnce(&Inside) -> Result<()>,
    ) -> Result<()> {
        let interrupt = Interrupt::default();
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let ports = free_ports(2)?;
        let args =
            SandboxArgs { dir: Some(directory.path().join("sandbox")), ..SandboxArgs::on_port(ports[0], ports[1]) };
        let sandbox = Sandbox::start_servers(&change(args), &interrupt)?;
        let file = directory.path().join("sandbox/pglockstep.toml");
        let configured = config::load(&file)?;
        let read_again = file.clone();
        let proxy = std::thread::spawn(move || shard::run::run(configured, &read_again, Arc::new(|_| {})));
        let inside = Inside { target: sandbox.summary().proxy(), sandbox, file, directory };
        let measured = inside.wait_until_ready().and_then(|()| measure(&inside));
        // Nobody is connected any more.
        signal(std::process::id(), Signal::TERM);
        proxy.join().map_err(|_| "the proxy has panicked")??;
        measured
    }

    fn wait_until_ready(&self) -> Result<()> {
        let end = Instant::now() + READY_TIMEOUT;
        while let Err(error) = Client::connect(&self.target, "postgres").and_then(|client| client.value("SELECT 1")) {
            if Instant::now() > end {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A place for files, gone with this.
    #[allow(dead_code, reason = "not every benchmark writes any")]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// pgbench with these arguments through the proxy, to be started.
    pub fn pgbench(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.programs().command("pgbench");
        let target = &self.target;
        command.env("PGHOST", &target.host).env("PGPORT", target.port.to_string());
        command.env("PGUSER", &target.user).env("PGPASSWORD", &target.password).env("PGDATABASE", "postgres");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same, to its end; an error if it fails.
    pub fn run_pgbench(&self, arguments: &[&str]) -> Result<()> {
        let output = self.pgbench(arguments).output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("pgbench {arguments:?}: {complaint}").into()) }
    }
}
