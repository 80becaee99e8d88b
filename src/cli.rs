//! The command line: what can be typed, and what `--help` says. What the commands do is elsewhere.

use clap::{Parser, Subcommand};
use pglockstep::admin::check;
use pglockstep::sandbox::{SandboxArgs, SandboxDriver};
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
    /// Let the running proxy read its configuration file again
    #[command(
        after_help = "Reads the file itself first, so that a mistake in it is told here and the running proxy never sees \
                        it. Open connections stay. The proxy's log says key by key what has changed and what takes a \
                        restart. SIGHUP does the same.\n\n\
                        Example:\n  pglockstep reload -c /etc/pglockstep/pglockstep.toml"
    )]
    Reload(ReloadArgs),
    /// Check a configuration file and print what it comes to, without secrets
    Check(check::Args),
    /// Prepare the servers, once: roles, node ids, and which server settings to change
    Setup(SetupArgs),
    /// Make PostgreSQL servers with a proxy in front of them, to try things out
    #[command(
        after_help = "Prints one line per server, then a line that starts with `ready` and holds a psql command. \
                        DIR/sandbox.json has the same for programs. Ctrl-C or SIGTERM stops everything; without --dir \
                        nothing is left behind.\n\n\
                        Examples:\n  pglockstep sandbox\n  \
                        pglockstep sandbox --nodes 2 --listen 127.0.0.1:6432 --dir /tmp/sandbox"
    )]
    Sandbox(SandboxArgs),
    /// Make a sandbox, walk through the tutorial on it, and prove that the servers are identical
    Demo(DemoArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGHUP reads the file again (see `pglockstep reload`). SIGTERM or SIGINT lets open transactions end (limits.drain_timeout); a second one stops at once.\n\
                        The environment variable RUST_LOG overrides logging.log_min_messages.\n\n\
                        Example:\n  pglockstep run -c /etc/pglockstep/pglockstep.toml"
)]
pub struct RunArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
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
#[command(after_help = "Each step is printed with its command and outcome. Exit status 0 only if everything held.\n\n\
                        Example:\n  pglockstep demo")]
pub struct DemoArgs {
    /// Driver of the shards' event loops
    #[arg(long, value_enum, default_value = "auto")]
    pub io_driver: SandboxDriver,
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
}
