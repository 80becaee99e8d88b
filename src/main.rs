//! The program `pglockstep`: parses the command line, runs one command, and says what went wrong.

mod cli;
mod commands;
mod log;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => commands::run(args),
        Command::Reload(args) => commands::reload(&args),
        Command::Check(args) => commands::check(args),
        Command::Setup(args) => commands::setup(args),
        Command::Sandbox(args) => commands::sandbox(args),
        Command::Demo(args) => commands::demo(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("pglockstep: {error}");
        ExitCode::from(commands::status(&*error))
    })
}
