//! From the command line to the parts that do the work: one short function per command.

use crate::cli::{DemoArgs, ReloadArgs, RunArgs, SetupArgs};
use crate::log;
use pglockstep::admin::{check, setup};
use pglockstep::cluster::lock::WorkDirLock;
use pglockstep::config::{self, Config, ConfigError, LogLevel};
use pglockstep::sandbox::{self, SandboxArgs};
use pglockstep::shard;
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Exit status of a failure while at work.
pub const FAILED: u8 = 1;
/// Exit status of a command line or configuration that is wrong; clap uses the same.
pub const MISUSED: u8 = 2;

/// What a command comes back with.
pub type Outcome = Result<ExitCode, Box<dyn Error + Send + Sync>>;

pub fn run(args: RunArgs) -> Outcome {
    let config = config::load(&args.config)?;
    config.refuse_unbuilt()?;
    let log = log::start(config.logging.log_min_messages);
    shard::run::run(config, &args.config, log.0)?;
    Ok(ExitCode::SUCCESS)
}

pub fn reload(args: &ReloadArgs) -> Outcome {
    let config = config::load(&args.config)?;
    config.refuse_unbuilt()?;
    let dir = &config.cluster.work_dir;
    let pid = WorkDirLock::holder(dir)
        .ok_or_else(|| format!("no pglockstep runs with work_dir {}: start it with `pglockstep run`", dir.display()))?;
    let process =
        i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or("the lock file names no process")?;
    rustix::process::kill_process(process, rustix::process::Signal::HUP).map_err(|e| format!("process {pid}: {e}"))?;
    println!("process {pid} reads {} again; its log says what has changed", args.config.display());
    Ok(ExitCode::SUCCESS)
}

pub fn check(args: check::Args) -> Outcome {
    Ok(match check::run(&args, &mut io::stdout(), &mut io::stderr())? {
        check::Verdict::InOrder => ExitCode::SUCCESS,
        check::Verdict::Refused => ExitCode::from(MISUSED),
    })
}

pub fn setup(args: SetupArgs) -> Outcome {
    let config = config::load(&args.config)?;
    log::start(LogLevel::Warning);
    setup::run(setup_args(&config, &args)?)?;
    Ok(ExitCode::SUCCESS)
}

pub fn sandbox(args: SandboxArgs) -> Outcome {
    log::start(LogLevel::Warning);
    sandbox::run(args)?;
    Ok(ExitCode::SUCCESS)
}

pub fn demo(args: DemoArgs) -> Outcome {
    log::start(LogLevel::Warning);
    sandbox::demo(SandboxArgs { io_driver: args.io_driver, ..sandbox::demo::demo_args()? })?;
    Ok(ExitCode::SUCCESS)
}

/// The exit status for an error that a command came back with.
pub fn status(error: &(dyn Error + Send + Sync + 'static)) -> u8 {
    if error.is::<ConfigError>() { MISUSED } else { FAILED }
}

/// What `setup` needs, from the configuration and the command line.
fn setup_args(config: &Config, args: &SetupArgs) -> Result<setup::SetupArgs, Box<dyn Error + Send + Sync>> {
    let login = |(user, password): (&str, &config::Password)| setup::Login {
        user: user.to_owned(),
        password: password.expose().to_owned(),
    };
    // A role that is apply_user by another name needs nothing of its own.
    let other = |l: (&str, &config::Password)| (l.0 != config.apply.apply_user).then(|| login(l));
    let variable = &args.superuser_password_env;
    Ok(setup::SetupArgs {
        nodes: config
            .nodes
            .iter()
            .map(|n| setup::SetupNode { id: n.id, host: n.backend_hostname.clone(), port: n.backend_port })
            .collect(),
        superuser: args.superuser.clone(),
        superuser_password: std::env::var(variable).unwrap_or_default(),
        database: config.authentication.auth_database.clone(),
        apply: login(config.apply_login()),
        auth: other(config.auth_login()),
        health_check: other(config.health_check_login()),
        clients: u32::try_from(config.limits.num_init_children).unwrap_or(u32::MAX),
        dry_run: args.dry_run,
    })
}
