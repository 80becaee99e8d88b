//! Log lines to standard error: a UTC time stamp each, colours only for a terminal.

use pglockstep::config::LogLevel;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging from `least` on; the environment variable RUST_LOG, if set and not empty, decides instead.
pub fn start(least: LogLevel) {
    let filter = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = match filter.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            eprintln!("warning: RUST_LOG is not used: {error}");
            EnvFilter::default().add_directive(level(least).into())
        }
        None => EnvFilter::default().add_directive(level(least).into()),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
}

/// PostgreSQL knows twelve severities and tracing five. LOG and beyond only let through what is an error here.
fn level(least: LogLevel) -> LevelFilter {
    match least {
        LogLevel::Debug5 | LogLevel::Debug4 | LogLevel::Debug3 => LevelFilter::TRACE,
        LogLevel::Debug2 | LogLevel::Debug1 => LevelFilter::DEBUG,
        LogLevel::Info | LogLevel::Notice => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Log | LogLevel::Fatal | LogLevel::Panic => LevelFilter::ERROR,
    }
}
