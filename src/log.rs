//! Log lines to standard error: a UTC time stamp each, colours only for a terminal.

use pglockstep::config::LogLevel;
use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging from `least` on; the environment variable RUST_LOG, if set and not empty, decides instead. What comes
/// back changes it later (and nothing, where RUST_LOG decides).
pub fn start(least: LogLevel) -> Threshold {
    let text = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = match text.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            eprintln!("warning: RUST_LOG is not used: {error}");
            EnvFilter::default().add_directive(level(least).into())
        }
        None => EnvFilter::default().add_directive(level(least).into()),
    };
    let fixed = text.is_some();
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    Threshold(Arc::new(move |least| {
        // The subscriber lives as long as the process.
        let _ = fixed || handle.reload(EnvFilter::default().add_directive(level(least).into())).is_ok();
    }))
}

/// Changes what is logged from now on.
pub struct Threshold(pub Arc<dyn Fn(LogLevel) + Send + Sync>);

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
