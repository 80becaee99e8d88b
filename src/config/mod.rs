//! What is configured: the file's tables as structs, how they are read, and what is refused.
//!
//! A configuration is read before any port is bound, and again on SIGHUP: then a new one takes its place whole, with
//! what needs a restart as it was. Touches nothing but the file it reads.
//!
//! | file | what it has |
//! |---|---|
//! | `model` | the structs and their defaults |
//! | `reference` | every key's limits and text, in one table; the Markdown reference and the default file |
//! | `parse` | text to structs, with file, line and key in each error |
//! | `validate` | what keys mean together, warnings, and what is not built yet |
//! | `reload` | what a new reading changes while the proxy runs |
//! | `units`, `secret`, `similar`, `error` | times and sizes, passwords, "did you mean", the error type |

mod error;
mod model;
mod parse;
pub mod reference;
mod reload;
mod secret;
mod similar;
#[cfg(test)]
mod tests;
pub mod units;
mod validate;

pub use error::ConfigError;
pub use model::*;
pub use parse::{FILE_SIZE_MAX, Source};
pub use reload::{Changed, reload};
pub use secret::Password;

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads and validates a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "; `pglockstep check --default-file` prints one to begin with",
            _ => "",
        };
        ConfigError::new(path, None, None, format!("cannot be read: {error}{hint}"))
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    // One byte more than the limit, so that `parse` sees that there was too much.
    file.take(FILE_SIZE_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Config::parse(&text, path)
}

impl Config {
    /// Reads and validates a configuration's text; `file` is what errors call it, and where relative paths start.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let mut config = parse::parse(text, file)?;
        validate::validate(&config)?;
        config.nodes.sort_by_key(|node| node.id);
        let pool_passwd = &mut config.authentication.pool_passwd;
        if !pool_passwd.as_os_str().is_empty() {
            // `join` keeps an absolute path as it is.
            *pool_passwd = file.parent().unwrap_or(Path::new("")).join(&*pool_passwd);
        }
        Ok(config)
    }
}
