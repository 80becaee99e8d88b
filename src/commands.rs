//! From the command line to the parts that do the work: one short function per command.

use crate::cli::{DemoArgs, RunArgs, SandboxArgs, SetupArgs};
use crate::log;
use pglockstep::admin::check;
use pglockstep::config::{self, Config, ConfigError, LogLevel};
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
    log::start(config.logging.log_min_messages);
    merged_later::run(config, &args.config)?;
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
    merged_later::setup(&config, &args)?;
    Ok(ExitCode::SUCCESS)
}

pub fn sandbox(args: SandboxArgs) -> Outcome {
    log::start(LogLevel::Warning);
    merged_later::sandbox(args)?;
    Ok(ExitCode::SUCCESS)
}

pub fn demo(args: DemoArgs) -> Outcome {
    log::start(LogLevel::Warning);
    merged_later::demo(args)?;
    Ok(ExitCode::SUCCESS)
}

/// The exit status for an error that a command came back with.
pub fn status(error: &(dyn Error + Send + Sync + 'static)) -> u8 {
    if error.is::<ConfigError>() { MISUSED } else { FAILED }
}

/// TO BE SWAPPED WHEN MERGED: the one place where parts that are still being built are called. Each body becomes one
/// call, and this module goes.
mod merged_later {
    use super::*;
    use std::path::Path;

    type Done = Result<(), Box<dyn Error + Send + Sync>>;

    /// `pglockstep::shard::run::run(config, config_path)`
    pub fn run(_config: Config, _config_path: &Path) -> Done {
        Err("run: not merged yet".into())
    }

    /// `pglockstep::admin::setup::run(args)`, with its arguments made from the configuration and the command line.
    pub fn setup(_config: &Config, _args: &SetupArgs) -> Done {
        Err("setup: not merged yet".into())
    }

    /// `pglockstep::sandbox::run(args)`
    pub fn sandbox(_args: SandboxArgs) -> Done {
        Err("sandbox: not merged yet".into())
    }

    /// `pglockstep::sandbox::demo(args)`
    pub fn demo(_args: DemoArgs) -> Done {
        Err("demo: not merged yet".into())
    }
}
