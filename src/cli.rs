//! The command line: what can be typed, and what `--help` says. What the commands do is elsewhere.

use clap::{Parser, Subcommand, ValueEnum};
use pglockstep::admin::check;
use std::net::SocketAddr;
use std::path::PathBuf;

/// One port in front of several PostgreSQL servers that it keeps identical
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  pglockstep demo                         see it work, on three servers of its own\n  \
                  pglockstep sandbox                      the same servers, for you to play with\n  \
                  pglockstep run -c pglockstep.toml       the proxy in front of your servers\n\n\
                  Exit status: 0 all went well, 1 something failed, 2 the command line or configuration is wrong."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy in the foreground
    Run(RunArgs),
    /// Check a configuration file and print what it comes to, without secrets
    Check(check::Args),
    /// Prepare the servers, once: roles, node ids, and which server settings to change
    Setup(SetupArgs),
    /// Make PostgreSQL servers with a proxy in front of them, to try things out
    Sandbox(SandboxArgs),
    /// Make a sandbox, walk through the tutorial on it, and prove that the servers are identical
    Demo(DemoArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGTERM or SIGINT lets open transactions end (limits.drain_timeout); a second one stops at once.\n\
                        The environment variable RUST_LOG overrides logging.log_min_messages.\n\n\
                        Example:\n  pglockstep run -c /etc/pglockstep/pglockstep.toml"
)]
pub struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every statement is shown before it runs. What is right already is left alone, so that setup can be \
                        run again.\n\n\
                        Examples:\n  pglockstep setup -c pglockstep.toml --dry-run\n  \
                        PGPASSWORD=... pglockstep setup -c pglockstep.toml --superuser postgres \
                        --superuser-password-env PGPASSWORD"
)]
pub struct SetupArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// A superuser that all servers have already; only setup uses it
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub superuser: String,
    /// The environment variable that holds the superuser's password
    #[arg(long, value_name = "VAR", default_value = "PGPASSWORD")]
    pub superuser_password_env: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Prints one line per server, then a line that starts with `ready` and holds a psql command. \
                        DIR/sandbox.json has the same for programs. Ctrl-C or SIGTERM stops everything; without --dir \
                        nothing is left behind.\n\n\
                        Examples:\n  pglockstep sandbox\n  \
                        pglockstep sandbox --nodes 2 --listen 127.0.0.1:6432 --dir /tmp/sandbox")]
pub struct SandboxArgs {
    /// Number of PostgreSQL servers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub nodes: u8,
    /// How the servers are kept identical
    #[arg(long, value_enum, default_value_t = Mode::NativeReplication)]
    pub mode: Mode,
    /// Address and port of the proxy
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9999")]
    pub listen: SocketAddr,
    /// Port of the first server, the others follow it; without this, free ports
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..))]
    pub node_port: Option<u16>,
    /// Port of the PCP administration protocol
    #[arg(long, value_name = "PORT", default_value_t = 9898, value_parser = clap::value_parser!(u16).range(1..))]
    pub pcp_port: u16,
    /// Number of the proxy's event loops; 0 is one per core
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub shards: u16,
    /// What carries out socket operations
    #[arg(long, value_enum, default_value_t = IoDriver::Auto)]
    pub io_driver: IoDriver,
    /// Where everything is kept; without this, a directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A configuration file whose keys are taken over, except those that the sandbox itself sets
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Each step is printed with its command and outcome. Exit status 0 only if everything held.\n\n\
                        Example:\n  pglockstep demo")]
pub struct DemoArgs {}

/// The words are those of the configuration's key backend_clustering_mode.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mode {
    NativeReplication,
    SnapshotIsolation,
}

/// The words are those of the configuration's key io_driver.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum IoDriver {
    Auto,
    Ring,
    Glommio,
}

impl From<Mode> for pglockstep::config::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::NativeReplication => Self::NativeReplication,
            Mode::SnapshotIsolation => Self::SnapshotIsolation,
        }
    }
}

impl From<IoDriver> for pglockstep::config::IoDriver {
    fn from(driver: IoDriver) -> Self {
        match driver {
            IoDriver::Auto => Self::Auto,
            IoDriver::Ring => Self::Ring,
            IoDriver::Glommio => Self::Glommio,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_level_of_help_has_an_example() {
        let mut cli = Cli::command();
        assert!(cli.render_help().to_string().contains("Examples:"));
        for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_help().to_string();
            assert!(help.contains("Example") && help.contains(&format!("pglockstep {}", command.get_name())), "{help}");
        }
    }

    #[test]
    fn words_are_the_configurations_words() {
        for (mode, word) in
            [(Mode::NativeReplication, "native_replication"), (Mode::SnapshotIsolation, "snapshot_isolation")]
        {
            assert_eq!(mode.to_possible_value().unwrap().get_name(), word);
            assert_eq!(serde_json::to_value(pglockstep::config::Mode::from(mode)).unwrap(), word);
        }
        for (driver, word) in [(IoDriver::Auto, "auto"), (IoDriver::Ring, "ring"), (IoDriver::Glommio, "glommio")] {
            assert_eq!(driver.to_possible_value().unwrap().get_name(), word);
            assert_eq!(serde_json::to_value(pglockstep::config::IoDriver::from(driver)).unwrap(), word);
        }
    }
}
