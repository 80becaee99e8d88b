//! What is configured: the file's tables as structs, how they are read, and what is refused.
//!
//! A configuration is read once, before any port is bound, and never changes afterwards. Touches nothing but the file
//! it reads.

mod error;
mod model;
mod secret;
pub mod units;

pub use error::ConfigError;
pub use model::*;
pub use secret::Password;

use std::path::Path;

/// Reads and validates a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::new(path, None, None, format!("cannot read it: {e}")))?;
    Config::parse(&text, path)
}

impl Config {
    /// Reads and validates a configuration's text; `path` is what errors call the file.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::new(path, None, None, e.to_string()))
    }
}
